"""The table: every algorithm is one row, and neighbouring rows differ in one word.

psi        what multiplies the score of the action at t
surrogate  the per-step objective that is ascended
improve    how the parameters move
critic     whether V is learned
batch      'episodes': whole trajectories from their first step; 'steps': chunks of a stream of episodes
"""

import tensorflow as tf

from tfpg import baselines, returns, surrogates
from tfpg.improve import ascend, backtracking, fixed, kl_scaled, natural
from tfpg.types import Algorithm, Trajectory


def total_return(t: Trajectory, v_t: tf.Tensor, v_tp1: tf.Tensor, gamma: float, lambda_: float) -> tf.Tensor:
    """psi_t = R_gamma(tau), the same for every step of a trajectory   (PG-24, PG-32)."""
    return tf.broadcast_to(returns.total_return(t.reward, gamma, t.mask), tf.shape(t.reward))


def vectors(t: Trajectory, gamma: float, lambda_: float) -> tuple[tf.Tensor, tf.Tensor]:
    """discount_t and lambda_t of a trajectory, in the type of its rewards."""
    return returns.discount(gamma, t.terminated, t.reward), returns.trace(lambda_, t.terminated, t.truncated, t.reward)


def reward_to_go(t: Trajectory, v_t: tf.Tensor, v_tp1: tf.Tensor, gamma: float, lambda_: float) -> tf.Tensor:
    """psi_t = G_t   (PG-37)."""
    return returns.reward_to_go(t.reward, *vectors(t, gamma, 1.0), t.mask)


def monte_carlo_advantage(t: Trajectory, v_t: tf.Tensor, v_tp1: tf.Tensor, gamma: float, lambda_: float) -> tf.Tensor:
    """psi_t = G_t - V(o_t)   (PG-48), G_t completed by V(o_{t+1}) where the episode was cut rather than ended."""
    return_t = returns.lambda_return(t.reward, *vectors(t, gamma, 1.0), v_t, v_tp1, t.mask)
    return baselines.value_baseline(return_t, v_t, t.mask)


def gae(t: Trajectory, v_t: tf.Tensor, v_tp1: tf.Tensor, gamma: float, lambda_: float) -> tf.Tensor:
    """psi_t = A^lambda_t   (PG-67)."""
    return returns.gae(t.reward, *vectors(t, gamma, lambda_), v_t, v_tp1, t.mask)


ALGORITHMS = {
    "reinforce": Algorithm(total_return, surrogates.score, ascend, critic=False, batch="episodes"),
    "reinforce_togo": Algorithm(reward_to_go, surrogates.score, ascend, critic=False, batch="episodes"),
    "reinforce_baseline": Algorithm(monte_carlo_advantage, surrogates.score, ascend, critic=True, batch="episodes"),
    "npg_fixed": Algorithm(gae, surrogates.importance, natural(fixed), critic=True, batch="steps"),
    "npg": Algorithm(gae, surrogates.importance, natural(kl_scaled), critic=True, batch="steps"),
    "trpo": Algorithm(gae, surrogates.importance, natural(backtracking), critic=True, batch="steps"),
}
