"""Derivatives against finite differences, and Fisher products against matrices built by summing over actions."""

import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import gradients, nets, policies, trees
from tfpg.blocks import in_blocks

equation = pytest.mark.equation

SEED = tf.constant([4, 9])
SAMPLES = 6
WEIGHT = np.array([0.3, 0.05, 0.0, 0.21, 0.4, 0.11])  # unequal, one zero, sum not 1


# Parameters as vectors, and back


def flat(nest):
    return np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(nest)])


def nest_of(vector, like, dtype=tf.float64):
    leaves, start = [], 0
    for leaf in tf.nest.flatten(like):
        size = int(np.prod(leaf.shape))
        leaves.append(tf.constant(np.reshape(vector[start : start + size], leaf.shape), dtype))
        start += size
    assert start == len(vector)
    return tf.nest.pack_sequence_as(like, leaves)


def random_like(nest, rng, dtype=tf.float64):
    return tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(scale=0.8, size=leaf.shape), dtype), nest)


def assert_slope(found, expected, value=1.0):
    """Finite differences carry errors of about 2e-11 |f|; a slope near zero would prove nothing."""
    largest = np.abs(expected).max()
    assert largest > 1e-3
    assert np.abs(found - expected).max() <= 1e-8 * max(1, np.abs(value).max(), largest)


# The policies, and the definition of their Fisher matrices


def categorical(dtype=tf.float64):
    return policies.categorical(nets.mlp([2, 3, 3], dtype=dtype), 3, dtype=dtype)


def gaussian(dtype=tf.float64):
    return policies.gaussian(nets.mlp([2, 3, 2], dtype=dtype), [-1.0, 0.0], [1.0, 3.0], dtype=dtype)


def keras_float64():
    def build(seed):
        import keras

        layer = keras.layers.Dense(3, "tanh", kernel_initializer=keras.initializers.Orthogonal(seed=seed), dtype="float64")
        last = keras.layers.Dense(3, kernel_initializer=keras.initializers.Orthogonal(seed=seed + 1), dtype="float64")
        return keras.Sequential([keras.Input([2]), layer, last])

    return policies.categorical(nets.keras_net(build), 3, dtype=tf.float64)


def actions_and_probabilities(policy, params, observation):
    """All actions [K, M, ...] with probabilities [K, M]; for the Gaussian, quadrature that is exact for polynomials of degree 7."""
    p = policy.parameters(params, observation)
    if "logits" in p:
        pi = np.exp(p["logits"])
        return np.repeat(np.arange(3)[:, None], len(pi), axis=1), (pi / pi.sum(-1, keepdims=True)).T
    points, weights = np.polynomial.hermite_e.hermegauss(4)
    z = np.array(list(itertools.product(points, repeat=2)))[:, None]
    weight = np.outer(weights, weights).ravel() / weights.sum() ** 2
    return p["loc"].numpy() + np.exp(p["log_std"]) * z, np.repeat(weight[:, None], len(observation), axis=1)


def scores_by_differences(policy, params, observation, actions, h=1e-5):
    """grad_theta log pi(a|o) of each of K actions for each sample, [K, M, P]."""

    def log_prob(theta):
        distribution = policy.distribution(policy.parameters(nest_of(theta, params), observation))
        return np.stack([distribution.log_prob(action) for action in actions])

    theta = flat(params)
    return np.stack([(log_prob(theta + h * e) - log_prob(theta - h * e)) / (2 * h) for e in np.eye(len(theta))], axis=-1)


def fisher_matrices(policy, params, observation):
    """E_{a ~ pi(.|o_m)} g g', one matrix per sample, [M, P, P]."""
    action, probability = actions_and_probabilities(policy, params, observation)
    g = scores_by_differences(policy, params, observation, action)
    return np.einsum("km,kmp,kmq->mpq", probability, g, g)


