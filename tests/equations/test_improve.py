"""Directions and steps, held against explicit matrices."""

import enumeration
import numpy as np
import pytest
import tensorflow as tf

from tfpg import improve, optimizers, psi, surrogates, update
from tfpg.types import Critique, Horizon

equation = pytest.mark.equation

GAMMA = 0.9
PARAMS = enumeration.some_parameters()
ONE = tf.constant(1.0, tf.float64)


def settings(**changes):
    plain = improve.Settings(optimizers.sgd(0.1), step_size=0.3, kl_radius=1e-3, damping=0.0, cg_iterations=40, shrink=0.7, backtracks=8)
    return plain._replace(**changes)


def exact_problem(surrogate=surrogates.importance):
    """The problem of the full list of trajectories, weighted by their probabilities, with advantages as psi."""
    trajectory = enumeration.trajectories(PARAMS)
    v = enumeration.values(PARAMS, GAMMA)
    t = np.arange(enumeration.T)[:, None]
    v_tp1 = np.concatenate([v[t[1:], enumeration.STATES[1:]], np.zeros((1, len(enumeration.PATHS)))])
    psi_t = psi.gae(trajectory, Critique(tf.constant(v[t, enumeration.STATES]), tf.constant(v_tp1)), Horizon(GAMMA, 0.8))
    weight = tf.broadcast_to(tf.constant(enumeration.probabilities(PARAMS)), psi_t.shape)
    columns = (trajectory.observation, trajectory.action, trajectory.log_prob, psi_t, weight, weight / enumeration.T)
    return update.policy_problem(enumeration.POLICY, surrogate, PARAMS, update.Batch(*map(update.flat, columns)), block=100)


PROBLEM = exact_problem()


def matrix(product):
    """The matrix of v -> F v, column by column."""
    size = len(enumeration.flat(PARAMS))
    return np.stack([enumeration.flat(product(unflatten(column))) for column in np.eye(size)], axis=1)


def unflatten(vector):
    leaves, start = [], 0
    for leaf in tf.nest.flatten(PARAMS):
        count = int(tf.size(leaf))
        leaves.append(tf.constant(np.reshape(vector[start : start + count], leaf.shape), tf.float64))
        start += count
    return tf.nest.pack_sequence_as(PARAMS, leaves)


FISHER = matrix(PROBLEM.fisher)
GRADIENT = improve.gradients.gradient(PROBLEM.objective, PARAMS)[1]


def change(result):
    return enumeration.flat(result[0]) - enumeration.flat(PARAMS)


@equation("PG-104", "PG-105")
def test_fisher_of_the_problem_is_the_expected_outer_product_of_scores():
    trajectory = enumeration.trajectories(PARAMS)
    scores = improve.gradients.score(enumeration.POLICY, PARAMS, update.flat(trajectory.observation), update.flat(trajectory.action))
    rows = np.concatenate([np.reshape(leaf, (leaf.shape[0], -1)) for leaf in tf.nest.flatten(scores)], axis=1)
    weight = np.tile(enumeration.probabilities(PARAMS), enumeration.T) / enumeration.T
    np.testing.assert_allclose(FISHER, np.einsum("m,mi,mj->ij", weight, rows, rows), atol=1e-12)


@equation("PG-26")
def test_ascend_takes_the_optimiser_s_increment_at_its_pace():
    result = improve.ascend(PROBLEM, PARAMS, (), settings(), tf.constant(0.25, tf.float64))
    np.testing.assert_allclose(change(result), 0.25 * 0.1 * enumeration.flat(GRADIENT), rtol=1e-12)


@equation("PG-107")
@pytest.mark.parametrize("damping", [0.0, 0.03])
def test_fixed_step_is_alpha_times_the_damped_natural_gradient(damping, mode):
    run = mode(lambda p: improve.natural(improve.fixed)(PROBLEM, p, (), settings(damping=damping), tf.constant(0.5, tf.float64)))
    damped = FISHER + damping * np.eye(len(FISHER))
    wanted = 0.3 * 0.5 * np.linalg.pinv(damped, rcond=1e-10) @ enumeration.flat(GRADIENT)
    np.testing.assert_allclose(change(run(PARAMS)), wanted, rtol=1e-6, atol=1e-8)


@equation("PG-106", "PG-108")
@pytest.mark.parametrize("damping", [0.0, 0.03])
@pytest.mark.parametrize("pace", [1.0, 0.4])
def test_kl_scaled_step_lies_on_the_quadratic_radius_whatever_the_damping(damping, pace, mode):
    chosen = settings(damping=damping, cg_iterations=6)
    run = mode(lambda p: improve.natural(improve.kl_scaled)(PROBLEM, p, (), chosen, tf.constant(pace, tf.float64)))
    delta = change(run(PARAMS))
    assert 0.5 * delta @ FISHER @ delta == pytest.approx(1e-3 * pace, rel=1e-9)
    assert delta @ enumeration.flat(GRADIENT) > 0


