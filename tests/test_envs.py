"""In-graph environments follow gymnasium's physics step for step."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tfpg.envs import IN_GRAPH

STEPS = 10_000


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


@pytest.mark.parametrize("name", IN_GRAPH)
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


@pytest.mark.parametrize("name", IN_GRAPH)
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


@pytest.mark.parametrize("name", IN_GRAPH)
def test_a_long_open_loop_stays_with_gymnasium(name, rng):
    """Errors of single steps do not build up into another trajectory: 150 steps from one state under the same actions."""
    env = gymnasium.make(name, disable_env_checker=True).unwrapped
    env.reset(seed=5)
    environment = IN_GRAPH[name](tf.float64)
    state = tf.constant(np.array(env.state)[None])
    for t in range(150):
        action = random_action(env, rng) if t % 2 else (0 if environment.spaces.actions else np.array([0.3]))
        env.steps_beyond_terminated = None
        env.step(action)
        state, _, _ = environment.step(state, tf.constant([action]), tf.constant([0, t]))
        if environment.spaces.actions and abs(env.state[2]) > 1:
            break
    np.testing.assert_allclose(state[0], env.state, rtol=1e-6, atol=1e-6)
    assert t > 10


@pytest.mark.parametrize("name", IN_GRAPH)
def test_resets_have_gymnasium_s_law(name):
    """Uniform between gymnasium's bounds: mean and variance of 20,000 resets within 5 sigma, and no value outside."""
    n, high = 20_000, {"CartPole-v1": np.full(4, 0.05), "Pendulum-v1": np.array([np.pi, 1.0])}[name]
    state = IN_GRAPH[name](tf.float64).reset(n, tf.constant([1, 2])).numpy()
    assert (np.abs(state) <= high).all()
    sigma = high / np.sqrt(3 * n)
    assert (np.abs(state.mean(0)) < 5 * sigma).all()
    kurtosis_sigma = np.sqrt(4 / 45 / n) * high**2
    assert (np.abs(state.var(0) - high**2 / 3) < 5 * kurtosis_sigma).all()
    assert np.abs(np.corrcoef(state.T) - np.eye(len(high))).max() < 0.05


@pytest.mark.parametrize("name", IN_GRAPH)
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
    first, again, other = (environment.reset(3, tf.constant(seed)).numpy() for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()
    assert len(np.unique(first)) == first.size
