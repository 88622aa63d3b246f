"""What may multiply the score of an action: every member by its definition along episodes, and all of them in exact expectation."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import psi, returns
from tfpg.tabular import TabularMDP
from tfpg.types import Critique, Horizon, Trajectory

equation = pytest.mark.equation
GAMMA, LAMBDA, STEPS = 0.9, 0.7, 2
# One whole episode per column: it terminates, is cut by the clock, does both, or runs on beyond the last row; # is padding. And a chunk
# of three episodes.
COLUMNS = ("...T##", "....U#", ".B####", "......", "T#####", ".U..T.")
ROWS = np.array([list(column) for column in COLUMNS]).T
TERMINATED, TRUNCATED, MASK = np.isin(ROWS, ["T", "B"]), np.isin(ROWS, ["U", "B"]), ROWS != "#"
ENDED = TERMINATED | TRUNCATED


@pytest.fixture
def given(rng):
    reward, v_t, v_tp1, q_t = rng.normal(size=(4, *ROWS.shape)) + 0.4
    v_tp1[:-1] = np.where(MASK[1:] & ~ENDED[:-1], v_t[1:], v_tp1[:-1])
    return {"reward": reward, "v_t": v_t, "v_tp1": v_tp1, "q_t": q_t}


def records(reward, v_t, v_tp1, q_t, dtype=tf.float64):
    r, v, v1, q = (tf.constant(x, dtype) for x in (reward, v_t, v_tp1, q_t))
    nothing = tf.zeros_like(r)
    age = np.broadcast_to(np.arange(len(ROWS), dtype=np.int32)[:, None], ROWS.shape)
    ends = tf.constant(TERMINATED), tf.constant(TRUNCATED), tf.constant(MASK)
    return Trajectory(nothing, nothing, nothing, r, nothing, *ends, tf.constant(age)), Critique(v, v1, q)


def weights(mode, kind, given, dtype=tf.float64, horizon=(GAMMA, LAMBDA, STEPS)):
    return mode(lambda t, c: psi.member(kind, t, c, Horizon(*horizon)))(*records(**given, dtype=dtype))


def steps_left(t, i):
    """Of the episode, in this chunk, the step t of column i included."""
    m = 1
    while not ENDED[t + m - 1, i] and t + m < len(ROWS) and MASK[t + m, i]:
        m += 1
    return m


def every_step(value):
    """value(t, i, m) where m steps are left; zero on padding."""
    return np.array([[value(t, i, steps_left(t, i)) if MASK[t, i] else 0 for i in range(len(COLUMNS))] for t in range(len(ROWS))])


def rewards(reward, t, i, m):
    return sum(GAMMA**k * reward[t + k, i] for k in range(m))


def n_step(reward, v_t, v_tp1, q_t, n):
    def one(t, i, left):
        m = min(n, left)
        rest = 0 if TERMINATED[t + m - 1, i] else v_tp1[t + m - 1, i]
        return rewards(reward, t, i, m) + GAMMA**m * rest - v_t[t, i]

    return every_step(one)


def gae(lambda_, **given):
    def one(t, i, left):
        a = [n_step(**given, n=n)[t, i] for n in range(1, left + 1)]
        return (1 - lambda_) * sum(lambda_**k * a[k] for k in range(left - 1)) + lambda_ ** (left - 1) * a[-1]

    return every_step(one)


DEFINITIONS = {
    "return": lambda reward, v_t, v_tp1, q_t: every_step(lambda t, i, m: rewards(reward, 0, i, MASK[:, i].sum())),
    "togo": lambda reward, v_t, v_tp1, q_t: every_step(lambda t, i, m: rewards(reward, t, i, m)),
    "togo_baseline": lambda **given: n_step(**given, n=99),
    "q": lambda reward, v_t, v_tp1, q_t: every_step(lambda t, i, m: q_t[t, i]),
    "advantage": lambda reward, v_t, v_tp1, q_t: every_step(lambda t, i, m: q_t[t, i] - v_t[t, i]),
    "td": lambda **given: n_step(**given, n=1),
    "n_step": lambda **given: n_step(**given, n=STEPS),
    "gae": lambda **given: gae(LAMBDA, **given),
}


@equation("PG-48", "PG-55", "PG-63", "PG-64", "PG-65", "PG-66", "PG-67")
@pytest.mark.parametrize("kind", DEFINITIONS)
def test_every_member_equals_its_definition_along_the_episode(mode, kind, given):
    np.testing.assert_allclose(weights(mode, kind, given), DEFINITIONS[kind](**given), rtol=1e-11, atol=1e-13)
    if mode.name == "graph":
        single = weights(mode, kind, given, tf.float32)
        assert single.dtype == tf.float32
        np.testing.assert_allclose(single, DEFINITIONS[kind](**given), rtol=2e-5, atol=1e-6)


@equation("PG-66")
def test_the_family_has_no_other_members(given):
    assert set(psi.FAMILY) == set(DEFINITIONS)
    with pytest.raises(ValueError, match=r"kind is 'reward'.*return, togo.*gae"):
        psi.member("reward", *records(**given), Horizon(GAMMA))


@equation("PG-64", "PG-65", "PG-67")
def test_one_step_and_no_trace_are_the_residual_and_all_steps_and_full_trace_the_return(mode, given):
    residual, centred = (weights(mode, kind, given) for kind in ("td", "togo_baseline"))
    for kind, horizon, limit in [
        ("n_step", (GAMMA, 0.3, 1), residual),
        ("gae", (GAMMA, 0.0, 4), residual),
        ("n_step", (GAMMA, 0.3, 6), centred),
        ("gae", (GAMMA, 1.0, 4), centred),
    ]:
        np.testing.assert_allclose(weights(mode, kind, given, horizon=horizon), limit, rtol=0, atol=1e-13)


@equation("PG-48", "PG-65", "PG-67")
def test_only_what_terminated_ends_without_a_value(given):
    """A_t - (G_t - V(o_t)) is gamma to the steps left times V of the true next observation, and nothing after a termination."""
    eager = lambda f: f  # noqa: E731
    full = weights(eager, "gae", given, horizon=(GAMMA, 1.0, 1)).numpy()
    plain = weights(eager, "togo", given).numpy() - np.where(MASK, given["v_t"], 0)

    def rest(t, i, m):
        return 0 if TERMINATED[t + m - 1, i] else GAMMA**m * given["v_tp1"][t + m - 1, i]

    np.testing.assert_allclose(full - plain, every_step(rest), rtol=0, atol=1e-13)
    assert np.abs(every_step(rest)).max(axis=0)[[1, 3]].min() > 0.05


@equation("PG-48", "PG-63")
@pytest.mark.parametrize("kind", ["advantage", "togo_baseline"])
def test_a_value_that_is_subtracted_learns_nothing_from_the_actor(mode, kind, given):
    def slopes(t, c):
        with tf.GradientTape() as tape:
            tape.watch(c)
            y = tf.reduce_sum(psi.member(kind, t, c, Horizon(GAMMA)) ** 2)
        return tape.gradient(y, tf.nest.flatten(c), unconnected_gradients="zero")

    assert not any(np.any(slope) for slope in mode(slopes)(*records(**given)))


# In expectation: a process of at most three steps that may stop before, with values that depend on time.

MOVE = np.array([[[0.5, 0.2, 0.3], [0.1, 0.3, 0.6]], [[0.2, 0.7, 0.1], [0.4, 0.1, 0.5]], [[0, 0, 1], [0, 0, 1]]])
PAY = np.array([[1.1, -0.7], [0.4, 2.3], [0.0, 0.0]])
MDP = TabularMDP([0.6, 0.4, 0.0], MOVE, PAY, GAMMA, horizon=3, terminal=(2,))
THETA = np.array([[0.4, -0.3], [-0.9, 0.2], [0.0, 0.0]])


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def q_and_v(theta):
    """Q[t, s, a] and V[t, s] with V[T] = 0: by going back in time."""
    q, v = np.zeros((3, *PAY.shape)), np.zeros((4, len(PAY)))
    for t in reversed(range(3)):
        q[t] = PAY + GAMMA * MOVE @ v[t + 1]
        v[t] = (softmax(theta) * q[t]).sum(-1)
    return q, v


def objective(theta):
    return np.array([0.6, 0.4, 0.0]) @ q_and_v(theta)[1][0]


def score(state, action, theta):
    pi, g = softmax(theta), np.zeros((*state.shape, *theta.shape))
    for index in np.ndindex(state.shape):
        g[index][state[index]] = np.eye(theta.shape[1])[action[index]] - pi[state[index]]
    return g.reshape(*state.shape, -1)


class Listed:
    """Trajectories as numpy arrays, with the probability [N] of each."""

    def __init__(self, trajectory, probability, theta):
        self.trajectory, self.p = trajectory, np.asarray(probability)
        names = ("observation", "action", "mask", "terminated", "next_observation")
        self.state, self.action, self.mask, self.terminated, self.following = (getattr(trajectory, name).numpy() for name in names)
        self.g = np.where(self.mask[..., None], score(self.state, self.action, theta), 0)
        self.t = np.broadcast_to(np.arange(len(self.state))[:, None], self.state.shape)

    def critique(self, q, v):
        return Critique(*map(tf.constant, (v[self.t, self.state], v[self.t + 1, self.following], q[self.t, self.state, self.action])))

    def member(self, kind, q, v, lambda_=LAMBDA, n=2):
        return psi.member(kind, self.trajectory, self.critique(q, v), Horizon(MDP.gamma, lambda_, n))

    def gradient(self, psi_t, gamma=GAMMA):
        return np.einsum("n,tnp,tn->p", self.p, self.g, returns.discount_from_start(psi_t, gamma, self.trajectory.age))

    def given_pair(self, x_t, t, s, a):
        """E[x_t | s_t = s, a_t = a]."""
        now = (self.state[t] == s) & (self.action[t] == a) & self.mask[t]
        return self.p[now] @ np.asarray(x_t)[t, now] / self.p[now].sum()


def listed(mdp, theta):
    listing = mdp.trajectories(tf.constant(theta))
    return Listed(listing.trajectory, listing.probability, theta)


LISTED, (Q, V) = listed(MDP, THETA), q_and_v(THETA)


def exact_gradient(h=1e-5):
    slope = []
    for index in np.ndindex(THETA.shape):
        step = np.zeros(THETA.shape)
        step[index] = h
        slope.append((objective(THETA + step) - objective(THETA - step)) / (2 * h))
    return np.array(slope)


GRADIENT = exact_gradient()


def from_member(kind, q=Q, v=V, **horizon):
    psi_t = LISTED.member(kind, q, v, **horizon)
    return LISTED.gradient(psi_t, 1.0 if kind == "return" else GAMMA)


@equation("PG-55", "PG-63", "PG-64", "PG-65", "PG-66", "PG-67")
@pytest.mark.parametrize("kind", DEFINITIONS)
def test_with_exact_critics_every_member_gives_the_gradient(kind):
    assert np.abs(GRADIENT).max() > 0.1
    np.testing.assert_allclose(from_member(kind), GRADIENT, rtol=0, atol=1e-9)


@equation("PG-55", "PG-66")
@pytest.mark.parametrize("kind", [kind for kind in DEFINITIONS if kind != "return"])
def test_without_the_factor_from_the_start_it_is_another_vector(kind):
    assert np.abs(LISTED.gradient(LISTED.member(kind, Q, V), 1.0) - GRADIENT).max() > 1e-2


@equation("PG-66")
@pytest.mark.parametrize("kind", DEFINITIONS)
def test_adding_a_function_of_the_state_changes_nothing(kind):
    psi_t = LISTED.member(kind, Q, V) + np.array([1.3, -2.2, 0.7])[LISTED.state]
    np.testing.assert_allclose(LISTED.gradient(psi_t, 1.0 if kind == "return" else GAMMA), GRADIENT, rtol=0, atol=1e-9)


@equation("PG-63", "PG-64", "PG-65", "PG-67")
@pytest.mark.parametrize("kind", ["togo_baseline", "advantage", "td", "n_step", "gae"])
def test_given_state_and_action_the_mean_is_the_advantage(kind):
    psi_t = LISTED.member(kind, Q, V)
    for t, s, a in np.ndindex(3, 2, 2):
        np.testing.assert_allclose(LISTED.given_pair(psi_t, t, s, a), Q[t, s, a] - V[t, s], rtol=0, atol=1e-13)


# Critics that are wrong by e [T + 1, S].

E = np.array([[0.7, -1.1, 5.0], [-0.4, 1.6, 5.0], [1.2, 0.3, 5.0], [9.0, 9.0, 9.0]])


@equation("PG-64")
def test_a_wrong_value_biases_the_residual_by_what_it_says_of_the_next_state():
    """By gamma E[(1 - terminated) e(s') | s, a] - e(s); the second part drops out of the gradient."""
    psi_t = LISTED.member("td", Q, V + E)
    ahead = GAMMA * ~LISTED.terminated * E[LISTED.t + 1, LISTED.following]
    for t, s, a in np.ndindex(3, 2, 2):
        going_on = sum(MOVE[s, a, k] * E[t + 1, k] for k in (0, 1)) if t < 2 else 0
        np.testing.assert_allclose(LISTED.given_pair(psi_t, t, s, a), Q[t, s, a] - V[t, s] + GAMMA * going_on - E[t, s], rtol=0, atol=1e-13)
    bias = LISTED.gradient(tf.constant(np.where(LISTED.mask, ahead, 0)))
    assert np.abs(bias).max() > 0.05
    np.testing.assert_allclose(from_member("td", v=V + E), GRADIENT + bias, rtol=0, atol=1e-9)


@equation("PG-48", "PG-65", "PG-67")
def test_a_wrong_value_does_not_bias_what_looks_to_the_end_of_the_task():
    for kind, horizon in [("togo_baseline", {}), ("n_step", {"n": 3}), ("gae", {"lambda_": 1.0})]:
        np.testing.assert_allclose(from_member(kind, v=V + E, **horizon), GRADIENT, rtol=0, atol=1e-9)
    for kind, horizon in [("n_step", {"n": 2}), ("gae", {"lambda_": 0.9})]:
        assert np.abs(from_member(kind, v=V + E, **horizon) - GRADIENT).max() > 1e-3


@equation("PG-63")
def test_a_q_that_is_wrong_by_a_function_of_the_state_is_right_enough():
    np.testing.assert_allclose(from_member("advantage", q=Q + E[:3, :, None], v=V + 2 * E), GRADIENT, rtol=0, atol=1e-9)
    tilted = Q + E[:3, :, None] * np.array([1.0, -1.0])
    assert np.abs(from_member("advantage", q=tilted) - GRADIENT).max() > 1e-2


@equation("PG-48", "PG-64", "PG-65", "PG-66", "PG-67")
def test_where_the_clock_cuts_every_member_with_a_value_agrees_and_plain_returns_do_not():
    """The task goes on for ever; V stands for what was cut off, so that each step still has the mean A(s, a)."""
    move = MOVE[:2] / 2 + 0.25 * (np.arange(3) < 2)
    chain = np.vstack([np.einsum("sa,sak->sk", softmax(THETA)[:2], move), [0, 0, 1]])
    v = np.linalg.solve(np.eye(3) - GAMMA * chain * (np.arange(3) < 2), (softmax(THETA) * PAY).sum(-1))
    move = np.concatenate([move, MOVE[2:]])
    q = PAY + GAMMA * (move * (np.arange(3) < 2)) @ v
    longer = listed(TabularMDP([0.6, 0.4, 0.0], move, PAY, GAMMA, horizon=4, terminal=(2,)), THETA)
    clock = np.zeros((3, len(longer.p)), bool)
    clock[2] = longer.mask[2] & ~longer.terminated[2]
    assert 0.1 < longer.p[clock[2]].sum() < 0.9
    three = tf.nest.map_structure(lambda x: x[:3], longer.trajectory)._replace(truncated=tf.constant(clock))
    cut = Listed(three, longer.p, THETA)
    q_t, v_t = np.broadcast_to(q, (4, *q.shape)), np.broadcast_to(v, (5, 3))
    expected = cut.gradient(cut.member("advantage", q_t, v_t))
    for kind in ("td", "n_step", "gae", "togo_baseline", "q"):
        np.testing.assert_allclose(cut.gradient(cut.member(kind, q_t, v_t)), expected, rtol=0, atol=1e-12)
    assert np.abs(cut.gradient(cut.member("togo", q_t, v_t)) - expected).max() > 1e-2
