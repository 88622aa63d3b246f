"""A corridor against which any collector of experience can be held: what it must record, and what follows from it, in closed form.

The corridor is a walk k = 0, 1, 2, .. that nothing can turn. Step k pays 1 + 0.3 k + 0.05 a for the action a in {0, 1}. Column i (the
environment that was reset with seed i) terminates after LENGTHS[i mod 3] steps, and its clock truncates it after LIMIT:

    column 0  terminates after 3 steps
    column 1  terminates and is truncated at one step, the fifth
    column 2  is truncated after 5 steps
    all       are cut inside an episode when 13 steps are collected, which flags nothing

The observation is (k, length), so a row tells by itself which step of which column it is. The same corridor exists in graph
(`in_graph`), as the gymnasium id `tfpg/Corridor-v0` (`register`), and with EnvPool's interface and its reset at the next step (`envpool`).

Another library's buffers are held against it like this. This collector keeps one `done` for both ends and counts every row:

>>> import gymnasium, numpy as np
>>> from tfpg import conformance
>>> conformance.register()
>>> envs = gymnasium.make_vec(conformance.ID, num_envs=3, vectorization_mode="sync")  # resets at the next step
>>> rows, action = [], np.ones([13, 3], int)
>>> observation, _ = envs.reset(seed=0)
>>> for t in range(13):
...     after, reward, terminated, truncated, _ = envs.step(action[t])
...     rows.append({"observation": observation, "reward": reward, "terminated": terminated | truncated, "next_observation": after})
...     observation = after
>>> buffer = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
>>> conformance.check(buffer, conformance.steps(action, resets_take_a_row=True))
Traceback (most recent call last):
    ...
tfpg.conformance.NotConformant: mask of column 0 at step 3 is True, not False: this row only resets the environment.
>>> wanted = conformance.steps(action, resets_take_a_row=True)
>>> conformance.check({**buffer, "mask": wanted.mask}, wanted)
Traceback (most recent call last):
    ...
tfpg.conformance.NotConformant: terminated of column 2 at step 4 is True, not False: the clock ends the episode here.

What it learns from is held the same way, under the names of `Targets`:

>>> targets = conformance.targets(wanted, gamma=0.9, lambda_=0.8)
>>> gae = targets.gae.copy()
>>> gae[4, 2] -= 0.9 * conformance.value(wanted.next_observation[4, 2])  # V(o_5) forgotten where the clock ended the episode
>>> conformance.check({"gae": gae, "mask": wanted.mask}, wanted, targets)
Traceback (most recent call last):
    ...
tfpg.conformance.NotConformant: gae of column 2 at step 4 is -1.55, not 2.5: the clock ends the episode here.
"""

import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import tensorflow as tf

from tfpg.types import Environment, Spaces

ID = "tfpg/Corridor-v0"
LENGTHS, LIMIT = (3, 5, 100), 5


class NotConformant(AssertionError):
    """A collector or a target is wrong: which field, column and step first, and what it should be."""


class Steps(NamedTuple):
    """T steps of N columns, time-major. Where `mask` is False the other fields say nothing."""

    mask: np.ndarray  # [T, N] bool, False where the engine only resets
    age: np.ndarray  # [T, N] k, steps since the episode began
    observation: np.ndarray  # [T, N, 2]
    reward: np.ndarray  # [T, N]
    terminated: np.ndarray  # [T, N] bool
    truncated: np.ndarray  # [T, N] bool
    next_observation: np.ndarray  # [T, N, 2] within the episode


class Targets(NamedTuple):
    """What follows from steps, [T, N] each; 0 where the mask is False."""

    td_target: np.ndarray
    reward_to_go: np.ndarray
    gae: np.ndarray


def reward(k: Any, action: Any) -> Any:
    """r(k, a) = 1 + 0.3 k + 0.05 a."""
    return 1 + 0.3 * k + 0.05 * action


def value(observation: Any) -> Any:
    """Some V(o) that no step can confuse with another: [..., 2] -> [...]."""
    return 2 + 0.7 * observation[..., 0] - 0.01 * observation[..., 1]


def column_lengths(n: int) -> np.ndarray:
    """Steps after which each of n columns terminates: [n]."""
    return np.array([LENGTHS[i % len(LENGTHS)] for i in range(n)])


