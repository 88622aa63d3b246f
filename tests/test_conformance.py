"""Every engine conforms to the corridor, and collectors that are wrong in the ways that libraries are wrong do not."""

import doctest
import sys

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tfpg import conformance, returns
from tfpg.envs import gym

GAMMA, LAMBDA, T, N = 0.9, 0.8, 13, 4
MODES = ("disabled", "same_step", "next_step")
ENGINES = [("graph", "auto"), ("envpool", "auto"), *((engine, mode) for engine in ("sync", "async") for mode in MODES)]
conformance.register()


def actions(seed=0, horizon=T):
    return np.random.default_rng(seed).integers(2, size=[horizon, N])


def collect_in_python(engine, mode, chunks):
    """Steps of the bridge, kept in the plainest way: chunks of records [T, N, ...], and the actions of each."""
    environment = gym.ENGINES[engine](conformance.ID, N, 0, autoreset=mode)
    observation, age, found = environment.reset(), np.zeros(N, int), []
    for chunk in range(chunks):
        rows, action = [], actions(chunk)
        for t in range(T):
            step = environment.step(action[t])
            rows.append((step.valid, age, observation, step.reward, step.terminated, step.truncated, step.next_observation))
            age = np.where(step.terminated | step.truncated | ~step.valid, 0, age + 1)
            observation = step.observation
        found.append((conformance.Steps(*map(np.stack, zip(*rows, strict=True))), action))
    environment.close()
    return found


def collect_in_graph(chunks):
    environment, seed = conformance.in_graph(), tf.constant([0, 0])
    state, age, found = environment.reset(N, seed), tf.zeros([N], tf.int32), []
    for chunk in range(chunks):
        rows, action = [], actions(chunk)
        for t in range(T):
            after, reward, terminated = environment.step(state, tf.constant(action[t]), seed)
            truncated = age + 1 >= environment.time_limit
            rows.append((np.ones(N, bool), age, environment.observe(state), reward, terminated, truncated, environment.observe(after)))
            ended = terminated | truncated
            state, age = tf.where(ended[:, None], environment.reset(N, seed), after), tf.where(ended, 0, age + 1)
        found.append((conformance.Steps(*map(np.stack, zip(*rows, strict=True))), action))
    return found


def learned(steps):
    """The targets as the library computes them from records."""
    after, v_t = conformance.value(steps.next_observation).astype(np.float64), conformance.value(steps.observation).astype(np.float64)
    reward = steps.reward.astype(np.float64)
    discount = returns.discount(GAMMA, steps.terminated, reward)
    td = reward + discount * after
    to_go, gae = (
        returns.gae(reward, discount, returns.trace(trace, steps.terminated, steps.truncated, reward), v_t, after, steps.mask)
        for trace in (1.0, LAMBDA)
    )
    return {"td_target": td, "reward_to_go": to_go + v_t, "gae": gae}