def product(case):
    """v -> F v with everything else bound."""
    return lambda v: gradients.fisher_vector_product(case.policy, case.params, case.observation, case.weight, v)


@pytest.fixture(scope="module", params=[categorical, gaussian, keras_float64], ids=lambda make: make.__name__)
def case(request):
    """One policy with parameters, observations, two directions, and its Fisher matrices by definition."""
    rng = np.random.default_rng(11)
    policy = request.param()
    params = random_like(policy.init(SEED), rng)
    observation = tf.constant(rng.normal(size=[SAMPLES, 2]))
    return SimpleNamespace(
        make=request.param,
        policy=policy,
        params=params,
        observation=observation,
        weight=tf.constant(WEIGHT),
        u=random_like(params, rng),
        v=random_like(params, rng),
        fishers=fisher_matrices(policy, params, observation),
    )


# gradient and score


@equation("PG-26")
def test_gradient_is_the_slope_and_unused_leaves_get_zeros(mode, rng):
    params = {
        "a": tf.constant(rng.normal(size=[2, 3])),
        "b": (tf.constant(0.7, tf.float64), tf.constant(rng.normal(size=[3]))),
        "unused": tf.constant(rng.normal(size=[3, 2])),
    }

    def objective(params):
        scalar, vector = params["b"]
        return tf.reduce_sum(tf.sin(tf.linalg.matvec(params["a"], vector)) * [1.0, -2.5]) + scalar**3 * params["a"][0, 1]

    value, slope = mode(lambda params: gradients.gradient(objective, params))(params)
    tf.nest.assert_same_structure(slope, params)
    np.testing.assert_allclose(value, objective(params), rtol=1e-13)
    assert_slope(flat(slope), finite_difference(lambda theta: objective(nest_of(theta, params)), flat(params)))
    np.testing.assert_array_equal(slope["unused"], np.zeros([3, 2]))


@equation("PG-26")
def test_gradient_of_a_constant_is_zero(mode):
    params = {"a": tf.constant([1.0, 2.0]), "b": tf.constant(3.0)}
    value, slope = mode(lambda params: gradients.gradient(lambda _: tf.constant(0.4), params))(params)
    np.testing.assert_allclose(value, 0.4)
    np.testing.assert_array_equal(slope["a"], [0, 0])
    np.testing.assert_array_equal(slope["b"], 0)


@equation("PG-22")
@pytest.mark.parametrize("make", [categorical, gaussian])
def test_score_is_one_slope_per_sample(mode, rng, make):
    policy = make()
    params, observation = random_like(policy.init(SEED), rng), tf.constant(rng.normal(size=[2, 3, 2]))
    action = tf.constant([[2, 0, 1], [1, 2, 2]]) if make is categorical else tf.constant(rng.normal(size=[2, 3, 2]))
    found = mode(lambda params: gradients.score(policy, params, observation, action))(params)
    for leaf, like in zip(tf.nest.flatten(found), tf.nest.flatten(params), strict=True):
        assert leaf.shape == [2, 3, *like.shape]
    expected = scores_by_differences(policy, params, observation, action[None])[0]
    for index in np.ndindex(2, 3):
        assert_slope(flat(tf.nest.map_structure(lambda leaf, index=index: leaf[index], found)), expected[index])


@equation("PG-22")
def test_scores_add_up_to_the_slope_of_the_log_probability_of_all_actions(case):
    """PG-22: the score of a trajectory is the sum over its steps."""
    action = case.policy.mode(case.policy.parameters(case.params, case.observation[::-1]))

    def total(params):
        return tf.reduce_sum(case.policy.distribution(case.policy.parameters(params, case.observation)).log_prob(action))

    expected = finite_difference(lambda theta: total(nest_of(theta, case.params)), flat(case.params))
    found = gradients.score(case.policy, case.params, case.observation, action)
    assert_slope(flat(tf.nest.map_structure(lambda leaf: tf.reduce_sum(leaf, axis=0), found)), expected)


