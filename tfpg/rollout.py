"""Collecting experience: from in-graph environments as one compiled loop, from vector environments step by step.

Both give the same `Trajectory`: T rows of N environments, with the true next observation, and with `terminated` and `truncated` apart.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import acting, trees
from tfpg.algorithms import whole_episodes
from tfpg.blocks import joined, shared_out
from tfpg.envs.gym import VectorEnvironment
from tfpg.errors import EnvironmentFault
from tfpg.learner import Learner, act, flat, no_memory, perceive
from tfpg.types import Environment, Nest, TrainState, Trajectory

Metrics = dict[str, tf.Tensor]


class Carry(NamedTuple):
    """What continues from one chunk to the next: the environments, and of each the running episode's length, return and memory."""

    environment: Nest
    age: tf.Tensor  # [N] int32
    running: tf.Tensor  # [N] undiscounted return so far
    memory: Nest = ()  # [N, H] of a recurrent policy


class Tally(NamedTuple):
    """Of a trajectory: its valid steps, and of the episodes that ended in it their number, returns and lengths, as numbers that add up."""

    steps: tf.Tensor
    episodes: tf.Tensor
    total: tf.Tensor  # of their undiscounted returns
    least: tf.Tensor  # of these; infinity without an episode
    length: tf.Tensor  # of all of them


def tally(trajectory: Trajectory, running_t: tf.Tensor) -> Tally:
    """Args: running_t [T, N]: return so far, the reward of step t included."""
    ended = (trajectory.terminated | trajectory.truncated) & trajectory.mask
    total = lambda x: tf.reduce_sum(tf.where(ended, tf.cast(x, tf.float32), 0.0))  # noqa: E731
    least = tf.reduce_min(tf.where(ended, running_t, float("inf")))
    steps = tf.reduce_sum(tf.cast(trajectory.mask, tf.int32))
    return Tally(steps, tf.reduce_sum(tf.cast(ended, tf.int32)), total(running_t), least, total(trajectory.age + 1))


def told(*parts: Tally) -> Metrics:
    """Of the episodes that ended: count, mean and least undiscounted return, mean length; and the valid steps. NaN when none ended."""
    steps, episodes, total, least, length = map(tf.stack, zip(*parts, strict=True))
    count = tf.reduce_sum(tf.cast(episodes, tf.float32))
    return {
        "steps": tf.reduce_sum(steps),
        "episodes": tf.reduce_sum(episodes),
        "return_mean": tf.reduce_sum(total) / count,
        "return_min": tf.where(count > 0, tf.reduce_min(least), float("nan")),
        "length_mean": tf.reduce_sum(length) / count,
    }


def summarise(trajectory: Trajectory, running_t: tf.Tensor) -> Metrics:
    """What there is to say of a trajectory. Args: running_t [T, N]: return so far, the reward of step t included."""
    return told(tally(trajectory, running_t))


