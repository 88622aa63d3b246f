"""With everything exact, small trust-region steps raise J at every step, on a table and on the regulator."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import divergences, gradients, improve, lqr, off_policy, optimizers, processes, tabular
from tfpg.types import Problem

equation = pytest.mark.equation

SETTINGS = improve.Settings(optimizers.sgd(0.1), step_size=0.05, kl_radius=2e-3, damping=1e-9, cg_iterations=20, shrink=0.7, backtracks=8)
PACE = tf.constant(1.0, tf.float64)


def whole(objective, divergence, fisher):
    """A problem without parts, of a Fisher matrix [P, P]."""
    slope, nothing = lambda theta: gradients.gradient(objective, theta)[1], lambda _: None
    return Problem(objective, slope, divergence, lambda: lambda v: tf.linalg.matvec(fisher, v), nothing, lambda theta: PACE, nothing)


def table_problem(mdp, theta):
    """L_theta (PG-82) as the objective, KL(old || new) under the discounted visitation of theta, and its Fisher matrix."""
    advantage_t, fisher = mdp.advantage(theta), mdp.fisher(theta)
    state_t = processes.state_marginals(mdp.start, mdp.policy_t(theta), mdp.transition)

    def objective(new):
        return off_policy.performance_difference(state_t, mdp.policy_t(new), advantage_t, mdp.gamma)

    def divergence(new):
        return tf.reduce_sum(mdp.visitation(theta) * divergences.kl(mdp.pi(theta), mdp.pi(new)))

    return whole(objective, divergence, fisher)


def regulator_problem(task, theta):
    """L_theta of theta = (k, sigma): the mean over old states and new actions of Q_t = -(s^2 + a^2 + gamma p_{t+1} (s + a)^2) - const."""
    discount_t, m_t, fisher = task.discount_t(), task.visitation(theta), task.fisher(theta)
    p_tp1 = task.value_coefficients(theta)[0][1:]

    def objective(new):
        k, sigma = tf.unstack(new)
        now = (1 + k**2) * m_t + sigma**2
        return -tf.reduce_sum(discount_t * (now + task.gamma * p_tp1 * ((1 + k) ** 2 * m_t + sigma**2)))

    def divergence(new):
        (k_0, sigma_0), (k, sigma) = tf.unstack(theta), tf.unstack(new)
        kl_t = tf.math.log(sigma / sigma_0) + (sigma_0**2 + (k - k_0) ** 2 * m_t) / (2 * sigma**2) - 0.5
        return tf.reduce_sum(discount_t * kl_t)

    return whole(objective, divergence, fisher)


TASKS = {
    "table": (table_problem, tabular.TabularMDP.random(3, gamma=0.9), [[0.3, -0.4], [1.0, 0.2], [-0.7, 0.6]]),
    "regulator": (regulator_problem, lqr.LQR(horizon=8, gamma=0.9, start_variance=0.7), [-0.2, 0.8]),
}


@equation("PG-106", "PG-107", "PG-110", "PG-112")
@pytest.mark.parametrize("step", [improve.fixed, improve.kl_scaled, improve.backtracking])
@pytest.mark.parametrize("task", TASKS)
def test_the_objective_rises_at_every_exact_step(task, step):
    make, process, start = TASKS[task]
    move = tf.function(lambda theta: improve.natural(step)(make(process, theta), theta, (), SETTINGS, PACE, ())[0], autograph=False)
    theta, path = tf.constant(start, tf.float64), []
    for _ in range(30):
        path.append(float(process.objective(theta)))
        theta = move(theta)
    assert (np.diff(path) > 0).all()
    assert path[-1] - path[0] > 0.1


@equation("PG-82", "PG-110", "PG-112")
@pytest.mark.parametrize("task", TASKS)
def test_the_surrogate_has_the_exact_gradient_and_the_divergence_the_fisher_matrix(task):
    make, process, start = TASKS[task]
    theta = tf.constant(start, tf.float64)
    problem = make(process, theta)
    _, slope = gradients.gradient(problem.objective, theta)
    np.testing.assert_allclose(slope, process.gradient(theta), atol=1e-12)
    v = tf.reshape(tf.constant([0.4, -0.9, 0.1, 1.3, 0.7, -0.2], tf.float64)[: tf.size(theta)], theta.shape)
    kl = float(problem.divergence(theta + 1e-4 * v))
    flat = tf.reshape(v, [-1])
    np.testing.assert_allclose(kl / 1e-8, 0.5 * float(tf.tensordot(flat, problem.fisher()(flat), 1)), rtol=1e-3)
