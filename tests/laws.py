"""Laws that many functions obey, as assertions."""

import numpy as np
import tensorflow as tf


def assert_every_input_matters(function, arguments, skip=()):
    """Each entry of each floating argument changes the result; those named in `skip` are excused (`name` or `(name, index)`)."""
    base = np.asarray(function(**{name: tf.constant(value) for name, value in arguments.items()}))
    for name, value in arguments.items():
        if name in skip or not np.issubdtype(np.asarray(value).dtype, np.floating):
            continue
        for index in np.ndindex(np.shape(value)):
            if (name, index) in skip:
                continue
            changed = np.array(value)
            changed[index] += 0.37
            given = {**arguments, name: changed}
            result = np.asarray(function(**{key: tf.constant(entry) for key, entry in given.items()}))
            assert np.abs(result - base).max() > 1e-9, f"{name}{list(index)} does not matter"


def finite_difference(function, x, h=1e-5):
    """Central differences of a scalar function of an array."""
    x = np.array(x, np.float64)
    slope = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += h
        down[index] -= h
        slope[index] = (float(function(up)) - float(function(down))) / (2 * h)
    return slope
