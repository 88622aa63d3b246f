"""Engines: how one iteration is made, whoever simulates. In graph, through a simulator in Python, or from a file of demonstrations."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import acting, demonstrations, evaluate
from tfpg.algorithms import natural, needs_critic, needs_others, weighs_wholes, whole_episodes
from tfpg.bundles import in_bundles
from tfpg.config import Config
from tfpg.envs import IN_GRAPH
from tfpg.envs.gym import ENGINES, Care, VectorEnvironment
from tfpg.envs.window import windowed, windowed_graph
from tfpg.errors import EnvironmentFault, UsageError
from tfpg.learner import Learner
from tfpg.rollout import Gathered, Metrics, Stream, exploration, make_collect, read, start, summarise
from tfpg.types import Environment, Nest, Spaces, TrainState, Trajectory
from tfpg.update import make_update

ENVS = {("graph", False): 40, ("graph", True): 32, ("python", False): 8, ("python", True): 8}
HORIZONS = {"graph": 200, "python": 256}
EVALUATION_ENVS = 10
MOST_SAMPLES = 100_000_000
SMALL = 512
"""Samples of a batch for which starting a program costs as much as running it: the whole update is one."""
AHEAD = 32
"""Iterations whose noise is drawn at once."""


class Engine(NamedTuple):
    """How one iteration is made, whoever simulates. `carry` is what the simulation must remember between iterations.

    `begin(seed [2]) -> carry`, `iterate(state, carry, seed [2], pace []) -> state, carry, metrics`,
    where state, seed and pace may be arrays, and metrics numbers, as well as tensors;
    `evaluate(state, seed [2], episodes) -> returns [episodes]`, `prepare(state, seed [2]) -> state` before the first iteration of a run.
    """

    name: str
    envs: int
    horizon: int
    begin: Callable[[tf.Tensor], Nest]
    iterate: Callable[[TrainState, Nest, tf.Tensor, tf.Tensor], tuple[TrainState, Nest, Metrics]]
    evaluate: Callable[[TrainState, tf.Tensor, int], np.ndarray]
    close: Callable[[], None]
    prepare: Callable[[TrainState, tf.Tensor], TrainState] = lambda state, seed: state


def _sizes(config: Config, kind: str, time_limit: int) -> tuple[int, int]:
    whole = whole_episodes(config.row())
    n, horizon = config.envs or ENVS[kind, whole], config.horizon or (time_limit if whole else HORIZONS[kind])
    if n * horizon > MOST_SAMPLES:
        raise UsageError(f"--envs={n} times --horizon={horizon} is too large: at most {MOST_SAMPLES:,} samples per iteration are allowed.")
    fitted = needs_critic(config.row()) or config.algo == "pathwise" or config.clone_epochs
    if fitted and config.critic_minibatches > n * horizon:
        raise UsageError(f"--critic_minibatches={config.critic_minibatches} is more than the {n * horizon:,} samples of an iteration.")
    columns = config.network == "gru" or config.algo == "off_policy"
    side_by_side = "episodes" if config.demonstrations else "environments"
    if n % config.group:
        raise UsageError(f"--envs={n} is not shared by groups of --group={config.group}: a multiple of it is allowed.")
    units, what = (n, side_by_side) if columns else (n * horizon, "samples of an iteration")
    if config.row().improve == "epochs" and config.minibatches > units:
        raise UsageError(f"--minibatches={config.minibatches} is more than the {units:,} {what} that are shared out among them.")
    return n, horizon


def compiler(config: Config) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What makes a program of a function, as --jit has it."""
    return functools.partial(tf.function, jit_compile=config.compiled(), autograph=False)


def of_arrays(iterate: Callable[..., Any]) -> Callable[..., Any]:
    """`Engine.iterate` as a program whose seed and pace are tensors."""
    return lambda state, carry, seed, pace: iterate(state, carry, tf.constant(seed), tf.constant(pace))


def graph_engine(config: Config, environment: Environment, learner: Learner, direct: acting.Direct = acting.direct) -> Engine:
    """Collecting and updating without leaving the graph, in compiled programs."""
    n, horizon = _sizes(config, "graph", environment.time_limit)
    piece = compiler(config)
    collect, update = make_collect(environment, learner, n, horizon, piece), make_update(learner, piece)

    def iterate(state: TrainState, carry: Nest, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Nest, Metrics]:
        seeds = tf.random.experimental.stateless_split(seed, 2)
        carry, trajectory, episodes = collect(state, carry, seeds[0])
        state, metrics = update(state, trajectory, seeds[1], pace)
        return state, carry, {**episodes, **metrics}

    judges: dict[int, Callable[..., tf.Tensor]] = {}

    def judge(state: TrainState, seed: tf.Tensor, episodes: int) -> np.ndarray:
        play = judges.setdefault(episodes, direct(piece(evaluate.in_graph(environment, learner, episodes)), f"judge {episodes}"))
        return play(state, seed).numpy()

    begin = lambda seed: start(environment, learner, n, seed)  # noqa: E731
    return Engine("graph", n, horizon, begin, of_arrays(direct(iterate, "iterate")), judge, lambda: None)


