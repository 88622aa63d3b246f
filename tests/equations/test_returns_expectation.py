"""Returns on average: which discount makes the policy gradient, over every trajectory of small processes."""

import numpy as np
import pytest
import tables
from laws import finite_difference

from tfpg import bellman, estimators, returns

equation = pytest.mark.equation
STEPS, GAMMA = 4, 0.7


def togo(r_t, gamma):
    """G_t of whole episodes, all of one length."""
    inside = np.ones(r_t.shape)
    return returns.reward_to_go(r_t, gamma * inside, inside, inside > 0)


def from_start(r_t, gamma):
    age_t = np.repeat(np.arange(len(r_t))[:, None], r_t.shape[1], 1)
    return returns.discount_from_start(togo(r_t, gamma), gamma, age_t)


def field(process, psi, steps=STEPS, gamma=GAMMA):
    """E[sum_t g_t psi_t] at the process's theta."""
    listed = tables.listed(process, steps)
    return estimators.policy_gradient(listed.score_t, psi(listed.r_t, gamma), np.repeat(listed.p[None], steps, 0)).numpy()


def slope(process, steps=STEPS, gamma=GAMMA):
    return finite_difference(lambda theta: tables.objective(process, theta, steps, gamma), process.theta).ravel()


def jacobian(process, psi):
    """Derivatives of the field, entry [p, q] that of its p-th number in the q-th parameter."""
    columns = []
    for index in np.ndindex(process.theta.shape):
        ends = []
        for sign in (1e-4, -1e-4):
            theta = process.theta.copy()
            theta[index] += sign
            ends.append(field(process._replace(theta=theta), psi))
        columns.append((ends[0] - ends[1]) / 2e-4)
    return np.stack(columns, axis=1)


@equation("PG-11")
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_total_return_is_linear_in_rewards(gamma, rng):
    r, s = rng.normal(size=(2, 5, 3))
    mask_t = np.arange(5)[:, None] < np.array([5, 2, 4])
    total = lambda r: returns.total_return(r, gamma, mask_t).numpy()  # noqa: E731
    np.testing.assert_allclose(total(2 * r - 3 * s), 2 * total(r) - 3 * total(s), rtol=1e-12)


@equation("PG-34")
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_reward_to_go_follows_its_recursion_and_ends_with_the_last_reward(gamma, rng):
    r_t = rng.normal(size=(5, 3))
    g_t = togo(r_t, gamma).numpy()
    np.testing.assert_allclose(g_t, tables.togo(r_t, gamma), rtol=1e-12)
    np.testing.assert_allclose(g_t[:-1], r_t[:-1] + gamma * g_t[1:], rtol=1e-12)
    np.testing.assert_array_equal(g_t[-1], r_t[-1])


@equation("PG-35")
def test_the_two_discounts_differ_by_gamma_to_the_age_and_agree_without_discount(rng):
    r_t = rng.normal(size=(5, 3))
    start_t = from_start(r_t, GAMMA).numpy()
    defined = [sum(GAMMA**u * r_t[u] for u in range(t, 5)) for t in range(5)]
    np.testing.assert_allclose(start_t, defined, rtol=1e-12)
    np.testing.assert_allclose(start_t / togo(r_t, GAMMA), np.repeat(GAMMA ** np.arange(5.0)[:, None], 3, 1), rtol=1e-12)
    np.testing.assert_allclose(from_start(r_t, 1.0), tables.togo(r_t), rtol=1e-12)


@equation("PG-34", "PG-35")
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_the_mean_reward_to_go_given_state_and_action_is_q(gamma):
    process = tables.draw(81)
    listed = tables.listed(process, STEPS)
    g_t = togo(listed.r_t, gamma).numpy()
    q = bellman.finite_values(process.reward, process.move, tables.every_step(tables.softmax(process.theta), STEPS), gamma).q
    for t, s, a in np.ndindex(STEPS, 3, 2):
        there = (listed.state_t[t] == s) & (listed.action_t[t] == a)
        np.testing.assert_allclose(listed.p[there] @ g_t[t, there] / listed.p[there].sum(), q[t, s, a], rtol=1e-11, atol=1e-13)


@equation("PG-36", "PG-37")
@pytest.mark.parametrize("seed", range(3))
def test_discounting_from_the_start_gives_the_gradient_of_the_discounted_objective(seed):
    process = tables.draw(seed)
    exact = slope(process)
    assert np.abs(exact).max() > 1e-2
    np.testing.assert_allclose(field(process, from_start), exact, atol=1e-9)
    assert np.abs(field(process, togo) - exact).max() > 1e-2


@equation("PG-36")
def test_discounting_from_now_gives_no_gradient_of_anything():
    """A gradient's Jacobian, a Hessian, is symmetric."""
    for psi, symmetric in [(from_start, True), (togo, False)]:
        derivative = jacobian(tables.draw(0), psi)
        asymmetry = np.abs(derivative - derivative.T).max()
        assert (asymmetry < 1e-8) == symmetric
        assert symmetric or asymmetry > 1e-3


@equation("PG-36", "PG-37")
@pytest.mark.parametrize(("steps", "gamma"), [(1, GAMMA), (3, 1.0)])
def test_without_discount_or_with_one_step_both_are_the_gradient(steps, gamma):
    process = tables.draw(82)
    exact = slope(process, steps, gamma)
    assert np.abs(exact).max() > 1e-2
    np.testing.assert_allclose(field(process, togo, steps, gamma), exact, atol=1e-9)
    np.testing.assert_allclose(field(process, from_start, steps, gamma), exact, atol=1e-9)


@equation("PG-36")
def test_it_is_the_finished_weight_that_is_discounted(rng):
    """gamma^age (G_t - b(s_t)) has the mean of gamma^age G_t; so has gamma^age G_t - b(s_t), which is not what is computed."""
    process, b = tables.draw(83), rng.normal(size=3)
    listed = tables.listed(process, STEPS)
    age_t = np.repeat(np.arange(STEPS)[:, None], len(listed.p), 1)
    psi_t = returns.discount_from_start(tables.togo(listed.r_t, GAMMA) - b[listed.state_t], GAMMA, age_t)
    np.testing.assert_allclose(psi_t, GAMMA**age_t * (tables.togo(listed.r_t, GAMMA) - b[listed.state_t]), rtol=1e-12)
    g = estimators.policy_gradient(listed.score_t, psi_t, np.repeat(listed.p[None], STEPS, 0))
    np.testing.assert_allclose(g, slope(process), atol=1e-9)
