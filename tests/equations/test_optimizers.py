"""Optimisers against Keras, against their sums written out, and against their limits; ours ascend."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import optimizers
from tfpg.tabular import TabularMDP

equation = pytest.mark.equation


def random_gradients(rng, steps):
    """`steps` nests of the same structure, kept away from zero."""

    def leaf(scale, shape):
        return tf.constant(scale * rng.choice([-1, 1], shape) * rng.uniform(0.3, 1.5, shape))

    return [{"a": leaf(3.0, [2, 3]), "b": (leaf(0.02, [4]), leaf(40.0, []))} for _ in range(steps)]


def run(mode, optimizer, gradients):
    """The increments of successive updates."""
    state, increments = optimizer.init(gradients[0]), []
    update = mode(optimizer.update)
    for gradient in gradients:
        increment, state = update(gradient, state)
        increments.append(increment)
    return increments, state


def keras_path(optimizer, start, gradients):
    """Parameters after each step of a Keras optimiser, which descends: it is given the negative gradients."""
    import keras

    variables = [keras.Variable(leaf, dtype="float64") for leaf in tf.nest.flatten(start)]
    optimizer.build(variables)
    for gradient in gradients:
        optimizer.apply([-leaf for leaf in tf.nest.flatten(gradient)], variables)
        yield [variable.numpy() for variable in variables]


def assert_same_path(mode, ours, theirs, gradients):
    start = tf.nest.map_structure(lambda leaf: 0.5 * leaf + 1, gradients[0])
    theta = [leaf.numpy() for leaf in tf.nest.flatten(start)]
    increments, _ = run(mode, ours, gradients)
    for increment, expected in zip(increments, keras_path(theirs, start, gradients), strict=True):
        theta = [x + dx.numpy() for x, dx in zip(theta, tf.nest.flatten(increment), strict=True)]
        for x, y in zip(theta, expected, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)


def assert_nests_close(found, expected, **tolerance):
    tf.nest.assert_same_structure(found, expected)
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **tolerance)


EVERY = [
    optimizers.sgd(0.05),
    optimizers.adam(0.05),
    optimizers.rmsprop(0.02),
    optimizers.rmsprop(0.02, inside=True),
    optimizers.clipped(optimizers.sgd(0.05), 0.7),
]


@equation("PG-26", "PG-122")
def test_sgd_goes_along_the_gradient(mode, rng):
    gradients = random_gradients(rng, 2)
    increments, _ = run(mode, optimizers.sgd(0.03), gradients)
    for increment, gradient in zip(increments, gradients, strict=True):
        assert_nests_close(increment, tf.nest.map_structure(lambda g: 0.03 * g.numpy(), gradient), rtol=1e-14)


# Rates, decays and epsilons are whole multiples of powers of 2, so that Keras, which keeps some of them in single precision, is exact.


@equation("PG-122")
def test_sgd_walks_the_path_of_keras(mode, rng):
    import keras

    assert_same_path(mode, optimizers.sgd(3 / 64), keras.optimizers.SGD(3 / 64), random_gradients(rng, 5))


@equation("PG-122")
@pytest.mark.parametrize("epsilon", [2.0**-20, 0.5])
def test_adam_walks_the_path_of_keras(mode, rng, epsilon):
    import keras

    ours = optimizers.adam(3 / 64, 0.875, 0.96875, epsilon)
    theirs = keras.optimizers.Adam(3 / 64, beta_1=0.875, beta_2=0.96875, epsilon=epsilon)
    assert_same_path(mode, ours, theirs, random_gradients(rng, 5))


@equation("PG-122")
def test_adam_has_the_defaults_of_keras(rng):
    import inspect

    import keras

    theirs = inspect.signature(keras.optimizers.Adam).parameters
    ours = inspect.signature(optimizers.adam).parameters
    for name in ("beta_1", "beta_2", "epsilon"):
        assert ours[name].default == theirs[name].default


@equation("PG-122")
def test_adam_is_its_weighted_sums_over_all_gradients(mode, rng):
    """PG-122 without recursion: m_t = (1-b1) sum_k b1^(t-k) g_k, v_t likewise of g_k^2, both bias-corrected, epsilon-hat outside."""
    alpha, b1, b2, epsilon = 0.07, 0.9, 0.97, 0.1
    gradients = random_gradients(rng, 3)
    increments, state = run(mode, optimizers.adam(alpha, b1, b2, epsilon), gradients)
    histories = [np.stack(leaf) for leaf in zip(*map(tf.nest.flatten, gradients), strict=True)]
    for t, increment in enumerate(increments, start=1):
        for g, found in zip(histories, tf.nest.flatten(increment), strict=True):
            m = (1 - b1) * sum(b1 ** (t - k) * g[k - 1] for k in range(1, t + 1))
            v = (1 - b2) * sum(b2 ** (t - k) * g[k - 1] ** 2 for k in range(1, t + 1))
            np.testing.assert_allclose(found, alpha * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + epsilon), rtol=1e-11)
    assert int(state.step) == 3
    tf.nest.assert_same_structure(state.mean, gradients[0])
    tf.nest.assert_same_structure(state.square, gradients[0])


@equation("PG-122")
def test_adam_first_step_is_the_rate_times_the_sign(mode, rng):
    gradients = random_gradients(rng, 1)
    (increment,), _ = run(mode, optimizers.adam(0.02, epsilon=1e-30), gradients)
    assert_nests_close(increment, tf.nest.map_structure(lambda g: 0.02 * np.sign(g), gradients[0]), rtol=1e-11)


@equation("PG-122")
def test_adam_does_not_see_the_scale_of_the_gradients(mode, rng):
    gradients = random_gradients(rng, 3)
    scaled = [tf.nest.map_structure(lambda g: 1234.5 * g, gradient) for gradient in gradients]
    optimizer = optimizers.adam(0.02, epsilon=1e-30)
    for a, b in zip(run(mode, optimizer, gradients)[0], run(mode, optimizer, scaled)[0], strict=True):
        assert_nests_close(a, b, rtol=1e-11)


@equation("PG-26", "PG-122", "PG-134", "PG-135")
@pytest.mark.parametrize("optimizer", EVERY)
def test_updates_ascend(mode, optimizer):
    top = np.array([0.5, -1.0])
    theta = tf.zeros([2], tf.float64)
    state, update = optimizer.init(theta), mode(optimizer.update)
    for _ in range(100):
        increment, state = update(top - theta, state)
        theta += increment
    np.testing.assert_allclose(theta, top, atol=0.05)


@equation("PG-26", "PG-122", "PG-134", "PG-135")
@pytest.mark.parametrize("optimizer", EVERY)
def test_single_precision_agrees_with_double(mode, rng, optimizer):
    gradients = random_gradients(rng, 3)
    single = [tf.nest.map_structure(lambda g: tf.cast(g, tf.float32), gradient) for gradient in gradients]
    increments, state = run(mode, optimizer, single)
    assert {leaf.dtype for leaf in tf.nest.flatten(increments)} == {tf.float32}
    assert {leaf.dtype for leaf in tf.nest.flatten(state)} <= {tf.float32, tf.int32}
    for a, b in zip(increments, run(mode, optimizer, gradients)[0], strict=True):
        assert_nests_close(a, b, rtol=3e-5)


@equation("PG-26", "PG-122", "PG-134", "PG-135")
@pytest.mark.parametrize("optimizer", EVERY)
def test_state_keeps_its_structure_as_a_loop_variable(rng, optimizer):
    gradient = random_gradients(rng, 1)[0]
    expected = run(lambda f: f, optimizer, [gradient] * 3)[0][-1]

    @tf.function(autograph=False, jit_compile=True)
    def loop():
        start = (tf.constant(0), tf.nest.map_structure(tf.zeros_like, gradient), optimizer.init(gradient))
        return tf.while_loop(lambda k, *_: k < 3, lambda k, _, state: (k + 1, *optimizer.update(gradient, state)), start)[1]

    assert_nests_close(loop(), expected, rtol=1e-11)


def ascent(mode, optimizer, gradient, start, steps):
    """theta after each step of theta <- theta + increment(gradient(theta)), and before the first."""
    theta, state, path = tf.constant(start), optimizer.init(start), [start]
    update = mode(optimizer.update)
    for _ in range(steps):
        increment, state = update(gradient(theta), state)
        theta += increment
        path.append(theta.numpy())
    return np.array(path)


@equation("PG-26")
def test_gradient_ascent_halves_its_distance_as_theory_says(mode):
    """J = -1/2 (theta - top)^T H (theta - top): theta_k - top = (I - alpha H)^k (theta_0 - top), J rising for alpha below 2 / 3."""
    hessian, top, start = np.array([[2.0, 0.7], [0.7, 1.5]]), np.array([0.4, -1.1]), np.array([2.0, 1.0])
    path = ascent(mode, optimizers.sgd(0.3), lambda theta: tf.linalg.matvec(hessian, top - theta), start, 6)
    expected = [top + np.linalg.matrix_power(np.eye(2) - 0.3 * hessian, k) @ (start - top) for k in range(7)]
    np.testing.assert_allclose(path, expected, rtol=1e-12)
    height = [-0.5 * (theta - top) @ hessian @ (theta - top) for theta in path]
    assert (np.diff(height) > 0).all()


@equation("PG-26")
def test_a_small_step_raises_the_objective_by_the_squared_norm_of_its_gradient(rng):
    """J(theta + alpha g) = J(theta) + alpha |g|^2 + O(alpha^2), and the other sign descends."""
    mdp = TabularMDP.random(3, gamma=0.9)
    theta = tf.constant(rng.normal(size=(3, 2)))
    g = mdp.gradient(theta)
    for alpha in (1e-4, -1e-4):
        increment, _ = optimizers.sgd(alpha).update(g, ())
        rise = float(mdp.objective(theta + increment) - mdp.objective(theta))
        assert rise == pytest.approx(alpha * float(tf.reduce_sum(g**2)), rel=1e-3)


@equation("PG-26")
def test_what_a_step_leaves_of_the_objective_is_of_second_order(rng):
    """|J(theta + alpha g) - J(theta) - alpha |g|^2| against alpha, on logarithmic scales, has slope 2."""
    mdp, alphas = TabularMDP.random(3, gamma=0.9), (0.08, 0.04, 0.02, 0.01)
    theta = tf.constant(rng.normal(size=(3, 2)))
    g, before = mdp.gradient(theta), mdp.objective(theta)
    steps = [optimizers.sgd(alpha).update(g, ())[0] for alpha in alphas]
    left = [float(mdp.objective(theta + step) - before - alpha * tf.reduce_sum(g**2)) for alpha, step in zip(alphas, steps, strict=True)]
    assert np.abs(left).min() > 1e-9
    assert np.polyfit(np.log(alphas), np.log(np.abs(left)), 1)[0] == pytest.approx(2, abs=0.1)


@equation("PG-122")
def test_three_steps_of_adam_by_hand(mode):
    """Gradients 2, -4, 8 at rates 1/2 and 3/4, without epsilon: m = 1, -3/2, 13/4 and v = 1, 19/4, 313/16."""
    gradients = [tf.constant(g, tf.float64) for g in (2.0, -4.0, 8.0)]
    increments, state = run(mode, optimizers.adam(1.0, 0.5, 0.75, 0.0), gradients)
    m, v = np.array([1, -3 / 2, 13 / 4]), np.array([1, 19 / 4, 313 / 16])
    corrected = (m / (1 - 0.5 ** np.arange(1, 4))) / np.sqrt(v / (1 - 0.75 ** np.arange(1, 4)))
    np.testing.assert_allclose(increments, corrected, rtol=1e-12)
    assert (float(state.mean), float(state.square)) == (13 / 4, 313 / 16)


@equation("PG-122")
def test_the_memory_of_adam_is_a_weighted_sum_of_the_past_at_any_rates():
    """v_t = (1 - b) sum_k b^{t-k} g_k^2, and m_t likewise, for rates on both sides of a half."""
    gradients = np.array([2.0, -4.0, 8.0, 1.0])
    for beta_1, beta_2 in ((0.8, 0.3), (0.2, 0.9)):
        _, state = run(lambda f: f, optimizers.adam(1.0, beta_1, beta_2), [tf.constant(g, tf.float64) for g in gradients])
        for found, past, beta in ((state.mean, gradients, beta_1), (state.square, gradients**2, beta_2)):
            np.testing.assert_allclose(found, (1 - beta) * sum(beta ** (3 - k) * past[k] for k in range(4)), rtol=1e-12)


# RMSProp: Keras's has epsilon inside the root.


@equation("PG-134")
@pytest.mark.parametrize("epsilon", [2.0**-20, 0.5])
def test_rmsprop_with_epsilon_inside_the_root_walks_the_path_of_keras(mode, rng, epsilon):
    import keras

    ours = optimizers.rmsprop(3 / 64, 0.875, epsilon, inside=True)
    assert_same_path(mode, ours, keras.optimizers.RMSprop(3 / 64, rho=0.875, epsilon=epsilon), random_gradients(rng, 5))


@equation("PG-134")
def test_rmsprop_has_the_defaults_of_keras():
    import inspect

    import keras

    theirs, ours = (inspect.signature(f).parameters for f in (keras.optimizers.RMSprop, optimizers.rmsprop))
    for name in ("rho", "epsilon"):
        assert ours[name].default == theirs[name].default
    assert ours["inside"].default is False


@equation("PG-134")
@pytest.mark.parametrize("rho", [0.3, 0.97])
@pytest.mark.parametrize("inside", [False, True])
def test_rmsprop_divides_by_the_root_of_a_weighted_sum_over_all_squares(mode, rng, rho, inside):
    """Without recursion: v_t = (1 - rho) sum_k rho^(t-k) g_k^2. An epsilon as large as v tells its two places apart."""
    gradients = random_gradients(rng, 4)
    increments, square = run(mode, optimizers.rmsprop(0.07, rho, 0.1, inside), gradients)
    histories = [np.stack(leaf) for leaf in zip(*map(tf.nest.flatten, gradients), strict=True)]
    for t, increment in enumerate(increments, start=1):
        for g, found in zip(histories, tf.nest.flatten(increment), strict=True):
            v = (1 - rho) * sum(rho ** (t - k) * g[k - 1] ** 2 for k in range(1, t + 1))
            np.testing.assert_allclose(found, 0.07 * g[t - 1] / ((v + 0.1) ** 0.5 if inside else v**0.5 + 0.1), rtol=1e-11)
    tf.nest.assert_same_structure(square, gradients[0])


@equation("PG-134")
def test_three_steps_of_rmsprop_by_hand(mode):
    """Gradients 2, -4, 8 at rate 3/4, without epsilon: v = 1, 19/4, 313/16."""
    gradients = [tf.constant(g, tf.float64) for g in (2.0, -4.0, 8.0)]
    increments, square = run(mode, optimizers.rmsprop(0.5, 0.75, 0.0), gradients)
    np.testing.assert_allclose(increments, [1, -2 / np.sqrt(19 / 4), 4 / np.sqrt(313 / 16)], rtol=1e-12)
    assert float(square) == 313 / 16


@equation("PG-134")
@pytest.mark.parametrize("inside", [False, True])
def test_rmsprop_stays_where_there_is_no_gradient(mode, inside):
    increments, _ = run(mode, optimizers.rmsprop(0.5, inside=inside), [{"a": tf.zeros([3])}] * 2)
    np.testing.assert_array_equal([increment["a"] for increment in increments], np.zeros([2, 3]))


# Clipping by the norm of everything.


def length(nest):
    return float(sum((leaf.numpy() ** 2).sum() for leaf in tf.nest.flatten(nest)) ** 0.5)


@equation("PG-135")
@pytest.mark.parametrize("share", [0.03, 0.6, 1.7, 40.0])
def test_clipping_shortens_what_is_longer_and_leaves_the_rest_as_it_is(mode, rng, share):
    """The bound is a share of the gradient's length: active below 1, and above it the very same numbers come out."""
    (gradient,) = gradients = random_gradients(rng, 1)
    bound = share * length(gradient)
    (found,), _ = run(mode, optimizers.clipped(optimizers.sgd(1.0), bound), gradients)
    assert length(found) == pytest.approx(min(1, share) * length(gradient), rel=1e-12)
    if share < 1:
        assert_nests_close(found, tf.nest.map_structure(lambda g: share * g.numpy(), gradient), rtol=1e-12)
    else:
        tf.nest.map_structure(np.testing.assert_array_equal, found, gradient)


