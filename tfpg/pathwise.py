"""Gradients through a model: the return of a simulated path as a differentiable function of the policy's parameters."""

from collections.abc import Callable

import tensorflow as tf

from tfpg import returns
from tfpg.types import Nest, Net, Policy

Act = Callable[[Nest, tf.Tensor, tf.Tensor], tf.Tensor]
"""theta, state [N, D], noise [N, ...] -> action [N, A]."""


def deterministic(net: Net) -> Act:
    """a = pi_theta(s)   (PG-94): the noise is ignored."""
    return lambda params, state, noise: net.apply(params, state)


def reparameterised(policy: Policy) -> Act:
    """a = act(parameters of pi_theta(.|s), noise)   (PG-121): a random action that theta moves smoothly, where the policy has one."""
    return lambda params, state, noise: policy.act(policy.parameters(params, state), noise)


def pathwise_return(
    act: Act,
    model: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    reward: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    params: Nest,
    start: tf.Tensor,
    noise_t: tf.Tensor,
    gamma: float,
) -> tf.Tensor:
    """sum_t gamma^{t-1} r(s_t, a_t),  a_t = act(theta, s_t, z_t),  s_{t+1} = f(s_t, a_t)   (PG-121).

    Differentiable through policy, model and reward: with the exact model its gradient is grad J, at far less variance than a score's.
    Args: act; model f: (state [N, D], action) -> [N, D]; reward: the same -> [N]; params theta; start [N, D]; noise_t [T, N, ...] of the
    law that `act` expects (zeros [T, N] for a deterministic policy), whose first axis is the horizon; gamma. Returns: [N].
    """

    def step(now: tuple[tf.Tensor, tf.Tensor], noise: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        action = act(params, now[0], noise)
        return model(now[0], action), reward(now[0], action)

    _, r_t = tf.scan(step, noise_t, (start, tf.zeros_like(start[:, 0])))
    return returns.total_return(r_t, gamma, tf.ones_like(r_t, tf.bool))