def steps(action: Any, first: int = 0, resets_take_a_row: bool = False) -> Steps:
    """What a collector must record, given the actions it took.

    Row t is step k = (first + t) mod (episode's length) of an episode; with rows that only reset, each episode has one row more.

    Args:
        action: [T, N], each 0 or 1.
        first: rows that were collected before these; a chunk goes on where the last one stopped.
        resets_take_a_row: the engine resets at the next step (gymnasium's NEXT_STEP, EnvPool), and the row counts towards T.
    """
    action = np.asarray(action)
    horizon, n = action.shape
    length = np.broadcast_to(column_lengths(n), action.shape)
    episode = np.minimum(length, LIMIT)
    k = (first + np.arange(horizon)[:, None]) % (episode + resets_take_a_row)
    return Steps(
        mask=k < episode,
        age=k,
        observation=np.stack([k, length], axis=-1),
        reward=reward(k, action),
        terminated=k + 1 == length,
        truncated=k + 1 == LIMIT,
        next_observation=np.stack([k + 1, length], axis=-1),
    )


def _rest(wanted: Steps, t: int, i: int) -> range:
    """The steps from t on to the end of the episode of column i, or to the last that was collected."""
    ended = (wanted.terminated | wanted.truncated)[t:, i]
    return range(t, t + int(np.argmax(ended)) + 1 if ended.any() else len(ended) + t)


def targets(wanted: Steps, gamma: float, lambda_: float, value: Callable[[np.ndarray], Any] = value) -> Targets:
    """What must be learned from steps, as sums over the rest of the episode, t .. e: e ends the episode, or is the last step collected.

        td_target     r_t + gamma v_{t+1},   v_{t+1} = V(o_{t+1}), and 0 where the corridor terminates
        reward_to_go  sum_{l=t}^{e} gamma^(l-t) r_l + gamma^(e-t+1) v_{e+1}
        gae           sum_{l=t}^{e} (gamma lambda)^(l-t) (r_l + gamma v_{l+1} - V(o_l))

    Args: value: V, [T, N, 2] -> [T, N].
    References: Schulman et al. 2016 (arXiv:1506.02438), equation 16; Pardo et al. 2018 (arXiv:1712.00378).
    """
    v_t, after = np.asarray(value(wanted.observation)), np.where(wanted.terminated, 0.0, value(wanted.next_observation))
    td_target = np.where(wanted.mask, wanted.reward + gamma * after, 0.0)
    to_go, gae = np.zeros(wanted.mask.shape), np.zeros(wanted.mask.shape)
    for t, i in np.argwhere(wanted.mask):
        rest = _rest(wanted, t, i)
        to_go[t, i] = sum(gamma ** (m - t) * wanted.reward[m, i] for m in rest) + gamma ** len(rest) * after[rest[-1], i]
        gae[t, i] = sum((gamma * lambda_) ** (m - t) * (td_target[m, i] - v_t[m, i]) for m in rest)
    return Targets(td_target, to_go, gae)


def _where(wanted: Steps, t: int, i: int) -> str:
    """What happens in a row, as the end of a sentence."""
    if not wanted.mask[t, i]:
        return "this row only resets the environment"
    ends = {(True, True): "the corridor terminates and its clock ends the episode here", (True, False): "the corridor terminates here"}
    ends |= {(False, True): "the clock ends the episode here", (False, False): f"step {wanted.age[t, i]} of an episode"}
    return ends[bool(wanted.terminated[t, i]), bool(wanted.truncated[t, i])]


def _fields(record: Any) -> dict[str, np.ndarray]:
    named = record if isinstance(record, Mapping) else record._asdict()
    return {name: np.asarray(x) for name, x in named.items()}


