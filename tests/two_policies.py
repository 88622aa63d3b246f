"""Two policies in a process whose episodes end at random: what the new one does, weighed by how likely the old one does it.

Four states, two actions, at most three steps; after each step the episode ends with a probability of its own. Everything is numpy, and
every trajectory is listed. What stands on padding is finite and wrong: rewards of 7, actions that were never taken.
"""

import itertools

import numpy as np

S, A, T = 4, 2, 3
rng = np.random.default_rng(23)
START = rng.dirichlet(np.ones(S))
MOVE, END = np.split(rng.dirichlet(np.ones(S + 1), size=(S, A)), [S], axis=-1)  # p(s'|s, a), p(the episode ends|s, a)
REWARD = rng.normal(0.4, 1, size=(S, A))
OLD = rng.normal(size=(S, A))
DIRECTION = rng.normal(size=(S, A))
DIRECTION /= np.linalg.norm(DIRECTION)
NEW = OLD + 1.6 * DIRECTION


def _listing():
    """States, actions, mask [T, N], and the environment's part of each trajectory's probability [N]."""
    columns = []
    for length in range(1, T + 1):
        for path in itertools.product(itertools.product(range(S), range(A)), repeat=length):
            chance = START[path[0][0]]
            for (s, a), (following, _) in itertools.pairwise(path):
                chance *= MOVE[s, a, following]
            chance *= END[path[-1]].item() if length < T else 1
            padded = np.array([*path, *[(0, 0)] * (T - length)])
            columns.append((padded[:, 0], padded[:, 1], np.arange(T) < length, chance))
    states, actions, mask, chance = map(np.array, zip(*columns, strict=True))
    return states.T, actions.T, mask.T, chance


STATES, ACTIONS, MASK, CHANCE = _listing()
N = len(CHANCE)
R = np.where(MASK, REWARD[STATES, ACTIONS], 7.0)
AGE = np.broadcast_to(np.arange(T)[:, None], (T, N))
LAST = MASK & ~np.concatenate([MASK[1:], np.zeros((1, N), bool)])


def policy(theta):
    """pi[s, a], a softmax table."""
    return np.exp(theta) / np.exp(theta).sum(axis=-1, keepdims=True)


def log_prob(theta):
    """log pi(a_t|s_t), [T, N]; on padding, of what was not done."""
    return np.log(policy(theta)[STATES, ACTIONS])


def probability(theta):
    """p_theta(tau), [N]."""
    return CHANCE * np.exp(np.where(MASK, log_prob(theta), 0).sum(axis=0))


def score(theta):
    """grad log pi(a_t|s_t), [T, N, S A]: in row s, e_a - pi(.|s). Zero on padding."""
    result = np.zeros((T, N, S, A))
    for t, i in np.argwhere(MASK):
        s, a = STATES[t, i], ACTIONS[t, i]
        result[t, i, s] = np.eye(A)[a] - policy(theta)[s]
    return result.reshape(T, N, S * A)


def weighed(theta_old, theta_new, psi):
    """E_old[sum_t grad log pi_new(a_t|s_t) psi_t]."""
    return np.einsum("n,tnp,tn->p", probability(theta_old), score(theta_new), np.where(MASK, psi, 0))


def action_values(theta, gamma):
    """Q[t, s, a], by going back in time."""
    q, v = np.zeros((T, S, A)), np.zeros(S)
    for t in reversed(range(T)):
        q[t] = REWARD + gamma * MOVE @ v
        v = (policy(theta) * q[t]).sum(axis=-1)
    return q


def objective(theta, gamma):
    """J = E[V_1(s_1)]."""
    return float(START @ (policy(theta) * action_values(theta, gamma)[0]).sum(axis=-1))


def state_marginals(theta):
    """p_theta(s_t = s and the episode goes on), [T, S], by going forward in time."""
    marginals = [START]
    for _ in range(T - 1):
        marginals.append(np.einsum("s,sa,sak->k", marginals[-1], policy(theta), MOVE))
    return np.array(marginals)


def reward_to_go(gamma):
    """G_t, [T, N], zero on padding."""
    return np.array([sum(gamma ** (u - t) * np.where(MASK[u], R[u], 0) for u in range(t, T)) for t in range(T)]) * MASK
