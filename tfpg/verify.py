"""Trust: an exported policy is read before it is loaded, and refused if it could do anything but compute.

A SavedModel is a program, and loading one runs a part of it. What tfpg exports needs few operators, none of which reads a file, keeps a
resource or calls Python; so what is written in its files says all of what it can do, and nothing of it is executed to find out.
`replay` then asks it what it was asked when it was exported.
"""

import json
import math
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from tfpg.config import Config
from tfpg.errors import UsageError
from tfpg.export import GOLDEN, SHEET, digests
from tfpg.files import numbered

FORMAT = 1
FILES = ("saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001", SHEET, GOLDEN)
DIRECTORIES = ("variables", "assets", "assets.extra")
MOST_BYTES = 2**31
KINDS = ("user_object", "function", "bare_concrete_function", "constant", "captured_tensor")
OBJECTS = ("_generic_user_object", "signature_map", "trackable_dict_wrapper", "trackable_list_wrapper", "trackable_tuple_wrapper")
OPERATORS = frozenset(
    """
    AddV2 All ArgMax Assert BiasAdd BroadcastTo Cast CheckNumerics ConcatV2 Const Conv2D Cumsum Elu EnsureShape Equal Exp GatherV2
    GreaterEqual Identity IdentityN Less Log LogSoftmax LogicalAnd MatMul Maximum Minimum Mul Neg NoOp OneHot Pack Pad PartitionedCall
    Placeholder Pow Range RealDiv Relu Reshape Rsqrt Select SelectV2 Shape Sigmoid Softmax Softplus SparseSoftmaxCrossEntropyWithLogits
    SplitV Sqrt Square Squeeze StatefulPartitionedCall StatelessRandomGetKeyCounter StatelessRandomNormalV2 StatelessRandomUniformV2
    StatelessWhile StridedSlice Sub Sum Tanh TensorListFromTensor TensorListGetItem TensorListReserve TensorListSetItem TensorListStack
    Transpose
    """.split()  # noqa: SIM905
)
"""What an exported policy may compute with: no files, no resources, no strings but constant ones, nothing in Python, nothing compiled."""


class Refused(UsageError):
    """A policy that is not trusted: what it holds that it must not, or lacks."""


class Reading(NamedTuple):
    """What the files of a policy say."""

    path: Path
    sheet: dict[str, Any]
    operators: frozenset[str]


def newest(path: Path) -> Path:
    """The version that a path means: itself, or the newest of a `policy` directory or of a run. Raises: UsageError if there is none."""
    found = [*numbered(path / "policy"), *numbered(path)]
    versions = [each for each in found if (each / "saved_model.pb").is_file()]
    if (path / "saved_model.pb").is_file():
        return path
    if not versions:
        raise UsageError(f"--policy={path} holds no exported policy: a version, a run, or the policy directory of a run is allowed.")
    return versions[-1]


def _no(path: Path, why: str) -> Refused:
    return Refused(f"--policy={path} is not to be trusted: {why}.")


def _check_files(path: Path) -> None:
    """Raises Refused for anything in the directory that an export does not write: links, other files, too much of them."""
    total = 0
    for each in sorted(path.rglob("*")):
        name, mode = each.relative_to(path).as_posix(), each.lstat().st_mode
        if not (stat.S_ISREG(mode) and name in FILES) and not (stat.S_ISDIR(mode) and name in DIRECTORIES):
            raise _no(path, f"{name} is nothing that an export writes")
        total += each.lstat().st_size
    if total > MOST_BYTES:
        raise _no(path, f"it takes {total:,} bytes, and {MOST_BYTES:,} are allowed")


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _bytes(tensor: Any) -> float:
    """How much room a constant takes once it is there: one number can stand for as many as its shape says."""
    return math.prod(max(dim.size, 0) for dim in tensor.tensor_shape.dim) * max(tf.as_dtype(tensor.dtype).size, 1)


def _check_graph(path: Path, model: Any) -> frozenset[str]:
    """The operators of a model. Raises Refused for one that is not allowed, and for whatever else acts when a model is loaded."""
    if len(model.meta_graphs) != 1 or list(model.meta_graphs[0].meta_info_def.tags) != ["serve"]:
        raise _no(path, "it holds other graphs than the one that serves")
    meta = model.meta_graphs[0]
    if meta.asset_file_def:
        raise _no(path, f"it reads a file, {meta.asset_file_def[0].filename}")
    operators = frozenset(node.op for node in _nodes(meta.graph_def))
    if operators - OPERATORS:
        raise _no(path, f"it uses {', '.join(sorted(operators - OPERATORS))}, which no policy of tfpg does")
    for node in meta.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        if kind not in KINDS or (kind == "user_object" and node.user_object.identifier not in OBJECTS) or node.registered_saver:
            raise _no(path, f"it holds an object of another kind, {node.user_object.identifier or kind}")
    for node in _nodes(meta.graph_def):
        if node.attr["_XlaMustCompile"].b:
            raise _no(path, "it asks to be compiled, which takes time and memory anew for each number of rows")
    room = sum(_bytes(node.attr["value"].tensor) for node in _nodes(meta.graph_def) if node.op == "Const")
    if room > MOST_BYTES:
        raise _no(path, f"its constants would take {room:,.0f} bytes, and {MOST_BYTES:,} are allowed")
    return operators


