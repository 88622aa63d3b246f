"""Identities of processes that hold for every one of them: what is exact in one way is exact in all."""

import numpy as np
import pytest
import tensorflow as tf
from drawn import processes, reals, simplexes
from hypothesis import given, settings

from tfpg import bellman, estimators, objectives, off_policy, returns
from tfpg import processes as chains

equation = pytest.mark.equation
FOR_EVER = processes(horizon=None)


def same(x, y, atol=1e-11):
    np.testing.assert_allclose(x, y, rtol=1e-9, atol=atol)


@equation("PG-05", "PG-12", "PG-17", "PG-23", "PG-55", "PG-56")
@settings(max_examples=15)
@given(processes())
def test_the_theorem_the_listing_and_differentiation_give_one_gradient(drawn):
    mdp, theta = drawn[0], tf.constant(drawn[1])
    listing = mdp.trajectories(theta)
    t = listing.trajectory
    total = returns.total_return(t.reward, mdp.gamma, t.mask)
    same(tf.reduce_sum(listing.probability), 1)
    same(objectives.over_trajectories(listing.probability, total), mdp.objective(theta))
    found = estimators.expected_gradient(listing.probability, estimators.trajectory_score(listing.score_t, t.mask), total)
    same(tf.reshape(found, theta.shape), mdp.gradient(theta))
    with tf.GradientTape() as tape:
        tape.watch(theta)
        value = mdp.objective(theta)
    same(tape.gradient(value, theta), mdp.gradient(theta))


@equation("PG-16", "PG-56")
@given(FOR_EVER)
def test_the_theorem_is_the_slope_of_the_solved_values(drawn):
    mdp, theta = drawn[0], tf.constant(drawn[1])
    with tf.GradientTape() as tape:
        tape.watch(theta)
        value = mdp.objective(theta)
    same(tape.gradient(value, theta), mdp.gradient(theta))
    same(tf.reduce_sum(mdp.visitation(theta)), 1 / (1 - mdp.gamma))


@equation("PG-18", "PG-82", "PG-08")
@given(processes(), reals(3, 2))
def test_the_performance_difference_is_exact(drawn, other):
    mdp, old = drawn[0], tf.constant(drawn[1])
    new = tf.constant(other)
    state_t = chains.state_marginals(mdp.start, mdp.policy_t(new), mdp.transition)
    gain = off_policy.performance_difference(state_t, mdp.policy_t(new), mdp.advantage(old), mdp.gamma)
    same(gain, mdp.objective(new) - mdp.objective(old))


@equation("PG-13", "PG-08", "PG-17", "PG-12")
@given(processes())
def test_three_forms_of_the_objective_agree(drawn):
    mdp, theta = drawn[0], tf.constant(drawn[1])
    pi_t, values = mdp.policy_t(theta), mdp.values(theta)
    marginal_t = chains.state_action_marginals(mdp.start, pi_t, mdp.transition)
    same(objectives.over_marginals(marginal_t, mdp.reward, mdp.gamma), mdp.objective(theta))
    same(bellman.value_of_start(mdp.start, values.v[0]), mdp.objective(theta))
    same(bellman.value_of_first_action(mdp.start, pi_t[0], values.q[0]), mdp.objective(theta))


@equation("PG-130", "PG-61")
@given(FOR_EVER)
def test_policy_iteration_ends_where_no_action_is_better(drawn):
    mdp, theta = drawn
    pi = mdp.policy(tf.constant(theta))
    start = bellman.discounted_values(mdp.reward, mdp.transition, pi, mdp.gamma)
    found = bellman.policy_iteration(mdp.reward, mdp.transition, pi, mdp.gamma)
    assert np.all(found.values.v >= start.v - 1e-9)
    same(found.values.v, np.max(found.values.q, axis=-1), 1e-9)
    better = bellman.discounted_values(mdp.reward, mdp.transition, bellman.greedy(start.q), mdp.gamma)
    assert np.all(better.v >= start.v - 1e-9)
    assert np.all(found.values.v >= better.v - 1e-9)


@equation("PG-16", "PG-130")
@given(processes())
def test_no_policy_beats_the_optimal_values(drawn):
    mdp, theta = drawn
    best = bellman.optimal_values(mdp.reward, mdp.transition, mdp.gamma, mdp.horizon)
    assert np.all(best.v >= mdp.values(tf.constant(theta)).v - 1e-12)
    assert np.all(best.q >= mdp.values(tf.constant(theta)).q - 1e-12)


@equation("PG-01", "PG-03", "PG-08", "PG-09", "PG-10", "PG-133")
@given(processes())
def test_probability_is_kept_and_rests_in_the_stationary_distribution(drawn):
    mdp, theta = drawn[0], tf.constant(drawn[1])
    pi = mdp.policy(theta)
    chain = chains.state_chain(pi, mdp.transition)
    state_t = chains.state_marginals(mdp.start, mdp.policy_t(theta), mdp.transition)
    same(tf.reduce_sum(state_t, axis=1), np.ones(mdp.horizon))
    same(chains.chain_marginals(mdp.start, chain, mdp.horizon), state_t)
    mu, unique = chains.stationary(chain)
    assert unique
    same(chains.chain_step(mu, chain), mu)
    eta, h, q = bellman.average_values(mdp.reward, mdp.transition, pi)
    same(eta, chains.average_reward(mu[:, None] * pi, mdp.reward))
    same(bellman.expected_value(q, pi), h)
    same(tf.tensordot(mu, h, 1), 0)


@equation("PG-81", "PG-102")
@given(processes(), simplexes(3, 3, 2))
def test_weights_have_mean_one_so_their_square_has_more_and_their_logarithm_less(drawn, pi_new_t):
    mdp, theta = drawn
    given = (mdp.start, mdp.transition)
    pi_t = mdp.policy_t(tf.constant(theta))
    same(off_policy.second_moment(*given, pi_t, pi_t), 1)
    same(off_policy.expected_log_weight(*given, pi_t, pi_t), 0)
    square, logarithm = off_policy.second_moment(*given, pi_new_t, pi_t), off_policy.expected_log_weight(*given, pi_new_t, pi_t)
    assert square >= 1 - 1e-12
    assert logarithm <= 1e-12


@equation("PG-107", "PG-90")
@given(processes())
def test_the_natural_gradient_does_not_ask_how_the_table_is_written(drawn):
    """theta = 3 phi is another table of the same policies: the policy moves alike."""
    mdp, theta = drawn[0], tf.constant(drawn[1])
    scaled = type(mdp)(mdp.start, mdp.transition, mdp.reward, mdp.gamma, mdp.horizon, policy=lambda phi: tf.nn.softmax(3 * phi))
    same(3 * scaled.natural_gradient(theta / 3), mdp.natural_gradient(theta), 1e-8)
