"""A batch in blocks that stay in cache: what is computed of one after another takes no memory that grows with the batch."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from tfpg import trees
from tfpg.types import Nest

BLOCK = 2048
"""Samples that are computed at once: they stay in cache, and memory does not grow with the batch."""


def in_blocks(x: Nest, size: int) -> Nest:
    """M samples as blocks that stay in cache: leaves [M, ...] -> [blocks, size, ...], the last one filled up with zeros."""

    def leaf(x: tf.Tensor) -> tf.Tensor:
        block = min(size, x.shape[0])
        missing = -x.shape[0] % block
        filled = tf.pad(x, [[0, missing], *[[0, 0]] * (x.shape.rank - 1)]) if missing else x
        return tf.reshape(filled, [-1, block, *x.shape[1:]])

    return tf.nest.map_structure(leaf, x)


def over_blocks(of: Callable[[Nest], Nest], blocks: Nest, like: Nest) -> Nest:
    """sum_i of(block i), shaped like `like`: memory does not grow with the number of blocks. Args: blocks: leaves [blocks, size, ...]."""
    count, one = tf.nest.flatten(blocks)[0].shape[0], lambda i: of(tf.nest.map_structure(lambda x: x[i], blocks))
    if count == 1:
        return one(0)
    add = lambda i, total: (i + 1, trees.axpy(1.0, one(i), total))  # noqa: E731
    return tf.while_loop(lambda i, _: i < count, add, (tf.constant(0), trees.zeros_like(like)))[1]


ALONE = 512
"""Environments, or columns of a batch, that are worth a program of their own."""


def shared_out(n: int, group: int) -> int:
    """Among how many programs n environments are shared out, in equal parts and whole groups: the same on every machine."""
    return next(parts for parts in range(max(1, n // ALONE), 0, -1) if n % (parts * group) == 0)


def columns(x: Nest, start: tf.Tensor, count: int) -> Nest:
    """`count` columns from `start` on: leaves [T, N, ...] -> [T, count, ...]."""

    def leaf(x: tf.Tensor) -> tf.Tensor:
        further = x.shape[2:]
        return tf.slice(x, [0, start, *[0] * len(further)], [x.shape[0], count, *further])

    return tf.nest.map_structure(leaf, x)


def joined(parts: Sequence[Nest], axis: int) -> Nest:
    """Nests of parts as one, whose leaves are theirs side by side."""
    return tf.nest.map_structure(lambda *x: tf.concat(x, axis), *parts)


def two_at_a_time(calls: Sequence[Callable[[], Nest]]) -> list[Nest]:
    """What calls of programs give, each of which begins when the last but one has ended: their memory is that of two."""
    found: list[Nest] = []
    for call in calls:
        with tf.control_dependencies(tf.nest.flatten(found[-2:-1])):
            found.append(call())
    return found


def in_turn(of: Callable[..., tf.Tensor], dtype: tf.DType, *x: Nest) -> tf.Tensor:
    """of(*x) of rows that know nothing of one another, BLOCK at a time: each x a nest of [M, ...] -> [M] of type dtype."""
    samples = tf.nest.flatten(x)[0].shape[0]
    if samples <= BLOCK:
        return of(*x)
    found = tf.map_fn(lambda block: of(*block), in_blocks(x, BLOCK), fn_output_signature=dtype)
    return tf.reshape(found, [-1])[:samples]
