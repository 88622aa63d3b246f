"""Policy gradients with the scores written out, against loops over batches of random numbers; see test_estimators_expectation.py."""

import numpy as np
import pytest
import tables
import tensorflow as tf
from definitions import assert_is, tensors

from tfpg import estimators, objectives, optimizers, processes, returns, surrogates

equation = pytest.mark.equation
T, N, P = 5, 3, 4
GAMMA = 0.8


def arguments():
    rng = np.random.default_rng(14)
    score_t, r_t = rng.normal(size=(T, N, P)), rng.normal(size=(T, N))
    mask_t = np.arange(T)[:, None] < np.array([5, 2, 4])
    w_t = np.where(mask_t, rng.uniform(0.2, 1, size=(T, N)), 0)
    return {"score_t": score_t, "r_t": r_t, "mask_t": mask_t, "w_t": w_t, "psi_t": rng.normal(size=(T, N)), "gamma": np.array(GAMMA)}


def pick(*names):
    given = arguments()
    return {name: given[name] for name in names}


def total_scores(score_t, mask_t):
    return np.array([sum(score_t[t, i] for t in range(T) if mask_t[t, i]) for i in range(score_t.shape[1])])


def total_returns(r_t, gamma, mask_t):
    return [sum(gamma**t * r_t[t, i] for t in range(T) if mask_t[t, i]) for i in range(r_t.shape[1])]


def reinforce_sum(score_t, r_t, gamma, mask_t):
    pairs = zip(total_scores(score_t, mask_t), total_returns(r_t, gamma, mask_t), strict=True)
    return sum(g * r for g, r in pairs)


def products(score_t, probability):
    steps, columns, size = score_t.shape
    result = np.zeros((steps, steps, size, size))
    for t, u, i in np.ndindex(steps, steps, columns):
        result[t, u] += probability[i] * np.outer(score_t[t, i], score_t[u, i])
    return result


def reward_products(score_t, r_t, probability):
    steps, columns, size = score_t.shape
    result = np.zeros((steps, steps, size))
    for t, u, i in np.ndindex(steps, steps, columns):
        result[t, u] += probability[i] * score_t[t, i] * r_t[u, i]
    return result


def weighed(score_t, psi_t, w_t):
    return sum(w_t[t, i] * psi_t[t, i] * score_t[t, i] for t, i in np.ndindex(T, N) if w_t[t, i])


# w_t is listed for its value alone: where it is zero, nothing is read, which is no derivative.
DEFINITIONS = {
    "trajectory_score": (total_scores, pick("score_t", "mask_t")),
    "policy_gradient": (weighed, {**pick("score_t", "psi_t"), "w_t": arguments()["psi_t"][::-1]}),
    "reinforce": (lambda **given: reinforce_sum(**given) / N, pick("score_t", "r_t", "gamma", "mask_t")),
    "reinforce_sum": (reinforce_sum, pick("score_t", "r_t", "gamma", "mask_t")),
}
EXPECTATIONS = {
    "expected_gradient": (
        lambda probability, score_i, return_i: sum(p * r * g for p, r, g in zip(probability, return_i, score_i, strict=True)),
        {"score_i": (7, P), "return_i": (7,), "probability": 7},
    ),
    "density_gradient": (
        lambda log_prob, score: np.array([np.exp(x) * g for x, g in zip(log_prob, score, strict=True)]),
        {"log_prob": (7,), "score": (7, P)},
    ),
    "score_products": (products, {"score_t": (T, N, P), "probability": N}),
    "score_reward_products": (reward_products, {"score_t": (T, N, P), "r_t": (T, N), "probability": N}),
}


@equation("PG-22", "PG-24", "PG-25", "PG-32", "PG-37")
@pytest.mark.parametrize("name", DEFINITIONS)
def test_equals_its_definition(mode, name):
    assert_is(mode, getattr(estimators, name), *DEFINITIONS[name])


