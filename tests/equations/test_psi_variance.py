"""How the members of the family differ in variance: on one process as published, and in no order that holds on all of them."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import psi
from tfpg.tabular import TabularMDP
from tfpg.types import Critique, Horizon

equation = pytest.mark.equation


def variances(seed, offset=0.0):
    """Trace of Var(sum_t g_t psi_t) by kind, and E|g_t psi_t|^2 of each step; process and theta drawn one after the other."""
    rng = np.random.default_rng(seed)
    start, move = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), size=(3, 2))
    reward, theta = rng.normal(size=(3, 2)) + offset, rng.normal(size=(3, 2))
    pi = np.exp(theta) / np.exp(theta).sum(-1, keepdims=True)
    q, v = np.zeros((3, 3, 2)), np.zeros((4, 3))
    for t in (2, 1, 0):
        q[t] = reward + move @ v[t + 1]
        v[t] = (pi * q[t]).sum(-1)
    trajectory, p, score_t = TabularMDP(start, move, reward, 1.0, horizon=3).trajectories(tf.constant(theta))
    state, action, following = (x.numpy() for x in (trajectory.observation, trajectory.action, trajectory.next_observation))
    t, g, p = np.arange(3)[:, None], score_t.numpy(), p.numpy()
    critique = Critique(*map(tf.constant, (v[t, state], v[t + 1, following], q[t, state, action])))
    traces, moments = {}, {}
    for kind in psi.FAMILY:
        terms = g * psi.member(kind, trajectory, critique, Horizon(1.0, 0.6, 2)).numpy()[..., None]
        sample = terms.sum(0)
        traces[kind] = p @ (sample**2).sum(1) - ((p @ sample) ** 2).sum()
        moments[kind] = np.einsum("n,tnp->t", p, terms**2)
    return traces, moments


@equation("PG-55", "PG-63", "PG-64", "PG-66")
def test_variances_of_one_process_are_as_published():
    traces, _ = variances(0)
    found = [traces[kind] for kind in ("return", "togo", "togo_baseline", "q", "td", "advantage")]
    np.testing.assert_allclose(found, [2.187, 1.101, 0.749, 0.628, 0.314, 0.268], atol=5e-4)


@equation("PG-55")
@pytest.mark.parametrize(("seed", "offset"), [(0, 0.0), (1, 0.0), (2, -20.0)])
def test_q_lowers_the_second_moment_of_every_single_term(seed, offset):
    _, moments = variances(seed, offset)
    assert np.all(moments["q"][:2] < moments["togo"][:2])
    np.testing.assert_allclose(moments["q"][2], moments["togo"][2], rtol=1e-12)


@equation("PG-48", "PG-55", "PG-63", "PG-66")
@pytest.mark.parametrize(
    ("lower", "higher", "seed", "offset"),
    [("togo_baseline", "togo", 22, 0.0), ("advantage", "q", 22, 0.0), ("advantage", "td", 5, 0.0), ("q", "togo", 20, -20.0)],
)
def test_what_varies_less_on_one_process_varies_more_on_another(lower, higher, seed, offset):
    typical, other = variances(0)[0], variances(seed, offset)[0]
    assert typical[lower] < typical[higher]
    assert other[lower] > other[higher]
