"""Episodes of processes with finitely many states in numpy, listed one by one from the definition; some end early.

A process is start [S], move [S, A, S'], reward [S, A], gamma, horizon, and the states `over` in which an episode ends. An episode is a
tuple of pairs (s, a). Nothing here comes from the project.
"""

import dataclasses

import numpy as np


def softmax(theta):
    weight = np.exp(theta - theta.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Process:
    start: np.ndarray
    move: np.ndarray
    reward: np.ndarray
    gamma: float
    horizon: int
    over: tuple = ()

    def episodes(self, pi):
        """(probability, episode) of each one that can happen under pi [S, A]."""

        def continued(state, p, path):
            if p == 0:
                return
            if state in self.over or len(path) == self.horizon:
                yield p, path
                return
            for action in range(self.reward.shape[1]):
                longer, q = (*path, (state, action)), p * pi[state, action]
                if len(longer) == self.horizon:
                    yield q, longer
                    continue
                for following, chance in enumerate(self.move[state, action]):
                    yield from continued(following, q * chance, longer)

        for state, p in enumerate(self.start):
            yield from continued(state, p, ())

    def total(self, path, first=0):
        """sum_{t >= first} gamma^(t - first) r_t."""
        return sum(self.gamma ** (t - first) * self.reward[pair] for t, pair in enumerate(path) if t >= first)

    def objective(self, pi):
        return sum(p * self.total(path) for p, path in self.episodes(pi))

    def values(self, pi):
        """Q [T, S, A] and V [T, S]: means of the rewards to come over the episodes that pass (s, a), or s, at step t; 0 where none does."""
        weight, total = np.zeros((2, self.horizon, *self.reward.shape))
        for p, path in self.episodes(pi):
            for t, pair in enumerate(path):
                weight[(t, *pair)] += p
                total[(t, *pair)] += p * self.total(path, t)

        def mean(a, b):
            return np.divide(a, b, out=np.zeros_like(a), where=b > 0)

        return mean(total, weight), mean(total.sum(-1), weight.sum(-1))

    def occupancy(self, pi):
        """gamma^t times the probability of (s, a) at step t: [T, S, A]."""
        found = np.zeros((self.horizon, *self.reward.shape))
        for p, path in self.episodes(pi):
            for t, pair in enumerate(path):
                found[(t, *pair)] += p * self.gamma**t
        return found


def draw(seed, states=3, actions=2, gamma=0.9, horizon=4, over=()):
    """A random process."""
    rng = np.random.default_rng(seed)
    start, move = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), size=(states, actions))
    return Process(start, move, rng.normal(size=(states, actions)), gamma, horizon, over)


def table_score(theta):
    """grad log softmax(theta)(a|s), flat: [S, A, S A]."""
    states, actions = theta.shape
    score = np.zeros((states, actions, states, actions))
    for s in range(states):
        score[s, :, s] = np.eye(actions) - softmax(theta)[s]
    return score.reshape(states, actions, -1)


def chi_square_bound(degrees, z=4.75):
    """The value that a chi-square variable exceeds with probability one in a million (by Wilson and Hilferty)."""
    return degrees * (1 - 2 / (9 * degrees) + z * np.sqrt(2 / (9 * degrees))) ** 3


def assert_frequencies(counts, probability):
    """Counts [K] of independent draws against their probabilities, rare outcomes taken together."""
    expected = np.asarray(probability) * np.sum(counts)
    rare = expected < 10
    found, expected = (np.append(x[~rare], x[rare].sum()) for x in (np.asarray(counts), expected))
    some = expected > 0
    assert not found[~some].any()
    statistic = ((found[some] - expected[some]) ** 2 / expected[some]).sum()
    assert statistic < chi_square_bound(some.sum() - 1)