@equation("PG-20", "PG-21", "PG-23", "PG-33")
@pytest.mark.parametrize("name", EXPECTATIONS)
def test_expectation_equals_its_definition(mode, name, rng):
    definition, shapes = EXPECTATIONS[name]
    given = {key: rng.dirichlet(np.ones(shape)) if key == "probability" else rng.normal(size=shape) for key, shape in shapes.items()}
    assert_is(mode, getattr(estimators, name), definition, given)


@equation("PG-21")
def test_expected_score_equals_its_definition(mode, rng):
    def definition(probability, score):
        leading = probability.shape[:-1]
        return np.array([probability[i] @ score[i] for i in np.ndindex(*leading)]).reshape(*leading, P)

    for leading in [(2, 3), (2,), ()][: 1 if mode.name == "xla" else 3]:
        given = {"probability": rng.dirichlet(np.ones(5), size=leading), "score": rng.normal(size=(*leading, 5, P))}
        assert_is(mode, estimators.expected_score, definition, given)


@equation("PG-37")
def test_steps_of_weight_zero_are_not_read(mode):
    given = pick("score_t", "psi_t", "w_t")
    padding = given["w_t"] == 0
    given["score_t"][padding], given["psi_t"][padding] = np.nan, np.inf
    np.testing.assert_allclose(mode(estimators.policy_gradient)(**tensors(given)), weighed(**given), rtol=1e-12)


@equation("PG-24", "PG-25")
@pytest.mark.parametrize("columns", [[0], [1], [2, 0, 1]])
def test_trajectories_have_no_order_and_one_is_a_batch(columns):
    given = pick("score_t", "r_t", "mask_t")
    part = {key: x[:, columns] for key, x in given.items()}
    expected = reinforce_sum(**part, gamma=GAMMA)
    np.testing.assert_allclose(estimators.reinforce(**part, gamma=GAMMA), expected / len(columns), rtol=1e-12)
    np.testing.assert_allclose(estimators.reinforce_sum(**part, gamma=GAMMA), expected, rtol=1e-12)


@equation("PG-24")
def test_two_batches_together_are_their_weighted_mean():
    given = pick("score_t", "r_t", "mask_t")
    g = [estimators.reinforce(**{key: x[:, part] for key, x in given.items()}, gamma=GAMMA).numpy() for part in (slice(1), slice(1, 3))]
    np.testing.assert_allclose(estimators.reinforce(**given, gamma=GAMMA), g[0] / 3 + 2 * g[1] / 3, rtol=1e-12)


@equation("PG-24", "PG-32")
@pytest.mark.parametrize("gamma", [GAMMA, 1.0])
def test_the_distributed_form_is_the_same_number(gamma):
    given = pick("score_t", "r_t", "mask_t")
    return_i = returns.total_return(given["r_t"], gamma, given["mask_t"]).numpy()
    psi_t, w_t = np.repeat(return_i[None], T, 0), surrogates.weights(given["mask_t"], given["r_t"], "traj")
    same = estimators.policy_gradient(given["score_t"], psi_t, w_t)
    np.testing.assert_allclose(same, estimators.reinforce(**given, gamma=gamma), rtol=1e-13)
    reverse = sum(given["score_t"][t, i] * return_i[i] for t, i in np.argwhere(given["mask_t"])) / N
    np.testing.assert_allclose(same, reverse, rtol=1e-13)


@equation("PG-22")
@pytest.mark.parametrize("seed", [1, 2])
def test_the_score_of_a_trajectory_does_not_know_the_dynamics(seed):
    """The Jacobian of log p(tau), of processes that differ, is the sum of the scores of the policy alone."""
    process, rng = tables.draw(seed, 3, 4), np.random.default_rng(0)
    state_t, action_t = rng.integers(3, size=(T, N)), rng.integers(4, size=(T, N))
    mask_t, theta = arguments()["mask_t"], rng.normal(size=(3, 4))
    theta_t = tf.constant(theta)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(theta_t)
        pi_t = tf.repeat(tf.nn.softmax(theta_t)[None], T, axis=0)
        log_p = processes.trajectory_log_prob(process.start, pi_t, process.move, state_t, action_t, mask_t)
    jacobian = tf.reshape(tape.jacobian(log_p, theta_t, experimental_use_pfor=False), [N, 12])
    score_i = estimators.trajectory_score(tables.scores(theta, state_t, action_t), mask_t)
    np.testing.assert_allclose(jacobian, score_i, rtol=1e-12, atol=1e-14)