@equation("PG-22")
def test_the_score_of_a_leaf_that_the_policy_does_not_use_is_zero(mode, rng):
    inner, observation, action = categorical(), tf.constant(rng.normal(size=[2, 3, 2])), tf.constant([[2, 0, 1], [1, 2, 2]])
    params = {"unused": tf.constant(rng.normal(size=[4])), "used": random_like(inner.init(SEED), rng)}
    policy = inner._replace(parameters=lambda params, observation: inner.parameters(params["used"], observation))
    found = mode(lambda params: gradients.score(policy, params, observation, action))(params)
    np.testing.assert_array_equal(found["unused"], np.zeros([2, 3, 4]))
    expected = gradients.score(inner, params["used"], observation, action)
    np.testing.assert_allclose(flat(found["used"]), flat(expected), rtol=1e-12, atol=1e-14)


# The Fisher matrix of the head


@equation("PG-104", "PG-90")
def test_head_fisher_of_the_categorical_is_diag_pi_minus_pi_pi(mode, rng):
    policy, logits, u = categorical(), rng.normal(size=[5, 3]), rng.normal(size=[5, 3])
    head = mode(lambda p, u: gradients.head_fisher(policy.distribution, p, u))
    p = {"logits": tf.constant(logits)}
    pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = [(np.diag(row) - np.outer(row, row)) @ direction for row, direction in zip(pi, u, strict=True)]
    np.testing.assert_allclose(head(p, {"logits": tf.constant(u)})["logits"], expected, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(head(p, {"logits": tf.ones_like(u)})["logits"], np.zeros([5, 3]), atol=1e-15)


@equation("PG-104", "PG-92")
def test_head_fisher_of_the_gaussian_is_the_precision_and_two(mode, rng):
    policy, (loc, log_std, u_loc, u_log_std) = gaussian(), rng.normal(size=[4, 5, 2])
    head = mode(lambda p, u: gradients.head_fisher(policy.distribution, p, u))
    found = head({"loc": tf.constant(loc), "log_std": tf.constant(log_std)}, {"loc": tf.constant(u_loc), "log_std": tf.constant(u_log_std)})
    np.testing.assert_allclose(found["loc"], u_loc * np.exp(-2 * log_std), rtol=1e-11)
    np.testing.assert_allclose(found["log_std"], 2 * u_log_std, rtol=1e-11)


@equation("PG-104")
def test_head_fisher_of_a_certain_categorical_is_zero(mode):
    head = mode(lambda p, u: gradients.head_fisher(categorical(tf.float32).distribution, p, u))
    found = head({"logits": tf.constant([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4]])}, {"logits": tf.constant([[1.0, -2.0, 0.5]] * 2)})
    np.testing.assert_allclose(found["logits"], [[0, 0, 0], [0.75, -0.75, 0]], atol=1e-6)


@equation("PG-104")
@pytest.mark.parametrize("log_std", [-14.0, -6.0, 7.0])
def test_head_fisher_of_the_gaussian_keeps_its_digits_at_any_deviation(mode, log_std):
    head = mode(lambda p, u: gradients.head_fisher(gaussian(tf.float32).distribution, p, u))
    u = tf.constant([[1.0, -2.0], [0.5, 0.3]])
    found = head({"loc": tf.constant([[3.0, -1.3], [0.7, 40.0]]), "log_std": tf.fill([2, 2], log_std)}, {"loc": u, "log_std": u})
    np.testing.assert_allclose(found["loc"], u * np.exp(-2 * log_std), rtol=1e-5)
    np.testing.assert_allclose(found["log_std"], 2 * u, rtol=1e-5)


# The Fisher-vector product


@equation("PG-105", "PG-104")
def test_product_is_the_weighted_mean_of_score_outer_products_times_v(mode, case):
    found = mode(product(case))(case.v)
    tf.nest.assert_same_structure(found, case.params)
    assert [leaf.shape for leaf in tf.nest.flatten(found)] == [leaf.shape for leaf in tf.nest.flatten(case.params)]
    assert_slope(flat(found), np.einsum("m,mpq,q->p", WEIGHT, case.fishers, flat(case.v)))


