"""Rows of the table: their exact expected gradient, over every trajectory there is, is the gradient of the objective."""

import enumeration
import numpy as np
import pytest
import tensorflow as tf

from tfpg import algorithms, assess, build, psi, returns, surrogates
from tfpg.config import Config, check, configured
from tfpg.learner import flat, initial_state
from tfpg.problem import SURROGATES, Batch, policy_problem
from tfpg.types import Critique, Horizon, Spaces

equation = pytest.mark.equation
PARAMS = enumeration.some_parameters()


SEED, ONE = tf.constant([4, 2]), tf.constant(1.0, tf.float64)
SPACES = Spaces((enumeration.S * enumeration.T,), actions=enumeration.A)
ROWS = [name for name in algorithms.ALGORITHMS if name != "pathwise"]  # that one has no scores


def critique(v, gamma):
    """What the critic says along every trajectory, of V [T + 1, S] and the Q that belongs to it. Beyond the last step V is garbage."""
    t, states, actions = np.arange(enumeration.T)[:, None], enumeration.STATES, enumeration.ACTIONS
    v_tp1 = np.concatenate([v[t[1:], states[1:]], np.full((1, len(enumeration.PATHS)), 1e3)])
    q = enumeration.REWARD + gamma * np.einsum("sak,tk->tsa", enumeration.MOVE, v[1:])
    return Critique(tf.constant(v[t, states]), tf.constant(v_tp1), tf.constant(q[t, states, actions]))


def psi_of(row, trajectory, c, horizon):
    """psi_t, its baseline subtracted, by the words of the row; baselines of the batch are for other tests."""
    if row.psi == "togo" and row.baseline == "value":
        return psi.monte_carlo_advantage(trajectory, c, horizon)
    return psi.member(row.psi, trajectory, c, horizon)


def expected_gradient(row, gamma, lambda_, from_start, v=None):
    """E[sum_t g_t psi_t] of a row, by its own psi and surrogate. v [T + 1, S]: the critic, exact if not given."""
    trajectory = enumeration.trajectories(PARAMS)
    v = enumeration.values(PARAMS, gamma) if v is None else v
    c = critique(v, gamma)
    psi_t = psi_of(row, trajectory, c, Horizon(gamma, lambda_, 2))
    scale = tf.ones_like(psi_t)
    if from_start:
        scale = returns.discount_from_start(scale, gamma, trajectory.age)
    weight = tf.broadcast_to(tf.constant(enumeration.probabilities(PARAMS)), psi_t.shape)
    columns = Batch(trajectory.observation, trajectory.action, trajectory.log_prob, scale * psi_t, weight, weight)
    if algorithms.in_columns(row):
        b = c.v_t if row.baseline == "value" else 0 * psi_t
        vectors = (
            returns.discount(gamma, trajectory.terminated, psi_t),
            returns.trace(1.0, trajectory.terminated, trajectory.truncated, psi_t),
        )
        columns = columns._replace(
            reward=trajectory.reward, discount=vectors[0], lambda_=vectors[1], mask=trajectory.mask, baseline=b, scale=scale
        )
    else:
        columns = tf.nest.map_structure(flat, columns)
    learner = build.make_learner(Config(), SPACES)._replace(algorithm=row, policy=enumeration.POLICY)
    state = initial_state(learner._replace(algorithm=algorithms.ALGORITHMS["reinforce"]), SEED)._replace(policy=PARAMS, penalty=0.7 * ONE)
    return enumeration.flat(policy_problem(learner, state, columns, ONE, SEED).gradient(PARAMS))


@equation("PG-23", "PG-24", "PG-28", "PG-37", "PG-48", "PG-64", "PG-65", "PG-66", "PG-67", "PG-83", "PG-84")
@pytest.mark.parametrize("gamma", [1.0, 0.7])
@pytest.mark.parametrize("name", ROWS)
def test_expected_gradient_is_the_gradient_of_the_objective(name, gamma):
    row = algorithms.ALGORITHMS[name]
    exact = enumeration.exact_gradient(PARAMS, gamma)
    assert np.abs(exact).max() > 1e-2
    np.testing.assert_allclose(expected_gradient(row, gamma, 0.6, row.psi != "return"), exact, rtol=0, atol=1e-9)


@equation("PG-55", "PG-63", "PG-66")
@pytest.mark.parametrize("kind", algorithms.PSI)
def test_every_psi_may_stand_in_a_row(kind):
    """Put in the place of the row's own, with exact critics it has the same expectation."""
    config = check(configured(algo="reinforce", psi=kind))
    exact = enumeration.exact_gradient(PARAMS, 0.7)
    np.testing.assert_allclose(expected_gradient(config.row(), 0.7, 0.6, kind != "return"), exact, rtol=0, atol=1e-9)