def _number(seed: tf.Tensor) -> int:
    """A seed [2] as one whole number that any simulator takes."""
    return int(tf.random.stateless_uniform([], seed, maxval=2**31 - 100_000, dtype=tf.int32))


def open_python(config: Config, name: str, n: int, seed: int) -> VectorEnvironment:
    """The environments of a Python engine, as the flags shape them."""
    limit = {"max_episode_steps": config.episode_steps} if config.episode_steps else {}
    care = Care(config.env_timeout, config.check_bounds)
    environment = ENGINES[name](config.env, n, seed, config.autoreset, {**config.arguments(), **limit}, care)
    return windowed(environment, config.window) if config.window > 1 else environment


def open_graph(config: Config) -> Environment:
    """The in-graph environment, as the flags shape it."""
    make, given = IN_GRAPH[config.env], config.arguments()
    takes = {name: type(p.default) for name, p in inspect.signature(make).parameters.items() if type(p.default) in (int, float, str)}
    for name, value in given.items():
        if name not in takes or not isinstance(value, (int, float) if takes[name] is float else takes[name]):
            known = ", ".join(f"{name} ({kind.__name__})" for name, kind in takes.items()) or "no arguments"
            raise UsageError(f"--env_arguments={config.env_arguments}: {name}={value} is unknown to {config.env}: {known} are allowed.")
    try:
        environment = make(**given)
    except ValueError as error:
        raise UsageError(f"--env_arguments={config.env_arguments}: {error}.") from None
    if config.episode_steps:
        environment = environment._replace(time_limit=config.episode_steps)
    return windowed_graph(environment, config.window) if config.window > 1 else environment


