"""Off-policy, exactly and with several behaviours: moments of the weights, surrogate values, and mixtures of demonstrators.

pi_new_t, pi_old_t [T, S, A]; transition [S, A, S']; start [S]. `importance` has the estimators that these quantities judge.
"""

import tensorflow as tf

from tfpg import bellman, checks, divergences, processes
from tfpg.masks import inside


@checks.component
def second_moment(start: tf.Tensor, transition: tf.Tensor, pi_new_t: tf.Tensor, pi_old_t: tf.Tensor) -> tf.Tensor:
    """E_old[W_T^2] by M_{t+1}(s') = sum_{s,a} M_t(s) pi_new(a|s)^2 / pi_old(a|s) p(s'|s,a), M_1 = p_1   (PG-81).

    E_old[W_T] is 1 however long the episode; this grows as (1 + chi^2)^T, by rare and huge weights, which a sample hides.
    Args: start [S]; transition [S, A, S]; pi_new_t, pi_old_t [T, S, A], pi_old > 0. Returns: []. Raises: ValueError if shapes do not fit.
    """
    checks.axes(start=(start, "S"), transition=(transition, "S A S"), pi_new_t=(pi_new_t, "T S A"), pi_old_t=(pi_old_t, "T S A"))
    moments = tf.scan(lambda m, square: processes.marginal_step(m, square, transition), pi_new_t**2 / pi_old_t, start)
    return tf.reduce_sum(moments[-1])


@checks.component
def expected_log_weight(start: tf.Tensor, transition: tf.Tensor, pi_new_t: tf.Tensor, pi_old_t: tf.Tensor) -> tf.Tensor:
    """E_old[log W_T] = -sum_t E_{s_t~old}[KL(old || new)(s_t)]   (PG-81): what a typical weight is, e^{-T KL}.

    Args: as for `second_moment`. Returns: [], in nats. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(start=(start, "S"), transition=(transition, "S A S"), pi_new_t=(pi_new_t, "T S A"), pi_old_t=(pi_old_t, "T S A"))
    state_t = processes.state_marginals(start, pi_old_t, transition)
    return -tf.reduce_sum(state_t * divergences.kl(pi_old_t, pi_new_t))


@checks.component
def performance_difference(state_new_t: tf.Tensor, pi_new_t: tf.Tensor, advantage_old_t: tf.Tensor, gamma: checks.Scalar) -> tf.Tensor:
    """J(new) - J(old) = sum_t gamma^{t-1} E_{s_t,a_t~new}[A^old_t(s_t, a_t)]   (PG-82), exactly.

    Given the OLD state marginals it is the surrogate's gain, L_old(new) - J(old): the same value and gradient at new = old, wrong by the
    square of the distance elsewhere.
    Args: state_new_t [T, S] = p_new(s_t = s); pi_new_t, advantage_old_t [T, S, A]; gamma []. Returns: []. Raises: ValueError likewise.
    Reference: Kakade and Langford 2002, lemma 6.1.
    """
    checks.axes(state_new_t=(state_new_t, "T S"), pi_new_t=(pi_new_t, "T S A"), advantage_old_t=(advantage_old_t, "T S A"))
    gain_t = tf.reduce_sum(state_new_t * bellman.expected_value(advantage_old_t, pi_new_t), axis=1)
    return tf.reduce_sum(gamma ** tf.cast(tf.range(tf.shape(gain_t)[0]), gain_t.dtype) * gain_t)


@checks.component
def state_shift_bound(pi_new: tf.Tensor, pi_old: tf.Tensor, horizon: int) -> tf.Tensor:
    """sum_s |p_new(s_t = s) - p_old(s_t = s)| <= 2 (t - 1) max_s TV(pi_new, pi_old)(s)   (PG-82), TV = half the sum of differences.

    Args: pi_new, pi_old [S, A]; horizon T. Returns: [T], the right-hand side. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(pi_new=pi_new, pi_old=pi_old)
    distance = tf.reduce_max(tf.reduce_sum(tf.abs(pi_new - pi_old), axis=-1)) / 2
    return 2 * tf.cast(tf.range(horizon), distance.dtype) * distance


@checks.component
def mixture_log_prob(log_prob_jt: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """log q(tau_{1:t}) = log 1/n sum_j prod_{u<=t} q_j(a_u|s_u)   (PG-85): a mixture of whole trajectories, one demonstrator for each.

    A product over steps of mixtures would be another density. Args: log_prob_jt [J, T, N] of n = J behaviours; mask_t [T, N] bool, one
    whole episode per column. Returns: [T, N], of the first t steps. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(log_prob_jt=(log_prob_jt, "J T N"), mask_t=(mask_t, "T N"))
    clean = tf.where(mask_t, log_prob_jt, tf.zeros_like(log_prob_jt))
    behaviours = tf.cast(tf.shape(log_prob_jt)[0], log_prob_jt.dtype)
    return tf.reduce_logsumexp(tf.cumsum(clean, axis=1), axis=0) - tf.math.log(behaviours)


@checks.component
def guided_objective(
    log_prob_t: tf.Tensor, log_prob_jt: tf.Tensor, r_t: tf.Tensor, regulariser: checks.Scalar, mask_t: tf.Tensor
) -> tf.Tensor:
    """Phi = sum_t [sum_i w_{i,t} r_{i,t} / Z_t + w_r log Z_t],  w_{i,t} = pi(tau_{i,1:t}) / q(tau_{i,1:t}),  Z_t = sum_i w_{i,t}   (PG-85).

    The self-normalised per-decision objective, with a reward for staying where the demonstrations are: w_r, the caller's to adapt, lower
    after an improvement and higher after a failure. A trajectory that has ended keeps its weight and pays 0. No gradient flows into
    log_prob_jt.
    Args: log_prob_t [T, N] under theta; log_prob_jt [J, T, N] under the J behaviours of the mixture q; r_t [T, N]; regulariser w_r [];
    mask_t [T, N] bool, one whole episode per column. Returns: []. Raises: ValueError if the shapes do not fit.
    Reference: Levine and Koltun 2013 (named by the notes).
    """
    checks.same_shape(log_prob_t=log_prob_t, r_t=r_t, mask_t=mask_t)
    log_prob_t, r_t = inside(mask_t, (log_prob_t, r_t))
    log_weight_t = tf.cumsum(log_prob_t, axis=0) - tf.stop_gradient(mixture_log_prob(log_prob_jt, mask_t))
    weighed_t = tf.reduce_sum(tf.nn.softmax(log_weight_t, axis=1) * r_t, axis=1)
    return tf.reduce_sum(weighed_t + regulariser * tf.reduce_logsumexp(log_weight_t, axis=1))
