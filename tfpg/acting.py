"""Acting from Python: programs that are called once for each step or batch, with so little to do that the call itself is what costs."""

import operator
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfpg import learner, trees
from tfpg.types import Nest, Policy, TrainState
from tfpg.unroll import unrolled

Call = Callable[..., list[np.ndarray]]


def traced(function: Callable[..., Nest], *examples: Nest) -> Any:
    """The function as a program of arguments like the examples."""
    specs = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), examples)
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def operation(f: Any, types: list[tf.DType], captured: list[tf.Tensor], rewrite: bool) -> Callable[[list[Any]], list[tf.Tensor]]:
    """A traced program as the operation that it is: `run(leaves of the arguments) -> tensors`.

    Args:
        f: the program, or its name where TensorFlow knows it; types: of its outputs; captured: what it takes after its arguments.
        rewrite: whether TensorFlow looks for a better graph before it runs this one. A second for a whole update, and no faster then.
    """
    settings = tf.compat.v1.ConfigProto()
    settings.graph_options.rewrite_options.disable_meta_optimizer = not rewrite
    proto = settings.SerializeToString()

    def run(leaves: list[Any]) -> list[tf.Tensor]:
        return tf.raw_ops.StatefulPartitionedCall(args=[*leaves, *captured], Tout=types, f=f, config_proto=proto)

    return run


def called(program: Any, rewrite: bool) -> Callable[[list[Any]], list[tf.Tensor]]:
    """A traced program as an operation."""
    return operation(program, [output.dtype for output in program.outputs], program.captured_inputs, rewrite)


def packed(run: Callable[[list[Any]], list[tf.Tensor]], outputs: Nest) -> Callable[..., Nest]:
    """An operation on leaves as a function of nests, whose outputs look like those given."""
    pack = trees.packer(outputs)
    return lambda *given: pack(run(tf.nest.flatten(given)))


Direct = Callable[[Callable[..., Nest], str], Callable[..., Nest]]
"""Makes a program of a function of that name."""


def direct(function: Callable[..., Nest], _name: str = "") -> Callable[..., Nest]:
    """The function as a program that is called as the operation it is.

    It is traced at its first call, and later ones must have arguments of the same structure, shapes and types: nobody looks. Looking takes
    milliseconds where a training state is among them.
    Args: function: nests of tensors or arrays -> nest of tensors.
    """

    def begin(*given: Nest) -> Callable[..., Nest]:
        program = traced(function, *given)
        return packed(called(program, rewrite=False), program.structured_outputs)

    return at_first_call(begin)


def at_first_call(begin: Callable[..., Callable[..., Nest]]) -> Callable[..., Nest]:
    """A function that its first arguments make, once, whichever thread brings them."""
    made: list[Callable[..., Nest]] = []
    making = threading.Lock()

    def call(*given: Nest) -> Nest:
        if not made:
            with making:
                if not made:
                    made.append(begin(*given))
        return made[0](*given)

    return call


def ahead(draw: Callable[[tf.Tensor], Nest], types: Nest, count: int, make: Direct = direct) -> Callable[[np.ndarray], Nest]:
    """draw(seed [2]) as arrays, for seeds that count on, [w, k], [w, k + 1], ..: so many draws at once, since a program's start costs more.

    Args: draw: seed [2] -> nest of tensors of these types; count: how many.
    """
    many = make(lambda seeds: tf.map_fn(draw, seeds, fn_output_signature=types), "draw")
    known: dict[tuple[int, int], Nest] = {}

    def drawn(seed: np.ndarray) -> Nest:
        word, k = np.asarray(seed).tolist()
        if (word, k) not in known:
            found = tf.nest.map_structure(lambda x: x.numpy(), many(tf.constant([[word, k + i] for i in range(count)])))
            known.clear()
            known.update({(word, k + i): tf.nest.map_structure(operator.itemgetter(i), found) for i in range(count)})
        return known[word, k]

    return drawn


def program(function: Callable[..., Nest], like: TrainState, *examples: np.ndarray, unroll: bool = False) -> Callable[[TrainState], Call]:
    """`use(state) -> call(*arrays)`, which is the tensors of `function(state, *arrays)` as NumPy arrays, in order.

    The function may read the policy and the statistics of observations. It is called as the operation that it is: checking the arguments
    and carrying a whole training state would take three times as long as running a small network. Operations are not fused by XLA, whose
    own launch takes longer than a few of them.

    Args: examples: arguments of the shapes and types of all later ones; unroll: whether to do without TensorFlow where that can be.
    """
    used = (like.policy, like.observations)

    def inside(leaves: list[tf.Tensor], *given: tf.Tensor) -> Nest:
        policy, observations = tf.nest.pack_sequence_as(used, leaves)
        return function(like._replace(policy=policy, observations=observations), *given)

    made = traced(inside, tf.nest.flatten(used), *examples)
    run, bind = called(made, rewrite=True), unrolled(made, len(tf.nest.flatten(used))) if unroll else None

    def use(state: TrainState) -> Call:
        leaves = tf.nest.flatten((state.policy, state.observations))
        if bind is not None:
            return bind(leaves)
        fixed = [tf.convert_to_tensor(leaf) for leaf in leaves]
        return lambda *arrays: [output.numpy() for output in run([*fixed, *map(tf.constant, arrays)])]

    return use


def no_memory(policy: Policy, n: int) -> list[np.ndarray]:
    """What a policy remembers of n episodes at their start, as arguments of a program: one array [n, H], or none."""
    return [memory.numpy() for memory in tf.nest.flatten(learner.no_memory(policy, n))]


def keep(running: np.ndarray, memory: list[np.ndarray]) -> list[np.ndarray]:
    """What a policy remembers where an episode is running [N], and nothing elsewhere."""
    return [np.where(running[:, None], x, np.zeros_like(x)) for x in memory]
