"""Identities of estimators that hold for every batch, whatever the numbers in it."""

import numpy as np
import pytest
import tensorflow as tf
from drawn import K, N, P, T, chunks, definites, episodes, fractions, positives, reals, simplexes
from hypothesis import given
from hypothesis import strategies as st

from tfpg import (
    baselines,
    critics,
    distributions,
    divergences,
    estimators,
    importance,
    objectives,
    off_policy,
    returns,
    surrogates,
    trust_region,
    variance,
)

equation = pytest.mark.equation


def same(x, y, atol=1e-11):
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=atol)


def to_go(e, r_t=None):
    return returns.reward_to_go(e.r_t if r_t is None else r_t, e.discount_t, e.lambda_t, e.mask_t).numpy()


@equation("PG-67", "PG-34", "PG-48")
@given(episodes())
def test_lambda_one_is_the_reward_to_go_minus_the_value(e):
    found = returns.gae(e.r_t, e.discount_t, e.lambda_t, e.v_t, e.v_tp1, e.mask_t)
    same(found, np.where(e.mask_t, to_go(e) - e.v_t, 0))
    same(found, baselines.value_baseline(to_go(e), e.v_t, e.mask_t))


@equation("PG-64", "PG-65", "PG-67")
@given(chunks())
def test_lambda_zero_and_one_step_are_the_residual(c):
    residual = returns.td_residual(**{key: x for key, x in c.items() if key != "lambda_t"})
    same(returns.gae(**{**c, "lambda_t": np.zeros((T, N))}), residual, 0)
    same(returns.n_step(**c, n=1), residual, 0)


@equation("PG-65", "PG-67")
@given(chunks(), st.integers(T, 3 * T))
def test_as_many_steps_as_there_are_is_lambda_one(c, n):
    same(returns.n_step(**c, n=n), returns.gae(**c))


@equation("PG-67", "PG-65", "PG-131")
@given(chunks(), fractions)
def test_gae_is_the_weighted_sum_of_n_steps(c, lambda_):
    steps = [returns.n_step(**c, n=n).numpy() for n in range(1, T + 1)]
    mixture = sum((1 - lambda_) * lambda_**k * a for k, a in enumerate(steps[:-1])) + lambda_ ** (T - 1) * steps[-1]
    scaled = {**c, "lambda_t": lambda_ * c["lambda_t"]}
    same(returns.gae(**scaled), mixture)
    same(returns.lambda_return(**scaled), mixture + c["mask_t"] * c["v_t"])


@equation("PG-11", "PG-34", "PG-64", "PG-67")
@given(chunks(), reals(3, T, N), reals(2))
def test_returns_are_linear_in_rewards_and_values(c, other, factors):
    a, b = factors
    sums = {**c, **{key: a * c[key] + b * x for key, x in zip(("r_t", "v_t", "v_tp1"), other, strict=True)}}
    others = {**c, **dict(zip(("r_t", "v_t", "v_tp1"), other, strict=True))}
    same(returns.gae(**sums), a * returns.gae(**c) + b * returns.gae(**others))
    total = lambda x: returns.total_return(x["r_t"], 0.9, x["mask_t"])  # noqa: E731
    same(total(sums), a * total(c) + b * total(others))


@equation("PG-11", "PG-34")
@given(episodes(), st.floats(-3, 3))
def test_a_constant_added_to_rewards_adds_its_geometric_sum(e, c):
    left = e.mask_t[::-1].cumsum(axis=0)[::-1]
    same(to_go(e, e.r_t + c), to_go(e) + c * (1 - e.gamma**left) / (1 - e.gamma))
    total = returns.total_return(e.r_t + c, e.gamma, e.mask_t) - returns.total_return(e.r_t, e.gamma, e.mask_t)
    same(total, c * (1 - e.gamma ** left[0]) / (1 - e.gamma))


