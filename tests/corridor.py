"""A tiny environment whose every return is known: a walk k = 0, 1, 2, .. that nothing can turn.

Step k pays 1 + 0.3 k + 0.05 a. Column i terminates after LENGTHS[i] steps and is truncated after LIMIT: column 0 terminates, column 1 does
both at one step, column 2 is truncated. Observation: (k, length). It exists three times: in graph, as a gymnasium environment, and as a
module with EnvPool's interface and its reset at the next step.
"""

import types

import gymnasium
import numpy as np
import tensorflow as tf

from tfpg.types import Environment, Spaces

LENGTHS, LIMIT = (3, 5, 100), 5


def reward(k, action):
    return 1 + 0.3 * k + 0.05 * action


def in_graph():
    lengths = tf.constant(LENGTHS, tf.float32)

    def reset(n, seed):
        return tf.zeros([n])

    def observe(k):
        return tf.stack([k, lengths], axis=1)

    def step(k, action, seed):
        return k + 1, reward(k, tf.cast(action, tf.float32)), k + 1 >= lengths

    return Environment("Corridor-v0", Spaces((2,), actions=2), LIMIT, reset, observe, step)


class Corridor(gymnasium.Env):
    """The seed of the first reset chooses the column."""

    observation_space = gymnasium.spaces.Box(0, 1000, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.length = LENGTHS[seed % 3]
        self.k = 0
        return self._observe(), {}

    def _observe(self):
        return np.array([self.k, self.length], np.float32)

    def step(self, action):
        paid = reward(self.k, action)
        self.k += 1
        return self._observe(), paid, self.k >= self.length, False, {}


gymnasium.register("Corridor-v0", Corridor, max_episode_steps=LIMIT)


class NextStepCorridors:
    """EnvPool's way: the step after an end ignores its action, pays 0, flags nothing, and shows the first observation."""

    def __init__(self, n):
        self.n = n
        self.observation_space, self.action_space = Corridor.observation_space, Corridor.action_space
        self.spec = types.SimpleNamespace(config=types.SimpleNamespace(max_episode_steps=LIMIT))
        self.lengths = np.array(LENGTHS)

    def _observe(self):
        return np.stack([self.k, self.lengths], axis=1).astype(np.float32)

    def reset(self):
        self.k, self.over = np.zeros(self.n, int), np.zeros(self.n, bool)
        return self._observe(), {}

    def step(self, action):
        assert action.shape == (self.n,)
        paid = np.where(self.over, 0, reward(self.k, action))
        self.k = np.where(self.over, 0, self.k + 1)
        terminated = ~self.over & (self.k >= self.lengths)
        truncated = ~self.over & (self.k >= LIMIT)
        self.over = terminated | truncated
        return self._observe(), paid, terminated, truncated, {}

    def close(self):
        pass


def envpool():
    """A module that offers what the bridge uses of EnvPool."""
    module = types.ModuleType("envpool")
    module.list_all_envs = lambda: ["Corridor-v0"]
    module.make = lambda name, env_type, num_envs, seed: NextStepCorridors(num_envs)
    return module
