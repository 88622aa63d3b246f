"""J in its forms, against every trajectory listed; and the pseudo-objective, against scores written out."""

import numpy as np
import pytest
import tables
import tensorflow as tf
from definitions import assert_is, tensors
from laws import finite_difference

from tfpg import objectives, processes, returns

equation = pytest.mark.equation


def batch():
    rng = np.random.default_rng(12)
    mask_t = np.arange(5)[:, None] < np.array([5, 2, 4])
    log_prob_t, psi_t = rng.normal(size=(2, 5, 3))
    return {"log_prob_t": log_prob_t - 1.5, "psi_t": psi_t, "mask_t": mask_t}


def average(x_t, mask_t, normaliser):
    total, steps = 0.0, 0
    for t, i in np.argwhere(mask_t):
        total, steps = total + x_t[t, i], steps + 1
    return np.array(total / {"traj": mask_t.shape[1], "step": steps, "sum": 1}[normaliser])


@equation("PG-12")
def test_over_trajectories_equals_its_definition(mode, rng):
    given = {"probability": rng.dirichlet(np.ones(6)), "return_i": rng.normal(size=6)}
    definition = lambda probability, return_i: np.array(sum(p * r for p, r in zip(probability, return_i, strict=True)))  # noqa: E731
    assert_is(mode, objectives.over_trajectories, definition, given)


@equation("PG-13")
def test_over_marginals_equals_its_definition(mode, rng):
    given = {"marginal_t": rng.dirichlet(np.ones(12), size=5).reshape(5, 4, 3), "reward": rng.normal(size=(4, 3)), "gamma": np.array(0.7)}

    def definition(marginal_t, reward, gamma):
        return np.array(sum(gamma**t * marginal_t[t, s, a] * reward[s, a] for t, s, a in np.ndindex(marginal_t.shape)))

    assert_is(mode, objectives.over_marginals, definition, given)


@equation("PG-14")
def test_monte_carlo_equals_its_definition(mode, rng):
    def definition(return_i):
        n = len(return_i)
        mean = sum(return_i) / n
        return np.array(mean), np.array(np.sqrt(sum((r - mean) ** 2 for r in return_i) / (n - 1) / n))

    assert_is(mode, objectives.monte_carlo, definition, {"return_i": rng.normal(size=7)})


@equation("PG-27")
@pytest.mark.parametrize("normaliser", ["traj", "step", "sum"])
def test_likelihood_equals_its_definition(mode, normaliser):
    given = {key: batch()[key] for key in ("log_prob_t", "mask_t")}

    def definition(log_prob_t, mask_t, normaliser):
        return average(log_prob_t, mask_t, normaliser)

    assert_is(mode, objectives.likelihood, definition, {**given, "normaliser": normaliser})


@equation("PG-28", "PG-37")
@pytest.mark.parametrize("normaliser", ["traj", "step", "sum"])
def test_pseudo_equals_its_definition_and_holds_psi_still(mode, normaliser):
    def definition(log_prob_t, psi_t, mask_t, normaliser):
        return average(log_prob_t * psi_t, mask_t, normaliser)

    assert_is(mode, objectives.pseudo, definition, {**batch(), "normaliser": normaliser}, still=("psi_t",))


@equation("PG-27", "PG-28")
@pytest.mark.parametrize("normaliser", ["traj", "step", "sum"])
def test_one_trajectory_of_one_step(normaliser):
    one = [np.array([[x]]) for x in (-0.4, 1.7)]
    np.testing.assert_allclose(objectives.likelihood(one[0], [[True]], normaliser), -0.4, rtol=1e-15)
    np.testing.assert_allclose(objectives.pseudo(*one, [[True]], normaliser), -0.68, rtol=1e-15)


@equation("PG-12", "PG-13")
@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_trajectories_and_marginals_give_one_objective(gamma):
    process = tables.draw(51)
    listed, pi_t = tables.listed(process, 4), tables.every_step(tables.softmax(process.theta), 4)
    everywhere = np.ones(listed.r_t.shape, bool)
    p = processes.trajectory_probability(process.start, pi_t, process.move, listed.state_t, listed.action_t, everywhere)
    over_trajectories = objectives.over_trajectories(p, returns.total_return(listed.r_t, gamma, everywhere))
    marginal_t = processes.state_action_marginals(process.start, pi_t, process.move)
    j = tables.objective(process, process.theta, 4, gamma)
    np.testing.assert_allclose(over_trajectories, j, rtol=1e-12)
    np.testing.assert_allclose(objectives.over_marginals(marginal_t, process.reward, gamma), j, rtol=1e-12)


@equation("PG-13", "PG-12")
def test_the_gradient_through_the_marginals_is_that_of_the_objective(mode):
    process = tables.draw(52)

    def gradient(start, move, reward, theta):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            marginal_t = processes.state_action_marginals(start, tf.repeat(tf.nn.softmax(theta)[None], 4, axis=0), move)
            j = objectives.over_marginals(marginal_t, reward, tf.constant(0.7, tf.float64))
        return tape.gradient(j, theta)

    slope = finite_difference(lambda theta: tables.objective(process, theta, 4, 0.7), process.theta)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(mode(gradient)(*(tf.constant(x) for x in process)), slope, atol=1e-9)


