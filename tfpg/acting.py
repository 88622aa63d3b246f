"""Acting from Python: a program that is called once for each step, with so little to do that the call itself is what costs."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfpg import learner
from tfpg.types import Nest, Policy, TrainState

Call = Callable[..., list[np.ndarray]]


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
