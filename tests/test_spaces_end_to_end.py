"""Every kind of space and network, from the environment to the exported policy: chance before, near the optimum after.

The environments are small enough for their optimum to be known by heart. Most are bandits of four rounds: each observation hides one or
more bits somewhere among noise, and the reward, at most 1 a round, says how well the action answers them.
"""

import json
import math
import os
from pathlib import Path
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium import spaces
from program import call

from tfpg import build, engines, evaluate, export, rollout, train
from tfpg.config import check_values, configured

ROUNDS = 4
SIGN = np.array([-1.0, 1.0])


def image(bits, rng):
    """A bright dot on the left or on the right of dim noise."""
    x = rng.integers(0, 60, (10, 10, 1))
    x[rng.integers(10), rng.integers(5) + 5 * bits[0]] = 255
    return x.astype(np.uint8)


def noisy(shape, where, bits, rng, dtype=np.float32):
    """Noise, but for the entries that show the bits as -1 or 1."""
    x = rng.uniform(-1, 1, shape)
    for place, bit in zip(where, bits, strict=True):
        x[place] = SIGN[bit]
    return x.astype(dtype)


def switches(shape, where, bit, rng):
    x = rng.integers(0, 2, shape).astype(np.int8)
    x[where] = bit
    return x


# name -> space, bits, observation of (bits, rng), inputs of the exported policy by name
SHOWN = {
    "pixels": (spaces.Box(0, 255, (10, 10, 1), np.uint8), 1, image, lambda o: {"observation": np.float32(o)}),
    "box": (
        spaces.Box(-1, 1, (2, 3), np.float64),
        2,
        lambda b, rng: noisy((2, 3), [(0, 2), (1, 0)], b, rng, np.float64),
        lambda o: {"observation": np.float32(o)},
    ),
    "dict": (
        spaces.Dict({"kind": spaces.Discrete(3, start=-1), "grid": spaces.Box(-1, 1, (2, 2)), "switches": spaces.MultiBinary(3)}),
        3,
        lambda b, rng: {
            "kind": np.int64(1 if b[0] else rng.integers(-1, 1)),
            "grid": noisy((2, 2), [(1, 0)], b[1:2], rng),
            "switches": switches(3, 1, b[2], rng),
        },
        lambda o: {"observation_kind": o["kind"], "observation_grid": o["grid"], "observation_switches": o["switches"]},
    ),
    "tuple": (
        spaces.Tuple(
            (
                spaces.Box(-1, 1, (2,), np.float64),
                spaces.Dict({"low": spaces.Discrete(2)}),
                spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[0, 5], [-2, 1]]),
            )
        ),
        3,
        lambda b, rng: (
            noisy((2,), [1], b[:1], rng, np.float64),
            {"low": np.int64(b[1])},
            np.array([[rng.integers(2), 5 + 2 * b[2]], [rng.integers(-2, 2), 1]]),
        ),
        lambda o: {"observation_0": o[0], "observation_1_low": o[1]["low"], "observation_2": o[2]},
    ),
    "discrete": (
        spaces.Discrete(4, start=-7),
        2,
        lambda b, rng: np.int64(-7 + 2 * b[0] + b[1]),
        lambda o: {"observation": np.int64(o)},
    ),
    "multi_discrete": (
        spaces.MultiDiscrete([2, 3, 5], start=[1, -1, 0]),
        2,
        lambda b, rng: np.array([1 + b[0], 1 if b[1] else rng.integers(-1, 1), rng.integers(5)]),
        lambda o: {"observation": o},
    ),
    "multi_binary": (
        spaces.MultiBinary((2, 2)),
        1,
        lambda b, rng: switches((2, 2), (0, 1), b[0], rng),
        lambda o: {"observation": o},
    ),
}

F = np.float32
LOW, HIGH = np.array([[-1, 0], [2, -5]], F), np.array([[3, 1], [10, -4]], F)
WANTED = {c: (LOW + HIGH) / 2 + c * np.array([[0.5, -0.5], [-0.8, 0.3]], F) * (HIGH - LOW) / 2 for c in (-1, 1)}

