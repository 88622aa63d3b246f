"""CartPole with hidden velocities: another view of the same dynamics."""

import numpy as np
import tensorflow as tf

from tfpg.envs import cartpole, masked_cartpole


def test_positions_are_seen_and_velocities_are_not(mode):
    state = tf.reshape(tf.range(12.0), [3, 4])
    np.testing.assert_array_equal(mode(masked_cartpole.make().observe)(state), [[0, 2], [4, 6], [8, 10]])


def test_the_dynamics_are_cartpole_s(rng):
    """The same states, rewards and ends over 25 random steps from the same seed, some episodes ending on the way."""
    ours, whole = masked_cartpole.make(tf.float64), cartpole.make(tf.float64)
    state = other = ours.reset(50, tf.constant([1, 2]))
    np.testing.assert_array_equal(state, whole.reset(50, tf.constant([1, 2])))
    fell = np.zeros(50, bool)
    for t in range(25):
        action = tf.constant(rng.integers(2, size=50))
        state, reward, terminated = ours.step(state, action, tf.constant([0, t]))
        other, *expected = whole.step(other, action, tf.constant([0, t]))
        np.testing.assert_array_equal(state, other)
        np.testing.assert_array_equal(reward, expected[0])
        np.testing.assert_array_equal(terminated, expected[1])
        fell |= terminated.numpy()
    assert fell.any()
    assert not fell.all()


def test_its_spaces():
    environment, whole = masked_cartpole.make(), cartpole.make()
    assert environment.spaces == whole.spaces._replace(observation_shape=(2,))
    assert (environment.name, environment.time_limit) == ("tfpg/MaskedCartPole-v1", 500)
