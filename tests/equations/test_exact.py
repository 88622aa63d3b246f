"""Exact moments of estimators, and what they show: the law of the batch size, and bias against variance with a wrong critic."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from episodes import draw, softmax, table_score
from laws import finite_difference

from tfpg import estimators, returns, variance
from tfpg.tabular import TabularMDP

equation = pytest.mark.equation
rng = np.random.default_rng(47)
SMALL = draw(2, states=3, actions=2, gamma=0.9, horizon=2, over=(1,))
THETA = rng.normal(size=(3, 2))


def facade(process):
    return TabularMDP(process.start, process.move, process.reward, process.gamma, process.horizon, process.over)


def centred(t, score_t):
    """REINFORCE with the batch's mean return as baseline: no mean of single episodes, and biased."""
    r = returns.total_return(t.reward, SMALL.gamma, t.mask)
    score = estimators.trajectory_score(score_t, t.mask)
    return tf.reduce_mean(score * (r - tf.reduce_mean(r))[:, None], axis=0)


def plain(t, score_t):
    return estimators.reinforce(score_t, t.reward, SMALL.gamma, t.mask)


def listed_moments(estimate, n):
    """Mean and covariance of an estimate of (returns [n], scores [n, P]), over every batch of n episodes, one after the other."""
    g, pi = table_score(THETA), softmax(THETA)
    rows = [(p, SMALL.total(path), sum([g[pair] for pair in path], np.zeros(6))) for p, path in SMALL.episodes(pi)]
    weight, found = [], []
    for batch in itertools.product(rows, repeat=n):
        p, r, score = zip(*batch, strict=True)
        weight.append(np.prod(p))
        found.append(estimate(np.array(r), np.array(score)))
    weight, found = np.array(weight), np.array(found)
    mean = weight @ found
    return mean, np.einsum("k,kp,kq->pq", weight, found - mean, found - mean)


@equation("PG-44")
@pytest.mark.parametrize("episodes", [1, 2])
def test_moments_are_sums_over_all_batches(episodes):
    mean, covariance = listed_moments(lambda r, score: ((r - r.mean())[:, None] * score).mean(0), episodes)
    gradient = finite_difference(lambda x: SMALL.objective(softmax(x)), THETA).ravel()
    found = facade(SMALL).moments(THETA, centred, episodes)
    np.testing.assert_allclose(found.mean, mean, atol=1e-14)
    np.testing.assert_allclose(found.bias, mean - gradient, atol=1e-9)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-14)
    np.testing.assert_allclose(found.variance, np.diag(covariance), atol=1e-14)
    assert np.abs(found.bias).max() > 1e-2  # of one episode nothing is left, of two a half
    np.testing.assert_allclose(found.mean, (1 - 1 / episodes) * gradient, atol=1e-9)


@equation("PG-123", "PG-44")
def test_the_covariance_falls_as_one_over_the_episodes():
    mdp = facade(SMALL)
    one, two = (mdp.moments(THETA, plain, n) for n in (1, 2))
    mean, covariance = listed_moments(lambda r, score: (r[:, None] * score).mean(0), 2)
    np.testing.assert_allclose(two.covariance, covariance, atol=1e-14)
    np.testing.assert_allclose(two.covariance, one.covariance / 2, atol=1e-14)
    np.testing.assert_allclose(two.mean, mean, atol=1e-14)
    for n in (1, 2, 7):
        np.testing.assert_allclose(variance.of_batch(one.covariance, n), np.asarray(one.covariance) / n, rtol=1e-15)
    assert np.trace(one.covariance) > 0.05


@equation("PG-123")
def test_the_batch_counts_episodes_and_not_steps():
    """Where states never change, the mean over T steps of each of N episodes is no better than one step of each."""
    stay = np.repeat(np.eye(3)[:, None], 2, axis=1)
    mdp = TabularMDP([0.5, 0.2, 0.3], stay, [[1.0, 1.0], [-2.0, -2.0], [0.7, 0.7]], horizon=3)
    spread = np.array([0.5, 0.2, 0.3]) @ np.array([1.0, -2.0, 0.7]) ** 2 - (0.5 - 0.4 + 0.21) ** 2

    def mean_reward(t, score_t):
        return tf.reduce_mean(t.reward) * tf.ones_like(score_t[0, 0])

    for n in (1, 2):
        np.testing.assert_allclose(mdp.moments(THETA, mean_reward, n).variance, spread / n, rtol=1e-12)


