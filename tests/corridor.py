"""The corridor of `tfpg.conformance`, ready for gymnasium, under the names that tests use."""

from tfpg.conformance import ID, LENGTHS, LIMIT, Corridor, envpool, in_graph, register, reward

register()

__all__ = ["ID", "LENGTHS", "LIMIT", "Corridor", "envpool", "in_graph", "register", "reward"]
