"""Networks as functions of explicit parameters: an own perceptron, one with a memory, and any Keras model through the same record."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfpg import checks, linalg
from tfpg.errors import UsageError
from tfpg.types import Factors, Nest, Net

ACTIVATIONS = {"tanh": tf.tanh, "relu": tf.nn.relu, "elu": tf.nn.elu, "swish": tf.nn.swish}
MANY = 1024  # samples from which on features are faster
WIDE = 512  # numbers into a layer from which on copying them for a product is nothing beside it
WithGradient = tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, ...]]]


def orthogonal(shape: Sequence[int], gain: float, seed: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """A [rows, columns] matrix whose rows or columns (whichever are fewer) are orthogonal with length `gain`.

    Source: Saxe et al. 2014 (arXiv:1312.6120); Q of a QR decomposition of Gaussian noise, signs made unique by diag(R) > 0.
    """
    rows, columns = shape
    noise = tf.random.stateless_normal([max(rows, columns), min(rows, columns)], seed, dtype=tf.float64)
    q, r = tf.linalg.qr(noise)
    q *= tf.sign(tf.linalg.diag_part(r))
    return tf.cast(gain * (q if rows >= columns else tf.transpose(q)), dtype)


def dense(shape: Sequence[int], gain: float, seed: tf.Tensor, dtype: tf.DType) -> dict[str, tf.Tensor]:
    """A layer as it starts: {'kernel': [in, out] orthogonal, 'bias': [out] zeros}."""
    return {"kernel": orthogonal(shape, gain, seed, dtype), "bias": tf.zeros([shape[1]], dtype)}


def linear(layer: dict[str, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """x W + b. Args: x [..., in]. Returns: [..., out]."""
    return x @ layer["kernel"] + layer["bias"]


def narrow(widths: Sequence[int]) -> bool:
    """Whether it matters how what goes into a product lies, which [M, width] of a layer does."""
    return max(widths, default=WIDE) < WIDE


@tf.custom_gradient
def affine(kernel: tf.Tensor, bias: tf.Tensor, h: tf.Tensor) -> WithGradient:
    """W^T h + b by features: [in, M] -> [out, M]. What multiplies from the left lies as it is needed, here and in the gradient."""

    def gradient(e: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.matmul(h, e, transpose_b=True), linalg.row_sums(e), kernel @ e

    return linalg.turned(kernel) @ h + bias[:, None], gradient


@tf.custom_gradient
def affine_of_samples(kernel: tf.Tensor, bias: tf.Tensor, x: tf.Tensor) -> WithGradient:
    """(x W + b)^T, where features begin: [M, in] -> [out, M], likewise."""

    def gradient(e: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return linalg.turned(e @ x), linalg.row_sums(e), tf.matmul(e, kernel, transpose_a=True, transpose_b=True)

    return tf.matmul(linalg.turned(kernel), x, transpose_b=True) + bias[:, None], gradient


def for_gradients(net: Net) -> Net:
    """The same function for whoever asks it for values and gradients alone, not for tangents, J v: many samples go by features."""
    by_features = net.by_features
    if by_features is None:
        return net
    return net._replace(apply=lambda w, x: (by_features if x.shape.rank == 2 and (x.shape[0] or 0) >= MANY else net.apply)(w, x))


def mlp(
    sizes: Sequence[int],
    activation: str = "tanh",
    last_gain: float = 1.0,
    dtype: tf.DType = tf.float32,
    first: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = tf.matmul,
) -> Net:
    """h_{l+1} = s(h_l W_l + b_l), the last layer linear; W orthogonal with gain sqrt(2) (the last: `last_gain`), b = 0.

    Args: sizes: [inputs, hidden ..., outputs]; activation: a name in ACTIVATIONS; first: x, W_1 -> x W_1, for inputs that stand for others.
    Returns: a `Net`; its parameters are a tuple of {'kernel': [in, out], 'bias': [out]}.
    """
    squash = ACTIVATIONS[activation]
    shapes = list(itertools.pairwise(sizes))

    def init(seed: tf.Tensor) -> Nest:
        seeds = tf.random.experimental.stateless_split(seed, len(shapes))
        gains = [2.0**0.5] * (len(shapes) - 1) + [last_gain]
        return tuple(dense(shape, gain, seeds[i], dtype) for i, (shape, gain) in enumerate(zip(shapes, gains, strict=True)))

    def apply(params: Nest, x: tf.Tensor) -> tf.Tensor:
        below, *above = params
        x = first(x, below["kernel"]) + below["bias"]
        for layer in above:
            x = linear(layer, squash(x))
        return x

    def by_features(params: Nest, x: tf.Tensor) -> tf.Tensor:
        below, *above = params
        h = affine_of_samples(below["kernel"], below["bias"], x)
        for layer in above:
            h = affine(layer["kernel"], layer["bias"], squash(h))
        return tf.transpose(h)

    def factors(params: Nest, x: tf.Tensor, c: tf.Tensor) -> Factors:
        below, *above = params
        inputs, bends, z = [x], [], linear(below, x)
        for layer in above:
            with tf.GradientTape() as tape:
                tape.watch(z)
                inputs.append(squash(z))
            bends.append(tape.gradient(inputs[-1], z))  # s'(z)
            z = linear(layer, inputs[-1])
        slopes, slope = list[tf.Tensor](), tf.transpose(c)[:, None]
        for layer, bend in zip(reversed(above), reversed(bends), strict=True):
            slope = bend * (slope @ tf.transpose(layer["kernel"]))
            slopes.insert(0, slope)
        return Factors(z, tuple(inputs), tuple(slopes), c)

    if first is not tf.matmul:
        return Net(init, apply)
    between = sum(n * m for n, m in shapes[1:-1])  # multiplications between hidden layers, which is where features are faster
    faster = between > sizes[0] * sizes[1] and narrow(sizes[:-1])
    return Net(init, apply, factors=factors, by_features=by_features if faster else None)


def forward(f: Factors, v: Nest) -> tf.Tensor:
    """J v: c_r . dy of each sample, [M, R], when the parameters move along v   (PG-105)."""
    (*below, last), (*inputs, h), c = v, f.inputs, f.combinations
    along = [tf.transpose(linalg.row_sums(slope * linear(layer, x))) for layer, x, slope in zip(below, inputs, f.slopes, strict=True)]
    return tf.add_n([*along, h @ (last["kernel"] @ c) + last["bias"][None] @ c])


def kept_turned(inputs: Sequence[int]) -> list[int]:
    """Rows of each (h_l 1)^T that is kept for many products, by the numbers that go into each layer: of narrow ones, all but the last."""
    below = inputs[:-1]
    return [n + 1 for n in below] if narrow(below) else []


def to_keep(f: Factors) -> Factors:
    """Factors for many products, of narrow layers with what multiplies from the left in `back`, (h_l 1)^T, as an array of its own."""
    below = f.inputs[: len(kept_turned([h.shape[-1] for h in f.inputs]))]
    return f._replace(turned=tuple(tf.concat([tf.transpose(h), tf.ones([1, h.shape[0]], h.dtype)], axis=0) for h in below))


def back(f: Factors, u: tf.Tensor) -> Nest:
    """J^T u = sum_m sum_r u_mr d(c_r . y_m)/dw   (PG-105). Args: u [M, R]. Returns: a nest like the network's parameters."""
    (*inputs, h), c = f.inputs, f.combinations

    def layer(x: tf.Tensor, slope: tf.Tensor, left: tf.Tensor | None) -> dict[str, tf.Tensor]:
        e = tf.reduce_sum(tf.transpose(u)[..., None] * slope, axis=0)
        if left is None:
            return {"kernel": tf.matmul(x, e, transpose_a=True), "bias": linalg.column_sums(e)}
        both = left @ e
        return {"kernel": both[:-1], "bias": both[-1]}

    last = {"kernel": tf.transpose(c @ linalg.few_by_many(u, h)), "bias": tf.linalg.matvec(c, linalg.column_sums(u))}
    return (*map(layer, inputs, f.slopes, f.turned or [None] * len(inputs)), last)