# name -> space, and the right action for the two cues
TAKEN = {
    "discrete": (spaces.Discrete(3, start=4), {-1: 6, 1: 4}),
    "multi_discrete": (spaces.MultiDiscrete([2, 3], start=[1, 5]), {-1: np.array([1, 7]), 1: np.array([2, 6])}),
    "multi_binary": (spaces.MultiBinary((2, 2)), {-1: np.array([[0, 1], [1, 0]]), 1: np.array([[1, 1], [0, 1]])}),
    "box": (spaces.Box(LOW, HIGH), WANTED),
    "half_box": (spaces.Box(np.array([0, -np.inf], F), np.array([np.inf, 1], F)), {-1: np.array([0, 1], F), 1: np.array([1.2, -0.6], F)}),
}
REAL = ("box", "half_box")


class Shown(gymnasium.Env):
    """Bits are to be read from an observation of any space: action a is right about bit i if its own bit i is the same."""

    def __init__(self, kind):
        self.observation_space, self.bits, self.show, _ = SHOWN[kind]
        self.action_space = spaces.Discrete(2**self.bits)

    def _observe(self):
        self.hidden = self.np_random.integers(0, 2, self.bits)
        observation = self.show(self.hidden, self.np_random)
        assert self.observation_space.contains(observation)
        return observation

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = np.mean((action >> np.arange(self.bits)) % 2 == self.hidden)
        return self._observe(), float(reward), False, False, {}


class Taken(gymnasium.Env):
    """A cue, -1 or 1, asks for one of two actions: the share of the right components, or for reals 1 minus the mean square error.

    The error of a bounded component is in units of half its range.
    """

    observation_space = spaces.Box(-1, 1, (2,))

    def __init__(self, kind):
        self.action_space, self.right = TAKEN[kind]
        self.unit = (HIGH - LOW) / 2 if kind == "box" else 1.0

    def _observe(self):
        self.cue = 2 * int(self.np_random.integers(0, 2)) - 1
        return np.array([self.cue, self.np_random.uniform(-1, 1)], F)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is no action of {self.action_space}"
        right = self.right[self.cue]
        real = isinstance(self.action_space, spaces.Box)
        reward = 1 - np.mean(((action - right) / self.unit) ** 2) if real else np.mean(action == right)
        return self._observe(), float(reward), False, False, {}


class Recalled(gymnasium.Env):
    """A cue shows at the first of three steps only, and the action at the third must be what it said: 1 if it is, else 0."""

    SPACES: ClassVar = {
        "box": spaces.Box(-1, 1, (1,)),
        "discrete": spaces.Discrete(3, start=5),
        "image": spaces.Box(0, 255, (6, 6), np.uint8),
    }

    def __init__(self, kind):
        self.observation_space, self.kind, self.action_space = self.SPACES[kind], kind, spaces.Discrete(2)

    def _observe(self):
        shown = 2 * self.cue - 1 if self.t == 0 else 0
        if self.kind == "box":
            return np.array([shown], F)
        if self.kind == "discrete":
            return np.int64(6 + shown)
        x = np.zeros(self.observation_space.shape, np.uint8)
        x[2, 1 if shown < 0 else 3] = 255 * abs(shown)
        return x

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(0, 2))
        return self._observe(), {}

    def step(self, action):
        self.t += 1
        return self._observe(), float(self.t == 3 and action == self.cue), self.t == 3, False, {}


class Uneven(gymnasium.Env):
    """Episodes of drawn length, ended by termination or by truncation; rewards depend on the action, so that nothing goes unseen."""

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (2,)), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=2).astype(F)
        return self.x, {}

    def step(self, action):
        self.x = (0.9 * self.x + self.np_random.normal(size=2) + action).astype(F)
        ends = self.np_random.random(2) < 0.15
        return self.x, float(self.x[0] * action), bool(ends[0]), bool(ends[1]), {}


