"""One gymnasium environment as the bridge wants it, wherever it runs: in this process or in a worker."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

from tfpg.envs.spaces import flat
from tfpg.errors import EnvironmentFault
from tfpg.types import Part


def fault(who: str, error: BaseException) -> EnvironmentFault:
    """What an environment raised as one sentence that names it, which any process can send to another."""
    return EnvironmentFault(f"{who} failed: {type(error).__name__}: {' '.join(str(error).split())}")


FLOAT = np.dtype(np.float32)  # one object, which every array of its type has


@contextlib.contextmanager
def named(who: str) -> Iterator[None]:
    """Turns whatever is raised inside into a fault that names it."""
    try:
        yield
    except EnvironmentFault:
        raise
    except (Exception, SystemExit) as error:
        raise fault(who, error) from error


def flag(name: str, value: Any) -> bool:
    """A flag that says yes or no. Raises: TypeError for anything else, NaN included, which Python would take for a yes."""
    if np.shape(value) != () or value not in (False, True):
        raise TypeError(f"{name} is {value}, where only True and False are allowed")
    return bool(value)


def number(name: str, value: Any) -> float:
    """A number, of Python or NumPy. Raises: TypeError for anything else, None and texts included."""
    if isinstance(value, (int, float, np.number, np.bool_)) or (isinstance(value, np.ndarray) and value.shape == ()):
        return float(value)
    raise TypeError(f"{name} is {value!r}, where only a number is allowed")


class Plain(gymnasium.Wrapper):
    """Observations as one array each, nested ones flattened; faults named; no info, which nothing here reads.

    Args: copies: whether an observation stays what it is when the environment goes on. Some environments write each one into the same
    array: the last one of an episode would be overwritten by a reset that follows before it is read.
    """

    def __init__(self, env: gymnasium.Env, who: str, parts: tuple[Part, ...], shape: tuple[int, ...], copies: bool = False) -> None:
        super().__init__(env)
        self.who, self.parts, self.copies, self.as_given = who, parts, copies, not (parts or copies)
        if parts:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.shape = self.observation_space.shape

    def _array(self, observation: Any) -> np.ndarray:
        x = flat(self.parts, observation) if self.parts else np.array(observation, copy=self.copies or None)
        if x.shape != self.shape:
            raise ValueError(f"the observation has shape {x.shape}, its space {self.shape}")
        if x.dtype.kind not in "fiub":
            raise TypeError(f"the observation is made of {x.dtype.name}, where only numbers are allowed")
        return x

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        with named(self.who):
            return self._array(self.env.reset(seed=seed, options=options)[0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        try:  # not `named`, and no call for what is as it should be: each takes a hundredth of the time of a small environment's step
            observation, reward, terminated, truncated, _ = self.env.step(action)
            if type(reward) is not float:
                reward = number("reward", reward)
            if type(terminated) is not bool or type(truncated) is not bool:
                terminated, truncated = flag("terminated", terminated), flag("truncated", truncated)
            right = type(observation) is np.ndarray and observation.dtype is FLOAT and observation.shape == self.shape
            if not (right and self.as_given):
                observation = self._array(observation)
            return observation, reward, terminated, truncated, {}
        except EnvironmentFault:
            raise
        except (Exception, SystemExit) as error:
            raise fault(self.who, error) from error


class Row:
    """Environments of this process, stepped one after another, whose finished ones wait to be reset.

    `step(action)` and `reset(seed=..., options={'reset_mask': ...})` are those of gymnasium's `SyncVectorEnv` with autoreset disabled,
    for observations as float32 and without information, for half of what it adds to small environments' steps. Observations come in one
    array, which the next call overwrites.
    """

    def __init__(self, makers: list[Callable[[], Plain]]) -> None:
        self.envs, self.closed = [make() for make in makers], False
        self.n = len(makers)
        self.observation = np.zeros((self.n, *self.envs[0].shape), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, np.ndarray] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        for i in range(self.n) if options is None else map(int, np.flatnonzero(options["reset_mask"])):
            self.observation[i] = self.envs[i].reset(seed=None if seed is None else seed + i)[0]
        return self.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward, terminated, truncated = np.empty(self.n, np.float32), np.empty(self.n, np.bool_), np.empty(self.n, np.bool_)
        for i, env in enumerate(self.envs):
            self.observation[i], reward[i], terminated[i], truncated[i], _ = env.step(action[i])
        return self.observation, reward, terminated, truncated, {}


def maker(make: Callable[[], gymnasium.Env], *arguments: Any) -> Callable[[], Plain]:
    """make() -> `Plain(environment, *arguments)`, for this process or for a worker.

    Ctrl-C reaches every process of a terminal, but it is the parent's to answer; and a worker ends when it is told to, whatever the
    parent does at that signal.
    """
    parent = os.getpid()

    def build() -> Plain:
        if os.getpid() != parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return Plain(make(), *arguments)

    return build
