"""Gymnasium's spaces as numbers: which are taken, and how an observation becomes one array."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from tfpg.encoding import width
from tfpg.errors import UsageError
from tfpg.types import Part, Spaces

OBSERVATIONS = "Box, Discrete, MultiBinary and MultiDiscrete, and Dict and Tuple of these, none of them empty"
ACTIONS = "Discrete, MultiDiscrete, MultiBinary and real Box actions, none of them empty"
KINDS = {spaces.Box: "box", spaces.Discrete: "discrete", spaces.MultiDiscrete: "multi_discrete", spaces.MultiBinary: "multi_binary"}


def _components(space: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Number of values and first value of each component of a Discrete or MultiDiscrete space, flattened."""
    count, first = (space.n, space.start) if isinstance(space, spaces.Discrete) else (space.nvec, space.start)
    return tuple(int(n) for n in np.ravel(count)), tuple(int(n) for n in np.ravel(first))


def _kind(space: Any) -> str | None:
    """The kind of a leaf that is an array of numbers, and not an empty one; else None."""
    kind = next((name for of, name in KINDS.items() if isinstance(space, of)), None)
    return None if kind is None or 0 in space.shape or space.dtype.kind not in "buif" else kind


def _leaves(space: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """The leaves of a space in gymnasium's own order of flattening, each with its path."""
    if isinstance(space, spaces.Dict):
        for key, inner in space.spaces.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(space, spaces.Tuple):
        for i, inner in enumerate(space.spaces):
            yield from _leaves(inner, (*path, i))
    else:
        yield path, space


def parts_of(space: Any) -> tuple[Part, ...] | None:
    """The leaves of a space as records, each under a name of its own; None if there is none, or one that is not supported."""
    parts: list[Part] = []
    for path, inner in _leaves(space):
        kind = _kind(inner)
        if kind is None:
            return None
        word = re.sub(r"\W", "_", "_".join(["observation", *map(str, path)]), flags=re.ASCII)
        taken = {part.name for part in parts}
        name = next(n for n in (word, *(f"{word}_{i}" for i in range(2, len(parts) + 3))) if n not in taken)
        sizes, starts = _components(inner) if "discrete" in kind else ((), ())
        parts.append(Part(name, path, kind, tuple(map(int, inner.shape)), inner.dtype.name, sizes, starts))
    return tuple(parts) or None


def pick(part: Part, observation: Any) -> Any:
    """The leaf of a nested observation that a part describes."""
    for key in part.path:
        observation = observation[key]
    return observation


def flat(parts: tuple[Part, ...], observation: Any, batch: tuple[int, ...] = ()) -> np.ndarray:
    """A nested observation, its leaves [*batch, *shape], as one float32 array [*batch, D]: `gymnasium.spaces.flatten` of each row.

    Raises: ValueError where a leaf has another shape than its space, or holds a value that is none of its choices.
    """
    columns = []
    for part in parts:
        x = np.asarray(pick(part, observation)).reshape(*batch, -1)
        wanted = len(part.sizes) or width(part)
        if x.shape[-1] != wanted:
            raise ValueError(f"{part.name} has {x.shape[-1]} numbers where its space has {wanted}")
        if part.sizes:
            x = x - np.array(part.starts)
            if not ((x >= 0) & (x < np.array(part.sizes))).all():
                raise ValueError(f"{part.name} holds a value outside its space")
            x = np.concatenate([x[..., [i]] == np.arange(n) for i, n in enumerate(part.sizes)], axis=-1)
        columns.append(x.astype(np.float32))
    return np.concatenate(columns, axis=-1)


def _observations(name: str, space: Any) -> Spaces:
    parts = parts_of(space)
    if parts is None:
        raise UsageError(f"--env={name} has observations {space}: {OBSERVATIONS} are allowed.")
    if not isinstance(space, spaces.Box):
        return Spaces((sum(map(width, parts)),), parts=parts)
    image = space.dtype == np.uint8 and len(space.shape) in (2, 3)
    return Spaces(parts[0].shape, pixels=bool(image and (space.low == 0).all() and (space.high == 255).all()))


def _actions(name: str, space: Any) -> dict[str, Any]:
    kind = _kind(space)
    if kind is None or (kind == "box" and space.dtype.kind != "f"):
        raise UsageError(f"--env={name} has actions {space}: {ACTIONS} are allowed.")
    if kind == "discrete":
        return {"actions": int(space.n), "action_start": int(space.start)}
    own = None if len(space.shape) == 1 else tuple(map(int, space.shape))
    if kind == "box":
        # The largest number there is stands for no bound: half of such a range has no number of its own.
        most = np.finfo(space.dtype).max
        low, high = np.where(space.low <= -most, -np.inf, space.low), np.where(space.high >= most, np.inf, space.high)
        return {"action_low": tuple(map(float, low.ravel())), "action_high": tuple(map(float, high.ravel())), "action_shape": own}
    sizes, starts = _components(space) if kind == "multi_discrete" else ((2,) * int(np.prod(space.shape)), (0,) * int(np.prod(space.shape)))
    return {"choices": sizes, "choice_starts": starts, "action_shape": own}


def spaces_of(name: str, observation: Any, action: Any) -> Spaces:
    """Gymnasium spaces as `Spaces`. Raises: UsageError for a kind that is not supported, an empty one, or whole-number Box actions."""
    return _observations(name, observation)._replace(**_actions(name, action))


def to_own(action: np.ndarray, taken: Spaces, space: Any) -> np.ndarray:
    """Actions of a policy, [N], [N, K] or [N, A], in the shape and type of the environment's own action space; reals within its bounds.

    Rounding to float32 can carry a number over its bound by a bit.
    """
    shape = action.shape[1:] if taken.action_shape is None else taken.action_shape
    own = np.asarray(action).reshape(len(action), *shape).astype(space.dtype)
    return np.clip(own, space.low, space.high) if isinstance(space, spaces.Box) else own
