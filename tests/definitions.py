"""A function held to its definition: value and gradient, in each mode, and in single precision."""

import functools

import numpy as np
import tensorflow as tf
from laws import finite_difference


def is_floating(value):
    return not isinstance(value, (str, int)) and np.issubdtype(np.asarray(value).dtype, np.floating)


def tensors(given, dtype="float64"):
    """Arrays as tensors, those of floats in the type wanted."""
    return {key: tf.constant(value, dtype if is_floating(value) else None) for key, value in given.items()}


def leaves(result):
    return [np.asarray(leaf) for leaf in tf.nest.flatten(result)]


def split(function, given):
    """The function with its strings and whole numbers bound, and the arrays that are left."""
    fixed = {key: value for key, value in given.items() if isinstance(value, (str, int))}
    return functools.partial(function, **fixed), {key: value for key, value in given.items() if key not in fixed}


def compared(function, arrays, definition):
    """Value of a function of arrays, its slopes in the floating ones, and the same of its definition. Outputs weigh unequally."""
    expected = leaves(definition(**arrays))
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=leaf.shape) for leaf in expected]

    def total(parts):
        return sum(tf.reduce_sum(weight * part) for weight, part in zip(weights, parts, strict=True) if part.dtype.is_floating)

    def both(**arguments):
        sources = {key: x for key, x in arguments.items() if x.dtype.is_floating}
        with tf.GradientTape() as tape:
            tape.watch(sources)
            result = function(**arguments)
            scalar = total(tf.nest.flatten(result))
        slopes = tape.gradient(scalar, sources, unconnected_gradients="zero")
        return result, {key: tf.convert_to_tensor(slope) for key, slope in slopes.items()}

    def defined(key, x):
        return sum(np.sum(weight * leaf) for weight, leaf in zip(weights, leaves(definition(**{**arrays, key: x})), strict=True))

    slopes = {key: finite_difference(functools.partial(defined, key), x) for key, x in arrays.items() if is_floating(x)}
    return both, expected, slopes


def assert_is(mode, function, definition, given, rtol=1e-11, still=()):
    """Value and gradient are those of the definition, and the value in float32 too. No gradient flows into what is `still`."""
    compiled, arrays = split(function.python_function, given)
    plain, _ = split(definition, given)
    both, expected, slopes = compared(compiled, arrays, plain)
    result, gradient = mode(both)(**tensors(arrays))
    for leaf, value in zip(leaves(result), expected, strict=True):
        assert leaf.shape == value.shape
        np.testing.assert_allclose(leaf, value, rtol=rtol, atol=rtol)
    for key, slope in slopes.items():
        wanted = np.zeros_like(slope) if key in still else slope
        np.testing.assert_allclose(gradient[key], wanted, rtol=1e-7, atol=1e-8 * max(1, np.abs(slope).max()), err_msg=key)
        assert np.abs(slope).max() > 1e-3, f"{key} does not matter to the definition"
    if mode.name == "graph":
        single = leaves(function(**{**given, **tensors(arrays, "float32")}))
        for leaf, value in zip(single, expected, strict=True):
            assert leaf.dtype == np.float32 or value.dtype != np.float64
            np.testing.assert_allclose(leaf, value, rtol=3e-5, atol=3e-5)
