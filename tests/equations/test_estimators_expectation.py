"""Policy gradients on average: exact means and covariances over every trajectory of small processes."""

import functools

import numpy as np
import pytest
import tables
import tensorflow as tf
from laws import finite_difference

from tfpg import estimators, returns

equation = pytest.mark.equation
STEPS, GAMMA = 4, 0.7


def gradient(process, steps=STEPS, gamma=1.0):
    """grad J by central differences."""
    slope = finite_difference(lambda theta: tables.objective(process, theta, steps, gamma), process.theta).ravel()
    assert np.abs(slope).max() > 1e-2
    return slope


def everywhere(listed):
    return np.ones(listed.r_t.shape, bool)


@functools.cache
def on_each(estimate):
    """The estimate from each of many batches, score_t [B, T, N, P] and r_t [B, T, N], in one program."""
    return tf.function(lambda *batches: tf.map_fn(lambda batch: estimate(*batch), batches, fn_output_signature=tf.float64), autograph=False)


def one_by_one(estimate, listed, batches=None):
    """The estimate from each batch, rows of column indices; without them, from each trajectory alone: [B, P]."""
    batches = np.arange(len(listed.p))[:, None] if batches is None else batches
    return on_each(estimate)(*(tf.constant(np.moveaxis(x[:, batches], 1, 0)) for x in (listed.score_t, listed.r_t))).numpy()


def reinforce(score_t, r_t, gamma=1.0):
    mask_t = tf.ones(tf.shape(r_t), tf.bool)
    return estimators.reinforce.python_function(score_t, r_t, tf.constant(gamma, tf.float64), mask_t)


def togo(score_t, r_t):
    inside = tf.ones_like(r_t)
    psi_t = returns.reward_to_go(r_t, inside, inside, tf.ones(tf.shape(r_t), tf.bool))
    return estimators.policy_gradient.python_function(score_t, psi_t, inside / tf.cast(tf.shape(r_t)[1], r_t.dtype))


@equation("PG-20")
def test_gradients_of_all_trajectory_probabilities_are_their_scores_and_sum_to_zero():
    process = tables.draw(61)
    listed = tables.listed(process, 3)
    slope = estimators.density_gradient(np.log(listed.p), listed.score_t.sum(0)).numpy()
    np.testing.assert_allclose(slope.sum(0), np.zeros(6), atol=1e-15)
    for index, h in [((0, 1), 1e-5), ((2, 0), 1e-5)]:
        p = []
        for sign in (1, -1):
            theta = process.theta.copy()
            theta[index] += sign * h
            p.append(tables.listed(process._replace(theta=theta), 3).p)
        np.testing.assert_allclose(slope[:, np.ravel_multi_index(index, (3, 2))], (p[0] - p[1]) / (2 * h), atol=1e-11)
    assert np.abs(slope).max() > 1e-3


@equation("PG-21")
def test_scores_have_mean_zero_in_every_state_and_over_trajectories():
    process = tables.draw(62, 4, 3)
    states, actions = np.indices((4, 3)).reshape(2, 1, -1)
    score = tables.scores(process.theta, states, actions).reshape(4, 3, 12)
    np.testing.assert_allclose(estimators.expected_score(tables.softmax(process.theta), score), np.zeros((4, 12)), atol=1e-16)
    uniform = estimators.expected_score(np.full((4, 3), 1 / 3), score)
    assert np.abs(uniform).max() > 1e-2
    listed = tables.listed(tables.draw(63), STEPS)
    np.testing.assert_allclose(estimators.expected_score(listed.p, listed.score_t.sum(0)), np.zeros(6), atol=1e-15)


@equation("PG-21")
def test_scores_of_two_steps_are_uncorrelated_so_fisher_matrices_add():
    listed = tables.listed(tables.draw(64), STEPS)
    product = estimators.score_products(listed.score_t, listed.p).numpy()
    for t, u in np.ndindex(STEPS, STEPS):
        assert (np.abs(product[t, u]).max() > 1e-2) == (t == u), (t, u)
        np.testing.assert_allclose(product[t, u], product[t, u] if t == u else np.zeros((6, 6)), atol=1e-15)
    score_i = listed.score_t.sum(0)
    trajectory = np.einsum("k,kp,kq->pq", listed.p, score_i, score_i)
    np.testing.assert_allclose(trajectory, sum(product[t, t] for t in range(STEPS)), atol=1e-14)


@equation("PG-23")
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_the_expectation_of_score_times_return_is_the_gradient(gamma):
    process = tables.draw(65)
    listed = tables.listed(process, STEPS)
    return_i = sum(gamma**t * listed.r_t[t] for t in range(STEPS))
    slope = gradient(process, gamma=gamma)
    exact = estimators.expected_gradient(listed.p, listed.score_t.sum(0), return_i)
    np.testing.assert_allclose(exact, slope, atol=1e-9)
    without_last = estimators.expected_gradient(listed.p, listed.score_t[:-1].sum(0), return_i)
    assert np.abs(without_last - slope).max() > 1e-3


