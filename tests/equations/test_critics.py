"""The loss of a state-value critic, whose gradient is the point, and the measure of its fit."""

import numpy as np
import pytest
import tensorflow as tf
from laws import assert_every_input_matters, finite_difference

from tfpg import critics

equation = pytest.mark.equation
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0]], bool)
KEYS = ("v_t", "target_t", "w_t")


def value_loss(v_t, target_t, w_t):
    return sum(w_t[i] * (target_t[i] - v_t[i]) ** 2 for i in np.ndindex(w_t.shape) if w_t[i]) / 2


def explained_variance(v_t, target_t, w_t):
    """By pairs: Var(x) = 1/2 sum_ij w_i w_j (x_i - x_j)^2 when w sums to 1."""
    inside = [i for i in np.ndindex(w_t.shape) if w_t[i]]

    def variance(x):
        return sum(w_t[i] * w_t[j] * (x[i] - x[j]) ** 2 for i in inside for j in inside) / 2

    return 1 - variance({i: target_t[i] - v_t[i] for i in inside}) / variance(target_t)


DEFINITIONS = {"value_loss": value_loss, "explained_variance": explained_variance}
every_function = pytest.mark.parametrize("name", DEFINITIONS)


@pytest.fixture
def given(rng):
    """Unequal weights that sum to 1, targets far from centred, a critic that is fair."""
    w_t = np.where(MASK, rng.uniform(0.5, 1.5, (3, 4)), 0)
    target_t = 2 + rng.normal(size=(3, 4))
    return {"v_t": 0.6 * target_t + 0.3 * rng.normal(size=(3, 4)) - 0.7, "target_t": target_t, "w_t": w_t / w_t.sum()}


def tensors(given, dtype=tf.float64):
    return {key: tf.constant(value, dtype) for key, value in given.items()}


@equation("PG-131")
@every_function
@pytest.mark.parametrize("garbage", [0.3, np.nan, np.inf])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_equals_its_definition_whatever_the_padding_holds(mode, name, garbage, dtype, tolerance, given):
    dirty = {**given, **{key: np.where(MASK, given[key], garbage) for key in ("v_t", "target_t")}}
    result = mode(getattr(critics, name))(**tensors(dirty, dtype))
    assert result.shape == ()
    assert result.dtype == dtype
    np.testing.assert_allclose(result, DEFINITIONS[name](**given), rtol=tolerance)


@equation("PG-131")
@every_function
def test_every_entry_inside_matters(name, given):
    skip = {(key, tuple(index)) for key in KEYS for index in np.argwhere(~MASK)}
    assert_every_input_matters(getattr(critics, name), given, skip)


@equation("PG-131")
@pytest.mark.parametrize("garbage", [0.3, np.nan, np.inf])
def test_loss_pulls_the_value_towards_a_target_that_stands_still(mode, given, garbage):
    dirty = {**given, **{key: np.where(MASK, given[key], garbage) for key in ("v_t", "target_t")}}

    def slopes(v_t, target_t, w_t):
        with tf.GradientTape() as tape:
            tape.watch((v_t, target_t))
            y = critics.value_loss.python_function(v_t, target_t, w_t)
        return tape.gradient(y, (v_t, target_t), unconnected_gradients="zero")

    in_v, in_target = mode(slopes)(**tensors(dirty))
    np.testing.assert_allclose(in_v, finite_difference(lambda v: value_loss(**{**given, "v_t": v}), given["v_t"]), rtol=1e-7, atol=1e-9)
    assert not np.any(in_target)


@equation("PG-131")
def test_loss_sends_nothing_into_a_target_made_of_the_same_parameters(mode, given):
    """The semi-gradient of temporal differences: target = r + 0.9 V', V' of the same phi."""
    features, reward, w_t = given["target_t"], given["v_t"], given["w_t"]

    def slope(phi):
        with tf.GradientTape() as tape:
            tape.watch(phi)
            y = critics.value_loss(phi * features, reward + 0.9 * phi * features[::-1], tf.constant(w_t))
        return tape.gradient(y, phi)

    error = 0.4 * features - (reward + 0.9 * 0.4 * features[::-1])
    np.testing.assert_allclose(mode(slope)(tf.constant(0.4, tf.float64)), np.sum(w_t * error * features), rtol=1e-11)


