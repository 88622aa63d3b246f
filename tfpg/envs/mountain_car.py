"""MountainCar-v0 and MountainCarContinuous-v0: a car in a valley, too weak to drive straight up to the goal.

Physics: Moore 1990 in the form of gymnasium's environments, where a step is the unit of time. Of the discrete one each step costs 1. The
continuous one pays 100 at the goal and -0.1 a^2 per step, a the action as it was given: the force is clipped, its cost is not.
"""

import tensorflow as tf

from tfpg.types import Environment, Spaces

GRAVITY = 0.0025  # m/step^2, along the slope per cos(3 x)
FORCE, POWER = 0.001, 0.0015  # m/step^2, of the discrete actions and of a = 1
MAX_SPEED = 0.07  # m/step
X_MIN, X_MAX = -1.2, 0.6  # m
GOAL, GOAL_CONTINUOUS = 0.5, 0.45  # m


def physics(state: tf.Tensor, push: tf.Tensor) -> tf.Tensor:
    """(x, x') one step later: state [N, 2], push [N] in m/step^2 -> [N, 2]. The left wall stops the car; the right one leaves its speed."""
    x, speed = tf.unstack(state, axis=-1)
    speed = tf.clip_by_value(speed + push - GRAVITY * tf.cos(3 * x), -MAX_SPEED, MAX_SPEED)
    x = tf.clip_by_value(x + speed, X_MIN, X_MAX)
    stopped = tf.equal(x, tf.constant(X_MIN, x.dtype)) & (speed < 0)
    return tf.stack([x, tf.where(stopped, tf.zeros_like(speed), speed)], axis=-1)


def arrived(state: tf.Tensor, goal: float) -> tf.Tensor:
    """At the goal or beyond, and not on the way back: [N, 2] -> [N] bool."""
    return (state[:, 0] >= goal) & (state[:, 1] >= 0)


def start(n: int, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Position U(-0.6, -0.4), at rest: [N, 2]."""
    x = tf.random.stateless_uniform([n], seed, -0.6, -0.4, dtype)
    return tf.stack([x, tf.zeros_like(x)], axis=-1)


def make(dtype: tf.DType = tf.float32) -> Environment:
    """MountainCar-v0. State and observation: [N, 2] position (m), U(-0.6, -0.4) at reset, and speed (m/step), 0 at reset;

    action [N] in {0: left, 1: none, 2: right}.
    """

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        state = physics(state, FORCE * tf.cast(action - 1, state.dtype))
        return state, -tf.ones_like(state[:, 0]), arrived(state, GOAL)

    return Environment("MountainCar-v0", Spaces((2,), actions=3), 200, lambda n, seed: start(n, seed, dtype), lambda state: state, step)


def make_continuous(dtype: tf.DType = tf.float32) -> Environment:
    """MountainCarContinuous-v0. State and observation as above; action [N, 1]: share of the greatest force, clipped to [-1, 1]."""

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        action = action[:, 0]
        state = physics(state, POWER * tf.clip_by_value(action, -1.0, 1.0))
        terminated = arrived(state, GOAL_CONTINUOUS)
        return state, 100 * tf.cast(terminated, state.dtype) - 0.1 * action**2, terminated

    spaces = Spaces((2,), action_low=(-1.0,), action_high=(1.0,))
    return Environment("MountainCarContinuous-v0", spaces, 999, lambda n, seed: start(n, seed, dtype), lambda state: state, step)
