"""The Gaussian distribution with any covariance against its density formula, quadrature, and finite differences."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import distributions

equation = pytest.mark.equation

A = 3
LOC = np.random.default_rng(5).normal(size=(2, 4, A))
ACTION = np.random.default_rng(6).normal(scale=1.5, size=(2, 4, A))


def random_scales(seed, shape, size=A):
    """Lower triangular, diagonals from 0.4 to 1.6, nothing else zero."""
    rng = np.random.default_rng(seed)
    lower = np.tril(rng.normal(scale=0.7, size=(*shape, size, size)), -1)
    return lower + np.eye(size) * rng.uniform(0.4, 1.6, size=(*shape, size, 1))


SCALE = random_scales(8, (2, 4))
OTHER_LOC, OTHER_SCALE = LOC + np.random.default_rng(9).normal(size=LOC.shape), random_scales(10, (2, 4))


def covariance(scale):
    return scale @ np.swapaxes(scale, -1, -2)


def density_formula(loc, sigma, action):
    """log N(a; f, Sigma) of one action, with the inverse and the determinant written out."""
    error = action - loc
    return -0.5 * error @ np.linalg.inv(sigma) @ error - 0.5 * np.log(np.linalg.det(2 * np.pi * sigma))


def over_batch(function, *arrays):
    return np.array([[function(*(x[i, j] for x in arrays)) for j in range(4)] for i in range(2)])


def slope(function, *arguments):
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
        total = tf.reduce_sum(value)
    return value, tape.gradient(total, arguments)


def nodes(size, degree=6):
    """Points and weights of E f(z), z ~ N(0, 1_size): exact for polynomials of degree 2 degree - 1 in each component."""
    points, weights = np.polynomial.hermite_e.hermegauss(degree)
    grid = np.array(list(itertools.product(points, repeat=size)))
    return grid, np.array([np.prod(row) for row in itertools.product(weights / weights.sum(), repeat=size)])


# Density


@equation("PG-91", "PG-92", "PG-30")
def test_log_prob_is_the_density_formula_and_slopes_by_the_scores(mode):
    def everything(*given):
        nll = slope(distributions.gaussian_nll, *given)
        scores = distributions.gaussian_score_loc(*given), distributions.gaussian_score_scale(*given)
        return slope(distributions.gaussian_log_prob, *given), nll, scores

    expected = over_batch(density_formula, LOC, covariance(SCALE), ACTION)
    for dtype, tolerance in ((tf.float64, 1e-11), (tf.float32, 2e-5)):
        given = (tf.constant(x, dtype) for x in (LOC, SCALE, ACTION))
        (value, gradients), (nll, descents), (loc, scale) = mode(everything)(*given)
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_allclose(gradients[0], loc, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(np.tril(gradients[1]), scale, rtol=tolerance, atol=5 * tolerance)
        np.testing.assert_allclose(gradients[2], -loc, rtol=tolerance, atol=tolerance)
        np.testing.assert_array_equal(nll, -value)
        for ascent, descent in zip(gradients, descents, strict=True):
            np.testing.assert_array_equal(descent, -ascent)


@equation("PG-91")
@pytest.mark.parametrize("size", [1, 2])
def test_density_integrates_to_one_and_has_the_moments_of_its_arguments(size):
    """The trapezoid rule over ten deviations, in one and two dimensions."""
    scale, loc = random_scales(12, (), size), np.array([0.7, -1.2])[:size]
    sigma = covariance(scale)
    axes = [f + np.sqrt(v) * np.linspace(-10, 10, 241) for f, v in zip(loc, np.diag(sigma), strict=True)]
    grid = np.stack([x.ravel() for x in np.meshgrid(*axes, indexing="ij")], axis=-1)
    step = np.prod([axis[1] - axis[0] for axis in axes])
    log_prob = distributions.gaussian_log_prob(np.tile(loc, (len(grid), 1)), np.tile(scale, (len(grid), 1, 1)), grid).numpy()
    weight = np.exp(log_prob) * step
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(weight @ grid, loc, rtol=1e-11)
    np.testing.assert_allclose(np.einsum("k,ki,kj->ij", weight, grid - loc, grid - loc), sigma, rtol=1e-11)
    np.testing.assert_allclose(-(weight @ log_prob), distributions.gaussian_entropy(scale), rtol=1e-11)


@equation("PG-91")
def test_under_an_affine_map_of_the_actions_the_density_loses_the_log_of_its_determinant(rng):
    """log p(B a + c) = log p(a) - log |det B|, the law of B a + c being N(B f + c, B Sigma B^T)."""
    b, c = rng.normal(size=(A, A)), rng.normal(size=A)
    assert abs(np.linalg.det(b)) > 0.1
    moved = np.linalg.cholesky(b @ covariance(SCALE) @ b.T)
    found = distributions.gaussian_log_prob(LOC @ b.T + c, moved, ACTION @ b.T + c)
    before = distributions.gaussian_log_prob(LOC, SCALE, ACTION)
    np.testing.assert_allclose(found, before - np.log(abs(np.linalg.det(b))), rtol=1e-10)


@equation("PG-91")
def test_log_prob_agrees_with_tfp():
    import tensorflow_probability as tfp

    reference = tfp.distributions.MultivariateNormalTriL(LOC, SCALE)
    np.testing.assert_allclose(distributions.gaussian_log_prob(LOC, SCALE, ACTION), reference.log_prob(ACTION), rtol=1e-12)
    np.testing.assert_allclose(distributions.gaussian_entropy(SCALE), reference.entropy(), rtol=1e-12)


@equation("PG-91")
def test_entropy_is_half_the_log_determinant_and_slopes_by_the_inverse_diagonal(mode):
    expected = 0.5 * np.log(np.linalg.det(2 * np.pi * np.e * covariance(SCALE)))
    for dtype, tolerance in ((tf.float64, 1e-12), (tf.float32, 1e-5)):
        value, (gradient,) = mode(lambda scale: slope(distributions.gaussian_entropy, scale))(tf.constant(SCALE, dtype))
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_allclose(gradient, np.eye(A) / np.where(SCALE == 0, 1, SCALE), rtol=tolerance, atol=tolerance)


@equation("PG-91", "PG-102")
def test_with_a_diagonal_covariance_everything_is_what_it_is_with_any(mode):
    log_std, other = np.random.default_rng(13).normal(scale=0.7, size=(2, *LOC.shape))

    def everything(loc, log_std, other_loc, other, action):
        ours = (
            slope(distributions.diagonal_log_prob, loc, log_std, action),
            slope(distributions.diagonal_entropy, log_std),
            slope(distributions.diagonal_kl, loc, log_std, other_loc, other),
        )
        scale = lambda log_std: tf.linalg.diag(tf.exp(log_std))  # noqa: E731
        full = (
            slope(lambda f, s, a: distributions.gaussian_log_prob(f, scale(s), a), loc, log_std, action),
            slope(lambda s: distributions.gaussian_entropy(scale(s)), log_std),
            slope(lambda f, s, g, r: distributions.gaussian_kl(f, scale(s), g, scale(r)), loc, log_std, other_loc, other),
        )
        return ours, full

    for dtype, tolerance in ((tf.float64, 1e-11), (tf.float32, 5e-5)):
        ours, full = mode(everything)(*(tf.constant(x, dtype) for x in (LOC, log_std, OTHER_LOC, other, ACTION)))
        tf.nest.map_structure(lambda x, y, t=tolerance: np.testing.assert_allclose(x, y, rtol=t, atol=t), ours, full)


@equation("PG-102")
def test_the_diagonal_divergence_keeps_its_digits_near_0():
    """To second order it is sum_i (d log sigma_i)^2 + 1/2 (d f_i / sigma_i)^2."""
    log_std, step = np.random.default_rng(14).normal(scale=0.7, size=(2, 4, A)).astype(np.float32)
    zero = np.zeros_like(step)
    for size in (np.float32(1e-2), np.float32(1e-3)):
        moved = distributions.diagonal_kl(size * step, log_std, zero, log_std)
        np.testing.assert_allclose(moved, 0.5 * ((size * step / np.exp(log_std)) ** 2).sum(-1), rtol=1e-5)
        widened = distributions.diagonal_kl(zero, size * step, zero, zero)
        np.testing.assert_allclose(widened, ((size * step) ** 2).sum(-1), rtol=5 * size)


# Scores


@equation("PG-92")
def test_score_of_the_mean_is_its_finite_difference_without_a_half(mode):
    """The notes' extra factor 1/2 would give exactly half of it."""
    found = mode(distributions.gaussian_score_loc)(*map(tf.constant, (LOC, SCALE, ACTION))).numpy()
    expected = over_batch(lambda f, sigma, a: finite_difference(lambda f: density_formula(f, sigma, a), f), LOC, covariance(SCALE), ACTION)
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())
    assert np.abs(expected).max() > 1
    single = mode(distributions.gaussian_score_loc)(*(tf.constant(x, tf.float32) for x in (LOC, SCALE, ACTION)))
    np.testing.assert_allclose(single, found, rtol=1e-4, atol=1e-5)


