"""Processes with finitely many states: how probability moves, one step at a time, and what a trajectory's probability is.

Axes: start [S] = p(s_1); transition [S, A, S'] = p(s'|s, a), its last axis summing to one; pi_t [T, S, A] = pi_t(a|s), one table per
step (a policy that does not change with time is repeated T times); emission [S, O] = p(o|s). A chain [S', S] is column-stochastic,
chain[i, j] = p(s' = i | s = j), so that it multiplies a distribution from the left as in the lecture.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import checks, linalg
from tfpg.masks import inside


@checks.component
def chain_step(mu: tf.Tensor, chain: tf.Tensor) -> tf.Tensor:
    """mu_{t+1} = T mu_t   (PG-01), T_ij = p(s' = i | s = j).

    Args: mu [S] probabilities; chain [S, S], columns summing to one. Returns: [S]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(mu=(mu, "S"), chain=(chain, "S S"))
    return tf.linalg.matvec(chain, mu)


@checks.component
def chain_marginals(mu: tf.Tensor, chain: tf.Tensor, horizon: int) -> tf.Tensor:
    """mu_t = T^{t-1} mu_1 for t = 1..horizon   (PG-01).

    Args: mu [S] = mu_1; chain [S, S] column-stochastic; horizon: steps. Returns: [horizon, S]. Raises: ValueError if shapes do not fit.
    """
    checks.axes(mu=(mu, "S"), chain=(chain, "S S"))
    later = tf.scan(lambda mu_t, _: chain_step(mu_t, chain), tf.range(horizon), mu)
    return tf.concat([mu[None], later[:-1]], axis=0)


@checks.component
def open_loop_step(mu: tf.Tensor, xi: tf.Tensor, transition: tf.Tensor) -> tf.Tensor:
    """mu_{t+1}(s') = sum_{s,a} p(s'|s,a) mu_t(s) xi_t(a)   (PG-02): actions drawn without looking at the state.

    For a policy that looks, the product of the two marginals is wrong: see `marginal_step`.
    Args: mu [S]; xi [A] = p(a_t); transition [S, A, S]. Returns: [S]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(mu=(mu, "S"), xi=(xi, "A"), transition=(transition, "S A S"))
    return tf.einsum("sak,s,a->k", transition, mu, xi)


@checks.component
def marginal_step(mu: tf.Tensor, pi: tf.Tensor, transition: tf.Tensor) -> tf.Tensor:
    """mu_{t+1}(s') = sum_{s,a} p(s'|s,a) pi(a|s) mu_t(s)   (PG-03).

    Args: mu [S]; pi [S, A]; transition [S, A, S]. Returns: [S]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(mu=(mu, "S"), pi=(pi, "S A"), transition=(transition, "S A S"))
    return tf.einsum("sak,sa,s->k", transition, pi, mu)


@checks.component
def state_marginals(start: tf.Tensor, pi_t: tf.Tensor, transition: tf.Tensor) -> tf.Tensor:
    """p_theta(s_t = s) for t = 1..T   (PG-03).

    Args: start [S]; pi_t [T, S, A]; transition [S, A, S]. Returns: [T, S]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(start=(start, "S"), pi_t=(pi_t, "T S A"), transition=(transition, "S A S"))
    later = tf.scan(lambda mu_t, pi: marginal_step(mu_t, pi, transition), pi_t, start)
    return tf.concat([start[None], later[:-1]], axis=0)


@checks.component
def state_action_marginals(start: tf.Tensor, pi_t: tf.Tensor, transition: tf.Tensor) -> tf.Tensor:
    """p_theta(s_t = s, a_t = a) = p_theta(s_t = s) pi_t(a|s)   (PG-08).

    Args: as for `state_marginals`. Returns: [T, S, A]. Raises: ValueError if the shapes do not fit.
    """
    return state_marginals(start, pi_t, transition)[..., None] * pi_t


@checks.component
def state_chain(pi: tf.Tensor, transition: tf.Tensor) -> tf.Tensor:
    """p_theta(s' = i | s = j) = sum_a p(i|j,a) pi(a|j): the chain [S, S] of states under a policy, column-stochastic   (PG-03).

    Args: pi [S, A]; transition [S, A, S]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(pi=(pi, "S A"), transition=(transition, "S A S"))
    return tf.einsum("jai,ja->ij", transition, pi)


@checks.component
def state_action_chain(pi: tf.Tensor, transition: tf.Tensor) -> tf.Tensor:
    """p(s', a'|s, a) = p(s'|s, a) pi(a'|s')   (PG-07), column-stochastic; the pair (s, a) has index s A + a.

    Args: pi [S, A]; transition [S, A, S]. Returns: [S A, S A]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(pi=(pi, "S A"), transition=(transition, "S A S"))
    pairs = tf.size(pi)
    return tf.reshape(tf.einsum("sak,kb->kbsa", transition, pi), [pairs, pairs])


class Stationary(NamedTuple):
    """mu [S] with T mu = mu, and whether it is the only one; where it is not, mu is NaN."""

    mu: tf.Tensor
    unique: tf.Tensor


@checks.component
def stationary(chain: tf.Tensor) -> Stationary:
    """(T - I) mu = 0, sum mu = 1   (PG-09).

    The two conditions stacked have full column rank exactly if the chain has one recurrent class (it may be periodic: mu exists, though
    mu_t then need not converge to it). A chain with several has `unique` False. Solved by QR, which is exact to round-off under XLA too.
    Args: chain [S, S] column-stochastic. Returns: Stationary(mu [S], unique []). Raises: ValueError if the chain is not square.
    """
    checks.axes(chain=(chain, "S S"))
    q, r = tf.linalg.qr(tf.concat([chain - linalg.identity(chain), tf.ones_like(chain[:1])], axis=0))
    unique = tf.reduce_min(tf.abs(tf.linalg.diag_part(r))) > 1e3 * float(np.finfo(chain.dtype.as_numpy_dtype).eps)
    mu = tf.squeeze(tf.linalg.triangular_solve(r, q[-1][:, None], lower=False), axis=1)
    return Stationary(tf.where(unique, mu, tf.constant(np.nan, chain.dtype)), unique)


@checks.component
def average_reward(occupancy: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
    """eta = sum_{s,a} mu(s, a) r(s, a)   (PG-10): the limit of J_T / T.

    Args: occupancy [S, A] = mu(s) pi(a|s), stationary; reward [S, A]. Returns: [], reward per step. Raises: ValueError if shapes differ.
    """
    checks.axes(occupancy=(occupancy, "S A"), reward=(reward, "S A"))
    return tf.reduce_sum(occupancy * reward)


@checks.component
def observation_marginal(mu: tf.Tensor, emission: tf.Tensor) -> tf.Tensor:
    """p(o_t) = sum_s p(o|s) mu_t(s)   (PG-04).

    Args: mu [S]; emission [S, O]. Returns: [O]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(mu=(mu, "S"), emission=(emission, "S O"))
    return tf.linalg.matvec(emission, mu, transpose_a=True)


@checks.component
def induced_policy(emission: tf.Tensor, pi: tf.Tensor) -> tf.Tensor:
    """pi(a|s) = sum_o p(o|s) pi(a|o)   (PG-04): what a policy of observations does in each state.

    Args: emission [S, O]; pi [O, A]. Returns: [S, A]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(emission=(emission, "S O"), pi=(pi, "O A"))
    return tf.matmul(emission, pi)


@checks.component
def policy_log_prob(log_prob_t: tf.Tensor, mask_t: tf.Tensor) -> tf.Tensor:
    """sum_t log pi(a_t|s_t)   (PG-06, PG-22): the part of log p(tau) that depends on theta.

    Args: log_prob_t [T, N]; mask_t [T, N] bool. Returns: [N], in nats. Raises: ValueError if the shapes differ.
    """
    checks.same_shape(log_prob_t=log_prob_t, mask_t=mask_t)
    return tf.reduce_sum(inside(mask_t, log_prob_t), axis=0)


def _factors(
    start: tf.Tensor, pi_t: tf.Tensor, transition: tf.Tensor, state_t: tf.Tensor, action_t: tf.Tensor, mask_t: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """The 1 + (T - 1) factors of the environment [T, N] and the T factors of the policy [T, N]; ones on padding."""
    checks.axes(start=(start, "S"), pi_t=(pi_t, "T S A"), transition=(transition, "S A S"), state_t=(state_t, "T N"))
    checks.same_shape(state_t=state_t, action_t=action_t, mask_t=mask_t)
    state_t, action_t = (tf.cast(index, tf.int32) for index in inside(mask_t, (state_t, action_t)))
    pairs = tf.stack([state_t, action_t], axis=-1)
    moved = tf.gather_nd(transition, tf.concat([pairs[:-1], state_t[1:, :, None]], axis=-1))
    environment = tf.concat([tf.gather(start, state_t[:1]), moved], axis=0)
    policy = tf.gather_nd(pi_t, pairs, batch_dims=1)
    return tf.where(mask_t, environment, tf.ones_like(environment)), tf.where(mask_t, policy, tf.ones_like(policy))


@checks.component
def trajectory_probability(
    start: tf.Tensor, pi_t: tf.Tensor, transition: tf.Tensor, state_t: tf.Tensor, action_t: tf.Tensor, mask_t: tf.Tensor
) -> tf.Tensor:
    """p(tau) = p(s_1) prod_{t=1}^{T} pi_t(a_t|s_t) prod_{t=1}^{T-1} p(s_{t+1}|s_t, a_t)   (PG-05).

    T policy factors and T - 1 transition factors: what the last action leads to is not part of tau. So it sums to one over all tau.
    Args: start [S]; pi_t [T, S, A]; transition [S, A, S]; state_t, action_t [T, N] integers; mask_t [T, N] bool, a prefix of each column.
    Returns: [N]. Raises: ValueError if the shapes do not fit.
    """
    environment, policy = _factors(start, pi_t, transition, state_t, action_t, mask_t)
    return tf.reduce_prod(environment, axis=0) * tf.reduce_prod(policy, axis=0)


@checks.component
def trajectory_log_prob(
    start: tf.Tensor, pi_t: tf.Tensor, transition: tf.Tensor, state_t: tf.Tensor, action_t: tf.Tensor, mask_t: tf.Tensor
) -> tf.Tensor:
    """log p(tau) = log p(s_1) + sum_{t=1}^{T} log pi_t(a_t|s_t) + sum_{t=1}^{T-1} log p(s_{t+1}|s_t, a_t)   (PG-06).

    Args and errors: as for `trajectory_probability`. Returns: [N], in nats, -inf for what cannot happen; no underflow however long tau is.
    """
    environment, policy = _factors(start, pi_t, transition, state_t, action_t, mask_t)
    return tf.reduce_sum(tf.math.log(environment), axis=0) + policy_log_prob(tf.math.log(policy), mask_t)
