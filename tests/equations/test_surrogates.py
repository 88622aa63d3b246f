"""Surrogates against the policy gradients they stand for, and the one reduction over a batch."""

import numpy as np
import pytest
import tensorflow as tf
from laws import assert_every_input_matters

from tfpg import surrogates

equation = pytest.mark.equation
EPSILON, PENALTY = 0.3, 0.7


def ratio(log_prob, old):
    return np.exp(log_prob) / np.exp(old)


def clipped(log_prob, old, psi, epsilon):
    rho = ratio(log_prob, old)
    bound = np.where(rho > 1 + epsilon, 1 + epsilon, np.where(rho < 1 - epsilon, 1 - epsilon, rho))
    return np.where(rho * psi < bound * psi, rho, bound) * psi


def clipped_slope(log_prob, old, psi, epsilon):
    rho = ratio(log_prob, old)
    flat = ((psi > 0) & (rho > 1 + epsilon)) | ((psi < 0) & (rho < 1 - epsilon))
    return np.where(flat, 0, rho * psi)


# Objective per step, and its derivative in log_prob_t.
DEFINITIONS = {
    "score": (lambda log_prob, old, psi: log_prob * psi, lambda log_prob, old, psi: psi),
    "importance": (lambda log_prob, old, psi: ratio(log_prob, old) * psi,) * 2,
    "clipped": (clipped, clipped_slope),
    "kl_penalised": (
        lambda log_prob, old, psi, kl, penalty: ratio(log_prob, old) * psi - penalty * kl,
        lambda log_prob, old, psi, kl, penalty: ratio(log_prob, old) * psi,
    ),
}
every_surrogate = pytest.mark.parametrize("name", DEFINITIONS)
KEYS = ("log_prob_t", "log_prob_old_t", "psi_t")
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0]], bool)
STATES = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0]])
ACTIONS = np.array([[0, 2, 1, 1], [2, 0, 1, 0], [0, 0, 2, 2]])


def batch(rng, name="score", shape=(3, 4)):
    """Ratios on both sides of one and of either clip, psi of both signs."""
    given = dict(zip(KEYS, rng.normal(size=(3, *shape)), strict=True))
    further = {"clipped": {"epsilon": np.array(EPSILON)}, "kl_penalised": {"kl_t": rng.uniform(size=shape), "penalty": np.array(PENALTY)}}
    return {**given, **further.get(name, {})}


def tensors(given, dtype=tf.float64):
    return {key: tf.constant(value, dtype if np.issubdtype(value.dtype, np.floating) else None) for key, value in given.items()}