@equation("PG-135")
def test_clipping_is_what_keras_calls_by_the_global_norm(mode, rng):
    import keras

    gradients = random_gradients(rng, 4)
    bound = float(np.median([length(gradient) for gradient in gradients]))
    ours = optimizers.clipped(optimizers.adam(3 / 64, 0.875, 0.96875, 2.0**-20), bound)
    theirs = keras.optimizers.Adam(3 / 64, beta_1=0.875, beta_2=0.96875, epsilon=2.0**-20, global_clipnorm=bound)
    assert_same_path(mode, ours, theirs, gradients)


@equation("PG-135")
def test_the_optimiser_inside_remembers_what_was_clipped(mode, rng):
    gradients = random_gradients(rng, 3)
    bounds = [min(1, 2.5 / length(gradient)) for gradient in gradients]
    shorter = [tf.nest.map_structure(lambda g, b=b: b * g, gradient) for gradient, b in zip(gradients, bounds, strict=True)]
    found, expected = (
        run(mode, o, g) for o, g in ((optimizers.clipped(optimizers.adam(0.1), 2.5), gradients), (optimizers.adam(0.1), shorter))
    )
    assert max(bounds) < 1
    assert_nests_close(found[0], expected[0], rtol=1e-12)
    assert_nests_close(found[1], expected[1], rtol=1e-12)


@equation("PG-135")
def test_clipping_nothing_gives_nothing_and_what_is_no_number_stays_so(mode):
    update = mode(optimizers.clipped(optimizers.sgd(0.5), 2.0).update)
    np.testing.assert_array_equal(update((tf.zeros([3]), tf.zeros([])), ())[0][0], np.zeros(3))
    assert np.isnan(update((tf.constant([1.0, np.nan]), tf.ones([])), ())[0][0]).all()
