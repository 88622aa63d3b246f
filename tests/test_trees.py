"""Nests as vectors: every function against the same sum on the flattened numbers."""

from collections import namedtuple

import numpy as np
import pytest
import tensorflow as tf

from tfpg import trees

Layer = namedtuple("Layer", "w b")
every_type = pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-5)])


def nest(rng, dtype="float64"):
    """Leaves of rank 0 to 3, one of them a single number, in every kind of container."""
    leaf = lambda *shape: tf.constant(rng.normal(size=shape), dtype)  # noqa: E731
    return {"layers": (Layer(leaf(3, 2), leaf(2)), [leaf(2, 1, 2)]), "scale": leaf(), "one": leaf(1)}


def flat(x):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in tf.nest.flatten(x)])


@every_type
def test_linear_algebra_is_that_of_the_flattened_vectors(mode, dtype, tolerance, rng):
    x, y, a = nest(rng, dtype), nest(rng, dtype), tf.constant(-1.7, dtype)
    for name, arguments, expected in [
        ("scale", (a, x), -1.7 * flat(x)),
        ("axpy", (a, x, y), -1.7 * flat(x) + flat(y)),
        ("zeros_like", (x,), 0 * flat(x)),
        ("select", (tf.constant(True), x, y), flat(x)),
        ("select", (tf.constant(False), x, y), flat(y)),
    ]:
        result = mode(getattr(trees, name))(*arguments)
        tf.nest.assert_same_structure(result, x)
        assert [(leaf.shape, leaf.dtype) for leaf in tf.nest.flatten(result)] == [(leaf.shape, dtype) for leaf in tf.nest.flatten(x)]
        np.testing.assert_allclose(flat(result), expected, rtol=tolerance, atol=tolerance, err_msg=name)


@every_type
def test_products_are_those_of_the_flattened_vectors(mode, dtype, tolerance, rng):
    x, y = nest(rng, dtype), nest(rng, dtype)
    for name, arguments, expected in [
        ("dot", (x, y), sum(a * b for a, b in zip(flat(x), flat(y), strict=True))),
        ("norm", (x,), np.sqrt(sum(a * a for a in flat(x)))),
    ]:
        result = mode(getattr(trees, name))(*arguments)
        assert (result.shape, result.dtype) == ((), dtype)
        np.testing.assert_allclose(result, expected, rtol=tolerance)


def test_a_tensor_is_a_nest(rng):
    x, y = rng.normal(size=(2, 3))
    np.testing.assert_allclose(trees.dot(tf.constant(x), tf.constant(y)), x @ y, rtol=1e-13)
    np.testing.assert_allclose(trees.axpy(2.5, tf.constant(x), tf.constant(y)), 2.5 * x + y, rtol=1e-13)


