"""Padding: what lies where `mask_t` is False reaches neither a value nor a gradient, whatever it is."""

import tensorflow as tf

from tfpg.types import Nest


def inside(mask_t: tf.Tensor, x: Nest) -> Nest:
    """x with zeros where mask_t is False, for a tensor or a nest of tensors.

    The zeros go in before anything is computed: 0 times NaN is NaN, and so is the derivative of 0 log 0.
    Args: mask_t [T, N] bool; x [T, N, ...], whose further axes the mask does not have. Returns: like x.
    """

    def clean(leaf: tf.Tensor) -> tf.Tensor:
        further = tf.ones([leaf.shape.rank - mask_t.shape.rank], tf.int32)
        return tf.where(tf.reshape(mask_t, tf.concat([tf.shape(mask_t), further], axis=0)), leaf, tf.zeros_like(leaf))

    return tf.nest.map_structure(clean, x)
