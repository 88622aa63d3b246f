"""Export for runtimes that are not TensorFlow: LiteRT (phones, microcontrollers) and ONNX.

    litert/<version>/policy.tflite, policy.json                                   one file with three signatures
    onnx/<version>/{serving_default,distribution,noise}.onnx, policy.json         one file each

They have no random numbers of their own: `noise` takes them as an input. Nor do they check what comes in, beyond what their runtime does.
Converters report success on graphs that no runtime loads, so what was written is loaded again and asked, before it is published.
"""

import contextlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tfpg import signatures
from tfpg.errors import RunFault, UsageError
from tfpg.export import FORMAT, fingerprint, publish
from tfpg.learner import Learner
from tfpg.signatures import Signature
from tfpg.types import Spaces, TrainState

USES = ("serving_default", "distribution", "noise")
TOLERANCE = 1e-6
"""Largest difference, absolute or relative, between what TensorFlow and the other runtime answer."""

Arrays = dict[str, np.ndarray]
Answers = dict[str, Callable[[Arrays], Arrays]]


def _litert(path: Path, made: dict[str, Signature]) -> None:
    """Writes policy.tflite, with a signature for each use."""
    graphs = {name: signatures.traced(signature) for name, signature in made.items()}
    module = tf.Module()
    module.uses = graphs
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory, graphs)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(graphs))
        (path / "policy.tflite").write_bytes(converter.convert())


def _litert_loaded(path: Path) -> Answers:
    from ai_edge_litert.interpreter import Interpreter

    made = Interpreter(model_path=str(path / "policy.tflite"))

    def answers(name: str) -> Callable[[Arrays], Arrays]:
        run = made.get_signature_runner(name)
        return lambda given: run(**given)

    return {name: answers(name) for name in USES}


def _onnx(path: Path, made: dict[str, Signature]) -> None:
    """Writes a file for each use. Inputs come out as given_0, given_1 and get their names back; memory that comes out is next_memory.

    In ONNX an output cannot have the name of an input.
    """
    import tf2onnx

    for use, signature in made.items():
        names, specs = list(signature.inputs), [tf.TensorSpec(spec.shape, spec.dtype) for spec in signature.inputs.values()]
        positional = tf.function(
            lambda *given, names=names, call=signature.call: call(**dict(zip(names, given, strict=True))), autograph=False
        )
        graph = (model := tf2onnx.convert.from_function(positional, input_signature=specs, opset=18)[0]).graph
        renamed = {"memory": "next_memory"} | {each.name: names[int(each.name.removeprefix("given_"))] for each in graph.input}
        for each in (*graph.input, *graph.output):
            each.name = renamed.get(each.name, each.name)
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        (path / f"{use}.onnx").write_bytes(model.SerializeToString())


def _onnx_loaded(path: Path) -> Answers:
    import onnxruntime

    def answers(name: str) -> Callable[[Arrays], Arrays]:
        session = onnxruntime.InferenceSession(str(path / f"{name}.onnx"), providers=["CPUExecutionProvider"])
        outputs = [output.name for output in session.get_outputs()]
        return lambda given: dict(zip([name.removeprefix("next_") for name in outputs], session.run(outputs, given), strict=True))

    return {name: answers(name) for name in USES}


FORMATS: dict[str, tuple[Callable[[Path, dict[str, Signature]], None], Callable[[Path], Answers]]] = {
    "litert": (_litert, _litert_loaded),
    "onnx": (_onnx, _onnx_loaded),
}
"""format -> (write, load)."""


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Converters talk at length, also when all is well; and what they say is no proof."""
    screen = os.dup(2)
    logging.disable(logging.CRITICAL)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(nowhere):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            os.close(screen)
            logging.disable(logging.NOTSET)


def difference(found: Arrays, wanted: Arrays) -> float:
    """Largest difference of two sets of answers, relative where numbers are larger than 1; infinite if names or shapes differ."""
    if set(found) != set(wanted) or any(np.shape(found[name]) != x.shape for name, x in wanted.items()):
        return float("inf")
    gaps = [np.abs(found[name] - x.astype(np.float64)) / np.maximum(1, np.abs(x)) for name, x in wanted.items()]
    return float(np.max([np.max(gap, initial=0.0) for gap in gaps]))


def _compared(path: Path, loaded: Answers, made: dict[str, Signature], state: TrainState, spaces: Spaces) -> float:
    """Largest difference between the other runtime and TensorFlow, over all uses. Raises: RunFault beyond TOLERANCE."""
    worst = 0.0
    for name, signature in made.items():
        given = signatures.examples(state, spaces, signature.inputs)
        wanted = {key: x.numpy() for key, x in signatures.traced(signature)(**{k: tf.constant(x) for k, x in given.items()}).items()}
        gap = difference(loaded[name](given), wanted)
        if not gap <= TOLERANCE:
            raise RunFault(f"{path}: {name} answers otherwise than TensorFlow, by {gap:.1e}: at most {TOLERANCE:g} is allowed.")
        worst = max(worst, gap)
    return worst


def export(
    directory: Path, kind: str, learner: Learner, state: TrainState, spaces: Spaces, about: dict[str, Any] | None = None
) -> tuple[Path, float]:
    """Publishes the policy for another runtime as a further version in `directory`. Returns its path and its largest difference.

    Raises: UsageError if a package is missing; RunFault if the runtime does not load what was written, answers otherwise, or the disk
        does not take it.
    """
    (write, load), found = FORMATS[kind], [0.0]

    def make(path: Path) -> None:
        made = {name: each for name, each in signatures.make(learner, state, spaces, checked=False).items() if name in USES}
        path.mkdir()
        with _silent():
            write(path, made)
            found[0] = _compared(path, load(path), made, state, spaces)
        sheet = {"format": FORMAT, **(about or {}), "fingerprint": fingerprint(state)}
        (path / "policy.json").write_text(json.dumps(sheet, indent=1) + "\n")

    try:
        return publish(directory, make), found[0]
    except ImportError as error:
        raise UsageError(f"--format={kind} needs a package that is missing ({error.name}). pip install 'tfpg[{kind}]' brings it.") from None
    except (OSError, RunFault):
        raise
    except Exception as error:
        raise RunFault(f"--format={kind} cannot hold this policy: {' '.join(str(error).split())[:300]}.") from error
