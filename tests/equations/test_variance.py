"""The variance of policy gradients, and the baselines that minimise it: identities, closed forms and grids."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import baselines, variance
from tfpg.tabular import TabularMDP

equation = pytest.mark.equation


def by_definition(probability, score_i, return_i, b):
    result = []
    for p in range(score_i.shape[1]):
        x = [score_i[k, p] * (return_i[k] - np.broadcast_to(b, score_i.shape[1])[p]) for k in range(len(return_i))]
        result.append(
            sum(w * y**2 for w, y in zip(probability, x, strict=True)) - sum(w * y for w, y in zip(probability, x, strict=True)) ** 2
        )
    return np.array(result)


@pytest.fixture
def law(rng):
    """Five trajectories with scores of mean zero, as scores are, and returns that are far from centred."""
    probability, score_i = rng.dirichlet(np.ones(5)), rng.normal(size=(5, 3))
    return {"probability": probability, "score_i": score_i - probability @ score_i, "return_i": 1.6 + rng.normal(size=5)}


def tensors(given, dtype=tf.float64):
    return {key: tf.constant(value, dtype) for key, value in given.items()}


DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-11), (tf.float32, 1e-4)])
SCALAR, VECTOR = np.array(0.7), np.array([0.7, -1.2, 2.5])
either_baseline = pytest.mark.parametrize("b", [SCALAR, VECTOR], ids=["one number", "one per parameter"])


@equation("PG-44")
@DTYPES
@either_baseline
def test_exact_variance_is_the_second_moment_less_the_squared_mean(mode, law, b, dtype, tolerance):
    law["score_i"] = law["score_i"] + 0.4  # a definition holds for any numbers
    found = mode(variance.exact)(**tensors({**law, "b": b}, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, by_definition(**law, b=b), rtol=tolerance)


@equation("PG-44")
@either_baseline
def test_the_mean_does_not_depend_on_the_baseline(law, b):
    second = law["probability"] @ (law["score_i"] * (law["return_i"][:, None] - b)) ** 2
    plain = law["probability"] @ (law["score_i"] * law["return_i"][:, None])
    np.testing.assert_allclose(variance.exact(**tensors({**law, "b": b})), second - plain**2, rtol=1e-11)


@equation("PG-44")
@DTYPES
@either_baseline
def test_sample_variance_divides_by_one_less_than_n(mode, law, b, dtype, tolerance):
    rows = {"score_i": law["score_i"], "return_i": law["return_i"], "b": b}
    expected = np.var(law["score_i"] * (law["return_i"][:, None] - b), axis=0, ddof=1)
    np.testing.assert_allclose(mode(variance.sampled)(**tensors(rows, dtype)), expected, rtol=tolerance)


@equation("PG-44")
@pytest.mark.parametrize("n", [2, 3])
def test_sample_variance_is_unbiased(law, n):
    expected = 0.0
    for batch in itertools.product(range(5), repeat=n):
        i = list(batch)
        expected += law["probability"][i].prod() * variance.sampled(law["score_i"][i], law["return_i"][i], VECTOR).numpy()
    np.testing.assert_allclose(expected, by_definition(**law, b=VECTOR), rtol=1e-12)


@equation("PG-44", "PG-123")
@DTYPES
def test_a_batch_of_independent_trajectories_divides_the_covariance(mode, law, dtype, tolerance):
    x, p = law["score_i"] * (law["return_i"][:, None] - 0.7), law["probability"]
    of_one = np.cov(x.T, aweights=p, ddof=0)
    triples = np.array(list(itertools.product(range(5), repeat=3)))
    of_three = np.cov(x[triples].mean(axis=1).T, aweights=p[triples].prod(axis=1), ddof=0)
    np.testing.assert_allclose(of_one.diagonal(), by_definition(**law, b=0.7), rtol=1e-11)
    found = mode(variance.of_batch)(tf.constant(of_one, dtype), tf.constant(3))
    np.testing.assert_allclose(found, of_three, rtol=tolerance)
    np.testing.assert_allclose(variance.of_batch(of_one.diagonal(), 3), of_three.diagonal(), rtol=1e-11)


@equation("PG-123")
def test_steps_of_one_trajectory_are_not_independent(rng):
    """Two steps with the same reward: the variance of their mean is not half of one step's."""
    step = rng.normal(size=(50, 2))
    both = np.concatenate([step, 0.9 * step + 0.1 * rng.normal(size=(50, 2))]).reshape(2, 50, 2)
    of_step, of_mean = both.reshape(100, 2).var(axis=0), both.mean(axis=0).var(axis=0)
    assert np.all(of_mean > 1.5 * variance.of_batch(of_step, 2).numpy())


