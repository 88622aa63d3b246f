"""One update: a batch of trajectories becomes better parameters. This is the seam that is compiled.

    assess (normalise -> V -> psi -> baseline) -> improve the policy -> fit the critic -> take the batch into the statistics

A large batch is read in parts, where it has columns enough, and what is not needed further is forgotten. A natural gradient and the
critic's minibatches are then made by programs about a part of it, so that an update takes, beyond the batch and psi and the critic's target
of each sample, memory that does not depend on it. Rows that repeat or ascend see a batch whole.

Statistics are taken in last, so that the policy that is improved is the policy that acted.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpg import critics, minibatches, surrogates, trees
from tfpg.algorithms import natural, needs_critic
from tfpg.assess import Assessment, Judged, Lesson, Reading, assess, conclude, read
from tfpg.blocks import columns, joined, shared_out, two_at_a_time
from tfpg.fit import fit_critic, fit_model
from tfpg.improve import IMPROVEMENTS
from tfpg.learner import Learner, critic_sees, flat, see
from tfpg.masks import inside
from tfpg.minibatches import Orders
from tfpg.normalizers import merge
from tfpg.problem import collected, policy_problem, seen, shards, side_by_side
from tfpg.types import Nest, TrainState, Trajectory

Metrics = dict[str, tf.Tensor]


LARGE = 2**18
"""Samples that are worth a program of their own, however many cores there are: a program keeps memory for each turn of its loops."""

Piece = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Makes a program of a function."""


