"""Baselines: what is subtracted from a return so that its score-weighted mean stays and its variance falls."""

import tensorflow as tf

from tfpg import checks


@checks.component
def value_baseline(return_t: tf.Tensor, v_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """psi_t = G_t - V(o_t)   (PG-48): a sample of the advantage when G_t is the reward-to-go.

    Unbiased for any V that does not look at a_t; zero on padding; no gradient flows into V (psi_t is data to the actor).

    Args: return_t, v_t [T, N]; mask_t [T, N] bool. Returns: [T, N], in units of reward.
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(return_t=return_t, v_t=v_t, mask_t=mask_t)
    difference = tf.where(mask_t, return_t, tf.zeros_like(return_t)) - tf.where(mask_t, v_t, tf.zeros_like(v_t))
    return tf.stop_gradient(difference)
