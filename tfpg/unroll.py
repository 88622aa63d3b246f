"""A traced program, operation by operation, in NumPy: what acting takes with a small network and a few rows of observations.

To start a program costs a fifth of a millisecond or more, one of NumPy's operations on a few rows about a microsecond. What is computed is
read from the program itself, so that there is no second version of any equation; it differs from it by what two ways to round make, in the
last digit or two. A program with an operation that is not listed here is not unrolled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

OPERATIONS: dict[str, Callable[..., Any]] = {
    "AddV2": np.add,
    "BroadcastTo": np.broadcast_to,
    "Exp": np.exp,
    "Identity": np.copy,
    "MatMul": np.matmul,
    "Maximum": np.maximum,
    "Minimum": np.minimum,
    "Mul": np.multiply,
    "Relu": lambda x: np.maximum(x, np.float32(0)),
    "Reshape": np.reshape,
    "Rsqrt": lambda x: 1 / np.sqrt(x),
    "Sub": np.subtract,
    "Tanh": np.tanh,
}

Step = tuple[Callable[..., Any], list[int], int]  # what to do, with which values, and which value it makes


def meaning(operation: Any) -> Callable[..., Any] | None:
    """What an operation does with arrays, or None if that is not known here."""
    if operation.type == "ArgMax":
        dtype = operation.get_attr("output_type").as_numpy_dtype
        return lambda x, axis: np.argmax(x, axis).astype(dtype)
    if operation.type == "MatMul" and (operation.get_attr("transpose_a") or operation.get_attr("transpose_b")):
        return None
    return OPERATIONS.get(operation.type)


def unrolled(program: Any, fixed: int) -> Callable[[Sequence[tf.Tensor]], Callable[..., list[np.ndarray]]] | None:
    """`bind(first arguments) -> call(*the other arrays) -> outputs`, or None if the program cannot be unrolled.

    Args: program: a concrete function; fixed: how many arguments come first: what depends on them alone is computed once.
    """
    graph, steps = program.graph, list[Step]()
    place = {tensor.name: k for k, tensor in enumerate(graph.inputs)}
    constants = {place[inside.name]: outside.numpy() for outside, inside in graph.captures}
    for operation in graph.get_operations():
        if operation.type in ("Placeholder", "NoOp"):
            continue
        what, outputs = meaning(operation), operation.outputs
        slot = place.setdefault(outputs[0].name, len(place))
        if operation.type == "Const":
            constants[slot] = tf.make_ndarray(operation.get_attr("value"))
        elif what is None or len(outputs) != 1 or operation.control_inputs:
            return None
        else:
            steps.append((what, [place[tensor.name] for tensor in operation.inputs], slot))
    results = [place[tensor.name] for tensor in graph.outputs]

    def bind(leaves: Sequence[tf.Tensor]) -> Callable[..., list[np.ndarray]]:
        known, left = {**constants, **{k: leaf.numpy() for k, leaf in enumerate(leaves[:fixed])}}, list[Step]()
        with np.errstate(all="ignore"):
            for what, given, slot in steps:
                if all(k in known for k in given):
                    known[slot] = what(*[known[k] for k in given])
                else:
                    left.append((what, given, slot))
        start = [known.get(k) for k in range(len(place))]

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            values = start.copy()
            values[fixed : fixed + len(arrays)] = arrays
            with np.errstate(all="ignore"):
                for what, given, slot in left:
                    values[slot] = what(*[values[k] for k in given])
            return [np.asarray(values[k]) for k in results]

        return call

    return bind
