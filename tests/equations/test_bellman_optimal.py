"""The best policies: against the enumeration of all policies, and improvement that never makes a state worse."""

import itertools

import numpy as np
import pytest
import tables
import tensorflow as tf
from definitions import assert_is, tensors

from tfpg import bellman

equation = pytest.mark.equation
GAMMA = 0.83


def values(process, pi, gamma=GAMMA):
    """Q and V of a policy for ever, by a solve for Q over pairs."""
    states, actions = process.reward.shape
    chain = np.einsum("sak,kb->sakb", process.move, pi).reshape(states * actions, states * actions)
    q = np.linalg.solve(np.eye(states * actions) - gamma * chain, process.reward.ravel()).reshape(states, actions)
    return q, (pi * q).sum(1)


def deterministic(states, actions):
    for choice in itertools.product(range(actions), repeat=states):
        yield np.eye(actions)[list(choice)]


def finite(process, pi_t, gamma):
    """Q_t and V_t, back from the end."""
    q_t, v_t, v = [], [], np.zeros(len(process.start))
    for pi in pi_t[::-1]:
        q = process.reward + gamma * process.move @ v
        v = (pi * q).sum(1)
        q_t, v_t = [q, *q_t], [v, *v_t]
    return np.array(q_t), np.array(v_t)


def best_of_all(reward, transition, gamma, horizon):
    """max over all deterministic policies that may depend on time, entry by entry of Q_t and V_t."""
    process = tables.Process(np.ones(len(reward)), transition, reward, None)
    tables_ = [list(policy) for policy in itertools.product(deterministic(*reward.shape), repeat=horizon)]
    every = [finite(process, pi_t, gamma) for pi_t in tables_]
    return np.max([q for q, _ in every], axis=0), np.max([v for _, v in every], axis=0)


@equation("PG-130")
def test_optimal_values_are_the_best_of_all_policies(mode):
    process = tables.draw(31, 2, 3)
    given = {"reward": process.reward, "transition": process.move, "gamma": np.array(GAMMA), "horizon": 3}
    assert_is(mode, bellman.optimal_values, best_of_all, given)


@equation("PG-130")
def test_the_last_optimal_step_takes_the_best_reward():
    process = tables.draw(32, 4, 3)
    q, v = (x.numpy() for x in bellman.optimal_values(process.reward, process.move, GAMMA, 5))
    assert q.shape == (5, 4, 3)
    np.testing.assert_array_equal(q[-1], process.reward)
    np.testing.assert_array_equal(v, q.max(-1))
    np.testing.assert_allclose(q[1], process.reward + GAMMA * process.move @ v[2], rtol=1e-13)


@equation("PG-130")
def test_greedy_takes_the_best_action_and_the_lowest_of_equals(mode):
    q = np.array([[[1.0, 3.0, 3.0], [2.0, -1.0, 2.0]], [[-5.0, -4.0, -3.0], [0.0, 0.0, 0.0]]])
    expected = np.array([[[0, 1, 0], [1, 0, 0]], [[0, 0, 1], [1, 0, 0]]])
    for dtype in ("float32", "float64"):
        pi = mode(bellman.greedy)(tf.constant(q, dtype))
        assert pi.dtype == dtype
        np.testing.assert_array_equal(pi, expected)


@equation("PG-130")
@pytest.mark.parametrize("seed", range(4))
def test_policy_iteration_finds_the_best_of_all_policies(seed):
    process = tables.draw(33 + seed, 4, 3)
    pi = tables.softmax(process.theta)
    best = np.max([values(process, policy)[1] for policy in deterministic(4, 3)], axis=0)
    found = bellman.policy_iteration(process.reward, process.move, pi, GAMMA)
    np.testing.assert_allclose(found.values.v, best, rtol=1e-12)
    np.testing.assert_array_equal(found.pi, np.eye(3)[np.argmax(found.values.q, axis=-1)])
    np.testing.assert_allclose(found.values.q, process.reward + GAMMA * process.move @ best, rtol=1e-12)
    long = bellman.optimal_values(process.reward, process.move, GAMMA, 250)
    np.testing.assert_allclose(long.q[0], found.values.q, rtol=1e-11)


def improve(process, pi, better):
    """Rounds of improvement while some action is better than the policy by more than `better`."""
    rounds, (q, v) = 0, values(process, pi)
    while np.any(q.max(1) > v + better):
        pi = np.eye(q.shape[1])[q.argmax(1)]
        rounds, (q, v) = rounds + 1, values(process, pi)
    return pi, rounds


@equation("PG-130")
def test_policy_iteration_counts_its_rounds(mode):
    process = tables.draw(70, 6, 4)
    pi = tables.softmax(process.theta)
    expected, rounds = improve(process, pi, 1e-9)
    assert rounds == 3
    arrays = tensors({"reward": process.reward, "transition": process.move, "pi": pi, "gamma": np.array(GAMMA)})
    found = mode(bellman.policy_iteration)(**arrays)
    np.testing.assert_array_equal(found.pi, expected)
    assert found.rounds == rounds
    np.testing.assert_allclose(found.values.v, values(process, expected)[1], rtol=1e-12)
    again = bellman.policy_iteration(process.reward, process.move, expected, GAMMA)
    assert again.rounds == 0
    np.testing.assert_array_equal(again.pi, expected)


