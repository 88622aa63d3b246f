"""Environments in pure TensorFlow, by the gymnasium id whose physics they follow."""

from tfpg.envs.cartpole import cartpole
from tfpg.envs.pendulum import pendulum

IN_GRAPH = {"CartPole-v1": cartpole, "Pendulum-v1": pendulum}