@equation("PG-105", "PG-103")
def test_product_is_the_hessian_of_the_mean_divergence(mode, case):
    def hessian_product(params, v):
        old = case.policy.distribution(tf.nest.map_structure(tf.stop_gradient, case.policy.parameters(params, case.observation)))

        def slope_along_v(params):
            def divergence(params):
                new = case.policy.distribution(case.policy.parameters(params, case.observation))
                return tf.reduce_sum(case.weight * old.kl_divergence(new))

            return trees.dot(gradients.gradient(divergence, params)[1], v)

        return gradients.gradient(slope_along_v, params)[1]

    expected = flat(mode(hessian_product)(case.params, case.v))
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(flat(mode(product(case))(case.v)), expected, rtol=1e-10, atol=1e-14)


@equation("PG-105")
def test_product_is_linear_symmetric_and_positive_semi_definite(mode, case):
    f = mode(product(case))
    u, v, fu, fv = flat(case.u), flat(case.v), flat(f(case.u)), flat(f(case.v))
    combination = tf.nest.map_structure(lambda x, y: 1.7 * x - 0.4 * y, case.u, case.v)
    np.testing.assert_allclose(flat(f(combination)), 1.7 * fu - 0.4 * fv, rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(u @ fv, v @ fu, rtol=1e-11)
    assert abs(u @ fv) > 1e-3
    matrix = np.stack([flat(f(nest_of(e, case.params))) for e in np.eye(len(v))])
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-14)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-13
    assert eigenvalues.max() > 1e-1


@equation("PG-105")
def test_each_sample_counts_by_its_weight(mode, case):
    f = mode(lambda weight, v: gradients.fisher_vector_product(case.policy, case.params, case.observation, weight, v))
    v = flat(case.v)
    for m in range(SAMPLES):
        weight = WEIGHT.copy()
        weight[m] += 0.37
        assert_slope(flat(f(tf.constant(weight), case.v)), np.einsum("m,mpq,q->p", weight, case.fishers, v))
    assert_slope(flat(f(tf.constant(np.eye(SAMPLES)[4]), case.v)), case.fishers[4] @ v)


@equation("PG-105")
def test_a_sample_of_weight_zero_is_not_seen(mode, case):
    moved = tf.where(tf.constant(WEIGHT)[:, None] == 0, 9.0, case.observation)
    f = mode(lambda observation: gradients.fisher_vector_product(case.policy, case.params, observation, case.weight, case.v))
    np.testing.assert_allclose(flat(f(moved)), flat(f(case.observation)), rtol=1e-12)
    assert np.abs(flat(f(moved + 1.0)) - flat(f(case.observation))).max() > 1e-3


def by_blocks(policy, params, observation, weight, block, keep, v):
    """F v by way of what is prepared once."""
    observation, weight = in_blocks((observation, weight), block)
    data = gradients.keep_factors(policy, params, observation) if keep else observation
    return gradients.fisher_product(policy, params, data, weight, v)