@equation("PG-123")
def test_the_slope_of_the_variance_in_the_batch_size_is_minus_one():
    """Two decades of N, 5,000 batches each: log Var = const - log N."""
    mdp, sizes, batches = facade(SMALL), np.array([1, 3, 10, 30, 100]), 5000
    t = mdp.sample(THETA, int(sizes[-1]) * batches, [3, 8])
    score, total = estimators.trajectory_score(mdp.score_t(THETA, t), t.mask), returns.total_return(t.reward, mdp.gamma, t.mask)
    single = (score * total[:, None]).numpy()
    found = [single[: n * batches].reshape(batches, n, -1).mean(1).var(0).sum() for n in sizes]
    slope = np.polyfit(np.log(sizes), np.log(found), 1)[0]
    assert slope == pytest.approx(-1, abs=0.03)
    assert found[0] == pytest.approx(np.sum(mdp.moments(THETA, plain).variance), rel=0.1)


# Bias against variance. The critic says V + e on every state and step, 0 after the end, and the estimate takes n steps before it asks.

STEPS = 3
PROCESS = draw(11, states=4, actions=2, gamma=0.9, horizon=STEPS)
WEIGHTS = rng.normal(size=(4, 2))
MDP, ERROR = facade(PROCESS), rng.normal(size=(STEPS, 4))


def critic(error):
    """V + e along a trajectory, v_t and v_tp1, the latter 0 after the last step."""
    table = tf.constant(PROCESS.values(softmax(WEIGHTS))[1] + error)

    def along(t):
        v_t = tf.gather(table, t.observation, batch_dims=1)
        return v_t, tf.concat([v_t[1:], tf.zeros_like(v_t[:1])], axis=0)

    return along


def n_step_gradient(n, error):
    along = critic(error)

    def estimate(t, score_t):
        one_t, discount_t = tf.ones_like(t.reward), returns.discount(0.9, t.terminated, t.reward)
        psi_t = returns.n_step(t.reward, discount_t, tf.cast(~t.terminated, tf.float64), *along(t), t.mask, n)
        return estimators.policy_gradient(score_t, returns.discount_from_start(psi_t, 0.9, t.age), one_t)

    return MDP.moments(WEIGHTS, estimate)


@equation("PG-68", "PG-65")
def test_n_steps_are_off_by_the_discounted_error_where_they_stop():
    """E[A^(n)_t | s_t, a_t] = A_t + gamma^n E[e(s_{t+n}) | s_t, a_t] - e(s_t), e = 0 after the end."""
    listing, along = MDP.trajectories(WEIGHTS), critic(ERROR)
    t, p = listing.trajectory, listing.probability.numpy()
    state, action = t.observation.numpy(), t.action.numpy()
    q, v = PROCESS.values(softmax(WEIGHTS))
    for n in range(1, STEPS + 1):
        discount_t = returns.discount(0.9, t.terminated, t.reward)
        psi = returns.n_step(t.reward, discount_t, tf.cast(~t.terminated, tf.float64), *along(t), t.mask, n).numpy()
        for k, s, a in np.ndindex(STEPS, 4, 2):
            here = p * (state[k] == s) * (action[k] == a)
            ahead = ERROR[k + n][state[k + n]] if k + n < STEPS else np.zeros(len(p))
            expected = q[k, s, a] - v[k, s] + 0.9**n * here @ ahead / here.sum() - ERROR[k, s]
            assert here @ psi[k] / here.sum() == pytest.approx(expected, abs=1e-12)


@equation("PG-68")
def test_a_right_critic_leaves_no_bias_and_a_wrong_one_does_until_the_sums_reach_the_end():
    gradient = finite_difference(lambda x: PROCESS.objective(softmax(x)), WEIGHTS).ravel()
    for n in range(1, STEPS + 1):
        right, wrong = n_step_gradient(n, 0 * ERROR), n_step_gradient(n, ERROR)
        np.testing.assert_allclose(right.mean, gradient, atol=1e-9)
        np.testing.assert_allclose(right.bias, 0, atol=1e-13)
        assert (np.linalg.norm(wrong.bias) > 1e-3) == (n < STEPS)


@equation("PG-68")
def test_bias_is_linear_in_the_error_and_the_best_number_of_steps_grows_with_it():
    """For 20,000 episodes: with a right critic one step is best, with a slightly wrong one two, with a wrong one all three."""
    at = {size: [n_step_gradient(n, size * ERROR) for n in range(1, STEPS + 1)] for size in (0.0, 0.1, 1.0)}
    for slightly, fully in zip(at[0.1], at[1.0], strict=True):
        np.testing.assert_allclose(10 * slightly.bias, fully.bias, atol=1e-12)
    best = [np.argmin([np.sum(m.bias**2) + np.sum(m.variance) / 20_000 for m in moments]) for moments in at.values()]
    assert best == [0, 1, 2]
    bias, spread = [np.linalg.norm(m.bias) for m in at[1.0]], [np.sum(m.variance) for m in at[0.0]]
    assert bias == sorted(bias, reverse=True)
    assert spread == sorted(spread)
