"""Environments in pure TensorFlow, by the gymnasium id whose physics they follow."""

from tfpg.envs import cartpole, pendulum

IN_GRAPH = {"CartPole-v1": cartpole.make, "Pendulum-v1": pendulum.make}
