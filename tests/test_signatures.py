"""What an exported policy answers beside its actions, and what it does not take."""

import json

import numpy as np
import pytest
import tensorflow as tf
from test_export import NESTED, SPACES, G, observations, observed, trained

from tfpg import build, export, signatures
from tfpg.config import configured
from tfpg.envs import spaces
from tfpg.learner import initial_state, perceive


def shipped(path, taken="discrete", network="mlp", algo="npg", about=None):
    learner, state = trained(taken, network, algo)
    made = export.export(path, learner, state, SPACES[taken] if isinstance(taken, str) else taken, about)
    return learner, state, tf.saved_model.load(str(made)).signatures


@pytest.mark.parametrize("kind", SPACES)
def test_noise_gives_the_action_that_the_noise_makes_and_its_log_probability(kind, tmp_path):
    learner, state, loaded = shipped(tmp_path, kind)
    x = observations(kind, 12)
    noise = learner.policy.noise([12], tf.constant([3, 4]))
    found = loaded["noise"](observation=tf.constant(x), noise=noise)
    p = learner.policy.parameters(state.policy, perceive(learner, state, tf.constant(x)))
    action = learner.policy.act(p, noise)
    np.testing.assert_allclose(found["action"], learner.policy.to_env(action), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found["log_prob"], learner.policy.distribution(p).log_prob(action), rtol=1e-5, atol=1e-5)
    assert found["log_prob"].shape == [12]
    assert len(np.unique(found["action"].numpy(), axis=0)) > 1


@pytest.mark.parametrize("rows", [1, 4])
def test_each_row_needs_its_noise(rows, tmp_path):
    learner, _, loaded = shipped(tmp_path)
    with pytest.raises(tf.errors.InvalidArgumentError, match="each row"):
        loaded["noise"](observation=tf.zeros([5, 3]), noise=learner.policy.noise([rows], tf.constant([1, 2])))


def learned(**flags):
    parts = build.setup(configured(hidden="8", **flags))
    state = initial_state(parts.learner, tf.constant([3, 1]))
    seen = tf.random.stateless_normal([40, 5, *parts.spaces.observation_shape], [1, 2], 1.0, 2.0)
    state = state._replace(
        observations=parts.learner.observations.update(state.observations, seen, tf.ones([40, 5], bool)),
        targets=parts.learner.targets.update(state.targets, seen[..., 0] * 7 + 3, tf.ones([40, 5], bool)),
    )
    return parts.learner, state, parts.spaces


def answered(tmp_path, learner, state, taken, **given):
    loaded = tf.saved_model.load(str(export.export(tmp_path, learner, state, taken))).signatures
    return loaded["value"](**{name: tf.constant(x) for name, x in given.items()})["value"].numpy()


def test_value_is_the_critic_s_in_units_of_reward(tmp_path):
    learner, state, taken = learned()
    x = np.random.default_rng(0).normal(1, 2, [6, 4]).astype(np.float32)
    mean, variance, count = (leaf.numpy() for leaf in state.targets)
    raw = learner.value.apply(state.value, perceive(learner, state, tf.constant(x)), None).numpy()
    found = answered(tmp_path, learner, state, taken, observation=x)
    np.testing.assert_allclose(found, mean + np.sqrt(variance + 1e-8) * raw, rtol=1e-5)
    assert count == 200
    assert np.ptp(found) > 0.1


def test_a_critic_of_actions_is_asked_for_the_policy_s_mean(tmp_path):
    learner, state, taken = learned(algo="actor_critic", psi="q", critic="sarsa")
    x = np.random.default_rng(0).normal(1, 2, [6, 4]).astype(np.float32)
    o = perceive(learner, state, tf.constant(x))
    logits = learner.policy.parameters(state.policy, o)["logits"].numpy()
    pi = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mean, variance, _ = (leaf.numpy() for leaf in state.targets)
    q = [mean + np.sqrt(variance + 1e-8) * learner.value.apply(state.value, o, tf.fill([6], a)).numpy() for a in range(2)]
    np.testing.assert_allclose(answered(tmp_path, learner, state, taken, observation=x), pi[:, 0] * q[0] + pi[:, 1] * q[1], rtol=1e-5)


def test_a_critic_of_real_actions_judges_the_greedy_one(tmp_path):
    learner, state, taken = learned(algo="actor_critic", psi="q", critic="sarsa", env="Pendulum-v1")
    x = np.random.default_rng(0).normal(1, 2, [6, 3]).astype(np.float32)
    o = perceive(learner, state, tf.constant(x))
    mean, variance, _ = (leaf.numpy() for leaf in state.targets)
    raw = learner.value.apply(state.value, o, learner.policy.parameters(state.policy, o)["loc"]).numpy()
    np.testing.assert_allclose(
        answered(tmp_path, learner, state, taken, observation=x), mean + np.sqrt(variance + 1e-8) * raw, rtol=1e-5, atol=1e-5
    )


def test_a_recurrent_critic_reads_what_the_policy_remembered_before(tmp_path):
    learner, state, loaded = shipped(tmp_path, "discrete", "gru", "a2c")
    x, memory = tf.constant(observations("discrete", 4)), tf.random.stateless_normal([4, 8], [5, 6])
    o = tf.concat([perceive(learner, state, x), memory], -1)
    wanted = learner.targets.invert(state.targets, learner.value.apply(state.value, o, None))
    np.testing.assert_allclose(loaded["value"](observation=x, memory=memory)["value"], wanted, rtol=1e-5, atol=1e-6)


def test_without_a_critic_there_is_no_value(tmp_path):
    assert "value" not in shipped(tmp_path, algo="reinforce")[2]


