"""A small decision process whose trajectories can all be listed: the exact side of every expectation.

Three states, two actions, three steps; everything random is drawn once. A state is observed as a one-hot vector of (state, time), so that a
policy without hidden layers is a table, and V may depend on time.
"""

import itertools

import numpy as np
import tensorflow as tf

from tfpg import nets, policies
from tfpg.types import Trajectory

S, A, T = 3, 2, 3
rng = np.random.default_rng(11)
START = rng.dirichlet(np.ones(S))
MOVE = rng.dirichlet(np.ones(S), size=(S, A))  # [s, a, s']
REWARD = rng.normal(size=(S, A))
PATHS = np.array([np.ravel(path) for path in itertools.product(itertools.product(range(S), range(A)), repeat=T)]).reshape(-1, T, 2)
STATES, ACTIONS = PATHS[..., 0].T, PATHS[..., 1].T  # [T, 216]

POLICY = policies.categorical(nets.mlp([S * T, A], dtype=tf.float64), A, dtype=tf.float64)


def observe(state, t):
    """One-hot of (state, time); zeros beyond the last step."""
    return np.eye(S * T + 1)[np.where(t < T, state + S * t, S * T)][..., : S * T]


def table(params):
    """pi[t, s, a] of the policy."""
    grid = observe(np.arange(S)[None, :], np.arange(T)[:, None])
    return tf.nn.softmax(POLICY.parameters(params, tf.constant(grid))["logits"], axis=-1).numpy()


def probabilities(params):
    """The probability of each of the 216 trajectories, from the definition."""
    pi, p = table(params), START[STATES[0]]
    for t in range(T):
        p = p * pi[t, STATES[t], ACTIONS[t]]
        if t + 1 < T:
            p = p * MOVE[STATES[t], ACTIONS[t], STATES[t + 1]]
    return p


def objective(params, gamma):
    """J = sum over trajectories of probability times discounted return."""
    returns = sum(gamma**t * REWARD[STATES[t], ACTIONS[t]] for t in range(T))
    return float(probabilities(params) @ returns)


def values(params, gamma):
    """V[t, s], with V[T] = 0, by going back in time."""
    pi, v = table(params), np.zeros((T + 1, S))
    for t in reversed(range(T)):
        q = REWARD + gamma * MOVE @ v[t + 1]
        v[t] = (pi[t] * q).sum(-1)
    return v


def trajectories(params):
    """All of them as one batch of N = 216 columns. What the last action leads to is not part of a trajectory."""
    t = np.arange(T)[:, None]
    following = np.concatenate([STATES[1:], STATES[:1]])
    log_prob = np.log(table(params)[t, STATES, ACTIONS])
    ends = np.broadcast_to(t == T - 1, STATES.shape)
    columns = (observe(STATES, t), ACTIONS.astype(np.int32), log_prob, REWARD[STATES, ACTIONS], observe(following, t + 1), ends)
    rest = (np.zeros_like(ends), np.ones_like(ends), np.broadcast_to(t, STATES.shape).astype(np.int32))
    return Trajectory(*map(tf.constant, columns), *map(tf.constant, rest))


def exact_gradient(params, gamma, h=1e-5):
    """grad J by central differences in every parameter, as one array."""
    leaves = [leaf.numpy() for leaf in tf.nest.flatten(params)]
    slope = []
    for i, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape):
            values = []
            for sign in (1, -1):
                moved = [np.array(other) for other in leaves]
                moved[i][index] += sign * h
                values.append(objective(tf.nest.pack_sequence_as(params, [tf.constant(m) for m in moved]), gamma))
            slope.append((values[0] - values[1]) / (2 * h))
    return np.array(slope)


def flat(nest):
    """A nest as one array, in the order of `exact_gradient`."""
    return np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(nest)])


def some_parameters(seed=5):
    """Parameters away from zero, so that no action is as likely as another."""
    params = POLICY.init(tf.constant([seed, 1]))
    return tf.nest.map_structure(lambda x: x + tf.random.stateless_normal(x.shape, [seed, 2], dtype=x.dtype), params)
