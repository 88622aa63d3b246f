"""Values of processes without an end, by the reward per step: against sums of what is earned beyond the average."""

import numpy as np
import pytest
import tables
import tensorflow as tf
from definitions import assert_is
from laws import finite_difference

from tfpg import bellman, checks, processes

equation = pytest.mark.equation

TWO_CLASSES = np.array([[0.3, 0.6, 0, 0], [0.7, 0.4, 0, 0], [0, 0, 0.2, 0.9], [0, 0, 0.8, 0.1]])


def settled_values(reward, transition, pi):
    """eta, h = sum_t (P^t - 1 mu^T) r_pi and Q = r - eta + P h of an ergodic process, the sum carried on until it stands still."""
    chain, r_pi = np.einsum("sak,sa->ks", transition, pi), (pi * reward).sum(1)
    mu = tables.settled(chain)
    eta, h, now = mu @ r_pi, np.zeros(len(mu)), r_pi
    for _ in range(100):
        h, now = h + now - eta, chain.T @ now
    h -= mu @ h  # a sum of terms with mu . r_pi - eta = 0, but for rounding, which differences would magnify
    q = np.array([[reward[s, a] - eta + transition[s, a] @ h for a in range(reward.shape[1])] for s in range(len(mu))])
    return eta, h, q


@checks.component
def values_of_logits(reward, move, theta):
    """`average_values` of dynamics and a policy that remain probabilities however their logits move."""
    return bellman.average_values(reward, tf.nn.softmax(move), tf.nn.softmax(theta))


def definition_of_logits(reward, move, theta):
    return settled_values(reward, tables.softmax(move), tables.softmax(theta))


@equation("PG-133")
def test_differential_values_are_what_is_earned_beyond_the_average(mode):
    process = tables.draw(8, 4, 3)
    given = {"reward": process.reward, "move": np.log(process.move), "theta": process.theta}
    assert_is(mode, values_of_logits, definition_of_logits, given, rtol=1e-10)


@equation("PG-133")
@pytest.mark.parametrize("process", [tables.draw(9, 4, 3), tables.circling(10)], ids=["ergodic", "periodic"])
def test_differential_values_solve_their_equations(process):
    pi = tables.softmax(process.theta)
    eta, h, q = (x.numpy() for x in bellman.average_values(process.reward, process.move, pi))
    np.testing.assert_allclose((pi * q).sum(1), h, rtol=1e-11)
    np.testing.assert_allclose(q, process.reward - eta + process.move @ h, rtol=1e-11)
    mu = processes.stationary(processes.state_chain(pi, process.move)).mu
    np.testing.assert_allclose(np.sum(mu * h), 0, atol=1e-13)
    later = processes.chain_marginals(process.start, processes.state_chain(pi, process.move), 1001)[-1].numpy()
    beyond = tables.total_reward(process, pi, 1000)[-1] - 1000 * eta
    np.testing.assert_allclose(beyond, process.start @ h - later @ h, atol=1e-9)


@equation("PG-133")
def test_values_without_a_single_average_are_nan():
    move = np.repeat(TWO_CLASSES.T[:, None], 3, axis=1)
    for leaf in bellman.average_values(np.ones((4, 3)), move, np.full((4, 3), 1 / 3)):
        assert np.all(np.isnan(leaf))


def average_reward_of(process, theta):
    """eta by linear algebra that holds for periodic chains as well."""
    pi = tables.softmax(theta)
    chain = np.einsum("sak,sa->ks", process.move, pi)
    system = np.vstack([chain - np.eye(len(chain)), np.ones(len(chain))])
    mu = np.linalg.lstsq(system, np.eye(len(chain) + 1)[-1], rcond=None)[0]
    return np.sum(mu[:, None] * pi * process.reward)


@equation("PG-133")
@pytest.mark.parametrize("process", [tables.draw(11, 4, 3), tables.circling(12)], ids=["ergodic", "periodic"])
def test_the_theorem_with_differential_values_is_the_gradient_of_the_average_reward(process):
    pi, score = tables.softmax(process.theta), tables.every_score(process.theta)
    mu = processes.stationary(processes.state_chain(pi, process.move)).mu.numpy()
    values = bellman.average_values(process.reward, process.move, pi)
    gradient = bellman.theorem_gradient(mu[:, None] * pi, score, values.q)
    slope = finite_difference(lambda theta: average_reward_of(process, theta), process.theta).ravel()
    np.testing.assert_allclose(values.eta, average_reward_of(process, process.theta), rtol=1e-11)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(gradient, slope, atol=1e-9)
    discounted = bellman.discounted_values(process.reward, process.move, pi, 0.8).q
    wrong = bellman.theorem_gradient(mu[:, None] * pi, score, discounted).numpy()
    assert np.abs(wrong - slope).max() > 1e-3


def left_for_ever(seed):
    """A process that may start in state 0 and never comes back to it: one recurrent class, and a state that does not count."""
    process, rng = tables.draw(seed, 4, 3), np.random.default_rng(seed)
    move = process.move.copy()
    move[1:, :, 0], move[1:, :, 1:] = 0, rng.dirichlet(np.ones(3), size=(3, 3))
    return process._replace(move=move)


@equation("PG-133", "PG-56")
def test_the_theorem_holds_with_a_transient_state_and_is_not_that_of_the_discounted_objective():
    process, gamma = left_for_ever(13), 0.8
    pi, score = tables.softmax(process.theta), tables.every_score(process.theta)
    mu = processes.stationary(processes.state_chain(pi, process.move)).mu.numpy()
    np.testing.assert_allclose(mu[0], 0, atol=1e-14)
    values = bellman.average_values(process.reward, process.move, pi)
    np.testing.assert_allclose(values.eta, average_reward_of(process, process.theta), rtol=1e-11)
    np.testing.assert_allclose(mu @ values.h.numpy(), 0, atol=1e-13)
    np.testing.assert_allclose((pi * values.q.numpy()).sum(1), values.h, rtol=1e-11)
    slope = finite_difference(lambda theta: average_reward_of(process, theta), process.theta)
    assert np.abs(slope).max(axis=1)[1:].min() > 1e-2
    gradient = bellman.theorem_gradient(mu[:, None] * pi, score, values.q).numpy()
    np.testing.assert_allclose(gradient, slope.ravel(), atol=1e-9)
    np.testing.assert_allclose(gradient[:3], 0, atol=1e-13)

    def discounted(theta):
        chain, r_pi = np.einsum("sak,sa->sk", process.move, tables.softmax(theta)), (tables.softmax(theta) * process.reward).sum(1)
        return process.start @ np.linalg.solve(np.eye(4) - gamma * chain, r_pi)

    wanted = finite_difference(discounted, process.theta).ravel()
    assert np.abs(wanted[:3]).max() > 1e-2
    q = bellman.discounted_values(process.reward, process.move, pi, gamma).q
    visited = bellman.discounted_visitation(process.start, process.move, pi, gamma).numpy()
    np.testing.assert_allclose(bellman.theorem_gradient(visited[:, None] * pi, score, q), wanted, atol=1e-8)
    wrong = bellman.theorem_gradient(mu[:, None] * pi, score, q).numpy()
    np.testing.assert_allclose(wrong[:3], 0, atol=1e-13)
    nearest = (wrong @ wanted) / (wrong @ wrong) * wrong  # of all its multiples, which differ in the recurrent states too
    assert np.linalg.norm((nearest - wanted)[3:]) > 0.1 * np.linalg.norm(wanted)