@equation("PG-11", "PG-34")
@given(episodes())
def test_gamma_zero_keeps_one_reward_and_gamma_one_keeps_all(e):
    clean = np.where(e.mask_t, e.r_t, 0)
    same(returns.total_return(e.r_t, 0.0, e.mask_t), clean[0], 0)
    same(returns.total_return(e.r_t, 1.0, e.mask_t), clean.sum(0))
    same(to_go(e._replace(gamma=0.0)), clean, 0)
    same(to_go(e._replace(gamma=1.0)), clean[::-1].cumsum(0)[::-1])


@equation("PG-35", "PG-36")
@given(episodes())
def test_discounted_from_the_start_is_the_to_go_form_of_discounted_rewards(e):
    start = returns.discount_from_start(to_go(e), e.gamma, e.age_t)
    discounted = e.gamma ** e.age_t.astype(float) * e.r_t
    same(start, to_go(e._replace(gamma=1.0), discounted))
    same(start[0], returns.total_return(e.r_t, e.gamma, e.mask_t))


@equation("PG-24", "PG-25", "PG-32", "PG-37")
@given(episodes())
def test_reinforce_is_the_policy_gradient_of_total_returns(e):
    psi_t = np.broadcast_to(returns.total_return(e.r_t, e.gamma, e.mask_t), (T, N))
    reinforce = estimators.reinforce(e.score_t, e.r_t, e.gamma, e.mask_t)
    same(reinforce, estimators.policy_gradient(e.score_t, psi_t, surrogates.weights(e.mask_t, e.r_t, "traj")))
    same(N * reinforce, estimators.reinforce_sum(e.score_t, e.r_t, e.gamma, e.mask_t))
    same(N * reinforce, estimators.policy_gradient(e.score_t, psi_t, surrogates.weights(e.mask_t, e.r_t, "sum")))


@equation("PG-24", "PG-14", "PG-123")
@given(episodes(), episodes())
def test_batches_that_are_joined_weigh_by_their_sizes(a, b):
    both = [np.concatenate([x, y[:, :2]], axis=1) for x, y in zip((a.score_t, a.r_t, a.mask_t), (b.score_t, b.r_t, b.mask_t), strict=True)]
    first, second = (estimators.reinforce(s, r, a.gamma, m) for s, r, m in ((a.score_t, a.r_t, a.mask_t), (x[:, N:] for x in both)))
    same(estimators.reinforce(both[0], both[1], a.gamma, both[2]), (N * first + 2 * second) / (N + 2))
    means = [objectives.monte_carlo(r[0]).mean for r in (both[1], a.r_t, both[1][:, N:])]
    same(means[0], (N * means[1] + 2 * means[2]) / (N + 2))


