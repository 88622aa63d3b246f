"""Policies pi_theta(a|o): a network, and a head that turns its outputs into an action distribution.

Actions are stored and scored as the policy drew them; the environment's bounds are met at its edge (`to_env`), where they cannot make
a log-probability infinite.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfpg import distributions
from tfpg.types import Distribution, Nest, Net, Policy

NEVER = -1e9
"""The logit of an action that there is not: exp(NEVER - anything a network says) is 0, and 0 times NEVER is no NaN."""


def tfd() -> Any:
    """The distributions of TensorFlow Probability, whose import costs as much as many an iteration: training does without."""
    import tensorflow_probability

    return tensorflow_probability.distributions


def made_of(
    policy: Policy, net: Net, head: Callable[[Nest, tf.Tensor], dict[str, tf.Tensor]], part: str = "", relative: bool = False
) -> Policy:
    """The policy with the network and the head that it is made of, and with `advance` and `memory` where the network is recurrent.

    Args: head: (theta, outputs of the network) -> parameters; part: the entry of theta that is the network's, if theta has more.
    """
    policy = policy._replace(net=net, head=head, part=part, relative=relative)
    if net.step is None:
        return policy
    step = net.step

    def advance(params: Nest, observation: tf.Tensor, memory: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        outputs, memory = step(params[part] if part else params, observation, memory)
        return head(params, outputs), memory

    return policy._replace(advance=advance, memory=net.memory)


def categorical(net: Net, actions: int, start: int = 0, dtype: tf.DType = tf.float32) -> Policy:
    """pi(a|o) = softmax(f_theta(o))_a   (PG-90), a in {0, .., actions - 1}; the environment is given a + start.

    Sampling is the Gumbel-max rule, argmax_a (logits_a + g_a) with g_a standard Gumbel noise. The mode takes the lowest index of a tie.
    Parameters: {'logits': [..., actions]}. Action: int32 [...].
    """

    def head(logits: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": logits}

    def parameters(params: Nest, observation: tf.Tensor) -> dict[str, tf.Tensor]:
        return head(net.apply(params, observation))

    def distribution(p: dict[str, tf.Tensor]) -> Distribution:
        logits = p["logits"]
        return Distribution(
            p,
            lambda action: distributions.categorical_log_prob(logits, action),
            lambda: distributions.categorical_entropy(logits),
            lambda other: distributions.categorical_kl(logits, other.parameters["logits"]),
            lambda: tfd().Categorical(logits=logits),
        )

    def noise(batch: Any, seed: tf.Tensor) -> tf.Tensor:
        uniform = tf.random.stateless_uniform(tf.concat([tf.cast(batch, tf.int32), [actions]], axis=0), seed, dtype=dtype)
        return -tf.math.log(-tf.math.log(tf.maximum(uniform, 1e-20)))

    def act(p: dict[str, tf.Tensor], gumbel: tf.Tensor) -> tf.Tensor:
        return tf.argmax(p["logits"] + gumbel, axis=-1, output_type=tf.int32)

    def mode(p: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.argmax(p["logits"], axis=-1, output_type=tf.int32)

    policy = Policy(net.init, parameters, distribution, noise, act, mode, lambda action: action + start)
    return made_of(policy, net, lambda params, y: head(y), relative=True)


def units(low: Sequence[float], high: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(middle, half) [A]: the environment's action is middle + half times the policy's; 0 and 1 where an action has no finite bounds."""
    bounds = np.asarray([low, high], np.float64)
    below, above = np.where(np.isfinite(bounds).all(axis=0), bounds, [[-1.0], [1.0]])
    return (below + above) / 2, (above - below) / 2


