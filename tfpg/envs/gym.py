"""The bridge to environments that run outside TensorFlow: any gymnasium id, and EnvPool.

Whatever the engine does at the end of an episode, what comes out is the same: each row says where the step led (`next_observation`, the
true one), where the next step starts (`observation`), and whether the row is a step at all (`valid`).

    sync, async  one process, or a worker for each environment; and of gymnasium's three ways to reset
                 disabled   finished environments are reset here, at once
                 same_step  reset within the step that ends an episode; where that step led is dug out of its info
                 next_step  reset at the next step, which is no step of an episode and comes out with valid = False
    envpool      next_step
"""

import math
import multiprocessing
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from tfpg.config import AUTORESETS
from tfpg.errors import EnvironmentFault, UsageError
from tfpg.types import Spaces

TIME_LIMIT = 1000  # steps of an episode where the environment sets no limit: an evaluation must end
PATIENCE = 2.0  # seconds that workers have to close their environments
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
    """N environments stepped from Python. `reset() -> observation`; `step(action) -> Step`; `close()`.

    Observations are float32, actions as a policy's `to_env` gives them: [N], [N, K] whole numbers or [N, A] reals.
    """

    name: str
    spaces: Spaces
    time_limit: int
    reset: Callable[[], np.ndarray]
    step: Callable[[np.ndarray], Step]
    close: Callable[[], None]


class Care(NamedTuple):
    """How closely environments are watched."""

    timeout: float = 0.0  # seconds for a step or reset of environments in processes of their own; 0: any time
    bounds: bool = False  # whether observations must be in their space


CARELESS = Care()


def _explain(name: str, arguments: dict[str, Any], error: BaseException) -> UsageError:
    import gymnasium

    text = " ".join(str(error).split()).rstrip("?.! ") or type(error).__name__
    if isinstance(error, (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError, ImportError)):
        extra = next((extra for word, extra in EXTRAS.items() if word in text.lower()), None)
        cure = f"pip install 'gymnasium[{extra}]' brings it." if extra else "Install the package that it names."
        return UsageError(f"--env={name} needs a package that is missing ({text}). {cure}")
    if arguments:
        return UsageError(f"--env={name} cannot be made with {arguments}: {text}. What its constructor takes is allowed.")
    return UsageError(f"--env={name} cannot be made: {text}. Any registered gymnasium id is allowed, such as CartPole-v1.")


def _fallen(envs: Any) -> str:
    """Which worker processes have ended, as the subject of a sentence."""
    from multiprocessing.connection import wait

    ended = wait([process.sentinel for process in envs.processes], timeout=PATIENCE)
    for process in envs.processes:
        if process.sentinel in ended:
            process.join(PATIENCE)  # its exit code comes a moment after its end
    codes = [f"{i} ended with exit code {process.exitcode}" for i, process in enumerate(envs.processes) if not process.is_alive()]
    return f"the worker process of environment {', and of '.join(codes)}" if codes else "a worker process does not answer"


def _stop(envs: Any) -> None:
    """Ends the workers in whatever state they are: told to, and if they do not listen, by force."""
    if envs.closed:
        return
    envs.closed = True
    for pipe in envs.parent_pipes:
        if pipe is not None and not pipe.closed:
            with suppress(OSError):
                pipe.send(("close", None))
    for end in ("wait", "terminate", "kill"):
        for process in envs.processes:
            if end != "wait" and process.is_alive():
                getattr(process, end)()
        for process in envs.processes:
            process.join(PATIENCE / len(envs.processes))
    for pipe in envs.parent_pipes:
        if pipe is not None:
            pipe.close()


def _close_each(envs: Any) -> None:
    """Closes every environment of this process, also after one that fails at it. Raises: what the first of these raised."""
    failures: list[Exception] = []
    for env in envs.envs:
        try:
            env.close()
        except Exception as error:
            failures.append(error)
    envs.closed = True
    if failures:
        raise failures[0]


def _vectorise(vectorization: str, makers: list[Callable[[], Any]], mode: str) -> Any:
    import gymnasium

    from tfpg.envs.single import Row

    if (vectorization, mode) == ("sync", "disabled"):
        return Row(makers)
    vector = gymnasium.vector.SyncVectorEnv if vectorization == "sync" else gymnasium.vector.AsyncVectorEnv
    return vector(makers, copy=False, autoreset_mode=gymnasium.vector.AutoresetMode[mode.upper()])


