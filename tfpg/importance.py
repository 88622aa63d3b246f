"""Importance sampling: data of the behaviour policy (old) for the gradient of another (new).

rho_t = pi_new(a_t|s_t) / pi_old(a_t|s_t), W_t = prod_{k<=t} rho_k within the episode; products are sums of log-ratios, exponentiated last.
`full`, `full_togo`, `causal`, `drop_future`, `marginal` and `first_order` are six ways to weigh the same scores: the gradient is
sum_t grad log pi_new(a_t|s_t) psi_t with what they return as psi_t (`estimators.policy_gradient`, `objectives.pseudo`). No gradient flows
through them. The first three are exact; dropping the future's ratios, or the state's as well, trades variance for a bias that vanishes as
the policies meet. None of it holds where pi_old = 0 and pi_new is not: see `uncovered`.
"""

from typing import NamedTuple

import tensorflow as tf

from tfpg import checks, returns
from tfpg.masks import inside


class Estimate(NamedTuple):
    """A weighted mean with what tells whether to trust it; mean_weight is near 1 where the samples cover the target."""

    mean: tf.Tensor
    effective_sample_size: tf.Tensor
    mean_weight: tf.Tensor
    max_weight: tf.Tensor


@checks.component
def effective_sample_size(log_weight: tf.Tensor) -> tf.Tensor:
    """(sum w)^2 / sum w^2 = 1 / sum (w / sum w)^2   (PG-71): N for equal weights, 1 when one weight is all.

    Args: log_weight [N], any offset. Returns: [].
    """
    checks.axes(log_weight=(log_weight, "N"))
    return 1 / tf.reduce_sum(tf.nn.softmax(log_weight) ** 2)


@checks.component
def estimate(log_p: tf.Tensor, log_q: tf.Tensor, f: tf.Tensor) -> Estimate:
    """E_p[f] = E_q[(p/q) f], estimated by 1/N sum_i w_i f_i, w = p/q   (PG-70). Needs q > 0 wherever p f is not 0.

    Args: log_p, log_q, f [N], of samples from q. Returns: Estimate of []. Raises: ValueError if the shapes differ.
    """
    checks.axes(log_p=(log_p, "N"), log_q=(log_q, "N"), f=(f, "N"))
    log_weight = log_p - log_q
    weight = tf.exp(log_weight)
    return Estimate(tf.reduce_mean(weight * f), effective_sample_size(log_weight), tf.reduce_mean(weight), tf.reduce_max(weight))


@checks.component
def self_normalised(log_weight: tf.Tensor, f: tf.Tensor) -> tf.Tensor:
    """sum_i w_i f_i / sum_i w_i   (PG-71): a bias of order 1/N for less variance; an offset of all log-weights drops out.

    Args: log_weight, f [N]. Returns: []. Raises: ValueError if the shapes differ.
    """
    checks.axes(log_weight=(log_weight, "N"), f=(f, "N"))
    return tf.tensordot(tf.nn.softmax(log_weight), f, 1)


