"""What an environment shows, as one vector: the leaves of a nested observation side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfpg.types import Part


def width(part: Part) -> int:
    """How many numbers of the vector come from a leaf."""
    return sum(part.sizes) if part.sizes else int(np.prod(part.shape, dtype=np.int64))


def leaf(part: Part, x: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """x [..., *part.shape] -> [..., width]: numbers as they are; of a component with n values, n zeros with a 1 at x - start.

    A value that is none of the n becomes n zeros.
    """
    x = tf.convert_to_tensor(x)
    leading = x.shape.rank - len(part.shape)
    components = len(part.sizes) or width(part)
    flat = tf.reshape(x, tf.concat([tf.shape(x)[:leading], [components]], axis=0))
    if part.sizes:
        owner = np.repeat(np.arange(components), part.sizes)
        wanted = np.concatenate([start + np.arange(n, dtype=np.int64) for n, start in zip(part.sizes, part.starts, strict=True)])
        flat = tf.gather(tf.cast(flat, tf.int64), owner, axis=-1) == wanted
    return tf.cast(flat, dtype)


def encode(parts: Sequence[Part], observation: Mapping[str, tf.Tensor], dtype: tf.DType = tf.float32) -> tf.Tensor:
    """One vector of all leaves, in the order of `parts`: what `gymnasium.spaces.flatten` gives for one observation.

    Args: observation: by the name of each part, [..., *shape] with the same leading axes. Returns: [..., D].
    """
    return tf.concat([leaf(part, observation[part.name], dtype) for part in parts], axis=-1)