@equation("PG-36")
@pytest.mark.parametrize("name", ["reinforce_togo", "reinforce_baseline", "npg"])
def test_returns_discounted_to_go_are_another_direction(name):
    exact = enumeration.exact_gradient(PARAMS, 0.7)
    assert np.abs(expected_gradient(algorithms.ALGORITHMS[name], 0.7, 0.6, from_start=False) - exact).max() > 1e-2


@equation("PG-48", "PG-67")
def test_a_wrong_value_leaves_the_baseline_unbiased_and_biases_the_bootstrap(rng):
    exact = enumeration.exact_gradient(PARAMS, 0.7)
    wrong = rng.normal(size=(enumeration.T + 1, enumeration.S))
    baseline = expected_gradient(algorithms.ALGORITHMS["reinforce_baseline"], 0.7, 0.6, True, wrong)
    np.testing.assert_allclose(baseline, exact, rtol=0, atol=1e-9)
    assert np.abs(expected_gradient(algorithms.ALGORITHMS["npg"], 0.7, 0.6, True, wrong) - exact).max() > 1e-2


@equation("PG-35")
def test_learning_from_the_start_is_a_flag_that_total_returns_do_not_need():
    for name in ROWS:
        for choice in ("togo", "start"):
            learner = build.make_learner(configured(algo=name, discount_from=choice), SPACES)
            assert learner.objective.weigh_by_age == (choice == "start" and name != "reinforce")


@equation("PG-66")
def test_every_word_of_the_table_has_its_function():
    from tfpg.improve import IMPROVEMENTS

    rows = algorithms.ALGORITHMS.values()
    assert set(assess.TARGETS) == set(algorithms.CRITICS) >= {row.critic for row in rows}
    assert set(algorithms.PSI) <= set(psi.FAMILY)
    assert {row.psi for row in rows} <= set(algorithms.PSI)
    assert {row.baseline for row in rows} <= set(algorithms.BASELINES)
    assert {row.surrogate for row in rows} | set(algorithms.WEIGHTS) <= set(SURROGATES)
    assert {row.improve for row in rows} == set(IMPROVEMENTS)
    assert set(algorithms.DEFAULTS) <= set(algorithms.ALGORITHMS)


def everything():
    """Every choice of words, as flags would make it."""
    for name, row in algorithms.ALGORITHMS.items():
        for kind in ("", *algorithms.PSI):
            for baseline in ("", *algorithms.BASELINES):
                for critic in ("", *algorithms.CRITICS):
                    for weights in ("", *algorithms.WEIGHTS) if name == "off_policy" else ("",):
                        yield algorithms.varied(row, kind, baseline, critic, weights)


@equation("PG-66", "PG-76")
def test_what_makes_sense_together_has_all_that_it_reads():
    """Of all choices that are allowed: Q where psi reads it, no baseline beside one that is inside, products over whole episodes only."""
    allowed = {row for row in everything() if algorithms.nonsense(row) is None}
    refused = set(everything()) - allowed
    assert len(allowed) > 300
    assert len(refused) > 300
    for row in allowed:
        if row.psi in algorithms.ACTION_VALUE:
            assert row.critic in ("sarsa", "q_learning", "monte_carlo")
        if row.psi in ("advantage", "td", "n_step", "gae"):
            assert row.baseline == "value"
            assert algorithms.needs_critic(row) or row.surrogate == "pathwise"
        if row.surrogate in algorithms.WEIGHTS:
            assert algorithms.whole_episodes(row)
        if row.baseline == "optimal_per_parameter":
            assert (row.surrogate, row.improve) == ("score", "ascend")
        if row.baseline not in ("none", "value"):
            assert row.psi in ("return", "togo")
    for row in algorithms.ALGORITHMS.values():
        assert algorithms.nonsense(row) is None
    for kind, baseline in [(k, b) for k in ("return", "togo") for b in algorithms.BASELINES if (k, b) != ("return", "time_mean")]:
        assert any((row.psi, row.baseline) == (kind, baseline) for row in allowed)


@equation("PG-14", "PG-102")
def test_objective_is_a_mean_over_trajectories_and_kl_a_mean_over_steps():
    """With unequal lengths: 1/N sum_i sum_t against 1/(number of steps)."""
    mask = tf.constant([[True, True], [True, False], [True, False]])
    like = tf.ones([], tf.float64)
    np.testing.assert_allclose(surrogates.weights(mask, like, "traj"), np.where(mask, 1 / 2, 0))
    np.testing.assert_allclose(surrogates.weights(mask, like, "step"), np.where(mask, 1 / 4, 0))