def gru_cell(recurrent: tf.Tensor, drive: tf.Tensor, h: tf.Tensor) -> tf.Tensor:
    """One step of a gated recurrent unit: the next memory, a mixture of what was and what is new.

        z = sigmoid(d_z + h U_z)            how much stays
        r = sigmoid(d_r + h U_r)            what the candidate is told of the past
        c = tanh(d_c + (r * h) U_c)         the candidate
        h <- z * h + (1 - z) * c

    The reset gate r acts before the product with U_c, as published; some libraries let it act on the product.

    Args: recurrent [H, 3H], U_z, U_r, U_c side by side; drive [N, 3H], what the inputs say, d = x W + b, in the same order; h [N, H].
    Returns: [N, H]. Source: Cho et al. 2014 (arXiv:1406.1078), equations 5 to 8.
    """
    width = h.shape[-1]
    gates = tf.sigmoid(drive[:, : 2 * width] + h @ recurrent[:, : 2 * width])
    stay, reset = gates[:, :width], gates[:, width:]
    candidate = tf.tanh(drive[:, 2 * width :] + (reset * h) @ recurrent[:, 2 * width :])
    return stay * h + (1 - stay) * candidate


def gru(sizes: Sequence[int], activation: str = "tanh", last_gain: float = 1.0, dtype: tf.DType = tf.float32) -> Net:
    """A network with a memory h_t: layers as in `mlp`, then one `gru_cell`, then a linear layer.

        h_t = cell(x_t W + b, h_{t-1}),     h_{t-1} = 0 where an episode begins;     y_t = h_t V + c

    Kernels start orthogonal gate by gate: those of inputs with gain sqrt(2), those of the memory with 1, the last with `last_gain`; b = 0.

    Args: sizes: [inputs, hidden ..., H, outputs]; activation: a name in ACTIVATIONS, of the layers below the cell.
    Returns: a recurrent `Net`; its parameters are {'hidden': as in `mlp`, 'cell': {'kernel': [in, 3H], 'recurrent': [H, 3H],
    'bias': [3H]}, 'last': {'kernel': [H, outputs], 'bias': [outputs]}}. Its apply unrolls the T steps, T known when it is traced.
    Raises: UsageError without a width for the memory; ValueError where apply's arguments do not fit.
    """
    if len(sizes) < 3:
        raise UsageError(f"A recurrent network has a hidden width at least, the size of its memory: sizes {list(sizes)} have none.")
    *below, width, outputs = sizes
    squash, shapes = ACTIVATIONS[activation], list(itertools.pairwise(below))

    def init(seed: tf.Tensor) -> Nest:
        seeds = tf.random.experimental.stateless_split(seed, len(shapes) + 7)
        gates = [
            [orthogonal([below[-1], width], 2.0**0.5, seeds[i], dtype), orthogonal([width, width], 1.0, seeds[i + 3], dtype)]
            for i in range(3)
        ]
        kernel, recurrent = (tf.concat(parts, axis=1) for parts in zip(*gates, strict=True))
        return {
            "hidden": tuple(dense(shape, 2.0**0.5, seeds[7 + i], dtype) for i, shape in enumerate(shapes)),
            "cell": {"kernel": kernel, "recurrent": recurrent, "bias": tf.zeros([3 * width], dtype)},
            "last": dense([width, outputs], last_gain, seeds[6], dtype),
        }

    def drive(params: Nest, x: tf.Tensor) -> tf.Tensor:
        for layer in params["hidden"]:
            x = squash(linear(layer, x))
        return linear(params["cell"], x)

    def apply(params: Nest, inputs: tuple[tf.Tensor, tf.Tensor, tf.Tensor]) -> tf.Tensor:
        x_t, first_t, memory = inputs
        checks.axes(x_t=(x_t, "T N D"), first_t=(first_t, "T N"), memory=(memory, "1 N H"))
        if memory.shape[0] not in (None, 1):
            raise ValueError(f"memory has shape {memory.shape}, but its axes are [1, N, H]: that before the first step is needed alone")
        before = tf.stop_gradient(memory[0])

        def advance(h: tf.Tensor, now: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
            driven, first = now
            return gru_cell(params["cell"]["recurrent"], driven, tf.where(first[:, None], tf.zeros_like(h), h))

        # What the inputs say needs no memory: one product for all steps, outside the loop.
        return linear(params["last"], tf.scan(advance, (drive(params, x_t), first_t), before))

    def step(params: Nest, x: tf.Tensor, memory: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        checks.axes(x=(x, "N D"), memory=(memory, "N H"))
        h = gru_cell(params["cell"]["recurrent"], drive(params, x), memory)
        return linear(params["last"], h), h

    return Net(init, apply, step, width)


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


def convolutions(shape: Sequence[int]) -> list[tuple[int, int, int, str]]:
    """(filters, kernel, stride, padding) of three convolutions for images of this size.

    From 36 pixels on, the least that leaves anything of an image, those of Mnih et al. 2015 (Nature 518:529); below, small ones that begin
    with every pixel and keep the edges.
    """
    if min(shape[:2]) >= 36:
        return [(32, 8, 4, "valid"), (64, 4, 2, "valid"), (64, 3, 1, "valid")]
    return [(16, 3, 1, "same"), (32, 3, 2, "same"), (32, 3, 2, "same")]


def keras_cnn(shape: Sequence[int], outputs: int, last_gain: float = 1.0) -> Net:
    """Three `convolutions` of an image, a layer of 256, a linear layer; relu between them; orthogonal kernels, zero biases.

    Pixels are taken as they come, on whatever scale: standardise them, or divide them by 255.

    Args: shape: [H, W] or [H, W, channels] of the image; outputs: K. Returns: a `Net` from flat images [..., H * W * channels] to [..., K].
    Raises: UsageError for another number of axes.
    """
    if len(shape) not in (2, 3):
        raise UsageError(f"An image has axes [height, width] or [height, width, channels]: shape {list(shape)} has {len(shape)}.")
    image = [*shape, 1][:3]

    def build(seed: int) -> Any:
        import keras

        def start(i: int, gain: float) -> Any:
            return keras.initializers.Orthogonal(gain, seed=seed + i)

        layers = [
            keras.layers.Conv2D(filters, kernel, stride, padding, activation="relu", kernel_initializer=start(i, 2.0**0.5))
            for i, (filters, kernel, stride, padding) in enumerate(convolutions(image))
        ]
        wide = keras.layers.Dense(256, "relu", kernel_initializer=start(3, 2.0**0.5))
        last = keras.layers.Dense(outputs, kernel_initializer=start(4, last_gain))
        flat = keras.Input([math.prod(image)])
        return keras.Sequential([flat, keras.layers.Reshape(image), *layers, keras.layers.Flatten(), wide, last])

    return keras_net(build)
