"""From a trajectory to what is learned from it: critique -> psi -> baseline -> batch, and the critic's targets.

What is said of a column, critique, psi and target, does not depend on the others: `read` may be given some of them after others, so that
a large batch takes no more memory than its columns. `conclude` is about all of them.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfpg import baselines, critics, gradients, psi, returns, surrogates, trees
from tfpg.algorithms import fits_q, in_columns, needs_critic, whole_episodes
from tfpg.learner import Learner, critic_sees, flat, see, values
from tfpg.masks import inside
from tfpg.normalizers import Moments, moments
from tfpg.problem import Batch, timed
from tfpg.types import Critique, Nest, TrainState, Trajectory


class View(NamedTuple):
    """A trajectory without what padding holds, and what networks see along it."""

    t: Trajectory
    policy: Nest  # [T, N, O]; of a recurrent policy (that, where episodes begin, what it remembered at first)
    now: Nest  # observation, mask and memory as they were collected: what `critic_sees` makes of them takes their memory again
    following: Nest  # the same at the true next observation
    mask: tf.Tensor  # [T, N]


class Lesson(NamedTuple):
    """What critic and model are fitted to, beside what was collected."""

    target: tf.Tensor  # [T, N] of the critic; without one, what psi was before its baseline
    change: Nest  # [T, N, O] to the next observation, where there is a model


class Judged(NamedTuple):
    """What there is to say of a critic before it is fitted."""

    target: Moments
    error: Moments  # target - prediction


class Reading(NamedTuple):
    """What the columns of a trajectory say, each by itself."""

    estimate: tf.Tensor  # [T, N] psi before a baseline of its own
    lesson: Lesson
    v_t: Nest  # [T, N] V(o_t), where it is the baseline
    v_tp1: Nest  # [T, N] V(o_{t+1}), where returns that it completes are summed anew
    judged: Judged | tuple[()]


class Assessment(NamedTuple):
    """What a trajectory teaches. Nothing that it holds itself: whatever a program gives takes memory for each sample."""

    batch: Batch  # without what was collected, and what follows from its mask, which `problem.collected` puts in
    average: Nest  # state of the moving-average baseline
    gradient: Nest | None  # grad J where it is made from scores directly
    lesson: Lesson
    known: Nest  # of the critic before it is fitted: metrics


def view(learner: Learner, state: TrainState, trajectory: Trajectory) -> View:
    """Puts together what policy and critic read."""
    t, mask = inside(trajectory.mask, trajectory), trajectory.mask
    policy: Nest = see(learner, state, trajectory.observation, mask)
    if learner.policy.advance is not None:
        policy = (policy, t.age == 0, t.memory[:1])
    now = (trajectory.observation, mask, trajectory.memory)
    return View(t, policy, now, (trajectory.next_observation, mask, trajectory.next_memory), mask)


class ActionValues(NamedTuple):
    """What a critic of actions says of the next step."""

    sampled: tf.Tensor  # [T, N] Q(o_{t+1}, a'), a' ~ pi
    every: tf.Tensor | None  # [T, N, A] Q(o_{t+1}, .), where actions can be counted


def criticise(learner: Learner, state: TrainState, seen: View, seed: tf.Tensor) -> tuple[Critique, ActionValues | None]:
    """V and Q along a trajectory, in units of reward; zeros without a critic.

    Of a critic of actions, V(o) = sum_a pi(a|o) Q(o, a) where actions can be counted; where not, V(o_{t+1}) is the sample Q(o_{t+1}, a'),
    a' ~ pi, which has that mean, and V(o_t) is not to be had.
    """
    if not needs_critic(learner.algorithm):
        nothing = tf.zeros_like(seen.t.reward)
        return Critique(nothing, nothing, None), None
    if not fits_q(learner.algorithm):
        return Critique(values(learner, state, seen.now), values(learner, state, seen.following), None), None
    policy = learner.policy
    o_t, o_tp1 = (critic_sees(learner, state, *rows) for rows in (seen.now, seen.following))
    p_t, p_tp1 = (policy.parameters(state.policy, o) for o in (seen.policy, o_tp1))
    a_tp1 = policy.act(p_tp1, policy.noise(tf.shape(seen.mask), seed))
    q_t, sampled = values(learner, state, seen.now, seen.t.action), values(learner, state, seen.following, a_tp1)
    if learner.value.every is None:
        return Critique(tf.zeros_like(q_t), sampled, q_t), ActionValues(sampled, None)
    every_t, every_tp1 = (learner.targets.invert(state.targets, learner.value.every(state.value, o)) for o in (o_t, o_tp1))
    v_t, v_tp1 = (tf.reduce_sum(tf.nn.softmax(p["logits"]) * q, -1) for p, q in ((p_t, every_t), (p_tp1, every_tp1)))
    return Critique(v_t, v_tp1, q_t), ActionValues(sampled, every_tp1)


def _lambda_return(learner: Learner, seen: View, c: Critique, _: ActionValues | None) -> tf.Tensor:
    t, horizon = seen.t, learner.horizon
    vectors = returns.discount(horizon.gamma, t.terminated, t.reward), returns.trace(horizon.lambda_, t.terminated, t.truncated, t.reward)
    return returns.lambda_return(t.reward, *vectors, c.v_t, c.v_tp1, seen.mask)


def completed(learner: Learner, seen: View, v_tp1: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """r_t with gamma V(o_{t+1}) added where an episode was cut, by its clock or by the last row; discount_t and lambda_t beside it.

    Their sums are whole returns, and read V nowhere else.
    """
    t, last = seen.t, tf.range(seen.mask.shape[0])[:, None] == seen.mask.shape[0] - 1
    discount_t = returns.discount(learner.horizon.gamma, t.terminated, t.reward)
    lambda_t = returns.trace(1.0, t.terminated, t.truncated | last, t.reward)
    return inside(seen.mask, t.reward + discount_t * (1 - lambda_t) * v_tp1), discount_t, lambda_t


def _monte_carlo(learner: Learner, seen: View, c: Critique, _: ActionValues | None) -> tf.Tensor:
    return critics.monte_carlo_target(*completed(learner, seen, c.v_tp1), seen.mask)


def _td(learner: Learner, seen: View, c: Critique, _: ActionValues | None) -> tf.Tensor:
    discount_t = returns.discount(learner.horizon.gamma, seen.t.terminated, seen.t.reward)
    return critics.td_target(seen.t.reward, discount_t, c.v_tp1, seen.mask)


def _sarsa(learner: Learner, seen: View, c: Critique, q: ActionValues) -> tf.Tensor:
    discount_t = returns.discount(learner.horizon.gamma, seen.t.terminated, seen.t.reward)
    return critics.sarsa_target(seen.t.reward, discount_t, q.sampled, seen.mask)


def _q_learning(learner: Learner, seen: View, c: Critique, q: ActionValues) -> tf.Tensor:
    discount_t = returns.discount(learner.horizon.gamma, seen.t.terminated, seen.t.reward)
    return critics.q_learning_target(seen.t.reward, discount_t, q.every, seen.mask)


TARGETS: dict[str, Callable[..., tf.Tensor]] = {
    "monte_carlo": _monte_carlo,
    "lambda": _lambda_return,
    "td": _td,
    "sarsa": _sarsa,
    "q_learning": _q_learning,
}
"""What the critic is fitted to (PG-59, PG-60, PG-61, PG-131). A return that the batch cuts short is completed by V: of episodes that
terminate 'monte_carlo' is G_t."""


ABOVE_V = {("gae", "lambda"), ("n_step", "td"), ("td", "td")}
"""psi and critic of which the target is psi + V: the lambda-return, that of n steps, r + gamma V."""


def fitted_to(learner: Learner, seen: View, c: Critique, q: ActionValues | None, estimate_t: tf.Tensor) -> tf.Tensor:
    """What the critic is fitted to [T, N]. Args: estimate_t: psi before its baseline."""
    if (learner.algorithm.psi, learner.algorithm.critic) in ABOVE_V:
        return estimate_t + inside(seen.mask, c.v_t)
    return TARGETS[learner.algorithm.critic](learner, seen, c, q)


class Scores(NamedTuple):
    """Of each trajectory, g_i = sum_t s_t grad log pi(a_t|o_t) and c_i = sum_t s_t grad log pi(a_t|o_t) Q_t, s_t a scale: [N, P]."""

    g: tf.Tensor
    c: tf.Tensor


def scores(learner: Learner, params: Nest, seen: View, estimate_t: tf.Tensor, scale_t: tf.Tensor) -> Scores:
    """The scores of N trajectories, one column after another: two gradients each."""
    policy, w_t = learner.policy, inside(seen.mask, scale_t)

    def column(i: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        own = lambda x: tf.gather(x, i[None], axis=1)  # noqa: E731
        observation, action, w, q = tf.nest.map_structure(own, (seen.policy, seen.t.action, w_t, estimate_t))

        def score(weight: tf.Tensor) -> tf.Tensor:
            log_prob = lambda theta: policy.distribution(policy.parameters(theta, observation)).log_prob(action)  # noqa: E731
            _, g = gradients.gradient(lambda theta: surrogates.weighted_sum(weight, log_prob(theta)), params)
            return trees.flatten(g)

        return score(w), score(w * q)

    dtype = seen.t.reward.dtype
    return Scores(*tf.map_fn(column, tf.range(seen.mask.shape[1]), fn_output_signature=(dtype, dtype)))


def _optimal(s: Scores) -> tf.Tensor:
    """b_i [N]: the number that, subtracted from every Q_t of a trajectory, makes its gradient least scattered, from the others."""
    size = tf.norm(s.g, axis=1, keepdims=True)
    along = tf.math.divide_no_nan(tf.reduce_sum(s.g * s.c, axis=1, keepdims=True), size)
    return baselines.optimal_togo_leave_one_out(size, along)[:, 0]


PER_TRAJECTORY: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "mean": lambda return_t, mask_t: baselines.every_step(baselines.mean(return_t[0]), mask_t),
    "leave_one_out": lambda return_t, mask_t: baselines.every_step(baselines.leave_one_out(return_t[0]), mask_t),
}
"""Baselines of R(tau), which is the same at every step: return_t, mask_t [T, N] -> b_t [T, N]   (PG-41, PG-42)."""

PER_STEP: dict[str, Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {
    "mean": baselines.pooled,
    "leave_one_out": baselines.time_leave_one_out,
    "time_mean": baselines.time_mean,
}
"""Baselines of G_t, likewise   (PG-132, PG-49)."""


def by_groups(form: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], return_t: tf.Tensor, mask_t: tf.Tensor, group: int) -> tf.Tensor:
    """b_t [T, N] of each group of `group` neighbours by itself   (PG-126); with 1 there are no groups, and b_t is made of all."""
    if group == 1:
        return form(return_t, mask_t)
    steps, n = mask_t.shape
    apart = [tf.transpose(tf.reshape(x, [steps, n // group, group]), [1, 0, 2]) for x in (return_t, mask_t)]
    b = tf.map_fn(lambda own: form(*own), apart, fn_output_signature=return_t.dtype)  # [N / group, T, group]
    return tf.reshape(tf.transpose(b, [1, 0, 2]), [steps, n])


def baseline(
    learner: Learner, state: TrainState, seen: View, estimate_t: tf.Tensor, v_t: Nest, scale_t: tf.Tensor
) -> tuple[tf.Tensor, Nest, Nest | None]:
    """b_t [T, N] of the row's kind, the state of its moving average, and grad J where b is one number per parameter."""
    kind, zero_t = learner.algorithm.baseline, tf.zeros_like(estimate_t)
    if kind == "none" or not whole_episodes(learner.algorithm):
        return zero_t, state.average, None
    if kind == "value":
        return inside(seen.mask, v_t), state.average, None
    if kind == "moving_average":
        now = tf.reduce_mean(returns.total_return(seen.t.reward, learner.horizon.gamma, seen.mask))
        if learner.algorithm.psi == "togo":
            now = baselines.pooled(estimate_t, seen.mask)[0, 0]
        average, count = state.average
        b, average = baselines.moving_average(average, count, now, learner.objective.average_rate)
        return zero_t + b, (average, count + 1), None
    if kind in ("optimal", "optimal_per_parameter"):
        s = scores(learner, state.policy, seen, estimate_t, scale_t)
        if kind == "optimal":
            return baselines.every_step(_optimal(s), seen.mask), state.average, None
        g = tf.reduce_mean(s.c - baselines.optimal_togo_leave_one_out(s.g, s.c) * s.g, axis=0)
        return zero_t, state.average, trees.unflatten(g, state.policy)
    forms = PER_TRAJECTORY if learner.algorithm.psi == "return" else PER_STEP
    return by_groups(forms[kind], estimate_t, seen.mask, learner.group), state.average, None


def estimate(learner: Learner, seen: View, c: Critique) -> tf.Tensor:
    """Q_t [T, N]: psi_t of the row's kind before a baseline of its own is subtracted.

    A reward-to-go that the horizon cut is completed by V where there is one.
    """
    if learner.algorithm.psi == "togo" and learner.algorithm.baseline == "value":
        return psi.monte_carlo_advantage(seen.t, c, learner.horizon) + inside(seen.mask, c.v_t)
    return psi.member(learner.algorithm.psi, seen.t, c, learner.horizon)


def lesson(learner: Learner, state: TrainState, seen: View, target_t: tf.Tensor) -> Lesson:
    """Of what was seen, the part that is fitted to."""
    target = tf.stop_gradient(inside(seen.mask, target_t))
    if learner.model is None:
        return Lesson(target, ())
    o_t, o_tp1 = (critic_sees(learner, state, *rows) for rows in (seen.now, seen.following))
    return Lesson(target, o_tp1 - o_t)


def critic_judged(target_t: tf.Tensor, prediction_t: tf.Tensor, mask_t: tf.Tensor) -> Judged:
    """How a critic's targets lie, and its errors."""
    return Judged(moments(target_t, mask_t), moments(target_t - prediction_t, mask_t))


def read(learner: Learner, state: TrainState, trajectory: Trajectory, seed: tf.Tensor) -> Reading:
    """What columns of a trajectory say, each by itself."""
    row = learner.algorithm
    seen = view(learner, state, trajectory)
    c, q = criticise(learner, state, seen, seed)
    estimate_t = estimate(learner, seen, c)
    fitted, completes = needs_critic(row), row.baseline == "value"
    unfitted_t = seen.t.reward if learner.model else estimate_t
    target_t = fitted_to(learner, seen, c, q, estimate_t) if fitted else unfitted_t
    judged = critic_judged(target_t, c.q_t if fits_q(row) else c.v_t, seen.mask) if fitted else ()
    v_t, v_tp1 = c.v_t if completes and whole_episodes(row) else (), c.v_tp1 if completes and in_columns(row) else ()
    return Reading(estimate_t, lesson(learner, state, seen, target_t), v_t, v_tp1, judged)


def metrics(judged: Judged) -> dict[str, tf.Tensor]:
    """How near a critic is to what it will be fitted to: the share of variance that it explains, and its error in units of reward."""
    target, error = judged
    return {
        "explained_variance": critics.explained(target.variance, error.variance, target.variance + target.mean**2),
        "value_rmse": tf.sqrt(error.variance + error.mean**2),
    }


def conclude(learner: Learner, state: TrainState, trajectory: Trajectory, reading: Reading) -> Assessment:
    """What all columns together teach.

    psi_t = s_t (Q_t - b_t), where s_t holds gamma^age (--discount_from=start) and the scale of returns; standardised last, if at all.
    """
    row, numbers, mask = learner.algorithm, learner.objective, trajectory.mask
    seen, estimate_t, target_t = view(learner, state, trajectory), reading.estimate, reading.lesson.target
    scale_t = tf.ones_like(estimate_t)
    if numbers.weigh_by_age:
        scale_t = returns.discount_from_start(scale_t, learner.horizon.gamma, seen.t.age)
    if numbers.scale_returns:
        statistics = learner.targets.update(state.targets, flat(target_t), flat(mask))
        ends = [learner.targets.invert(statistics, tf.constant(z)) for z in (0.0, 1.0)]
        scale_t = scale_t / tf.maximum(ends[1] - ends[0], 1e-6)
    b_t, average, gradient = baseline(learner, state, seen, estimate_t, reading.v_t, scale_t)
    psi_t = scale_t * baselines.subtract(estimate_t, b_t, mask)
    if numbers.whiten:
        psi_t = baselines.standardise(psi_t, mask, 1e-8)
    columns = Batch(psi=psi_t)
    if in_columns(row):
        # With V as its baseline a return that the clock cut is completed by V, in psi and so in what is summed anew.
        v_tp1 = reading.v_tp1 if row.baseline == "value" else tf.zeros_like(psi_t)
        reward_t, discount_t, lambda_t = completed(learner, seen, v_tp1)
        columns = columns._replace(reward=reward_t, discount=discount_t, lambda_=lambda_t, baseline=b_t, scale=scale_t)
    if not timed(learner):
        columns = tf.nest.map_structure(flat, columns)
    return Assessment(columns, average, gradient, reading.lesson, metrics(reading.judged) if reading.judged else {})


def assess(learner: Learner, state: TrainState, trajectory: Trajectory, seed: tf.Tensor) -> Assessment:
    """Reads a trajectory into a batch for the policy, and into targets for the critic."""
    return conclude(learner, state, trajectory, read(learner, state, trajectory, seed))
