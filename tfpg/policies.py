"""Policies pi_theta(a|o): a network, and a head that turns its outputs into an action distribution.

Actions are stored and scored as the policy drew them; the environment's bounds are met at its edge (`to_env`), where they cannot make
a log-probability infinite.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tfpg.types import Nest, Net, Policy

tfd = tfp.distributions


def categorical(net: Net, actions: int, start: int = 0, dtype: tf.DType = tf.float32) -> Policy:
    """pi(a|o) = softmax(f_theta(o))_a   (PG-90), a in {0, .., actions - 1}; the environment is given a + start.

    Sampling is the Gumbel-max rule, argmax_a (logits_a + g_a) with g_a standard Gumbel noise. The mode takes the lowest index of a tie.
    Parameters: {'logits': [..., actions]}. Action: int32 [...].
    """

    def parameters(params: Nest, observation: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": net.apply(params, observation)}

    def distribution(p: dict[str, tf.Tensor]) -> Any:
        return tfd.Categorical(logits=p["logits"])

    def noise(batch: Any, seed: tf.Tensor) -> tf.Tensor:
        uniform = tf.random.stateless_uniform(tf.concat([tf.cast(batch, tf.int32), [actions]], axis=0), seed, dtype=dtype)
        return -tf.math.log(-tf.math.log(tf.maximum(uniform, 1e-20)))

    def act(p: dict[str, tf.Tensor], gumbel: tf.Tensor) -> tf.Tensor:
        return tf.argmax(p["logits"] + gumbel, axis=-1, output_type=tf.int32)

    def mode(p: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.argmax(p["logits"], axis=-1, output_type=tf.int32)

    return Policy(net.init, parameters, distribution, noise, act, mode, lambda action: action + start)


def gaussian(net: Net, low: Sequence[float], high: Sequence[float], initial_log_std: float = 0.0, dtype: tf.DType = tf.float32) -> Policy:
    """pi(a|o) = N(f_theta(o), diag(sigma^2))   (PG-91), sigma = exp(log_std) a parameter that does not depend on o.

    Where an action component has finite bounds, the policy's -1 and +1 are those bounds: the environment is given
    clip(middle + a (high - low) / 2, low, high). Components without bounds pass unchanged.
    Parameters: {'loc': [..., A], 'log_std': [..., A]}. Action: [..., A].

    Args: net: [..., O] -> [..., A]; low, high: the A bounds, infinite where there is none.
    """
    bounds = np.asarray([low, high], np.float64)
    actions = len(low)
    bounded = np.isfinite(bounds).all(axis=0)
    below, above = np.where(bounded, bounds, [[-1.0], [1.0]])
    middle, half = tf.constant((below + above) / 2, dtype), tf.constant((above - below) / 2, dtype)
    lowest, highest = (tf.constant(bound, dtype) for bound in bounds)

    def init(seed: tf.Tensor) -> Nest:
        return {"net": net.init(seed), "log_std": tf.fill([actions], tf.constant(initial_log_std, dtype))}

    def parameters(params: Nest, observation: tf.Tensor) -> dict[str, tf.Tensor]:
        loc = net.apply(params["net"], observation)
        return {"loc": loc, "log_std": tf.broadcast_to(params["log_std"], tf.shape(loc))}

    def distribution(p: dict[str, tf.Tensor]) -> Any:
        return tfd.MultivariateNormalDiag(p["loc"], tf.exp(p["log_std"]))

    def noise(batch: Any, seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_normal(tf.concat([tf.cast(batch, tf.int32), [actions]], axis=0), seed, dtype=dtype)

    def act(p: dict[str, tf.Tensor], normal: tf.Tensor) -> tf.Tensor:
        return p["loc"] + tf.exp(p["log_std"]) * normal

    def to_env(action: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(middle + half * action, lowest, highest)

    return Policy(init, parameters, distribution, noise, act, lambda p: p["loc"], to_env)
