"""tfpg/MaskedCartPole-v1: CartPole-v1 whose velocities are hidden. One observation does not tell the state: memory helps."""

import tensorflow as tf

from tfpg.envs import cartpole
from tfpg.types import Environment, Spaces


def make(dtype: tf.DType = tf.float32) -> Environment:
    """State [N, 4] and everything else as in CartPole-v1; observation [N, 2]: position (m) and angle (rad)."""
    return cartpole.make(dtype)._replace(
        name="tfpg/MaskedCartPole-v1",
        spaces=Spaces((2,), actions=2),
        observe=lambda state: tf.gather(state, [0, 2], axis=-1),
    )
