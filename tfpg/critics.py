"""Critics: the loss that fits V to its targets, and how well it fits. The targets themselves are returns (`returns.lambda_return`)."""

import numpy as np
import tensorflow as tf

from tfpg import checks, surrogates


@checks.component
def value_loss(v_t: tf.Tensor, target_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """1/2 sum_t w_t (sg(target_t) - V(o_t))^2   (PG-131). No gradient flows into the target.

    Args: v_t, target_t, w_t [...] of one shape; w_t = 0 on padding. Returns: [].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(v_t=v_t, target_t=target_t, w_t=w_t)
    target_t, v_t = (tf.where(w_t != 0, x, tf.zeros_like(x)) for x in (target_t, v_t))
    return 0.5 * surrogates.weighted_sum(w_t, (tf.stop_gradient(target_t) - v_t) ** 2)


@checks.component
def explained_variance(v_t: tf.Tensor, target_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """1 - Var(target - V) / Var(target), weighted: 1 is a perfect critic, 0 one no better than a constant.

    0 when the targets vary by no more than their round-off. Args: v_t, target_t, w_t [...]; w_t sums to 1. Returns: [].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(v_t=v_t, target_t=target_t, w_t=w_t)

    target_t, v_t = (tf.where(w_t != 0, x, tf.zeros_like(x)) for x in (target_t, v_t))

    def variance(x: tf.Tensor) -> tf.Tensor:
        mean = surrogates.weighted_sum(w_t, x)
        return surrogates.weighted_sum(w_t, (x - mean) ** 2)

    total, square = variance(target_t), surrogates.weighted_sum(w_t, target_t**2)
    varies = total > 16 * float(np.finfo(total.dtype.as_numpy_dtype).eps) * square
    return tf.where(varies, 1 - variance(target_t - v_t) / tf.where(varies, total, tf.ones_like(total)), tf.zeros_like(total))
