"""Small learners, states away from their start, and ragged trajectories: chunks in which episodes end, or whole episodes with padding."""

import numpy as np
import tensorflow as tf

from tfpg import assess, build, learner, problem
from tfpg.config import check_values, configured
from tfpg.normalizers import Moments
from tfpg.types import Spaces, Trajectory

T, N = 7, 5
GAMMA, LAMBDA, STEPS = 0.9, 0.8, 3
SEED, FULL = tf.constant([8, 9]), tf.constant(1.0)
SPACES = {
    "discrete": Spaces((2,), actions=3, action_start=1),
    "real": Spaces((2,), action_low=(-1.0, -2.0), action_high=(1.0, 3.0)),
    "several": Spaces((2,), choices=(2, 3), choice_starts=(0, 0)),
}
LENGTHS = (7, 4, 5, 2, 6)  # of the whole episodes; the first one is cut by the clock, the third by both
SMALL = {"hidden": "6", "discount": GAMMA, "gae_lambda": LAMBDA, "n_steps": STEPS, "critic_minibatches": 3, "minibatches": 2}


def make(algo="npg", kind="discrete", **changes):
    """A learner of one row; the numbers that it does not read are there too."""
    return build.make_learner(check_values(configured(**{**SMALL, "algo": algo, **changes})), SPACES[kind])


def begun(made, rng=None):
    """A state; given random numbers, with parameters and statistics away from their start, so that all of them matter."""
    state = learner.initial_state(made, SEED)
    if rng is None:
        return state
    moved = lambda scale, nest: tf.nest.map_structure(lambda x: x + scale * rng.normal(size=x.shape).astype(np.float32), nest)  # noqa: E731
    seen = Moments(tf.constant([0.7, 1.4]), tf.constant([4.0, 2.0]), tf.constant(40.0))
    returns = Moments(tf.constant(1.5), tf.constant(6.0), tf.constant(20.0))
    average = (tf.constant(0.23), tf.constant(4)) if made.algorithm.baseline == "moving_average" else ()
    state = state._replace(policy=moved(0.4, state.policy), observations=seen, targets=returns, average=average)
    return state._replace(value=moved(0.3, state.value) if state.value else (), model=moved(0.1, state.model) if state.model else ())


def ends(whole):
    """terminated, truncated, mask, age: [T, N]. Chunks have several ends, one column none; ages go on from the chunk before."""
    terminated, truncated, mask = np.zeros([T, N], bool), np.zeros([T, N], bool), np.ones([T, N], bool)
    age = np.tile(np.arange(T, dtype=np.int32)[:, None], [1, N])
    if whole:
        for i, length in enumerate(LENGTHS):
            mask[length:, i], terminated[length - 1, i], truncated[length - 1, i] = False, i != 0, i in (0, 2)
        return terminated, truncated, mask, age
    terminated[[2, 4, 6], [0, 1, 1]] = truncated[[3, 4, 5], [2, 1, 4]] = True
    for i, first in enumerate([0, 3, 1, 0, 2]):
        now = first
        for t in range(T):
            age[t, i] = now
            now = 0 if terminated[t, i] or truncated[t, i] else now + 1
    return terminated, truncated, mask, age


def trajectory(made, state, rng, whole=False):
    """Random steps, acted and scored by the policy; a recurrent one goes from step to step and forgets at the end of an episode."""
    terminated, truncated, mask, age = ends(whole)
    observation = rng.normal(1.0, 2.0, [T, N, 2]).astype(np.float32)
    rows, noise_t = [], made.policy.noise([T, N], SEED)
    memory = learner.no_memory(made.policy, N)
    if made.policy.memory:
        memory = tf.constant(np.where(age[:1].T > 0, rng.normal(size=memory.shape), 0), tf.float32)
    for t in range(T):
        p, after = learner.act(made, state, tf.constant(observation[t]), memory)
        action = made.policy.act(p, noise_t[t])
        rows.append((action, made.policy.distribution(p).log_prob(action), memory, after))
        memory = tf.where((terminated | truncated)[t][:, None], tf.zeros_like(after), after) if made.policy.memory else ()
    action, log_prob = (tf.stack([row[k] for row in rows]) for k in (0, 1))
    remembered = [tf.stack([row[k] for row in rows]) for k in (2, 3)] if made.policy.memory else [(), ()]
    reward, following = rng.normal(0.4, 1.0, [T, N]).astype(np.float32), rng.normal(1.0, 2.0, [T, N, 2]).astype(np.float32)
    if not whole:
        going_on = ~(terminated | truncated)[:-1]
        following[:-1][going_on] = observation[1:][going_on]
    else:
        following[:-1][mask[1:]] = observation[1:][mask[1:]]
    facts = map(tf.constant, (reward, following, terminated, truncated, mask, age))
    return Trajectory(tf.constant(observation), action, log_prob, *facts, *remembered)


def prepare(rng, moved=False, whole=False, **changes):
    """Learner, state, trajectory."""
    made = make(**changes)
    state = begun(made, rng if moved else None)
    return made, state, trajectory(made, state, rng, whole)


def assessed(made, state, t, seed=SEED):
    """What a trajectory teaches, with its batch as the losses read it."""
    found = assess.assess(made, state, t, seed)
    return found._replace(batch=problem.seen(made, state, problem.collected(made, t, found.batch)))


def fill_padding(t, number):
    """The same trajectory with `number` wherever the mask hides it."""

    def fill(x):
        hidden = np.broadcast_to(~t.mask.numpy().reshape(T, N, *[1] * (x.ndim - 2)), x.shape)
        value = {tf.bool: True, tf.int32: 1}.get(x.dtype, number)
        return tf.constant(np.where(hidden, value, x.numpy()), x.dtype)

    return tf.nest.map_structure(fill, t)._replace(mask=t.mask)


def assert_equal(a, b):
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def differs(a, b):
    return any((x.numpy() != y.numpy()).any() for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True))


def episodes(t):
    """(column, rows of one episode) for each stretch of valid steps that no end interrupts."""
    terminated, truncated, mask = (x.numpy() for x in (t.terminated, t.truncated, t.mask))
    for i in range(mask.shape[1]):
        rows = []
        for k in range(mask.shape[0]):
            if mask[k, i]:
                rows.append(k)
            if rows and (terminated[k, i] or truncated[k, i] or k == mask.shape[0] - 1 or not mask[k, i]):
                yield i, rows
                rows = []
