"""What learns: the functions and numbers that an update binds, the state it changes, and how observations are seen."""

import math
from typing import NamedTuple

import tensorflow as tf

from tfpg.algorithms import Algorithm, needs_critic
from tfpg.blocks import in_turn
from tfpg.improve import Settings
from tfpg.masks import inside
from tfpg.types import Horizon, Nest, Net, Normalizer, Optimizer, Policy, TrainState, Value


class Fit(NamedTuple):
    """How a critic or a model is fitted: `epochs` passes over the batch, in `minibatches` each."""

    optimizer: Optimizer
    epochs: int
    minibatches: int


class Objective(NamedTuple):
    """The numbers of the objective."""

    entropy_bonus: float = 0.0  # per nat of mean entropy, in units of psi
    clip_range: float = 0.2  # epsilon of the clipped surrogate
    kl_target: float = 0.01  # nats per update that the KL penalty aims at
    self_normalise: bool = False  # off-policy weights are divided by their mean
    whiten: bool = False  # psi is standardised over the batch
    scale_returns: bool = False  # psi is divided by the running deviation of returns
    weigh_by_age: bool = False  # psi_t is multiplied by gamma^age: returns discounted from the start of the episode
    average_rate: float = 0.1  # kappa of the moving-average baseline


class Learner(NamedTuple):
    """What learns."""

    algorithm: Algorithm
    policy: Policy
    value: Value
    model: Net | None  # learned dynamics and reward, (o, a) -> (change of o, r)
    observations: Normalizer
    targets: Normalizer  # of value targets; of rewards where a model is learned
    improve: Settings
    objective: Objective
    critic: Fit
    horizon: Horizon
    fisher_block: int
    noise_repeat: int = 1  # steps for which exploration noise is held
    shards: int = 1  # parts of a batch whose share of a natural gradient is computed side by side
    group: int = 1  # environments side by side that begin alike, and whose baseline is made of one another


def initial_state(learner: Learner, seed: tf.Tensor) -> TrainState:
    """The state before the first update: seed [2] -> TrainState."""
    seeds = tf.random.experimental.stateless_split(seed, 3)
    row, fit = learner.algorithm, learner.critic.optimizer
    policy = learner.policy.init(seeds[0])
    value = learner.value.init(seeds[1]) if needs_critic(row) else ()
    model = learner.model.init(seeds[2]) if learner.model else ()
    return TrainState(
        policy=policy,
        policy_optimizer=learner.improve.optimizer.init(policy),
        value=value,
        value_optimizer=fit.init(value) if needs_critic(row) else (),
        observations=learner.observations.init(),
        targets=learner.targets.init(),
        average=(tf.constant(0.0), tf.constant(0)) if row.baseline == "moving_average" else (),
        penalty=tf.constant(1.0) if row.surrogate == "kl_penalised" else (),
        model=model,
        model_optimizer=fit.init(model) if learner.model else (),
    )


def flat(x: tf.Tensor) -> tf.Tensor:
    """[T, N, ...] -> [T N, ...]."""
    return tf.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]])


def perceive(learner: Learner, state: TrainState, observation: tf.Tensor) -> tf.Tensor:
    """What the networks see of raw observations: [M, *shape] -> normalised and flattened [M, O]."""
    real = tf.cast(observation, tf.nest.flatten(state.policy)[0].dtype)
    return tf.reshape(learner.observations.apply(state.observations, real), [-1, math.prod(observation.shape[1:])])


def see(learner: Learner, state: TrainState, observation: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
    """`perceive` of observations [..., *shape] as they were collected, of zeros where mask [...] hides them: [..., O].

    What a batch holds stays as it was collected until it is read, in blocks: seen all at once it would take its memory again.
    """
    rows = tf.reshape(inside(mask, observation), [-1, *observation.shape[mask.shape.rank :]])
    return tf.reshape(perceive(learner, state, rows), [*mask.shape, -1])


def critic_sees(learner: Learner, state: TrainState, observation: tf.Tensor, mask: tf.Tensor, memory: Nest) -> tf.Tensor:
    """`see`, and beside it what the policy remembered, of a policy that does: memory [..., H] -> [..., O + H]."""
    seen = see(learner, state, observation, mask)
    return tf.concat([seen, inside(mask, memory)], -1) if learner.policy.memory else seen


def act(learner: Learner, state: TrainState, observation: tf.Tensor, memory: Nest = ()) -> tuple[dict[str, tf.Tensor], Nest]:
    """Raw observations [N, *shape] and what the policy remembers -> the action distribution's parameters, and the new memory.

    A policy without memory has () for it.
    """
    seen = perceive(learner, state, observation)
    if learner.policy.advance is None:
        return learner.policy.parameters(state.policy, seen), memory
    return learner.policy.advance(state.policy, seen, memory)


def no_memory(policy: Policy, n: int) -> Nest:
    """What a policy remembers at the start of an episode: zeros [n, H], or () if it remembers nothing."""
    return tf.zeros([n, policy.memory]) if policy.memory else ()


def values(learner: Learner, state: TrainState, rows: Nest, *action: tf.Tensor) -> tf.Tensor:
    """V(o) or Q(o, a) in units of reward -> [T, N]. Args: rows: observation, mask and memory [T, N, ...] as they were collected."""

    def of(rows: Nest, *action: tf.Tensor) -> tf.Tensor:
        return learner.value.apply(state.value, critic_sees(learner, state, *rows), *action)

    dtype = tf.nest.flatten(state.value)[0].dtype
    v = in_turn(of, dtype, *tf.nest.map_structure(flat, (rows, *action)))
    return learner.targets.invert(state.targets, tf.reshape(v, rows[1].shape))
