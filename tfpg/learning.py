"""The loop of the lecture: sample, estimate, ascend, repeat."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfpg import trees
from tfpg.types import Nest, Optimizer


class Learned(NamedTuple):
    """theta, how many iterations were made, and the norm of the last gradient estimate."""

    params: Nest
    iterations: tf.Tensor
    gradient_norm: tf.Tensor


def reinforce(
    sample: Callable[[Nest, tf.Tensor], Any],
    estimate: Callable[[Nest, Any], Nest],
    params: Nest,
    optimizer: Optimizer,
    iterations: int,
    seed: tf.Tensor,
    tolerance: float = 0.0,
) -> Learned:
    """tau_i ~ p_theta(tau);  g = estimate of grad J;  theta <- theta + increment(g);  again   (PG-124, PG-26).

    Every iteration samples anew from the policy as it then is, with a seed of its own. It ends after `iterations`, or as soon as
    |g| < tolerance (with 0 never, since the estimate of a single batch may be 0 by chance). Args: sample: (theta, seed [2]) -> a batch;
    estimate: (theta, batch) -> nest like theta; params theta; optimizer; iterations; seed [2]. Returns: `Learned`. Plain Python that
    compiles as a part of any program.
    """

    def unfinished(k: tf.Tensor, _theta: Nest, _memory: Nest, size: tf.Tensor) -> tf.Tensor:
        return (k < iterations) & (size >= tolerance)

    def step(k: tf.Tensor, theta: Nest, memory: Nest, _: tf.Tensor) -> tuple[tf.Tensor, Nest, Nest, tf.Tensor]:
        g = estimate(theta, sample(theta, tf.random.experimental.stateless_fold_in(seed, k)))
        increment, memory = optimizer.update(g, memory)
        return k + 1, trees.axpy(1.0, increment, theta), memory, trees.norm(g)

    infinite = tf.constant(float("inf"), tf.nest.flatten(params)[0].dtype)
    k, theta, _, size = tf.while_loop(unfinished, step, (tf.constant(0), params, optimizer.init(params), infinite))
    return Learned(theta, k, size)
