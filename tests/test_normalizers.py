"""Running statistics against the mean and variance of all samples at once."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import normalizers
from tfpg.normalizers import Moments

SHAPES = [(), (3,), (2, 3)]
STEPS, ENVS = 5, 3


def samples(rng, shape, size=11):
    """Features of different means and deviations."""
    width = int(np.prod(shape))
    spread = np.reshape(np.linspace(0.4, 3.0, width), shape)
    return rng.normal(size=[size, *shape]) * spread + np.reshape(np.linspace(5, -2, width), shape)


def population(x):
    """The definition, by `numpy.mean` and `numpy.var`, over the first axis; an empty sample has mean and variance 0."""
    return Moments(
        *(tf.constant(f(x, axis=0) if len(x) else np.zeros(x.shape[1:])) for f in (np.mean, np.var)), tf.constant(float(len(x)), tf.float64)
    )


def masked(rng, shape):
    """x [T, N, *shape] with not-a-number wherever mask [T, N] hides it, and the list of visible samples."""
    x = samples(rng, shape, STEPS * ENVS).reshape([STEPS, ENVS, *shape])
    mask = np.arange(STEPS)[:, None] < [5, 2, 4]
    visible = x[mask]
    x[~mask] = np.nan
    x[4, 1] = np.inf
    return x, mask, visible


def assert_moments(found, expected, rtol=1e-11):
    assert found.mean.shape == found.variance.shape == expected.mean.shape
    assert found.count.shape == []
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == found.mean.dtype
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
def test_merged_moments_are_those_of_the_whole_for_every_split(mode, rng, shape):
    x, merge = samples(rng, shape), mode(normalizers.merge)
    for split in range(12):
        assert_moments(merge(population(x[:split]), population(x[split:])), population(x))


def test_merging_in_any_grouping_gives_the_same(rng):
    x = samples(rng, (3,))
    a, b, c = (population(part) for part in (x[:2], x[2:7], x[7:]))
    assert_moments(normalizers.merge(normalizers.merge(a, b), c), population(x))
    assert_moments(normalizers.merge(b, normalizers.merge(c, a)), population(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_are_those_of_the_visible_samples(mode, rng, shape):
    x, mask, visible = masked(rng, shape)
    assert len(visible) == 11
    assert_moments(mode(normalizers.moments)(tf.constant(x), tf.constant(mask)), population(visible))


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_of_many_samples_are_those_of_all_at_once(mode, rng, shape):
    """Two blocks and a part of one, of which a third is hidden."""
    rows = 5 * normalizers.AT_ONCE // 6 + 1
    x = samples(rng, shape, 3 * rows).reshape([rows, 3, *shape])
    mask = rng.uniform(size=[rows, 3]) < 2 / 3
    visible = x[mask]
    x[~mask] = np.nan
    assert_moments(mode(normalizers.moments)(tf.constant(x), tf.constant(mask)), population(visible))


@pytest.mark.parametrize("shape", SHAPES)
def test_moments_of_nothing_are_zero(mode, shape):
    x, mask = tf.fill([4, 3, *shape], tf.constant(np.nan, tf.float64)), tf.zeros([4, 3], tf.bool)
    assert_moments(mode(normalizers.moments)(x, mask), population(np.zeros([0, *shape])))


def test_moments_keep_their_digits_far_from_zero(rng):
    x = 5000 + rng.normal(size=[400, 2]) * [1.0, 3.0]
    found = normalizers.moments(tf.constant(x, tf.float32), tf.ones([400], tf.bool))
    half = [normalizers.moments(tf.constant(part, tf.float32), tf.ones([200], tf.bool)) for part in (x[:200], x[200:])]
    for m in (found, normalizers.merge(*half)):
        np.testing.assert_allclose(m.mean, x.mean(0), rtol=1e-6)
        np.testing.assert_allclose(m.variance, x.var(0), rtol=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_running_starts_as_the_identity(mode, rng, shape):
    x, normalizer = samples(rng, shape), normalizers.running(shape, epsilon=0.5, dtype=tf.float64)
    s = normalizer.init()
    assert s.mean.shape == s.variance.shape == shape
    assert float(s.count) == 0
    np.testing.assert_allclose(mode(normalizer.apply)(s, tf.constant(x)), x / np.sqrt(1.5), rtol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_running_first_update_takes_the_moments_of_the_batch(mode, rng, shape):
    x, mask, visible = masked(rng, shape)
    normalizer = normalizers.running(shape, dtype=tf.float64)
    assert_moments(mode(normalizer.update)(normalizer.init(), tf.constant(x), tf.constant(mask)), population(visible))


@pytest.mark.parametrize("shape", SHAPES)
def test_running_updates_add_up_to_the_moments_of_all_samples(mode, rng, shape):
    normalizer = normalizers.running(shape, dtype=tf.float64)
    s, seen, update = normalizer.init(), [], mode(normalizer.update)
    for k in range(4):
        x, mask, visible = masked(rng, shape)
        if k in {0, 2}:  # nothing to see, at the start and later
            mask, visible = np.zeros_like(mask), visible[:0]
        s = update(s, tf.constant(x + k), tf.constant(mask))
        seen.append(visible + k)
        if k == 0:
            for found, expected in zip(s, normalizer.init(), strict=True):
                np.testing.assert_array_equal(found, expected)
    assert_moments(s, population(np.concatenate(seen)))


@pytest.mark.parametrize("shape", SHAPES)
def test_running_apply_standardises_and_clips(mode, rng, shape):
    x, normalizer = samples(rng, shape), normalizers.running(shape, clip=0.6, epsilon=0.5, dtype=tf.float64)
    s = population(samples(rng, shape))
    x = s.mean.numpy() - 4 * (x - s.mean.numpy())
    z = (x - s.mean.numpy()) / np.sqrt(s.variance.numpy() + 0.5)
    assert z.min() < -0.6
    assert z.max() > 0.6
    expected = np.where(z > 0.6, 0.6, np.where(z < -0.6, -0.6, z))
    np.testing.assert_allclose(mode(normalizer.apply)(s, tf.constant(x)), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        normalizer.apply(s, tf.constant(x[:10].reshape([2, 5, *shape]))), expected[:10].reshape([2, 5, *shape]), rtol=1e-12
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_running_invert_undoes_apply_within_the_clip(mode, rng, shape):
    x, normalizer = samples(rng, shape), normalizers.running(shape, epsilon=0.5, dtype=tf.float64)
    s, bounded = population(samples(rng, shape)), normalizers.running(shape, clip=0.3, epsilon=0.5, dtype=tf.float64)
    z = normalizer.apply(s, tf.constant(x))
    np.testing.assert_allclose(mode(normalizer.invert)(s, z), x, rtol=1e-12)
    edge = s.mean.numpy() + 30.0 * np.sqrt(s.variance.numpy() + 0.5)
    np.testing.assert_allclose(mode(bounded.invert)(s, tf.fill([*shape], tf.constant(30.0, tf.float64))), edge, rtol=1e-12)


def test_running_clips_at_ten_unless_told(rng):
    normalizer = normalizers.running((2,))
    found = normalizer.apply(normalizer.init(), tf.constant([[9.5, -9.5], [11.0, -400.0]]))
    np.testing.assert_allclose(found, [[9.5, -9.5], [10, -10]], rtol=1e-6)


def test_running_of_a_constant_feature_is_finite(mode):
    normalizer = normalizers.running((2,))
    x = tf.constant([[2.5, 1.0], [2.5, -1.0]])
    s = mode(normalizer.update)(normalizer.init(), x, tf.constant([True, True]))
    np.testing.assert_allclose(normalizer.apply(s, x), [[0, 1], [0, -1]], atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_single_precision_agrees_with_double(mode, rng, shape):
    x, mask, _ = masked(rng, shape)
    found = []
    for dtype in (tf.float32, tf.float64):
        normalizer = normalizers.running(shape, dtype=dtype)
        s = mode(normalizer.update)(normalizer.init(), tf.constant(x, dtype), tf.constant(mask))
        found.append([*s, normalizer.apply(s, tf.constant(x, dtype))[mask]])
        assert {leaf.dtype for leaf in found[-1]} == {dtype}
    for single, double in zip(*found, strict=True):
        np.testing.assert_allclose(single, double, rtol=1e-5, atol=1e-5)


def test_identity_changes_and_remembers_nothing(rng):
    normalizer, x = normalizers.identity(), tf.constant(rng.normal(size=[4, 3]))
    s = normalizer.init()
    assert tf.nest.flatten(s) == []
    np.testing.assert_array_equal(normalizer.apply(s, x), x)
    np.testing.assert_array_equal(normalizer.invert(s, x), x)
    tf.nest.assert_same_structure(normalizer.update(s, x, tf.ones([4], tf.bool)), s)


def test_a_single_sample_is_its_own_mean_and_does_not_vary():
    alone = normalizers.moments(tf.constant([[3.0, -1.0]]), tf.constant([True]))
    np.testing.assert_allclose(alone.mean, [3.0, -1.0])
    np.testing.assert_allclose(alone.variance, 0)
    merged = normalizers.merge(normalizers.running((2,)).init(), alone)
    np.testing.assert_allclose(merged.mean, [3.0, -1.0])
    np.testing.assert_allclose(merged.variance, 0)


def test_fixed_bounds_become_zero_and_one_and_nothing_is_remembered(mode, rng):
    normalizer, x = normalizers.fixed(-3.0, 5.0), tf.constant(rng.uniform(-3, 5, size=[4, 2, 3]))
    s = normalizer.init()
    assert tf.nest.flatten(s) == []
    z = mode(normalizer.apply)(s, x)
    np.testing.assert_allclose(z, (x + 3) / 8, rtol=1e-12)
    np.testing.assert_allclose(normalizer.apply(s, tf.constant([-3.0, 5.0])), [0, 1], atol=1e-7)
    np.testing.assert_allclose(mode(normalizer.invert)(s, z), x, rtol=1e-12)
    tf.nest.assert_same_structure(normalizer.update(s, x, tf.ones([4], tf.bool)), s)
