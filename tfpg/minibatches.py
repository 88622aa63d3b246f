"""Passes over a batch in shuffled minibatches: the loop that policies, critics and models are fitted by."""

from collections.abc import Callable

import tensorflow as tf

from tfpg.types import Nest


def orders(units: int, epochs: int, count: int, seed: tf.Tensor) -> tf.Tensor:
    """Which units each of `count` minibatches of each pass holds: every pass has an order of its own.

    A remainder of fewer than `count` units sits out each pass, another one each time. A single minibatch is the batch as it is.
    Draw them outside of compiled programs: XLA takes up to a hundred times as long for random numbers, and draws others.
    Args: seed [2]. Returns: [epochs, count, units // count] integers; of a single minibatch [1, 1, 0], since it needs none.
    """
    size = units // count
    if count == 1:
        return tf.zeros([1, 1, 0], tf.int32)

    def order(e: tf.Tensor) -> tf.Tensor:
        noise = tf.random.stateless_uniform([units], tf.random.experimental.stateless_fold_in(seed, e))
        return tf.reshape(tf.argsort(noise)[: count * size], [count, size])

    return tf.map_fn(order, tf.range(epochs), fn_output_signature=tf.int32)


def passes(step: Callable[[tf.Tensor | None, Nest], Nest], carry: Nest, order: tf.Tensor, epochs: int) -> Nest:
    """carry <- step(rows, carry) for each minibatch of each of `epochs` passes, as `orders` has them.

    Args: step: (rows [units // count] integers, or None for all of them, carry) -> carry; order: of `orders`. Returns: the last carry.
    """
    count = order.shape[1]

    def epoch(e: tf.Tensor, carry: Nest) -> tuple[tf.Tensor, Nest]:
        if count == 1:
            return e + 1, step(None, carry)
        rows = order[e]
        return e + 1, tf.while_loop(lambda k, _: k < count, lambda k, c: (k + 1, step(rows[k], c)), (tf.constant(0), carry))[1]

    return tf.while_loop(lambda e, _: e < epochs, epoch, (tf.constant(0), carry))[1]
