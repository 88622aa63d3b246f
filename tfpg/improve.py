"""How parameters get better: a direction times a step.

    ascend   gradient, handed to a first-order optimiser
    epochs   the same, again and again on shuffled parts of one batch
    natural  F^{-1} gradient by conjugate gradient, times one of the steps `fixed`, `kl_scaled`, `backtracking`

`pace` in [0, 1] is how much of the configured step is taken now: a schedule lets it fall while a run goes on. It multiplies the increment
of `ascend` and `epochs`, the alpha of `fixed` and the radius of the other two.

Every function here takes functions and stays plain Python: it is traced as a part of the compiled update.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfpg import linalg, minibatches, trees, trust_region
from tfpg.types import Nest, Optimizer, Problem


class Settings(NamedTuple):
    """The numbers of an improvement, bound when a program is built."""

    optimizer: Optimizer  # of `ascend`
    step_size: float  # alpha of `fixed`
    kl_radius: float  # epsilon of `kl_scaled` and `backtracking`, in nats per step
    damping: float  # eta in (F + eta I) x = g
    cg_iterations: int
    shrink: float  # factor of each backtracking
    backtracks: int  # step lengths tried by `backtracking`
    epochs: int = 1  # passes over the batch by `epochs`
    minibatches: int = 1  # parts of each pass
    least_overlap: float = 0.0  # an update is refused where the batch says less than this share of its size about theta


class Direction(NamedTuple):
    """d with F d ~ g, and the curvature d . F d along it, which turns a radius into a step length."""

    d: Nest
    curvature: tf.Tensor


Info = dict[str, tf.Tensor]
Step = Callable[[Problem, Nest, Direction, Settings, tf.Tensor], tuple[Nest, Info]]


def ascend(problem: Problem, params: Nest, memory: Nest, settings: Settings, pace: tf.Tensor, order: Nest) -> tuple[Nest, Nest, Info]:
    """theta <- theta + pace increment(grad J)   (PG-26)."""
    g = problem.gradient(params)
    increment, memory = settings.optimizer.update(g, memory)
    increment = trees.scale(pace, increment)
    return trees.axpy(1.0, increment, params), memory, {"gradient_norm": trees.norm(g), "step_size": trees.norm(increment)}


def epochs(problem: Problem, params: Nest, memory: Nest, settings: Settings, pace: tf.Tensor, order: Nest) -> tuple[Nest, Nest, Info]:
    """`ascend` on each of the parts of the batch that `order` chooses, pass after pass.

    An update is refused, and counted, where the effective share of the batch at theta is below `least_overlap`: the data then say too
    little about the policy that is to be improved.
    """

    def step(rows: tf.Tensor | None, carry: Nest) -> Nest:
        theta, memory, refused, least = carry
        part = problem if rows is None else problem.part(rows)
        better, after, _ = ascend(part, theta, memory, settings, pace, order)
        overlap = tf.cast(problem.overlap(theta), tf.float32)
        usable = overlap >= settings.least_overlap
        theta, memory = trees.select(usable, (better, after), (theta, memory))
        return theta, memory, refused + tf.cast(~usable, tf.float32), tf.minimum(least, overlap)

    start = (params, memory, tf.constant(0.0), tf.constant(1.0))
    theta, memory, refused, least = minibatches.passes(step, start, order)
    moved = trees.norm(trees.axpy(-1.0, params, theta))
    info = {"gradient_norm": trees.norm(problem.gradient(params)), "step_size": moved, "refused": refused, "overlap": least}
    return theta, memory, info


def natural(step: Step) -> Callable[..., tuple[Nest, Nest, Info]]:
    """theta <- theta + alpha d,  (F + eta I) d = grad J   (PG-107), alpha chosen by `step`.

    d.Fd is taken with the undamped F: with damping or few iterations it differs from g.d, and only it makes 1/2 (alpha d).F(alpha d) equal
    the radius (PG-108). It costs no product, since F d = g - rest - eta d. Where it is below eta d.d, that stands in its place: a policy
    nearly certain of its actions has hardly any curvature left, and a step that is short by the quadratic model would be thousands of nats
    by the true one.
    """

    def improve(problem: Problem, params: Nest, memory: Nest, settings: Settings, pace: tf.Tensor, order: Nest) -> tuple[Nest, Nest, Info]:
        g, eta, product = trees.flatten(problem.gradient(params)), settings.damping, problem.fisher()
        solution = linalg.conjugate_gradient(lambda v: trees.axpy(eta, v, product(v)), g, settings.cg_iterations)
        d, dd = solution.x, trees.dot(solution.x, solution.x)
        curvature = tf.maximum(trees.dot(d, g - solution.rest) - eta * dd, eta * dd)
        direction = Direction(trees.unflatten(d, params), curvature)
        params, info = step(problem, params, direction, settings, pace)
        known = {"gradient_norm": trees.norm(g), "cg_residual": solution.residual, "cg_breakdown": tf.cast(solution.broken, g.dtype)}
        return params, memory, {**known, **info}

    return improve


def fixed(problem: Problem, params: Nest, direction: Direction, settings: Settings, pace: tf.Tensor) -> tuple[Nest, Info]:
    """theta + alpha d with alpha = `step_size`: the natural gradient as the lecture writes it (PG-107)."""
    alpha = settings.step_size * pace
    return trees.axpy(alpha, direction.d, params), {"step_size": alpha}


def kl_scaled(problem: Problem, params: Nest, direction: Direction, settings: Settings, pace: tf.Tensor) -> tuple[Nest, Info]:
    """theta + alpha d with alpha = sqrt(2 epsilon / d.Fd): the longest step inside the quadratic trust region (PG-106)."""
    radius = settings.kl_radius * pace
    alpha = trust_region.step_size(direction.curvature, radius)
    return trees.axpy(alpha, direction.d, params), {"step_size": alpha, "kl_radius": radius}


def backtracking(problem: Problem, params: Nest, direction: Direction, settings: Settings, pace: tf.Tensor) -> tuple[Nest, Info]:
    """The first of alpha, alpha c, alpha c^2, .. that raises the surrogate and keeps the mean KL within epsilon   (PG-110).

    If none of `backtracks` lengths does, theta stays as it is and `accepted` is 0.
    Reference: Schulman et al. 2015 (arXiv:1502.05477), appendix C.
    """
    start, radius = problem.objective(params), settings.kl_radius * pace
    alpha_0 = trust_region.step_size(direction.curvature, radius)

    def acceptable(alpha: tf.Tensor) -> tf.Tensor:
        candidate = trees.axpy(alpha, direction.d, params)
        return (problem.objective(candidate) > start) & (problem.divergence(candidate) <= radius)

    def shorter(k: tf.Tensor, alpha: tf.Tensor, _: tf.Tensor) -> tuple[Any, ...]:
        alpha = alpha * settings.shrink
        return k + 1, alpha, acceptable(alpha)

    more = lambda k, _, accepted: (k < settings.backtracks) & ~accepted  # noqa: E731
    _, alpha, accepted = tf.while_loop(more, shorter, (tf.constant(1), alpha_0, acceptable(alpha_0)))
    alpha = tf.where(accepted, alpha, tf.zeros_like(alpha))
    info = {"step_size": alpha, "kl_radius": radius, "accepted": tf.cast(accepted, alpha.dtype)}
    return trees.select(accepted, trees.axpy(alpha, direction.d, params), params), info


IMPROVEMENTS = {
    "ascend": ascend,
    "epochs": epochs,
    "natural_fixed": natural(fixed),
    "natural": natural(kl_scaled),
    "natural_search": natural(backtracking),
}
