"""tfpg/LQR-v0: the one-dimensional regulator of `tfpg.lqr`, whose optimum is known.

s' = s + a, r = -(s^2 + a^2), s_1 ~ N(0, 1), 20 steps without discount. It never terminates; the clock truncates it.
"""

import numpy as np
import tensorflow as tf

from tfpg.lqr import LQR
from tfpg.types import Environment, Spaces

PROCESS = LQR(horizon=20, gamma=1.0, start_variance=1.0)


def optimum(process: LQR = PROCESS) -> float:
    """J* = -p_1 Var[s_1], the greatest expected return of all policies, those that know the time included   (PG-121).

    p_t = 1 - k*_t and k*_t = -gamma p_{t+1} / (1 + gamma p_{t+1}), p_{T+1} = 0. Without discount p_1 = F_{2T} / F_{2T-1}, a ratio of
    Fibonacci numbers; at T = 20 that is the golden ratio to the last bit of a double.
    """
    return -process.start_variance * float(1 - process.optimal_gains()[0])


def best_gain(process: LQR = PROCESS) -> tuple[float, float]:
    """k and J of the best policy a = k s whose gain does not change with time.

    With x = 1 + k: J / Var[s_1] = -(1 + (x - 1)^2) sum_{t=0}^{T-1} (gamma x^2)^t, a polynomial; k is at the root of its derivative in
    [0, 1] where it is greatest. Its J is at most `optimum`.
    """
    squares = np.zeros(2 * process.horizon - 1)
    squares[::2] = process.gamma ** np.arange(process.horizon)
    cost = np.polynomial.Polynomial([2.0, -2.0, 1.0]) * np.polynomial.Polynomial(squares)
    roots = cost.deriv().roots()
    x = roots[np.abs(roots.imag) < 1e-9].real
    k = float(x[np.argmin(cost(x))] - 1)
    return k, float(process.objective([k, 0.0]))


def make(dtype: tf.DType = tf.float32, process: LQR = PROCESS) -> Environment:
    """State and observation: [N, 1] s ~ N(0, process.start_variance) at reset; action [N, 1]: a, any real number."""

    def reset(n: int, seed: tf.Tensor) -> tf.Tensor:
        return process.start_variance**0.5 * tf.random.stateless_normal([n, 1], seed, dtype=dtype)

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        reward = -(state[:, 0] ** 2 + action[:, 0] ** 2)
        return state + action, reward, tf.zeros_like(reward, tf.bool)

    spaces = Spaces((1,), action_low=(-np.inf,), action_high=(np.inf,))
    return Environment("tfpg/LQR-v0", spaces, process.horizon, reset, lambda state: state, step)
