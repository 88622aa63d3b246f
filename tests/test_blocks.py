"""Batches in blocks and in columns."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tfpg import blocks


@pytest.mark.parametrize("jit", [False, True])
def test_columns_from_any_start_are_one_program(jit, rng):
    nest = {"a": rng.normal(size=[3, 7]), "b": rng.integers(9, size=[3, 7, 2, 4]), "c": ()}
    some = tf.function(lambda start: blocks.columns(tf.nest.map_structure(tf.constant, nest), start, 2), jit_compile=jit, autograph=False)
    for start in (0, 3, 5):
        found = some(tf.constant(start))
        for name in "ab":
            np.testing.assert_array_equal(found[name], nest[name][:, start : start + 2])
    assert some.experimental_get_tracing_count() == 1


def test_no_more_than_two_run_at_a_time():
    """Each waits for the last but one, and for no other."""

    @tf.function(autograph=False)
    def program(x):
        return x + 1, (x * 2,)

    @tf.function(autograph=False)
    def five():
        return blocks.two_at_a_time([functools.partial(program, tf.constant(i)) for i in range(5)])

    calls = [op for op in five.get_concrete_function().graph.get_operations() if "PartitionedCall" in op.type]
    assert [[calls.index(other) for other in op.control_inputs if other in calls] for op in calls] == [[], [], [0], [1], [2]]
    assert [int(a) for a, _ in five()] == [1, 2, 3, 4, 5]