@equation("PG-27", "PG-28", "PG-37")
@given(episodes(), st.sampled_from(["traj", "step", "sum"]))
def test_the_slope_of_the_pseudo_objective_is_the_estimator(e, normaliser):
    theta = tf.zeros([P], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        log_prob_t = tf.linalg.matvec(e.score_t, theta)
        y = objectives.pseudo(log_prob_t, to_go(e), e.mask_t, normaliser)
    w_t = surrogates.weights(e.mask_t, e.r_t, normaliser)
    same(tape.gradient(y, theta), estimators.policy_gradient(e.score_t, to_go(e), w_t))


@equation("PG-41", "PG-42")
@given(reals(K), reals(K, P))
def test_leave_one_out_is_the_mean_baseline_times_n_over_n_minus_one(r, g):
    centred, out = r - baselines.mean(r), r - baselines.leave_one_out(r)
    same(out, K / (K - 1) * centred)
    same(np.einsum("k,kp->p", out, g), K / (K - 1) * np.einsum("k,kp->p", centred, g))


@equation("PG-41", "PG-42", "PG-46", "PG-47", "PG-38")
@given(reals(K), positives(K, P), simplexes(K), st.floats(-3, 3))
def test_baselines_move_with_their_returns(r, g, p, c):
    for b in (
        baselines.mean,
        baselines.leave_one_out,
        lambda x: baselines.optimal(p, g, x),
        lambda x: baselines.optimal_per_parameter(p, g, x),
        lambda x: baselines.optimal_leave_one_out(g, x),
    ):
        same(b(r + c), b(r) + c)
        same(b(-2 * r), -2 * b(r))


@equation("PG-49", "PG-132")
@given(episodes(), st.floats(-3, 3))
def test_baselines_of_steps_move_with_their_returns(e, c):
    alive = e.mask_t.sum(1, keepdims=True)
    some, others = np.broadcast_to(alive > 0, (T, N)), alive - e.mask_t > 0
    same(baselines.alive_mean(e.r_t + c, e.mask_t), baselines.alive_mean(e.r_t, e.mask_t) + c * some)
    same(baselines.time_leave_one_out(e.r_t + c, e.mask_t), baselines.time_leave_one_out(e.r_t, e.mask_t) + c * others)
    same(baselines.pooled(e.r_t + c, e.mask_t), baselines.pooled(e.r_t, e.mask_t) + c)
    same(baselines.time_mean(e.r_t + c, e.mask_t), baselines.time_mean(e.r_t, e.mask_t) + c * alive / N)
    same(baselines.time_mean(e.r_t, e.mask_t), baselines.alive_mean(e.r_t, e.mask_t) * alive / N)


@equation("PG-132")
@given(episodes(), st.floats(-3, 3), st.floats(0.1, 5))
def test_standardised_weights_know_neither_offset_nor_scale(e, c, scale):
    same(baselines.standardise(scale * e.r_t + c, e.mask_t, scale * 0.1), baselines.standardise(e.r_t, e.mask_t, 0.1))


@equation("PG-43")
@given(reals(2), st.integers(1, 50), fractions)
def test_a_moving_average_of_rate_one_is_the_last_return(x, count, kappa):
    b, m = baselines.moving_average(x[0], count, x[1], 1.0)
    same([b, m], x, 1e-6)
    b, m = baselines.moving_average(np.float64(0), 0, x[1], kappa)
    same([b, m], [0, kappa * x[1]], 1e-6)


@equation("PG-72", "PG-73", "PG-76")
@given(episodes())
def test_per_decision_weights_are_returns_of_weighted_rewards(e):
    w_t = np.exp(importance.cumulative_log_ratio(e.log_ratio_t, e.lambda_t, e.mask_t))
    causal = importance.causal(e.log_ratio_t, e.r_t, e.discount_t, e.lambda_t, e.mask_t)
    same(causal, to_go(e, w_t * e.r_t))
    per_decision = importance.per_decision_return(e.log_ratio_t, e.r_t, e.gamma, e.mask_t)
    same(causal[0], per_decision)
    same(per_decision, returns.total_return(w_t * e.r_t, e.gamma, e.mask_t))
    same(np.log(w_t[e.terminated_t]), np.array(importance.log_trajectory_ratio(e.log_ratio_t, e.mask_t))[np.where(e.terminated_t)[1]])


@equation("PG-72", "PG-74", "PG-75", "PG-76", "PG-77", "PG-78", "PG-79")
@given(episodes())
def test_on_policy_all_six_forms_are_the_policy_gradient(e):
    log_ratio_t = importance.log_ratio(e.v_t, e.v_t, e.mask_t)
    total = np.where(e.mask_t, returns.total_return(e.r_t, e.gamma, e.mask_t), 0)
    same(importance.full(log_ratio_t, e.r_t, e.gamma, e.mask_t), total)
    for psi_t in (
        importance.full_togo(log_ratio_t, to_go(e), e.mask_t),
        importance.causal(log_ratio_t, e.r_t, e.discount_t, e.lambda_t, e.mask_t),
        importance.drop_future(log_ratio_t, to_go(e), e.lambda_t, e.mask_t),
        importance.marginal(log_ratio_t, to_go(e), np.ones((T, N)), e.mask_t),
        importance.first_order(log_ratio_t, to_go(e), e.mask_t),
    ):
        same(psi_t, to_go(e))


@equation("PG-79", "PG-82", "PG-28")
@given(episodes(), reals(T, N))
def test_first_order_is_the_slope_of_the_importance_surrogate(e, psi_t):
    old = tf.constant(e.v_t)
    new = old + e.log_ratio_t
    with tf.GradientTape() as tape:
        tape.watch(new)
        y = surrogates.weighted_sum(surrogates.weights(e.mask_t, old, "sum"), surrogates.importance(new, old, psi_t))
    same(tape.gradient(y, new), importance.first_order(importance.log_ratio(new, old, e.mask_t), psi_t, e.mask_t))


@equation("PG-83", "PG-84")
@given(reals(3, T, N, bound=1.0), fractions)
def test_a_clip_too_wide_to_bite_and_a_penalty_of_zero_leave_importance(x, epsilon):
    kl_t = x[2] ** 2
    plain = surrogates.importance(*x)
    same(surrogates.clipped(*x, 10.0), plain)
    same(surrogates.kl_penalised(*x, kl_t, 0.0), plain, 0)
    assert np.all(surrogates.clipped(*x, epsilon) <= plain)
    same(surrogates.clipped(x[0], x[0], x[2], epsilon), x[2])


@equation("PG-70", "PG-71")
@given(reals(K), reals(K), st.floats(-300, 300))
def test_self_normalised_weights_know_no_offset(log_weight, f, offset):
    same(importance.self_normalised(log_weight + offset, f), importance.self_normalised(log_weight, f))
    size = importance.effective_sample_size(log_weight)
    same(importance.effective_sample_size(log_weight + offset), size)
    assert 1 - 1e-9 <= size <= K + 1e-9
    same(importance.self_normalised(np.full(K, offset), f), f.mean())
    estimate = importance.estimate(log_weight, np.zeros(K), f)
    same(estimate.mean, estimate.mean_weight * importance.self_normalised(log_weight, f))
    same(estimate.effective_sample_size, size)


@equation("PG-102", "PG-90")
@given(reals(2, N, K))
def test_kl_of_softmax_is_at_least_pinskers_bound_and_zero_for_equals(logits):
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits)
    kl = divergences.kl(p, q)
    same(distributions.categorical_kl(*logits), kl)
    assert np.all(kl >= 0.5 * np.abs(p - q).sum(-1) ** 2 - 1e-12)
    same(divergences.kl(p, p), np.zeros(N), 1e-15)
    same(distributions.categorical_kl(logits[0], logits[0] + 1.7), np.zeros(N), 1e-14)


