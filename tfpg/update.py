"""One update: a batch of trajectories becomes better parameters. This is the seam that is compiled.

    assess (normalise -> V -> psi -> baseline) -> improve the policy -> fit the critic -> take the batch into the statistics

Statistics are taken in last, so that the policy that is improved is the policy that acted.
"""

from collections.abc import Callable

import tensorflow as tf

from tfpg import critics, surrogates, trees
from tfpg.algorithms import needs_critic
from tfpg.assess import Assessment, assess
from tfpg.fit import fit_critic, fit_model
from tfpg.improve import IMPROVEMENTS
from tfpg.learner import Learner, flat
from tfpg.masks import inside
from tfpg.problem import policy_problem
from tfpg.types import TrainState, Trajectory

Metrics = dict[str, tf.Tensor]


def improve_policy(learner: Learner, state: TrainState, found: Assessment, pace: tf.Tensor, seed: tf.Tensor) -> tuple[TrainState, Metrics]:
    """The row's improvement on the row's problem, and what there is to say about it."""
    batch = found.batch
    problem = policy_problem(learner, state, batch, pace, seed)
    if found.gradient is not None:
        problem = problem._replace(gradient=lambda _: found.gradient)
    improve = IMPROVEMENTS[learner.algorithm.improve]
    params, memory, info = improve(problem, state.policy, state.policy_optimizer, learner.improve, pace, seed)
    policy = learner.policy
    entropy = policy.distribution(policy.parameters(state.policy, batch.observation)).entropy()
    metrics = {
        "surrogate_gain": problem.objective(params) - problem.objective(state.policy),
        "kl": problem.divergence(params),
        "entropy": surrogates.weighted_sum(batch.share, entropy),
        **info,
    }
    return state._replace(policy=params, policy_optimizer=memory, average=found.average), metrics


def adapt_penalty(learner: Learner, state: TrainState, kl: tf.Tensor) -> TrainState:
    """beta doubles where an update moved the policy more than 1.5 times its target, and halves where less than the target / 1.5.

    Reference: Schulman et al. 2017 (arXiv:1707.06347), section 4.
    """
    if learner.algorithm.surrogate != "kl_penalised":
        return state
    target = learner.objective.kl_target
    factor = tf.where(kl > 1.5 * target, 2.0, tf.where(kl < target / 1.5, 0.5, 1.0))
    return state._replace(penalty=tf.clip_by_value(state.penalty * factor, 1e-6, 1e6))


def improve_critic(learner: Learner, state: TrainState, found: Assessment, seed: tf.Tensor) -> tuple[TrainState, Metrics]:
    """Fits V or Q to its standardised targets, which are taken into their statistics first."""
    seen, target, prediction, mask = found.seen, flat(found.target), flat(found.prediction), flat(found.seen.mask)
    share = flat(surrogates.weights(seen.mask, found.target, "step"))
    metrics = {
        "explained_variance": critics.explained_variance(prediction, target, share),
        "value_rmse": tf.sqrt(2 * critics.value_loss(prediction, target, share)),
    }
    statistics = learner.targets.update(state.targets, target, mask)
    scaled = learner.targets.apply(statistics, target)
    data = (flat(seen.value), flat(seen.t.action), scaled, share)
    phi, memory = fit_critic(learner, state.value, state.value_optimizer, *data, seed)
    return state._replace(value=phi, value_optimizer=memory, targets=statistics), metrics


def improve_model(learner: Learner, state: TrainState, found: Assessment, seed: tf.Tensor) -> tuple[TrainState, Metrics]:
    """Fits the dynamics and the reward, in units of its deviation, to the batch; the policy is improved through what was learned."""
    seen = found.seen
    share = flat(surrogates.weights(seen.mask, found.target, "step"))
    statistics = learner.targets.update(state.targets, flat(found.target), flat(seen.mask))
    reward = learner.targets.apply(statistics, flat(found.target))
    data = (flat(seen.value), flat(seen.t.action), flat(seen.value_next - seen.value), reward, share)
    phi, memory = fit_model(learner, state.model, state.model_optimizer, *data, seed)
    assert learner.model is not None
    predicted = learner.model.apply(phi, tf.concat(data[:2], -1))[:, -1]
    metrics = {"explained_variance": critics.explained_variance(predicted, reward, share)}
    return state._replace(model=phi, model_optimizer=memory, targets=statistics), metrics


def make_update(learner: Learner) -> Callable[[TrainState, Trajectory, tf.Tensor, tf.Tensor], tuple[TrainState, Metrics]]:
    """update(state, trajectory, seed [2], pace []) -> state, metrics: one iteration of learning, ready to be compiled.

    An update that would leave a NaN or an infinity in any parameter is not made: the state stays, and `skipped` is 1.
    """
    critic = needs_critic(learner.algorithm)

    def update(state: TrainState, trajectory: Trajectory, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Metrics]:
        seeds = tf.random.experimental.stateless_split(seed, 3)
        found = assess(learner, state, trajectory, seeds[0])
        new, known = improve_model(learner, state, found, seeds[1]) if learner.model else (state, {})
        new, metrics = improve_policy(learner, new, found, pace, seeds[2])
        new = adapt_penalty(learner, new, metrics["kl"])
        if learner.algorithm.surrogate == "kl_penalised":
            metrics["penalty"] = new.penalty
        if critic:
            new, known = improve_critic(learner, new, found, seeds[1])
        elif learner.objective.scale_returns:
            new = new._replace(targets=learner.targets.update(state.targets, flat(found.target), flat(trajectory.mask)))
        observed = inside(trajectory.mask, trajectory.observation)
        new = new._replace(observations=learner.observations.update(state.observations, observed, trajectory.mask))
        sound = trees.all_finite(new)
        return trees.select(sound, new, state), {**metrics, **known, "skipped": 1 - tf.cast(sound, tf.float32)}

    return update
