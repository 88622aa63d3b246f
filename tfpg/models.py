"""Learned dynamics: the loss that fits s_{t+1} = f_phi(s_t, a_t), and its closed form where f is linear."""

import tensorflow as tf

from tfpg import checks
from tfpg.masks import inside


@checks.component
def model_loss(prediction_t: tf.Tensor, state_tp1: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """sum_t w_t |f_phi(s_t, a_t) - s_{t+1}|^2   (PG-120).

    w_t is 0 where there is no next state within the episode: on padding and wherever an automatic reset follows.
    Args: prediction_t, state_tp1 [T, N, D]; w_t [T, N]. Returns: []. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(prediction_t=(prediction_t, "T N D"), state_tp1=(state_tp1, "T N D"), w_t=(w_t, "T N"))
    prediction_t, state_tp1 = inside(w_t != 0, (prediction_t, state_tp1))
    return tf.reduce_sum(w_t * tf.reduce_sum((prediction_t - tf.stop_gradient(state_tp1)) ** 2, axis=-1))


@checks.component
def linear_model(state_t: tf.Tensor, action_t: tf.Tensor, state_tp1: tf.Tensor, w_t: tf.Tensor) -> tf.Tensor:
    """argmin_B sum_t w_t |B [s_t, a_t, 1] - s_{t+1}|^2   (PG-120): least squares, by QR.

    Args: state_t, state_tp1 [T, N, D]; action_t [T, N, A]; w_t [T, N] >= 0. Returns: B [D, D + A + 1], s_{t+1} = B (s_t, a_t, 1).
    Raises: ValueError if the shapes do not fit or the steps are fewer than the coefficients.
    """
    checks.axes(state_t=(state_t, "T N D"), action_t=(action_t, "T N A"), state_tp1=(state_tp1, "T N D"), w_t=(w_t, "T N"))
    state_t, action_t, state_tp1 = inside(w_t > 0, (state_t, action_t, state_tp1))
    inputs = tf.concat([state_t, action_t, tf.ones_like(state_t[..., :1])], axis=-1)
    some = w_t > 0
    root = tf.where(some, tf.sqrt(tf.where(some, w_t, tf.ones_like(w_t))), tf.zeros_like(w_t))[..., None]
    x, y = (tf.reshape(root * rows, [-1, rows.shape[-1]]) for rows in (inputs, state_tp1))
    steps, coefficients = x.shape
    if steps is not None and steps < coefficients:
        raise ValueError(f"state_t has shape {state_t.shape}: at least {coefficients} steps are needed for as many coefficients")
    q, r = tf.linalg.qr(x)
    return tf.transpose(tf.linalg.triangular_solve(r, tf.matmul(q, y, transpose_a=True), lower=False))
