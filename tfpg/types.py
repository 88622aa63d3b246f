"""The records that travel through the house. No record computes anything.

All of them are `NamedTuple`s because `tf.nest` walks through named tuples (and not through dataclasses): a record of tensors can be
the argument, the loop variable or the result of a compiled program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

Nest = Any
"""A tensor, or a tuple, list, dict or NamedTuple of nests: what `tf.nest` can map over."""


class Trajectory(NamedTuple):
    """T steps of N environments, time-major. Row t holds what happened at step t of each environment.

    Symbols: o_t, a_t, log pi(a_t|o_t), r_t, o_{t+1}. `next_observation` is the true successor within the same episode, never the
    first observation of the episode that follows an automatic reset. `terminated` (the task ended: its value afterwards is zero)
    and `truncated` (the clock ended: its value afterwards is V(o_{t+1})) are two facts; both may be true at one step.
    """

    observation: tf.Tensor  # [T, N, ...] as the environment gave it
    action: tf.Tensor  # [T, N] integers or [T, N, A] reals, as the policy drew it
    log_prob: tf.Tensor  # [T, N] under the policy that drew it
    reward: tf.Tensor  # [T, N] caused by action t
    next_observation: tf.Tensor  # [T, N, ...]
    terminated: tf.Tensor  # [T, N] bool
    truncated: tf.Tensor  # [T, N] bool
    mask: tf.Tensor  # [T, N] bool, False marks padding
    age: tf.Tensor  # [T, N] int32, steps since the episode began, 0 at its first step


class Critique(NamedTuple):
    """What critics say along a trajectory; what an algorithm does not use may be None."""

    v_t: Any = None  # [T, N] V(o_t)
    v_tp1: Any = None  # [T, N] V(o_{t+1}) at the true next observation
    q_t: Any = None  # [T, N] Q(o_t, a_t)


class Horizon(NamedTuple):
    """How far psi_t looks ahead: the discount gamma, the trace lambda, and the steps n of n-step advantages."""

    gamma: Any
    lambda_: Any = 1.0
    n: Any = 1


class Policy(NamedTuple):
    """pi_theta(a|o): functions of explicit parameters theta.

    `parameters` gives the numbers that fix the action distribution (logits; or location and log standard deviation),
    `distribution` makes the TFP distribution of them. An action is a deterministic function of those numbers and of noise:
    a = act(parameters, noise), noise ~ a fixed law that does not depend on theta.
    """

    init: Callable[[tf.Tensor], Nest]  # seed [2] -> theta
    parameters: Callable[[Nest, tf.Tensor], dict[str, tf.Tensor]]  # theta, observation [..., O] -> parameters
    distribution: Callable[[dict[str, tf.Tensor]], Any]  # parameters -> TFP distribution
    noise: Callable[[Any, tf.Tensor], tf.Tensor]  # batch shape, seed [2] -> noise
    act: Callable[[dict[str, tf.Tensor], tf.Tensor], tf.Tensor]  # parameters, noise -> sampled action
    mode: Callable[[dict[str, tf.Tensor]], tf.Tensor]  # parameters -> greedy action
    to_env: Callable[[tf.Tensor], tf.Tensor]  # action -> action in the environment's own units


class Value(NamedTuple):
    """V_phi(o): `init(seed [2]) -> phi`, `apply(phi, observation [..., O]) -> [...]`."""

    init: Callable[[tf.Tensor], Nest]
    apply: Callable[[Nest, tf.Tensor], tf.Tensor]


class Net(NamedTuple):
    """A function of explicit parameters: `init(seed [2]) -> w`, `apply(w, x [B, ..., D]) -> [B, ..., K]`."""

    init: Callable[[tf.Tensor], Nest]
    apply: Callable[[Nest, tf.Tensor], tf.Tensor]


class Optimizer(NamedTuple):
    """Gradient ascent with memory: `init(theta) -> m`, `update(gradient, m) -> increment, m`; theta <- theta + increment."""

    init: Callable[[Nest], Nest]
    update: Callable[[Nest, Nest], tuple[Nest, Nest]]


class Normalizer(NamedTuple):
    """Running standardisation x -> (x - mean) / deviation.

    `init() -> s`, `apply(s, x)`, `invert(s, z)`, `update(s, x, mask) -> s`.
    """

    init: Callable[[], Nest]
    apply: Callable[[Nest, tf.Tensor], tf.Tensor]
    invert: Callable[[Nest, tf.Tensor], tf.Tensor]
    update: Callable[[Nest, tf.Tensor, tf.Tensor], Nest]


class Problem(NamedTuple):
    """One policy-improvement problem, as functions of theta with the batch bound inside.

    `objective(theta) -> []` is to be ascended, `divergence(theta) -> []` is the mean KL(old || theta), `fisher(v) -> F v` is the
    Fisher matrix of the old policy times a nest like theta.
    """

    objective: Callable[[Nest], tf.Tensor]
    divergence: Callable[[Nest], tf.Tensor]
    fisher: Callable[[Nest], Nest]


class Algorithm(NamedTuple):
    """One row of the table: psi_t, the surrogate, how to improve, the critic, and what a batch is made of."""

    psi: Callable[..., tf.Tensor]
    surrogate: Callable[..., tf.Tensor]
    improve: Callable[..., Any]
    critic: bool
    batch: str  # 'episodes': whole trajectories, reset at each iteration; 'steps': chunks that continue


class TrainState(NamedTuple):
    """Everything that learning changes."""

    policy: Nest
    policy_optimizer: Nest
    value: Nest
    value_optimizer: Nest
    observations: Nest  # statistics of the observation normaliser
    targets: Nest  # statistics of the value-target normaliser


class Spaces(NamedTuple):
    """What an environment takes and gives, reduced to numbers.

    `actions` counts discrete actions `action_start`, `action_start` + 1, ..; it is 0 for real ones, which have bounds (infinite where
    there is none).
    """

    observation_shape: tuple[int, ...]
    actions: int = 0
    action_start: int = 0
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()


class Environment(NamedTuple):
    """N copies of one environment as pure, XLA-compilable functions of their state.

    `reset(n, seed [2]) -> state`, `observe(state) -> [N, ...]`, `step(state, action, seed [2]) -> state, reward [N], terminated [N]`.
    The time limit is not part of the dynamics: whoever steps counts the steps.
    """

    name: str
    spaces: Spaces
    time_limit: int
    reset: Callable[[int, tf.Tensor], Nest]
    observe: Callable[[Nest], tf.Tensor]
    step: Callable[[Nest, tf.Tensor, tf.Tensor], tuple[Nest, tf.Tensor, tf.Tensor]]
