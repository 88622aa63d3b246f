"""The variance of policy-gradient estimators, exactly where trajectories are listed and from samples where they are not.

probability [K]; score_i [K, P] = g(tau); return_i [K] = R(tau). Variances are those of one trajectory: divide by N for N.
"""

import tensorflow as tf

from tfpg import checks


def _axes(b: tf.Tensor) -> dict[str, tuple[tf.Tensor, str]]:
    """A baseline is one number or one per parameter; one per sample would be broadcast without a word."""
    return {} if b.shape.rank == 0 else {"b": (b, "P")}


def _check(probability: tf.Tensor, score_i: tf.Tensor, return_i: tf.Tensor, b: tf.Tensor) -> None:
    checks.axes(probability=(probability, "K"), score_i=(score_i, "K P"), return_i=(return_i, "K"), **_axes(b))


@checks.component
def exact(probability: tf.Tensor, score_i: tf.Tensor, return_i: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Var_p = E[(g_p (R - b_p))^2] - (E[g_p (R - b_p)])^2   (PG-44), per parameter; its sum is the trace criterion.

    Args: probability [K]; score_i [K, P]; return_i [K]; b [] or [P]. Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    _check(probability, score_i, return_i, b)
    sample = score_i * (return_i[:, None] - b)
    mean = tf.linalg.matvec(sample, probability, transpose_a=True)
    return tf.linalg.matvec((sample - mean) ** 2, probability, transpose_a=True)


@checks.component
def sampled(score_i: tf.Tensor, return_i: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """1/(N-1) sum_i (g_i (R_i - b) - mean)^2   (PG-44): the unbiased estimate of `exact`, for a b that is no function of the sample.

    Args: score_i [N, P]; return_i [N], N > 1; b [] or [P]. Returns: [P]. Raises: ValueError for N = 1, or if the shapes do not fit.
    """
    checks.axes(score_i=(score_i, "N P"), return_i=(return_i, "N"), **_axes(b))
    checks.several(return_i=return_i)
    sample = score_i * (return_i[:, None] - b)
    deviation = sample - tf.reduce_mean(sample, axis=0)
    return tf.reduce_sum(deviation**2, axis=0) / tf.cast(tf.shape(return_i)[0] - 1, return_i.dtype)


@checks.component
def baseline_slope(probability: tf.Tensor, score_i: tf.Tensor, return_i: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """dVar/db = -2 E[g^2 R] + 2 b E[g^2]   (PG-45), per parameter, for scores of mean zero: zero at the optimal baseline.

    Args: as for `exact`. Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    _check(probability, score_i, return_i, b)
    square = score_i**2
    return tf.linalg.matvec(-2 * square * return_i[:, None] + 2 * b * square, probability, transpose_a=True)


@checks.component
def offset_trace(probability: tf.Tensor, score_i: tf.Tensor, return_i: tf.Tensor, offset: checks.Scalar) -> tf.Tensor:
    """tr Var(c) = tr Var(0) + 2 c E[|g|^2 R] + c^2 E[|g|^2]   (PG-38): what adding c to every return does to the variance.

    For scores of mean zero; the mean then stays. Scaling the returns by c scales mean and deviation alike, and signal to noise stays.
    Args: probability [K]; score_i [K, P]; return_i [K]; offset []. Returns: []. Raises: ValueError if the shapes do not fit.
    """
    square = tf.reduce_sum(score_i**2, axis=1)
    start = tf.reduce_sum(exact(probability, score_i, return_i, tf.zeros_like(offset)))
    return start + 2 * offset * tf.reduce_sum(probability * square * return_i) + offset**2 * tf.reduce_sum(probability * square)


@checks.component
def of_batch(covariance: tf.Tensor, episodes: int) -> tf.Tensor:
    """Cov(mean of N) = Cov_1 / N   (PG-123), for N independent trajectories; steps of one trajectory are not independent.

    Args: covariance [P, P] or variances [P] of one trajectory; episodes N. Returns: like covariance.
    """
    return covariance / tf.cast(episodes, covariance.dtype)
