"""Linear systems: conjugate gradient where the matrix exists only as a product, the pseudo-inverse where it is small."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfpg import checks, trees
from tfpg.types import Nest


class Solution(NamedTuple):
    """x with A x = b up to `rest` = b - A x, as the recursion sees it, after `iterations` products; `residual` = ||rest|| / ||b||.

    `broken` says that it ended at a direction p without curvature, p.Ap <= 0 or no number: A is singular there, or not what it should be.
    """

    x: Nest
    residual: tf.Tensor
    iterations: tf.Tensor
    rest: Nest
    broken: tf.Tensor


def conjugate_gradient(matvec: Callable[[Nest], Nest], b: Nest, iterations: int, tolerance: float = 1e-10) -> Solution:
    """Solves A x = b for symmetric positive semi-definite A, given v -> A v   (PG-109).

    Each step: alpha = r.r / p.Ap;  x += alpha p;  r -= alpha A p;  p = r + (r'.r' / r.r) p. It stops early when ||r|| <= tolerance ||b||,
    or when p.Ap <= 0 (the direction carries no curvature), so a singular consistent system gives its minimum-norm solution and b = 0
    gives 0. Nothing raises: the residual is part of the result. No gradient flows through it.

    Args: matvec: nest -> nest like b; b: nest; iterations: at most so many products; tolerance: relative residual to stop at.
    Reference: Hestenes and Stiefel 1952.
    """
    bb = trees.dot(b, b)
    enough = tf.cast(tolerance, bb.dtype) ** 2 * bb

    def unfinished(k: tf.Tensor, _x: Nest, _r: Nest, _p: Nest, rr: tf.Tensor, curved: tf.Tensor) -> tf.Tensor:
        return (k < iterations) & (rr > enough) & curved

    def step(k: tf.Tensor, x: Nest, r: Nest, p: Nest, rr: tf.Tensor, _: tf.Tensor) -> tuple[Nest, ...]:
        ap = matvec(p)
        pap = trees.dot(p, ap)
        curved = pap > 0
        alpha = tf.where(curved, rr / tf.where(curved, pap, tf.ones_like(pap)), tf.zeros_like(pap))
        r = trees.axpy(-alpha, ap, r)
        rr_next = trees.dot(r, r)
        return k + 1, trees.axpy(alpha, p, x), r, trees.axpy(rr_next / rr, p, r), rr_next, curved

    start = (tf.constant(0), trees.zeros_like(b), b, b, bb, tf.constant(True))
    k, x, rest, _, rr, curved = tf.while_loop(unfinished, step, start)
    safe = tf.where(bb > 0, bb, tf.ones_like(bb))
    return tf.nest.map_structure(tf.stop_gradient, Solution(x, tf.sqrt(rr / safe), k, rest, ~curved))


def row_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums over the last axis, as a product with ones: [..., K] -> [...].

    A compiled sum keeps the order of its numbers and adds one at a time, a product adds many: on processors it takes a third of the time.
    """
    rows = tf.reshape(x, [-1, x.shape[-1]])
    return tf.reshape(tf.matmul(rows, tf.ones([x.shape[-1], 1], x.dtype)), tf.shape(x)[:-1])


def column_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums over the first axis, likewise: [M, K] -> [K]."""
    return few_by_many(tf.ones([x.shape[0], 1], x.dtype), x)[0]


def turned(x: tf.Tensor) -> tf.Tensor:
    """x^T as an array of its own.

    XLA takes a transposed operand as it lies. If that is the left side of a product, another library multiplies, which copies it first.
    """
    return tf.matmul(tf.eye(x.shape[1], dtype=x.dtype), x, transpose_b=True)


def few_by_many(u: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    """u^T h for u of few columns: [M, R], [M, H] -> [R, H].

    A single one is taken twice: XLA computes a product with one short vector number by number, and one of two rows or more as a product;
    and rows put together are an array of their own.
    """
    rows = tf.concat(2 * [tf.transpose(u)], axis=0) if u.shape[1] == 1 else turned(u)
    return tf.matmul(rows, h)[: u.shape[1]]


def identity(matrix: tf.Tensor) -> tf.Tensor:
    """I, like a square matrix [P, P]."""
    return tf.eye(tf.shape(matrix)[0], dtype=matrix.dtype)


def solve(matrix: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """A^{-1} b for a regular A, by elimination. Args: matrix [P, P]; b [P]. Returns: [P]."""
    return tf.squeeze(tf.linalg.solve(matrix, b[:, None]), axis=1)


@checks.component
def shortest_solution(matrix: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """A^+ b for symmetric A   (PG-107): the shortest of the vectors that solve A x = b best. A may be singular.

    One step of refinement, x + A^+ (b - A x), makes up for XLA's singular values, which are good to seven digits only.
    Args: matrix [P, P] symmetric; b [P]. Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(b=(b, "P"), matrix=(matrix, "P P"))
    inverse = tf.linalg.pinv(matrix)
    x = tf.linalg.matvec(inverse, b)
    return x + tf.linalg.matvec(inverse, b - tf.linalg.matvec(matrix, x))