class Unsupported(gymnasium.Env):
    """Spaces that cannot be learned from."""

    SPACES: ClassVar = {
        "text": (spaces.Text(5), spaces.Discrete(2)),
        "text_inside": (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Text(5)}), spaces.Discrete(2)),
        "sequence": (spaces.Sequence(spaces.Discrete(2)), spaces.Discrete(2)),
        "graph": (spaces.Graph(spaces.Box(-1, 1, (2,)), None), spaces.Discrete(2)),
        "integers": (spaces.Box(-1, 1, (2,)), spaces.Box(0, 5, (2,), np.int64)),
        "bytes": (spaces.Box(-1, 1, (2,)), spaces.Box(0, 255, (2,), np.uint8)),
        "choice_of_two": (spaces.Box(-1, 1, (2,)), spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,))))),
        "named_choices": (spaces.Box(-1, 1, (2,)), spaces.Dict({"a": spaces.Discrete(2)})),
    }

    def __init__(self, kind):
        self.observation_space, self.action_space = self.SPACES[kind]

    def reset(self, *, seed=None, options=None):
        raise AssertionError("nothing should get this far")


def register(cls, kinds, steps):
    for kind in kinds:
        gymnasium.register(f"spaces/{cls.__name__}_{kind}-v0", cls, kwargs={"kind": kind}, max_episode_steps=steps)


register(Shown, SHOWN, ROUNDS)
register(Taken, TAKEN, ROUNDS)
register(Recalled, Recalled.SPACES, 10)
register(Unsupported, Unsupported.SPACES, 10)
gymnasium.register("spaces/Uneven-v0", Uneven, max_episode_steps=12)

SMALL = {
    "engine": "sync", "jit": "false", "hidden": "16", "envs": 16, "horizon": 16, "discount": 0.0, "eval_episodes": 100, "seed": 3,
    "critic_epochs": 2, "critic_minibatches": 2, "cg_iterations": 5, "initial_log_std": -1.5,
}  # fmt: skip
UNREAD = ("cg_iterations", "initial_log_std")  # by ppo, and by actions that are counted: the command line refuses them
FAST = {
    "npg": {"kl_radius": 0.1},
    "ppo": {"learning_rate": 0.01, "epochs": 5, "minibatches": 4},
    "reinforce_togo": {"learning_rate": 0.015, "envs": 64, "horizon": 0},
    "reinforce_baseline": {"learning_rate": 0.03, "envs": 64, "horizon": 0},
    "actor_critic": {"learning_rate": 0.03},
}


def opened(env, algo="npg", iterations=1000, **flags):
    """A new run of the small configuration, in no directory. Iterations have 256 steps if the flags do not say otherwise."""
    given = {**SMALL, **FAST.get(algo, {}), **flags}
    if not ("Taken" in env and "box" in env):
        del given["initial_log_std"]  # of real actions only
    config = check_values(configured(env=env, algo=algo, **{"total_steps": iterations * 256, **given}))
    run = train.Run(config, Path(os.devnull), build.setup(config))
    run.begin()
    return run


def learned(run, iterations, goal=math.inf):
    """Trains until greedy episodes reach the goal, which is looked at after every fourth iteration, or so long. Returns: the rows."""
    rows = []
    try:
        while len(rows) < iterations and not (rows and len(rows) % 4 == 0 and np.mean(run.judge("progress")) > goal):
            rows.append(run.iterate())
    finally:
        run.parts.engine.close()
    assert all(row["skipped"] == 0 for row in rows)
    return rows


def judged(run):
    return float(np.mean(run.judge("result")))


def served(run, directory):
    """The exported policy: inputs by name -> outputs."""
    path = export.export(directory / "policy", run.parts.learner, run.state, run.parts.spaces)
    model = tf.saved_model.load(str(path))
    signature = model.signatures["serving_default"]

    def use(**inputs):
        assert model  # its variables live as long as it does
        return {name: x.numpy() for name, x in signature(**{name: tf.constant(x) for name, x in inputs.items()}).items()}

    return use


def stacked(inputs):
    return {name: np.stack([each[name] for each in inputs]) for name in inputs[0]}


