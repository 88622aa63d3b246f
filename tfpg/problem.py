"""One batch as a problem in theta: the objective that is ascended, the divergence that is watched, and the Fisher product."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from tfpg import gradients, importance, off_policy, pathwise, returns, surrogates, trees
from tfpg.algorithms import WEIGHTS, in_columns, whole_episodes
from tfpg.blocks import over_blocks
from tfpg.learner import Learner, flat, see
from tfpg.masks import inside
from tfpg.types import Nest, Policy, Problem, TrainState, Trajectory


class Batch(NamedTuple):
    """A trajectory as the losses read it: M = T N samples, or T x N columns where time matters. Padding is zeros with weight 0."""

    observation: Nest = ()  # [M, O] normalised; of columns [T, N, O]; of a recurrent policy also where episodes begin, and its memory
    action: Nest = ()  # [M] or [M, A]
    log_prob: Nest = ()  # [M]
    psi: Nest = ()  # [M]
    weight: Nest = ()  # [M] of the objective
    share: Nest = ()  # [M] of an average over steps
    reward: Nest = ()  # [T, N], these five for weights that are products over time
    discount: Nest = ()
    lambda_: Nest = ()
    mask: Nest = ()  # [M]
    baseline: Nest = ()
    scale: Nest = ()


def timed(learner: Learner) -> bool:
    """Whether a batch is in columns: weights are products over time, or the policy remembers."""
    return in_columns(learner.algorithm) or learner.policy.advance is not None


def collected(learner: Learner, t: Trajectory, batch: Batch) -> Batch:
    """The batch with what was collected, as it was collected: outside of compiled programs it takes no memory. For `seen`."""
    observation: Nest = t.observation if learner.policy.advance is None else (t.observation, t.age, t.memory[:1])
    with tf.control_dependencies([batch.psi]):  # not before all has been read, and what is not needed further has been forgotten
        share = surrogates.weights(t.mask, batch.psi, "step")
        weight = surrogates.weights(t.mask, batch.psi, "traj") if whole_episodes(learner.algorithm) else share
    own = {"observation": observation, "action": t.action, "log_prob": t.log_prob, "mask": t.mask, "weight": weight, "share": share}
    return batch._replace(**(own if timed(learner) else tf.nest.map_structure(flat, own)))


def seen(learner: Learner, state: TrainState, batch: Batch) -> Batch:
    """A batch as the losses read it, all of it data: observations as the policy sees them, zeros for what the mask hides."""
    hide = functools.partial(inside, batch.mask)
    if learner.policy.advance is None:
        observation: Nest = see(learner, state, batch.observation, batch.mask)
    else:
        observation, age, memory = batch.observation
        observation = (see(learner, state, observation, batch.mask), hide(age) == 0, memory)
    own = batch._replace(observation=observation, action=hide(batch.action), log_prob=hide(batch.log_prob))
    return tf.nest.map_structure(tf.stop_gradient, own)


OUTCOME = ("surrogate_gain", "kl", "entropy")


class Terms(NamedTuple):
    """What a surrogate may read at theta."""

    learner: Learner
    state: TrainState
    theta: Nest
    batch: Batch
    log_prob: tf.Tensor  # under theta
    kl: Callable[[], tf.Tensor]  # KL(old || theta) of each sample
    pace: tf.Tensor
    seed: tf.Tensor


def _log_ratio(s: Terms) -> tf.Tensor:
    return importance.log_ratio(tf.stop_gradient(s.log_prob), s.batch.log_prob, s.batch.mask)


def _mean_weight(s: Terms, log_ratio: tf.Tensor, form: str) -> tf.Tensor:
    """What self-normalised weights are divided by: their mean over trajectories, at each time where they differ in time; else 1."""
    if not s.learner.objective.self_normalise:
        return tf.ones_like(s.batch.psi)
    if form == "first_order":
        mean = surrogates.weighted_sum(s.batch.share, tf.exp(log_ratio)) / tf.reduce_sum(s.batch.share)
        return tf.ones_like(s.batch.psi) * mean
    log_w = tf.cumsum(log_ratio) if form != "trajectory" else importance.log_trajectory_ratio(log_ratio, s.batch.mask)[None]
    columns = tf.cast(s.batch.mask.shape[1], log_w.dtype)
    return tf.ones_like(s.batch.psi) * tf.exp(tf.reduce_logsumexp(log_w, axis=1, keepdims=True) - tf.math.log(columns))


def weighed(form: str) -> Callable[[Terms], tf.Tensor]:
    """log pi_theta(a_t|o_t) sg(psi_t), psi_t weighed for theta by one of the forms of `importance`   (PG-74 to PG-80).

    A baseline b_t is weighed as its action is, W_t b_t: the mean of that times the score is 0 under theta too.
    """

    def surrogate(s: Terms) -> tf.Tensor:
        b, log_ratio = s.batch, _log_ratio(s)
        mean = _mean_weight(s, log_ratio, form)
        if form == "trajectory":
            psi_t = importance.full_togo(log_ratio, b.psi / mean, b.mask)
        elif form == "drop_future":
            psi_t = importance.drop_future(log_ratio, b.psi / mean, b.lambda_, b.mask)
        elif form == "first_order":
            psi_t = importance.first_order(log_ratio, b.psi / mean, b.mask)
        else:
            paid = importance.causal(log_ratio, b.reward / mean, b.discount, b.lambda_, b.mask)
            psi_t = b.scale * (paid - importance.drop_future(log_ratio, b.baseline / mean, b.lambda_, b.mask))
        return surrogates.score(s.log_prob, b.log_prob, psi_t)

    return surrogate


def _pathwise(s: Terms) -> tf.Tensor:
    """Sum of modelled rewards along n modelled steps from each sample   (PG-121), in units of the rewards' deviation.

    f_phi and r_phi are one network, (o, a) -> (change of o, r); it knows no ends of episodes.
    """
    learner, policy, net = s.learner, s.learner.policy, s.learner.model
    assert net is not None
    model = lambda o, a: net.apply(s.state.model, tf.concat([o, a], -1))  # noqa: E731
    noise_t = policy.noise([int(learner.horizon.n), s.batch.observation.shape[0]], s.seed)
    return pathwise.pathwise_return(
        pathwise.reparameterised(policy),
        lambda o, a: o + model(o, a)[:, :-1],
        lambda o, a: model(o, a)[:, -1],
        s.theta,
        s.batch.observation,
        noise_t,
        learner.horizon.gamma,
    )


def _guided(s: Terms) -> tf.Tensor:
    """Phi [], already summed over the batch   (PG-85), of rewards discounted from the start; w_r is the state's `penalty`.

    The batch's log-probabilities are those of the mixture given the past, so their sums are all that Phi asks of the behaviours.
    """
    b, gamma = s.batch, s.learner.horizon.gamma
    age_t = tf.broadcast_to(tf.range(b.reward.shape[0])[:, None], b.reward.shape)
    r_t = returns.discount_from_start(b.reward, gamma, age_t)
    return off_policy.guided_objective(s.log_prob, b.log_prob[None], r_t, s.state.penalty, b.mask)


SURROGATES: dict[str, Callable[[Terms], tf.Tensor]] = {
    "score": lambda s: surrogates.score(s.log_prob, s.batch.log_prob, s.batch.psi),
    "importance": lambda s: surrogates.importance(s.log_prob, s.batch.log_prob, s.batch.psi),
    "clipped": lambda s: surrogates.clipped(s.log_prob, s.batch.log_prob, s.batch.psi, s.learner.objective.clip_range * s.pace),
    "kl_penalised": lambda s: surrogates.kl_penalised(s.log_prob, s.batch.log_prob, s.batch.psi, s.kl(), s.state.penalty),
    "pathwise": _pathwise,
    "guided": _guided,
    **{form: weighed(form) for form in WEIGHTS},
}


def take(batch: Batch, rows: tf.Tensor, axis: int) -> Batch:
    """Some of a batch's samples (axis 0) or columns (axis 1), their weights raised so that sums stay what they are on average."""
    part = tf.nest.map_structure(lambda x: tf.gather(x, rows, axis=axis), batch)
    factor = batch.weight.shape[axis] / rows.shape[0]
    return part._replace(weight=part.weight * factor, share=part.share * factor)


