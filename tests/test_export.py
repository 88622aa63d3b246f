"""The exported policy loads without tfpg and TFP, and acts as the policy that was trained, to the bit."""

import subprocess
import sys
import textwrap

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tfpg import build, evaluate, export
from tfpg.config import configured
from tfpg.envs import gym, spaces, window
from tfpg.learner import initial_state, no_memory, perceive
from tfpg.types import Spaces

SPACES = {
    "discrete": Spaces((3,), actions=4, action_start=2),
    "real": Spaces((3,), action_low=(-2.0, 0.0, -np.inf), action_high=(2.0, 5.0, np.inf)),
    "grid": Spaces((2, 3), actions=3),
    "several": Spaces((3,), choices=(2, 4, 3), choice_starts=(0, -1, 5)),
    "bits": Spaces((3,), choices=(2, 2, 2, 2), choice_starts=(0,) * 4, action_shape=(2, 2)),
}


def trained(taken, network="mlp", algo="npg"):
    """A learner and a state with statistics and parameters away from their start."""
    spaces = SPACES[taken] if isinstance(taken, str) else taken
    learner = build.make_learner(configured(algo=algo, hidden="8", network=network), spaces)
    state = initial_state(learner, tf.constant([3, 1]))
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
    wanted = tf.function(lambda o: evaluate.greedy(learner, state, o)[0])(x)
    action = loaded.signatures["serving_default"](observation=tf.constant(x))["action"]
    np.testing.assert_array_equal(action, wanted)
    assert action.dtype == wanted.dtype
    assert len(np.unique(action.numpy(), axis=0)) > 1
    for i in range(len(x)):
        one = loaded.signatures["serving_default"](observation=tf.constant(x[i : i + 1]))["action"]
        np.testing.assert_allclose(one[0], action[i], rtol=1e-6, atol=1e-6)  # a product of one row sums in another order


def test_distribution_gives_its_parameters(exported):
    kind, path, learner, state = exported
    x = observations(kind)
    found = tf.saved_model.load(str(path)).signatures["distribution"](observation=tf.constant(x))
    wanted = tf.function(lambda o: learner.policy.parameters(state.policy, perceive(learner, state, o)))(x)
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


def test_a_row_s_sample_depends_on_its_own_observation_and_seed(exported):
    kind, path, learner, state = exported
    sample, x = tf.saved_model.load(str(path)).signatures["sample"], observations(kind, 40)
    seed = np.stack([np.arange(40), np.full(40, 7)], axis=1).astype(np.int32)
    action = sample(observation=tf.constant(x), seed=tf.constant(seed))["action"].numpy()
    p = learner.policy.parameters(state.policy, perceive(learner, state, tf.constant(x)))
    noise = tf.stack([learner.policy.noise([1], s)[0] for s in seed])
    np.testing.assert_allclose(action, learner.policy.to_env(learner.policy.act(p, noise)), rtol=1e-5, atol=1e-6)
    assert action.shape[1:] == {"bits": (2, 2), "several": (3,), "real": (3,)}.get(kind, ())
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
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), tf.function(lambda o: evaluate.greedy(learner, state, o)[0])(x))


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
    np.testing.assert_array_equal(np.load(tmp_path / "action.npy"), evaluate.greedy(learner, state, tf.constant(x))[0])


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
    np.testing.assert_array_equal(action, tf.function(lambda o: evaluate.greedy(learner, state, o)[0])(x))


def observed(space, n):
    """n samples of a space, one array for each leaf: {name of the part: [n, *shape]}, and the same as the vector that networks see."""
    space.seed(4)
    samples = [space.sample() for _ in range(n)]
    parts = spaces.parts_of(space)
    given = {part.name: np.stack([np.asarray(spaces.pick(part, x), part.dtype) for x in samples]) for part in parts}
    return given, np.stack([gymnasium.spaces.flatten(space, x) for x in samples]).astype(np.float32)


G = gymnasium.spaces
NESTED = {
    "dict": G.Dict(
        {"place": G.Box(-1, 1, (2, 2)), "kind": G.Discrete(3, start=2), "deep": G.Tuple((G.MultiBinary(3), G.MultiDiscrete([2, 3])))}
    ),
    "tuple": G.Tuple((G.Discrete(4), G.Box(-5, 5, (3,), np.float64))),
    "discrete": G.Discrete(5, start=1),
    "multi_discrete": G.MultiDiscrete([[2, 3], [4, 2]]),
    "multi_binary": G.MultiBinary((2, 2)),
}


class Nested(gymnasium.Env):
    """Any space, seen at random for eight steps."""

    def __init__(self, kind="dict", action_space=None):
        self.observation_space, self.action_space = NESTED[kind], action_space or G.MultiDiscrete([2, 3])

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps >= 8, False, {}


gymnasium.register("tfpg-tests/Nested-v0", Nested)


