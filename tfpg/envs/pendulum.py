"""Pendulum-v1: swing a pendulum up and hold it there with a torque too weak to do it at once.

Physics: that of gymnasium's Pendulum-v1 (m = l = 1, g = 10, 0.05 s); reward -(theta^2 + 0.1 theta'^2 + 0.001 u^2) of the state before the
step. It never terminates; the clock truncates it.
"""

import math

import tensorflow as tf

from tfpg.types import Environment, Spaces

GRAVITY = 10.0  # m/s^2
TAU = 0.05  # s per step
MAX_SPEED = 8.0  # rad/s
MAX_TORQUE = 2.0  # N m


def normalised(angle: tf.Tensor) -> tf.Tensor:
    """The angle in [-pi, pi), 0 upright."""
    return tf.math.floormod(angle + math.pi, 2 * math.pi) - math.pi


def make(dtype: tf.DType = tf.float32) -> Environment:
    """State [N, 2]: angle U(-pi, pi) and speed U(-1, 1) at reset; observation [N, 3]: cos, sin, speed; action [N, 1]: torque."""

    def reset(n: int, seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([n, 2], seed, -1.0, 1.0, dtype) * tf.constant([math.pi, 1.0], dtype)

    def observe(state: tf.Tensor) -> tf.Tensor:
        angle, speed = tf.unstack(state, axis=-1)
        return tf.stack([tf.cos(angle), tf.sin(angle), speed], axis=-1)

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        angle, speed = tf.unstack(state, axis=-1)
        torque = tf.clip_by_value(action[:, 0], -MAX_TORQUE, MAX_TORQUE)
        cost = normalised(angle) ** 2 + 0.1 * speed**2 + 0.001 * torque**2
        speed = tf.clip_by_value(speed + (1.5 * GRAVITY * tf.sin(angle) + 3.0 * torque) * TAU, -MAX_SPEED, MAX_SPEED)
        angle = angle + speed * TAU
        return tf.stack([angle, speed], axis=-1), -cost, tf.zeros_like(angle, tf.bool)

    spaces = Spaces((3,), action_low=(-MAX_TORQUE,), action_high=(MAX_TORQUE,))
    return Environment("Pendulum-v1", spaces, 200, reset, observe, step)
