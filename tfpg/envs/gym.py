"""The bridge to environments that run outside TensorFlow: any gymnasium id, and EnvPool.

Whatever the engine does at the end of an episode, what comes out is the same: each row says where the step led (`next_observation`, the
true one), where the next step starts (`observation`), and whether the row is a step at all (`valid`).

    gymnasium  automatic resets off: finished environments are reset here, at once
    envpool    resets at the next step (NEXT_STEP), which is no step of an episode and comes out with valid = False
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from tfpg.errors import EnvironmentFault, UsageError
from tfpg.types import Spaces

TIME_LIMIT = 1000  # steps of an episode where the environment sets no limit: an evaluation must end
EXTRAS = {"box2d": "box2d", "mujoco": "mujoco", "ale": "atari", "pygame": "classic-control"}


class Step(NamedTuple):
    """One step of N environments, as NumPy arrays of N rows."""

    next_observation: np.ndarray  # where the step led, within the same episode
    reward: np.ndarray  # float32
    terminated: np.ndarray  # bool
    truncated: np.ndarray  # bool
    valid: np.ndarray  # bool, False where the engine only reset the environment
    observation: np.ndarray  # where the next step starts: the first of a new episode after an end


class VectorEnvironment(NamedTuple):
    """N environments stepped from Python. `reset() -> observation`; `step(action) -> Step`; `close()`."""

    name: str
    spaces: Spaces
    time_limit: int
    reset: Callable[[], np.ndarray]
    step: Callable[[np.ndarray], Step]
    close: Callable[[], None]


def spaces_of(name: str, observation: Any, action: Any) -> Spaces:
    """Gymnasium spaces as `Spaces`. Raises UsageError for a kind that is not supported."""
    import gymnasium

    if not isinstance(observation, gymnasium.spaces.Box) or 0 in observation.shape:
        raise UsageError(f"--env={name} has observations {observation}: only Box observations are supported.")
    shape = tuple(int(n) for n in observation.shape)
    if isinstance(action, gymnasium.spaces.Discrete):
        return Spaces(shape, actions=int(action.n), action_start=int(getattr(action, "start", 0)))
    if (
        isinstance(action, gymnasium.spaces.Box)
        and len(action.shape) == 1
        and 0 not in action.shape
        and np.issubdtype(action.dtype, np.floating)
    ):
        low, high = (tuple(float(x) for x in bound) for bound in (action.low, action.high))
        return Spaces(shape, action_low=low, action_high=high)
    raise UsageError(f"--env={name} has actions {action}: Discrete and real Box actions of one axis are supported.")


def _explain(name: str, error: Exception) -> UsageError:
    import gymnasium

    text = " ".join(str(error).split()).rstrip("?.! ")
    if isinstance(error, (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError, ImportError)):
        extra = next((extra for word, extra in EXTRAS.items() if word in text.lower()), None)
        cure = f"pip install 'gymnasium[{extra}]' brings it." if extra else "Install the package that it names."
        return UsageError(f"--env={name} needs a package that is missing ({text}). {cure}")
    return UsageError(f"--env={name} cannot be made: {text}. Any registered gymnasium id is allowed, such as CartPole-v1.")


@contextmanager
def named(name: str) -> Iterator[None]:
    """Turns whatever an environment raises into an EnvironmentFault that names it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise EnvironmentFault(f"{name} failed: {type(error).__name__}: {' '.join(str(error).split())}") from error


def _make(name: str, n: int, **limit: int) -> Any:
    import gymnasium

    mode = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
    try:
        return gymnasium.make_vec(name, num_envs=n, vectorization_mode="sync", vector_kwargs=mode, **limit)
    except Exception as error:
        raise _explain(name, error) from error


def open_gymnasium(name: str, n: int, seed: int) -> VectorEnvironment:
    """N gymnasium environments stepped one after another in this process; environment i starts from seed + i,
    and later resets continue its random stream. Those without a time limit are truncated after TIME_LIMIT steps.

    Raises: UsageError if there is no such environment, a package is missing, or its spaces are not supported.
    """
    import gymnasium

    gymnasium.logger.min_level = gymnasium.logger.ERROR
    envs = _make(name, n)
    if envs.envs[0].spec.max_episode_steps is None:
        envs.close()
        envs = _make(name, n, max_episode_steps=TIME_LIMIT)
    spaces = spaces_of(name, envs.single_observation_space, envs.single_action_space)
    dtype = envs.single_action_space.dtype
    seeds = iter([seed])

    def reset() -> np.ndarray:
        with named(name):
            return np.asarray(envs.reset(seed=next(seeds, None))[0], np.float32)

    def step(action: np.ndarray) -> Step:
        with named(name):
            after, reward, terminated, truncated, _ = envs.step(action.astype(dtype))
            following, ended = after, terminated | truncated
            if ended.any():
                following, _ = envs.reset(options={"reset_mask": ended})
        rows = (np.asarray(after, np.float32), np.asarray(reward, np.float32), terminated.copy(), truncated.copy())
        return Step(*rows, np.ones(n, bool), np.asarray(following, np.float32))

    def close() -> None:
        with named(name):
            envs.close()

    return VectorEnvironment(name, spaces, envs.envs[0].spec.max_episode_steps, reset, step, close)


def open_envpool(name: str, n: int, seed: int) -> VectorEnvironment:
    """N EnvPool environments, seeded at creation. Raises: UsageError as above."""
    try:
        import envpool
    except ImportError:
        raise UsageError(
            "--engine=envpool needs envpool, which is not installed: pip install envpool brings it, for Python 3.11 and later."
        ) from None
    if name not in envpool.list_all_envs():
        raise UsageError(f"--env={name} is not an environment of --engine=envpool; try --engine=gymnasium.")
    envs = envpool.make(name, env_type="gymnasium", num_envs=n, seed=seed)
    spaces = spaces_of(name, envs.observation_space, envs.action_space)
    dtype = envs.action_space.dtype
    resetting = np.zeros(n, bool)

    def reset() -> np.ndarray:
        resetting[:] = False
        return np.asarray(envs.reset()[0], np.float32)

    def step(action: np.ndarray) -> Step:
        after, reward, terminated, truncated, _ = envs.step(action.astype(dtype))
        after, valid = np.array(after, np.float32), ~resetting
        resetting[:] = valid & (terminated | truncated)
        return Step(after, np.array(reward, np.float32), terminated & valid, truncated & valid, valid, after)

    return VectorEnvironment(name, spaces, int(envs.spec.config.max_episode_steps), reset, step, envs.close)


ENGINES = {"gymnasium": open_gymnasium, "envpool": open_envpool}
