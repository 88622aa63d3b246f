"""Dynamics models by least squares, and the gradient through a model against moments, finite differences and scores."""

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import estimators, models, nets, pathwise, policies
from tfpg.lqr import LQR
from tfpg.types import Net

equation = pytest.mark.equation
T, N, D, A = 7, 4, 3, 2


def transitions(rng, noise):
    """States, actions, next states of s' = F s + G a + h + noise, and (F, G, h). Weights: 0 where no next state is known, else unequal."""
    truth = rng.normal(size=(D, D + A + 1))
    s, a = rng.normal(size=(T, N, D)), rng.normal(size=(T, N, A))
    following = np.concatenate([s, a, np.ones((T, N, 1))], axis=-1) @ truth.T + noise * rng.normal(size=(T, N, D))
    w = rng.uniform(0.1, 0.3, size=(T, N))
    w[-1, 0], w[2, 1], w[4:, 3] = 0, 0, 0
    following[w == 0] = 1e3
    return s, a, following, w, truth


def squares(s, a, following, w, model):
    """sum w |B (s, a, 1) - s'|^2, one transition after the other."""
    total = 0.0
    for t, n in np.ndindex(T, N):
        if w[t, n] > 0:
            total += w[t, n] * np.sum((model @ [*s[t, n], *a[t, n], 1.0] - following[t, n]) ** 2)
    return total


@equation("PG-120")
def test_the_loss_is_the_sum_of_squares_where_a_next_state_is_known(mode, rng):
    s, a, following, w, _ = transitions(rng, 0.5)
    following[w == 0] = np.nan
    model = rng.normal(size=(D, D + A + 1))

    def loss(model):
        inputs = np.concatenate([s, a, np.ones((T, N, 1))], axis=-1)
        return models.model_loss.python_function(tf.einsum("tni,di->tnd", inputs, model), tf.constant(following), tf.constant(w))

    def both(model):
        with tf.GradientTape() as tape:
            tape.watch(model)
            value = loss(model)
        return value, tape.gradient(value, model)

    value, slope = mode(both)(tf.constant(model))
    assert float(value) == pytest.approx(squares(s, a, following, w, model), rel=1e-12)
    np.testing.assert_allclose(slope, finite_difference(lambda x: squares(s, a, following, w, x), model, 1e-4), rtol=1e-7)


@equation("PG-120")
def test_the_target_of_a_model_is_given(rng):
    """Nothing flows into the next state, though it be computed by the same parameters."""
    prediction, following, w = (tf.constant(rng.normal(size=shape)) for shape in ((T, N, D), (T, N, D), (T, N)))
    with tf.GradientTape() as tape:
        tape.watch([prediction, following])
        loss = models.model_loss(prediction, following, w)
    slope, nothing = tape.gradient(loss, [prediction, following])
    assert nothing is None
    np.testing.assert_allclose(slope, 2 * w[..., None] * (prediction - following), rtol=1e-12)


@equation("PG-120")
def test_a_linear_system_without_noise_is_found_exactly(mode, rng):
    s, a, following, w, truth = transitions(rng, 0.0)
    for dtype, tolerance in ((tf.float64, 1e-12), (tf.float32, 2e-4)):
        found = mode(models.linear_model)(*(tf.constant(x, dtype) for x in (s, a, following, w)))
        np.testing.assert_allclose(found, truth, atol=tolerance)


@equation("PG-120")
def test_the_linear_model_is_weighted_least_squares(mode, rng):
    s, a, following, w, truth = transitions(rng, 0.5)
    x = np.concatenate([s, a, np.ones((T, N, 1))], axis=-1).reshape(T * N, -1)
    y, weight = following.reshape(T * N, D), np.diag(w.ravel())
    expected = np.linalg.solve(x.T @ weight @ x, x.T @ weight @ y).T
    found = mode(models.linear_model)(*map(tf.constant, (s, a, following, w)))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert np.abs(expected - truth).max() > 0.05
    unweighted = np.linalg.lstsq(x[w.ravel() > 0], y[w.ravel() > 0], rcond=None)[0].T
    assert np.abs(expected - unweighted).max() > 1e-3
    np.testing.assert_allclose(finite_difference(lambda model: squares(s, a, following, w, model), found, 1e-4), 0, atol=1e-6)


