"""Where critics end up: the fixed point of each target's expected semi-gradient, by linear solves over all transitions of a process."""

import itertools

import enumeration
import numpy as np
import pytest
import tensorflow as tf

from tfpg import critics, returns

equation = pytest.mark.equation
GAMMA, STATES, ACTIONS = 0.85, 3, 2  # and a fourth state, where the task is over
rng = np.random.default_rng(12)
MOVE = rng.dirichlet(np.ones(4), size=(STATES, ACTIONS))
PAY, PI = rng.normal(size=(STATES, ACTIONS)), rng.dirichlet(np.ones(ACTIONS), size=STATES)
VISITS = np.array([0.5, 0.2, 0.3])
CERTAIN = np.eye(4)[[[1, 2], [0, 3], [1, 0]]]  # each action leads to one state
BEYOND = 50.0  # what critics say of the fourth state, and must not matter


def q_of(pi, move=MOVE):
    """Q^pi by solving (I - gamma P Pi) Q = r over pairs."""
    chain = np.einsum("sak,kb->sakb", move[..., :STATES], pi).reshape(STATES * ACTIONS, -1)
    return np.linalg.solve(np.eye(STATES * ACTIONS) - GAMMA * chain, PAY.ravel()).reshape(STATES, ACTIONS)


Q = q_of(PI)
V = (PI * Q).sum(-1)
Q_STAR = np.max([q_of(np.eye(ACTIONS)[list(best)]) for best in itertools.product(range(ACTIONS), repeat=STATES)], axis=0)


class Transitions:
    """Every (s, a, s', a') as one entry of [T, N], with its probability as weight."""

    def __init__(self, move=MOVE):
        everywhere = np.vstack([PI, [0.4, 0.6]])
        s, a, k, b = (x.reshape(STATES, -1) for x in np.indices((STATES, ACTIONS, 4, ACTIONS)))
        self.s, self.a, self.k, self.b = s, a, k, b
        self.weight = tf.constant(VISITS[s] * PI[s, a] * move[s, a, k] * everywhere[k, b])
        self.reward = tf.constant(PAY[s, a])
        self.discount = returns.discount(GAMMA, tf.constant(k == STATES), self.reward)
        self.pi = tf.constant(everywhere[k])
        self.mask = tf.ones(s.shape, tf.bool)

    def of(self, kind, phi):
        """The target of a table phi [S, A]."""
        table = tf.concat([phi, tf.fill([1, ACTIONS], tf.constant(BEYOND, tf.float64))], axis=0)
        q = tf.gather(table, self.k)
        if kind == "sarsa":
            return critics.sarsa_target(self.reward, self.discount, tf.gather(q, self.b, axis=-1, batch_dims=2), self.mask)
        if kind == "expected":
            return critics.expected_sarsa_target(self.reward, self.discount, q, self.pi, self.mask)
        return critics.q_learning_target(self.reward, self.discount, q, self.mask)

    def slope(self, kind, phi):
        phi = tf.constant(phi)
        with tf.GradientTape() as tape:
            tape.watch(phi)
            y = critics.q_loss(tf.gather_nd(phi, np.stack([self.s, self.a], -1)), self.of(kind, phi), self.weight)
        return tf.convert_to_tensor(tape.gradient(y, phi)).numpy()


def fixed_point(slope, shape):
    """Where an affine function of a table is zero."""
    size = int(np.prod(shape))
    at_zero = slope(np.zeros(shape)).ravel()
    matrix = np.stack([slope(e.reshape(shape)).ravel() - at_zero for e in np.eye(size)], axis=1)
    somewhere = np.linspace(-1, 2, size)
    np.testing.assert_allclose(slope(somewhere.reshape(shape)).ravel(), matrix @ somewhere + at_zero, atol=1e-12)
    return np.linalg.solve(matrix, -at_zero).reshape(shape)


def least_residual(transitions, ahead):
    """argmin E (r + gamma phi(ahead) - phi(s, a))^2, the gradient flowing into both: ahead [T, N, S A] says where it looks."""
    index = transitions.s * ACTIONS + transitions.a
    rows = (np.eye(STATES * ACTIONS)[index] - transitions.discount.numpy()[..., None] * ahead).reshape(-1, STATES * ACTIONS)
    root = np.sqrt(transitions.weight.numpy().ravel())
    return np.linalg.lstsq(rows * root[:, None], transitions.reward.numpy().ravel() * root, rcond=None)[0].reshape(STATES, ACTIONS)


def next_pair(transitions):
    ahead = np.eye(STATES * ACTIONS + ACTIONS)[transitions.k * ACTIONS + transitions.b]
    return ahead[..., : STATES * ACTIONS]


