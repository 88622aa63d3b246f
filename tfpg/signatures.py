"""What a trained policy answers, as functions of tensors: the signatures of an exported policy, before anything is written.

    serving_default  observation [B, *shape]                    -> action, the greedy one
    sample           observation [B, *shape], seed [B, 2]       -> action; a row depends on its own seed only
    noise            observation [B, *shape], noise [B, *law]   -> action, log_prob; for runtimes without random numbers
    distribution     observation [B, *shape]                    -> the parameters of the action distribution
    value            observation [B, *shape]                    -> value, where there is a critic, in units of reward
    metadata         nothing                                    -> metadata, a JSON text

Observations are the environment's own, normalisation is inside; actions are in the environment's own units. An observation of several
parts (Dict, Tuple) or of whole numbers (Discrete and the like) comes as one input for each part, in the environment's own types. A
recurrent policy also takes `memory` [B, H], zeros at the start of an episode, and gives it back for the next step.

What comes in is looked at first: its shape (TensorFlow itself would broadcast), numbers that are not finite, values that are none of a
part's, inputs with different numbers of rows. Parameters and statistics are constants of the graph.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfpg.encoding import encode
from tfpg.learner import Learner, act, perceive
from tfpg.types import Nest, Part, Policy, Spaces, TrainState

Tensors = dict[str, tf.Tensor]


class Signature(NamedTuple):
    """One use of a policy: what it takes, by name, and the function."""

    inputs: dict[str, tf.TensorSpec]
    call: Callable[..., Tensors]


def by_parts(spaces: Spaces) -> bool:
    """Whether the observation is made of parts that are encoded in the model; a window of them comes encoded already."""
    return bool(spaces.parts) and len(spaces.observation_shape) == 1


def observation_inputs(spaces: Spaces) -> dict[str, tf.TensorSpec]:
    """The inputs that carry an observation: one, or one for each of its parts in the environment's own types."""
    if by_parts(spaces):
        return {part.name: tf.TensorSpec([None, *part.shape], tf.as_dtype(part.dtype), part.name) for part in spaces.parts}
    return {"observation": tf.TensorSpec([None, *spaces.observation_shape], tf.float32, "observation")}


def _within(name: str, x: tf.Tensor, part: Part | None) -> tf.Tensor:
    """The input if all its numbers are finite, and a part's values are those it has. Raises: InvalidArgumentError when it runs."""
    if x.dtype.is_floating:
        return tf.debugging.check_numerics(x, f"{name} must be finite")
    if part is None or part.kind == "box":
        return x
    sizes = np.reshape(part.sizes or [2] * int(np.prod(part.shape, dtype=np.int64)), part.shape)
    starts = np.reshape(part.starts, part.shape) if part.starts else np.zeros(part.shape, np.int64)
    from_start = tf.cast(x, tf.int64) - starts
    good = tf.reduce_all((from_start >= 0) & (from_start < sizes))
    with tf.control_dependencies([tf.debugging.Assert(good, [f"{name} holds a value outside its space"])]):
        return tf.identity(x)


def _constants(nest: Nest) -> Callable[[], Nest]:
    """The numbers of a nest, to be put into whatever graph asks for them."""
    leaves = [np.asarray(leaf) for leaf in tf.nest.flatten(nest)]
    return lambda: tf.nest.pack_sequence_as(nest, [tf.constant(leaf) for leaf in leaves])


def _with_rows(x: tf.Tensor, given: Tensors, message: str) -> tf.Tensor:
    """x, if it has as many rows as the other inputs. Raises: InvalidArgumentError when it runs."""
    alike = tf.debugging.assert_equal(tf.shape(x)[0], tf.shape(next(iter(given.values())))[0], message)
    with tf.control_dependencies([alike]):
        return tf.identity(x)


class _Seen(NamedTuple):
    """What a policy knows when it is asked."""

    observation: tf.Tensor
    memory: Nest


def _eyes(learner: Learner, spaces: Spaces, checked: bool) -> tuple[dict[str, tf.TensorSpec], Callable[[Tensors], _Seen]]:
    """The inputs that every use has, and what is made of them."""
    inputs, parts = observation_inputs(spaces), {part.name: part for part in spaces.parts} if by_parts(spaces) else {}
    if learner.policy.memory:
        inputs["memory"] = tf.TensorSpec([None, learner.policy.memory], tf.float32, "memory")

    def see(given: Tensors) -> _Seen:
        given = {name: tf.ensure_shape(given[name], spec.shape) for name, spec in inputs.items()}
        if checked:
            given = {name: _within(name, x, parts.get(name)) for name, x in given.items()}
        memory = given.pop("memory", ())
        observation = encode(spaces.parts, given) if parts else given["observation"]
        if checked and learner.policy.memory:
            memory = _with_rows(memory, given, "each row of observation needs a memory")
        return _Seen(observation, memory)

    return inputs, see


def _answer(memory: Nest, **found: tf.Tensor) -> Tensors:
    """Outputs by name, a recurrent policy's memory among them."""
    kept = {"memory": memory} if isinstance(memory, tf.Tensor) else {}
    return {name: tf.identity(tensor) for name, tensor in {**found, **kept}.items()}


