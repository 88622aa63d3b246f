"""A loaded version of a policy: what a request must hold, and the answer. Both protocols ask here."""

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import verify
from tfpg.errors import UsageError
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
    """Loads a version that was read and not refused. Raises: UsageError if it was, unless it is to be trusted anyhow."""
    if not trust:
        verify.read(path)
    signatures = tf.saved_model.load(str(path)).signatures
    inputs = {name: dict(sorted(function.structured_input_signature[1].items())) for name, function in signatures.items()}
    return Model(int(path.name) if path.name.isdecimal() else 1, path, signatures, inputs)


def column(name: str, spec: tf.TensorSpec, value: Any) -> np.ndarray:
    """A JSON value as an input. Raises: Refusal for what has another shape or kind of number, or does not fit its type."""
    try:
        x = np.asarray(value)
    except (ValueError, TypeError, OverflowError):
        raise Refusal(f"{name} is no array of numbers: its rows have different lengths") from None
    real = spec.dtype.is_floating
    if not set(map(type, np.asarray(value, object).ravel())) <= ({int, float} if real else {int}):
        raise Refusal(f"{name} must hold {'' if real else 'whole '}numbers only")
    if x.size == 0 and x.dtype.kind == "f":
        x = x.astype(spec.dtype.as_numpy_dtype)
        x = x.reshape(0, *spec.shape[1:]) if x.shape == (0,) else x
    with np.errstate(over="ignore", invalid="ignore"):
        found = x.astype(spec.dtype.as_numpy_dtype)
    if (real and not np.isfinite(found).all()) or (not real and (found != x).any()):
        raise Refusal(f"{name} holds a number that {spec.dtype.name} does not")
    return found


def check(model: Model, signature: str, given: Arrays, most_rows: int) -> Arrays:
    """The inputs, if they are those that a signature takes. Raises: Refusal that names what is wrong."""
    specs = model.specs(signature)
    odd = sorted({*given} ^ {*specs})
    if odd:
        raise Refusal(f"{odd[0]} is {'missing' if odd[0] in specs else 'unknown'}: {signature} takes {', '.join(specs) or 'nothing'}")
    for name, spec in specs.items():
        x, wanted = given[name], spec.dtype.as_numpy_dtype
        if x.dtype != wanted or x.ndim != spec.shape.rank or x.shape[1:] != tuple(spec.shape[1:]):
            shape = ["rows", *map(str, spec.shape[1:])]
            raise Refusal(f"{name} is {x.dtype.name} of shape {list(x.shape)}, and must be {spec.dtype.name} of [{', '.join(shape)}]")
    rows = {name: len(x) for name, x in given.items()}
    if len(set(rows.values())) > 1:
        raise Refusal(f"inputs have different numbers of rows: {', '.join(f'{name} {n}' for name, n in rows.items())}")
    if max(rows.values(), default=0) > most_rows:
        raise Refusal(f"{max(rows.values()):,} rows are too many: --max_rows={most_rows} are allowed", "large")
    return given


def answer(model: Model, signature: str, given: Arrays) -> Arrays:
    """What the policy says to inputs that were checked. Raises: Refusal for values that it does not take, such as NaN."""
    try:
        found = model.signatures[signature](**{name: tf.constant(x) for name, x in given.items()})
    except (tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError) as error:
        raise Refusal(" ".join(str(error.message).split())[:300]) from None
    return {name: np.asarray(tensor.numpy(), object if tensor.dtype == tf.string else None) for name, tensor in found.items()}


class Shelf:
    """The newest version that can be trusted. `look` takes a newer one once it is loaded; until then the one before answers."""

    def __init__(self, policy: Path, trust: bool, say: Callable[[str], None]) -> None:
        self.policy, self.trust, self.say = policy, trust, say
        self.refused: set[Path] = set()
        self.lock = threading.Lock()
        self.model = load(verify.newest(policy), trust)

    def _newest(self) -> Path:
        """The newest version that has not been refused. One version by itself stays what it is."""
        if (self.policy / "saved_model.pb").is_file():
            return self.model.path
        found = [*numbered(self.policy / "policy"), *numbered(self.policy)]
        return max((path for path in found if path not in self.refused), key=lambda path: int(path.name), default=self.model.path)

    def look(self) -> None:
        """Takes a newer version, if there is one; one that is refused is named once."""
        with self.lock:
            path = self._newest()
            if path == self.model.path or int(path.name) < self.model.version:
                return
            try:
                self.model = load(path, self.trust)
                self.say(f"Version {self.model.version} is served from now on.")
            except (UsageError, OSError, ValueError, tf.errors.OpError) as error:
                self.refused.add(path)
                self.say(f"Version {path.name} is not served, {self.model.version} still is: {' '.join(str(error).split())}")
