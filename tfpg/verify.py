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
from tfpg.export import FORMAT, GOLDEN, SHEET, digests
from tfpg.files import numbered

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
    if path.is_symlink():
        raise _no(path, "it is a link")
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


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor that is written anywhere in a message."""
    if message.DESCRIPTOR.full_name == "tensorflow.TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            held = [each for each in value.values() if hasattr(each, "DESCRIPTOR")]
        else:
            held = value if hasattr(value, "__len__") else [value]
        for each in held:
            yield from _tensors(each)


def _bytes(path: Path, tensor: Any) -> int:
    """How much room a constant takes once it is there: one number can stand for as many as its shape says. Raises: Refused."""
    sizes = [dim.size for dim in tensor.tensor_shape.dim]
    if min(sizes, default=0) < 0:
        raise _no(path, "it holds a constant of a size below 0")
    return math.prod(sizes) * max(tf.as_dtype(tensor.dtype).size, 1)


def _check_operators(path: Path, meta: Any) -> frozenset[str]:
    """The operators of a graph. Raises Refused for one that is not allowed, and for what asks to be compiled."""
    operators = frozenset(node.op for node in _nodes(meta.graph_def))
    if operators - OPERATORS:
        raise _no(path, f"it uses {', '.join(sorted(operators - OPERATORS))}, which no policy of tfpg does")
    attributes = [each.attr for each in (*_nodes(meta.graph_def), *meta.graph_def.library.function)]
    if any("_XlaMustCompile" in attr and attr["_XlaMustCompile"].b for attr in attributes):
        raise _no(path, "it asks to be compiled, which takes time and memory anew for each number of rows")
    return operators


def _check_loading(path: Path, meta: Any) -> None:
    """Raises Refused for whatever acts when a model is loaded: objects of other makers, and operations that initialise or restore."""
    if meta.asset_file_def:
        raise _no(path, f"it reads a file, {meta.asset_file_def[0].filename}")
    if meta.collection_def or not meta.object_graph_def.nodes:
        raise _no(path, "it is of TensorFlow 1")
    for node in meta.object_graph_def.nodes:
        kind = node.WhichOneof("kind")
        named = node.registered_name or node.registered_saver or ("saveable" if node.saveable_objects else "")
        if kind not in KINDS or named or (kind == "user_object" and node.user_object.identifier not in OBJECTS):
            raise _no(path, f"it holds an object of another kind, {named or node.user_object.identifier or kind}")
    idle = {node.name for node in meta.graph_def.node if node.op == "NoOp" and not node.input}
    first = [output.name for name, s in meta.signature_def.items() if name.startswith("__") for output in s.outputs.values()]
    if not {meta.saver_def.restore_op_name, *(name.split(":")[0] for name in first)} <= idle:
        raise _no(path, "it does something when it is loaded")


def _check_graph(path: Path, model: Any) -> frozenset[str]:
    """The operators of a model. Raises Refused for a model that could do anything but compute, or that takes too much room."""
    if len(model.meta_graphs) != 1 or list(model.meta_graphs[0].meta_info_def.tags) != ["serve"]:
        raise _no(path, "it holds other graphs than the one that serves")
    meta = model.meta_graphs[0]
    operators = _check_operators(path, meta)
    _check_loading(path, meta)
    sizes = [_bytes(path, tensor) for tensor in _tensors(meta)]
    objects = sum(node.WhichOneof("kind") == "constant" for node in meta.object_graph_def.nodes)
    room = sum(sizes) + objects * max(sizes, default=0)
    if room > MOST_BYTES:
        raise _no(path, f"its constants would take {room:,} bytes, and {MOST_BYTES:,} are allowed")
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
    try:
        _check_files(path)
        model = saved_model_pb2.SavedModel.FromString((path / "saved_model.pb").read_bytes())
        operators = _check_graph(path, model)
        return Reading(path, _check_sheet(path), operators)
    except DecodeError:
        raise _no(path, "saved_model.pb is no SavedModel") from None
    except Refused:
        raise
    except Exception as error:
        raise _no(path, f"it cannot be read ({' '.join(str(error).split())[:200]})") from None


def loaded(path: Path) -> Any:
    """The signatures of a policy. Nothing is restored: its parameters are constants."""
    return tf.saved_model.load(str(path), options=tf.saved_model.LoadOptions(experimental_skip_checkpoint=True)).signatures


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
    except Exception:
        raise _no(path, f"{GOLDEN} is not what an export writes") from None
    return found


def _asked(
    path: Path, name: str, golden: dict[str, dict[str, np.ndarray]], signatures: Any
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each output its name, what it was at the export, and what it is now. Raises: Refused if the policy does not answer."""
    try:
        answers = signatures[name](**{key: tf.constant(x) for key, x in golden["inputs"].items()})
        yield from [(key, wanted, answers[key].numpy()) for key, wanted in golden["outputs"].items()]
    except Exception as error:
        raise _no(path, f"{name} does not answer ({' '.join(str(error).split())[:200]})") from None


def replay(path: Path, signatures: Any = None, tolerance: float = 1e-5) -> Replay:
    """Asks a policy, loaded, what it was asked when it was exported.

    The same machine gives the same bits; another one may round otherwise. Raises: Refused if an answer is another one, or none was kept.
    """
    asked, signatures = _golden(path), loaded(path) if signatures is None else signatures
    without = sorted(name for name in signatures if name != "metadata" and not asked.get(name, {}).get("outputs"))
    if without:
        raise _no(path, f"{GOLDEN} has no answers of {without[0]}")
    outputs, same, worst = 0, 0, 0.0
    for name, golden in asked.items():
        for key, wanted, found in _asked(path, name, golden, signatures):
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
