"""V is its network's only output, Q(o, a) the output of the action that was taken, or of a network that reads it."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import nets, values


@pytest.mark.parametrize("batch", [[5], [2, 3]])
def test_state_value_is_the_only_output_of_its_network(mode, rng, batch):
    net = nets.mlp([3, 4, 1], dtype=tf.float64)
    value = values.state_value(net)
    params = tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(size=leaf.shape)), value.init(tf.constant([1, 2])))
    observation = rng.normal(size=[*batch, 3])
    found = mode(value.apply)(params, tf.constant(observation))
    hidden = np.tanh(observation @ params[0]["kernel"].numpy() + params[0]["bias"].numpy())
    expected = (hidden * params[1]["kernel"].numpy()[:, 0]).sum(-1) + params[1]["bias"].numpy()[0]
    assert found.shape == batch
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_state_value_starts_where_its_network_starts():
    net, seed = nets.mlp([3, 4, 1]), tf.constant([1, 2])
    for found, expected in zip(tf.nest.flatten(values.state_value(net).init(seed)), tf.nest.flatten(net.init(seed)), strict=True):
        np.testing.assert_array_equal(found, expected)


def forward(params, x):
    hidden = np.tanh(x @ params[0]["kernel"].numpy() + params[0]["bias"].numpy())
    return hidden @ params[1]["kernel"].numpy() + params[1]["bias"].numpy()


def drawn(net, rng):
    return tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(size=leaf.shape)), net.init(tf.constant([1, 2])))


@pytest.mark.parametrize("batch", [[5], [2, 3]])
def test_action_values_gather_the_action_that_was_taken(mode, rng, batch):
    net = nets.mlp([3, 4, 4], dtype=tf.float64)
    value, params = values.action_values(net), drawn(net, rng)
    observation, action = rng.normal(size=[*batch, 3]), rng.integers(0, 4, batch).astype(np.int32)
    assert len(set(np.ravel(action))) > 2
    every = forward(params, observation)
    np.testing.assert_allclose(mode(value.every)(params, tf.constant(observation)), every, rtol=1e-12)
    found = mode(value.apply)(params, tf.constant(observation), tf.constant(action))
    assert found.shape == batch
    for index in np.ndindex(*batch):
        np.testing.assert_allclose(found[index], every[(*index, action[index])], rtol=1e-12)


@pytest.mark.parametrize("batch", [[5], [2, 3]])
def test_values_of_real_actions_read_observation_and_action(mode, rng, batch):
    net = nets.mlp([5, 4, 1], dtype=tf.float64)
    value, params = values.real_action_value(net), drawn(net, rng)
    observation, action = rng.normal(size=[*batch, 3]), rng.normal(size=[*batch, 2])
    found = mode(value.apply)(params, tf.constant(observation), tf.constant(action))
    np.testing.assert_allclose(found, forward(params, np.concatenate([observation, action], -1))[..., 0], rtol=1e-12)
    assert found.shape == batch


def test_only_values_of_actions_that_can_be_counted_know_them_all():
    assert values.state_value(nets.mlp([3, 1])).every is None
    assert values.real_action_value(nets.mlp([3, 1])).every is None
    assert values.action_values(nets.mlp([3, 2])).every is not None
