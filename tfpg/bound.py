"""A policy bound for use: what acting reads of a training state, as variables, so that no call has to hand it over."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfpg.types import TrainState


class Bound(NamedTuple):
    """`now() -> state` with the variables' present values; `use(state)` gives them those of another.

    A compiled program that calls `now` keeps no hold of the variables: whoever calls the program keeps `leaves`.
    """

    leaves: list[tf.Variable]
    now: Callable[[], TrainState]
    use: Callable[[TrainState], None]


def bind(state: TrainState) -> Bound:
    """A training state whose policy and statistics of observations are variables: handing all of it to a program costs more than acting."""
    used = (state.policy, state.observations)
    leaves = [tf.Variable(leaf, trainable=False) for leaf in tf.nest.flatten(used)]

    def now() -> TrainState:
        policy, observations = tf.nest.pack_sequence_as(used, [tf.convert_to_tensor(leaf) for leaf in leaves])
        return state._replace(policy=policy, observations=observations)

    def use(other: TrainState) -> None:
        for variable, leaf in zip(leaves, tf.nest.flatten((other.policy, other.observations)), strict=True):
            variable.assign(leaf)

    return Bound(leaves, now, use)
