"""Importance weights against their definitions: sums over samples, and products over the steps of each episode."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from laws import finite_difference

from tfpg import importance

equation = pytest.mark.equation

# One column per environment, first step left: T terminates, U truncates (is cut by the clock), # padding, - runs on.
CHUNK = ("--T--T-", "-U--T#-", "-------", "U--T###", "-T##---")
WHOLE = ("-----", "--T##", "---U#", "T####")
GAMMA = 0.83


def batch(rng, columns):
    """All arguments by name. Ratios on both sides of one, psi and rewards of both signs; padding holds numbers like any other."""
    rows = np.array([list(column) for column in columns]).T
    ended = np.isin(rows, ["T", "U"])
    old, log_ratio, r, psi = rng.normal(scale=0.8, size=(4, *rows.shape))
    discount = rng.uniform(0.6, 0.95, size=rows.shape) * (rows != "T")
    vectors = {"log_prob_t": old + log_ratio, "log_prob_old_t": old, "log_ratio_t": log_ratio, "r_t": r, "psi_t": psi, "return_t": -psi}
    scalars = {"gamma": np.array(GAMMA), "mask_t": rows != "#", "lambda_t": np.where(ended, 0.0, 1.0), "discount_t": discount}
    return {**vectors, **scalars, "state_ratio_t": rng.uniform(0.3, 2.5, size=rows.shape)}


def steps(given):
    """Every valid (t, i) with the steps of its episode in this chunk: up to t, and from t on."""
    mask, goes_on = given["mask_t"], given.get("lambda_t", np.ones(given["mask_t"].shape)) > 0
    for t, i in np.argwhere(mask):
        first, last = t, t
        while first > 0 and mask[first - 1, i] and goes_on[first - 1, i]:
            first -= 1
        while last + 1 < len(mask) and mask[last + 1, i] and goes_on[last, i]:
            last += 1
        yield (t, i), range(first, t + 1), range(t, last + 1)


def per_step(given, value):
    """value((t, i), past, future) at every valid step, zero elsewhere."""
    result = np.zeros(given["mask_t"].shape)
    for now, past, future in steps(given):
        result[now] = value(now, past, future)
    return result


def product(given, i, over):
    return math.prod(math.exp(given["log_ratio_t"][k, i]) for k in over)


def valid(given, i):
    return [t for t in range(len(given["mask_t"])) if given["mask_t"][t, i]]


def discounted(given, i):
    return sum(given["gamma"] ** t * given["r_t"][t, i] for t in valid(given, i))


def causal(given, now, past, future):
    """The outer product up to t, the inner one from t + 1."""
    (t, i), worth = now, lambda u: np.prod(given["discount_t"][t:u, now[1]]) * given["r_t"][u, now[1]]
    return product(given, i, past) * sum(worth(u) * product(given, i, range(t + 1, u + 1)) for u in future)


def per_column(given, value):
    return np.array([value(i) for i in range(given["mask_t"].shape[1])])


def decided(given, i):
    return sum(given["gamma"] ** t * product(given, i, range(t + 1)) * given["r_t"][t, i] for t in valid(given, i))


DEFINITIONS = {
    "log_ratio": lambda d: np.where(d["mask_t"], np.log(np.exp(d["log_prob_t"]) / np.exp(d["log_prob_old_t"])), 0),
    "log_trajectory_ratio": lambda d: per_column(d, lambda i: math.log(product(d, i, valid(d, i)))),
    "cumulative_log_ratio": lambda d: per_step(d, lambda now, past, future: math.log(product(d, now[1], past))),
    "weighted_return": lambda d: per_column(d, lambda i: product(d, i, valid(d, i)) * discounted(d, i)),
    "per_decision_return": lambda d: per_column(d, lambda i: decided(d, i)),
    "full": lambda d: per_step(d, lambda now, past, future: product(d, now[1], valid(d, now[1])) * discounted(d, now[1])),
    "full_togo": lambda d: per_step(d, lambda now, past, future: product(d, now[1], valid(d, now[1])) * d["return_t"][now]),
    "causal": lambda d: per_step(d, lambda now, past, future: causal(d, now, past, future)),
    "drop_future": lambda d: per_step(d, lambda now, past, future: product(d, now[1], past) * d["psi_t"][now]),
    "marginal": lambda d: per_step(d, lambda now, *_: d["state_ratio_t"][now] * product(d, now[1], now[:1]) * d["psi_t"][now]),
    "first_order": lambda d: per_step(d, lambda now, *_: product(d, now[1], now[:1]) * d["psi_t"][now]),
}
ARGUMENTS = {
    "log_ratio": "log_prob_t log_prob_old_t mask_t",
    "log_trajectory_ratio": "log_ratio_t mask_t",
    "cumulative_log_ratio": "log_ratio_t lambda_t mask_t",
    "weighted_return": "log_ratio_t r_t gamma mask_t",
    "per_decision_return": "log_ratio_t r_t gamma mask_t",
    "full": "log_ratio_t r_t gamma mask_t",
    "full_togo": "log_ratio_t return_t mask_t",
    "causal": "log_ratio_t r_t discount_t lambda_t mask_t",
    "drop_future": "log_ratio_t psi_t lambda_t mask_t",
    "marginal": "log_ratio_t psi_t state_ratio_t mask_t",
    "first_order": "log_ratio_t psi_t mask_t",
}
# What a derivative is wanted of: all others, and all of the forms of psi, have none.
SLOPES = {
    "log_ratio": ["log_prob_t"],
    **{name: ["log_ratio_t"] for name in ("log_trajectory_ratio", "cumulative_log_ratio", "weighted_return", "per_decision_return")},
}
ON_CHUNKS = ("log_ratio", "cumulative_log_ratio", "causal", "drop_future", "marginal", "first_order")
every_function = pytest.mark.parametrize("name", DEFINITIONS)
every_form = pytest.mark.parametrize("name", ["full", "full_togo", "causal", "drop_future", "marginal", "first_order"])


def arguments(name, rng, columns=None):
    given = batch(rng, columns or (CHUNK if name in ON_CHUNKS else WHOLE))
    return {key: given[key] for key in ARGUMENTS[name].split()}


def tensors(given, dtype=tf.float64):
    return {key: tf.constant(value, dtype if np.issubdtype(value.dtype, np.floating) else None) for key, value in given.items()}


@equation("PG-72", "PG-73", "PG-74", "PG-75", "PG-76", "PG-77", "PG-78", "PG-79")
@every_function
def test_value_and_gradient_are_those_of_the_definition(mode, name, rng):
    given, define = arguments(name, rng), DEFINITIONS[name]
    weight, slopes = rng.normal(size=define(given).shape), SLOPES.get(name, [])

    def value_and_gradient(**given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = getattr(importance, name).python_function(**given)
            total = tf.reduce_sum(weight * y)
        return y, tape.gradient(total, {key: given[key] for key in slopes})

    value, gradient = mode(value_and_gradient)(**tensors(given))
    np.testing.assert_allclose(value, define(given), rtol=1e-11, atol=1e-13)
    for key in slopes:
        defined = finite_difference(lambda x, key=key: np.sum(weight * define({**given, key: x})), given[key])
        np.testing.assert_allclose(gradient[key], defined, rtol=1e-7, atol=1e-8)


@equation("PG-74", "PG-75", "PG-76", "PG-77", "PG-78", "PG-79")
@every_form
def test_no_gradient_flows_through_the_forms_of_psi(name, rng):
    given = tensors(arguments(name, rng))
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = tf.reduce_sum(getattr(importance, name)(**given))
    assert set(tape.gradient(total, [x for x in given.values() if x.dtype.is_floating])) == {None}


@equation("PG-72", "PG-129")
def test_no_gradient_flows_into_the_log_probability_that_was_stored(rng):
    given = tensors(arguments("log_ratio", rng))
    with tf.GradientTape() as tape:
        tape.watch(given)
        total = tf.reduce_sum(importance.log_ratio(**given))
    assert tape.gradient(total, given["log_prob_old_t"]) is None


@equation("PG-72", "PG-73", "PG-74", "PG-75", "PG-76", "PG-77", "PG-78", "PG-79")
@every_function
@pytest.mark.parametrize(("columns", "dtype"), [(None, tf.float32), (("--U",), tf.float64), (("-",), tf.float32)])
def test_single_precision_one_episode_and_one_step_will_do(name, columns, dtype, rng):
    given = arguments(name, rng, columns)
    result = getattr(importance, name)(**tensors(given, dtype))
    assert result.dtype == dtype
    digits = 5e-6 if dtype == tf.float32 else 1e-12
    np.testing.assert_allclose(result, DEFINITIONS[name](given), rtol=digits, atol=digits)


@equation("PG-72")
def test_the_cumulative_ratio_decays_by_lambda(rng):
    given = arguments("cumulative_log_ratio", rng, ("-----", "-----"))
    decay, log_ratio = rng.uniform(0.2, 0.9, size=(5, 2)), given["log_ratio_t"]
    expected = [sum(np.prod(decay[k:t], axis=0) * log_ratio[k] for k in range(t + 1)) for t in range(5)]
    np.testing.assert_allclose(importance.cumulative_log_ratio(**tensors({**given, "lambda_t": decay})), expected, rtol=1e-12)


@equation("PG-72", "PG-76", "PG-77")
@pytest.mark.parametrize("name", ["cumulative_log_ratio", "causal", "drop_future"])
def test_episodes_in_one_column_are_as_episodes_in_columns_of_their_own(name, rng):
    given = arguments(name, rng, ("--T-U---",))
    together = getattr(importance, name)(**tensors(given))[:, 0]
    apart = [
        getattr(importance, name)(**tensors({key: x[rows] for key, x in given.items()})) for rows in (np.s_[:3], np.s_[3:5], np.s_[5:])
    ]
    np.testing.assert_allclose(together, np.concatenate(apart)[:, 0], rtol=1e-13)


@equation("PG-72", "PG-73")
@pytest.mark.parametrize(("name", "columns"), [("cumulative_log_ratio", ("-T##---",)), ("per_decision_return", WHOLE)])
def test_padding_between_episodes_and_after_them_may_hold_anything(name, columns, rng):
    given, results = arguments(name, rng, columns), []
    for garbage in (0.0, np.nan):
        dirty = tensors({key: np.where(given["mask_t"], x, garbage) if x.dtype == float and x.ndim else x for key, x in given.items()})
        with tf.GradientTape() as tape:
            tape.watch(dirty)
            y = getattr(importance, name)(**dirty)
        results.append((y, tape.gradient(y, dirty["log_ratio_t"])))
    np.testing.assert_array_equal(results[1][0], results[0][0])
    np.testing.assert_array_equal(results[1][1], results[0][1])
    assert np.isfinite(results[1][1]).all()


@equation("PG-70", "PG-71")
@pytest.mark.parametrize(("dtype", "digits"), [(tf.float64, 1e-12), (tf.float32, 5e-6)])
def test_an_estimate_is_the_weighted_mean_and_its_warnings(mode, dtype, digits, rng):
    log_p, log_q, f = rng.normal(size=(3, 5))
    found = mode(importance.estimate)(*(tf.constant(x, dtype) for x in (log_p, log_q, f)))
    w = [math.exp(a) / math.exp(b) for a, b in zip(log_p, log_q, strict=True)]
    size = sum(w) ** 2 / sum(x * x for x in w)
    expected = (sum(x * y for x, y in zip(w, f, strict=True)) / 5, size, sum(w) / 5, max(w))
    assert found.mean.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=digits)


@equation("PG-71")
@pytest.mark.parametrize(("dtype", "digits"), [(tf.float64, 1e-12), (tf.float32, 5e-6)])
def test_self_normalised_is_the_sum_over_the_sum_of_weights(mode, dtype, digits, rng):
    log_weight, f = rng.normal(size=(2, 5))

    def value_and_slopes(log_weight, f):
        with tf.GradientTape() as tape:
            tape.watch((log_weight, f))
            y = importance.self_normalised.python_function(log_weight, f)
        return y, *tape.gradient(y, (log_weight, f))

    share = np.exp(log_weight) / np.exp(log_weight).sum()
    mean = share @ f
    for found, expected in zip(
        mode(value_and_slopes)(*(tf.constant(x, dtype) for x in (log_weight, f))), (mean, share * (f - mean), share), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=10 * digits)


P, Q, F = np.array([0.5, 0.15, 0.35]), np.array([0.2, 0.7, 0.1]), np.array([1.3, -0.8, 2.1])


@equation("PG-70")
def test_the_mean_of_estimates_is_the_mean_under_the_target():
    mean = mean_weight = constant = 0.0
    for batch_ in itertools.product(range(3), repeat=2):
        i = list(batch_)
        found = importance.estimate(np.log(P[i]), np.log(Q[i]), F[i])
        mean, mean_weight = mean + Q[i].prod() * found.mean, mean_weight + Q[i].prod() * found.mean_weight
        constant += Q[i].prod() * importance.estimate(np.log(P[i]), np.log(Q[i]), np.full(2, 4.2)).mean
    np.testing.assert_allclose([mean, mean_weight, constant], [P @ F, 1, 4.2], rtol=1e-12)


@equation("PG-70", "PG-71")
def test_a_shifted_gaussian_has_mean_weight_one_and_the_effective_sample_size_of_its_closed_form():
    x, d = np.linspace(-12, 13, 501), 0.7
    log_q, log_p = -(x**2) / 2, -((x - d) ** 2) / 2
    q = np.exp(log_q) / np.exp(log_q).sum()
    # Samples that weigh q each are samples drawn from q, if 501 q stands beside p and f.
    found = importance.estimate(log_p + np.log(501 * q), log_q, x**2)
    np.testing.assert_allclose([found.mean_weight, found.mean], [1, 1 + d**2], rtol=1e-11)
    quantiles = np.interp((np.arange(20000) + 0.5) / 20000, np.cumsum(q), x + (x[1] - x[0]) / 2)
    found = importance.estimate(-((quantiles - d) ** 2) / 2, -(quantiles**2) / 2, quantiles)
    np.testing.assert_allclose(found.effective_sample_size / 20000, math.exp(-(d**2)), rtol=3e-3)


@equation("PG-70")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_the_samples_never_show_is_missing_from_the_mean(mode, dtype):
    p = np.array([[0.2, 0.3, 0.4, 0.1], [0.25, 0.0, 0.7, 0.05]])
    q = np.array([[0.6, 0.0, 0.4, 0.0], [0.0, 0.0, 0.5, 0.5]])
    missing = mode(importance.uncovered)(tf.constant(p, dtype), tf.constant(q, dtype))
    np.testing.assert_allclose(missing, [0.4, 0.25], rtol=1e-6)
    np.testing.assert_allclose(importance.uncovered(p[0], q[0]), 0.4, rtol=1e-6)
    f = np.array([1.0, 4.0, 2.0, 3.0])
    mean = mean_weight = 0.0
    for x in (0, 2):
        found = importance.estimate(np.log(p[0, [x]]), np.log(q[0, [x]]), f[[x]])
        mean, mean_weight = mean + q[0, x] * found.mean, mean_weight + q[0, x] * found.mean_weight
    np.testing.assert_allclose(mean_weight, 1 - missing[0], rtol=1e-6)
    np.testing.assert_allclose(mean, p[0] @ f - (0.3 * 4 + 0.1 * 3), rtol=1e-12)


@equation("PG-71")
def test_the_bias_of_self_normalisation_falls_as_one_over_the_number_of_samples():
    p, q, f = np.array([0.7, 0.3]), np.array([0.35, 0.65]), np.array([1.5, -0.5])
    w, sizes = p / q, np.array([12, 24, 48])

    def mean(n):
        """Over the number k of samples of the first kind, a binomial law."""
        total = 0.0
        for k in range(n + 1):
            kind = np.where(np.arange(n) < k, 0, 1)
            found = importance.self_normalised(np.log(w[kind]), f[kind])
            total += math.comb(n, k) * q[0] ** k * q[1] ** (n - k) * found.numpy()
        return total

    bias = np.array([mean(n) for n in sizes]) - p @ f
    leading = (p @ f) * (q @ w**2) - q @ (w**2 * f)
    np.testing.assert_allclose(sizes[-1] * bias[-1], leading, rtol=0.05)
    np.testing.assert_allclose(np.diff(np.log(np.abs(bias))) / np.log(2), -1, atol=0.08)


@equation("PG-71")
@pytest.mark.parametrize(("dtype", "digits"), [(tf.float64, 1e-11), (tf.float32, 5e-6)])
def test_the_effective_sample_size_counts_equal_weights_and_sees_one_that_is_all(mode, dtype, digits):
    size = mode(importance.effective_sample_size)
    for log_weight, expected in [
        ([0.4] * 7, 7),
        ([1e3, 1e3, -1e3, 1e3, 0.0, 2.0, -1e3], 3),
        ([-1e3, -1e3, -2e3, -2e3, -2e3, -2e3, -2e3], 2),
        ([1e3, 3.0, 2.0, 1.0, 0.0, -1.0, -1e3], 1),
        (np.log([1.0, 2, 3, 4, 5, 6, 7]), 28**2 / 140),
    ]:
        np.testing.assert_allclose(size(tf.constant(log_weight, dtype)), expected, rtol=digits)


@equation("PG-71")
def test_an_offset_of_all_log_weights_changes_nothing_however_large(rng):
    log_weight, f = rng.normal(size=(2, 6))
    for offset in (-1e3, 1e3):
        np.testing.assert_allclose(
            importance.effective_sample_size(log_weight + offset), importance.effective_sample_size(log_weight), rtol=1e-11
        )
        moved = importance.self_normalised(log_weight + offset, f)
        np.testing.assert_allclose(moved, importance.self_normalised(log_weight, f), rtol=1e-11)


@equation("PG-71")
def test_the_effective_sample_size_lies_between_one_and_n_and_is_n_over_one_plus_the_squared_variation(rng):
    for scale in (0.1, 1.0, 5.0):
        w = np.exp(scale * rng.normal(size=9))
        size = importance.effective_sample_size(np.log(w))
        assert 1 < size < 9
        np.testing.assert_allclose(size, 9 / (1 + w.var() / w.mean() ** 2), rtol=1e-11)


@equation("PG-71", "PG-72")
def test_ten_thousand_ratios_have_a_finite_logarithm_and_a_finite_effective_sample_size(rng):
    log_ratio = rng.normal([-0.7, 0.6, 0.0], size=(10000, 3))
    mask, lambda_ = np.ones(log_ratio.shape, bool), np.ones(log_ratio.shape)
    whole = importance.log_trajectory_ratio(log_ratio, mask)
    np.testing.assert_allclose(whole, [math.fsum(column) for column in log_ratio.T], rtol=1e-9)
    assert whole[0] < -5000
    assert whole[1] > 5000
    np.testing.assert_allclose(importance.cumulative_log_ratio(log_ratio, lambda_, mask)[-1], whole, rtol=1e-9)
    np.testing.assert_allclose(importance.effective_sample_size(whole), 1, rtol=1e-12)
    np.testing.assert_allclose(importance.self_normalised(whole, np.array([3.0, 2.5, 1.0])), 2.5, rtol=1e-12)
