"""How far policies are apart: KL, its quadratic model, and the Fisher matrix for problems small enough to write it down."""

import tensorflow as tf

from tfpg import checks
from tfpg.masks import inside


@checks.component
def kl(p: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """KL(p || q) = E_p[log p - log q] >= 0   (PG-102), of probabilities; terms with p = 0 are 0, and p > 0 = q gives infinity.

    Args: p, q [..., K]. Returns: [...], in nats. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(p=p, q=q)
    some = p > 0
    log_p, log_q = (tf.math.log(tf.where(some, x, tf.ones_like(x))) for x in (p, q))
    return tf.reduce_sum(tf.where(some, p, tf.zeros_like(p)) * (log_p - log_q), axis=-1)


@checks.component
def mean_kl(kl_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """E_{s~d} KL(pi_new(.|s) || pi_old(.|s))   (PG-102): sum_t w_t KL_t, the states of the batch standing for d.

    Args: kl_t, w_t [T, N], w_t from `surrogates.weights`. Returns: []. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(kl_t=kl_t, w_t=w_t)
    return tf.reduce_sum(w_t * inside(w_t != 0, kl_t))


@checks.component
def quadratic(delta: tf.Tensor, fisher: tf.Tensor) -> tf.Tensor:
    """KL(pi_{theta + Delta} || pi_theta) ~ 1/2 Delta^T F Delta   (PG-103), up to |Delta|^3, in either direction.

    Args: delta [P]; fisher [P, P]. Returns: []. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(delta=(delta, "P"), fisher=(fisher, "P P"))
    return 0.5 * tf.einsum("p,pq,q->", delta, fisher, delta)


@checks.component
def fisher(weight: tf.Tensor, score: tf.Tensor) -> tf.Tensor:
    """F = sum_k w_k g_k g_k^T   (PG-104): exact for w = d(s) pi(a|s), sampled for weights of a batch drawn from pi (not from another).

    Args: weight [K]; score [K, P] = grad log pi. Returns: [P, P], positive semi-definite. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(weight=(weight, "K"), score=(score, "K P"))
    return tf.einsum("k,kp,kq->pq", weight, score, score)


@checks.component
def sampled_fisher(score_t: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """F = sum_{i,t} w_{i,t} g_{i,t} g_{i,t}^T   (PG-104): summed over steps with 'traj' weights, averaged over them with 'step' weights.

    Args: score_t [T, N, P]; w_t [T, N] from `surrogates.weights`. Returns: [P, P]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(score_t=(score_t, "T N P"), w_t=(w_t, "T N"))
    score_t = inside(w_t != 0, score_t)
    return tf.einsum("tn,tnp,tnq->pq", w_t, score_t, score_t)


@checks.component
def fisher_product(weight: tf.Tensor, score: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """F v = sum_k w_k g_k (g_k . v)   (PG-105): without the matrix. Networks: `gradients.fisher_vector_product`.

    Args: weight [K]; score [K, P]; v [P]. Returns: [P]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(weight=(weight, "K"), score=(score, "K P"), v=(v, "P"))
    return tf.linalg.matvec(score, weight * tf.linalg.matvec(score, v), transpose_a=True)
