"""Log-probabilities, divergences, entropies and their slopes where floating-point numbers are at their ends, against extended precision."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import distributions, divergences, gradients, nets, policies, surrogates

equation = pytest.mark.equation

TYPES = {"float64": 1e-12, "float32": 1e-5}
PRECISIONS = pytest.mark.parametrize("dtype", TYPES)
LOGITS = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.3, -1.2, 0.7], [1e4, 1e4 - 0.5, 1e4 - 2.0], [-1e4, -1e4, -1e4 + 1]])
OTHER = np.array([[-1e4, 1e4, 0.0], [1e4, 0.0, -1e4], [1e4, 0.0, 0.5], [0.1, 0.9, -1e4], [-1e4, -1e4 + 2, -1e4]])


def exact(x):
    """As the program reads it, and calculated on with at least eighteen digits."""
    return np.longdouble(np.asarray(x))


def log_softmax(z):
    z = exact(z) - exact(z).max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def values_and_slopes(function, arguments):
    """Everything a function returns, by name, and the gradient of its sum in every argument."""
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(arguments)
        values = function(*arguments)
    slopes = {name: tape.gradient(value, arguments, unconnected_gradients="zero") for name, value in values.items()}
    return values, slopes


def assert_finite(nest):
    assert all(np.isfinite(leaf).all() for leaf in tf.nest.flatten(nest))


def assert_close(found, expected, tolerance):
    """Relative to the size of the whole row: a probability of e^-10000 is zero."""
    found, expected = np.float64(found), np.float64(expected)
    scale = np.maximum(1, np.abs(expected).max(axis=-1, keepdims=True)) if np.ndim(expected) > 1 else np.maximum(1, np.abs(expected))
    assert np.all(np.abs(found - expected) <= tolerance * scale), (found, expected)


# Softmax


def categorical_expected(z, y):
    log_p, log_q = log_softmax(z), log_softmax(y)
    p, q = np.exp(log_p), np.exp(log_q)
    entropy, divergence = -(p * log_p).sum(-1), (p * (log_p - log_q)).sum(-1)
    every = p.sum(-1, keepdims=True)
    values = {"log_prob": log_p, "entropy": entropy, "divergence": divergence}
    in_z = {
        "log_prob": 1 - 3 * p,
        "entropy": -p * (log_p + entropy[:, None]) * every,
        "divergence": p * (log_p - log_q - divergence[:, None]),
    }
    return values, in_z, q - p


def own_categorical(z, y):
    row = lambda a: tf.fill(tf.shape(z)[:1], a)  # noqa: E731
    return {
        "log_prob": tf.stack([distributions.categorical_log_prob(z, row(a)) for a in range(3)], axis=1),
        "entropy": distributions.categorical_entropy(z),
        "divergence": distributions.categorical_kl(z, y),
    }


def head_categorical(z, y):
    policy = policies.categorical(nets.mlp([1, 3], dtype=z.dtype), 3, dtype=z.dtype)
    p, q = policy.distribution({"logits": z}), policy.distribution({"logits": y})
    row = lambda a: tf.fill(tf.shape(z)[:1], a)  # noqa: E731
    log_prob = tf.stack([p.log_prob(row(a)) for a in range(3)], axis=1)
    return {"log_prob": log_prob, "entropy": p.entropy(), "divergence": p.kl_divergence(q)}


@equation("PG-90", "PG-29", "PG-102")
@PRECISIONS
@pytest.mark.parametrize("implementation", [own_categorical, head_categorical])
def test_softmax_is_finite_and_right_at_logits_of_ten_thousand(mode, dtype, implementation):
    z, y = np.asarray(LOGITS, dtype), np.asarray(OTHER, dtype)
    values, slopes = mode(lambda *given: values_and_slopes(implementation, given))(tf.constant(z), tf.constant(y))
    expected, in_z, in_y = categorical_expected(z, y)
    assert_finite((values, slopes))
    for name, value in expected.items():
        assert_close(values[name], value, TYPES[dtype])
        # log(p / q) of 1e4 is known to 1e4 times the precision, and so is its product with p
        size = 1e4 if name == "divergence" else 1
        assert_close(slopes[name][0], in_z[name], 10 * size * TYPES[dtype] * (1e-2 if dtype == "float32" else 1))
    assert_close(slopes["divergence"][1], in_y, TYPES[dtype])


@equation("PG-90", "PG-104")
@PRECISIONS
def test_softmax_score_fisher_matrix_and_labels_at_logits_of_ten_thousand(mode, dtype):
    z = np.asarray(LOGITS, dtype)
    p = np.exp(log_softmax(z))
    action = np.array([1, 0, 2, 1, 2])

    def everything(z):
        onehot = tf.one_hot(action, 3, dtype=z.dtype)
        return distributions.categorical_score(z, action), distributions.categorical_fisher(z), distributions.onehot_nll(z, onehot)

    score, fisher, nll = mode(everything)(tf.constant(z))
    assert_close(score, np.eye(3)[action] - p, TYPES[dtype])
    assert_close(fisher, p[:, :, None] * np.eye(3) - p[:, :, None] * p[:, None, :], TYPES[dtype])
    assert_close(nll, -log_softmax(z)[np.arange(5), action], TYPES[dtype])


@equation("PG-104", "PG-103")
@PRECISIONS
def test_head_fisher_of_the_softmax_is_right_at_logits_of_ten_thousand(mode, dtype):
    z, u = np.asarray(LOGITS, dtype), np.asarray(np.random.default_rng(4).normal(size=LOGITS.shape), dtype)
    policy = policies.categorical(nets.mlp([1, 3]), 3)
    found = mode(lambda z, u: gradients.head_fisher(policy.distribution, {"logits": z}, {"logits": u}))(tf.constant(z), tf.constant(u))
    p = np.exp(log_softmax(z))
    assert_close(found["logits"], p * (exact(u) - (p * exact(u)).sum(-1, keepdims=True)), TYPES[dtype])


@equation("PG-79", "PG-90")
@PRECISIONS
def test_ratios_of_nearly_certain_policies_are_right_and_their_slopes_finite(mode, dtype):
    """exp(log pi' - log pi): near one although both log-probabilities are -2e4, and zero where one of them is."""
    z = np.asarray([[1e4, -1e4, 0], [1e4, -1e4, 0], [0.3, -1.2, 0.7]], dtype)
    y = np.asarray([[1e4, -1e4 + 0.25, 0], [1e4, 0, 0], [0, 0.5, 0]], dtype)
    action = np.array([1, 1, 2])

    def ratio(z, y):
        logs = [tf.reshape(distributions.categorical_log_prob(x, action), [3, 1]) for x in (z, y)]
        return {"ratio": surrogates.importance(*logs, tf.ones([3, 1], z.dtype))}

    values, slopes = mode(lambda *given: values_and_slopes(ratio, given))(tf.constant(z), tf.constant(y))
    rows = np.arange(3)
    expected = np.exp(log_softmax(z)[rows, action] - log_softmax(y)[rows, action])
    score = np.eye(3)[action] - np.exp(log_softmax(z))
    tolerance = 2e-3 if dtype == "float32" else 1e-11
    assert_close(values["ratio"][:, 0], expected, tolerance)
    assert_close(slopes["ratio"][0], expected[:, None] * score, tolerance)
    assert not np.any(slopes["ratio"][1])


# Gaussian

DEVIATIONS = np.array([[1e-6, 1e3], [1e3, 1e-6], [1e-6, 1e-6], [1e3, 1e3]])
CORRELATION = np.array([0.9, -0.5, 0.99, 0.3])


def gaussian_case(dtype, correlated):
    """Means, factors and actions as the program reads them; the actions one or two deviations away."""
    rng = np.random.default_rng(12)
    rho = CORRELATION * correlated
    unit = np.stack([np.stack([np.ones(4), 0 * rho], -1), np.stack([rho, np.sqrt(1 - rho**2)], -1)], 1)
    scale = DEVIATIONS[:, :, None] * unit
    loc = rng.normal(size=(4, 2))
    other_loc, other_scale = loc + 0.7 * DEVIATIONS * rng.normal(size=(4, 2)), scale * rng.uniform(0.6, 1.7, size=(4, 1, 1))
    action = loc + np.einsum("kij,kj->ki", scale, rng.normal(scale=1.5, size=(4, 2)))
    return [np.asarray(x, dtype) for x in (loc, scale, action, other_loc, other_scale)]


def solve(scale, x):
    """L^-1 x for 2 by 2 factors, in the precision of x."""
    first = x[:, 0] / scale[:, 0, 0]
    return np.stack([first, (x[:, 1] - scale[:, 1, 0] * first) / scale[:, 1, 1]], axis=1)


def gaussian_expected(loc, scale, action, other_loc, other_scale):
    """Values, and slopes in loc and in L: by L^-1 of the deviations, and dlog pi / dL = tril(L^-T (w w^T - 1))."""
    loc, scale, action, other_loc, other_scale = map(exact, (loc, scale, action, other_loc, other_scale))
    diag = lambda x: np.stack([x[:, 0, 0], x[:, 1, 1]], axis=1)  # noqa: E731
    transposed = lambda x: np.stack(  # noqa: E731
        [(x[:, 0] - scale[:, 1, 0] * x[:, 1] / scale[:, 1, 1]) / scale[:, 0, 0], x[:, 1] / scale[:, 1, 1]], axis=1
    )
    white = solve(scale, action - loc)
    log_prob = -0.5 * (white**2).sum(-1) - np.log(diag(scale)).sum(-1) - np.log(2 * exact(np.pi))
    entropy = np.log(diag(scale)).sum(-1) + 1 + np.log(2 * exact(np.pi))
    m = np.stack([solve(other_scale, scale[:, :, k]) for k in range(2)], axis=2)
    d = solve(other_scale, loc - other_loc)
    divergence = 0.5 * ((m**2).sum((-1, -2)) + (d**2).sum(-1) - 2) - np.log(diag(m)).sum(-1)
    columns = [transposed(white * white[:, k : k + 1] - np.eye(2)[k]) for k in range(2)]
    in_scale = np.tril(np.stack(columns, axis=2).astype(np.float64))
    return {"log_prob": log_prob, "entropy": entropy, "divergence": divergence}, transposed(white), in_scale


def own_gaussian(loc, scale, action, other_loc, other_scale):
    return {
        "log_prob": distributions.gaussian_log_prob(loc, scale, action),
        "entropy": distributions.gaussian_entropy(scale),
        "divergence": distributions.gaussian_kl(loc, scale, other_loc, other_scale),
        "reverse": distributions.gaussian_kl(other_loc, other_scale, loc, scale),
        "score": distributions.gaussian_score_loc(loc, scale, action),
        "score_scale": distributions.gaussian_score_scale(loc, scale, action),
    }


@equation("PG-91", "PG-92", "PG-30", "PG-102")
@PRECISIONS
@pytest.mark.parametrize("correlated", [0.0, 1.0])
def test_gaussian_is_finite_and_right_at_deviations_from_a_millionth_to_a_thousand(mode, dtype, correlated):
    """Any covariance, off-diagonals included. Relative precision: slopes are of the size of 1 / sigma, a million or a thousandth."""
    given = gaussian_case(dtype, correlated)
    values, slopes = mode(lambda *given: values_and_slopes(own_gaussian, given))(*map(tf.constant, given))
    expected, in_loc, in_scale = gaussian_expected(*given)
    tolerance = 100 * np.finfo(dtype).eps / (1 - 0.99 * correlated)
    assert_finite((values, slopes))
    for name, value in expected.items():
        assert_close(values[name], value, tolerance)
    for found in (values["score"], slopes["log_prob"][0], -slopes["log_prob"][2]):
        np.testing.assert_allclose(found * DEVIATIONS, np.float64(in_loc) * DEVIATIONS, rtol=tolerance, atol=10 * tolerance)
    for found in (values["score_scale"], np.tril(slopes["log_prob"][1])):
        np.testing.assert_allclose(found * DEVIATIONS[..., None], in_scale * DEVIATIONS[..., None], rtol=tolerance, atol=100 * tolerance)


@equation("PG-93")
@PRECISIONS
@pytest.mark.parametrize("sigma", [1e-6, 1e3])
def test_linear_gaussian_policy_is_right_at_its_smallest_and_largest_deviations(mode, dtype, sigma):
    s = np.asarray([0.3, -0.2, 0.9], dtype)
    k, sigma = np.asarray(-0.5, dtype), np.asarray(sigma, dtype)
    a = np.asarray(k * s + sigma * np.array([0.5, -1.7, 2.2]), dtype)
    score = lambda *given: (distributions.linear_gaussian_log_prob(*given), distributions.linear_gaussian_score(*given))  # noqa: E731
    log_prob, found = mode(score)(*map(tf.constant, (k, sigma, s, a)))
    product = np.asarray(k * s, dtype)  # rounded as the program must round it: of a deviation of 1e-6 float32 keeps a digit or two
    z = (exact(a) - exact(product)) / exact(sigma)
    tolerance = 0.3 if (dtype, float(sigma) < 1) == ("float32", True) else 1e-5 if dtype == "float32" else 1e-8
    assert_close(log_prob, -0.5 * z**2 - np.log(exact(sigma)) - 0.5 * np.log(2 * exact(np.pi)), tolerance)
    expected = np.float64(np.stack([z * exact(s), z**2 - 1], axis=-1))
    np.testing.assert_allclose(found * np.float64(sigma), expected, rtol=tolerance, atol=tolerance)


@equation("PG-91", "PG-92", "PG-102", "PG-104")
@PRECISIONS
def test_gaussian_head_is_finite_and_right_at_its_smallest_and_largest_deviations(mode, dtype):
    loc, scale, action, other_loc, other_scale = gaussian_case(dtype, 0.0)
    logs = [np.log(np.diagonal(x, axis1=1, axis2=2)) for x in (scale, other_scale)]
    u = np.asarray(np.random.default_rng(4).normal(size=loc.shape), dtype)
    policy = policies.gaussian(nets.mlp([1, 2]), [-1.0] * 2, [1.0] * 2)

    def head(loc, log_std, action):
        p = policy.distribution({"loc": loc, "log_std": log_std})
        q = policy.distribution({"loc": tf.constant(other_loc), "log_std": tf.constant(logs[1])})
        values = {"log_prob": p.log_prob(action), "entropy": p.entropy(), "divergence": p.kl_divergence(q), "reverse": q.kl_divergence(p)}
        return values

    def everything(loc, log_std, action, u):
        fisher = gradients.head_fisher(policy.distribution, {"loc": loc, "log_std": log_std}, {"loc": u, "log_std": u})
        return values_and_slopes(head, (loc, log_std, action)), fisher

    (values, slopes), fisher = mode(everything)(*map(tf.constant, (loc, logs[0], action, u)))
    diagonal = [np.einsum("ki,ij->kij", np.exp(exact(x)), np.eye(2)) for x in logs]
    expected, in_loc, in_scale = gaussian_expected(loc, diagonal[0], action, other_loc, diagonal[1])
    tolerance = 1e3 * np.finfo(dtype).eps
    assert_finite((values, slopes, fisher))
    for name, value in expected.items():
        assert_close(values[name], value, tolerance)
    np.testing.assert_allclose(slopes["log_prob"][0] * DEVIATIONS, np.float64(in_loc) * DEVIATIONS, rtol=tolerance, atol=tolerance)
    in_log = np.einsum("kii,kii->ki", in_scale, np.float64(diagonal[0]))
    np.testing.assert_allclose(slopes["log_prob"][1], in_log, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(fisher["loc"] * DEVIATIONS**2, u, rtol=tolerance)
    np.testing.assert_allclose(fisher["log_std"], 2 * u, rtol=tolerance)


# Nearly equal distributions: the divergence is the square of a small number


@equation("PG-102")
@PRECISIONS
@pytest.mark.parametrize("size", [1e-2, 1e-4])
def test_divergence_of_nearly_equal_softmaxes_keeps_its_digits(mode, dtype, size):
    """As a difference of logarithms it would be lost in their last digits, and negative half of the time."""
    rng = np.random.default_rng(13)
    z = np.asarray(rng.normal(size=(50, 4)), dtype)
    y = np.asarray(z + size * rng.normal(size=(50, 4)), dtype)
    found = mode(distributions.categorical_kl)(tf.constant(z), tf.constant(y)).numpy()
    log_p, log_q = log_softmax(z), log_softmax(y)
    d = log_q - log_p  # sum p (e^d - 1) is zero: each term is then positive, and of the size of d^2
    expected = np.float64((np.exp(log_p) * (np.expm1(d) - d)).sum(-1))
    np.testing.assert_allclose(found, expected, rtol=100 * np.finfo(dtype).eps / size)
    assert found.min() > 0


@equation("PG-102")
@PRECISIONS
@pytest.mark.parametrize("size", [1e-2, 1e-4])
@pytest.mark.parametrize("deviation", [1e-6, 1.0, 1e3])
def test_divergence_of_nearly_equal_gaussians_keeps_its_digits(mode, dtype, size, deviation):
    rng = np.random.default_rng(14)
    scale = np.tril(rng.normal(size=(20, 2, 2)), -1) + np.eye(2) * rng.uniform(0.5, 1.5, size=(20, 1, 2))
    p = np.asarray(deviation * scale, dtype)
    q = np.asarray(deviation * np.tril(scale * (1 + size * rng.normal(size=(20, 2, 2)))), dtype)
    f = np.asarray(deviation * rng.normal(size=(20, 2)), dtype)
    g = np.asarray(f + size * deviation * rng.normal(size=(20, 2)), dtype)
    found = mode(distributions.gaussian_kl)(*map(tf.constant, (f, p, g, q))).numpy()
    m = np.stack([solve(exact(q), exact(p)[:, :, k]) for k in range(2)], axis=2)
    d = solve(exact(q), exact(f) - exact(g))
    x = np.stack([m[:, 0, 0], m[:, 1, 1]], axis=1) - 1
    expected = np.float64((0.5 * x**2 + x - np.log1p(x)).sum(-1) + 0.5 * (m[:, 1, 0] ** 2 + (d**2).sum(-1)))
    np.testing.assert_allclose(found, expected, rtol=200 * np.finfo(dtype).eps / size)
    assert found.min() > 0


@equation("PG-102")
def test_divergence_of_nearly_equal_heads_keeps_half_of_its_digits(mode):
    """In double precision; single precision knows it to 3e-6 in all, which bounds what radius a step can be held to."""
    rng = np.random.default_rng(15)
    a, b = rng.normal(size=(2, 30, 3))
    softmax = policies.categorical(nets.mlp([1, 3]), 3)
    normal = policies.gaussian(nets.mlp([1, 3]), [-1.0] * 3, [1.0] * 3)

    def both(a, b):
        near = a + 1e-4 * b
        pairs = ((softmax, {"logits": a}, {"logits": near}), (normal, {"loc": a, "log_std": a}, {"loc": near, "log_std": near}))
        return [policy.distribution(p).kl_divergence(policy.distribution(q)) for policy, p, q in pairs]

    found = mode(both)(tf.constant(a), tf.constant(b))
    log_p, log_q = log_softmax(a), log_softmax(a + 1e-4 * b)
    x, e = exact(a + 1e-4 * b) - exact(a), np.exp(-exact(a + 1e-4 * b))
    normal_expected = (0.5 * np.expm1(-2 * x) + x + 0.5 * (x * e) ** 2).sum(-1)
    np.testing.assert_allclose(found[0], np.float64((np.exp(log_p) * (log_p - log_q)).sum(-1)), rtol=1e-6)
    np.testing.assert_allclose(found[1], np.float64(normal_expected), rtol=1e-6)
    single = mode(both)(tf.constant(a, tf.float32), tf.constant(b, tf.float32))
    np.testing.assert_allclose(single, found, atol=3e-6)


@equation("PG-102")
@PRECISIONS
def test_divergence_of_probabilities_of_a_billionth_is_finite_and_right(mode, dtype):
    p = np.asarray([[1 - 1e-9, 1e-9, 0], [0.5, 0.5 - 1e-30, 1e-30], [1e-30, 0.2, 0.8]], dtype)
    q = np.asarray([[1e-9, 1 - 1e-9, 1e-30], [0.25, 1e-30, 0.75], [0.3, 0.3, 0.4]], dtype)
    kl = lambda p, q: {"kl": divergences.kl(p, q)}  # noqa: E731
    values, slopes = mode(lambda *given: values_and_slopes(kl, given))(tf.constant(p), tf.constant(q))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, exact(p) * (np.log(exact(p)) - np.log(exact(q))), 0)
    assert_finite((values, slopes))
    assert_close(values["kl"], terms.sum(-1), TYPES[dtype])
