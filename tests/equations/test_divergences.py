"""Divergences, their quadratic model and Fisher matrices: a table of softmax policies whose every sum is written out."""

import itertools

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import divergences

equation = pytest.mark.equation

S, A = 3, 4
P = S * A
THETA = np.random.default_rng(21).normal(size=(S, A))
STATES = np.array([0.55, 0.0, 0.3])  # d(s): one state is never seen, and the sum is not one


def table(theta):
    weight = np.exp(theta.reshape(S, A))
    return weight / weight.sum(-1, keepdims=True)


def scores(theta):
    """grad log pi(a|s) in all of theta, by finite differences: [S, A, P]."""
    log_pi = lambda x, s, a: np.log(table(x))[s, a]  # noqa: E731
    return np.array([[finite_difference(lambda x, s=s, a=a: log_pi(x, s, a), theta.ravel()) for a in range(A)] for s in range(S)])


def mean_divergence(theta, other):
    """E_{s~d} KL(pi_theta || pi_other)."""
    p, q = table(theta), table(other)
    return sum(STATES[s] * p[s, a] * (np.log(p[s, a]) - np.log(q[s, a])) for s in range(S) for a in range(A))


PI, SCORE = table(THETA), scores(THETA)
WEIGHT = STATES[:, None] * PI
FISHER = sum(WEIGHT[s, a] * np.outer(SCORE[s, a], SCORE[s, a]) for s in range(S) for a in range(A))


# The divergence


@equation("PG-102")
def test_divergence_of_probabilities_is_its_sum_and_slopes_by_its_terms(mode, rng):
    p, q = rng.dirichlet(np.ones(A), size=(2, 3)), rng.dirichlet(np.ones(A), size=(2, 3))

    def everything(p, q):
        with tf.GradientTape() as tape:
            tape.watch((p, q))
            value = divergences.kl(p, q)
        return value, tape.gradient(value, (p, q))

    expected = np.array([[sum(p[i, j, k] * np.log(p[i, j, k] / q[i, j, k]) for k in range(A)) for j in range(3)] for i in range(2)])
    for dtype, tolerance in ((tf.float64, 1e-12), (tf.float32, 1e-5)):
        value, (in_p, in_q) = mode(everything)(tf.constant(p, dtype), tf.constant(q, dtype))
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_allclose(in_p, np.log(p / q) + 1, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(in_q, -p / q, rtol=tolerance)
    assert np.abs(divergences.kl(p, q) - divergences.kl(q, p)).min() > 1e-3


@equation("PG-102")
def test_divergence_is_not_negative_and_zero_for_equals_alone(rng):
    p, q = rng.dirichlet(np.full(A, 0.4), size=(2, 1000))
    assert divergences.kl(p, q).numpy().min() > 0
    np.testing.assert_array_equal(divergences.kl(p, p), np.zeros(1000))


@equation("PG-102")
def test_what_p_never_does_counts_nothing_and_what_q_never_does_counts_infinity(mode):
    p = tf.constant([[0.3, 0.0, 0.7], [0.3, 0.0, 0.7], [0.3, 0.7, 0.0], [1.0, 0.0, 0.0]], tf.float64)
    q = tf.constant([[0.4, 0.1, 0.5], [0.4, 0.0, 0.6], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], tf.float64)

    def everything(p, q):
        with tf.GradientTape() as tape:
            tape.watch((p, q))
            value = divergences.kl(p, q)
        return value, tape.gradient(value, (p, q))

    value, (in_p, in_q) = mode(everything)(p, q)
    some = [0.3 * np.log(0.3 / 0.4) + 0.7 * np.log(0.7 / 0.5), 0.3 * np.log(0.3 / 0.4) + 0.7 * np.log(0.7 / 0.6)]
    np.testing.assert_allclose(value, [*some, np.inf, 0], rtol=1e-13)
    finite = [0, 1, 3]
    np.testing.assert_allclose(in_q.numpy()[finite], [[-0.75, 0, -1.4], [-0.75, 0, -0.7 / 0.6], [-1, 0, 0]], rtol=1e-13)
    assert np.all(np.isfinite(in_p.numpy()[finite]))


@equation("PG-102")
def test_sampled_log_ratios_have_the_divergence_as_their_mean_and_not_its_negative(rng):
    """Within five standard deviations, sigma from the sum over actions; the notes' sign is outside by far."""
    p, q, n = PI[0], table(THETA + rng.normal(size=(S, A)))[0], 20_000
    ratio, exact = np.log(p / q), float(divergences.kl(p, q))
    sigma = np.sqrt((p * (ratio - p @ ratio) ** 2).sum() / n)
    mean = ratio[rng.choice(A, size=n, p=p)].mean()
    assert abs(mean - exact) <= 5 * sigma
    assert abs(mean + exact) > 20 * sigma


@equation("PG-102")
def test_mean_divergence_weighs_each_state_and_does_not_read_the_others(mode, rng):
    kl_t, w_t = rng.uniform(0.1, 2, size=(5, 3)), rng.uniform(0.2, 1, size=(5, 3))
    w_t[3:, 0] = w_t[1, 2] = 0
    expected = sum(w_t[t, i] * kl_t[t, i] for t in range(5) for i in range(3))
    kl_t[w_t == 0] = [np.nan, np.inf, np.nan]

    def everything(kl_t, w_t):
        with tf.GradientTape() as tape:
            tape.watch(kl_t)
            value = divergences.mean_kl(kl_t, w_t)
        return value, tape.gradient(value, kl_t)

    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 1e-6)):
        value, gradient = mode(everything)(tf.constant(kl_t, dtype), tf.constant(w_t, dtype))
        np.testing.assert_allclose(value, expected, rtol=tolerance)
        np.testing.assert_allclose(gradient, w_t, rtol=tolerance)