def policy_problem(learner: Learner, state: TrainState, batch: Batch, pace: tf.Tensor, seed: tf.Tensor) -> Problem:
    """The problem of one batch, around the parameters `state.policy` that are to be improved."""
    policy, row, params = learner.policy, learner.algorithm, state.policy
    axis = 0 if batch.weight.shape.rank == 1 else 1

    def look(theta: Nest) -> Any:
        return policy.distribution(policy.parameters(theta, batch.observation))

    def old() -> Any:
        return policy.distribution(tf.nest.map_structure(tf.stop_gradient, policy.parameters(params, batch.observation)))

    def objective(theta: Nest) -> tf.Tensor:
        new = look(theta)
        kl = lambda: old().kl_divergence(new)  # noqa: E731
        terms = Terms(learner, state, theta, batch, new.log_prob(batch.action), kl, pace, seed)
        each = SURROGATES[row.surrogate](terms)
        value = surrogates.weighted_sum(batch.weight, each) if each.shape.rank else each
        bonus = learner.objective.entropy_bonus
        return value + bonus * surrogates.weighted_sum(batch.weight, new.entropy()) if bonus else value

    def divergence(theta: Nest) -> tf.Tensor:
        return surrogates.weighted_sum(batch.share, old().kl_divergence(look(theta)))

    def fisher() -> Callable[[tf.Tensor], tf.Tensor]:
        observation, weight = batch.observation[None], batch.share[None]
        kept = gradients.worth_keeping(policy, params, weight.shape[1])
        data = gradients.keep_factors(policy, params, observation) if kept else observation
        return lambda v: fisher_product(policy, params, data, weight, v)

    def outcome(theta: Nest) -> dict[str, tf.Tensor]:
        gain = objective(theta) - objective(params)
        entropy = surrogates.weighted_sum(batch.share, old().entropy())
        return dict(zip(OUTCOME, (gain, divergence(theta), entropy), strict=True))

    def overlap(theta: Nest) -> tf.Tensor:
        return effective_share(row.surrogate, look(theta).log_prob(batch.action), batch) if in_columns(row) else tf.constant(1.0)

    def part(rows: tf.Tensor) -> Problem:
        return policy_problem(learner, state, take(batch, rows, axis), pace, seed)

    def gradient(theta: Nest) -> Nest:
        return gradients.gradient(objective, theta)[1]

    return Problem(objective, gradient, divergence, fisher, outcome, overlap, part)


