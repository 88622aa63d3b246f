"""Returns: from rewards (and values) to psi_t, all of them one backward affine scan.

Two vectors carry the ends of episodes, so there is no `done` flag in the mathematics:

    discount_t = gamma  (1 - terminated_t)            what the future is worth: nothing after a termination, V after a truncation
    lambda_t   = lambda (1 - terminated_t or truncated_t)   how far sums reach: never across the end of an episode

All arguments named `*_t` have shape [T, N]. `v_tp1` is V(o_{t+1}) at the true next observation; values shifted by one are not the same,
since after an automatic reset they belong to another episode. The last row of a chunk needs no care: sums stop there, V(o_{t+1}) stands
for the rest. `mask_t` is False on padding, whose content (NaN included) reaches neither value nor gradient.
"""

import tensorflow as tf

from tfpg import checks
from tfpg.masks import inside


@checks.component
def discount(gamma: checks.Scalar, terminated_t: tf.Tensor, like: tf.Tensor | None = None) -> tf.Tensor:
    """discount_t = gamma (1 - terminated_t).

    Args: gamma in [0, 1], per step; terminated_t [T, N] bool; like: any tensor of the type wanted, such as r_t (without it: gamma's).
    Returns: [T, N].
    """
    gamma = gamma if like is None else tf.cast(gamma, like.dtype)
    return gamma * tf.cast(~terminated_t, gamma.dtype)


@checks.component
def trace(lambda_: checks.Scalar, terminated_t: tf.Tensor, truncated_t: tf.Tensor, like: tf.Tensor | None = None) -> tf.Tensor:
    """lambda_t = lambda (1 - (terminated_t or truncated_t)).

    Args: lambda_ in [0, 1]; terminated_t, truncated_t [T, N] bool; like: as for `discount`. Returns: [T, N].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(terminated_t=terminated_t, truncated_t=truncated_t)
    lambda_ = lambda_ if like is None else tf.cast(lambda_, like.dtype)
    return lambda_ * tf.cast(~(terminated_t | truncated_t), lambda_.dtype)


@checks.component
def scan_back(x_t: tf.Tensor, decay_t: tf.Tensor) -> tf.Tensor:
    """y_t = x_t + decay_t y_{t+1},  y_T = 0: the one recursion under all returns.

    Args: x_t [T, ...]; decay_t [T, ...] of the same shape. Returns: [T, ...]. Differentiable in both.
    Raises: ValueError if the shapes differ.
    """
    checks.rank(1, x_t=x_t)
    checks.same_shape(x_t=x_t, decay_t=decay_t)
    return tf.scan(lambda y_tp1, now: now[0] + now[1] * y_tp1, (x_t, decay_t), tf.zeros_like(x_t[0]), reverse=True)


@checks.component
def total_return(r_t: tf.Tensor, gamma: checks.Scalar, mask_t: tf.Tensor) -> tf.Tensor:
    """R_gamma(tau) = sum_t gamma^{t-1} r_t   (PG-11), one whole episode per column, from its first step.

    Args: r_t [T, N] reward; gamma [] in [0, 1]; mask_t [T, N] bool. Returns: [N], in units of reward.
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(r_t=r_t, mask_t=mask_t)
    r_t = inside(mask_t, r_t)
    return scan_back(r_t, gamma * tf.ones_like(r_t))[0]


