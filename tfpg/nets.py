"""Networks as functions of explicit parameters: an own multilayer perceptron, and any Keras model through the same record."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpg.types import Nest, Net

ACTIVATIONS = {"tanh": tf.tanh, "relu": tf.nn.relu, "elu": tf.nn.elu, "swish": tf.nn.swish}


def orthogonal(shape: Sequence[int], gain: float, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """A [rows, columns] matrix whose rows or columns (whichever are fewer) are orthogonal with length `gain`.

    Source: Saxe et al. 2014 (arXiv:1312.6120); Q of a QR decomposition of Gaussian noise, signs made unique by diag(R) > 0.
    """
    rows, columns = shape
    noise = tf.random.stateless_normal([max(rows, columns), min(rows, columns)], seed, dtype=tf.float64)
    q, r = tf.linalg.qr(noise)
    q *= tf.sign(tf.linalg.diag_part(r))
    return tf.cast(gain * (q if rows >= columns else tf.transpose(q)), dtype)


def mlp(sizes: Sequence[int], activation: str = "tanh", last_gain: float = 1.0, dtype: tf.DType = tf.float32) -> Net:
    """h_{l+1} = s(h_l W_l + b_l), the last layer linear; W orthogonal with gain sqrt(2) (the last: `last_gain`), b = 0.

    Args: sizes: [inputs, hidden ..., outputs]; activation: a name in ACTIVATIONS. Returns: a `Net`; its parameters are a tuple of
    {'kernel': [in, out], 'bias': [out]}.
    """
    squash = ACTIVATIONS[activation]
    shapes = list(itertools.pairwise(sizes))

    def init(seed: tf.Tensor) -> Nest:
        seeds = tf.random.experimental.stateless_split(seed, len(shapes))
        gains = [2.0**0.5] * (len(shapes) - 1) + [last_gain]
        return tuple(
            {"kernel": orthogonal(shape, gain, seeds[i], dtype), "bias": tf.zeros([shape[1]], dtype)}
            for i, (shape, gain) in enumerate(zip(shapes, gains, strict=True))
        )

    def apply(params: Nest, x: tf.Tensor) -> tf.Tensor:
        *hidden, last = params
        for layer in hidden:
            x = squash(x @ layer["kernel"] + layer["bias"])
        return x @ last["kernel"] + last["bias"]

    return Net(init, apply)


def keras_net(build: Callable[[int], Any]) -> Net:
    """Any Keras 3 model as a `Net`: its parameters are its trainable variables, its apply is `stateless_call`.

    Non-trainable variables keep the values they have when the model is built, and what a call would do to them is dropped: layers that
    learn by being called (batch normalisation) stay as they are.

    Args: build: a whole number (for the seeds of its initialisers) -> a built keras.Model from [B, D] to [B, K].
    """
    structure = build(0)
    frozen = [tf.convert_to_tensor(variable.value) for variable in structure.non_trainable_variables]

    def init(seed: tf.Tensor) -> Nest:
        number = int(tf.random.stateless_uniform([], seed, maxval=2**31 - 1, dtype=tf.int32))
        return tuple(tf.convert_to_tensor(variable.value) for variable in build(number).trainable_variables)

    def apply(params: Nest, x: tf.Tensor) -> tf.Tensor:
        flat = tf.reshape(x, [-1, x.shape[-1]])
        y, _ = structure.stateless_call(list(params), frozen, flat, training=False)
        return tf.reshape(y, tf.concat([tf.shape(x)[:-1], tf.shape(y)[1:]], axis=0))

    return Net(init, apply)


def keras_mlp(sizes: Sequence[int], activation: str = "tanh", last_gain: float = 1.0) -> Net:
    """The same function as `mlp`, as a Keras model: orthogonal kernels, zero biases, the last layer linear."""

    def build(seed: int) -> Any:
        import keras

        inputs, *hidden, outputs = sizes
        layers = [
            keras.layers.Dense(width, activation, kernel_initializer=keras.initializers.Orthogonal(2.0**0.5, seed=seed + i))
            for i, width in enumerate(hidden)
        ]
        last = keras.layers.Dense(outputs, kernel_initializer=keras.initializers.Orthogonal(last_gain, seed=seed + len(hidden)))
        return keras.Sequential([keras.Input([inputs]), *layers, last])

    return keras_net(build)
