"""Zeros where a mask is False, whatever lies there."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg.masks import inside

MASK = np.array([[True, True], [True, False], [False, False]])


@pytest.mark.parametrize("further", [(), (2,), (4, 3), (2, 2, 5)])
def test_entries_inside_stay_and_the_others_are_zero_for_any_further_axes(mode, further, rng):
    x = rng.normal(size=(3, 2, *further))
    x[~MASK] = np.nan
    expected = np.where(MASK.reshape(3, 2, *[1] * len(further)), np.nan_to_num(x), 0)
    np.testing.assert_array_equal(mode(inside)(tf.constant(MASK), tf.constant(x)), expected)


def test_a_nest_keeps_its_structure_and_its_types():
    nest = {"a": (tf.ones([3, 2], tf.int32), tf.ones([3, 2, 4], tf.float32)), "b": tf.ones([3, 2], tf.bool)}
    found = inside(tf.constant(MASK), nest)
    tf.nest.map_structure(lambda x, y: np.testing.assert_equal(x.dtype, y.dtype), nest, found)
    np.testing.assert_array_equal(found["a"][0], MASK)
    np.testing.assert_array_equal(found["b"], MASK)


def test_no_gradient_flows_from_outside(mode):
    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.math.log(1 + inside(tf.constant(MASK), x)) ** 2)
        return tape.gradient(y, x)

    x = np.where(MASK, 0.5, np.nan)
    np.testing.assert_allclose(mode(slope)(tf.constant(x)), np.where(MASK, 2 * np.log(1.5) / 1.5, 0), rtol=1e-14)
