"""Baselines against their definitions, written as loops; in expectation they are the business of test_baselines_in_expectation.py."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from laws import assert_every_input_matters

from tfpg import baselines

equation = pytest.mark.equation
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0]], bool)
# Five columns of lengths 3, 2, 1, 2, 1 in four rows: five, three, one and none are alive.
ALIVE = np.arange(4)[:, None] < np.array([3, 2, 1, 2, 1])


@pytest.fixture
def given(rng):
    return_t, v_t = rng.normal(size=(2, 3, 4))
    return {"return_t": return_t, "v_t": v_t, "mask_t": MASK}


def tensors(given, dtype=tf.float64):
    return {key: tf.constant(value, None if key == "mask_t" else dtype) for key, value in given.items()}


def defined(given):
    return [[given["return_t"][t, i] - given["v_t"][t, i] if MASK[t, i] else 0 for i in range(4)] for t in range(3)]


@equation("PG-48")
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6)])
@pytest.mark.parametrize("garbage", [0.3, np.nan, np.inf])
def test_subtracts_the_value_inside_and_is_zero_on_padding(mode, given, dtype, tolerance, garbage):
    dirty = {**given, **{key: np.where(MASK, given[key], garbage) for key in ("return_t", "v_t")}}
    result = mode(baselines.value_baseline)(**tensors(dirty, dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, defined(given), rtol=tolerance, atol=tolerance)


@equation("PG-48")
def test_every_entry_inside_matters(given):
    skip = {(key, tuple(index)) for key in ("return_t", "v_t") for index in np.argwhere(~MASK)}
    assert_every_input_matters(baselines.value_baseline, given, skip)


@equation("PG-48")
def test_has_no_gradient(mode, given):
    def slopes(return_t, v_t, mask_t):
        with tf.GradientTape() as tape:
            tape.watch((return_t, v_t))
            y = tf.reduce_sum(baselines.value_baseline.python_function(return_t, v_t, mask_t) ** 2)
        return tape.gradient(y, (return_t, v_t), unconnected_gradients="zero")

    assert not np.any(mode(slopes)(**tensors(given)))


@equation("PG-48")
@pytest.mark.parametrize("key", ["return_t", "v_t", "mask_t"])
def test_refuses_a_column_among_vectors(given, key):
    flat = {k: x.reshape(12, 1) if k == key else x.reshape(12) for k, x in given.items()}
    with pytest.raises(ValueError, match=rf"\b{key} has shape") as error:
        baselines.value_baseline(**tensors(flat))
    assert "(12, 1)" in str(error.value)
    assert "(12,)" in str(error.value)


@equation("PG-48")
def test_one_step_is_a_batch_and_new_values_add_no_trace():
    counts = []
    for g, v in [(1.3, 0.4), (-0.2, 0.7)]:
        given = {"return_t": np.array([[g]]), "v_t": np.array([[v]]), "mask_t": np.array([[True]])}
        np.testing.assert_allclose(baselines.value_baseline(**tensors(given)), [[g - v]], rtol=1e-12)
        counts.append(baselines.value_baseline.traced.experimental_get_tracing_count())
    assert counts[0] == counts[1]


# The others, each by its definition.


def ratio(above, below):
    return above / below if below else 0.0


def per_step(value):
    """value(t, i) of every step, padding included."""
    return np.array([[value(t, i) for i in range(ALIVE.shape[1])] for t in range(len(ALIVE))])


def sum_alive(x, t, without=None):
    columns = [j for j in range(ALIVE.shape[1]) if ALIVE[t, j] and j != without]
    return sum(x[t, j] for j in columns), len(columns)


def valid(x):
    return [x[t, i] for t, i in np.argwhere(ALIVE)]


def standardise(psi_t, mask_t, floor):
    values = valid(psi_t)
    average = sum(values) / len(values)
    deviation = np.sqrt(sum((x - average) ** 2 for x in values) / len(values))
    return per_step(lambda t, i: (psi_t[t, i] - average) / (deviation + floor) if ALIVE[t, i] else 0)


def optimal_per_time(probability, score_t, return_t):
    steps, columns, parameters = score_t.shape
    above, below = np.zeros(steps), np.zeros(steps)
    for t in range(steps):
        for i in range(columns):
            for p in range(parameters):
                whole = sum(score_t[u, i, p] * return_t[u, i] for u in range(steps))
                above[t] += probability[i] * score_t[t, i, p] * whole
                below[t] += probability[i] * score_t[t, i, p] ** 2
    return [ratio(*pair) for pair in zip(above, below, strict=True)]


def optimal_leave_one_out(score_i, return_i):
    b = np.zeros_like(score_i)
    for i, p in np.ndindex(score_i.shape):
        others = [j for j in range(len(score_i)) if j != i]
        b[i, p] = ratio(sum(score_i[j, p] ** 2 * return_i[j] for j in others), sum(score_i[j, p] ** 2 for j in others))
    return b


def optimal_togo_leave_one_out(score_i, weighed_i):
    b = np.zeros_like(score_i)
    for i, p in np.ndindex(score_i.shape):
        above = below = 0.0
        for j in range(len(score_i)):
            if j != i:
                above += score_i[j, p] * weighed_i[j, p]
                below += score_i[j, p] ** 2
        b[i, p] = ratio(above, below)
    return b


def optimal(probability, score_i, return_i):
    square = [p * sum(g**2) for p, g in zip(probability, score_i, strict=True)]
    return ratio(sum(w * r for w, r in zip(square, return_i, strict=True)), sum(square))


DEFINITIONS = {
    "subtract": lambda return_t, b_t, mask_t: per_step(lambda t, i: return_t[t, i] - b_t[t, i] if ALIVE[t, i] else 0),
    "every_step": lambda b_i, mask_t: per_step(lambda t, i: b_i[i]),
    "mean": lambda return_i: [sum(return_i) / 5] * 5,
    "leave_one_out": lambda return_i: [sum(return_i[j] for j in range(5) if j != i) / 4 for i in range(5)],
    "time_mean": lambda return_t, mask_t: per_step(lambda t, i: sum_alive(return_t, t)[0] / 5),
    "alive_mean": lambda return_t, mask_t: per_step(lambda t, i: ratio(*sum_alive(return_t, t))),
    "time_leave_one_out": lambda return_t, mask_t: per_step(lambda t, i: ratio(*sum_alive(return_t, t, without=i))),
    "pooled": lambda return_t, mask_t: per_step(lambda t, i: sum(valid(return_t)) / 9),
    "standardise": standardise,
    "optimal": optimal,
    "optimal_per_parameter": lambda probability, score_i, return_i: [
        optimal(probability, score_i[:, p : p + 1], return_i) for p in range(score_i.shape[1])
    ],
    "optimal_per_time": optimal_per_time,
    "optimal_leave_one_out": optimal_leave_one_out,
    "optimal_togo_leave_one_out": optimal_togo_leave_one_out,
}


def arguments_of(name, rng):
    """Returns far from centred, squared scores that differ much, a parameter and a step without any score."""
    score_i, score_t = rng.normal(size=(5, 3)), np.where(ALIVE[..., None], rng.normal(size=(4, 5, 3)), 0)
    score_i[:, 1] = 0
    probability = rng.dirichlet(np.ones(5))
    steps = {"return_t": 1.7 + rng.normal(size=(4, 5)), "b_t": rng.normal(size=(4, 5)), "psi_t": rng.normal(size=(4, 5)) - 0.4}
    rows = {"return_i": 1.3 + rng.normal(size=5), "b_i": rng.normal(size=5), "probability": probability, "floor": np.array(0.3)}
    weighed_i = score_i * (1.3 + rng.normal(size=(5, 3)))
    given = {**steps, **rows, "score_i": score_i, "weighed_i": weighed_i, "score_t": score_t, "mask_t": ALIVE}
    if name == "optimal_per_time":
        given["return_t"] = np.where(ALIVE, given["return_t"], 0)
    return {key: given[key] for key in inspect.signature(getattr(baselines, name)).parameters}


@equation("PG-40", "PG-41", "PG-42", "PG-46", "PG-47", "PG-49", "PG-50", "PG-132", "PG-136")
@pytest.mark.parametrize("name", DEFINITIONS)
def test_equals_its_definition(mode, name, rng):
    given = arguments_of(name, rng)
    dtypes = [("float64", 1e-12), ("float32", 2e-5)] if mode.name == "python" else [("float64", 1e-12)]
    for dtype, tolerance in dtypes:
        result = mode(getattr(baselines, name))(**tensors(given, dtype))
        assert result.dtype == dtype
        np.testing.assert_allclose(result, DEFINITIONS[name](**given), rtol=tolerance, atol=tolerance)


@equation("PG-40", "PG-51", "PG-62", "PG-132")
@pytest.mark.parametrize("name", ["subtract", "standardise"])
def test_a_finished_weight_has_no_gradient(mode, name, rng):
    given = tensors(arguments_of(name, rng))
    keys = [key for key in given if key not in ("mask_t", "floor")]

    def slopes(**given):
        with tf.GradientTape() as tape:
            tape.watch([given[key] for key in keys])
            y = tf.reduce_sum(getattr(baselines, name)(**given) ** 3)
        return tape.gradient(y, [given[key] for key in keys], unconnected_gradients="zero")

    assert not any(np.any(slope) for slope in mode(slopes)(**given))


@equation("PG-41", "PG-42")
def test_leaving_one_out_is_the_mean_rescaled_and_needs_two(rng):
    return_i = 1.3 + rng.normal(size=5)
    left_out, mean = return_i - baselines.leave_one_out(return_i), return_i - baselines.mean(return_i)
    np.testing.assert_allclose(left_out, 5 / 4 * mean, rtol=1e-12)
    np.testing.assert_allclose(baselines.leave_one_out(return_i[:2]), return_i[1::-1], rtol=1e-14)
    np.testing.assert_array_equal(baselines.mean(return_i[:1]), return_i[:1])
    with pytest.raises(ValueError, match="at least two"):
        baselines.leave_one_out(return_i[:1])


@equation("PG-49")
def test_leaving_one_out_of_the_alive_is_their_mean_rescaled_where_two_are_left(rng):
    return_t = 1.3 + rng.normal(size=ALIVE.shape)
    n = ALIVE.sum(axis=1, keepdims=True) * np.ones(5)
    several, one = ALIVE & (n >= 2), ALIVE & (n == 1)
    rescaled = n / np.maximum(n - 1, 1) * (return_t - baselines.alive_mean(return_t, ALIVE))
    left_out = return_t - baselines.time_leave_one_out(return_t, ALIVE)
    np.testing.assert_allclose(left_out[several], rescaled[several], rtol=1e-12)
    np.testing.assert_allclose(left_out[one], return_t[one], rtol=1e-12)
    assert np.abs(rescaled[one]).max() < 1e-12


@equation("PG-132")
def test_standardised_weights_have_mean_zero_and_deviation_one_and_a_single_step_gives_zero(rng):
    psi_t = tf.constant(5 + 3 * rng.normal(size=ALIVE.shape))
    standard = baselines.standardise(psi_t, ALIVE, 1e-12).numpy()[ALIVE]
    np.testing.assert_allclose([standard.mean(), standard.std()], [0, 1], atol=1e-10)
    np.testing.assert_allclose(baselines.standardise(100 * psi_t - 7, ALIVE, 1e-12).numpy()[ALIVE], standard, rtol=1e-9)
    np.testing.assert_array_equal(baselines.standardise(psi_t[:1, :1], np.array([[True]]), 1e-8), [[0]])


@equation("PG-132")
@pytest.mark.parametrize("value", [0.1, 3.3, -1e-3, 12345.67])
@pytest.mark.parametrize("n", [7, 100, 10_001])
def test_equal_weights_become_zero_and_not_what_rounding_leaves(mode, value, n):
    """In float32 the mean of equal numbers, summed, is not that number; divided by the deviation, the rest would be one."""
    psi_t, mask_t = tf.fill([n, 2], tf.constant(value, tf.float32)), tf.constant([[True, False]] * n)
    run = mode(lambda psi_t: baselines.standardise(psi_t, mask_t, tf.constant(1e-8)))
    np.testing.assert_array_equal(run(psi_t), np.zeros([n, 2]))


@equation("PG-46", "PG-47", "PG-50", "PG-136")
def test_no_score_at_all_is_no_reason_for_nan(rng):
    rows, none = rng.normal(size=5), np.zeros((5, 3))
    assert baselines.optimal(np.full(5, 0.2), none, rows) == 0
    for b in (
        baselines.optimal_per_parameter(np.full(5, 0.2), none, rows),
        baselines.optimal_per_time(np.full(5, 0.2), np.zeros((4, 5, 3)), rng.normal(size=(4, 5))),
        baselines.optimal_leave_one_out(none, rows),
        baselines.optimal_togo_leave_one_out(none, none),
    ):
        np.testing.assert_array_equal(b, np.zeros(b.shape))


@equation("PG-46", "PG-47", "PG-136")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_the_others_say_is_a_mean_of_their_returns_however_large_ones_own_score(mode, dtype, rng):
    """A rare action's score exceeds the others' by orders of magnitude; a difference of sums would leave nothing of theirs."""
    score_i, return_i = 1e-4 * rng.uniform(0.5, 1.5, size=(5, 3)), 2 + rng.normal(size=5)
    score_i[2] = 1e5
    found = mode(baselines.optimal_leave_one_out)(tf.constant(score_i, dtype), tf.constant(return_i, dtype))
    np.testing.assert_allclose(found, optimal_leave_one_out(score_i, return_i), rtol=1e-5)
    weighed_i = score_i * (2 + rng.uniform(size=(5, 3)))
    found = mode(baselines.optimal_togo_leave_one_out)(tf.constant(score_i, dtype), tf.constant(weighed_i, dtype))
    np.testing.assert_allclose(found, optimal_togo_leave_one_out(score_i, weighed_i), rtol=1e-5)


@equation("PG-46", "PG-47", "PG-136")
def test_for_the_total_return_the_baseline_of_rewards_to_go_is_that_of_returns(mode, rng):
    """Per component, and as one number: then of |g| and g . c / |g|, for every component alike."""
    score_i, return_i = rng.normal(size=(5, 3)), 1.3 + rng.normal(size=5)
    weighed_i, norm = score_i * return_i[:, None], np.linalg.norm(score_i, axis=1, keepdims=True)
    run = mode(baselines.optimal_togo_leave_one_out)
    found, alone = (
        run(tf.constant(g), tf.constant(c)) for g, c in ((score_i, weighed_i), (norm, (score_i * weighed_i).sum(1, keepdims=True) / norm))
    )
    np.testing.assert_allclose(found, baselines.optimal_leave_one_out(score_i, return_i), rtol=1e-12)
    np.testing.assert_allclose(alone, baselines.optimal_leave_one_out(norm, return_i), rtol=1e-12)


# The moving average, PG-43.

RETURNS = np.array([1.9, -0.4, 2.7, 0.8])


def averaged(run, returns, kappa, dtype=tf.float64, start=0.0):
    """Each b that was to be subtracted, and m at the end."""
    m, used = tf.constant(start, dtype), []
    for count, return_ in enumerate(returns):
        b, m = run(m, tf.constant(count), tf.constant(return_, dtype), tf.constant(kappa, dtype))
        used.append(float(b))
    return used, m


@equation("PG-43")
@pytest.mark.parametrize("kappa", [0.3, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(tf.float64, 1e-12), (tf.float32, 1e-5)])
def test_moving_average_weighs_the_past_geometrically_and_knows_nothing_of_the_present(mode, kappa, dtype, tolerance):
    used, m = averaged(mode(baselines.moving_average), RETURNS, kappa, dtype)
    assert m.dtype == dtype
    assert used[0] == 0
    for n in range(1, len(RETURNS)):
        weights = np.array([kappa * (1 - kappa) ** k for k in range(n)])
        np.testing.assert_allclose(used[n], weights @ RETURNS[:n][::-1] / weights.sum(), rtol=tolerance)
    weights = np.array([kappa * (1 - kappa) ** k for k in range(4)])
    np.testing.assert_allclose(m, weights @ RETURNS[::-1], rtol=tolerance)


@equation("PG-43")
def test_moving_average_forgets_where_it_started():
    used, m = averaged(baselines.moving_average, RETURNS, 0.3, start=5.0)
    assert used[0] == 0
    np.testing.assert_allclose(m, sum(0.3 * 0.7**k * r for k, r in enumerate(RETURNS[::-1])) + 0.7**4 * 5, rtol=1e-12)


@equation("PG-43")
def test_for_a_bandit_it_is_reinforcement_comparison():
    """Delta theta = alpha (R - b) (e_a - pi), by hand over three pulls and by the score of a softmax."""
    theta, m, rewards = np.array([0.3, -0.5, 0.1]), 0.0, np.array([1.2, -0.7, 0.4])
    by_hand, average, weight = theta.copy(), 0.0, 0.0
    for count, a in enumerate([2, 0, 1]):
        b, m = baselines.moving_average(tf.constant(m, tf.float64), count, rewards[a], 0.4)
        x = tf.constant(theta)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.nn.log_softmax(x)[a]
        theta = theta + 0.5 * float(rewards[a] - b) * tape.gradient(y, x).numpy()
        pi = np.exp(by_hand) / np.exp(by_hand).sum()
        by_hand = by_hand + 0.5 * (rewards[a] - (average / weight if weight else 0)) * (np.eye(3)[a] - pi)
        average, weight = 0.6 * average + 0.4 * rewards[a], 0.6 * weight + 0.4
    np.testing.assert_allclose(theta, by_hand, rtol=1e-12)