def constant(psi_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """1 where psi is the same at every step of a batch, up to rounding, or where it has no step: there is nothing to learn from it."""
    valid, psi_t = flat(mask_t), tf.reshape(psi_t, [-1])
    top, bottom = tf.reduce_max(tf.where(valid, psi_t, psi_t.dtype.min)), tf.reduce_min(tf.where(valid, psi_t, psi_t.dtype.max))
    return tf.cast(top - bottom <= 1e-6 * tf.maximum(tf.abs(top), tf.abs(bottom)), tf.float32)


def improve_policy(
    learner: Learner, state: TrainState, t: Trajectory, found: Assessment, pace: tf.Tensor, seed: tf.Tensor, order: Nest,
    piece: Piece = lambda f: f,
) -> tuple[TrainState, Metrics]:  # fmt: skip
    """The row's improvement on the row's problem, and what there is to say about it.

    A natural gradient is made of `learner.shards` parts of the batch, or more of a large one, each in programs that `piece` makes.
    """
    batch = collected(learner, t, found.batch)
    if natural(learner.algorithm):
        count = max(learner.shards, t.mask.shape.num_elements() // max(LARGE, learner.fisher_block))
        problem = side_by_side(learner, state, shards(batch, count, learner.fisher_block), pace, seed, piece)
    else:
        problem = policy_problem(learner, state, seen(learner, state, batch), pace, seed)
    if found.gradient is not None:
        problem = problem._replace(gradient=lambda _: found.gradient)
    improve = IMPROVEMENTS[learner.algorithm.improve]
    params, memory, info = improve(problem, state.policy, state.policy_optimizer, learner.improve, pace, order)
    known = {} if learner.model else {"constant_advantages": constant(found.batch.psi, t.mask)}
    return state._replace(policy=params, policy_optimizer=memory, average=found.average), {**problem.outcome(params), **info, **known}


def adapt_penalty(learner: Learner, state: TrainState, kl: tf.Tensor) -> TrainState:
    """beta doubles where an update moved the policy more than 1.5 times its target, and halves where less than the target / 1.5.

    Reference: Schulman et al. 2017 (arXiv:1707.06347), section 4.
    """
    if learner.algorithm.surrogate != "kl_penalised":
        return state
    target = learner.objective.kl_target
    factor = tf.where(kl > 1.5 * target, 2.0, tf.where(kl < target / 1.5, 0.5, 1.0))
    return state._replace(penalty=tf.clip_by_value(state.penalty * factor, 1e-6, 1e6))


def critic_reads(
    learner: Learner, state: TrainState, statistics: Nest, rows: Nest, action: tf.Tensor, target: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    """o, a and the standardised target, of observation, mask and memory, and of actions, as they were collected."""
    observation, mask, memory = rows
    return critic_sees(learner, state, observation, mask, memory), inside(mask, action), learner.targets.apply(statistics, target)


def improve_critic(
    learner: Learner, state: TrainState, t: Trajectory, lesson: Lesson, order: Orders, piece: Piece | None = None
) -> TrainState:
    """Fits V or Q to its standardised targets, which are taken into their statistics first. Args: piece: makes a program of each step."""
    rows, action, target, mask = tf.nest.map_structure(flat, ((t.observation, t.mask, t.memory), t.action, lesson.target, t.mask))
    take_in = piece(learner.targets.update) if piece else learner.targets.update
    statistics = take_in(state.targets, target, mask)
    look = functools.partial(critic_reads, learner, state, statistics)
    phi, memory = fit_critic(learner, state.value, state.value_optimizer, rows, action, target, mask, order, look, piece)
    return state._replace(value=phi, value_optimizer=memory, targets=statistics)


def improve_model(learner: Learner, state: TrainState, t: Trajectory, lesson: Lesson, order: Orders) -> tuple[TrainState, Metrics]:
    """Fits the dynamics and the reward, in units of its deviation, to the batch; the policy is improved through what was learned."""
    share = flat(surrogates.weights(t.mask, lesson.target, "step"))
    statistics = learner.targets.update(state.targets, flat(lesson.target), flat(t.mask))
    reward = learner.targets.apply(statistics, flat(lesson.target))
    observation, action = see(learner, state, t.observation, t.mask), inside(t.mask, t.action)
    data = (flat(observation), flat(action), flat(lesson.change), reward, share)
    phi, memory = fit_model(learner, state.model, state.model_optimizer, *data, order)
    assert learner.model is not None
    predicted = learner.model.apply(phi, tf.concat(data[:2], -1))[:, -1]
    metrics = {"explained_variance": critics.explained_variance(predicted, reward, share)}
    return state._replace(model=phi, model_optimizer=memory, targets=statistics), metrics


def read_in_parts(look: Callable[..., Reading], state: TrainState, t: Trajectory, parts: int, seed: tf.Tensor) -> Reading:
    """What a trajectory says, read part by part. Args: look: the program that reads columns, (state, t, start, count, seed) -> Reading."""
    count, seeds = t.mask.shape[1] // parts, tf.unstack(tf.random.experimental.stateless_split(seed, parts))
    found = two_at_a_time([functools.partial(look, state, t, tf.constant(i * count), count, seeds[i]) for i in range(parts)])
    judged = [functools.reduce(merge, each) for each in zip(*[part.judged for part in found], strict=True)]
    side_by_side = joined([part._replace(judged=()) for part in found], 1)
    return side_by_side._replace(judged=Judged(*judged) if judged else ())


def remains(t: Trajectory) -> Trajectory:
    """What of a trajectory is needed once it has been assessed: the memory of the rest may be used again."""
    return t._replace(reward=(), next_observation=(), terminated=(), truncated=(), next_memory=())


def finish(learner: Learner, state: TrainState, new: TrainState, t: Trajectory, target: tf.Tensor) -> tuple[TrainState, tf.Tensor]:
    """Takes the batch into the statistics. Returns: the new state, or the old one if not all numbers of the new one are finite; whether."""
    if learner.objective.scale_returns and not needs_critic(learner.algorithm):
        new = new._replace(targets=learner.targets.update(state.targets, flat(target), flat(t.mask)))
    new = new._replace(observations=learner.observations.update(state.observations, t.observation, t.mask))
    sound = trees.all_finite(new)
    return trees.select(sound, new, state), sound


def drawn(learner: Learner, found: Assessment, seeds: Sequence[tf.Tensor]) -> tuple[Orders | tuple[()], Orders | tuple[()]]:
    """In which orders critic or model, and policy, go through the batch: samples or columns; () for what does not go in minibatches."""
    row, fit, improve = learner.algorithm, learner.critic, learner.improve
    samples, units = found.lesson.target.shape.num_elements(), found.batch.psi.shape[-1]
    fitted, again = needs_critic(row) or learner.model is not None, row.improve == "epochs"
    critic = minibatches.orders(samples, fit.epochs, fit.minibatches, seeds[0]) if fitted else ()
    return critic, minibatches.orders(units, improve.epochs, improve.minibatches, seeds[1]) if again else ()


def at_once(seed: tf.Tensor) -> tf.Tensor:
    """The seed, by way of a loop of one turn, with which programs that do not wait for one another run at the same time.

    TensorFlow runs a function without control flow on the thread that calls it, one program after another.
    """
    return tf.while_loop(lambda k, _: k < 1, lambda k, seed: (k + 1, seed), (tf.constant(0), seed))[1]


def make_update(
    learner: Learner, piece: Piece = lambda f: f
) -> Callable[[TrainState, Trajectory, tf.Tensor, tf.Tensor], tuple[TrainState, Metrics]]:
    """update(state, trajectory, seed [2], pace []) -> state, metrics: one iteration of learning.

    An update that would leave a NaN or an infinity in any parameter is not made: the state stays, and `skipped` is 1.
    Args: piece: without it the update is a function to be compiled as one program. With it, `piece(function)` makes a program of each step,
    and those that do not wait for one another run at the same time: the parts of a natural gradient, and the critic beside the policy. A
    natural gradient of a single block is one part in one program: starting one for each of its products would take as long as they do.
    """
    bound = lambda f: piece(functools.partial(f, learner))  # noqa: E731
    whole, all_columns, model, critic, last = map(bound, (assess, conclude, improve_model, improve_critic, finish))
    some_columns = piece(lambda state, t, start, count, seed: read(learner, state, columns(t, start, count), seed))
    by_step: Callable[..., TrainState] = functools.partial(improve_critic, learner, piece=piece)
    alone = piece(functools.partial(improve_policy, learner._replace(shards=1)))
    in_parts = functools.partial(improve_policy, learner, piece=piece)

    def update(state: TrainState, trajectory: Trajectory, seed: tf.Tensor, pace: tf.Tensor) -> tuple[TrainState, Metrics]:
        seeds = tf.random.experimental.stateless_split(at_once(seed), 3)
        samples = trajectory.mask.shape.num_elements()
        large = samples >= LARGE
        parts = shared_out(trajectory.mask.shape[1], 1) if large else 1
        if parts == 1:
            found = whole(state, trajectory, seeds[0])
        else:
            reading = read_in_parts(some_columns, state, trajectory, parts, seeds[0])
            found = all_columns(state, trajectory._replace(next_observation=(), next_memory=()), reading)
        order, again = drawn(learner, found, seeds[1:])
        t = remains(trajectory)
        new, known = model(state, t, found.lesson, order) if learner.model else (state, found.known)
        several = natural(learner.algorithm) and samples > learner.fisher_block
        new, metrics = (in_parts if several else alone)(new, t, found, pace, seeds[2], again)
        new = adapt_penalty(learner, new, metrics["kl"])
        if learner.algorithm.surrogate == "kl_penalised":
            metrics["penalty"] = new.penalty
        if needs_critic(learner.algorithm):
            fit = by_step if large else critic
            fitted = fit(state, t, found.lesson, order)  # waits for the batch alone, not for the policy
            new = new._replace(value=fitted.value, value_optimizer=fitted.value_optimizer, targets=fitted.targets)
        new, sound = last(state, new, t, found.lesson.target)
        return new, {**metrics, **known, "skipped": 1 - tf.cast(sound, tf.float32)}

    return update
