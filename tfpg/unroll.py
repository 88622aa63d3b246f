"""A traced program, operation by operation, in NumPy: what acting takes with a small network and a few rows of observations.

To start a program costs a fifth of a millisecond or more, one of NumPy's operations on a few rows about a microsecond. What is computed is
read from the program itself, so that there is no second version of any equation; it differs from it by what two ways to round make, in the
last digit or two. A program with an operation that is not listed here is not unrolled.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

OPERATIONS: dict[str, Callable[..., Any]] = {
    "AddV2": np.add,
    "BroadcastTo": np.broadcast_to,
    "Exp": np.exp,
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

ROWWISE = (np.add, np.multiply, np.subtract)
SMALL = 4096  # numbers for which NumPy takes longer to lay rows beside a vector than to add it to them


class Step(NamedTuple):
    what: Callable[..., Any]
    given: list[int]  # places of the values that it is done with
    slot: int  # the place of what it makes
    shape: list[int] | None  # of that, where it is known


def same(operation: Any) -> bool:
    """Whether an operation leaves its first argument as it is."""
    if operation.type == "Identity":
        return True
    before, after = operation.inputs[0].shape if operation.inputs else None, operation.outputs[0].shape
    return operation.type in ("Reshape", "BroadcastTo") and after.is_fully_defined() and before == after


def meaning(operation: Any) -> Callable[..., Any] | None:
    """What an operation does with arrays, or None if that is not known here."""
    if operation.type == "ArgMax":
        dtype = operation.get_attr("output_type").as_numpy_dtype
        return lambda x, axis: x.argmax(int(axis)).astype(dtype, copy=False)
    if operation.type == "MatMul" and (operation.get_attr("transpose_a") or operation.get_attr("transpose_b")):
        return None
    return OPERATIONS.get(operation.type)


def laid_out(step: Step, known: dict[int, np.ndarray], values: list[Any]) -> Step:
    """A step whose known vector has become as many rows as it is added to; those go to the end of the values."""
    if step.what not in ROWWISE or step.shape is None or np.prod(step.shape) > SMALL:
        return step
    given = list(step.given)
    for i, k in enumerate(given):
        if k in known and known[k].ndim and known[k].shape != tuple(step.shape):
            given[i] = len(values)
            values.append(np.broadcast_to(known[k], step.shape).copy())
    return step._replace(given=given)


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
        if same(operation) and not operation.control_inputs:
            place[outputs[0].name] = place[operation.inputs[0].name]
            continue
        slot = place.setdefault(outputs[0].name, len(place))
        if operation.type == "Const":
            constants[slot] = tf.make_ndarray(operation.get_attr("value"))
        elif what is None or len(outputs) != 1 or operation.control_inputs:
            return None
        else:
            shape = outputs[0].shape
            given = [place[tensor.name] for tensor in operation.inputs]
            steps.append(Step(what, given, slot, shape.as_list() if shape.is_fully_defined() else None))
    results = [place[tensor.name] for tensor in graph.outputs]
    made = {step.slot for step in steps}

    def bind(leaves: Sequence[tf.Tensor]) -> Callable[..., list[np.ndarray]]:
        known, left = {**constants, **{k: leaf.numpy() for k, leaf in enumerate(leaves[:fixed])}}, list[Step]()
        start = [known.get(k) for k in range(len(place))]
        with np.errstate(all="ignore"):
            for step in steps:
                if all(k in known for k in step.given):
                    start[step.slot] = known[step.slot] = step.what(*[known[k] for k in step.given])
                else:
                    left.append(laid_out(step, known, start))
        fresh = [k in made and k not in known for k in results]

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            values = start.copy()
            values[fixed : fixed + len(arrays)] = arrays
            with np.errstate(all="ignore"):
                for what, given, slot, _ in left:
                    values[slot] = what(*[values[k] for k in given])
            return [np.asarray(values[k]) if new else np.array(values[k]) for k, new in zip(results, fresh, strict=True)]

        return call

    return bind
