"""From a Config to what runs: the environment, the learner, and the engine that turns one iteration."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import demonstrations, evaluate, nets, normalizers, optimizers, policies, values
from tfpg.algorithms import fits_q, needs_critic, whole_episodes
from tfpg.config import Config
from tfpg.envs import IN_GRAPH
from tfpg.envs.gym import ENGINES, VectorEnvironment
from tfpg.envs.window import windowed, windowed_graph
from tfpg.errors import UsageError
from tfpg.improve import Settings
from tfpg.learner import Fit, Learner, Objective
from tfpg.rollout import Metrics, Stream, make_collect, start, summarise
from tfpg.types import Environment, Horizon, Nest, Net, Optimizer, Policy, Spaces, TrainState, Trajectory, Value
from tfpg.update import make_update

OPTIMIZERS = {"adam": optimizers.adam, "sgd": optimizers.sgd, "rmsprop": optimizers.rmsprop}
ENVS = {("graph", False): 40, ("graph", True): 32, ("python", False): 8, ("python", True): 8}
HORIZONS = {"graph": 200, "python": 256}
EVALUATION_ENVS = 10
MOST_SAMPLES = 100_000_000


class Engine(NamedTuple):
    """How one iteration is made, whoever simulates. `carry` is what the simulation must remember between iterations.

    `begin(seed [2]) -> carry`, `iterate(state, carry, seed [2], pace []) -> state, carry, metrics`,
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


class Setup(NamedTuple):
    """What a run needs."""

    learner: Learner
    spaces: Spaces
    engine: Engine


def make_net(config: Config, shape: tuple[int, ...], extra: int, outputs: int, last_gain: float, recurrent: bool = True) -> Net:
    """The network that --network names, from flattened observations (and `extra` numbers beside them) to `outputs` numbers."""
    if config.network == "cnn":
        return nets.keras_cnn(shape, outputs, last_gain)
    kinds: dict[str, Callable[..., Net]] = {"mlp": nets.mlp, "keras": nets.keras_mlp, "gru": nets.gru if recurrent else nets.mlp}
    sizes = [math.prod(shape) + extra, *config.hidden_widths(), outputs]
    return kinds[config.network](sizes, config.activation, last_gain=last_gain)


def make_policy(config: Config, spaces: Spaces) -> Policy:
    """Categorical for actions that can be counted, diagonal Gaussian for real ones; the last layer starts near 0."""
    outputs = spaces.actions or sum(spaces.choices) or len(spaces.action_low)
    net = make_net(config, spaces.observation_shape, 0, outputs, 0.01)
    if spaces.actions:
        return policies.categorical(net, spaces.actions, spaces.action_start)
    if spaces.choices:
        policy = policies.multi_categorical(net, spaces.choices, spaces.choice_starts)
    else:
        floor = config.log_std_floor if config.log_std_floor > -20 else None
        policy = policies.gaussian(net, spaces.action_low, spaces.action_high, config.initial_log_std, floor)
    return policy if spaces.action_shape is None else policies.shaped(policy, spaces.action_shape)


def make_value(config: Config, spaces: Spaces, memory: int) -> Value:
    """V(o), or Q of what the row's critic needs; it sees what a recurrent policy remembers, as data. Raises: UsageError."""
    row, shape = config.row(), spaces.observation_shape
    if not (needs_critic(row) and fits_q(row)):
        return values.state_value(make_net(config, shape, memory, 1, 1.0, recurrent=False))
    if spaces.actions:
        return values.action_values(make_net(config, shape, 0, spaces.actions, 1.0))
    if spaces.choices or row.psi != "q" or row.critic == "q_learning":
        raise UsageError(
            f"--psi={row.psi} with --critic={row.critic} needs actions that can be counted one by one, which --env={config.env} does not "
            "have; --psi=q with --critic=sarsa takes real actions, and the other members of psi take any with --critic=td."
        )
    if config.network == "cnn":
        raise UsageError("--network=cnn takes no actions beside its pixels: a critic of V goes with it, such as --critic=td.")
    return values.real_action_value(make_net(config, shape, len(spaces.action_low), 1, 1.0))


def make_optimizer(config: Config, name: str, learning_rate: float) -> Optimizer:
    """An optimiser by name, behind --gradient_clip."""
    optimizer = OPTIMIZERS[name](learning_rate)
    return optimizers.clipped(optimizer, config.gradient_clip) if config.gradient_clip else optimizer