@equation("PG-92")
def test_score_of_the_covariance_is_its_finite_difference_entry_by_entry(mode):
    """Entries of Sigma taken as independent: moving two symmetric ones together sees the sum of both, 2 G_ij."""
    found = mode(distributions.gaussian_score_covariance)(*map(tf.constant, (LOC, SCALE, ACTION))).numpy()
    expected = over_batch(
        lambda f, sigma, a: finite_difference(lambda sigma: density_formula(f, sigma, a), sigma), LOC, covariance(SCALE), ACTION
    )
    np.testing.assert_allclose(found, np.swapaxes(found, -1, -2), rtol=1e-12)
    np.testing.assert_allclose(found, expected, atol=2e-8 * np.abs(expected).max())
    pair, h = np.zeros((A, A)), 1e-5
    pair[0, 2] = pair[2, 0] = h
    f, sigma, a = LOC[1, 1], covariance(SCALE)[1, 1], ACTION[1, 1]
    both = (density_formula(f, sigma + pair, a) - density_formula(f, sigma - pair, a)) / (2 * h)
    np.testing.assert_allclose(both, 2 * found[1, 1, 0, 2], rtol=1e-7)
    single = mode(distributions.gaussian_score_covariance)(*(tf.constant(x, tf.float32) for x in (LOC, SCALE, ACTION)))
    np.testing.assert_allclose(single, found, rtol=1e-3, atol=1e-4 * np.abs(found).max())


