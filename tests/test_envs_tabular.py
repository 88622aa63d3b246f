"""The random decision process as an environment: its frequencies are the oracle's probabilities, its returns the oracle's J."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfpg.envs import tabular
from tfpg.tabular import TabularMDP

N, SIGMAS = 40_000, 5
OWN = tabular.make_process()
PROCESSES = {"own": OWN, "larger": TabularMDP.random(seed=3, states=5, actions=3, horizon=4)}
CASES = pytest.mark.parametrize("name", PROCESSES)


def play(process, theta, seed, dtype=tf.float64):
    """N episodes of the softmax table theta: states [T, N], actions [T, N], returns [N]."""
    environment = tabular.make(dtype, process)

    @tf.function(jit_compile=True, autograph=False)
    def episode(seed):
        seeds = tf.random.experimental.stateless_split(seed, 1 + 2 * environment.time_limit)
        state, total, rows = environment.reset(N, seeds[0]), tf.zeros([N], dtype), []
        for t in range(environment.time_limit):
            logits = tf.linalg.matmul(environment.observe(state), tf.constant(theta, dtype))
            action = tf.random.stateless_categorical(logits, 1, seeds[1 + 2 * t])[:, 0]
            rows.append((state, tf.cast(action, tf.int32)))
            state, reward, _ = environment.step(state, action, seeds[2 + 2 * t])
            total += reward
        return *(tf.stack(column) for column in zip(*rows, strict=True)), total

    return [x.numpy() for x in episode(tf.constant(seed))]


def z(frequency, p):
    """Deviations of frequencies of N draws from probabilities, in binomial standard deviations."""
    return (frequency - p) / np.sqrt(p * (1 - p) / N)


def law_of_returns(process, theta):
    """Mean and variance of the return, by listing every trajectory."""
    listing = process.trajectories(theta)
    returns, p = listing.trajectory.reward.numpy().sum(0), listing.probability.numpy()
    return p @ returns, p @ returns**2 - (p @ returns) ** 2


@CASES
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_states_and_actions_come_as_often_as_they_should(name, dtype):
    """Every (t, s, a) of 40,000 episodes, seed (1, 2), within 5 binomial sigma of gamma^0 p_theta(s_t = s, a_t = a)."""
    process = PROCESSES[name]
    theta = process.some_parameters(seed=0).numpy()
    state_t, action_t, _ = play(process, theta, [1, 2], dtype)
    states, actions = process.reward.shape
    hits = (state_t[..., None, None] == np.arange(states)[:, None]) & (action_t[..., None, None] == np.arange(actions))
    deviation = z(hits.mean(axis=1), process.occupancy(theta).numpy())
    assert np.abs(deviation).max() < SIGMAS
    assert 0.5 < np.sqrt((deviation**2).mean()) < 1.7


@CASES
def test_each_transition_and_reward_is_the_table_s(name, mode):
    """40,000 steps from every (s, a): next states within 5 binomial sigma of p(s'|s, a), rewards equal to r(s, a)."""
    process = PROCESSES[name]
    step = mode(tabular.make(tf.float64, process).step)
    for s, a in itertools.product(*map(range, process.reward.shape)):
        after, reward, terminated = step(tf.fill([N], s), tf.fill([N], a), tf.constant([s, a]))
        p = process.transition[s, a].numpy()
        assert np.abs(z(np.bincount(after, minlength=len(p)) / N, p)).max() < SIGMAS
        np.testing.assert_array_equal(reward, np.full(N, process.reward[s, a]))
        assert not terminated.numpy().any()


@CASES
def test_returns_of_a_fixed_policy_have_the_oracle_s_mean_and_variance(name):
    """Within 5 sigma, seed (3, 4); sigma from the law of the return, every trajectory listed."""
    process = PROCESSES[name]
    theta = process.some_parameters(seed=0)
    *_, returns = play(process, theta.numpy(), [3, 4])
    mean, variance = law_of_returns(process, theta)
    np.testing.assert_allclose(mean, process.objective(theta), rtol=1e-12)
    assert abs(returns.mean() - mean) < SIGMAS * np.sqrt(variance / N)
    assert abs(returns.var() / variance - 1) < SIGMAS * np.sqrt(2 / N) * 2


def value(process, table_t):
    """J of the deterministic policy a = table_t[t][s], as the sum over time of expected rewards, forward in time."""
    p, total, every = process.start.numpy(), 0.0, np.arange(process.reward.shape[0])
    for table in table_t:
        total += p @ process.reward.numpy()[every, table]
        p = p @ process.transition.numpy()[every, table]
    return total


def test_the_optimum_is_the_best_of_all_policies_that_know_the_time():
    """All 2^9 of them. Of tfpg/Tabular-v0 the best takes actions 0, 1, 0 in states 0, 1, 2 at any time, so no clock is needed."""
    tables = list(itertools.product(range(2), repeat=3))
    values = {table_t: value(OWN, np.array(table_t)) for table_t in itertools.product(tables, repeat=3)}
    np.testing.assert_allclose(tabular.optimum(), max(values.values()), rtol=1e-12)
    assert max(values, key=values.get) == ((0, 1, 0),) * 3
    np.testing.assert_allclose(tabular.optimum(), 2.456196946923995, rtol=1e-12)


def test_the_best_policy_returns_the_optimum():
    """Within 5 sigma, seed (5, 6)."""
    theta = 800.0 * np.eye(2)[[0, 1, 0]]
    *_, returns = play(OWN, theta, [5, 6])
    mean, variance = law_of_returns(OWN, theta)
    np.testing.assert_allclose(mean, tabular.optimum(), rtol=1e-12)
    assert abs(returns.mean() - mean) < SIGMAS * np.sqrt(variance / N)


def test_the_optimum_of_another_process_is_its_own():
    larger = PROCESSES["larger"]
    policy_t = larger.optimal_values().q.numpy().argmax(-1)
    np.testing.assert_allclose(tabular.optimum(larger), value(larger, policy_t), rtol=1e-12)
    assert tabular.optimum(larger) != tabular.optimum()


def test_observations_have_a_one_where_the_state_is():
    environment = tabular.make(tf.float64)
    np.testing.assert_array_equal(environment.observe(tf.constant([2, 0, 1, 1])), np.eye(3)[[2, 0, 1, 1]])
    assert (environment.spaces.actions, environment.time_limit) == (2, 3)


def test_what_cannot_happen_does_not():
    """Probabilities of 0 at either end and in the middle, at every seed; entering a terminal state ends the episode."""
    move = np.array([[[0, 0.5, 0, 0.5, 0]], [[0, 0, 1, 0, 0]], [[1, 0, 0, 0, 0]], [[0, 0, 0, 0, 1]], [[0, 0, 0, 0, 1]]], float)
    process = TabularMDP(np.array([0, 0.3, 0.7, 0, 0]), move, np.arange(5.0)[:, None], horizon=6, terminal=(3,))
    environment = tabular.make(tf.float32, process)
    assert set(environment.reset(5_000, tf.constant([1, 2])).numpy()) == {1, 2}
    state = tf.repeat(tf.range(5), 5_000)
    after, reward, terminated = (x.numpy() for x in environment.step(state, tf.zeros_like(state), tf.constant([3, 4])))
    follow = [set(row) for row in after.reshape(5, -1)]
    assert follow == [{1, 3}, {2}, {0}, {3}, {4}]
    np.testing.assert_array_equal(terminated, after == 3)
    np.testing.assert_array_equal(reward.reshape(5, -1)[:, 0], [0, 1, 2, 0, 4])


def test_a_process_without_a_horizon_is_refused():
    with pytest.raises(ValueError, match="horizon is None"):
        tabular.make(process=TabularMDP.random(seed=0, gamma=0.9, horizon=None))
