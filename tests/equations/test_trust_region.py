"""Trust regions: constraints met, Lagrange conditions, and steps that no other feasible step beats."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import distributions, trust_region

equation = pytest.mark.equation

P = 5
G = np.random.default_rng(31).normal(size=P)
ROOT = np.random.default_rng(32).normal(size=(P, P))
FISHER = ROOT @ ROOT.T / P + 0.2 * np.eye(P)
SINGULAR = ROOT[:, :3] @ ROOT[:, :3].T
IN_RANGE = SINGULAR @ np.random.default_rng(33).normal(size=P)
TYPES = ((tf.float64, 1e-10), (tf.float32, 2e-4))


def constants(dtype, *arrays):
    return [tf.constant(x, dtype) for x in arrays]


def random_feasible(matrix, bound, count=10_000):
    """Steps with Delta^T matrix Delta up to `bound`, most of them on it."""
    rng = np.random.default_rng(34)
    steps = rng.normal(size=(count, P))
    lengths = np.sqrt(bound / np.einsum("kp,pq,kq->k", steps, matrix, steps)) * np.where(rng.random(count) < 0.8, 1, rng.random(count))
    return steps * lengths[:, None]


# Lengths in parameters


@equation("PG-100")
@pytest.mark.parametrize("epsilon", [0.03, 2.7])
def test_euclidean_step_is_as_long_as_allowed_and_beats_all_others(mode, epsilon):
    for dtype, tolerance in TYPES:
        delta = mode(trust_region.euclidean_step)(*constants(dtype, G, epsilon)).numpy()
        np.testing.assert_allclose(delta @ delta, epsilon, rtol=tolerance)
        gains = random_feasible(np.eye(P), epsilon) @ G
        assert 0.8 * (delta @ G) < gains.max() < delta @ G


@equation("PG-100")
def test_euclidean_step_size_is_half_the_inverse_multiplier():
    """g = lambda grad |Delta|^2, lambda = |g| / (2 sqrt(epsilon)); alpha is 1 / (2 lambda), and not lambda."""
    epsilon = 0.3
    delta, multiplier = trust_region.euclidean_step(G, epsilon).numpy(), np.linalg.norm(G) / (2 * np.sqrt(epsilon))
    np.testing.assert_allclose(G, multiplier * 2 * delta, rtol=1e-12)
    np.testing.assert_allclose(delta, G / (2 * multiplier), rtol=1e-12)
    assert abs(multiplier - 1 / (2 * multiplier)) > 0.1


# Lengths in policies


@equation("PG-106")
def test_natural_step_is_tight_and_beats_all_others(mode):
    """With the half in the bound: 1/2 Delta^T F Delta <= epsilon. Its formula, with the inverse written out, is a second witness."""
    inverse, step = np.linalg.inv(FISHER), mode(trust_region.natural_step)
    for epsilon in (0.01, 0.7):
        delta = step(*constants(tf.float64, G, FISHER, epsilon)).numpy()
        single = trust_region.natural_step(*constants(tf.float32, G, FISHER, epsilon))
        np.testing.assert_allclose(single, delta, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(0.5 * delta @ FISHER @ delta, epsilon, rtol=1e-10)
        np.testing.assert_allclose(delta, np.sqrt(2 * epsilon / (G @ inverse @ G)) * inverse @ G, rtol=1e-10)
        gains = random_feasible(FISHER, 2 * epsilon) @ G
        assert 0.8 * (delta @ G) < gains.max() < delta @ G


@equation("PG-106")
def test_without_the_half_in_the_bound_the_step_is_shorter_by_the_root_of_two():
    epsilon = 0.2
    with_half, without = trust_region.natural_step(G, FISHER, epsilon).numpy(), trust_region.natural_step(G, FISHER, epsilon / 2).numpy()
    np.testing.assert_allclose(without @ FISHER @ without, epsilon, rtol=1e-12)
    np.testing.assert_allclose(with_half, np.sqrt(2) * without, rtol=1e-12)
    gains = random_feasible(FISHER, epsilon) @ G
    assert 0.8 * (without @ G) < gains.max() < without @ G
    assert gains.max() < with_half @ G


@equation("PG-106", "PG-107")
def test_natural_step_of_a_singular_matrix_stays_in_its_range():
    """What F does not measure would cost nothing; a gradient in the range of F gains nothing by it either."""
    for dtype, tolerance in ((tf.float64, 1e-8), (tf.float32, 2e-3)):
        delta = trust_region.natural_step(*constants(dtype, IN_RANGE, SINGULAR, 0.3)).numpy()
        inverse = np.linalg.pinv(SINGULAR)
        np.testing.assert_allclose(0.5 * delta @ SINGULAR @ delta, 0.3, rtol=tolerance)
        np.testing.assert_allclose(
            delta, np.sqrt(0.6 / (IN_RANGE @ inverse @ IN_RANGE)) * inverse @ IN_RANGE, rtol=tolerance, atol=tolerance
        )


@equation("PG-100", "PG-106")
def test_no_gradient_is_no_step():
    nothing = tf.zeros([P], tf.float64)
    epsilon = tf.constant(0.3, tf.float64)
    np.testing.assert_array_equal(trust_region.euclidean_step(nothing, epsilon), nothing)
    np.testing.assert_array_equal(trust_region.natural_step(nothing, tf.constant(FISHER), epsilon), nothing)


@equation("PG-106", "PG-103")
def test_actual_divergence_of_natural_steps_tends_to_the_radius():
    """Of a softmax over five actions: KL / epsilon tends to 1, to 1/2 if the bound lacks its half; and monotonically here."""
    logits = np.array([0.3, -1.1, 0.8, 0.1, -0.4])
    matrix = distributions.categorical_fisher(logits)
    g = matrix.numpy() @ G
    ratios = []
    for epsilon in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6):
        delta = trust_region.natural_step(g, matrix, epsilon).numpy()
        shorter = trust_region.natural_step(g, matrix, epsilon / 2).numpy()
        ratios.append([float(distributions.categorical_kl(logits + x, logits)) / epsilon for x in (delta, shorter)])
    errors = np.abs(np.array(ratios) - [1, 0.5])
    assert np.all(errors[1:] < errors[:-1])
    assert np.all(errors[-1] < 1e-3)


# Step length and damping


@equation("PG-108")
def test_step_size_puts_the_step_on_the_radius(mode, rng):
    d, epsilon = rng.normal(size=P), 0.04
    for dtype, tolerance in TYPES:
        alpha = mode(trust_region.step_size)(*constants(dtype, d @ FISHER @ d, epsilon)).numpy()
        np.testing.assert_allclose(0.5 * (alpha * d) @ FISHER @ (alpha * d), epsilon, rtol=tolerance)


@equation("PG-108")
@pytest.mark.parametrize("dfd", [0.0, -0.3])
def test_a_direction_without_curvature_has_no_length(mode, dfd):
    def everything(dfd, epsilon):
        with tf.GradientTape() as tape:
            tape.watch((dfd, epsilon))
            alpha = trust_region.step_size(dfd, epsilon)
        return alpha, tape.gradient(alpha, (dfd, epsilon))

    np.testing.assert_array_equal(tf.nest.flatten(mode(everything)(*constants(tf.float64, dfd, 0.04))), np.zeros(3))


@equation("PG-108", "PG-106")
def test_of_an_exact_solution_the_gradient_times_the_direction_gives_the_same_length():
    d = trust_region.natural_gradient(G, FISHER, 0.0).numpy()
    np.testing.assert_allclose(G @ d, d @ FISHER @ d, rtol=1e-12)
    np.testing.assert_allclose(trust_region.step_size(G @ d, 0.04) * d, trust_region.natural_step(G, FISHER, 0.04), rtol=1e-12)


@equation("PG-108", "PG-107")
def test_with_damping_only_the_undamped_form_keeps_the_bound():
    d, epsilon = trust_region.natural_gradient(G, FISHER, 0.5).numpy(), 0.04
    kept, reused = (trust_region.step_size(x, epsilon).numpy() * d for x in (d @ FISHER @ d, G @ d))
    np.testing.assert_allclose(0.5 * kept @ FISHER @ kept, epsilon, rtol=1e-12)
    assert 0.5 * reused @ FISHER @ reused < 0.9 * epsilon


@equation("PG-107")
def test_natural_gradient_solves_the_damped_system(mode):
    solve = mode(trust_region.natural_gradient)
    for damping in (0.0, 0.03, 4.0):
        found = solve(*constants(tf.float64, G, FISHER, damping)).numpy()
        np.testing.assert_allclose(FISHER @ found + damping * found, G, rtol=1e-10)
        single = trust_region.natural_gradient(*constants(tf.float32, G, FISHER, damping))
        np.testing.assert_allclose(single, found, rtol=1e-4, atol=1e-5)


@equation("PG-107")
def test_damping_turns_the_natural_gradient_into_the_gradient():
    """Small: the pseudo-inverse's solution, even of a singular matrix; large: the gradient itself, over the damping."""
    exact = np.linalg.pinv(SINGULAR) @ IN_RANGE
    errors = [np.abs(trust_region.natural_gradient(IN_RANGE, SINGULAR, eta) - exact).max() for eta in (1e-2, 1e-3, 1e-4)]
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 10, rtol=0.2)
    np.testing.assert_allclose(trust_region.natural_gradient(IN_RANGE, SINGULAR, 0.0), exact, rtol=1e-9)
    np.testing.assert_allclose(1e7 * trust_region.natural_gradient(G, FISHER, 1e7), G, rtol=1e-5)


