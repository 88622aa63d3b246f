"""A program for acting is the function that it was made of, for whatever state it is used with."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from test_export import SPACES, observations, trained

from tfpg import acting, evaluate


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("kind", SPACES)
def test_a_program_follows_the_state_that_it_is_used_with(kind, unroll):
    learner, first = trained(kind)
    learned = first._replace(policy=tf.nest.map_structure(lambda x: -0.5 * x, first.policy))
    x = observations(kind)
    use = acting.program(lambda *given: evaluate.greedy(learner, *given), first, x, unroll=unroll)
    actions = []
    for state in (first, learned, first):
        (action,) = use(state)(x)
        assert isinstance(action, np.ndarray)
        np.testing.assert_allclose(action, evaluate.greedy(learner, state, tf.constant(x))[0], rtol=1e-6, atol=1e-6)
        actions.append(action)
    assert not np.array_equal(actions[0], actions[1])
    np.testing.assert_array_equal(actions[0], actions[2])


def test_outputs_come_flat_and_in_order():
    _, state = trained(next(iter(SPACES)))
    use = acting.program(lambda _, x, y: (x + y, (), (x - y, 2 * y)), state, np.float32([1, 2]), np.float32([3, 5]))
    found = use(state)(np.float32([4, 6]), np.float32([1, 2]))
    np.testing.assert_array_equal(found, [[5, 8], [3, 4], [2, 4]])


def test_a_direct_program_is_its_function_nests_and_captured_tensors_included():
    shift, traced = tf.constant([10.0, 20.0]), []

    def function(state, x):
        traced.append(1)
        return {"sum": state["a"] + x + shift, "rest": ((), (state["b"], x - state["a"]))}, state

    program = acting.direct(function)
    for a, b, x in (([1.0, 2.0], 3, [5.0, 7.0]), ([-4.0, 0.5], 8, [0.25, 1.0])):
        state = {"a": tf.constant(a), "b": tf.constant(b)}
        found, after = program(state, np.float32(x))
        tf.nest.assert_same_structure((found, after), function(state, tf.constant(x)))
        for left, right in zip(tf.nest.flatten((found, after)), tf.nest.flatten(function(state, tf.constant(x))), strict=True):
            np.testing.assert_array_equal(left, right)
    assert len(traced) == 1 + 4  # once for the program, and as often as it was called here


def test_what_is_drawn_ahead_is_what_would_be_drawn_in_turn():
    """To the bit; and a seed of another run, or an earlier one, is not answered with what was drawn for the last."""
    started = []

    def draw(seed):
        return tf.random.stateless_normal([2, 3], seed), {"next": tf.random.experimental.stateless_fold_in(seed, 7)}

    def make(function, _):
        program = acting.direct(function)
        return lambda seeds: started.append(seeds.shape[0]) or program(seeds)

    drawn = acting.ahead(draw, (tf.float32, {"next": tf.int32}), 4, make)
    seeds = [[5, k] for k in range(6)] + [[9, 6], [9, 5], [9, 6], [5, 3]]
    for seed in seeds:
        found, expected = drawn(np.int32(seed)), draw(tf.constant(seed))
        tf.nest.assert_same_structure(found, expected)
        for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
            np.testing.assert_array_equal(one, other)
    assert started == [4] * 5  # at [5, 0], [5, 4], [9, 6], [9, 5], [5, 3]


def test_memory_is_kept_where_an_episode_runs():
    memory = [np.float32([[1, 2], [3, 4], [5, 6]])]
    (kept,) = acting.keep(np.array([True, False, True]), memory)
    np.testing.assert_array_equal(kept, [[1, 2], [0, 0], [5, 6]])
    assert kept.dtype == np.float32
    assert acting.keep(np.array([True]), []) == []


def test_threads_that_come_together_make_one_program():
    made, together = [], threading.Barrier(2)

    def begin(x):
        made.append(x)
        time.sleep(0.1)
        return lambda x: -x

    call = acting.at_first_call(begin)

    def come(x):
        together.wait()
        return call(x)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(come, (1, 2))) == [-1, -2]
    assert len(made) == 1
