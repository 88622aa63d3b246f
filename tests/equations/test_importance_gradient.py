"""Data of the old policy for the gradient of the new one: exact expectations over all trajectories, whose episodes end at random."""

import numpy as np
import pytest
import tensorflow as tf
import two_policies as world
from laws import finite_difference

from tfpg import estimators, importance, objectives, returns, surrogates, tabular

equation = pytest.mark.equation
NEW, OLD, MASK, P_OLD = world.NEW, world.OLD, world.MASK, world.probability(world.OLD)
EXACT, FORMS = ("full", "full_togo", "causal"), ("full", "full_togo", "causal", "drop_future", "marginal", "first_order")
LAMBDA_T = 1.0 - world.LAST
every_gamma = pytest.mark.parametrize("gamma", [1.0, 0.8])


def log_ratio(new, old=OLD):
    return importance.log_ratio(world.log_prob(new), world.log_prob(old), MASK)


def state_ratio(new, old=OLD):
    """p_new(s_t) / p_old(s_t), [T, N]."""
    return (world.state_marginals(new) / world.state_marginals(old))[np.arange(world.T)[:, None], world.STATES]


def psi(name, log_ratio_t, gamma, ratio=None):
    """What each form weighs the scores with, discounted from the start. Q of the old policy is sampled by the reward-to-go."""
    discount_t = returns.discount(gamma, world.LAST, world.R)
    from_start = lambda x: returns.discount_from_start(x, gamma, world.AGE)  # noqa: E731
    togo_t = from_start(returns.reward_to_go(world.R, discount_t, LAMBDA_T, MASK))
    if name == "full":
        return importance.full(log_ratio_t, world.R, gamma, MASK)
    if name == "full_togo":
        return importance.full_togo(log_ratio_t, togo_t, MASK)
    if name == "causal":
        return from_start(importance.causal(log_ratio_t, world.R, discount_t, LAMBDA_T, MASK))
    if name == "drop_future":
        return importance.drop_future(log_ratio_t, togo_t, LAMBDA_T, MASK)
    if name == "marginal":
        return importance.marginal(log_ratio_t, togo_t, np.ones_like(world.R) if ratio is None else ratio, MASK)
    return importance.first_order(log_ratio_t, togo_t, MASK)


def expectation(name, new, gamma, old=OLD):
    return world.weighed(old, new, psi(name, log_ratio(new, old), gamma, state_ratio(new, old)))


def exact_gradient(theta, gamma):
    return finite_difference(lambda x: world.objective(x, gamma), theta).ravel()


def old_values(state_theta, gamma):
    """sum_t gamma^{t-1} E_{s_t ~ state_theta, a_t ~ new}[g'_t Q^old_t]: sums over states and actions, without a trajectory."""
    occupancy = world.state_marginals(state_theta)[..., None] * world.policy(NEW)
    weight = np.einsum("t,tsa,tsa->sa", gamma ** np.arange(world.T), occupancy, world.action_values(OLD, gamma))
    return (weight - weight.sum(axis=-1, keepdims=True) * world.policy(NEW)).ravel()


@equation("PG-74", "PG-75", "PG-76")
@pytest.mark.parametrize("name", EXACT)
@every_gamma
def test_the_exact_forms_have_the_gradient_at_the_new_policy_as_their_mean(name, gamma):
    gradient = exact_gradient(NEW, gamma)
    assert np.abs(gradient).max() > 0.1
    np.testing.assert_allclose(expectation(name, NEW, gamma), gradient, rtol=0, atol=1e-9)


@equation("PG-74", "PG-75", "PG-76", "PG-79")
def test_ratios_that_count_twice_or_reach_too_far_are_biased():
    """The bounds as they are often printed; and what is left of the last one when its inner product is deleted."""
    rho = np.exp(log_ratio(NEW))
    w, reward, gradient = np.cumprod(rho, axis=0), np.where(MASK, world.R, 0), exact_gradient(NEW, 1.0)
    togo = lambda x: np.cumsum(x[::-1], axis=0)[::-1]  # noqa: E731
    error = lambda psi: np.linalg.norm(world.weighed(OLD, NEW, psi) - gradient) / np.linalg.norm(gradient)  # noqa: E731
    assert error(togo(w * reward)) < 1e-9
    assert error(rho * togo(w * reward)) > 0.05
    assert error(w[-1] * togo(w * reward)) > 0.05
    assert error(rho**2 * togo(reward)) > 0.05
    assert error(w[-1] * togo(reward)) < 1e-9


