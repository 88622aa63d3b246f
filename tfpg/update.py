"""One update: a batch of trajectories becomes better parameters. This is the seam that is compiled.

    normalise observations -> V -> psi -> improve the policy -> fit the critic -> take the batch into the statistics

Statistics are taken in last, so that the policy that is improved is the policy that acted.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfpg import critics, gradients, returns, surrogates, trees
from tfpg.improve import Settings
from tfpg.masks import inside
from tfpg.types import Algorithm, Critique, Horizon, Nest, Normalizer, Optimizer, Policy, Problem, TrainState, Trajectory, Value

Metrics = dict[str, tf.Tensor]


class Learner(NamedTuple):
    """What learns: the functions and numbers that an update binds."""

    algorithm: Algorithm
    policy: Policy
    value: Value
    observations: Normalizer
    targets: Normalizer
    improve: Settings
    critic_optimizer: Optimizer
    critic_epochs: int
    critic_minibatches: int
    gamma: float
    lambda_: float
    weigh_by_age: bool  # psi_t is multiplied by gamma^age: returns discounted from the start of the episode
    fisher_block: int


class Batch(NamedTuple):
    """A trajectory, flattened to M = T N samples, as the two losses read it. Padding is zeros with weight 0."""

    observation: tf.Tensor  # [M, O] normalised
    action: tf.Tensor  # [M] or [M, A]
    log_prob: tf.Tensor  # [M]
    psi: tf.Tensor  # [M]
    weight: tf.Tensor  # [M] of the objective
    share: tf.Tensor  # [M] of an average over steps


def initial_state(learner: Learner, seed: tf.Tensor) -> TrainState:
    """The state before the first update: seed [2] -> TrainState."""
    seeds = tf.random.experimental.stateless_split(seed, 2)
    policy, value = learner.policy.init(seeds[0]), learner.value.init(seeds[1])
    return TrainState(
        policy,
        learner.improve.optimizer.init(policy),
        value,
        learner.critic_optimizer.init(value),
        learner.observations.init(),
        learner.targets.init(),
    )


def flat(x: tf.Tensor) -> tf.Tensor:
    """[T, N, ...] -> [T N, ...]."""
    return tf.reshape(x, [x.shape[0] * x.shape[1], *x.shape[2:]])


def perceive(learner: Learner, state: TrainState, observation: tf.Tensor) -> tf.Tensor:
    """What the networks see of raw observations: [M, *shape] -> normalised and flattened [M, O]."""
    normal = learner.observations.apply(state.observations, tf.cast(observation, tf.float32))
    width = math.prod(observation.shape[1:])
    return tf.reshape(normal, [-1, width])


def values(learner: Learner, state: TrainState, observation: tf.Tensor) -> tf.Tensor:
    """V(o) in units of reward, for normalised observations [M, O] -> [M]."""
    return learner.targets.invert(state.targets, learner.value.apply(state.value, observation))


def policy_problem(policy: Policy, surrogate: Callable[..., tf.Tensor], params: Nest, batch: Batch, block: int) -> Problem:
    """The objective, divergence and Fisher product of one batch, around the parameters `params` that acted."""
    old = tf.nest.map_structure(tf.stop_gradient, policy.parameters(params, batch.observation))

    def objective(theta: Nest) -> tf.Tensor:
        log_prob = policy.distribution(policy.parameters(theta, batch.observation)).log_prob(batch.action)
        return surrogates.weighted_sum(batch.weight, surrogate(log_prob, batch.log_prob, batch.psi))

    def divergence(theta: Nest) -> tf.Tensor:
        new = policy.distribution(policy.parameters(theta, batch.observation))
        return surrogates.weighted_sum(batch.share, policy.distribution(old).kl_divergence(new))

    return Problem(objective, divergence, gradients.blocked_fisher_vector_product(policy, params, batch.observation, batch.share, block))


def fit_critic(
    learner: Learner, params: Nest, memory: Nest, observation: tf.Tensor, target: tf.Tensor, share: tf.Tensor, seed: tf.Tensor
) -> tuple[Nest, Nest]:
    """Minimises the value loss over shuffled minibatches: `critic_epochs` passes of `critic_minibatches` each.

    A remainder of fewer than `critic_minibatches` samples sits out each pass, another one each time.
    """
    samples, count = observation.shape[0], learner.critic_minibatches
    size = samples // count

    def step(k: tf.Tensor, phi: Nest, memory: Nest, order: tf.Tensor) -> tuple[tf.Tensor, Nest, Nest, tf.Tensor]:
        rows = order[k]
        w = tf.gather(share, rows)
        w = w / tf.maximum(tf.reduce_sum(w), 1e-12)

        def fit(phi: Nest) -> tf.Tensor:
            return -critics.value_loss(learner.value.apply(phi, tf.gather(observation, rows)), tf.gather(target, rows), w)

        _, slope = gradients.gradient(fit, phi)
        increment, memory = learner.critic_optimizer.update(slope, memory)
        return k + 1, trees.axpy(1.0, increment, phi), memory, order

    def epoch(e: tf.Tensor, phi: Nest, memory: Nest) -> tuple[tf.Tensor, Nest, Nest]:
        noise = tf.random.stateless_uniform([samples], tf.random.experimental.stateless_fold_in(seed, e))
        order = tf.reshape(tf.argsort(noise)[: count * size], [count, size])
        start = (tf.constant(0), phi, memory, order)
        _, phi, memory, _ = tf.while_loop(lambda k, *_: k < count, step, start)
        return e + 1, phi, memory

    return tf.while_loop(lambda e, *_: e < learner.critic_epochs, epoch, (tf.constant(0), params, memory))[1:]


def assess(learner: Learner, state: TrainState, trajectory: Trajectory) -> tuple[Batch, tf.Tensor, tf.Tensor]:
    """Reads a trajectory into a batch for the policy, and the value targets [M] and predictions [M] for the critic.

    Target: psi_t + V(o_t), the lambda-return that belongs to psi_t (PG-131). Both are 0 when there is no critic.
    """
    mask = trajectory.mask
    t = inside(mask, trajectory)
    observation = perceive(learner, state, flat(t.observation))
    v_t = v_tp1 = tf.zeros_like(t.reward)
    if learner.algorithm.critic:
        v_t = tf.reshape(values(learner, state, observation), mask.shape)
        v_tp1 = tf.reshape(values(learner, state, perceive(learner, state, flat(t.next_observation))), mask.shape)
    psi_t = learner.algorithm.psi(t, Critique(v_t, v_tp1), Horizon(learner.gamma, learner.lambda_))
    target_t = psi_t + inside(mask, v_t)
    if learner.weigh_by_age:
        psi_t = returns.discount_from_start(psi_t, learner.gamma, t.age)
    normaliser = {"episodes": "traj", "steps": "step"}[learner.algorithm.batch]
    weight_t = surrogates.weights(mask, t.reward, normaliser)
    share_t = surrogates.weights(mask, t.reward, "step")
    columns = (observation, flat(t.action), *map(flat, (t.log_prob, psi_t, weight_t, share_t)))
    return Batch(*map(tf.stop_gradient, columns)), flat(target_t), flat(v_t)


def make_update(learner: Learner) -> Callable[[TrainState, Trajectory, tf.Tensor, tf.Tensor], tuple[TrainState, Metrics]]:
    """update(state, trajectory, seed [2], pace []) -> state, metrics: one iteration of learning, ready to be compiled.

    An update that would leave a NaN or an infinity in any parameter is not made: the state stays, and `skipped` is 1.
    """
    algorithm, policy = learner.algorithm, learner.policy

    def update(state: TrainState, trajectory: Trajectory, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Metrics]:
        batch, target, v = assess(learner, state, trajectory)
        problem = policy_problem(policy, algorithm.surrogate, state.policy, batch, learner.fisher_block)
        params, memory, info = algorithm.improve(problem, state.policy, state.policy_optimizer, learner.improve, pace)
        entropy = policy.distribution(policy.parameters(state.policy, batch.observation)).entropy()
        metrics = {
            "surrogate_gain": problem.objective(params) - problem.objective(state.policy),
            "kl": problem.divergence(params),
            "entropy": surrogates.weighted_sum(batch.share, entropy),
            **info,
        }
        new = state._replace(policy=params, policy_optimizer=memory)
        if algorithm.critic:
            metrics["explained_variance"] = critics.explained_variance(v, target, batch.share)
            metrics["value_rmse"] = tf.sqrt(2 * critics.value_loss(v, target, batch.share))
            statistics = learner.targets.update(state.targets, target, flat(trajectory.mask))
            scaled = learner.targets.apply(statistics, target)
            phi, memory = fit_critic(learner, state.value, state.value_optimizer, batch.observation, scaled, batch.share, seed)
            new = new._replace(value=phi, value_optimizer=memory, targets=statistics)
        seen = inside(trajectory.mask, trajectory.observation)
        new = new._replace(observations=learner.observations.update(state.observations, seen, trajectory.mask))
        sound = trees.all_finite(new)
        return trees.select(sound, new, state), {**metrics, "skipped": 1 - tf.cast(sound, tf.float32)}

    return update