@equation("PG-120")
@pytest.mark.parametrize("shape", [(3, 3), (9, 1), (1, 9)])
def test_as_many_steps_as_coefficients_are_enough_for_a_linear_model(rng, shape):
    """Nine coefficients per component of the state: three of the state, five of the action, and the offset."""
    truth = rng.normal(size=(3, 9))
    s, a, w = rng.normal(size=(*shape, 3)), rng.normal(size=(*shape, 5)), rng.uniform(0.1, 0.9, size=shape)
    following = np.concatenate([s, a, np.ones((*shape, 1))], axis=-1) @ truth.T
    np.testing.assert_allclose(models.linear_model(s, a, following, w), truth, atol=1e-9)


@equation("PG-120")
@pytest.mark.parametrize("shape", [(4, 2), (8, 1), (1, 8)])
def test_fewer_steps_than_coefficients_are_refused_by_a_linear_model(mode, rng, shape):
    given = (tf.constant(rng.normal(size=(*shape, size))) for size in (3, 5, 3))
    with pytest.raises(ValueError, match=rf"state_t has shape \({shape[0]}, {shape[1]}, 3\).* 9 "):
        mode(models.linear_model)(*given, tf.ones(shape, tf.float64))


def model(state, action):
    """Nonlinear and damped."""
    return 0.8 * state + 0.3 * tf.sin(state) * action + 0.5 * action


def reward(state, action):
    return tf.reduce_sum(tf.cos(state) - 0.2 * action**2, axis=-1) + 0.1 * state[:, 0] * action[:, 0]


def rolled_out(actions_of, start, steps, gamma):
    """sum gamma^t r, in numpy, one step after the other; actions_of(t, state) -> action."""
    s, total = np.array(start), 0.0
    for t in range(steps):
        a = actions_of(t, s)
        total = total + gamma**t * (np.sum(np.cos(s) - 0.2 * a**2, axis=-1) + 0.1 * s[:, 0] * a[:, 0])
        s = 0.8 * s + 0.3 * np.sin(s) * a + 0.5 * a
    return total


def value_and_slope(mode, function, params):
    def both(params):
        with tf.GradientTape() as tape:
            tape.watch(params)
            value = function(params)
            total = tf.reduce_sum(value)
        return value, tape.gradient(total, params)

    return mode(both)(params)


@equation("PG-94", "PG-121")
def test_a_deterministic_policy_is_followed_through_the_model(mode, rng):
    net = Net(lambda seed: None, lambda w, x: tf.tanh(tf.matmul(x, w)))
    start, weight = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    noise = tf.constant(rng.normal(size=(4, 3)))  # a deterministic policy does not look at it
    act = pathwise.deterministic(net)

    def simulated(w, dtype=tf.float64):
        return pathwise.pathwise_return(act, model, reward, w, tf.cast(start, dtype), tf.cast(noise, dtype), 0.9)

    def expected(w):
        return rolled_out(lambda t, s: np.tanh(s @ w), start, 4, 0.9)

    value, slope = value_and_slope(mode, simulated, tf.constant(weight))
    np.testing.assert_allclose(value, expected(weight), rtol=1e-12)
    np.testing.assert_allclose(slope, finite_difference(lambda w: expected(w).sum(), weight), atol=1e-8)
    np.testing.assert_allclose(simulated(tf.constant(weight, tf.float32), tf.float32), value, rtol=1e-5)
    np.testing.assert_allclose(act(tf.constant(weight), tf.constant(start), noise[0]), np.tanh(start @ weight), rtol=1e-14)


