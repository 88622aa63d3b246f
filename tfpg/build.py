"""From a Config to what runs: the learner that its flags describe, and the engine that turns an iteration."""

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfpg import acting, nets, normalizers, optimizers, policies, programs, traces, values
from tfpg.algorithms import fits_q, needs_critic
from tfpg.config import FREE, Config, configured
from tfpg.engines import Engine, file_engine, graph_engine, open_graph, open_python, python_engine
from tfpg.envs import IN_GRAPH, deeprm
from tfpg.errors import UsageError
from tfpg.improve import Settings
from tfpg.learner import Fit, Learner, Objective
from tfpg.types import Horizon, Net, Optimizer, Policy, Spaces, Value

OPTIMIZERS: dict[str, Callable[[float], Optimizer]] = {
    "adam": optimizers.adam,
    "sgd": optimizers.sgd,
    "rmsprop": optimizers.rmsprop,
    "rmsprop_inside": functools.partial(optimizers.rmsprop, epsilon=1e-9, inside=True),
}


class Setup(NamedTuple):
    """What a run needs."""

    learner: Learner
    spaces: Spaces
    engine: Engine


def make_net(config: Config, shape: tuple[int, ...], extra: int, outputs: int, last_gain: float, recurrent: bool = True) -> Net:
    """The network that --network names, from flattened observations (and `extra` numbers beside them) to `outputs` numbers."""
    if config.network == "cnn":
        return nets.keras_cnn(shape, outputs, last_gain)
    if config.network == "deeprm":
        return make_deeprm_net(config, extra, outputs, last_gain)
    kinds: dict[str, Callable[..., Net]] = {"mlp": nets.mlp, "keras": nets.keras_mlp, "gru": nets.gru if recurrent else nets.mlp}
    sizes = [math.prod(shape) + extra, *config.hidden_widths(), outputs]
    return kinds[config.network](sizes, config.activation, last_gain=last_gain)


def make_deeprm_net(config: Config, extra: int, outputs: int, last_gain: float) -> Net:
    """A perceptron of the images that DeepRM's codes stand for. Raises: UsageError for other observations."""
    if config.env != deeprm.NAME or config.arguments().get("view") != "code" or extra:
        raise UsageError(f"--network=deeprm reads --env={deeprm.NAME} with --env_arguments=view=code, and a critic of V goes with it.")
    cluster = deeprm.Cluster()
    sizes = [cluster.window * cluster.width, *config.hidden_widths(), outputs]
    first = functools.partial(deeprm.first_layer, cluster=cluster)
    return nets.mlp(sizes, config.activation, last_gain=last_gain, first=first)


def make_policy(config: Config, spaces: Spaces) -> Policy:
    """Categorical for actions that can be counted, diagonal Gaussian for real ones; the last layer starts near 0."""
    outputs = spaces.actions or sum(spaces.choices) or len(spaces.action_low)
    usual = configured(algo=config.algo)
    for name in ("log_std_floor", "initial_log_std"):
        if not spaces.action_low and getattr(config, name) != getattr(usual, name):
            raise UsageError(f"--{name}={getattr(config, name)} would not be read: the actions of --env={config.env} are not real.")
    net = make_net(config, spaces.observation_shape, 0, outputs, 0.01)
    if spaces.actions:
        return policies.categorical(net, spaces.actions, spaces.action_start)
    if spaces.choices:
        policy = policies.multi_categorical(net, spaces.choices, spaces.choice_starts)
    else:
        floor = config.log_std_floor if config.log_std_floor > -20 else None
        policy = policies.gaussian(net, spaces.action_low, spaces.action_high, config.initial_log_std, log_std_floor=floor)
    return policy if spaces.action_shape is None else policies.shaped(policy, spaces.action_shape)