@equation("PG-105")
@pytest.mark.parametrize("block", [4, 6])
@pytest.mark.parametrize("wide", [2, 5, 6])
def test_factors_of_wide_layers_are_kept_as_they_are(mode, rng, wide, block, monkeypatch):
    """Layers that take 2 and 5 numbers; what is kept of them is what memory was counted for."""
    monkeypatch.setattr(nets, "WIDE", wide)
    policy = policies.categorical(nets.mlp([2, 5, 4, 2], dtype=tf.float64), 2, dtype=tf.float64)
    params, v = (random_like(policy.init(SEED), rng) for _ in range(2))
    observation, weight = tf.constant(rng.normal(size=[SAMPLES, 2])), tf.constant(WEIGHT)
    expected = gradients.fisher_vector_product(policy, params, observation, weight, v)
    found = mode(lambda v: by_blocks(policy, params, observation, weight, block, True, v))(v)
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-11, atol=1e-14)
    factors = gradients.keep_factors(policy, params, observation[None])
    assert [h.shape[1:] for h in factors.turned] == ([[3, SAMPLES], [6, SAMPLES]] if wide == 6 else [])
    kept = 2 + 5 + 4 + 5 + 4 + sum(h.shape[1] for h in factors.turned)
    for room, fits in ((kept, True), (kept - 1, False)):
        monkeypatch.setattr(gradients, "KEPT_BYTES", 4 * SAMPLES * room)
        assert gradients.worth_keeping(policy, params, SAMPLES) == fits


@equation("PG-105")
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("block", [1, 3, 5, 6, 11])
def test_blocks_of_any_size_give_the_whole_product(mode, case, block, keep):
    if keep and case.policy.net.factors is None:
        pytest.skip("nobody knows the factors of a Keras model")

    def f(observation, weight, v):
        return by_blocks(case.policy, case.params, observation, weight, block, keep, v)

    expected = np.einsum("m,mpq,q->p", WEIGHT, case.fishers, flat(case.v))
    found = mode(f)(case.observation, case.weight, case.v)
    tf.nest.assert_same_structure(found, case.params)
    assert_slope(flat(found), expected)
    np.testing.assert_allclose(flat(found), flat(product(case)(case.v)), rtol=1e-11, atol=1e-14)


@equation("PG-105")
@pytest.mark.parametrize(("actions", "keep", "by"), [(3, False, "pass"), (3, True, "factors"), (2, False, "factors"), (2, True, "factors")])
def test_blocks_hold_no_more_samples_than_asked(rng, actions, keep, by):
    """What keeps the memory bounded: the policy never sees the whole batch. A single combination needs no pass of its own."""
    seen, inner = [], policies.categorical(nets.mlp([2, 3, actions], dtype=tf.float64), actions, dtype=tf.float64)

    def watched(function, name):
        def call(params, observation, *rest):
            seen.append((name, observation.shape[0]))
            return function(params, observation, *rest)

        return call

    params = random_like(inner.init(SEED), rng)
    net = inner.net._replace(factors=watched(inner.net.factors, "factors"))
    policy, observation = inner._replace(parameters=watched(inner.parameters, "pass"), net=net), tf.constant(rng.normal(size=[SAMPLES, 2]))
    by_blocks(policy, params, observation, tf.constant(WEIGHT), 4, keep, params)
    assert seen == [(by, 4), (by, 4)]


@equation("PG-105")
@pytest.mark.parametrize("block", [1, 4, 6])
@pytest.mark.parametrize("make", ["two actions", "one number"])
def test_a_single_combination_makes_its_factors_for_each_product(mode, rng, make, block):
    """R = 1: the difference of two logits, and the only mean of a Gaussian, whose deviation the network does not know."""
    net = lambda outputs: nets.mlp([2, 4, 3, outputs], dtype=tf.float64)  # noqa: E731
    policy = {
        "two actions": lambda: policies.categorical(net(2), 2, dtype=tf.float64),
        "one number": lambda: policies.gaussian(net(1), [-1.0], [2.0], dtype=tf.float64),
    }[make]()
    params, v = (random_like(policy.init(SEED), rng) for _ in range(2))
    observation, weight = tf.constant(rng.normal(size=[SAMPLES, 2])), tf.constant(WEIGHT)
    assert gradients.combined(policy, params) == 1
    expected = gradients.fisher_vector_product(policy, params, observation, weight, v)
    found = mode(lambda v: by_blocks(policy, params, observation, weight, block, False, v))(v)
    tf.nest.assert_same_structure(found, params)
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-11, atol=1e-14)
    assert np.abs(flat(found)).max() > 1e-2