@checks.component
def reward_to_go(r_t: tf.Tensor, discount_t: tf.Tensor, lambda_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """G_t = r_t + discount_t lambda_t G_{t+1}   (PG-34, PG-35 'togo'), with lambda_t = 1 inside an episode and 0 at its end.

    Nothing stands for what lies beyond a truncation or beyond the last row: use it on whole episodes, or see `gae` at lambda = 1.

    Args: r_t, discount_t, lambda_t [T, N]; mask_t [T, N] bool. Returns: [T, N], in units of reward.
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(r_t=r_t, discount_t=discount_t, lambda_t=lambda_t, mask_t=mask_t)
    r_t, discount_t, lambda_t = inside(mask_t, (r_t, discount_t, lambda_t))
    return scan_back(r_t, discount_t * lambda_t)


@checks.component
def td_residual(r_t: tf.Tensor, discount_t: tf.Tensor, v_t: tf.Tensor, v_tp1: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """delta_t = r_t + discount_t V(o_{t+1}) - V(o_t)   (PG-64).

    Args: r_t, discount_t, v_t, v_tp1 [T, N]; mask_t [T, N] bool. Returns: [T, N], in units of reward.
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(r_t=r_t, discount_t=discount_t, v_t=v_t, v_tp1=v_tp1, mask_t=mask_t)
    r_t, discount_t, v_t, v_tp1 = inside(mask_t, (r_t, discount_t, v_t, v_tp1))
    return r_t + discount_t * v_tp1 - v_t


@checks.component
def n_step(
    r_t: tf.Tensor, discount_t: tf.Tensor, lambda_t: tf.Tensor, v_t: tf.Tensor, v_tp1: tf.Tensor, mask_t: tf.Tensor, n: int
) -> tf.Tensor:
    """A^(n)_t = sum_{k<m} gamma^k r_{t+k} + gamma^m V(o_{t+m}) - V(o_t),  m = min(n, steps left)   (PG-65).

    Built from the telescoped form A^(n)_t = delta_t + discount_t lambda_t A^(n-1)_{t+1}, A^(0) = 0. V(o_{t+m}) is dropped after a
    termination and kept after a truncation and after the last row.

    Args: r_t, discount_t, v_t, v_tp1 [T, N]; lambda_t [T, N], 1 inside an episode and 0 at its end; mask_t [T, N] bool; n >= 1 steps.
    Returns: [T, N], in units of reward. Raises: ValueError if the shapes differ.
    """
    delta_t = td_residual(r_t, discount_t, v_t, v_tp1, mask_t)
    checks.same_shape(r_t=r_t, lambda_t=lambda_t)
    discount_t, lambda_t = inside(mask_t, (discount_t, lambda_t))

    def longer(k: tf.Tensor, advantage_t: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        advantage_tp1 = tf.concat([advantage_t[1:], tf.zeros_like(advantage_t[:1])], axis=0)
        return k + 1, delta_t + discount_t * lambda_t * advantage_tp1

    return tf.while_loop(lambda k, _: k < n, longer, (tf.constant(1), delta_t), maximum_iterations=r_t.shape[0])[1]


@checks.component
def gae(r_t: tf.Tensor, discount_t: tf.Tensor, lambda_t: tf.Tensor, v_t: tf.Tensor, v_tp1: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """A_t = delta_t + discount_t lambda_t A_{t+1}   (PG-67): generalised advantage estimation.

    lambda = 0 gives delta_t; lambda = 1 gives G_t - V(o_t), with V(o_{t+1}) standing for the rest after a truncation or the last row.

    Args: r_t, discount_t, lambda_t, v_t, v_tp1 [T, N]; mask_t [T, N] bool. Returns: [T, N], in units of reward.
    Raises: ValueError if the shapes differ.
    Reference: Schulman et al. 2016 (arXiv:1506.02438), eq. 16.
    """
    delta_t = td_residual(r_t, discount_t, v_t, v_tp1, mask_t)
    checks.same_shape(r_t=r_t, lambda_t=lambda_t)
    discount_t, lambda_t = inside(mask_t, (discount_t, lambda_t))
    return scan_back(delta_t, discount_t * lambda_t)


@checks.component
def lambda_return(
    r_t: tf.Tensor, discount_t: tf.Tensor, lambda_t: tf.Tensor, v_t: tf.Tensor, v_tp1: tf.Tensor, mask_t: tf.Tensor
) -> tf.Tensor:
    """G^lambda_t = A_t + V(o_t)   (PG-131): the target that goes with `gae`, by the same arguments.

    Zero on padding. Raises: ValueError if the shapes differ.
    """
    advantage_t = gae(r_t, discount_t, lambda_t, v_t, v_tp1, mask_t)
    return advantage_t + inside(mask_t, v_t)


@checks.component
def discount_from_start(psi_t: tf.Tensor, gamma: checks.Scalar, age_t: tf.Tensor) -> tf.Tensor:
    """gamma^{age_t} psi_t   (PG-35 'start', PG-36): the factor that makes sum_t g_t psi_t the gradient of the discounted objective.

    It multiplies the finished psi_t, baseline already subtracted. Without it ('togo') the estimate is biased when gamma < 1, and is
    what practice uses, since it weighs late steps as much as early ones.

    Args: psi_t [T, N]; gamma [] in [0, 1]; age_t [T, N] steps since the episode began (not the row of the chunk). Returns: [T, N].
    Raises: ValueError if the shapes differ.
    """
    checks.same_shape(psi_t=psi_t, age_t=age_t)
    return gamma ** tf.cast(age_t, gamma.dtype) * psi_t
