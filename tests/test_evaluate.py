"""Evaluation counts whole episodes of the greedy policy, each once and none favoured."""

import sys

import corridor
import numpy as np
import pytest
import tensorflow as tf

from tfpg import build, evaluate
from tfpg.config import Config, configured
from tfpg.envs import IN_GRAPH, gym
from tfpg.errors import EnvironmentFault
from tfpg.learner import act, initial_state, no_memory
from tfpg.types import Spaces

SEED = tf.constant([3, 4])


def constant_policy(action):
    """A learner whose greedy action is always `action`."""
    learner = build.make_learner(Config(hidden=""), Spaces((2,), actions=2))
    state = initial_state(learner, SEED)
    logits = {"kernel": tf.zeros([2, 2]), "bias": tf.one_hot(action, 2)}
    return learner, state._replace(policy=(logits,))


@pytest.mark.parametrize("action", [0, 1])
def test_returns_in_graph_are_the_corridor_s(action):
    learner, state = constant_policy(action)
    returns = tf.function(evaluate.in_graph(corridor.in_graph(), learner, 3), jit_compile=True)(state, SEED)
    wanted = [sum(corridor.reward(k, action) for k in range(min(length, corridor.LIMIT))) for length in corridor.LENGTHS]
    np.testing.assert_allclose(returns, wanted, rtol=1e-6)


@pytest.mark.parametrize("engine", ["sync", "envpool"])
def test_python_engines_play_equally_many_episodes_each(engine, monkeypatch):
    """Columns have episodes of 3, 5 and 5 steps: counting the first 8 to end would take too many of the short ones."""
    monkeypatch.setitem(sys.modules, "envpool", corridor.envpool())
    learner, state = constant_policy(1)
    environment = gym.ENGINES[engine](corridor.ID, 3, 0)
    returns = evaluate.in_python(learner)(state, environment, 3, 8)
    one = [sum(corridor.reward(k, 1) for k in range(min(length, corridor.LIMIT))) for length in corridor.LENGTHS]
    np.testing.assert_allclose(sorted(returns), sorted([one[0]] * 3 + [one[1]] * 3 + [one[2]] * 2), rtol=1e-5)


def test_greedy_actions_are_modes_in_the_environment_s_units():
    learner = build.make_learner(Config(hidden=""), Spaces((2,), action_low=(0.0,), action_high=(10.0,)))
    state = initial_state(learner, SEED)
    state = state._replace(policy={**state.policy, "net": ({"kernel": tf.zeros([2, 1]), "bias": tf.constant([0.5])},)})
    action, memory = evaluate.greedy(learner, state, tf.ones([4, 2]))
    np.testing.assert_allclose(action, np.full([4, 1], 7.5))
    assert memory == ()


def counting_policy():
    """A recurrent learner on the corridor whose greedy action is 1 from the fourth step of an episode on: it has to remember.

    The gates are set by hand: the update gate stands half open, so h counts steps, 1 - 2^-t, whatever is seen.
    """
    learner = build.make_learner(configured(network="gru", algo="a2c", hidden="1", normalize_observations=False), Spaces((2,), actions=2))
    state = initial_state(learner, SEED)
    policy = tf.nest.map_structure(tf.zeros_like, state.policy)
    policy["cell"]["bias"] = tf.constant([0.0, 50.0, 50.0])
    policy["last"] = {"kernel": tf.constant([[-1.0, 1.0]]), "bias": tf.constant([0.9, -0.9])}
    return learner, state._replace(policy=policy)


def test_the_counting_policy_counts():
    learner, state = counting_policy()
    memory, chosen = no_memory(learner.policy, 1), []
    for _ in range(6):
        p, memory = act(learner, state, tf.ones([1, 2]), memory)
        chosen.append(int(learner.policy.mode(p)[0]))
    assert chosen == [0, 0, 0, 1, 1, 1]


RETURNS = [sum(corridor.reward(k, int(k >= 3)) for k in range(min(length, corridor.LIMIT))) for length in corridor.LENGTHS]


def test_memory_lasts_an_episode_in_graph():
    learner, state = counting_policy()
    returns = tf.function(evaluate.in_graph(corridor.in_graph(), learner, 3), jit_compile=True)(state, SEED)
    np.testing.assert_allclose(returns, RETURNS, rtol=1e-6)


@pytest.mark.parametrize("engine", ["sync", "envpool"])
def test_memory_lasts_an_episode_and_no_longer_in_python(engine, monkeypatch):
    """Each environment plays three episodes: what one episode left would let the next one act too early."""
    monkeypatch.setitem(sys.modules, "envpool", corridor.envpool())
    learner, state = counting_policy()
    environment = gym.ENGINES[engine](corridor.ID, 3, 0)
    returns = evaluate.in_python(learner)(state, environment, 3, 9)
    np.testing.assert_allclose(sorted(returns), sorted(3 * RETURNS), rtol=1e-5)


def test_the_time_limit_ends_an_evaluation():
    environment = IN_GRAPH["Pendulum-v1"]()
    learner = build.make_learner(Config(), environment.spaces)
    returns = tf.function(evaluate.in_graph(environment, learner, 4))(initial_state(learner, SEED), SEED).numpy()
    assert (returns < -100).all()
    assert (returns > -200 * 16.3).all()
    assert len(set(returns)) == 4


def test_summary_states_the_standard_error():
    assert evaluate.summary(np.array([1.0, 2.0, 6.0])) == {
        "mean": 3.0,
        "std_error": pytest.approx(np.sqrt(7 / 3)),
        "min": 1.0,
        "max": 6.0,
        "episodes": 3,
    }
    assert evaluate.summary(np.array([4.0]))["std_error"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_return_that_is_not_finite_is_no_result(bad):
    with pytest.raises(EnvironmentFault, match="must be finite"):
        evaluate.summary(np.array([1.0, bad]))
