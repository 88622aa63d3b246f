"""Running standardisation, for observations and for value targets. Its statistics are part of the training state."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfpg.blocks import in_blocks, over_blocks
from tfpg.masks import inside
from tfpg.types import Nest, Normalizer

AT_ONCE = 2**16
"""Samples that are summed at once: each loop over blocks takes longer to trace and to start than to add so many numbers."""


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
    samples, features = mask.shape.num_elements(), x.shape[mask.shape.rank :]
    blocks = in_blocks((tf.reshape(x, [samples, *features]), tf.reshape(mask, [samples])), AT_ONCE)
    zero = tf.zeros(features, x.dtype)

    def total(of: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], like: tf.Tensor) -> tf.Tensor:
        """Block by block: all at once it would take the memory of x again."""
        return over_blocks(lambda block: tf.reduce_sum(of(*block), 0), blocks, like)

    count = total(lambda x, mask: tf.cast(mask, x.dtype), tf.zeros([], x.dtype))
    mean = total(lambda x, mask: inside(mask, x), zero) / tf.maximum(count, 1)
    variance = total(lambda x, mask: inside(mask, (x - mean) ** 2), zero) / tf.maximum(count, 1)
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
