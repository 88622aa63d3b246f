"""Checkpoints: a nest of tensors on disk, complete or not there at all.

    checkpoints/<iteration>/state.index, state.data-*   TensorFlow's own format, with checksums
    checkpoints/<iteration>/manifest.json               names, shapes, types, SHA-256 of each file, and the run's counters

A checkpoint is written beside its place, flushed to disk, and renamed: the rename is the commit. Reading takes the newest one whose
manifest fits; a damaged one is set aside as `<iteration>.bad`, never overwritten, and the one before it is taken.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfpg.errors import RunFault
from tfpg.types import Nest

KEEP = 3
DAMAGE = (tf.errors.OpError, IndexError, ValueError, KeyError, UnicodeDecodeError, AssertionError, OSError)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sync(path: Path) -> None:
    """Flushes a file or directory to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(temporary: Path, final: Path) -> None:
    """Flushes every file of a finished directory, and gives it its name: whoever sees the name sees all of it."""
    for path in sorted(temporary.rglob("*"), reverse=True):
        sync(path)
    sync(temporary)
    temporary.rename(final)
    sync(final.parent)


def _describe(state: Nest) -> list[list[Any]]:
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(state)]
    return [[list(leaf.shape), leaf.dtype.name] for leaf in leaves]


def _numbered(directory: Path) -> list[Path]:
    found = [path for path in directory.glob("*") if path.name.isdigit()] if directory.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def save(directory: Path, number: int, state: Nest, counters: dict[str, Any]) -> Path:
    """Writes `state` and `counters` as checkpoint `number`, and drops all but the newest KEEP. Returns its path.

    Raises: RunFault, naming the path, if the disk does not take it; older checkpoints stay as they are.
    """
    final, temporary = directory / str(number), directory / f"{number}.tmp"
    if final.exists():
        return final
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        variables = [tf.Variable(leaf, trainable=False) for leaf in tf.nest.flatten(state)]
        tf.train.Checkpoint(leaves=variables).write(str(temporary / "state"))
        files = {path.name: _digest(path) for path in temporary.iterdir()}
        manifest = {"format": 1, "leaves": _describe(state), "files": files, "counters": counters}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
        commit(temporary, final)
    except (tf.errors.OpError, OSError) as error:
        raise RunFault(f"{final} cannot be written: {error}") from error
    for old in _numbered(directory)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def read(path: Path, like: Nest) -> tuple[Nest, dict[str, Any]]:
    """The state, shaped like `like`, and the counters of one checkpoint. Raises one of DAMAGE if anything in it is wrong."""
    manifest = json.loads((path / "manifest.json").read_text())
    for name, digest in manifest["files"].items():
        if Path(name).name != name or _digest(path / name) != digest:
            raise ValueError(f"{name} is not the file that was written")
    if manifest["leaves"] != _describe(like):
        raise ValueError("it holds another network or algorithm")
    variables = [tf.Variable(tf.zeros_like(leaf), trainable=False) for leaf in tf.nest.flatten(like)]
    tf.train.Checkpoint(leaves=variables).read(str(path / "state")).assert_consumed()
    return tf.nest.pack_sequence_as(like, [tf.convert_to_tensor(variable) for variable in variables]), manifest["counters"]


def latest(directory: Path, like: Nest) -> tuple[Nest, dict[str, Any]]:
    """The newest checkpoint that is whole. Damaged ones are renamed to `.bad`, with a sentence each; leftovers are removed.

    Raises: RunFault if there is none: nothing ever starts again from zero in silence.
    """
    for leftover in directory.glob("*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    for path in reversed(_numbered(directory)):
        try:
            return read(path, like)
        except DAMAGE as error:
            aside = path.with_name(f"{path.name}.bad")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            print(f"{path} is damaged ({' '.join(str(error).split())}): set aside as {aside.name}, the one before it is taken.")
    raise RunFault(f"{directory} holds no checkpoint that can be read.")
