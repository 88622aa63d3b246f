"""Exact values of tabular processes: backward recursions where the horizon is finite, linear solves where it is not.

Axes: reward [S, A] = r(s, a); transition [S, A, S'] = p(s'|s, a); pi [S, A], pi_t [T, S, A]; q [.., S, A]; v [.., S].
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfpg import checks, linalg, processes


class Values(NamedTuple):
    """Q and V of one policy: q [.., S, A], v [.., S], in units of reward; with a finite horizon both have time as their first axis."""

    q: tf.Tensor
    v: tf.Tensor


class Differential(NamedTuple):
    """Average reward eta [], differential values h [S] with mu . h = 0, and q [S, A] = r - eta + P h."""

    eta: tf.Tensor
    h: tf.Tensor
    q: tf.Tensor


class Improvement(NamedTuple):
    """An optimal policy pi, its values, and how many times policy iteration improved."""

    pi: tf.Tensor
    values: Values
    rounds: tf.Tensor


@checks.component
def backup(reward: tf.Tensor, transition: tf.Tensor, gamma: checks.Scalar, v: tf.Tensor) -> tf.Tensor:
    """Q(s, a) = r(s, a) + gamma sum_{s'} p(s'|s, a) V(s')   (PG-15, PG-16).

    Args: reward [S, A]; transition [S, A, S]; gamma []; v [S], of the next step. Returns: [S, A]. Raises: ValueError if shapes do not fit.
    """
    checks.axes(reward=(reward, "S A"), transition=(transition, "S A S"), v=(v, "S"))
    return reward + gamma * tf.linalg.matvec(transition, v)


@checks.component
def expected_value(q: tf.Tensor, pi: tf.Tensor) -> tf.Tensor:
    """V(s) = sum_a pi(a|s) Q(s, a)   (PG-16). Args: q, pi [..., S, A]. Returns: [..., S]. Raises: ValueError if the shapes differ."""
    checks.same_shape(q=q, pi=pi)
    return tf.reduce_sum(pi * q, axis=-1)


@checks.component
def advantage(q: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """A(s, a) = Q(s, a) - V(s)   (PG-18, PG-63): positive where an action is better than the policy's average.

    Args: q [..., A]; v [...]. Returns: [..., A]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(q=(q, "... A"), v=(v, "..."))
    return q - v[..., None]


@checks.component
def finite_values(reward: tf.Tensor, transition: tf.Tensor, pi_t: tf.Tensor, gamma: checks.Scalar) -> Values:
    """Q_t = r + gamma P V_{t+1},  V_t = sum_a pi_t Q_t,  V_{T+1} = 0   (PG-15, PG-16): the nested expectations, from the inside out.

    Args: reward [S, A]; transition [S, A, S]; pi_t [T, S, A]; gamma []. Returns: Values(q [T, S, A], v [T, S]).
    Raises: ValueError if the shapes do not fit.
    """
    checks.axes(reward=(reward, "S A"), transition=(transition, "S A S"), pi_t=(pi_t, "T S A"))

    def back(later: Values, pi: tf.Tensor) -> Values:
        q = backup(reward, transition, gamma, later.v)
        return Values(q, expected_value(q, pi))

    return tf.scan(back, pi_t, Values(tf.zeros_like(reward), tf.zeros(tf.shape(reward)[:1], reward.dtype)), reverse=True)


@checks.component
def discounted_values(reward: tf.Tensor, transition: tf.Tensor, pi: tf.Tensor, gamma: checks.Scalar) -> Values:
    """V = (I - gamma P_pi)^{-1} r_pi,  Q = r + gamma P V   (PG-16), for ever.

    Args: reward [S, A]; transition [S, A, S]; pi [S, A]; gamma [] below one. Returns: Values(q [S, A], v [S]).
    Raises: ValueError if the shapes do not fit.
    """
    checks.same_shape(reward=reward, pi=pi)
    chain = processes.state_chain(pi, transition)
    v = linalg.solve(linalg.identity(chain) - gamma * tf.transpose(chain), expected_value(reward, pi))
    return Values(backup(reward, transition, gamma, v), v)


@checks.component
def discounted_visitation(start: tf.Tensor, transition: tf.Tensor, pi: tf.Tensor, gamma: checks.Scalar) -> tf.Tensor:
    """d_gamma(s) = sum_{t>=1} gamma^{t-1} p_theta(s_t = s) = ((I - gamma T_pi)^{-1} p_1)(s)   (PG-56), of mass 1 / (1 - gamma).

    Args: start [S]; transition [S, A, S]; pi [S, A]; gamma [] below one. Returns: [S]. Raises: ValueError if the shapes do not fit.
    """
    checks.axes(start=(start, "S"), transition=(transition, "S A S"), pi=(pi, "S A"))
    chain = processes.state_chain(pi, transition)
    return linalg.solve(linalg.identity(chain) - gamma * chain, start)


@checks.component
def average_values(reward: tf.Tensor, transition: tf.Tensor, pi: tf.Tensor) -> Differential:
    """(I - P_pi + 1 mu^T) h = r_pi - eta,  eta = mu . r_pi,  Q = r - eta + P h   (PG-133), mu the stationary distribution.

    Of the values h, which are known up to a constant, these have mu . h = 0. NaN where mu is not unique (`processes.stationary`).
    Args: reward [S, A]; transition [S, A, S]; pi [S, A]. Returns: Differential(eta [], reward per step; h [S] and q [S, A], in units of
    reward). Raises: ValueError if the shapes do not fit.
    """
    checks.same_shape(reward=reward, pi=pi)
    chain = processes.state_chain(pi, transition)
    mu, unique = processes.stationary(chain)
    eta = processes.average_reward(mu[:, None] * pi, reward)
    system = linalg.identity(chain) - tf.transpose(chain) + mu[None, :]
    h = linalg.solve(tf.where(unique, system, linalg.identity(chain)), expected_value(reward, pi) - eta)
    return Differential(eta, h, backup(reward, transition, 1.0, h) - eta)


@checks.component
def theorem_gradient(occupancy: tf.Tensor, score: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """grad J = sum_{s,a} d(s) pi(a|s) g(s, a) Q(s, a)   (PG-55, PG-56, PG-133): the policy-gradient theorem.

    Exact for (d_gamma, discounted Q), for (gamma^{t-1} mu_t, Q_t) with time as a leading axis, and, as the gradient of the average reward,
    for (stationary mu, differential Q). With d_gamma normalised to one it is (1 - gamma) grad J.

    Args: occupancy [..., S, A] = d(s) pi(a|s), not normalised; score [S, A, P] = grad log pi(a|s); q [..., S, A]. Returns: [P].
    Raises: ValueError if the shapes do not fit.
    """
    checks.axes(occupancy=(occupancy, "... S A"), score=(score, "S A P"), q=(q, "... S A"))
    weighed = tf.reduce_sum(tf.reshape(occupancy * q, [-1, tf.shape(score)[0], tf.shape(score)[1]]), axis=0)
    return tf.einsum("sa,sap->p", weighed, score)


@checks.component
def value_of_start(start: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
    """J = E_{s_1}[V_1(s_1)]   (PG-17). Args: start, v [S]. Returns: []. Raises: ValueError if the shapes differ."""
    checks.axes(start=(start, "S"), v=(v, "S"))
    return tf.tensordot(start, v, 1)


@checks.component
def value_of_first_action(start: tf.Tensor, pi: tf.Tensor, q: tf.Tensor) -> tf.Tensor:
    """J = E_{s_1} E_{a_1}[Q_1(s_1, a_1)]   (PG-17). Args: start [S]; pi, q [S, A]. Returns: []. Raises: ValueError if shapes do not fit."""
    checks.axes(start=(start, "S"), pi=(pi, "S A"), q=(q, "S A"))
    return tf.einsum("s,sa,sa->", start, pi, q)


@checks.component
def greedy(q: tf.Tensor) -> tf.Tensor:
    """pi(a|s) = 1 for a = argmax_a Q(s, a), the lowest of equals   (PG-130). Args: q [..., S, A]. Returns: [..., S, A]."""
    return tf.one_hot(tf.argmax(q, axis=-1), tf.shape(q)[-1], dtype=q.dtype)


@checks.component
def optimal_values(reward: tf.Tensor, transition: tf.Tensor, gamma: checks.Scalar, horizon: int) -> Values:
    """Q*_t = r + gamma P V*_{t+1},  V*_t = max_a Q*_t,  V*_{T+1} = 0   (PG-61, PG-130): backward value iteration.

    Args: reward [S, A]; transition [S, A, S]; gamma []; horizon T. Returns: Values(q [T, S, A], v [T, S]).
    Raises: ValueError if the shapes do not fit.
    """

    def back(later: Values, _: tf.Tensor) -> Values:
        q = backup(reward, transition, gamma, later.v)
        return Values(q, tf.reduce_max(q, axis=-1))

    return tf.scan(back, tf.range(horizon), Values(tf.zeros_like(reward), tf.zeros(tf.shape(reward)[:1], reward.dtype)), reverse=True)


@checks.component
def policy_iteration(reward: tf.Tensor, transition: tf.Tensor, pi: tf.Tensor, gamma: checks.Scalar) -> Improvement:
    """pi <- greedy(Q^pi) until no action is better   (PG-130), for ever and discounted: V rises in every state, at every round.

    In each state the policy stays as it is, random or not, unless some action is better by more than round-off: equal actions do not
    make it go round in circles, and what is no process ends after 1000 rounds.
    Args: reward [S, A]; transition [S, A, S]; pi [S, A], where to start; gamma [] below one.
    Returns: Improvement(pi [S, A], Values(q, v), rounds []). Raises: ValueError if the shapes do not fit.
    """
    tolerance = 1e4 * float(np.finfo(reward.dtype.as_numpy_dtype).eps)

    def better(values: Values) -> tf.Tensor:
        return tf.reduce_max(values.q, axis=-1) - values.v > tolerance * tf.reduce_max(tf.abs(values.q))

    def improve(pi: tf.Tensor, values: Values, k: tf.Tensor) -> tuple[tf.Tensor, Values, tf.Tensor]:
        pi = tf.where(better(values)[:, None], greedy(values.q), pi)
        return pi, discounted_values(reward, transition, pi, gamma), k + 1

    start = (pi, discounted_values(reward, transition, pi, gamma), tf.constant(0))
    return Improvement(*tf.while_loop(lambda _, values, k: tf.reduce_any(better(values)), improve, start, maximum_iterations=1000))