@pytest.mark.parametrize(("engine", "mode"), ENGINES)
def test_every_engine_conforms(engine, mode, monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", conformance.envpool())
    found = collect_in_graph(3) if engine == "graph" else collect_in_python(engine, mode, 3)
    takes_a_row = engine == "envpool" or mode == "next_step"
    for chunk, (record, action) in enumerate(found):
        wanted = conformance.steps(action, chunk * T, takes_a_row)
        conformance.check({**record._asdict(), **learned(record)}, wanted, conformance.targets(wanted, GAMMA, LAMBDA))
        assert wanted.mask.all() != takes_a_row


def test_each_way_to_end_is_in_the_corridor():
    wanted = conformance.steps(actions())
    ends = {(bool(a), bool(b)) for a, b in zip(wanted.terminated.ravel(), wanted.truncated.ravel(), strict=True)}
    assert ends == {(False, False), (True, False), (True, True), (False, True)}
    assert not (wanted.terminated | wanted.truncated)[-1].any()


def test_closed_forms_by_hand():
    """Column 0 of actions 1, 0, 1, 1: rewards 1.05, 1.3, 1.65 and 1.05; V(k, 3) = 1.97 + 0.7 k; the third step terminates."""
    wanted = conformance.steps(np.array([[1], [0], [1], [1]]))
    found = conformance.targets(wanted, 0.9, 0.8)
    delta = [1.05 + 0.9 * 2.67 - 1.97, 1.3 + 0.9 * 3.37 - 2.67, 1.65 - 3.37, 1.05 + 0.9 * 2.67 - 1.97]
    np.testing.assert_allclose(found.td_target[:, 0], [1.05 + 0.9 * 2.67, 1.3 + 0.9 * 3.37, 1.65, 1.05 + 0.9 * 2.67])
    np.testing.assert_allclose(found.gae[:, 0], [delta[0] + 0.72 * delta[1] + 0.72**2 * delta[2], delta[1] + 0.72 * delta[2], *delta[2:]])
    wanted_to_go = [1.05 + 0.9 * 1.3 + 0.81 * 1.65, 1.3 + 0.9 * 1.65, 1.65, 1.05 + 0.9 * 2.67]
    np.testing.assert_allclose(found.reward_to_go[:, 0], wanted_to_go)


def wrong_collector(mode, mistake):
    """A loop over gymnasium's own vector environment, with one of the usual mistakes: -> record, closed forms."""
    modes = gymnasium.vector.AutoresetMode
    envs = gymnasium.make_vec(conformance.ID, N, vectorization_mode="sync", vector_kwargs={"autoreset_mode": modes[mode]})
    rows, action = [], actions()
    observation, _ = envs.reset(seed=0)
    valid, age = np.ones(N, bool), np.zeros(N, int)
    for t in range(T):
        after, reward, terminated, truncated, info = envs.step(action[t])
        ended, true_next = terminated | truncated, after.copy()
        if mode == "SAME_STEP" and ended.any() and mistake != "next observation after the reset":
            true_next[ended] = np.stack(list(info["final_obs"][ended]))
        flags = (ended, np.zeros(N, bool)) if mistake == "one done" else (terminated, truncated)
        if mistake == "truncation forgotten where both happen":
            flags = (terminated, truncated & ~terminated)
        row_valid = np.ones(N, bool) if mistake == "reset row counted" else valid
        rows.append((row_valid, age, observation, reward, *flags, true_next))
        age = np.where((ended | ~valid) & (mistake != "age runs on"), 0, age + 1)
        observation, valid = after, ~(ended & valid) if mode == "NEXT_STEP" else valid
    return conformance.Steps(*map(np.stack, zip(*rows, strict=True))), conformance.steps(action, 0, mode == "NEXT_STEP")


@pytest.mark.parametrize("mode", ["SAME_STEP", "NEXT_STEP"])
def test_the_collector_without_a_mistake_passes(mode):
    conformance.check(*wrong_collector(mode, None))


@pytest.mark.parametrize(
    ("mode", "mistake", "sentence"),
    [
        ("SAME_STEP", "one done", r"terminated of column 2 at step 4 is True, not False: the clock ends the episode here\."),
        ("NEXT_STEP", "one done", r"terminated of column 2 at step 4 is True"),
        (
            "SAME_STEP",
            "truncation forgotten where both happen",
            r"truncated of column 1 at step 4 is False, not True: .*its clock",
        ),
        (
            "SAME_STEP",
            "next observation after the reset",
            r"next_observation of column 0 at step 2 is \[0\., 3\.\], not \[3, 3\]",
        ),
        ("NEXT_STEP", "reset row counted", r"mask of column 0 at step 3 is True, not False: this row only resets"),
        ("SAME_STEP", "age runs on", r"age of column 0 at step 3 is 3, not 0"),
    ],
)
def test_mistakes_of_collectors_are_named(mode, mistake, sentence):
    with pytest.raises(conformance.NotConformant, match=sentence):
        conformance.check(*wrong_collector(mode, mistake))


@pytest.mark.parametrize(
    ("flags", "sentences"),
    [
        (
            "truncation as termination",
            ["td_target of column 2 at step 4", "reward_to_go of column 2", "gae of column 2"],
        ),
        ("truncation as nothing", ["", "reward_to_go of column 2", "gae of column 2"]),
        (
            "termination as truncation",
            ["td_target of column 0 at step 2", "reward_to_go of column 0", "gae of column 0"],
        ),
    ],
)
def test_mistakes_of_targets_are_named(flags, sentences):
    wanted = conformance.steps(actions())
    right, ended = conformance.targets(wanted, GAMMA, LAMBDA), wanted.terminated | wanted.truncated
    mistaken = {
        "truncation as termination": wanted._replace(terminated=ended),
        "truncation as nothing": wanted._replace(truncated=np.zeros_like(ended)),
        "termination as truncation": wanted._replace(terminated=np.zeros_like(ended), truncated=ended),
    }[flags]
    conformance.check(learned(wanted), wanted, right)
    for (name, x), sentence in zip(learned(mistaken).items(), sentences, strict=True):
        if sentence:
            with pytest.raises(conformance.NotConformant, match=sentence):
                conformance.check({name: x}, wanted, right)


def test_the_value_at_the_last_step_of_a_chunk_counts():
    wanted = conformance.steps(actions())
    right = conformance.targets(wanted, GAMMA, LAMBDA)
    cut = right.gae.copy()
    cut[-1] -= GAMMA * conformance.value(wanted.next_observation[-1])
    with pytest.raises(conformance.NotConformant, match=r"gae of column 0 at step 12 is .*: step 0 of an episode"):
        conformance.check({"gae": cut}, wanted, right)


def test_masked_rows_may_hold_anything_and_valid_ones_nothing_else():
    wanted = conformance.steps(actions(), resets_take_a_row=True)
    garbage = wanted._replace(reward=np.where(wanted.mask, wanted.reward, np.nan))
    conformance.check(garbage, wanted)
    reward = wanted.reward.copy()
    reward[12, 3] = np.nan
    with pytest.raises(conformance.NotConformant, match="reward of column 3 at step 12 is nan"):
        conformance.check(wanted._replace(reward=reward), wanted)


def test_what_cannot_be_compared_is_refused():
    wanted = conformance.steps(actions())
    with pytest.raises(ValueError, match="returns: there are closed forms of mask, age, observation"):
        conformance.check({"returns": wanted.reward}, wanted)
    with pytest.raises(conformance.NotConformant, match=r"reward has shape \(4, 13\), not \(13, 4\)"):
        conformance.check({"reward": wanted.reward.T}, wanted)


def test_the_example_of_the_docstring():
    found = doctest.testmod(conformance)
    assert (found.failed, found.attempted > 10) == (0, True)
