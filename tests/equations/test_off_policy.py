"""Off-policy quantities of processes that are known: moments of weights and surrogate values, against sums over all trajectories."""

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import importance, off_policy

equation = pytest.mark.equation
S, A, T, GAMMA = 3, 2, 4, 0.85
STATES, ACTIONS = np.divmod(np.array(np.unravel_index(np.arange((S * A) ** T), [S * A] * T)), A)  # [T, 1296]
rng = np.random.default_rng(17)
START, MOVE = rng.dirichlet(np.ones(S)), rng.dirichlet(np.ones(S), size=(S, A))
REWARD, OLD = rng.normal(size=(S, A)), rng.normal(size=(T, S, A))
DIRECTION = rng.normal(size=(T, S, A))
NEW = OLD + 0.9 * DIRECTION


def softmax(theta):
    return np.exp(theta) / np.exp(theta).sum(axis=-1, keepdims=True)


PI_OLD, PI_NEW = softmax(OLD), softmax(NEW)


def along(pi_t):
    """pi_t(a_t|s_t) along every trajectory, [T, 1296]."""
    return pi_t[np.arange(len(pi_t))[:, None], STATES[: len(pi_t)], ACTIONS[: len(pi_t)]]


def probability(pi_t):
    moves = MOVE[STATES[:-1], ACTIONS[:-1], STATES[1:]]
    return START[STATES[0]] * moves.prod(axis=0) * along(pi_t).prod(axis=0)


def objective(pi_t):
    returns = sum(GAMMA**t * REWARD[STATES[t], ACTIONS[t]] for t in range(T))
    return float(probability(pi_t) @ returns)


def marginals(pi_t):
    """p(s_t = s), by summing the probabilities of trajectories."""
    return np.array([[probability(pi_t)[STATES[t] == s].sum() for s in range(S)] for t in range(T)])


def advantage(pi_t):
    """A_t = Q_t - V_t of a policy, [T, S, A], going back in time."""
    result, v = np.zeros((T, S, A)), np.zeros(S)
    for t in reversed(range(T)):
        q = REWARD + GAMMA * MOVE @ v
        v = (pi_t[t] * q).sum(axis=-1)
        result[t] = q - v[:, None]
    return result


@equation("PG-81")
@pytest.mark.parametrize("steps", [1, 2, T])
def test_the_second_moment_is_that_of_all_trajectories(steps):
    w = (along(PI_NEW[:steps]) / along(PI_OLD[:steps])).prod(axis=0)
    p = probability(PI_OLD)
    np.testing.assert_allclose(p @ w, 1, rtol=1e-13)
    np.testing.assert_allclose(off_policy.second_moment(START, MOVE, PI_NEW[:steps], PI_OLD[:steps]), p @ w**2, rtol=1e-13)
    assert p @ w**2 > 1.01


@equation("PG-81")
def test_the_mean_log_weight_is_that_of_all_trajectories_and_minus_the_divergences_on_the_way():
    found = off_policy.expected_log_weight(START, MOVE, PI_NEW, PI_OLD)
    w = (along(PI_NEW) / along(PI_OLD)).prod(axis=0)
    np.testing.assert_allclose(found, probability(PI_OLD) @ np.log(w), rtol=1e-12)
    divergence = (PI_OLD * np.log(PI_OLD / PI_NEW)).sum(axis=-1)
    np.testing.assert_allclose(found, -(marginals(PI_OLD) * divergence).sum(), rtol=1e-12)


@equation("PG-81")
@pytest.mark.parametrize("name", ["second_moment", "expected_log_weight"])
def test_moments_and_their_slopes_in_every_mode(mode, name):
    weigh = {"second_moment": np.square, "expected_log_weight": np.log}[name]

    def define(new, old):
        new, old = softmax(new), softmax(old)
        return probability(old) @ weigh((along(new) / along(old)).prod(axis=0))

    def value_and_slopes(start, transition, new, old):
        with tf.GradientTape() as tape:
            tape.watch((new, old))
            y = getattr(off_policy, name).python_function(start, transition, tf.nn.softmax(new), tf.nn.softmax(old))
        return y, *tape.gradient(y, (new, old))

    value, in_new, in_old = mode(value_and_slopes)(*map(tf.constant, (START, MOVE, NEW, OLD)))
    np.testing.assert_allclose(value, define(NEW, OLD), rtol=1e-12)
    np.testing.assert_allclose(in_new, finite_difference(lambda x: define(x, OLD), NEW), rtol=0, atol=1e-9)
    np.testing.assert_allclose(in_old, finite_difference(lambda x: define(NEW, x), OLD), rtol=0, atol=1e-9)
    single = getattr(off_policy, name)(*(x.astype(np.float32) for x in (START, MOVE, PI_NEW, PI_OLD)))
    np.testing.assert_allclose(single, value, rtol=1e-5)


