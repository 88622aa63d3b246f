"""Acting from Python: programs that are called once for each step or batch, with so little to do that the call itself is what costs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfpg import learner
from tfpg.types import Nest, Policy, TrainState

Call = Callable[..., list[np.ndarray]]


def direct(function: Callable[..., Nest]) -> Callable[..., Nest]:
    """The function as a program that is called as the operation it is.

    It is traced at its first call, and later ones must have arguments of the same structure, shapes and types: nobody looks. Looking takes
    milliseconds where a training state is among them.
    Args: function: nests of tensors or arrays -> nest of tensors.
    """
    traced: list[Any] = []

    def call(*given: Nest) -> Nest:
        if not traced:
            specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), given)
            traced.append(tf.function(function, autograph=False).get_concrete_function(*specs))
        concrete = traced[0]
        leaves, types = [*tf.nest.flatten(given), *concrete.captured_inputs], [output.dtype for output in concrete.outputs]
        outputs = tf.raw_ops.StatefulPartitionedCall(args=leaves, Tout=types, f=concrete)
        return tf.nest.pack_sequence_as(concrete.structured_outputs, outputs)

    return call


def program(function: Callable[..., Nest], like: TrainState, *examples: np.ndarray) -> Callable[[TrainState], Call]:
    """`use(state) -> call(*arrays)`, which is the tensors of `function(state, *arrays)` as NumPy arrays, in order.

    The function may read the policy and the statistics of observations. It is called as the operation that it is: checking the arguments
    and carrying a whole training state would take three times as long as running a small network. Operations are not fused by XLA, whose
    own launch takes longer than a few of them.

    Args: examples: arguments of the shapes and types of all later ones.
    """
    used = (like.policy, like.observations)

    def inside(leaves: list[tf.Tensor], *given: tf.Tensor) -> Nest:
        policy, observations = tf.nest.pack_sequence_as(used, leaves)
        return function(like._replace(policy=policy, observations=observations), *given)

    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), (tf.nest.flatten(used), *examples))
    concrete = tf.function(inside, autograph=False).get_concrete_function(*specs)
    types = [output.dtype for output in concrete.outputs]

    def use(state: TrainState) -> Call:
        leaves, captured = tf.nest.flatten((state.policy, state.observations)), concrete.captured_inputs

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            outputs = tf.raw_ops.StatefulPartitionedCall(args=[*leaves, *arrays, *captured], Tout=types, f=concrete)
            return [output.numpy() for output in outputs]

        return call

    return use


def no_memory(policy: Policy, n: int) -> list[np.ndarray]:
    """What a policy remembers of n episodes at their start, as arguments of a program: one array [n, H], or none."""
    return [memory.numpy() for memory in tf.nest.flatten(learner.no_memory(policy, n))]


def keep(running: np.ndarray, memory: list[np.ndarray]) -> list[np.ndarray]:
    """What a policy remembers where an episode is running [N], and nothing elsewhere."""
    return [np.where(running[:, None], x, np.zeros_like(x)) for x in memory]