@equation("PG-102")
def test_mean_divergence_of_policies_is_the_expectation_over_their_states():
    other = table(THETA * 0.3)
    found = divergences.mean_kl(divergences.kl(PI, other)[:, None], STATES[:, None])
    np.testing.assert_allclose(found, mean_divergence(THETA, THETA * 0.3), rtol=1e-12)


# The quadratic model


@equation("PG-103")
def test_quadratic_model_is_half_the_form(mode, rng):
    delta, matrix = rng.normal(size=5), rng.normal(size=(5, 5))
    expected = 0.5 * sum(delta[i] * matrix[i, j] * delta[j] for i, j in itertools.product(range(5), repeat=2))
    for dtype, tolerance in ((tf.float64, 1e-12), (tf.float32, 1e-4)):
        np.testing.assert_allclose(
            mode(divergences.quadratic)(tf.constant(delta, dtype), tf.constant(matrix, dtype)), expected, rtol=tolerance
        )


@equation("PG-103")
@pytest.mark.parametrize("reverse", [False, True])
def test_quadratic_model_differs_from_the_divergence_by_the_cube_of_the_step(reverse, rng):
    """Slope 3 in a log-log plot, and divergence over Delta^T F Delta tends to 1/2: in both directions."""
    direction = rng.normal(size=(S, A))
    sizes, remainders, ratios = np.array([0.08, 0.04, 0.02, 0.01]), [], []
    for size in sizes:
        pair = (THETA, THETA + size * direction) if reverse else (THETA + size * direction, THETA)
        model = float(divergences.quadratic(size * direction.ravel(), FISHER))
        remainders.append(abs(mean_divergence(*pair) - model))
        ratios.append(mean_divergence(*pair) / (2 * model))
    slope = np.polyfit(np.log(sizes), np.log(remainders), 1)[0]
    assert 2.8 < slope < 3.2
    assert abs(ratios[-1] - 0.5) < 0.01
    assert abs(ratios[-1] - 0.5) < abs(ratios[0] - 0.5) / 6


# The Fisher matrix


@equation("PG-104")
def test_fisher_matrix_is_the_weighted_sum_of_outer_products_of_scores(mode):
    given = WEIGHT.ravel(), SCORE.reshape(-1, P)
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 1e-6)):
        found = mode(divergences.fisher)(*(tf.constant(x, dtype) for x in given))
        np.testing.assert_allclose(found, FISHER, atol=tolerance)


@equation("PG-104", "PG-103")
def test_fisher_matrix_is_the_hessian_of_the_divergence_and_minus_the_expected_hessian_of_log_pi():
    found = divergences.fisher(WEIGHT.ravel(), SCORE.reshape(-1, P)).numpy()
    blocks = np.zeros((P, P))
    for s in range(S):  # the Hessian of log pi(a|s) is pi pi^T - diag pi whatever the action
        part = slice(s * A, (s + 1) * A)
        blocks[part, part] = STATES[s] * (np.diag(PI[s]) - np.outer(PI[s], PI[s]))
    np.testing.assert_allclose(found, blocks, atol=1e-10)

    def second(f, h=1e-3):
        e = np.eye(P) * h
        at = lambda x: f(THETA + x.reshape(S, A))  # noqa: E731
        return np.array([[(at(u + v) - at(u - v) - at(v - u) + at(-u - v)) / (4 * h * h) for v in e] for u in e])

    np.testing.assert_allclose(second(lambda theta: mean_divergence(theta, THETA)), found, atol=1e-6)
    np.testing.assert_allclose(second(lambda theta: mean_divergence(THETA, theta)), found, atol=1e-6)


