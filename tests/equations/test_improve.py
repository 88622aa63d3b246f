"""Directions and steps, held against explicit matrices."""

import enumeration
import numpy as np
import pytest
import tensorflow as tf

from tfpg import algorithms, build, gradients, improve, minibatches, normalizers, optimizers, psi, trees
from tfpg.config import Config
from tfpg.learner import flat, initial_state
from tfpg.problem import Batch, policy_problem, shards, side_by_side
from tfpg.types import Critique, Horizon, Problem, Spaces

equation = pytest.mark.equation

GAMMA = 0.9
PARAMS = enumeration.some_parameters()
ONE = tf.constant(1.0, tf.float64)
SEED = tf.constant([4, 2])


def settings(**changes):
    plain = improve.Settings(optimizers.sgd(0.1), step_size=0.3, kl_radius=1e-3, damping=0.0, cg_iterations=40, shrink=0.7, backtracks=8)
    return plain._replace(**changes)


def bound(row, params):
    """A learner of a row whose policy is the enumeration's, and a state that holds params."""
    learner = build.make_learner(Config(), Spaces((enumeration.S * enumeration.T,), actions=enumeration.A))
    learner = learner._replace(
        algorithm=algorithms.ALGORITHMS[row], policy=enumeration.POLICY, fisher_block=100, observations=normalizers.identity()
    )
    return learner, initial_state(learner._replace(algorithm=algorithms.ALGORITHMS["reinforce"]), SEED)._replace(policy=params)


def exact_batch():
    """The full list of trajectories, weighted by their probabilities, with advantages as psi."""
    trajectory = enumeration.trajectories(PARAMS)
    v = enumeration.values(PARAMS, GAMMA)
    t = np.arange(enumeration.T)[:, None]
    v_tp1 = np.concatenate([v[t[1:], enumeration.STATES[1:]], np.zeros((1, len(enumeration.PATHS)))])
    psi_t = psi.gae(trajectory, Critique(tf.constant(v[t, enumeration.STATES]), tf.constant(v_tp1)), Horizon(GAMMA, 0.8))
    weight = tf.broadcast_to(tf.constant(enumeration.probabilities(PARAMS)), psi_t.shape)
    columns = (trajectory.observation, trajectory.action, trajectory.log_prob, psi_t, weight, weight / enumeration.T)
    return Batch(*map(flat, columns), mask=tf.ones([len(flat(weight))], tf.bool))


BATCH = exact_batch()
PROBLEM = policy_problem(*bound("npg", PARAMS), BATCH, ONE, SEED)


def matrix(product):
    """The matrix of v -> F v, column by column."""
    size = len(enumeration.flat(PARAMS))
    return np.stack([product(tf.constant(column)).numpy() for column in np.eye(size)], axis=1)


def unflatten(vector):
    return trees.unflatten(tf.constant(vector, tf.float64), PARAMS)


FISHER = matrix(PROBLEM.fisher())
GRADIENT = gradients.gradient(PROBLEM.objective, PARAMS)[1]


@equation("PG-105", "PG-103", "PG-26")
@pytest.mark.parametrize("jit", [None, False, True])
@pytest.mark.parametrize(("count", "block"), [(1, 10**6), (2, 100), (3, 50), (5, 7), (9, 3)])
def test_a_batch_in_parts_and_blocks_is_the_same_problem(count, block, jit):
    """Of 648 samples, in parts that are not alike and blocks that are not full: each sum is the sum over the whole."""
    piece = (lambda f: f) if jit is None else lambda f: tf.function(f, jit_compile=jit, autograph=False)
    theta, v = unflatten(enumeration.flat(PARAMS) * 1.1 + 0.02), tf.constant(np.linspace(-1, 1, len(enumeration.flat(PARAMS))))

    def everything(problem):
        return problem.objective(theta), problem.gradient(theta), problem.divergence(theta), problem.outcome(theta), problem.fisher()(v)

    learner, state = bound("npg", PARAMS)
    run = tf.function(lambda: everything(side_by_side(learner, state, shards(BATCH, count, block), ONE, SEED, piece)), autograph=False)
    found, expected = run(), everything(PROBLEM)
    tf.nest.assert_same_structure(found, expected)
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-14)
        assert np.abs(b).max() > 1e-6


