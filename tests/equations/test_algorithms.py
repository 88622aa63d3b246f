"""Rows of the table: their exact expected gradient, over every trajectory there is, is the gradient of the objective."""

import enumeration
import numpy as np
import pytest
import tensorflow as tf

from tfpg import algorithms, build, gradients, psi, returns, surrogates, update
from tfpg.config import Config
from tfpg.types import Critique, Horizon, Spaces

equation = pytest.mark.equation
PARAMS = enumeration.some_parameters()


def expected_gradient(row, gamma, lambda_, from_start, v=None):
    """E[sum_t g_t psi_t] of a row, by its own psi and surrogate. v [T + 1, S]: the critic, exact if not given."""
    trajectory = enumeration.trajectories(PARAMS)
    v = enumeration.values(PARAMS, gamma) if v is None else v
    t = np.arange(enumeration.T)[:, None]
    v_t = tf.constant(v[t, enumeration.STATES])
    v_tp1 = tf.constant(np.concatenate([v[t[1:], enumeration.STATES[1:]], np.full((1, len(enumeration.PATHS)), 1e3)]))
    psi_t = row.psi(trajectory, Critique(v_t, v_tp1), Horizon(gamma, lambda_))
    if from_start:
        psi_t = returns.discount_from_start(psi_t, gamma, trajectory.age)
    weight = tf.broadcast_to(tf.constant(enumeration.probabilities(PARAMS)), psi_t.shape)
    columns = (trajectory.observation, trajectory.action, trajectory.log_prob, psi_t, weight, weight)
    batch = update.Batch(*map(update.flat, columns))
    problem = update.policy_problem(enumeration.POLICY, row.surrogate, PARAMS, batch, block=10**6)
    return enumeration.flat(gradients.gradient(problem.objective, PARAMS)[1])


@equation("PG-23", "PG-24", "PG-28", "PG-37", "PG-48", "PG-66", "PG-67")
@pytest.mark.parametrize("gamma", [1.0, 0.7])
@pytest.mark.parametrize("name", algorithms.ALGORITHMS)
def test_expected_gradient_is_the_gradient_of_the_objective(name, gamma):
    row = algorithms.ALGORITHMS[name]
    exact = enumeration.exact_gradient(PARAMS, gamma)
    assert np.abs(exact).max() > 1e-2
    from_start = row.psi is not psi.total_return
    np.testing.assert_allclose(expected_gradient(row, gamma, 0.6, from_start), exact, rtol=0, atol=1e-9)


@equation("PG-36")
@pytest.mark.parametrize("name", ["reinforce_togo", "reinforce_baseline", "npg"])
def test_returns_discounted_to_go_are_another_direction(name):
    exact = enumeration.exact_gradient(PARAMS, 0.7)
    assert np.abs(expected_gradient(algorithms.ALGORITHMS[name], 0.7, 0.6, from_start=False) - exact).max() > 1e-2


@equation("PG-48", "PG-67")
def test_a_wrong_value_leaves_the_baseline_unbiased_and_biases_the_bootstrap(rng):
    exact = enumeration.exact_gradient(PARAMS, 0.7)
    wrong = rng.normal(size=(enumeration.T + 1, enumeration.S))
    baseline = expected_gradient(algorithms.ALGORITHMS["reinforce_baseline"], 0.7, 0.6, True, wrong)
    np.testing.assert_allclose(baseline, exact, rtol=0, atol=1e-9)
    assert np.abs(expected_gradient(algorithms.ALGORITHMS["npg"], 0.7, 0.6, True, wrong) - exact).max() > 1e-2


@equation("PG-35")
def test_learning_from_the_start_is_a_flag_that_total_returns_do_not_need():
    spaces = Spaces((4,), actions=2)
    for name in algorithms.ALGORITHMS:
        for choice in ("togo", "start"):
            learner = build.make_learner(Config(algo=name, discount_from=choice), spaces)
            assert learner.weigh_by_age == (choice == "start" and name != "reinforce")


@equation("PG-14", "PG-102")
def test_objective_is_a_mean_over_trajectories_and_kl_a_mean_over_steps():
    """With unequal lengths: 1/N sum_i sum_t against 1/(number of steps)."""
    mask = tf.constant([[True, True], [True, False], [True, False]])
    like = tf.ones([], tf.float64)
    np.testing.assert_allclose(surrogates.weights(mask, like, "traj"), np.where(mask, 1 / 2, 0))
    np.testing.assert_allclose(surrogates.weights(mask, like, "step"), np.where(mask, 1 / 4, 0))