def fisher_product(
    policy: Policy, params: Nest, data: Nest, weight: tf.Tensor, v: tf.Tensor, look: gradients.Look = gradients.as_is
) -> tf.Tensor:
    """F v for the leaves of theta as one vector: v [P] -> [P]."""
    return trees.flatten(gradients.fisher_product(policy, params, data, weight, trees.unflatten(v, params), look))


WIDE = 1024
ALIGNED = 64
"""Blocks of `WIDE` samples and more are multiples of so many: then parts begin where TensorFlow takes them as they are, without a copy."""


def shards(batch: Batch, count: int, block: int) -> list[Batch]:
    """A batch of samples in `count` parts of neighbours, as equal as can be (of fewer samples, fewer parts), each in as many equal blocks.

    The last part is filled up with zeros, which are its weights there too. Outside of compiled programs the others are no copies, if their
    blocks are `WIDE`.
    """
    samples = batch.weight.shape[0]
    blocks = -(-samples // (min(count, samples) * block))  # of each part
    size = -(-samples // (min(count, samples) * blocks))
    size = -(-size // ALIGNED) * ALIGNED if size >= WIDE else size
    each = blocks * size

    def part(first: int) -> Batch:
        def leaf(x: tf.Tensor) -> tf.Tensor:
            numbers = math.prod(x.shape[1:])
            own = tf.reshape(x, [-1])[first * numbers : min(first + each, samples) * numbers]
            missing = each * numbers - own.shape[0]  # numbers one after another: of rows TensorFlow always makes a copy
            return tf.reshape(tf.pad(own, [[0, missing]]) if missing else own, [blocks, size, *x.shape[1:]])

        return tf.nest.map_structure(leaf, batch)

    return [part(first) for first in range(0, samples, each)]


def side_by_side(
    learner: Learner, state: TrainState, parts: list[Batch], pace: tf.Tensor, seed: tf.Tensor, piece: Callable[..., Any]
) -> Problem:
    """The problem of a batch in parts and blocks: every sum over the batch is the sum of what each part comes to by itself, block by block.

    Args: parts: of `shards`, as they were collected; piece: makes a program of a function. Programs that do not wait for one another run
    at the same time.
    """
    policy, params, zero = learner.policy, state.policy, tf.zeros([], parts[0].psi.dtype)
    like = {"objective": zero, "gradient": params, "divergence": zero, "outcome": dict.fromkeys(OUTCOME, zero)}

    def summed(name: str) -> Callable[[Nest], Nest]:
        def part(batch: Batch, theta: Nest) -> Nest:
            def of(block: Batch) -> Nest:
                return getattr(policy_problem(learner, state, seen(learner, state, block), pace, seed), name)(theta)

            return over_blocks(of, batch, like[name])

        program = piece(part)
        return lambda theta: tf.nest.map_structure(lambda *x: tf.add_n(x), *[program(batch, theta) for batch in parts])

    def fisher() -> Callable[[tf.Tensor], tf.Tensor]:
        look = lambda block: see(learner, state, *block)  # noqa: E731
        keep = piece(lambda blocks: gradients.keep_factors(policy, params, blocks, look))
        product = piece(lambda data, weight, v: fisher_product(policy, params, data, weight, v, look))
        kept = gradients.worth_keeping(policy, params, sum(batch.weight.shape.num_elements() for batch in parts) // learner.shards)
        blocks = [(batch.observation, batch.mask) for batch in parts]
        data = [keep(own) if kept else own for own in blocks]
        return lambda v: tf.add_n([product(x, batch.share, v) for x, batch in zip(data, parts, strict=True)])

    def nothing(_: Nest) -> Any:
        raise NotImplementedError("a batch in blocks is improved upon as a whole")

    objective, gradient, divergence, outcome = map(summed, like)
    return Problem(objective, gradient, divergence, fisher, outcome, overlap=nothing, part=nothing)


def effective_share(form: str, log_prob: tf.Tensor, batch: Batch) -> tf.Tensor:
    """Effective sample size over sample size   (PG-71): of whole trajectories, or of single steps where only their ratio weighs."""
    log_ratio = importance.log_ratio(log_prob, batch.log_prob, batch.mask)
    if form != "first_order":
        log_w = importance.log_trajectory_ratio(log_ratio, batch.mask)
        return importance.effective_sample_size(log_w) / tf.cast(log_w.shape[0], log_w.dtype)
    steps = tf.reduce_sum(tf.cast(batch.mask, log_ratio.dtype))
    hidden = tf.where(batch.mask, log_ratio, tf.constant(-1e9, log_ratio.dtype))
    return importance.effective_sample_size(tf.reshape(hidden, [-1])) / steps
