"""The exact mean and covariance of any estimator: by listing every batch it could be given."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg.types import Trajectory

Estimator = Callable[[Trajectory, tf.Tensor], tf.Tensor]
"""A batch of N trajectories and their scores [T, N, P] -> [P]."""


MOST = 10_000_000
"""Trajectories that may be listed: more would not fit into memory."""


def real(x: Any) -> tf.Tensor:
    """x in float64: exact quantities take lists, arrays and tensors of any type."""
    return tf.cast(tf.convert_to_tensor(x, dtype_hint=tf.float64), tf.float64)


def two_numbers(name: str, x: tf.Tensor) -> None:
    """Raises `ValueError` naming the argument unless x has the shape [2]."""
    if np.shape(x) != (2,):
        raise ValueError(f"{name} has shape {np.shape(x)}: it must be two numbers")


def listable(number: float, horizon: int) -> None:
    """Raises `ValueError` if there are too many trajectories to list."""
    if number > MOST:
        raise ValueError(f"horizon is {horizon}: that makes more than {MOST:,} trajectories, too many to list; `sample` draws some")


class Listing(NamedTuple):
    """All K trajectories as one batch of K columns, the probability [K] of each, and the scores [T, K, P], zero on padding."""

    trajectory: Trajectory
    probability: tf.Tensor
    score_t: tf.Tensor


class Moments(NamedTuple):
    """E[g^] [P], E[g^] - grad J [P] and Cov[g^] [P, P] of an estimator."""

    mean: tf.Tensor
    bias: tf.Tensor
    covariance: tf.Tensor

    @property
    def variance(self) -> tf.Tensor:
        """Var[g^_p], the diagonal of the covariance: [P]. Its sum is the trace criterion."""
        return tf.linalg.diag_part(self.covariance)


def moments(listing: Listing, estimate: Estimator, target: tf.Tensor, episodes: int = 1) -> Moments:
    """E[g^] = sum_batch p(batch) g^(batch), and Cov[g^] likewise   (PG-44, PG-68): over all K^N batches of N independent trajectories.

    Args: listing of K trajectories; estimate: (trajectory [T, N], score_t [T, N, P]) -> [P], called on each batch inside one program;
    target [P], what the bias is measured from, such as grad J; episodes N. Returns: `Moments`.
    """
    columns = listing.score_t.shape[1]
    batches = tf.constant(np.indices([columns] * episodes).reshape(episodes, -1).T)

    @tf.function(autograph=False)
    def estimates() -> tf.Tensor:
        def one(batch: tf.Tensor) -> tf.Tensor:
            pick: Any = lambda x: tf.gather(x, batch, axis=1)  # noqa: E731
            return estimate(tf.nest.map_structure(pick, listing.trajectory), pick(listing.score_t))

        return tf.map_fn(one, batches, fn_output_signature=listing.score_t.dtype)

    g, p = estimates(), tf.reduce_prod(tf.gather(listing.probability, batches), axis=1)
    mean = tf.linalg.matvec(g, p, transpose_a=True)
    return Moments(mean, mean - target, tf.einsum("b,bp,bq->pq", p, g - mean, g - mean))