@equation("PG-92")
def test_score_of_the_factor_is_its_finite_difference_on_and_below_the_diagonal(mode):
    found = mode(distributions.gaussian_score_scale)(*map(tf.constant, (LOC, SCALE, ACTION))).numpy()
    expected = over_batch(
        lambda f, scale, a: finite_difference(lambda scale: density_formula(f, covariance(scale), a), scale), LOC, SCALE, ACTION
    )
    np.testing.assert_allclose(found, np.tril(expected), atol=2e-8 * np.abs(expected).max())
    assert not np.any(np.triu(found, 1))
    assert np.abs(np.tril(found, -1)).max() > 0.1
    single = mode(distributions.gaussian_score_scale)(*(tf.constant(x, tf.float32) for x in (LOC, SCALE, ACTION)))
    np.testing.assert_allclose(single, found, rtol=1e-3, atol=1e-4 * np.abs(found).max())


@equation("PG-92", "PG-104")
def test_scores_have_zero_mean_and_those_of_the_mean_the_precision_as_their_fisher_matrix():
    grid, weight = nodes(A)
    loc, scale = LOC[0, 2], SCALE[0, 2]
    given = np.tile(loc, (len(grid), 1)), np.tile(scale, (len(grid), 1, 1)), loc + grid @ scale.T
    g = distributions.gaussian_score_loc(*given).numpy()
    for score in (g, distributions.gaussian_score_covariance(*given).numpy(), distributions.gaussian_score_scale(*given).numpy()):
        np.testing.assert_allclose(np.tensordot(weight, score, 1), 0, atol=1e-12)
        assert np.abs(score).max() > 1
    precision = np.linalg.inv(covariance(scale))
    np.testing.assert_allclose(np.einsum("k,ki,kj->ij", weight, g, g), precision, rtol=1e-10)
    jacobian = np.random.default_rng(2).normal(size=(A, 5))  # f(theta) = J theta
    in_theta = g @ jacobian
    np.testing.assert_allclose(np.einsum("k,kp,kq->pq", weight, in_theta, in_theta), jacobian.T @ precision @ jacobian, rtol=1e-9)


@equation("PG-30")
def test_with_unit_covariance_the_surrogate_slopes_like_half_the_squared_error(mode):
    unit = np.broadcast_to(np.eye(A), SCALE.shape)
    given = tuple(map(tf.constant, (LOC, unit, ACTION)))
    value, gradients = mode(lambda *given: slope(distributions.gaussian_nll, *given))(*given)
    np.testing.assert_allclose(gradients[0], LOC - ACTION, rtol=1e-12)
    np.testing.assert_allclose(value - A * np.log(2 * np.pi) / 2, 0.5 * ((ACTION - LOC) ** 2).sum(-1), rtol=1e-12)


