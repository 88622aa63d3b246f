"""The value function V_phi(o): a network with one output."""

import tensorflow as tf

from tfpg.types import Nest, Net, Value


def state_value(net: Net) -> Value:
    """V_phi(o) = f_phi(o)_0 for a network with one output.

    Args: net: [..., O] -> [..., 1]. Returns: a `Value`, [..., O] -> [...].
    """

    def apply(params: Nest, observation: tf.Tensor) -> tf.Tensor:
        return net.apply(params, observation)[..., 0]

    return Value(net.init, apply)