@equation("PG-20")
def test_the_gradient_of_a_probability_is_itself_times_its_score(rng):
    theta, index = tf.constant(rng.normal(size=7)), tf.constant([0, 2, 5])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(theta)
        log_prob = tf.gather(tf.nn.log_softmax(theta), index)
        p = tf.exp(log_prob)
    score, slope = (tape.jacobian(y, theta, experimental_use_pfor=False) for y in (log_prob, p))
    np.testing.assert_allclose(estimators.density_gradient(log_prob, score), slope, rtol=1e-12)


# The production route: one backward pass through `objectives.pseudo` gives the same vectors.


def walk(rng, n=6):
    state_t, action_t, r_t = rng.integers(3, size=(T, n)), rng.integers(4, size=(T, n)), rng.normal(size=(T, n))
    mask_t = np.arange(T)[:, None] < rng.integers(2, T + 1, size=n)
    return state_t, action_t, r_t, mask_t


def one_pass(theta, state_t, action_t, psi_t, mask_t, normaliser):
    with tf.GradientTape() as tape:
        tape.watch(theta)
        log_prob_t = tf.gather_nd(tf.nn.log_softmax(theta), tf.stack([state_t, action_t], axis=-1))
        value = objectives.pseudo(log_prob_t, psi_t, mask_t, normaliser)
    return tf.convert_to_tensor(tape.gradient(value, theta))


@equation("PG-24", "PG-25", "PG-28", "PG-32", "PG-37")
def test_one_backward_pass_gives_the_same_vectors(rng):
    state_t, action_t, r_t, mask_t = walk(rng)
    theta = rng.normal(size=(3, 4))
    score_t = tables.scores(theta, state_t, action_t)
    return_t = np.repeat(returns.total_return(r_t, GAMMA, mask_t).numpy()[None], T, 0)
    for normaliser, estimator in [("traj", estimators.reinforce), ("sum", estimators.reinforce_sum)]:
        g = one_pass(tf.constant(theta), state_t, action_t, return_t, mask_t, normaliser)
        np.testing.assert_allclose(np.ravel(g), estimator(score_t, r_t, GAMMA, mask_t), rtol=1e-11, atol=1e-13)
    discount_t = np.full(r_t.shape, GAMMA)
    togo_t = returns.reward_to_go(r_t, discount_t, np.ones_like(r_t), mask_t)
    for normaliser in ("traj", "step", "sum"):
        w_t = surrogates.weights(mask_t, togo_t, normaliser)
        g = one_pass(tf.constant(theta), state_t, action_t, togo_t, mask_t, normaliser)
        np.testing.assert_allclose(np.ravel(g), estimators.policy_gradient(score_t, togo_t, w_t), rtol=1e-11, atol=1e-13)


def paths_of(optimizer, sequence, factor):
    """The parameters along a run in which the i-th gradient is factor times the i-th vector plus theta."""
    theta, state, path = tf.zeros([P], tf.float64), optimizer.init(tf.zeros([P], tf.float64)), []
    for vector in sequence:
        increment, state = optimizer.update(factor * (vector - theta), state)
        theta = theta + increment
        path.append(theta.numpy())
    return np.array(path)


@equation("PG-25", "PG-26", "PG-122")
def test_the_sum_needs_a_smaller_step_and_adam_does_not_notice(rng):
    sequence = rng.normal(size=(8, P))
    mean, total = (paths_of(optimizers.sgd(rate), sequence, factor) for rate, factor in [(0.3, 1.0), (0.3 / N, float(N))])
    np.testing.assert_allclose(total, mean, rtol=1e-12)
    assert np.abs(paths_of(optimizers.sgd(0.3), sequence, float(N)) - mean).max() > 0.1
    mean, total = (paths_of(optimizers.adam(0.3, epsilon=1e-15), sequence, factor) for factor in (1.0, float(N)))
    np.testing.assert_allclose(total, mean, rtol=1e-9, atol=1e-9)