@equation("PG-81")
def test_of_one_policy_the_second_moment_is_one_and_the_mean_log_weight_zero():
    np.testing.assert_allclose(off_policy.second_moment(START, MOVE, PI_OLD, PI_OLD), 1, rtol=1e-13)
    np.testing.assert_allclose(off_policy.expected_log_weight(START, MOVE, PI_OLD, PI_OLD), 0, rtol=0, atol=1e-14)


@equation("PG-81")
def test_independent_steps_multiply_and_weights_are_mostly_small_and_sometimes_huge():
    """One state: E[W] = 1 throughout, while E[W^2] = (1 + chi^2)^T grows and E[log W] = -T KL falls."""
    new, old = np.array([0.35, 0.4, 0.25]), np.array([0.6, 0.3, 0.1])
    chi, kl = ((new - old) ** 2 / old).sum(), (old * np.log(old / new)).sum()
    for steps in (1, 3, 40):
        given = np.ones(1), np.ones([1, 3, 1]), np.tile(new, (steps, 1, 1)), np.tile(old, (steps, 1, 1))
        np.testing.assert_allclose(off_policy.second_moment(*given), (1 + chi) ** steps, rtol=1e-12)
        np.testing.assert_allclose(off_policy.expected_log_weight(*given), -steps * kl, rtol=1e-12)


@equation("PG-71", "PG-72", "PG-81")
@pytest.mark.parametrize("steps", [1, 10, 50, 100])
def test_a_shifted_gaussian_has_the_moments_of_its_closed_form(steps):
    """Actions on a grid so fine that sums are integrals. E W^2 = e^{T d^2/sigma^2}; log W is normal, its median -T d^2/(2 sigma^2)."""
    d, sigma = 0.3, 1.5
    grid = np.arange(-15, 15.5, 0.5) * sigma
    old, new = (np.exp(-((grid - mean) ** 2) / (2 * sigma**2)) for mean in (0.0, d))
    old_t, new_t = (np.tile(x / x.sum(), (steps, 1, 1)) for x in (old, new))
    start, transition = np.ones(1), np.ones((1, len(grid), 1))
    ratio = (d / sigma) ** 2
    np.testing.assert_allclose(off_policy.second_moment(start, transition, new_t, old_t), np.exp(steps * ratio), rtol=1e-10)
    np.testing.assert_allclose(off_policy.expected_log_weight(start, transition, new_t, old_t), -steps * ratio / 2, rtol=1e-10)
    actions = np.random.default_rng(2).normal(0, sigma, size=(steps, 4000))
    log_ratio_t = (actions**2 - (actions - d) ** 2) / (2 * sigma**2)
    log_w = importance.log_trajectory_ratio(log_ratio_t, np.ones(log_ratio_t.shape, bool)).numpy()
    deviation = np.sqrt(steps * ratio)
    assert abs(np.median(log_w) + steps * ratio / 2) < 5 * deviation * np.sqrt(np.pi / 2 / 4000)


@equation("PG-71", "PG-81")
def test_a_sample_hides_the_rare_huge_weights_that_make_the_variance():
    """W = exp(d x - d^2/2) of a hundred steps with d = 0.2 together: E[W^2] = e^4, and 20,000 samples show less than half of it."""
    d = 2.0
    log_w = d * np.random.default_rng(5).normal(size=20000) - d**2 / 2
    found = importance.estimate(log_w, np.zeros(20000), np.exp(log_w))
    assert 0.8 < found.mean_weight < 1.2
    grid = np.arange(-15, 18, 0.25)
    old, new = (np.exp(-((grid - mean) ** 2) / 2) for mean in (0.0, d))
    exact = off_policy.second_moment(np.ones(1), np.ones((1, len(grid), 1)), *((x / x.sum())[None, None] for x in (new, old)))
    np.testing.assert_allclose(exact, np.exp(4), rtol=1e-9)
    assert found.mean < 0.5 * exact