def test_metadata_tells_what_was_said_of_the_policy(tmp_path):
    *_, state, loaded = shipped(tmp_path, about={"algo": "npg", "flags": {"seed": "3"}})
    told = json.loads(loaded["metadata"]()["metadata"].numpy())
    assert told == {"format": 1, "algo": "npg", "flags": {"seed": "3"}, "fingerprint": export.fingerprint(state)}
    sheet = json.loads((tmp_path / "1" / export.SHEET).read_text())
    assert told.items() <= sheet.items()
    assert sheet["signatures"]["sample"]["inputs"]["seed"]["shape"] == [None, 2]
    assert sheet["files"] == export.digests(tmp_path / "1")


def test_a_fingerprint_is_of_what_decides_the_actions():
    _, state = trained("discrete")
    _, same = trained("discrete")
    assert export.fingerprint(state) == export.fingerprint(same)
    assert export.fingerprint(state) == export.fingerprint(state._replace(value=()))
    for other in (
        state._replace(observations=state.observations._replace(mean=state.observations.mean + 1e-6)),
        state._replace(policy=tf.nest.map_structure(lambda x: x + 1e-6, state.policy)),
    ):
        assert export.fingerprint(state) != export.fingerprint(other)


USES = ("serving_default", "distribution", "sample", "noise", "value")


def complete(loaded, name, learner, n=3, **given):
    more = {"seed": tf.zeros([n, 2], tf.int32)} if name == "sample" else {}
    more |= {"noise": learner.policy.noise([n], tf.constant([1, 2]))} if name == "noise" else {}
    return loaded[name](**given, **more)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad, tmp_path):
    learner, _, loaded = shipped(tmp_path)
    x = np.zeros([3, 3], np.float32)
    x[1, 2] = bad
    for name in USES:
        with pytest.raises(tf.errors.InvalidArgumentError, match="observation must be finite"):
            complete(loaded, name, learner, observation=tf.constant(x))
    noise = learner.policy.noise([3], tf.constant([1, 2])).numpy()
    noise[0, 0] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match="noise must be finite"):
        loaded["noise"](observation=tf.zeros([3, 3]), noise=tf.constant(noise))


def test_memory_must_be_finite_too(tmp_path):
    learner, _, loaded = shipped(tmp_path, "discrete", "gru", "a2c")
    for name in USES:
        with pytest.raises(tf.errors.InvalidArgumentError, match="memory must be finite"):
            complete(loaded, name, learner, observation=tf.zeros([3, 3]), memory=tf.fill([3, 8], float("nan")))


@pytest.mark.parametrize("kind", ["discrete", "multi_discrete", "multi_binary", "dict"])
@pytest.mark.parametrize("by", [-100, 100])
def test_values_outside_their_space_are_refused(kind, by, tmp_path):
    taken = spaces.spaces_of("x", NESTED[kind], G.MultiDiscrete([2, 3]))
    learner, state = trained(taken)
    loaded = tf.saved_model.load(str(export.export(tmp_path, learner, state, taken))).signatures
    given, _ = observed(NESTED[kind], 3)
    whole = [name for name, x in given.items() if x.dtype.kind in "iu"]
    assert whole
    for name in whole:
        x = given[name].copy()
        x.flat[-1] = x.flat[-1] + by
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{name} holds a value outside its space"):
            loaded["serving_default"](**{**{k: tf.constant(v) for k, v in given.items()}, name: tf.constant(x)})


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("shape", [(3, 1), (3, 4), (3,), (3, 3, 1), ()])
def test_every_use_refuses_another_shape(use, shape, tmp_path):
    learner, _, loaded = shipped(tmp_path)
    with pytest.raises((tf.errors.InvalidArgumentError, TypeError, ValueError)):
        complete(loaded, use, learner, observation=tf.zeros(shape))


@pytest.mark.parametrize("network", ["mlp", "gru"])
def test_every_use_takes_no_rows(network, tmp_path):
    learner, _, loaded = shipped(tmp_path, "real", network, "a2c")
    memory = {"memory": tf.zeros([0, 8])} if network == "gru" else {}
    for name in USES:
        for tensor in complete(loaded, name, learner, 0, observation=tf.zeros([0, 3]), **memory).values():
            assert tensor.shape[0] == 0


def test_parameters_are_stored_once(tmp_path):
    """Five uses of one network of 200 x 200 weights."""
    taken = SPACES["real"]
    learner = build.make_learner(configured(hidden="200,200", algo="reinforce"), taken)
    path = export.export(tmp_path, learner, initial_state(learner, tf.constant([1, 2])), taken)
    assert (path / "saved_model.pb").stat().st_size < 1.5 * 4 * 200 * 200


@pytest.mark.parametrize("kind", [*SPACES, *NESTED])
def test_examples_are_inputs_that_a_policy_takes_always_the_same(kind):
    taken = SPACES[kind] if kind in SPACES else spaces.spaces_of("x", NESTED[kind], G.Discrete(2))
    learner, state = trained(taken)
    for signature in signatures.make(learner, state, taken).values():
        first, again = (signatures.examples(state, taken, signature.inputs) for _ in range(2))
        assert {name: (x.dtype, x.shape[1:]) for name, x in first.items()} == {
            name: (spec.dtype.as_numpy_dtype, tuple(spec.shape[1:])) for name, spec in signature.inputs.items()
        }
        for name, x in first.items():
            np.testing.assert_array_equal(x, again[name])
        for tensor in signatures.traced(signature)(**{name: tf.constant(x) for name, x in first.items()}).values():
            assert len(tensor) == len(next(iter(first.values())))
