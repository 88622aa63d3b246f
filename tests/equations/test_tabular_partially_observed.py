"""Policies that see observations and not states, against the list of all states, observations and actions."""

import collections
import itertools

import numpy as np
import pytest
import tensorflow as tf
from episodes import assert_frequencies, draw, softmax, table_score
from laws import finite_difference

from tfpg import estimators, returns
from tfpg.tabular import PartiallyObservedMDP, TabularMDP

equation = pytest.mark.equation
rng = np.random.default_rng(53)
HIDDEN = draw(7, states=4, actions=2, gamma=0.9, horizon=3)
EMISSION = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.0, 1.0]])
THETA = rng.normal(size=(2, 2))
# The same process, which ends in state 1; three observations, of which one is never made there.
ENDS = draw(8, states=3, actions=2, gamma=0.8, horizon=3, over=(1,))
BLURRED = np.array([[0.5, 0.3, 0.2], [0.4, 0.6, 0.0], [0.1, 0.1, 0.8]])
THETA_ENDS = rng.normal(size=(3, 2))
CASES = {"alias": (HIDDEN, EMISSION, THETA), "ends": (ENDS, BLURRED, THETA_ENDS)}
both = pytest.mark.parametrize("case", CASES)


def hidden(process):
    return TabularMDP(process.start, process.move, process.reward, process.gamma, process.horizon, process.over)


def facade(case):
    return PartiallyObservedMDP(hidden(CASES[case][0]), CASES[case][1])


def stories(process, emission, pi):
    """(probability, states, observations, actions, discounted return) of everything that can happen; pi(observations so far) -> [A]."""

    def continued(p, gain, states, seen, done):
        if p == 0:
            return
        if len(done) == process.horizon or states[-1] in process.over:
            yield p, states[: len(done)], seen, done, gain
            return
        for o, chance in enumerate(emission[states[-1]]):
            for a, likely in enumerate(pi((*seen, o))):
                now = p * chance * likely, gain + process.gamma ** len(done) * process.reward[states[-1], a]
                rest = (*seen, o), (*done, a)
                if len(rest[1]) == process.horizon:
                    yield *now[:1], states, *rest, now[1]
                    continue
                for following, move in enumerate(process.move[states[-1], a]):
                    yield from continued(now[0] * move, now[1], (*states, following), *rest)

    for state, p in enumerate(process.start):
        yield from continued(p, 0.0, (state,), (), ())


def objective(process, emission, theta):
    table = softmax(theta)
    return sum(p * gain for p, *_, gain in stories(process, emission, lambda seen: table[seen[-1]]))


@equation("PG-04", "PG-12")
@both
def test_the_objective_sums_over_states_observations_and_actions(case):
    np.testing.assert_allclose(facade(case).objective(CASES[case][2]), objective(*CASES[case]), rtol=1e-13)


@equation("PG-31")
@both
def test_the_gradient_is_the_slope_of_the_objective(case):
    process, emission, theta = CASES[case]
    slope = finite_difference(lambda x: objective(process, emission, x), theta)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(facade(case).gradient(theta), slope, atol=1e-9)


@equation("PG-31", "PG-104", "PG-107")
@both
def test_the_natural_gradient_measures_the_policy_where_it_looks(case):
    process, emission, theta = CASES[case]
    g, fisher = table_score(theta), 0
    for p, _, seen, done, _ in stories(process, emission, lambda seen: softmax(theta)[seen[-1]]):
        fisher = fisher + p * sum(process.gamma**t * np.outer(g[o, a], g[o, a]) for t, (o, a) in enumerate(zip(seen, done, strict=True)))
    slope = finite_difference(lambda x: objective(process, emission, x), theta).ravel()
    expected = np.linalg.pinv(fisher, rcond=1e-8) @ slope
    np.testing.assert_allclose(facade(case).natural_gradient(theta), expected.reshape(theta.shape), atol=1e-7)


def reinforce(gamma):
    return lambda t, score_t: estimators.reinforce(score_t, t.reward, gamma, t.mask)