def test_the_factor_may_have_another_type(rng):
    x, y = nest(rng, "float32"), nest(rng, "float32")
    for a in (3, 3.0, np.float64(3), tf.constant(3.0, tf.float64), tf.constant(3)):
        np.testing.assert_allclose(flat(trees.scale(a, x)), 3 * flat(x), rtol=1e-6)
        np.testing.assert_allclose(flat(trees.axpy(a, x, y)), 3 * flat(x) + flat(y), rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_vectors(mode, rng):
    x, y = nest(rng), nest(rng)

    def slopes(x, y):
        with tf.GradientTape() as tape:
            tape.watch((x, y))
            z = trees.dot(trees.axpy(0.375, x, y), y) + trees.norm(x)
        return tape.gradient(z, (x, y))

    in_x, in_y = mode(slopes)(x, y)
    np.testing.assert_allclose(flat(in_x), 0.375 * flat(y) + flat(x) / np.linalg.norm(flat(x)), rtol=1e-12)
    np.testing.assert_allclose(flat(in_y), 0.375 * flat(x) + 2 * flat(y), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_seen_in_any_leaf(mode, bad, rng):
    finite, x = mode(trees.all_finite), nest(rng)
    assert finite(x)
    leaves = tf.nest.flatten(x)
    for k, leaf in enumerate(leaves):
        spoiled = np.array(leaf)
        spoiled[tuple(n - 1 for n in leaf.shape)] = bad
        assert not finite(tf.nest.pack_sequence_as(x, [*leaves[:k], tf.constant(spoiled), *leaves[k + 1 :]]))


def test_leaves_that_are_not_floating_are_finite():
    assert trees.all_finite({"count": tf.constant(3), "flag": tf.constant(False), "plain": 0.5})
    assert trees.all_finite(())
    assert not trees.all_finite({"count": tf.constant(3), "x": tf.constant(np.nan)})


def test_select_reads_nothing_of_the_other_nest(mode, rng):
    x = nest(rng)
    bad = tf.nest.map_structure(lambda leaf: leaf * np.nan, x)
    np.testing.assert_array_equal(flat(mode(trees.select)(tf.constant(True), x, bad)), flat(x))
    np.testing.assert_array_equal(flat(mode(trees.select)(tf.constant(False), bad, x)), flat(x))


def test_two_structures_are_refused(rng):
    x = {"a": tf.constant([1.0]), "b": tf.constant([2.0])}
    for combine in (trees.dot, lambda x, y: trees.axpy(0.5, x, y), lambda x, y: trees.select(tf.constant(True), x, y)):
        with pytest.raises(ValueError, match="structure"):
            combine(x, {"a": tf.constant([1.0])})


def test_python_numbers_keep_their_digits_in_float64():
    x = tf.constant([3.0], tf.float64)
    assert float(trees.scale(-1.7, x)[0]) == -1.7 * 3.0
    assert float(trees.axpy(0.1, x, x)[0]) == 0.1 * 3.0 + 3.0


@pytest.mark.parametrize("combine", [trees.dot, lambda x, y: trees.axpy(0.5, x, y)])
def test_a_column_is_not_a_vector(combine):
    with pytest.raises(ValueError, match=r"x has shape \(3,\) but y has shape \(3, 1\)"):
        combine([tf.ones([3])], [tf.ones([3, 1])])


def test_flatten_lists_all_numbers_and_unflatten_undoes_it(mode, rng):
    x = nest(rng)
    np.testing.assert_array_equal(mode(trees.flatten)(x), flat(x))
    vector = rng.normal(size=len(flat(x)))
    back = mode(lambda v: trees.unflatten(v, x))(tf.constant(vector))
    tf.nest.assert_same_structure(back, x)
    assert [leaf.shape for leaf in tf.nest.flatten(back)] == [leaf.shape for leaf in tf.nest.flatten(x)]
    np.testing.assert_array_equal(flat(back), vector)
    np.testing.assert_array_equal(back["layers"][0].w, tf.nest.pack_sequence_as(x, list(_pieces(vector, x)))["layers"][0].w)


def _pieces(vector, like):
    """The vector cut leaf by leaf."""
    for leaf in tf.nest.flatten(like):
        size = int(np.prod(leaf.shape))
        yield np.reshape(vector[:size], leaf.shape)
        vector = vector[size:]


@pytest.mark.parametrize("size", [13, 15])
def test_a_vector_of_another_length_is_refused(size, rng):
    x = nest(rng)
    assert len(flat(x)) == 14
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        trees.unflatten(tf.zeros([size], tf.float64), x)


def test_a_packer_packs_as_tensorflow_does(rng):
    like = {"z": [1, (2, {"b": 3, "a": 4})], "a": (), "m": namedtuple("Pair", "w b")(5, [6]), "n": nest(rng)}
    leaves = list(range(len(tf.nest.flatten(like))))
    found, expected = trees.packer(like)(leaves), tf.nest.pack_sequence_as(like, leaves)
    assert found == expected
    tf.nest.assert_same_structure(found, expected)
    assert list(found) == list(expected)
