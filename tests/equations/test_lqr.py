"""The linear-quadratic regulator, against sums over its noises: every state is a linear function of standard normal numbers."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from episodes import chi_square_bound
from laws import finite_difference

from tfpg import estimators
from tfpg.lqr import LQR

equation = pytest.mark.equation
GAMMA, THETA = 0.9, np.array([-0.35, 0.6])


def mean_return(gains, sigma, start, steps, gamma, first_action=None):
    """E sum gamma^t r_t. `start` holds the coefficients of s_1 in (1, z_0, z_1, ...): E[s^2] is their sum of squares."""
    s, total = np.append(start, np.zeros(steps)), 0.0
    for t in range(steps):
        noise = np.zeros_like(s)
        noise[len(start) + t] = sigma
        a = gains[t] * s + noise if t or first_action is None else first_action * np.eye(len(s))[0]
        total -= gamma**t * (s @ s + a @ a)
        s = s + a
    return total


def objective(theta, steps, gamma, start_variance):
    return mean_return([theta[0]] * steps, theta[1], [0.0, start_variance**0.5], steps, gamma)


@equation("PG-112", "PG-12")
@pytest.mark.parametrize(("steps", "start_variance"), [(1, 1.7), (4, 0.3)])
def test_objective_and_gradient(mode, steps, start_variance):
    lqr, expected = LQR(steps, GAMMA, start_variance), functools.partial(objective, steps=steps, gamma=GAMMA, start_variance=start_variance)
    found = mode(lambda theta: (lqr.objective(theta), lqr.gradient(theta)))(tf.constant(THETA))
    assert float(found[0]) == pytest.approx(expected(THETA), rel=1e-13)
    np.testing.assert_allclose(found[1], finite_difference(expected, THETA), rtol=1e-8)


@equation("PG-112")
def test_states_spread_by_their_gain_and_the_noise():
    lqr, k, sigma = LQR(5, GAMMA, 0.4), *THETA
    expected = [(1 + k) ** (2 * t) * 0.4 + sum((1 + k) ** (2 * u) * sigma**2 for u in range(t)) for t in range(5)]
    np.testing.assert_allclose(lqr.visitation(THETA), expected, rtol=1e-13)


def nodes(steps, start_variance, points=12):
    """Probability, s_t and a_t [T, K] over a grid of normal numbers."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    grid = np.indices([points] * (steps + 1)).reshape(steps + 1, -1)
    s, states, actions = start_variance**0.5 * x[grid[0]], [], []
    for t in range(steps):
        states.append(s)
        actions.append(THETA[0] * s + THETA[1] * x[grid[t + 1]])
        s = s + actions[-1]
    return np.prod((w / w.sum())[grid], axis=0), np.array(states), np.array(actions)


def score(s, a):
    """(d_k, d_sigma) of -(a - k s)^2 / (2 sigma^2) - log sigma."""
    k, sigma = THETA
    return np.stack([(a - k * s) * s / sigma**2, (a - k * s) ** 2 / sigma**3 - 1 / sigma], axis=-1)


@equation("PG-112", "PG-104", "PG-107")
def test_fisher_matrix_and_natural_gradient():
    lqr, (p, s, a) = LQR(2, GAMMA, 0.4), nodes(2, 0.4)
    g = score(s, a)
    fisher = np.einsum("t,n,tnp,tnq->pq", [1, GAMMA], p, g, g)
    np.testing.assert_allclose(lqr.fisher(THETA), fisher, atol=1e-12)
    slope = finite_difference(functools.partial(objective, steps=2, gamma=GAMMA, start_variance=0.4), THETA)
    np.testing.assert_allclose(lqr.natural_gradient(THETA), np.linalg.solve(fisher, slope), rtol=1e-8)
    np.testing.assert_allclose(np.einsum("n,tnp->tp", p, g**2), [[m / 0.36, 2 / 0.36] for m in lqr.visitation(THETA)], rtol=1e-11)