# The trust region of a divergence


def gaussian_divergence(delta):
    """KL of N(delta_0, (0.8 e^{delta_1})^2) from N(0, 0.8^2)."""
    return 0.5 * (tf.exp(2 * delta[1]) + (delta[0] / 0.8) ** 2 - 1) - delta[1]


def divergence_by_hand(delta):
    """The same, for many steps [..., 2]."""
    return 0.5 * (np.exp(2 * delta[..., 1]) + (delta[..., 0] / 0.8) ** 2 - 1) - delta[..., 1]


GAUSSIAN_FISHER = np.diag([1 / 0.64, 2.0])


def by_newton(g, epsilon, divergence=gaussian_divergence, fisher=GAUSSIAN_FISHER, mode=lambda function: function):
    """From the natural step."""
    start = trust_region.natural_step(*constants(tf.float64, g, fisher, epsilon))
    return mode(lambda g, start: trust_region.divergence_step(divergence, g, start, epsilon))(tf.constant(g), start)


def best_on_the_boundary(g, epsilon, angles=200_001):
    """Each direction as far as the divergence allows, by bisection; the one that gains most."""
    angle = np.linspace(0, 2 * np.pi, angles)
    direction = np.stack([np.cos(angle), np.sin(angle)], -1)
    near, far = np.zeros(angles), np.full(angles, 5.0)
    for _ in range(60):
        middle = (near + far) / 2
        inside = divergence_by_hand(middle[:, None] * direction) <= epsilon
        near, far = np.where(inside, middle, near), np.where(inside, far, middle)
    steps = near[:, None] * direction
    return steps[np.argmax(steps @ g)]


