"""Passes over a batch in shuffled minibatches: the loop that policies, critics and models are fitted by."""

from collections.abc import Callable

import tensorflow as tf

from tfpg.types import Nest


def passes(step: Callable[[tf.Tensor, Nest], Nest], carry: Nest, units: int, epochs: int, count: int, seed: tf.Tensor) -> Nest:
    """carry <- step(rows, carry) for each of `count` minibatches of each of `epochs` passes, every pass in an order of its own.

    A remainder of fewer than `count` units sits out each pass, another one each time. A single minibatch is the batch in its own order.
    Args: step: (rows [units // count] integers, carry) -> carry; seed [2]. Returns: the last carry.
    """
    size = units // count

    def whole(e: tf.Tensor, carry: Nest) -> tuple[tf.Tensor, Nest]:
        return e + 1, step(tf.range(units), carry)

    def epoch(e: tf.Tensor, carry: Nest) -> tuple[tf.Tensor, Nest]:
        noise = tf.random.stateless_uniform([units], tf.random.experimental.stateless_fold_in(seed, e))
        order = tf.reshape(tf.argsort(noise)[: count * size], [count, size])
        return e + 1, tf.while_loop(lambda k, _: k < count, lambda k, c: (k + 1, step(order[k], c)), (tf.constant(0), carry))[1]

    return tf.while_loop(lambda e, _: e < epochs, whole if count == 1 else epoch, (tf.constant(0), carry))[1]
