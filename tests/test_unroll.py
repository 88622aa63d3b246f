"""Programs, operation by operation in NumPy, do what TensorFlow does with them."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import acting, unroll

X, Y = np.random.default_rng(2).normal(size=(2, 3, 4)).astype(np.float32)
CASES = {
    "AddV2": (lambda x, y: x + y, X, Y),
    "ArgMax": (lambda x: tf.argmax(x, -1, output_type=tf.int32), X),
    "BroadcastTo": (lambda x: tf.broadcast_to(x, [2, 3, 4]), X),
    "Exp": (tf.exp, X),
    "Identity": (tf.identity, X),
    "MatMul": (tf.matmul, X, Y.T.copy()),
    "Maximum": (tf.maximum, X, Y),
    "Minimum": (tf.minimum, X, Y),
    "Mul": (lambda x, y: x * y, X, Y),
    "Relu": (tf.nn.relu, X),
    "Reshape": (lambda x: tf.reshape(x, [2, -1]), X),
    "Rsqrt": (tf.math.rsqrt, np.abs(X)),
    "Sub": (lambda x, y: x - y, X, Y),
    "Tanh": (tf.tanh, X),
}


@pytest.mark.parametrize("name", CASES)
def test_each_operation_is_tensorflow_s(name):
    function, *arrays = CASES[name]
    program = acting.traced(function, *arrays)
    assert name in [operation.type for operation in program.graph.get_operations()]
    bind = unroll.unrolled(program, 0)
    (found,), expected = bind([])(*arrays), function(*map(tf.constant, arrays)).numpy()
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_operation_that_is_known_is_tested():
    assert set(CASES) == {*unroll.OPERATIONS, "ArgMax"}


@pytest.mark.parametrize(
    "function",
    [
        tf.nn.elu,
        lambda x: tf.matmul(x, x, transpose_b=True),
        lambda x: tf.split(x, 2, axis=1),
        lambda x: tf.while_loop(lambda k, _: k < 3, lambda k, x: (k + 1, x + 1), (0, x))[1],
    ],
    ids=["unknown", "transposed", "several outputs", "a loop"],
)
def test_others_are_left_to_tensorflow(function):
    assert unroll.unrolled(acting.traced(function, X), 0) is None


def test_what_depends_on_the_first_arguments_alone_is_computed_once_and_the_rest_each_time():
    shift = tf.constant([1.0, 2.0, 3.0, 4.0])
    program = acting.traced(lambda w, x: (tf.exp(w) * x + shift, x, w + shift), X[0], Y)
    calls, known = [], unroll.OPERATIONS["Exp"]
    with pytest.MonkeyPatch.context() as changed:
        changed.setitem(unroll.OPERATIONS, "Exp", lambda x: (calls.append(1), known(x))[1])
        bind = unroll.unrolled(program, 1)
    for w in (X[0], X[1]):
        call = bind([tf.constant(w)])
        for x in (Y, -Y):
            found = call(x)
            for mine, expected in zip(found, (np.exp(w) * x + shift.numpy(), x, w + shift.numpy()), strict=True):
                np.testing.assert_allclose(mine, expected, rtol=1e-6)
            assert not any(np.shares_memory(mine, given) for mine in found for given in (x, w))
    assert len(calls) == 2


@pytest.mark.parametrize("view", [lambda x: tf.reshape(x, [4, 3]), lambda x: tf.broadcast_to(x, [2, 3, 4])], ids=["reshaped", "broadcast"])
def test_what_comes_out_is_no_view_of_what_went_in(view):
    (found,) = unroll.unrolled(acting.traced(view, X), 0)([])(X)
    assert not np.shares_memory(found, X)
    assert found.flags.writeable


def test_numbers_that_overflow_say_nothing(recwarn):
    bind = unroll.unrolled(acting.traced(lambda w, x: tf.exp(w) * tf.exp(x), X[0], X[0]), 1)
    (found,) = bind([tf.constant(X[0] + 1000)])(X[0] + 1000)
    assert np.isinf(found).all()
    assert not recwarn.list
