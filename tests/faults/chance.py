"""Environments that fail now and then, each in its own way: registered where this module is imported."""

import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv
from test_env_faults import Crashing, act_out, spoil


class Chance(Crashing):
    """Ends after ten steps, and fails as it is told in some of its steps and resets."""

    def __init__(self, how, step=0.0, reset=0.0):
        super().__init__(step, reset)
        self.how, self.struck = how.replace("_", " "), False

    def chance(self, which):
        self.struck = self.np_random.random() < self.chances[which]
        if self.struck:
            act_out(self.how)

    def changed(self, given):
        if self.struck:
            spoil(self.how, given)
        return tuple(given.values())

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return self.changed({"observation": observation})[0], info

    def step(self, action):
        *values, info = super().step(action)
        return (*self.changed(dict(zip(("observation", "reward", "terminated", "truncated"), values, strict=True))), info)


class FailingCartPole(CartPoleEnv):
    """CartPole that crashes and hangs."""

    def __init__(self, step=0.0, reset=0.0, hang=0.0):
        super().__init__()
        self.rates = step, reset, hang

    def strike(self, which, how):
        if self.np_random.random() < self.rates[which]:
            act_out(how)

    def reset(self, *, seed=None, options=None):
        found = super().reset(seed=seed)
        self.strike(1, "raise")
        return found

    def step(self, action):
        self.strike(0, "raise")
        self.strike(2, "hang")
        return super().step(action)


gymnasium.register("faults/Chance-v0", Chance, max_episode_steps=100, disable_env_checker=True)
gymnasium.register("faults/CartPole-v0", FailingCartPole, max_episode_steps=500, disable_env_checker=True)
