"""tfpg/Tabular-v0: the random decision process `tfpg.tabular.TabularMDP.random(seed=0)`, of which everything is known.

Three states, two actions, three steps, no discount; rewards r(s, a) do not vary. It never terminates; the clock truncates it. What comes
after the last step is worth nothing to J: a critic that looks beyond a truncation estimates something else.
"""

import tensorflow as tf

from tfpg import bellman
from tfpg.tabular import TabularMDP
from tfpg.types import Environment, Spaces


def make_process() -> TabularMDP:
    """The process of tfpg/Tabular-v0."""
    return TabularMDP.random(seed=0)


def optimum(process: TabularMDP | None = None) -> float:
    """J* = E[V*_1(s_1)], the greatest expected return of all policies, those that know the time included   (PG-17, PG-130).

    Of tfpg/Tabular-v0, 2.456197. A policy that sees only the state reaches it: actions 0, 1, 0 in states 0, 1, 2.
    """
    process = process or make_process()
    return float(bellman.value_of_start(process.start, process.optimal_values().v[0]))


def draw(probability: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """One index of each row, by inversion of the distribution function: probability [N, S], seed [2] -> [N] int32."""
    u = tf.random.stateless_uniform([tf.shape(probability)[0], 1], seed, dtype=probability.dtype)
    return tf.reduce_sum(tf.cast(u >= tf.cumsum(probability, axis=-1)[:, :-1], tf.int32), axis=-1)


def make(dtype: tf.DType = tf.float32, process: TabularMDP | None = None) -> Environment:
    """State [N] int32, s ~ process.start at reset; observation [N, S]: zeros with a one at s; action [N] in {0, .., A - 1}.

    A step ends an episode if it enters a terminal state of the process; tfpg/Tabular-v0 has none.
    Raises: ValueError for a process without a horizon.
    """
    process = process or make_process()
    if process.horizon is None:
        raise ValueError("horizon is None: an environment needs a finite one, which is its time limit")
    states, actions = process.reward.shape
    start, transition, table = (x.numpy() for x in (process.start, process.transition, process.reward))
    over = [s in process.terminal for s in range(states)]

    def reset(n: int, seed: tf.Tensor) -> tf.Tensor:
        return draw(tf.tile(tf.constant(start[None], dtype), [n, 1]), seed)

    def step(state: tf.Tensor, action: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        pair = tf.stack([state, tf.cast(action, tf.int32)], axis=-1)
        following = draw(tf.gather_nd(tf.constant(transition, dtype), pair), seed)
        return following, tf.gather_nd(tf.constant(table, dtype), pair), tf.gather(tf.constant(over), following)

    spaces = Spaces((states,), actions=actions)
    return Environment("tfpg/Tabular-v0", spaces, process.horizon, reset, lambda state: tf.one_hot(state, states, dtype=dtype), step)
