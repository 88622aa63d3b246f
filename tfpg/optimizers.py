"""First-order optimisers as pure functions, for ascent: theta <- theta + increment."""

from typing import NamedTuple

import tensorflow as tf

from tfpg import trees
from tfpg.types import Nest, Optimizer


class AdamState(NamedTuple):
    step: tf.Tensor  # [] int32, updates so far
    mean: Nest  # m, like the parameters
    square: Nest  # v, like the parameters


def sgd(learning_rate: float) -> Optimizer:
    """increment = alpha g   (PG-26)."""
    return Optimizer(lambda _: (), lambda gradient, state: (trees.scale(learning_rate, gradient), state))


def adam(learning_rate: float, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Optimizer:
    """m <- b1 m + (1-b1) g;  v <- b2 v + (1-b2) g^2;  increment = alpha sqrt(1-b2^t)/(1-b1^t) m / (sqrt(v) + epsilon)   (PG-122).

    This is the form with epsilon outside the bias correction ("epsilon hat"), as in Keras; its defaults are Keras's.
    Reference: Kingma and Ba 2015 (arXiv:1412.6980), end of section 2.
    """

    def init(params: Nest) -> AdamState:
        return AdamState(tf.constant(0), trees.zeros_like(params), trees.zeros_like(params))

    def update(gradient: Nest, state: AdamState) -> tuple[Nest, AdamState]:
        step = state.step + 1
        mean = trees.axpy(1 - beta_1, trees.axpy(-1.0, state.mean, gradient), state.mean)
        square = tf.nest.map_structure(lambda v, g: v + (1 - beta_2) * (g * g - v), state.square, gradient)

        def increment(m: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
            t = tf.cast(step, m.dtype)
            rate = learning_rate * tf.sqrt(1 - tf.constant(beta_2, m.dtype) ** t) / (1 - tf.constant(beta_1, m.dtype) ** t)
            return rate * m / (tf.sqrt(v) + epsilon)

        return tf.nest.map_structure(increment, mean, square), AdamState(step, mean, square)

    return Optimizer(init, update)
