"""Shape checks that name what is wrong, and the one decorator of first-order functions.

TensorFlow broadcasts `[M] * [M, 1]` to `[M, M]` without a word, so every floor-1 function checks its shapes on entry. The checks are
static: they run when a program is traced, cost nothing afterwards, and hold under XLA, where checks of values disappear.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import tensorflow as tf

Scalar = Annotated[tf.Tensor, "[]"]
"""The annotation of a component's argument that is a single number, such as a discount; an array in its place is refused."""


def several(**tensors: tf.Tensor) -> None:
    """Raises `ValueError` naming the argument for a single sample, where what is asked for needs others."""
    for name, tensor in tensors.items():
        if tensor.shape[0] == 1:
            raise ValueError(f"{name} has shape {tensor.shape}: at least two samples are needed")


def same_shape(**tensors: tf.Tensor) -> None:
    """Raises `ValueError` naming two arguments and their shapes unless all static shapes agree.

    Example: `same_shape(reward=r_t, discount=discount_t)`. What is unknown at trace time agrees with everything.
    """
    for (a, x), (b, y) in itertools.combinations(tensors.items(), 2):
        if not x.shape.is_compatible_with(y.shape):
            raise ValueError(f"{a} has shape {x.shape} but {b} has shape {y.shape}: they must be equal, nothing is broadcast here")


def rank(minimum: int, **tensors: tf.Tensor) -> None:
    """Raises `ValueError` naming the argument unless every tensor has at least `minimum` dimensions."""
    for name, tensor in tensors.items():
        if tensor.shape.rank is not None and tensor.shape.rank < minimum:
            raise ValueError(f"{name} has shape {tensor.shape}: at least {minimum} dimension(s) are needed, time first")


def axes(**named: tuple[tf.Tensor, str]) -> None:
    """Raises `ValueError` unless the tensors have the axes that are named, equal names meaning equal sizes.

    Example: `axes(mu=(mu, "S"), transition=(transition, "S A S"))`. A first name `...` stands for any leading axes, the same ones in
    every tensor that has it. Sizes unknown at trace time agree with everything.
    """
    known: dict[str, tuple[Any, str]] = {}
    for argument, (tensor, spec) in named.items():
        names, shape = spec.split(), tensor.shape
        free = names[0] == "..."
        if shape.rank is None:
            continue
        if shape.rank < len(names) - free or (shape.rank > len(names) and not free):
            raise ValueError(f"{argument} has shape {shape}, but its axes are [{', '.join(names)}]: nothing is broadcast here")
        leading = shape.rank - len(names) + 1
        sizes = [shape[:leading], *shape[leading:]] if free else list(shape)
        for name, size in zip(names, sizes, strict=True):
            expected, owner = known.get(name, (None, argument))
            if expected is None:
                known[name] = size, argument
            elif not tf.TensorShape(expected).is_compatible_with(size):
                other = f"{owner} has shape {named[owner][0].shape}" if owner != argument else "its axes differ"
                raise ValueError(f"{argument} has shape {shape} but {other}: axis {name} of [{', '.join(names)}] must be {expected}")


def _float_type(values: Any) -> tf.DType:
    types = [tf.as_dtype(value.dtype) for value in values if hasattr(value, "dtype")]
    return next((dtype for dtype in types if dtype.is_floating), tf.float32)


def component(function: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a first-order function a `tf.function` that traces once per shape and type.

    Arrays, lists and Python numbers become tensors before the call: numbers and lists of reals take the type of the first floating
    array (float32 without one), and a number becomes int32 where the signature says `int`, so that a new discount or step count is a new
    value and not a new trace. Strings stay Python. Inside another traced function it adds nothing: the outer program contains the function
    itself. `component(f).python_function` is f.

    Do not use it on functions that take functions: each new closure would be a new trace.
    """
    traced = tf.function(function, autograph=False)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        dtype = _float_type(given.values())

        def tensor(name: str, value: Any) -> Any:
            if isinstance(value, np.ndarray):
                return tf.convert_to_tensor(value)
            if isinstance(value, (list, tuple)):
                array = np.asarray(value)
                return tf.constant(value, dtype if np.issubdtype(array.dtype, np.floating) else None)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return value
            return tf.constant(value, tf.int32 if signature.parameters[name].annotation is int else dtype)

        tensors = {name: tensor(name, value) for name, value in given.items()}
        for name, value in tensors.items():
            if signature.parameters[name].annotation is Scalar and value.shape.rank:
                raise ValueError(f"{name} has shape {value.shape}: a single number is needed, nothing is broadcast here")
        run = traced if tf.executing_eagerly() else function
        return run(**tensors)

    call.python_function = function  # type: ignore[attr-defined]
    call.traced = traced  # type: ignore[attr-defined]
    return call
