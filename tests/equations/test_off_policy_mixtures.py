"""Demonstrations: densities of mixtures of behaviours, and the guided objective over what they did."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
import two_policies as world
from laws import finite_difference

from tfpg import off_policy

equation = pytest.mark.equation
MASK = np.arange(5)[:, None] < np.array([5, 3, 1, 4])
T, N = MASK.shape
J, W_R = 3, 0.35


def batch(rng):
    """log_prob_t, log_prob_jt and r_t, with numbers on padding like any others."""
    log_prob, r = np.log(rng.uniform(0.2, 0.9, size=(T, N))), rng.normal(size=(T, N))
    return log_prob, np.log(rng.uniform(0.1, 0.9, size=(J, T, N))), r


def prefix(log_prob, t, i):
    """The product of the probabilities of the first t + 1 steps of an episode, or of all that it has."""
    return np.prod([np.exp(log_prob[u, i]) for u in range(t + 1) if MASK[u, i]])


def mixture(log_prob_jt, t, i):
    return sum(prefix(log_prob_jt[j], t, i) for j in range(len(log_prob_jt))) / len(log_prob_jt)


def guided(log_prob, log_prob_jt, r, regulariser):
    total = 0.0
    for t in range(T):
        w = [prefix(log_prob, t, i) / mixture(log_prob_jt, t, i) for i in range(N)]
        total += sum(w[i] * r[t, i] for i in range(N) if MASK[t, i]) / sum(w) + regulariser * np.log(sum(w))
    return total


@equation("PG-85")
def test_a_mixture_is_one_of_whole_trajectories(mode, rng):
    log_prob_jt = batch(rng)[1]
    expected = [[np.log(mixture(log_prob_jt, t, i)) for i in range(N)] for t in range(T)]
    function = mode(off_policy.mixture_log_prob)
    np.testing.assert_allclose(function(tf.constant(log_prob_jt), tf.constant(MASK)), expected, rtol=1e-12)
    np.testing.assert_allclose(function(tf.constant(log_prob_jt, tf.float32), tf.constant(MASK)), expected, rtol=5e-6)
    of_steps = np.cumsum(np.log(np.exp(log_prob_jt).mean(axis=0)) * MASK, axis=0)
    assert np.abs(of_steps - expected)[1:].max() > 0.05


@equation("PG-85")
def test_a_mixture_of_one_behaviour_is_that_behaviour(rng):
    log_prob = batch(rng)[0]
    found = off_policy.mixture_log_prob(log_prob[None], MASK)
    np.testing.assert_allclose(found, np.cumsum(np.where(MASK, log_prob, 0), axis=0), rtol=1e-13)


@equation("PG-85")
def test_a_behaviour_that_cannot_have_acted_so_drops_out(mode, rng):
    log_prob, log_prob_jt, r = batch(rng)
    log_prob_jt[1, 0, 2] = log_prob_jt[1, 3, 0] = -np.inf

    def value_and_slope(log_prob_t, *rest):
        with tf.GradientTape() as tape:
            tape.watch(log_prob_t)
            y = off_policy.guided_objective.python_function(log_prob_t, *rest)
        return y, tape.gradient(y, log_prob_t)

    given = tf.constant(log_prob_jt), tf.constant(r), tf.constant(W_R, tf.float64), tf.constant(MASK)
    value, slope = mode(value_and_slope)(tf.constant(log_prob), *given)
    np.testing.assert_allclose(value, guided(log_prob, log_prob_jt, r, W_R), rtol=1e-12)
    assert np.isfinite(slope).all()
    others = sum(prefix(log_prob_jt[j], 4, 0) for j in (0, 2)) / J
    np.testing.assert_allclose(off_policy.mixture_log_prob(log_prob_jt, MASK)[4, 0], np.log(others), rtol=1e-12)


@equation("PG-85")
def test_guided_objective_and_its_gradient_are_those_of_the_double_sum(mode, rng):
    log_prob, log_prob_jt, r = batch(rng)

    def value_and_slopes(log_prob_t, log_prob_jt, r_t, regulariser, mask_t):
        with tf.GradientTape() as tape:
            tape.watch((log_prob_t, log_prob_jt))
            y = off_policy.guided_objective.python_function(log_prob_t, log_prob_jt, r_t, regulariser, mask_t)
        return y, *tape.gradient(y, (log_prob_t, log_prob_jt), unconnected_gradients="zero")

    given = [tf.constant(x) for x in (log_prob, log_prob_jt, r)]
    value, slope, in_behaviours = mode(value_and_slopes)(*given, tf.constant(W_R, tf.float64), tf.constant(MASK))
    np.testing.assert_allclose(value, guided(log_prob, log_prob_jt, r, W_R), rtol=1e-12)
    defined = finite_difference(lambda x: guided(x, log_prob_jt, r, W_R), log_prob)
    np.testing.assert_allclose(slope, defined, rtol=0, atol=1e-8)
    assert not np.any(in_behaviours)
    assert np.abs(slope.numpy()[MASK]).min() > 1e-6


@equation("PG-85")
@pytest.mark.parametrize("regulariser", [0.0, -0.6, W_R])
def test_guided_objective_takes_any_regulariser_and_single_precision(regulariser, rng):
    log_prob, log_prob_jt, r = (x.astype(np.float32) for x in batch(rng))
    found = off_policy.guided_objective(log_prob, log_prob_jt, r, regulariser, MASK)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, guided(log_prob, log_prob_jt, r, regulariser), rtol=1e-5)


@equation("PG-85")
def test_one_trajectory_alone_is_normalised_to_its_own_return(rng):
    """Its share is one at every step, so only the regulariser sees the policy: sum_t (T - t + 1) slopes, by the double sum."""
    log_prob, log_prob_jt, r = (x[..., :1] for x in batch(rng))
    found = off_policy.guided_objective(log_prob, log_prob_jt, r, 0.0, MASK[:, :1])
    np.testing.assert_allclose(found, r.sum(), rtol=1e-12)


# What it does in expectation: behaviours in the process of tests/two_policies.py.

BEHAVIOURS = np.stack([world.OLD, world.OLD - 1.2 * world.DIRECTION, world.OLD[::-1]])
LOG_PROB_JT = np.stack([world.log_prob(theta) for theta in BEHAVIOURS])
DRAWN = np.mean([world.probability(theta) for theta in BEHAVIOURS], axis=0)


def weights(theta):
    """w_t = pi(tau_{1:t}) / q(tau_{1:t}), [T, N]."""
    log_prob = np.where(world.MASK, world.log_prob(theta), 0)
    return np.exp(np.cumsum(log_prob, axis=0) - off_policy.mixture_log_prob(LOG_PROB_JT, world.MASK))


@equation("PG-85")
def test_the_weights_of_a_mixture_have_mean_one_at_every_step():
    for w in weights(world.NEW):
        np.testing.assert_allclose(DRAWN @ w, 1, rtol=1e-13)


@equation("PG-85")
def test_the_weight_of_a_demonstrator_is_at_most_the_number_of_demonstrators():
    for theta in BEHAVIOURS:
        w = weights(theta)
        assert w.max() <= 3 + 1e-12
        assert w.max() > 1.5


@equation("PG-73", "PG-85")
def test_divided_by_the_expected_normaliser_the_objective_is_unbiased():
    """1/m for 1/Z_t makes it the per-decision return; behaviours are mixed, the mean is that of the new policy alone."""
    per_decision = (weights(world.NEW) * np.where(world.MASK, world.R, 0)).sum(axis=0)
    np.testing.assert_allclose(DRAWN @ per_decision, world.objective(world.NEW, 1.0), rtol=1e-12)


@equation("PG-85")
def test_samples_in_exact_proportion_to_the_mixture_give_the_objective_exactly():
    """Two actions, two steps, probabilities in halves and quarters: 32 samples can show each trajectory as often as it should be."""
    behaviours = np.array([[0.25, 0.75], [0.5, 0.5]])
    paths = np.array(list(itertools.product(range(2), repeat=2)))
    drawn = np.prod(behaviours[:, paths], axis=-1).mean(axis=0)
    sample = np.repeat(paths, np.round(32 * drawn).astype(int), axis=0).T  # [2, 32]
    pi, reward = np.array([0.7, 0.3]), np.array([[1.0, -0.5], [0.3, 2.0]])  # reward[t, a]
    assert sample.shape == (2, 32)
    r_t, mask_t = reward[np.arange(2)[:, None], sample], np.ones((2, 32), bool)
    found = off_policy.guided_objective(np.log(pi[sample]), np.log(behaviours[:, sample]), r_t, W_R, mask_t)
    np.testing.assert_allclose(found, (reward @ pi).sum() + W_R * 2 * np.log(32), rtol=1e-12)