# What a mean of samples is worth.


@equation("PG-14")
@pytest.mark.parametrize("n", [2, 3])
def test_the_mean_and_the_squared_error_are_unbiased(n):
    """Over all batches of n trajectories with their probabilities."""
    listed = tables.listed(tables.draw(53), 1)
    return_i = listed.r_t.sum(0)
    batches = np.indices([len(listed.p)] * n).reshape(n, -1)
    weight = listed.p[batches].prod(0)
    estimates = [objectives.monte_carlo(return_i[batch]) for batch in batches.T]
    j = listed.p @ return_i
    np.testing.assert_allclose(weight @ [e.mean for e in estimates], j, rtol=1e-12)
    variance = listed.p @ (return_i - j) ** 2
    np.testing.assert_allclose(weight @ [e.standard_error**2 for e in estimates], variance / n, rtol=1e-12)


def sampled_returns(process, rng, *size):
    listed = tables.listed(process, 3)
    return listed.r_t.sum(0)[rng.choice(len(listed.p), size=size, p=listed.p)], listed


@equation("PG-14")
def test_the_standard_error_is_that_of_many_samples(rng):
    return_i, listed = sampled_returns(tables.draw(54), rng, 20_000)
    estimate = objectives.monte_carlo(return_i)
    j = listed.p @ listed.r_t.sum(0)
    exact = np.sqrt(listed.p @ (listed.r_t.sum(0) - j) ** 2 / 20_000)
    np.testing.assert_allclose(estimate.standard_error, exact, rtol=0.03)
    assert abs(estimate.mean - j) < 5 * exact


@equation("PG-14")
def test_the_error_falls_with_the_root_of_the_number_of_samples(rng):
    process, sizes = tables.draw(55), [10, 31, 100, 316, 1000]
    error = []
    for n in sizes:
        return_i, listed = sampled_returns(process, rng, 400, n)
        mean = tf.vectorized_map(lambda row: objectives.monte_carlo.python_function(row).mean, tf.constant(return_i))
        error.append(np.sqrt(np.mean((mean - listed.p @ listed.r_t.sum(0)) ** 2)))
    slope = np.polyfit(np.log(sizes), np.log(error), 1)[0]
    assert abs(slope + 0.5) < 0.05


@equation("PG-14")
def test_one_sample_has_no_standard_error():
    estimate = objectives.monte_carlo(np.array([2.5]))
    assert estimate.mean == 2.5
    assert np.isnan(estimate.standard_error)


@equation("PG-19")
def test_an_affine_objective_has_the_same_direction_or_the_opposite(mode):
    process = tables.draw(56)

    def gradient(start, move, reward, theta, scale):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            marginal_t = processes.state_action_marginals(start, tf.repeat(tf.nn.softmax(theta)[None], 2, axis=0), move)
            j = objectives.over_marginals(marginal_t, reward, tf.constant(0.7, tf.float64))
            y = objectives.affine.python_function(j, scale, tf.constant(-4.2, tf.float64))
        return j, y, tape.gradient(y, theta)

    compiled = mode(gradient)
    slope = finite_difference(lambda theta: tables.objective(process, theta, 2, 0.7), process.theta)
    for scale, cosine in [(2.5, 1), (0.01, 1), (-0.3, -1)]:
        j, y, g = compiled(*(tf.constant(x) for x in (*process, np.array(scale))))
        np.testing.assert_allclose(y, scale * j - 4.2, rtol=1e-14)
        np.testing.assert_allclose(g, scale * slope, atol=1e-9)
        np.testing.assert_allclose(np.sum(g * slope) / np.linalg.norm(g) / np.linalg.norm(slope), cosine, rtol=1e-7)
    assert objectives.affine(tf.constant(2.0), 3.0, -1.0) == 5


# Maximum likelihood and the pseudo-objective, of a softmax table.


def log_prob(theta, state_t, action_t):
    return tf.gather_nd(tf.nn.log_softmax(theta), tf.stack([state_t, action_t], axis=-1))


def gradient_of(objective, theta, state_t, action_t):
    theta = tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        value = objective(theta, log_prob(theta, state_t, action_t))
    return value.numpy(), tf.convert_to_tensor(tape.gradient(value, theta)).numpy()


def walk(rng, steps=6, n=40):
    """States, actions and the mask of a batch with episodes of different lengths."""
    mask_t = np.arange(steps)[:, None] < rng.integers(1, steps + 1, size=n)
    return rng.integers(3, size=(steps, n)), rng.integers(4, size=(steps, n)), mask_t


