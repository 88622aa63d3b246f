"""In-graph environments follow gymnasium's physics step for step, and all of them keep the contract of `Environment`."""

import types

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.envs.classic_control import continuous_mountain_car

from tfpg.envs import IN_GRAPH

STEPS = 10_000
GYMNASIUM = [name for name in IN_GRAPH if not name.startswith("tfpg/")]
PI = np.pi
# Where steps may start from, with every branch of the physics in it: ends, walls, clips and turns of more than a circle.
ANYWHERE = {
    "CartPole-v1": ([-2.5, -3, -0.25, -3], [2.5, 3, 0.25, 3]),
    "Pendulum-v1": ([-3 * PI, -8], [3 * PI, 8]),
    "Acrobot-v1": ([-PI, -PI, -4 * PI, -9 * PI], [PI, PI, 4 * PI, 9 * PI]),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07]),
}
RESETS = {
    "CartPole-v1": ([-0.05] * 4, [0.05] * 4),
    "Pendulum-v1": ([-PI, -1], [PI, 1]),
    "Acrobot-v1": ([-0.1] * 4, [0.1] * 4),
    "MountainCar-v0": ([-0.6, 0], [-0.4, 0]),
    "MountainCarContinuous-v0": ([-0.6, 0], [-0.4, 0]),
}


@pytest.fixture(autouse=True)
def unrounded(monkeypatch):
    """Gymnasium's continuous mountain car rounds its state to float32 at every step. Its physics is compared in float64."""
    monkeypatch.setattr(continuous_mountain_car, "np", types.SimpleNamespace(**{**vars(np), "float32": np.float64}))


def random_action(env, rng):
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        return int(rng.integers(env.action_space.n))
    low, high = env.action_space.low.astype(np.float64), env.action_space.high.astype(np.float64)
    return rng.uniform(1.5 * low, 1.5 * high)  # beyond the bounds too: both sides clip


def reference(name, rng):
    """10,000 random steps of gymnasium's own environment: states before, actions, states after, observations, rewards, flags, ages."""
    env, rows, age = gymnasium.make(name, disable_env_checker=True), [], 0
    env.reset(seed=3)
    for _ in range(STEPS):
        before = np.array(env.unwrapped.state, np.float64)
        action = random_action(env, rng)
        observation, reward, terminated, truncated, _ = env.step(action)
        age += 1
        rows.append((before, action, np.array(env.unwrapped.state, np.float64), observation, reward, terminated, truncated, age))
        if terminated or truncated:
            env.reset()
            age = 0
    return [np.array(column) for column in zip(*rows, strict=True)]


def from_anywhere(name, rng):
    """10,000 single steps of gymnasium's own environment, each from its own state of the whole space; the same columns but the last two."""
    env, rows = gymnasium.make(name, disable_env_checker=True).unwrapped, []
    env.reset(seed=3)
    for before in rng.uniform(*ANYWHERE[name], size=(STEPS, len(ANYWHERE[name][0]))):
        env.state, env.steps_beyond_terminated = before.copy(), None
        action = random_action(env, rng)
        observation, reward, terminated, _, _ = env.step(action)
        rows.append((before, action, np.array(env.state, np.float64), observation, reward, terminated))
    return [np.array(column) for column in zip(*rows, strict=True)]


