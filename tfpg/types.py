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
    memory: Any = ()  # [T, N, H] what a recurrent policy remembered before step t
    next_memory: Any = ()  # [T, N, H] and after it


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


class Distribution(NamedTuple):
    """pi(.|o) with its parameters, batch [...]: what the estimators ask of it, by the names that TensorFlow Probability has for them."""

    parameters: dict[str, tf.Tensor]
    log_prob: Callable[[tf.Tensor], tf.Tensor]  # action -> [...], in nats
    entropy: Callable[[], tf.Tensor]  # [...], in nats
    kl_divergence: Callable[["Distribution"], tf.Tensor]  # of the same policy at other parameters -> KL(this || that) [...], in nats
    tfp: Callable[[], Any]  # the same distribution as TensorFlow Probability's, which is imported then


class Policy(NamedTuple):
    """pi_theta(a|o): functions of explicit parameters theta.

    `parameters` gives the numbers that fix the action distribution (logits; or location and log standard deviation),
    `distribution` is that of them. An action is a deterministic function of those numbers and of noise:
    a = act(parameters, noise), noise ~ a fixed law that does not depend on theta.

    Where `parameters` is made of a network and a head, they are there too: parameters(theta, o) = head(theta, net(theta[part], o)),
    or head(theta, net(theta, o)) where theta is the network's alone (`part` is empty).
    """

    init: Callable[[tf.Tensor], Nest]  # seed [2] -> theta
    parameters: Callable[[Nest, tf.Tensor], dict[str, tf.Tensor]]  # theta, observation [..., O] -> parameters
    distribution: Callable[[dict[str, tf.Tensor]], Distribution]  # of parameters
    noise: Callable[[Any, tf.Tensor], tf.Tensor]  # batch shape, seed [2] -> noise
    act: Callable[[dict[str, tf.Tensor], tf.Tensor], tf.Tensor]  # parameters, noise -> sampled action
    mode: Callable[[dict[str, tf.Tensor]], tf.Tensor]  # parameters -> greedy action
    to_env: Callable[[tf.Tensor], tf.Tensor]  # action -> action in the environment's own units
    advance: Any = None  # of a recurrent policy: theta, observation [N, O], memory [N, H] -> parameters, memory
    memory: int = 0  # H, the width of that memory
    net: Any = None
    head: Any = None
    part: str = ""
    relative: bool = False  # only differences of the network's outputs matter, as of logits


class Value(NamedTuple):
    """V_phi(o) or Q_phi(o, a): `init(seed [2]) -> phi`, `apply(phi, observation [..., O], action) -> [...]`.

    `every(phi, observation) -> [..., A]` is Q of all actions, where they can be counted. V has none, and ignores the action.
    """

    init: Callable[[tf.Tensor], Nest]
    apply: Callable[[Nest, tf.Tensor, Any], tf.Tensor]
    every: Callable[[Nest, tf.Tensor], tf.Tensor] | None = None


class Factors(NamedTuple):
    """What the Jacobian of a network of layers z_l = h_l W_l + b_l is made of, at M inputs, for R combinations c_r . y of its K outputs.

    Of each sample, d(c_r . y)/dW_l is the outer product of `inputs[l]` and `slopes[l][r]`, and d(c_r . y)/db_l is `slopes[l][r]`. In the
    last layer c_r stands for them.
    """

    output: tf.Tensor  # y [M, K]
    inputs: tuple[tf.Tensor, ...]  # h_l [M, in_l]
    slopes: tuple[tf.Tensor, ...]  # d(c_r . y)/dz_l [R, M, out_l] of all layers but the last
    combinations: tf.Tensor  # c [K, R]
    turned: tuple[tf.Tensor, ...] = ()  # (h_l 1)^T [in_l + 1, M] of all layers but the last, for many products of narrow layers


