"""Schedulers of `envs.deeprm` that learn nothing, and what a schedule is worth   (PG-127).

A scheduler is `choose(state, seed [2]) -> action [N]`. All but `anything` consider the jobs in the slots that can start now, take the one
of the highest score, the first of several, and let time pass where there is none.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfpg import trees
from tfpg.envs.deeprm import State, cost, of
from tfpg.types import Environment

Scheduler = Callable[[State, tf.Tensor], tf.Tensor]
KNOB, ALIGNMENT = 0.5, 200.0  # of `tetris`: the weight of alignment, and the greatest that there is with two resources of ten units


def spare(state: State) -> tf.Tensor:
    """Units of each resource that the job of a slot would leave in the step of its span where they are fewest   [N, M, R].

    Negative where it cannot start now.
    """
    length, size = of(state.length, state.slots), of(state.size, state.slots)
    window, units = state.used.shape[-1], state.plan.shape[-1]
    left = units - state.used[:, None] - size[..., None]  # [N, M, R, T]
    span = tf.range(window) < length[..., None, None]
    return tf.reduce_min(tf.where(span, left, units), axis=-1)


def best(score: tf.Tensor, allowed: tf.Tensor) -> tf.Tensor:
    """The slot of the highest score among those allowed, or the action that waits: [N, M], [N, M] -> [N]."""
    slots = score.shape[1]
    first = tf.argmax(tf.where(allowed, score, score.dtype.min), axis=1, output_type=tf.int32)
    return tf.where(tf.reduce_any(allowed, axis=1), first, slots)


def can_start(state: State) -> tf.Tensor:
    """Which slots hold a job that can start now   [N, M]."""
    return (state.slots >= 0) & tf.reduce_all(spare(state) >= 0, axis=-1)


def shortness(state: State) -> tf.Tensor:
    """1 / length of the job in each slot   [N, M]."""
    return cost(of(state.length, state.slots), tf.float64)


def alignment(state: State) -> tf.Tensor:
    """sum_r (units free now)_r (units needed)_r of the job in each slot   [N, M]."""
    free = state.plan.shape[-1] - state.used[:, None, :, 0]
    return tf.cast(tf.reduce_sum(free * of(state.size, state.slots), axis=-1), tf.float64)


def shortest_job_first(state: State, seed: tf.Tensor) -> tf.Tensor:
    """SJF: the shortest job   (PG-127)."""
    return best(shortness(state), can_start(state))


def packer(state: State, seed: tf.Tensor) -> tf.Tensor:
    """The job whose needs are most aligned with what is free   (PG-127)."""
    return best(alignment(state), can_start(state))


def tetris(state: State, seed: tf.Tensor) -> tf.Tensor:
    """Half alignment, as a share of the greatest that there is, half shortness   (PG-127). Source: Grandl et al. 2014, Tetris.

    The authors of DeepRM leave the alignment as it is, and do not say how they weigh it: beside 1 / length it is then all that counts.
    """
    return best(KNOB * alignment(state) / ALIGNMENT + (1 - KNOB) * shortness(state), can_start(state))


def hold(spare_units: int, short: int = 3) -> Scheduler:
    """SJF that keeps room: while jobs may arrive, one longer than `short` steps starts only if so many units of each resource stay free."""

    def choose(state: State, seed: tf.Tensor) -> tf.Tensor:
        late = state.time >= state.length.shape[1] - 1  # the last job is there
        roomy = tf.reduce_all(spare(state) >= spare_units, axis=-1)
        return best(shortness(state), can_start(state) & (roomy | late[:, None] | (of(state.length, state.slots) <= short)))

    return choose


def anything(state: State, seed: tf.Tensor) -> tf.Tensor:
    """Any action, each as likely   (PG-127)."""
    n, slots = state.slots.shape
    return tf.random.stateless_uniform([n], seed, 0, slots + 1, tf.int32)


SCHEDULERS: dict[str, Scheduler] = {"SJF": shortest_job_first, "packer": packer, "Tetris-like": tetris, "random": anything}


class Schedule(NamedTuple):
    """What became of the jobs of N clusters."""

    state: State  # at the end
    total: tf.Tensor  # [N] undiscounted return
    decisions: tf.Tensor  # [N]
    finished: tf.Tensor  # [N] whether every job has finished


def play(environment: Environment, choose: Scheduler, n: int, seed: tf.Tensor, limit: int = 100_000) -> Schedule:
    """N clusters from their start until all jobs of all of them have finished, or for `limit` decisions."""
    reset_seed, choose_seed, step_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 3))
    state = environment.reset(n, reset_seed)
    reward = environment.step(state, tf.zeros([n], tf.int32), step_seed)[1]

    def unfinished(t: tf.Tensor, now: Schedule) -> tf.Tensor:
        return (t < limit) & ~tf.reduce_all(now.finished)

    def decide(t: tf.Tensor, now: Schedule) -> tuple[tf.Tensor, Schedule]:
        action = tf.ensure_shape(choose(now.state, tf.random.experimental.stateless_fold_in(choose_seed, t)), [n])
        after, reward, finished = environment.step(now.state, action, tf.random.experimental.stateless_fold_in(step_seed, t))
        state, total = trees.where_rows(now.finished, (now.state, now.total), (after, now.total + reward))
        return t + 1, Schedule(state, total, now.decisions + tf.cast(~now.finished, tf.int32), now.finished | finished)

    start = Schedule(state, tf.zeros_like(reward), tf.zeros([n], tf.int32), tf.zeros([n], tf.bool))
    return tf.while_loop(unfinished, decide, (tf.constant(0), start))[1]