@equation("PG-30")
def test_with_a_learned_covariance_the_log_determinant_is_what_stops_its_growth(mode):
    """Of many actions the best Sigma is their covariance: there the slope in L vanishes, and without the determinant it does not."""
    actions = ACTION.reshape(-1, A)
    error = actions - actions.mean(0)
    best = np.linalg.cholesky(error.T @ error / len(actions))
    tiled = lambda x: tf.tile(x[None], [len(actions), *[1] * len(x.shape)])  # noqa: E731

    def mean(loc, scale):
        return tf.reduce_mean(distributions.gaussian_nll(tiled(loc), tiled(scale), tf.constant(actions)))

    _, (loc, scale) = mode(lambda loc, scale: slope(mean, loc, scale))(tf.constant(actions.mean(0)), tf.constant(best))
    np.testing.assert_allclose(loc, np.zeros(A), atol=1e-13)
    np.testing.assert_allclose(np.tril(scale), np.zeros((A, A)), atol=1e-12)
    with_half = slope(mean, tf.constant(actions.mean(0)), tf.constant(1.1 * best))[1][1]
    assert np.diag(with_half).min() > 0.05


@equation("PG-30")
def test_without_the_log_determinant_the_sample_covariance_is_not_where_the_slope_vanishes():
    """There the weighed squares alone still fall with every deviation, by 1 / L_ii: what the determinant has to make up for."""
    actions = ACTION.reshape(-1, A)
    error = actions - actions.mean(0)
    best = np.linalg.cholesky(error.T @ error / len(actions))

    def squares(scale):
        return np.mean(np.sum(np.linalg.solve(scale, error.T) ** 2, axis=0)) / 2

    def without_determinant(scale):
        given = np.tile(actions.mean(0), (len(actions), 1)), tf.tile(scale[None], [len(actions), 1, 1]), actions
        return tf.reduce_mean(distributions.gaussian_nll(*given)) - tf.reduce_sum(tf.math.log(tf.linalg.diag_part(scale)))

    expected = np.tril(finite_difference(squares, best))
    found = np.tril(slope(without_determinant, tf.constant(best))[1][0])
    np.testing.assert_allclose(found, expected, atol=1e-8)
    np.testing.assert_allclose(np.diag(found), -1 / np.diag(best), rtol=1e-10)
    assert np.abs(np.diag(found)).min() > 0.05


# Divergence


@equation("PG-102")
def test_divergence_is_the_expected_difference_of_log_densities(mode):
    """Quadrature that is exact for the quadratics of which log densities consist."""
    grid, weight = nodes(A, 3)

    def expected(f, p, g, q):
        actions = f + grid @ p.T
        terms = [density_formula(f, covariance(p), a) - density_formula(g, covariance(q), a) for a in actions]
        return weight @ terms

    for dtype, tolerance in ((tf.float64, 1e-10), (tf.float32, 3e-5)):
        given = [tf.constant(x, dtype) for x in (LOC, SCALE, OTHER_LOC, OTHER_SCALE)]
        forward, reverse = mode(lambda f, p, g, q: (distributions.gaussian_kl(f, p, g, q), distributions.gaussian_kl(g, q, f, p)))(*given)
        np.testing.assert_allclose(forward, over_batch(expected, LOC, SCALE, OTHER_LOC, OTHER_SCALE), rtol=tolerance)
        np.testing.assert_allclose(reverse, over_batch(expected, OTHER_LOC, OTHER_SCALE, LOC, SCALE), rtol=tolerance)
        assert min(forward.numpy().min(), reverse.numpy().min()) > 0
        assert np.abs(forward - reverse).max() > 0.5


@equation("PG-102")
def test_divergence_slopes_by_finite_differences_of_its_closed_form(mode):
    def closed(f, p, g, q):
        sigma_p, inverse = covariance(p), np.linalg.inv(covariance(q))
        distance = np.trace(inverse @ sigma_p) + (f - g) @ inverse @ (f - g) - A
        return 0.5 * (distance - np.log(np.linalg.det(inverse @ sigma_p)))

    row = [x[:1, 1] for x in (LOC, SCALE, OTHER_LOC, OTHER_SCALE)]
    value, gradients = mode(lambda *given: slope(distributions.gaussian_kl, *given))(*map(tf.constant, row))
    np.testing.assert_allclose(value, [closed(*(x[0] for x in row))], rtol=1e-11)
    for k, gradient in enumerate(gradients):
        expected = finite_difference(lambda x, k=k: closed(*(x if i == k else y[0] for i, y in enumerate(row))), row[k][0])
        lower = np.tril if expected.ndim == 2 else np.asarray
        np.testing.assert_allclose(lower(gradient[0]), lower(expected), atol=1e-8 * max(1, np.abs(expected).max()))
        assert np.abs(expected).max() > 0.1


