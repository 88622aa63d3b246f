"""What hypothesis draws: small batches and processes of fixed shapes, so that nothing is traced twice."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tfpg.tabular import TabularMDP

T, N, P, K = 5, 3, 4, 6


def reals(*shape, bound=2.0):
    """Arrays of numbers of ordinary size."""
    return arrays(np.float64, shape, elements=st.floats(-bound, bound, allow_subnormal=False), fill=st.nothing())


def positives(*shape):
    return arrays(np.float64, shape, elements=st.floats(0.1, 2.0), fill=st.nothing())


def simplexes(*shape):
    """Probabilities along the last axis, none of them zero."""
    return positives(*shape).map(lambda x: x / x.sum(-1, keepdims=True))


def flags():
    return arrays(bool, (T, N), fill=st.nothing())


def lengths():
    return st.lists(st.integers(1, T), min_size=N, max_size=N)


fractions = st.floats(0.05, 0.95)


class Episodes(NamedTuple):
    """Whole episodes, one per column: the last valid step terminates. Padding holds numbers that nobody may read."""

    r_t: np.ndarray
    v_t: np.ndarray
    v_tp1: np.ndarray
    log_ratio_t: np.ndarray
    score_t: np.ndarray
    mask_t: np.ndarray
    age_t: np.ndarray
    terminated_t: np.ndarray
    gamma: float

    @property
    def discount_t(self):
        return self.gamma * ~self.terminated_t

    @property
    def lambda_t(self):
        return 1.0 * ~self.terminated_t


@st.composite
def episodes(draw):
    steps = np.arange(T)[:, None]
    ends = np.array(draw(lengths()))
    v = draw(reals(T + 1, N))
    r, ratio, score = draw(reals(T, N)), draw(reals(T, N, bound=0.7)), draw(reals(T, N, P))
    age = np.broadcast_to(steps, (T, N)).astype(np.int32)
    return Episodes(r, v[:-1], v[1:], ratio, score, steps < ends, age, steps == ends - 1, draw(fractions))


@st.composite
def chunks(draw):
    """Arguments of the returns at large: any flags, any values; lambda_t is 1 inside an episode and 0 at its end."""
    terminated, truncated = draw(flags()), draw(flags())
    given = {key: draw(reals(T, N)) for key in ("r_t", "v_t", "v_tp1")}
    discount_t, lambda_t = draw(fractions) * ~terminated, 1.0 * ~(terminated | truncated)
    return {**given, "discount_t": discount_t, "lambda_t": lambda_t, "mask_t": np.arange(T)[:, None] < np.array(draw(lengths()))}


@st.composite
def definites(draw, size=P):
    """Symmetric matrices that are positive definite, and far from singular."""
    root = draw(reals(size, size, bound=1.0))
    return root @ root.T + np.eye(size)


@st.composite
def processes(draw, gamma=None, horizon=3, states=3, actions=2):
    """A process with finitely many states, and the parameters of a softmax table."""
    start, transition = draw(simplexes(states)), draw(simplexes(states, actions, states))
    gamma = draw(fractions) if gamma is None else gamma
    return TabularMDP(start, transition, draw(reals(states, actions)), gamma, horizon), draw(reals(states, actions))
