"""Export: the policy as a SavedModel of tensors, in the directory layout that TensorFlow Serving expects.

    serving_default  observation [B, *shape]                -> action, the greedy one
    sample           observation [B, *shape], seed [B, 2]   -> action; a row depends on its own seed only
    distribution     observation [B, *shape]                -> the parameters of the action distribution

Observations are the environment's own, normalisation is inside; actions are in the environment's own units. Nothing in the file needs
tfpg or TFP to load, and nothing in it is compiled ahead, since a compiled signature would compile anew for each batch size.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from tfpg.errors import RunFault
from tfpg.evaluate import greedy
from tfpg.files import commit, numbered
from tfpg.types import Nest, Spaces, TrainState
from tfpg.update import Learner, perceive

Tensors = dict[str, tf.Tensor]


class Actor(tf.Module):
    """A trained policy: its parameters and statistics as variables, its uses as functions of tensors."""

    def __init__(self, learner: Learner, state: TrainState, spaces: Spaces) -> None:
        super().__init__()
        used = (state.policy, state.observations)
        self.leaves = [tf.Variable(leaf, trainable=False) for leaf in tf.nest.flatten(used)]

        def now() -> TrainState:
            policy, observations = tf.nest.pack_sequence_as(used, [tf.convert_to_tensor(leaf) for leaf in self.leaves])
            return state._replace(policy=policy, observations=observations)

        observation = tf.TensorSpec([None, *spaces.observation_shape], tf.float32, "observation")
        seed = tf.TensorSpec([None, 2], tf.int32, "seed")
        self.uses = {
            "serving_default": tf.function(_greedy(learner, now, observation.shape), [observation]),
            "sample": tf.function(_sample(learner, now, observation.shape), [observation, seed]),
            "distribution": tf.function(_distribution(learner, now, observation.shape), [observation]),
        }


def _greedy(learner: Learner, now: Callable[[], TrainState], shape: tf.TensorShape) -> Callable[..., Tensors]:
    def serving_default(observation: tf.Tensor) -> Tensors:
        observation = tf.ensure_shape(observation, shape)
        return {"action": tf.identity(greedy(learner, now(), observation))}

    return serving_default


def _sample(learner: Learner, now: Callable[[], TrainState], shape: tf.TensorShape) -> Callable[..., Tensors]:
    policy = learner.policy

    def sample(observation: tf.Tensor, seed: tf.Tensor) -> Tensors:
        observation, seed = tf.ensure_shape(observation, shape), tf.ensure_shape(seed, [None, 2])
        tf.debugging.assert_equal(tf.shape(seed)[0], tf.shape(observation)[0], "each row of observation needs a seed")
        state = now()
        p = policy.parameters(state.policy, perceive(learner, state, observation))
        like = policy.noise([1], tf.zeros([2], tf.int32))
        noise = tf.map_fn(lambda s: policy.noise([1], s)[0], seed, fn_output_signature=tf.TensorSpec(like.shape[1:], like.dtype))
        return {"action": tf.identity(policy.to_env(policy.act(p, noise)))}

    return sample


def _distribution(learner: Learner, now: Callable[[], TrainState], shape: tf.TensorShape) -> Callable[..., Tensors]:
    def distribution(observation: tf.Tensor) -> Tensors:
        observation = tf.ensure_shape(observation, shape)
        state = now()
        parameters: Nest = learner.policy.parameters(state.policy, perceive(learner, state, observation))
        return {name: tf.identity(tensor) for name, tensor in parameters.items()}

    return distribution


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