class Net(NamedTuple):
    """A function of explicit parameters: `init(seed [2]) -> w`, `apply(w, x [B, ..., D]) -> [B, ..., K]`.

    One whose parameters are a tuple of {'kernel', 'bias'} may give `factors(w, x [M, D], c [K, R])` of its Jacobian. Where it is faster for
    many samples, `by_features(w, x [M, D])` is the same as apply, with activations [features, M]; it is meant for gradients, not tangents.

    A recurrent network carries `memory` numbers h from step to step. `step(w, x [N, D], h [N, H]) -> [N, K], h` is one step, for acting;
    `apply(w, (x_t [T, N, D], first_t [T, N] bool, h [1, N, H])) -> [T, N, K]` is all of them in a row. It begins with h, which is data (no
    gradient flows into it), and sets the memory to 0 before each step that is the first of an episode.
    """

    init: Callable[[tf.Tensor], Nest]
    apply: Callable[[Nest, Any], tf.Tensor]
    step: Callable[[Nest, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None  # None: feed-forward
    memory: int = 0  # H
    factors: Callable[[Nest, tf.Tensor, tf.Tensor], Factors] | None = None
    by_features: Callable[[Nest, tf.Tensor], tf.Tensor] | None = None


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

    `objective(theta) -> []` is to be ascended and `gradient(theta)` is its derivative, `divergence(theta) -> []` is the mean
    KL(old || theta). `fisher()` prepares the product v [P] -> F v [P] with the Fisher matrix of the old policy, for theta's leaves as one
    vector. `outcome(theta)` says what came of a step to theta: the gain of the objective, the divergence, and the mean entropy before it.
    `overlap(theta)` in (0, 1] is the effective share of the batch when theta is judged by it. `part(rows)` is the same
    problem on some of the batch.
    """

    objective: Callable[[Nest], tf.Tensor]
    gradient: Callable[[Nest], Nest]
    divergence: Callable[[Nest], tf.Tensor]
    fisher: Callable[[], Callable[[tf.Tensor], tf.Tensor]]
    outcome: Callable[[Nest], dict[str, tf.Tensor]]
    overlap: Callable[[Nest], tf.Tensor]
    part: Callable[[tf.Tensor], Any]


class TrainState(NamedTuple):
    """Everything that learning changes."""

    policy: Nest
    policy_optimizer: Nest
    value: Nest
    value_optimizer: Nest
    observations: Nest  # statistics of the observation normaliser
    targets: Nest  # statistics of the value-target normaliser
    average: Nest = ()  # of the moving-average baseline: the average and how many went into it
    penalty: Nest = ()  # beta of the KL penalty
    model: Nest = ()  # the learned dynamics and reward
    model_optimizer: Nest = ()


class Part(NamedTuple):
    """One leaf of a nested observation space: `encoding.encode` makes numbers of all leaves, in this order.

    `name` is `path` as one word that an exported policy can take as an input. A component of a 'discrete' or 'multi_discrete' leaf has
    `sizes[i]` values from `starts[i]` on and becomes that many zeros with a one; 'box' and 'multi_binary' leaves keep their numbers.
    """

    name: str
    path: tuple[Any, ...]  # keys and indices from the whole observation down to the leaf
    kind: str  # 'box', 'discrete', 'multi_discrete' or 'multi_binary'
    shape: tuple[int, ...]
    dtype: str  # of the environment's own arrays, such as 'int64'
    sizes: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()


class Spaces(NamedTuple):
    """What an environment takes and gives, reduced to numbers.

    `actions` counts discrete actions `action_start`, `action_start` + 1, ..; it is 0 for real ones, which have bounds (infinite where
    there is none), and for those of several components: component i has `choices[i]` values from `choice_starts[i]` on.
    Actions are flat, [A]; `action_shape` is the environment's own shape where that is another. `pixels`: the observation is an image of
    bytes. `parts` are the leaves of an observation that is no array, and that comes out as one vector.
    """

    observation_shape: tuple[int, ...]
    actions: int = 0
    action_start: int = 0
    action_low: tuple[float, ...] = ()
    action_high: tuple[float, ...] = ()
    choices: tuple[int, ...] = ()
    choice_starts: tuple[int, ...] = ()
    action_shape: tuple[int, ...] | None = None
    pixels: bool = False
    parts: tuple[Part, ...] = ()


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
