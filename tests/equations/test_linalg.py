"""Conjugate gradient and the pseudo-inverse against the solutions, projections and residuals that define them."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfpg import linalg

equation = pytest.mark.equation

LIKE = {"w": tf.zeros([2, 2], tf.float64), "b": (tf.zeros([2], tf.float64), tf.zeros([], tf.float64))}
EIGENVALUES = (0.5, 0.8, 1.3, 1.9, 2.4, 3.1, 4.0)
N = len(EIGENVALUES)


def nest(x, dtype=tf.float64):
    """Seven numbers as a nest like parameters, in the order `flat` reads them."""
    x = tf.cast(x, dtype)
    return {"w": tf.reshape(x[3:], [2, 2]), "b": (x[:2], x[2])}


def flat(x):
    return tf.concat([tf.reshape(leaf, [-1]) for leaf in tf.nest.flatten(x)], 0)


def matrix(rng, eigenvalues=EIGENVALUES):
    q, _ = np.linalg.qr(rng.normal(size=(N, N)))
    return q @ np.diag(eigenvalues) @ q.T


def solve(a, b, iterations, mode=lambda function: function, dtype=tf.float64, **given):
    def run(a, b):
        return linalg.conjugate_gradient(lambda v: nest(tf.linalg.matvec(a, flat(v)), dtype), b, iterations, **given)

    return mode(run)(tf.constant(a, dtype), nest(b, dtype))


@equation("PG-109")
def test_the_nest_of_these_tests_is_a_vector(rng):
    x = rng.normal(size=N)
    np.testing.assert_array_equal(flat(nest(x)), x)
    tf.nest.assert_same_structure(nest(x), LIKE)


@equation("PG-109")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 2e-5)])
def test_as_many_iterations_as_dimensions_solve_exactly(mode, dtype, tolerance, rng):
    a, x = matrix(rng), rng.normal(size=N)
    solution = solve(a, a @ x, N, mode, dtype)
    tf.nest.assert_same_structure(solution.x, LIKE)
    assert {leaf.dtype for leaf in tf.nest.flatten(solution.x)} == {tf.as_dtype(dtype)}
    np.testing.assert_allclose(flat(solution.x), x, rtol=tolerance, atol=tolerance)
    assert solution.residual < tolerance


@equation("PG-109")
def test_each_iterate_is_nearest_to_the_solution_in_its_krylov_space(mode, rng):
    """x_k minimises the A-norm of the error over span(b, Ab, .., A^{k-1} b)."""
    a, b = matrix(rng), rng.normal(size=N)
    for k in range(1, 5):
        krylov = np.stack([np.linalg.matrix_power(a, j) @ b for j in range(k)], 1)
        nearest = krylov @ np.linalg.solve(krylov.T @ a @ krylov, krylov.T @ b)
        solution = solve(a, b, k, mode)
        np.testing.assert_allclose(flat(solution.x), nearest, rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(solution.residual, np.linalg.norm(b - a @ nearest) / np.linalg.norm(b), rtol=1e-9)
        assert solution.iterations == k


@equation("PG-109")
@pytest.mark.parametrize("iterations", [0, 1, 3, N])
def test_what_is_left_is_the_right_side_less_the_product(mode, iterations, rng):
    a, b = matrix(rng), rng.normal(size=N)
    solution = solve(a, b, iterations, mode)
    tf.nest.assert_same_structure(solution.rest, LIKE)
    np.testing.assert_allclose(flat(solution.rest), b - a @ flat(solution.x).numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(flat(solution.rest)), float(solution.residual) * np.linalg.norm(b), rtol=1e-9, atol=1e-15)


@equation("PG-109")
def test_the_error_falls_in_the_norm_of_the_matrix(rng):
    a, x = matrix(rng), rng.normal(size=N)
    errors = [flat(solve(a, a @ x, k).x).numpy() - x for k in range(N)]
    norms = [np.sqrt(e @ a @ e) for e in errors]
    assert all(after < 0.95 * before for before, after in itertools.pairwise(norms))


@equation("PG-109")
def test_as_many_iterations_as_distinct_eigenvalues_are_enough(mode, rng):
    a, x = matrix(rng, (0.7, 0.7, 0.7, 1.9, 1.9, 3.1, 3.1)), rng.normal(size=N)
    solution = solve(a, a @ x, 50, mode)
    assert solution.iterations == 3
    np.testing.assert_allclose(flat(solution.x), x, rtol=1e-10, atol=1e-11)


@equation("PG-109")
@pytest.mark.parametrize("tolerance", [0.3, 0.03])
def test_it_stops_at_the_first_iterate_within_tolerance(mode, tolerance, rng):
    a, b = matrix(rng), 1e3 * rng.normal(size=N)
    solution = solve(a, b, 50, mode, tolerance=tolerance)
    before = solve(a, b, int(solution.iterations) - 1)
    assert solution.residual <= tolerance < before.residual
    assert 1 < solution.iterations < N


@equation("PG-109")
def test_each_iteration_is_one_product(rng):
    a, products = matrix(rng), []

    def matvec(v):
        products.append(v)
        return nest(tf.linalg.matvec(a, flat(v)))

    solution = linalg.conjugate_gradient(matvec, nest(rng.normal(size=N)), 4)
    assert len(products) == solution.iterations == 4


@equation("PG-109", "PG-107")
def test_a_singular_consistent_system_gives_its_shortest_solution(mode, rng):
    a = matrix(rng, (0, 0, 0.8, 1.3, 1.9, 2.4, 4.0))
    b = a @ rng.normal(size=N)
    solution = solve(a, b, 50, mode)
    np.testing.assert_allclose(flat(solution.x), np.linalg.pinv(a) @ b, rtol=1e-9, atol=1e-10)
    assert solution.residual < 1e-9
    assert solution.iterations == 5


@equation("PG-109")
def test_nothing_is_solved_by_nothing(mode, rng):
    solution = solve(matrix(rng), np.zeros(N), 5, mode)
    assert not np.any(flat(solution.x))
    assert (solution.residual, solution.iterations) == (0.0, 0)


@equation("PG-109")
def test_no_iterations_leave_all_of_it(mode, rng):
    solution = solve(matrix(rng), rng.normal(size=N), 0, mode)
    assert not np.any(flat(solution.x))
    assert (solution.residual, solution.iterations) == (1.0, 0)


@equation("PG-109")
@pytest.mark.parametrize("curvature", [0.0, -1.0])
def test_a_direction_without_curvature_ends_it_unmoved(mode, curvature, rng):
    solution = solve(curvature * np.eye(N), rng.normal(size=N), 5, mode)
    assert not np.any(flat(solution.x))
    assert (solution.residual, solution.iterations) == (1.0, 1)
    assert bool(solution.broken)


@equation("PG-109")
def test_one_that_comes_later_leaves_what_was_found_until_then(mode, rng):
    """Of diag(1, 0): the first direction has curvature, the second one is the null space."""
    a, b = np.zeros([N, N]), np.zeros(N)
    a[0, 0], b[:2] = 1.0, 1.0
    solution, first = solve(a, b, 5, mode), solve(a, b, 1, mode)
    assert (bool(solution.broken), bool(first.broken)) == (True, False)
    np.testing.assert_array_equal(flat(solution.x), flat(first.x))
    regular = solve(matrix(rng), rng.normal(size=N), 50, mode)
    assert not bool(regular.broken)


@equation("PG-109")
def test_an_inconsistent_system_stays_finite_and_says_so(mode, rng):
    a = np.diag([0, 1.0, 2, 3, 4, 5, 6])
    solution = solve(a, rng.normal(size=N), 50, mode)
    assert np.all(np.isfinite(flat(solution.x)))
    assert solution.residual > 0.01


@equation("PG-109")
def test_a_right_hand_side_that_is_not_a_number_is_seen_in_the_residual(mode, rng):
    b = rng.normal(size=N)
    b[4] = np.nan
    assert np.isnan(solve(matrix(rng), b, 5, mode).residual)


@equation("PG-109")
@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_the_size_of_the_right_hand_side_does_not_matter(mode, size, rng):
    a, x = matrix(rng), rng.normal(size=N)
    solution = solve(a, size * a @ x, N, mode, tf.float32)
    np.testing.assert_allclose(flat(solution.x) / size, x, rtol=1e-4, atol=1e-4)


@equation("PG-109")
def test_one_dimension_takes_one_iteration(mode):
    solution = mode(lambda b: linalg.conjugate_gradient(lambda v: 2.5 * v, b, 9))(tf.constant([0.7], tf.float64))
    np.testing.assert_allclose(solution.x, [0.28], rtol=1e-14)
    assert solution.iterations == 1


@equation("PG-109")
def test_every_number_of_the_right_hand_side_matters(rng):
    a, b = matrix(rng), rng.normal(size=N)
    base = flat(solve(a, b, 3).x)
    for k in range(N):
        assert np.abs(flat(solve(a, b + 0.37 * np.eye(N)[k], 3).x) - base).max() > 1e-6


@equation("PG-109")
def test_no_gradient_flows_through_the_solution():
    b = tf.constant([1.0, 2.0])
    with tf.GradientTape() as tape:
        tape.watch(b)
        x = linalg.conjugate_gradient(lambda v: 3.0 * v, b, 5).x
    assert tape.gradient(x, b) is None


@equation("PG-109", "PG-107")
def test_of_a_softmax_it_finds_the_shortest_of_all_solutions(mode, rng):
    """Its Fisher matrix has the ones as a null vector, in each of two states; a gradient in its range has no part of them."""
    pi = rng.dirichlet(np.ones(3), size=2)
    a = np.zeros((6, 6))
    for s in range(2):
        a[3 * s : 3 * s + 3, 3 * s : 3 * s + 3] = (0.3, 0.7)[s] * (np.diag(pi[s]) - np.outer(pi[s], pi[s]))
    b = a @ rng.normal(size=6)
    run = mode(lambda b: linalg.conjugate_gradient(lambda v: tf.linalg.matvec(tf.constant(a), v), b, 20))
    solution = run(tf.constant(b))
    np.testing.assert_allclose(solution.x, np.linalg.pinv(a, rcond=1e-12) @ b, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(solution.x.numpy().reshape(2, 3).sum(-1), [0, 0], atol=1e-10)
    assert solution.iterations <= 4


@equation("PG-109")
def test_no_gradient_flows_through_the_product(rng):
    """Nor does the result know what the matrix depends on."""
    scale = tf.constant(1.3, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(scale)
        x = linalg.conjugate_gradient(lambda v: scale * v, tf.constant(rng.normal(size=3)), 5).x
    assert tape.gradient(x, scale) is None


# The pseudo-inverse


@equation("PG-107")
def test_shortest_solution_solves_what_can_be_solved_and_is_short_where_much_would_do(mode, rng):
    """Regular; singular and consistent; singular and inconsistent, where what cannot be met is left as it is."""
    singular = matrix(rng, (0, 0, 0.8, 1.3, 1.9, 2.4, 4.0))
    solve = mode(linalg.shortest_solution)
    for a, b in ((matrix(rng), rng.normal(size=N)), (singular, singular @ rng.normal(size=N)), (singular, rng.normal(size=N))):
        x = solve(tf.constant(a), tf.constant(b)).numpy()
        values, vectors = np.linalg.eigh(a)
        some = values > 1e-10
        np.testing.assert_allclose(x, vectors[:, some] @ (vectors[:, some].T @ b / values[some]), rtol=1e-9, atol=1e-10)


@equation("PG-107")
def test_shortest_solution_in_single_precision_agrees_with_double(rng):
    a, b = matrix(rng, (-2.0, -0.5, 0.8, 1.3, 1.9, 2.4, 4.0)), rng.normal(size=N)
    single = linalg.shortest_solution(tf.constant(a, tf.float32), tf.constant(b, tf.float32))
    np.testing.assert_allclose(single, np.linalg.solve(a, b), rtol=1e-4, atol=1e-5)


@equation("PG-109")
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1e6])
def test_the_residual_is_relative_to_a_right_side_of_any_size(scale, rng):
    root = rng.normal(size=(6, 6))
    matrix, b = root @ root.T + np.eye(6), scale * rng.normal(size=6)
    found = linalg.conjugate_gradient(lambda v: tf.linalg.matvec(tf.constant(matrix), v), tf.constant(b), iterations=2)
    expected = np.linalg.norm(b - matrix @ found.x.numpy()) / np.linalg.norm(b)
    assert expected > 1e-2
    np.testing.assert_allclose(found.residual, expected, rtol=1e-9)


@equation("PG-105")
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_sums_and_narrow_products_are_what_they_say(mode, dtype, rng):
    x = rng.normal(size=[3, 5, 4])
    found = mode(lambda x: (linalg.row_sums(x), linalg.row_sums(x[0]), linalg.column_sums(x[0])))(tf.constant(x, dtype))
    found += tuple(mode(lambda u: linalg.few_by_many(u, tf.constant(x[1], dtype)))(tf.constant(x[0, :, :r], dtype)) for r in (1, 2, 3))
    products = [x[0, :, :r].T @ x[1] for r in (1, 2, 3)]
    for a, b in zip(found, (x.sum(-1), x[0].sum(-1), x[0].sum(0), *products), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, atol=1e-6 if dtype == tf.float32 else 1e-14)