SIGMAS = [1.0, 0.3, 0.1, 0.03, 0.01]
REGIMES = {1.0: [0.84, 1.46, 0.84, 0.27, 0.09], 1e-4: [0.92, 3.1, 9.2, 30.0, 84.0]}


@equation("PG-112")
@pytest.mark.parametrize("start_variance", REGIMES)
def test_small_noise_dominates_the_gradient_only_where_noise_drives_the_states(start_variance):
    """|dJ/dsigma| / |dJ/dk| at k = -0.2, T = 20, gamma = 0.95; the natural gradient's ratio falls with sigma in both regimes."""
    lqr = LQR(20, 0.95, start_variance)
    plain, natural = [], []
    for sigma in SIGMAS:
        for ratios, g in ((plain, lqr.gradient([-0.2, sigma])), (natural, lqr.natural_gradient([-0.2, sigma]))):
            ratios.append(float(abs(g[1] / g[0])))
        slope = finite_difference(functools.partial(objective, steps=20, gamma=0.95, start_variance=start_variance), [-0.2, sigma])
        assert plain[-1] == pytest.approx(abs(slope[1] / slope[0]), rel=1e-4)
    np.testing.assert_allclose(plain, REGIMES[start_variance], rtol=0.03)
    assert natural == sorted(natural, reverse=True)
    assert natural[0] == pytest.approx(1.02, abs=0.01)
    assert natural[-1] == pytest.approx(0.01, abs=0.001)


# What the natural gradient's ratio is at the largest and the smallest sigma; and what it would be if steps counted equally.
NATURAL = {1.0: [1.0181, 0.00913], 1e-4: [1.0287, 0.01018]}
UNWEIGHTED = [1.0629, 0.00638]


@equation("PG-112", "PG-107")
@pytest.mark.parametrize("start_variance", NATURAL)
def test_the_natural_gradient_weighs_steps_as_the_objective_does(start_variance):
    """|n_sigma / n_k| = |dJ/dsigma / dJ/dk| sum_t w_t E[s_t^2] / (2 sum_t w_t), with w_t = gamma^{t-1}; w_t = 1 gives other numbers."""
    lqr, discounted, equal = LQR(20, 0.95, start_variance), [], []
    for sigma in (SIGMAS[0], SIGMAS[-1]):
        theta = [-0.2, sigma]
        slope = finite_difference(functools.partial(objective, steps=20, gamma=0.95, start_variance=start_variance), theta, 1e-4 * sigma)
        for ratios, w in ((discounted, 0.95 ** np.arange(20)), (equal, np.ones(20))):
            ratios.append(abs(slope[1] / slope[0]) * (w @ lqr.visitation(theta).numpy()) / (2 * w.sum()))
        k, of_sigma = lqr.natural_gradient(theta)
        assert abs(float(of_sigma / k)) == pytest.approx(discounted[-1], rel=1e-5)
    np.testing.assert_allclose(discounted, NATURAL[start_variance], rtol=1e-3)
    assert np.abs(np.array(equal) / discounted - 1).min() > 0.02
    if start_variance == 1:
        np.testing.assert_allclose(equal, UNWEIGHTED, rtol=1e-3)


@equation("PG-112", "PG-107")
def test_where_no_state_varies_the_natural_gradient_leaves_the_gain_alone():
    """One step from s = 0: J = -sigma^2 and F = diag(0, 2 / sigma^2), whose pseudo-inverse gives (0, -sigma^3)."""
    lqr, theta = LQR(1, GAMMA, 0.0), [-0.2, 0.5]
    np.testing.assert_array_equal(lqr.fisher(theta)[0], [0, 0])
    found = lqr.natural_gradient(theta).numpy()
    assert found[0] == 0
    np.testing.assert_allclose(found, [0, -0.125], rtol=1e-14)
    np.testing.assert_allclose(found, np.linalg.pinv(lqr.fisher(theta)) @ lqr.gradient(theta).numpy(), rtol=1e-12)


