"""Environments that fail: found at the step where they do, named, and replaced as often as they may be."""

import multiprocessing
import os
import signal
import time

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from program import call, rows_without_times

from tfpg import build, engines, metrics
from tfpg.config import configured
from tfpg.envs import gym
from tfpg.errors import EnvironmentFault
from tfpg.learner import initial_state

BOX = gymnasium.spaces.Box(-1, 1, (2,))


def broken(field, value):
    def change(given):
        given[field] = value

    return change


WRONG = {
    "observation nan": (broken("observation", np.array([0, np.nan], np.float32)), r"its observation\[1\] is nan: it must be finite"),
    "observation inf": (broken("observation", np.array([-np.inf, 0], np.float32)), r"its observation\[0\] is -inf: it must be finite"),
    "observation shape": (broken("observation", np.zeros(3, np.float32)), r"the observation has shape \(3,\), its space \(2,\)"),
    "observation text": (broken("observation", np.array(["a", "b"])), r"the observation is made of str\d+, where only numbers"),
    "observation objects": (broken("observation", np.array([None, 1])), "the observation is made of object, where only numbers"),
    "observation complex": (broken("observation", np.zeros(2, complex)), "the observation is made of complex128, where only numbers"),
    "observation none": (broken("observation", None), r"the observation has shape \(\)"),
}
LATER = {
    "reward nan": (broken("reward", np.nan), "its reward is nan: it must be finite"),
    "reward inf": (broken("reward", np.inf), "its reward is inf: it must be finite"),
    "reward none": (broken("reward", None), "reward is None, where only a number is allowed"),
    "reward text": (broken("reward", "1.0"), "reward is '1.0', where only a number is allowed"),
    "reward array": (broken("reward", np.ones(1)), "where only a number is allowed"),
    "terminated nan": (broken("terminated", np.nan), "terminated is nan, where only True and False are allowed"),
    "terminated none": (broken("terminated", None), "terminated is None, where only True and False are allowed"),
    "truncated 2": (broken("truncated", 2), "truncated is 2, where only True and False are allowed"),
    "truncated array": (broken("truncated", np.array([True])), r"truncated is \[ True\], where only True and False are allowed"),
}


def act_out(how):
    match how:
        case "raise":
            raise ValueError("boom")
        case "exit":
            raise SystemExit(3)
        case "die":
            os._exit(17)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            time.sleep(600)
        case "slow":
            time.sleep(0.2)


def spoil(how, given):
    """Puts wrong data of a kind in its place; any other word changes nothing."""
    {**WRONG, **LATER}.get(how, (lambda _: None,))[0](given)


class Failing(gymnasium.Env):
    """Fails where and how it is told: at the step `when` of the environment that was given seed `who`, or in the reset before."""

    observation_space, action_space = BOX, gymnasium.spaces.Discrete(2)

    def __init__(self, how="none", when=3, who=1):
        self.how, self.when, self.who, self.armed = how, when, who, False

    def given(self):
        given = {"observation": np.zeros(2, np.float32), "reward": 1.0, "terminated": False, "truncated": False}
        if self.armed and self.t == self.when:
            act_out(self.how)
            spoil(self.how, given)
        return given

    def reset(self, *, seed=None, options=None):
        self.armed, self.t = self.armed or seed == self.who, 0
        return self.given()["observation"], {}

    def step(self, action):
        self.t += 1
        return (*self.given().values(), {})


class Crashing(gymnasium.Env):
    """Ends after ten steps with a return of 10, and crashes now and then, each in its own way: in a step, or in a reset."""

    observation_space, action_space = BOX, gymnasium.spaces.Discrete(2)

    def __init__(self, step=0.0, reset=0.0):
        self.chances = step, reset

    def chance(self, which):
        if self.np_random.random() < self.chances[which]:
            raise RuntimeError("crashed")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.chance(1)
        self.t = 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.chance(0)
        self.t += 1
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), 1.0, self.t == 10, False, {}


for cls in (Failing, Crashing):
    gymnasium.register(f"faults/{cls.__name__}-v0", cls, max_episode_steps=9 if cls is Failing else 100, disable_env_checker=True)


def opened(engine, how, when=3, care=gym.CARELESS, mode="auto", n=3):
    return gym.ENGINES[engine]("faults/Failing-v0", n, 0, mode, {"how": how, "when": when}, care)


