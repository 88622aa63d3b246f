"""Traced programs, kept beside the compiled ones: Python takes a second to trace an iteration that later runs have traced before.

What a trace depends on is in the name of its file: tfpg's own sources, the versions of what they stand on, the device, the flags, the
spaces, the shapes of the arguments. The file is a GraphDef, read as data: nothing in it names code of Python's. One that is damaged counts
as none. A trace runs in the form in which it is kept from the first time on, so that the first run and later ones run the same program.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context  # has no public name: how a function without a Python body becomes callable

from tfpg import acting
from tfpg.types import Nest

OUTLINE = "outline"
SEAL = hashlib.sha256().digest_size


def outline(outputs: Nest, given: tuple[Nest, ...]) -> Any:
    """What a nest looks like, as JSON: null for a tensor, the place of an argument that looks the same, or a list or dict of such.

    Raises: ValueError for a nest that cannot be told so.
    """
    if tf.is_tensor(outputs):
        return None
    for k, each in enumerate(given):
        with suppress(ValueError, TypeError):
            tf.nest.assert_same_structure(outputs, each)
            return k
    if type(outputs) is tuple:
        return [outline(each, given) for each in outputs]
    if type(outputs) is dict:
        return {name: outline(each, given) for name, each in outputs.items()}
    raise ValueError(f"{type(outputs).__name__} is like no argument")


def like(told: Any, given: tuple[Nest, ...]) -> Nest:
    """A nest that looks as `outline` has told."""
    if isinstance(told, list):
        return tuple(like(each, given) for each in told)
    if isinstance(told, dict):
        return {name: like(each, given) for name, each in told.items()}
    return None if told is None else given[told]


def calls(message: Any) -> Iterator[Any]:
    """Where attributes of a node name functions."""
    for _, value in sorted(message.attr.items()):
        for function in (*([value.func] if value.HasField("func") else []), *value.list.func):
            yield function
            yield from calls(function)


def in_order(main: Any, library: Iterable[Any]) -> list[Any]:
    """A function and those that it calls, each after its first caller, whatever they are named."""
    known, found = {function.signature.name: function for function in library}, {main.signature.name: main}
    for function in (queue := [main]):
        for name in (call.name for node in function.node_def for call in calls(node)):
            if name not in found:
                found[name] = known[name]
                queue.append(known[name])
    return queue


def rename(functions: Sequence[Any], prefix: str) -> None:
    """Names functions by their places."""
    names = {function.signature.name: f"{prefix}{k}" for k, function in enumerate(functions)}
    for function in functions:
        function.signature.name = names[function.signature.name]
        for call in (call for node in function.node_def for call in calls(node)):
            call.name = names[call.name]


def frozen(program: Any, given: tuple[Nest, ...]) -> tf.compat.v1.GraphDef:
    """A traced program as data: its functions, itself the first, as the library; what it captured as nodes, and what its outputs look like.

    Functions are named by the content of all, since the process that runs them may have traced others of the same names.
    Raises: ValueError for outputs that cannot be outlined.
    """
    graph = tf.compat.v1.GraphDef()
    graph.library.function.extend(in_order(program.function_def, program.graph.as_graph_def().library.function))
    for tensor in program.captured_inputs:
        graph.node.add(op="Const").attr["value"].tensor.CopyFrom(tf.make_tensor_proto(tensor.numpy()))
    graph.node.add(op=OUTLINE, name=json.dumps(outline(program.structured_outputs, given)))
    rename(graph.library.function, "")
    rename(graph.library.function, f"kept_{hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()[:24]}_")
    return graph


def run(graph: tf.compat.v1.GraphDef, given: tuple[Nest, ...]) -> Callable[..., Nest]:
    """A frozen program as something to call with arguments like those given, as `acting.direct` makes one."""
    for function in graph.library.function:
        context.context().add_function_def(function)
    main, (*constants, told) = graph.library.function[0].signature, graph.node
    captured = [tf.constant(tf.make_ndarray(node.attr["value"].tensor)) for node in constants]
    types = [tf.as_dtype(output.type) for output in main.output_arg]
    return acting.packed(acting.operation(main.name, types, captured, rewrite=False), like(json.loads(told.name), given))


def read(path: Path) -> tf.compat.v1.GraphDef | None:
    """The program of a file, or None if it is not there or damaged."""
    with suppress(OSError):
        written = path.read_bytes()
        if written[:SEAL] == hashlib.sha256(written[SEAL:]).digest():
            return tf.compat.v1.GraphDef.FromString(written[SEAL:])
    return None


def write(path: Path, graph: tf.compat.v1.GraphDef) -> None:
    """Keeps a program, if the disk takes it."""
    body = graph.SerializeToString(deterministic=True)
    with suppress(OSError):
        path.write_bytes(hashlib.sha256(body).digest() + body)


def sources(root: Path = Path(__file__).parent) -> bytes:
    """A digest of tfpg's own sources."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.digest()


def keeping(folder: Path, facts: str) -> acting.Direct:
    """`acting.direct`, but traced programs are looked for in a folder, and left there.

    Args: facts: what traces depend on beside tfpg's sources, what they are called, and the arguments of their first call.
    """
    known = sources() + facts.encode()

    def direct(function: Callable[..., Nest], name: str) -> Callable[..., Nest]:
        def begin(*given: Nest) -> Callable[..., Nest]:
            specs = tf.nest.map_structure(lambda x: f"{tf.as_dtype(x.dtype).name}{list(x.shape)}", given)
            path = folder / f"trace-{hashlib.sha256(known + f'{name} {specs}'.encode()).hexdigest()[:32]}.pb"
            graph = read(path)
            if graph is None:
                program = acting.traced(function, *given)
                graph = frozen(program, given)
                write(path, graph)
            return run(graph, given)

        return acting.at_first_call(begin)

    return direct