@equation("PG-130")
def test_policy_iteration_in_single_precision():
    process = tables.draw(38, 4, 3)
    pi = tables.softmax(process.theta)
    found = bellman.policy_iteration(*(tf.constant(x, tf.float32) for x in (process.reward, process.move, pi)), GAMMA)
    assert found.values.q.dtype == tf.float32
    np.testing.assert_allclose(found.values.v, values(process, improve(process, pi, 1e-9)[0])[1], rtol=1e-4)


@equation("PG-130")
@pytest.mark.parametrize("size", [1.0, 1e6, -1e6])
def test_equal_actions_are_left_alone(size):
    """Two actions that are the same but for round-off: whichever the policy takes is as good."""
    process = tables.draw(39, 5, 2)
    reward, move = (np.repeat(x[:, :1], 2, axis=1) for x in (size + process.reward, process.move))
    reward[:, 1] *= 1 + 1e-15
    found = bellman.policy_iteration(reward, move, np.eye(2)[[1, 0, 1, 0, 0]], GAMMA)
    assert found.rounds == 0
    np.testing.assert_array_equal(found.pi, np.eye(2)[[1, 0, 1, 0, 0]])


@equation("PG-130")
@pytest.mark.parametrize("gain", [1e-9, 1e-3])
def test_a_slightly_better_action_is_taken(gain):
    process = tables.draw(40, 5, 2)
    reward, move = (np.repeat(x[:, :1], 2, axis=1) for x in (process.reward, process.move))
    reward[2, 1] += gain
    found = bellman.policy_iteration(reward, move, np.eye(2)[[0] * 5], GAMMA)
    assert found.rounds == 1
    np.testing.assert_array_equal(found.pi, np.eye(2)[[0, 0, 1, 0, 0]])


@equation("PG-130")
@pytest.mark.parametrize("tied", [[0.0, 1.0, 0.0], [0.3, 0.7, 0.0]], ids=["deterministic", "stochastic"])
def test_a_state_without_a_better_action_keeps_its_policy_while_another_improves(mode, tied):
    """In state 1 actions 0 and 1 are the same but for round-off, in favour of 0, and 2 is worse; in state 0 action 2 gains."""
    reward = np.array([[0.4, -0.9, 1.7], [0.8 * (1 + 1e-15), 0.8, -2.1]])
    move = np.array([[[0.6, 0.4], [0.2, 0.8], [0.3, 0.7]], [[0.55, 0.45], [0.55, 0.45], [0.1, 0.9]]])
    process, pi = tables.Process(np.ones(2) / 2, move, reward, None), np.array([[1.0, 0.0, 0.0], tied])
    found = mode(bellman.policy_iteration)(**tensors({"reward": reward, "transition": move, "pi": pi, "gamma": np.array(GAMMA)}))
    assert found.rounds == 1
    np.testing.assert_array_equal(found.pi, [[0, 0, 1], tied])
    best = np.max([values(process, other)[1] for other in deterministic(2, 3)], axis=0)
    np.testing.assert_allclose(found.values.v, best, rtol=1e-12)
    assert np.all(best - values(process, pi)[1] > 0.1)


@equation("PG-130")
@pytest.mark.parametrize("seed", range(3))
def test_the_greedy_policy_is_nowhere_worse(seed):
    process = tables.draw(41 + seed, 4, 3)
    pi = tables.softmax(process.theta)
    q, v = values(process, pi)
    gains = []
    for _ in range(4):
        q, better = values(process, bellman.greedy(q).numpy())
        gains.append((better - v).min())
        v = better
    assert gains[0] > 1e-3
    assert min(gains) > -1e-12


@equation("PG-130")
def test_improvement_holds_step_by_step_and_for_soft_steps():
    process, rng = tables.draw(44, 4, 3), np.random.default_rng(8)
    pi_t = rng.dirichlet(np.ones(3), size=(5, 4))
    q_t, v_t = finite(process, pi_t, GAMMA)
    greedy_t = bellman.greedy(q_t).numpy()
    assert np.all(finite(process, greedy_t, GAMMA)[1] - v_t > -1e-13)
    assert np.max(finite(process, greedy_t, GAMMA)[1] - v_t) > 1e-2
    soft_t = pi_t * np.exp(0.4 * q_t)
    soft_t /= soft_t.sum(-1, keepdims=True)
    assert np.all((soft_t * q_t).sum(-1) >= v_t)
    soft = bellman.finite_values(process.reward, process.move, soft_t, GAMMA).v.numpy()
    assert np.all(soft - v_t > -1e-13)
    assert np.max(soft - v_t) > 1e-2
