"""The softmax distribution against sums over its actions, finite differences, and the law of its samples."""

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import distributions

equation = pytest.mark.equation

K = 4
LOGITS = np.random.default_rng(3).normal(scale=1.3, size=(2, 3, K))
OTHER = np.random.default_rng(4).normal(scale=1.1, size=(2, 3, K))
ACTION = np.array([[2, 0, 3], [1, 1, 0]])


def softmax(logits):
    weight = np.exp(logits)
    return weight / weight.sum(-1, keepdims=True)


def log_prob(logits, action):
    """From the definition, one action at a time."""
    found = np.zeros(action.shape)
    for index in np.ndindex(action.shape):
        found[index] = logits[index][action[index]] - np.log(sum(np.exp(z) for z in logits[index]))
    return found


def every_score(logits):
    """grad log pi(a) in the logits of one distribution by finite differences, a row for each action."""
    return np.array([finite_difference(lambda z, a=a: log_prob(z[None], np.array([a]))[0], logits) for a in range(K)])


def slope(function, *arguments):
    """The value, and the gradients of its sum in each argument."""
    with tf.GradientTape() as tape:
        tape.watch(arguments)
        value = function(*arguments)
        total = tf.reduce_sum(value)
    return value, tape.gradient(total, arguments)


# Log-probability and score


@equation("PG-90", "PG-29")
def test_log_prob_is_the_logit_less_the_log_of_the_sum_and_slopes_by_the_score(mode):
    def everything(logits, action):
        value, (gradient,) = slope(lambda z: distributions.categorical_log_prob(z, action), logits)
        nll, (descent,) = slope(lambda z: distributions.categorical_nll(z, action), logits)
        return value, gradient, nll, descent, distributions.categorical_score(logits, action)

    expected, score = log_prob(LOGITS, ACTION), np.eye(K)[ACTION] - softmax(LOGITS)
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 2e-6)):
        value, gradient, nll, descent, explicit = mode(everything)(tf.constant(LOGITS, dtype), tf.constant(ACTION))
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_array_equal(nll, -value)
        np.testing.assert_array_equal(descent, -gradient)
        np.testing.assert_allclose(gradient, score, atol=tolerance)
        np.testing.assert_allclose(explicit, score, atol=tolerance)


@equation("PG-90")
def test_score_is_the_slope_of_the_log_probability_by_finite_differences():
    scores = every_score(LOGITS[0, 1])
    found = [distributions.categorical_score(LOGITS[0, 1], np.array(a)) for a in range(K)]
    np.testing.assert_allclose(found, scores, atol=1e-9)
    assert np.abs(scores).min() > 1e-2


@equation("PG-90", "PG-20")
def test_score_times_probability_is_the_slope_of_the_probability_and_sums_to_zero(rng):
    """grad p = p grad log p, and the probabilities of all actions sum to one whatever the logits."""
    logits = tf.constant(LOGITS[1, 2])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        pi = tf.stack([tf.exp(distributions.categorical_log_prob(logits, tf.constant(a))) for a in range(K)])
    weighted = np.array([softmax(LOGITS[1, 2])[a] * distributions.categorical_score(logits, tf.constant(a)).numpy() for a in range(K)])
    np.testing.assert_allclose(tape.jacobian(pi, logits), weighted, atol=1e-15)
    np.testing.assert_allclose(weighted.sum(0), 0, atol=1e-15)
    assert np.abs(weighted).max() > 0.1


@equation("PG-29", "PG-90")
def test_a_number_added_to_all_logits_of_a_state_changes_nothing(rng):
    shifted = LOGITS + 3.0 * rng.normal(size=(2, 3, 1))
    for function in (distributions.categorical_nll, distributions.categorical_score):
        np.testing.assert_allclose(function(shifted, ACTION), function(LOGITS, ACTION), atol=1e-14)
    np.testing.assert_allclose(distributions.categorical_kl(shifted, OTHER), distributions.categorical_kl(LOGITS, OTHER), atol=1e-14)
    np.testing.assert_allclose(distributions.categorical_fisher(shifted), distributions.categorical_fisher(LOGITS), atol=1e-14)


@equation("PG-29")
def test_one_hot_cross_entropy_is_that_of_the_action_and_its_labels_have_no_gradient(mode):
    def everything(logits, onehot):
        return slope(distributions.onehot_nll, logits, onehot)

    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 2e-6)):
        value, (gradient, labels) = mode(everything)(tf.constant(LOGITS, dtype), tf.constant(np.eye(K)[ACTION], dtype))
        np.testing.assert_allclose(value, -log_prob(LOGITS, ACTION), rtol=tolerance)
        np.testing.assert_allclose(gradient, softmax(LOGITS) - np.eye(K)[ACTION], atol=tolerance)
        assert labels is None or not np.any(labels)