@equation("PG-82")
def test_the_difference_in_performance_is_the_old_advantage_on_the_new_path(mode):
    function = mode(off_policy.performance_difference)
    found = function(*map(tf.constant, (marginals(PI_NEW), PI_NEW, advantage(PI_OLD))), tf.constant(GAMMA, tf.float64))
    np.testing.assert_allclose(found, objective(PI_NEW) - objective(PI_OLD), rtol=1e-12)
    assert abs(found) > 0.05
    rounded = (tf.constant(x, tf.float32) for x in (marginals(PI_NEW), PI_NEW, advantage(PI_OLD), GAMMA))
    np.testing.assert_allclose(function(*rounded), found, rtol=1e-5)


def surrogate_gain(theta, states):
    """L_old(theta) - J(old), theta [T, S, A] a softmax table for each step."""
    return off_policy.performance_difference(states, tf.nn.softmax(theta), advantage(PI_OLD), GAMMA)


@equation("PG-82")
def test_the_surrogate_has_the_gradient_of_the_objective_at_the_old_policy_and_only_there():
    for theta, close in [(OLD, True), (NEW, False)]:
        variable = tf.constant(theta)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            gain = surrogate_gain(variable, marginals(PI_OLD))
        exact = finite_difference(lambda x: objective(softmax(x)), theta)
        error = np.abs(tape.gradient(gain, variable) - exact).max()
        assert np.abs(exact).max() > 0.05
        assert (error < 1e-9) if close else (error > 1e-3)
        assert (abs(gain) < 1e-14) == close


@equation("PG-82")
def test_the_error_of_the_surrogate_is_of_second_order():
    distance = np.array([0.2, 0.1, 0.05, 0.025])
    error = []
    for step in distance:
        theta = OLD + step * DIRECTION
        gain = objective(softmax(theta)) - objective(PI_OLD)
        error.append(abs(surrogate_gain(theta, marginals(PI_OLD)) - gain))
        np.testing.assert_allclose(surrogate_gain(theta, marginals(softmax(theta))), gain, rtol=1e-9)
    slope = np.polyfit(np.log(distance[1:]), np.log(error[1:]), 1)[0]
    assert abs(slope - 2) < 0.15


@equation("PG-82")
def test_states_shift_no_more_than_the_bound(mode):
    bound = mode(off_policy.state_shift_bound)
    worst = 0.0
    for scale in (0.2, 1.0, 4.0):
        new, old = softmax(OLD[0] + scale * DIRECTION[0]), PI_OLD[0]
        found = bound(tf.constant(new), tf.constant(old), tf.constant(T)).numpy()
        distance = max(sum(abs(new[s, a] - old[s, a]) for a in range(A)) / 2 for s in range(S))
        np.testing.assert_allclose(found, [0, 2 * distance, 4 * distance, 6 * distance], rtol=1e-13)
        shift = np.abs(marginals(np.tile(new, (T, 1, 1))) - marginals(np.tile(old, (T, 1, 1)))).sum(axis=-1)
        assert (shift <= found + 1e-15).all()
        worst = max(worst, shift[1] / found[1])
    assert worst > 0.05
    single = bound(tf.constant(new, tf.float32), tf.constant(old, tf.float32), tf.constant(T))
    np.testing.assert_allclose(single, found, rtol=1e-6)


@equation("PG-82")
def test_the_bound_is_attained_where_each_action_leads_to_a_state_of_its_own():
    new, old = np.array([[0.8, 0.2], [0.5, 0.5]]), np.array([[0.3, 0.7], [0.5, 0.5]])
    shift = abs(0.8 - 0.3) + abs(0.2 - 0.7)
    np.testing.assert_allclose(off_policy.state_shift_bound(new, old, 2), [0, shift], rtol=1e-12)
