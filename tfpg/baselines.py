"""Baselines: what is subtracted from a return so that its score-weighted mean stays and its variance falls.

b may be anything whose mean given the past, s_t and a_t does not depend on a_t (PG-51): constants, functions of the state or of time, of
theta, of other trajectories, of a future that a_t does not move. It may not be made of the return it is subtracted from, or the gradient
shrinks; each function says by how much. return_i [N] is one number per trajectory, return_t [T, N] one per step.
"""

import tensorflow as tf

from tfpg import checks
from tfpg.masks import inside


@checks.component
def subtract(return_t: tf.Tensor, b_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """psi_t = Q_t - b_t   (PG-40, PG-51, PG-62).

    Zero on padding; no gradient flows into either (psi_t is data to the actor).
    Args: return_t [T, N]; b_t [T, N], from `every_step` where b is one number per trajectory; mask_t [T, N] bool. Returns: [T, N].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(return_t=return_t, b_t=b_t, mask_t=mask_t)
    return_t, b_t = inside(mask_t, (return_t, b_t))
    return tf.stop_gradient(return_t - b_t)


@checks.component
def value_baseline(return_t: tf.Tensor, v_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """psi_t = G_t - V(o_t)   (PG-48): a sample of the advantage when G_t is the reward-to-go.

    With R(tau) in the place of G_t it is unbiased too, but not centred: past rewards stay in it. Less variance is usual, not certain.
    Zero on padding; no gradient flows into V.

    Args: return_t, v_t [T, N]; mask_t [T, N] bool. Returns: [T, N], in units of reward.
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(return_t=return_t, v_t=v_t, mask_t=mask_t)
    return subtract(return_t, v_t, mask_t)


@checks.component
def every_step(b_i: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """b_t = b_i at every step of trajectory i   (PG-40). Args: b_i [N]; mask_t [T, N]. Returns: [T, N]. Raises: ValueError likewise."""
    checks.axes(mask_t=(mask_t, "T N"), b_i=(b_i, "N"))
    return tf.broadcast_to(b_i, tf.shape(mask_t))


@checks.component
def mean(return_i: tf.Tensor) -> tf.Tensor:
    """b_i = 1/N sum_j R_j   (PG-41), for every i. It holds R_i itself: E[estimate] = (1 - 1/N) grad J, and nothing is left at N = 1.

    Args: return_i [N], one per trajectory. Returns: [N].
    """
    checks.axes(return_i=(return_i, "N"))
    return tf.broadcast_to(tf.reduce_mean(return_i), tf.shape(return_i))


@checks.component
def leave_one_out(return_i: tf.Tensor) -> tf.Tensor:
    """b_i = (sum_j R_j - R_i) / (N - 1)   (PG-42): the mean of the others, unbiased; N / (N - 1) times the estimate with `mean`.

    Args: return_i [N]. Returns: [N]. Raises: ValueError for a single trajectory, which has no others.
    """
    checks.axes(return_i=(return_i, "N"))
    checks.several(return_i=return_i)
    others = tf.cast(tf.shape(return_i)[0] - 1, return_i.dtype)
    return (tf.reduce_sum(return_i) - return_i) / others


@checks.component
def moving_average(average: checks.Scalar, count: int, return_: checks.Scalar, kappa: checks.Scalar) -> tuple[tf.Tensor, tf.Tensor]:
    """b = m / (1 - (1 - kappa)^count), then m <- kappa R + (1 - kappa) m   (PG-43): b is used before R enters it.

    Used after, it would hold R, and the gradient would shrink by 1 - kappa. The correction makes E[b] = E[R] from the second update on;
    before the first b = 0. For a bandit, T = 1, this is reinforcement comparison: Delta theta = alpha (R - b)(e_a - pi).

    Args: average m [], 0 at first; count of updates so far; return_ [], of one trajectory or the mean of a batch; kappa [] in (0, 1].
    Returns: (b [] to subtract now, m [] for the next time).
    """
    weight = 1 - (1 - kappa) ** tf.cast(count, average.dtype)
    return tf.math.divide_no_nan(average, weight), kappa * return_ + (1 - kappa) * average


@checks.component
def time_mean(return_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """b_t = 1/N sum_j G_{j,t}, ended trajectories counting as zero   (PG-49): E[estimate] = (1 - 1/N) grad J.

    Args: return_t [T, N], row t being step t of the episode; mask_t [T, N] bool. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.axes(return_t=(return_t, "T N"), mask_t=(mask_t, "T N"))
    return_t = inside(mask_t, return_t)
    return tf.broadcast_to(tf.reduce_mean(return_t, axis=1, keepdims=True), tf.shape(return_t))


@checks.component
def alive_mean(return_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """b_t = sum_j G_{j,t} / n_t over the n_t trajectories that are alive at t   (PG-49), 0 where there is none.

    The estimate at t shrinks by 1 - (1 - (1 - p_t)^N) / (N p_t), p_t = P(alive at t): worst where few are left.
    Args, returns and errors: as for `time_mean`.
    """
    checks.axes(return_t=(return_t, "T N"), mask_t=(mask_t, "T N"))
    total_t = tf.reduce_sum(inside(mask_t, return_t), axis=1, keepdims=True)
    alive_t = tf.reduce_sum(tf.cast(mask_t, return_t.dtype), axis=1, keepdims=True)
    return tf.broadcast_to(tf.math.divide_no_nan(total_t, alive_t), tf.shape(return_t))


@checks.component
def time_leave_one_out(return_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """b_{i,t} = sum_{j != i} G_{j,t} / (n_t - 1) over the others that are alive at t   (PG-49), 0 where there is none: unbiased.

    Args, returns and errors: as for `time_mean`.
    """
    checks.axes(return_t=(return_t, "T N"), mask_t=(mask_t, "T N"))
    return_t, alive = inside(mask_t, return_t), tf.cast(mask_t, return_t.dtype)
    others_t = tf.reduce_sum(return_t, axis=1, keepdims=True) - return_t
    return tf.math.divide_no_nan(others_t, tf.reduce_sum(alive, axis=1, keepdims=True) - alive)


@checks.component
def pooled(return_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """b = sum_{j,u} G_{j,u} / sum_j T_j, one number for all steps   (PG-132): common practice, and biased.

    With fixed T, E[estimate] = grad J - 1/(N T) E[sum_t g_t sum_u G_u], which is no multiple of grad J.
    Summed as distances from the largest, it is exact where all are equal: what rounding would leave of a sum, `standardise` makes ones of.
    Args: return_t [T, N]; mask_t [T, N] bool. Returns: [T, N], constant. Raises: ValueError if the shapes differ.
    """
    checks.axes(return_t=(return_t, "T N"), mask_t=(mask_t, "T N"))
    n = tf.reduce_sum(tf.cast(mask_t, return_t.dtype))
    largest = tf.reduce_max(tf.where(mask_t, return_t, return_t.dtype.min))
    average = largest + tf.math.divide_no_nan(tf.reduce_sum(inside(mask_t, return_t - largest)), n)
    return tf.fill(tf.shape(return_t), tf.where(n > 0, average, tf.zeros_like(average)))


@checks.component
def standardise(psi_t: tf.Tensor, mask_t: tf.Tensor, floor: checks.Scalar) -> tf.Tensor:
    """(psi_t - mean) / (deviation + floor) over the valid steps   (PG-132): a scale-free step, and a biased one.

    The deviation is that of the population (divided by n), so a single step gives 0 and not NaN. Zero on padding; no gradient flows.
    Args: psi_t [T, N]; mask_t [T, N] bool; floor [] > 0, e.g. 1e-8. Returns: [T, N]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(psi_t=psi_t, mask_t=mask_t)
    centred = subtract(psi_t, pooled(psi_t, mask_t), mask_t)
    n = tf.reduce_sum(tf.cast(mask_t, psi_t.dtype))
    return centred / (tf.sqrt(tf.math.divide_no_nan(tf.reduce_sum(centred**2), n)) + floor)


@checks.component
def optimal(probability: tf.Tensor, score_i: tf.Tensor, return_i: tf.Tensor) -> tf.Tensor:
    """b* = E[|g|^2 R] / E[|g|^2]   (PG-46): for scores of mean zero, the number that minimises the trace of the variance.

    A mean of returns weighed by squared scores; 0 where every score is 0. Of samples, whose scores have some mean, it minimises the second
    moment. Estimated from the batch it is subtracted from, it is biased as `mean` is: use
    `optimal_leave_one_out`.
    Args: probability [K] (1/N for samples); score_i [K, P]; return_i [K]. Returns: []. Raises: ValueError if the shapes do not fit.
    Reference: Greensmith, Bartlett and Baxter 2004; Weaver and Tao 2001.
    """
    checks.axes(probability=(probability, "K"), score_i=(score_i, "K P"), return_i=(return_i, "K"))
    square = probability * tf.reduce_sum(score_i**2, axis=1)
    return tf.math.divide_no_nan(tf.reduce_sum(square * return_i), tf.reduce_sum(square))


@checks.component
def optimal_per_parameter(probability: tf.Tensor, score_i: tf.Tensor, return_i: tf.Tensor) -> tf.Tensor:
    """b*_p = E[g_p^2 R] / E[g_p^2]   (PG-47): one baseline per component, each minimal for its variance (scores of mean zero).

    0 where a component of the score is always 0. Args: as for `optimal`. Returns: [P]. Raises: ValueError if the shapes do not fit.
    Reference: Peters and Schaal 2008.
    """
    checks.axes(probability=(probability, "K"), score_i=(score_i, "K P"), return_i=(return_i, "K"))
    square = probability[:, None] * score_i**2
    return tf.math.divide_no_nan(tf.linalg.matvec(square, return_i, transpose_a=True), tf.reduce_sum(square, axis=0))


@checks.component
def optimal_per_time(probability: tf.Tensor, score_t: tf.Tensor, return_t: tf.Tensor) -> tf.Tensor:
    """b*_t = E[g_t . sum_u g_u Q_u] / E[|g_t|^2]   (PG-50): the numbers b_t that together minimise the trace of the variance.

    For scores that are uncorrelated in time, as they are in expectation. The other steps stay in the numerator: E[|g_t|^2 Q_t] / E[|g_t|^2]
    is not the minimiser. 0 where every score of a step is 0.
    Args: probability [N]; score_t [T, N, P] and return_t [T, N], zero on padding. Returns: [T]. Raises: ValueError likewise.
    """
    checks.axes(probability=(probability, "N"), score_t=(score_t, "T N P"), return_t=(return_t, "T N"))
    whole = tf.einsum("unp,un->np", score_t, return_t)
    above = tf.einsum("n,tnp,np->t", probability, score_t, whole)
    return tf.math.divide_no_nan(above, tf.einsum("n,tnp->t", probability, score_t**2))


@checks.component
def optimal_leave_one_out(score_i: tf.Tensor, return_i: tf.Tensor) -> tf.Tensor:
    """b_{i,p} = sum_{j != i} g_{j,p}^2 R_j / sum_{j != i} g_{j,p}^2   (PG-47, cross-fitted): optimal, from the others, so unbiased.

    0 where the others' scores are all 0. For the scalar form (PG-46) give |g_i| as a single component.
    Args: score_i [N, P]; return_i [N], N > 1. Returns: [N, P]. Raises: ValueError for N = 1, or if the shapes do not fit.
    """
    checks.axes(score_i=(score_i, "N P"), return_i=(return_i, "N"))
    checks.several(return_i=return_i)
    return optimal_togo_leave_one_out(score_i, score_i * return_i[:, None])


@checks.component
def optimal_togo_leave_one_out(score_i: tf.Tensor, weighed_i: tf.Tensor) -> tf.Tensor:
    """b_{i,p} = sum_{j != i} g_{j,p} c_{j,p} / sum_{j != i} g_{j,p}^2   (PG-136), g_i = sum_t g_{i,t} and c_i = sum_t g_{i,t} G_{i,t}.

    One number per component, to be subtracted from every reward-to-go of the trajectory: of all such numbers E[c_p g_p] / E[g_p^2] has the
    least E[(c_p - b g_p)^2]. Made of the others, so unbiased. 0 where the others' scores are all 0. With the total return, c_i = g_i R_i,
    it is `optimal_leave_one_out`. For one number for all components give |g_i| and g_i . c_i / |g_i| as single components.

    Args: score_i g [N, P]; weighed_i c [N, P], N > 1. Returns: [N, P], in units of reward.
    Raises: ValueError for N = 1, or if the shapes do not fit.
    """
    checks.axes(score_i=(score_i, "N P"), weighed_i=(weighed_i, "N P"))
    checks.several(score_i=score_i)

    def others(x: tf.Tensor) -> tf.Tensor:
        # The sum before and the sum after: a difference of sums would lose small scores beside a large one of one's own.
        return tf.cumsum(x, exclusive=True) + tf.cumsum(x, exclusive=True, reverse=True)

    return tf.math.divide_no_nan(others(score_i * weighed_i), others(score_i**2))
