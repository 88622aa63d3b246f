"""What the natural gradient means: the same change of the policy however its parameters are written, and the advantage itself."""

import numpy as np
import pytest
from laws import finite_difference

from tfpg import distributions, trust_region

equation = pytest.mark.equation

# Two ways to write a policy


def normal_divergence(p, q):
    """KL of N(p_0, p_1^2) from N(q_0, q_1^2)."""
    return float(distributions.gaussian_kl([p[0]], [[p[1]]], [q[0]], [[q[1]]]))


MU, SIGMA = 0.4, 0.7
SLOPE = np.array([2 * (1.3 - MU), -2 * SIGMA])  # of J = -E (a - 1.3)^2 in (mu, sigma)
SLOPE_LOG = SLOPE * [1, SIGMA]
FISHER, FISHER_LOG = np.diag([1 / SIGMA**2, 2 / SIGMA**2]), np.diag([1 / SIGMA**2, 2.0])


def both_ways(alpha, direction):
    """The policies after one step of size alpha, with sigma and with log sigma as the parameter."""
    plain, log = (alpha * np.asarray(direction(*given)) for given in ((SLOPE, FISHER), (SLOPE_LOG, FISHER_LOG)))
    return np.array([MU, SIGMA]) + plain, np.array([MU + log[0], SIGMA * np.exp(log[1])])


@equation("PG-107")
def test_natural_steps_in_sigma_and_in_its_logarithm_agree_to_second_order_and_plain_ones_to_first():
    alphas = [0.08, 0.04, 0.02, 0.01]
    natural = lambda g, f: trust_region.natural_gradient(g, f, 0.0)  # noqa: E731
    factors = {}
    for name, direction, order in (("natural", natural, 2), ("plain", lambda g, f: g, 1)):
        pairs = [both_ways(alpha, direction) for alpha in alphas]
        distance = [np.linalg.norm(a - b) for a, b in pairs]
        divergence = [normal_divergence(a, b) for a, b in pairs]
        np.testing.assert_allclose(np.divide(distance[:-1], distance[1:]), 2**order, rtol=0.1)
        np.testing.assert_allclose(np.divide(divergence[:-1], divergence[1:]), 4**order, rtol=0.2)
        factors[name] = divergence[-1]
    assert factors["natural"] < 1e-2 * factors["plain"]


@equation("PG-107", "PG-106")
def test_natural_steps_in_logits_and_in_a_linear_map_of_them_are_one_change_of_the_policy(rng):
    """theta = M phi: g becomes M^T g and F becomes M^T F M, singular both; exact, whatever the length."""
    logits, m = rng.normal(size=4), rng.normal(size=(4, 4))
    fisher = distributions.categorical_fisher(logits).numpy()
    g = fisher @ rng.normal(size=4)
    for step in (
        lambda g, f: 0.7 * trust_region.natural_gradient(g, f, 0.0).numpy(),
        lambda g, f: trust_region.natural_step(g, f, 0.3).numpy(),
    ):
        before, after = logits + step(g, fisher), logits + m @ step(m.T @ g, m.T @ fisher @ m)
        assert float(distributions.categorical_kl(before, logits)) > 0.1
        assert float(distributions.categorical_kl(after, before)) < 1e-18
    plain = distributions.categorical_kl(logits + 0.7 * m @ m.T @ g, logits + 0.7 * g)
    assert float(plain) > 1e-2


# Tabular softmax: F^+ grad J is the advantage

S, A, GAMMA, P = 3, 2, 0.8, 6
RNG = np.random.default_rng(41)
START, MOVE = RNG.dirichlet(np.ones(S)), RNG.dirichlet(np.ones(S), size=(S, A))
REWARD, THETA = RNG.normal(size=(2, S, A))
SCORE = np.zeros((S, A, P))


def table(theta):
    weight = np.exp(theta.reshape(S, A))
    return weight / weight.sum(-1, keepdims=True)


for s in range(S):
    for a in range(A):
        SCORE[s, a, s * A : (s + 1) * A] = np.eye(A)[a] - table(THETA)[s]


def state_laws(pi, steps):
    """p(s_t = s), one row per step."""
    mu = [START]
    for _ in range(steps - 1):
        mu.append(np.einsum("s,sa,saz->z", mu[-1], pi, MOVE))
    return np.array(mu)


def advantages(pi, steps):
    """A_t(s, a) with a horizon, one array per step, by going back in time."""
    v, found = np.zeros(S), []
    for _ in range(steps):
        q = REWARD + GAMMA * MOVE @ v
        v = (pi * q).sum(-1)
        found.insert(0, q - v[:, None])
    return np.array(found)


def objective(theta, steps):
    pi = table(theta)
    return sum(GAMMA**t * mu @ (pi * REWARD).sum(-1) for t, mu in enumerate(state_laws(pi, steps)))


def problem(steps):
    """grad J by finite differences, F by its definition under the same discounted, unnormalised measure, and that measure."""
    pi = table(THETA)
    weight = GAMMA ** np.arange(steps)[:, None] * state_laws(pi, steps)
    occupancy = weight.sum(0)[:, None] * pi
    g = finite_difference(lambda theta: objective(theta, steps), THETA.ravel())
    return g, np.einsum("sa,sap,saq->pq", occupancy, SCORE, SCORE), weight, occupancy


def up_to_a_constant_per_state(x):
    x = np.reshape(x, (S, A))
    return x - x.mean(-1, keepdims=True)


@equation("PG-107")
def test_natural_gradient_with_a_horizon_is_the_advantage_averaged_over_the_visits():
    """The policy does not know the time, so it is the mean of A_t over the steps at which a state is seen, and not A_1."""
    g, fisher, weight, _ = problem(steps=4)
    advantage = advantages(table(THETA), 4)
    mean = (weight[:, :, None] * advantage).sum(0) / weight.sum(0)[:, None]
    found = trust_region.natural_gradient(g, fisher, 0.0).numpy()
    np.testing.assert_allclose(up_to_a_constant_per_state(found), up_to_a_constant_per_state(mean), atol=1e-8)
    assert np.abs(up_to_a_constant_per_state(found - advantage[0].ravel())).max() > 1e-2


@equation("PG-107")
def test_natural_gradient_without_a_horizon_is_the_advantage():
    g, fisher, _, _ = problem(steps=150)  # 0.8^150 is 3e-15
    pi = table(THETA)
    v = np.linalg.solve(np.eye(S) - GAMMA * np.einsum("sa,saz->sz", pi, MOVE), (pi * REWARD).sum(-1))
    advantage = REWARD + GAMMA * MOVE @ v - v[:, None]
    found = trust_region.natural_gradient(g, fisher, 0.0)
    np.testing.assert_allclose(up_to_a_constant_per_state(found), up_to_a_constant_per_state(advantage), atol=1e-7)
    assert np.abs(advantage).max() > 0.1


@equation("PG-107")
def test_natural_gradient_holds_the_weights_of_the_compatible_critic():
    """w of the least squares fit of score . w to the advantage, under the visits: its shortest solution is F^+ grad J."""
    g, fisher, weight, _ = problem(steps=4)
    pi, advantage = table(THETA), advantages(table(THETA), 4)
    rows = np.sqrt(weight[:, :, None] * pi)[..., None] * SCORE
    targets = np.sqrt(weight[:, :, None] * pi) * advantage
    critic = np.linalg.lstsq(rows.reshape(-1, P), targets.ravel(), rcond=1e-10)[0]
    np.testing.assert_allclose(trust_region.natural_gradient(g, fisher, 0.0), critic, atol=1e-8)
    assert np.abs(critic).max() > 0.1
