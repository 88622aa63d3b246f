"""Critics as functions: V_phi(o), and Q_phi(o, a) for actions that can be counted and for real ones."""

from typing import Any

import tensorflow as tf

from tfpg.types import Nest, Net, Value


def state_value(net: Net) -> Value:
    """V_phi(o) = f_phi(o)_0 for a network with one output; the action is not read.

    Args: net: [..., O] -> [..., 1]. Returns: a `Value`, [..., O] -> [...].
    """

    def apply(params: Nest, observation: tf.Tensor, action: Any = None) -> tf.Tensor:
        return net.apply(params, observation)[..., 0]

    return Value(net.init, apply)


def action_values(net: Net) -> Value:
    """Q_phi(o, a) = f_phi(o)_a for a network with one output for each action.

    Args: net: [..., O] -> [..., A]. Returns: a `Value`, ([..., O], integers [...]) -> [...]; its `every` is f_phi.
    """

    def apply(params: Nest, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        return tf.gather(net.apply(params, observation), action, axis=-1, batch_dims=action.shape.rank)

    return Value(net.init, apply, net.apply)


def real_action_value(net: Net) -> Value:
    """Q_phi(o, a) = f_phi(o, a)_0 for real actions. Args: net: [..., O + A] -> [..., 1]. Returns: a `Value`."""

    def apply(params: Nest, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        return net.apply(params, tf.concat([observation, action], axis=-1))[..., 0]

    return Value(net.init, apply)
