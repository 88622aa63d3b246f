"""The compatible critic: the one linear critic that may stand for Q in the gradient."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import critics

equation = pytest.mark.equation
pytestmark = equation("PG-57")
GAMMA, STATES, ACTIONS = 0.85, 4, 3
rng = np.random.default_rng(6)
START, MOVE = rng.dirichlet(np.ones(STATES)), rng.dirichlet(np.ones(STATES), size=(STATES, ACTIONS))
PAY, THETA, FEATURES = rng.normal(size=(STATES, ACTIONS)), rng.normal(size=5), rng.normal(size=(STATES, ACTIONS, 5))


def policy(theta, features=FEATURES):
    z = features @ theta
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def solved(theta, features=FEATURES):
    """pi, d_gamma, Q and J of a policy that is linear in the logits."""
    pi = policy(theta, features)
    chain = np.einsum("sa,sak->sk", pi, MOVE)
    v = np.linalg.solve(np.eye(STATES) - GAMMA * chain, (pi * PAY).sum(-1))
    visits = np.linalg.solve(np.eye(STATES) - GAMMA * chain.T, START)
    return pi, visits, PAY + GAMMA * MOVE @ v, START @ v


def flattened(theta, features=FEATURES):
    """weight [K], score [K, P], q [K] over all pairs."""
    pi, visits, q, _ = solved(theta, features)
    score = features - np.einsum("sa,sap->sp", pi, features)[:, None]
    return (visits[:, None] * pi).ravel(), score.reshape(STATES * ACTIONS, -1), q.ravel()


def differences(theta, features=FEATURES, h=1e-5):
    return np.array([(solved(theta + h * e, features)[3] - solved(theta - h * e, features)[3]) / (2 * h) for e in np.eye(len(theta))])


WEIGHT, SCORE, Q = flattened(THETA)
GRADIENT = differences(THETA)


@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-9), (tf.float32, 1e-3)])
def test_it_stands_for_q_in_the_gradient_and_is_the_natural_gradient(mode, dtype, tolerance):
    w = mode(critics.compatible_critic)(*(tf.constant(x, dtype) for x in (WEIGHT, SCORE, Q)))
    assert w.dtype == dtype
    assert np.abs(GRADIENT).max() > 0.1
    fitted = SCORE @ w.numpy()
    assert np.abs(fitted - Q).max() > 0.1
    np.testing.assert_allclose((WEIGHT * fitted) @ SCORE, GRADIENT, rtol=0, atol=tolerance)
    np.testing.assert_allclose((SCORE.T * WEIGHT) @ SCORE @ w.numpy(), GRADIENT, rtol=0, atol=tolerance)
    root = np.sqrt(WEIGHT)
    np.testing.assert_allclose(w, np.linalg.lstsq(SCORE * root[:, None], Q * root, rcond=None)[0], rtol=0, atol=10 * tolerance)


def test_any_function_of_the_state_may_be_added():
    v = np.repeat(rng.normal(size=STATES), ACTIONS)
    w, shifted = (critics.compatible_critic(WEIGHT, SCORE, q) for q in (Q, Q + 3 * v))
    np.testing.assert_allclose(shifted, w, rtol=0, atol=1e-10)
    np.testing.assert_allclose((WEIGHT * (SCORE @ w.numpy() + v)) @ SCORE, GRADIENT, rtol=0, atol=1e-9)


def test_of_a_table_it_is_the_shortest_which_is_the_advantage():
    """A table has more parameters than directions; w = A solves it, less its mean over actions in every state."""
    table, theta = np.eye(STATES * ACTIONS).reshape(STATES, ACTIONS, -1), rng.normal(size=STATES * ACTIONS)
    weight, score, q = flattened(theta, table)
    w = critics.compatible_critic(weight, score, q).numpy().reshape(STATES, ACTIONS)
    np.testing.assert_allclose(w.sum(-1), np.zeros(STATES), atol=1e-10)
    advantage = q.reshape(STATES, ACTIONS) - (policy(theta, table) * q.reshape(STATES, ACTIONS)).sum(-1, keepdims=True)
    np.testing.assert_allclose(w, advantage - advantage.mean(-1, keepdims=True), rtol=0, atol=1e-9)


def test_the_best_fit_by_other_features_gives_another_gradient():
    other = np.random.default_rng(8).normal(size=SCORE.shape)
    w = critics.compatible_critic(WEIGHT, other, Q).numpy()
    np.testing.assert_allclose((other.T * WEIGHT) @ (Q - other @ w), np.zeros(5), atol=1e-10)
    found = (WEIGHT * (other @ w)) @ SCORE
    assert found @ GRADIENT < 0.9 * np.linalg.norm(found) * np.linalg.norm(GRADIENT)


def test_the_measure_matters():
    w = critics.compatible_critic(np.full(len(Q), 1 / len(Q)), SCORE, Q).numpy()
    assert np.abs((WEIGHT * (SCORE @ w)) @ SCORE - GRADIENT).max() > 1e-2