# The slope in b, PG-45.


@equation("PG-45")
@DTYPES
@either_baseline
def test_slope_is_the_derivative_of_the_variance(mode, law, b, dtype, tolerance):
    found = mode(variance.baseline_slope)(**tensors({**law, "b": b}, dtype))
    everywhere = np.broadcast_to(b, 3)
    expected = finite_difference(lambda x: by_definition(**law, b=x).sum(), everywhere)
    assert np.abs(expected).min() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=max(tolerance, 1e-8))

    def slope(probability, score_i, return_i, b):
        with tf.GradientTape() as tape:
            tape.watch(b)
            y = tf.reduce_sum(variance.exact(probability, score_i, return_i, b))
        return tape.gradient(y, b)

    np.testing.assert_allclose(mode(slope)(**tensors({**law, "b": everywhere}, dtype)), expected, rtol=max(tolerance, 1e-8))


@equation("PG-45", "PG-47")
def test_the_variance_is_a_parabola_about_the_optimal_baseline(law):
    best = baselines.optimal_per_parameter(**law).numpy()
    second, least = law["probability"] @ law["score_i"] ** 2, variance.exact(**law, b=best)
    np.testing.assert_allclose(variance.baseline_slope(**law, b=best), np.zeros(3), atol=1e-13)
    for b in (VECTOR, np.zeros(3), 2 * best):
        np.testing.assert_allclose(variance.exact(**law, b=b) - least, second * (b - best) ** 2, rtol=1e-11)
    none = variance.exact(**law, b=np.zeros(3)).numpy()
    np.testing.assert_allclose(variance.exact(**law, b=2 * best), none, rtol=1e-12)
    for inside in (0.01, 0.99, 1.99):
        assert np.all(variance.exact(**law, b=inside * best) < none)
    for outside in (-0.01, 2.01):
        assert np.all(variance.exact(**law, b=outside * best) > none)


# Shifting and scaling returns, PG-38.


@equation("PG-38")
@DTYPES
@pytest.mark.parametrize("offset", [1.4, -2.3])
def test_an_offset_changes_the_variance_and_not_the_mean(mode, law, offset, dtype, tolerance):
    p, g, r = law.values()
    np.testing.assert_allclose(p @ (g * (r + offset)[:, None]), p @ (g * r[:, None]), atol=1e-13)
    expected = by_definition(p, g, r + offset, 0.0).sum()
    assert abs(expected / by_definition(**law, b=0.0).sum() - 1) > 0.1
    found = mode(variance.offset_trace)(**tensors({**law, "offset": offset}, dtype))
    assert found.shape == ()
    np.testing.assert_allclose(found, expected, rtol=tolerance)


@equation("PG-38")
def test_a_scale_leaves_signal_to_noise_as_it_was(law):
    p, g, r = law.values()
    mean = p @ (g * r[:, None])
    np.testing.assert_allclose(variance.exact(p, g, -3 * r, 0.0), 9 * variance.exact(p, g, r, 0.0), rtol=1e-12)
    ratios = [np.abs(p @ (g * x[:, None])) / np.sqrt(variance.exact(p, g, x, 0.0)) for x in (r, -3 * r)]
    np.testing.assert_allclose(*ratios, rtol=1e-12)
    np.testing.assert_allclose(p @ (g * -3 * r[:, None]), -3 * mean, rtol=1e-12)


@equation("PG-38")
def test_a_bonus_for_every_step_is_no_offset_where_lengths_are_random():
    """It rewards staying alive: grad J changes by c grad E[length]. An offset of the whole return changes nothing."""
    move = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0, 1], [0, 1]]])
    theta, bonus = tf.constant([[0.4, -0.3], [0.0, 0.0]], tf.float64), 1.5

    def gradient(extra, offset):
        mdp = TabularMDP([1.0, 0.0], move, np.array([[1.3, -0.4], [0, 0]]) + extra, 1.0, horizon=3, terminal=(1,))
        t, probability, score_t = mdp.trajectories(theta)
        p, g = probability.numpy(), score_t.numpy().sum(0)
        total = np.where(t.mask, t.reward, 0).sum(0) + offset
        return p @ (g * total[:, None]), p @ (g * t.mask.numpy().sum(0)[:, None])

    plain, of_length = gradient(0.0, 0.0)
    np.testing.assert_allclose(gradient(bonus, 0.0)[0], plain + bonus * of_length, atol=1e-13)
    np.testing.assert_allclose(gradient(0.0, bonus)[0], plain, atol=1e-13)
    assert np.abs(of_length).max() > 0.1
