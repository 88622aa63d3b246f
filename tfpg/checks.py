"""Shape checks that name what is wrong, and the one decorator of first-order functions.

TensorFlow broadcasts `[M] * [M, 1]` to `[M, M]` without a word, so every floor-1 function checks its shapes on entry. The checks are
static: they run when a program is traced, cost nothing afterwards, and hold under XLA, where checks of values disappear.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def same_shape(**tensors: tf.Tensor) -> None:
    """Raises `ValueError` naming two arguments and their shapes unless all static shapes agree.

    Example: `same_shape(reward=r_t, discount=discount_t)`. Dimensions unknown at trace time agree with everything.
    """
    (first, reference), *others = tensors.items()
    for name, tensor in others:
        a, b = reference.shape, tensor.shape
        if not a.is_compatible_with(b) or a.rank != b.rank:
            raise ValueError(f"{first} has shape {a} but {name} has shape {b}: they must be equal, nothing is broadcast here")


def rank(minimum: int, **tensors: tf.Tensor) -> None:
    """Raises `ValueError` naming the argument unless every tensor has at least `minimum` dimensions."""
    for name, tensor in tensors.items():
        if tensor.shape.rank is not None and tensor.shape.rank < minimum:
            raise ValueError(f"{name} has shape {tensor.shape}: at least {minimum} dimension(s) are needed, time first")


def _float_type(values: list[Any]) -> tf.DType:
    for value in values:
        dtype = getattr(value, "dtype", None)
        if dtype is not None and tf.as_dtype(dtype).is_floating:
            return tf.as_dtype(dtype)
    return tf.float32


def component(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a first-order function a `tf.function` that traces once per shape and type.

    Python numbers become tensors (of the first floating argument's type, or int32) before the call, so a new discount or step count
    is a new value and not a new trace; strings stay Python. `component(f).python_function` is f itself. Do not use it on functions
    that take functions: each new closure would be a new trace.
    """
    traced = tf.function(function, autograph=False)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        dtype = _float_type([*args, *kwargs.values()])

        def tensor(value: Any) -> Any:
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return value
            return tf.convert_to_tensor(value, dtype if isinstance(value, float) else tf.int32)

        return traced(*map(tensor, args), **{name: tensor(value) for name, value in kwargs.items()})

    call.python_function = function  # type: ignore[attr-defined]
    call.traced = traced  # type: ignore[attr-defined]
    return call
