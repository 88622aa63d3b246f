"""Stationary distributions and the reward per step, against long powers of the chain; against the equations where powers do not settle."""

import numpy as np
import pytest
import tables
import tensorflow as tf
from laws import finite_difference

from tfpg import processes

equation = pytest.mark.equation

CYCLE = np.roll(np.eye(5), 1, axis=0)
TWO_CLASSES = np.array([[0.3, 0.6, 0, 0], [0.7, 0.4, 0, 0], [0, 0, 0.2, 0.9], [0, 0, 0.8, 0.1]])
TWO_ENDS = np.array([[1, 0.2, 0.0], [0, 0.5, 0], [0, 0.3, 1]])  # the middle state leads to either of two that hold on
ONE_END = np.array([[0.5, 0, 0.0], [0.2, 0.4, 0.7], [0.3, 0.6, 0.3]])  # the first state is left for good


def random_chain(seed, n=4):
    return np.random.default_rng(seed).dirichlet(np.ones(n), size=n).T.copy()


@equation("PG-09")
def test_equals_the_limit_of_powers_and_so_does_its_gradient(mode):
    logits = np.random.default_rng(3).normal(size=(4, 4))
    weight = np.array([0.3, -1.2, 2.0, 0.7])

    def both(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            mu, unique = processes.stationary.python_function(tf.nn.softmax(logits, axis=0))
            scalar = tf.reduce_sum(weight * mu)
        return mu, unique, tape.gradient(scalar, logits)

    mu, unique, gradient = mode(both)(tf.constant(logits))
    assert unique
    np.testing.assert_allclose(mu, tables.settled(tables.softmax(logits, 0)), rtol=1e-12)
    slope = finite_difference(lambda z: weight @ tables.settled(tables.softmax(z, 0)), logits)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)


@equation("PG-09")
@pytest.mark.parametrize("n", [1, 2, 7, 30])
@pytest.mark.parametrize(("dtype", "digits"), [("float64", 1e-12), ("float32", 3e-5)])
def test_solves_its_equations(n, dtype, digits):
    chain = random_chain(n, n)
    mu, unique = (x.numpy() for x in processes.stationary(tf.constant(chain, dtype)))
    assert unique
    assert mu.dtype == dtype
    np.testing.assert_allclose(chain @ mu, mu, atol=digits)
    np.testing.assert_allclose(np.sum(mu), 1, rtol=digits)
    assert np.min(mu) > 0
    np.testing.assert_allclose(mu, tables.settled(chain), rtol=digits, atol=digits)


@equation("PG-09")
def test_rows_that_sum_to_one_are_another_chain():
    chain = random_chain(0)
    assert np.abs(tables.settled(chain) - 0.25).max() > 1e-2  # were it symmetric, the two would agree
    with np.testing.assert_raises(AssertionError):
        np.testing.assert_allclose(processes.stationary(chain.T.copy()).mu, tables.settled(chain), atol=1e-3)


@equation("PG-09")
@pytest.mark.parametrize("chain", [CYCLE, np.eye(2)[::-1].copy(), ONE_END], ids=["cycle", "pair", "transient"])
def test_a_chain_with_one_recurrent_class_has_one(chain):
    mu, unique = (x.numpy() for x in processes.stationary(chain))
    assert unique
    np.testing.assert_allclose(chain @ mu, mu, atol=1e-14)
    np.testing.assert_allclose(np.sum(mu), 1, rtol=1e-14)
    assert np.min(mu) > -1e-15


@equation("PG-09")
def test_a_periodic_chain_has_one_though_it_never_settles():
    np.testing.assert_allclose(processes.stationary(CYCLE).mu, np.full(5, 0.2), rtol=1e-13)
    mu_t = processes.chain_marginals(np.eye(5)[1], CYCLE, 40).numpy()
    np.testing.assert_array_equal(mu_t.max(1), np.ones(40))
    np.testing.assert_allclose(mu_t.mean(0), np.full(5, 0.2), rtol=1e-13)


@equation("PG-09")
@pytest.mark.parametrize("chain", [np.eye(3), TWO_CLASSES, TWO_ENDS], ids=["identity", "classes", "ends"])
def test_a_chain_with_several_recurrent_classes_is_flagged(mode, chain):
    compiled = mode(processes.stationary)
    for dtype in ("float64", "float32") if mode.name == "graph" else ("float64",):
        mu, unique = compiled(tf.constant(chain, dtype))
        assert not unique
        assert np.all(np.isnan(mu))


@equation("PG-09")
def test_a_large_chain_in_two_parts_is_flagged_and_a_weak_link_between_them_is_seen():
    chain = np.zeros((40, 40))
    chain[:20, :20], chain[20:, 20:] = random_chain(1, 20), random_chain(2, 20)
    assert not processes.stationary(chain).unique
    linked, weak = chain.copy(), 1e-6
    for source, target, flow in [(3, 30, weak), (25, 7, 2 * weak)]:
        linked[:, source] *= 1 - flow
        linked[target, source] += flow
    mu, unique = (x.numpy() for x in processes.stationary(linked))
    assert unique
    np.testing.assert_allclose(linked @ mu, mu, atol=1e-14)
    np.testing.assert_allclose(mu[3], 2 * mu[25], rtol=1e-6)  # as much flows over as comes back


@equation("PG-07", "PG-09")
def test_pairs_are_as_frequent_as_their_state_and_the_policy_say():
    process = tables.draw(4, 4, 3)
    pi = tables.softmax(process.theta)
    states = processes.stationary(processes.state_chain(pi, process.move)).mu
    pairs = processes.stationary(processes.state_action_chain(pi, process.move)).mu
    np.testing.assert_allclose(pairs, (states[:, None] * pi).numpy().ravel(), rtol=1e-11)


@equation("PG-09", "PG-10")
@pytest.mark.parametrize("process", [tables.draw(5, 4, 3), tables.circling(6)], ids=["ergodic", "periodic"])
def test_the_reward_per_step_tends_to_the_average_reward(process):
    pi = tables.softmax(process.theta)
    mu = processes.stationary(processes.state_chain(pi, process.move)).mu.numpy()
    eta = processes.average_reward(mu[:, None] * pi, process.reward).numpy()
    steps = np.arange(1, 2001)
    gap = tables.total_reward(process, pi, 2000) - steps * eta  # bounded: |J_T / T - eta| <= C / T
    assert np.abs(gap).max() < 10 * np.abs(process.reward).max()
    assert np.ptp(gap[-200:]) < 2 * np.abs(process.reward).max()
    assert np.abs(gap / steps)[-1] < 5e-3
    assert abs(eta - np.mean(process.reward)) > 1e-2


@equation("PG-10", "PG-133")
def test_slope_of_the_average_reward(mode):
    process = tables.draw(7, 4, 3)

    def eta(theta, move, reward):
        pi = tf.nn.softmax(theta)
        mu = processes.stationary(processes.state_chain(pi, move)).mu
        return processes.average_reward(mu[:, None] * pi, reward)

    def both(theta, move, reward):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            value = eta(theta, move, reward)
        return value, tape.gradient(value, theta)

    def defined(theta):
        pi = tables.softmax(theta)
        return np.sum(tables.settled(np.einsum("sak,sa->ks", process.move, pi))[:, None] * pi * process.reward)

    value, gradient = mode(both)(*(tf.constant(x) for x in (process.theta, process.move, process.reward)))
    np.testing.assert_allclose(value, defined(process.theta), rtol=1e-11)
    slope = finite_difference(defined, process.theta)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)