@equation("PG-102")
def test_divergence_of_equals_is_zero_with_zero_slope(mode):
    given = [tf.constant(x) for x in (LOC, SCALE, LOC, SCALE)]
    value, gradients = mode(lambda *given: slope(distributions.gaussian_kl, *given))(*given)
    np.testing.assert_allclose(value, np.zeros((2, 4)), atol=1e-30)
    for gradient in gradients:
        np.testing.assert_allclose(np.tril(gradient) if gradient.shape.rank == 4 else gradient, np.zeros(gradient.shape), atol=1e-14)


# Samples


@equation("PG-91")
def test_a_sample_is_the_mean_plus_the_factor_times_the_noise(mode, rng):
    noise = rng.normal(size=LOC.shape)
    expected = np.array([[LOC[i, j] + SCALE[i, j] @ noise[i, j] for j in range(4)] for i in range(2)])
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 1e-5)):
        found = mode(distributions.gaussian_sample)(*(tf.constant(x, dtype) for x in (LOC, SCALE, noise)))
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@equation("PG-91")
def test_samples_have_the_mean_and_the_covariance_of_the_law():
    """Over quadrature nodes of the noise: exact, and blind to nothing (L^T in place of L gives another covariance)."""
    grid, weight = nodes(A, 3)
    actions = distributions.gaussian_sample(*(np.tile(x, (len(grid), *[1] * x.ndim)) for x in (LOC[0, 0], SCALE[0, 0])), grid).numpy()
    np.testing.assert_allclose(weight @ actions, LOC[0, 0], rtol=1e-12)
    error = actions - LOC[0, 0]
    np.testing.assert_allclose(np.einsum("k,ki,kj->ij", weight, error, error), covariance(SCALE[0, 0]), rtol=1e-12)
    assert np.abs(covariance(SCALE[0, 0]) - SCALE[0, 0].T @ SCALE[0, 0]).max() > 0.1


# The linear Gaussian policy of two parameters


@equation("PG-93")
def test_linear_gaussian_scores_are_the_slopes_of_the_log_density(mode, rng):
    k, sigma, (s, a) = -0.7, 0.6, rng.normal(size=(2, 3, 4))
    expected = -0.5 * (a - k * s) ** 2 / sigma**2 - np.log(sigma * np.sqrt(2 * np.pi))

    def everything(k, sigma, s, a):
        with tf.GradientTape() as tape:
            tape.watch((k, sigma))
            value = distributions.linear_gaussian_log_prob(k, sigma, s, a)
        return value, tape.jacobian(value, (k, sigma)), distributions.linear_gaussian_score(k, sigma, s, a)

    for dtype, tolerance in ((tf.float64, 1e-12), (tf.float32, 3e-5)):
        value, jacobian, score = mode(everything)(*(tf.constant(x, dtype) for x in (k, sigma, s, a)))
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_allclose(np.stack(jacobian, -1), score, rtol=tolerance, atol=10 * tolerance)
    by_hand = [(a - k * s) * s / sigma**2, ((a - k * s) ** 2 - sigma**2) / sigma**3]
    np.testing.assert_allclose(score, np.stack(by_hand, -1), rtol=1e-4, atol=1e-4)


@equation("PG-93")
@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.01])
def test_linear_gaussian_scores_have_the_sizes_of_one_over_sigma(sigma):
    """Root mean squares |s| / sigma and sqrt(2) / sigma, mean and cross moment zero: quadrature, exact for these polynomials."""
    k, s = -0.7, 1.9
    (z,), weight = nodes(1)[0].T, nodes(1)[1]
    score = distributions.linear_gaussian_score(k, sigma, np.full(6, s), k * s + sigma * z).numpy()
    np.testing.assert_allclose(weight @ score * sigma, [0, 0], atol=1e-11)
    moments = np.einsum("k,ki,kj->ij", weight, score, score) * sigma**2
    np.testing.assert_allclose(moments, np.diag([s**2, 2]), atol=1e-10)