@equation("PG-121", "PG-94")
def test_without_noise_it_is_the_gradient_of_the_regulator():
    """sigma = 0: averaged over starts of variance one, the slope in k is that of the exact moments."""
    for k in (-0.3, 0.2):
        gain = tf.constant([[k]], tf.float64)
        start, steps = tf.constant([[1.0], [-1.0]], tf.float64), tf.zeros([6, 2], tf.float64)
        act = pathwise.deterministic(Net(lambda seed: None, lambda w, x: tf.matmul(x, w)))
        cost = lambda s, a: -tf.reduce_sum(s**2 + a**2, axis=-1)  # noqa: E731
        with tf.GradientTape() as tape:
            tape.watch(gain)
            value = tf.reduce_mean(pathwise.pathwise_return(act, lambda s, a: s + a, cost, gain, start, steps, 0.95))
        lqr = LQR(6, 0.95)
        assert float(value) == pytest.approx(float(lqr.objective([k, 0.0])), rel=1e-12)
        assert float(tape.gradient(value, gain)[0, 0]) == pytest.approx(float(lqr.gradient([k, 0.0])[0]), rel=1e-12)


def regulated(gains, start, noise_t, sigma):
    """The return of a_t = k_t s_t + sigma z_t: gains that change with time, which noise_t carries along in its first column."""
    z = tf.stack([tf.broadcast_to(gains[:, None], noise_t.shape), noise_t], axis=-1)

    def act(sigma, state, noise):
        return noise[:, :1] * state + sigma * noise[:, 1:]

    cost = lambda s, a: -tf.reduce_sum(s**2 + a**2, axis=-1)  # noqa: E731
    return pathwise.pathwise_return(act, lambda s, a: s + a, cost, sigma, start, z, 0.9)


@equation("PG-121")
def test_the_gradient_vanishes_at_the_gains_of_riccati_and_at_no_constant_gain():
    lqr = LQR(5, 0.9)
    start, still = tf.constant([[1.0], [-2.5]], tf.float64), tf.zeros([5, 2], tf.float64)

    def slope(gains):
        with tf.GradientTape() as tape:
            tape.watch(gains)
            value = tf.reduce_sum(regulated(gains, start, still, tf.constant(0.0, tf.float64)))
        return tape.gradient(value, gains)

    np.testing.assert_allclose(slope(lqr.optimal_gains()), 0, atol=1e-12)
    constants = [np.abs(slope(tf.constant(np.full(5, k)))).max() for k in np.linspace(-0.9, 0, 19)]
    assert min(constants) > 1e-2


@equation("PG-121", "PG-94")
def test_path_and_score_agree_in_expectation_and_the_path_varies_far_less():
    """d/dk of one episode: both means within five standard errors of the exact slope, the variances a factor apart."""
    lqr, theta, n = LQR(5, 0.9), tf.constant([-0.3, 0.4], tf.float64), 20_000
    draws = np.random.default_rng(8)
    start, noise = tf.constant(draws.normal(size=(n, 1))), tf.constant(draws.normal(size=(5, n)))
    gains = tf.fill([n, 1], theta[0])  # a copy of k for each episode gives each its own slope

    def act(k, state, z):
        return k * state + theta[1] * z[:, None]

    cost = lambda s, a: -tf.reduce_sum(s**2 + a**2, axis=-1)  # noqa: E731
    with tf.GradientTape() as tape:
        tape.watch(gains)
        value = pathwise.pathwise_return(act, lambda s, a: s + a, cost, gains, start, noise, 0.9)
    path = tape.gradient(value, gains)[:, 0].numpy()
    listing = lqr.sample(theta, n, [4, 2])
    r_t = listing.trajectory.reward.numpy()
    score = (listing.score_t.numpy()[..., 0].sum(0)) * (0.9 ** np.arange(5) @ r_t)
    exact = float(lqr.gradient(theta)[0])
    for sample in (path, score):
        assert abs(sample.mean() - exact) < 5 * sample.std() / np.sqrt(n)
    assert 5 * path.std() / np.sqrt(n) < 0.2 * abs(exact)
    assert score.var() > 20 * path.var()


