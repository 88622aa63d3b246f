"""How the pace of learning falls: functions of progress x in [0, 1] (how much of the run is done) that multiply what is taken at first.

Every one of them is 1 at x = 0 and never rises. They are plain numbers: a pace enters a compiled program as data.
"""

import math
from collections.abc import Callable


def constant(progress: float) -> float:
    """1."""
    return 1.0


def linear(progress: float) -> float:
    """1 - x: nothing is left at the end."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """(1 + cos(pi x)) / 2: slow at both ends, 0 at the last. Source: Loshchilov and Hutter 2017 (arXiv:1608.03983), equation 5."""
    return (1.0 + math.cos(math.pi * progress)) / 2.0


def exponential(progress: float) -> float:
    """0.01^x: the same factor in equal times, one hundredth at the end."""
    return 0.01**progress


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "exponential": exponential,
}