def assert_fails(environment, when, words):
    """Nothing is noticed before the step where it happens, and then it is."""
    if when:
        environment.reset()
        for _ in range(when - 1):
            environment.step(np.zeros(3, int))
    with pytest.raises(EnvironmentFault, match=words) as fault:
        environment.step(np.zeros(3, int)) if when else environment.reset()
    environment.close()
    assert not multiprocessing.active_children()
    return str(fault.value)


@pytest.mark.parametrize("engine", ["sync", "async"])
@pytest.mark.parametrize(("when", "kind"), [(when, kind) for when in (0, 1, 4) for kind in (WRONG if when == 0 else {**WRONG, **LATER})])
def test_wrong_data_is_found_where_it_comes_with_index_field_and_value(engine, when, kind):
    text = assert_fails(opened(engine, kind, when), when, {**WRONG, **LATER}[kind][1])
    assert text.startswith("environment 1 of faults/Failing-v0 failed: ")
    if "must be finite" in text:
        assert f"at step {when} " in text


@pytest.mark.parametrize("mode", ["same_step", "next_step"])
def test_wrong_data_is_found_in_every_way_to_reset(mode):
    """At the end of an episode, which is the ninth step."""
    assert_fails(opened("sync", "observation nan", 9, mode=mode), 9, r"environment 1 .* its observation\[1\] is nan")


@pytest.mark.parametrize("mode", ["disabled", "same_step", "next_step"])
def test_wrong_data_of_a_reset_within_is_found(mode):
    """The second episode begins with it: the first reset of all is before the environment fails."""
    environment = opened("sync", "none", 0, mode=mode)
    environment.reset()
    for _ in range(9 if mode == "next_step" else 8):
        environment.step(np.zeros(3, int))
    Failing.how = property(lambda self: "observation nan" if self.t == 0 else "none", lambda self, value: None)
    try:
        with pytest.raises(EnvironmentFault, match=r"environment 1 .* its observation\[1\] is nan"):
            environment.step(np.zeros(3, int))
    finally:
        del Failing.how


@pytest.mark.parametrize("when", [0, 1, 3])
@pytest.mark.parametrize("how", ["raise", "exit", "die", "kill", "segfault", "hang"])
def test_a_worker_that_fails_is_named_within_its_time(how, when):
    begun = time.monotonic()
    words = {
        "raise": "environment 1 of faults/Failing-v0 failed: ValueError: boom",
        "exit": "environment 1 of faults/Failing-v0 failed: SystemExit: 3",
        "die": "the worker process of environment 1 ended with exit code 17",
        "kill": "the worker process of environment 1 ended with exit code -9",
        "segfault": "the worker process of environment 1 ended with exit code -11",
        "hang": "environment 1 of faults/Failing-v0 did not answer within --env_timeout=0.5 seconds",
    }
    assert_fails(opened("async", how, when, gym.Care(timeout=0.5)), when, words[how])
    assert time.monotonic() - begun < 10


def test_a_slow_worker_is_waited_for_and_named_if_that_is_too_long():
    environment = opened("async", "slow", 2, gym.Care(timeout=5))
    environment.reset()
    for _ in range(4):
        environment.step(np.zeros(3, int))
    environment.close()
    assert_fails(opened("async", "slow", 2, gym.Care(timeout=0.05)), 2, "environment 1 .* did not answer within --env_timeout=0.05")


class Far(gymnasium.Env):
    observation_space, action_space = BOX, gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.array([0.5, 1.5], np.float32), 0.0, False, False, {}


gymnasium.register("faults/Far-v0", Far, max_episode_steps=9, disable_env_checker=True)


def test_bounds_are_held_where_that_is_asked_for():
    loose = gym.ENGINES["sync"]("faults/Far-v0", 2, 0)
    loose.reset()
    loose.step(np.zeros(2, int))
    strict = gym.ENGINES["sync"]("faults/Far-v0", 2, 0, care=gym.Care(bounds=True))
    strict.reset()
    words = r"environment 0 of faults/Far-v0 .* its observation\[1\] is 1.5: its space does not have it"
    with pytest.raises(EnvironmentFault, match=words):
        strict.step(np.zeros(2, int))


