"""Steepest ascent under a trust region: what the longest improving step is when 'long' is measured in parameters, or in policies.

g [P] is grad J; F [P, P] the Fisher matrix. The radius epsilon bounds |Delta|^2, or 1/2 Delta^T F Delta (in nats, the KL's own quadratic
model, with its half), or any divergence. `improve` does the same on nests, with F as a product.
"""

from collections.abc import Callable

import tensorflow as tf

from tfpg import checks, linalg


@checks.component
def euclidean_step(g: tf.Tensor, epsilon: checks.Scalar) -> tf.Tensor:
    """argmax_Delta g . Delta subject to |Delta|^2 <= epsilon: sqrt(epsilon) g / |g|   (PG-100); 0 for g = 0.

    As a gradient step its alpha is sqrt(epsilon) / |g| = 1 / (2 lambda), lambda = |g| / (2 sqrt(epsilon)) the multiplier of the bound.
    Args: g [P]; epsilon []. Returns: [P].
    """
    checks.axes(g=(g, "P"))
    return tf.sqrt(epsilon) * tf.math.divide_no_nan(g, tf.norm(g))


@checks.component
def step_size(dfd: checks.Scalar, epsilon: checks.Scalar) -> tf.Tensor:
    """alpha = sqrt(2 epsilon / d^T F d), so that 1/2 (alpha d)^T F (alpha d) = epsilon   (PG-106, PG-108); 0 where d^T F d is not positive.

    For d = F^{-1} g, d^T F d = g^T F^{-1} g = g . d; with damping or few iterations of a solver only d^T F d keeps the bound.
    Args: dfd [], epsilon []. Returns: [].
    """
    positive = dfd > 0
    return tf.where(positive, tf.sqrt(2 * epsilon / tf.where(positive, dfd, tf.ones_like(dfd))), tf.zeros_like(dfd))


@checks.component
def natural_gradient(g: tf.Tensor, fisher: tf.Tensor, damping: checks.Scalar) -> tf.Tensor:
    """(F + eta I)^{-1} grad J   (PG-107), the shortest solution where F is singular, as it is for every softmax table.

    Args: g [P]; fisher [P, P]; damping eta []. Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(g=(g, "P"), fisher=(fisher, "P P"))
    return linalg.shortest_solution(fisher + damping * linalg.identity(fisher), g)


@checks.component
def natural_step(g: tf.Tensor, fisher: tf.Tensor, epsilon: checks.Scalar) -> tf.Tensor:
    """argmax_Delta g . Delta subject to 1/2 Delta^T F Delta <= epsilon: sqrt(2 epsilon / g^T F^{-1} g) F^{-1} g   (PG-106).

    With the bound on Delta^T F Delta instead it is shorter by sqrt(2). Args: g [P], in the range of F; fisher [P, P]; epsilon [].
    Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    d = natural_gradient(g, fisher, tf.zeros_like(epsilon))
    return step_size(tf.einsum("p,pq,q->", d, fisher, d), epsilon) * d


def divergence_step(
    divergence: Callable[[tf.Tensor], tf.Tensor], g: tf.Tensor, start: tf.Tensor, epsilon: float, iterations: int = 20
) -> tf.Tensor:
    """argmax_Delta g . Delta subject to D(Delta) <= epsilon   (PG-101), by Newton's method on g = lambda dD(Delta), D(Delta) = epsilon.

    For D the KL of the policy at theta + Delta, and epsilon to 0, it becomes `natural_step`, which is where to start. Newton's method
    converges from near only: where the conditions of a maximum are not met in the end (to 1e-4, relative), the result is NaN.
    Args: divergence: [P] -> [], smooth and 0 at 0; g [P]; start [P]; epsilon > 0. Returns: [P].
    """

    g = g / tf.norm(g)  # its length changes the multiplier alone

    def conditions(delta: tf.Tensor, multiplier: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(delta)
            value = divergence(delta)
        slope = tape.gradient(value, delta)
        return slope, tf.concat([g - multiplier * slope, [epsilon - value]], axis=0)

    def newton(k: tf.Tensor, delta: tf.Tensor, multiplier: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True) as tape:  # `jacobian` of eager programs asks for it
            tape.watch(delta)
            slope, residual = conditions(delta, multiplier)
        curvature = tape.jacobian(slope, delta, experimental_use_pfor=False)
        top = tf.concat([multiplier * curvature, slope[:, None]], axis=1)
        bottom = tf.concat([slope, tf.zeros([1], g.dtype)], axis=0)[None]
        move = linalg.shortest_solution(tf.concat([top, bottom], axis=0), residual)
        return k + 1, delta + move[:-1], multiplier + move[-1]

    slope, _ = conditions(start, tf.zeros([], g.dtype))
    multiplier = tf.tensordot(g, slope, 1) / tf.tensordot(slope, slope, 1)
    _, delta, multiplier = tf.while_loop(lambda k, *_: k < iterations, newton, (tf.constant(0), start, multiplier))
    _, residual = conditions(delta, multiplier)
    met = tf.reduce_all(tf.abs(residual) <= 1e-4 * tf.concat([tf.ones_like(g), [epsilon]], axis=0))
    return tf.where(met & (multiplier > 0), delta, tf.constant(float("nan"), g.dtype))