@equation("PG-31")
@both
def test_reinforce_needs_no_states(case):
    """Scores of pi(a|o) and returns alone: the exact expectation is the slope; the covariance is that of the listed sum."""
    process, emission, theta = CASES[case]
    found = facade(case).moments(theta, reinforce(process.gamma))
    slope = finite_difference(lambda x: objective(process, emission, x), theta).ravel()
    np.testing.assert_allclose(found.mean, slope, atol=1e-9)
    np.testing.assert_allclose(found.bias, 0, atol=1e-13)
    g, square = table_score(theta), 0
    for p, _, seen, done, gain in stories(process, emission, lambda seen: softmax(theta)[seen[-1]]):
        sample = gain * sum([g[pair] for pair in zip(seen, done, strict=True)], np.zeros(theta.size))
        square = square + p * np.outer(sample, sample)
    np.testing.assert_allclose(found.covariance, square - np.outer(slope, slope), atol=1e-8)


def value_of_observation(process, emission, theta):
    """V_t(o) = E[G_t | o_t = o]: [T, O]."""
    weight, total = np.zeros((2, process.horizon, emission.shape[1]))
    for p, states, seen, done, _ in stories(process, emission, lambda seen: softmax(theta)[seen[-1]]):
        rewards = [process.reward[pair] for pair in zip(states, done, strict=True)]
        for t, o in enumerate(seen):
            weight[t, o] += p
            total[t, o] += p * sum(process.gamma**k * r for k, r in enumerate(rewards[t:]))
    return total / weight


def with_critic(process, emission, theta, bootstrap):
    """sum_t gamma^t g_t psi_t, psi_t = G_t - V(o_t) or r_t + gamma V(o_{t+1}) - V(o_t), V the best there is of observations."""
    table = tf.constant(value_of_observation(process, emission, theta))

    def estimate(t, score_t):
        v_t = tf.gather(table, t.observation, batch_dims=1)
        v_tp1 = tf.concat([v_t[1:], tf.zeros_like(v_t[:1])], axis=0)
        lambda_t = (0.0 if bootstrap else 1.0) * tf.cast(~t.terminated, tf.float64)
        psi_t = returns.gae(t.reward, returns.discount(process.gamma, t.terminated, t.reward), lambda_t, v_t, v_tp1, t.mask)
        return estimators.policy_gradient(score_t, returns.discount_from_start(psi_t, process.gamma, t.age), tf.ones_like(psi_t))

    return estimate


@equation("PG-31")
def test_a_baseline_of_observations_is_unbiased_and_bootstrapping_from_them_is_not():
    mdp, gradient = facade("alias"), np.ravel(facade("alias").gradient(THETA))
    baseline, bootstrap = (mdp.moments(THETA, with_critic(HIDDEN, EMISSION, THETA, on)) for on in (False, True))
    np.testing.assert_allclose(baseline.bias, 0, atol=1e-13)
    assert np.linalg.norm(bootstrap.bias) > 1e-3 * np.linalg.norm(gradient)
    assert np.linalg.norm(bootstrap.bias) > 1e-3


