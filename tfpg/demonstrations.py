"""Demonstrations: whole episodes in one file, with how likely each behaviour was to act so. docs/demonstrations.md has the format.

    read -> Trajectory, log_prob that of the mixture of behaviours -> the same update as any other batch

In the file actions and densities are in the environment's units; a policy's -1 and +1 are a real action's bounds (`policies.gaussian`).
"""

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfpg import minibatches, off_policy, policies, returns, surrogates
from tfpg.errors import UsageError
from tfpg.files import sync
from tfpg.fit import by_minibatches
from tfpg.learner import Learner, flat, no_memory, perceive, see
from tfpg.masks import inside
from tfpg.types import Nest, Spaces, TrainState, Trajectory

FORMAT = 1
KINDS = {
    "format": "iu",
    "env": "U",
    "observation": "fiub",
    "action": "fiu",
    "reward": "fiu",
    "next_observation": "fiub",
    "terminated": "b",
    "truncated": "b",
    "mask": "b",
    "log_prob": "fiu",
}
"""The arrays of a file, and the kinds of numpy types that each may have."""

WORDS = {"f": "real numbers", "i": "whole numbers", "b": "booleans", "U": "text"}
# What reading a broken archive raises; the last two are those of a header that claims an impossible shape.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, MemoryError, OverflowError)
ROUNDING = 1e-6  # of the logarithm of a probability
LARGEST = float(np.finfo(np.float32).max)


class Fault(ValueError):
    """What is wrong with a file, as the rest of a sentence that begins with its name."""


def require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Fault(otherwise)


