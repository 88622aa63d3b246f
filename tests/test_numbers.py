"""Numbers that go wrong in an update: the parameters stay finite, or stay to the bit; what happened is counted under its name.

Every row as a graph, and one of each kind under XLA, where checks that raise vanish.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf
from learners import FULL, SEED, assert_equal, make, prepare

from tfpg import algorithms, metrics
from tfpg.update import make_update

ROWS = [(algo, False) for algo in algorithms.ALGORITHMS if algo != "pathwise"]
ROWS += [(algo, True) for algo in ("trpo", "ppo", "reinforce_baseline")]
every_row = pytest.mark.parametrize(("algo", "jit"), ROWS, ids=[f"{algo}-{'xla' if jit else 'graph'}" for algo, jit in ROWS])


@functools.cache
def program(algo, jit, **changes):
    return tf.function(make_update(make(algo, **changes)), jit_compile=jit, autograph=False)


def begin(rng, algo, jit, **changes):
    """An update, and the state and the whole episodes that it shall be given."""
    _, state, t = prepare(rng, algo=algo, whole=True, **changes)
    run = program(algo, jit, **changes)
    return lambda state, t: run(state, t, SEED, FULL), state, t


def events(found):
    """What a run's summary would count of one update."""
    return metrics.events([{**dict.fromkeys(metrics.COLUMNS), **{name: float(x) for name, x in found.items()}}])


def assert_finite(state):
    assert all(np.isfinite(leaf).all() for leaf in tf.nest.flatten(state) if leaf.dtype.is_floating)


@every_row
def test_a_sound_update_counts_nothing(algo, jit, rng):
    run, state, t = begin(rng, algo, jit)
    assert not any(events(run(state, t)[1]).values())


@every_row
def test_what_is_not_finite_is_refused_to_the_bit_and_counted_or_does_no_harm(algo, jit, rng):
    run, state, t = begin(rng, algo, jit)
    refused = {}
    for field in ("observation", "reward", "log_prob", "next_observation"):
        for value in (np.nan, np.inf, -np.inf):
            array = getattr(t, field).numpy()
            array[1, 3] = value
            after, found = run(state, t._replace(**{field: tf.constant(array)}))
            assert_finite(after)
            refused[field, value] = events(found)["skipped"]
            if refused[field, value]:
                assert_equal(after, state)
    assert refused["observation", np.nan] == refused["reward", np.nan] == refused["reward", np.inf] == 1


@every_row
def test_constant_advantages_are_counted_and_move_nothing(algo, jit, rng):
    """Nothing is gained, and a critic that says 0 expects nothing."""
    run, state, t = begin(rng, algo, jit)
    state = state._replace(value=tf.nest.map_structure(tf.zeros_like, state.value))
    after, found = run(state, t._replace(reward=tf.zeros_like(t.reward)))
    assert_finite(after)
    assert events(found)["constant_advantages"] == 1
    assert float(found["gradient_norm"]) == 0
    assert_equal(after.policy, state.policy)


@every_row
def test_episodes_without_a_step_teach_nothing_and_harm_nothing(algo, jit, rng):
    run, state, t = begin(rng, algo, jit)
    mask = t.mask.numpy()
    mask[:, 1] = False
    after, found = run(state, t._replace(mask=tf.constant(mask)))
    assert_finite(after)
    assert events(found)["skipped"] == 0
    after, found = run(state, t._replace(mask=tf.zeros_like(t.mask)))
    assert_finite(after)
    assert_equal(after.policy, state.policy)
    assert events(found)["constant_advantages"] == 1


@every_row
def test_a_batch_of_one_step_leaves_finite_parameters_and_is_counted(algo, jit, rng):
    run, state, t = begin(rng, algo, jit, minibatches=1, critic_minibatches=1)
    one = tf.nest.map_structure(lambda x: x[:1, :1], t)
    after, found = run(state, one._replace(terminated=tf.constant([[True]]), truncated=tf.constant([[False]])))
    assert_finite(after)
    assert (events(found)["skipped"], events(found)["constant_advantages"]) == (0, 1)


NATURAL = pytest.mark.parametrize(("algo", "jit"), [("npg", False), ("npg_fixed", False), ("trpo", False), ("trpo", True)])


def alike(t):
    """The same observation at every step: the scores of a linear policy then lie in a space of few dimensions, and F is singular."""
    return t._replace(observation=tf.ones_like(t.observation), next_observation=tf.ones_like(t.observation))


@NATURAL
@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_a_singular_fisher_matrix_leaves_finite_parameters(algo, jit, damping, rng):
    run, state, t = begin(rng, algo, jit, hidden="", normalize_observations=False, damping=damping, cg_iterations=50)
    after, found = run(state, alike(t))
    assert_finite(after)
    assert events(found)["skipped"] == 0
    assert float(found["kl"]) < 0.1


@NATURAL
def test_conjugate_gradient_that_breaks_down_is_counted(algo, jit, rng):
    """A policy so certain that the curvature underflows, and actions that it would never have taken: a gradient, and nothing to divide."""
    run, state, t = begin(rng, algo, jit, hidden="", normalize_observations=False, damping=0.0)
    certain = tf.nest.map_structure(lambda x: tf.constant(np.broadcast_to([0.0, 200.0, 0.0], x.shape), x.dtype), state.policy)
    state = state._replace(policy=certain)
    never = tf.fill(t.log_prob.shape, -600.0)  # both weights and the bias are 200
    after, found = run(state, alike(t)._replace(action=tf.zeros_like(t.action), log_prob=never))
    assert float(found["gradient_norm"]) > 0.01
    assert_finite(after)
    assert events(found)["cg_breakdown"] == 1
    assert_equal(after.policy, state.policy)


@pytest.mark.parametrize("jit", [False, True])
def test_a_search_that_finds_nothing_leaves_the_policy_to_the_bit_and_is_counted(jit, rng):
    """A surrogate that rises nowhere: advantages that are all 0, of a policy away from its start."""
    run, _, t = begin(rng, "trpo", jit)
    state = prepare(rng, algo="trpo", whole=True, moved=True)[1]
    state = state._replace(value=tf.nest.map_structure(tf.zeros_like, state.value), targets=begin(rng, "trpo", jit)[1].targets)
    after, found = run(state, t._replace(reward=tf.zeros_like(t.reward)))
    assert_equal(after.policy, state.policy)
    assert (events(found)["line_search_failed"], events(found)["skipped"]) == (1, 0)
