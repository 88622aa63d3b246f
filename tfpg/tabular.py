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
from tfpg.exact import Estimator, Listing, Moments, listable, moments, real, two_numbers
from tfpg.types import Trajectory


def _probabilities(name: str, table: tf.Tensor) -> None:
    if not ((table.numpy() >= 0).all() and (np.abs(table.numpy().sum(-1) - 1) < 1e-9).all()):
        raise ValueError(f"{name} must hold probabilities that sum to one over its last axis")


@dataclasses.dataclass(frozen=True, eq=False)
class TabularMDP:
    """start [S] = p(s_1), transition [S, A, S'] = p(s'|s, a), reward [S, A], in float64; horizon T steps, or None: for ever, gamma < 1.

    `policy` maps theta to pi [S, A]; as it stands theta [S, A] is a softmax table. Entering a state of `terminal` ends the episode: what
    follows is padding. A finite horizon ends the task as well, so values depend on time. All methods take theta, as a tensor, an array or
    a list. Raises: ValueError if shapes do not fit, probabilities do not sum to one, or gamma, horizon or terminal are out of range.
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
            object.__setattr__(self, name, real(getattr(self, name)))
        checks.axes(start=(self.start, "S"), transition=(self.transition, "S A S"), reward=(self.reward, "S A"))
        _probabilities("start", self.start)
        _probabilities("transition", self.transition)
        if self.horizon is None and not 0 <= self.gamma < 1:
            raise ValueError(f"gamma is {self.gamma}: without a horizon it must be in [0, 1)")
        if self.horizon is not None and not (isinstance(self.horizon, (int, np.integer)) and self.horizon >= 1):
            raise ValueError(f"horizon is {self.horizon}: a whole number of steps, at least one, or None for ever")
        if not set(self.terminal) <= set(range(self.start.shape[0])):
            raise ValueError(f"terminal is {self.terminal}: states are 0 to {self.start.shape[0] - 1}")
        stay = tf.eye(self.start.shape[0], dtype=tf.float64)[:, None]
        object.__setattr__(self, "reward", tf.where(self._over[:, None], tf.zeros_like(self.reward), self.reward))
        object.__setattr__(self, "transition", tf.where(self._over[:, None, None], stay, self.transition))

    @property
    def _over(self) -> np.ndarray:
        """True for the states in which the episode is over: [S]."""
        return np.isin(np.arange(self.start.shape[0]), self.terminal)

    @classmethod
    def random(cls, seed: int, states: int = 3, actions: int = 2, gamma: float = 1.0, horizon: int | None = 3) -> "TabularMDP":
        """Start and transitions from flat Dirichlet laws, then rewards from N(0, 1), of `numpy.random.default_rng(seed)`."""
        rng = np.random.default_rng(seed)
        start, transition = rng.dirichlet(np.ones(states)), rng.dirichlet(np.ones(states), size=(states, actions))
        return cls(start, transition, rng.normal(size=(states, actions)), gamma, horizon)

    def some_parameters(self, seed: int) -> tf.Tensor:
        """theta [S, A] of a softmax table, drawn from N(0, 1)."""
        return tf.constant(np.random.default_rng([seed, 1]).normal(size=self.reward.shape))

    def pi(self, theta: tf.Tensor) -> tf.Tensor:
        """pi(a|s), as theta makes it: [S, A]. Raises: ValueError if it has another shape."""
        pi = self.policy(real(theta))
        if pi.shape != self.reward.shape:
            raise ValueError(f"theta has shape {np.shape(theta)}: it makes a policy {pi.shape}, but [S, A] is {self.reward.shape}")
        return pi

    def policy_t(self, theta: tf.Tensor) -> tf.Tensor:
        """pi at each step: [T, S, A]. Raises: ValueError without a horizon."""
        if self.horizon is None:
            raise ValueError("horizon is None: trajectories and quantities of single steps need a finite one")
        return tf.repeat(self.pi(theta)[None], self.horizon, axis=0)

    def values(self, theta: tf.Tensor) -> Values:
        """Q and V   (PG-16): q [T, S, A], v [T, S] with a horizon; q [S, A], v [S] without."""
        if self.horizon is None:
            return bellman.discounted_values(self.reward, self.transition, self.pi(theta), self.gamma)
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
        going_on = tf.cast(~self._over, tf.float64)[:, None]
        if self.horizon is None:
            pi = self.pi(theta)
            return going_on * bellman.discounted_visitation(self.start, self.transition, pi, self.gamma)[:, None] * pi
        marginals = processes.state_action_marginals(self.start, self.policy_t(theta), self.transition)
        discount_t = self.gamma ** np.arange(self.horizon, dtype=np.float64)
        return going_on * discount_t[:, None, None] * marginals

    def score(self, theta: tf.Tensor) -> tf.Tensor:
        """g(s, a) = grad log pi(a|s)   (PG-22), 0 for actions that cannot happen: [S, A, P], P the size of theta."""
        theta = real(theta)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(theta)
            pi = self.pi(theta)
            log_pi = tf.math.log(tf.where(pi > 0, pi, tf.ones_like(pi)))
        return tf.reshape(tape.jacobian(log_pi, theta, experimental_use_pfor=False), [*self.reward.shape, -1])

    def gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """grad J   (PG-56), by the policy-gradient theorem: like theta."""
        flat = bellman.theorem_gradient(self.occupancy(theta), self.score(theta), self.values(theta).q)
        return tf.reshape(flat, np.shape(theta))

    def fisher(self, theta: tf.Tensor) -> tf.Tensor:
        """F = sum_t gamma^{t-1} E[g g^T]   (PG-104), under the same measure as grad J, not normalised: [P, P]."""
        weight = tf.reduce_sum(tf.reshape(self.occupancy(theta), [-1, *self.reward.shape]), axis=0)
        return divergences.fisher(tf.reshape(weight, [-1]), tf.reshape(self.score(theta), [tf.size(weight), -1]))

    def natural_gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """F^+ grad J   (PG-107): for a softmax table the advantage, averaged over time, up to a constant per state; like theta."""
        flat = trust_region.natural_gradient(tf.reshape(self.gradient(theta), [-1]), self.fisher(theta), 0.0)
        return tf.reshape(flat, np.shape(theta))

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
        log_prob = tf.gather_nd(tf.math.log(self.pi(theta)), pairs)
        ends = tf.concat([over[1:], last], axis=0), tf.zeros_like(over)
        return Trajectory(state_t, action_t, log_prob, tf.gather_nd(self.reward, pairs), following, *ends, ~over, age)

    def _paths(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Every sequence of states and of actions that can happen, whatever the policy; action 0 stands on padding: [T, K] each."""
        choice = ~self._over[:, None] | (np.arange(self.reward.shape[1]) == 0)
        first = (self.start.numpy()[:, None] > 0) & choice
        follows = (self.transition.numpy()[..., None] > 0) & choice
        number, paths = first.astype(float), np.stack(np.nonzero(first))[None]
        for _ in range(1, self.horizon or 1):
            number = np.einsum("sa,sakb->kb", number, follows)
        listable(number.sum(), self.horizon or 1)
        for _ in range(1, self.horizon or 1):
            column, state, action = np.nonzero(follows[paths[-1, 0], paths[-1, 1]])
            paths = np.concatenate([paths[..., column], np.stack([state, action])[None]])
        return tf.constant(paths[:, 0], tf.int32), tf.constant(paths[:, 1], tf.int32)

    def trajectories(self, theta: tf.Tensor) -> Listing:
        """Every trajectory that the process allows, with its probability and its scores: at most (S A)^T of them.

        Raises: ValueError without a horizon, or for more than `exact.MOST` trajectories.
        """
        padding = tf.one_hot(tf.zeros_like(self.reward[:, 0], tf.int32), self.reward.shape[1], dtype=tf.float64)
        policy_t = tf.where(self._over[:, None], padding, self.policy_t(theta))
        state_t, action_t = self._paths()
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
        a horizon, or for a seed that is not two numbers.
        """
        two_numbers("seed", seed)
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

    The pair (s, o), of index s O + o, is the state of an ordinary process, `joint`   (PG-04), whose policy looks at o alone: everything
    exact follows from it. The policy of `hidden` plays no part.
    Raises: ValueError if the shapes do not fit or the emission's rows do not sum to one.
    """

    hidden: TabularMDP
    emission: tf.Tensor
    joint: TabularMDP = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "emission", real(self.emission))
        checks.axes(start=(self.hidden.start, "S"), emission=(self.emission, "S O"))
        _probabilities("emission", self.emission)
        hidden, (states, observations) = self.hidden, self.emission.shape
        pairs = states * observations
        start = tf.reshape(hidden.start[:, None] * self.emission, [pairs])
        move = tf.einsum("sak,ko->sako", hidden.transition, self.emission)
        transition = tf.repeat(tf.reshape(move, [states, -1, pairs]), observations, axis=0)
        terminal = tuple(s * observations + o for s in hidden.terminal for o in range(observations))
        reward = tf.repeat(hidden.reward, observations, axis=0)
        joint = TabularMDP(start, transition, reward, hidden.gamma, hidden.horizon, terminal, self._policy)
        object.__setattr__(self, "joint", joint)

    def _policy(self, theta: tf.Tensor) -> tf.Tensor:
        """theta [O, A] -> pi(a|s, o) = pi(a|o): [S O, A]."""
        checks.axes(emission=(self.emission, "S O"), reward=(self.hidden.reward, "S A"), theta=(theta, "O A"))
        return tf.tile(tf.nn.softmax(theta), [self.emission.shape[0], 1])

    def some_parameters(self, seed: int) -> tf.Tensor:
        """theta [O, A], drawn from N(0, 1)."""
        return tf.constant(np.random.default_rng([seed, 1]).normal(size=[self.emission.shape[1], self.hidden.reward.shape[1]]))

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
