"""The project's own environments for gymnasium: once this module is imported, `gymnasium.make("tfpg/DeepRM-v0")` makes one.

`gymnasium.make("tfpg.envs.registered:tfpg/DeepRM-v0", rate=0.5)` imports it on the way; further arguments are those of the environment's
`make` in its module.
"""

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import tensorflow as tf

from tfpg.envs import IN_GRAPH, deeprm

PICTURES: dict[str, Callable[[Any], np.ndarray]] = {deeprm.NAME: deeprm.picture}
"""name -> picture(state) -> [height, width, 3] bytes of the first of N environments."""
OWN = [name for name in IN_GRAPH if name.startswith("tfpg/")]


class InGraph(gymnasium.Env):
    """One in-graph environment, stepped from Python. Its randomness is drawn from the seed of `reset`."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, name: str, render_mode: str | None = None, **arguments: Any) -> None:
        modes = ["rgb_array"] if name in PICTURES else []
        self.metadata = {**self.metadata, "render_modes": modes}
        if render_mode not in (None, *modes):
            raise ValueError(f"render_mode={render_mode} is unknown to {name}: {' and '.join(['None', *modes])} are allowed")
        self.name, self.render_mode = name, render_mode
        self.environment = IN_GRAPH[name](**arguments)
        spaces = self.environment.spaces
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, spaces.observation_shape, np.float32)
        low, high = np.array(spaces.action_low, np.float32), np.array(spaces.action_high, np.float32)
        self.action_space = gymnasium.spaces.Discrete(spaces.actions) if spaces.actions else gymnasium.spaces.Box(low, high)
        self._reset = tf.function(lambda seed: self._seen(self.environment.reset(1, seed)))
        self._step = tf.function(self._stepped)
        self._state: Any = None

    def _seen(self, state: Any) -> tuple[Any, tf.Tensor]:
        return state, self.environment.observe(state)[0]

    def _stepped(self, state: Any, action: tf.Tensor, seed: tf.Tensor) -> tuple[Any, ...]:
        state, reward, terminated = self.environment.step(state, action[None], seed)
        return *self._seen(state), reward[0], terminated[0]

    def _seed(self) -> tf.Tensor:
        return tf.constant(self.np_random.integers(2**31, size=2), tf.int32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._state, observation = self._reset(self._seed())
        return observation.numpy(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        own = tf.constant(action, tf.int32 if self.environment.spaces.actions else tf.float32)
        self._state, observation, reward, terminated = self._step(self._state, own, self._seed())
        return observation.numpy(), float(reward), bool(terminated), False, {}

    def render(self) -> np.ndarray | None:
        return PICTURES[self.name](self._state) if self.render_mode else None


for own in OWN:
    if own not in gymnasium.registry:
        limit = IN_GRAPH[own]().time_limit
        gymnasium.register(own, entry_point=InGraph, max_episode_steps=limit, kwargs={"name": own})
