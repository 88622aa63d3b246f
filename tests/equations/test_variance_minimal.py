"""Optimal baselines are minimal: against closed forms, grids, and every neighbour."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import baselines, variance
from tfpg.tabular import TabularMDP

equation = pytest.mark.equation
CLOSE = {"rtol": 1e-11, "atol": 1e-12}


def seed_zero():
    """A process of three states, two actions, three steps, and theta, drawn one after the other: probabilities, scores and rewards."""
    rng = np.random.default_rng(0)
    start, move = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), size=(3, 2))
    mdp = TabularMDP(start, move, rng.normal(size=(3, 2)), 1.0, horizon=3)
    listing = mdp.trajectories(tf.constant(rng.normal(size=(3, 2))))
    return listing.probability.numpy(), listing.score_t.numpy(), listing.trajectory.reward.numpy()


P, SCORE_T, REWARD = seed_zero()
G, TOTAL, TOGO = SCORE_T.sum(0), REWARD.sum(0), np.cumsum(REWARD[::-1], axis=0)[::-1]


def trace(probability, score_i, return_i, b):
    sample = score_i * (return_i[:, None] - b)
    return probability @ (sample**2).sum(1) - ((probability @ sample) ** 2).sum()


@equation("PG-46")
def test_scalar_optimum_is_where_a_grid_is_lowest():
    best = float(baselines.optimal(P, G, TOTAL))
    grid = np.linspace(best - 2, best + 2, 401)
    values = [trace(P, G, TOTAL, b) for b in grid]
    assert np.argmin(values) == 200
    assert values[200] < values[0] - 0.1
    assert TOTAL.min() < best < TOTAL.max()


@equation("PG-46", "PG-47")
def test_one_baseline_per_parameter_is_minimal_for_each_and_beats_the_scalar_and_the_mean():
    each, one = baselines.optimal_per_parameter(P, G, TOTAL).numpy(), float(baselines.optimal(P, G, TOTAL))
    least = variance.exact(P, G, TOTAL, each).numpy()
    for step in (-0.3, 0.01, 0.4):
        assert np.all(variance.exact(P, G, TOTAL, each + step) > least)
    traces = [trace(P, G, TOTAL, b) for b in (each, one, P @ TOTAL, 0.0)]
    np.testing.assert_allclose(traces[0], least.sum(), rtol=1e-12)
    assert traces == sorted(traces)
    np.testing.assert_allclose(traces, [1.480, 1.558, 1.607, 2.187], atol=5e-4)


@equation("PG-46", "PG-47")
def test_of_two_arms_the_optimum_leaves_no_variance():
    """g = (1 - p) or -p: b* = (1 - p) R1 + p R2, the rewards weighed the other way round."""
    p, r1, r2 = 0.3, 1.9, -0.7
    law = np.array([p, 1 - p]), np.array([[1 - p], [-p]]), np.array([r1, r2])
    for rule in (baselines.optimal, baselines.optimal_per_parameter):
        b = rule(*law).numpy()
        np.testing.assert_allclose(b, np.broadcast_to((1 - p) * r1 + p * r2, b.shape), **CLOSE)
        np.testing.assert_allclose(variance.exact(*law, b), [0], atol=1e-14)
    assert trace(*law, p * r1 + (1 - p) * r2) > 0.1


def gaussian(mean, deviation, reward):
    """A Gaussian bandit a ~ N(mean, deviation^2) by quadrature, with the score of the mean; exact for polynomials."""
    nodes, weight = np.polynomial.hermite_e.hermegauss(30)
    action = mean + deviation * nodes
    return weight / weight.sum(), ((action - mean) / deviation**2)[:, None], reward(action)


@equation("PG-46")
def test_for_a_gaussian_bandit_the_optimum_is_known():
    mu, sigma = 0.8, 1.3
    quadratic = gaussian(mu, sigma, lambda a: -(a**2))
    np.testing.assert_allclose(baselines.optimal(*quadratic), -(mu**2 + 3 * sigma**2), **CLOSE)
    np.testing.assert_allclose(quadratic[0] @ quadratic[2], -(mu**2 + sigma**2), **CLOSE)
    linear = gaussian(mu, sigma, lambda a: 2 * a - 1)
    np.testing.assert_allclose(baselines.optimal(*linear), 2 * mu - 1, **CLOSE)


@equation("PG-46")
def test_a_constant_return_is_its_own_optimum_and_equal_scores_make_it_the_mean(rng):
    p, g, r = rng.dirichlet(np.ones(6)), rng.normal(size=(6, 3)), 1 + rng.normal(size=6)
    b = baselines.optimal(p, g, np.full(6, -1.7))
    np.testing.assert_allclose(b, -1.7, **CLOSE)
    np.testing.assert_allclose(variance.exact(p, g, np.full(6, -1.7), b), np.zeros(3), atol=1e-14)
    same = g / np.linalg.norm(g, axis=1, keepdims=True)
    np.testing.assert_allclose(baselines.optimal(p, same, r), p @ r, **CLOSE)
    assert abs(float(baselines.optimal(p, g, r)) - p @ r) > 1e-2


@equation("PG-46")
def test_the_mean_may_be_worse_than_none_and_the_optimum_is_not():
    """It helps strictly between 0 and 2 b*: here the mean of the returns lies outside."""
    law = np.array([0.9, 0.1]), np.array([[0.1], [-0.9]]), np.array([1.0, -0.05])
    best, mean = float(baselines.optimal(*law)), law[0] @ law[2]
    assert mean > 2 * best > 0
    assert trace(*law, mean) > trace(*law, 0.0) > trace(*law, best)


# One baseline per step, PG-50.


def trace_per_time(b_t):
    sample = tf.einsum("tnp,tn->np", SCORE_T, tf.constant(TOGO) - b_t[:, None])
    mean = tf.einsum("n,np->p", P, sample)
    return tf.reduce_sum(P[:, None] * sample**2) - tf.reduce_sum(mean**2)


@equation("PG-50")
def test_baselines_per_time_minimise_together():
    best = baselines.optimal_per_time(P, SCORE_T, TOGO)
    with tf.GradientTape() as tape:
        tape.watch(best)
        y = trace_per_time(best)
    np.testing.assert_allclose(tape.gradient(y, best), np.zeros(3), atol=1e-12)
    square = np.einsum("n,tnp->tn", P, SCORE_T**2)
    naive = (square * TOGO).sum(1) / square.sum(1)
    np.testing.assert_allclose([float(y), float(trace_per_time(tf.constant(naive)))], [0.7844, 0.7874], atol=5e-5)
    scalar = float(baselines.optimal(P, G, TOTAL))
    assert float(y) < min(float(trace_per_time(tf.constant(b))) for b in (np.zeros(3), np.full(3, scalar), TOGO @ P))
