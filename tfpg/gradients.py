"""Derivatives of policies: the gradient of an objective, per-sample scores, and the Fisher matrix as a product."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfpg import nets
from tfpg.blocks import over_blocks
from tfpg.types import Factors, Nest, Policy


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


def weighed_head(policy: Policy, p: Nest, u: Nest, weight: tf.Tensor) -> Nest:
    """w_m F_head u of each sample: p, u nests of [M, ...]; weight [M]."""
    return tf.nest.map_structure(
        lambda leaf: leaf * tf.reshape(weight, [-1] + [1] * (leaf.shape.rank - 1)), head_fisher(policy.distribution, p, u)
    )


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
    weighed = weighed_head(policy, p, accumulator.jvp(p, unconnected_gradients="zero"), weight)
    return tape.gradient(p, params, output_gradients=weighed, unconnected_gradients="zero")


def own_part(policy: Policy, nest: Nest) -> Nest:
    """What belongs to the policy's network, of a nest like theta."""
    return nest[policy.part] if policy.part else nest


def combinations(policy: Policy, outputs: int) -> tf.Tensor:
    """c [K, R]: the combinations of a network's K outputs that matter, each by itself, or y_r - y_K where only differences do."""
    if not policy.relative:
        return tf.eye(outputs)
    return tf.eye(outputs)[:, :-1] - tf.eye(outputs)[:, -1:]


def fisher_from_factors(policy: Policy, params: Nest, f: Factors, weight: tf.Tensor, v: Nest) -> Nest:
    """`fisher_vector_product` from the factors of the network's Jacobian, which do not change from product to product   (PG-105).

    Two matrix products for each layer instead of five, and R passes over its width. Where only differences of outputs matter, a tangent
    that moves the last output not at all stands for all those with the same differences.

    Args: f: of M samples, for `combinations`; weight [M]; v: nest like params. Returns: nest like params.
    """
    along = nets.forward(f, own_part(policy, v))
    missing = f.output.shape[-1] - along.shape[-1]
    with tf.GradientTape() as tape:
        tape.watch((params, f.output))
        with tf.autodiff.ForwardAccumulator((params, f.output), (v, tf.pad(along, [[0, 0], [0, missing]]))) as accumulator:
            p = policy.head(params, f.output)
    weighed = weighed_head(policy, p, accumulator.jvp(p, unconnected_gradients="zero"), weight)
    rest, u = tape.gradient(p, (params, f.output), output_gradients=weighed, unconnected_gradients="zero")
    found = nets.back(f, u[:, : along.shape[-1]])
    return {**rest, policy.part: found} if policy.part else found


KEPT_BYTES = 2**28  # of each of the parts that were asked for, however many a large batch has
FEW = 4
"""Combinations up to which passes for each of them take less than the products they save. At 5 and 6 both take as long, for all widths."""


def combined(policy: Policy, params: Nest) -> int:
    """R, how many combinations of the network's outputs matter; 0 of a network without factors."""
    if policy.net is None or policy.net.factors is None:
        return 0
    return own_part(policy, params)[-1]["kernel"].shape[1] - policy.relative


def worth_keeping(policy: Policy, params: Nest, samples: int) -> bool:
    """Whether factors make the product faster, in memory that does not grow with the batch: if not, each product begins anew."""
    rows = combined(policy, params)
    if not 0 < rows <= FEW:
        return False
    inputs = [layer["kernel"].shape[0] for layer in own_part(policy, params)]
    numbers = sum(inputs) + sum(nets.kept_turned(inputs)) + rows * sum(inputs[1:])
    return 4 * samples * numbers <= KEPT_BYTES


def fisher_of_single(policy: Policy, params: Nest, observation: tf.Tensor, weight: tf.Tensor, v: Nest) -> Nest:
    """`fisher_vector_product` of a network of which a single combination matters, R = 1, from factors made for it alone   (PG-105).

    They take R + 1 matrix products for each layer and the rest two, where tangents and a pass back take five.
    """
    w = own_part(policy, params)
    c = tf.cast(combinations(policy, w[-1]["kernel"].shape[1]), observation.dtype)
    return fisher_from_factors(policy, params, policy.net.factors(w, observation, c), weight, v)


Look = Callable[[Any], tf.Tensor]
"""A block of a batch -> what the network reads, [size, O]."""


def as_is(block: tf.Tensor) -> tf.Tensor:
    """The `Look` at observations that are normalised already."""
    return block


def keep_factors(policy: Policy, params: Nest, blocks: Nest, look: Look = as_is) -> Factors:
    """The factors of each block, for all Fisher products of one batch: leaves [blocks, size, ...] -> leaves [blocks, ...]."""
    net, w = policy.net, own_part(policy, params)
    dtype, outputs = w[-1]["kernel"].dtype, w[-1]["kernel"].shape[1]
    c = tf.cast(combinations(policy, outputs), dtype)
    of = lambda block: nets.to_keep(net.factors(w, look(block), c))  # noqa: E731
    if tf.nest.flatten(blocks)[0].shape[0] == 1:
        return tf.nest.map_structure(lambda x: x[None], of(tf.nest.map_structure(lambda x: x[0], blocks)))
    turned = (0,) * len(nets.kept_turned([layer["kernel"].shape[0] for layer in w]))
    types = tf.nest.map_structure(lambda _: dtype, Factors(0, (0,) * len(w), (0,) * (len(w) - 1), 0, turned))
    return tf.map_fn(of, blocks, fn_output_signature=types)


def fisher_product(policy: Policy, params: Nest, data: Nest, weight: tf.Tensor, v: Nest, look: Look = as_is) -> Nest:
    """F v   (PG-105), block by block.

    Args: data: factors, or blocks for `look`, leaves [blocks, size, ...]; weight [blocks, size]; v: nest like params. Returns: like params.
    """
    if isinstance(data, Factors):
        return over_blocks(lambda block: fisher_from_factors(policy, params, block[0], block[1], v), (data, weight), v)
    product = fisher_of_single if combined(policy, params) == 1 else fisher_vector_product
    return over_blocks(lambda block: product(policy, params, look(block[0]), block[1], v), (data, weight), v)
