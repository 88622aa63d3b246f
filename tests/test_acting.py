"""A program for acting is the function that it was made of, for whatever state it is used with."""

import numpy as np
import pytest
import tensorflow as tf
from test_export import SPACES, observations, trained

from tfpg import acting, evaluate


@pytest.mark.parametrize("kind", SPACES)
def test_a_program_follows_the_state_that_it_is_used_with(kind):
    learner, first = trained(kind)
    learned = first._replace(policy=tf.nest.map_structure(lambda x: -0.5 * x, first.policy))
    x = observations(kind)
    use = acting.program(lambda *given: evaluate.greedy(learner, *given), first, x)
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


def test_memory_is_kept_where_an_episode_runs():
    memory = [np.float32([[1, 2], [3, 4], [5, 6]])]
    (kept,) = acting.keep(np.array([True, False, True]), memory)
    np.testing.assert_array_equal(kept, [[1, 2], [0, 0], [5, 6]])
    assert kept.dtype == np.float32
    assert acting.keep(np.array([True]), []) == []