@equation("PG-31", "PG-04")
def test_who_sees_the_state_loses_nothing():
    """With the identity as emission everything is as in the process itself, bootstrapping included."""
    process, eye = ENDS, np.eye(3)
    mdp, seen = hidden(process), PartiallyObservedMDP(hidden(process), eye)
    np.testing.assert_allclose(seen.objective(THETA_ENDS), mdp.objective(THETA_ENDS), rtol=1e-13)
    np.testing.assert_allclose(seen.gradient(THETA_ENDS), mdp.gradient(THETA_ENDS), atol=1e-14)
    np.testing.assert_allclose(seen.natural_gradient(THETA_ENDS), mdp.natural_gradient(THETA_ENDS), atol=1e-12)
    bootstrap = with_critic(HIDDEN, np.eye(4), np.concatenate([THETA, -THETA]), True)
    whole = PartiallyObservedMDP(hidden(HIDDEN), np.eye(4)).moments(np.concatenate([THETA, -THETA]), bootstrap)
    np.testing.assert_allclose(whole.bias, 0, atol=1e-13)
    for a, b in zip(seen.moments(THETA_ENDS, reinforce(0.8)), mdp.moments(THETA_ENDS, reinforce(0.8)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


@equation("PG-31")
def test_a_policy_with_a_memory_is_one_of_a_larger_process():
    """It looks at this observation and the one before (none at first): the pair is what a process of (s, o, previous) shows."""
    process, emission, none = HIDDEN, EMISSION, 2
    theta, names = rng.normal(size=(6, 2)), [(s, o, b) for s in range(4) for o in range(2) for b in range(3)]
    start, move = np.zeros(24), np.zeros((24, 2, 24))
    for i, (s, o, b) in enumerate(names):
        start[i] = process.start[s] * emission[s, o] * (b == none)
        for j, (s2, o2, b2) in enumerate(names):
            move[i, :, j] = process.move[s, :, s2] * emission[s2, o2] * (b2 == o)
    reward = np.array([process.reward[s] for s, _, _ in names])
    shown = np.array([np.eye(6)[3 * o + b] for _, o, b in names])
    mdp = PartiallyObservedMDP(TabularMDP(start, move, reward, 0.9, 3), shown)

    def with_memory(theta):
        table = softmax(theta)
        return sum(
            p * gain for p, *_, gain in stories(process, emission, lambda seen: table[3 * seen[-1] + (seen[-2] if seen[1:] else none)])
        )

    np.testing.assert_allclose(mdp.objective(theta), with_memory(theta), rtol=1e-13)
    slope = finite_difference(with_memory, theta)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(mdp.gradient(theta), slope, atol=1e-9)
    np.testing.assert_allclose(mdp.moments(theta, reinforce(0.9)).bias, 0, atol=1e-13)


@equation("PG-31")
def test_chance_beats_every_fixed_answer_to_one_observation():
    """Two states that look alike, where the right action differs: it moves on and earns 1. Half and half earns T/2, any fixed action 1."""
    move = np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]]])
    mdp = PartiallyObservedMDP(TabularMDP([1.0, 0.0], move, [[1.0, 0.0], [0.0, 1.0]], horizon=6), [[1.0], [1.0]])
    assert float(mdp.objective([[0.0, 0.0]])) == pytest.approx(3)
    assert float(mdp.objective([[50.0, 0.0]])) == pytest.approx(1)
    assert float(mdp.objective([[0.0, 50.0]])) == pytest.approx(0)
    assert float(mdp.hidden.optimal_values().v[0, 0]) == pytest.approx(6)


@equation("PG-04", "PG-129")
@both
def test_draws_are_as_frequent_as_they_are_probable(case):
    process, emission, theta = CASES[case]
    expected = collections.Counter()
    for p, _, seen, done, _ in stories(process, emission, lambda seen: softmax(theta)[seen[-1]]):
        expected[tuple(zip(seen, done, strict=True))] += p
    t = facade(case).sample(theta, 20_000, [5, 6])
    o, a, mask = (np.asarray(x) for x in (t.observation, t.action, t.mask))
    np.testing.assert_allclose(np.asarray(t.log_prob)[mask], np.log(softmax(theta))[o, a][mask], atol=1e-14)
    np.testing.assert_array_equal(np.asarray(t.next_observation)[:-1], o[1:])
    columns = [tuple((int(i), int(j)) for i, j, k in zip(*column, strict=True) if k) for column in zip(o.T, a.T, mask.T, strict=True)]
    found = collections.Counter(columns)
    assert found.keys() <= expected.keys()
    assert_frequencies([found[story] for story in expected], list(expected.values()))