@equation("PG-23", "PG-24")
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_reinforce_is_unbiased(gamma):
    process = tables.draw(66)
    listed = tables.listed(process, STEPS)
    sample = one_by_one(lambda score_t, r_t: reinforce(score_t, r_t, gamma), listed)
    np.testing.assert_allclose(listed.p @ sample, gradient(process, gamma=gamma), atol=1e-9)


@equation("PG-24", "PG-37")
@pytest.mark.parametrize("estimate", [reinforce, togo])
def test_the_covariance_of_a_batch_is_that_of_one_trajectory_over_n(estimate):
    """Over all pairs of trajectories of two steps, and all triples of trajectories of one step."""
    for steps, n in [(2, 2), (1, 3)]:
        process = tables.draw(67)
        listed = tables.listed(process, steps)
        batches = np.indices([len(listed.p)] * n).reshape(n, -1).T
        mean, covariance = tables.moments(listed.p[batches].prod(1), one_by_one(estimate, listed, batches))
        mean_1, covariance_1 = tables.moments(listed.p, one_by_one(estimate, listed))
        np.testing.assert_allclose(mean, mean_1, rtol=1e-11)
        np.testing.assert_allclose(mean, gradient(process, steps), atol=1e-9)
        assert np.abs(covariance_1).max() > 1e-2
        np.testing.assert_allclose(covariance, covariance_1 / n, rtol=1e-11, atol=1e-14)


def z_statistics(sample, mean, covariance):
    """Of a sample mean [P]: the largest |z|, and the square length in units of the exact covariance; and the degrees of freedom."""
    error, scale = sample - mean, np.sqrt(np.diag(covariance))
    rank = np.linalg.matrix_rank(covariance, tol=1e-9)
    return np.abs(error / scale).max(), error @ np.linalg.pinv(covariance, rcond=1e-9) @ error, rank


@equation("PG-24", "PG-37")
@pytest.mark.parametrize("estimate", [reinforce, togo])
def test_sampled_trajectories_estimate_the_gradient(estimate, rng):
    """Both statistics notice a score that is missing at the last step and a sign that is wrong."""
    process, n = tables.draw(68), 40_000
    listed = tables.listed(process, STEPS)
    columns = rng.choice(len(listed.p), size=n, p=listed.p)
    slope = gradient(process)
    covariance = tables.moments(listed.p, one_by_one(estimate, listed))[1] / n
    score_t, r_t = (tf.constant(x[:, columns]) for x in (listed.score_t, listed.r_t))
    z, square, rank = z_statistics(estimate(score_t, r_t).numpy(), slope, covariance)
    assert rank == 3  # one logit of each state is idle
    assert z < 5
    assert square < 30.66  # the quantile 1 - 1e-6 of chi-square with three degrees of freedom
    broken = score_t * (np.arange(STEPS) < STEPS - 1)[:, None, None]
    for wrong in (broken, -score_t):
        assert z_statistics(estimate(wrong, r_t).numpy(), slope, covariance)[1] > 100


@equation("PG-33")
def test_no_reward_is_correlated_with_a_later_score():
    listed = tables.listed(tables.draw(69), STEPS)
    product = estimators.score_reward_products(listed.score_t, listed.r_t, listed.p).numpy()
    for t, u in np.ndindex(STEPS, STEPS):
        if u < t:
            np.testing.assert_allclose(product[t, u], np.zeros(6), atol=1e-15)
        else:
            assert np.abs(product[t, u]).max() > 1e-3
    sample = np.abs(listed.score_t[2] * listed.r_t[0][:, None])
    assert sample.max(1).min() > 1e-3  # of no single trajectory it holds


@equation("PG-37")
def test_reward_to_go_is_unbiased():
    process = tables.draw(70)
    listed = tables.listed(process, STEPS)
    np.testing.assert_allclose(listed.p @ one_by_one(togo, listed), gradient(process), atol=1e-9)


@equation("PG-24", "PG-37")
def test_variances_of_the_first_process():
    """Three states, two actions, three steps: traces of the covariance of one trajectory."""
    listed = tables.listed(tables.draw(0), 3)
    full, later = (np.trace(tables.moments(listed.p, one_by_one(estimate, listed))[1]) for estimate in (reinforce, togo))
    np.testing.assert_allclose([full, later], [2.187, 1.101], atol=6e-4)


