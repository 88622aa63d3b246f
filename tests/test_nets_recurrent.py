"""The recurrent network against its equations one number at a time, against Keras, and against differences; what a reset cuts."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import gradients, nets
from tfpg.errors import UsageError

SIZES = [3, 6, 4, 5, 2]  # two layers below a memory of 5
T, N, H = 6, 4, 5
SEED = tf.constant([6, 2])
# An episode begins at once, in the middle, twice in a row, at the end, and never.
FIRST = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0]], bool)


def random_like(nest, rng, dtype=tf.float64):
    return tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(scale=0.8, size=leaf.shape), dtype), nest)


@pytest.fixture
def net():
    return nets.gru(SIZES, dtype=tf.float64)


@pytest.fixture
def given(net, rng):
    """Parameters, and (x_t, first_t, memory)."""
    inputs = tf.constant(rng.normal(size=[T, N, 3])), tf.constant(FIRST), tf.constant(rng.normal(size=[1, N, H]))
    return random_like(net.init(SEED), rng), inputs


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell_by_hand(cell, x, h):
    """Cho et al. 2014, (5) to (8), one number at a time; gates z, r and candidate lie side by side in the kernels."""
    width = len(h)
    w, u, b = (np.asarray(cell[key]) for key in ("kernel", "recurrent", "bias"))

    def into(column, memory):
        given, kept = (sum(v[k] * m[k, column] for k in range(len(v))) for v, m in ((x, w), (memory, u)))
        return given + b[column] + kept

    z, r = (np.array([sigmoid(into(gate * width + j, h)) for j in range(width)]) for gate in (0, 1))
    candidate = np.array([np.tanh(into(2 * width + j, r * h)) for j in range(width)])
    return np.array([z[j] * h[j] + (1 - z[j]) * candidate[j] for j in range(width)])


def by_hand(params, x, h, squash=np.tanh):
    """One step of one sample: outputs and memory."""
    for layer in params["hidden"]:
        x = squash(x @ layer["kernel"].numpy() + layer["bias"].numpy())
    h = cell_by_hand(params["cell"], x, h)
    return h @ params["last"]["kernel"].numpy() + params["last"]["bias"].numpy(), h


@pytest.mark.parametrize(("activation", "squash"), [("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))])
def test_a_step_is_the_published_cell_between_layers(mode, given, rng, activation, squash):
    net, params, x, h = nets.gru(SIZES, activation, dtype=tf.float64), given[0], rng.normal(size=[N, 3]), rng.normal(size=[N, H])
    y, after = mode(net.step)(params, tf.constant(x), tf.constant(h))
    expected = [by_hand(params, x[i], h[i], squash) for i in range(N)]
    np.testing.assert_allclose(y, [pair[0] for pair in expected], rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(after, [pair[1] for pair in expected], rtol=1e-11, atol=1e-13)


def test_all_steps_are_a_loop_of_single_ones_that_forgets_where_an_episode_begins(mode, net, given):
    params, (x_t, first_t, memory) = given
    found = mode(net.apply)(params, (x_t, first_t, memory))
    h, expected = memory[0].numpy(), []
    for t in range(T):
        h = np.where(FIRST[t][:, None], 0, h)
        y, h = (x.numpy() for x in net.step(params, x_t[t], tf.constant(h)))
        expected.append(y)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("width", [1, 5])
def test_the_memory_is_that_of_keras_gru_with_the_reset_before_the_product(mode, rng, width):
    import keras

    net = nets.gru([3, width, 2], dtype=tf.float64)
    params, x_t, h = random_like(net.init(SEED), rng), rng.normal(size=[T, N, 3]), rng.normal(size=[N, width])
    layer = keras.layers.GRU(width, return_sequences=True, reset_after=False, dtype="float64")
    layer.build([N, T, 3])
    layer.set_weights([params["cell"][key].numpy() for key in ("kernel", "recurrent", "bias")])
    h_t = np.swapaxes(layer(tf.constant(np.swapaxes(x_t, 0, 1)), initial_state=tf.constant(h)), 0, 1)
    found = mode(net.apply)(params, (tf.constant(x_t), tf.zeros([T, N], tf.bool), tf.constant(h[None])))
    np.testing.assert_allclose(found, h_t @ params["last"]["kernel"].numpy() + params["last"]["bias"].numpy(), rtol=1e-6, atol=1e-7)


def weighted(net, params, inputs, weight):
    return tf.reduce_sum(net.apply(params, inputs) * weight)


def test_the_gradient_is_that_of_finite_differences(mode, net, given, rng):
    params, inputs = given
    weight = tf.constant(rng.normal(size=[T, N, 2]))
    _, found = mode(lambda params, *inputs: gradients.gradient(lambda params: weighted(net, params, inputs, weight), params))(
        params, *inputs
    )
    leaves, compiled = tf.nest.flatten(params), tf.function(lambda params: weighted(net, params, inputs, weight), autograph=False)
    for i, slope in enumerate(tf.nest.flatten(found)):
        moved = lambda x, i=i: compiled(tf.nest.pack_sequence_as(params, [*leaves[:i], tf.constant(x), *leaves[i + 1 :]]))  # noqa: E731
        expected = finite_difference(moved, leaves[i])
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(slope, expected, rtol=1e-7, atol=1e-8)


def test_inputs_get_the_gradient_of_finite_differences_and_the_memory_gets_none(mode, net, given, rng):
    params, (x_t, first_t, memory) = given
    weight = tf.constant(rng.normal(size=[T, N, 2]))

    def slopes(x_t, first_t, memory):
        with tf.GradientTape() as tape:
            tape.watch((x_t, memory))
            y = weighted(net, params, (x_t, first_t, memory), weight)
        return tape.gradient(y, (x_t, memory), unconnected_gradients="zero")

    of_inputs, of_memory = mode(slopes)(x_t, first_t, memory)
    compiled = tf.function(lambda x: weighted(net, params, (x, first_t, memory), weight), autograph=False)
    np.testing.assert_allclose(of_inputs, finite_difference(lambda x: compiled(tf.constant(x)), x_t), rtol=1e-7, atol=1e-8)
    np.testing.assert_array_equal(of_memory, np.zeros([1, N, H]))
    alone = weighted(net, params, (x_t, first_t, memory + 0.3), weight)
    assert abs(alone - weighted(net, params, (x_t, first_t, memory), weight)) > 1e-2  # it is used, all the same


def test_nothing_reaches_over_the_beginning_of_an_episode(mode, net, given):
    """d y_{t,i} / d x_{u,j}: not zero for u <= t of one episode, zero over its beginning and between columns. And so for values."""
    params, (x_t, first_t, memory) = given
    slope = np.zeros([T, N, T, N])

    def of_one(x_t, chosen):
        with tf.GradientTape() as tape:
            tape.watch(x_t)
            y = weighted(net, params, (x_t, first_t, memory), chosen)
        return tape.gradient(y, x_t)

    run = mode(of_one)
    for t, i in np.ndindex(T, N):
        slope[t, i] = np.abs(run(x_t, tf.constant(np.eye(T * N)[t * N + i].reshape(T, N, 1) * np.ones(2)))).max(-1)
    episode = np.cumsum(FIRST, axis=0)
    for t, i, u, j in np.ndindex(slope.shape):
        linked = i == j and u <= t and episode[t, i] == episode[u, i]
        assert (slope[t, i, u, j] > 1e-8) if linked else slope[t, i, u, j] == 0, (t, i, u, j)


@pytest.mark.parametrize("garbage", [7.3, np.nan, np.inf])
def test_whatever_was_before_the_beginning_neither_value_nor_gradient_know_it(mode, net, given, garbage):
    params, (x_t, first_t, memory) = given
    last = np.zeros([T, N, 1])
    last[2:, 1] = 1  # column 1 begins anew at step 2

    def value_and_slope(params, memory):
        y, slope = gradients.gradient(lambda params: weighted(net, params, (x_t, first_t, memory), last), params)
        return y, slope, net.apply(params, (x_t, first_t, memory))

    dirty = memory.numpy()
    dirty[:, 1] = garbage
    run = mode(value_and_slope)
    if np.isfinite(garbage):
        tf.nest.map_structure(np.testing.assert_array_equal, run(params, tf.constant(dirty))[:2], run(params, memory)[:2])
    for x, y in zip(run(params, tf.constant(dirty))[2].numpy()[2:, 1], run(params, memory)[2].numpy()[2:, 1], strict=True):
        np.testing.assert_array_equal(x, y)


def test_single_precision_agrees_with_double(mode, net, given, rng):
    single = nets.gru(SIZES)
    params, inputs = given
    narrow = tf.nest.map_structure(lambda x: tf.cast(x, tf.float32) if x.dtype.is_floating else x, (params, inputs))
    found = mode(single.apply)(*narrow)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, net.apply(params, inputs), rtol=1e-4, atol=1e-5)


def test_it_starts_with_orthogonal_kernels_gate_by_gate_and_zero_biases():
    params = nets.gru([4, 6, 5, 3], last_gain=0.01).init(SEED)
    (hidden,), cell, last = params["hidden"], params["cell"], params["last"]
    kernels = [(hidden["kernel"], 2.0), (last["kernel"], 1e-4)]
    kernels += [(block, 2.0) for block in np.split(cell["kernel"], 3, axis=1)] + [
        (block, 1.0) for block in np.split(cell["recurrent"], 3, axis=1)
    ]
    shapes = [np.shape(kernel) for kernel, _ in kernels]
    assert shapes == [(4, 6), (5, 3), *[(6, 5)] * 3, *[(5, 5)] * 3]
    for kernel, square in kernels:
        tall = np.float64(kernel) if kernel.shape[0] >= kernel.shape[1] else np.float64(kernel).T
        np.testing.assert_allclose(tall.T @ tall, square * np.eye(tall.shape[1]), atol=2e-6 * square)
    for bias in (hidden["bias"], cell["bias"], last["bias"]):
        np.testing.assert_array_equal(bias, 0 * bias)
    assert {leaf.dtype for leaf in tf.nest.flatten(params)} == {tf.float32}
    assert np.shape(cell["bias"]) == (15,)


def test_each_kernel_has_its_own_numbers_which_depend_on_the_seed_alone():
    """All kernels are square, so that two which were given one number would be multiples of one another."""
    net = nets.gru([4, 4, 4, 4, 4])
    draws = {}
    for name, seed in (("a", [1, 2]), ("b", [1, 3]), ("again", [1, 2])):
        params = net.init(tf.constant(seed))
        blocks = [layer["kernel"] for layer in (*params["hidden"], params["last"])]
        blocks += [block for key in ("kernel", "recurrent") for block in np.split(params["cell"][key], 3, axis=1)]
        draws[name] = [np.array(block) / np.linalg.norm(block[:, 0]) for block in blocks]
    assert len(draws["a"]) == 9
    np.testing.assert_array_equal(draws["a"], draws["again"])
    assert all(np.abs(x - y).max() > 0.1 for x, y in itertools.combinations(draws["a"] + draws["b"], 2))


def test_the_record_says_what_is_recurrent():
    plain, recurrent = nets.mlp([3, 2]), nets.gru([3, 7, 2])
    assert (plain.step, plain.memory, recurrent.memory) == (None, 0, 7)
    y, h = recurrent.step(recurrent.init(SEED), tf.zeros([1, 3]), tf.zeros([1, 7]))
    assert (y.shape, h.shape) == ([1, 2], [1, 7])


def test_a_network_without_a_width_for_its_memory_is_refused():
    with pytest.raises(UsageError, match=r"hidden width at least.*sizes \[3, 2\] have none"):
        nets.gru([3, 2])


@pytest.mark.parametrize("wrong", [((T, N, 1), (T, N), (1, 1, H)), ((T, N, 3), (T, 1), (1, N, H)), ((T, N, 3), (T, N), (T, N, H))])
@pytest.mark.parametrize("compiled", [False, True])
def test_nothing_is_broadcast(net, given, wrong, compiled):
    x_t, first_t, memory = (tf.zeros(shape, dtype) for shape, dtype in zip(wrong, (tf.float64, tf.bool, tf.float64), strict=True))
    apply = tf.function(net.apply, autograph=False) if compiled else net.apply
    with pytest.raises(ValueError, match="has shape"):
        apply(given[0], (x_t, first_t, memory))
    with pytest.raises(ValueError, match="memory has shape"):
        net.step(given[0], tf.zeros([N, 3], tf.float64), tf.zeros([1, H], tf.float64))