def _silent(envs: Any) -> str:
    """Which workers have not answered, as the object of a sentence."""
    return " and ".join(f"environment {i}" for i, pipe in enumerate(envs.parent_pipes) if pipe is None or not pipe.poll(0))


def _step(envs: Any, care: Care, action: np.ndarray) -> Any:
    """One step of a vector of environments; of those in processes of their own within the time they have."""
    if not hasattr(envs, "step_async"):
        return envs.step(action)
    envs.step_async(action)
    return envs.step_wait(care.timeout or None)


def _reset(envs: Any, care: Care, **given: Any) -> Any:
    """A reset, likewise."""
    if not hasattr(envs, "reset_async"):
        return envs.reset(**given)
    envs.reset_async(**given)
    return envs.reset_wait(care.timeout or None)


def _told(error: BaseException, name: str, envs: Any, care: Care) -> BaseException:
    """What went wrong with worker processes, as a fault that says with which; else the error itself."""
    if isinstance(error, multiprocessing.TimeoutError):
        return EnvironmentFault(f"{_silent(envs)} of {name} did not answer within --env_timeout={care.timeout:g} seconds.")
    if isinstance(error, (EOFError, OSError)):
        return EnvironmentFault(f"{name} failed: {_fallen(envs)}.")
    return error


def _watched(name: str, envs: Any, care: Care) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for what is done with environments: whatever is raised inside is a fault. Workers go together."""
    from tfpg.envs.single import fault

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            try:
                return function(*given)
            except (Exception, SystemExit) as error:
                found: BaseException = error
                if hasattr(envs, "step_async"):
                    found = _told(error, name, envs, care)
                    _stop(envs)
                if found is error and isinstance(error, EnvironmentFault):
                    raise
                raise found if isinstance(found, EnvironmentFault) else fault(name, found) from error

        return run

    return around


class Sound:
    """Looks at what N environments give, at the step where they give it.

    Raises: EnvironmentFault for the first number that is not finite, or with `bounds` that is outside its space, with the environment's
    index, the field and the value.
    """

    def __init__(self, name: str, space: Any = None, bounds: bool = False) -> None:
        self.name, self.steps, self.bounds = name, 0, bounds and space is not None
        if self.bounds:
            self.low, self.high = space.low.astype(np.float32), space.high.astype(np.float32)

    def _fault(self, field: str, x: np.ndarray, wrong: np.ndarray, allowed: str) -> EnvironmentFault:
        i, *place = np.argwhere(wrong)[0].tolist()
        where = f"{field}{place or ''}"
        return EnvironmentFault(f"environment {i} of {self.name} failed: at step {self.steps} its {where} is {x[(i, *place)]}: {allowed}.")

    def check(self, observation: np.ndarray, reward: np.ndarray | None = None) -> None:
        """A sum of squares that is finite has finite terms; only one that is not is looked at term by term."""
        self.steps += reward is not None
        squares = np.vdot(observation, observation) + (0 if reward is None else np.vdot(reward, reward))
        if math.isfinite(squares) and not self.bounds:
            return
        fields = {"observation": observation} if reward is None else {"reward": reward, "observation": observation}
        for field, x in fields.items():
            if not np.isfinite(x).all():
                raise self._fault(field, x, ~np.isfinite(x), "it must be finite")
        if self.bounds:
            outside = (observation < self.low) | (observation > self.high)
            if outside.any():
                raise self._fault("observation", observation, outside, "its space does not have it (--check_bounds)")


def _mode(vectorization: str, autoreset: str) -> str:
    """Gymnasium's own word for a way to reset. Raises: UsageError."""
    if vectorization not in ("sync", "async"):
        raise UsageError(f"--engine={vectorization} is unknown to gymnasium: sync and async are allowed.")
    if autoreset not in AUTORESETS:
        raise UsageError(f"--autoreset={autoreset} is unknown: {', '.join(AUTORESETS)} are allowed.")
    return "disabled" if autoreset == "auto" else autoreset