def make_value(config: Config, spaces: Spaces, memory: int) -> Value:
    """V(o), or Q of what the row's critic needs; it sees what a recurrent policy remembers, as data. Raises: UsageError."""
    row, shape = config.row(), spaces.observation_shape
    if not (needs_critic(row) and fits_q(row)):
        return values.state_value(nets.for_gradients(make_net(config, shape, memory, 1, 1.0, recurrent=False)))
    if spaces.actions:
        return values.action_values(nets.for_gradients(make_net(config, shape, 0, spaces.actions, 1.0)))
    if spaces.choices or row.psi != "q" or row.critic == "q_learning":
        real = "" if spaces.choices else "--psi=q with --critic=sarsa takes real actions, and "
        raise UsageError(
            f"--psi={row.psi} with --critic={row.critic} needs actions that can be counted one by one, which --env={config.env} does not "
            f"have; {real}--psi=td, n_step and gae take any with --critic=td."
        )
    if config.network == "cnn":
        raise UsageError("--network=cnn takes no actions beside its pixels: a critic of V goes with it, such as --critic=td.")
    return values.real_action_value(make_net(config, shape, len(spaces.action_low), 1, 1.0))


def make_optimizer(config: Config, name: str, learning_rate: float) -> Optimizer:
    """An optimiser by name, behind --gradient_clip, that works on one vector."""
    make = functools.partial(optimizers.adam, epsilon=config.adam_epsilon) if name == "adam" else OPTIMIZERS[name]
    optimizer = make(learning_rate)
    return optimizers.flattened(optimizers.clipped(optimizer, config.gradient_clip) if config.gradient_clip else optimizer)


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
        shards=config.shards,
        noise_repeat=config.noise_repeat,
        group=config.group,
    )


def keeping(config: Config, spaces: Spaces, folder: Path | None) -> acting.Direct:
    """How programs are made: traced ones are kept in a folder, if there is one, unless they are of an environment of somebody else's."""
    if folder is None or (config.env in IN_GRAPH and not IN_GRAPH[config.env].__module__.startswith("tfpg.")):
        return acting.direct
    flags = {name: value for name, value in dataclasses.asdict(config).items() if name not in (*FREE, "seed", "num_seeds", "jit")}
    return traces.keeping(folder, f"{programs.versions()} {tf.zeros([]).device} compiled {config.compiled()} {flags} {spaces}")


def setup(config: Config, folder: Path | None = None) -> Setup:
    """Everything a run needs, before it writes anything.

    Args: folder: where traced programs are kept.
    Raises: UsageError for an environment or engine that cannot be had.
    """
    if config.engine == "graph" and config.env not in IN_GRAPH:
        raise UsageError(f"--engine=graph has no --env={config.env}: {', '.join(IN_GRAPH)} are in graph; use --engine=auto.")
    if config.env in IN_GRAPH and config.engine in ("graph", "auto"):
        environment = open_graph(config)
        learner, direct = make_learner(config, environment.spaces), keeping(config, environment.spaces, folder)
        engine = file_engine(config, learner, environment.spaces, lambda sized: graph_engine(sized, environment, learner, direct))
        return Setup(learner, environment.spaces, engine)
    if config.env.startswith("tfpg/") and (config.env not in IN_GRAPH or config.engine not in ("sync", "auto")):
        known = ", ".join(name for name in IN_GRAPH if name.startswith("tfpg/"))
        raise UsageError(f"--env={config.env} with --engine={config.engine}: {known} are allowed, with --engine=graph, auto or sync.")
    if config.group > 1:
        raise UsageError(f"--group={config.group} goes with --engine=graph, where environments can begin alike; --group=1 with others.")
    name = "sync" if config.engine == "auto" else config.engine
    probe = open_python(config, name, 1, 0)
    probe.close()
    learner, direct = make_learner(config, probe.spaces), keeping(config, probe.spaces, folder)
    engine = file_engine(config, learner, probe.spaces, lambda sized: python_engine(sized, name, learner, probe.time_limit, direct))
    return Setup(learner, probe.spaces, engine)
