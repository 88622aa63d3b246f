"""Neighbours of policy gradients that the notes only name, as pure objectives   (PG-128); DQN's target is `critics.q_learning_target`."""

import tensorflow as tf

from tfpg import checks


@checks.component
def dueling(v: tf.Tensor, advantage: tf.Tensor) -> tf.Tensor:
    """Q(s, a) = V(s) + A(s, a) - mean_a A(s, a)   (PG-128): subtracting the mean makes V and A identifiable.

    Args: v [...]; advantage [..., A]. Returns: [..., A]. Raises: ValueError if the shapes do not fit.
    Reference: Wang et al. 2016 (arXiv:1511.06581), eq. 9.
    """
    checks.axes(advantage=(advantage, "... A"), v=(v, "..."))
    return v[..., None] + advantage - tf.reduce_mean(advantage, axis=-1, keepdims=True)


@checks.component
def deterministic(action: tf.Tensor, q_slope: tf.Tensor) -> tf.Tensor:
    """sg(grad_a Q(s, a)) . a, a = mu_theta(s)   (PG-128): its gradient is DPG's, E[grad_a Q grad_theta mu]; its value means nothing.

    Args: action [..., A] = mu_theta(s), differentiable; q_slope [..., A] = grad_a Q there. Returns: [...]. Raises: ValueError likewise.
    Reference: Silver et al. 2014, theorem 1.
    """
    checks.same_shape(action=action, q_slope=q_slope)
    return tf.reduce_sum(tf.stop_gradient(q_slope) * action, axis=-1)


@checks.component
def soft_actor(log_prob: tf.Tensor, q: tf.Tensor, temperature: checks.Scalar) -> tf.Tensor:
    """Q(s, a) - kappa log pi(a|s)   (PG-128): to be ascended, in expectation over a ~ pi; at its maximum pi is softmax(Q / kappa).

    Both arguments may carry gradients (a reparameterised action reaches Q). Args: log_prob, q [...]; temperature kappa []. Returns: [...].
    Raises: ValueError if the shapes differ. Reference: Haarnoja et al. 2018 (arXiv:1801.01290), eq. 12.
    """
    checks.same_shape(log_prob=log_prob, q=q)
    return q - temperature * log_prob