@equation("PG-104")
def test_fisher_matrix_of_a_softmax_table_has_one_rank_less_per_visited_state(rng):
    eigenvalues = np.linalg.eigvalsh(divergences.fisher(WEIGHT.ravel(), SCORE.reshape(-1, P)))
    assert eigenvalues.min() > -1e-12
    assert (eigenvalues > 1e-6).sum() == 2 * (A - 1) == P - (A + 2)


def batch(rng, n, behaviour=PI):
    """T = 2 steps, states drawn from d, actions from the behaviour: state and action [2, n]."""
    state = rng.choice(S, size=(2, n), p=STATES / STATES.sum())
    return state, (rng.random((2, n, 1)) > np.cumsum(behaviour, axis=-1)[state]).sum(-1)


@equation("PG-104")
def test_sampled_fisher_matrix_sums_over_steps_or_averages_and_reads_no_padding(mode, rng):
    state, action = batch(rng, 5)
    score_t, mask = SCORE[state, action], np.ones((2, 5), bool)
    mask[1, [0, 3]] = False
    summed = sum(np.outer(score_t[t, i], score_t[t, i]) for t in range(2) for i in range(5) if mask[t, i])
    score_t[~mask] = np.nan
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 1e-6)):
        for size in (5, 8):  # per trajectory, per step
            found = mode(divergences.sampled_fisher)(tf.constant(score_t, dtype), tf.constant(mask / size, dtype))
            np.testing.assert_allclose(found, summed / size, atol=tolerance)


@equation("PG-104")
def test_sampled_fisher_matrix_has_the_exact_one_as_its_mean_only_for_actions_of_the_policy(rng):
    """Each entry within five deviations, sigma from enumeration; actions of another policy miss it, unless weighed by their ratio."""
    n, behaviour = 20_000, table(0.2 * THETA)
    exact = FISHER / STATES.sum()
    outer = np.einsum("sap,saq->sapq", SCORE, SCORE)

    def z(weight_table, law):
        d_law = STATES[:, None] / STATES.sum() * law
        square = np.einsum("sa,sapq->pq", d_law * weight_table**2, outer**2)
        sigma = np.sqrt((square - exact**2) / (2 * n))
        state, action = batch(rng, n, law)
        found = divergences.sampled_fisher(SCORE[state, action], weight_table[state, action] / (2 * n)).numpy()
        seen = sigma > 1e-9
        np.testing.assert_allclose(found[~seen], exact[~seen], atol=1e-12)
        return np.abs((found - exact)[seen] / sigma[seen]).max()

    assert z(np.ones((S, A)), PI) <= 5
    assert z(PI / behaviour, behaviour) <= 5
    assert z(np.ones((S, A)), behaviour) > 15


@equation("PG-105", "PG-104")
def test_fisher_product_is_the_matrix_times_the_vector(mode, rng):
    u, v = rng.normal(size=(2, P))
    for dtype, tolerance in ((tf.float64, 1e-13), (tf.float32, 1e-6)):
        product = mode(divergences.fisher_product)
        found = [product(*(tf.constant(x, dtype) for x in (WEIGHT.ravel(), SCORE.reshape(-1, P), x))) for x in (u, v, 2 * u - v)]
        np.testing.assert_allclose(found[0], FISHER @ u, atol=tolerance)
        np.testing.assert_allclose(np.dot(found[1], u), np.dot(found[0], v), rtol=1e-4)
        np.testing.assert_allclose(found[2], 2 * found[0] - found[1], atol=10 * tolerance)
    assert np.abs(FISHER @ u).max() > 0.1


@equation("PG-105")
def test_fisher_product_is_the_slope_of_the_slope_of_the_divergence_along_the_vector(rng):
    v = rng.normal(size=P)
    found = divergences.fisher_product(WEIGHT.ravel(), SCORE.reshape(-1, P), v)

    def along(theta):
        other = table(theta)
        slope = STATES[:, None] * (other - PI)  # of E_s KL(pi || other) in other's logits
        return slope.ravel() @ v

    np.testing.assert_allclose(found, finite_difference(along, THETA.ravel()), atol=1e-9)


@equation("PG-102", "PG-104")
def test_weights_of_samples_may_be_negative(rng):
    """As those of control variates are."""
    w_t, kl_t, score_t = rng.normal(size=(3, 4)), rng.uniform(size=(3, 4)), rng.normal(size=(3, 4, 2))
    np.testing.assert_allclose(divergences.mean_kl(kl_t, w_t), sum(w_t[i] * kl_t[i] for i in np.ndindex(3, 4)), rtol=1e-12)
    expected = sum(w_t[i] * np.outer(score_t[i], score_t[i]) for i in np.ndindex(3, 4))
    np.testing.assert_allclose(divergences.sampled_fisher(score_t, w_t), expected, rtol=1e-11)
