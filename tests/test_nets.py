"""Networks against a forward pass in NumPy, and the law of their initial weights."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfpg import gradients, nets
from tfpg.types import Net

SIZES = [3, 5, 5, 2]
SEED = tf.constant([6, 2])
BY_HAND = {
    "tanh": np.tanh,
    "relu": lambda x: np.where(x > 0, x, 0),
    "elu": lambda x: np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1),
    "swish": lambda x: x / (1 + np.exp(-x)),
}


def random_like(nest, rng, dtype=tf.float64):
    return tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(scale=0.8, size=leaf.shape), dtype), nest)


def forward(weights, x, activation):
    """The multilayer perceptron, one sample and one layer at a time. Weights: kernel, bias, kernel, bias, .."""
    arrays = [np.asarray(leaf, np.float64) for leaf in weights]
    outputs = []
    for sample in np.float64(x).reshape([-1, x.shape[-1]]):
        h = sample
        for i in range(0, len(arrays), 2):
            kernel, bias = arrays[i : i + 2]
            z = np.array([sum(h[j] * kernel[j, k] for j in range(len(h))) + bias[k] for k in range(len(bias))])
            h = BY_HAND[activation](z) if i + 2 < len(arrays) else z
        outputs.append(h)
    return np.reshape(outputs, [*x.shape[:-1], len(h)])


def kernels_and_biases(params):
    return [leaf for layer in params for leaf in (layer["kernel"], layer["bias"])]


def gram(kernel):
    """W'W or WW', whichever is smaller."""
    kernel = np.float64(kernel)
    return kernel.T @ kernel if kernel.shape[0] >= kernel.shape[1] else kernel @ kernel.T


# Orthogonal matrices


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 3), (3, 1)])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_orthogonal_rows_or_columns_have_the_length_of_the_gain(shape, dtype):
    kernel = nets.orthogonal(shape, 1.7, SEED, dtype)
    assert kernel.dtype == dtype
    assert kernel.shape == shape
    np.testing.assert_allclose(gram(kernel), 1.7**2 * np.eye(min(shape)), atol=1e-6 if dtype == tf.float32 else 1e-13)


def test_orthogonal_law_does_not_prefer_a_sign():
    entries = np.array([nets.orthogonal([2, 3], 1.3, tf.constant([7, i])) for i in range(200)])
    positive = (entries > 0).sum(0)
    assert np.abs(positive - 100).max() <= 5 * np.sqrt(200 / 4)  # binomial: sd = sqrt(n / 4)
    assert np.abs(entries.mean(0)).max() <= 5 * np.sqrt(1.3**2 / 3 / 200)  # a squared entry has mean gain^2 / columns


# The own multilayer perceptron


@pytest.mark.parametrize("activation", sorted(nets.ACTIVATIONS))
def test_mlp_is_the_forward_pass_by_hand(mode, rng, activation):
    net = nets.mlp(SIZES, activation, dtype=tf.float64)
    params, x = random_like(net.init(SEED), rng), rng.normal(size=[6, 3])
    found = mode(net.apply)(params, tf.constant(x))
    np.testing.assert_allclose(found, forward(kernels_and_biases(params), x, activation), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("sizes", [[3, 2], [3, 1, 4], SIZES])
def test_mlp_maps_the_last_axis_of_any_batch(rng, sizes):
    net = nets.mlp(sizes, dtype=tf.float64)
    params, x = random_like(net.init(SEED), rng), rng.normal(size=[2, 3, 4, 3])
    np.testing.assert_allclose(net.apply(params, tf.constant(x)), forward(kernels_and_biases(params), x, "tanh"), rtol=1e-11)
    np.testing.assert_allclose(net.apply(params, tf.constant(x[0])), net.apply(params, tf.constant(x))[0], rtol=1e-13)


def test_mlp_starts_with_orthogonal_kernels_and_zero_biases():
    params = nets.mlp(SIZES, last_gain=0.01).init(SEED)
    assert [layer["kernel"].shape for layer in params] == [[3, 5], [5, 5], [5, 2]]
    assert [layer["bias"].shape for layer in params] == [[5], [5], [2]]
    assert {leaf.dtype for leaf in tf.nest.flatten(params)} == {tf.float32}
    for layer, square in zip(params, [2, 2, 1e-4], strict=True):
        np.testing.assert_allclose(gram(layer["kernel"]), square * np.eye(min(layer["kernel"].shape)), atol=1e-6 * square)
        np.testing.assert_array_equal(layer["bias"], 0 * layer["bias"])


def test_mlp_with_one_layer_has_the_last_gain():
    np.testing.assert_allclose(gram(nets.mlp([4, 3], last_gain=0.3).init(SEED)[0]["kernel"]), 0.09 * np.eye(3), atol=1e-7)
    np.testing.assert_allclose(gram(nets.mlp([4, 3]).init(SEED)[0]["kernel"]), np.eye(3), atol=1e-6)


@pytest.mark.parametrize("make", [nets.mlp, nets.keras_mlp])
def test_init_depends_on_the_seed_alone(make):
    net = make(SIZES)
    kernels = {}
    for name, source, seed in [("a", net, [1, 2]), ("b", net, [1, 3]), ("c", net, [2, 2]), ("a again", make(SIZES), [1, 2])]:
        kernels[name] = [leaf.numpy() for leaf in tf.nest.flatten(source.init(tf.constant(seed))) if leaf.shape.rank == 2]
    for a, b, c, again in zip(*kernels.values(), strict=True):
        np.testing.assert_array_equal(a, again)
        assert min(np.abs(a - b).max(), np.abs(a - c).max(), np.abs(b - c).max()) > 1e-2


@pytest.mark.parametrize("make", [nets.mlp, nets.keras_mlp])
def test_each_layer_has_its_own_numbers(make):
    params = make([4, 4, 4, 4], last_gain=2.0**0.5).init(SEED)
    first, second, last = (leaf.numpy() for leaf in tf.nest.flatten(params) if leaf.shape.rank == 2)
    assert min(np.abs(first - second).max(), np.abs(second - last).max(), np.abs(first - last).max()) > 1e-1


# Keras models


@pytest.mark.parametrize("activation", sorted(nets.ACTIVATIONS))
def test_keras_mlp_is_the_mlp_of_the_same_weights(mode, rng, activation):
    own, keras = nets.mlp(SIZES, activation), nets.keras_mlp(SIZES, activation)
    assert isinstance(keras, Net)
    params = random_like(own.init(SEED), rng, tf.float32)
    weights, x = tuple(kernels_and_biases(params)), tf.constant(rng.normal(size=[6, 3]), tf.float32)
    assert [leaf.shape for leaf in keras.init(SEED)] == [leaf.shape for leaf in weights]
    direction = tf.constant(rng.normal(size=[6, 2]), tf.float32)

    def value_and_slope(net):
        return lambda params: gradients.gradient(lambda params: tf.reduce_sum(net.apply(params, x) * direction), params)

    np.testing.assert_allclose(mode(keras.apply)(weights, x), forward(weights, x, activation), rtol=1e-5, atol=1e-6)
    _, expected = value_and_slope(own)(params)
    _, found = mode(value_and_slope(keras))(weights)
    for a, b in zip(found, kernels_and_biases(expected), strict=True):
        assert np.abs(b).max() > 1e-1
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_keras_mlp_maps_the_last_axis_of_any_batch(mode, rng):
    net = nets.keras_mlp(SIZES)
    weights, x = random_like(net.init(SEED), rng, tf.float32), tf.constant(rng.normal(size=[4, 5, 3]), tf.float32)
    found = mode(net.apply)(weights, x)
    assert found.shape == [4, 5, 2]
    np.testing.assert_allclose(found, forward(weights, x, "tanh"), rtol=1e-5, atol=1e-6)


def test_keras_mlp_starts_with_orthogonal_kernels_and_zero_biases():
    weights = nets.keras_mlp(SIZES, last_gain=0.01).init(SEED)
    for kernel, square in zip(weights[::2], [2, 2, 1e-4], strict=True):
        np.testing.assert_allclose(gram(kernel), square * np.eye(min(kernel.shape)), atol=1e-6 * square)
    for bias in weights[1::2]:
        np.testing.assert_array_equal(bias, 0 * bias)


def test_keras_net_keeps_what_is_not_trained_and_drops_what_a_call_changes(mode, rng):
    import keras

    def build(seed):
        normalise = keras.layers.BatchNormalization(epsilon=0.25, dtype="float64")
        start = keras.initializers.RandomNormal(seed=seed)
        dense = keras.layers.Dense(2, kernel_initializer=start, bias_initializer="ones", dtype="float64")
        return keras.Sequential([keras.Input([3]), normalise, keras.layers.Dropout(0.5, seed=seed), dense])

    net = nets.keras_net(build)
    gamma, beta, kernel, bias = weights = random_like(net.init(SEED), rng)
    x = rng.normal(size=[5, 3]) + 2
    expected = (x / np.sqrt(1.25) * gamma + beta) @ kernel + bias  # moving mean 0 and variance 1, as built
    apply = mode(net.apply)
    for _ in range(2):
        np.testing.assert_allclose(apply(weights, tf.constant(x)), expected, rtol=1e-6)


def test_keras_kernels_of_equal_shape_are_all_different_and_so_are_those_of_many_seeds():
    """One hidden layer and two: no layer is given the number of another."""
    for sizes in ([4, 4, 4], [4, 4, 4, 4]):
        kernels = [kernel / tf.norm(kernel[:, 0]) for kernel in nets.keras_mlp(sizes).init(tf.constant([3, 1]))[::2]]
        assert all(np.abs(a - b).max() > 0.1 for a, b in itertools.combinations(kernels, 2))
    draws = {nets.keras_mlp([2, 2]).init(tf.constant([seed, 0]))[0].numpy().tobytes() for seed in range(60)}
    assert len(draws) == 60


def test_keras_mlp_has_a_last_gain_of_one_unless_told():
    np.testing.assert_allclose(np.linalg.norm(nets.keras_mlp([5, 3]).init(tf.constant([1, 2]))[0], axis=0), 1, rtol=1e-5)
