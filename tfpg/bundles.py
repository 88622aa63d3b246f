"""Many small arrays as few long ones: one for each type of number, or a single one of bytes.

To start a compiled program takes two to three microseconds for each array that goes in or comes out, and ten to make a tensor of an array.
A training state has dozens of arrays; of a small network and a small batch they take longer than the arithmetic.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import acting, trees
from tfpg.types import Nest

Bundle = dict[str, Any]
"""Name of a type -> vector of all leaves of that type, in order."""


class Place(NamedTuple):
    kind: str
    begin: int
    end: int
    shape: tuple[int, ...]


def places(like: Nest) -> list[Place]:
    """Where each leaf of a nest of tensors or arrays lies in its bundle."""
    found, used = [], dict[str, int]()
    for leaf in tf.nest.flatten(like):
        kind, shape = leaf.dtype.name, tuple(leaf.shape)
        begin = used.get(kind, 0)
        used[kind] = begin + math.prod(shape)
        found.append(Place(kind, begin, used[kind], shape))
    return found


def opener(like: Nest) -> Callable[[Bundle], Nest]:
    """bundle -> the nest, shaped like `like`, of tensors or, as the bundle is, of views of arrays."""
    where, pack = places(like), trees.packer(like)

    def opened(bundle: Bundle) -> Nest:
        if isinstance(next(iter(bundle.values())), np.ndarray):
            return pack(np.ndarray(shape, x.dtype, x, begin * x.itemsize) for kind, begin, _, shape in where for x in [bundle[kind]])
        return pack(tf.reshape(bundle[kind][begin:end], shape) for kind, begin, end, shape in where)

    return opened


def kinds(leaves: list[Any]) -> dict[str, list[int]]:
    """Name of a type -> which leaves are of it, in order."""
    found: dict[str, list[int]] = {}
    for k, leaf in enumerate(leaves):
        found.setdefault(leaf.dtype.name, []).append(k)
    return found


def bundle(nest: Nest) -> Bundle:
    """A nest of tensors, or outside of a program of arrays too, as a bundle of tensors."""
    leaves = tf.nest.flatten(nest)
    return {kind: trees.flatten([leaves[k] for k in of]) for kind, of in kinds(leaves).items()}


def writer(like: Nest) -> Callable[[Nest], tf.Tensor]:
    """nest, shaped like `like`, of arrays, or of tensors outside of a program -> all of it as bytes [B], type after type."""
    known = kinds(tf.nest.flatten(like)).values()  # once: an array takes longer to tell its type than to be copied

    def written(nest: Nest) -> tf.Tensor:
        leaves = tf.nest.flatten(nest)
        return tf.constant(np.concatenate([np.concatenate([leaves[k] for k in of], axis=None).view(np.uint8) for of in known]))

    return written


def reader(like: Nest) -> Callable[[tf.Tensor], Nest]:
    """The nest of tensors, shaped like `like`, of its bytes [B]."""
    opened, sizes = opener(like), {place.kind: place.end for place in places(like)}

    def read(written: tf.Tensor) -> Nest:
        bundle, begin = Bundle(), 0
        for kind, count in sizes.items():
            width = tf.as_dtype(kind).size
            part, begin = written[begin : begin + count * width], begin + count * width
            bundle[kind] = tf.cast(part, kind) if width == 1 else tf.bitcast(tf.reshape(part, [count, width]), kind)
        return opened(bundle)

    return read


def named(scalars: dict[str, tf.Tensor]) -> Bundle:
    """Scalars as vectors, one for each type, each under the names of what is in it."""
    names, leaves = list(scalars), list(scalars.values())
    return {" ".join(names[k] for k in of): tf.stack([leaves[k] for k in of]) for of in kinds(leaves).values()}


def numbers(told: Bundle) -> dict[str, Any]:
    """What `named` put together, as numbers of Python."""
    return {name: value for names, vector in told.items() for name, value in zip(names.split(), vector.numpy().tolist(), strict=True)}


Learn = Callable[..., tuple[Nest, dict[str, Any]]]


def in_bundles(learn: Learn, make: Callable[[Callable[..., Nest]], Callable[..., Nest]]) -> Learn:
    """learn(state, *data) -> state, scalars, as a program whose state and scalars pass in bundles, and whose data as bytes.

    The state that it gave last is known to it as a bundle, and need not be put together again.
    Args: make: makes a program of a function. Returns: learn of tensors or arrays, whose state comes as arrays, and scalars as numbers.
    """

    def begin(state: Nest, *data: Nest) -> Learn:
        state_of, data_of, of_data = opener(state), reader(data), writer(data)

        def inside(before: Bundle, written: tf.Tensor) -> tuple[Bundle, Bundle]:
            after, scalars = learn(state_of(before), *data_of(written))
            return bundle(after), named(scalars)

        program, last = make(inside), [state, bundle(state)]

        def call(state: Nest, *data: Nest) -> tuple[Nest, dict[str, Any]]:
            before = last[1] if state is last[0] else bundle(state)
            after, told = program(before, of_data(data))
            last[:] = state_of({kind: vector.numpy() for kind, vector in after.items()}), after
            return last[0], numbers(told)

        return call

    return acting.at_first_call(begin)
