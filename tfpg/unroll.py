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

ROWWISE = ("AddV2", "Mul", "Sub")
SMALL = 4096  # numbers for which NumPy takes longer to lay rows beside a vector than to add it to them


class Step(NamedTuple):
    what: Callable[..., Any]
    given: list[int]  # places of the values that it is done with
    slot: int  # the place of what it makes


def worth_laying_out(vector: tf.TensorShape, rows: tf.TensorShape) -> bool:
    """Whether a vector that is added to rows is better laid out as so many rows once."""
    return bool(vector.rank) and rows.is_fully_defined() and vector != rows and rows.num_elements() <= SMALL


def laying_out(shape: list[int]) -> Callable[[np.ndarray], np.ndarray]:
    """x -> x broadcast to the shape, written out."""

    def lay(x: np.ndarray) -> np.ndarray:
        rows = np.empty(shape, x.dtype)
        rows[...] = x
        return rows

    return lay


def same(operation: Any) -> bool:
    """Whether an operation leaves its first argument as it is."""
    if operation.type not in ("Reshape", "BroadcastTo"):
        return operation.type == "Identity"
    before, after = operation.inputs[0].shape, operation.outputs[0].shape
    return after.is_fully_defined() and before == after


def meaning(operation: Any) -> Callable[..., Any] | None:
    """What an operation does with arrays, or None if that is not known here."""
    if operation.type == "Const":
        value = tf.make_ndarray(operation.get_attr("value"))
        return lambda: value
    if operation.type == "ArgMax":
        dtype = operation.get_attr("output_type").as_numpy_dtype
        return lambda x, axis: x.argmax(int(axis)).astype(dtype, copy=False)
    if operation.type == "MatMul" and (operation.get_attr("transpose_a") or operation.get_attr("transpose_b")):
        return None
    return OPERATIONS.get(operation.type)


class Plan(NamedTuple):
    """A program's operations in order, and the values that they share."""

    once: list[Step]  # those that the first arguments alone decide
    each: list[Step]
    start: list[Any]  # values: arguments first; None where one is to come
    results: list[int]  # places of the outputs


def planned(graph: Any, fixed: int) -> Plan | None:
    """The plan of a graph, or None where it has an operation that is not known here."""
    plan = Plan([], [], [None] * len(graph.inputs), [])
    place = {tensor.name: k for k, tensor in enumerate(graph.inputs)}
    known = {*range(fixed), *(place[inside.name] for _, inside in graph.captures)}
    for outside, inside in graph.captures:
        plan.start[place[inside.name]] = outside.numpy()

    def do(what: Callable[..., Any], given: list[int]) -> int:
        """Takes a step into the plan. Returns the place of what it makes."""
        slot, decided = len(plan.start), known.issuperset(given)
        plan.start.append(None)
        (plan.once if decided else plan.each).append(Step(what, given, slot))
        if decided:
            known.add(slot)
        return slot

    for operation in graph.get_operations():
        if operation.type in ("Placeholder", "NoOp"):
            continue
        what, given = meaning(operation), [place[tensor.name] for tensor in operation.inputs]
        if what is None or len(operation.outputs) != 1 or operation.control_inputs:
            return None
        (output,) = operation.outputs
        if operation.type in ROWWISE and not known.issuperset(given):
            for i, tensor in enumerate(operation.inputs):
                if given[i] in known and worth_laying_out(tensor.shape, output.shape):
                    given[i] = do(laying_out(output.shape.as_list()), [given[i]])
        place[output.name] = given[0] if same(operation) else do(what, given)
    plan.results.extend(place[tensor.name] for tensor in graph.outputs)
    return plan


def unrolled(program: Any, fixed: int) -> Callable[[Sequence[Any]], Callable[..., list[np.ndarray]]] | None:
    """`bind(first arguments) -> call(*the other arrays) -> outputs`, or None if the program cannot be unrolled.

    Args: program: a concrete function; fixed: how many arguments come first: what depends on them alone is computed once.
    """
    plan = planned(program.graph, fixed)
    if plan is None:
        return None
    made = {step.slot for step in plan.each}

    def done(steps: list[Step], values: list[Any]) -> list[Any]:
        with np.errstate(all="ignore"):
            for what, given, slot in steps:
                values[slot] = what(*[values[k] for k in given])
        return values

    def bind(leaves: Sequence[Any]) -> Callable[..., list[np.ndarray]]:
        bound = done(plan.once, [*map(np.asarray, leaves[:fixed]), *plan.start[fixed:]])

        def call(*arrays: np.ndarray) -> list[np.ndarray]:
            values = bound.copy()
            values[fixed : fixed + len(arrays)] = arrays
            values = done(plan.each, values)
            found = [np.asarray(values[k]) for k in plan.results]
            return [x if k in made and x.base is None else x.copy() for k, x in zip(plan.results, found, strict=True)]

        return call

    return bind