def make_model(config: Config, spaces: Spaces) -> Net | None:
    """The network of dynamics and reward, for the row that learns them. Raises: UsageError for actions that are not real."""
    if config.algo != "pathwise":
        return None
    if not spaces.action_low:
        raise UsageError(f"--algo=pathwise differentiates by actions, so they must be real: those of --env={config.env} are not.")
    if config.network == "cnn":
        raise UsageError("--network=cnn does not go with --algo=pathwise: a model of pixels is not to be had; mlp and keras are.")
    return make_net(config, spaces.observation_shape, len(spaces.action_low), math.prod(spaces.observation_shape) + 1, 1.0)


def make_observations(config: Config, spaces: Spaces) -> Any:
    """How observations are scaled: bytes of pixels to [0, 1], others by running mean and variance, or not at all."""
    if config.network == "cnn" and not spaces.pixels:
        raise UsageError(
            f"--network=cnn needs pixels, a Box of bytes of two or three axes: the observations of --env={config.env} are others."
        )
    if spaces.pixels:
        return normalizers.fixed(0.0, 255.0)
    return normalizers.running(spaces.observation_shape) if config.normalize_observations else normalizers.identity()


def make_learner(config: Config, spaces: Spaces) -> Learner:
    """The functions and numbers of a run."""
    row, observations = config.row(), make_observations(config, spaces)
    policy = make_policy(config, spaces)
    return Learner(
        algorithm=row,
        policy=policy,
        value=make_value(config, spaces, policy.memory),
        model=make_model(config, spaces),
        observations=observations,
        targets=normalizers.running((), clip=math.inf, epsilon=1e-12),
        improve=Settings(
            optimizer=make_optimizer(config, config.optimizer, config.learning_rate),
            step_size=config.step_size,
            kl_radius=config.kl_radius,
            damping=config.damping,
            cg_iterations=config.cg_iterations,
            shrink=config.shrink,
            backtracks=config.backtracks,
            epochs=config.epochs,
            minibatches=config.minibatches,
            least_overlap=config.least_overlap,
        ),
        objective=Objective(
            entropy_bonus=config.entropy_bonus,
            clip_range=config.clip_range,
            kl_target=config.kl_target,
            self_normalise=config.self_normalise,
            whiten=config.whiten,
            scale_returns=config.return_scaling,
            weigh_by_age=config.discount_from == "start" and row.psi != "return",
            average_rate=config.average_rate,
        ),
        critic=Fit(make_optimizer(config, "adam", config.critic_learning_rate), config.critic_epochs, config.critic_minibatches),
        horizon=Horizon(config.discount, config.gae_lambda, config.n_steps),
        fisher_block=config.fisher_block,
        noise_repeat=config.noise_repeat,
    )


def _sizes(config: Config, kind: str, time_limit: int) -> tuple[int, int]:
    whole = whole_episodes(config.row())
    n, horizon = config.envs or ENVS[kind, whole], config.horizon or (time_limit if whole else HORIZONS[kind])
    if n * horizon > MOST_SAMPLES:
        raise UsageError(f"--envs={n} times --horizon={horizon} is too large: at most {MOST_SAMPLES:,} samples per iteration are allowed.")
    if config.critic_minibatches > n * horizon:
        raise UsageError(f"--critic_minibatches={config.critic_minibatches} is more than the {n * horizon:,} samples of an iteration.")
    columns = config.network == "gru" or config.algo == "off_policy"
    units, what = (n, "environments") if columns else (n * horizon, "samples of an iteration")
    if config.row().improve == "epochs" and config.minibatches > units:
        raise UsageError(f"--minibatches={config.minibatches} is more than the {units:,} {what} that are shared out among them.")
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

    return Engine("graph", n, horizon, lambda seed: start(environment, learner, n, seed), iterate, judge, lambda: None)


def _number(seed: tf.Tensor) -> int:
    """A seed [2] as one whole number that any simulator takes."""
    return int(tf.random.stateless_uniform([], seed, maxval=2**31 - 100_000, dtype=tf.int32))


def open_python(config: Config, name: str, n: int, seed: int) -> VectorEnvironment:
    """The environments of a Python engine, as the flags shape them."""
    limit = {"max_episode_steps": config.episode_steps} if config.episode_steps else {}
    environment = ENGINES[name](config.env, n, seed, config.autoreset, limit)
    return windowed(environment, config.window) if config.window > 1 else environment