def _value(learner: Learner, state: TrainState, seen: _Seen) -> tf.Tensor:
    """V(o); of a critic of actions sum_a pi(a|o) Q(o, a), or Q(o, a) of the greedy action where actions cannot be counted. [B]."""
    o = perceive(learner, state, seen.observation)
    if learner.policy.memory:
        return learner.targets.invert(state.targets, learner.value.apply(state.value, tf.concat([o, seen.memory], axis=-1), None))
    p = learner.policy.parameters(state.policy, o)
    if learner.value.every is None:
        return learner.targets.invert(state.targets, learner.value.apply(state.value, o, learner.policy.mode(p)))
    return tf.reduce_sum(tf.nn.softmax(p["logits"]) * learner.targets.invert(state.targets, learner.value.every(state.value, o)), axis=-1)


def _log_prob(policy: Policy, p: Tensors, action: tf.Tensor) -> tf.Tensor:
    """log pi(a|o) [B]. Of counted actions without the operator for it that TensorFlow has and other runtimes do not."""
    if "logits" not in p:
        return policy.distribution(p).log_prob(action)
    chosen = tf.one_hot(action, p["logits"].shape[-1], dtype=p["logits"].dtype)
    each = tf.reduce_sum(chosen * tf.nn.log_softmax(p["logits"]), axis=-1)
    return each if each.shape.rank == 1 else tf.reduce_sum(each, axis=-1)


def make(learner: Learner, state: TrainState, spaces: Spaces, checked: bool = True) -> dict[str, Signature]:
    """Each use of a policy, by name.

    Args: checked: whether inputs are looked at, which takes operations that other runtimes than TensorFlow do not have.
    """
    policy = learner.policy
    inputs, see = _eyes(learner, spaces, checked)
    acting, judging = _constants((state.policy, state.observations)), _constants((state.value, state.targets))

    def frozen() -> TrainState:
        parameters, observations = acting()
        return state._replace(policy=parameters, observations=observations)

    law = policy.noise([1], tf.zeros([2], tf.int32))

    @functools.partial(tf.function, autograph=False)
    def choose(observation: tf.Tensor, memory: Nest) -> tuple[Tensors, Nest]:
        """One graph for all uses, so that the parameters are stored once."""
        return act(learner, frozen(), observation, memory)

    def look(given: Tensors) -> tuple[Tensors, Nest]:
        return choose(*see(given))

    def serving_default(**given: tf.Tensor) -> Tensors:
        p, memory = look(given)
        return _answer(memory, action=policy.to_env(policy.mode(p)))

    def distribution(**given: tf.Tensor) -> Tensors:
        p, memory = look(given)
        return _answer(memory, **p)

    def noise(noise: tf.Tensor, **given: tf.Tensor) -> Tensors:
        noise = tf.ensure_shape(noise, [None, *law.shape[1:]])
        p, memory = look(given)
        if checked:
            noise = _with_rows(_within("noise", noise, None), given, "each row of observation needs its noise")
        action = policy.act(p, noise)
        return _answer(memory, action=policy.to_env(action), log_prob=_log_prob(policy, p, action))

    def sample(seed: tf.Tensor, **given: tf.Tensor) -> Tensors:
        seed = _with_rows(tf.ensure_shape(seed, [None, 2]), given, "each row of observation needs a seed")
        p, memory = look(given)
        drawn = tf.map_fn(lambda s: policy.noise([1], s)[0], seed, fn_output_signature=tf.TensorSpec(law.shape[1:], law.dtype))
        return _answer(memory, action=policy.to_env(policy.act(p, drawn)))

    def value(**given: tf.Tensor) -> Tensors:
        phi, targets = judging()
        return _answer((), value=_value(learner, frozen()._replace(value=phi, targets=targets), see(given)))

    made = {
        "serving_default": Signature(inputs, serving_default),
        "sample": Signature({**inputs, "seed": tf.TensorSpec([None, 2], tf.int32, "seed")}, sample),
        "noise": Signature({**inputs, "noise": tf.TensorSpec([None, *law.shape[1:]], law.dtype, "noise")}, noise),
        "distribution": Signature(inputs, distribution),
    }
    return {**made, "value": Signature(inputs, value)} if tf.nest.flatten(state.value) else made


def traced(signature: Signature) -> tf.types.experimental.ConcreteFunction:
    """A signature as a graph."""
    return tf.function(signature.call, autograph=False).get_concrete_function(**signature.inputs)


def examples(state: TrainState, spaces: Spaces, inputs: dict[str, tf.TensorSpec], rows: int = 7) -> dict[str, np.ndarray]:
    """Inputs that a policy takes, always the same ones: observations near those it has seen, zeros and ones for codes, and noise."""
    draw, parts = np.random.default_rng(0), {part.name: part for part in spaces.parts}

    def one(name: str, spec: tf.TensorSpec) -> np.ndarray:
        shape, dtype, part = (rows, *spec.shape[1:]), spec.dtype.as_numpy_dtype, parts.get(name)
        if name == "seed":
            return draw.integers(0, 2**31 - 1, shape).astype(dtype)
        if part is not None and part.kind != "box":
            values = draw.integers(0, np.reshape(part.sizes, part.shape) if part.sizes else 2, shape)
            return (values + (np.reshape(part.starts, part.shape) if part.starts else 0)).astype(dtype)
        if name == "observation" and spaces.pixels:
            return draw.integers(0, 256, shape).astype(dtype)
        if name == "observation" and hasattr(state.observations, "mean"):
            mean, variance = map(np.asarray, (state.observations.mean, state.observations.variance))
            return (mean + np.sqrt(variance) * draw.standard_normal(shape)).astype(dtype)
        if spec.dtype.is_floating and name != "observation":
            return draw.standard_normal(shape).astype(dtype)
        return draw.integers(0, 2, shape).astype(dtype)

    return {name: one(name, spec) for name, spec in inputs.items()}