@equation("PG-28", "PG-79", "PG-83", "PG-84")
@every_surrogate
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
@pytest.mark.parametrize("shape", [(3, 4), (1, 1)])
def test_equals_its_definition(mode, name, dtype, tolerance, shape, rng):
    given = batch(rng, name, shape)
    result = mode(getattr(surrogates, name))(**tensors(given, dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, DEFINITIONS[name][0](*given.values()), rtol=tolerance)


@equation("PG-28", "PG-79", "PG-83", "PG-84")
@every_surrogate
def test_gradient_is_that_of_the_log_probability_alone(mode, name, rng):
    given, weight = batch(rng, name), rng.normal(size=(3, 4))

    def slopes(**given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = tf.reduce_sum(weight * getattr(surrogates, name).python_function(**given))
        return tape.gradient(y, given, unconnected_gradients="zero")

    slope = mode(slopes)(**tensors(given))
    np.testing.assert_allclose(slope["log_prob_t"], weight * DEFINITIONS[name][1](*given.values()), rtol=1e-12)
    assert not np.any(slope["log_prob_old_t"])
    assert not np.any(slope["psi_t"])
    if name == "kl_penalised":
        np.testing.assert_allclose(slope["kl_t"], -PENALTY * weight, rtol=1e-12)


@equation("PG-28", "PG-79", "PG-83", "PG-84")
@every_surrogate
def test_every_entry_matters(name, rng):
    given, idle = batch(rng, name), ("log_prob_old_t",) if name == "score" else ()
    if name == "clipped":  # where the clip holds, the ratio is not read
        flat = np.argwhere(clipped_slope(**dict(zip(("log_prob", "old", "psi", "epsilon"), given.values(), strict=True))) == 0)
        idle = [(key, tuple(index)) for key in KEYS[:2] for index in flat]
    assert_every_input_matters(getattr(surrogates, name), given, skip=idle)


@equation("PG-28")
def test_score_never_reads_the_old_log_probability(rng):
    given = batch(rng)
    result = surrogates.score(**tensors({**given, "log_prob_old_t": np.full((3, 4), np.nan)}))
    np.testing.assert_array_equal(result, surrogates.score(**tensors(given)))


@equation("PG-28", "PG-79", "PG-83", "PG-84")
@every_surrogate
@pytest.mark.parametrize("key", KEYS)
def test_refuses_a_column_among_vectors(name, key, rng):
    given = batch(rng, name, (5,))
    with pytest.raises(ValueError, match=rf"\b{key} has shape") as error:
        getattr(surrogates, name)(**tensors({**given, key: given[key].reshape(5, 1)}))
    assert "(5, 1)" in str(error.value)
    assert "(5,)" in str(error.value)


def log_softmax_policy(theta):
    """log pi(a_t|s_t) for fixed states and actions, theta [states, actions]."""
    return tf.gather(tf.gather(tf.nn.log_softmax(theta), STATES), ACTIONS, batch_dims=2)


def softmax_score(theta, s, a):
    """Its gradient in theta, written out: row s is e_a - pi(.|s)."""
    score = np.zeros_like(theta)
    score[s] = np.eye(len(theta[s]))[a] - np.exp(theta[s]) / np.exp(theta[s]).sum()
    return score


@equation("PG-28", "PG-79", "PG-82", "PG-83", "PG-84")
@every_surrogate
@pytest.mark.parametrize("normaliser", ["traj", "step", "sum"])
def test_at_the_old_policy_the_gradient_is_the_score_times_psi_though_all_depend_on_theta(mode, name, normaliser, rng):
    theta, psi = rng.normal(size=(2, 3)), rng.normal(size=(3, 4))

    def gradient(theta, psi):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            log_prob, psi_t = log_softmax_policy(theta), psi * tf.exp(theta[0, 0] - tf.stop_gradient(theta[0, 0]))
            log_pi = tf.nn.log_softmax(theta)
            kl = tf.reduce_sum(tf.stop_gradient(tf.exp(log_pi)) * (tf.stop_gradient(log_pi) - log_pi), axis=-1)
            further = {"clipped": (EPSILON,), "kl_penalised": (tf.gather(kl, STATES), PENALTY)}.get(name, ())
            per_step = getattr(surrogates, name)(log_prob, log_prob, psi_t, *further)
            objective = surrogates.weighted_sum(surrogates.weights(tf.constant(MASK), per_step, normaliser), per_step)
        return tape.gradient(objective, theta)

    steps = [(t, i) for t, i in np.ndindex(3, 4) if MASK[t, i]]
    share = {"traj": 1 / 4, "step": 1 / 9, "sum": 1}[normaliser]
    expected = share * sum(softmax_score(theta, STATES[t, i], ACTIONS[t, i]) * psi[t, i] for t, i in steps)
    np.testing.assert_allclose(mode(gradient)(tf.constant(theta), tf.constant(psi)), expected, rtol=1e-10, atol=1e-13)


@equation("PG-24", "PG-25", "PG-28")
@pytest.mark.parametrize(("normaliser", "share"), [("traj", 1 / 4), ("step", 1 / 9), ("sum", 1)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_weights_share_out_one_over_the_normaliser(mode, normaliser, share, dtype):
    w = mode(surrogates.weights)(tf.constant(MASK), tf.constant(0.0, dtype), normaliser)
    assert w.dtype == dtype
    expected = np.zeros(MASK.shape)
    expected[MASK] = share
    np.testing.assert_allclose(w, expected, rtol=1e-7 if dtype == "float32" else 1e-15)


@equation("PG-28")
def test_weights_of_one_step_are_one():
    for normaliser in ("traj", "step", "sum"):
        np.testing.assert_array_equal(surrogates.weights(tf.constant([[True]]), tf.constant(0.0), normaliser), [[1.0]])


@equation("PG-28")
def test_weights_refuse_an_unknown_normaliser_and_a_mask_without_environments():
    for unknown in ("mean", "sun", "zzz"):
        with pytest.raises(ValueError, match=rf"normaliser is '{unknown}'.*'traj', 'step' and 'sum'"):
            surrogates.weights(MASK, tf.constant(0.0), unknown)
    with pytest.raises(ValueError, match=r"mask_t has shape \(3,\)"):
        surrogates.weights(MASK[:, 0], tf.constant(0.0), "step")


@pytest.fixture
def sum_of(rng):
    """Weights of both signs, some zero."""
    return {"w_t": np.where(MASK, rng.normal(size=(3, 4)), 0), "x_t": rng.normal(size=(3, 4))}


@equation("PG-28")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_weighted_sum_is_the_sum_of_products(mode, sum_of, dtype, tolerance):
    result = mode(surrogates.weighted_sum)(**tensors(sum_of, dtype))
    assert result.shape == ()
    np.testing.assert_allclose(result, sum(float(w) * float(x) for w, x in zip(*map(np.ravel, sum_of.values()), strict=True)), tolerance)


@equation("PG-28")
@pytest.mark.parametrize("garbage", [0.3, np.nan, np.inf])
def test_weighted_sum_reads_nothing_where_the_weight_is_zero(mode, sum_of, garbage):
    w, x = sum_of["w_t"], np.where(MASK, sum_of["x_t"], garbage)

    def value_and_slopes(w, x):
        with tf.GradientTape() as tape:
            tape.watch((w, x))
            y = surrogates.weighted_sum.python_function(w, x)
        return y, *tape.gradient(y, (w, x))

    value, in_w, in_x = mode(value_and_slopes)(tf.constant(w), tf.constant(x))
    np.testing.assert_allclose(value, np.sum(w[MASK] * x[MASK]), rtol=1e-12)
    np.testing.assert_allclose(in_x, w, rtol=1e-12)
    np.testing.assert_allclose(in_w, np.where(MASK, x, 0), rtol=1e-12)


@equation("PG-28")
def test_weighted_sum_reads_everything_else(sum_of):
    assert_every_input_matters(surrogates.weighted_sum, sum_of, skip={("x_t", tuple(index)) for index in np.argwhere(~MASK)})


@equation("PG-28")
def test_weighted_sum_refuses_a_column_and_a_row():
    with pytest.raises(ValueError, match=r"w_t has shape \(3, 1\) but x_t has shape \(3,\)"):
        surrogates.weighted_sum(tf.ones([3, 1]), tf.ones([3]))


@equation("PG-28", "PG-79")
def test_new_values_add_no_trace(rng):
    counts = []
    for _ in range(2):
        given = tensors(batch(rng))
        w = surrogates.weights(MASK, surrogates.score(**given), "step")
        surrogates.weighted_sum(w, surrogates.importance(**given))
        functions = (surrogates.score, surrogates.importance, surrogates.weights, surrogates.weighted_sum)
        counts.append([function.traced.experimental_get_tracing_count() for function in functions])
    assert counts[0] == counts[1]


@equation("PG-28")
def test_an_empty_batch_has_no_weights():
    np.testing.assert_array_equal(surrogates.weights(tf.zeros([3, 2], tf.bool), tf.ones([]), "step"), np.zeros([3, 2]))