def start(environment: Environment, learner: Learner, n: int, seed: tf.Tensor) -> Carry:
    """N environments at the start of an episode, those of a group at the same one: seed [2] -> Carry."""
    state = environment.reset(n // learner.group, seed)
    if learner.group > 1:
        state = tf.nest.map_structure(lambda x: tf.repeat(x, learner.group, axis=0), state)
    return Carry(state, tf.zeros([n], tf.int32), tf.zeros([n], environment.observe(state).dtype), no_memory(learner.policy, n))


def exploration(learner: Learner, horizon: int, n: int, seed: tf.Tensor) -> tf.Tensor:
    """The policy's noise for a chunk, [horizon, n, ...], each draw held for `noise_repeat` steps.

    Noise that is held moves a system further than noise that is drawn anew: what a random walk never finds, a push may. Each action keeps
    its distribution, and the estimators treat actions as independent given the observations, which held noise is not: with it the gradient
    has a bias, as it has with state-dependent exploration that is resampled every few steps.
    """
    draws = -(-horizon // learner.noise_repeat)
    return tf.repeat(learner.policy.noise([draws, n], seed), learner.noise_repeat, axis=0)[:horizon]


def make_collect(
    environment: Environment, learner: Learner, n: int, horizon: int, piece: Callable[..., Any] = lambda f: f
) -> Callable[[TrainState, Carry, tf.Tensor], tuple[Carry, Trajectory, Metrics]]:
    """collect(state, carry, seed [2]) -> carry, trajectory [horizon, n], episode metrics, as one compiled loop over time.

    Of many environments each part has a loop, noise and seeds of its own. Chunks go on where the last one stopped, and an environment is
    reset when its episode ends. For a row that needs whole episodes all of them are reset first, an environment stands still at its end,
    which is masked, and what the horizon cuts is truncated.
    Args: piece: makes a program of the loop; those of several parts run at the same time. The policy's noise and the seeds of the steps
    are drawn before it: XLA takes up to a hundred times as long to draw noise, and a quarter of its time to compile what draws the seeds.
    """
    policy, whole = learner.policy, whole_episodes(learner.algorithm)
    parts = shared_out(n, learner.group)
    each = n // parts
    limit = min(environment.time_limit, horizon) if whole else environment.time_limit

    @piece
    def loop(
        state: TrainState, carry: Carry, noise_t: tf.Tensor, reset_t: tf.Tensor, step_t: tf.Tensor, start_seed: tf.Tensor
    ) -> tuple[Carry, Trajectory, Tally]:
        if whole:
            carry = start(environment, learner, each, start_seed)

        def row(t: tf.Tensor, carry: Carry, alive: tf.Tensor) -> tuple[Carry, tf.Tensor, tuple[Trajectory, tf.Tensor]]:
            observation = environment.observe(carry.environment)
            p, memory = act(learner, state, observation, carry.memory)
            action = policy.act(p, noise_t[t])
            log_prob = policy.distribution(p).log_prob(action)
            after, reward, terminated = environment.step(carry.environment, policy.to_env(action), step_t[t])
            truncated = carry.age + 1 >= limit
            ended = terminated | truncated
            running = carry.running + reward
            record = Trajectory(
                observation, action, log_prob, reward, environment.observe(after), terminated, truncated, alive, carry.age,
                carry.memory, memory,
            )  # fmt: skip
            going_on = Carry(after, carry.age + 1, running, memory)
            following = trees.where_rows(ended, carry if whole else start(environment, learner, each, reset_t[t]), going_on)
            return following, alive & ~(ended & whole), (record, running)

        alive = tf.ones([each], tf.bool)
        shapes = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), row(tf.constant(0), carry, alive)[2])
        arrays = tf.nest.map_structure(lambda x: tf.TensorArray(x.dtype, horizon, element_shape=x.shape), shapes)

        def step(t: tf.Tensor, carry: Carry, alive: tf.Tensor, arrays: Nest) -> tuple[tf.Tensor, Carry, tf.Tensor, Nest]:
            carry, alive, records = row(t, carry, alive)
            return t + 1, carry, alive, tf.nest.map_structure(lambda array, x: array.write(t, x), arrays, records)

        _, carry, _, arrays = tf.while_loop(lambda t, *_: t < horizon, step, (tf.constant(0), carry, alive, arrays))
        trajectory, running_t = tf.nest.map_structure(lambda array: array.stack(), arrays)
        return carry, trajectory, tally(trajectory, running_t)

    def part(state: TrainState, carry: Carry, seed: tf.Tensor) -> tuple[Carry, Trajectory, Tally]:
        noise_seed, reset_seed, step_seed, start_seed = tf.unstack(tf.random.experimental.stateless_split(seed, 4))
        reset_t, step_t = (tf.random.experimental.stateless_split(own, horizon) for own in (reset_seed, step_seed))
        return loop(state, carry, exploration(learner, horizon, each, noise_seed), reset_t, step_t, start_seed)

    def collect(state: TrainState, carry: Carry, seed: tf.Tensor) -> tuple[Carry, Trajectory, Metrics]:
        seeds = tf.unstack(tf.random.experimental.stateless_split(seed, parts)) if parts > 1 else [seed]
        own = lambda i: tf.nest.map_structure(lambda x: x[i * each : (i + 1) * each], carry)  # noqa: E731
        carries, trajectories, tallies = zip(*[part(state, own(i), seeds[i]) for i in range(parts)], strict=True)
        return joined(carries, 0), joined(trajectories, 1), told(*tallies)

    return collect


class Gathered(NamedTuple):
    """What N environments outside TensorFlow gave in T steps, as NumPy arrays: what of a `Trajectory` does not follow from the rest."""

    observation: np.ndarray  # [T, N, O]
    action: np.ndarray  # [T, N] or [T, N, A]
    facts: tuple[np.ndarray, ...]  # reward, next observation, terminated, truncated, mask, age: [T, N], [T, N, O]
    running: np.ndarray  # [T, N] return so far, the reward of step t included
    memory: Nest  # [T, N, H] of a recurrent policy, before and after each step
    next_memory: Nest
    restarts: np.int32  # [], how often environments were replaced


def read(learner: Learner, state: TrainState, g: Gathered) -> tuple[Trajectory, Metrics]:
    """What was gathered as a trajectory, with the log-probabilities of the actions, and what there is to say of it."""
    horizon, n = g.running.shape
    seen = tf.reshape(perceive(learner, state, flat(g.observation)), [horizon, n, -1])
    p = learner.policy.parameters(state.policy, seen if learner.policy.advance is None else (seen, g.facts[-1] == 0, g.memory[:1]))
    log_prob_t = learner.policy.distribution(p).log_prob(g.action)
    record = Trajectory(g.observation, g.action, log_prob_t, *g.facts)._replace(memory=g.memory, next_memory=g.next_memory)
    return record, {**summarise(record, g.running), "env_restarts": g.restarts}


def _pile(rows: Sequence[Any]) -> np.ndarray:
    """Arrays of the same shape, one upon another: np.stack, in a third of its time for small ones."""
    first = np.asarray(rows[0])
    return np.concatenate(rows).reshape(len(rows), *first.shape)


