"""The arguments of every component, by name: their axes, and a law to draw them from.

Nothing is constant, and sizes that a component could mistake for one another differ. Columns of padded arrays have LENGTHS valid steps.
"""

import numpy as np

SIZES = {"T": 5, "N": 3, "P": 4, "S": 3, "A": 2, "K": 7, "O": 4, "J": 2, "D": 4, "L": 6}
LENGTHS = (5, 2, 4)


def normal(rng, shape):
    return rng.normal(size=shape)


def fraction(rng, shape):
    return rng.uniform(0.4, 0.95, size=shape)


def log_fraction(rng, shape):
    return np.log(rng.uniform(0.2, 0.9, size=shape))


def small(rng, shape):
    return 0.4 * rng.normal(size=shape)


def simplex(rng, shape):
    return rng.dirichlet(np.full(shape[-1], 3.0), size=shape[:-1])


def sparse(rng, shape):
    """Probabilities of which some are zero."""
    p = simplex(rng, shape) * (np.arange(shape[-1]) % 3 != 1)
    return p / p.sum(-1, keepdims=True)


def columns(rng, shape):
    return simplex(rng, shape).T


def weight(rng, shape):
    """Weights of steps, zero on padding."""
    return fraction(rng, shape) / 10 * mask(rng, shape)


def mask(_, shape):
    return np.arange(shape[0])[:, None] < np.resize(LENGTHS, shape[1])


def flags(rng, shape):
    return rng.uniform(size=shape) < 0.25


def seldom(rng, shape):
    """Flags that leave some column whole."""
    return flags(rng, shape) & (np.arange(shape[1]) > 0)


def ages(rng, shape):
    return (np.arange(shape[0])[:, None] + rng.integers(0, 3, size=shape[1])).astype(np.int32)


def states(rng, shape):
    return rng.integers(0, SIZES["S"], size=shape).astype(np.int32)


def actions(rng, shape):
    return rng.integers(0, SIZES["A"], size=shape).astype(np.int32)


def triangle(rng, shape):
    return np.tril(small(rng, shape), -1) + np.eye(shape[-1]) * rng.uniform(0.6, 1.5, size=shape)


def definite(rng, shape):
    root = rng.normal(size=shape)
    return root @ root.T + np.eye(shape[0])


def number(value):
    return lambda *_: np.array(value)


def count(value):
    return lambda *_: np.int32(value)


def word(value):
    return lambda *_: value


ARGUMENTS = {
    "action": ("N", lambda rng, shape: rng.integers(0, 7, size=shape).astype(np.int32)),
    "action_t": ("T N", actions),
    "advantage": ("N A", normal),
    "advantage_old_t": ("T S A", normal),
    "age_t": ("T N", ages),
    "a": ("N", normal),
    "average": ("", number(0.6)),
    "b": ("P", normal),
    "b_i": ("N", normal),
    "b_t": ("T N", normal),
    "chain": ("S S", columns),
    "count": ("", count(3)),
    "covariance": ("P P", definite),
    "damping": ("", number(0.3)),
    "decay_t": ("T N", fraction),
    "delta": ("P", normal),
    "dfd": ("", number(1.7)),
    "discount_t": ("T N", fraction),
    "emission": ("S O", simplex),
    "episodes": ("", count(6)),
    "epsilon": ("", number(0.2)),
    "f": ("N", normal),
    "fisher": ("P P", definite),
    "floor": ("", number(0.01)),
    "g": ("P", normal),
    "gamma": ("", number(0.9)),
    "gumbel": ("N K", normal),
    "horizon": ("", count(4)),
    "k": ("", number(-0.7)),
    "kappa": ("", number(0.3)),
    "kl_t": ("T N", fraction),
    "lambda_": ("", number(0.7)),
    "lambda_t": ("T N", fraction),
    "like": ("L", normal),
    "loc": ("N A", normal),
    "loc_p": ("N A", normal),
    "log_std": ("N A", normal),
    "log_std_p": ("N A", normal),
    "log_std_q": ("N A", normal),
    "loc_q": ("N A", normal),
    "log_p": ("N", log_fraction),
    "log_prob": ("K", log_fraction),
    "log_prob_jt": ("J T N", log_fraction),
    "log_prob_old_t": ("T N", log_fraction),
    "log_prob_t": ("T N", log_fraction),
    "log_q": ("N", log_fraction),
    "log_ratio_t": ("T N", small),
    "log_weight": ("N", small),
    "logits": ("N K", normal),
    "logits_p": ("N K", normal),
    "logits_q": ("N K", normal),
    "marginal_t": ("T S A", fraction),
    "mask_t": ("T N", mask),
    "matrix": ("P P", definite),
    "mu": ("S", simplex),
    "n": ("", count(3)),
    "noise": ("N A", normal),
    "normaliser": ("", word("step")),
    "objective": ("", number(1.3)),
    "occupancy": ("S A", fraction),
    "offset": ("", number(0.8)),
    "onehot": ("N K", simplex),
    "p": ("N K", simplex),
    "penalty": ("", number(0.6)),
    "pi": ("S A", simplex),
    "pi_new": ("S A", simplex),
    "pi_new_t": ("T S A", simplex),
    "pi_old": ("S A", simplex),
    "pi_old_t": ("T S A", simplex),
    "pi_t": ("T S A", simplex),
    "pi_tp1": ("T N A", simplex),
    "prediction_t": ("T N D", normal),
    "probability": ("K", simplex),
    "psi_t": ("T N", normal),
    "q": ("S A", normal),
    "q_slope": ("N A", normal),
    "q_t": ("T N", normal),
    "q_tp1": ("T N A", normal),
    "r_t": ("T N", normal),
    "regulariser": ("", number(0.4)),
    "return_": ("", number(2.1)),
    "return_i": ("K", normal),
    "return_t": ("T N", normal),
    "reward": ("S A", normal),
    "s": ("N", normal),
    "scale": ("", number(-1.4)),
    "scale_p": ("N A A", triangle),
    "scale_q": ("N A A", triangle),
    "scale_tril": ("N A A", triangle),
    "score": ("K P", normal),
    "score_i": ("K P", normal),
    "score_t": ("T N P", normal),
    "sigma": ("", number(0.8)),
    "start": ("S", simplex),
    "state_new_t": ("T S", simplex),
    "state_ratio_t": ("T N", fraction),
    "state_t": ("T N", states),
    "state_tp1": ("T N D", normal),
    "target_t": ("T N", normal),
    "temperature": ("", number(0.5)),
    "terminated_t": ("T N", flags),
    "transition": ("S A S", simplex),
    "truncated_t": ("T N", flags),
    "v": ("S", normal),
    "v_t": ("T N", normal),
    "v_tp1": ("T N", normal),
    "w_t": ("T N", weight),
    "weighed_i": ("K P", normal),
    "weight": ("K", simplex),
    "x_t": ("T N", normal),
    "xi": ("A", simplex),
}