def played(env, use, inputs, episodes=25):
    """Plays gymnasium's own environment with the exported policy alone. Returns: mean return, the observations seen, the actions taken."""
    env, total, observations, actions = gymnasium.make(env), 0.0, [], []
    for i in range(episodes):
        observation, ended = env.reset(seed=100 + i)[0], False
        while not ended:
            action = use(**stacked([inputs(observation)]))["action"][0]
            assert action.shape == env.action_space.shape
            own = action.astype(env.action_space.dtype)
            assert np.array_equal(own, action)
            assert env.action_space.contains(own)
            observations.append(observation)
            actions.append(action)
            observation, reward, terminated, truncated, _ = env.step(own)
            total, ended = total + reward, terminated or truncated
    return total / episodes, observations, np.stack(actions), env.observation_space


def assert_export_is_the_policy(run, directory, inputs, least):
    use = served(run, directory)
    reached, observations, actions, space = played(run.config.env, use, inputs)
    assert reached > least
    seen = np.stack(observations) if isinstance(space, spaces.Box) else np.stack([spaces.flatten(space, o) for o in observations])
    greedy = tf.function(lambda o: evaluate.greedy(run.parts.learner, run.state, o)[0])
    batch = use(**stacked([inputs(o) for o in observations]))["action"]
    np.testing.assert_array_equal(batch, greedy(tf.constant(seen.astype(F))))
    np.testing.assert_allclose(actions, batch, rtol=1e-5, atol=1e-6)
    assert len(np.unique(batch, axis=0)) > 1


GOAL = 0.98 * ROUNDS
OBSERVED = [
    ("pixels", "ppo", {"network": "cnn"}),
    ("pixels", "npg", {"network": "cnn"}),
    ("dict", "npg", {"network": "keras"}),
    *((kind, algo, {}) for kind in SHOWN if kind != "pixels" for algo in ("npg", "ppo")),
]


@pytest.mark.parametrize(("kind", "algo", "flags"), OBSERVED, ids=lambda x: x if isinstance(x, str) else x.get("network", "mlp"))
def test_every_observation_is_learned_from_and_exported(kind, algo, flags, tmp_path):
    run = opened(f"spaces/Shown_{kind}-v0", algo, 60, **flags)
    rows = learned(run, 60, GOAL)
    assert rows[0]["return_mean"] == pytest.approx(ROUNDS / 2, abs=0.12 * ROUNDS)
    assert judged(run) > 0.97 * ROUNDS
    assert_export_is_the_policy(run, tmp_path, SHOWN[kind][3], 0.97 * ROUNDS)


CHANCE = {"discrete": 1 / 3, "multi_discrete": 5 / 12, "multi_binary": 1 / 2}


def untrained(kind):
    """Return per round: of uniform actions; of the middle of real ones, or 0 where a side is open."""
    if kind not in REAL:
        return CHANCE[kind]
    right = TAKEN[kind][1]
    middle, unit = ((LOW + HIGH) / 2, (HIGH - LOW) / 2) if kind == "box" else (0.0, 1.0)
    return np.mean([1 - np.mean(((middle - a) / unit) ** 2) for a in right.values()])


@pytest.mark.parametrize("algo", ["npg", "ppo", "reinforce_togo", "actor_critic"])
@pytest.mark.parametrize("kind", TAKEN)
def test_every_action_is_learned_and_exported(kind, algo, tmp_path):
    run = opened(f"spaces/Taken_{kind}-v0", algo, 100)
    before = judged(run)
    rows = learned(run, 100, GOAL)
    first = before if kind in REAL else rows[0]["return_mean"]
    assert first == pytest.approx(untrained(kind) * ROUNDS, abs=0.1 * ROUNDS)
    assert judged(run) > 0.97 * ROUNDS
    assert_export_is_the_policy(run, tmp_path, lambda o: {"observation": o}, 0.97 * ROUNDS)


def recalling(kind, algo="ppo", **flags):
    return opened(f"spaces/Recalled_{kind}-v0", algo, 20, discount=1.0, total_steps=10**6, **{"envs": 32, "horizon": 12, **flags})