@equation("PG-27")
def test_likelihood_is_greatest_at_the_frequencies_of_actions(rng):
    state_t, action_t, mask_t = walk(rng)
    count = np.zeros((3, 4))
    np.add.at(count, (state_t[mask_t], action_t[mask_t]), 1)
    theta = np.log(count / count.sum(1, keepdims=True))
    likelihood = lambda _, log_prob_t: objectives.likelihood(log_prob_t, mask_t, "traj")  # noqa: E731
    best, gradient = gradient_of(likelihood, theta, state_t, action_t)
    np.testing.assert_allclose(gradient, np.zeros((3, 4)), atol=1e-14)
    for _ in range(5):
        other, elsewhere = gradient_of(likelihood, theta + 0.2 * rng.normal(size=(3, 4)), state_t, action_t)
        assert other < best
        assert np.abs(elsewhere).max() > 1e-3


@equation("PG-27", "PG-21")
def test_likelihood_of_a_policy_s_own_trajectories_has_no_slope_on_average():
    process = tables.draw(57)
    listed, total = tables.listed(process, 2), np.zeros((3, 2))
    for i, p in enumerate(listed.p):
        own = lambda _, log_prob_t: objectives.likelihood(log_prob_t, tf.ones([2, 1], tf.bool), "traj")  # noqa: E731
        gradient = gradient_of(own, process.theta, listed.state_t[:, [i]], listed.action_t[:, [i]])[1]
        assert np.abs(gradient).max() > 1e-3
        total += p * gradient
    np.testing.assert_allclose(total, np.zeros((3, 2)), atol=1e-15)


@equation("PG-27", "PG-28")
@pytest.mark.parametrize("normaliser", ["traj", "step", "sum"])
def test_with_every_weight_one_the_policy_gradient_is_maximum_likelihood(normaliser, rng):
    state_t, action_t, mask_t = walk(rng)
    theta = rng.normal(size=(3, 4))
    ones = np.ones(mask_t.shape)
    pseudo = gradient_of(lambda _, x: objectives.pseudo(x, ones, mask_t, normaliser), theta, state_t, action_t)
    likelihood = gradient_of(lambda _, x: objectives.likelihood(x, mask_t, normaliser), theta, state_t, action_t)
    np.testing.assert_allclose(pseudo[0], likelihood[0], rtol=1e-14)
    np.testing.assert_allclose(pseudo[1], likelihood[1], rtol=1e-14)


@equation("PG-28", "PG-37", "PG-25")
@pytest.mark.parametrize("normaliser", ["traj", "step", "sum"])
def test_the_gradient_of_pseudo_is_the_sum_of_scores_times_weights(normaliser, rng):
    """Even if the weights are made of the same parameters; without holding them still it is another vector."""
    state_t, action_t, mask_t = walk(rng)
    theta, features = rng.normal(size=(3, 4)), rng.normal(size=mask_t.shape)
    psi = lambda theta: features * tf.tanh(tf.gather(theta[:, 1], state_t)) + theta[0, 0]  # noqa: E731
    objective = lambda theta, x: objectives.pseudo(x, psi(theta), mask_t, normaliser)  # noqa: E731
    gradient = gradient_of(objective, theta, state_t, action_t)[1]
    score_t, expected = tables.scores(theta, state_t, action_t), np.zeros(12)
    for t, i in np.argwhere(mask_t):
        expected += score_t[t, i] * psi(theta)[t, i]
    expected /= {"traj": mask_t.shape[1], "step": mask_t.sum(), "sum": 1}[normaliser]
    np.testing.assert_allclose(gradient.ravel(), expected, rtol=1e-12, atol=1e-13)
    through = gradient_of(lambda theta, x: tf.reduce_sum(tf.boolean_mask(x * psi(theta), mask_t)), theta, state_t, action_t)[1]
    assert np.abs(through.ravel() / np.linalg.norm(through) - expected / np.linalg.norm(expected)).max() > 1e-2


@equation("PG-28")
def test_the_value_of_pseudo_is_not_the_objective():
    process = tables.draw(58)
    listed = tables.listed(process, 3)
    weight = listed.p * len(listed.p)  # the mean over columns becomes the expectation
    objective = lambda _, x: objectives.pseudo(x, weight * listed.r_t.sum(0)[None].repeat(3, 0), np.ones((3, 216), bool), "traj")  # noqa: E731
    value, gradient = gradient_of(objective, process.theta, listed.state_t, listed.action_t)
    slope = finite_difference(lambda theta: tables.objective(process, theta, 3), process.theta)
    np.testing.assert_allclose(gradient, slope, atol=1e-9)
    assert abs(value - tables.objective(process, process.theta, 3)) > 0.1


@equation("PG-28")
@pytest.mark.parametrize("shape", [(5, 3, 1), (15, 1), (3, 5)])
def test_weights_of_another_shape_are_refused(shape):
    given = tensors(batch())
    with pytest.raises(ValueError, match="psi_t has shape"):
        objectives.pseudo(given["log_prob_t"], tf.reshape(given["psi_t"], shape), given["mask_t"], "traj")
