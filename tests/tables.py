"""Processes with finitely many states in numpy, every trajectory listed: nothing here comes from the project.

start [S]; move [S, A, S'] = p(s'|s, a); reward [S, A]; theta [S, A] logits of a policy; indices state_t, action_t [T, K].
"""

from typing import NamedTuple

import numpy as np


class Process(NamedTuple):
    start: np.ndarray
    move: np.ndarray
    reward: np.ndarray
    theta: np.ndarray


def draw(seed, states=3, actions=2):
    """A random process."""
    rng = np.random.default_rng(seed)
    start, move = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), size=(states, actions))
    return Process(start, move, *rng.normal(size=(2, states, actions)))


def softmax(z, axis=-1):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def paths(states, actions, steps):
    """Every sequence of states and actions, as indices [T, (S A)^T]."""
    code = np.indices([states * actions] * steps).reshape(steps, -1)
    return code // actions, code % actions


def every_step(pi, steps):
    """The table of a policy that does not change, once per step [T, S, A]."""
    return np.repeat(pi[None], steps, axis=0)


def probability(start, move, pi_t, state_t, action_t):
    """p(s_1) prod_t pi_t(a_t|s_t) prod_{t<T} p(s_{t+1}|s_t, a_t), one factor after the other."""
    p = start[state_t[0]]
    for t, (s, a) in enumerate(zip(state_t, action_t, strict=True)):
        p = p * pi_t[t][s, a]
        if t + 1 < len(state_t):
            p = p * move[s, a, state_t[t + 1]]
    return p


def scores(theta, state_t, action_t):
    """grad log softmax(theta)(a|s) = e_(s,a) - sum_b pi(b|s) e_(s,b), flat: [T, K, S A]."""
    pi, score = softmax(theta), np.zeros((*state_t.shape, *theta.shape))
    steps, columns = np.indices(state_t.shape)
    score[steps, columns, state_t] = -pi[state_t]
    score[steps, columns, state_t, action_t] += 1
    return score.reshape(*state_t.shape, -1)


def returns(reward, gamma, state_t, action_t):
    return sum(gamma**t * reward[s, a] for t, (s, a) in enumerate(zip(state_t, action_t, strict=True)))


def togo(r_t, gamma=1.0):
    """G_t by its double sum."""
    return np.array([sum(gamma ** (u - t) * r_t[u] for u in range(t, len(r_t))) for t in range(len(r_t))])


class Listed(NamedTuple):
    """All trajectories of T steps under softmax(theta), with their probabilities and scores."""

    state_t: np.ndarray
    action_t: np.ndarray
    r_t: np.ndarray
    p: np.ndarray
    score_t: np.ndarray


def listed(process, steps):
    state_t, action_t = paths(*process.reward.shape, steps)
    p = probability(process.start, process.move, every_step(softmax(process.theta), steps), state_t, action_t)
    return Listed(state_t, action_t, process.reward[state_t, action_t], p, scores(process.theta, state_t, action_t))


def objective(process, theta, steps, gamma=1.0):
    """J(theta), over all trajectories."""
    state_t, action_t = paths(*process.reward.shape, steps)
    p = probability(process.start, process.move, every_step(softmax(theta), steps), state_t, action_t)
    return p @ returns(process.reward, gamma, state_t, action_t)


def moments(p, sample):
    """Mean and covariance of vectors [K, P] of probability p [K]."""
    mean = p @ sample
    centred = sample - mean
    return mean, np.einsum("k,kp,kq->pq", p, centred, centred)


def every_score(theta):
    """g(s, a) [S, A, S A]."""
    states, actions = np.indices(theta.shape).reshape(2, 1, -1)
    return scores(theta, states, actions)[0].reshape(*theta.shape, -1)


def settled(chain):
    """The distribution that every start comes to."""
    power = np.linalg.matrix_power(chain, 2**8)
    power /= power.sum(0)
    np.testing.assert_allclose(power, power[:, :1].repeat(len(chain), 1), atol=1e-12)
    return power.mean(1)


def total_reward(process, pi, steps):
    """J_T, step by step."""
    mu, total, totals = process.start, 0.0, []
    for _ in range(steps):
        total += np.sum(mu[:, None] * pi * process.reward)
        mu = np.einsum("s,sa,sak->k", mu, pi, process.move)
        totals.append(total)
    return np.array(totals)


def circling(seed):
    """A process of two halves, each of which leads to the other: periodic under every policy."""
    process, rng = draw(seed, 4, 3), np.random.default_rng(seed)
    move = np.zeros_like(process.move)
    move[:2, :, 2:], move[2:, :, :2] = rng.dirichlet(np.ones(2), size=(2, 2, 3))
    return process._replace(move=move)