@equation("PG-29")
def test_a_row_of_zero_labels_costs_nothing_and_labels_may_be_a_distribution(mode):
    labels = np.stack([np.zeros((3, K)), softmax(OTHER[1])])
    value, (gradient, _) = mode(lambda z, e: slope(distributions.onehot_nll, z, e))(tf.constant(LOGITS), tf.constant(labels))
    np.testing.assert_array_equal(value[0], np.zeros(3))
    np.testing.assert_array_equal(gradient[0], np.zeros((3, K)))
    np.testing.assert_allclose(value[1], -(labels[1] * np.log(softmax(LOGITS[1]))).sum(-1), rtol=1e-13)
    np.testing.assert_allclose(gradient[1], softmax(LOGITS[1]) - labels[1], atol=1e-14)


@equation("PG-29")
def test_weighted_cross_entropy_slopes_by_weighted_score_at_each_step(mode, rng):
    """1/N sum w CE of the notes: the weights meet their own steps, whatever the sign."""
    weight = rng.normal(size=(2, 3))
    found = mode(lambda z: slope(lambda z: weight * distributions.categorical_nll(z, ACTION) / 3, z)[1][0])(tf.constant(LOGITS))
    np.testing.assert_allclose(found, weight[..., None] * (softmax(LOGITS) - np.eye(K)[ACTION]) / 3, atol=1e-14)
    assert weight.min() < 0 < weight.max()


@equation("PG-29")
@pytest.mark.parametrize("shape", [(2, 3, 1), (3, 2), (K,)])
def test_indices_of_another_shape_are_refused(shape):
    wrong = np.zeros(shape, np.int32)
    for function in (distributions.categorical_log_prob, distributions.categorical_nll, distributions.categorical_score):
        with pytest.raises(ValueError, match="action"):
            function(LOGITS, wrong)
    with pytest.raises(ValueError, match="onehot"):
        distributions.onehot_nll(LOGITS, wrong.astype(np.float64))


# Entropy, divergence and Fisher matrix


@equation("PG-90")
def test_entropy_is_minus_the_expected_log_probability(mode):
    pi = softmax(LOGITS)
    expected = -(pi * np.log(pi)).sum(-1)
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 2e-6)):
        value, (gradient,) = mode(lambda z: slope(distributions.categorical_entropy, z))(tf.constant(LOGITS, dtype))
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_allclose(gradient, -pi * (np.log(pi) + expected[..., None]), atol=tolerance)
    np.testing.assert_allclose(distributions.categorical_entropy(np.full((2, K), 0.7)), np.log(K), rtol=1e-14)


@equation("PG-90", "PG-102")
def test_divergence_is_the_sum_of_its_definition_in_both_arguments(mode):
    p, q = softmax(LOGITS), softmax(OTHER)
    expected = (p * (np.log(p) - np.log(q))).sum(-1)
    in_p = p * (np.log(p / q) - expected[..., None])
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 3e-6)):
        given = tf.constant(LOGITS, dtype), tf.constant(OTHER, dtype)
        value, (gradient_p, gradient_q) = mode(lambda x, y: slope(distributions.categorical_kl, x, y))(*given)
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_allclose(gradient_p, in_p, atol=tolerance)
        np.testing.assert_allclose(gradient_q, q - p, atol=tolerance)


@equation("PG-102", "PG-90")
def test_divergence_is_positive_zero_for_equals_and_not_symmetric(mode, rng):
    """The sign of the notes (E_p[log q - log p]) would make every trust region hold."""
    x = rng.normal(scale=rng.uniform(1e-3, 4, size=(300, 1)), size=(300, K))
    y = x + rng.normal(scale=10 ** rng.uniform(-4, 1, size=(300, 1)), size=(300, K))
    for dtype in (tf.float64, tf.float32):
        forward, reverse, nothing = mode(
            lambda x, y: (distributions.categorical_kl(x, y), distributions.categorical_kl(y, x), distributions.categorical_kl(x, x))
        )(tf.constant(x, dtype), tf.constant(y, dtype))
        assert min(forward.numpy().min(), reverse.numpy().min()) > 0
        np.testing.assert_array_equal(nothing, np.zeros(300))
        assert np.abs(forward - reverse).max() > 0.5


