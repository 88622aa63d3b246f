"""Neighbours of policy gradients: dueling heads, deterministic and soft actors."""

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import neighbours

equation = pytest.mark.equation
pytestmark = equation("PG-128")
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-11), (tf.float32, 1e-5)])


# Dueling.


@DTYPES
@pytest.mark.parametrize("leading", [(), (4,), (3, 4)])
def test_dueling_adds_the_centred_advantage_to_the_value(mode, leading, dtype, tolerance, rng):
    v, advantage = rng.normal(size=leading), rng.normal(size=(*leading, 5)) + 0.7
    q = mode(neighbours.dueling)(tf.constant(v, dtype), tf.constant(advantage, dtype))
    assert q.dtype == dtype
    expected = [[x + a - sum(row) / 5 for a in row] for x, row in zip(np.ravel(v), advantage.reshape(-1, 5), strict=True)]
    np.testing.assert_allclose(q, np.reshape(expected, (*leading, 5)), rtol=tolerance, atol=tolerance)


def test_dueling_makes_value_and_advantage_identifiable(mode, rng):
    v, advantage = tf.constant(rng.normal(size=(3, 4))), tf.constant(rng.normal(size=(3, 4, 5)))
    q = mode(neighbours.dueling)(v, advantage)
    np.testing.assert_allclose(tf.reduce_mean(q, axis=-1), v, rtol=1e-12)
    np.testing.assert_allclose(mode(neighbours.dueling)(v, advantage + 3.7), q, rtol=1e-12)
    assert np.abs(mode(neighbours.dueling)(v + 3.7, advantage) - q).min() > 3


def test_dueling_sends_gradients_into_both_heads(mode, rng):
    v, advantage, weight = rng.normal(size=4), rng.normal(size=(4, 5)), rng.normal(size=(4, 5))

    def slopes(v, advantage):
        with tf.GradientTape() as tape:
            tape.watch((v, advantage))
            y = tf.reduce_sum(weight * neighbours.dueling(v, advantage))
        return tape.gradient(y, (v, advantage))

    in_v, in_advantage = mode(slopes)(tf.constant(v), tf.constant(advantage))
    np.testing.assert_allclose(in_v, weight.sum(1), rtol=1e-12)
    np.testing.assert_allclose(in_advantage, weight - weight.mean(1, keepdims=True), rtol=1e-11)


# Deterministic policy gradient.


@DTYPES
def test_deterministic_gradient_is_the_derivative_of_q_along_the_policy(mode, dtype, tolerance, rng):
    """Q(s, a) = -1/2 (a - C s).M (a - C s), mu_theta(s) = tanh(theta s), against differences of the mean of Q(s, mu(s))."""
    states, theta, weight = rng.normal(size=(5, 3)), rng.normal(size=(3, 2)), rng.dirichlet(np.ones(5))
    curvature, centre = np.array([[2.0, 0.3], [0.3, 0.8]]), rng.normal(size=(3, 2))

    def objective(x):
        away = np.tanh(states @ x) - states @ centre
        return weight @ (-0.5 * np.einsum("ki,ij,kj->k", away, curvature, away))

    def slope(theta, states):
        with tf.GradientTape() as outer:
            outer.watch(theta)
            action = tf.tanh(states @ theta)
            with tf.GradientTape() as inner:
                inner.watch(action)
                away = action - states @ tf.constant(centre, dtype)
                q = -0.5 * tf.reduce_sum(away @ tf.constant(curvature, dtype) * away, axis=1)
            q_slope = inner.gradient(q, action)
            y = tf.reduce_sum(tf.constant(weight, dtype) * neighbours.deterministic(action, q_slope))
        return outer.gradient(y, theta)

    expected = finite_difference(objective, theta)
    assert np.abs(expected).max() > 0.1
    found = mode(slope)(tf.constant(theta, dtype), tf.constant(states, dtype))
    np.testing.assert_allclose(found, expected, rtol=0, atol=max(10 * tolerance, 1e-9))