def python_engine(config: Config, name: str, learner: Learner, time_limit: int, direct: acting.Direct = acting.direct) -> Engine:
    """Collecting step by step in Python, updating in compiled programs. The environments open at the first iteration after `begin`."""
    n, horizon = _sizes(config, "python", time_limit)
    piece = compiler(config)
    in_pieces = natural(config.row()) or n * horizon > SMALL
    part = piece if in_pieces else lambda f: f
    look, update = part(functools.partial(read, learner)), make_update(learner, part)
    play, streams = evaluate.in_python(learner), list[Stream]()

    def draw(seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        first, second = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        return exploration(learner, horizon, n, first), second

    def study(state: TrainState, gathered: Gathered, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Metrics]:
        trajectory, episodes = look(TrainState(state.policy, (), (), (), state.observations, ()), gathered)
        state, metrics = update(state, trajectory, seed, pace)
        return state, {**episodes, **metrics}

    explore = acting.ahead(draw, (tf.float32, tf.int32), max(1, min(AHEAD, SMALL * AHEAD // (n * horizon))), direct)
    learn = direct(study, "study") if in_pieces else in_bundles(study, lambda f: direct(piece(f), "study"))
    begun_with: list[tf.Tensor] = []

    def begin(seed: tf.Tensor) -> Nest:
        close()
        begun_with[:] = [seed]
        return ()

    def reopened(seed: tf.Tensor) -> VectorEnvironment:
        """Others in the place of those that failed; that they could be made once is known, so that they cannot is their failure too."""
        try:
            return open_python(config, name, n, _number(seed))
        except UsageError as error:
            raise EnvironmentFault(str(error)) from error

    def iterate(state: TrainState, carry: Nest, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Nest, Metrics]:
        noise_t, second = explore(seed)
        if not streams:
            environment = open_python(config, name, n, _number(begun_with[0]))
            streams.append(Stream(environment, learner, n, horizon, restarts=config.max_env_restarts))
        streams[0].opened = lambda k: reopened(tf.random.experimental.stateless_fold_in(seed, k))
        state, metrics = learn(state, streams[0].gather(state, noise_t), second, pace)
        return state, carry, metrics

    def judge(state: TrainState, seed: tf.Tensor, episodes: int) -> np.ndarray:
        """Environments that fail begin the evaluation anew, as often as they may: episodes that were cut say nothing of the policy."""
        rows = min(episodes, EVALUATION_ENVS)
        for left in reversed(range(config.max_env_restarts + 1)):
            environment = open_python(config, name, rows, _number(seed))
            try:
                return play(state, environment, rows, episodes)
            except EnvironmentFault:
                if not left:
                    raise
                seed = tf.random.experimental.stateless_fold_in(seed, left)
            finally:
                with suppress(EnvironmentFault):
                    environment.close()
        raise AssertionError("the last failure has raised")

    def close() -> None:
        while streams:
            streams.pop().environment.close()

    return Engine(name, n, horizon, begin, iterate, judge, close)


def _check_company(config: Config, episodes: int) -> None:
    """Raises UsageError for a file of one episode where episodes are held against each other."""
    row, name = config.row(), f"--demonstrations={config.demonstrations} holds a single episode"
    if episodes > 1:
        return
    if weighs_wholes(row):
        raise UsageError(f"{name}, which leaves --weights={row.surrogate} nothing to hold it against: a file of two or more is allowed.")
    if needs_others(row):
        raise UsageError(f"{name}, and --baseline={row.baseline} needs others: a file of two or more is allowed, or --baseline=none.")
    if config.whiten and row.psi == "return":
        raise UsageError(f"{name}, whose return --whiten makes 0: a file of two or more is allowed, or --whiten=false.")


def file_engine(config: Config, learner: Learner, spaces: Spaces, make: Callable[[Config], Engine]) -> Engine:
    """The engine that `make` makes; with --demonstrations it only judges, and each iteration learns from the whole file.

    Raises: UsageError for a file that cannot be learned from.
    """
    if not config.demonstrations:
        return make(config)
    if config.mode != "train":
        return make(dataclasses.replace(config, minibatches=1, critic_minibatches=1))._replace(begin=lambda seed: ())
    trajectory = demonstrations.read(config.demonstrations, config.env, spaces)
    horizon, n = trajectory.mask.shape
    _check_company(config, n)
    judge = make(dataclasses.replace(config, envs=n, horizon=horizon))
    update = make_update(learner)
    known = summarise(trajectory, tf.cumsum(trajectory.reward))

    @compiler(config)
    def learn(state: TrainState, trajectory: Trajectory, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Metrics]:
        new, metrics = update(state, trajectory, seed, pace)
        if not config.guidance:
            return new, metrics
        before, after = (demonstrations.estimated_return(learner, s, trajectory) for s in (state, new))
        new = new._replace(penalty=demonstrations.adapt_guidance(state.penalty, before, after))
        return new, {**metrics, "penalty": new.penalty}

    @compiler(config)
    def prepare(state: TrainState, trajectory: Trajectory, seed: tf.Tensor) -> TrainState:
        return demonstrations.prepare(learner, state, trajectory, config.clone_epochs, seed)

    def iterate(state: TrainState, carry: Nest, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Nest, Metrics]:
        state, metrics = learn(state, trajectory, seed, pace)
        return state, carry, {**known, **metrics}

    begun = lambda state, seed: prepare(state, trajectory, seed)  # noqa: E731
    return judge._replace(name="demonstrations", begin=lambda seed: (), iterate=of_arrays(iterate), prepare=begun)


def make_sample(config: Config, learner: Learner, engine: str, episodes: int) -> Callable[[TrainState, tf.Tensor], Trajectory]:
    """sample(state, seed [2]) -> so many whole episodes, one per column, of actions drawn from the policy.

    Noise is drawn anew at each step, whatever --noise_repeat says: actions are then independent given the observations, and an episode's
    probability is the product of theirs.
    """
    learner = learner._replace(algorithm=learner.algorithm._replace(psi="togo"), noise_repeat=1, group=1)
    if engine == "graph":
        environment = open_graph(config)
        collect = compiler(config)(make_collect(environment, learner, episodes, environment.time_limit))
        return lambda state, seed: collect(state, start(environment, learner, episodes, seed), seed)[1]

    def sample(state: TrainState, seed: tf.Tensor) -> Trajectory:
        rows = min(episodes, EVALUATION_ENVS)
        environment = open_python(config, engine, rows, _number(seed))
        try:
            stream = Stream(environment, learner, rows, environment.time_limit)
            seeds = tf.random.experimental.stateless_split(seed, -(-episodes // rows))
            found = demonstrations.join([stream.collect(state, each)[0] for each in seeds])
        finally:
            environment.close()
        return tf.nest.map_structure(lambda x: x[:, :episodes], found)

    return sample