@equation("PG-58", "PG-60")
@pytest.mark.parametrize("kind", ["sarsa", "expected"])
@pytest.mark.parametrize("move", [MOVE, CERTAIN], ids=["random", "deterministic"])
def test_sarsa_ends_at_the_value_of_the_policy(kind, move):
    transitions = Transitions(move)
    np.testing.assert_allclose(fixed_point(lambda phi: transitions.slope(kind, phi), Q.shape), q_of(PI, move), rtol=1e-10)


@equation("PG-60")
@pytest.mark.parametrize("move", [MOVE, CERTAIN], ids=["random", "deterministic"])
def test_the_least_residual_is_elsewhere_where_the_target_is_random(move):
    """Under a random policy even deterministic moves make the target random; averaging over a' heals that, and only that."""
    transitions = Transitions(move)
    assert np.abs(least_residual(transitions, next_pair(transitions)) - q_of(PI, move)).max() > 0.05
    at = np.eye(4)[transitions.k][..., :STATES, None] * PI
    averaged = least_residual(transitions, at.reshape(*transitions.k.shape, -1))
    assert (np.abs(averaged - q_of(PI, move)).max() < 1e-10) == (move is CERTAIN)


@equation("PG-61", "PG-128")
def test_q_learning_ends_at_the_best_value_and_not_at_the_policys():
    transitions, phi = Transitions(), np.zeros((STATES, ACTIONS))
    assert np.abs(transitions.slope("best", Q_STAR)).max() < 1e-13
    assert np.abs(transitions.slope("best", Q)).max() > 1e-2
    mass = np.zeros((STATES, ACTIONS))
    np.add.at(mass, (transitions.s, transitions.a), transitions.weight.numpy())
    for _ in range(150):  # the minimiser of the loss while the target stands still, again and again
        phi = phi - transitions.slope("best", phi) / (2 * mass)
    np.testing.assert_allclose(phi, Q_STAR, rtol=1e-9)
    assert np.abs(Q_STAR - Q).max() > 0.2


@equation("PG-61")
def test_the_best_value_is_a_biased_weight_for_another_policys_score():
    visits = np.linalg.solve(np.eye(STATES) - GAMMA * np.einsum("sa,sak->ks", PI, MOVE[..., :STATES]), VISITS)
    score = np.zeros((STATES, ACTIONS, STATES, ACTIONS))
    for s, a in np.ndindex(STATES, ACTIONS):
        score[s, a, s] = np.eye(ACTIONS)[a] - PI[s]
    learned = {"sarsa": Q, "best": Q_STAR}
    for kind, q in learned.items():
        assert np.abs(Transitions().slope(kind, q)).max() < 1e-13
    of_policy, of_best = (np.einsum("sa,sap->p", visits[:, None] * PI * q, score.reshape(STATES, ACTIONS, -1)) for q in learned.values())
    assert np.linalg.norm(of_best - of_policy) > 0.05 * np.linalg.norm(of_policy)


# State values, from pieces of two steps that need not start at a start nor end at an end.


class Pieces:
    """Every (s, a, s', a', s''), one per column; padded where s' ends the task."""

    def __init__(self):
        s, a, k, b, m = (x.ravel() for x in np.indices((STATES, ACTIONS, 4, ACTIONS, 4)))
        move, pay = np.concatenate([MOVE, np.broadcast_to(np.eye(4)[3], (1, ACTIONS, 4))]), np.vstack([PAY, [0, 0]])
        pi = np.vstack([PI, [0.4, 0.6]])
        p = VISITS[s] * pi[s, a] * move[s, a, k] * pi[k, b] * move[k, b, m]
        self.state, self.following = np.stack([s, k]), np.stack([k, m])
        self.mask = tf.constant(self.state < STATES)
        self.weight = tf.where(self.mask, np.stack([p, p]), 0)
        self.reward = tf.constant(np.stack([pay[s, a], pay[k, b]]))
        terminated = tf.constant(self.following == STATES)
        self.discount = returns.discount(GAMMA, terminated, self.reward)
        self.trace = returns.trace(1.0, terminated, tf.zeros_like(terminated), self.reward)

    def target(self, kind, v_t, v_tp1):
        if kind == "monte carlo":
            return critics.monte_carlo_target(self.reward, self.discount, self.trace, self.mask)
        if kind == "td":
            return critics.td_target(self.reward, self.discount, v_tp1, self.mask)
        if kind == "two steps":
            return v_t + returns.n_step(self.reward, self.discount, self.trace, v_t, v_tp1, self.mask, 2)
        share = {"lambda": 0.6, "full trace": 1.0}[kind]
        return returns.lambda_return(self.reward, self.discount, share * self.trace, v_t, v_tp1, self.mask)

    def slope(self, kind, phi):
        phi = tf.constant(phi)
        with tf.GradientTape() as tape:
            tape.watch(phi)
            table = tf.concat([phi, [tf.constant(BEYOND, tf.float64)]], axis=0)
            v_t, v_tp1 = tf.gather(table, self.state), tf.gather(table, self.following)
            y = critics.value_loss(v_t, self.target(kind, v_t, v_tp1), self.weight)
        return tf.convert_to_tensor(tape.gradient(y, phi)).numpy()