@equation("PG-105")
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu", "swish"])
def test_factors_are_the_jacobian_of_a_network_with_several_layers(mode, activation):
    """forward is C' J v and back is J' C u, for any combinations C, J by finite differences."""
    rng = np.random.default_rng(5)
    net = nets.mlp([2, 4, 3, 5, 3], activation, dtype=tf.float64)
    params = random_like(net.init(SEED), rng)
    x, v, c = rng.normal(size=[SAMPLES, 2]), random_like(params, rng), rng.normal(size=[3, 2])
    u, theta, h = rng.normal(size=[SAMPLES, 2]), flat(params), 1e-6
    outputs = lambda theta: net.apply(nest_of(theta, params), tf.constant(x)).numpy()  # noqa: E731
    jacobian = np.stack([(outputs(theta + h * e) - outputs(theta - h * e)) / (2 * h) for e in np.eye(len(theta))], axis=-1)

    def everything(params, x, v, u):
        f = net.factors(params, x, tf.constant(c))
        return f.output, nets.forward(f, v), nets.back(f, u), nets.back(nets.to_keep(f), u)

    y, forward, back, kept = mode(everything)(params, tf.constant(x), v, tf.constant(u))
    np.testing.assert_allclose(y, outputs(theta), rtol=1e-12)
    np.testing.assert_allclose(forward, np.einsum("kr,mkp,p->mr", c, jacobian, flat(v)), rtol=1e-6, atol=1e-8)
    for found in (back, kept):
        np.testing.assert_allclose(flat(found), np.einsum("mkp,kr,mr->p", jacobian, c, u), rtol=1e-6, atol=1e-8)
        tf.nest.assert_same_structure(found, params)


@equation("PG-105")
def test_components_of_an_action_keep_their_factors_too(mode, rng):
    """Several softmaxes side by side, one of them narrower: every output counts, in its own place."""
    policy = policies.multi_categorical(nets.mlp([2, 4, 5], dtype=tf.float64), [2, 3], dtype=tf.float64)
    params, v = (random_like(policy.init(SEED), rng) for _ in range(2))
    observation, weight = tf.constant(rng.normal(size=[SAMPLES, 2])), tf.constant(WEIGHT)
    expected = gradients.fisher_vector_product(policy, params, observation, weight, v)
    found = mode(lambda v: by_blocks(policy, params, observation, weight, 4, True, v))(v)
    np.testing.assert_allclose(flat(found), flat(expected), rtol=1e-11, atol=1e-14)
    assert np.abs(flat(found)).max() > 1e-2


@equation("PG-105")
def test_factors_are_kept_where_they_are_faster_and_fit():
    """Up to four numbers that matter, whatever the width; not too many samples, nor a network without factors."""
    discrete = lambda actions, width: policies.categorical(nets.mlp([4, width, width, actions]), actions)  # noqa: E731
    real = lambda n, width: policies.gaussian(nets.mlp([17, width, width, n]), [-1.0] * n, [1.0] * n)  # noqa: E731
    kept = lambda policy, samples=2048: gradients.worth_keeping(policy, policy.init(SEED), samples)  # noqa: E731
    for width in (16, 256):
        assert kept(discrete(2, width))
        assert kept(discrete(5, width))
        assert not kept(discrete(6, width))
        assert kept(real(1, width))
        assert kept(real(4, width))
        assert not kept(real(5, width))
    assert kept(discrete(2, 64), 131_072)
    assert not kept(discrete(2, 64), 1_000_000)
    assert not kept(discrete(1, 64))
    assert not kept(policies.categorical(nets.keras_mlp([4, 64, 64, 2]), 2))


