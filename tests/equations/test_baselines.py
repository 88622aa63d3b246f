"""The value baseline: what it subtracts, and that nothing flows through it."""

import numpy as np
import pytest
import tensorflow as tf
from laws import assert_every_input_matters

from tfpg import baselines

MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0]], bool)


@pytest.fixture
def given(rng):
    return_t, v_t = rng.normal(size=(2, 3, 4))
    return {"return_t": return_t, "v_t": v_t, "mask_t": MASK}


def tensors(given, dtype=tf.float64):
    return {key: tf.constant(value, None if key == "mask_t" else dtype) for key, value in given.items()}


def defined(given):
    return [[given["return_t"][t, i] - given["v_t"][t, i] if MASK[t, i] else 0 for i in range(4)] for t in range(3)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-13), ("float32", 1e-6)])
@pytest.mark.parametrize("garbage", [0.3, np.nan, np.inf])
def test_subtracts_the_value_inside_and_is_zero_on_padding(mode, given, dtype, tolerance, garbage):
    dirty = {**given, **{key: np.where(MASK, given[key], garbage) for key in ("return_t", "v_t")}}
    result = mode(baselines.value_baseline)(**tensors(dirty, dtype))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, defined(given), rtol=tolerance, atol=tolerance)


def test_every_entry_inside_matters(given):
    skip = {(key, tuple(index)) for key in ("return_t", "v_t") for index in np.argwhere(~MASK)}
    assert_every_input_matters(baselines.value_baseline, given, skip)


def test_has_no_gradient(mode, given):
    def slopes(return_t, v_t, mask_t):
        with tf.GradientTape() as tape:
            tape.watch((return_t, v_t))
            y = tf.reduce_sum(baselines.value_baseline.python_function(return_t, v_t, mask_t) ** 2)
        return tape.gradient(y, (return_t, v_t), unconnected_gradients="zero")

    assert not np.any(mode(slopes)(**tensors(given)))


@pytest.mark.parametrize("key", ["return_t", "v_t", "mask_t"])
def test_refuses_a_column_among_vectors(given, key):
    flat = {k: x.reshape(12, 1) if k == key else x.reshape(12) for k, x in given.items()}
    with pytest.raises(ValueError, match=rf"\b{key} has shape") as error:
        baselines.value_baseline(**tensors(flat))
    assert "(12, 1)" in str(error.value)
    assert "(12,)" in str(error.value)


def test_one_step_is_a_batch_and_new_values_add_no_trace():
    counts = []
    for g, v in [(1.3, 0.4), (-0.2, 0.7)]:
        given = {"return_t": np.array([[g]]), "v_t": np.array([[v]]), "mask_t": np.array([[True]])}
        np.testing.assert_allclose(baselines.value_baseline(**tensors(given)), [[g - v]], rtol=1e-12)
        counts.append(baselines.value_baseline.traced.experimental_get_tracing_count())
    assert counts[0] == counts[1]
