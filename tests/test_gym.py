"""The bridge to Python environments: every usual space, every engine and way to reset, and every fault as one sentence."""

import multiprocessing
import os
import signal
import sys
import time

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from tfpg import conformance
from tfpg.envs import gym
from tfpg.envs.spaces import spaces_of, to_own
from tfpg.errors import EnvironmentFault, UsageError

MODES = ("disabled", "same_step", "next_step")
BOX = spaces.Box(-1, 1, (2,))
OBSERVATIONS = {
    "box": spaces.Box(-5, 5, (2, 3), np.float64),
    "vector": spaces.Box(-5, 5, (3,)),
    "scalar": spaces.Box(-5, 5, ()),
    "pixels": spaces.Box(0, 255, (4, 4, 3), np.uint8),
    "discrete": spaces.Discrete(5, start=2),
    "multi_binary": spaces.MultiBinary((2, 2)),
    "multi_discrete": spaces.MultiDiscrete([2, 4], start=[1, -1]),
    "dict": spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Tuple((spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)))}),
}
ACTIONS = {
    "discrete": spaces.Discrete(3, start=-1),
    "multi_discrete": spaces.MultiDiscrete([3, 2], start=[1, 5]),
    "grid": spaces.MultiDiscrete([[3, 2], [4, 5]]),
    "multi_binary": spaces.MultiBinary((2, 3)),
    "box": spaces.Box(np.array([-1, 0, -np.inf], np.float32), np.array([1, np.inf, np.inf], np.float32)),
    "box of two axes": spaces.Box(-0.1, 0.1, (2, 3), np.float64),
    "scalar": spaces.Box(-2, 2, ()),
}


class Drawn(gymnasium.Env):
    """Observations are drawn from any space; an episode ends at a step that is drawn, by termination or by truncation.

    `taken` holds the last action, as it came. The same array may be written to again: `reuse`.
    """

    def __init__(self, observation="box", action="discrete", reuse=False):
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]
        self.reuse, self.buffer = reuse, None

    def _observe(self):
        space = self.observation_space
        space._np_random = self.np_random
        for inner in space.spaces.values() if isinstance(space, spaces.Dict) else ():
            inner._np_random = self.np_random
            for leaf in inner.spaces if isinstance(inner, spaces.Tuple) else ():
                leaf._np_random = self.np_random
        x = space.sample()
        if not self.reuse:
            return x
        self.buffer = x if self.buffer is None else self.buffer
        self.buffer[...] = x
        return self.buffer

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {"unpicklable": lambda: None}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        ends = self.np_random.random(2) < 0.2
        return self._observe(), float(np.sum(action)), bool(ends[0]), bool(ends[1]), {}


class Faulty(gymnasium.Env):
    """Fails at the third step of the environment with seed 1, in a way of choice."""

    observation_space, action_space = BOX, spaces.Discrete(2)

    def __init__(self, fault="none"):
        self.fault = fault

    def reset(self, *, seed=None, options=None):
        self.armed, self.t = seed == 1, 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.t += 1
        step = [np.zeros(2, np.float32), 0.0, False, False, {}]
        if self.armed and self.t == 3:
            match self.fault:
                case "raise":
                    raise type("Local", (Exception,), {"__init__": lambda self, a, b: None, "__str__": lambda self: "boom"})(1, 2)
                case "exit":
                    sys.exit(3)
                case "die":
                    os._exit(17)
                case "shape":
                    step[0] = np.zeros(3, np.float32)
                case "reward":
                    step[1] = None
                case "flag":
                    step[2] = float("nan")
        return tuple(step)

    def close(self):
        if self.fault == "hang":
            time.sleep(60)


for name, cls in (("Drawn", Drawn), ("Faulty", Faulty)):
    gymnasium.register(f"bridge/{name}-v0", cls, max_episode_steps=9, disable_env_checker=True)
gymnasium.register("bridge/Endless-v0", Faulty, disable_env_checker=True)
conformance.register()


def record(engine, mode, steps=40, n=3, seed=5, **arguments):
    """The spaces, and everything that comes out of a walk under random actions."""
    environment = gym.ENGINES[engine]("bridge/Drawn-v0", n, seed, autoreset=mode, arguments=arguments)
    taken, rng = environment.spaces, np.random.default_rng(1)
    rows = [environment.reset()]
    for _ in range(steps):
        rows += environment.step(random_action(taken, n, rng))
    rows += [environment.reset()]
    environment.close()
    return taken, rows