@pytest.mark.parametrize("name", GYMNASIUM)
def test_10_000_random_steps_equal_gymnasium(name, rng, mode):
    """Tolerance: float64 round-off of one step (sin and cos differ in their last bits); gymnasium's observation is float32."""
    before, action, after, observation, reward, terminated, truncated, age = reference(name, rng)
    environment = IN_GRAPH[name](tf.float64)
    state, ours_reward, ours_terminated = mode(environment.step)(tf.constant(before), tf.constant(action), tf.constant([0, 0]))
    np.testing.assert_allclose(state, after, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours_reward, reward, rtol=0, atol=1e-12)
    np.testing.assert_allclose(environment.observe(state), observation, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(ours_terminated, terminated)
    np.testing.assert_array_equal(age >= environment.time_limit, truncated)
    assert terminated.any() or truncated.any()


@pytest.mark.parametrize("name", GYMNASIUM)
def test_steps_from_anywhere_equal_gymnasium(name, rng, mode):
    """Tolerance: as above, and Acrobot's four evaluations at up to 9 pi rad/s make more of the last bits: 4e-12 of numbers up to 28."""
    before, action, after, observation, reward, terminated = from_anywhere(name, rng)
    environment = IN_GRAPH[name](tf.float64)
    state, ours_reward, ours_terminated = mode(environment.step)(tf.constant(before), tf.constant(action), tf.constant([0, 0]))
    np.testing.assert_allclose(state, after, rtol=0, atol=4e-12 if name == "Acrobot-v1" else 1e-12)
    np.testing.assert_allclose(ours_reward, reward, rtol=0, atol=1e-12)
    np.testing.assert_allclose(environment.observe(state), observation, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(ours_terminated, terminated)
    assert terminated.any() == (name != "Pendulum-v1")
    assert not terminated.all()


def test_steps_from_anywhere_take_every_branch(rng):
    """What the test above compares has clips at both ends, walls, turns over the top, and the goal passed on the way back."""
    before, _, after, *_ = from_anywhere("Acrobot-v1", rng)
    for column, fastest in ((2, 4 * PI), (3, 9 * PI)):
        assert {-fastest, fastest} <= set(after[:, column])
    moved = before[:, :2] + 0.2 * before[:, 2:]
    assert (np.abs(after[:, :2]) <= PI).all()
    assert (np.abs(moved) > PI).any(axis=0).all()
    for name, goal in (("MountainCar-v0", 0.5), ("MountainCarContinuous-v0", 0.45)):
        _, _, after, _, _, terminated = from_anywhere(name, rng)
        x, speed = after.T
        assert {-0.07, 0.07, 0.0} <= set(speed)
        assert ((x == -1.2) & (speed == 0)).any()
        assert ((x == 0.6) & (speed > 0) & terminated).any()
        assert ((x > goal) & (speed < 0) & ~terminated).any()


@pytest.mark.parametrize("name", GYMNASIUM)
def test_float32_stays_close_to_float64(name, rng):
    before, action, *_ = reference(name, rng)
    results = []
    for dtype in (tf.float32, tf.float64):
        typed = tf.constant(action, tf.int32 if IN_GRAPH[name]().spaces.actions else dtype)
        state, reward, _ = IN_GRAPH[name](dtype).step(tf.constant(before, dtype), typed, tf.constant([0, 0]))
        assert state.dtype == reward.dtype == dtype
        results.append((state.numpy(), reward.numpy()))
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GYMNASIUM)
def test_a_long_open_loop_stays_with_gymnasium(name, rng):
    """Errors of single steps do not build up into another trajectory: 150 steps from one state under the same actions."""
    env = gymnasium.make(name, disable_env_checker=True).unwrapped
    env.reset(seed=5)
    environment = IN_GRAPH[name](tf.float64)
    state = tf.constant(np.array(env.state, np.float64)[None])
    for t in range(150):
        action = random_action(env, rng) if t % 2 else (0 if environment.spaces.actions else np.array([0.3]))
        env.steps_beyond_terminated = None
        env.step(action)
        state, _, _ = environment.step(state, tf.constant([action]), tf.constant([0, t]))
        if name == "CartPole-v1" and abs(env.state[2]) > 1:
            break
    np.testing.assert_allclose(state[0], env.state, rtol=1e-6, atol=1e-6)
    assert t > 10


@pytest.mark.parametrize("name", GYMNASIUM)
def test_resets_have_gymnasium_s_law(name):
    """Uniform between gymnasium's bounds: mean and variance of 20,000 resets within 5 sigma, and no value outside."""
    n, (low, high) = 20_000, np.array(RESETS[name])
    state = IN_GRAPH[name](tf.float64).reset(n, tf.constant([1, 2])).numpy()
    assert ((low <= state) & (state <= high)).all()
    drawn, half = high > low, (high - low) / 2
    deviation = np.abs(state.mean(0) - (low + high) / 2)
    assert (deviation[drawn] < 5 * half[drawn] / np.sqrt(3 * n)).all()
    kurtosis_sigma = np.sqrt(4 / 45 / n) * half**2
    assert (np.abs(state.var(0) - half**2 / 3)[drawn] < 5 * kurtosis_sigma[drawn]).all()
    assert np.abs(np.corrcoef(state.T[drawn]) - np.eye(drawn.sum())).max() < 0.05


@pytest.mark.parametrize("name", GYMNASIUM)
def test_gymnasium_s_own_resets_lie_in_these_bounds(name):
    """The bounds of the test above are gymnasium's: 2,000 of its resets fill them to a hundredth (missed by chance once in e^20)."""
    env, (low, high) = gymnasium.make(name, disable_env_checker=True).unwrapped, np.array(RESETS[name])
    env.reset(seed=4)
    states = np.array([(env.reset(), np.array(env.state, np.float64))[1] for _ in range(2_000)])
    margin = (high - low) / 100
    assert ((low - 1e-8 <= states) & (states <= high + 1e-8)).all()
    assert (states.min(0) <= low + margin).all()
    assert (states.max(0) >= high - margin).all()


@pytest.mark.parametrize("name", GYMNASIUM)
def test_spaces_and_time_limit_are_gymnasium_s(name):
    spec, env = gymnasium.spec(name), gymnasium.make(name)
    environment = IN_GRAPH[name]()
    assert environment.name == name
    assert environment.time_limit == spec.max_episode_steps
    assert environment.spaces.observation_shape == env.observation_space.shape
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        assert environment.spaces.actions == env.action_space.n
    else:
        assert environment.spaces.action_low == tuple(env.action_space.low)
        assert environment.spaces.action_high == tuple(env.action_space.high)


@pytest.mark.parametrize("name", IN_GRAPH)
def test_resets_depend_on_the_seed_and_rows_differ(name):
    environment = IN_GRAPH[name]()
    states = [environment.reset(50, tf.constant(seed)) for seed in ([1, 2], [1, 2], [1, 3])]
    first, again, other = (np.concatenate([np.reshape(x, [50, -1]) for x in tf.nest.flatten(state)], axis=1) for state in states)
    np.testing.assert_array_equal(first, again)
    if first.dtype.kind == "f":
        drawn = first.std(axis=0) > 0
        assert drawn[0]
        assert not (first == other)[:, drawn].any()
        assert len(np.unique(first[:, drawn])) == first[:, drawn].size
    else:
        assert (first != other).any()
        assert len(np.unique(first)) > 1


def some_actions(environment, n, dtype, rng):
    spaces = environment.spaces
    if spaces.actions:
        return tf.constant(rng.integers(spaces.actions, size=n), tf.int32)
    return tf.constant(rng.normal(size=(n, len(spaces.action_low))), dtype)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("n", [1, 7])
@pytest.mark.parametrize("name", IN_GRAPH)
def test_a_batch_keeps_its_shapes_and_types(name, n, dtype, mode, rng):
    """Reset, observe and step, compiled or not, for one environment and for several."""
    environment = IN_GRAPH[name](dtype)
    assert environment.name == name
    state = mode(lambda seed: environment.reset(n, seed))(tf.constant([1, 2]))
    action = some_actions(environment, n, dtype, rng)
    after, reward, terminated = mode(environment.step)(state, action, tf.constant([3, 4]))
    for x, y in zip(tf.nest.flatten(after), tf.nest.flatten(state), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert (reward.shape, reward.dtype) == ([n], dtype)
    assert (terminated.shape, terminated.dtype) == ([n], tf.bool)
    for x in (state, after):
        observation = mode(environment.observe)(x)
        assert (observation.shape, observation.dtype) == ([n, *environment.spaces.observation_shape], dtype)
        assert np.isfinite(observation).all()


@pytest.mark.parametrize("name", IN_GRAPH)
def test_steps_repeat_and_rows_do_not_mix(name, rng):
    """The same state, action and seed lead to the same step. Where the dynamics are certain, row i depends on row i alone."""
    environment, n = IN_GRAPH[name](tf.float64), 40
    state, action, seed = environment.reset(n, tf.constant([1, 2])), some_actions(environment, n, tf.float64, rng), tf.constant([3, 4])
    first, again, other = (environment.step(state, action, tf.constant(s)) for s in ([3, 4], [3, 4], [3, 5]))
    tf.nest.map_structure(np.testing.assert_array_equal, first, again)
    certain = name != "tfpg/Tabular-v0"
    assert all(np.array_equal(x, y) for x, y in zip(*map(tf.nest.flatten, (first[0], other[0])), strict=True)) == certain
    if certain:
        alone = [tf.nest.map_structure(lambda x: x[i : i + 1], state) for i in range(n)]  # noqa: B023
        rows = [environment.step(alone[i], action[i : i + 1], seed) for i in range(n)]
        together = tf.nest.map_structure(lambda *x: tf.concat(x, axis=0), *rows)
        tf.nest.map_structure(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-14, atol=1e-15), together, first)