@equation("PG-101", "PG-102")
def test_divergence_step_is_the_best_of_all_directions(mode):
    """Beyond the quadratic model: the natural step for the same radius misses the bound."""
    g, epsilon = np.array([0.7, 0.4]), 0.4
    delta = by_newton(g, epsilon, mode=mode).numpy()
    best = best_on_the_boundary(g, epsilon)
    np.testing.assert_allclose(divergence_by_hand(delta), epsilon, rtol=1e-10)
    np.testing.assert_allclose(delta, best, atol=1e-4)
    np.testing.assert_allclose(delta @ g, best @ g, rtol=1e-8)
    natural = trust_region.natural_step(g, GAUSSIAN_FISHER, epsilon).numpy()
    assert abs(divergence_by_hand(natural) / epsilon - 1) > 0.04


@equation("PG-101")
def test_divergence_step_meets_the_conditions_of_lagrange():
    """g is a positive multiple of the slope of D, and D is epsilon: with five logits, and in their plane of differences."""
    logits, epsilon = tf.constant([0.3, -1.1, 0.8, 0.1, -0.4], tf.float64), 0.05
    matrix = distributions.categorical_fisher(logits)
    g = matrix.numpy() @ G
    divergence = lambda delta: distributions.categorical_kl(logits + delta, logits)  # noqa: E731
    delta = by_newton(g, epsilon, divergence, matrix)
    with tf.GradientTape() as tape:
        tape.watch(delta)
        value = divergence(delta)
    slope = tape.gradient(value, delta).numpy()
    np.testing.assert_allclose(value, epsilon, rtol=1e-10)
    multiplier = g @ slope / (slope @ slope)
    assert multiplier > 0
    np.testing.assert_allclose(g, multiplier * slope, atol=1e-10)