PIECES = Pieces()


@equation("PG-131")
@pytest.mark.parametrize("kind", ["td", "two steps", "lambda", "full trace"])
def test_every_target_with_a_bootstrap_ends_at_the_value_of_the_policy(kind):
    np.testing.assert_allclose(fixed_point(lambda phi: PIECES.slope(kind, phi), V.shape), V, rtol=1e-10)


@equation("PG-131")
def test_a_return_that_was_cut_short_teaches_another_value():
    found = fixed_point(lambda phi: PIECES.slope("monte carlo", phi), V.shape)
    assert np.abs(found - V).max() > 0.1


# Monte Carlo, from whole episodes of three steps.

PARAMS = enumeration.some_parameters()
LISTED, P = enumeration.trajectories(PARAMS), enumeration.probabilities(PARAMS)
TIME = np.arange(enumeration.T)[:, None]
TARGET = critics.monte_carlo_target(
    LISTED.reward, returns.discount(GAMMA, LISTED.terminated, LISTED.reward), tf.ones_like(LISTED.reward), LISTED.mask
)
TOGO = np.array([sum(GAMMA ** (u - t) * LISTED.reward[u] for u in range(t, enumeration.T)) for t in range(enumeration.T)])
WEIGHT = tf.constant(np.broadcast_to(P, TOGO.shape))


def monte_carlo_slope(loss, where):
    def slope(phi):
        phi = tf.constant(phi)
        with tf.GradientTape() as tape:
            tape.watch(phi)
            y = loss(tf.gather_nd(phi, np.stack(np.broadcast_arrays(*where), -1)), TARGET, WEIGHT)
        return tf.convert_to_tensor(tape.gradient(y, phi)).numpy()

    return slope


def conditional(x_t, where, shape):
    """E[x_t | where], entry by entry."""
    where = np.broadcast_arrays(*where)
    result = np.zeros(shape)
    for index in np.ndindex(*shape):
        now = np.all([w == i for w, i in zip(where, index, strict=True)], axis=0)
        result[index] = (WEIGHT.numpy() * x_t)[now].sum() / WEIGHT.numpy()[now].sum()
    return result


@equation("PG-59")
def test_monte_carlo_ends_at_the_conditional_mean_and_leaves_the_conditional_variance():
    where, shape = (TIME, enumeration.STATES, enumeration.ACTIONS), (3, 3, 2)
    q = enumeration.REWARD + GAMMA * np.einsum("sak,tk->tsa", enumeration.MOVE, enumeration.values(PARAMS, GAMMA)[1:])
    found = fixed_point(monte_carlo_slope(critics.q_loss, where), shape)
    np.testing.assert_allclose(found, q, rtol=1e-10)
    at = np.broadcast_arrays(*where)
    spread = conditional(TOGO**2, where, shape) - conditional(TOGO, where, shape) ** 2
    least = critics.q_loss(tf.constant(q[tuple(at)]), TARGET, WEIGHT)
    np.testing.assert_allclose(least, (WEIGHT.numpy() * spread[tuple(at)]).sum(), rtol=1e-10)
    assert least > 0.1


@equation("PG-59", "PG-131")
def test_a_value_without_time_learns_the_average_over_the_times_of_its_state():
    v = enumeration.values(PARAMS, GAMMA)[:3]
    with_time = fixed_point(monte_carlo_slope(critics.value_loss, (TIME, enumeration.STATES)), (3, 3))
    np.testing.assert_allclose(with_time, v, rtol=1e-10)
    occupancy = np.array([[P[enumeration.STATES[t] == s].sum() for s in range(3)] for t in range(3)])
    without = fixed_point(monte_carlo_slope(critics.value_loss, (enumeration.STATES,)), (3,))
    np.testing.assert_allclose(without, (occupancy * v).sum(0) / occupancy.sum(0), rtol=1e-10)
    assert np.abs(without - v).max() > 0.1
