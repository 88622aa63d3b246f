"""What a baseline may depend on (anything that the action does not move), and optimal baselines made of the other trajectories."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import baselines, exact
from tfpg.tabular import TabularMDP

equation = pytest.mark.equation


def seeded(seed, states=3, actions=2, horizon=3):
    """A process and its theta, drawn one after the other from one generator."""
    rng = np.random.default_rng(seed)
    start, move = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), size=(states, actions))
    mdp = TabularMDP(start, move, rng.normal(size=(states, actions)), 1.0, horizon)
    return mdp, rng.normal(size=(states, actions))


MDP, THETA = seeded(0)
LISTING = MDP.trajectories(tf.constant(THETA))
STATE, ACTION, REWARD, MASK = (
    x.numpy() for x in (LISTING.trajectory.observation, LISTING.trajectory.action, LISTING.trajectory.reward, LISTING.trajectory.mask)
)
P = LISTING.probability.numpy()
PI = np.exp(THETA) / np.exp(THETA).sum(-1, keepdims=True)
TOTAL = np.broadcast_to(REWARD.sum(0), REWARD.shape)
TOGO = np.cumsum(REWARD[::-1], axis=0)[::-1]


def score(state, action, pi):
    """The score of a softmax table: (e_a - pi) in the row of the state."""
    g = np.zeros((*state.shape, *pi.shape))
    for index in np.ndindex(state.shape):
        s, a = state[index], action[index]
        g[index][s] = np.eye(pi.shape[1])[a] - pi[s]
    return g.reshape(*state.shape, -1)


G = score(STATE, ACTION, PI)


def conditional_values():
    """Q[t, s, a] = E[G_t | s_t, a_t] and V[t, s], from the trajectories."""
    q, v = np.zeros((3, 3, 2)), np.zeros((3, 3))
    for t, s in np.ndindex(3, 3):
        here = STATE[t] == s
        v[t, s] = P[here] @ TOGO[t, here] / P[here].sum()
        for a in range(2):
            now = here & (ACTION[t] == a)
            q[t, s, a] = P[now] @ TOGO[t, now] / P[now].sum()
    return q, v


Q, V = conditional_values()
STEP = np.arange(3)[:, None]


def expected(psi_t):
    return np.einsum("n,tnp,tn->p", P, G, psi_t)


def sampled(psi_t):
    """Trace of the variance of sum_t g_t psi_t."""
    sample = np.einsum("tnp,tn->np", G, psi_t)
    return P @ (sample**2).sum(1) - ((P @ sample) ** 2).sum()


GRADIENT = expected(TOTAL)
past = np.concatenate([np.zeros((1, STATE.shape[1])), np.cumsum(REWARD, axis=0)[:-1]])
ALLOWED = {
    "a constant": np.full(STATE.shape, 1.7),
    "of time": np.broadcast_to([[0.3], [-2.1], [0.8]], STATE.shape),
    "of the state": np.array([0.4, -1.3, 2.2])[STATE],
    "of theta": V[STEP, STATE],
    "of the past": past**2 - np.concatenate([np.zeros_like(past[:1]), ACTION[:-1]]),
}


@equation("PG-40", "PG-51", "PG-62")
@pytest.mark.parametrize("weight", [TOTAL, TOGO, Q[STEP, STATE, ACTION]], ids=["return", "to go", "Q"])
@pytest.mark.parametrize("b", ALLOWED)
def test_what_the_action_does_not_move_may_be_subtracted(b, weight):
    psi_t = baselines.subtract(weight, ALLOWED[b], MASK).numpy()
    assert np.abs(GRADIENT).max() > 0.1
    assert np.abs(psi_t - weight).max() > 0.1
    np.testing.assert_allclose(expected(psi_t), GRADIENT, rtol=0, atol=1e-13)


@equation("PG-40", "PG-51", "PG-62")
def test_half_of_q_takes_half_of_the_gradient():
    psi_t = baselines.subtract(TOGO, 0.5 * Q[STEP, STATE, ACTION], MASK).numpy()
    np.testing.assert_allclose(expected(psi_t), 0.5 * GRADIENT, rtol=0, atol=1e-13)


@equation("PG-51")
def test_for_a_softmax_table_an_action_in_one_state_is_enough_to_bias_and_a_move_is_too():
    for b in (np.where((STATE == 1) & (ACTION == 0), 0.5, 0), np.array([0.4, -1.3, 2.2])[np.concatenate([STATE[1:], STATE[:1] * 0])]):
        bias = expected(baselines.subtract(TOGO, b, MASK).numpy()) - GRADIENT
        np.testing.assert_allclose(bias, -expected(b), rtol=0, atol=1e-13)
        assert np.abs(bias).max() > 1e-2


@equation("PG-51")
def test_a_baseline_may_know_a_future_that_no_action_moves():
    """State (x, e): e is weather, x is ours. b_t may be made of all the weather to come, not of our own future."""
    rng = np.random.default_rng(4)
    ours, weather = rng.dirichlet(np.ones(2), size=(2, 2, 2)), rng.dirichlet(np.ones(2), size=2)  # [x, e, a, x'], [e, e']
    move = np.einsum("xeay,ef->xeayf", ours, weather).reshape(4, 2, 4)
    mdp = TabularMDP(rng.dirichlet(np.ones(4)), move, rng.normal(size=(4, 2)), 1.0, horizon=3)
    theta = rng.normal(size=(4, 2))
    listing = mdp.trajectories(tf.constant(theta))
    state, action, reward, mask = (
        x.numpy() for x in (listing.trajectory.observation, listing.trajectory.action, listing.trajectory.reward, listing.trajectory.mask)
    )
    p, pi = listing.probability.numpy(), np.exp(theta) / np.exp(theta).sum(-1, keepdims=True)
    g = score(state, action, pi)
    ahead = np.cumsum(reward[::-1], axis=0)[::-1]
    exogenous, own = state % 2, state // 2
    e, x = (np.broadcast_to(np.array([1.3, -0.4, 2.1]) @ future, state.shape) for future in (exogenous, own))
    gradient, knowing, peeking = (
        np.einsum("n,tnp,tn->p", p, g, baselines.subtract(ahead, b, mask).numpy()) for b in (0 * e, e * (1 + own), x)
    )
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(knowing, gradient, rtol=0, atol=1e-13)
    assert np.abs(peeking - gradient).max() > 1e-2


# The value of the state, PG-48.


@equation("PG-48")
def test_the_value_is_unbiased_under_both_returns_but_centres_only_the_reward_to_go():
    full, togo = (baselines.value_baseline(x, V[STEP, STATE], MASK).numpy() for x in (TOTAL, TOGO))
    np.testing.assert_allclose(expected(full), GRADIENT, rtol=0, atol=1e-13)
    np.testing.assert_allclose(expected(togo), GRADIENT, rtol=0, atol=1e-13)
    away = []
    for t, s, a in np.ndindex(3, 3, 2):
        now = (STATE[t] == s) & (ACTION[t] == a)
        np.testing.assert_allclose(P[now] @ togo[t, now] / P[now].sum(), Q[t, s, a] - V[t, s], rtol=0, atol=1e-13)
        away.append(abs(P[now] @ full[t, now] / P[now].sum() - Q[t, s, a] + V[t, s]))
    assert max(away) > 0.1


@equation("PG-48")
def test_the_value_lowers_the_variance_of_this_process_as_published():
    full, togo = (baselines.value_baseline(x, V[STEP, STATE], MASK).numpy() for x in (TOTAL, TOGO))
    np.testing.assert_allclose([sampled(x) for x in (TOTAL, full, TOGO, togo)], [2.187, 1.817, 1.101, 0.749], atol=5e-4)


# Optimal baselines made of the others, PG-46 and PG-47.

SMALL, SMALL_THETA = seeded(5, states=2, horizon=2)  # 16 trajectories


def estimate(weigh):
    """1/N sum_i g_i (R_i - b_i), b = weigh(scores [N, P], returns [N]) of shape [N, P], [P] or []."""

    def one(t, score_t):
        g, total = tf.reduce_sum(score_t, axis=0), tf.reduce_sum(t.reward, axis=0)
        return tf.reduce_mean(g * (total[:, None] - weigh(g, total)), axis=0)

    return one


def optimal_by_the_norm(g, total):
    return baselines.optimal_leave_one_out(tf.norm(g, axis=1, keepdims=True), total)


def in_batch(rule):
    return lambda g, total: rule(tf.fill(tf.shape(total), 1 / tf.cast(tf.size(total), total.dtype)), g, total)


def bias(rule, episodes):
    listing = SMALL.trajectories(tf.constant(SMALL_THETA))
    t = listing.trajectory
    g = score(t.observation.numpy(), t.action.numpy(), np.exp(SMALL_THETA) / np.exp(SMALL_THETA).sum(-1, keepdims=True)).sum(0)
    gradient = np.einsum("n,np,n->p", listing.probability, g, t.reward.numpy().sum(0))
    assert np.abs(gradient).max() > 0.1
    return exact.moments(listing, estimate(rule), tf.constant(gradient), episodes).bias


@equation("PG-46", "PG-47")
@pytest.mark.parametrize("episodes", [2, 3])
def test_optimal_baselines_of_the_others_are_unbiased_and_of_the_batch_are_not(episodes):
    for rule in (baselines.optimal_leave_one_out, optimal_by_the_norm):
        np.testing.assert_allclose(bias(rule, episodes), np.zeros(4), atol=1e-13)
    for rule in (in_batch(baselines.optimal), in_batch(baselines.optimal_per_parameter)):
        assert np.abs(bias(rule, episodes)).max() > 1e-2


# For rewards to go, PG-136.


def togo_estimate(weigh):
    """1/N sum_i (c_i - b_i g_i), c_i = sum_t g_t G_t, b = weigh(g [N, P], c [N, P])."""

    def one(t, score_t):
        togo = tf.cumsum(t.reward, axis=0, reverse=True)
        g, c = tf.reduce_sum(score_t, axis=0), tf.einsum("tnp,tn->np", score_t, togo)
        return tf.reduce_mean(c - weigh(g, c) * g, axis=0)

    return one


def togo_by_the_norm(g, c):
    norm = tf.norm(g, axis=1, keepdims=True)
    return baselines.optimal_togo_leave_one_out(norm, tf.reduce_sum(g * c, axis=1, keepdims=True) / norm)


def togo_of_the_batch(g, c):
    return tf.math.divide_no_nan(tf.reduce_sum(g * c, axis=0), tf.reduce_sum(g**2, axis=0))


@equation("PG-136")
def test_the_optimal_baseline_for_rewards_to_go_is_unbiased_if_made_of_the_others():
    listing = SMALL.trajectories(tf.constant(SMALL_THETA))
    t = listing.trajectory
    g = score(t.observation.numpy(), t.action.numpy(), np.exp(SMALL_THETA) / np.exp(SMALL_THETA).sum(-1, keepdims=True)).sum(0)
    gradient = tf.constant(np.einsum("n,np,n->p", listing.probability, g, t.reward.numpy().sum(0)))
    biases = [
        exact.moments(listing, togo_estimate(rule), gradient, 2).bias for rule in (baselines.optimal_togo_leave_one_out, togo_by_the_norm)
    ]
    np.testing.assert_allclose(biases, np.zeros((2, 4)), atol=1e-13)
    assert np.abs(exact.moments(listing, togo_estimate(togo_of_the_batch), gradient, 2).bias).max() > 1e-2


@equation("PG-136")
def test_of_all_numbers_the_optimal_one_for_rewards_to_go_leaves_least():
    """Others that occur as often as their probabilities say, quarters of quarters: E[(c - b g)^2] over the listing is least at their b."""
    mdp = TabularMDP([0.25, 0.75], [[[0.5, 0.5], [0.75, 0.25]], [[0.25, 0.75], [1.0, 0.0]]], [[1.1, -0.7], [0.4, 2.3]], 1.0, horizon=2)
    pi = np.array([[0.75, 0.25], [0.5, 0.5]])
    listing = mdp.trajectories(tf.constant(np.log(pi)))
    t, p = listing.trajectory, listing.probability.numpy()
    times = np.rint(256 * p).astype(int)
    np.testing.assert_allclose(times, 256 * p, atol=1e-9)
    g_t, togo = score(t.observation.numpy(), t.action.numpy(), pi), np.cumsum(t.reward.numpy()[::-1], axis=0)[::-1]
    g, c = g_t.sum(0), np.einsum("tnp,tn->np", g_t, togo)
    stranger = [np.full((1, 4), 3.3)]
    b = baselines.optimal_togo_leave_one_out(*(np.concatenate([*stranger, np.repeat(x, times, axis=0)]) for x in (g, c))).numpy()[0]

    def left(b):
        return p @ (c - b * g) ** 2

    whole = baselines.optimal_leave_one_out(
        np.concatenate([*stranger, np.repeat(g, times, axis=0)]), np.repeat([0, *togo[0]], [1, *times])
    ).numpy()[0]
    assert np.abs(whole - b).min() > 0.05  # that of total returns is another
    for h in (1e-3, 0.1, 3.0):
        np.testing.assert_allclose(left(b + h) - left(b), h**2 * (p @ g**2), rtol=1e-7)  # a parabola, and b is its lowest point
        np.testing.assert_allclose(left(b - h) - left(b), h**2 * (p @ g**2), rtol=1e-7)