@equation("PG-105")
def test_parts_are_neighbours_as_equal_as_can_be_and_what_fills_them_up_weighs_nothing():
    batch = tf.nest.map_structure(lambda x: x[:11], BATCH)._replace(psi=tf.range(1.0, 12.0))
    batch = batch._replace(weight=tf.ones([11]), share=tf.ones([11]))
    parts = shards(batch, 3, 3)
    assert [part.psi.numpy().tolist() for part in parts] == [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 0]]]
    assert [part.weight.numpy().tolist() for part in parts] == [[[1, 1], [1, 1]]] * 2 + [[[1, 1], [1, 0]]]
    assert [part.observation.shape for part in parts] == [(2, 2, 9)] * 3
    assert len(shards(batch, 40, 3)) == 11


CUTS = [(5000, 2, 10**6, (1, 2560)), (8000, 2, 4096, (1, 4032)), (9000, 3, 1500, (2, 1536)), (640, 2, 100, (4, 80)), (7, 9, 100, (1, 1))]


@equation("PG-105")
@pytest.mark.parametrize(("samples", "count", "block", "shape"), CUTS)
def test_parts_are_no_copies_but_for_the_last(samples, count, block, shape, rng):
    """Of numbers of several sizes, whole rows of them and flags: neighbours stay neighbours, in parts of one shape."""
    observation = (rng.normal(size=[samples, 3]).astype(np.float32), rng.normal(size=[samples, 2, 5]))
    batch = Batch(tf.nest.map_structure(tf.constant, observation), psi=tf.range(samples), mask=tf.ones([samples], tf.bool))
    parts = shards(batch._replace(weight=tf.ones([samples])), count, block)
    assert len(parts) == min(count, samples)
    for whole, *found in zip(tf.nest.flatten(batch), *(tf.nest.flatten(x._replace(weight=())) for x in parts), strict=True):
        assert all(x.shape[:2] == shape for x in found)
        joined = np.concatenate([np.reshape(x, [-1, *whole.shape[1:]]) for x in found])
        np.testing.assert_array_equal(joined[:samples], whole)
        assert not joined[samples:].any()
        assert samples < 640 or all(np.shares_memory(memoryview(x), memoryview(whole)) for x in found[:-1])


def change(result):
    return enumeration.flat(result[0]) - enumeration.flat(PARAMS)


@equation("PG-104", "PG-105")
def test_fisher_of_the_problem_is_the_expected_outer_product_of_scores():
    trajectory = enumeration.trajectories(PARAMS)
    scores = gradients.score(enumeration.POLICY, PARAMS, flat(trajectory.observation), flat(trajectory.action))
    rows = np.concatenate([np.reshape(leaf, (leaf.shape[0], -1)) for leaf in tf.nest.flatten(scores)], axis=1)
    weight = np.tile(enumeration.probabilities(PARAMS), enumeration.T) / enumeration.T
    np.testing.assert_allclose(FISHER, np.einsum("m,mi,mj->ij", weight, rows, rows), atol=1e-12)


@equation("PG-26")
def test_ascend_takes_the_optimiser_s_increment_at_its_pace():
    result = improve.ascend(PROBLEM, PARAMS, (), settings(), tf.constant(0.25, tf.float64), ())
    np.testing.assert_allclose(change(result), 0.25 * 0.1 * enumeration.flat(GRADIENT), rtol=1e-12)


@equation("PG-107")
@pytest.mark.parametrize("damping", [0.0, 0.03])
def test_fixed_step_is_alpha_times_the_damped_natural_gradient(damping, mode):
    run = mode(lambda p: improve.natural(improve.fixed)(PROBLEM, p, (), settings(damping=damping), tf.constant(0.5, tf.float64), ()))
    damped = FISHER + damping * np.eye(len(FISHER))
    wanted = 0.3 * 0.5 * np.linalg.pinv(damped, rcond=1e-10) @ enumeration.flat(GRADIENT)
    np.testing.assert_allclose(change(run(PARAMS)), wanted, rtol=1e-6, atol=1e-8)


@equation("PG-106", "PG-108")
@pytest.mark.parametrize("damping", [0.0, 0.03])
@pytest.mark.parametrize("pace", [1.0, 0.4])
def test_kl_scaled_step_lies_on_the_quadratic_radius_whatever_the_damping(damping, pace, mode):
    chosen = settings(damping=damping, cg_iterations=6)
    run = mode(lambda p: improve.natural(improve.kl_scaled)(PROBLEM, p, (), chosen, tf.constant(pace, tf.float64), ()))
    delta = change(run(PARAMS))
    assert 0.5 * delta @ FISHER @ delta == pytest.approx(1e-3 * pace, rel=1e-9)
    assert delta @ enumeration.flat(GRADIENT) > 0