@checks.component
def uncovered(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """sum_x p(x) 1[q(x) = 0]   (PG-70): the mass of the target that samples from q never show. Args: p, q [..., K]. Returns: [...]."""
    checks.same_shape(p=p, q=q)
    return tf.reduce_sum(tf.where(q > 0, tf.zeros_like(p), p), axis=-1)


@checks.component
def log_ratio(log_prob_t: tf.Tensor, log_prob_old_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """log rho_t = log pi_new(a_t|s_t) - log pi_old(a_t|s_t)   (PG-72, PG-80, PG-129), zero on padding: a factor of one.

    log_prob_old_t is what was stored when the action was drawn. On policy the result is zero, and all six forms are the policy gradient.
    Args: log_prob_t, log_prob_old_t [T, N]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_prob_t=log_prob_t, log_prob_old_t=log_prob_old_t, mask_t=mask_t)
    log_prob_t, log_prob_old_t = inside(mask_t, (log_prob_t, log_prob_old_t))
    return log_prob_t - tf.stop_gradient(log_prob_old_t)


@checks.component
def log_trajectory_ratio(log_ratio_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """log W_T = sum_t log rho_t = log p_new(tau) - log p_old(tau)   (PG-72), one whole episode per column: start and dynamics cancel.

    Args: log_ratio_t [T, N]; mask_t [T, N] bool. Returns: [N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, mask_t=mask_t)
    return tf.reduce_sum(inside(mask_t, log_ratio_t), axis=0)


@checks.component
def cumulative_log_ratio(log_ratio_t: tf.Tensor, lambda_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """log W_t = log rho_t + lambda_{t-1} log W_{t-1}   (PG-72): it begins anew after the end of an episode, where lambda_{t-1} = 0.

    Args: log_ratio_t [T, N]; lambda_t [T, N], 1 inside an episode and 0 at its end (`returns.trace` at lambda = 1); mask_t [T, N] bool.
    Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, lambda_t=lambda_t, mask_t=mask_t)
    log_ratio_t, lambda_t = inside(mask_t, (log_ratio_t, lambda_t))
    lambda_tm1 = tf.concat([tf.zeros_like(lambda_t[:1]), lambda_t[:-1]], axis=0)
    return tf.reverse(returns.scan_back(tf.reverse(log_ratio_t, [0]), tf.reverse(lambda_tm1, [0])), [0])


@checks.component
def weighted_return(log_ratio_t: tf.Tensor, r_t: tf.Tensor, gamma: checks.Scalar, mask_t: tf.Tensor) -> tf.Tensor:
    """W_T R(tau)   (PG-73): its mean under the old policy is J(new). One whole episode per column; differentiable in log_ratio_t.

    Args: log_ratio_t, r_t [T, N]; gamma []; mask_t [T, N] bool. Returns: [N]. Raises: ValueError if the shapes differ.
    """
    return tf.exp(log_trajectory_ratio(log_ratio_t, mask_t)) * returns.total_return(r_t, gamma, mask_t)


@checks.component
def per_decision_return(log_ratio_t: tf.Tensor, r_t: tf.Tensor, gamma: checks.Scalar, mask_t: tf.Tensor) -> tf.Tensor:
    """sum_t gamma^{t-1} W_t r_t   (PG-73): the same mean as `weighted_return`, each reward weighed by its own past only.

    Args, returns and errors: as for `weighted_return`.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, r_t=r_t, mask_t=mask_t)
    log_ratio_t, r_t = inside(mask_t, (log_ratio_t, r_t))
    return returns.total_return(tf.exp(tf.cumsum(log_ratio_t, axis=0)) * r_t, gamma, mask_t)


@checks.component
def full(log_ratio_t: tf.Tensor, r_t: tf.Tensor, gamma: checks.Scalar, mask_t: tf.Tensor) -> tf.Tensor:
    """psi_t = W_T R(tau)   (PG-74): the whole product and the whole return, at every step. Exact; one whole episode per column.

    Args: log_ratio_t, r_t [T, N]; gamma []; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    weighted = weighted_return(log_ratio_t, r_t, gamma, mask_t)
    return tf.stop_gradient(inside(mask_t, tf.broadcast_to(weighted, tf.shape(r_t))))


@checks.component
def full_togo(log_ratio_t: tf.Tensor, return_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """psi_t = W_T G_t   (PG-75): the whole product with the reward-to-go. Exact; one whole episode per column.

    Args: log_ratio_t, return_t [T, N]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, return_t=return_t, mask_t=mask_t)
    return tf.stop_gradient(tf.exp(log_trajectory_ratio(log_ratio_t, mask_t)) * inside(mask_t, return_t))


@checks.component
def causal(log_ratio_t: tf.Tensor, r_t: tf.Tensor, discount_t: tf.Tensor, lambda_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """psi_t = W_t sum_{t'>=t} gamma^{t'-t} r_{t'} prod_{k=t+1}^{t'} rho_k = sum_{t'>=t} gamma^{t'-t} W_{t'} r_{t'}   (PG-76). Exact.

    The outer product ends at t and the inner one begins at t + 1: no ratio counts twice. A reward-to-go of W_t r_t.
    Args: log_ratio_t, r_t, discount_t, lambda_t [T, N], as for `returns.reward_to_go`; mask_t [T, N] bool. Returns: [T, N].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, r_t=r_t, discount_t=discount_t, lambda_t=lambda_t, mask_t=mask_t)
    w_t = tf.exp(cumulative_log_ratio(log_ratio_t, lambda_t, mask_t))
    return tf.stop_gradient(returns.reward_to_go(w_t * inside(mask_t, r_t), discount_t, lambda_t, mask_t))


@checks.component
def drop_future(log_ratio_t: tf.Tensor, psi_t: tf.Tensor, lambda_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """W_t psi_t   (PG-77): new states and actions, the old policy's Q; the step of policy iteration. Bias of first order.

    Args: log_ratio_t, psi_t, lambda_t [T, N]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, psi_t=psi_t)
    w_t = tf.exp(cumulative_log_ratio(log_ratio_t, lambda_t, mask_t))
    return tf.stop_gradient(w_t * inside(mask_t, psi_t))


@checks.component
def marginal(log_ratio_t: tf.Tensor, psi_t: tf.Tensor, state_ratio_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """(p_new(s_t) / p_old(s_t)) rho_t psi_t   (PG-78): `drop_future` with W_{t-1} replaced by its mean given s_t; the same expectation.

    Args: log_ratio_t, psi_t [T, N]; state_ratio_t [T, N], known for tabular processes; mask_t [T, N] bool. Returns: [T, N].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, psi_t=psi_t, state_ratio_t=state_ratio_t, mask_t=mask_t)
    return inside(mask_t, tf.stop_gradient(state_ratio_t)) * first_order(log_ratio_t, psi_t, mask_t)


@checks.component
def first_order(log_ratio_t: tf.Tensor, psi_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """rho_t psi_t   (PG-79): old states, new actions, the old policy's Q; the gradient of `surrogates.importance`. Bias of first order.

    Args: log_ratio_t, psi_t [T, N]; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_ratio_t=log_ratio_t, psi_t=psi_t, mask_t=mask_t)
    log_ratio_t, psi_t = inside(mask_t, (log_ratio_t, psi_t))
    return tf.stop_gradient(tf.exp(log_ratio_t) * psi_t)
