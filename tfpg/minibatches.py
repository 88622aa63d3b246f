"""Passes over a batch in shuffled minibatches: the loop that policies, critics and models are fitted by."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfpg.types import Nest

ROUNDS = 32


class Orders(NamedTuple):
    """Every pass has an order of its own, of which a few random numbers are all that is kept."""

    units: int
    minibatches: int  # of each pass
    keys: tf.Tensor  # [epochs, ROUNDS, 3] uint32


def orders(units: int, epochs: int, count: int, seed: tf.Tensor) -> Orders:
    """In which orders `epochs` passes go through `units`, in `count` minibatches of units // count each.

    A remainder of fewer than `count` units sits out each pass, another one each time. A single minibatch is the batch as it is.
    Args: seed [2].
    """
    return Orders(units, count, tf.random.stateless_uniform([epochs, ROUNDS, 3], seed, None, None, tf.uint32))


def shuffled(index: tf.Tensor, units: int, key: tf.Tensor) -> tf.Tensor:
    """pi(index) for a random permutation pi of 0, .., units - 1, that takes no memory: index [...] int32, key [ROUNDS, 3] -> [...].

    Swap or not: each round pairs every x with m - x modulo `units`, and of each pair a random bit says whether the two change places.
    The bit, the first of a x + b modulo 2^32 for the larger of the pair, is fair, and independent of that of any one other pair. That
    two neighbours are moved alike in each round, and so stay neighbours, has probability 2^-ROUNDS.
    References: Hoang, Morris and Rogaway 2012 (CRYPTO), section 2; Dietzfelbinger 1996 (STACS), for a x + b.
    """

    def swap(r: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        m, a, b = tf.unstack(key[r])
        other = tf.cast(m % units, tf.int32) - x
        other = tf.where(other < 0, other + units, other)
        first_bit = tf.bitcast(a * tf.bitcast(tf.maximum(x, other), tf.uint32) + b, tf.int32) < 0
        return r + 1, tf.where(first_bit, other, x)

    return tf.while_loop(lambda r, _: r < ROUNDS, swap, (tf.constant(0), index))[1]


def passes(step: Callable[[tf.Tensor | None, Nest], Nest], carry: Nest, order: Orders, piece: Callable[..., Any] | None = None) -> Nest:
    """carry <- step(rows, carry) for each minibatch of each pass.

    Args: step: (rows [units // count] integers, or None for all of them, carry) -> carry; piece: makes a program of each step, whose memory
    does not outlast it. Returns: the last carry.
    """
    units, count, keys = order
    size = units // count
    if piece:

        def alone(k: tf.Tensor, carry: Nest) -> Nest:
            rows = shuffled(k % count * size + tf.range(size), units, keys[k // count]) if count > 1 else None
            return step(rows, carry)

        one = piece(alone)
        return tf.while_loop(lambda k, _: k < keys.shape[0] * count, lambda k, c: (k + 1, one(k, c)), (tf.constant(0), carry))[1]

    def epoch(e: tf.Tensor, carry: Nest) -> tuple[tf.Tensor, Nest]:
        if count == 1:
            return e + 1, step(None, carry)
        rows = tf.reshape(shuffled(tf.range(count * size), units, keys[e]), [count, size])
        return e + 1, tf.while_loop(lambda k, _: k < count, lambda k, c: (k + 1, step(rows[k], c)), (tf.constant(0), carry))[1]

    return tf.while_loop(lambda e, _: e < keys.shape[0], epoch, (tf.constant(0), carry))[1]