@equation("PG-90", "PG-104")
def test_fisher_matrix_is_the_expected_outer_product_of_scores_and_minus_the_expected_hessian(mode):
    found = mode(distributions.categorical_fisher)(tf.constant(LOGITS)).numpy()
    for index in np.ndindex(2, 3):
        pi, scores = softmax(LOGITS[index]), every_score(LOGITS[index])
        np.testing.assert_allclose(found[index], np.einsum("a,ak,al->kl", pi, scores, scores), atol=1e-9)
        hessians = np.array([finite_difference_of_vector(lambda z, a=a: np.eye(K)[a] - softmax(z), LOGITS[index]) for a in range(K)])
        np.testing.assert_allclose(found[index], -np.einsum("a,akl->kl", pi, hessians), atol=1e-9)
    single = mode(distributions.categorical_fisher)(tf.constant(LOGITS, tf.float32))
    np.testing.assert_allclose(single, found, atol=1e-6)


def finite_difference_of_vector(function, x, h=1e-5):
    return np.stack([(function(x + h * e) - function(x - h * e)) / (2 * h) for e in np.eye(len(x))], axis=-1)


@equation("PG-90", "PG-104")
def test_fisher_matrix_is_singular_along_the_ones_and_positive_elsewhere():
    for matrix in distributions.categorical_fisher(LOGITS).numpy().reshape(-1, K, K):
        np.testing.assert_allclose(matrix @ np.ones(K), 0, atol=1e-16)
        eigenvalues = np.linalg.eigvalsh(matrix)
        assert abs(eigenvalues[0]) < 1e-15
        assert eigenvalues[1] > 1e-3


@equation("PG-103", "PG-104")
@pytest.mark.parametrize("reverse", [False, True])
def test_fisher_matrix_is_the_hessian_of_the_divergence_at_equality(mode, reverse):
    """In either argument: at equality the two directions have one curvature."""

    def curvature(z):
        with tf.GradientTape(persistent=True) as outer:
            outer.watch(z)
            with tf.GradientTape() as inner:
                inner.watch(z)
                pair = (z, tf.constant(LOGITS[1, 0])) if reverse else (tf.constant(LOGITS[1, 0]), z)
                value = distributions.categorical_kl(*pair)
            gradient = inner.gradient(value, z)
        return value, gradient, outer.jacobian(gradient, z, experimental_use_pfor=False)

    value, gradient, hessian = mode(curvature)(tf.constant(LOGITS[1, 0]))
    pi = softmax(LOGITS[1, 0])
    assert abs(float(value)) < 1e-30
    np.testing.assert_allclose(gradient, np.zeros(K), atol=1e-15)
    np.testing.assert_allclose(hessian, np.diag(pi) - np.outer(pi, pi), atol=1e-14)


# Samples


@equation("PG-90")
def test_a_sample_is_the_action_whose_logit_and_noise_are_largest(mode):
    gumbel = np.array([[[0.0, 9, 0, 0], [0, 0, 9, 0], [9, 0, 0, 0]], [[0, 0, 0, 9], [0, 0, 0, 0], [0.2, 0.1, -0.3, -8]]])
    for dtype in (tf.float64, tf.float32):
        found = mode(distributions.categorical_sample)(tf.constant(LOGITS, dtype), tf.constant(gumbel, dtype))
        assert found.dtype == tf.int32
        for index in np.ndindex(2, 3):
            assert found[index] == max(range(K), key=lambda a, i=index: LOGITS[i][a] + gumbel[i][a])
        np.testing.assert_array_equal(found[0], [1, 2, 0])


@equation("PG-90")
def test_samples_follow_pi(rng):
    """Chi-square below its 1 - 1e-6 quantile, every frequency within five standard deviations; ignoring the logits fails both."""
    n, pi = 40_000, softmax(LOGITS[0, 1])
    action = distributions.categorical_sample(np.tile(LOGITS[0, 1], (n, 1)), rng.gumbel(size=(n, K)))
    counts = np.bincount(action, minlength=K)
    for probabilities, fits in ((pi, True), (np.full(K, 1 / K), False), (softmax(2 * LOGITS[0, 1]), False)):
        statistic = ((counts - n * probabilities) ** 2 / (n * probabilities)).sum()
        z = np.abs(counts - n * probabilities) / np.sqrt(n * probabilities * (1 - probabilities))
        assert (float(tf.math.igammac((K - 1) / 2, statistic / 2)) > 1e-6) == fits
        assert (z.max() <= 5) == fits
