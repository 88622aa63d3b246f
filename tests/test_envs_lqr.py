"""The regulator as an environment, and the optimum that its greedy returns are held against."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg.envs import lqr
from tfpg.lqr import LQR

PROCESSES = [lqr.PROCESS, LQR(1, 1.0), LQR(2, 1.0), LQR(3, 1.0, 2.5), LQR(4, 0.8, 1.7)]
CASES = pytest.mark.parametrize("process", PROCESSES)


def play(environment, state, gain_t, noise_t=None, gamma=1.0):
    """Return of the policy a = k_t s + noise from given states, [N, 1], by the environment's own steps."""
    total = 0.0
    for t in range(environment.time_limit):
        action = gain_t[t] * state + (0.0 if noise_t is None else noise_t[t])
        state, reward, terminated = environment.step(state, action, tf.constant([0, t]))
        assert not terminated.numpy().any()
        total += gamma**t * reward
    return np.array(total)


def least_cost(process):
    """The minimum over a in R^T of sum_t gamma^{t-1} (s_t^2 + a_t^2) from s_1 = 1, where s = 1 + L a, by least squares."""
    T = process.horizon
    weight = np.sqrt(process.gamma ** np.arange(T))
    system = np.concatenate([np.tril(np.ones((T, T)), -1) * weight[:, None], np.diag(weight)])
    target = np.concatenate([-weight, np.zeros(T)])
    return ((system @ np.linalg.lstsq(system, target, rcond=None)[0] - target) ** 2).sum()


@CASES
def test_the_optimum_is_the_least_cost_of_all_sequences_of_actions(process):
    np.testing.assert_allclose(lqr.optimum(process), -process.start_variance * least_cost(process), rtol=1e-12)


@CASES
def test_the_optimal_gains_return_the_optimum(process):
    """From each state, not only on average: the return is J* s_1^2 / Var[s_1]."""
    environment, state = lqr.make(tf.float64, process), tf.constant([[1.0], [-0.3], [2.2]], tf.float64)
    returns = play(environment, state, process.optimal_gains(), gamma=process.gamma)
    np.testing.assert_allclose(returns, lqr.optimum(process) * state[:, 0] ** 2 / process.start_variance, rtol=1e-12)


@CASES
def test_no_gain_of_a_fine_grid_is_better_than_the_best(process):
    """J is smooth: half a step of the grid away from its maximum it is lower by less than the step squared."""
    k, best = lqr.best_gain(process)
    grid = np.linspace(-2, 1, 30_001)[:, None]
    environment = lqr.make(tf.float64, process)
    j = process.start_variance * play(environment, tf.ones_like(grid), [grid] * process.horizon, gamma=process.gamma)
    assert (j <= best + 1e-12).all()
    assert j.max() > best - 1e-8 * process.horizon * process.start_variance
    assert abs(grid[j.argmax(), 0] - k) < 1e-4
    np.testing.assert_allclose(
        play(environment, tf.ones([1, 1], tf.float64), [k] * process.horizon, gamma=process.gamma)[0], best / process.start_variance
    )


def test_knowing_the_time_is_worth_something_where_time_is_short():
    assert lqr.best_gain(LQR(3, 1.0))[1] < lqr.optimum(LQR(3, 1.0)) - 0.01
    np.testing.assert_allclose(lqr.optimum(LQR(3, 1.0)), -8 / 5, rtol=1e-14)  # Fibonacci: F_6 / F_5


def test_the_numbers_of_the_environment():
    golden = (1 + 5**0.5) / 2
    np.testing.assert_allclose(lqr.optimum(), -golden, rtol=1e-15)
    np.testing.assert_allclose(lqr.best_gain(), [1 - golden, -golden], rtol=1e-12)
    environment = lqr.make()
    assert environment.time_limit == 20
    assert (environment.spaces.action_low, environment.spaces.action_high) == ((-np.inf,), (np.inf,))


def test_one_step(mode):
    state, action = tf.constant([[2.0], [-1.5]], tf.float64), tf.constant([[30.0], [0.25]], tf.float64)
    after, reward, terminated = mode(lqr.make(tf.float64).step)(state, action, tf.constant([0, 0]))
    np.testing.assert_array_equal(after, [[32.0], [-1.25]])
    np.testing.assert_allclose(reward, [-904.0, -2.3125], rtol=1e-15)
    np.testing.assert_array_equal(terminated, [False, False])


def test_starts_are_normal():
    """Moments of 50,000 starts within 5 sigma: the mean, s^2 (of variance 2 v^2) and s^4 (of 96 v^4)."""
    n, variance = 50_000, 2.5
    s = lqr.make(tf.float64, LQR(3, 1.0, variance)).reset(n, tf.constant([1, 2])).numpy()[:, 0]
    assert abs(s.mean()) < 5 * np.sqrt(variance / n)
    assert abs((s**2).mean() - variance) < 5 * variance * np.sqrt(2 / n)
    assert abs((s**4).mean() - 3 * variance**2) < 5 * variance**2 * np.sqrt(96 / n)


def test_returns_of_a_random_policy_have_the_oracle_s_mean(rng):
    """20,000 episodes of a ~ N(k s, sigma^2), seed 7: mean return within 5 standard errors of J(k, sigma)."""
    environment, n, theta = lqr.make(tf.float64), 20_000, (-0.4, 0.7)
    noise_t = theta[1] * rng.normal(size=(environment.time_limit, n, 1))
    returns = play(environment, environment.reset(n, tf.constant([3, 4])), [theta[0]] * environment.time_limit, noise_t)
    assert abs(returns.mean() - float(lqr.PROCESS.objective(theta))) < 5 * returns.std() / np.sqrt(n)
    assert returns.std() / np.sqrt(n) < 0.01 * abs(returns.mean())