@equation("PG-16", "PG-18")
def test_values_are_means_of_what_is_to_come():
    lqr, (k, sigma) = LQR(3, GAMMA), THETA
    s, a = np.random.default_rng(3).normal(size=(2, 3, 5))
    q, v = lqr.values(THETA, s, a)
    for t, n in np.ndindex(3, 5):
        left = 3 - t
        assert float(v[t, n]) == pytest.approx(mean_return([k] * left, sigma, [s[t, n]], left, GAMMA), rel=1e-12)
        assert float(q[t, n]) == pytest.approx(mean_return([k] * left, sigma, [s[t, n]], left, GAMMA, a[t, n]), rel=1e-12)
    np.testing.assert_allclose(lqr.advantage(THETA, s, a), q - v, atol=1e-13)


@equation("PG-16", "PG-17", "PG-18")
def test_values_agree_with_each_other_and_with_the_objective():
    """J = E[V_1(s_1)]; V is the mean of Q, so advantages have mean zero in every state."""
    lqr, (p, _, z) = LQR(3, GAMMA, 0.7), nodes(1, 1.0, 6)
    quadratic, constant = lqr.value_coefficients(THETA)
    assert quadratic.shape == constant.shape == (4,)
    assert quadratic[-1] == constant[-1] == 0
    assert float(lqr.objective(THETA)) == pytest.approx(-float(quadratic[0] * 0.7 + constant[0]), rel=1e-13)
    s = np.array([[1.3], [-0.4], [0.0]])
    noise = (z - THETA[0] * nodes(1, 1.0, 6)[1]) / THETA[1]
    advantage = lqr.advantage(THETA, s + 0 * noise, THETA[0] * s + THETA[1] * noise)
    np.testing.assert_allclose(advantage @ p[:, None], 0, atol=1e-12)


@equation("PG-121")
def test_no_change_of_an_optimal_gain_helps():
    """For any start and any noise: the slope in each step's gain is zero there, and every other set of gains does worse."""
    lqr, draws = LQR(4, GAMMA), np.random.default_rng(5)
    gains = lqr.optimal_gains().numpy()
    assert gains.shape == (4,)
    assert gains[-1] == 0
    assert np.ptp(gains) > 0.1
    for start, sigma in (([2.0], 0.0), ([0.0, 0.7], 0.5)):
        value = functools.partial(mean_return, sigma=sigma, start=start, steps=4, gamma=GAMMA)
        np.testing.assert_allclose(finite_difference(value, gains), 0, atol=1e-9)
        others = gains + 0.2 * draws.normal(size=(50, 4))
        assert max(value(other) for other in others) < value(gains)
        constant = np.full(4, gains.mean())
        assert np.abs(finite_difference(value, constant)).max() > 1e-2


@equation("PG-112", "PG-44", "PG-93")
def test_the_listing_is_a_quadrature():
    lqr, (p, s, a) = LQR(2, GAMMA, 0.4), nodes(2, 0.4, 5)
    t, probability, score_t = tf.nest.map_structure(np.asarray, lqr.trajectories(THETA, nodes=5))
    np.testing.assert_allclose(probability, p, rtol=1e-12)
    np.testing.assert_allclose(t.observation, s, atol=1e-13)
    np.testing.assert_allclose(t.action, a, atol=1e-13)
    np.testing.assert_allclose(t.reward, -(s**2) - a**2, atol=1e-13)
    np.testing.assert_allclose(t.next_observation, s + a, atol=1e-13)
    np.testing.assert_allclose(score_t, score(s, a), rtol=1e-11, atol=1e-12)
    density = np.exp(-0.5 * ((a - THETA[0] * s) / THETA[1]) ** 2) / (THETA[1] * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(t.log_prob, np.log(density), atol=1e-12)
    np.testing.assert_array_equal(t.terminated, np.array([[False], [True]]) & t.mask)
    np.testing.assert_array_equal(t.age, np.array([[0], [1]]) + 0 * t.age)
    assert t.mask.all()
    assert not t.truncated.any()
    assert lqr.trajectories(THETA).probability.shape == (512,)


def reinforce(t, score_t):
    return estimators.reinforce(score_t, t.reward, GAMMA, t.mask)


@equation("PG-112", "PG-44", "PG-24")
def test_moments_of_reinforce():
    lqr, (p, s, a) = LQR(2, GAMMA, 0.4), nodes(2, 0.4)
    sample = score(s, a).sum(0) * (-(s**2 + a**2).T @ [1, GAMMA])[:, None]
    mean = p @ sample
    found = lqr.moments(THETA, reinforce)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-11)
    np.testing.assert_allclose(found.bias, 0, atol=1e-12)
    np.testing.assert_allclose(found.covariance, np.einsum("n,np,nq->pq", p, sample - mean, sample - mean), rtol=1e-10)
    slope = finite_difference(functools.partial(objective, steps=2, gamma=GAMMA, start_variance=0.4), THETA)
    np.testing.assert_allclose(found.mean, slope, rtol=1e-8)
    biased = lqr.moments(THETA, lambda t, score_t: 1.25 * reinforce(t, score_t))
    np.testing.assert_allclose(biased.bias, 0.25 * slope, rtol=1e-7)


