"""Critics: what V and Q are fitted to, the losses that fit them, and how well they fit.

A target is data: no gradient flows into it, or the loss would have another minimiser as soon as the dynamics or the policy are random.
discount_t = gamma (1 - terminated_t) from `returns.discount`: after a truncation the value of the next state still counts. n-step and
lambda-return targets are `returns.n_step` + V and `returns.lambda_return`.
"""

import numpy as np
import tensorflow as tf

from tfpg import checks, linalg, returns, surrogates
from tfpg.masks import inside


@checks.component
def monte_carlo_target(r_t: tf.Tensor, discount_t: tf.Tensor, lambda_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """target_t = G_t   (PG-59, PG-131), for whole episodes: one that was cut short has no Monte-Carlo target without bias.

    Args: as for `returns.reward_to_go`. Returns: [T, N], in units of reward. Raises: ValueError if the shapes differ.
    """
    return tf.stop_gradient(returns.reward_to_go(r_t, discount_t, lambda_t, mask_t))


@checks.component
def td_target(r_t: tf.Tensor, discount_t: tf.Tensor, v_tp1: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """target_t = r_t + discount_t V(s_{t+1})   (PG-131); also SARSA's, r_t + discount_t Q(s_{t+1}, a_{t+1}), given that as v_tp1   (PG-60).

    Its fixed point is V^pi (Q^pi). Zero on padding.
    Args: r_t, discount_t, v_tp1 [T, N]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(r_t=r_t, discount_t=discount_t, v_tp1=v_tp1, mask_t=mask_t)
    r_t, discount_t, v_tp1 = inside(mask_t, (r_t, discount_t, v_tp1))
    return tf.stop_gradient(r_t + discount_t * v_tp1)


@checks.component
def sarsa_target(r_t: tf.Tensor, discount_t: tf.Tensor, q_tp1: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """target_t = r_t + discount_t Q(s_{t+1}, a_{t+1}), a_{t+1} ~ pi   (PG-60): its fixed point is Q^pi.

    Args: r_t, discount_t, q_tp1 [T, N]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(r_t=r_t, discount_t=discount_t, q_tp1=q_tp1, mask_t=mask_t)
    return td_target(r_t, discount_t, q_tp1, mask_t)


@checks.component
def expected_sarsa_target(r_t: tf.Tensor, discount_t: tf.Tensor, q_tp1: tf.Tensor, pi_tp1: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """target_t = r_t + discount_t sum_a pi(a|s_{t+1}) Q(s_{t+1}, a)   (PG-60): SARSA without the noise of a_{t+1}.

    Args: r_t, discount_t [T, N]; q_tp1, pi_tp1 [T, N, A]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if shapes do not fit.
    """
    checks.axes(r_t=(r_t, "T N"), q_tp1=(q_tp1, "T N A"), pi_tp1=(pi_tp1, "T N A"))
    return td_target(r_t, discount_t, tf.reduce_sum(q_tp1 * pi_tp1, axis=-1), mask_t)


@checks.component
def q_learning_target(r_t: tf.Tensor, discount_t: tf.Tensor, q_tp1: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """target_t = r_t + discount_t max_a Q(s_{t+1}, a)   (PG-61; PG-128 with the Q of a target network: DQN).

    Its fixed point is Q*, not Q^pi: as an actor's weight it is biased.
    Args: r_t, discount_t [T, N]; q_tp1 [T, N, A]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(r_t=(r_t, "T N"), q_tp1=(q_tp1, "T N A"))
    return td_target(r_t, discount_t, tf.reduce_max(q_tp1, axis=-1), mask_t)


@checks.component
def q_loss(q_t: tf.Tensor, target_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """sum_t w_t (sg(target_t) - Q(s_t, a_t))^2   (PG-58, and with each target PG-59, PG-60, PG-61).

    Args: q_t, target_t, w_t [...] of one shape; w_t = 0 on padding. Returns: []. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(q_t=q_t, target_t=target_t, w_t=w_t)
    return 2 * value_loss(q_t, target_t, w_t)


@checks.component
def compatible_critic(weight: tf.Tensor, score: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """argmin_w sum_k weight_k (q_k - w . g_k)^2, the shortest w   (PG-57): then F w = grad J, and w . g may stand for Q in the gradient.

    Adding any v(s) to q changes nothing, since scores have mean zero in every state. Fitted to other features, the least-squares critic
    gives another gradient.
    Args: weight [K] = d(s) pi(a|s), the measure of grad J and F; score [K, P]; q [K]. Returns: [P]. Raises: ValueError likewise.
    Reference: Sutton, McAllester, Singh and Mansour 1999, theorem 2.
    """
    checks.axes(weight=(weight, "K"), score=(score, "K P"), q=(q, "K"))
    fisher = tf.einsum("k,kp,kq->pq", weight, score, score)
    return linalg.shortest_solution(fisher, tf.einsum("k,kp,k->p", weight, score, q))


@checks.component
def value_loss(v_t: tf.Tensor, target_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """1/2 sum_t w_t (sg(target_t) - V(o_t))^2   (PG-131). No gradient flows into the target.

    Args: v_t, target_t, w_t [...] of one shape; w_t = 0 on padding. Returns: [].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(v_t=v_t, target_t=target_t, w_t=w_t)
    target_t, v_t = inside(w_t != 0, (target_t, v_t))
    return 0.5 * surrogates.weighted_sum(w_t, (tf.stop_gradient(target_t) - v_t) ** 2)


def explained(total: tf.Tensor, left: tf.Tensor, square: tf.Tensor) -> tf.Tensor:
    """1 - left / total, of the variance of targets and what of it is left; 0 where total is round-off of their mean square."""
    varies = total > 16 * float(np.finfo(total.dtype.as_numpy_dtype).eps) * square
    return tf.where(varies, 1 - left / tf.where(varies, total, tf.ones_like(total)), tf.zeros_like(total))


@checks.component
def explained_variance(v_t: tf.Tensor, target_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """1 - Var(target - V) / Var(target), weighted: 1 is a perfect critic, 0 one no better than a constant.

    0 when the targets vary by no more than their round-off. Args: v_t, target_t, w_t [...]; w_t sums to 1. Returns: [].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(v_t=v_t, target_t=target_t, w_t=w_t)
    target_t, v_t = inside(w_t != 0, (target_t, v_t))

    def variance(x: tf.Tensor) -> tf.Tensor:
        mean = surrogates.weighted_sum(w_t, x)
        return surrogates.weighted_sum(w_t, (x - mean) ** 2)

    return explained(variance(target_t), variance(target_t - v_t), surrogates.weighted_sum(w_t, target_t**2))
