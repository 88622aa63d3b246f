"""Evaluation: the greedy policy, over whole episodes, each counted once."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfpg import acting, trees
from tfpg.envs.gym import VectorEnvironment
from tfpg.errors import EnvironmentFault
from tfpg.learner import Learner, act, no_memory
from tfpg.types import Environment, Nest, TrainState


def greedy(learner: Learner, state: TrainState, observation: tf.Tensor, memory: Nest = ()) -> tuple[tf.Tensor, Nest]:
    """The policy's mode in the environment's own units, for raw observations [M, *shape], and its memory afterwards."""
    p, memory = act(learner, state, observation, memory)
    return learner.policy.to_env(learner.policy.mode(p)), memory


def in_graph(environment: Environment, learner: Learner, episodes: int) -> Callable[[TrainState, tf.Tensor], tf.Tensor]:
    """evaluate(state, seed [2]) -> undiscounted returns [episodes], all episodes side by side until the last has ended."""

    def evaluate(state: TrainState, seed: tf.Tensor) -> tf.Tensor:
        start, noise = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
        first = environment.reset(episodes, start)
        zeros = tf.zeros([episodes], environment.observe(first).dtype)

        def unfinished(t: tf.Tensor, _e: Any, _m: Nest, alive: tf.Tensor, _total: tf.Tensor) -> tf.Tensor:
            return (t < environment.time_limit) & tf.reduce_any(alive)

        def step(t: tf.Tensor, now: Any, memory: Nest, alive: tf.Tensor, total: tf.Tensor) -> tuple[Any, ...]:
            action, memory = greedy(learner, state, environment.observe(now), memory)
            after, reward, terminated = environment.step(now, action, tf.random.experimental.stateless_fold_in(noise, t))
            return t + 1, trees.where_rows(alive, after, now), memory, alive & ~terminated, total + tf.where(alive, reward, 0.0)

        memory = no_memory(learner.policy, episodes)
        return tf.while_loop(unfinished, step, (tf.constant(0), first, memory, tf.ones([episodes], tf.bool), zeros))[4]

    return evaluate


def in_python(learner: Learner) -> Callable[[TrainState, VectorEnvironment, int, int], np.ndarray]:
    """evaluate(state, environment, n, episodes) -> undiscounted returns [episodes] of n environments.

    Each environment plays the same number of episodes (the first ones one more): taking whichever end first would favour short ones.
    """
    programs: dict[int, Callable[[TrainState], acting.Call]] = {}

    def evaluate(state: TrainState, environment: VectorEnvironment, n: int, episodes: int) -> np.ndarray:
        observation, memory = environment.reset(), acting.no_memory(learner.policy, n)
        if n not in programs:
            programs[n] = acting.program(lambda *given: greedy(learner, *given), state, observation, *memory)
        choose = programs[n](state)
        left = np.array([episodes // n + (i < episodes % n) for i in range(n)])
        total, returns = np.zeros(n), []
        while left.any():
            action, *memory = choose(observation, *memory)
            step = environment.step(action)
            total += step.reward * step.valid
            ended = (step.terminated | step.truncated) & step.valid
            returns += [total[i] for i in np.flatnonzero(ended & (left > 0))]
            left = left - (ended & (left > 0))
            total[ended] = 0.0
            observation = step.observation
            memory = acting.keep(step.valid & ~ended, memory)
        return np.array(returns)

    return evaluate


def summary(returns: np.ndarray) -> dict[str, float | int]:
    """Mean, its standard error, least and greatest of a sample of returns, and how many there are.

    Raises: EnvironmentFault if one of them is not finite.
    """
    if not np.isfinite(returns).all():
        raise EnvironmentFault(f"an episode of the evaluation returned {returns[~np.isfinite(returns)][0]}: returns must be finite.")
    returns = np.asarray(returns, np.float64)
    error = float(np.std(returns, ddof=1)) / math.sqrt(len(returns)) if len(returns) > 1 else 0.0
    numbers = {"mean": float(np.mean(returns)), "std_error": error, "min": float(np.min(returns)), "max": float(np.max(returns))}
    return {**numbers, "episodes": len(returns)}
