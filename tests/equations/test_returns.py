"""Returns against their definitions: explicit sums over the steps of each episode."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from laws import assert_every_input_matters, finite_difference

from tfpg import returns

equation = pytest.mark.equation
GAMMA, LAMBDA = 0.9, 0.7

# One column per environment, first step left: T terminates, U truncates (is cut by the clock), B both at once, # padding.
COLUMNS = ("..T..T.", ".U..T.U", ".......", "...B..T", "...T###", ".U...##")


def batch(rng, columns=COLUMNS):
    """All arguments by name. V(o_{t+1}) is the next row's V inside an episode and a number of its own elsewhere."""
    rows = np.array([list(column) for column in columns]).T
    terminated, truncated, mask = np.isin(rows, ["T", "B"]), np.isin(rows, ["U", "B"]), rows != "#"
    ended = terminated | truncated
    x, decay, r, psi, v_t, v_tp1 = rng.normal(size=(6, *rows.shape))
    gammas, lambdas = rng.uniform(0.6, 0.95, size=(2, *rows.shape))
    inside = ~ended[:-1] & mask[1:]
    v_tp1[:-1][inside] = v_t[1:][inside]
    age = np.zeros(rows.shape, np.int32)
    age[0] = 2 + np.arange(len(columns))
    for t in range(1, len(rows)):
        age[t] = np.where(ended[t - 1], 0, age[t - 1] + 1)
    flags = {"terminated_t": terminated, "truncated_t": truncated, "mask_t": mask, "age_t": age, "n": np.int32(3)}
    vectors = {"discount_t": gammas * ~terminated, "lambda_t": lambdas * ~ended, "v_t": v_t, "v_tp1": v_tp1, "psi_t": psi}
    return {**flags, **vectors, "x_t": x, "decay_t": decay, "r_t": r, "gamma": np.array(GAMMA), "lambda_": np.array(LAMBDA)}


def affine_sum(x_t, decay_t, n=99):
    y_t = np.zeros_like(x_t)
    for t in range(len(x_t)):
        for u in range(t, min(t + n, len(x_t))):
            y_t[t] += np.prod(decay_t[t:u], axis=0) * x_t[u]
    return y_t


def residual(r_t, discount_t, v_t, v_tp1, mask_t):
    return np.where(mask_t, r_t + discount_t * v_tp1 - v_t, 0)


def advantage(r_t, discount_t, lambda_t, v_t, v_tp1, mask_t, n=99):
    return affine_sum(residual(r_t, discount_t, v_t, v_tp1, mask_t), discount_t * lambda_t, n)


DEFINITIONS = {
    "discount": lambda gamma, terminated_t: np.where(terminated_t, 0, gamma),
    "trace": lambda lambda_, terminated_t, truncated_t: np.where(terminated_t, 0, np.where(truncated_t, 0, lambda_)),
    "scan_back": affine_sum,
    "total_return": lambda r_t, gamma, mask_t: sum(gamma**t * np.where(mask_t[t], r_t[t], 0) for t in range(len(r_t))),
    "reward_to_go": lambda r_t, discount_t, lambda_t, mask_t: affine_sum(np.where(mask_t, r_t, 0), discount_t * lambda_t),
    "td_residual": residual,
    "n_step": advantage,
    "gae": advantage,
    "lambda_return": lambda **given: advantage(**given) + np.where(given["mask_t"], given["v_t"], 0),
    "discount_from_start": lambda psi_t, gamma, age_t: gamma**age_t * psi_t,
}
every_function = pytest.mark.parametrize("name", DEFINITIONS)


def arguments_of(name, given):
    return {key: given[key] for key in inspect.signature(getattr(returns, name)).parameters if key != "like"}


def floating(given):
    return [key for key, value in given.items() if np.issubdtype(value.dtype, np.floating)]


masked_functions = pytest.mark.parametrize(
    "name", [name for name in DEFINITIONS if "mask_t" in inspect.signature(getattr(returns, name)).parameters]
)