def load(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; nothing in it is ever unpickled. Raises: Fault."""
    try:
        file = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise Fault("is not there") from None
    except (ValueError, *DAMAGE) as error:
        why = getattr(error, "strerror", None)
        raise Fault(f"cannot be read: {why}" if why else "is no .npz file of numpy") from None
    require(hasattr(file, "files"), "is no .npz file of numpy: it holds a single array")
    with file:
        for name in KINDS:
            require(name in file.files, f"lacks the array {name}")
        return {name: _array(file, name) for name in KINDS}


def _array(file: np.lib.npyio.NpzFile, name: str) -> np.ndarray:
    try:
        x = file[name]
    except ValueError:
        raise Fault(f"has Python objects for {name}, or damage: a plain array is needed") from None
    except DAMAGE:
        raise Fault(f"is damaged where {name} is") from None
    allowed = " or ".join(WORDS[kind] for kind in KINDS[name] if kind in WORDS)
    kind = x.dtype if isinstance(x, np.ndarray) else "no array"
    require(isinstance(x, np.ndarray) and x.dtype.kind in KINDS[name], f"has {kind} for {name}: {allowed} are needed")
    return x


def _action_shape(spaces: Spaces) -> tuple[int, ...]:
    return () if spaces.actions else (len(spaces.choices or spaces.action_low),)


def check_shapes(arrays: dict[str, np.ndarray], spaces: Spaces) -> None:
    """Raises Fault unless all arrays are [T, N, ...] as the spaces have it, and log_prob [J, T, N]."""
    steps = arrays["mask"].shape
    require(
        len(steps) == 2 and min(steps) > 0, f"has mask of shape {steps}: steps times episodes are needed, [T, N], and at least one of each"
    )
    inner = {"observation": spaces.observation_shape, "next_observation": spaces.observation_shape, "action": _action_shape(spaces)}
    for name in ("observation", "next_observation", "action", "reward", "terminated", "truncated"):
        wanted = (*steps, *inner.get(name, ()))
        require(arrays[name].shape == wanted, f"has {name} of shape {arrays[name].shape}: {wanted} is needed")
    shape = arrays["log_prob"].shape
    require(
        len(shape) == 3 and shape[0] > 0 and shape[1:] == steps,
        f"has log_prob of shape {shape}: (J, {steps[0]}, {steps[1]}) is needed, J the number of behaviours",
    )


def check_episodes(mask: np.ndarray, ended: np.ndarray) -> None:
    """Raises Fault unless each column is one whole episode: a step at least, no gap, and an end at its last step only."""
    length = mask.sum(axis=0)
    require(bool(length.all()), f"has no step in episode {np.argmin(length)}: mask must be true at its first steps")
    gaps = (mask != (np.arange(len(mask))[:, None] < length)).any(axis=0)
    require(not gaps.any(), f"has a mask with a gap in episode {np.argmax(gaps)}: it must be true up to the last step, and false behind it")
    last = np.arange(len(mask))[:, None] == length - 1
    wrong = (mask & (ended != last)).any(axis=0)
    require(
        not wrong.any(),
        f"has episode {np.argmax(wrong)} end elsewhere than at its last step: terminated or truncated must be true there, and only there",
    )


def check_numbers(arrays: dict[str, np.ndarray], spaces: Spaces) -> None:
    """Raises Fault for a number, where mask is true, that nothing can be learned from in float32."""
    mask = arrays["mask"]
    for name in ("observation", "next_observation", "action", "reward"):
        with np.errstate(over="ignore"):
            bad = np.argwhere(mask & ~np.isfinite(arrays[name].astype(np.float32)).reshape(*mask.shape, -1).all(axis=-1))
        require(len(bad) == 0, f"has {name} that is not finite at [t, i] = {bad[:1].tolist()}")
    largest = (LARGEST / (4 * mask.sum())) ** 0.5  # the sum of squared distances from the mean is then finite
    for name in ("observation", "next_observation"):
        bad = np.argwhere(mask & (np.abs(arrays[name].astype(np.float64)) > largest).reshape(*mask.shape, -1).any(axis=-1))
        require(len(bad) == 0, f"has {name} too large for its variance at [t, i] = {bad[:1].tolist()}: at most {largest:.1g} is allowed")
    check_log_prob(arrays["log_prob"].astype(np.float64), mask, counted=not spaces.action_low)
    if not spaces.action_low:
        check_actions(arrays["action"], mask, spaces)


def check_log_prob(log_prob: np.ndarray, mask: np.ndarray, counted: bool) -> None:
    """Raises Fault for an entry of log_prob [J, T, N] that is neither minus infinity nor has a finite sum in float32 over T steps."""
    largest = LARGEST / len(mask)
    possible = np.isneginf(log_prob) | (log_prob >= -largest) & (log_prob <= (ROUNDING if counted else largest))
    bad = np.argwhere(mask & ~possible)
    allowed = "logarithms of probabilities, at most 0," if counted else "logarithms of densities"
    require(
        len(bad) == 0,
        f"has log_prob {log_prob[tuple(bad[0])] if len(bad) else ''} at [j, t, i] = {bad[:1].tolist()}: {allowed} that float32 can sum "
        "are needed",
    )


def check_actions(action: np.ndarray, mask: np.ndarray, spaces: Spaces) -> None:
    """Raises Fault for a counted action that the environment does not have."""
    require(action.dtype.kind in "iu", f"has {action.dtype} for action: whole numbers are needed for these actions")
    first = np.array(spaces.choice_starts if spaces.choices else spaces.action_start)
    count = np.array(spaces.choices if spaces.choices else spaces.actions)
    outside = ((action < first) | (action >= first + count)).reshape(*mask.shape, -1).any(axis=-1)
    bad = np.argwhere(mask & outside)
    require(len(bad) == 0, f"has an action that there is not at [t, i] = {bad[:1].tolist()}: {first} to {first + count - 1} are allowed")


def check_support(log_prob_jt: np.ndarray, mixture_t: np.ndarray, mask: np.ndarray) -> None:
    """Raises Fault where q cannot have been what drew the episodes, or covers nothing but itself   (PG-70: q > 0 wherever p f is not 0)."""
    bad = np.argwhere(mask & np.isneginf(mixture_t))
    require(
        len(bad) == 0,
        f"has steps at [t, i] = {bad[:1].tolist()} that none of its behaviours would have taken (log_prob -inf): "
        "importance sampling needs behaviours that cover what the policy may do",
    )
    certain = (log_prob_jt == 0) | np.isneginf(log_prob_jt)
    require(
        not certain[:, mask].all(),
        "comes from deterministic behaviours (every log_prob is 0): they cover no policy but themselves, and importance sampling needs "
        "a chance of everything that the policy may do",
    )


def read(name: str, env: str, spaces: Spaces) -> Trajectory:
    """The episodes of a file, one per column, as an update takes them; `log_prob` is log q(a_t|the past), q the mixture of its behaviours.

    q(tau_{1:t}) = 1/J sum_j q_j(tau_{1:t}) is a mixture of whole trajectories (PG-85), so sums of `log_prob` over the first t steps are
    log q(tau_{1:t}), and products of ratios are the mixture's weights. Padding is zeros.
    Raises: UsageError naming --demonstrations, the file and what is wrong with it.
    """
    try:
        arrays = load(Path(name))
        require(arrays["format"].shape == () and int(arrays["format"]) == FORMAT, f"has format {arrays['format']}: {FORMAT} is read here")
        require(arrays["env"].shape == () and str(arrays["env"]) == env, f"is of --env={arrays['env']}, but the run's is --env={env}")
        check_shapes(arrays, spaces)
        check_episodes(arrays["mask"], arrays["terminated"] | arrays["truncated"])
        check_numbers(arrays, spaces)
        return _trajectory(arrays, spaces)
    except Fault as fault:
        raise UsageError(f"--demonstrations={name} {fault}.") from None


def digest(name: str) -> str:
    """SHA-256 of a file: a run that goes on must find the episodes that it began with. Raises: UsageError."""
    try:
        return hashlib.sha256(Path(name).read_bytes()).hexdigest()
    except OSError as error:
        raise UsageError(f"--demonstrations={name} cannot be read: {error.strerror}.") from None


def _trajectory(arrays: dict[str, np.ndarray], spaces: Spaces) -> Trajectory:
    mask, action, log_prob = (arrays[name] for name in ("mask", "action", "log_prob"))
    log_prob = np.where(mask, log_prob.astype(np.float64), 0.0)
    mixture_t = off_policy.mixture_log_prob(tf.constant(log_prob), tf.constant(mask)).numpy()
    check_support(log_prob, mixture_t, mask)
    density = np.diff(mixture_t, axis=0, prepend=0.0)
    if spaces.action_low:
        middle, half = policies.units(spaces.action_low, spaces.action_high)
        action, density = ((action - middle) / half).astype(np.float32), density + np.log(half).sum()
    else:
        action = (action - np.array(spaces.choice_starts or spaces.action_start)).astype(np.int32)
    image = spaces.pixels and arrays["observation"].dtype == np.uint8
    seen = np.uint8 if image else np.float32
    age = np.broadcast_to(np.arange(len(mask), dtype=np.int32)[:, None], mask.shape)
    columns = (
        arrays["observation"].astype(seen), action, density.astype(np.float32), arrays["reward"].astype(np.float32),
        arrays["next_observation"].astype(seen), arrays["terminated"], arrays["truncated"], mask, age,
    )  # fmt: skip
    rows = tf.nest.map_structure(tf.constant, Trajectory(*columns))
    return inside(rows.mask, rows)


def write(path: Path, env: str, spaces: Spaces, t: Trajectory, log_prob_jt: np.ndarray) -> None:
    """Writes whole episodes, one per column, in one piece. Args: log_prob_jt [J, T, N] of each action under each behaviour.

    Raises: OSError if the disk does not take it.
    """
    rows = inside(t.mask, t)
    longest = int(tf.reduce_max(tf.reduce_sum(tf.cast(t.mask, tf.int32), axis=0)))
    arrays = {name: getattr(rows, name).numpy()[:longest] for name in KINDS if name in Trajectory._fields}
    action, log_prob_jt = arrays["action"], np.asarray(log_prob_jt, np.float64)[:, :longest]
    if spaces.action_low:
        middle, half = policies.units(spaces.action_low, spaces.action_high)
        action, log_prob_jt = middle + half * action, log_prob_jt - np.log(half).sum()
    else:
        action = action + np.array(spaces.choice_starts or spaces.action_start, np.int32)
    arrays.update(action=action, log_prob=np.where(arrays["mask"], log_prob_jt, 0.0), format=np.array(FORMAT), env=np.array(env))
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
        sync(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def join(pieces: Sequence[Trajectory]) -> Trajectory:
    """Episodes side by side, [T, N_1 + N_2 + ..]; the shorter pieces are filled up with padding."""
    longest = max(piece.mask.shape[0] for piece in pieces)

    def side_by_side(*leaves: tf.Tensor) -> tf.Tensor:
        filled = [tf.pad(x, [[0, longest - x.shape[0]], *[[0, 0]] * (x.shape.rank - 1)]) for x in leaves]
        return tf.concat(filled, axis=1)

    return tf.nest.map_structure(side_by_side, *pieces)


def log_prob(learner: Learner, state: TrainState, t: Trajectory) -> tf.Tensor:
    """log pi_theta(a_t|o_t) [T, N] of whole episodes under a policy with its own statistics of observations; 0 on padding."""
    policy, t = learner.policy, inside(t.mask, t)
    seen: Nest = see(learner, state, t.observation, t.mask)
    if policy.advance is not None:
        seen = (seen, t.age == 0, no_memory(policy, t.mask.shape[1])[None])
    return inside(t.mask, policy.distribution(policy.parameters(state.policy, seen)).log_prob(t.action))


def clone(learner: Learner, state: TrainState, t: Trajectory, epochs: int, seed: tf.Tensor) -> TrainState:
    """`epochs` passes of maximum likelihood, J_ML = mean of log pi(a_t|o_t) over the steps   (PG-27), by Adam as the critic is fitted."""
    policy, fit = learner.policy, learner.critic

    def loss(theta: Nest, part: Nest) -> tf.Tensor:
        (observation, action), w = part
        return -surrogates.weighted_sum(w, policy.distribution(policy.parameters(theta, observation)).log_prob(action))

    data = (perceive(learner, state, flat(t.observation)), flat(t.action))
    share = flat(surrogates.weights(t.mask, t.reward, "step"))
    order = minibatches.orders(share.shape[0], epochs, fit.minibatches, seed)
    theta, _ = by_minibatches(fit, loss, data, share, state.policy, fit.optimizer.init(state.policy), order)
    return state._replace(policy=theta)


def prepare(learner: Learner, state: TrainState, t: Trajectory, epochs: int, seed: tf.Tensor) -> TrainState:
    """What comes before the first update: the file's observations are taken into their statistics, and the policy imitates.

    Otherwise the statistics would change after the first update, and the policy that imitated with them.
    """
    state = state._replace(observations=learner.observations.update(state.observations, t.observation, t.mask))
    return clone(learner, state, t, epochs, seed) if epochs else state


def estimated_return(learner: Learner, state: TrainState, t: Trajectory) -> tf.Tensor:
    """sum_t gamma^{t-1} sum_i w_{i,t} r_{i,t} / Z_t: what the demonstrations say of J at theta (PG-85 without its regulariser)."""
    r_t = returns.discount_from_start(t.reward, learner.horizon.gamma, t.age)
    return off_policy.guided_objective(log_prob(learner, state, t), t.log_prob[None], r_t, tf.constant(0.0), t.mask)


def adapt_guidance(guidance: tf.Tensor, before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """w_r after an update that took the estimated return from `before` to `after`: a tenth less if it rose, twice as much if not."""
    return tf.clip_by_value(guidance * tf.where(after > before, 0.9, 2.0), 1e-6, 1e6)
