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
    """Observations as arrays of their own, nested ones flattened; faults named; no info, which nothing here reads.

    A copy is needed because some environments write each observation into the same array: the last one of an episode would be
    overwritten by the reset that follows in the same step.
    """

    def __init__(self, env: gymnasium.Env, who: str, parts: tuple[Part, ...], shape: tuple[int, ...]) -> None:
        super().__init__(env)
        self.who, self.parts = who, parts
        if parts:
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.shape = self.observation_space.shape

    def _array(self, observation: Any) -> np.ndarray:
        x = flat(self.parts, observation) if self.parts else np.array(observation)
        if x.shape != self.shape:
            raise ValueError(f"the observation has shape {x.shape}, its space {self.shape}")
        if x.dtype is not FLOAT and x.dtype.kind not in "fiub":
            raise TypeError(f"the observation is made of {x.dtype.name}, where only numbers are allowed")
        return x

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        with named(self.who):
            return self._array(self.env.reset(seed=seed, options=options)[0]), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        try:  # not `named`: it would take a tenth of the time of a small environment's step
            observation, reward, terminated, truncated, _ = self.env.step(action)
            if type(reward) is not float:
                reward = number("reward", reward)
            if type(terminated) is not bool or type(truncated) is not bool:
                terminated, truncated = flag("terminated", terminated), flag("truncated", truncated)
            return self._array(observation), reward, terminated, truncated, {}
        except EnvironmentFault:
            raise
        except (Exception, SystemExit) as error:
            raise fault(self.who, error) from error


def maker(make: Callable[[], gymnasium.Env], who: str, parts: tuple[Part, ...], shape: tuple[int, ...]) -> Callable[[], gymnasium.Env]:
    """make() -> environment, for this process or for a worker.

    Ctrl-C reaches every process of a terminal, but it is the parent's to answer; and a worker ends when it is told to, whatever the
    parent does at that signal.
    """
    parent = os.getpid()

    def build() -> gymnasium.Env:
        if os.getpid() != parent:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return Plain(make(), who, parts, shape)

    return build
