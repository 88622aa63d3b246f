"""What passes in bundles comes out as it went in, and learns as it would have without."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import acting, build, bundles, engines
from tfpg.config import configured
from tfpg.learner import initial_state

NEST = {
    "b": (np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True, False])),
    "a": [np.float32(7.5), np.arange(4, dtype=np.int32).reshape(2, 1, 2)],
    "none": (),
    "empty": np.zeros([0, 3], np.float32),
}


def same(x, y):
    tf.nest.assert_same_structure(x, y)
    for one, other in zip(tf.nest.flatten(x), tf.nest.flatten(y), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.asarray(one).dtype == np.asarray(other).dtype


def test_a_nest_of_arrays_comes_back_of_tensors_and_of_arrays():
    bundle = bundles.bundle(NEST)
    assert {kind: (vector.dtype.name, vector.shape.rank) for kind, vector in bundle.items()} == {
        kind: (kind, 1) for kind in ("float32", "int32", "bool")
    }
    opened = bundles.opener(NEST)
    same(opened(bundle), NEST)
    same(opened({kind: vector.numpy() for kind, vector in bundle.items()}), NEST)


def test_inside_of_a_program_the_bundle_is_the_same():
    """All leaves of a type, one after another."""
    tensors, leaves = tf.nest.map_structure(tf.constant, NEST), [np.ravel(leaf) for leaf in tf.nest.flatten(NEST)]
    joined = {kind: np.concatenate([x for x in leaves if x.dtype.name == kind]) for kind in ("float32", "int32", "bool")}
    for program in (bundles.bundle, tf.function(bundles.bundle), tf.function(bundles.bundle, jit_compile=True)):
        same(program(tensors), joined)


WIDE = {**NEST, "wide": np.array([1 / 3, np.nan]), "narrow": np.int8([-3, 4]), "byte": np.uint8(200), "nan": np.float32([np.nan, -0.0])}


@pytest.mark.parametrize("jit", [False, True])
def test_a_nest_comes_back_from_its_bytes(jit):
    """Of whatever types, and to the bit: a number that is none, and the sign of 0, are kept."""
    written = bundles.writer(WIDE)(WIDE)
    assert (written.dtype, written.shape.rank) == (tf.uint8, 1)
    found = tf.function(bundles.reader(WIDE), jit_compile=jit)(written)
    same(found, WIDE)
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(WIDE), strict=True):
        assert one.numpy().tobytes() == np.asarray(other).tobytes()
    tensors = tf.nest.map_structure(tf.constant, WIDE)
    np.testing.assert_array_equal(bundles.writer(tensors)(tensors), written)


def test_scalars_come_back_as_numbers_under_their_names():
    told = bundles.named({"kl": tf.constant(0.5), "steps": tf.constant(2**24 + 1), "return_mean": tf.constant(float("nan"))})
    numbers = bundles.numbers(told)
    assert numbers == {"kl": 0.5, "steps": 2**24 + 1, "return_mean": pytest.approx(float("nan"), nan_ok=True)}
    assert type(numbers["steps"]) is int
    assert type(numbers["kl"]) is float


def test_a_state_of_another_hand_is_taken_as_it_is():
    """Going back to an earlier state, or to one that was read from a file, is not going on from the last."""
    programs = []

    def make(function):
        programs.append(acting.direct(function))
        return programs[-1]

    add = bundles.in_bundles(lambda state, data, more: ({"x": state["x"] + data["d"] * more}, {"sum": tf.reduce_sum(state["x"])}), make)
    first = {"x": tf.constant([1.0, 2.0])}
    second, told = add(first, {"d": np.float32([10, 20])}, tf.constant(2.0))
    third, _ = add(second, {"d": np.float32([1, 1])}, tf.constant(1.0))
    np.testing.assert_array_equal(second["x"], [21, 42])
    np.testing.assert_array_equal(third["x"], [22, 43])
    again, _ = add(first, {"d": np.float32([1, 1])}, tf.constant(1.0))
    np.testing.assert_array_equal(again["x"], [2, 3])
    np.testing.assert_array_equal(add(second, {"d": np.float32([0, 0])}, tf.constant(1.0))[0]["x"], [21, 42])
    assert told == {"sum": 3.0}
    assert len(programs) == 1


@pytest.mark.parametrize("algo", ["a2c", "ppo", "reinforce"])
def test_iterations_in_bundles_are_those_without(algo, monkeypatch):
    """To the bit, where the programs are run operation by operation."""
    sizes = {"envs": 4, "horizon": 20, "hidden": "8", "minibatches": 1, "critic_minibatches": 2}
    flags = {"algo": algo, "engine": "sync", "jit": "false", **sizes}
    found = []
    for plain in (False, True):
        if plain:
            monkeypatch.setattr(engines, "in_bundles", lambda learn, make: make(learn))
        parts = build.setup(configured(**flags))
        state = initial_state(parts.learner, tf.constant([1, 2]))
        carry = parts.engine.begin(tf.constant([3, 4]))
        rows = []
        for k in range(3):
            state, carry, row = parts.engine.iterate(state, carry, tf.constant([5, k]), tf.constant(1.0))
            rows.append(row)
        parts.engine.close()
        found.append((state, rows))
    same(found[0][0], tf.nest.map_structure(lambda x: x.numpy(), found[1][0]))
    same(found[0][1], [{name: x.numpy().item() for name, x in row.items()} for row in found[1][1]])