class Stream:
    """A vector environment in mid-stream: the observation it waits at, and of each row the running episode's length and return.

    `gather(state, noise [horizon, n, ...]) -> Gathered`, whose meaning is that of `make_collect`. The environments cannot be copied or
    saved, so this one piece keeps its state to itself.

    Where environments fail, `opened(k)` opens others in their place for the k-th time, at most `restarts` times within one `gather`.
    What it had until then is dropped, with the episodes that were running, and it begins again. The metrics count it.
    """

    def __init__(
        self,
        environment: VectorEnvironment,
        learner: Learner,
        n: int,
        horizon: int,
        opened: Callable[[int], VectorEnvironment] | None = None,
        restarts: int = 0,
    ) -> None:
        self.environment, self.learner, self.n, self.horizon = environment, learner, n, horizon
        self.opened, self.restarts = opened, restarts
        self.whole = whole_episodes(learner.algorithm)
        self.use: Callable[[TrainState], acting.Call] | None = None
        self.draw = acting.direct(functools.partial(exploration, learner, horizon, n))
        self.read = acting.direct(functools.partial(read, learner))
        self.observation: Any = None  # the environments are reset when the first of them is needed

    def _restart(self) -> None:
        """Begins new episodes."""
        self.observation = self.environment.reset()
        self.age: np.ndarray = np.zeros(self.n, np.int32)
        self.running: np.ndarray = np.zeros(self.n, np.float32)
        self.memory = acting.no_memory(self.learner.policy, self.n)

    def _choose(self, state: TrainState, observation: tf.Tensor, noise: tf.Tensor, *memory: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Nest]:
        p, after = act(self.learner, state, observation, *memory)
        action = self.learner.policy.act(p, noise)
        return action, self.learner.policy.to_env(action), after

    def collect(self, state: TrainState, seed: tf.Tensor) -> tuple[Trajectory, Metrics]:
        """`gather` with noise of its own, as a trajectory: state, seed [2] -> trajectory [horizon, n], episode metrics."""
        return self.read(state, self.gather(state, self.draw(seed).numpy()))

    def gather(self, state: TrainState, noise_t: np.ndarray) -> Gathered:
        """What is to be learned from, whatever fails on the way. Raises: EnvironmentFault when more fails than may."""
        failures = 0
        while True:
            try:
                if failures and self.opened:
                    self.environment = self.opened(failures)
                return self._gather(state, noise_t)._replace(restarts=np.int32(failures))
            except EnvironmentFault as fault:
                failures += 1
                self.observation = None
                with suppress(EnvironmentFault):
                    self.environment.close()
                if failures > self.restarts:
                    more = f" It was the failure after --max_env_restarts={self.restarts} within one iteration." if self.restarts else ""
                    raise EnvironmentFault(f"{fault}{more}") from fault

    def _gather(self, state: TrainState, noise_t: np.ndarray) -> Gathered:
        if self.whole or self.observation is None:
            self._restart()
        if self.use is None:
            self.use = acting.program(self._choose, state, self.observation, noise_t[0], *self.memory, unroll=True)
        choose, rows = self.use(state), []
        for noise in noise_t:
            action, outside, *memory = choose(self.observation, noise, *self.memory)
            step = self.environment.step(outside)
            rows.append((self.observation, action, step, self.memory, memory))
            self.observation = step.observation
            if memory:
                self.memory = acting.keep(step.valid & ~(step.terminated | step.truncated), memory)
        return self._assemble(rows)

    def _assemble(self, rows: list[tuple]) -> Gathered:
        """What was written down step by step, and what follows from it, worked out for all steps at once."""
        observation, action, steps, memory, after = zip(*rows, strict=True)
        following, reward, terminated, truncated, valid = map(_pile, list(zip(*steps, strict=True))[:5])
        if self.whole:
            truncated[-1] = True
        ended = terminated | truncated
        age, running = self._since_start(ended, valid, reward)
        if self.whole:
            valid[1:] &= ~np.logical_or.accumulate(ended)[:-1]
        facts = reward, following, terminated, truncated, valid, age
        before, then = (_pile(x)[:, 0] if self.learner.policy.memory else () for x in (memory, after))
        return Gathered(_pile(observation), _pile(action), facts, running, before, then, np.int32(0))

    def _since_start(self, ended_t: np.ndarray, valid_t: np.ndarray, reward_t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps of the running episode before each step, and its return with it, [T, N]; what the next chunk begins with stays here."""
        age_t, running_t, ends = np.empty(ended_t.shape, np.int32), reward_t * valid_t, np.any(ended_t, axis=1)
        age, running = self.age, self.running
        for t, ended in enumerate(ends):
            age_t[t] = age
            age, running = age + valid_t[t], np.add(running, running_t[t], out=running_t[t])
            if ended:
                age, running = np.where(ended_t[t], 0, age), np.where(ended_t[t], np.float32(0), running)
        self.age, self.running = age, running
        return age_t, running_t
