"""From a Config to what runs: the environment, the learner, and the engine that turns one iteration."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import algorithms, evaluate, nets, normalizers, optimizers, policies, psi, values
from tfpg.config import Config
from tfpg.envs import IN_GRAPH
from tfpg.envs.gym import ENGINES
from tfpg.errors import UsageError
from tfpg.improve import Settings
from tfpg.rollout import Metrics, Stream, make_collect, start
from tfpg.types import Environment, Nest, Policy, Spaces, TrainState
from tfpg.update import Learner, make_update

NETWORKS: dict[str, Callable[..., Any]] = {"mlp": nets.mlp, "keras": nets.keras_mlp}
OPTIMIZERS = {"adam": optimizers.adam, "sgd": optimizers.sgd}
ENVS = {("graph", "steps"): 40, ("graph", "episodes"): 32, ("python", "steps"): 8, ("python", "episodes"): 8}
HORIZONS = {"graph": 200, "python": 256}
EVALUATION_ENVS = 10
MOST_SAMPLES = 100_000_000


class Engine(NamedTuple):
    """How one iteration is made, whoever simulates. `carry` is what the simulation must remember between iterations.

    `begin(seed [2]) -> carry`, `iterate(state, carry, seed [2], pace []) -> state, carry, metrics`,
    `evaluate(state, seed [2], episodes) -> returns [episodes]`.
    """

    name: str
    envs: int
    horizon: int
    begin: Callable[[tf.Tensor], Nest]
    iterate: Callable[[TrainState, Nest, tf.Tensor, tf.Tensor], tuple[TrainState, Nest, Metrics]]
    evaluate: Callable[[TrainState, tf.Tensor, int], np.ndarray]
    close: Callable[[], None]


class Setup(NamedTuple):
    """What a run needs."""

    learner: Learner
    spaces: Spaces
    engine: Engine


def make_policy(config: Config, spaces: Spaces) -> Policy:
    """Categorical for discrete actions, diagonal Gaussian for real ones; the last layer starts near 0."""
    inputs = int(np.prod(spaces.observation_shape))
    outputs = spaces.actions or len(spaces.action_low)
    net = NETWORKS[config.network]([inputs, *config.hidden_widths(), outputs], config.activation, last_gain=0.01)
    if spaces.actions:
        return policies.categorical(net, spaces.actions, spaces.action_start)
    return policies.gaussian(net, spaces.action_low, spaces.action_high, config.initial_log_std)


def make_learner(config: Config, spaces: Spaces) -> Learner:
    """The functions and numbers of a run."""
    row = algorithms.ALGORITHMS[config.algo]
    inputs = int(np.prod(spaces.observation_shape))
    value = values.state_value(NETWORKS[config.network]([inputs, *config.hidden_widths(), 1], config.activation))
    return Learner(
        algorithm=row,
        policy=make_policy(config, spaces),
        value=value,
        observations=normalizers.running(spaces.observation_shape) if config.normalize_observations else normalizers.identity(),
        targets=normalizers.running((), clip=math.inf, epsilon=1e-12),
        improve=Settings(
            optimizer=OPTIMIZERS[config.optimizer](config.learning_rate),
            step_size=config.step_size,
            kl_radius=config.kl_radius,
            damping=config.damping,
            cg_iterations=config.cg_iterations,
            shrink=config.shrink,
            backtracks=config.backtracks,
        ),
        critic_optimizer=optimizers.adam(config.critic_learning_rate),
        critic_epochs=config.critic_epochs,
        critic_minibatches=config.critic_minibatches,
        gamma=config.discount,
        lambda_=config.gae_lambda,
        weigh_by_age=config.discount_from == "start" and row.psi is not psi.total_return,
        fisher_block=config.fisher_block,
    )


def _sizes(config: Config, kind: str, time_limit: int) -> tuple[int, int]:
    batch = algorithms.ALGORITHMS[config.algo].batch
    n, horizon = config.envs or ENVS[kind, batch], config.horizon or (time_limit if batch == "episodes" else HORIZONS[kind])
    if n * horizon > MOST_SAMPLES:
        raise UsageError(f"--envs={n} times --horizon={horizon} is too large: at most {MOST_SAMPLES:,} samples per iteration are allowed.")
    if config.critic_minibatches > n * horizon:
        raise UsageError(f"--critic_minibatches={config.critic_minibatches} is more than the {n * horizon:,} samples of an iteration.")
    return n, horizon


def graph_engine(config: Config, environment: Environment, learner: Learner) -> Engine:
    """Collecting and updating as one compiled program."""
    n, horizon = _sizes(config, "graph", environment.time_limit)
    collect, update = make_collect(environment, learner, n, horizon), make_update(learner)

    @tf.function(jit_compile=config.jit, autograph=False)
    def iterate(state: TrainState, carry: Nest, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Nest, Metrics]:
        seeds = tf.random.experimental.stateless_split(seed, 2)
        carry, trajectory, episodes = collect(state, carry, seeds[0])
        state, metrics = update(state, trajectory, seeds[1], pace)
        return state, carry, {**episodes, **metrics}

    judges: dict[int, Callable[..., tf.Tensor]] = {}

    def judge(state: TrainState, seed: tf.Tensor, episodes: int) -> np.ndarray:
        if episodes not in judges:
            play = evaluate.in_graph(environment, learner, episodes)
            judges[episodes] = tf.function(play, jit_compile=config.jit, autograph=False)
        return judges[episodes](state, seed).numpy()

    return Engine("graph", n, horizon, lambda seed: start(environment, n, seed), iterate, judge, lambda: None)


def _number(seed: tf.Tensor) -> int:
    """A seed [2] as one whole number that any simulator takes."""
    return int(tf.random.stateless_uniform([], seed, maxval=2**31 - 100_000, dtype=tf.int32))


def python_engine(config: Config, name: str, learner: Learner, time_limit: int) -> Engine:
    """Collecting step by step in Python, updating in one compiled program. The environments open at the first iteration after `begin`."""
    n, horizon = _sizes(config, "python", time_limit)
    update = tf.function(make_update(learner), jit_compile=config.jit, autograph=False)
    play, streams = evaluate.in_python(learner, config.jit), list[Stream]()

    begun_with: list[tf.Tensor] = []

    def begin(seed: tf.Tensor) -> Nest:
        close()
        begun_with[:] = [seed]
        return ()

    def iterate(state: TrainState, carry: Nest, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Nest, Metrics]:
        if not streams:
            environment = ENGINES[name](config.env, n, _number(begun_with[0]))
            streams.append(Stream(environment, learner, n, horizon, config.jit))
        seeds = tf.random.experimental.stateless_split(seed, 2)
        trajectory, episodes = streams[0].collect(state, seeds[0])
        state, metrics = update(state, trajectory, seeds[1], pace)
        return state, carry, {**episodes, **metrics}

    def judge(state: TrainState, seed: tf.Tensor, episodes: int) -> np.ndarray:
        rows = min(episodes, EVALUATION_ENVS)
        environment = ENGINES[name](config.env, rows, _number(seed))
        try:
            return play(state, environment, rows, episodes)
        finally:
            environment.close()

    def close() -> None:
        while streams:
            streams.pop().environment.close()

    return Engine(name, n, horizon, begin, iterate, judge, close)


def setup(config: Config) -> Setup:
    """Everything a run needs, before it writes anything. Raises: UsageError for an environment or engine that cannot be had."""
    if config.engine == "graph" and config.env not in IN_GRAPH:
        raise UsageError(f"--engine=graph has no --env={config.env}: {', '.join(IN_GRAPH)} are in graph; use --engine=auto.")
    if config.engine == "graph" or (config.engine == "auto" and config.env in IN_GRAPH):
        environment = IN_GRAPH[config.env]()
        learner = make_learner(config, environment.spaces)
        return Setup(learner, environment.spaces, graph_engine(config, environment, learner))
    name = "gymnasium" if config.engine == "auto" else config.engine
    probe = ENGINES[name](config.env, 1, 0)
    probe.close()
    learner = make_learner(config, probe.spaces)
    return Setup(learner, probe.spaces, python_engine(config, name, learner, probe.time_limit))
