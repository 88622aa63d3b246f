"""Schedules: their values at the ends and between, and that they never rise."""

import math

import numpy as np
import pytest

from tfpg.schedules import SCHEDULES

# At 0, 1/4, 1/2, 3/4 and 1.
VALUES = {
    "constant": [1, 1, 1, 1, 1],
    "linear": [1, 3 / 4, 1 / 2, 1 / 4, 0],
    "cosine": [1, 1 / 2 + math.sqrt(1 / 8), 1 / 2, 1 / 2 - math.sqrt(1 / 8), 0],
    "exponential": [1, 1 / math.sqrt(10), 1 / 10, 1 / math.sqrt(1000), 1 / 100],
}


def test_every_schedule_is_listed_here():
    assert list(SCHEDULES) == list(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_values(name):
    found = [SCHEDULES[name](x) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    np.testing.assert_allclose(found, VALUES[name], rtol=1e-14, atol=1e-16)
    assert {type(x) for x in found} == {float}
    assert found[0] == 1.0


@pytest.mark.parametrize("name", VALUES)
def test_a_pace_never_rises_and_stays_between_0_and_1(name):
    paces = [SCHEDULES[name](x) for x in np.linspace(0, 1, 101).tolist()]
    assert all(0 <= pace <= 1 for pace in paces)
    falls = -np.diff(paces)
    assert (falls >= 0).all() if name == "constant" else (falls > 0).all()


def test_the_exponential_schedule_falls_by_the_same_factor_in_equal_times():
    paces = [SCHEDULES["exponential"](x) for x in np.linspace(0, 1, 11).tolist()]
    np.testing.assert_allclose(np.divide(paces[1:], paces[:-1]), 0.01**0.1, rtol=1e-12)