def tensors(given, dtype=tf.float64):
    return {key: tf.constant(value, dtype if key in floating(given) else None) for key, value in given.items()}


def slopes(mode, name, given, keys, weight):
    """Derivatives of sum(weight * result)."""

    def slope(**given):
        with tf.GradientTape() as tape:
            tape.watch(given)
            y = tf.reduce_sum(weight * getattr(returns, name).python_function(**given))
        return tape.gradient(y, {key: given[key] for key in keys})

    return mode(slope)(**tensors(given))


@equation("PG-11", "PG-34", "PG-35", "PG-36", "PG-64", "PG-65", "PG-67", "PG-131")
@every_function
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-6)])
def test_equals_its_definition(mode, name, dtype, tolerance, rng):
    given = arguments_of(name, batch(rng))
    result = mode(getattr(returns, name))(**tensors(given, dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, DEFINITIONS[name](**given), rtol=tolerance, atol=tolerance)


@equation("PG-11", "PG-34", "PG-35", "PG-36", "PG-64", "PG-65", "PG-67", "PG-131")
@every_function
@pytest.mark.parametrize("columns", [("U",), (".U.",)])
def test_one_environment_or_one_step_is_a_batch(mode, name, columns, rng):
    given = arguments_of(name, batch(rng, columns))
    np.testing.assert_allclose(mode(getattr(returns, name))(**tensors(given)), DEFINITIONS[name](**given), rtol=1e-12)


@equation("PG-11", "PG-34", "PG-35", "PG-36", "PG-64", "PG-65", "PG-67", "PG-131")
@every_function
def test_gradient_equals_that_of_its_definition(mode, name, rng):
    given = arguments_of(name, batch(rng))
    weight = rng.normal(size=np.shape(DEFINITIONS[name](**given)))
    for key, slope in slopes(mode, name, given, floating(given), weight).items():
        defined = finite_difference(lambda x, key=key: np.sum(weight * DEFINITIONS[name](**{**given, key: x})), given[key])
        np.testing.assert_allclose(slope, defined, rtol=1e-7, atol=1e-8, err_msg=key)


def idle_entries(name, given):
    """Where an argument must not matter: on padding, and where what it multiplies is zero."""
    everything = batch(np.random.default_rng(0))
    terminated, mask = everything["terminated_t"], everything["mask_t"]
    ended = terminated | everything["truncated_t"]
    last = ~np.concatenate([mask[1:], np.zeros_like(mask[:1])])
    idle = {key: ~mask if "mask_t" in given else np.zeros_like(mask) for key in floating(given) if np.ndim(given[key])}
    if name == "scan_back":
        idle["decay_t"][-1] = True
    elif name == "reward_to_go":
        idle["discount_t"] |= ended | last
        idle["lambda_t"] |= terminated | last
    elif "v_tp1" in given:
        idle["v_tp1"] |= terminated
        if "lambda_t" in given:
            idle["lambda_t"] |= terminated | last
    if name == "lambda_return":
        idle["v_t"] |= np.concatenate([np.ones_like(mask[:1]), ended[:-1]])
    return idle


@equation("PG-11", "PG-34", "PG-35", "PG-36", "PG-64", "PG-65", "PG-67", "PG-131")
@every_function
def test_every_entry_matters_but_those_that_must_not(name, rng):
    function, given = getattr(returns, name), arguments_of(name, batch(rng))
    idle = idle_entries(name, given)
    assert_every_input_matters(function, given, skip={(key, tuple(index)) for key in idle for index in np.argwhere(idle[key])})
    for key, entries in idle.items():
        other = {**given, key: given[key] + 11 * entries}
        np.testing.assert_allclose(function(**tensors(other)), function(**tensors(given)), rtol=0, atol=1e-13)


@equation("PG-11", "PG-34", "PG-64", "PG-65", "PG-67", "PG-131")
@masked_functions
def test_every_entry_of_the_mask_matters(name, rng):
    function, given = getattr(returns, name), arguments_of(name, batch(rng))
    base = function(**tensors(given))
    for index in np.ndindex(given["mask_t"].shape):
        flipped = given["mask_t"].copy()
        flipped[index] ^= True
        assert np.abs(function(**tensors({**given, "mask_t": flipped})) - base).max() > 1e-9, index


@equation("PG-11", "PG-34", "PG-64", "PG-65", "PG-67", "PG-131")
@masked_functions
@pytest.mark.parametrize("garbage", [np.nan, np.inf])
def test_padding_reaches_neither_value_nor_gradient(mode, name, garbage, rng):
    given = arguments_of(name, batch(rng))
    dirty = {key: np.where(given["mask_t"], x, garbage) if key in floating(given) and np.ndim(x) else x for key, x in given.items()}
    keys = [key for key in ("r_t", "v_t", "v_tp1") if key in given]
    clean = DEFINITIONS[name](**given)
    np.testing.assert_allclose(mode(getattr(returns, name))(**tensors(dirty)), clean, rtol=1e-12)
    expected = slopes(mode, name, given, keys, clean)
    for key, slope in slopes(mode, name, dirty, keys, clean).items():
        np.testing.assert_allclose(slope, expected[key], rtol=1e-12, err_msg=key)
        assert not np.any(slope.numpy()[~given["mask_t"]])


@equation("PG-11", "PG-34", "PG-35", "PG-36", "PG-64", "PG-65", "PG-67", "PG-131")
@pytest.mark.parametrize(
    ("name", "key"),
    [
        (name, key)
        for name in DEFINITIONS
        for key in inspect.signature(getattr(returns, name)).parameters
        if key not in ("gamma", "lambda_", "n", "like") and name != "discount"
    ],
)
def test_refuses_a_column_among_vectors(name, key, rng):
    given = arguments_of(name, batch(rng))
    flat = {k: x.reshape(-1) if np.ndim(x) else x for k, x in given.items()}
    flat[key] = flat[key].reshape(42, 1)
    with pytest.raises(ValueError, match=rf"\b{key} has shape") as error:
        getattr(returns, name)(**tensors(flat))
    assert "(42,)" in str(error.value)
    assert "(42, 1)" in str(error.value)


@equation("PG-34")
def test_scan_back_takes_any_rank_but_a_scalar(rng):
    for shape in [(5,), (5, 3, 2)]:
        x, decay = rng.normal(size=(2, *shape))
        np.testing.assert_allclose(returns.scan_back(x, decay), affine_sum(x, decay), rtol=1e-12)
    with pytest.raises(ValueError, match=r"x_t has shape \(\)"):
        returns.scan_back(tf.constant(1.0), tf.constant(0.3))


@equation("PG-11", "PG-35", "PG-65")
@pytest.mark.parametrize(
    ("name", "key", "numbers"),
    [
        ("discount", "gamma", (0.9, 0.8)),
        ("trace", "lambda_", (0.9, 0.8)),
        ("total_return", "gamma", (0.9, 0.8)),
        ("discount_from_start", "gamma", (0.9, 0.8)),
        ("n_step", "n", (2, 3)),
    ],
)
def test_a_new_number_is_a_new_value_and_no_new_trace(name, key, numbers, rng):
    function, given = getattr(returns, name), arguments_of(name, batch(rng))
    counts = []
    for number in numbers:
        result = function(**{**tensors(given), key: number})
        np.testing.assert_allclose(result, DEFINITIONS[name](**{**given, key: number}), rtol=1e-6)
        counts.append(function.traced.experimental_get_tracing_count())
    assert counts[0] == counts[1]


# What the definitions in terms of gamma, lambda and the ends of episodes say, episode by episode.


def episodes(given, lambda_):
    """The batch with discount_t and lambda_t made of gamma, lambda and the flags."""
    terminated, truncated = given["terminated_t"], given["truncated_t"]
    discount_t = returns.discount(tf.constant(GAMMA, tf.float64), terminated)
    lambda_t = returns.trace(tf.constant(lambda_, tf.float64), terminated, truncated)
    return {**given, "discount_t": discount_t.numpy(), "lambda_t": lambda_t.numpy()}


def per_step(given, value):
    """value(i, steps) for every valid step, `steps` being it and the later ones of its episode in this chunk."""
    mask, ended = given["mask_t"], given["terminated_t"] | given["truncated_t"]
    result = np.zeros(mask.shape)
    for t, i in np.argwhere(mask):
        steps = [t]
        while not ended[steps[-1], i] and steps[-1] + 1 < len(mask) and mask[steps[-1] + 1, i]:
            steps.append(steps[-1] + 1)
        result[t, i] = value(i, steps)
    return result


def n_step_of_rewards(given, i, steps, n):
    m = min(n, len(steps))
    rewards = sum(GAMMA**k * given["r_t"][steps[k], i] for k in range(m))
    rest = 0 if given["terminated_t"][steps[m - 1], i] else given["v_tp1"][steps[m - 1], i]
    return rewards + GAMMA**m * rest - given["v_t"][steps[0], i]


def mixture(given, i, steps, lambda_):
    a = [n_step_of_rewards(given, i, steps, n) for n in range(1, len(steps) + 1)]
    return (1 - lambda_) * sum(lambda_**k * a[k] for k in range(len(a) - 1)) + lambda_ ** (len(a) - 1) * a[-1]


def run(name, given):
    return getattr(returns, name)(**tensors(arguments_of(name, given))).numpy()


@equation("PG-65")
@pytest.mark.parametrize("n", [1, 2, 4, 50])
def test_n_step_sums_n_rewards_and_bootstraps_unless_terminated(n, rng):
    given = {**episodes(batch(rng), 1.0), "n": np.int32(n)}
    np.testing.assert_allclose(run("n_step", given), per_step(given, lambda i, s: n_step_of_rewards(given, i, s, n)), rtol=1e-11)


@equation("PG-65", "PG-67")
@pytest.mark.parametrize("lambda_", [LAMBDA, 0.0, 1.0])
def test_gae_is_the_mixture_of_n_steps(lambda_, rng):
    given = episodes(batch(rng), lambda_)
    np.testing.assert_allclose(run("gae", given), per_step(given, lambda i, s: mixture(given, i, s, lambda_)), rtol=1e-11)


@equation("PG-64", "PG-65", "PG-67")
def test_one_step_and_lambda_zero_are_the_residual(rng):
    given = batch(rng)
    residual_t = run("td_residual", given)
    np.testing.assert_array_equal(run("n_step", {**given, "n": np.int32(1)}), residual_t)
    np.testing.assert_array_equal(run("gae", {**given, "lambda_t": np.zeros_like(residual_t)}), residual_t)


@equation("PG-65", "PG-67")
def test_many_steps_and_lambda_one_are_the_return_with_its_bootstrap_minus_the_value(rng):
    given = episodes(batch(rng), 1.0)
    expected = per_step(given, lambda i, s: n_step_of_rewards(given, i, s, len(s)))
    np.testing.assert_allclose(run("gae", given), expected, rtol=1e-11)
    np.testing.assert_allclose(run("n_step", {**given, "n": np.int32(50)}), expected, rtol=1e-11)


@equation("PG-34", "PG-35")
def test_reward_to_go_sums_the_rewards_to_the_end_of_the_episode(rng):
    given = episodes(batch(rng), 1.0)
    defined = per_step(given, lambda i, s: sum(GAMMA**k * given["r_t"][u, i] for k, u in enumerate(s)))
    np.testing.assert_allclose(run("reward_to_go", given), defined, rtol=1e-11)


@equation("PG-131")
def test_lambda_return_at_one_is_the_reward_to_go_of_terminated_episodes_only(rng):
    given = episodes(batch(rng), 1.0)
    difference = np.abs(run("lambda_return", given) - run("reward_to_go", given))
    terminates = per_step(given, lambda i, s: given["terminated_t"][s[-1], i]) > 0
    assert difference[terminates].max() < 1e-12
    assert difference[~terminates & given["mask_t"]].min() > 1e-3


@equation("PG-34", "PG-65", "PG-67", "PG-131")
@pytest.mark.parametrize("name", ["reward_to_go", "n_step", "gae", "lambda_return"])
def test_nothing_crosses_the_end_of_an_episode(name, rng):
    given = episodes(batch(rng), 1.0)
    ended = given["terminated_t"] | given["truncated_t"]
    for t, i in np.argwhere(ended[:-1]):
        other = {key: np.array(x) for key, x in given.items()}
        for key in ("r_t", "v_t", "v_tp1"):
            other[key][t + 1 :, i] += 5
        np.testing.assert_array_equal(run(name, other)[: t + 1], run(name, given)[: t + 1])


@equation("PG-35")
def test_start_is_togo_times_gamma_to_the_age(rng):
    given = episodes(batch(rng), 1.0)
    age = given["age_t"]
    start = returns.discount_from_start(run("reward_to_go", given), GAMMA, age)
    defined = per_step(given, lambda i, s: sum(GAMMA ** float(age[u, i]) * given["r_t"][u, i] for u in s))
    np.testing.assert_allclose(start, defined, rtol=1e-11)


@equation("PG-11")
def test_total_return_of_a_constant_reward_has_its_closed_form(rng):
    mask = batch(rng)["mask_t"]
    steps, reward = mask.sum(0), np.full(mask.shape, 1.3)
    np.testing.assert_allclose(returns.total_return(reward, GAMMA, mask), 1.3 * (1 - GAMMA**steps) / (1 - GAMMA), rtol=1e-12)
    np.testing.assert_allclose(returns.total_return(reward, 1.0, mask), 1.3 * steps, rtol=1e-12)
    np.testing.assert_allclose(returns.total_return(reward, 0.0, mask), np.full(len(steps), 1.3), rtol=1e-12)


@equation("PG-11", "PG-34")
def test_total_return_is_the_first_reward_to_go_of_a_whole_episode(rng):
    given = episodes(batch(rng, ("....T", "..T##")), 1.0)
    np.testing.assert_allclose(run("total_return", given), run("reward_to_go", given)[0], rtol=1e-12)


@equation("PG-35")
def test_from_the_start_gamma_zero_keeps_first_steps_and_gamma_one_keeps_all(rng):
    given = batch(rng)
    psi, age = given["psi_t"], given["age_t"]
    np.testing.assert_array_equal(returns.discount_from_start(psi, 0.0, age), np.where(age == 0, psi, 0))
    np.testing.assert_array_equal(returns.discount_from_start(psi, 1.0, age), psi)


@equation("PG-11", "PG-35")
def test_whole_numbers_serve_as_discounts(rng):
    r_t, mask_t = tf.constant(rng.normal(size=[4, 2])), tf.ones([4, 2], tf.bool)
    np.testing.assert_allclose(returns.total_return(r_t, 1, mask_t), returns.total_return(r_t, 1.0, mask_t))
    np.testing.assert_allclose(returns.discount_from_start(r_t, 1, tf.ones([4, 2], tf.int32)), r_t)
    np.testing.assert_array_equal(returns.discount(1, mask_t), np.zeros([4, 2]))


@equation("PG-35")
@pytest.mark.parametrize("gamma", [0.1, tf.constant(0.1)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_discount_and_trace_take_the_type_of_what_they_go_with(gamma, dtype):
    ends, like = tf.constant([[True], [False]]), tf.zeros([2, 1], dtype)
    for vector in (returns.discount(gamma, ends, like), returns.trace(gamma, ends, ends, like)):
        assert vector.dtype == like.dtype
        digits = 1e-7 if dtype == "float32" or tf.is_tensor(gamma) else 1e-16
        np.testing.assert_allclose(vector, [[0], [0.1]], rtol=digits)
