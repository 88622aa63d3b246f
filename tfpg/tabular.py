"""Decision processes with finitely many states, solved: J, its gradient, Q, V, advantage, visitation, Fisher matrix, natural gradient,
and the exact bias and variance of any estimator.

    mdp = TabularMDP.random(seed=0)
    theta = mdp.some_parameters(seed=0)
    mdp.moments(theta, lambda t, score_t: estimators.reinforce(score_t, t.reward, mdp.gamma, t.mask)).variance
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfpg import bellman, checks, divergences, processes, trust_region
from tfpg.bellman import Values
from tfpg.exact import Estimator, Listing, Moments, moments
from tfpg.types import Trajectory


def _probabilities(name: str, table: tf.Tensor) -> None:
    if (table.numpy() < 0).any() or np.abs(table.numpy().sum(-1) - 1).max() > 1e-9:
        raise ValueError(f"{name} must hold probabilities that sum to one over its last axis")


@dataclasses.dataclass(frozen=True, eq=False)
class TabularMDP:
    """start [S] = p(s_1), transition [S, A, S'] = p(s'|s, a), reward [S, A], in float64; horizon T steps, or None: for ever, gamma < 1.

    `policy` maps theta to pi [S, A]; as it stands theta [S, A] is a softmax table. Entering a state of `terminal` ends the episode: what
    follows is padding. A finite horizon ends the task as well, so values depend on time. All methods take theta.
    Raises: ValueError if shapes do not fit or probabilities do not sum to one.
    """

    start: tf.Tensor
    transition: tf.Tensor
    reward: tf.Tensor
    gamma: float = 1.0
    horizon: int | None = None
    terminal: tuple[int, ...] = ()
    policy: Callable[[tf.Tensor], tf.Tensor] = tf.nn.softmax

    def __post_init__(self) -> None:
        for name in ("start", "transition", "reward"):
            object.__setattr__(self, name, tf.convert_to_tensor(getattr(self, name), tf.float64))
        checks.axes(start=(self.start, "S"), transition=(self.transition, "S A S"), reward=(self.reward, "S A"))
        _probabilities("start", self.start)
        _probabilities("transition", self.transition)
        if self.horizon is None and not 0 <= self.gamma < 1:
            raise ValueError(f"gamma is {self.gamma}: without a horizon it must be in [0, 1)")
        if self.horizon is not None and self.horizon < 1:
            raise ValueError(f"horizon is {self.horizon}: at least one step, or None for ever")
        inside = tf.constant([[0.0 if s in self.terminal else 1.0] for s in range(self.start.shape[0])], tf.float64)
        object.__setattr__(self, "reward", self.reward * inside)
        stay = tf.eye(self.start.shape[0], dtype=tf.float64)[:, None] * (1 - inside)[:, None]
        object.__setattr__(self, "transition", self.transition * inside[:, None] + stay)

    @classmethod
    def random(cls, seed: int, states: int = 3, actions: int = 2, gamma: float = 1.0, horizon: int | None = 3) -> "TabularMDP":
        """Start and transitions from flat Dirichlet laws, then rewards from N(0, 1), of `numpy.random.default_rng(seed)`."""
        rng = np.random.default_rng(seed)
        start, transition = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), size=(states, actions))
        return cls(start, transition, rng.normal(size=(states, actions)), gamma, horizon)

    def some_parameters(self, seed: int) -> tf.Tensor:
        """theta [S, A] of a softmax table, drawn from N(0, 1)."""
        return tf.constant(np.random.default_rng([seed, 1]).normal(size=self.reward.shape))

    def policy_t(self, theta: tf.Tensor) -> tf.Tensor:
        """pi at each step: [T, S, A]. Raises: ValueError without a horizon."""
        if self.horizon is None:
            raise ValueError("horizon is None: trajectories and quantities of single steps need a finite one")
        return tf.repeat(self.policy(theta)[None], self.horizon, axis=0)

    def values(self, theta: tf.Tensor) -> Values:
        """Q and V   (PG-16): q [T, S, A], v [T, S] with a horizon; q [S, A], v [S] without."""
        if self.horizon is None:
            return bellman.discounted_values(self.reward, self.transition, self.policy(theta), self.gamma)
        return bellman.finite_values(self.reward, self.transition, self.policy_t(theta), self.gamma)

    def objective(self, theta: tf.Tensor) -> tf.Tensor:
        """J(theta) = E[V_1(s_1)]   (PG-12, PG-17): []."""
        v = self.values(theta).v
        return bellman.value_of_start(self.start, v if self.horizon is None else v[0])

    def advantage(self, theta: tf.Tensor) -> tf.Tensor:
        """A = Q - V   (PG-18): like q."""
        return bellman.advantage(*self.values(theta))

    def visitation(self, theta: tf.Tensor) -> tf.Tensor:
        """d_gamma(s) = sum_t gamma^{t-1} p_theta(s_t = s)   (PG-56), not normalised; 0 in terminal states: [S]."""
        return tf.reduce_sum(tf.reshape(self.occupancy(theta), [-1, *self.reward.shape]), axis=[0, 2])

    def occupancy(self, theta: tf.Tensor) -> tf.Tensor:
        """gamma^{t-1} p_theta(s_t = s, a_t = a)   (PG-08): [T, S, A]; without a horizon its sum over time, d_gamma(s) pi(a|s): [S, A]."""
        going_on = tf.constant([[0.0 if s in self.terminal else 1.0] for s in range(self.start.shape[0])], tf.float64)
        if self.horizon is None:
            pi = self.policy(theta)
            return going_on * bellman.discounted_visitation(self.start, self.transition, pi, self.gamma)[:, None] * pi
        marginals = processes.state_action_marginals(self.start, self.policy_t(theta), self.transition)
        discount_t = self.gamma ** np.arange(self.horizon, dtype=np.float64)
        return going_on * discount_t[:, None, None] * marginals

    def score(self, theta: tf.Tensor) -> tf.Tensor:
        """g(s, a) = grad log pi(a|s)   (PG-22): [S, A, P], P the size of theta."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            log_pi = tf.math.log(self.policy(theta))
        return tf.reshape(tape.jacobian(log_pi, theta, experimental_use_pfor=False), [*self.reward.shape, -1])

    def gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """grad J   (PG-56), by the policy-gradient theorem: like theta."""
        flat = bellman.theorem_gradient(self.occupancy(theta), self.score(theta), self.values(theta).q)
        return tf.reshape(flat, theta.shape)

    def fisher(self, theta: tf.Tensor) -> tf.Tensor:
        """F = sum_t gamma^{t-1} E[g g^T]   (PG-104), under the same measure as grad J, not normalised: [P, P]."""
        weight = tf.reduce_sum(tf.reshape(self.occupancy(theta), [-1, *self.reward.shape]), axis=0)
        return divergences.fisher(tf.reshape(weight, [-1]), tf.reshape(self.score(theta), [tf.size(weight), -1]))

    def natural_gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """F^+ grad J   (PG-107): for a softmax table the advantage, averaged over time, up to a constant per state; like theta."""
        flat = trust_region.natural_gradient(tf.reshape(self.gradient(theta), [-1]), self.fisher(theta), 0.0)
        return tf.reshape(flat, theta.shape)

    def optimal_values(self) -> Values:
        """Q* and V*   (PG-130): like those of `values`."""
        if self.horizon is not None:
            return bellman.optimal_values(self.reward, self.transition, self.gamma, self.horizon)
        anything = tf.ones_like(self.reward) / self.reward.shape[1]
        return bellman.policy_iteration(self.reward, self.transition, anything, self.gamma).values

    def _record(self, theta: tf.Tensor, state_t: tf.Tensor, action_t: tf.Tensor) -> Trajectory:
        """The trajectories [T, N] of given states and actions. What the last action leads to is not part of them: s_T stands there."""
        pairs = tf.stack([state_t, action_t], axis=-1)
        over = tf.reduce_any(tf.equal(state_t[..., None], tf.constant(self.terminal, tf.int32)), axis=-1)
        last = tf.fill(tf.shape(over[:1]), True)
        following = tf.concat([state_t[1:], state_t[-1:]], axis=0)
        age = tf.broadcast_to(tf.range(tf.shape(state_t)[0])[:, None], tf.shape(state_t))
        log_prob = tf.gather_nd(tf.math.log(self.policy(theta)), pairs)
        ends = tf.concat([over[1:], last], axis=0), tf.zeros_like(over)
        return Trajectory(state_t, action_t, log_prob, tf.gather_nd(self.reward, pairs), following, *ends, ~over, age)

    def trajectories(self, theta: tf.Tensor) -> Listing:
        """Every trajectory that the process allows, with its probability and its scores: at most (S A)^T of them.

        Raises: ValueError without a horizon.
        """
        policy_t, (states, actions) = self.policy_t(theta), self.reward.shape
        code = np.stack(np.unravel_index(np.arange((states * actions) ** policy_t.shape[0]), [states * actions] * policy_t.shape[0]))
        state_t, action_t = code // actions, code % actions
        allowed = self.start.numpy()[state_t[0]] * self.transition.numpy()[state_t[:-1], action_t[:-1], state_t[1:]].prod(axis=0) > 0
        state_t, action_t = (tf.constant(x[:, allowed].astype(np.int32)) for x in (state_t, action_t))
        everywhere = tf.ones_like(state_t, tf.bool)
        probability = processes.trajectory_probability(self.start, policy_t, self.transition, state_t, action_t, everywhere)
        trajectory = self._record(theta, state_t, action_t)
        return Listing(trajectory, probability, self.score_t(theta, trajectory))

    def score_t(self, theta: tf.Tensor, trajectory: Trajectory) -> tf.Tensor:
        """The score of every step of a trajectory   (PG-22), zero on padding: [T, N, P]."""
        pairs = tf.stack([trajectory.observation, trajectory.action], axis=-1)
        score_t = tf.gather_nd(self.score(theta), pairs)
        return tf.where(trajectory.mask[..., None], score_t, tf.zeros_like(score_t))

    def moments(self, theta: tf.Tensor, estimate: Estimator, episodes: int = 1) -> Moments:
        """The exact mean, bias and covariance of an estimator of grad J, given batches of `episodes` trajectories   (PG-44, PG-68).

        Args: estimate: (trajectory [T, N], score_t [T, N, P]) -> [P]. Raises: ValueError without a horizon.
        """
        return moments(self.trajectories(theta), estimate, tf.reshape(self.gradient(theta), [-1]), episodes)

    def sample(self, theta: tf.Tensor, episodes: int, seed: tf.Tensor) -> Trajectory:
        """Independent trajectories drawn from the process   (PG-129: log_prob is stored as they are drawn).

        Args: episodes N; seed [2] integers. Returns: a `Trajectory` of [T, N] whose observation is the state. Raises: ValueError without
        a horizon.
        """
        policy_t, log_move = self.policy_t(theta), tf.math.log(self.transition)
        draw = lambda logits, key: tf.random.stateless_categorical(logits, 1, key, dtype=tf.int32)[:, 0]  # noqa: E731
        seeds = tf.random.experimental.stateless_split(seed, 2 * policy_t.shape[0] + 1)
        state = draw(tf.repeat(tf.math.log(self.start)[None], episodes, axis=0), seeds[-1])

        def step(now: tuple[tf.Tensor, ...], given: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            pi, keys = given
            action = draw(tf.gather(tf.math.log(pi), now[2]), keys[0])
            return now[2], action, draw(tf.gather_nd(log_move, tf.stack([now[2], action], axis=-1)), keys[1])

        state_t, action_t, _ = tf.scan(step, (policy_t, tf.reshape(seeds[:-1], [-1, 2, 2])), (state, tf.zeros_like(state), state))
        return self._record(theta, state_t, action_t)


@dataclasses.dataclass(frozen=True, eq=False)
class PartiallyObservedMDP:
    """A hidden `TabularMDP` of which the policy sees o ~ emission [S, O]; theta [O, A] is a softmax table over observations.

    The pair (s, o) is the state of an ordinary process, `joint`, whose policy looks at o alone: everything exact follows from it.
    Raises: ValueError if the shapes do not fit or the emission's rows do not sum to one.
    """

    hidden: TabularMDP
    emission: tf.Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "emission", tf.convert_to_tensor(self.emission, tf.float64))
        checks.axes(start=(self.hidden.start, "S"), emission=(self.emission, "S O"))
        _probabilities("emission", self.emission)

    @property
    def joint(self) -> TabularMDP:
        """The process of (s, o), of index s O + o   (PG-04): theta [O, A] acts in it through the observation."""
        hidden, (states, observations) = self.hidden, self.emission.shape
        pairs = states * observations
        start = tf.reshape(hidden.start[:, None] * self.emission, [pairs])
        move = tf.einsum("sak,ko->sako", hidden.transition, self.emission)
        transition = tf.repeat(tf.reshape(move, [states, -1, pairs]), observations, axis=0)
        policy = lambda theta: tf.tile(tf.nn.softmax(theta), [states, 1])  # noqa: E731
        terminal = tuple(s * observations + o for s in hidden.terminal for o in range(observations))
        reward = tf.repeat(hidden.reward, observations, axis=0)
        return TabularMDP(start, transition, reward, hidden.gamma, hidden.horizon, terminal, policy)

    def objective(self, theta: tf.Tensor) -> tf.Tensor:
        """J(theta)   (PG-12): []."""
        return self.joint.objective(theta)

    def gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """grad J = E[sum_t grad log pi(a_t|o_t) R(tau)]   (PG-31): like theta, [O, A]."""
        return self.joint.gradient(theta)

    def natural_gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """F^+ grad J   (PG-107): like theta."""
        return self.joint.natural_gradient(theta)

    def observed(self, trajectory: Trajectory) -> Trajectory:
        """A trajectory of `joint` as the policy sees it: observations o instead of pairs (s, o)."""
        seen = self.emission.shape[1]
        return trajectory._replace(observation=trajectory.observation % seen, next_observation=trajectory.next_observation % seen)

    def trajectories(self, theta: tf.Tensor) -> Listing:
        """Every trajectory of states, observations and actions, as the policy sees it; see `TabularMDP.trajectories`."""
        listing = self.joint.trajectories(theta)
        return listing._replace(trajectory=self.observed(listing.trajectory))

    def moments(self, theta: tf.Tensor, estimate: Estimator, episodes: int = 1) -> Moments:
        """The exact mean, bias and covariance of an estimator that sees observations   (PG-31); see `TabularMDP.moments`."""
        return moments(self.trajectories(theta), estimate, tf.reshape(self.gradient(theta), [-1]), episodes)

    def sample(self, theta: tf.Tensor, episodes: int, seed: tf.Tensor) -> Trajectory:
        """Independent trajectories as the policy sees them; see `TabularMDP.sample`."""
        return self.observed(self.joint.sample(theta, episodes, seed))