def windows(kind, k=3):
    """What the exported policy is to be given for the window of an episode's observations: zeros before the first."""
    held = []

    def inputs(observation, first):
        plain = np.float32(np.arange(5, 8) == observation) if kind == "discrete" else np.float32(observation)
        held[:] = [*([np.zeros_like(plain)] * k if first else held)[1:], plain]
        return {"observation": np.stack(held)}

    return inputs


def recalled(use, kind, inputs, memory=None, episodes=20):
    """Mean return of the exported policy alone, in gymnasium's own environment."""
    env, total = gymnasium.make(f"spaces/Recalled_{kind}-v0"), 0.0
    for i in range(episodes):
        observation, ended, first = env.reset(seed=50 + i)[0], False, True
        carried = {} if memory is None else {"memory": np.zeros([1, memory], F)}
        while not ended:
            answer = use(**stacked([inputs(observation, first)]), **carried)
            carried = {} if memory is None else {"memory": answer["memory"]}
            observation, reward, ended, _, _ = env.step(int(answer["action"][0]))
            total, first = total + reward, False
    return total / episodes


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        ("box", {"algo": "npg"}),
        ("box", {"algo": "reinforce_baseline", "horizon": 0, "envs": 64}),
        ("discrete", {"algo": "ppo"}),
        ("image", {"algo": "ppo"}),
    ],
    ids=lambda x: x if isinstance(x, str) else x["algo"],
)
def test_a_window_shows_what_was_seen_only_at_first(kind, flags, tmp_path):
    run = recalling(kind, window=3, **flags)
    learned(run, 60, 0.99)
    assert judged(run) > 0.97
    assert recalled(served(run, tmp_path), kind, windows(kind)) > 0.97


@pytest.mark.parametrize(("algo", "window"), [("npg", 1), ("ppo", 2)])
def test_without_a_window_that_reaches_back_there_is_only_chance(algo, window):
    run = recalling("box", algo, window=window)
    learned(run, 25)
    assert judged(run) == pytest.approx(0.5, abs=0.17)


@pytest.mark.parametrize("algo", ["ppo", "reinforce_baseline"])
def test_a_memory_keeps_what_was_seen_only_at_first(algo, tmp_path):
    sizes = {} if algo == "ppo" else {"horizon": 0, "envs": 64}
    run = recalling("box", algo, network="gru", minibatches=4, **sizes)
    learned(run, 60, 0.99)
    assert judged(run) > 0.97
    use = served(run, tmp_path)
    assert recalled(use, "box", lambda o, first: {"observation": o}, memory=16) > 0.97


UNEVEN = {"envs": 2, "horizon": 40, "discount": 0.9, "total_steps": 10**4}


def twice(engine, autoreset):
    run = opened("spaces/Uneven-v0", "actor_critic", engine=engine, autoreset=autoreset, **UNEVEN)
    rows = learned(run, 2)
    assert all(row["episodes"] > 4 for row in rows)
    return [{k: v for k, v in row.items() if k not in ("seconds", "steps_per_second")} for row in rows], tf.nest.flatten(run.state)


def assert_same(a, b):
    assert a[0] == b[0]
    for x, y in zip(a[1], b[1], strict=True):
        np.testing.assert_array_equal(x, y)


def test_workers_and_one_process_learn_the_same_to_the_bit():
    wanted = twice("sync", "disabled")
    for engine, autoreset in (("sync", "same_step"), ("async", "disabled"), ("async", "same_step")):
        assert_same(twice(engine, autoreset), wanted)
    assert_same(twice("async", "next_step"), twice("sync", "next_step"))


def first_episodes(engine, autoreset):
    """Of each environment the rows of its first episode, and the whole trajectory."""
    run = opened("spaces/Uneven-v0", "actor_critic", engine=engine, autoreset=autoreset, **UNEVEN)
    run.parts.engine.close()
    environment = engines.open_python(run.config, engine, 2, 5)
    try:
        stream = rollout.Stream(environment, run.parts.learner, 2, 40)
        t, _ = stream.collect(run.state, tf.constant([1, 2]))
    finally:
        environment.close()
    ended = (t.terminated | t.truncated).numpy()
    ends = ended.argmax(axis=0)
    assert ended.any(axis=0).all()
    kept = [[x.numpy()[: end + 1, i] for x in t[:7]] for i, end in enumerate(ends)]
    return kept, t, ended


