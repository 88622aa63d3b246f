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


def rmsprop(learning_rate: float, rho: float = 0.9, epsilon: float = 1e-7, inside: bool = False) -> Optimizer:
    """v <- rho v + (1-rho) g^2;  increment = alpha g / (sqrt(v) + epsilon), or alpha g / sqrt(v + epsilon) if `inside`   (PG-134).

    Both forms exist, and their epsilons are not alike: inside the root it weighs as sqrt(epsilon) outside. Keras's is inside. v begins at 0
    and is not corrected for it, so that the first steps are up to 1 / sqrt(1-rho) times as long.
    The memory is v, like the parameters. Reference: Tieleman and Hinton 2012, lecture 6.5.
    """

    def update(gradient: Nest, square: Nest) -> tuple[Nest, Nest]:
        square = tf.nest.map_structure(lambda v, g: v + (1 - rho) * (g * g - v), square, gradient)

        def increment(g: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
            return learning_rate * g / (tf.sqrt(v + epsilon) if inside else tf.sqrt(v) + epsilon)

        return tf.nest.map_structure(increment, gradient, square), square

    return Optimizer(trees.zeros_like, update)


def flattened(optimizer: Optimizer) -> Optimizer:
    """The same optimiser, whose memory and work are of all leaves as one vector: one small program where there were as many as leaves.

    Returns: an `Optimizer` of nests whose memory is that of a vector [P].
    """

    def update(gradient: Nest, state: Nest) -> tuple[Nest, Nest]:
        increment, state = optimizer.update(trees.flatten(gradient), state)
        return trees.unflatten(increment, gradient), state

    return Optimizer(lambda theta: optimizer.init(trees.flatten(theta)), update)


def clipped(optimizer: Optimizer, norm: float) -> Optimizer:
    """The optimiser is given g min(1, norm / ||g||), ||g|| over all leaves together   (PG-135): the direction stays, and what is short.

    Args: norm > 0. Returns: an `Optimizer` with the memory of the one inside.
    Reference: Pascanu, Mikolov and Bengio 2013 (arXiv:1211.5063), algorithm 1.
    """

    def update(gradient: Nest, state: Nest) -> tuple[Nest, Nest]:
        length = trees.norm(gradient)
        bound = trees.number(norm, length)
        return optimizer.update(trees.scale(bound / tf.maximum(length, bound), gradient), state)

    return Optimizer(optimizer.init, update)