def open_graph(config: Config) -> Environment:
    """The in-graph environment, as the flags shape it."""
    environment = IN_GRAPH[config.env]()
    if config.episode_steps:
        environment = environment._replace(time_limit=config.episode_steps)
    return windowed_graph(environment, config.window) if config.window > 1 else environment


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
            environment = open_python(config, name, n, _number(begun_with[0]))
            streams.append(Stream(environment, learner, n, horizon, config.jit))
        seeds = tf.random.experimental.stateless_split(seed, 2)
        trajectory, episodes = streams[0].collect(state, seeds[0])
        state, metrics = update(state, trajectory, seeds[1], pace)
        return state, carry, {**episodes, **metrics}

    def judge(state: TrainState, seed: tf.Tensor, episodes: int) -> np.ndarray:
        rows = min(episodes, EVALUATION_ENVS)
        environment = open_python(config, name, rows, _number(seed))
        try:
            return play(state, environment, rows, episodes)
        finally:
            environment.close()

    def close() -> None:
        while streams:
            streams.pop().environment.close()

    return Engine(name, n, horizon, begin, iterate, judge, close)


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
    judge = make(dataclasses.replace(config, envs=n, horizon=horizon))
    update = make_update(learner)
    known = summarise(trajectory, tf.cumsum(trajectory.reward))

    @tf.function(jit_compile=config.jit, autograph=False)
    def learn(state: TrainState, trajectory: Trajectory, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Metrics]:
        new, metrics = update(state, trajectory, seed, pace)
        if not config.guidance:
            return new, metrics
        before, after = (demonstrations.estimated_return(learner, s, trajectory) for s in (state, new))
        new = new._replace(penalty=demonstrations.adapt_guidance(state.penalty, before, after))
        return new, {**metrics, "penalty": new.penalty}

    @tf.function(jit_compile=config.jit, autograph=False)
    def prepare(state: TrainState, trajectory: Trajectory, seed: tf.Tensor) -> TrainState:
        return demonstrations.prepare(learner, state, trajectory, config.clone_epochs, seed)

    def iterate(state: TrainState, carry: Nest, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Nest, Metrics]:
        state, metrics = learn(state, trajectory, seed, pace)
        return state, carry, {**known, **metrics}

    begun = lambda state, seed: prepare(state, trajectory, seed)  # noqa: E731
    return judge._replace(name="demonstrations", begin=lambda seed: (), iterate=iterate, prepare=begun)


def make_sample(config: Config, learner: Learner, engine: str, episodes: int) -> Callable[[TrainState, tf.Tensor], Trajectory]:
    """sample(state, seed [2]) -> so many whole episodes, one per column, of actions drawn from the policy.

    Noise is drawn anew at each step, whatever --noise_repeat says: actions are then independent given the observations, and an episode's
    probability is the product of theirs.
    """
    learner = learner._replace(algorithm=learner.algorithm._replace(psi="togo"), noise_repeat=1)
    if engine == "graph":
        environment = open_graph(config)
        collect = tf.function(make_collect(environment, learner, episodes, environment.time_limit), jit_compile=config.jit, autograph=False)
        return lambda state, seed: collect(state, start(environment, learner, episodes, seed), seed)[1]

    def sample(state: TrainState, seed: tf.Tensor) -> Trajectory:
        rows = min(episodes, EVALUATION_ENVS)
        environment = open_python(config, engine, rows, _number(seed))
        try:
            stream = Stream(environment, learner, rows, environment.time_limit, config.jit)
            seeds = tf.random.experimental.stateless_split(seed, -(-episodes // rows))
            found = demonstrations.join([stream.collect(state, each)[0] for each in seeds])
        finally:
            environment.close()
        return tf.nest.map_structure(lambda x: x[:, :episodes], found)

    return sample


def setup(config: Config) -> Setup:
    """Everything a run needs, before it writes anything. Raises: UsageError for an environment or engine that cannot be had."""
    if config.engine == "graph" and config.env not in IN_GRAPH:
        raise UsageError(f"--engine=graph has no --env={config.env}: {', '.join(IN_GRAPH)} are in graph; use --engine=auto.")
    if config.env in IN_GRAPH and config.engine in ("graph", "auto"):
        environment = open_graph(config)
        learner = make_learner(config, environment.spaces)
        engine = file_engine(config, learner, environment.spaces, lambda sized: graph_engine(sized, environment, learner))
        return Setup(learner, environment.spaces, engine)
    if config.env.startswith("tfpg/"):
        known = ", ".join(name for name in IN_GRAPH if name.startswith("tfpg/"))
        raise UsageError(f"--env={config.env} with --engine={config.engine}: {known} are allowed, with --engine=graph or auto.")
    name = "sync" if config.engine == "auto" else config.engine
    probe = open_python(config, name, 1, 0)
    probe.close()
    learner = make_learner(config, probe.spaces)
    engine = file_engine(config, learner, probe.spaces, lambda sized: python_engine(sized, name, learner, probe.time_limit))
    return Setup(learner, probe.spaces, engine)