@equation("PG-105")
def test_leaves_the_policy_does_not_use_get_zeros(mode, case):
    params = {"unused": tf.constant([1.0, -2.0], tf.float64), "used": case.params}
    policy = case.policy._replace(parameters=lambda params, observation: case.policy.parameters(params["used"], observation))
    v = {"unused": tf.constant([0.3, 0.7], tf.float64), "used": case.v}
    found = mode(lambda v: gradients.fisher_vector_product(policy, params, case.observation, case.weight, v))(v)
    np.testing.assert_array_equal(found["unused"], [0, 0])
    np.testing.assert_allclose(flat(found["used"]), flat(product(case)(case.v)), rtol=1e-12, atol=1e-15)


@equation("PG-105")
def test_a_constant_deviation_has_no_curvature(mode, rng):
    """The head's parameters need not all depend on theta: here log_std is a given number."""
    inner, net = gaussian(), nets.mlp([2, 3, 2], dtype=tf.float64)
    log_std = tf.constant([-0.5, 0.4], tf.float64)
    policy = inner._replace(parameters=lambda params, o: {"loc": net.apply(params, o), "log_std": tf.broadcast_to(log_std, [SAMPLES, 2])})
    params, observation = random_like(net.init(SEED), rng), tf.constant(rng.normal(size=[SAMPLES, 2]))
    v = random_like(params, rng)
    found = mode(lambda v: gradients.fisher_vector_product(policy, params, observation, tf.constant(WEIGHT), v))(v)
    whole = {"net": params, "log_std": log_std}
    expected = gradients.fisher_vector_product(
        inner, whole, observation, tf.constant(WEIGHT), {"net": v, "log_std": tf.zeros([2], tf.float64)}
    )
    np.testing.assert_allclose(flat(found), flat(expected["net"]), rtol=1e-11, atol=1e-14)


@equation("PG-103", "PG-105")
@pytest.mark.parametrize("reverse", [False, True])
def test_half_the_quadratic_form_is_the_divergence_to_second_order(case, reverse):
    """PG-103: the ratio of KL to d'Fd tends to 1/2, with an error of first order in the length of d."""
    p = case.policy.parameters(case.params, case.observation)
    old, quadratic = case.policy.distribution(p), flat(case.v) @ flat(product(case)(case.v))

    def error(length):
        new = case.policy.distribution(
            case.policy.parameters(trees.axpy(tf.constant(length, tf.float64), case.v, case.params), case.observation)
        )
        divergence = new.kl_divergence(old) if reverse else old.kl_divergence(new)
        return float(tf.reduce_sum(case.weight * divergence)) / (length**2 * quadratic) - 0.5

    assert abs(error(1e-3)) < 1e-2
    np.testing.assert_allclose(error(2e-3) / error(1e-3), 2, rtol=0.1)


@equation("PG-22", "PG-105")
@pytest.mark.parametrize("make", [categorical, gaussian])
def test_single_precision_agrees_with_double(mode, rng, make):
    params, v = (random_like(make().init(SEED), rng) for _ in range(2))
    observation = rng.normal(size=[SAMPLES, 2])
    action = tf.constant([0, 2, 1, 1, 0, 2]) if make is categorical else rng.normal(size=[SAMPLES, 2])
    found = []
    for dtype in (tf.float32, tf.float64):
        policy, cast = make(dtype), partial(tf.cast, dtype=dtype)
        o, weight, a = cast(observation), cast(WEIGHT), action if make is categorical else cast(action)

        def everything(params, v, policy=policy, o=o, weight=weight, a=a):
            return (
                gradients.score(policy, params, o, a),
                gradients.fisher_vector_product(policy, params, o, weight, v),
                by_blocks(policy, params, o, weight, 4, False, v),
                by_blocks(policy, params, o, weight, 4, True, v),
            )

        found.append(mode(everything)(*tf.nest.map_structure(cast, (params, v))))
        assert {leaf.dtype for leaf in tf.nest.flatten(found[-1])} == {dtype}
    for single, double in zip(*found, strict=True):
        np.testing.assert_allclose(flat(single), flat(double), rtol=1e-4, atol=3e-6)
