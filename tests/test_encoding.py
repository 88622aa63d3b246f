"""Nested observations as vectors: exactly what gymnasium's own flattening gives, in NumPy for the bridge and in TensorFlow for a policy."""

import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces

from tfpg import encoding
from tfpg.envs.spaces import flat, parts_of, pick

BOXES = [
    spaces.Box(-3, 5, (2, 3), np.float32),
    spaces.Box(-np.inf, np.inf, (), np.float64),
    spaces.Box(0, 255, (2, 2, 3), np.uint8),
    spaces.Box(-(2**40), 2**40, (3,), np.int64),
    spaces.Box(-9, 9, (4,), np.int16),
]
SPACES = {
    "discrete": spaces.Discrete(4, start=-3),
    "binary": spaces.MultiBinary((2, 3)),
    "several": spaces.MultiDiscrete([[2, 3], [1, 4]], start=[[5, -2], [0, 1]]),
    "unsorted keys": spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-1, 1, (2,)), "c": spaces.MultiBinary(2)}),
    "kept order": spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-1, 1, (2,))}, sort_keys=False),
    "odd keys": spaces.Dict({"a b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(3)}), "a_b_2": spaces.Discrete(4)}),
    "tuple": spaces.Tuple((spaces.Discrete(2, start=7), *BOXES)),
    "deep": spaces.Dict({"x": spaces.Tuple((spaces.Dict({"y": spaces.MultiDiscrete([3, 2])}), BOXES[0])), "w": BOXES[2]}),
}


def random_space(rng, depth=0):
    """A nest of leaves of every kind."""
    kind = rng.integers(6 if depth < 3 else 4)
    if kind >= 4:
        inner = [random_space(rng, depth + 1) for _ in range(rng.integers(1, 4))]
        return spaces.Tuple(inner) if kind == 4 else spaces.Dict({f"k{rng.integers(1000)}": space for space in inner})
    shape = tuple(rng.integers(1, 4, size=rng.integers(1, 3)))
    return [
        lambda: BOXES[rng.integers(len(BOXES))],
        lambda: spaces.Discrete(int(rng.integers(1, 6)), start=int(rng.integers(-5, 5))),
        lambda: spaces.MultiDiscrete(rng.integers(1, 5, size=shape), start=rng.integers(-3, 3, size=shape)),
        lambda: spaces.MultiBinary(shape),
    ][kind]()


def samples_of(space, n):
    space.seed(4)
    return [space.sample() for _ in range(n)]


def inputs(parts, samples):
    """What an exported policy is given: one batch for each leaf."""
    return {part.name: np.stack([np.asarray(pick(part, x)) for x in samples]) for part in parts}


def check(space, mode, n=7):
    parts, samples = parts_of(space), samples_of(space, n)
    wanted = np.stack([spaces.flatten(space, x).astype(np.float32) for x in samples])
    given = inputs(parts, samples)
    found = mode(lambda x: encoding.encode(parts, x))({name: tf.constant(x) for name, x in given.items()})
    assert found.dtype == tf.float32
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.stack([flat(parts, x) for x in samples]), wanted)
    for part in parts:
        assert given[part.name].shape[1:] == part.shape
        assert given[part.name].dtype.name == part.dtype
    assert sum(map(encoding.width, parts)) == wanted.shape[1] == spaces.flatdim(space)
    return parts


@pytest.mark.parametrize("name", SPACES)
def test_encoding_is_gymnasium_s_flattening(name, mode):
    check(SPACES[name], mode)


def test_so_it_is_for_random_nests():
    rng = np.random.default_rng(11)
    kinds = {part.kind for _ in range(60) for part in check(random_space(rng), lambda function: function)}
    assert kinds == {"box", "discrete", "multi_discrete", "multi_binary"}


def test_names_are_words_and_no_two_are_equal():
    assert [part.name for part in parts_of(SPACES["deep"])] == ["observation_w", "observation_x_0_y", "observation_x_1"]
    assert [part.name for part in parts_of(SPACES["discrete"])] == ["observation"]
    odd = [part.name for part in parts_of(SPACES["odd keys"])]
    assert sorted(odd) == ["observation_a_b", "observation_a_b_2", "observation_a_b_2_2"]


def test_leading_axes_may_be_several_and_their_sizes_unknown():
    space = SPACES["deep"]
    parts, samples = parts_of(space), samples_of(space, 6)
    given = {name: tf.constant(x) for name, x in inputs(parts, samples).items()}
    specs = {name: tf.TensorSpec([None, *x.shape[1:]], x.dtype) for name, x in given.items()}
    function = tf.function(lambda x: encoding.encode(parts, x), input_signature=[specs])
    wanted = encoding.encode(parts, given)
    np.testing.assert_array_equal(function(given), wanted)
    squares = {name: tf.reshape(x, [2, 3, *x.shape[1:]]) for name, x in given.items()}
    np.testing.assert_array_equal(encoding.encode(parts, squares), tf.reshape(wanted, [2, 3, -1]))


def test_batches_in_numpy():
    space = SPACES["several"]
    parts, samples = parts_of(space), samples_of(space, 5)
    np.testing.assert_array_equal(flat(parts, np.stack(samples), (5,)), np.stack([spaces.flatten(space, x) for x in samples]))


def test_a_value_outside_its_space_is_refused_by_the_bridge_and_zeros_for_a_policy():
    (part,) = parts = parts_of(spaces.Discrete(3, start=2))
    for value in (1, 5):
        with pytest.raises(ValueError, match="observation holds a value outside its space"):
            flat(parts, value)
        np.testing.assert_array_equal(encoding.encode(parts, {part.name: tf.constant([value])}), [[0, 0, 0]])
    with pytest.raises(ValueError, match="observation has 2 numbers where its space has 3"):
        flat(parts_of(spaces.MultiBinary(3)), np.zeros(2))
