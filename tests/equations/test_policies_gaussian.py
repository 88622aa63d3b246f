"""The Gaussian policy against its definition: density, score, divergence, the law of its samples, and the environment's edge."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import gradients, nets, policies

equation = pytest.mark.equation

SEED = tf.constant([3, 5])
SAMPLES = 20_000
LOW, HIGH = [-1.0, 2.0, -np.inf, 0.0, -np.inf], [3.0, 7.0, np.inf, np.inf, 1.5]


def gaussian(actions=2, initial_log_std=0.0, dtype=tf.float64):
    return policies.gaussian(nets.mlp([3, 4, actions], dtype=dtype), [-1.0] * actions, [2.0] * actions, initial_log_std, dtype)


def random_like(nest, rng):
    return tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(scale=0.7, size=leaf.shape), leaf.dtype), nest)


def normal_nodes(actions):
    """Points and weights of E_z f(z), z ~ N(0, 1_actions): exact for polynomials of degree 7 in each component."""
    points, weights = np.polynomial.hermite_e.hermegauss(4)
    grid = np.array(list(itertools.product(points, repeat=actions)))
    weight = np.array([np.prod(row) for row in itertools.product(weights / weights.sum(), repeat=actions)])
    return grid, weight


def assert_frequencies(counts, probabilities):
    """|z| <= 5 for every cell, and the chi-square statistic below its 1 - 1e-6 quantile."""
    expected = counts.sum() * probabilities
    z = (counts - expected) / np.sqrt(expected * (1 - probabilities))
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert np.abs(z).max() <= 5
    assert float(tf.math.igammac((len(counts) - 1) / 2, statistic / 2)) > 1e-6


@equation("PG-91")
def test_gaussian_log_prob_is_the_density_formula(mode, rng):
    loc, log_std, action = rng.normal(size=[3, 2, 5, 3])
    policy = gaussian(3)

    def log_prob(loc, log_std, action):
        return policy.distribution({"loc": loc, "log_std": log_std}).log_prob(action)

    found = mode(log_prob)(*map(tf.constant, (loc, log_std, action)))
    expected = np.zeros([2, 5])
    for index in np.ndindex(2, 5):
        covariance, error = np.diag(np.exp(2 * log_std[index])), action[index] - loc[index]
        expected[index] = -0.5 * error @ np.linalg.solve(covariance, error) - 0.5 * np.linalg.slogdet(2 * np.pi * covariance)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-11)


@equation("PG-91")
def test_gaussian_log_prob_under_a_change_of_units_loses_the_log_of_the_scale(rng):
    loc, log_std, action = rng.normal(size=[3, 4, 2])
    scale, shift = np.array([-3.0, 0.2]), np.array([0.7, 1.3])
    policy = gaussian()
    before = policy.distribution({"loc": loc, "log_std": log_std}).log_prob(action)
    moved = {"loc": scale * loc + shift, "log_std": log_std + np.log(np.abs(scale))}
    after = policy.distribution(moved).log_prob(scale * action + shift)
    np.testing.assert_allclose(after, before - np.log(0.6), rtol=1e-11)


@equation("PG-91", "PG-93")
@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.01])
def test_linear_gaussian_scores_and_their_moments_by_quadrature(mode, sigma):
    """PG-91 in one dimension, PG-93 and PG-21, all integrals by the trapezoid rule."""
    k, s = -0.8, 1.7
    policy = gaussian(1)._replace(parameters=lambda params, s: {"loc": params["k"] * s, "log_std": params["log_std"] + 0 * s})
    z = np.linspace(-12, 12, 2001)
    a, da = k * s + sigma * z, sigma * (z[1] - z[0])
    params = {"k": tf.constant(k, tf.float64), "log_std": tf.constant(np.log(sigma), tf.float64)}
    observation, action = tf.fill([2001, 1], tf.constant(s, tf.float64)), tf.constant(a[:, None])
    density = np.exp(policy.distribution(policy.parameters(params, observation)).log_prob(action))
    np.testing.assert_allclose(density.sum() * da, 1, rtol=1e-12)

    g = mode(lambda params: gradients.score(policy, params, observation, action))(params)
    g_k, g_sigma = g["k"].numpy(), g["log_std"].numpy() / sigma
    np.testing.assert_allclose(g_k, (a - k * s) * s / sigma**2, rtol=1e-9, atol=1e-9 / sigma)
    np.testing.assert_allclose(g_sigma, ((a - k * s) ** 2 - sigma**2) / sigma**3, rtol=1e-9, atol=1e-9 / sigma)

    def mean(f):
        return (density * f).sum() * da * sigma

    np.testing.assert_allclose([mean(g_k), mean(g_sigma), mean(g_k * g_sigma) * sigma], 0, atol=1e-9)
    np.testing.assert_allclose(np.sqrt(mean(g_k**2) * sigma), abs(s), rtol=1e-9)
    np.testing.assert_allclose(np.sqrt(mean(g_sigma**2) * sigma), np.sqrt(2), rtol=1e-9)


@equation("PG-92", "PG-22")
def test_gaussian_score_of_the_mean_is_jacobian_times_precision_times_error(rng):
    """PG-92, the Jacobian of the network by finite differences."""
    policy, net = gaussian(), nets.mlp([3, 4, 2], dtype=tf.float64)
    params, observation = random_like(policy.init(SEED), rng), tf.constant(rng.normal(size=[5, 3]))
    action = rng.normal(size=[5, 2])
    error = action - net.apply(params["net"], observation).numpy()
    weighted = error * np.exp(-2 * params["log_std"].numpy())
    g = gradients.score(policy, params, observation, tf.constant(action))

    leaves = tf.nest.flatten(params["net"])
    for i, found in enumerate(tf.nest.flatten(g["net"])):
        for m in range(5):

            def value(leaf, i=i, m=m):
                changed = [*leaves[:i], tf.constant(leaf), *leaves[i + 1 :]]
                f = net.apply(tf.nest.pack_sequence_as(params["net"], changed), observation[m : m + 1])
                return tf.reduce_sum(f * weighted[m])  # its slope in theta is J_f' Sigma^-1 (a - f)

            np.testing.assert_allclose(found[m], finite_difference(value, leaves[i]), atol=1e-8)
        assert np.abs(found).max() > 1e-1


@equation("PG-92")
def test_gaussian_score_of_the_deviation_is_the_covariance_score_by_the_chain_rule(rng):
    """PG-92: G = 1/2 (Sigma^-1 e e' Sigma^-1 - Sigma^-1), and d Sigma_ii / d log sigma_i = 2 sigma_i^2."""
    policy = gaussian()
    params, observation, action = random_like(policy.init(SEED), rng), rng.normal(size=[5, 3]), rng.normal(size=[5, 2])
    loc = policy.parameters(params, tf.constant(observation))["loc"].numpy()
    found = gradients.score(policy, params, tf.constant(observation), tf.constant(action))["log_std"]
    covariance = np.diag(np.exp(2 * params["log_std"].numpy()))
    precision = np.linalg.inv(covariance)
    for m, error in enumerate(action - loc):
        g = 0.5 * (precision @ np.outer(error, error) @ precision - precision)
        np.testing.assert_allclose(found[m], np.diag(g) * 2 * np.diag(covariance), rtol=1e-11)


@equation("PG-92", "PG-22")
def test_gaussian_score_has_zero_mean(rng):
    policy = gaussian()
    params, observation = random_like(policy.init(SEED), rng), tf.constant(rng.normal(size=[1, 3]))
    nodes, weight = normal_nodes(2)
    p = policy.parameters(params, observation)
    scores = gradients.score(policy, params, tf.repeat(observation, len(nodes), 0), policy.act(p, tf.constant(nodes)))
    for leaf in tf.nest.flatten(scores):
        terms = np.reshape(leaf, [len(nodes), -1]) * weight[:, None]
        assert np.abs(terms).max() > 1e-2
        np.testing.assert_allclose(terms.sum(0), 0, atol=1e-13)


@equation("PG-91", "PG-102")
def test_gaussian_entropy_and_divergence_are_expectations_of_log_densities(mode, rng):
    loc, log_std = rng.normal(size=[2, 2, 5, 2])
    policy = gaussian()

    def everything(loc, log_std):
        p, q = (policy.distribution({"loc": loc[i], "log_std": log_std[i]}) for i in range(2))
        return p.entropy(), p.kl_divergence(q), q.kl_divergence(p)

    def log_density(action, i):
        return (-0.5 * ((action - loc[i]) / np.exp(log_std[i])) ** 2 - log_std[i] - 0.5 * np.log(2 * np.pi)).sum(-1)

    def mean(i, f):
        nodes, weight = normal_nodes(2)
        return weight @ f(loc[i] + np.exp(log_std[i]) * nodes[:, None])

    entropy, forward, reverse = mode(everything)(tf.constant(loc), tf.constant(log_std))
    np.testing.assert_allclose(entropy, mean(0, lambda a: -log_density(a, 0)), rtol=1e-11)
    np.testing.assert_allclose(forward, mean(0, lambda a: log_density(a, 0) - log_density(a, 1)), rtol=1e-10)
    np.testing.assert_allclose(reverse, mean(1, lambda a: log_density(a, 1) - log_density(a, 0)), rtol=1e-10)
    assert np.abs(forward - reverse).max() > 1e-1


@equation("PG-91")
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_gaussian_samples_follow_the_density(mode, dtype):
    loc, log_std = np.array([[0.4, -2.0], [7.0, 0.1]]), np.array([[0.6, -1.2], [-2.0, 1.0]])
    policy = gaussian(dtype=dtype)

    def draw(loc, log_std, seed):
        return policy.act({"loc": loc, "log_std": log_std}, policy.noise([SAMPLES, 2], seed))

    action = mode(draw)(tf.constant(loc, dtype), tf.constant(log_std, dtype), SEED)
    assert action.dtype == dtype
    assert action.shape == [SAMPLES, 2, 2]
    z = ((action - loc.astype(action.dtype.as_numpy_dtype)).numpy() / np.exp(log_std)).reshape([SAMPLES, 4])
    uniform = 0.5 * tf.math.erfc(-z / np.sqrt(2)).numpy()  # the distribution function: uniform exactly when the law is right
    for column in uniform.T:
        assert_frequencies(np.bincount((12 * column).astype(int), minlength=12), np.full(12, 1 / 12))
    assert np.abs(z.mean(0)).max() * np.sqrt(SAMPLES) <= 5  # sd of a mean: 1/sqrt(n)
    assert np.abs((z**2).mean(0) - 1).max() * np.sqrt(SAMPLES / 2) <= 5  # sd of a mean square: sqrt(2/n)
    assert np.abs((z.T @ z / SAMPLES)[np.triu_indices(4, 1)]).max() * np.sqrt(SAMPLES) <= 5  # sd of a mean product: 1/sqrt(n)


@equation("PG-91")
def test_gaussian_action_moves_with_its_parameters(rng):
    loc, log_std, normal = rng.normal(size=[3, 3])
    policy = gaussian(3)
    p = {"loc": tf.constant(loc), "log_std": tf.constant(log_std)}
    _, slope = gradients.gradient(lambda p: tf.reduce_sum(policy.act(p, tf.constant(normal))), p)
    np.testing.assert_allclose(slope["loc"], np.ones(3), rtol=1e-12)
    np.testing.assert_allclose(slope["log_std"], np.exp(log_std) * normal, rtol=1e-12)


@equation("PG-91")
def test_gaussian_mode_is_the_location(rng):
    loc, log_std = rng.normal(size=[2, 4, 2])
    np.testing.assert_array_equal(gaussian().mode({"loc": loc, "log_std": log_std}), loc)


@equation("PG-91")
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_gaussian_to_env_maps_minus_one_and_plus_one_to_the_bounds_and_clips_beyond(mode, dtype):
    to_env = policies.gaussian(nets.mlp([3, 5]), LOW, HIGH, dtype=dtype).to_env
    action = [[-1.0] * 5, [1.0] * 5, [0.0] * 5, [0.5, -0.2, 0.5, 0.5, 0.5], [-1.5] * 5, [2.5] * 5, [1e30] * 5, [-1e30] * 5]
    expected = [
        [-1, 2, -1, 0, -1],
        [3, 7, 1, 1, 1],
        [1, 4.5, 0, 0, 0],
        [2, 4, 0.5, 0.5, 0.5],
        [-1, 2, -1.5, 0, -1.5],
        [3, 7, 2.5, 2.5, 1.5],
        [3, 7, 1e30, 1e30, 1.5],
        [-1, 2, -1e30, 0, -1e30],
    ]
    found = mode(to_env)(tf.constant(action, dtype))
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@equation("PG-91")
def test_gaussian_to_env_never_leaves_bounds_that_are_no_round_numbers(rng):
    low, high = np.float32([-0.1, 0.3]), np.float32([0.7, 1.7])
    to_env = policies.gaussian(nets.mlp([3, 2]), low, high).to_env
    found = to_env(tf.constant(rng.uniform(-1.2, 1.2, size=[1000, 2]), tf.float32)).numpy()
    assert (found.min(0) == low).all()
    assert (found.max(0) == high).all()


@equation("PG-91", "PG-102")
def test_gaussian_is_finite_and_right_at_extreme_deviations(mode):
    log_std = tf.constant([[-14.0, 7.0], [7.0, -14.0], [-14.0, -14.0], [7.0, 7.0]])
    loc, action = tf.constant([[5.0, -3.0]] * 4), tf.constant([[-5.0, 4.0], [4.5, -2.5], [-8.0, -2.0], [900.0, -5e3]])
    other = {"loc": tf.constant([[4.0, -3.5]] * 4), "log_std": tf.reverse(log_std, [1])}
    policy = gaussian(dtype=tf.float32)

    def everything(p):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(p)
            d, q = policy.distribution(p), policy.distribution(other)
            values = {
                "log_prob": d.log_prob(action),
                "entropy": d.entropy(),
                "forward": d.kl_divergence(q),
                "reverse": q.kl_divergence(d),
            }
        return values, {name: tape.gradient(value, p, unconnected_gradients="zero") for name, value in values.items()}

    values, slopes = mode(everything)({"loc": loc, "log_std": log_std})
    f, s, a, g, r = (np.float64(x) for x in (loc, log_std, action, other["loc"], other["log_std"]))
    z = (a - f) / np.exp(s)
    np.testing.assert_allclose(values["log_prob"], (-0.5 * z**2 - s - 0.5 * np.log(2 * np.pi)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(values["entropy"], (s + 0.5 * np.log(2 * np.pi * np.e)).sum(-1), rtol=1e-5)
    divergence = r - s + (np.exp(2 * s) + (f - g) ** 2) / (2 * np.exp(2 * r)) - 0.5
    np.testing.assert_allclose(values["forward"], divergence.sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slopes["log_prob"]["loc"], z / np.exp(s), rtol=1e-5)
    np.testing.assert_allclose(slopes["log_prob"]["log_std"], z**2 - 1, rtol=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in tf.nest.flatten((values, slopes)))


@equation("PG-91")
def test_gaussian_deviation_is_one_parameter_for_all_observations(rng):
    policy = gaussian(initial_log_std=-0.3)
    params = policy.init(SEED)
    np.testing.assert_array_equal(params["log_std"], [-0.3, -0.3])
    params = random_like(params, rng)
    observation = tf.constant(rng.normal(size=[2, 4, 3]))
    p = policy.parameters(params, observation)
    np.testing.assert_array_equal(p["log_std"], np.broadcast_to(params["log_std"], [2, 4, 2]))
    np.testing.assert_array_equal(p["loc"], nets.mlp([3, 4, 2], dtype=tf.float64).apply(params["net"], observation))
