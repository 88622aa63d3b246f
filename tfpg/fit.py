"""Fitting by minibatches: critics and models."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfpg import critics, gradients, minibatches, models, trees
from tfpg.blocks import BLOCK, in_blocks, over_blocks
from tfpg.learner import Fit, Learner
from tfpg.types import Nest


def by_minibatches(
    fit: Fit, loss: Callable[[Nest, Nest], tf.Tensor], data: Nest, share: tf.Tensor, params: Nest, memory: Nest, order: minibatches.Orders,
    piece: Callable[..., Any] | None = None,
) -> tuple[Nest, Nest]:  # fmt: skip
    """Descends `loss(phi, (data, weight) of a minibatch)` over minibatches, whose weights are their shares made to sum to 1.

    Args: data: nest of [M, ...]; share [M]: how much each sample counts, or whether it does; piece: makes a program of each step. Returns:
    phi and the optimiser's memory.
    """

    def step(rows: tf.Tensor | None, carry: Nest) -> Nest:
        phi, memory = carry
        own = (data, share) if rows is None else tf.nest.map_structure(lambda x: tf.gather(x, rows), (data, share))
        counts = tf.cast(own[1], tf.nest.flatten(phi)[0].dtype)
        w = counts / tf.maximum(tf.reduce_sum(counts), 1e-12)
        blocks = in_blocks((own[0], w), BLOCK)
        slope = over_blocks(lambda block: gradients.gradient(lambda phi: -loss(phi, block), phi)[1], blocks, phi)
        increment, memory = fit.optimizer.update(slope, memory)
        return trees.axpy(1.0, increment, phi), memory

    return minibatches.passes(step, (params, memory), order, piece)


def fit_critic(
    learner: Learner, params: Nest, memory: Nest, observation: Nest, action: tf.Tensor, target: tf.Tensor, share: tf.Tensor,
    order: minibatches.Orders, look: Callable[..., tuple[tf.Tensor, ...]] = lambda *rows: rows, piece: Callable[..., Any] | None = None,
) -> tuple[Nest, Nest]:  # fmt: skip
    """Minimises 1/2 (target - V(o))^2, or that of Q(o, a), on average over samples: observation [M, O], action, target and share [M].

    Args: share, piece: as for `by_minibatches`; look: makes o, a and target of some rows of the three, of which observation may be a nest.
    """

    def loss(phi: Nest, part: Nest) -> tf.Tensor:
        o, a, y = look(*part[0])
        return critics.value_loss(learner.value.apply(phi, o, a), y, part[1])

    return by_minibatches(learner.critic, loss, (observation, action, target), share, params, memory, order, piece)


def fit_model(
    learner: Learner, params: Nest, memory: Nest, observation: tf.Tensor, action: tf.Tensor, change: tf.Tensor, reward: tf.Tensor,
    share: tf.Tensor, order: minibatches.Orders,
) -> tuple[Nest, Nest]:  # fmt: skip
    """Minimises |f_phi(o, a) - (o' - o, r)|^2 on average   (PG-120). Args: [M, O], [M, A], [M, O], [M], [M]."""
    assert learner.model is not None
    net = learner.model

    def loss(phi: Nest, part: Nest) -> tf.Tensor:
        (inputs, outputs), w = part
        return models.model_loss(net.apply(phi, inputs)[:, None], outputs[:, None], w[:, None])

    data = tf.concat([observation, action], -1), tf.concat([change, reward[:, None]], -1)
    return by_minibatches(learner.critic, loss, data, share, params, memory, order)