@equation("PG-24", "PG-37")
def test_reward_to_go_usually_has_less_variance_but_not_always():
    ratio = []
    for seed in range(30):
        listed = tables.listed(tables.draw(seed), 3)
        g, return_i, togo_t = listed.score_t, listed.r_t.sum(0), tables.togo(listed.r_t)
        sample = [g.sum(0) * return_i[:, None], np.einsum("tkp,tk->kp", g, togo_t)]
        ratio.append(np.divide(*[np.trace(tables.moments(listed.p, x)[1]) for x in sample[::-1]]))
    assert max(ratio) < 1
    one_state = tables.Process(np.ones(1), np.ones((1, 2, 1)), None, np.zeros((1, 2)))
    state_t, action_t = tables.paths(1, 2, 2)
    p = tables.probability(one_state.start, one_state.move, np.full((2, 1, 2), 0.5), state_t, action_t)
    listed = tables.Listed(state_t, action_t, np.array([[10.0] * 4, [-10.0] * 4]), p, tables.scores(one_state.theta, state_t, action_t))
    full, later = (np.trace(tables.moments(p, one_by_one(estimate, listed))[1]) for estimate in (reinforce, togo))
    np.testing.assert_allclose([full, later], [0, 50], atol=1e-12)


@equation("PG-38")
@pytest.mark.parametrize("c", [2.5, -0.3])
def test_scaling_rewards_scales_the_estimate_and_its_variance(c):
    listed = tables.listed(tables.draw(71), STEPS)
    for estimate in (reinforce, togo):
        mean, covariance = tables.moments(listed.p, one_by_one(estimate, listed))
        scaled = tables.moments(listed.p, one_by_one(estimate, listed._replace(r_t=c * listed.r_t)))
        np.testing.assert_allclose(scaled[0], c * mean, rtol=1e-11)
        np.testing.assert_allclose(scaled[1], c**2 * covariance, rtol=1e-11, atol=1e-13)


@equation("PG-38")
def test_shifting_returns_keeps_the_mean_and_adds_variance():
    """Var + 2 c E[|g|^2 R] + c^2 E|g|^2, for a batch of one; with the traces of the first process."""
    listed = tables.listed(tables.draw(0), 3)
    g = listed.score_t.sum(0)
    square, return_i = (g**2).sum(1), listed.r_t.sum(0)
    mean, covariance = tables.moments(listed.p, one_by_one(reinforce, listed))
    traces = []
    for c in (0, 1, 10, 100):
        shifted = listed.r_t.copy()
        shifted[1] += c  # one shift per trajectory, at whichever step
        sample = one_by_one(reinforce, listed._replace(r_t=shifted))
        np.testing.assert_allclose(sample, g * (return_i + c)[:, None], rtol=1e-10, atol=1e-10)
        moved, spread = tables.moments(listed.p, sample)
        np.testing.assert_allclose(moved, mean, atol=1e-12)
        traces.append(np.trace(spread))
        added = 2 * c * (listed.p @ (square * return_i)) + c**2 * (listed.p @ square)
        np.testing.assert_allclose(traces[-1], np.trace(covariance) + added, rtol=1e-11)
    np.testing.assert_allclose(traces, [2.187, 5.268, 148.6, 13021], rtol=5e-4)
    np.testing.assert_allclose(listed.p @ square, 1.284, atol=6e-4)


def stopping(theta, r_t):
    """One state; the second of two actions ends the episode, at the latest after four steps: p, lengths, scores, masked rewards."""
    pi = tables.softmax(theta)
    lengths = np.array([1, 2, 3, 4, 4])
    action_t = np.array([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]])
    mask_t = np.arange(4)[:, None] < lengths
    p = np.prod(np.where(mask_t, pi[0, action_t], 1), axis=0)
    return p, mask_t, tables.scores(theta, np.zeros_like(action_t), action_t), np.where(mask_t, r_t[:, None], np.nan)


@equation("PG-38", "PG-24", "PG-37")
@pytest.mark.parametrize("c", [0.0, 1.0, -2.0])
def test_a_shift_of_every_reward_changes_the_gradient_where_lengths_are_random(c):
    theta, reward = np.array([[0.3, -0.4]]), np.array([0.5, -1.0, 2.0, 0.7])

    def objective(theta, shift):
        p, mask_t, _, r_t = stopping(theta, reward + shift)
        return p @ np.nansum(r_t, axis=0), p @ mask_t.sum(0)

    p, mask_t, score_t, r_t = stopping(theta, reward + c)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-14)
    np.testing.assert_allclose(objective(theta, c)[0], objective(theta, 0)[0] + c * objective(theta, 0)[1], rtol=1e-12)
    slope = finite_difference(lambda theta: objective(theta, c)[0], theta).ravel()
    columns = [(score_t[:, [i]], r_t[:, [i]], mask_t[:, [i]]) for i in range(5)]
    full = [estimators.reinforce(g, r, 1.0, m).numpy() for g, r, m in columns]
    np.testing.assert_allclose(p @ full, slope, atol=1e-9)
    ones = np.ones((4, 1))
    later = [estimators.policy_gradient(g, returns.reward_to_go(r, ones, ones, m), m.astype(float)).numpy() for g, r, m in columns]
    np.testing.assert_allclose(p @ later, slope, atol=1e-9)
    unshifted = finite_difference(lambda theta: objective(theta, 0)[0], theta).ravel()
    assert (np.abs(slope - unshifted).max() > 0.1) == (c != 0)