@equation("PG-72")
def test_the_ratio_of_trajectories_is_the_quotient_of_their_full_densities():
    quotient = np.log(world.probability(NEW)) - np.log(P_OLD)
    np.testing.assert_allclose(importance.log_trajectory_ratio(log_ratio(NEW), MASK), quotient, rtol=1e-12, atol=1e-13)


@equation("PG-72", "PG-81")
def test_ratios_have_mean_one_at_every_step():
    for t in range(1, world.T + 1):
        weight = np.exp(importance.log_trajectory_ratio(log_ratio(NEW)[:t], MASK[:t]))
        np.testing.assert_allclose(P_OLD @ weight, 1, rtol=1e-13)
        assert weight.min() < 0.7
        assert weight.max() > 1.5


@equation("PG-72", "PG-129")
def test_at_the_policy_that_acted_the_ratio_to_what_it_stored_is_one():
    mdp = tabular.TabularMDP.random(4)
    theta = mdp.some_parameters(4)
    t = mdp.sample(theta, 5, tf.constant([3, 1]))
    log_pi = tf.nn.log_softmax(theta).numpy()[t.observation, t.action]
    np.testing.assert_allclose(importance.log_ratio(log_pi, t.log_prob, t.mask), np.zeros([3, 5]), rtol=0, atol=1e-14)


@equation("PG-73")
@pytest.mark.parametrize("name", ["weighted_return", "per_decision_return"])
@every_gamma
@pytest.mark.parametrize("new", [NEW, OLD], ids=["elsewhere", "at the old policy"])
def test_weighted_returns_have_the_new_objective_as_mean_and_its_gradient_as_slope(name, gamma, new):
    theta = tf.constant(new)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        log_prob_t = tf.gather_nd(tf.nn.log_softmax(theta), np.stack([world.STATES, world.ACTIONS], axis=-1))
        log_ratio_t = importance.log_ratio(log_prob_t, world.log_prob(OLD), MASK)
        mean = tf.tensordot(P_OLD, getattr(importance, name)(log_ratio_t, world.R, gamma, MASK), 1)
    np.testing.assert_allclose(mean, world.objective(new, gamma), rtol=1e-12)
    np.testing.assert_allclose(np.ravel(tape.gradient(mean, theta)), exact_gradient(new, gamma), rtol=0, atol=1e-9)


@equation("PG-77", "PG-78")
@pytest.mark.parametrize("name", ["drop_future", "marginal"])
@every_gamma
def test_without_the_future_it_is_new_states_and_actions_with_old_values(name, gamma):
    found = expectation(name, NEW, gamma)
    np.testing.assert_allclose(found, old_values(NEW, gamma), rtol=0, atol=1e-14)
    assert np.linalg.norm(found - exact_gradient(NEW, gamma)) > 1e-3


@equation("PG-79")
@every_gamma
def test_first_order_is_old_states_and_new_actions_with_old_values(gamma):
    found = expectation("first_order", NEW, gamma)
    np.testing.assert_allclose(found, old_values(OLD, gamma), rtol=0, atol=1e-14)
    assert np.linalg.norm(found - exact_gradient(NEW, gamma)) > 1e-3
    assert np.linalg.norm(found - expectation("drop_future", NEW, gamma)) > 1e-3


@equation("PG-77", "PG-78", "PG-79")
@pytest.mark.parametrize("name", ["drop_future", "marginal", "first_order"])
@every_gamma
def test_the_bias_is_of_first_order_in_the_distance_of_the_policies(name, gamma):
    distance = np.array([0.2, 0.1, 0.05, 0.025])
    moved = [OLD + step * world.DIRECTION for step in distance]
    bias = [np.linalg.norm(expectation(name, new, gamma) - exact_gradient(new, gamma)) for new in moved]
    slope = np.polyfit(np.log(distance), np.log(bias), 1)[0]
    assert abs(slope - 1) < 0.1
    assert bias[0] > 1e-4