def test_deterministic_sums_over_actions_and_holds_the_slope_of_q_still(mode, rng):
    action, q_slope = (tf.constant(rng.normal(size=(4, 3, 2))) for _ in range(2))
    np.testing.assert_allclose(mode(neighbours.deterministic)(action, q_slope), (action.numpy() * q_slope.numpy()).sum(-1), rtol=1e-12)

    def slopes(action, q_slope):
        with tf.GradientTape() as tape:
            tape.watch((action, q_slope))
            y = tf.reduce_sum(neighbours.deterministic(action, q_slope))
        return tape.gradient(y, (action, q_slope), unconnected_gradients="zero")

    in_action, in_slope = mode(slopes)(action, q_slope)
    np.testing.assert_array_equal(in_action, q_slope)
    assert not np.any(in_slope)


# Soft actor.

Q, KAPPA = np.array([0.7, -0.4, 1.9, 0.2]), 0.6
BOLTZMANN = np.exp(Q / KAPPA) / np.exp(Q / KAPPA).sum()


def expected_soft(logits, q=Q, kappa=KAPPA):
    pi = np.exp(logits) / np.exp(logits).sum()
    return sum(p * (x - kappa * np.log(p)) for p, x in zip(pi, q, strict=True))


def of_one_state(logits, q):
    """E_{a~pi}[Q(a) - kappa log pi(a)], and its gradient in the logits and in Q."""
    with tf.GradientTape() as tape:
        tape.watch((logits, q))
        log_pi = tf.nn.log_softmax(logits)
        y = tf.reduce_sum(tf.exp(log_pi) * neighbours.soft_actor(log_pi, q, tf.constant(KAPPA, q.dtype)))
    return y, tape.gradient(y, (logits, q))


@DTYPES
def test_soft_actor_rewards_q_and_entropy(mode, dtype, tolerance):
    logits = np.array([0.3, -0.8, 0.5, 1.1])
    y, (in_logits, in_q) = mode(of_one_state)(tf.constant(logits, dtype), tf.constant(Q, dtype))
    np.testing.assert_allclose(y, expected_soft(logits), rtol=tolerance)
    np.testing.assert_allclose(in_logits, finite_difference(expected_soft, logits), rtol=0, atol=max(tolerance, 1e-9))
    np.testing.assert_allclose(in_q, np.exp(logits) / np.exp(logits).sum(), rtol=tolerance)
    assert np.abs(in_logits).max() > 0.1


def test_soft_actor_is_highest_at_the_boltzmann_policy(rng):
    best = np.log(BOLTZMANN)
    y, (slope, _) = of_one_state(tf.constant(best), tf.constant(Q))
    np.testing.assert_allclose(slope, np.zeros(4), atol=1e-14)
    np.testing.assert_allclose(y, KAPPA * np.log(np.exp(Q / KAPPA).sum()), rtol=1e-12)
    for _ in range(50):
        other, _ = of_one_state(tf.constant(best + 0.3 * rng.normal(size=4)), tf.constant(Q))
        assert other < y


@DTYPES
def test_soft_actor_of_each_sample(mode, dtype, tolerance, rng):
    log_prob, q = rng.normal(size=(2, 3, 4))
    found = mode(neighbours.soft_actor)(tf.constant(log_prob, dtype), tf.constant(q, dtype), tf.constant(0.3, dtype))
    np.testing.assert_allclose(found, q - 0.3 * log_prob, rtol=tolerance, atol=tolerance)


def test_soft_actor_sends_gradients_into_both_arguments(mode, rng):
    def slopes(log_prob, q):
        with tf.GradientTape() as tape:
            tape.watch((log_prob, q))
            y = neighbours.soft_actor(log_prob, q, tf.constant(KAPPA, tf.float64))
        return tape.gradient(y, (log_prob, q), unconnected_gradients="zero")

    in_log_prob, in_q = mode(slopes)(*map(tf.constant, rng.normal(size=(2, 3, 4))))
    np.testing.assert_allclose(in_log_prob, np.full((3, 4), -KAPPA), rtol=1e-14)
    np.testing.assert_array_equal(in_q, np.ones((3, 4)))