@equation("PG-106", "PG-103")
def test_actual_kl_tends_to_the_radius():
    ratios = []
    for radius in (1e-2, 1e-4, 1e-6):
        params, _, _ = improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(kl_radius=radius), ONE)
        ratios.append(abs(float(PROBLEM.divergence(params)) / radius - 1))
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] < 2e-3


@equation("PG-106")
def test_the_natural_direction_beats_every_other_step_of_its_length(rng):
    params, _, _ = improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(), ONE)
    gain = change((params,)) @ enumeration.flat(GRADIENT)
    for other in rng.normal(size=(300, len(FISHER))):
        scaled = other * np.sqrt(2e-3 / (other @ FISHER @ other))
        assert scaled @ enumeration.flat(GRADIENT) < gain


@equation("PG-107", "PG-110")
def test_a_zero_gradient_moves_nothing():
    flatland = PROBLEM._replace(objective=lambda p: 0.0 * PROBLEM.objective(p))
    for step in (improve.fixed, improve.kl_scaled, improve.backtracking):
        params, _, _ = improve.natural(step)(flatland, PARAMS, (), settings(), ONE)
        np.testing.assert_array_equal(enumeration.flat(params), enumeration.flat(PARAMS))


def backtrack(problem, **changes):
    return improve.natural(improve.backtracking)(problem, PARAMS, (), settings(**changes), ONE)


@equation("PG-110")
@pytest.mark.parametrize(("stretch", "k"), [(1.0, 0), (2.3, 2)])
def test_backtracking_takes_the_first_length_inside_the_radius(stretch, k, mode):
    """KL is about the radius at full length, half of it one step shorter, a quarter two steps shorter: stretched, the third one fits."""
    problem = PROBLEM._replace(divergence=lambda p: stretch * PROBLEM.divergence(p))
    run = mode(lambda p: improve.natural(improve.backtracking)(problem, p, (), settings(), ONE))
    params, _, info = run(PARAMS)
    full = change(improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(), ONE))
    kl = [stretch * float(PROBLEM.divergence(unflatten(enumeration.flat(PARAMS) + 0.7**j * full))) for j in range(k + 1)]
    assert all(x > 1e-3 for x in kl[:k])
    assert kl[k] <= 1e-3
    np.testing.assert_allclose(change((params,)), 0.7**k * full, rtol=1e-6, atol=1e-9)
    assert float(info["accepted"]) == 1


@equation("PG-110")
def test_backtracking_also_shortens_for_the_surrogate_alone():
    """A surrogate that falls beyond a short way along the direction, inside the KL radius."""
    full = change(improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(), ONE))

    def cliff(p):
        way = tf.sqrt(sum(tf.reduce_sum((a - b) ** 2) for a, b in zip(tf.nest.flatten(p), tf.nest.flatten(PARAMS), strict=True)))
        return tf.where(way > 0.4 * np.linalg.norm(full), tf.constant(-1e3, tf.float64), PROBLEM.objective(p))

    params, _, info = backtrack(PROBLEM._replace(objective=cliff))
    np.testing.assert_allclose(change((params,)), 0.7**3 * full, rtol=1e-6)
    assert float(info["accepted"]) == 1


@equation("PG-110")
def test_without_an_acceptable_length_nothing_moves():
    for problem in (PROBLEM._replace(divergence=lambda p: ONE), PROBLEM._replace(objective=lambda p: -tf.abs(PROBLEM.objective(p)) * 0)):
        params, _, info = backtrack(problem)
        np.testing.assert_array_equal(enumeration.flat(params), enumeration.flat(PARAMS))
        assert float(info["accepted"]) == float(info["step_size"]) == 0


@equation("PG-110")
def test_a_small_exact_trust_region_step_raises_the_objective():
    params, _, _ = backtrack(PROBLEM, kl_radius=1e-4)
    assert enumeration.objective(params, GAMMA) > enumeration.objective(PARAMS, GAMMA)


@equation("PG-110")
def test_an_accepted_step_keeps_the_divergence_within_the_radius_and_raises_the_surrogate():
    """With damping and few iterations as well, and at a radius outside the quadratic model, of a divergence that asks for shorter steps."""
    problem = PROBLEM._replace(divergence=lambda p: 1.5 * PROBLEM.divergence(p))
    start, shortened = float(PROBLEM.objective(PARAMS)), 0
    for radius, iterations, damping in ((1e-3, 3, 0.1), (0.05, 40, 0.0), (1.0, 40, 0.0)):
        params, _, info = backtrack(problem, kl_radius=radius, cg_iterations=iterations, damping=damping)
        assert float(info["accepted"]) == 1
        assert 0.2 * radius < float(problem.divergence(params)) <= radius
        assert float(PROBLEM.objective(params)) > start
        delta = change((params,))
        shortened += 0.5 * delta @ FISHER @ delta < 0.99 * radius
    assert shortened >= 1
