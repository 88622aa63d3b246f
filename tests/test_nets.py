"""Networks against a forward pass in NumPy, and the law of their initial weights."""

import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from tfpg import build, gradients, nets, policies
from tfpg.config import configured
from tfpg.errors import UsageError
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


# The same by features


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("activation", sorted(nets.ACTIVATIONS))
def test_by_features_a_network_is_the_same_function_with_the_same_slopes(mode, rng, activation, outputs):
    """Values by hand; slopes along weights and inputs by finite differences."""
    net = nets.mlp([3, 5, 4, outputs], activation, dtype=tf.float64)
    params, x, c, h = random_like(net.init(SEED), rng), rng.normal(size=[6, 3]), rng.normal(size=[6, outputs]), 1e-6

    def both(params, x):
        with tf.GradientTape() as tape:
            tape.watch((params, x))
            y = net.by_features(params, x)
            total = tf.reduce_sum(c * y)
        return y, tape.gradient(total, (params, x))

    y, slopes = mode(both)(params, tf.constant(x))
    np.testing.assert_allclose(y, forward(kernels_and_biases(params), x, activation), rtol=1e-11, atol=1e-14)
    arrays, found = [np.array(leaf) for leaf in tf.nest.flatten((params, x))], tf.nest.flatten(slopes)
    for leaf, slope in zip(arrays, found, strict=True):
        for at in np.ndindex(leaf.shape):
            sides = []
            for step in (h, -h):
                leaf[at] += step
                w, moved = tf.nest.pack_sequence_as((params, x), arrays)
                sides.append((c * forward(kernels_and_biases(w), moved, activation)).sum())
                leaf[at] -= step
            np.testing.assert_allclose(slope.numpy()[at], (sides[0] - sides[1]) / (2 * h), rtol=1e-6, atol=1e-8)


def test_who_asks_for_gradients_has_many_samples_by_features(rng, monkeypatch):
    """Many, in one row each; where hidden layers multiply more than the first one; and never a network that nobody knows the inside of."""
    monkeypatch.setattr(nets, "MANY", 6)
    calls, net = [], nets.mlp(SIZES, dtype=tf.float64)
    watched = nets.for_gradients(net._replace(by_features=lambda *given: calls.append(0) or net.by_features(*given)))
    params, x = random_like(net.init(SEED), rng), tf.constant(rng.normal(size=[6, 3]))
    for rows, by in ((x, 1), (x[:5], 0), (tf.reshape(x, [2, 3, 3]), 0)):
        calls.clear()
        np.testing.assert_allclose(watched.apply(params, rows), net.apply(params, rows), rtol=1e-12)
        assert len(calls) == by
    signature = [tf.nest.map_structure(tf.TensorSpec.from_tensor, params), tf.TensorSpec([None, 3], x.dtype)]
    np.testing.assert_allclose(tf.function(watched.apply, input_signature=signature)(params, x), net.apply(params, x), rtol=1e-12)
    assert not calls
    others = [
        nets.mlp([3, 5, 1]),
        nets.mlp([5, 5, 5, 1]),
        nets.mlp([3, 5, 512, 1]),
        nets.mlp(SIZES, first=lambda x, w: x @ w),
        nets.keras_mlp(SIZES),
    ]
    assert all(nets.for_gradients(other) is other for other in others)


def test_compiled_a_critic_multiplies_from_the_left_by_nothing_transposed(rng):
    """Such a product has its sides copied first. Vectors, which are not, may lie as they do."""
    net, value = nets.mlp([4, 64, 64, 1]), build.setup(configured(algo="npg")).learner.value
    params, x = random_like(net.init(SEED), rng, tf.float32), tf.constant(rng.normal(size=[2048, 4]), tf.float32)

    def lying(apply):
        slope = tf.function(lambda w, x: gradients.gradient(lambda w: tf.reduce_sum(apply(w, x) ** 2), w)[1], jit_compile=True)
        program = slope.experimental_get_compiler_ir(params, x)(stage="optimized_hlo")
        products = re.findall(r"f32\[\d+,\d+\]\S* dot\(.*lhs_contracting_dims=\{(\d)\}", program)
        assert len(products) >= 5
        return products.count("0")

    assert lying(net.apply) > 0
    assert lying(lambda w, x: value.apply(w, x, None)) == 0


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


# Convolutions


