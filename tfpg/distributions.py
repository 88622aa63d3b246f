"""The two action distributions of the lecture, written out: softmax over K actions, and the Gaussian with any covariance Sigma = L L^T.

`policies` is made of these; TensorFlow Probability's, which they agree with, take longer to import and to trace. logits [..., K];
loc [..., A]; scale_tril L [..., A, A] lower triangular with a positive diagonal, or log_std [..., A] where Sigma is diagonal; leading axes
are equal, nothing is broadcast. Log-probabilities are in nats.
"""

import math

import tensorflow as tf

from tfpg import checks


@checks.component
def categorical_log_prob(logits: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """log pi(a) = logits_a - log sum_k exp(logits_k)   (PG-90). Args: logits [..., K]; action [...] integers. Returns: [...].

    Raises: ValueError if the shapes do not fit (actions of shape [..., 1] among them).
    """
    checks.axes(logits=(logits, "... K"), action=(action, "..."))
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=action, logits=logits)


@checks.component
def categorical_nll(logits: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """-log pi(a)   (PG-29): the cross-entropy of softmax(logits) with the action taken; its slope in the logits is pi - e_a.

    Args, returns and errors: as for `categorical_log_prob`.
    """
    return -categorical_log_prob(logits, action)


@checks.component
def onehot_nll(logits: tf.Tensor, onehot: tf.Tensor) -> tf.Tensor:
    """-sum_k e_k log pi(k)   (PG-29): the same from one-hot actions; a row of zeros gives 0. No gradient flows into the labels.

    Args: logits, onehot [..., K]. Returns: [...]. Raises: ValueError if the shapes differ (indices would be broadcast into garbage).
    """
    checks.same_shape(logits=logits, onehot=onehot)
    return -tf.reduce_sum(tf.stop_gradient(onehot) * tf.nn.log_softmax(logits), axis=-1)


@checks.component
def categorical_score(logits: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """grad log pi(a) = e_a - pi, in the logits   (PG-90). Args: logits [..., K]; action [...]. Returns: [..., K]. Raises: ValueError."""
    checks.axes(logits=(logits, "... K"), action=(action, "..."))
    return tf.one_hot(action, tf.shape(logits)[-1], dtype=logits.dtype) - tf.nn.softmax(logits)


@checks.component
def categorical_entropy(logits: tf.Tensor) -> tf.Tensor:
    """H = -sum_k pi_k log pi_k   (PG-90). Args: logits [..., K]. Returns: [...], in nats."""
    log_pi = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(log_pi) * log_pi, axis=-1)


@checks.component
def categorical_kl(logits_p: tf.Tensor, logits_q: tf.Tensor) -> tf.Tensor:
    """KL(p || q) = sum_k p_k (log p_k - log q_k)   (PG-90, PG-102).

    Summed as p_k (log p_k - log q_k) - (p_k - q_k), none of which is negative, so that it keeps its digits when p is near q: with
    d = log p - log q, p - q is (p + q) tanh(d / 2). Args: logits [..., K]. Returns: [...]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(logits_p=logits_p, logits_q=logits_q)
    log_p, log_q = tf.nn.log_softmax(logits_p), tf.nn.log_softmax(logits_q)
    p, q, d = tf.exp(log_p), tf.exp(log_q), log_p - log_q
    return tf.reduce_sum(p * d - (p + q) * tf.tanh(d / 2), axis=-1)


@checks.component
def categorical_fisher(logits: tf.Tensor) -> tf.Tensor:
    """F = diag(pi) - pi pi^T, in the logits   (PG-90, PG-104): singular, since adding a number to all of them changes nothing.

    Args: logits [..., K]. Returns: [..., K, K].
    """
    pi = tf.nn.softmax(logits)
    return tf.linalg.diag(pi) - pi[..., :, None] * pi[..., None, :]


@checks.component
def categorical_sample(logits: tf.Tensor, gumbel: tf.Tensor) -> tf.Tensor:
    """a = argmax_k (logits_k + g_k) ~ softmax(logits), for g_k of the standard Gumbel law   (PG-90).

    Args: logits, gumbel [..., K]. Returns: int32 [...]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(logits=logits, gumbel=gumbel)
    return tf.argmax(logits + gumbel, axis=-1, output_type=tf.int32)


def _whiten(scale_tril: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    return tf.linalg.triangular_solve(scale_tril, x[..., None])[..., 0]


def _log_det(scale_tril: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.math.log(tf.linalg.diag_part(scale_tril)), axis=-1)


@checks.component
def gaussian_log_prob(loc: tf.Tensor, scale_tril: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """log pi(a) = -1/2 (a - f)^T Sigma^{-1} (a - f) - 1/2 log det(2 pi Sigma)   (PG-91).

    Args: loc f [..., A]; scale_tril L [..., A, A], Sigma = L L^T; action [..., A]. Returns: [...]. Raises: ValueError if they do not fit.
    """
    checks.axes(loc=(loc, "... A"), scale_tril=(scale_tril, "... A A"), action=(action, "... A"))
    size = tf.cast(tf.shape(loc)[-1], loc.dtype)
    square = tf.reduce_sum(_whiten(scale_tril, action - loc) ** 2, axis=-1)
    return -0.5 * square - _log_det(scale_tril) - 0.5 * size * math.log(2 * math.pi)


@checks.component
def gaussian_nll(loc: tf.Tensor, scale_tril: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """-log pi(a) = 1/2 |a - f|^2_{Sigma^{-1}} + 1/2 log det(2 pi Sigma)   (PG-30): squared error, and what keeps Sigma from growing.

    Args, returns and errors: as for `gaussian_log_prob`.
    """
    return -gaussian_log_prob(loc, scale_tril, action)


@checks.component
def gaussian_score_loc(loc: tf.Tensor, scale_tril: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """grad_f log pi(a) = Sigma^{-1} (a - f)   (PG-92), without a half; in theta it is J_f^T times this, J_f = df/dtheta.

    Args and errors: as for `gaussian_log_prob`. Returns: [..., A].
    """
    checks.axes(loc=(loc, "... A"), scale_tril=(scale_tril, "... A A"), action=(action, "... A"))
    white = _whiten(scale_tril, action - loc)
    return tf.linalg.triangular_solve(scale_tril, white[..., None], adjoint=True)[..., 0]


@checks.component
def gaussian_score_covariance(loc: tf.Tensor, scale_tril: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """G = dlog pi / dSigma = 1/2 (Sigma^{-1} (a - f)(a - f)^T Sigma^{-1} - Sigma^{-1})   (PG-92), entries of Sigma taken as independent.

    Args and errors: as for `gaussian_log_prob`. Returns: [..., A, A].
    """
    slope = gaussian_score_loc(loc, scale_tril, action)
    precision = tf.linalg.cholesky_solve(scale_tril, tf.eye(tf.shape(loc)[-1], dtype=loc.dtype))
    return 0.5 * (slope[..., :, None] * slope[..., None, :] - precision)


@checks.component
def gaussian_score_scale(loc: tf.Tensor, scale_tril: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """dlog pi / dL = tril(2 G L), Sigma = L L^T   (PG-92), G from `gaussian_score_covariance`.

    Args and errors: as for `gaussian_log_prob`. Returns: [..., A, A], lower triangular.
    """
    g = gaussian_score_covariance(loc, scale_tril, action)
    return tf.linalg.band_part(2 * tf.matmul(g, scale_tril), -1, 0)


@checks.component
def gaussian_kl(loc_p: tf.Tensor, scale_p: tf.Tensor, loc_q: tf.Tensor, scale_q: tf.Tensor) -> tf.Tensor:
    """KL(p || q) = 1/2 (tr(Sigma_q^{-1} Sigma_p) + |f_p - f_q|^2_{Sigma_q^{-1}} - A) + log det L_q - log det L_p   (PG-102).

    Summed as differences that are small when p is near q, so that it keeps its digits there.
    Args: loc_p, loc_q [..., A]; scale_p, scale_q [..., A, A] lower triangular. Returns: [...]. Raises: ValueError if they do not fit.
    """
    checks.axes(loc_p=(loc_p, "... A"), scale_p=(scale_p, "... A A"), loc_q=(loc_q, "... A"), scale_q=(scale_q, "... A A"))
    m = tf.linalg.triangular_solve(scale_q, scale_p)
    excess = tf.linalg.diag_part(m) - 1
    below = m - tf.linalg.diag(tf.linalg.diag_part(m))
    spread = tf.reduce_sum(0.5 * excess**2 + excess - tf.math.log1p(excess), axis=-1)
    return spread + 0.5 * (tf.reduce_sum(below**2, axis=[-2, -1]) + tf.reduce_sum(_whiten(scale_q, loc_p - loc_q) ** 2, axis=-1))


@checks.component
def gaussian_entropy(scale_tril: tf.Tensor) -> tf.Tensor:
    """H = 1/2 log det(2 pi e Sigma)   (PG-91). Args: scale_tril [..., A, A]. Returns: [...]."""
    checks.axes(scale_tril=(scale_tril, "... A A"))
    return _log_det(scale_tril) + 0.5 * tf.cast(tf.shape(scale_tril)[-1], scale_tril.dtype) * (1 + math.log(2 * math.pi))


@checks.component
def gaussian_sample(loc: tf.Tensor, scale_tril: tf.Tensor, noise: tf.Tensor) -> tf.Tensor:
    """a = f + L z ~ N(f, L L^T), for z of the standard normal law   (PG-91). Args: loc, noise [..., A]; scale_tril [..., A, A]."""
    checks.axes(loc=(loc, "... A"), scale_tril=(scale_tril, "... A A"), noise=(noise, "... A"))
    return loc + tf.linalg.matvec(scale_tril, noise)


@checks.component
def diagonal_log_prob(loc: tf.Tensor, log_std: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """log pi(a) = -1/2 sum_i ((a_i - f_i) / sigma_i)^2 - sum_i log sigma_i - A/2 log 2 pi   (PG-91), Sigma = diag(sigma^2).

    Args: loc f, log_std log sigma, action [..., A]. Returns: [...]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(loc=loc, log_std=log_std, action=action)
    each = 0.5 * ((action - loc) * tf.exp(-log_std)) ** 2 + log_std + 0.5 * math.log(2 * math.pi)
    return -tf.reduce_sum(each, axis=-1)


@checks.component
def diagonal_entropy(log_std: tf.Tensor) -> tf.Tensor:
    """H = sum_i log sigma_i + A/2 log 2 pi e   (PG-91), Sigma = diag(sigma^2). Args: log_std [..., A]. Returns: [...]."""
    return tf.reduce_sum(log_std + 0.5 * (1 + math.log(2 * math.pi)), axis=-1)


@checks.component
def diagonal_kl(loc_p: tf.Tensor, log_std_p: tf.Tensor, loc_q: tf.Tensor, log_std_q: tf.Tensor) -> tf.Tensor:
    """KL(p || q) = sum_i 1/2 ((sigma_p^2 + (f_p - f_q)^2) / sigma_q^2 - 1) + log sigma_q - log sigma_p   (PG-102), componentwise.

    Summed, with e = sigma_p / sigma_q - 1, as 1/2 e^2 + (e - log(1 + e)), differences that are small when p is near q.
    Args: all [..., A]. Returns: [...]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(loc_p=loc_p, log_std_p=log_std_p, loc_q=loc_q, log_std_q=log_std_q)
    wider = log_std_p - log_std_q
    excess = tf.math.expm1(wider)
    each = 0.5 * excess**2 + (excess - wider) + 0.5 * ((loc_p - loc_q) * tf.exp(-log_std_q)) ** 2
    return tf.reduce_sum(each, axis=-1)


@checks.component
def linear_gaussian_log_prob(k: checks.Scalar, sigma: checks.Scalar, s: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    """log N(a; k s, sigma^2)   (PG-93), sigma the standard deviation. Args: k, sigma []; s, a [...]. Returns: [...]. Raises: ValueError."""
    checks.same_shape(s=s, a=a)
    return -0.5 * ((a - k * s) / sigma) ** 2 - tf.math.log(sigma) - 0.5 * math.log(2 * math.pi)


@checks.component
def linear_gaussian_score(k: checks.Scalar, sigma: checks.Scalar, s: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    """(d_k, d_sigma) log pi = ((a - k s) s / sigma^2, ((a - k s)^2 - sigma^2) / sigma^3)   (PG-93).

    On actions of the policy both are of size 1 / sigma: |s| / sigma and sqrt(2) / sigma. Args: k, sigma []; s, a [...].
    Returns: [..., 2]. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(s=s, a=a)
    deviation = a - k * s
    return tf.stack([deviation * s / sigma**2, (deviation**2 - sigma**2) / sigma**3], axis=-1)