@equation("PG-112", "PG-24", "PG-129")
def test_draws_agree_with_the_exact_moments():
    lqr, n = LQR(2, GAMMA, 0.4), 20_000
    t, probability, score_t = tf.nest.map_structure(np.asarray, lqr.sample(THETA, n, [3, 9]))
    np.testing.assert_allclose(probability, 1 / n)
    np.testing.assert_allclose(score_t, score(t.observation, t.action), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(t.next_observation, t.observation + t.action, atol=1e-14)
    np.testing.assert_array_equal(t.observation[1], t.next_observation[0])
    exact, g = lqr.moments(THETA, reinforce), reinforce(t, score_t)
    error = np.asarray(g - lqr.gradient(THETA))
    assert error @ np.linalg.solve(exact.covariance / n, error) < chi_square_bound(2)
    spread = np.var(t.observation, axis=1) / lqr.visitation(THETA) - 1
    assert np.abs(spread).max() < 5 * np.sqrt(2 / n)
    assert abs(np.corrcoef(t.observation[0], t.action[0] - THETA[0] * t.observation[0])[0, 1]) < 5 / np.sqrt(n)
    again, other = lqr.sample(THETA, 3, [3, 8]), lqr.sample(THETA, 3, tf.constant([3, 8]))
    np.testing.assert_array_equal(again.trajectory.action, other.trajectory.action)
    assert np.all(again.trajectory.action != t.action[:, :3])


@equation("PG-112")
@pytest.mark.parametrize("convert", [list, np.asarray, tf.constant, lambda x: tf.constant(x, tf.float32)])
def test_theta_may_be_anything_that_holds_numbers(convert):
    lqr, theta = LQR(2), [-0.375, 0.5]
    for method in ("objective", "gradient", "fisher", "natural_gradient", "visitation", "value_coefficients", "trajectories"):
        found, expected = getattr(lqr, method)(convert(theta)), getattr(lqr, method)(tf.constant(theta, tf.float64))
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-14), found, expected)


WRONG = {
    "horizon is 0": lambda: LQR(0),
    "start_variance -1.0": lambda: LQR(3, 0.9, -1.0),
    r"theta has shape \(3,\)": lambda: LQR(3).gradient([0.1, 0.2, 0.3]),
    r"s_t has shape \(2, 5\)": lambda: LQR(3).advantage(THETA, np.zeros([2, 5]), np.zeros([2, 5])),
    r"a_t has shape \(3, 1\)": lambda: LQR(3).values(THETA, np.zeros([3, 5]), np.zeros([3, 1])),
    "horizon is 20: that makes more than": lambda: LQR().moments(THETA, reinforce),
    r"seed has shape \(\)": lambda: LQR().sample(THETA, 5, 1),
}


@equation("PG-112")
@pytest.mark.parametrize("message", WRONG)
def test_a_fault_is_named(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()
