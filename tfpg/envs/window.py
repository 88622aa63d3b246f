"""The last k observations as one: what a policy without memory needs where a single observation does not show all, such as a speed."""

from typing import Any

import numpy as np
import tensorflow as tf

from tfpg.envs.gym import Step, VectorEnvironment
from tfpg.errors import UsageError
from tfpg.types import Environment, Nest, Spaces


def _widened(spaces: Spaces, k: int) -> Spaces:
    if k < 1:
        raise UsageError(f"--window={k} is out of range: windows of 1 observation or more are allowed.")
    return spaces._replace(observation_shape=(k, *spaces.observation_shape))


def windowed(environment: VectorEnvironment, k: int) -> VectorEnvironment:
    """The same environments, whose observation is (o_{t-k+1}, .., o_t), [N, k, *shape], oldest first.

    What was before the first step of an episode is zeros. `next_observation` is the window that ends in o_{t+1}, within the episode.
    Raises: UsageError unless k >= 1.
    """
    spaces, held = _widened(environment.spaces, k), list[np.ndarray]()

    def begin(observation: np.ndarray) -> np.ndarray:
        window = np.zeros((len(observation), *spaces.observation_shape), np.float32)
        window[:, -1] = observation
        return window

    def reset() -> np.ndarray:
        held[:] = [begin(environment.reset())]
        return held[0].copy()

    def step(action: np.ndarray) -> Step:
        plain = environment.step(action)
        after = np.concatenate([held[0][:, 1:], plain.next_observation[:, None]], axis=1)
        following = after.copy()
        # After an end, and in a row that is none, an episode begins: no window looks back into the one before.
        fresh = plain.terminated | plain.truncated | ~plain.valid
        following[fresh] = begin(plain.observation)[fresh]
        held[:] = [following]
        return plain._replace(next_observation=after, observation=following.copy())

    return environment._replace(spaces=spaces, reset=reset, step=step)


def windowed_graph(environment: Environment, k: int) -> Environment:
    """`windowed` for environments in graph: the window [N, k, *shape] is part of the state, so whoever resets the state resets it too.

    State: {'environment': the state of the environment itself, 'window'}. Raises: UsageError unless k >= 1.
    """
    spaces = _widened(environment.spaces, k)

    def reset(n: int, seed: tf.Tensor) -> Nest:
        state = environment.reset(n, seed)
        first = environment.observe(state)[:, None]
        return {"environment": state, "window": tf.concat([tf.zeros_like(tf.repeat(first, k - 1, axis=1)), first], axis=1)}

    def step(state: Nest, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
        inner, reward, terminated = environment.step(state["environment"], action, seed)
        window = tf.concat([state["window"][:, 1:], environment.observe(inner)[:, None]], axis=1)
        return {"environment": inner, "window": window}, reward, terminated

    return environment._replace(spaces=spaces, reset=reset, observe=lambda state: state["window"], step=step)
