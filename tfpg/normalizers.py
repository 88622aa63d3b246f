"""Running standardisation, for observations and for value targets. Its statistics are part of the training state."""

from typing import NamedTuple

import tensorflow as tf

from tfpg.types import Nest, Normalizer


class Moments(NamedTuple):
    """Mean and variance (population form) of `count` samples, per feature."""

    mean: tf.Tensor
    variance: tf.Tensor
    count: tf.Tensor


def merge(a: Moments, b: Moments) -> Moments:
    """The moments of two samples taken together, exactly; b may be empty.

    mean = (n_a m_a + n_b m_b) / n;  var = (n_a v_a + n_b v_b) / n + n_a n_b (m_a - m_b)^2 / n^2, n = n_a + n_b.
    Source: Chan, Golub and LeVeque 1979.
    """
    count = a.count + b.count
    share = b.count / tf.maximum(count, 1)
    shift = b.mean - a.mean
    variance = a.variance + share * (b.variance - a.variance) + share * (1 - share) * shift**2
    return Moments(a.mean + share * shift, variance, count)


def moments(x: tf.Tensor, mask: tf.Tensor) -> Moments:
    """Mean and variance over the axes that mask [...] covers, of x [..., features]; what the mask hides is not read."""
    axes = list(range(mask.shape.rank))
    inside = tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([x.shape.rank - mask.shape.rank], tf.int32)], axis=0))
    weight = tf.cast(inside, x.dtype)
    count = tf.reduce_sum(tf.cast(mask, x.dtype))
    x = tf.where(inside, x, tf.zeros_like(x))
    mean = tf.reduce_sum(x, axes) / tf.maximum(count, 1)
    variance = tf.reduce_sum(weight * (x - mean) ** 2, axes) / tf.maximum(count, 1)
    return Moments(mean, variance, count)


def running(shape: tuple[int, ...], clip: float = 10.0, epsilon: float = 1e-8, dtype: tf.DType = tf.float32) -> Normalizer:
    """x -> clip((x - mean) / sqrt(variance + epsilon), -clip, clip), mean and variance over all samples so far.

    Before the first update mean is 0 and variance 1. `invert` undoes it (but for the clipping).
    """

    def init() -> Moments:
        return Moments(tf.zeros(shape, dtype), tf.ones(shape, dtype), tf.zeros([], dtype))

    def apply(s: Moments, x: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value((x - s.mean) * tf.math.rsqrt(s.variance + epsilon), -clip, clip)

    def invert(s: Moments, z: tf.Tensor) -> tf.Tensor:
        return s.mean + z * tf.sqrt(s.variance + epsilon)

    def update(s: Moments, x: tf.Tensor, mask: tf.Tensor) -> Moments:
        return merge(s, moments(x, mask))

    return Normalizer(init, apply, invert, update)


def identity() -> Normalizer:
    """x -> x, with nothing to remember."""

    def unchanged(_: Nest, x: tf.Tensor) -> tf.Tensor:
        return x

    return Normalizer(lambda: (), unchanged, unchanged, lambda s, x, mask: s)


def fixed(low: float, high: float) -> Normalizer:
    """x -> (x - low) / (high - low): known bounds to [0, 1], with nothing to remember."""

    def apply(_: Nest, x: tf.Tensor) -> tf.Tensor:
        return (x - low) / (high - low)

    def invert(_: Nest, z: tf.Tensor) -> tf.Tensor:
        return low + z * (high - low)

    return Normalizer(lambda: (), apply, invert, lambda s, x, mask: s)