def check(found: Any, wanted: Steps, targets: Targets | None = None, rtol: float = 1e-4, atol: float = 1e-5) -> None:
    """Compares what a collector recorded, and what was computed from it, with the closed forms, wherever the mask is True.

    Args: found: a NamedTuple or dict of [T, N, ...] arrays under the names of `Steps` and `Targets`, any of them; without a mask, every
        row counts. A `Trajectory` will do. rtol, atol: |found - wanted| <= atol + rtol |wanted| passes.
    Raises: NotConformant with the first step that is wrong, and of that step the first field in the order of the records; ValueError for
        a field that has no closed form here.
    """
    right = {**wanted._asdict(), **(targets._asdict() if targets is not None else {})}
    given = {"mask": np.ones(wanted.mask.shape, bool), **_fields(found)}
    unknown = set(given) - set(right) - {"action", "log_prob"}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))}: there are closed forms of {', '.join(right)} only.")
    first: tuple[int, int, int, str] | None = None
    for order, name in enumerate(name for name in right if name in given):
        if given[name].shape != right[name].shape:
            raise NotConformant(f"{name} has shape {given[name].shape}, not {right[name].shape}.")
        equal = np.isclose(given[name].astype(np.float64), right[name].astype(np.float64), rtol=rtol, atol=atol)
        wrong = ~equal.reshape(*wanted.mask.shape, -1).all(-1) & (wanted.mask if name != "mask" else True)
        for t, i in np.argwhere(wrong)[:1]:
            first = min(first or (int(t), order, int(i), name), (int(t), order, int(i), name))
    if first is not None:
        t, _, i, name = first
        got, should = (np.array2string(x[name][t, i], precision=3, separator=", ") for x in (given, right))
        raise NotConformant(f"{name} of column {i} at step {t} is {got}, not {should}: {_where(wanted, t, i)}.")


def in_graph() -> Environment:
    """The corridors as an environment in TensorFlow. State and observation: [N, 2], k and the column's length."""

    def reset(n: int, seed: tf.Tensor) -> tf.Tensor:
        return tf.constant(np.stack([np.zeros(n), column_lengths(n)], axis=1), tf.float32)

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        k, length = tf.unstack(state, axis=1)
        return tf.stack([k + 1, length], axis=1), reward(k, tf.cast(action, tf.float32)), k + 1 >= length

    return Environment(ID, Spaces((2,), actions=2), LIMIT, reset, lambda state: state, step)


class Corridor(gymnasium.Env):
    """One column, as a gymnasium environment without a clock. The seed of the first reset chooses it."""

    observation_space = gymnasium.spaces.Box(0, 1000, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.length = LENGTHS[seed % len(LENGTHS)]
        self.k = 0
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        return np.array([self.k, self.length], np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        paid = float(reward(self.k, action))
        self.k += 1
        return self._observe(), paid, self.k >= self.length, False, {}


def register() -> None:
    """Makes the corridor known to gymnasium as `tfpg/Corridor-v0`, with its clock."""
    if ID not in gymnasium.registry:
        gymnasium.register(ID, Corridor, max_episode_steps=LIMIT)


class NextStepCorridors:
    """EnvPool's way: the step after an end ignores its action, pays 0, flags nothing, and shows the first observation."""

    def __init__(self, n: int) -> None:
        self.n, self.lengths = n, column_lengths(n)
        self.observation_space, self.action_space = Corridor.observation_space, Corridor.action_space
        self.spec = types.SimpleNamespace(config=types.SimpleNamespace(max_episode_steps=LIMIT))

    def _observe(self) -> np.ndarray:
        return np.stack([self.k, self.lengths], axis=1).astype(np.float32)

    def reset(self) -> tuple[np.ndarray, dict[str, Any]]:
        self.k, self.over = np.zeros(self.n, int), np.zeros(self.n, bool)
        return self._observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        if action.shape != (self.n,):
            raise ValueError(f"actions have shape {action.shape}, not {(self.n,)}")
        paid = np.where(self.over, 0, reward(self.k, action))
        self.k = np.where(self.over, 0, self.k + 1)
        terminated, truncated = ~self.over & (self.k >= self.lengths), ~self.over & (self.k >= LIMIT)
        self.over = terminated | truncated
        return self._observe(), paid, terminated, truncated, {}

    def close(self) -> None:
        pass


def envpool() -> types.ModuleType:
    """A module that offers what the bridge uses of EnvPool, with the corridor as its only environment."""
    module = types.ModuleType("envpool")
    vars(module)["list_all_envs"] = lambda: [ID]
    vars(module)["make"] = lambda name, env_type, num_envs, seed, thread_affinity_offset=-1: NextStepCorridors(num_envs)
    return module
