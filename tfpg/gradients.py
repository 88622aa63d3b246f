"""Derivatives of policies: the gradient of an objective, per-sample scores, and the Fisher matrix as a product."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfpg import trees
from tfpg.types import Nest, Policy


def gradient(objective: Callable[[Nest], tf.Tensor], params: Nest) -> tuple[tf.Tensor, Nest]:
    """J(theta) and grad J(theta), shaped like theta; leaves that J does not use get zeros."""
    with tf.GradientTape() as tape:
        tape.watch(params)
        value = objective(params)
    return value, tape.gradient(value, params, unconnected_gradients="zero")


def score(policy: Policy, params: Nest, observation: tf.Tensor, action: tf.Tensor) -> Nest:
    """g = grad_theta log pi_theta(a|o), one per sample   (PG-22): leaves of shape [..., *leaf]; zeros for leaves that pi does not use.

    A full Jacobian: for tests, small problems and teaching.

    Args: observation [..., O] with at least one leading axis; action [...] or [..., A].
    """
    with tf.GradientTape() as tape:
        tape.watch(params)
        log_prob = policy.distribution(policy.parameters(params, observation)).log_prob(action)
    return tape.jacobian(log_prob, params, unconnected_gradients="zero")


def head_fisher(distribution: Callable[[Nest], Any], p: Nest, u: Nest) -> Nest:
    """F_head u, per sample: the Hessian of KL(p || q) in the distribution's own parameters q, at q = p, times u   (PG-103, PG-104).

    Args: distribution: parameters -> TFP distribution; p, u: nests of [..., K]. Returns: like p.
    """
    fixed = distribution(tf.nest.map_structure(tf.stop_gradient, p))
    with tf.autodiff.ForwardAccumulator(p, u) as accumulator:
        with tf.GradientTape() as tape:
            tape.watch(p)
            divergence = fixed.kl_divergence(distribution(p))
        slope = tape.gradient(divergence, p)
    return accumulator.jvp(slope)


def fisher_vector_product(policy: Policy, params: Nest, observation: tf.Tensor, weight: tf.Tensor, v: Nest) -> Nest:
    """F v = sum_m w_m J_m^T F_head(o_m) J_m v   (PG-105), J_m the Jacobian of the distribution's parameters at o_m.

    This Gauss-Newton form is the Fisher matrix E[g g^T] exactly, expected over the policy's own actions: one pass forward with
    tangents, the head's Fisher matrix per sample, one pass back.

    Args: observation [M, O]; weight [M], not differentiated; v: nest like params. Returns: nest like params.
    Reference: Schulman et al. 2015 (arXiv:1502.05477), appendix C.
    """
    with tf.GradientTape() as tape:
        tape.watch(params)
        with tf.autodiff.ForwardAccumulator(params, v) as accumulator:
            p = policy.parameters(params, observation)
    jv = accumulator.jvp(p, unconnected_gradients="zero")
    fjv = head_fisher(policy.distribution, p, jv)
    weighted = tf.nest.map_structure(lambda leaf: leaf * tf.reshape(weight, [-1] + [1] * (leaf.shape.rank - 1)), fjv)
    return tape.gradient(p, params, output_gradients=weighted, unconnected_gradients="zero")


def blocked_fisher_vector_product(
    policy: Policy, params: Nest, observation: tf.Tensor, weight: tf.Tensor, block: int
) -> Callable[[Nest], Nest]:
    """v -> F v, walking the batch in blocks of samples so that activations stay in cache and memory does not grow with the batch.

    The last block is filled up with copies of a sample, at weight 0. Args: as above, with M known at trace time; block: samples per block.
    """
    samples = observation.shape[0]
    blocks = -(-samples // block)
    if blocks <= 1:
        return lambda v: fisher_vector_product(policy, params, observation, weight, v)
    padding = blocks * block - samples
    filled = tf.concat([observation, tf.repeat(observation[:1], padding, axis=0)], axis=0)
    observations = tf.reshape(filled, [blocks, block, *observation.shape[1:]])
    weights = tf.reshape(tf.concat([weight, tf.zeros([padding], weight.dtype)], axis=0), [blocks, block])

    def product(v: Nest) -> Nest:
        def add(i: tf.Tensor, total: Nest) -> tuple[tf.Tensor, Nest]:
            return i + 1, trees.axpy(1.0, fisher_vector_product(policy, params, observations[i], weights[i], v), total)

        return tf.while_loop(lambda i, _: i < blocks, add, (tf.constant(0), trees.zeros_like(v)))[1]

    return product