def convolution(image, kernel, bias, stride, padding):
    """Of one image [H, W, C], one place at a time. With padding as many zeros as every place needs, the odd one behind."""
    size = kernel.shape[0]
    if padding == "same":
        missing = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in image.shape[:2]]
        image = np.pad(image, [*((total // 2, total - total // 2) for total in missing), (0, 0)])
    rows, columns = ((n - size) // stride + 1 for n in image.shape[:2])
    out = np.zeros([rows, columns, kernel.shape[3]])
    for i, j in np.ndindex(rows, columns):
        patch = image[i * stride : i * stride + size, j * stride : j * stride + size]
        out[i, j] = np.tensordot(patch, kernel, 3) + bias
    return out


SMALL_LAYERS, LARGE_LAYERS = [(3, 1, "same"), (3, 2, "same"), (3, 2, "same")], [(8, 4, "valid"), (4, 2, "valid"), (3, 1, "valid")]
IMAGES = {
    (8, 8, 2): ([16, 32, 32], SMALL_LAYERS, 2 * 2 * 32),
    (9, 12): ([16, 32, 32], SMALL_LAYERS, 3 * 3 * 32),
    (35, 40, 1): ([16, 32, 32], SMALL_LAYERS, 9 * 10 * 32),
    (36, 44, 3): ([32, 64, 64], LARGE_LAYERS, 2 * 64),
    (84, 84, 4): ([32, 64, 64], LARGE_LAYERS, 7 * 7 * 64),
}
every_image = pytest.mark.parametrize("shape", [shape for shape in IMAGES if len(shape) == 2 or shape[2] < 4])


def pixels(shape):
    return int(np.prod(shape))


def seen(weights, x, shape):
    """The convolutional network in float64, one image at a time; shape: [H, W] or [H, W, C]."""
    arrays = [np.asarray(leaf, np.float64) for leaf in weights]
    outputs = []
    for sample in np.float64(x).reshape(-1, pixels(shape)):
        h = sample.reshape(shape if len(shape) == 3 else (*shape, 1))
        for i, (_, stride, padding) in enumerate(IMAGES[shape][1]):
            h = np.maximum(convolution(h, arrays[2 * i], arrays[2 * i + 1], stride, padding), 0)
        h = np.maximum(h.ravel() @ arrays[6] + arrays[7], 0)
        outputs.append(h @ arrays[8] + arrays[9])
    return np.array(outputs)


def some_weights(net, rng):
    """Weights as they start, and biases that are not zero."""
    return tuple(
        leaf + tf.constant(rng.normal(scale=0.1, size=leaf.shape), tf.float32) if leaf.shape.rank == 1 else leaf for leaf in net.init(SEED)
    )


@every_image
def test_keras_cnn_is_the_forward_pass_by_hand(mode, rng, shape):
    net = nets.keras_cnn(shape, 3)
    weights, x = some_weights(net, rng), rng.normal(size=[2, pixels(shape)])
    found = mode(net.apply)(weights, tf.constant(x, tf.float32))
    np.testing.assert_allclose(found, seen(weights, x, shape), rtol=1e-4, atol=1e-5)


@every_image
def test_keras_cnn_has_the_slope_of_the_forward_pass_by_hand(mode, rng, shape):
    net = nets.keras_cnn(shape, 3)
    weights, x, direction = some_weights(net, rng), rng.normal(size=[2, pixels(shape)]), rng.normal(size=[2, 3])
    inputs, turned = tf.constant(x, tf.float32), tf.constant(direction, tf.float32)
    _, slope = mode(lambda weights: gradients.gradient(lambda w: tf.reduce_sum(net.apply(w, inputs) * turned), weights))(weights)
    wide = [np.asarray(leaf, np.float64) for leaf in weights]
    for i, leaf in enumerate(wide):
        v, h = rng.normal(size=leaf.shape), 1e-9  # so small that hardly a unit crosses its kink
        up, down = (np.sum(seen([*wide[:i], leaf + sign * h * v, *wide[i + 1 :]], x, shape) * direction) for sign in (1, -1))
        assert abs(up - down) / (2 * h) > 1e-3
        np.testing.assert_allclose(np.sum(np.float64(slope[i]) * v), (up - down) / (2 * h), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8, 2), (9, 12), (36, 44, 3)])
def test_the_fisher_product_passes_through_convolutions(mode, rng, shape):
    """F v = sum_m w_m J_m^T (diag(pi_m) - pi_m pi_m^T) J_m v, from the whole Jacobian."""
    net = nets.keras_cnn(shape, 3)
    policy, weights = policies.categorical(net, 3), some_weights(net, rng)
    x, weight = tf.constant(rng.normal(size=[4, pixels(shape)]), tf.float32), tf.constant([0.1, 0.4, 0.2, 0.3])
    v = tuple(tf.constant(rng.normal(scale=1 / np.sqrt(leaf.shape[-1]), size=leaf.shape), tf.float32) for leaf in weights)
    found = mode(lambda *given: gradients.fisher_vector_product(policy, *given))(weights, x, weight, v)
    with tf.GradientTape() as tape:
        tape.watch(weights)
        logits = net.apply(weights, x)
    jacobians = [np.float64(j).reshape(4, 3, -1) for j in tape.jacobian(logits, weights)]
    pi = np.float64(tf.nn.softmax(logits))
    along = sum(j @ np.ravel(np.float64(u)) for j, u in zip(jacobians, v, strict=True))
    head = weight.numpy()[:, None] * (pi * along - pi * (pi * along).sum(1, keepdims=True))
    for j, leaf in zip(jacobians, found, strict=True):
        expected = np.einsum("mkp,mk->p", j, head)
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(np.ravel(leaf), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("shape", IMAGES)
def test_keras_cnn_chooses_its_layers_by_the_size_of_the_image(shape):
    filters, layers, flat = IMAGES[shape]
    kernels = nets.keras_cnn(shape, 5).init(SEED)[::2]
    channels = [shape[2] if len(shape) == 3 else 1, *filters]
    expected = [(size, size, channels[i], channels[i + 1]) for i, (size, *_) in enumerate(layers)]
    assert [tuple(kernel.shape) for kernel in kernels] == [*expected, (flat, 256), (256, 5)]


def test_keras_cnn_starts_with_orthogonal_kernels_and_zero_biases():
    net = nets.keras_cnn((8, 8, 2), 3, last_gain=0.01)
    weights = net.init(SEED)
    for kernel, square in zip(weights[::2], [2, 2, 2, 2, 1e-4], strict=True):
        flat = np.reshape(kernel, [-1, kernel.shape[-1]])
        np.testing.assert_allclose(gram(flat), square * np.eye(min(flat.shape)), atol=2e-6 * square)
    for bias in weights[1::2]:
        np.testing.assert_array_equal(bias, 0 * bias)
    for a, b, c in zip(weights, net.init(SEED), nets.keras_cnn((8, 8, 2), 3, 0.01).init(SEED), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    np.testing.assert_allclose(gram(nets.keras_cnn((8, 8), 3).init(SEED)[8]), np.eye(3), atol=1e-5)


def drawn(kernel):
    """Every 128th number that a kernel was made of, up to a factor: QR leaves the direction of the first column of noise."""
    flat = np.reshape(kernel, [-1, kernel.shape[-1]])
    tall = flat if flat.shape[0] >= flat.shape[1] else flat.T
    return tall[:: 128 // tall.shape[1], 0]


def test_keras_cnn_gives_each_kernel_numbers_of_its_own():
    """Kernels of several shapes that are given one number begin with the same noise."""
    net = nets.keras_cnn((8, 8, 14), 4)
    kernels = [drawn(kernel) for seed in ([6, 2], [6, 3]) for kernel in net.init(tf.constant(seed))[::2]]
    for a, b in itertools.combinations(kernels, 2):
        n = min(len(a), len(b))
        assert n >= 8
        assert abs(a[:n] @ b[:n]) < 0.99 * np.linalg.norm(a[:n]) * np.linalg.norm(b[:n])


def test_keras_cnn_maps_the_last_axis_of_any_batch(mode, rng):
    net = nets.keras_cnn((8, 9), 3)
    weights, x = net.init(SEED), tf.constant(rng.normal(size=[2, 3, 72]), tf.float32)
    found = mode(net.apply)(weights, x)
    assert found.shape == [2, 3, 3]
    np.testing.assert_allclose(found[1], net.apply(weights, x[1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(8,), (8, 8, 2, 2)])
def test_keras_cnn_refuses_what_is_no_image(shape):
    with pytest.raises(UsageError, match=r"An image has axes .* has (1|4)\."):
        nets.keras_cnn(shape, 3)
