"""Linear algebra on nests: parameters are vectors without ever being flattened."""

import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from tfpg import checks
from tfpg.types import Nest


def zeros_like(x: Nest) -> Nest:
    """0, shaped like x."""
    return tf.nest.map_structure(tf.zeros_like, x)


def number(a: Any, like: tf.Tensor) -> tf.Tensor:
    """The scalar a in the type of another tensor; a Python number directly, since by way of float32 0.1 would lose half its digits."""
    return tf.cast(a, like.dtype) if tf.is_tensor(a) else tf.constant(a, like.dtype)


def scale(a: Any, x: Nest) -> Nest:
    """a x."""
    return tf.nest.map_structure(lambda leaf: number(a, leaf) * leaf, x)


def axpy(a: Any, x: Nest, y: Nest) -> Nest:
    """a x + y, for a scalar a and nests x, y of one structure. Raises: ValueError if the shapes of two leaves differ."""

    def leaf(x_i: tf.Tensor, y_i: tf.Tensor) -> tf.Tensor:
        checks.same_shape(x=x_i, y=y_i)
        return number(a, x_i) * x_i + y_i

    return tf.nest.map_structure(leaf, x, y)


def dot(x: Nest, y: Nest) -> tf.Tensor:
    """x . y = sum over all leaves of sum(x_i y_i). Raises: ValueError if the shapes of two leaves differ."""

    def leaf(x_i: tf.Tensor, y_i: tf.Tensor) -> tf.Tensor:
        checks.same_shape(x=x_i, y=y_i)
        return tf.reduce_sum(x_i * y_i)

    return functools.reduce(operator.add, tf.nest.flatten(tf.nest.map_structure(leaf, x, y)))


def norm(x: Nest) -> tf.Tensor:
    """||x|| = sqrt(x . x)."""
    return tf.sqrt(dot(x, x))


def all_finite(x: Nest) -> tf.Tensor:
    """True where no floating leaf of x holds a NaN or an infinity: a flag, since checks that raise vanish under XLA."""
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(x)]
    kinds = {leaf.dtype for leaf in leaves if leaf.dtype.is_floating}
    flags = [tf.reduce_all(tf.math.is_finite(flatten([leaf for leaf in leaves if leaf.dtype == kind]))) for kind in kinds]
    return functools.reduce(tf.logical_and, flags, tf.constant(True))


def select(condition: tf.Tensor, x: Nest, y: Nest) -> Nest:
    """x where the scalar condition holds, else y, for nests of one structure."""
    return tf.nest.map_structure(lambda x_i, y_i: tf.where(condition, x_i, y_i), x, y)


def where_rows(rows: tf.Tensor, x: Nest, y: Nest) -> Nest:
    """x where rows [N] holds, else y: nests of [N, ...]."""

    def choose(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.reshape(rows, [-1] + [1] * (a.shape.rank - 1)), a, b)

    return tf.nest.map_structure(choose, x, y)


def flatten(x: Nest) -> tf.Tensor:
    """All leaves as one vector [P]."""
    return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(x)], axis=0)


def unflatten(vector: tf.Tensor, like: Nest) -> Nest:
    """The nest, shaped like `like`, whose `flatten` is vector [P]."""
    leaves = tf.nest.flatten(like)
    pieces = tf.split(vector, [leaf.shape.num_elements() for leaf in leaves])
    return tf.nest.pack_sequence_as(like, [tf.reshape(piece, leaf.shape) for piece, leaf in zip(pieces, leaves, strict=True)])


def packer(like: Nest) -> Callable[[Iterable[Any]], Nest]:
    """leaves -> a nest shaped like `like`: `tf.nest.pack_sequence_as` with the way through the nest found once, which takes longer."""

    def part(node: Nest) -> Callable[[Iterator[Any]], Nest]:
        if isinstance(node, dict):
            named = {name: part(node[name]) for name in sorted(node)}  # the order of leaves; that of the nest may be another
            return lambda leaves: dict.fromkeys(node) | {name: of(leaves) for name, of in named.items()}
        if isinstance(node, (tuple, list)):
            parts, kind = [part(child) for child in node], getattr(type(node), "_make", type(node))
            return lambda leaves: kind([of(leaves) for of in parts])
        return next

    whole = part(like)
    return lambda leaves: whole(iter(leaves))