def gaussian(
    net: Net,
    low: Sequence[float],
    high: Sequence[float],
    initial_log_std: float = 0.0,
    dtype: tf.DType = tf.float32,
    log_std_floor: float | None = None,
) -> Policy:
    """pi(a|o) = N(f_theta(o), diag(sigma^2))   (PG-91), sigma = exp(log_std) a parameter that does not depend on o.

    With a floor, log sigma = floor + softplus(log_std - floor): never below it, and moved by its parameter everywhere.

    Where an action component has finite bounds, the policy's -1 and +1 are those bounds: the environment is given
    clip(middle + a (high - low) / 2, low, high). Components without bounds pass unchanged.
    Parameters: {'loc': [..., A], 'log_std': [..., A]}. Action: [..., A].

    Args: net: [..., O] -> [..., A]; low, high: the A bounds, infinite where there is none.
    """
    actions = len(low)
    middle, half = (x.astype(dtype.as_numpy_dtype) for x in units(low, high))
    lowest, highest = (np.asarray(bound, dtype.as_numpy_dtype) for bound in (low, high))
    first = initial_log_std if log_std_floor is None else log_std_floor + float(np.log(np.expm1(initial_log_std - log_std_floor)))

    def init(seed: tf.Tensor) -> Nest:
        return {"net": net.init(seed), "log_std": tf.fill([actions], tf.constant(first, dtype))}

    def head(params: Nest, loc: tf.Tensor) -> dict[str, tf.Tensor]:
        log_std = params["log_std"]
        if log_std_floor is not None:
            log_std = log_std_floor + tf.nn.softplus(log_std - log_std_floor)
        return {"loc": loc, "log_std": tf.broadcast_to(log_std, tf.shape(loc))}

    def parameters(params: Nest, observation: tf.Tensor) -> dict[str, tf.Tensor]:
        return head(params, net.apply(params["net"], observation))

    def distribution(p: dict[str, tf.Tensor]) -> Distribution:
        loc, log_std = p["loc"], p["log_std"]
        return Distribution(
            p,
            lambda action: distributions.diagonal_log_prob(loc, log_std, action),
            lambda: distributions.diagonal_entropy(log_std),
            lambda other: distributions.diagonal_kl(loc, log_std, other.parameters["loc"], other.parameters["log_std"]),
            lambda: tfd().MultivariateNormalDiag(loc, tf.exp(log_std)),
        )

    def noise(batch: Any, seed: tf.Tensor) -> tf.Tensor:
        return tf.random.stateless_normal(tf.concat([tf.cast(batch, tf.int32), [actions]], axis=0), seed, dtype=dtype)

    def act(p: dict[str, tf.Tensor], normal: tf.Tensor) -> tf.Tensor:
        return p["loc"] + tf.exp(p["log_std"]) * normal

    def to_env(action: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(middle + half * action, lowest, highest)

    return made_of(Policy(init, parameters, distribution, noise, act, lambda p: p["loc"], to_env), net, head, "net")


def multi_categorical(net: Net, sizes: Sequence[int], starts: Sequence[int] | None = None, dtype: tf.DType = tf.float32) -> Policy:
    """pi(a|o) = prod_k softmax(f_theta(o)_k)_{a_k}: K independent components, a_k in {0, .., sizes[k] - 1}.

    The environment is given a + starts. Sampling and mode are those of `categorical`, component by component.
    Parameters: {'logits': [..., K, max(sizes)]}; the rows of components with fewer values are filled up with NEVER, which has no part
    in any sum and no gradient. Action: int32 [..., K].

    Args: net: [..., O] -> [..., sum(sizes)], component after component; starts: first value of each component, 0 if not given.
    """
    count, widest = np.asarray(sizes, np.int64), int(max(sizes))
    first = np.zeros(len(count), np.int32) if starts is None else np.asarray(starts, np.int32)
    if count.min() < 1 or first.shape != count.shape:
        raise ValueError(f"sizes {list(sizes)} and starts {list(first)}: as many starts as sizes are allowed, and sizes from 1 on.")
    present = np.arange(widest) < count[:, None]
    place = np.where(present, np.cumsum(count)[:, None] - count[:, None] + np.arange(widest), 0)

    def head(outputs: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.where(present, tf.gather(outputs, place, axis=-1), tf.constant(NEVER, dtype))}

    def parameters(params: Nest, observation: tf.Tensor) -> dict[str, tf.Tensor]:
        return head(net.apply(params, observation))

    one = categorical(net, widest, 0, dtype)

    def distribution(p: dict[str, tf.Tensor]) -> Distribution:
        each = one.distribution(p)
        return Distribution(
            p,
            lambda action: tf.reduce_sum(each.log_prob(action), -1),
            lambda: tf.reduce_sum(each.entropy(), -1),
            lambda other: tf.reduce_sum(each.kl_divergence(other), -1),
            lambda: tfd().Independent(each.tfp(), 1),
        )

    def noise(batch: Any, seed: tf.Tensor) -> tf.Tensor:
        return one.noise(tf.concat([tf.cast(batch, tf.int32), [len(count)]], axis=0), seed)

    policy = Policy(net.init, parameters, distribution, noise, one.act, one.mode, lambda action: action + first)
    return made_of(policy, net, lambda params, y: head(y))


def shaped(policy: Policy, shape: Sequence[int]) -> Policy:
    """The same policy, whose actions [..., A] reach the environment as [..., *shape]."""

    def to_env(action: tf.Tensor) -> tf.Tensor:
        flat = policy.to_env(action)
        return tf.reshape(flat, tf.concat([tf.shape(flat)[:-1], tf.constant(list(shape), tf.int32)], axis=0))

    return policy._replace(to_env=to_env)