@equation("PG-04", "PG-05")
@both
def test_the_listing_shows_observations_and_pays_for_states(case):
    """The chance and the mean return of every sequence of observations and actions."""
    process, emission, theta = CASES[case]
    chance, gains = collections.Counter(), collections.Counter()
    for p, _, seen, done, gain in stories(process, emission, lambda seen: softmax(theta)[seen[-1]]):
        chance[seen, done] += p
        gains[seen, done] += p * gain
    t, probability, score_t = tf.nest.map_structure(np.asarray, facade(case).trajectories(theta))
    total = (process.gamma ** np.arange(process.horizon) @ (t.reward * t.mask)) * probability
    np.testing.assert_allclose(score_t[t.mask], table_score(theta)[t.observation[t.mask], t.action[t.mask]], atol=1e-14)
    for n, mask in enumerate(t.mask.T):
        key = tuple(t.observation[mask, n].tolist()), tuple(t.action[mask, n].tolist())
        chance[key] -= probability[n]
        gains[key] -= total[n]
    np.testing.assert_allclose(list(chance.values()), 0, atol=1e-14)
    np.testing.assert_allclose(list(gains.values()), 0, atol=1e-14)


@equation("PG-04", "PG-12")
def test_an_episode_ends_in_its_hidden_state_whatever_is_seen_there():
    """Three states, two observations, the end in state 1: pairs (1, 0) and (1, 1), of index 2 and 3. Every (s, o, a) per step is listed."""
    process, emission = draw(9, states=3, actions=2, gamma=0.8, horizon=3, over=(1,)), np.array([[0.7, 0.3], [0.4, 0.6], [0.1, 0.9]])
    mdp, pi = PartiallyObservedMDP(hidden(process), emission), softmax(THETA)
    assert mdp.joint.terminal == (2, 3)
    expected = 0.0
    for path in itertools.product(itertools.product(range(3), range(2), range(2)), repeat=3):
        p, gain, going = process.start[path[0][0]], 0.0, True
        for t, (s, o, a) in enumerate(path):
            going = going and s != 1
            p *= emission[s, o] * pi[o, a] * (process.move[s, a, path[t + 1][0]] if t < 2 else 1)
            gain += going * 0.8**t * process.reward[s, a]
        expected += p * gain
    np.testing.assert_allclose(mdp.objective(THETA), expected, rtol=1e-13)
    t, probability, _ = tf.nest.map_structure(np.asarray, mdp.joint.trajectories(THETA))
    over = np.maximum.accumulate(t.observation // 2 == 1)
    np.testing.assert_array_equal(t.mask, ~over)
    np.testing.assert_array_equal(mdp.trajectories(THETA).trajectory.mask, t.mask)
    np.testing.assert_allclose(probability[over[0]].sum(), process.start[1], rtol=1e-13)
    assert set(over.sum(axis=0)) == {0, 1, 2, 3}


@equation("PG-31")
def test_it_works_within_a_program(mode):
    mdp = facade("ends")
    found = mode(lambda theta: (mdp.objective(theta), mdp.gradient(theta)))(tf.constant(THETA_ENDS))
    np.testing.assert_allclose(found[0], mdp.objective(THETA_ENDS.tolist()), rtol=1e-13)
    np.testing.assert_allclose(found[1], mdp.gradient(THETA_ENDS), atol=1e-13)
    np.testing.assert_allclose(mdp.gradient(tf.constant(THETA_ENDS, tf.float32)), mdp.gradient(THETA_ENDS), atol=1e-6)


@equation("PG-04")
def test_a_fault_is_named():
    process, mdp = hidden(HIDDEN), facade("alias")
    with pytest.raises(ValueError, match=r"emission has shape \(3, 2\)"):
        PartiallyObservedMDP(process, EMISSION[:3])
    with pytest.raises(ValueError, match="emission must hold probabilities"):
        PartiallyObservedMDP(process, EMISSION + 0.1)
    with pytest.raises(ValueError, match=r"theta has shape \(3, 2\)"):
        mdp.objective(np.zeros([3, 2]))
    with pytest.raises(ValueError, match=r"theta has shape \(2, 3\)"):
        mdp.gradient(np.zeros([2, 3]))
    with pytest.raises(ValueError, match="horizon is None"):
        PartiallyObservedMDP(TabularMDP(HIDDEN.start, HIDDEN.move, HIDDEN.reward, 0.9, None), EMISSION).sample(THETA, 5, [1, 2])
    assert mdp.some_parameters(3).shape == (2, 2)
