"""A loaded version of a policy: what a request must hold, and the answer. Both protocols ask here."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import verify
from tfpg.files import numbered

Arrays = dict[str, np.ndarray]


class Refusal(Exception):
    """A request that is not answered: `kind` is 'invalid', 'missing', 'large' or 'late'."""

    def __init__(self, message: str, kind: str = "invalid") -> None:
        super().__init__(message)
        self.kind = kind


class Model(NamedTuple):
    """One version, loaded."""

    version: int
    path: Path
    signatures: Mapping[str, Any]  # the functions, by name
    inputs: dict[str, dict[str, tf.TensorSpec]]

    def specs(self, signature: str) -> dict[str, tf.TensorSpec]:
        """What a signature takes, by name. Raises: Refusal if there is no such signature."""
        if signature not in self.inputs:
            raise Refusal(f"signature_name {signature!r} is unknown: {', '.join(self.inputs)} are there")
        return self.inputs[signature]


def load(path: Path, trust: bool) -> Model:
    """Loads a version that was verified. Raises: UsageError if it is refused, unless it is to be trusted anyhow."""
    if not trust:
        verify.read(path)
    signatures = verify.loaded(path)
    if not trust:
        verify.replay(path, signatures)
    inputs = {name: dict(sorted(function.structured_input_signature[1].items())) for name, function in signatures.items()}
    return Model(int(path.name) if path.name.isdecimal() else 1, path, signatures, inputs)


def column(name: str, spec: tf.TensorSpec, value: Any) -> np.ndarray:
    """A JSON value as an input. Raises: Refusal for what has another shape or kind of number, or does not fit its type.

    The kinds are looked at before numbers are made of them: texts would become an array of the longest of them.
    """
    x, real = np.asarray(value, object), spec.dtype.is_floating
    kinds = set(map(type, x.ravel()))
    if list in kinds:
        raise Refusal(f"{name} is no array of numbers: its rows have different lengths")
    if not kinds <= ({int, float} if real else {int}):
        raise Refusal(f"{name} must hold {'' if real else 'whole '}numbers only")
    try:
        with np.errstate(over="ignore", invalid="ignore"):
            found = x.astype(spec.dtype.as_numpy_dtype)
        fits = np.isfinite(found).all() if real else (found == x).all()
    except OverflowError:
        fits = False
    if not fits:
        raise Refusal(f"{name} holds a number that {spec.dtype.name} does not")
    return found.reshape(0, *spec.shape[1:]) if found.shape == (0,) else found


def check(model: Model, signature: str, given: Mapping[str, tuple[Any, tuple[int, ...]]], most_rows: int) -> None:
    """Raises Refusal, naming what is wrong, unless the inputs are those that a signature takes. Args: given: type and shape of each."""
    specs = model.specs(signature)
    odd = sorted({*given} ^ {*specs})
    if odd:
        raise Refusal(f"{odd[0]} is {'missing' if odd[0] in specs else 'unknown'}: {signature} takes {', '.join(specs) or 'nothing'}")
    for name, spec in specs.items():
        dtype, shape = given[name]
        if dtype != spec.dtype.as_numpy_dtype or len(shape) != spec.shape.rank or shape[1:] != tuple(spec.shape[1:]):
            wanted = ["rows", *map(str, spec.shape[1:])]
            raise Refusal(
                f"{name} is {np.dtype(dtype).name} of shape {list(shape)}, and must be {spec.dtype.name} of [{', '.join(wanted)}]"
            )
    rows = {name: shape[0] for name, (_, shape) in given.items()}
    if len(set(rows.values())) > 1:
        raise Refusal(f"inputs have different numbers of rows: {', '.join(f'{name} {n}' for name, n in rows.items())}")
    if max(rows.values(), default=0) > most_rows:
        raise Refusal(f"{max(rows.values()):,} rows are too many: --max_rows={most_rows} are allowed", "large")


def answer(model: Model, signature: str, given: Arrays) -> Arrays:
    """What the policy says to inputs that were checked.

    Raises: Refusal for values that it does not take, such as NaN, and for such large ones that no number answers them.
    """
    try:
        found = model.signatures[signature](**{name: tf.constant(x) for name, x in given.items()})
    except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        raise Refusal(" ".join(str(error.message).split())[:300]) from None
    answers = {name: np.asarray(tensor.numpy(), object if tensor.dtype == tf.string else None) for name, tensor in found.items()}
    for name, x in answers.items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise Refusal(f"{name} would not be finite: the inputs are too large")
    return answers


class Shelf:
    """The newest version that can be trusted. `look` takes a newer one once it is loaded; until then the one before answers."""

    def __init__(self, policy: Path, trust: bool, say: Callable[[str], None]) -> None:
        self.policy, self.trust, self.say = policy, trust, say
        self.refused: dict[Path, int] = {}  # with the time of their writing: one that is written anew is looked at again
        self.model = load(verify.newest(policy), trust)

    def _complete(self, path: Path) -> bool:
        """Whether a version is all there (its sheet is written last), and was not refused as it is."""
        last = path / ("saved_model.pb" if self.trust else verify.SHEET)
        return last.is_file() and self.refused.get(path) != last.stat().st_mtime_ns

    def look(self) -> None:
        """Takes a newer version, if there is one; one that is refused is named once. One version by itself stays what it is."""
        if (self.policy / "saved_model.pb").is_file():
            return
        found = [*numbered(self.policy / "policy"), *numbered(self.policy)]
        newer = [path for path in found if int(path.name) > self.model.version and self._complete(path)]
        if not newer:
            return
        path = max(newer, key=lambda path: int(path.name))
        try:
            self.model = load(path, self.trust)
            self.say(f"Version {self.model.version} is served from now on.")
        except Exception as error:  # whatever is wrong with it, the version before is served
            self.refused[path] = (path / ("saved_model.pb" if self.trust else verify.SHEET)).stat().st_mtime_ns
            self.say(f"Version {path.name} is not served, {self.model.version} still is: {' '.join(str(error).split())}")