@equation("PG-78")
def test_given_state_and_action_the_mean_ratio_is_that_of_the_marginals():
    w_t = np.exp(importance.cumulative_log_ratio(log_ratio(NEW), LAMBDA_T, MASK))
    quotient = state_ratio(NEW) * np.exp(log_ratio(NEW))
    for t in range(world.T):
        for s, a in np.ndindex(world.S, world.A):
            here = MASK[t] & (world.STATES[t] == s) & (world.ACTIONS[t] == a)
            mean = P_OLD[here] @ w_t[t, here] / P_OLD[here].sum()
            np.testing.assert_allclose(mean, quotient[t, here], rtol=1e-12)
    one = importance.marginal(log_ratio(NEW), np.ones_like(world.R), state_ratio(NEW), MASK)
    np.testing.assert_allclose(one, np.where(MASK, quotient, 0), rtol=1e-12)


@equation("PG-77", "PG-78")
def test_the_ratio_of_marginals_gives_every_step_a_smaller_second_moment():
    size_t = P_OLD * (world.score(NEW) ** 2).sum(axis=-1)
    ratio = state_ratio(NEW)
    product, marginal = ((size_t * psi(name, log_ratio(NEW), 1.0, ratio) ** 2).numpy().sum(axis=1) for name in ("drop_future", "marginal"))
    np.testing.assert_allclose(marginal[0], product[0], rtol=1e-13)
    assert (marginal[1:] < product[1:]).all()


@equation("PG-80")
@every_gamma
def test_on_policy_all_forms_are_the_policy_gradient(gamma):
    for name in FORMS:
        np.testing.assert_allclose(expectation(name, NEW, gamma, old=NEW), exact_gradient(NEW, gamma), rtol=0, atol=1e-9, err_msg=name)


@equation("PG-80")
@every_gamma
def test_on_policy_all_forms_but_the_whole_return_agree_sample_by_sample(gamma):
    nothing = log_ratio(OLD)
    togo_t = gamma**world.AGE * world.reward_to_go(gamma)
    for name in FORMS[1:]:
        np.testing.assert_allclose(psi(name, nothing, gamma), togo_t, rtol=0, atol=1e-14, err_msg=name)
    total = sum(gamma**t * np.where(MASK[t], world.R[t], 0) for t in range(world.T))
    np.testing.assert_allclose(psi("full", nothing, gamma), np.where(MASK, total, 0), rtol=0, atol=1e-14)
    reinforce = estimators.reinforce(world.score(OLD), world.R, gamma, MASK)
    weight = surrogates.weights(MASK, tf.constant(0.0, tf.float64), "traj")
    found = estimators.policy_gradient(world.score(OLD), psi("full", nothing, gamma), weight)
    np.testing.assert_allclose(found, reinforce, rtol=0, atol=1e-13)


@equation("PG-28", "PG-74", "PG-75", "PG-76", "PG-77", "PG-78", "PG-79")
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("columns", [[11], [3, 500, 60, 250]], ids=["one episode", "four episodes"])
def test_differentiating_the_surrogate_is_summing_scores_though_the_ratios_depend_on_theta(name, columns):
    theta, weight = tf.constant(NEW), surrogates.weights(MASK[:, columns], tf.constant(0.0, tf.float64), "traj")
    with tf.GradientTape() as tape:
        tape.watch(theta)
        log_prob_t = tf.gather_nd(tf.nn.log_softmax(theta), np.stack([world.STATES, world.ACTIONS], axis=-1))
        psi_t = psi(name, importance.log_ratio(log_prob_t, world.log_prob(OLD), MASK), 0.8, state_ratio(NEW))
        columns_of = lambda x: tf.gather(x, columns, axis=1)  # noqa: E731
        objective = objectives.pseudo(*map(columns_of, (log_prob_t, psi_t, tf.constant(MASK))), "traj")
    slope = np.ravel(tape.gradient(objective, theta))
    score_t, chosen = world.score(NEW)[:, columns], psi_t.numpy()[:, columns]
    expected = sum(score_t[t, i] * chosen[t, i] for t, i in np.ndindex(chosen.shape)) / len(columns)
    assert np.abs(slope).max() > 0.01
    np.testing.assert_allclose(slope, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(estimators.policy_gradient(score_t, chosen, weight), expected, rtol=1e-12, atol=1e-14)