def test_resets_that_take_a_row_hide_it_and_change_no_first_episode():
    wanted, plain, _ = first_episodes("sync", "disabled")
    assert plain.mask.numpy().all()
    for engine in ("sync", "async"):
        found, t, ended = first_episodes(engine, "next_step")
        for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(wanted), strict=True):
            np.testing.assert_array_equal(a, b)
        hidden = ~t.mask.numpy()
        np.testing.assert_array_equal(hidden[1:], ended[:-1])
        assert not hidden[0].any()
        assert hidden.any()


GRAPH = ["--env=CartPole-v1", "--engine=graph", "--envs=4", "--jit=false", "--hidden=8", "--eval_episodes=2", "--tensorboard=false"]
STATISTICS = {
    "reinforce_togo": (["--baseline=moving_average", "--average_rate=0.3", "--return_scaling"], ["observations", "targets", "average"]),
    "ppo_kl": (["--epochs=2", "--minibatches=2"], ["observations", "targets", "penalty", "policy_optimizer", "value_optimizer"]),
}


def kept(directory):
    """The newest checkpoint's training state and counters, and the state that such a run begins with."""
    import run as program

    config = program.configure([f"--flagfile={directory}/run.flags"])
    run = train.Run(config, directory, build.setup(config))
    fresh = run.state
    run.restore(repair=False)
    return run.state, run.counters, fresh


@pytest.mark.parametrize("algo", STATISTICS)
def test_statistics_survive_a_stop_and_resume_to_the_bit(algo, tmp_path, capfd):
    further, moving = STATISTICS[algo]
    flags = [*GRAPH, f"--algo={algo}", "--horizon=40", "--schedule=constant", "--checkpoint_every=1", *further]
    assert call(capfd, *flags, "--total_steps=400", f"--workdir={tmp_path}/whole")[0] == 0
    assert call(capfd, *flags, "--total_steps=100", f"--workdir={tmp_path}/parts")[0] == 0
    middle, at, fresh = kept(tmp_path / "parts")
    assert call(capfd, "--resume", f"--workdir={tmp_path}/parts", "--total_steps=400")[0] == 0
    (whole, end, _), (resumed, end_too, _) = kept(tmp_path / "whole"), kept(tmp_path / "parts")
    assert at.iteration < end.iteration == end_too.iteration
    for x, y in zip(tf.nest.flatten(whole), tf.nest.flatten(resumed), strict=True):
        np.testing.assert_array_equal(x, y)
    for part in moving:
        for a, b in ((fresh, middle), (middle, resumed)):
            leaves = zip(tf.nest.flatten(getattr(a, part)), tf.nest.flatten(getattr(b, part)), strict=True)
            assert any((x.numpy() != y.numpy()).any() for x, y in leaves), part


def deviations(run, iterations=20):
    """Least sigma after each iteration."""
    found = []
    for _ in range(iterations):
        run.iterate()
        found.append(math.exp(run.parts.learner.policy.parameters(run.state.policy, tf.zeros([1, 2]))["log_std"].numpy().min()))
    run.parts.engine.close()
    return found


def test_the_floor_of_the_log_deviation_is_never_passed():
    flags = {"algo": "ppo", "initial_log_std": -0.5}
    free, held = (deviations(opened("spaces/Taken_half_box-v0", log_std_floor=floor, **flags)) for floor in (-20.0, -1.0))
    assert min(free) < 0.8 * math.exp(-1)
    assert min(held) > math.exp(-1)
    assert held[-1] < held[0] < math.exp(-0.4)


def change(**flags):
    """The parameters' change by one step of plain gradient ascent, as one vector."""
    run = opened("spaces/Taken_discrete-v0", "reinforce_togo", optimizer="sgd", learning_rate=2.0, **flags)
    before = run.state.policy
    learned(run, 1)
    moved = tf.nest.map_structure(lambda a, b: b - a, before, run.state.policy)
    return np.concatenate([x.numpy().ravel() for x in tf.nest.flatten(moved)])


