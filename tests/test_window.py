"""Windows of the last k observations never look across the end of an episode."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import conformance
from tfpg.envs import cartpole, gym, window
from tfpg.errors import UsageError
from tfpg.trees import where_rows

N, T = 4, 17
SEED = tf.constant([3, 4])
conformance.register()


def definition(wanted, k, after):
    """The window of each row, entry by entry: step j of the episode, or zeros where there is none."""
    found = np.zeros((*wanted.mask.shape, k, 2))
    for t, i in np.argwhere(wanted.mask):
        for back in range(k):
            j = wanted.age[t, i] + after - back
            found[t, i, k - 1 - back] = (j, wanted.observation[t, i, 1]) if j >= 0 else (0, 0)
    return found


def walk(engine, mode, k):
    """Observations and next observations of the windowed corridor, and the closed forms of what it shows: [T, N, ..]."""
    if engine == "graph":
        environment = window.windowed_graph(conformance.in_graph(), k)
        state, rows, age = environment.reset(N, SEED), [], tf.zeros([N], tf.int32)
        for _ in range(T):
            after, _, terminated = environment.step(state, tf.ones([N], tf.int32), SEED)
            rows.append((environment.observe(state), environment.observe(after)))
            ended = terminated | (age + 1 >= environment.time_limit)
            state, age = where_rows(ended, environment.reset(N, SEED), after), tf.where(ended, 0, age + 1)
    else:
        environment = window.windowed(gym.ENGINES[engine](conformance.ID, N, 0, autoreset=mode), k)
        environment.reset()
        environment.step(np.ones(N, int))
        observation, rows = environment.reset(), []
        for _ in range(T):
            step = environment.step(np.ones(N, int))
            rows.append((observation, step.next_observation))
            observation = step.observation
        environment.close()
    assert environment.spaces.observation_shape == (k, 2)
    return (*map(np.stack, zip(*rows, strict=True)), conformance.steps(np.ones([T, N]), resets_take_a_row=mode == "next_step"))


@pytest.mark.parametrize("k", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("engine", "mode"), [("graph", ""), ("sync", "disabled"), ("sync", "same_step"), ("sync", "next_step"), ("async", "next_step")]
)
def test_windows_are_the_last_k_observations_of_the_episode(engine, mode, k):
    observation, after, wanted = walk(engine, mode, k)
    np.testing.assert_array_equal(observation[wanted.mask], definition(wanted, k, 0)[wanted.mask])
    np.testing.assert_array_equal(after[wanted.mask], definition(wanted, k, 1)[wanted.mask])


def test_windows_that_were_handed_out_stay():
    environment = window.windowed(gym.ENGINES["sync"](conformance.ID, N, 0), 3)
    first = environment.reset()
    kept = first.copy()
    step = environment.step(np.ones(N, int))
    copies = (step.observation.copy(), step.next_observation.copy())
    following = environment.step(np.ones(N, int))
    np.testing.assert_array_equal(first, kept)
    np.testing.assert_array_equal(step.observation, copies[0])
    np.testing.assert_array_equal(step.next_observation, copies[1])
    following.observation[:] = 50
    following.next_observation[:] = 50
    np.testing.assert_array_equal(environment.step(np.ones(N, int)).observation[2, :, 0], [1, 2, 3])
    environment.reset()[:] = 50
    np.testing.assert_array_equal(environment.step(np.ones(N, int)).observation[2, :, 0], [0, 0, 1])


def test_windows_in_graph_compile():
    environment = window.windowed_graph(cartpole.make(), 3)

    @tf.function(jit_compile=True)
    def run(seed):
        state = environment.reset(5, seed)
        for _ in range(2):
            state, _, _ = environment.step(state, tf.ones([5], tf.int32), seed)
        return environment.observe(state)

    found = run(SEED)
    np.testing.assert_allclose(found[:, 1], cartpole.physics(found[:, 0], tf.ones([5], tf.int32)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[:, 2], cartpole.physics(found[:, 1], tf.ones([5], tf.int32)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("k", [0, -2])
def test_a_window_of_nothing_is_refused(k):
    with pytest.raises(UsageError, match=f"--window={k} is out of range: windows of 1 observation or more"):
        window.windowed_graph(cartpole.make(), k)
