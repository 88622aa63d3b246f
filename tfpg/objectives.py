"""J(theta) = E[R(tau)] in its forms: over trajectories, over state-action marginals, from samples."""

from typing import NamedTuple

import tensorflow as tf

from tfpg import checks, surrogates
from tfpg.masks import inside


class Estimate(NamedTuple):
    """A mean of samples and its standard error (NaN for a single sample)."""

    mean: tf.Tensor
    standard_error: tf.Tensor


@checks.component
def over_trajectories(probability: tf.Tensor, return_i: tf.Tensor) -> tf.Tensor:
    """J = sum_tau p(tau) R(tau)   (PG-12). Args: probability, return_i [K]. Returns: []. Raises: ValueError if the shapes differ."""
    checks.axes(probability=(probability, "K"), return_i=(return_i, "K"))
    return tf.tensordot(probability, return_i, 1)


@checks.component
def over_marginals(marginal_t: tf.Tensor, reward: tf.Tensor, gamma: checks.Scalar) -> tf.Tensor:
    """J = sum_t gamma^{t-1} sum_{s,a} p_theta(s_t = s, a_t = a) r(s, a)   (PG-13).

    Differentiated through `processes.state_action_marginals` it gives the exact gradient.
    Args: marginal_t [T, S, A]; reward [S, A]; gamma []. Returns: []. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(marginal_t=(marginal_t, "T S A"), reward=(reward, "S A"))
    discount_t = gamma ** tf.cast(tf.range(tf.shape(marginal_t)[0]), reward.dtype)
    return tf.einsum("t,tsa,sa->", discount_t, marginal_t, reward)


@checks.component
def monte_carlo(return_i: tf.Tensor) -> Estimate:
    """1/N sum_i R(tau_i), and its standard error sqrt(sum_i (R_i - mean)^2 / (N (N-1)))   (PG-14).

    Args: return_i [N], of independent trajectories. Returns: Estimate(mean [], standard_error []).
    """
    checks.axes(return_i=(return_i, "N"))
    n = tf.cast(tf.shape(return_i)[0], return_i.dtype)
    mean = tf.reduce_mean(return_i)
    return Estimate(mean, tf.sqrt(tf.reduce_sum((return_i - mean) ** 2) / (n * (n - 1))))


@checks.component
def affine(objective: checks.Scalar, scale: checks.Scalar, offset: checks.Scalar) -> tf.Tensor:
    """J' = c_1 J + c_0   (PG-19): grad J' = c_1 grad J, the same direction only if c_1 > 0 and the opposite one if c_1 < 0."""
    return scale * objective + offset


@checks.component
def likelihood(log_prob_t: tf.Tensor, mask_t: tf.Tensor, normaliser: str) -> tf.Tensor:
    """J_ML = 1/N sum_i sum_t log pi(a_{i,t}|s_{i,t})   (PG-27): maximum likelihood, the policy gradient with every weight one.

    Args: log_prob_t [T, N]; mask_t [T, N] bool; normaliser: see `surrogates.weights`. Returns: [], in nats.
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_prob_t=log_prob_t, mask_t=mask_t)
    return surrogates.weighted_sum(surrogates.weights(mask_t, log_prob_t, normaliser), log_prob_t)


@checks.component
def pseudo(log_prob_t: tf.Tensor, psi_t: tf.Tensor, mask_t: tf.Tensor, normaliser: str) -> tf.Tensor:
    """J~ = 1/N sum_i sum_t log pi(a_{i,t}|s_{i,t}) sg(psi_{i,t})   (PG-28, PG-37): what automatic differentiation is given.

    Its gradient is the estimator sum g psi; its value is not J and says nothing about progress. The loss to minimise is -J~. No gradient
    flows into psi_t, whatever it was made of.

    Args: log_prob_t, psi_t [T, N]; mask_t [T, N] bool; normaliser: see `surrogates.weights` ('sum' is PG-25's form). Returns: [].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_prob_t=log_prob_t, psi_t=psi_t, mask_t=mask_t)
    log_prob_t, psi_t = inside(mask_t, (log_prob_t, psi_t))
    w_t = surrogates.weights(mask_t, log_prob_t, normaliser)
    return surrogates.weighted_sum(w_t, surrogates.score(log_prob_t, log_prob_t, psi_t))