def _check_sheet(path: Path) -> dict[str, Any]:
    """What lies beside a policy about it. Raises Refused if it is missing, of another format, or of other files than these."""
    if not (path / SHEET).is_file():
        raise _no(path, f"there is no {SHEET} in it, which every export of tfpg has")
    try:
        sheet = json.loads((path / SHEET).read_bytes())
        found = sheet["format"], dict(sheet["files"]), {name: dict(each["inputs"]) for name, each in sheet["signatures"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _no(path, f"{SHEET} is not what an export writes") from None
    if found[0] != FORMAT:
        raise _no(path, f"its format is {found[0]}, and this version of tfpg reads {FORMAT}")
    there = digests(path)
    other = sorted(name for name in {*there, *found[1]} if there.get(name) != found[1].get(name))
    if other:
        raise _no(path, f"{other[0]} is not the file that was exported")
    return sheet


def read(path: Path) -> Reading:
    """Reads one version without executing any of it. Raises: Refused, saying what is wrong."""
    _check_files(path)
    try:
        model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
    except DecodeError:
        raise _no(path, "saved_model.pb is no SavedModel") from None
    operators = _check_graph(path, model)
    return Reading(path, _check_sheet(path), operators)


class Replay(NamedTuple):
    """How many golden outputs there are, how many of them came out with the same bits, and the largest difference of the others."""

    outputs: int
    same: int
    difference: float


def _golden(path: Path) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """signature -> inputs and outputs -> name -> array. Raises: Refused."""
    try:
        with zipfile.ZipFile(path / GOLDEN) as archive:
            if sum(each.file_size for each in archive.infolist()) > MOST_BYTES:
                raise ValueError
        found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        with np.load(path / GOLDEN, allow_pickle=False) as arrays:
            for key, array in arrays.items():
                name, side, tensor = key.split("/")
                found.setdefault(name, {"inputs": {}, "outputs": {}})[side][tensor] = array
        if not found:
            raise ValueError
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        raise _no(path, f"{GOLDEN} is not what an export writes") from None
    return found


def replay(path: Path, tolerance: float = 1e-5) -> Replay:
    """Asks a policy, loaded, what it was asked when it was exported.

    The same machine gives the same bits; another one may round otherwise. Raises: Refused if an answer is another one.
    """
    asked, signatures = _golden(path), tf.saved_model.load(str(path)).signatures
    outputs, same, worst = 0, 0, 0.0
    for name, golden in asked.items():
        answers = signatures[name](**{key: tf.constant(x) for key, x in golden["inputs"].items()})
        for key, wanted in golden["outputs"].items():
            found = answers[key].numpy()
            outputs, same = outputs + 1, same + (found.tobytes() == wanted.tobytes() and found.dtype == wanted.dtype)
            if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=tolerance, atol=tolerance):
                raise _no(path, f"{name} does not answer as it did when it was exported: its {key} differs")
            worst = max(worst, float(np.max(np.abs(found.astype(np.float64) - wanted.astype(np.float64)), initial=0.0)))
    return Replay(outputs, same, worst)


def told(reading: Reading, replayed: Replay) -> str:
    """What was found, in three sentences."""
    sheet = reading.sheet
    what = f"{sheet['algo']} on {sheet['env']}, seed {sheet['seed']}, after {sheet['steps']:,} steps" if "algo" in sheet else "a policy"
    bits = "the same to the bit" if replayed.same == replayed.outputs else f"the same, the others within {replayed.difference:.1e}"
    return (
        f"{reading.path} holds {what} (fingerprint {sheet.get('fingerprint', '')[:12]}).\n"
        f"Read without executing it: {len(reading.operators)} kinds of operators, all of them allowed, "
        f"and {len(sheet['files'])} files as they were exported.\n"
        f"Asked again what it was asked then: {replayed.same} of {replayed.outputs} answers are {bits}."
    )


def report(config: Config) -> int:
    """Verifies the policy that the flags name, and says what was found. Returns the exit code 0; a refused one raises."""
    path = newest(Path(config.policy or config.workdir))
    reading = read(path)
    print(told(reading, replay(path)))
    return 0
