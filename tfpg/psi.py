"""The psi family: what may multiply the score of the action at t   (PG-66).

grad J = E[sum_t g_t psi_t] for psi_t in {R(tau), G_t, G_t - V, Q, A, delta_t, A^(n)_t, A^lambda_t}, with exact critics and one discount
semantics for all (`returns.discount_from_start` on the finished psi_t). Each member reads what it needs of

    trajectory   what happened                           `types.Trajectory`
    critique     what the critics say along it           `types.Critique`
    horizon      how far to look: gamma, lambda, n       `types.Horizon`

and gives psi_t [T, N], zero on padding. Which has least variance depends on the process; only the usual order is known.
"""

import tensorflow as tf

from tfpg import baselines, checks, returns
from tfpg.masks import inside
from tfpg.types import Critique, Horizon, Trajectory


def _vectors(t: Trajectory, gamma: float, lambda_: float) -> tuple[tf.Tensor, tf.Tensor]:
    """discount_t and lambda_t of a trajectory, in the type of its rewards."""
    return returns.discount(gamma, t.terminated, t.reward), returns.trace(lambda_, t.terminated, t.truncated, t.reward)


def total_return(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = R_gamma(tau), the same for every step of a trajectory   (PG-24, PG-32); discounted from the start already."""
    return inside(t.mask, tf.broadcast_to(returns.total_return(t.reward, h.gamma, t.mask), tf.shape(t.reward)))


def reward_to_go(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = G_t   (PG-37)."""
    return returns.reward_to_go(t.reward, *_vectors(t, h.gamma, 1.0), t.mask)


def monte_carlo_advantage(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = G_t - V(o_t)   (PG-48), G_t completed by V(o_{t+1}) where the episode was cut rather than ended."""
    return_t = returns.lambda_return(t.reward, *_vectors(t, h.gamma, 1.0), c.v_t, c.v_tp1, t.mask)
    return baselines.value_baseline(return_t, c.v_t, t.mask)


def action_value(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = Q(o_t, a_t)   (PG-55)."""
    checks.same_shape(q_t=c.q_t, mask=t.mask)
    return inside(t.mask, c.q_t)


def advantage(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = Q(o_t, a_t) - V(o_t)   (PG-63)."""
    return baselines.value_baseline(c.q_t, c.v_t, t.mask)


def td_residual(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = delta_t   (PG-64)."""
    return returns.td_residual(t.reward, returns.discount(h.gamma, t.terminated, t.reward), c.v_t, c.v_tp1, t.mask)


def n_step(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = A^(n)_t   (PG-65)."""
    return returns.n_step(t.reward, *_vectors(t, h.gamma, 1.0), c.v_t, c.v_tp1, t.mask, h.n)


def gae(t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t = A^lambda_t   (PG-67)."""
    return returns.gae(t.reward, *_vectors(t, h.gamma, h.lambda_), c.v_t, c.v_tp1, t.mask)


FAMILY = {
    "return": total_return,
    "togo": reward_to_go,
    "togo_baseline": monte_carlo_advantage,
    "q": action_value,
    "advantage": advantage,
    "td": td_residual,
    "n_step": n_step,
    "gae": gae,
}


def member(kind: str, t: Trajectory, c: Critique, h: Horizon) -> tf.Tensor:
    """psi_t of the kind named, one of `FAMILY`   (PG-66). Returns: [T, N]. Raises: ValueError for a name that is not there."""
    if kind not in FAMILY:
        raise ValueError(f"kind is {kind!r}: {', '.join(FAMILY)} are allowed")
    return FAMILY[kind](t, c, h)
