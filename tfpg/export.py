"""Export: the policy as a SavedModel of tensors, in the directory layout that TensorFlow Serving expects.

    serving_default  observation [B, *shape]                -> action, the greedy one
    sample           observation [B, *shape], seed [B, 2]   -> action; a row depends on its own seed only
    distribution     observation [B, *shape]                -> the parameters of the action distribution

Observations are the environment's own, normalisation is inside; actions are in the environment's own units. An observation of several
parts (Dict, Tuple) or of whole numbers (Discrete and the like) comes as one input for each part, in the environment's own types. A
recurrent policy also takes `memory` [B, H], zeros at the start of an episode, and gives it back for the next step. Nothing in the file
needs tfpg or TFP to load, and nothing in it is compiled ahead, since a compiled signature would compile anew for each batch size.
Parameters and statistics are constants of the graph: there is nothing to restore, and what depends on them alone is computed once, at
loading.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tfpg.encoding import encode
from tfpg.errors import RunFault
from tfpg.files import commit, numbered
from tfpg.learner import Learner, act
from tfpg.types import Spaces, TrainState

Tensors = dict[str, tf.Tensor]


class Actor(tf.Module):
    """A trained policy: its uses as functions of tensors, with its parameters and statistics in them."""

    def __init__(self, learner: Learner, state: TrainState, spaces: Spaces) -> None:
        super().__init__()
        used = (state.policy, state.observations)
        leaves = [leaf.numpy() for leaf in tf.nest.flatten(used)]
        seed = tf.TensorSpec([None, 2], tf.int32, "seed")
        inputs = observation_inputs(spaces)
        if learner.policy.memory:
            inputs["memory"] = tf.TensorSpec([None, learner.policy.memory], tf.float32, "memory")

        def now() -> TrainState:
            policy, observations = tf.nest.pack_sequence_as(used, [tf.constant(leaf) for leaf in leaves])
            return state._replace(policy=policy, observations=observations)

        look = _look(learner, now, inputs, spaces)
        self.uses = {
            "serving_default": tf.function(_greedy(learner, look), autograph=False).get_concrete_function(**inputs),
            "sample": tf.function(_sample(learner, look), autograph=False).get_concrete_function(**inputs, seed=seed),
            "distribution": tf.function(lambda **given: look(given), autograph=False).get_concrete_function(**inputs),
        }


def observation_inputs(spaces: Spaces) -> dict[str, tf.TensorSpec]:
    """The inputs that carry an observation: one, or one for each of its parts in the environment's own types."""
    if by_parts(spaces):
        return {part.name: tf.TensorSpec([None, *part.shape], tf.as_dtype(part.dtype), part.name) for part in spaces.parts}
    return {"observation": tf.TensorSpec([None, *spaces.observation_shape], tf.float32, "observation")}


def by_parts(spaces: Spaces) -> bool:
    """Whether the observation is made of parts that are encoded in the model; a window of them comes encoded already."""
    return bool(spaces.parts) and len(spaces.observation_shape) == 1


def _look(
    learner: Learner, now: Callable[[], TrainState], inputs: dict[str, tf.TensorSpec], spaces: Spaces
) -> Callable[[dict[str, tf.Tensor]], Tensors]:
    """Inputs -> the action distribution's parameters, with the new memory beside them where there is one."""

    def look(given: dict[str, tf.Tensor]) -> Tensors:
        given = {name: tf.ensure_shape(given[name], spec.shape) for name, spec in inputs.items()}
        memory = given.pop("memory", ())
        observation = encode(spaces.parts, given) if by_parts(spaces) else given["observation"]
        if learner.policy.memory:
            tf.debugging.assert_equal(tf.shape(memory)[0], tf.shape(observation)[0], "each row of observation needs a memory")
        p, after = act(learner, now(), observation, memory)
        found = {name: tf.identity(tensor) for name, tensor in p.items()}
        return {**found, "memory": tf.identity(after)} if learner.policy.memory else found

    return look


def _answer(action: tf.Tensor, found: Tensors) -> Tensors:
    kept = {"memory": found["memory"]} if "memory" in found else {}
    return {"action": tf.identity(action), **kept}


def _greedy(learner: Learner, look: Callable[[dict[str, tf.Tensor]], Tensors]) -> Callable[..., Tensors]:
    def serving_default(**given: tf.Tensor) -> Tensors:
        found = look(given)
        return _answer(learner.policy.to_env(learner.policy.mode(found)), found)

    return serving_default


def _sample(learner: Learner, look: Callable[[dict[str, tf.Tensor]], Tensors]) -> Callable[..., Tensors]:
    policy = learner.policy

    def sample(seed: tf.Tensor, **given: tf.Tensor) -> Tensors:
        seed = tf.ensure_shape(seed, [None, 2])
        first = next(iter(given.values()))
        tf.debugging.assert_equal(tf.shape(seed)[0], tf.shape(first)[0], "each row of observation needs a seed")
        found = look(given)
        like = policy.noise([1], tf.zeros([2], tf.int32))
        noise = tf.map_fn(lambda s: policy.noise([1], s)[0], seed, fn_output_signature=tf.TensorSpec(like.shape[1:], like.dtype))
        return _answer(policy.to_env(policy.act(found, noise)), found)

    return sample


def export(directory: Path, learner: Learner, state: TrainState, spaces: Spaces) -> Path:
    """Publishes the policy as `directory/<n>`, n one more than the largest there, by a rename. Returns its path.

    Raises: RunFault, naming the path, if the disk does not take it.
    """
    versions = [int(path.name) for path in numbered(directory)]
    final = directory / str(max(versions, default=0) + 1)
    temporary = directory / f"{final.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        directory.mkdir(parents=True, exist_ok=True)
        actor = Actor(learner, state, spaces)
        tf.saved_model.save(actor, str(temporary), dict(actor.uses))
        commit(temporary, final)
    except (tf.errors.OpError, OSError) as error:
        raise RunFault(f"{final} cannot be written: {error}") from error
    return final
