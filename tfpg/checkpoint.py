"""Checkpoints: a nest of tensors on disk, complete or not there at all.

    checkpoints/<iteration>/state.index, state.data-*   TensorFlow's own format, with checksums: tf.train.load_checkpoint reads it
    checkpoints/<iteration>/manifest.json               shapes, types, SHA-256 of each file, the run's counters, and SHA-256 of all that

A checkpoint is written beside its place, flushed to disk, and renamed: the rename is the commit. Reading takes the newest one whose
manifest fits; a damaged one is passed over, and set aside as `<iteration>.bad` by the run that goes on from there.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfpg.errors import Misfit, RunFault
from tfpg.files import commit, numbered, why
from tfpg.types import Nest

Like = Callable[[dict[str, Any]], Nest]
"""A nest that is shaped as the state of a checkpoint with these counters."""
KEEP = 3
FORMAT = 3  # the first had no digest of its manifest; the second a graph of objects among its tensors
# What wrong content raises, before TensorFlow reads a byte of it.
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, FileNotFoundError, NotADirectoryError, IsADirectoryError)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _names(leaves: list[Any]) -> dict[str, list[str]]:
    """What TensorFlow calls the leaves of a state in its files, and that it is about all of each."""
    return {"tensor_names": [f"leaves/{k}/.ATTRIBUTES/VARIABLE_VALUE" for k in range(len(leaves))], "shape_and_slices": [""] * len(leaves)}


def _sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest with a digest of what it says."""
    said = {name: value for name, value in manifest.items() if name != "digest"}
    return {**said, "digest": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


def _describe(state: Nest) -> list[list[Any]]:
    leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(state)]
    return [[list(leaf.shape), leaf.dtype.name] for leaf in leaves]


def save(directory: Path, number: int, state: Nest, counters: dict[str, Any], made_with: dict[str, str] | None = None) -> Path:
    """Writes `state` and `counters` as checkpoint `number`, and drops all but the newest KEEP. Returns its path.

    Args: made_with: what its bits depend on beside the flags, such as versions.

    Raises: RunFault, naming the path, if the disk does not take it, or what `directory` lies in is gone: made anew, it
    would hold nothing to go on with. Older checkpoints stay as they are.
    """
    final, temporary = directory / str(number), directory / f"{number}.tmp"
    if final.exists():
        return final
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        directory.mkdir(exist_ok=True)
        temporary.mkdir()
        leaves = [tf.convert_to_tensor(leaf) for leaf in tf.nest.flatten(state)]
        with tf.device("/CPU:0"):
            tf.raw_ops.SaveV2(prefix=str(temporary / "state"), **_names(leaves), tensors=leaves)
        files = {path.name: _digest(path) for path in temporary.iterdir()}
        manifest = {"format": FORMAT, "leaves": _describe(leaves), "files": files, "counters": counters, "made_with": made_with or {}}
        (temporary / "manifest.json").write_text(json.dumps(_sealed(manifest), indent=1))
        commit(temporary, final)
    except (tf.errors.OpError, OSError) as error:
        raise RunFault(f"{final} cannot be written: {why(error)}") from error
    for old in numbered(directory)[:-KEEP]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def read(path: Path, like: Like) -> tuple[Nest, dict[str, Any]]:
    """The state, shaped as `like` says, and the counters of one checkpoint.

    Raises: one of DAMAGE if its files are not those that were written; RunFault if they hold something else.
    """
    manifest = json.loads((path / "manifest.json").read_text())
    if manifest["format"] != 1 and manifest != _sealed(manifest):
        raise ValueError("manifest.json is not what was written")
    if manifest["format"] not in range(1, FORMAT + 1):
        raise RunFault(f"{path} is of format {manifest['format']}, which a later tfpg wrote: this one reads up to {FORMAT}.")
    for name, digest in manifest["files"].items():
        if Path(name).name != name or _digest(path / name) != digest:
            raise ValueError(f"{name} is not the file that was written")
    counters = manifest["counters"]
    if counters["iteration"] != int(path.name) or not all(isinstance(count, (int, float)) for count in counters.values()):
        raise ValueError("its counters are not those that were written")
    expected = like(counters)
    if manifest["leaves"] != _describe(expected):
        raise Misfit(f"{path} holds another network or algorithm than the run's flags describe.")
    types = [leaf.dtype for leaf in tf.nest.flatten(expected)]
    try:
        with tf.device("/CPU:0"):
            leaves = tf.raw_ops.RestoreV2(prefix=str(path / "state"), **_names(types), dtypes=types)
    except tf.errors.OpError as error:
        raise RunFault(f"{path} cannot be read: {why(error)}") from error
    return tf.nest.pack_sequence_as(expected, [tf.identity(leaf) for leaf in leaves]), counters


def made_with(directory: Path) -> dict[str, str]:
    """What the newest checkpoint of a run was made with; nothing where that is not known."""
    try:
        found = json.loads((numbered(directory)[-1] / "manifest.json").read_text())["made_with"]
        return {str(name): str(value) for name, value in found.items()}
    except (IndexError, OSError, *DAMAGE):
        return {}


def latest(directory: Path, like: Like, repair: bool) -> tuple[Nest, dict[str, Any]]:
    """The newest checkpoint that is whole; damaged ones are passed over with a sentence each.

    With `repair` (the run that owns the directory) they are also renamed to `.bad`, and what an interrupted save left is removed.
    Without it nothing is touched: another process may be writing there.

    Raises: RunFault if there is none: nothing ever starts again from zero in silence.
    """
    if repair:
        for leftover in directory.glob("*.tmp"):
            shutil.rmtree(leftover, ignore_errors=True)
    for path in reversed(numbered(directory)):
        try:
            return read(path, like)
        except DAMAGE as error:
            print(f"{path} is damaged ({' '.join(str(error).split())}): the one before it is taken.")
            if repair:
                aside = path.with_name(f"{path.name}.bad")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
    raise RunFault(f"{directory} holds no checkpoint that can be read.")
