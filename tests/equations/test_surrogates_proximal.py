"""Surrogates that stay near the old policy: what they are worth in expectation, where they are flat, and how they curve."""

import numpy as np
import pytest
import tensorflow as tf
import two_policies as world
from laws import finite_difference

from tfpg import surrogates

equation = pytest.mark.equation
GAMMA, EPSILON = 0.8, 0.2
P_OLD = world.probability(world.OLD)


def slope_of(rho, psi, epsilon=EPSILON):
    """Value and derivative in rho of the clipped surrogate at one step."""
    log_prob = tf.constant([[np.log(rho)]])
    with tf.GradientTape() as tape:
        tape.watch(log_prob)
        y = surrogates.clipped(log_prob, tf.zeros_like(log_prob), tf.constant([[psi]], tf.float64), epsilon)
    return y.numpy().item(), tape.gradient(y, log_prob).numpy().item() / rho


@equation("PG-83")
@pytest.mark.parametrize(
    ("rho", "psi", "value", "slope"),
    [
        (1.5, 2.0, 1.2 * 2.0, 0.0),
        (1.5, -2.0, -1.5 * 2.0, -2.0),
        (0.5, 2.0, 0.5 * 2.0, 2.0),
        (0.5, -2.0, -0.8 * 2.0, 0.0),
        (1.1, 2.0, 1.1 * 2.0, 2.0),
        (0.9, -2.0, -0.9 * 2.0, -2.0),
        (1.19, 0.3, 1.19 * 0.3, 0.3),
        (1.21, 0.3, 1.2 * 0.3, 0.0),
        (0.81, -0.3, -0.81 * 0.3, -0.3),
        (0.79, -0.3, -0.8 * 0.3, 0.0),
        (1.0, 0.7, 0.7, 0.7),
    ],
)
def test_the_clip_takes_the_slope_of_going_further_and_leaves_that_of_coming_back(rho, psi, value, slope):
    np.testing.assert_allclose(slope_of(rho, psi), (value, slope), rtol=1e-12, atol=1e-15)


@equation("PG-83")
@pytest.mark.parametrize("epsilon", [0.1, 0.35])
def test_the_clipped_surrogate_is_never_above_the_one_without_a_clip_and_equal_inside(epsilon, rng):
    log_rho, psi = rng.normal(scale=0.6, size=(7, 5)), rng.normal(size=(7, 5))
    bounded = surrogates.clipped(log_rho, np.zeros((7, 5)), psi, epsilon).numpy()
    free = surrogates.importance(log_rho, np.zeros((7, 5)), psi).numpy()
    near = np.abs(np.exp(log_rho) - 1) < epsilon
    lower = np.sign(psi) * (np.exp(log_rho) - 1) > epsilon
    np.testing.assert_array_equal(bounded[~lower], free[~lower])
    assert (bounded[lower] < free[lower]).all()
    assert min(near.sum(), lower.sum(), (~near & ~lower).sum()) > 2


def along(theta):
    return tf.gather_nd(tf.nn.log_softmax(theta), np.stack([world.STATES, world.ACTIONS], axis=-1))


def advantage(theta):
    """A^theta_t(s_t, a_t), [T, N]."""
    q = world.action_values(theta, GAMMA)
    a = q - (world.policy(theta) * q).sum(axis=-1, keepdims=True)
    return a[np.arange(world.T)[:, None], world.STATES, world.ACTIONS]


def expectation(surrogate, theta, *further):
    """E_old[sum_t gamma^{t-1} surrogate_t], through the one reduction."""
    w_t = np.where(world.MASK, P_OLD * GAMMA**world.AGE, 0)
    return surrogates.weighted_sum(w_t, surrogate(along(theta), world.log_prob(world.OLD), advantage(world.OLD), *further))


def gain(theta):
    """sum_t gamma^{t-1} E_{s_t ~ old, a_t ~ theta}[A^old_t]: sums over states and actions."""
    q = world.action_values(world.OLD, GAMMA)
    v = (world.policy(world.OLD) * q).sum(axis=-1, keepdims=True)
    occupancy = world.state_marginals(world.OLD)[..., None] * world.policy(theta)
    return np.einsum("t,tsa,tsa->", GAMMA ** np.arange(world.T), occupancy, q - v)