@equation("PG-102", "PG-91")
@given(reals(2, N, 2), positives(2, N, 2, 2))
def test_kl_of_gaussians_is_zero_for_equals_and_positive_for_others(loc, scale):
    scale = np.tril(scale)
    kl = distributions.gaussian_kl(loc[0], scale[0], loc[1], scale[1])
    apart = np.abs(loc[0] - loc[1]).max(-1) + np.abs(scale[0] - scale[1]).max((-2, -1))
    assert np.all(kl >= 0)
    assert np.all(kl[apart > 1e-3] > 0)
    same(distributions.gaussian_kl(loc[0], scale[0], loc[0], scale[0]), np.zeros(N), 1e-28)


@equation("PG-103", "PG-104", "PG-105")
@given(episodes(), reals(P))
def test_the_fisher_matrix_and_its_product_agree(e, v):
    w_t = surrogates.weights(e.mask_t, e.r_t, "step").numpy()
    matrix = divergences.sampled_fisher(e.score_t, w_t)
    weight, score = w_t.ravel(), e.score_t.reshape(-1, P)
    same(divergences.fisher(weight, score), matrix)
    product = divergences.fisher_product(weight, score, v).numpy()
    same(product, tf.linalg.matvec(matrix, v))
    same(divergences.quadratic(v, matrix), 0.5 * v @ product)
    assert divergences.quadratic(v, matrix) >= -1e-12


@equation("PG-107", "PG-106", "PG-103")
@given(definites(), reals(P), reals(P, P, bound=0.3), fractions)
def test_the_natural_gradient_is_the_same_move_in_other_parameters(fisher, g, change, epsilon):
    matrix = np.eye(P) * 2 + change  # theta = matrix phi
    moved = matrix.T @ fisher @ matrix
    same(matrix @ trust_region.natural_gradient(matrix.T @ g, moved, 0.0).numpy(), trust_region.natural_gradient(g, fisher, 0.0), 1e-9)
    step = trust_region.natural_step(g, fisher, epsilon)
    same(matrix @ trust_region.natural_step(matrix.T @ g, moved, epsilon).numpy(), step, 1e-9)


