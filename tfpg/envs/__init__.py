"""Environments in pure TensorFlow, by the gymnasium id whose physics they follow; those named tfpg/.. are the project's own."""

from tfpg.envs import acrobot, cartpole, deeprm, lqr, masked_cartpole, mountain_car, pendulum, tabular

IN_GRAPH = {
    "CartPole-v1": cartpole.make,
    "Pendulum-v1": pendulum.make,
    "Acrobot-v1": acrobot.make,
    "MountainCar-v0": mountain_car.make,
    "MountainCarContinuous-v0": mountain_car.make_continuous,
    "tfpg/LQR-v0": lqr.make,
    "tfpg/Tabular-v0": tabular.make,
    "tfpg/MaskedCartPole-v1": masked_cartpole.make,
    "tfpg/DeepRM-v0": deeprm.make,
}