def gradient(objective, theta):
    theta = tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        y = objective(theta)
    return tape.gradient(y, theta).numpy()


@equation("PG-79", "PG-82")
def test_the_mean_of_the_ratio_surrogate_is_the_gain_on_old_states_and_its_slope_is_the_first_order_form():
    theta = tf.constant(world.NEW)
    np.testing.assert_allclose(expectation(surrogates.importance, theta), gain(world.NEW), rtol=1e-12)
    slope = gradient(lambda x: expectation(surrogates.importance, x), world.NEW)
    np.testing.assert_allclose(slope, finite_difference(gain, world.NEW), rtol=0, atol=1e-9)
    rho = np.exp(world.log_prob(world.NEW) - world.log_prob(world.OLD))
    by_hand = world.weighed(world.OLD, world.NEW, GAMMA**world.AGE * rho * advantage(world.OLD))
    np.testing.assert_allclose(slope.ravel(), by_hand, rtol=0, atol=1e-14)


@equation("PG-79", "PG-82", "PG-83", "PG-84")
@pytest.mark.parametrize("name", ["score", "importance", "clipped", "kl_penalised"])
def test_at_the_old_policy_every_surrogate_has_the_gradient_of_the_objective(name):
    further = lambda theta: {"clipped": (EPSILON,), "kl_penalised": (divergence(theta), 3.0)}.get(name, ())  # noqa: E731
    slope = gradient(lambda theta: expectation(getattr(surrogates, name), theta, *further(theta)), world.OLD)
    exact = finite_difference(lambda theta: world.objective(theta, GAMMA), world.OLD)
    assert np.abs(exact).max() > 0.05
    np.testing.assert_allclose(slope, exact, rtol=0, atol=1e-9)


def divergence(theta, backward=False):
    """KL(old || theta) at every state that is passed, or the other way round, [T, N]."""
    old, new = tf.nn.log_softmax(tf.constant(world.OLD)), tf.nn.log_softmax(theta)
    p, q = (new, old) if backward else (old, new)
    return tf.gather(tf.reduce_sum(tf.exp(p) * (p - q), axis=-1), world.STATES)


def hessian(penalty, backward):
    """Of the KL-penalised surrogate at the old policy, [P, P]."""
    theta = tf.constant(world.OLD.ravel())
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(theta)
        with tf.GradientTape() as inner:
            inner.watch(theta)
            table = tf.reshape(theta, world.OLD.shape)
            y = expectation(surrogates.kl_penalised, table, divergence(table, backward), penalty)
        slope = inner.gradient(y, theta)
    return slope.numpy(), outer.jacobian(slope, theta, experimental_use_pfor=False).numpy()


@equation("PG-84")
@pytest.mark.parametrize("backward", [False, True], ids=["KL(old || new)", "KL(new || old)"])
def test_the_penalty_leaves_the_gradient_at_the_old_policy_and_adds_minus_lambda_fisher_to_the_curvature(backward):
    g = world.score(world.OLD)
    fisher = np.einsum("tn,tnp,tnq->pq", np.where(world.MASK, P_OLD * GAMMA**world.AGE, 0), g, g)
    (slope, curvature), (slope_4, curvature_4) = (hessian(penalty, backward) for penalty in (0.0, 4.0))
    assert np.abs(slope).max() > 0.05
    assert np.linalg.norm(fisher) > 0.1
    np.testing.assert_allclose(slope_4, slope, rtol=0, atol=1e-14)
    np.testing.assert_allclose(curvature_4 - curvature, -4.0 * fisher, rtol=0, atol=1e-13)


@equation("PG-84")
def test_away_from_the_old_policy_the_penalty_is_lambda_times_the_mean_divergence():
    theta, penalty = tf.constant(world.NEW), 2.5
    old, new = world.policy(world.OLD), world.policy(world.NEW)
    occupancy = GAMMA ** np.arange(world.T) @ world.state_marginals(world.OLD)
    expected = gain(world.NEW) - penalty * occupancy @ (old * np.log(old / new)).sum(axis=-1)
    np.testing.assert_allclose(expectation(surrogates.kl_penalised, theta, divergence(theta), penalty), expected, rtol=1e-12)