@equation("PG-101")
def test_divergence_step_says_when_it_has_not_converged(mode):
    """Too few iterations; no step of that divergence, which is bounded; the downhill end, which solves the equations as well."""
    g = np.array([0.7, 0.4])
    start = trust_region.natural_step(g, GAUSSIAN_FISHER, 0.4)
    assert np.isnan(mode(lambda g, start: trust_region.divergence_step(gaussian_divergence, g, start, 0.4, 1))(tf.constant(g), start)).all()
    bounded = lambda delta: 1 - tf.exp(-tf.reduce_sum(delta**2))  # noqa: E731
    assert np.isnan(mode(lambda g, start: trust_region.divergence_step(bounded, g, start, 1.5))(tf.constant(g), start)).all()
    assert np.isnan(mode(lambda g, start: trust_region.divergence_step(gaussian_divergence, g, start, 0.1))(tf.constant(g), -start)).all()


@equation("PG-101")
@pytest.mark.parametrize("g", [0.7, -1.3])
def test_divergence_step_of_one_parameter_goes_to_the_end_of_the_interval(g):
    """exp(2 x) / 2 - 1/2 - x = epsilon has a root on either side of zero; bisection finds the one uphill."""
    epsilon = 0.3
    divergence = lambda delta: gaussian_divergence(tf.stack([tf.zeros([], tf.float64), delta[0]]))  # noqa: E731
    found = by_newton(np.array([g]), epsilon, divergence, [[2.0]])
    near, far = 0.0, 3.0 * np.sign(g)
    for _ in range(80):
        middle = (near + far) / 2
        below = divergence_by_hand(np.array([0, middle])) <= epsilon
        near, far = (middle, far) if below else (near, middle)
    np.testing.assert_allclose(found, [near], rtol=1e-10)


@equation("PG-101", "PG-106")
def test_divergence_step_becomes_the_natural_step_as_the_radius_shrinks():
    """Their distance falls with the square of their length, that is with epsilon."""
    g, errors = np.array([0.7, 0.4]), []
    for epsilon in (1e-2, 1e-3, 1e-4):
        natural = trust_region.natural_step(g, GAUSSIAN_FISHER, epsilon).numpy()
        errors.append(np.linalg.norm(by_newton(g, epsilon).numpy() - natural))
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 10, rtol=0.3)


@equation("PG-101")
def test_divergence_step_in_single_precision_agrees_with_double():
    g, epsilon = np.array([0.7, 0.4]), 0.3
    start = trust_region.natural_step(g, GAUSSIAN_FISHER, epsilon).numpy()
    found = trust_region.divergence_step(gaussian_divergence, *constants(tf.float32, g, start), epsilon)
    np.testing.assert_allclose(found, by_newton(g, epsilon), rtol=1e-4)


@equation("PG-101")
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_divergence_step_does_not_ask_how_long_the_gradient_is(scale):
    """Nor does its verdict on whether it has converged, or to a maximum."""
    g = np.array([0.7, 0.4])
    np.testing.assert_allclose(by_newton(scale * g, 0.4), by_newton(g, 0.4), rtol=1e-6)
    start = trust_region.natural_step(g, GAUSSIAN_FISHER, 0.4)
    assert np.isnan(trust_region.divergence_step(gaussian_divergence, tf.constant(scale * g), start, 0.4, 1)).all()
    assert np.isnan(trust_region.divergence_step(gaussian_divergence, tf.constant(scale * g), -0.5 * start, 0.1)).all()