def _hush() -> None:
    """Keeps gymnasium's own warnings and traces off the screen: what goes wrong comes as a sentence."""
    import gymnasium

    gymnasium.logger.min_level = gymnasium.logger.ERROR + 1


def _probe(name: str, arguments: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Observation space and action space of an environment, and its arguments, with TIME_LIMIT where it has no limit of its own."""
    import gymnasium

    if name.startswith("tfpg/"):
        import tfpg.envs.registered  # noqa: F401
    try:
        env = gymnasium.make(name, **arguments)
        env.close()
    except (Exception, SystemExit) as error:
        raise _explain(name, arguments, error) from error
    limit = env.spec.max_episode_steps
    return env.observation_space, env.action_space, {**arguments, "max_episode_steps": limit if limit and limit > 0 else TIME_LIMIT}


def open_gymnasium(
    name: str,
    n: int,
    seed: int,
    vectorization: str = "sync",
    autoreset: str = "auto",
    arguments: dict[str, Any] | None = None,
    care: Care = CARELESS,
) -> VectorEnvironment:
    """N gymnasium environments; environment i starts from seed + i, and later resets continue its random stream.

    Those without a time limit are truncated after TIME_LIMIT steps.

    Args:
        vectorization: 'sync', one after another in this process; 'async', each in a process of its own.
        autoreset: 'disabled' ('auto'), 'same_step' or 'next_step'. The steps that come out mean the same.
        arguments: of the environment's constructor.
        care: how closely they are watched.
    Raises: UsageError if there is no such environment, it does not take the arguments, a package is missing, or its spaces are not
        supported; EnvironmentFault in reset and step for whatever goes wrong in an environment or its process.
    """
    import gymnasium

    from tfpg.envs.single import maker
    from tfpg.envs.spaces import spaces_of, to_own

    mode = _mode(vectorization, autoreset)
    _hush()
    observation_space, action_space, complete = _probe(name, arguments or {})
    spaces = spaces_of(name, observation_space, action_space)

    def make() -> Any:
        return gymnasium.make(name, **complete)

    try:
        known = spaces.parts, spaces.observation_shape, mode == "same_step"
        makers = [maker(make, f"environment {i} of {name}", *known) for i in range(n)]
        envs = _vectorise(vectorization, makers, mode)
    except (Exception, SystemExit) as error:
        raise _explain(name, arguments or {}, error) from error
    seeds, resetting = iter([seed]), np.zeros(n, bool)
    sound = Sound(name, None if spaces.parts else observation_space, care.bounds)

    watched = _watched(name, envs, care)

    @watched
    def reset() -> np.ndarray:
        resetting[:] = False
        first = np.array(_reset(envs, care, seed=next(seeds, None))[0], np.float32)
        sound.check(first)
        return first

    @watched
    def move(own: np.ndarray) -> Step:
        after, reward, terminated, truncated, info = _step(envs, care, own)
        after, reward, ended, valid = np.array(after, np.float32), np.array(reward, np.float32), terminated | truncated, ~resetting
        following = after
        if mode == "next_step":
            resetting[:] = ended
        elif ended.any():
            if mode == "same_step":
                after = following.copy()
                after[ended] = np.stack(list(info["final_obs"][ended]))
            else:
                following = np.array(_reset(envs, care, options={"reset_mask": ended})[0], np.float32)
        sound.check(after, reward)
        if following is not after:
            sound.check(following)
        return Step(after, reward, terminated, truncated, valid, following)

    def step(action: np.ndarray) -> Step:
        return move(to_own(action, spaces, action_space))

    def close() -> None:
        (_stop if vectorization == "async" else watched(_close_each))(envs)

    return VectorEnvironment(name, spaces, complete["max_episode_steps"], reset, step, close)


def open_sync(
    name: str, n: int, seed: int, autoreset: str = "auto", arguments: dict[str, Any] | None = None, care: Care = CARELESS
) -> VectorEnvironment:
    """`open_gymnasium` in this process."""
    return open_gymnasium(name, n, seed, "sync", autoreset, arguments, care)


def open_async(
    name: str, n: int, seed: int, autoreset: str = "auto", arguments: dict[str, Any] | None = None, care: Care = CARELESS
) -> VectorEnvironment:
    """`open_gymnasium` with a worker process for each environment."""
    return open_gymnasium(name, n, seed, "async", autoreset, arguments, care)


def bare(envs: Any, n: int) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """EnvPool's `step(action) -> observation, reward, terminated, truncated` without its Python, which takes as long as physics.

    That part sorts players, infos and nested observations. Where there may be such, or a pool is laid out otherwise, it is `envs.step`.
    """
    keys, ids = list(getattr(envs, "_state_keys", ())), np.arange(n, dtype=np.int32)
    wanted = ("obs", "reward", "done", "trunc")
    plain = getattr(envs, "_action_keys", None) == ["env_id", "players.env_id", "action"] and {*wanted} <= {*keys}
    if not plain or envs.config.get("max_num_players", 1) != 1:
        return lambda own: envs.step(own)[:4]
    kind, places = envs.spec.action_array_spec["action"].dtype, [keys.index(key) for key in wanted]

    def step(own: np.ndarray) -> tuple[np.ndarray, ...]:
        envs._send([ids, ids, np.ascontiguousarray(own, kind)])
        values = envs._recv()
        after, reward, done, truncated = (values[k] for k in places)
        return after, reward, done & ~truncated, truncated

    return step


def pinned(n: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """EnvPool's arguments, with a core for each of its threads where there are as many of one as of the other.

    Left alone, two of them often wake on the same core. Not where there are fewer environments, where a number of threads is asked for, or
    where the process must not use every core: EnvPool would leave those that it may use.
    """
    cores = os.cpu_count() or 0
    free = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == cores
    own = {"thread_affinity_offset": 0} if free and n >= cores and "num_threads" not in arguments else {}
    return {**own, **arguments}


def open_envpool(
    name: str, n: int, seed: int, autoreset: str = "auto", arguments: dict[str, Any] | None = None, care: Care = CARELESS
) -> VectorEnvironment:
    """N EnvPool environments, seeded at creation. Raises: UsageError as above."""
    if autoreset not in ("auto", "next_step"):
        raise UsageError(f"--autoreset={autoreset} is not possible with --engine=envpool: auto and next_step are allowed.")
    try:
        import envpool
    except ImportError:
        raise UsageError(
            "--engine=envpool needs envpool, which is not installed: pip install envpool brings it, for Python 3.11 and later."
        ) from None
    from tfpg.envs.spaces import flat, spaces_of, to_own

    _hush()
    if name not in envpool.list_all_envs():
        raise UsageError(f"--env={name} is not an environment of --engine=envpool; try --engine=sync.")
    try:
        envs = envpool.make(name, env_type="gymnasium", num_envs=n, seed=seed, **pinned(n, arguments or {}))
    except Exception as error:
        raise _explain(name, arguments or {}, error) from error
    spaces = spaces_of(name, envs.observation_space, envs.action_space)
    resetting, sound = np.zeros(n, bool), Sound(name, None if spaces.parts else envs.observation_space, care.bounds)
    go, watched = bare(envs, n), _watched(name, envs, care)

    def array(observation: Any) -> np.ndarray:
        return flat(spaces.parts, observation, (n,)) if spaces.parts else np.array(observation, np.float32)

    @watched
    def reset() -> np.ndarray:
        resetting[:] = False
        first = array(envs.reset()[0])
        sound.check(first)
        return first

    @watched
    def move(own: np.ndarray) -> Step:
        after, reward, terminated, truncated = go(own)
        after, reward, valid = array(after), np.array(reward, np.float32), ~resetting
        sound.check(after, reward)
        resetting[:] = valid & (terminated | truncated)
        return Step(after, reward, terminated & valid, truncated & valid, valid, after)

    def step(action: np.ndarray) -> Step:
        return move(to_own(action, spaces, envs.action_space))

    return VectorEnvironment(name, spaces, int(envs.spec.config.max_episode_steps), reset, step, envs.close)


ENGINES: dict[str, Callable[..., VectorEnvironment]] = {"sync": open_sync, "async": open_async, "envpool": open_envpool}
"""name -> open(name, n, seed, autoreset='auto', arguments=None, care=CARELESS)."""