def test_large_numbers_whose_sum_is_none_are_numbers():
    sound = gym.Sound("x")
    sound.check(np.full([2, 3], 3e38, np.float32), np.zeros(2, np.float32))
    with pytest.raises(EnvironmentFault, match=r"environment 1 of x failed: at step 2 its observation\[2\] is inf"):
        sound.check(np.array([[3e38] * 3, [3e38, 3e38, np.inf]], np.float32), np.zeros(2, np.float32))


SMALL = ["--env=faults/Crashing-v0", "--total_steps=1280", "--envs=4", "--horizon=32", "--hidden=8", "--eval_episodes=4", "--progress=none"]
SMALL += ["--tensorboard=false", "--engine=sync"]


@pytest.mark.parametrize("algo", ["npg", "reinforce"])
def test_a_run_goes_on_with_others_in_their_place_and_counts_them(algo, tmp_path, capfd):
    arguments = [*SMALL, f"--algo={algo}", "--env_arguments=step=0.003,reset=0.003", "--max_env_restarts=100"]
    code, out, err = call(capfd, *arguments, f"--workdir={tmp_path}/run")
    assert (code, err) == (0, "")
    rows = metrics.read(tmp_path / "run")
    restarts = sum(row["env_restarts"] for row in rows)
    assert restarts > 3
    assert f"Failed environments were replaced {restarts:,} times; what an iteration had until then was dropped." in out
    assert f'"env_restarts": {restarts}' in (tmp_path / "run" / "summary.json").read_text()
    assert all(row["return_mean"] == 10 and row["length_mean"] == 10 for row in rows)  # no episode was mixed from two
    assert code == call(capfd, *arguments, f"--workdir={tmp_path}/again")[0]
    assert rows_without_times(tmp_path / "run") == rows_without_times(tmp_path / "again")


def test_restarts_are_bounded(tmp_path, capfd):
    code, _, err = call(capfd, *SMALL, "--env_arguments=step=0.5", "--max_env_restarts=2", f"--workdir={tmp_path}/run")
    assert code == 1
    assert err.count("\n") == 1
    assert "of faults/Crashing-v0 failed: RuntimeError: crashed" in err
    assert err.endswith("It was the failure after --max_env_restarts=2 within one iteration.\n")
    assert (tmp_path / "run" / "checkpoints" / "0").is_dir()


class Stubborn(Crashing):
    """Crashes in the first reset of all, and when it is closed after a step."""

    broken = 0

    def reset(self, *, seed=None, options=None):
        if Stubborn.broken:
            Stubborn.broken -= 1
            raise RuntimeError("crashed at once")
        return super().reset(seed=seed, options=options)

    def close(self):
        if getattr(self, "t", 0):
            raise RuntimeError("cannot be closed")


gymnasium.register("faults/Stubborn-v0", Stubborn, max_episode_steps=100, disable_env_checker=True)


def test_a_first_reset_that_fails_and_a_close_that_fails_are_replaced_too():
    small = {"engine": "sync", "envs": 2, "horizon": 15, "hidden": "4"}
    parts = build.setup(configured(env="faults/Stubborn-v0", max_env_restarts=3, **small))
    state, Stubborn.broken = initial_state(parts.learner, tf.constant([1, 2])), 2
    parts.engine.begin(tf.constant([1, 2]))
    _, _, row = parts.engine.iterate(state, (), tf.constant([5, 6]), tf.constant(1.0))
    assert row["env_restarts"].numpy() == 2
    np.testing.assert_array_equal(parts.engine.evaluate(state, tf.constant([3, 4]), 4), np.full(4, 10.0))
    with pytest.raises(EnvironmentFault, match="cannot be closed"):
        parts.engine.close()


@pytest.mark.parametrize("left", [0, 20])
def test_an_evaluation_that_is_cut_begins_anew(left):
    config = configured(
        env="faults/Crashing-v0", env_arguments="step=0.01", engine="sync", envs=2, horizon=20, max_env_restarts=left, hidden="4"
    )
    parts = build.setup(config)
    state = initial_state(parts.learner, tf.constant([1, 2]))
    if left:
        np.testing.assert_array_equal(parts.engine.evaluate(state, tf.constant([3, 4]), 20), np.full(20, 10.0))
    else:
        with pytest.raises(EnvironmentFault, match="crashed"):
            parts.engine.evaluate(state, tf.constant([3, 4]), 20)
    assert engines.EVALUATION_ENVS == 10
