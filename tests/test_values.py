"""The value function is its network's only output, without the last axis."""

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
