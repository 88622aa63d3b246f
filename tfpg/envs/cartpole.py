"""CartPole-v1: a pole on a cart, pushed left or right.

Physics: Barto, Sutton and Anderson 1983 in the form of gymnasium's CartPole-v1 (Euler, 0.02 s); reward 1 per step, the last included.
"""

import math

import tensorflow as tf

from tfpg.types import Environment, Spaces

GRAVITY = 9.8  # m/s^2
CART, POLE = 1.0, 0.1  # masses, kg
HALF_LENGTH = 0.5  # m, of the pole
FORCE = 10.0  # N
TAU = 0.02  # s per step
X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360  # m, rad


def physics(state: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """(x, x', theta, theta') one step of TAU seconds later: state [N, 4], action [N] in {0: left, 1: right} -> [N, 4]."""
    x, x_dot, theta, theta_dot = tf.unstack(state, axis=-1)
    force = tf.where(action == 1, tf.constant(FORCE, state.dtype), tf.constant(-FORCE, state.dtype))
    cos, sin = tf.cos(theta), tf.sin(theta)
    push = (force + POLE * HALF_LENGTH * theta_dot**2 * sin) / (CART + POLE)
    theta_acc = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4.0 / 3.0 - POLE * cos**2 / (CART + POLE)))
    x_acc = push - POLE * HALF_LENGTH * theta_acc * cos / (CART + POLE)
    return tf.stack([x + TAU * x_dot, x_dot + TAU * x_acc, theta + TAU * theta_dot, theta_dot + TAU * theta_acc], axis=-1)


def make(dtype: tf.DType = tf.float32) -> Environment:
    """State and observation: [N, 4] position (m), velocity, angle (rad), angular velocity, each U(-0.05, 0.05) at reset."""

    def reset(n: int, seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([n, 4], seed, -0.05, 0.05, dtype)

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        state = physics(state, action)
        terminated = (tf.abs(state[:, 0]) > X_LIMIT) | (tf.abs(state[:, 2]) > ANGLE_LIMIT)
        return state, tf.ones_like(state[:, 0]), terminated

    return Environment("CartPole-v1", Spaces((4,), actions=2), 500, reset, lambda state: state, step)