@pytest.mark.parametrize("kind", NESTED)
def test_nested_observations_go_in_part_by_part_in_the_environment_s_own_types(kind, tmp_path):
    taken = spaces.spaces_of("x", NESTED[kind], G.MultiDiscrete([2, 3], start=[1, 0]))
    learner, state = trained(taken)
    state = state._replace(observations=learner.observations.init(), policy=tf.nest.map_structure(lambda x: 3 * x, state.policy))
    signatures = tf.saved_model.load(str(export.export(tmp_path, learner, state, taken))).signatures
    signature = signatures["serving_default"]
    given, vector = observed(NESTED[kind], 12)
    specs = signature.structured_input_signature[1]
    assert {name: (spec.dtype.name, tuple(spec.shape[1:])) for name, spec in specs.items()} == {
        name: (x.dtype.name, x.shape[1:]) for name, x in given.items()
    }
    action = signature(**{name: tf.constant(x) for name, x in given.items()})["action"]
    wanted = tf.function(lambda o: evaluate.greedy(learner, state, o)[0])(vector)
    np.testing.assert_array_equal(action, wanted)
    assert action.shape == [12, 2]
    assert len(np.unique(action.numpy(), axis=0)) > 1
    told = signatures["distribution"](**{name: tf.constant(x) for name, x in given.items()})["logits"]
    np.testing.assert_allclose(told, learner.policy.parameters(state.policy, tf.constant(vector))["logits"], rtol=1e-5, atol=1e-5)


def test_an_environment_s_own_observations_are_what_its_policy_takes(tmp_path):
    """From gymnasium itself: what the program acted on, and what the exported policy says of the raw observation."""
    environment = gym.ENGINES["sync"]("tfpg-tests/Nested-v0", 1, 3)
    learner, state = trained(environment.spaces)
    policy = tf.saved_model.load(str(export.export(tmp_path, learner, state, environment.spaces))).signatures["serving_default"]
    plain = gymnasium.make("tfpg-tests/Nested-v0")
    raw, _ = plain.reset(seed=3)
    seen = environment.reset()
    for _ in range(7):
        wanted = evaluate.greedy(learner, state, tf.constant(seen))[0].numpy()
        given = {part.name: tf.constant(np.asarray(spaces.pick(part, raw), part.dtype)[None]) for part in environment.spaces.parts}
        action = policy(**given)["action"].numpy()
        np.testing.assert_array_equal(action, wanted)
        seen = environment.step(action).observation
        raw = plain.step(action[0].astype(np.int64))[0]
    environment.close()


def test_a_window_of_nested_observations_comes_encoded(tmp_path):
    environment = window.windowed(gym.ENGINES["sync"]("tfpg-tests/Nested-v0", 2, 3), 3)
    learner, state = trained(environment.spaces)
    policy = tf.saved_model.load(str(export.export(tmp_path, learner, state, environment.spaces))).signatures["serving_default"]
    seen = environment.reset()
    np.testing.assert_array_equal(policy(observation=tf.constant(seen))["action"], evaluate.greedy(learner, state, tf.constant(seen))[0])
    environment.close()


def remembering(kind, tmp_path):
    learner, state = trained(kind, "gru", "a2c")
    return learner, state, tf.saved_model.load(str(export.export(tmp_path, learner, state, SPACES[kind]))).signatures


@pytest.mark.parametrize("kind", ["discrete", "real", "grid"])
def test_a_recurrent_policy_takes_its_memory_and_gives_it_back(kind, tmp_path):
    """Step by step over an episode, and with the sampled actions as well."""
    learner, state, signatures = remembering(kind, tmp_path)
    greedy = tf.function(lambda o, m: evaluate.greedy(learner, state, o, m))
    mine = theirs = drawn = no_memory(learner.policy, 5)
    seed = tf.constant(np.stack([np.arange(5), np.full(5, 7)], 1), tf.int32)
    for k in range(6):
        x = tf.constant(np.random.default_rng(k).normal(3, 2, [5, *SPACES[kind].observation_shape]).astype(np.float32))
        action, mine = greedy(x, mine)
        found = signatures["serving_default"](observation=x, memory=theirs)
        assert set(found) == {"action", "memory"}
        theirs = found["memory"]
        np.testing.assert_allclose(found["action"], action, rtol=1e-6)
        np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-6)
        sampled = signatures["sample"](observation=x, memory=drawn, seed=seed)
        drawn = sampled["memory"]
        np.testing.assert_allclose(drawn, mine, rtol=1e-5, atol=1e-6)
        told = signatures["distribution"](observation=x, memory=theirs)
        np.testing.assert_allclose(told["memory"], greedy(x, theirs)[1], rtol=1e-5, atol=1e-6)
    assert np.abs(mine).max() > 0.1
    other = signatures["serving_default"](observation=x, memory=tf.zeros_like(mine))["memory"]
    assert np.abs(other - mine).max() > 1e-2


@pytest.mark.parametrize("rows", [1, 4])
def test_each_row_needs_a_memory(rows, tmp_path):
    _, _, signatures = remembering("discrete", tmp_path)
    x, seed = tf.constant(observations("discrete", 5)), tf.zeros([5, 2], tf.int32)
    for name, more in (("serving_default", {}), ("distribution", {}), ("sample", {"seed": seed})):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures[name](observation=x, memory=tf.zeros([rows, 8]), **more)


def test_an_empty_batch_of_a_recurrent_policy_works(tmp_path):
    _, _, signatures = remembering("discrete", tmp_path)
    assert signatures["serving_default"](observation=tf.zeros([0, 3]), memory=tf.zeros([0, 8]))["action"].shape[0] == 0
