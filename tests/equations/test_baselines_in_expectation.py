"""Baselines in exact expectation, over every batch that a small process can give: which are unbiased, and by what the others shrink."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfpg import baselines, exact
from tfpg.tabular import TabularMDP

equation = pytest.mark.equation
START, REWARD = np.array([0.6, 0.4, 0.0]), np.array([[1.1, -0.7], [0.4, 2.3], [0.0, 0.0]])
MOVE = np.array([[[0.5, 0.2, 0.3], [0.1, 0.3, 0.6]], [[0.2, 0.7, 0.1], [0.4, 0.1, 0.5]], [[0, 0, 1], [0, 0, 1]]])
THETA = tf.constant([[0.4, -0.3], [-0.9, 0.2], [0.0, 0.0]], tf.float64)
STOP = TabularMDP(START, MOVE, REWARD, 0.8, horizon=2, terminal=(2,))  # 20 trajectories of one step or two
FIXED = TabularMDP.random(3, states=2, actions=2, horizon=3, gamma=0.9)  # 64 trajectories of three steps
FIXED_THETA = FIXED.some_parameters(3)


def per_step(score_t, psi_t):
    """1/N sum_i g_t psi_t of each step: [T, P]."""
    return tf.einsum("tnp,tn->tp", score_t, psi_t) / tf.cast(tf.shape(psi_t)[1], psi_t.dtype)


def paid(t, gamma):
    """gamma^{t-1} r_t."""
    discounts = tf.constant(gamma, tf.float64) ** tf.range(t.reward.shape[0], dtype=tf.float64)
    return tf.where(t.mask, discounts[:, None] * t.reward, 0)


def from_start(t, gamma):
    return tf.cumsum(paid(t, gamma), axis=0, reverse=True)


def whole(t):
    return tf.reduce_sum(paid(t, STOP.gamma), axis=0)


def expectation(mdp, theta, weigh, episodes=1):
    """E[1/N sum_i g_t psi_t], [T, P], for psi_t = weigh(trajectory): every batch of N trajectories, by its probability."""
    listing = mdp.trajectories(theta)
    flat = lambda t, score_t: tf.reshape(per_step(score_t, weigh(t)), [-1])  # noqa: E731
    mean = exact.moments(listing, flat, tf.zeros([], tf.float64), episodes).mean
    return np.reshape(mean, [mdp.horizon, -1])


def gradient_by_differences(mdp, theta, h=1e-5):
    """grad J from the probabilities of the trajectories alone."""
    listing, slope = mdp.trajectories(theta).trajectory, []
    state, action, mask = (x.numpy() for x in (listing.observation, listing.action, listing.mask))
    paid = (mdp.gamma ** np.arange(len(state))[:, None] * listing.reward.numpy() * mask).sum(0)

    def objective(x):
        pi = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        p = mdp.start.numpy()[state[0]] * np.where(mask, pi[state, action], 1).prod(0)
        return p * mdp.transition.numpy()[state[:-1], action[:-1], state[1:]].prod(0) @ paid

    for index in np.ndindex(*theta.shape):
        step = np.zeros(theta.shape)
        step[index] = h
        slope.append((objective(theta + step) - objective(theta - step)) / (2 * h))
    return np.array(slope)


def score_times(mdp, theta, value_t):
    """E[g_t value_t] over the listing, [T, P], in numpy."""
    listing = mdp.trajectories(theta)
    return np.einsum("n,tnp,tn->tp", listing.probability, listing.score_t, value_t * listing.trajectory.mask.numpy())


STOP_GRADIENT, FIXED_GRADIENT = gradient_by_differences(STOP, THETA), gradient_by_differences(FIXED, FIXED_THETA)


def constant(rule, weight):
    """psi_t = weight - b, one number b per trajectory made of total returns."""
    return lambda t: baselines.subtract(weight(t), baselines.every_step(rule(whole(t)), t.mask), t.mask)


WEIGHTS = {
    "total return": lambda t: baselines.every_step(whole(t), t.mask),
    "to go": lambda t: from_start(t, STOP.gamma),
}
either_weight = pytest.mark.parametrize("weight", WEIGHTS)


@equation("PG-40", "PG-41")
@either_weight
@pytest.mark.parametrize("episodes", [1, 2, 3])
def test_the_batch_mean_shrinks_the_gradient_by_one_nth(weight, episodes):
    assert np.abs(STOP_GRADIENT).max() > 0.1
    found = expectation(STOP, THETA, constant(baselines.mean, WEIGHTS[weight]), episodes).sum(0)
    np.testing.assert_allclose(found, (1 - 1 / episodes) * STOP_GRADIENT, rtol=0, atol=1e-9)


@equation("PG-40", "PG-42")
@either_weight
@pytest.mark.parametrize("episodes", [2, 3])
def test_leave_one_out_is_unbiased(weight, episodes):
    found = expectation(STOP, THETA, constant(baselines.leave_one_out, WEIGHTS[weight]), episodes).sum(0)
    np.testing.assert_allclose(found, STOP_GRADIENT, rtol=0, atol=1e-9)


KAPPA = 0.3


def moving(which):
    """Three trajectories as a history: the third is weighed by what the first two, or all three, left behind."""

    def weigh(t):
        m, return_i = tf.zeros([], tf.float64), whole(t)
        for count in range(3):
            b, m = baselines.moving_average(m, tf.constant(count), return_i[count], tf.constant(KAPPA, tf.float64))
        third = tf.constant([0.0, 0.0, 3.0], tf.float64)  # undoes 1/N
        return third * (baselines.every_step(return_i, t.mask) - (b if which == "before" else m))

    return weigh


@equation("PG-43")
def test_a_moving_average_used_before_its_update_is_unbiased_and_after_it_shrinks_the_gradient():
    before, after = (expectation(STOP, THETA, moving(which), 3).sum(0) for which in ("before", "after"))
    np.testing.assert_allclose(before, STOP_GRADIENT, rtol=0, atol=1e-9)
    np.testing.assert_allclose(after, (1 - KAPPA) * STOP_GRADIENT, rtol=0, atol=1e-9)


@equation("PG-43")
def test_the_correction_makes_the_moving_average_an_unbiased_value_of_the_objective():
    listing = STOP.trajectories(THETA)
    p, return_i = listing.probability.numpy(), whole(listing.trajectory).numpy()
    expected = 0.0
    for i, j in itertools.product(range(len(p)), repeat=2):
        _, m = baselines.moving_average.python_function(tf.constant(0.0, tf.float64), tf.constant(0), return_i[i], KAPPA)
        _, m = baselines.moving_average.python_function(m, tf.constant(1), return_i[j], KAPPA)
        b, _ = baselines.moving_average.python_function(m, tf.constant(2), 0.0, KAPPA)
        expected += p[i] * p[j] * float(b)
    np.testing.assert_allclose(expected, p @ return_i, rtol=1e-12)


# One baseline per step, PG-49.


def timed(rule, gamma):
    return lambda t: baselines.subtract(from_start(t, gamma), rule(from_start(t, gamma), t.mask), t.mask)


@equation("PG-49")
@pytest.mark.parametrize("episodes", [2, 3])
def test_means_per_step_shrink_each_step_by_its_own_factor(episodes):
    exact_t = expectation(STOP, THETA, lambda t: from_start(t, STOP.gamma))
    np.testing.assert_allclose(exact_t.sum(0), STOP_GRADIENT, rtol=0, atol=1e-9)
    assert np.abs(exact_t).max(axis=1).min() > 0.05
    listing = STOP.trajectories(THETA)
    alive = listing.trajectory.mask.numpy() @ listing.probability.numpy()
    assert alive[0] == pytest.approx(1)
    assert 0.3 < alive[1] < 0.7
    factors = 1 - (1 - (1 - alive) ** episodes) / (episodes * alive)
    padded, mean, others = (
        expectation(STOP, THETA, timed(rule, STOP.gamma), episodes)
        for rule in (baselines.time_mean, baselines.alive_mean, baselines.time_leave_one_out)
    )
    np.testing.assert_allclose(padded, (1 - 1 / episodes) * exact_t, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mean, factors[:, None] * exact_t, rtol=0, atol=1e-12)
    np.testing.assert_allclose(others, exact_t, rtol=0, atol=1e-12)


@equation("PG-49")
def test_three_trajectories_that_live_on_with_probability_six_tenths_keep_48_percent():
    move = np.array([[[0.6, 0.4], [0.6, 0.4]], [[0, 1], [0, 1]]])
    mdp = TabularMDP([1.0, 0.0], move, [[1.3, -0.4], [0.0, 0.0]], 1.0, horizon=2, terminal=(1,))
    theta = tf.constant([[0.4, -0.2], [0.0, 0.0]], tf.float64)
    of_one = expectation(mdp, theta, lambda t: from_start(t, 1.0))[1]
    found = expectation(mdp, theta, timed(baselines.alive_mean, 1.0), 3)[1]
    assert np.abs(of_one).max() > 0.1
    np.testing.assert_allclose(found, 0.48 * of_one, rtol=1e-12, atol=1e-14)


# Means over all steps, PG-132.


@equation("PG-132")
@pytest.mark.parametrize("episodes", [1, 2])
def test_pooling_over_steps_takes_away_what_no_factor_gives_back(episodes):
    g = from_start(FIXED.trajectories(FIXED_THETA).trajectory, FIXED.gamma).numpy()
    own = score_times(FIXED, FIXED_THETA, np.broadcast_to(g.sum(0), g.shape)).sum(0)

    def weigh(t):
        return_t = from_start(t, FIXED.gamma)
        return baselines.subtract(return_t, baselines.pooled(return_t, t.mask), t.mask)

    found = expectation(FIXED, FIXED_THETA, weigh, episodes).sum(0)
    np.testing.assert_allclose(found, FIXED_GRADIENT - own / (episodes * 3), rtol=0, atol=1e-9)
    assert np.abs(FIXED_GRADIENT).min() > 0.01
    assert np.ptp(found / FIXED_GRADIENT) > 0.03


@equation("PG-132")
def test_dividing_by_the_batch_deviation_is_not_dividing_the_expectation_by_a_number():
    def weigh(t):
        return baselines.standardise(from_start(t, 1.0), t.mask, 1e-8)

    def centred(t):
        return_t = from_start(t, 1.0)
        return baselines.subtract(return_t, baselines.pooled(return_t, t.mask), t.mask)

    standard, plain = (expectation(FIXED, FIXED_THETA, rule, 2).sum(0) for rule in (weigh, centred))
    assert np.abs(plain).min() > 0.01
    assert np.ptp(standard / plain) > 0.03


@equation("PG-132")
@pytest.mark.parametrize("seed", [0, 3])
def test_with_more_episodes_the_batch_deviation_comes_closer_to_one_number(seed):
    """Its place is taken, in the end, by the deviation of all returns to go: component ratios draw together, and towards its inverse."""
    mdp = TabularMDP.random(seed, states=2, actions=2, horizon=2, gamma=0.9)  # 16 trajectories, 4096 batches of three
    theta = mdp.some_parameters(seed)
    listing = mdp.trajectories(theta)
    p, return_t = listing.probability.numpy(), from_start(listing.trajectory, 1.0).numpy()
    deviation = np.sqrt(np.mean((return_t - np.mean(return_t @ p)) ** 2 @ p))

    def centred(t):
        return baselines.subtract(from_start(t, 1.0), baselines.pooled(from_start(t, 1.0), t.mask), t.mask)

    def ratios(episodes):
        standard = expectation(mdp, theta, lambda t: baselines.standardise(from_start(t, 1.0), t.mask, 1e-8), episodes).sum(0)
        return standard / expectation(mdp, theta, centred, episodes).sum(0)

    two, three = ratios(2), ratios(3)
    assert 0.01 < np.ptp(three) < 0.6 * np.ptp(two)
    assert np.abs(deviation * three - 1).max() < 0.8 * np.abs(deviation * two - 1).max()