def random_action(taken, n, rng):
    """What a policy's `to_env` gives: flat."""
    if taken.actions:
        return taken.action_start + rng.integers(taken.actions, size=n).astype(np.int32)
    if taken.choices:
        return (np.array(taken.choice_starts) + rng.integers(taken.choices, size=[n, len(taken.choices)])).astype(np.int32)
    return np.clip(rng.normal(size=[n, len(taken.action_low)]), taken.action_low, taken.action_high).astype(np.float32)


def directly(name, seed, steps, arguments, choose):
    """One environment stepped by gymnasium's own interface, flattened by gymnasium: the definition of what the bridge gives."""
    env = gymnasium.make(name, **arguments)

    def array(x):
        flat = env.observation_space if isinstance(env.observation_space, spaces.Box) else None
        return np.asarray(x if flat else spaces.flatten(env.observation_space, x), np.float32)

    observation, rows = array(env.reset(seed=seed)[0]), []
    for t in range(steps):
        after, reward, terminated, truncated, _ = env.step(choose(t))
        following = env.reset()[0] if terminated or truncated else after
        rows.append((observation, array(after), np.float32(reward), terminated, truncated))
        observation = array(following)
    return rows


@pytest.mark.parametrize("engine", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("observation", ["box", "dict", "pixels"])
def test_each_row_is_what_its_environment_gave(engine, mode, observation):
    """Against single environments stepped by hand, i from seed + i; rows that only reset are left out."""
    n, steps = 3, 40
    environment = gym.ENGINES[engine]("bridge/Drawn-v0", n, 5, autoreset=mode, arguments={"observation": observation})
    start, seen = environment.reset(), [[] for _ in range(n)]
    for _ in range(steps):
        step = environment.step(np.array([(len(seen[i]) + i) % 3 - 1 for i in range(n)]))
        for i in np.flatnonzero(step.valid):
            seen[i].append((start[i], step.next_observation[i], step.reward[i], step.terminated[i], step.truncated[i]))
        start = step.observation
    environment.close()
    for i in range(n):
        wanted = directly("bridge/Drawn-v0", 5 + i, len(seen[i]), {"observation": observation}, lambda t, i=i: np.int64((t + i) % 3 - 1))
        assert sum(bool(row[3] or row[4]) for row in wanted) > 2
        assert len(seen[i]) == steps if mode != "next_step" else len(seen[i]) < steps
        for found, row in zip(seen[i], wanted, strict=True):
            for x, y in zip(found, row, strict=True):
                np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("mode", MODES)
def test_sync_and_async_give_the_same_bits(mode):
    (_, one), (_, other) = (record(engine, mode, observation="dict", action="box of two axes") for engine in ("sync", "async"))
    for x, y in zip(one, other, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    _, others = record("sync", mode, seed=6, observation="dict", action="box of two axes")
    assert any((x != y).any() for x, y in zip(one, others, strict=True))


@pytest.mark.parametrize("engine", ["sync", "async"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["box", "vector"])
def test_arrays_that_were_handed_out_stay_and_an_environment_may_reuse_its_own(engine, mode, kind):
    """An environment that writes every observation into one array gives what one with new arrays gives; nothing changes afterwards."""
    given = {"observation": kind}
    environment = gym.ENGINES[engine]("bridge/Drawn-v0", 3, 5, autoreset=mode, arguments={"reuse": True, **given})
    plain = gym.ENGINES[engine]("bridge/Drawn-v0", 3, 5, autoreset=mode, arguments=given)
    rows, copies, wanted = [environment.reset()], [], [plain.reset()]
    copies.append(rows[0].copy())
    for _ in range(30):
        rows += environment.step(np.zeros(3, int))
        copies += [x.copy() for x in rows[-6:]]
        wanted += plain.step(np.zeros(3, int))
    environment.close()
    plain.close()
    for x, y, z in zip(rows, copies, wanted, strict=True):
        np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(x, z)


@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_observations_have_the_shape_that_was_promised(observation):
    taken, rows = record("sync", "auto", observation=observation)
    assert rows[0].shape == (3, *taken.observation_shape)
    assert rows[0].dtype == np.float32
    assert taken.pixels == (observation == "pixels")
    assert bool(taken.parts) == (observation not in ("box", "vector", "scalar", "pixels"))
    assert rows[0].max() > 1 or taken.parts or observation in ("box", "vector", "scalar")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("engine", ["sync", "async"])
def test_actions_arrive_as_the_environment_takes_them(action, engine):
    """The environment refuses what its space does not contain, and pays the sum of what it gets."""
    taken, rows = record(engine, "disabled", steps=10, action=action)
    rng = np.random.default_rng(1)
    paid = rows[2::6][:10]
    for reward in paid:
        np.testing.assert_allclose(reward, random_action(taken, 3, rng).reshape(3, -1).sum(1), rtol=1e-5, atol=1e-6)


def test_spaces_as_numbers():
    def of(action):
        return spaces_of("x", BOX, ACTIONS[action])

    assert of("discrete")[:3] == ((2,), 3, -1)
    assert of("multi_discrete")[5:8] == ((3, 2), (1, 5), None)
    assert of("grid")[5:8] == ((3, 2, 4, 5), (0, 0, 0, 0), (2, 2))
    assert of("multi_binary")[5:8] == ((2,) * 6, (0,) * 6, (2, 3))
    assert (of("box").action_low, of("box").action_high, of("box").action_shape) == ((-1, 0, -np.inf), (1, np.inf, np.inf), None)
    assert (of("box of two axes").action_low, of("box of two axes").action_shape) == ((-0.1,) * 6, (2, 3))
    assert (of("scalar").action_high, of("scalar").action_shape) == ((2,), ())
    most = np.finfo(np.float32).max
    assert spaces_of("x", BOX, spaces.Box(-most, most, (1,)))[3:5] == ((-np.inf,), (np.inf,))


def test_what_counts_as_pixels():
    def pixels(low, high, shape, dtype):
        return spaces_of("x", spaces.Box(low, high, shape, dtype), BOX).pixels

    assert pixels(0, 255, (8, 8), np.uint8)
    assert not pixels(0, 254, (8, 8), np.uint8)
    assert not pixels(1, 255, (8, 8), np.uint8)
    assert not pixels(0, 255, (8,), np.uint8)
    assert not pixels(0, 255, (1, 8, 8, 3), np.uint8)
    assert not pixels(0, 255, (8, 8), np.float32)


def test_rounding_does_not_carry_an_action_over_its_bound():
    space = spaces.Box(-0.1, 0.1, (1,), np.float64)
    own = to_own(np.array([[0.1], [-0.1], [0.05]], np.float32), spaces_of("x", BOX, space), space)
    assert np.float64(np.float32(0.1)) > 0.1
    assert own.dtype == np.float64
    np.testing.assert_allclose(own, [[0.1], [-0.1], [0.05]])
    assert np.abs(own).max() <= 0.1


EMPTY = spaces.Box(0, 1, (2, 0))
REFUSED = {
    "text": spaces.Text(4),
    "graph": spaces.Graph(BOX, None),
    "sequence": spaces.Sequence(BOX),
    "one of": spaces.OneOf([BOX, spaces.Discrete(2)]),
    "empty box": EMPTY,
    "empty tuple": spaces.Tuple(()),
    "empty dict": spaces.Dict({}),
    "text inside": spaces.Dict({"a": spaces.Tuple((BOX, spaces.Text(4)))}),
    "empty inside": spaces.Tuple((BOX, EMPTY)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_observations_that_are_not_supported_are_refused(name):
    with pytest.raises(UsageError) as error:
        spaces_of("Some-v0", REFUSED[name], BOX)
    allowed = "Box, Discrete, MultiBinary and MultiDiscrete, and Dict and Tuple of these, none of them empty are allowed."
    assert str(error.value) == f"--env=Some-v0 has observations {REFUSED[name]}: {allowed}"


@pytest.mark.parametrize(
    "space", [*REFUSED.values(), spaces.Dict({"a": BOX}), spaces.Tuple((BOX,)), spaces.Box(0, 3, (2,), np.int32)], ids=str
)
def test_actions_that_are_not_supported_are_refused(space):
    with pytest.raises(UsageError) as error:
        spaces_of("Some-v0", BOX, space)
    allowed = "Discrete, MultiDiscrete, MultiBinary and real Box actions, none of them empty are allowed."
    assert str(error.value) == f"--env=Some-v0 has actions {space}: {allowed}"


FAULTS = {
    "raise": "environment 1 of bridge/Faulty-v0 failed: Local: boom",
    "exit": "environment 1 of bridge/Faulty-v0 failed: SystemExit: 3",
    "shape": r"environment 1 of bridge/Faulty-v0 failed: ValueError: the observation has shape \(3,\), its space \(2,\)",
    "reward": "environment 1 of bridge/Faulty-v0 failed: TypeError: reward is None, where only a number is allowed",
    "flag": "environment 1 of bridge/Faulty-v0 failed: TypeError: terminated is nan, where only True and False are allowed",
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("engine", ["sync", "async"])
def test_a_fault_names_its_environment(engine, fault, capfd):
    environment = gym.ENGINES[engine]("bridge/Faulty-v0", 3, 0, arguments={"fault": fault})
    environment.reset()
    for _ in range(2):
        environment.step(np.zeros(3, int))
    with pytest.raises(EnvironmentFault, match=f"^{FAULTS[fault]}"):
        environment.step(np.zeros(3, int))
    environment.close()
    assert not multiprocessing.active_children()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("how", ["die", "kill"])
def test_a_worker_that_dies_is_named_and_the_others_are_stopped(how):
    environment = gym.ENGINES["async"]("bridge/Faulty-v0", 3, 0, arguments={"fault": how})
    environment.reset()
    if how == "kill":
        worker = sorted(multiprocessing.active_children(), key=lambda process: process.name)[1]
        os.kill(worker.pid, signal.SIGKILL)
    for _ in range(2 if how == "die" else 0):
        environment.step(np.zeros(3, int))
    with pytest.raises(EnvironmentFault) as error:
        environment.step(np.zeros(3, int))
    code = 17 if how == "die" else -9
    assert str(error.value) == f"bridge/Faulty-v0 failed: the worker process of environment 1 ended with exit code {code}."
    assert not multiprocessing.active_children()
    with pytest.raises(EnvironmentFault):
        environment.step(np.zeros(3, int))
    environment.close()
    environment.close()
    assert not multiprocessing.active_children()


def test_workers_that_do_not_close_are_ended(monkeypatch):
    monkeypatch.setattr(gym, "PATIENCE", 1.0)
    environment = gym.ENGINES["async"]("bridge/Drawn-v0", 2, 0)
    slow = multiprocessing.active_children()
    environment.close()
    assert all(process.exitcode == 0 for process in slow)
    monkeypatch.setattr(Faulty, "close", lambda self: time.sleep(60) if multiprocessing.parent_process() else None)
    environment = gym.ENGINES["async"]("bridge/Faulty-v0", 2, 0)
    slow, began = multiprocessing.active_children(), time.monotonic()
    environment.close()
    assert time.monotonic() - began < 10
    assert [process.exitcode for process in slow] == [-signal.SIGTERM] * 2


def test_ctrl_c_is_the_parent_s_to_answer():
    """A worker neither dies of SIGINT nor answers SIGTERM with a handler that it has from its parent."""
    before, interrupt = signal.signal(signal.SIGTERM, lambda *_: None), signal.getsignal(signal.SIGINT)
    try:
        environment = gym.ENGINES["async"]("bridge/Faulty-v0", 2, 0)
        workers = multiprocessing.active_children()
        environment.reset()
        for worker in workers:
            os.kill(worker.pid, signal.SIGINT)
        environment.step(np.zeros(2, int))
        os.kill(workers[0].pid, signal.SIGTERM)
        workers[0].join(5)
        assert workers[0].exitcode == -signal.SIGTERM
        environment.close()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGINT) is interrupt


@pytest.mark.parametrize("engine", ["sync", "async"])
def test_what_cannot_be_made_is_a_sentence(engine):
    for arguments, sentence in (
        ({"colour": 3}, r"--env=bridge/Drawn-v0 cannot be made with \{'colour': 3\}: .*colour.* What its constructor takes is allowed\."),
        ({"observation": "none"}, r"--env=bridge/Drawn-v0 cannot be made with \{'observation': 'none'\}: 'none'\."),
    ):
        with pytest.raises(UsageError, match=sentence):
            gym.ENGINES[engine]("bridge/Drawn-v0", 2, 0, arguments=arguments)
    with pytest.raises(UsageError, match=r"--env=Nothing-v0 cannot be made: .* Any registered gymnasium id is allowed"):
        gym.ENGINES[engine]("Nothing-v0", 2, 0)
    with pytest.raises(UsageError, match="--autoreset=later is unknown: auto, disabled, same_step, next_step are allowed"):
        gym.ENGINES[engine]("CartPole-v1", 2, 0, autoreset="later")
    assert not multiprocessing.active_children()


def test_envpool_resets_at_the_next_step_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", conformance.envpool())
    assert gym.ENGINES["envpool"](conformance.ID, 3, 0, autoreset="next_step").time_limit == conformance.LIMIT
    with pytest.raises(UsageError, match="--autoreset=disabled is not possible with --engine=envpool: auto and next_step are allowed"):
        gym.ENGINES["envpool"](conformance.ID, 3, 0, autoreset="disabled")
    with pytest.raises(UsageError, match="--env=Other-v0 is not an environment of --engine=envpool; try --engine=sync"):
        gym.ENGINES["envpool"]("Other-v0", 3, 0)


PINNED = {
    "a core each": ((2, 2), 3, {}, 0),
    "two for two": ((2, 2), 2, {}, 0),
    "its own number of threads": ((2, 2), 3, {"num_threads": 1}, None),
    "fewer environments than cores": ((2, 2), 1, {}, None),
    "a process on one of two cores": ((2, 1), 3, {}, None),
    "as asked for": ((2, 2), 3, {"thread_affinity_offset": 1}, 1),
}


@pytest.mark.parametrize(("cores", "n", "arguments", "offset"), PINNED.values(), ids=PINNED)
def test_envpool_s_threads_have_a_core_each_where_all_are_ours(cores, n, arguments, offset, monkeypatch):
    given, module = [], conformance.envpool()
    module.make = lambda name, **settings: given.append(settings) or conformance.NextStepCorridors(n)
    monkeypatch.setitem(sys.modules, "envpool", module)
    monkeypatch.setattr(os, "cpu_count", lambda: cores[0])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores[1])), raising=False)
    gym.ENGINES["envpool"](conformance.ID, n, 0, arguments=arguments)
    assert given[0].get("thread_affinity_offset") == offset


class LaidOut(conformance.NextStepCorridors):
    """A pool with EnvPool's lists beside its `step`."""

    _state_keys = ("info:env_id", "done", "reward", "trunc", "obs", "info:more")
    _action_keys = ["env_id", "players.env_id", "action"]  # noqa: RUF012

    def __init__(self, n, players=1):
        super().__init__(n)
        self.config = {"max_num_players": players}
        self.spec.action_array_spec = {"action": np.zeros(0, np.int32)}

    def _send(self, given):
        ids, players, action = given
        assert [x.dtype for x in given] == [np.int32] * 3
        np.testing.assert_array_equal([ids, players], [range(self.n)] * 2)
        self.action = action

    def _recv(self):
        after, paid, terminated, truncated, _ = self.step(self.action)
        return [np.arange(self.n), terminated | truncated, paid, truncated, after, np.zeros(self.n)]


@pytest.mark.parametrize("change", ["none", "players", "keys", "actions"])
def test_envpool_s_own_lists_say_what_its_step_says(change, monkeypatch):
    """Where they are laid out in another way, `step` is asked."""
    pool, same, direct = LaidOut(4, players=1 + (change == "players")), conformance.NextStepCorridors(4), []
    monkeypatch.setattr(pool, "_recv", lambda: direct.append(1) or LaidOut._recv(pool))
    if change == "keys":
        pool._state_keys = [key for key in pool._state_keys if key != "trunc"]
    if change == "actions":
        pool._action_keys = ["env_id", "players.env_id", "legs", "arms"]
    step, cut = gym.bare(pool, 4), 0
    pool.reset(), same.reset()
    for t in range(3 * conformance.LIMIT):
        action = np.array([0, 1, 1, 0]) if t % 2 else np.array([1, 1, 0, 0])
        after, paid, terminated, truncated, _ = same.step(action)
        both = terminated & truncated  # EnvPool has one flag for each end: its clock's goes first
        for found, wanted in zip(step(action), (after, paid, terminated & ~(both & bool(direct)), truncated), strict=True):
            np.testing.assert_array_equal(found, wanted)
        cut += truncated.sum()
    assert cut
    assert bool(direct) == (change == "none")


@pytest.mark.parametrize("name", ["CartPole-v1", "Hopper-v4"])
def test_envpool_itself_is_read_rightly(name):
    envpool = pytest.importorskip("envpool")
    asked, read = (envpool.make(name, env_type="gymnasium", num_envs=3, seed=5) for _ in range(2))
    asked.reset(), read.reset()
    step, draw, ends = gym.bare(read, 3), np.random.default_rng(1), 0
    for _ in range(300):
        space = asked.action_space
        action = draw.integers(0, 2, 3) if isinstance(space, spaces.Discrete) else draw.uniform(-1, 1, (3, *space.shape))
        for left, right in zip(asked.step(action)[:4], step(action), strict=True):
            np.testing.assert_array_equal(left, right)
            assert left.dtype == right.dtype
            ends += left.dtype == bool and left.sum()
    assert ends


class Pool:
    """EnvPool's interface around nested observations: dicts of batches."""

    observation_space, action_space = OBSERVATIONS["dict"], ACTIONS["box of two axes"]
    spec = conformance.NextStepCorridors(1).spec

    def __init__(self, n):
        self.n, self.actions = n, []

    def reset(self):
        return {"a": (np.full([self.n, 2], 0.5), np.ones([self.n, 2], np.int8)), "b": np.arange(self.n)}, {}

    def step(self, action):
        self.actions.append(action)
        return self.reset()[0], np.zeros(self.n), *np.zeros([2, self.n], bool), {}

    def close(self):
        pass


def test_envpool_s_nested_observations_are_flattened_too(monkeypatch):
    pool, module = Pool(3), conformance.envpool()
    module.make = lambda name, **_: pool
    monkeypatch.setitem(sys.modules, "envpool", module)
    environment = gym.ENGINES["envpool"](conformance.ID, 3, 0)
    wanted = [[0.5, 0.5, 1, 1, *np.eye(3)[i]] for i in range(3)]
    np.testing.assert_array_equal(environment.reset(), wanted)
    np.testing.assert_array_equal(environment.step(np.zeros([3, 6], np.float32)).next_observation, wanted)
    assert (pool.actions[0].shape, pool.actions[0].dtype) == ((3, 2, 3), np.float64)


@pytest.mark.parametrize("engine", ["sync", "async"])
def test_time_limits(engine, monkeypatch):
    """One's own limit, one given, and TIME_LIMIT where there is none."""
    monkeypatch.setattr(gym, "TIME_LIMIT", 4)
    for name, arguments, limit in (
        ("bridge/Faulty-v0", {}, 9),
        ("bridge/Faulty-v0", {"max_episode_steps": 6}, 6),
        ("bridge/Endless-v0", {}, 4),
    ):
        environment = gym.ENGINES[engine](name, 2, 7, arguments=arguments)
        environment.reset()
        truncated = [bool(environment.step(np.zeros(2, int)).truncated[0]) for _ in range(10)]
        environment.close()
        assert (environment.time_limit, truncated.index(True) + 1) == (limit, limit)


def test_a_flat_array_is_no_nested_observation(monkeypatch):
    """Not even one of the shape and type that the nested one is flattened to."""
    environment = gym.ENGINES["sync"]("bridge/Drawn-v0", 2, 5, arguments={"observation": "dict"})
    assert environment.reset().shape == (2, 7)
    monkeypatch.setattr(Drawn, "step", lambda self, action: (np.zeros(7, np.float32), 0.0, False, False, {}))
    with pytest.raises(EnvironmentFault, match="environment 0 of bridge/Drawn-v0 failed: IndexError"):
        environment.step(np.zeros(2, int))
    environment.close()