@equation("PG-131")
def test_a_perfect_critic_and_a_shifted_one_explain_everything_a_constant_nothing(mode, given):
    function = mode(critics.explained_variance)
    for v_t, expected in [(given["target_t"], 1), (given["target_t"] - 3.1, 1), (np.full((3, 4), 0.7), 0), (-given["target_t"], -3)]:
        np.testing.assert_allclose(function(**tensors({**given, "v_t": v_t})), expected, atol=1e-12)


@equation("PG-131")
def test_nothing_is_explained_where_targets_do_not_vary(mode, given):
    assert mode(critics.explained_variance)(**tensors({**given, "target_t": np.zeros((3, 4))})) == 0.0


@equation("PG-131")
def test_one_sample_is_a_batch():
    v_t, target_t, w_t = np.array([0.4]), np.array([1.3]), np.array([1.0])
    np.testing.assert_allclose(critics.value_loss(v_t, target_t, w_t), 0.5 * 0.9**2, rtol=1e-12)
    assert critics.explained_variance(v_t, target_t, w_t) == 0.0


@equation("PG-131")
@every_function
@pytest.mark.parametrize("key", KEYS)
def test_refuses_a_column_among_vectors(name, key, given):
    flat = {k: x.reshape(12, 1) if k == key else x.reshape(12) for k, x in given.items()}
    column, vector = r"\(12, 1\)", r"\(12,\)"
    first, second = (column, vector) if key == "v_t" else (vector, column)
    other = "target_t" if key == "v_t" else key
    with pytest.raises(ValueError, match=rf"v_t has shape {first} but {other} has shape {second}"):
        getattr(critics, name)(**tensors(flat))


@equation("PG-131")
@every_function
def test_new_values_add_no_trace(name, given):
    function = getattr(critics, name)
    counts = []
    for shift in (0.1, 0.2):
        function(**tensors({**given, "v_t": given["v_t"] + shift}))
        counts.append(function.traced.experimental_get_tracing_count())
    assert counts[0] == counts[1]


@equation("PG-131")
@pytest.mark.parametrize("n", [5, 10, 20, 22, 24, 27])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_that_are_equal_but_for_round_off_explain_nothing(n, dtype):
    target_t, w_t = tf.fill([n], tf.constant(0.1, dtype)), tf.fill([n], tf.constant(1 / n, dtype))
    assert float(critics.explained_variance(tf.linspace(tf.constant(0.0, dtype), 1, n), target_t, w_t)) == 0


@equation("PG-131")
@every_function
def test_a_weight_may_be_negative(name, given):
    """As those of importance-weighted estimates are."""
    w_t = given["w_t"].copy()
    w_t[1, 1] *= -0.5
    signed = {**given, "w_t": w_t / w_t.sum()}
    np.testing.assert_allclose(getattr(critics, name)(**tensors(signed)), DEFINITIONS[name](**signed), rtol=1e-11)


@equation("PG-131")
@pytest.mark.parametrize("scale", [1e-9, -1e-9, 1e9, -1e9])
def test_fit_has_no_unit(scale, given):
    scaled = {**given, "v_t": scale * given["v_t"], "target_t": scale * given["target_t"]}
    np.testing.assert_allclose(critics.explained_variance(**tensors(scaled)), explained_variance(**given), rtol=1e-9)


@equation("PG-131")
@pytest.mark.parametrize("target", [-3.7, 1e9 * (1 + np.array([[0, 4, 0, 4], [4, 0, 0, 4], [0, 0, 4, 4]]) * 2.0**-52)])
def test_targets_equal_up_to_round_off_have_nothing_to_explain(target, given):
    constant = {**given, "target_t": np.broadcast_to(target, MASK.shape)}
    assert float(critics.explained_variance(**tensors(constant))) == 0.0