def paths_slope(theta, start, noise_t):
    """The slope of each simulated return in (k, sigma): [N, 2]. Each episode has its own copy of theta."""
    copies = tf.repeat(theta[None], start.shape[0], axis=0)
    cost = lambda s, a: -tf.reduce_sum(s**2 + a**2, axis=-1)  # noqa: E731

    def act(copies, state, z):
        return copies[:, :1] * state + copies[:, 1:] * z[:, None]

    with tf.GradientTape() as tape:
        tape.watch(copies)
        value = pathwise.pathwise_return(act, lambda s, a: s + a, cost, copies, start[:, None], noise_t, 0.9)
    return tape.gradient(value, copies).numpy()


@equation("PG-121", "PG-112", "PG-24")
def test_path_and_score_agree_in_both_parameters():
    """Exactly under the quadrature, which says how much each varies as well; and so do the means of as many independent episodes."""
    lqr, theta, n = LQR(2, 0.9, 0.6), tf.constant([0.2, 0.7], tf.float64), 20_000
    t, probability, _ = tf.nest.map_structure(np.asarray, lqr.trajectories(theta))
    path = paths_slope(theta, tf.constant(t.observation[0]), tf.constant((t.action - 0.2 * t.observation) / 0.7))
    moments = lqr.moments(theta, lambda t, score_t: estimators.reinforce(score_t, t.reward, 0.9, t.mask))
    exact, of_score = moments.mean.numpy(), moments.covariance.numpy()
    np.testing.assert_allclose(probability @ path, exact, rtol=1e-11)
    error = path - probability @ path
    of_path = np.einsum("n,np,nq->pq", probability, error, error)
    assert np.all(np.diag(of_path) < 0.2 * np.diag(of_score))
    draws, listing = np.random.default_rng(8), lqr.sample(theta, n, [4, 2])
    path = paths_slope(theta, tf.constant(0.6**0.5 * draws.normal(size=n)), tf.constant(draws.normal(size=(2, n))))
    score = estimators.reinforce(listing.score_t, listing.trajectory.reward, 0.9, listing.trajectory.mask).numpy()
    bound = -2 * np.log(1e-6)  # chi-square of two degrees exceeds it once in a million

    def distance(x, covariance):
        return x @ np.linalg.solve(covariance / n, x)

    assert distance(path.mean(0) - score, of_score + of_path) < bound
    assert distance(path.mean(0) - exact, of_path) < bound
    assert np.all(np.abs(exact) > 10 * np.sqrt(np.diag(of_score + of_path) / n))  # a wrong factor would be seen


@equation("PG-121")
def test_a_gaussian_policy_moves_its_actions_smoothly(mode, rng):
    """a = f(s) + sigma z, in every parameter of the policy: value and slope against numpy."""
    policy = policies.gaussian(nets.mlp([2, 2], dtype=tf.float64), [-np.inf] * 2, [np.inf] * 2, dtype=tf.float64)
    params = policy.init(tf.constant([3, 1]))
    params = tf.nest.map_structure(lambda x: x + tf.random.stateless_normal(x.shape, [5, 2], dtype=x.dtype, stddev=0.4), params)
    start, noise = rng.normal(size=(3, 2)), rng.normal(size=(4, 3, 2))
    act = pathwise.reparameterised(policy)

    def expected(params):
        layer, log_std = params["net"][0], params["log_std"].numpy()
        return rolled_out(lambda t, s: s @ layer["kernel"].numpy() + layer["bias"].numpy() + np.exp(log_std) * noise[t], start, 4, 0.9)

    def simulated(params):
        return pathwise.pathwise_return(act, model, reward, params, tf.constant(start), tf.constant(noise), 0.9)

    value, slope = value_and_slope(mode, simulated, params)
    np.testing.assert_allclose(value, expected(params), rtol=1e-11)
    leaves = tf.nest.flatten(params)
    for i, leaf in enumerate(leaves):

        def moved(x, i=i):
            return expected(tf.nest.pack_sequence_as(params, [*leaves[:i], tf.constant(x), *leaves[i + 1 :]])).sum()

        np.testing.assert_allclose(tf.nest.flatten(slope)[i], finite_difference(moved, leaf), atol=1e-8)