@equation("PG-100", "PG-106")
@given(definites(), positives(P), reals(P), fractions)
def test_no_step_inside_the_region_gains_more(fisher, g, other, epsilon):
    step = trust_region.natural_step(g, fisher, epsilon).numpy()
    same(divergences.quadratic(step, fisher), epsilon)
    plain = trust_region.euclidean_step(g, epsilon).numpy()
    same(plain @ plain, epsilon)
    size, length = divergences.quadratic(other, fisher).numpy(), np.linalg.norm(other)
    assert g @ other * np.sqrt(epsilon) <= g @ step * np.sqrt(size) + 1e-9
    assert g @ other * np.sqrt(epsilon) <= g @ plain * length + 1e-9


@equation("PG-44", "PG-45", "PG-46", "PG-47", "PG-38")
@given(simplexes(K), reals(K, P), reals(K), st.floats(-3, 3))
def test_no_baseline_has_less_variance_than_the_optimal_one(p, g, r, c):
    each, one = baselines.optimal_per_parameter(p, g, r), baselines.optimal(p, g, r)
    at = variance.exact(p, g, r, np.float64(c)).numpy()
    mean = estimators.expected_gradient(p, g, np.ones(K)).numpy()
    # The optimum minimises E[(g (R - b))^2], which is the variance once the scores have mean zero.
    second = lambda b: variance.exact(p, g, r, b) + (estimators.expected_gradient(p, g, r) - b * mean) ** 2  # noqa: E731
    assert np.all(second(each) <= second(np.float64(c)) + 1e-9)
    assert np.sum(second(one)) <= np.sum(second(np.float64(c))) + 1e-9
    centred = g - mean
    same(variance.offset_trace(p, centred, r, -c), np.sum(variance.exact(p, centred, r, np.float64(c))), 1e-9)
    assert np.all(at >= 0)


@equation("PG-46", "PG-47")
@given(simplexes(K), reals(K, P), reals(K))
def test_optimal_baselines_lie_between_the_least_and_the_greatest_return(p, g, r):
    """They are means of returns, weighed by squared scores, wherever some score is not zero."""
    some = np.abs(g).max(axis=0) > 1e-100
    each, one = baselines.optimal_per_parameter(p, g, r).numpy(), baselines.optimal(p, g, r).numpy()
    for b in (each[some], one[some.any()]):
        assert np.all((r.min() - 1e-12 <= b) & (b <= r.max() + 1e-12))


@equation("PG-85", "PG-72")
@given(episodes())
def test_a_mixture_of_one_behaviour_is_that_behaviour(e):
    copies = np.stack([e.v_t] * 2)
    expected = np.where(e.mask_t, e.v_t, 0).cumsum(0)
    same(off_policy.mixture_log_prob(copies, e.mask_t), expected)
    clean = np.where(e.mask_t, e.r_t, 0)
    same(off_policy.guided_objective(e.v_t, copies, e.r_t, 0.7, e.mask_t), clean.mean(1).sum() + 0.7 * T * np.log(N))


@equation("PG-58", "PG-131")
@given(episodes(), st.floats(-3, 3))
def test_losses_vanish_at_their_target_and_grow_by_half_the_square(e, c):
    w_t = surrogates.weights(e.mask_t, e.r_t, "step")
    same(critics.value_loss(e.v_t, e.v_t, w_t), 0, 0)
    same(critics.value_loss(e.v_t + c, e.v_t, w_t), c * c / 2)
    same(critics.q_loss(e.v_t + c, e.v_t, w_t), c * c)
    if np.ptp(e.r_t[e.mask_t]) > 1e-3:
        same(critics.explained_variance(e.r_t + c, e.r_t, w_t), 1)
        same(critics.explained_variance(0 * e.r_t + c, e.r_t, w_t), 0)