def test_a_clipped_gradient_bounds_the_change_and_keeps_its_direction():
    free = change()
    length = np.linalg.norm(free)
    short, loose = change(gradient_clip=length / 8), change(gradient_clip=length)
    np.testing.assert_allclose(np.linalg.norm(short), 2.0 * length / 8, rtol=1e-4)
    np.testing.assert_allclose(short * 4, free, atol=1e-4 * length)
    np.testing.assert_array_equal(loose, free)


@pytest.mark.parametrize(("algo", "flags", "bonuses"), [("npg", {"kl_radius": 0.03}, (0.5, 2.0)), ("reinforce_togo", {}, (0.75, 1.5))])
def test_an_entropy_bonus_keeps_the_policy_undecided(algo, flags, bonuses):
    def entropies(bonus):
        return [row["entropy"] for row in learned(opened("spaces/Taken_multi_discrete-v0", algo, entropy_bonus=bonus, **flags), 16)]

    without, little, much = map(entropies, (0.0, *bonuses))
    assert without[0] == pytest.approx(math.log(6), rel=1e-3)
    assert without[-1] + 0.1 < little[-1]
    assert little[-1] + 0.1 < much[-1]


PACES = {
    "constant": lambda x: 1.0,
    "linear": lambda x: 1 - x,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "exponential": lambda x: 10 ** (-2 * x),
}


@pytest.mark.parametrize("schedule", PACES)
def test_steps_shrink_as_the_schedule_says(schedule):
    clip = {"optimizer": "sgd", "learning_rate": 0.5, "gradient_clip": 1e-3}  # every gradient is longer, so each step is 0.5 * 1e-3 * pace
    run = opened("spaces/Taken_discrete-v0", "reinforce_togo", 6, schedule=schedule, **clip)
    rows = learned(run, 6)
    assert all(row["gradient_norm"] > 1e-3 for row in rows)
    np.testing.assert_allclose([row["step_size"] for row in rows], [0.5e-3 * PACES[schedule](k / 6) for k in range(6)], rtol=1e-5)


def test_the_program_trains_judges_and_exports(tmp_path, capfd):
    small = [f"--{name}={str(value).lower()}" for name, value in {**SMALL, **FAST["ppo"]}.items() if name not in UNREAD]
    run = f"--workdir={tmp_path}/run"
    flags = ["--env=spaces/Shown_dict-v0", "--algo=ppo", *small, "--total_steps=15360", f"--stop_at_return={GOAL}", "--eval_every=4"]
    assert call(capfd, *flags, "--tensorboard=false", run)[::2] == (0, "")
    assert call(capfd, "--mode=evaluate", run)[::2] == (0, "")
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["mean"] > 0.97 * ROUNDS
    assert call(capfd, "--mode=export", run)[::2] == (0, "")
    for version in ("1", "2"):
        signature = tf.saved_model.load(str(tmp_path / "run" / "policy" / version)).signatures["serving_default"]
        assert {name: spec.dtype for name, spec in signature.structured_input_signature[1].items()} == {
            "observation_kind": tf.int64, "observation_grid": tf.float32, "observation_switches": tf.int8,
        }  # fmt: skip


@pytest.mark.parametrize("kind", Unsupported.SPACES)
def test_spaces_that_cannot_be_had_are_refused_with_a_sentence(kind, tmp_path, capfd):
    code, out, err = call(capfd, f"--env=spaces/Unsupported_{kind}-v0", f"--workdir={tmp_path}/run")
    assert code == 2
    assert out == ""
    word = "observations" if isinstance(Unsupported.SPACES[kind][1], spaces.Discrete) else "actions"
    assert err.startswith(f"run.py: --env=spaces/Unsupported_{kind}-v0 has {word} ")
    assert err.count("\n") == 1
    assert err.endswith("are allowed.\n")
    assert not (tmp_path / "run").exists()
