"""Policy gradients with the scores written out: each estimator of the lecture, and its exact expectation.

score_t [T, N, P] is grad log pi(a_t|s_t), one vector of P parameters per step; score_i [N, P] that of whole trajectories; probability [K]
weighs trajectories that were listed rather than sampled. Production code gets the same numbers from `objectives.pseudo` and one backward
pass; these forms are for proofs, small problems and teaching (`gradients.score` and `TabularMDP.score` make the scores).
"""

import tensorflow as tf

from tfpg import checks, returns
from tfpg.masks import inside


@checks.component
def trajectory_score(score_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """g(tau) = grad log p_theta(tau) = sum_t grad log pi(a_t|s_t)   (PG-22): the dynamics have dropped out.

    Args: score_t [T, N, P]; mask_t [T, N] bool. Returns: [N, P]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(score_t=(score_t, "T N P"), mask_t=(mask_t, "T N"))
    return tf.reduce_sum(inside(mask_t, score_t), axis=0)


@checks.component
def policy_gradient(score_t: tf.Tensor, psi_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """sum_{i,t} w_{i,t} g_{i,t} psi_{i,t}   (PG-32, PG-37, PG-40): every estimator of the family, by its psi.

    Args: score_t [T, N, P]; psi_t [T, N]; w_t [T, N] from `surrogates.weights` (1/N per step), or the probability of each listed
    trajectory; where it is 0, score and psi may be NaN. Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(score_t=(score_t, "T N P"), psi_t=(psi_t, "T N"), w_t=(w_t, "T N"))
    score_t, psi_t = inside(w_t != 0, (score_t, psi_t))
    return tf.einsum("tnp,tn,tn->p", score_t, psi_t, w_t)


@checks.component
def reinforce(score_t: tf.Tensor, r_t: tf.Tensor, gamma: checks.Scalar, mask_t: tf.Tensor) -> tf.Tensor:
    """1/N sum_i (sum_t g_{i,t}) R_gamma(tau_i)   (PG-24).

    Args: score_t [T, N, P]; r_t [T, N], whole episodes from their first step; gamma []; mask_t [T, N] bool. Returns: [P].
    Raises: ValueError if the shapes do not fit.
    """
    score_i, return_i = trajectory_score(score_t, mask_t), returns.total_return(r_t, gamma, mask_t)
    return tf.linalg.matvec(score_i, return_i, transpose_a=True) / tf.cast(tf.shape(r_t)[1], r_t.dtype)


@checks.component
def reinforce_sum(score_t: tf.Tensor, r_t: tf.Tensor, gamma: checks.Scalar, mask_t: tf.Tensor) -> tf.Tensor:
    """sum_i (sum_t g_{i,t}) R_gamma(tau_i) = N times `reinforce`   (PG-25): the form without 1/N.

    Args, returns and errors: as for `reinforce`.
    """
    score_i, return_i = trajectory_score(score_t, mask_t), returns.total_return(r_t, gamma, mask_t)
    return tf.linalg.matvec(score_i, return_i, transpose_a=True)


@checks.component
def expected_gradient(probability: tf.Tensor, score_i: tf.Tensor, return_i: tf.Tensor) -> tf.Tensor:
    """grad J = sum_tau p(tau) g(tau) R(tau)   (PG-23): the expectation that REINFORCE samples.

    Args: probability [K]; score_i [K, P]; return_i [K]. Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(probability=(probability, "K"), score_i=(score_i, "K P"), return_i=(return_i, "K"))
    return tf.einsum("k,kp,k->p", probability, score_i, return_i)


@checks.component
def expected_score(probability: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
    """E_{a~pi}[grad log pi(a|s)] = sum_a pi(a|s) g(s, a) = 0   (PG-21).

    Args: probability [..., K], summing to one over K outcomes; score [..., K, P]. Returns: [..., P], zero for scores of that probability.
    Raises: ValueError if the shapes do not fit.
    """
    checks.axes(score=(score, "... K P"), probability=(probability, "... K"))
    return tf.einsum("...k,...kp->...p", probability, score)


@checks.component
def density_gradient(log_prob: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
    """grad p = p grad log p   (PG-20). Args: log_prob [K]; score [K, P] = grad log p. Returns: [K, P]. Raises: ValueError likewise."""
    checks.axes(log_prob=(log_prob, "K"), score=(score, "K P"))
    return tf.exp(log_prob)[:, None] * score


@checks.component
def score_products(score_t: tf.Tensor, probability: tf.Tensor) -> tf.Tensor:
    """E[g_t g_u^T] for every pair of steps   (PG-21): zero for t != u, since the later score has mean zero given the earlier one.

    Args: score_t [T, N, P], zero on padding; probability [N], summing to one. Returns: [T, T, P, P].
    Raises: ValueError if the shapes do not fit.
    """
    checks.axes(score_t=(score_t, "T N P"), probability=(probability, "N"))
    return tf.einsum("tnp,unq,n->tupq", score_t, score_t, probability)


@checks.component
def score_reward_products(score_t: tf.Tensor, r_t: tf.Tensor, probability: tf.Tensor) -> tf.Tensor:
    """E[g_t r_u] for every pair of steps   (PG-33, causality): zero for u < t, in expectation and not in a sample.

    Args: score_t [T, N, P] and r_t [T, N], zero on padding; probability [N], summing to one (1/N for samples). Returns: [T, T, P],
    the first axis the action's step. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(score_t=(score_t, "T N P"), r_t=(r_t, "T N"), probability=(probability, "N"))
    return tf.einsum("tnp,un,n->tup", score_t, r_t, probability)