@equation("PG-106", "PG-103")
def test_actual_kl_tends_to_the_radius():
    ratios = []
    for radius in (1e-2, 1e-4, 1e-6):
        params, _, _ = improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(kl_radius=radius), ONE, ())
        ratios.append(abs(float(PROBLEM.divergence(params)) / radius - 1))
    assert ratios[0] > ratios[1] > ratios[2]
    assert ratios[2] < 2e-3


@equation("PG-106")
def test_the_natural_direction_beats_every_other_step_of_its_length(rng):
    params, _, _ = improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(), ONE, ())
    gain = change((params,)) @ enumeration.flat(GRADIENT)
    for other in rng.normal(size=(300, len(FISHER))):
        scaled = other * np.sqrt(2e-3 / (other @ FISHER @ other))
        assert scaled @ enumeration.flat(GRADIENT) < gain


@equation("PG-107", "PG-110")
def test_a_zero_gradient_moves_nothing():
    flatland = PROBLEM._replace(objective=lambda p: 0.0 * PROBLEM.objective(p), gradient=trees.zeros_like)
    for step in (improve.fixed, improve.kl_scaled, improve.backtracking):
        params, _, _ = improve.natural(step)(flatland, PARAMS, (), settings(), ONE, SEED)
        np.testing.assert_array_equal(enumeration.flat(params), enumeration.flat(PARAMS))


def backtrack(problem, **changes):
    return improve.natural(improve.backtracking)(problem, PARAMS, (), settings(**changes), ONE, ())


@equation("PG-110")
@pytest.mark.parametrize(("stretch", "k"), [(1.0, 0), (2.3, 2)])
def test_backtracking_takes_the_first_length_inside_the_radius(stretch, k, mode):
    """KL is about the radius at full length, half of it one step shorter, a quarter two steps shorter: stretched, the third one fits."""
    problem = PROBLEM._replace(divergence=lambda p: stretch * PROBLEM.divergence(p))
    run = mode(lambda p: improve.natural(improve.backtracking)(problem, p, (), settings(), ONE, ()))
    params, _, info = run(PARAMS)
    full = change(improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(), ONE, ()))
    kl = [stretch * float(PROBLEM.divergence(unflatten(enumeration.flat(PARAMS) + 0.7**j * full))) for j in range(k + 1)]
    assert all(x > 1e-3 for x in kl[:k])
    assert kl[k] <= 1e-3
    np.testing.assert_allclose(change((params,)), 0.7**k * full, rtol=1e-6, atol=1e-9)
    assert float(info["accepted"]) == 1


@equation("PG-110")
def test_backtracking_also_shortens_for_the_surrogate_alone():
    """A surrogate that falls beyond a short way along the direction, inside the KL radius."""
    full = change(improve.natural(improve.kl_scaled)(PROBLEM, PARAMS, (), settings(), ONE, ()))

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


# Epochs over one batch: problems whose gradient tells which units a part holds.


def counting(units, overlap):
    """A problem whose theta [units] rises by one wherever a unit takes part; overlap: (theta, rows) -> the share that is told."""

    def of(rows):
        marks = tf.reduce_sum(tf.one_hot(rows, units, dtype=tf.float64), axis=0)
        return Problem(
            objective=lambda theta: tf.tensordot(marks, theta, 1),
            gradient=lambda theta: marks,
            divergence=lambda theta: 0 * ONE,
            fisher=lambda: lambda v: v,
            outcome=lambda theta: {},
            overlap=lambda theta: overlap(theta, rows),
            part=of,
        )

    return of(tf.range(units))


def run_epochs(units, problem, mode=lambda f: f, memory=(), pace=ONE, seed=SEED, **changes):
    """theta from zeros [units], the optimiser's memory and what is told."""
    chosen = settings(**{"optimizer": optimizers.sgd(1.0), **changes})
    order = minibatches.orders(units, chosen.epochs, chosen.minibatches, seed)
    run = mode(lambda theta: improve.epochs(problem, theta, memory, chosen, pace, order))
    return run(tf.zeros([units], tf.float64))


def fully(theta, rows):
    return ONE


