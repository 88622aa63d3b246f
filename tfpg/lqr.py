"""The one-dimensional linear-quadratic regulator, solved: s' = s + a, a ~ N(k s, sigma^2), r = -(s^2 + a^2), s_1 ~ N(0, start_variance).

theta = (k, sigma), sigma the standard deviation: a tensor, an array or a list; everything is float64. States stay Gaussian with mean zero,
so second moments say everything.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfpg import checks, distributions
from tfpg.exact import Estimator, Listing, Moments, listable, moments, real, two_numbers
from tfpg.types import Trajectory


def _gain(theta: tf.Tensor) -> list[tf.Tensor]:
    """k and sigma of theta."""
    two_numbers("theta", theta)
    return tf.unstack(real(theta))


@dataclasses.dataclass(frozen=True)
class LQR:
    """T = horizon steps, discounted by gamma. Raises: ValueError for a horizon below one or a negative variance."""

    horizon: int = 20
    gamma: float = 0.95
    start_variance: float = 1.0

    def __post_init__(self) -> None:
        if self.horizon < 1 or self.start_variance < 0:
            raise ValueError(f"horizon is {self.horizon} and start_variance {self.start_variance}: at least 1 and 0 are needed")

    def discount_t(self) -> tf.Tensor:
        """gamma^{t-1}: [T]."""
        return tf.constant(self.gamma ** np.arange(self.horizon, dtype=np.float64))

    def visitation(self, theta: tf.Tensor) -> tf.Tensor:
        """M_t = E[s_t^2] = Var[s_t]:  M_{t+1} = (1 + k)^2 M_t + sigma^2   (PG-112): [T]."""
        k, sigma = _gain(theta)
        first = tf.constant(self.start_variance, tf.float64)
        later = tf.scan(lambda m, _: (1 + k) ** 2 * m + sigma**2, tf.range(self.horizon), first)
        return tf.concat([first[None], later[:-1]], axis=0)

    def objective(self, theta: tf.Tensor) -> tf.Tensor:
        """J = -sum_t gamma^{t-1} ((1 + k^2) M_t + sigma^2)   (PG-112): []."""
        k, sigma = _gain(theta)
        return -tf.reduce_sum(self.discount_t() * ((1 + k**2) * self.visitation(theta) + sigma**2))

    def gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """grad J   (PG-112), through the moments: [2]."""
        theta = real(theta)
        with tf.GradientTape() as tape:
            tape.watch(theta)
            objective = self.objective(theta)
        return tape.gradient(objective, theta)

    def fisher(self, theta: tf.Tensor) -> tf.Tensor:
        """F = diag(sum_t gamma^{t-1} E[s_t^2] / sigma^2, 2 sum_t gamma^{t-1} / sigma^2)   (PG-112): [2, 2]."""
        _, sigma = _gain(theta)
        spread = tf.stack([tf.reduce_sum(self.discount_t() * self.visitation(theta)), 2 * tf.reduce_sum(self.discount_t())])
        return tf.linalg.diag(spread / sigma**2)

    def natural_gradient(self, theta: tf.Tensor) -> tf.Tensor:
        """F^+ grad J   (PG-107, PG-112): [2]. Where all states are 0, k changes nothing and its component is 0."""
        return tf.math.divide_no_nan(self.gradient(theta), tf.linalg.diag_part(self.fisher(theta)))

    def value_coefficients(self, theta: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """p_t, c_t with V_t(s) = -(p_t s^2 + c_t), t = 1..T+1   (PG-16): p_t = 1 + k^2 + gamma (1 + k)^2 p_{t+1},

        c_t = sigma^2 (1 + gamma p_{t+1}) + gamma c_{t+1}, both 0 at T + 1. Returns: [T + 1] each.
        """
        k, sigma = _gain(theta)

        def back(later: tuple[tf.Tensor, tf.Tensor], _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            p, c = later
            return 1 + k**2 + self.gamma * (1 + k) ** 2 * p, sigma**2 * (1 + self.gamma * p) + self.gamma * c

        end = tf.zeros([], tf.float64)
        p, c = tf.scan(back, tf.range(self.horizon), (end, end), reverse=True)
        return tf.concat([p, end[None]], axis=0), tf.concat([c, end[None]], axis=0)

    def values(self, theta: tf.Tensor, s_t: tf.Tensor, a_t: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Q_t(s_t, a_t) = -(s^2 + a^2) + gamma V_{t+1}(s + a) and V_t(s_t)   (PG-16), row t at time t. [T, N] -> [T, N] each.

        Raises: ValueError if the shapes do not fit.
        """
        s_t, a_t = real(s_t), real(a_t)
        checks.axes(discount_t=(self.discount_t(), "T"), s_t=(s_t, "T N"), a_t=(a_t, "T N"))
        p, c = (x[:, None] for x in self.value_coefficients(theta))
        following = -(p[1:] * (s_t + a_t) ** 2 + c[1:])
        return -(s_t**2 + a_t**2) + self.gamma * following, -(p[:-1] * s_t**2 + c[:-1])

    def advantage(self, theta: tf.Tensor, s_t: tf.Tensor, a_t: tf.Tensor) -> tf.Tensor:
        """A_t(s_t, a_t) = Q_t - V_t   (PG-18). Args: [T, N]. Returns: [T, N]."""
        q_t, v_t = self.values(theta, s_t, a_t)
        return q_t - v_t

    def optimal_gains(self) -> tf.Tensor:
        """k*_t of a_t = k*_t s_t   (PG-121), by Riccati: k* = -gamma p / (1 + gamma p), p <- 1 - k*, p_{T+1} = 0: [T]."""

        def back(later: tuple[tf.Tensor, tf.Tensor], _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            k = -self.gamma * later[0] / (1 + self.gamma * later[0])
            return 1 - k, k

        end = tf.zeros([], tf.float64)
        return tf.scan(back, tf.range(self.horizon), (end, end), reverse=True)[1]

    def trajectories(self, theta: tf.Tensor, nodes: int = 8) -> Listing:
        """Gauss-Hermite quadrature over s_1 and the T action noises as a listing of nodes^(T+1) weighted trajectories.

        Expectations of polynomials of degree below 2 nodes in each variable are exact. For short horizons: there is a ValueError for
        more than `exact.MOST`.
        """
        listable(float(nodes) ** (self.horizon + 1), self.horizon)
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        grid = np.indices([nodes] * (self.horizon + 1)).reshape(self.horizon + 1, -1)
        noise, probability = points[grid], (weights / weights.sum())[grid].prod(axis=0)
        return Listing(*self._run(theta, tf.constant(noise[0]), tf.constant(noise[1:]))._replace(probability=tf.constant(probability)))

    def _run(self, theta: tf.Tensor, start: tf.Tensor, noise_t: tf.Tensor) -> Listing:
        """Trajectories from standard normal numbers, start [N] and noise_t [T, N]; all as probable as one another."""
        k, sigma = _gain(theta)
        s_1 = start * self.start_variance**0.5
        s_tp1 = tf.scan(lambda s, z: (1 + k) * s + sigma * z, noise_t, s_1)
        s_t = tf.concat([s_1[None], s_tp1[:-1]], axis=0)
        a_t = k * s_t + sigma * noise_t
        ended = tf.constant(np.arange(self.horizon) == self.horizon - 1)[:, None] & tf.ones_like(s_t, tf.bool)
        log_prob = distributions.linear_gaussian_log_prob(k, sigma, s_t, a_t)
        age = tf.zeros_like(s_t, tf.int32) + tf.range(self.horizon)[:, None]
        never, mask = tf.zeros_like(ended), tf.ones_like(ended)
        trajectory = Trajectory(s_t, a_t, log_prob, -(s_t**2 + a_t**2), s_tp1, ended, never, mask, age)
        equal = tf.ones_like(start) / tf.cast(tf.size(start), start.dtype)
        return Listing(trajectory, equal, distributions.linear_gaussian_score(k, sigma, s_t, a_t))

    def moments(self, theta: tf.Tensor, estimate: Estimator, nodes: int = 8) -> Moments:
        """The exact mean, bias and covariance of an estimator of grad J from one trajectory, polynomial in states and noises   (PG-44).

        Args: estimate: (trajectory [T, 1], score_t [T, 1, 2]) -> [2]; nodes: see `trajectories`.
        """
        return moments(self.trajectories(theta, nodes), estimate, self.gradient(theta))

    def sample(self, theta: tf.Tensor, episodes: int, seed: tf.Tensor) -> Listing:
        """Independent trajectories and their scores. Args: episodes N; seed [2] integers."""
        two_numbers("seed", seed)
        noise = tf.random.stateless_normal([self.horizon + 1, episodes], seed, dtype=tf.float64)
        return self._run(theta, noise[0], noise[1:])
