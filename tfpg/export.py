"""Export: the policy as a SavedModel of tensors, in the directory layout that TensorFlow Serving expects.

    policy/<version>/saved_model.pb, variables/    TensorFlow's own
    policy/<version>/assets.extra/policy.json      what it is: flags, versions, signatures, SHA-256 of every other file
    policy/<version>/assets.extra/golden.npz       inputs, and what the policy answered to them when it was exported

A version is made beside its place, flushed to disk, and renamed: whoever sees it sees all of it. Nothing in it needs tfpg or TFP to load,
and nothing is compiled ahead, since a compiled signature would compile anew for each batch size. `tfpg.signatures` has what it answers.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfpg import signatures
from tfpg.errors import RunFault
from tfpg.files import commit, numbered, why
from tfpg.learner import Learner
from tfpg.signatures import Signature
from tfpg.types import Spaces, TrainState

EXTRA = "assets.extra"
FORMAT = 1
SHEET, GOLDEN = f"{EXTRA}/policy.json", f"{EXTRA}/golden.npz"


class Actor(tf.Module):
    """A trained policy: its uses as graphs, with its parameters and statistics in them."""

    def __init__(self, made: dict[str, Signature], about: str) -> None:
        super().__init__()
        told = Signature({}, lambda: {"metadata": tf.constant(about)})
        self.uses = {name: signatures.traced(signature) for name, signature in {**made, "metadata": told}.items()}


def fingerprint(state: TrainState) -> str:
    """SHA-256 of what decides how a policy acts: its parameters and the statistics of observations, with their shapes and types."""
    digest = hashlib.sha256()
    for leaf in tf.nest.flatten((state.policy, state.observations)):
        digest.update(f"{leaf.dtype.name} {list(leaf.shape)}\n".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _golden(actor: Actor, made: dict[str, Signature], state: TrainState, spaces: Spaces) -> dict[str, np.ndarray]:
    """'signature/inputs/name' and 'signature/outputs/name' -> array."""
    found = {}
    for name, signature in made.items():
        given = signatures.examples(state, spaces, signature.inputs)
        answers = actor.uses[name](**{key: tf.constant(x) for key, x in given.items()})
        found.update({f"{name}/inputs/{key}": x for key, x in given.items()})
        found.update({f"{name}/outputs/{key}": x.numpy() for key, x in answers.items()})
    return found


def _without_files(path: Path) -> None:
    """Takes from a saved model what saves and restores its variables: it has none, and so no operator of it touches a file."""
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    meta = model.meta_graphs[0]
    graph, saver = meta.graph_def, meta.saver_def
    gone = {saver.restore_op_name, saver.save_tensor_name.split(":")[0]}
    functions = {node.attr["f"].func.name for node in graph.node if node.name in gone}
    read = {name.split(":")[0] for node in graph.node if node.name not in gone for name in node.input}
    only_theirs = {name.split(":")[0] for node in graph.node if node.name in gone for name in node.input} - read
    filename = saver.filename_tensor_name.split(":")[0]
    kept = [node for node in graph.node if node.name not in gone | (only_theirs - {filename})]
    library = [function for function in graph.library.function if function.signature.name not in functions]
    del graph.node[:], graph.library.function[:]
    graph.node.extend(kept)
    graph.library.function.extend(library)
    meta.ClearField("collection_def")  # what TensorFlow 1 would run first
    saver.restore_op_name = meta.signature_def["__saved_model_init_op"].outputs["__saved_model_init_op"].name
    saver.save_tensor_name = saver.filename_tensor_name
    (path / "saved_model.pb").write_bytes(model.SerializeToString(deterministic=True))
    (path / "fingerprint.pb").unlink(missing_ok=True)  # of what it was before


def _described(path: Path) -> dict[str, Any]:
    """Of each signature the tensors it takes and gives: name in the graph, type and shape, None where there are as many as rows."""
    model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())

    def tensors(infos: Any) -> dict[str, Any]:
        shape = lambda info: [None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim]  # noqa: E731
        return {key: {"tensor": i.name, "dtype": tf.as_dtype(i.dtype).name, "shape": shape(i)} for key, i in sorted(infos.items())}

    found = {name: s for name, s in model.meta_graphs[0].signature_def.items() if not name.startswith("__")}
    return {name: {"inputs": tensors(s.inputs), "outputs": tensors(s.outputs)} for name, s in sorted(found.items())}


def digests(path: Path) -> dict[str, str]:
    """SHA-256 of every file of a version but the one that lists them."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file != path / SHEET)
    return {file.relative_to(path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _write(path: Path, learner: Learner, state: TrainState, spaces: Spaces, about: dict[str, Any]) -> None:
    """A version and what lies beside it."""
    about = {"format": FORMAT, **about, "fingerprint": fingerprint(state)}
    made = signatures.make(learner, state, spaces)
    actor = Actor(made, json.dumps(about))
    tf.saved_model.save(actor, str(path), dict(actor.uses))
    _without_files(path)
    (path / EXTRA).mkdir()
    np.savez(path / GOLDEN, allow_pickle=False, **_golden(actor, made, state, spaces))
    sheet = {**about, "signatures": _described(path), "files": digests(path)}
    (path / SHEET).write_text(json.dumps(sheet, indent=1) + "\n")


def publish(directory: Path, write: Callable[[Path], None]) -> Path:
    """Makes `directory/<n>`, n one more than the largest there, with `write(path)` and a rename. Returns its path.

    Raises: RunFault, naming the path, if the disk does not take it.
    """
    versions = [int(path.name) for path in numbered(directory)]
    final = directory / str(max(versions, default=0) + 1)
    temporary = directory / f"{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        write(temporary)
        commit(temporary, final)
    except (tf.errors.OpError, OSError) as error:
        raise RunFault(f"{final} cannot be written: {why(error)}") from error
    return final


def export(directory: Path, learner: Learner, state: TrainState, spaces: Spaces, about: dict[str, Any] | None = None) -> Path:
    """Publishes the policy as a further version in `directory`. Returns its path.

    Args: about: what is told of it in its `metadata` and beside it, such as flags and versions; plain values only.
    Raises: RunFault, naming the path, if the disk does not take it.
    """
    return publish(directory, lambda path: _write(path, learner, state, spaces, about or {}))