@equation("PG-83")
def test_each_pass_uses_every_unit_once_and_leaves_another_remainder_out(mode):
    theta, _, info = run_epochs(12, counting(12, fully), mode, epochs=5, minibatches=3)
    np.testing.assert_array_equal(theta, np.full(12, 5))
    assert float(info["refused"]) == 0
    assert float(info["overlap"]) == 1
    assert float(info["step_size"]) == pytest.approx(np.sqrt(12 * 25))
    found = [run_epochs(11, counting(11, fully), mode, epochs=1, minibatches=3, seed=tf.constant([1, k]))[0].numpy() for k in range(6)]
    assert all(sorted(x) == [0, 0, *[1] * 9] for x in found)
    assert len({tuple(x) for x in found}) > 3
    passes = run_epochs(11, counting(11, fully), mode, epochs=6, minibatches=3)[0].numpy()
    assert passes.sum() == 54
    assert (passes < 6).sum() > 2


@equation("PG-26")
def test_parts_come_one_after_another_at_the_new_parameters():
    """Gradient descent on a parabola: k steps of rate 0.1 shrink the distance by 0.9^k; their pace makes them shorter."""
    parabola = counting(4, fully)._replace(gradient=lambda theta: 1.0 - theta)
    parabola = parabola._replace(part=lambda rows: parabola)
    for pace in (1.0, 0.25):
        theta, _, _ = run_epochs(4, parabola, optimizer=optimizers.sgd(0.1), epochs=3, minibatches=2, pace=pace * ONE)
        np.testing.assert_allclose(theta, np.full(4, 1 - (1 - 0.1 * pace) ** 6), rtol=1e-12)


@equation("PG-71")
def test_an_update_is_refused_where_the_data_say_too_little_and_it_is_counted(mode):
    """The whole batch is asked, not the part: three updates of two units are made, and then theta and Adam's memory stay as they are."""

    def until_six(theta, rows):
        return tf.where((tf.size(rows) == 6) & (tf.reduce_sum(theta) < 6), 0.8 * ONE, 0.2 * ONE)

    theta, _, info = run_epochs(6, counting(6, until_six), mode, epochs=4, minibatches=3, least_overlap=0.5)
    np.testing.assert_array_equal(theta, np.ones(6))
    assert float(info["refused"]) == 9
    assert float(info["overlap"]) == pytest.approx(0.2)
    adam, little = optimizers.adam(0.1), lambda theta, rows: 0.2 * ONE
    start = adam.init(tf.zeros([6], tf.float64))
    theta, memory, info = run_epochs(6, counting(6, little), mode, memory=start, optimizer=adam, epochs=4, minibatches=3, least_overlap=0.5)
    np.testing.assert_array_equal(theta, np.zeros(6))
    tf.nest.map_structure(np.testing.assert_array_equal, memory, start)
    assert float(info["refused"]) == 12
    _, memory, _ = run_epochs(6, counting(6, fully), mode, memory=start, optimizer=adam, epochs=4, minibatches=3, least_overlap=0.5)
    assert int(memory.step) == 12


@equation("PG-71")
def test_a_share_just_at_the_least_is_enough_and_one_that_is_no_number_is_not():
    exact = counting(6, lambda theta, rows: tf.constant(0.5))
    assert float(run_epochs(6, exact, epochs=2, minibatches=2, least_overlap=0.5)[2]["refused"]) == 0
    nothing = counting(6, lambda theta, rows: tf.constant(np.nan))
    theta, _, info = run_epochs(6, nothing, epochs=2, minibatches=2, least_overlap=0.0)
    assert float(info["refused"]) == 4
    np.testing.assert_array_equal(theta, np.zeros(6))


@equation("PG-71")
def test_overlap_is_judged_at_the_parameters_of_the_moment():
    """It falls as theta leaves its start: the first updates are made, the others are not."""
    falling = counting(4, lambda theta, rows: 1 / (1 + tf.reduce_sum(theta)))
    theta, _, info = run_epochs(4, falling, epochs=5, minibatches=4, least_overlap=0.3)
    assert float(tf.reduce_sum(theta)) == 3
    assert float(info["refused"]) == 17
    assert float(info["overlap"]) == pytest.approx(1 / 4)


@equation("PG-26", "PG-107")
def test_a_gradient_put_in_its_place_is_the_one_that_is_used():
    mine = tf.nest.map_structure(tf.ones_like, PARAMS)
    for move, length in [(improve.ascend, 0.1), (improve.natural(improve.fixed), 0.3)]:
        problem = PROBLEM._replace(gradient=lambda p: mine, fisher=lambda: lambda v: v)
        result = move(problem, PARAMS, (), settings(), ONE, SEED)
        np.testing.assert_allclose(change(result), np.full(len(FISHER), length), rtol=1e-9)
