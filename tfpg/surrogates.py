"""Surrogates: per-step objectives whose gradient is a policy gradient. They are ascended, and reduced once, by `weighted_sum`.

Padding is the reduction's affair for values. Gradients need clean inputs as well: what the policy reads at padded steps must be finite.
"""

import tensorflow as tf

from tfpg import checks


@checks.component
def score(log_prob_t: tf.Tensor, log_prob_old_t: tf.Tensor, psi_t: tf.Tensor) -> tf.Tensor:
    """log pi_theta(a_t|o_t) sg(psi_t)   (PG-28): the pseudo-loss with the sign of an objective.

    Its gradient is sum_t grad log pi(a_t|o_t) psi_t; its value means nothing. log_prob_old_t is not used.

    Args: log_prob_t, log_prob_old_t, psi_t [T, N]. Returns: [T, N]. No gradient flows into psi_t.
    Raises: ValueError if the shapes differ ([M] times [M, 1] would silently become [M, M]).
    """
    checks.same_shape(log_prob_t=log_prob_t, log_prob_old_t=log_prob_old_t, psi_t=psi_t)
    return log_prob_t * tf.stop_gradient(psi_t)


@checks.component
def importance(log_prob_t: tf.Tensor, log_prob_old_t: tf.Tensor, psi_t: tf.Tensor) -> tf.Tensor:
    """rho_t sg(psi_t),  rho_t = pi_theta(a_t|o_t) / pi_old(a_t|o_t)   (PG-79, PG-82): the first-order off-policy objective.

    At theta = old its gradient is that of `score`; away from it its value predicts the improvement, which a line search needs.

    Args: log_prob_t, log_prob_old_t, psi_t [T, N]. Returns: [T, N]. No gradient flows into log_prob_old_t or psi_t.
    Raises: ValueError if the shapes differ.
    Reference: Schulman et al. 2015 (arXiv:1502.05477), eq. 14.
    """
    checks.same_shape(log_prob_t=log_prob_t, log_prob_old_t=log_prob_old_t, psi_t=psi_t)
    return tf.exp(log_prob_t - tf.stop_gradient(log_prob_old_t)) * tf.stop_gradient(psi_t)


@checks.component
def clipped(log_prob_t: tf.Tensor, log_prob_old_t: tf.Tensor, psi_t: tf.Tensor, epsilon: checks.Scalar) -> tf.Tensor:
    """min(rho_t sg(psi_t), clip(rho_t, 1 - epsilon, 1 + epsilon) sg(psi_t))   (PG-83): PPO's objective, never above `importance`.

    Its gradient is zero exactly where psi > 0 and rho > 1 + epsilon, or psi < 0 and rho < 1 - epsilon: no reward for going further, full
    slope for coming back.

    Args: log_prob_t, log_prob_old_t, psi_t [T, N]; epsilon [] in (0, 1). Returns: [T, N]. No gradient flows into log_prob_old_t or psi_t.
    Raises: ValueError if the shapes differ.
    Reference: Schulman et al. 2017 (arXiv:1707.06347), eq. 7.
    """
    checks.same_shape(log_prob_t=log_prob_t, log_prob_old_t=log_prob_old_t, psi_t=psi_t)
    rho_t, psi_t = tf.exp(log_prob_t - tf.stop_gradient(log_prob_old_t)), tf.stop_gradient(psi_t)
    return tf.minimum(rho_t * psi_t, tf.clip_by_value(rho_t, 1 - epsilon, 1 + epsilon) * psi_t)


@checks.component
def kl_penalised(log_prob_t: tf.Tensor, log_prob_old_t: tf.Tensor, psi_t: tf.Tensor, kl_t: tf.Tensor, penalty: checks.Scalar) -> tf.Tensor:
    """rho_t sg(psi_t) - beta KL_t   (PG-84): at theta = old the gradient does not depend on beta, and the curvature holds -beta F.

    Args: log_prob_t, log_prob_old_t, psi_t [T, N]; kl_t [T, N] = KL(pi_old || pi_theta)(o_t) in nats, differentiable (the other
    direction has the same curvature at theta = old); penalty beta []. Returns: [T, N]. No gradient flows into log_prob_old_t or psi_t.
    Raises: ValueError if the shapes differ.
    Reference: Schulman et al. 2017 (arXiv:1707.06347), eq. 8.
    """
    checks.same_shape(log_prob_t=log_prob_t, kl_t=kl_t)
    return importance(log_prob_t, log_prob_old_t, psi_t) - penalty * kl_t


@checks.component
def weights(mask_t: tf.Tensor, like: tf.Tensor, normaliser: str) -> tf.Tensor:
    """w_t such that an average is sum_t w_t x_t: the normaliser of every objective, named.

    'traj': 1/N sum_i sum_t, one episode per column. 'step': 1/(number of valid steps). 'sum': 1. Zero on padding.

    Args: mask_t [T, N] bool; like: any tensor of the type wanted; normaliser. Returns: [T, N].
    Raises: ValueError for an unknown normaliser.
    """
    checks.rank(2, mask_t=mask_t)
    mask = tf.cast(mask_t, like.dtype)
    if normaliser == "traj":
        return mask / tf.cast(tf.shape(mask_t)[1], like.dtype)
    if normaliser == "step":
        return tf.math.divide_no_nan(mask, tf.reduce_sum(mask))
    if normaliser == "sum":
        return mask
    raise ValueError(f"normaliser is {normaliser!r}: 'traj', 'step' and 'sum' are allowed")


@checks.component
def weighted_sum(w_t: tf.Tensor, x_t: tf.Tensor) -> tf.Tensor:
    """sum_t w_t x_t, reading x_t only where w_t is not zero: the one reduction over a batch.

    Args: w_t, x_t [...]. Returns: []. Where w_t = 0, x_t may be NaN: neither value nor gradient notices.
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(w_t=w_t, x_t=x_t)
    return tf.reduce_sum(w_t * tf.where(w_t != 0, x_t, tf.zeros_like(x_t)))
