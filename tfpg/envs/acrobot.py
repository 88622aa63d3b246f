"""Acrobot-v1: swing the free end of a two-link chain above a line, by a torque at the joint between the links.

Physics: Sutton 1996 with the equations of Sutton and Barto's book, in the form of gymnasium's Acrobot-v1 (Runge-Kutta of order 4, 0.2 s);
reward -1 per step, 0 for the step that reaches the goal.
"""

import math

import tensorflow as tf

from tfpg.types import Environment, Spaces

GRAVITY = 9.8  # m/s^2
MASS = 1.0  # kg, of each link
LENGTH, CENTRE = 1.0, 0.5  # m, of a link, and from its joint to its centre of mass
INERTIA = 1.0  # kg m^2, of each link
MAX_SPEED_1, MAX_SPEED_2 = 4 * math.pi, 9 * math.pi  # rad/s
GOAL = 1.0  # m, of the free end above the fixed joint
TAU = 0.2  # s per step


def derivative(state: tf.Tensor, torque: tf.Tensor) -> tf.Tensor:
    """d/dt (theta_1, theta_2, theta_1', theta_2'), theta_2 relative to the first link: state [N, 4], torque [N] (N m) -> [N, 4].

    d_1 theta_1'' + d_2 theta_2'' + phi_1 = 0 and d_2 theta_1'' + d_3 theta_2'' + m l l_c theta_1'^2 sin theta_2 + phi_2 = torque.
    """
    angle_1, angle_2, speed_1, speed_2 = tf.unstack(state, axis=-1)
    lever, sin_2, cos_2 = MASS * LENGTH * CENTRE, tf.sin(angle_2), tf.cos(angle_2)
    d_1 = MASS * (LENGTH**2 + 2 * CENTRE**2) + 2 * INERTIA + 2 * lever * cos_2
    d_2 = MASS * CENTRE**2 + INERTIA + lever * cos_2
    d_3 = MASS * CENTRE**2 + INERTIA
    phi_2 = MASS * CENTRE * GRAVITY * tf.sin(angle_1 + angle_2)
    phi_1 = MASS * (LENGTH + CENTRE) * GRAVITY * tf.sin(angle_1) + phi_2 - lever * sin_2 * speed_2 * (speed_2 + 2 * speed_1)
    acceleration_2 = (torque + d_2 / d_1 * phi_1 - lever * sin_2 * speed_1**2 - phi_2) / (d_3 - d_2**2 / d_1)
    acceleration_1 = -(d_2 * acceleration_2 + phi_1) / d_1
    return tf.stack([speed_1, speed_2, acceleration_1, acceleration_2], axis=-1)


def runge_kutta(state: tf.Tensor, torque: tf.Tensor) -> tf.Tensor:
    """The state TAU seconds later, by the classical method of order 4 and a constant torque: [N, 4], [N] -> [N, 4]."""
    k_1 = derivative(state, torque)
    k_2 = derivative(state + TAU / 2 * k_1, torque)
    k_3 = derivative(state + TAU / 2 * k_2, torque)
    k_4 = derivative(state + TAU * k_3, torque)
    return state + TAU / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)


def wrapped(angle: tf.Tensor) -> tf.Tensor:
    """The angle in [-pi, pi], 0 hanging; what is there already keeps its last bit."""
    return angle - 2 * math.pi * tf.round(angle / (2 * math.pi))


def make(dtype: tf.DType = tf.float32) -> Environment:
    """State [N, 4]: angles (rad) and speeds (rad/s) of both joints, each U(-0.1, 0.1) at reset, 0 hanging down; observation [N, 6]:

    cos and sin of the first angle, of the second, and the two speeds; action [N] in {0, 1, 2}: torques of -1, 0 and 1 N m.
    """

    def reset(n: int, seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_uniform([n, 4], seed, -0.1, 0.1, dtype)

    def observe(state: tf.Tensor) -> tf.Tensor:
        angle_1, angle_2, speed_1, speed_2 = tf.unstack(state, axis=-1)
        return tf.stack([tf.cos(angle_1), tf.sin(angle_1), tf.cos(angle_2), tf.sin(angle_2), speed_1, speed_2], axis=-1)

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        angle_1, angle_2, speed_1, speed_2 = tf.unstack(runge_kutta(state, tf.cast(action - 1, state.dtype)), axis=-1)
        angle_1, angle_2 = wrapped(angle_1), wrapped(angle_2)
        speed_1 = tf.clip_by_value(speed_1, -MAX_SPEED_1, MAX_SPEED_1)
        speed_2 = tf.clip_by_value(speed_2, -MAX_SPEED_2, MAX_SPEED_2)
        terminated = -LENGTH * (tf.cos(angle_1) + tf.cos(angle_1 + angle_2)) > GOAL
        reward = tf.where(terminated, tf.zeros_like(angle_1), -tf.ones_like(angle_1))
        return tf.stack([angle_1, angle_2, speed_1, speed_2], axis=-1), reward, terminated

    return Environment("Acrobot-v1", Spaces((6,), actions=3), 500, reset, observe, step)
