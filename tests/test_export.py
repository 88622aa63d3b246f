"""The exported policy loads without tfpg and TFP, and acts as the policy that was trained, to the bit."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from tfpg import build, evaluate, export, update
from tfpg.config import Config
from tfpg.types import Spaces

SPACES = {
    "discrete": Spaces((3,), actions=4, action_start=2),
    "real": Spaces((3,), action_low=(-2.0, 0.0, -np.inf), action_high=(2.0, 5.0, np.inf)),
    "grid": Spaces((2, 3), actions=3),
}


def trained(kind, network="mlp"):
    """A learner and a state with statistics and parameters away from their start."""
    spaces = SPACES[kind]
    learner = build.make_learner(Config(hidden="8", network=network), spaces)
    state = update.initial_state(learner, tf.constant([3, 1]))
    policy = tf.nest.map_structure(lambda x: x + 0.3 * tf.random.stateless_normal(x.shape, [1, 2]), state.policy)
    samples = tf.random.stateless_normal([50, 4, *spaces.observation_shape], [5, 6], 3.0, 2.0)
    return learner, state._replace(
        policy=policy, observations=learner.observations.update(state.observations, samples, tf.ones([50, 4], bool))
    )


def observations(kind, n=9):
    return np.random.default_rng(1).normal(3.0, 2.0, [n, *SPACES[kind].observation_shape]).astype(np.float32)


@pytest.fixture(scope="module", params=SPACES)
def exported(request, tmp_path_factory):
    learner, state = trained(request.param)
    path = export.export(tmp_path_factory.mktemp("policy"), learner, state, SPACES[request.param])
    return request.param, path, learner, state


def test_actions_are_those_of_the_training_time_policy_to_the_bit(exported):
    kind, path, learner, state = exported
    loaded, x = tf.saved_model.load(str(path)), observations(kind)
    wanted = tf.function(lambda o: evaluate.greedy(learner, state, o))(x)
    action = loaded.signatures["serving_default"](observation=tf.constant(x))["action"]
    np.testing.assert_array_equal(action, wanted)
    assert action.dtype == wanted.dtype
    assert len(np.unique(action.numpy(), axis=0)) > 1
    for i in range(len(x)):
        one = loaded.signatures["serving_default"](observation=tf.constant(x[i : i + 1]))["action"]
        np.testing.assert_allclose(one[0], action[i], rtol=1e-6)


def test_distribution_gives_its_parameters(exported):
    kind, path, learner, state = exported
    x = observations(kind)
    found = tf.saved_model.load(str(path)).signatures["distribution"](observation=tf.constant(x))
    wanted = tf.function(lambda o: learner.policy.parameters(state.policy, update.perceive(learner, state, o)))(x)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_a_row_s_sample_depends_on_its_own_observation_and_seed(exported):
    kind, path, learner, state = exported
    sample, x = tf.saved_model.load(str(path)).signatures["sample"], observations(kind, 40)
    seed = np.stack([np.arange(40), np.full(40, 7)], axis=1).astype(np.int32)
    action = sample(observation=tf.constant(x), seed=tf.constant(seed))["action"].numpy()
    p = learner.policy.parameters(state.policy, update.perceive(learner, state, tf.constant(x)))
    noise = tf.stack([learner.policy.noise([1], s)[0] for s in seed])
    np.testing.assert_allclose(action, learner.policy.to_env(learner.policy.act(p, noise)), rtol=1e-5, atol=1e-6)
    back = slice(None, None, -1)
    np.testing.assert_allclose(sample(observation=tf.constant(x[back]), seed=tf.constant(seed[back]))["action"][back], action, rtol=1e-6)
    other = sample(observation=tf.constant(x), seed=tf.constant(seed + 1))["action"].numpy()
    assert (other != action).any()
    same = np.repeat(x[:1], 40, axis=0)
    assert len(np.unique(sample(observation=tf.constant(same), seed=tf.constant(seed))["action"].numpy(), axis=0)) > 1


def test_an_empty_batch_works(exported):
    kind, path, *_ = exported
    loaded, x = tf.saved_model.load(str(path)), tf.zeros([0, *SPACES[kind].observation_shape])
    assert loaded.signatures["serving_default"](observation=x)["action"].shape[0] == 0
    assert loaded.signatures["sample"](observation=x, seed=tf.zeros([0, 2], tf.int32))["action"].shape[0] == 0


def test_another_shape_is_refused_not_broadcast(exported):
    kind, path, *_ = exported
    signature = tf.saved_model.load(str(path)).signatures["serving_default"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        signature(observation=tf.zeros([2, *SPACES[kind].observation_shape[:-1], 1]))


@pytest.mark.parametrize(("rows", "seeds"), [(5, 1), (1, 6)])
def test_each_row_needs_a_seed(exported, rows, seeds):
    kind, path, *_ = exported
    sample = tf.saved_model.load(str(path)).signatures["sample"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        sample(observation=tf.constant(observations(kind, rows)), seed=tf.zeros([seeds, 2], tf.int32))


SCRIPT = """
    import sys

    class Blocked:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("tfpg", "tensorflow_probability", "tf_keras"):
                raise ImportError(name)

    sys.meta_path.insert(0, Blocked())
    import numpy as np, tensorflow as tf
    loaded = tf.saved_model.load(sys.argv[1])
    x = tf.constant(np.load(sys.argv[2]))
    np.save(sys.argv[3], loaded.signatures["serving_default"](observation=x)["action"].numpy())
    assert not {"tfpg", "tensorflow_probability"} & set(sys.modules)
"""


def test_it_loads_where_tfpg_and_tfp_cannot_be_imported(exported, tmp_path):
    kind, path, learner, state = exported
    x = observations(kind)
    np.save(tmp_path / "x.npy", x)
    files = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", textwrap.dedent(SCRIPT), *files], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), tf.function(lambda o: evaluate.greedy(learner, state, o))(x))


def test_saved_model_cli_shows_and_runs_it(tmp_path):
    learner, state = trained("discrete")
    path, x = export.export(tmp_path / "policy", learner, state, SPACES["discrete"]), observations("discrete")
    np.save(tmp_path / "x.npy", x)
    tool = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli"]
    shown = subprocess.run([*tool, "show", "--dir", path, "--all"], check=True, capture_output=True, text=True).stdout
    for text in ("serving_default", "sample", "distribution", "inputs['observation']", "inputs['seed']", "shape: (-1, 3)"):
        assert text in shown
    asked = ["run", "--dir", path, "--tag_set", "serve", "--signature_def", "serving_default", "--outdir", tmp_path]
    subprocess.run([*tool, *asked, "--inputs", f"observation={tmp_path / 'x.npy'}"], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "action.npy"), evaluate.greedy(learner, state, tf.constant(x)))


def test_versions_count_up_and_leave_nothing_half_written(tmp_path):
    learner, state = trained("discrete")
    (tmp_path / "7").mkdir()
    (tmp_path / "8.tmp").mkdir()
    assert export.export(tmp_path, learner, state, SPACES["discrete"]).name == "8"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["7", "8"]


def test_a_keras_policy_exports_too(tmp_path):
    learner, state = trained("real", network="keras")
    path, x = export.export(tmp_path, learner, state, SPACES["real"]), observations("real")
    action = tf.saved_model.load(str(path)).signatures["serving_default"](observation=tf.constant(x))["action"]
    np.testing.assert_array_equal(action, tf.function(lambda o: evaluate.greedy(learner, state, o))(x))
