"""Demonstrations: the file, who may be learned from, what is learned, and that no environment is stepped for it."""

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
import two_policies as world
from laws import finite_difference
from learners import assessed
from program import call

import run
from tfpg import (
    build,
    config,
    demonstrations,
    improve,
    metrics,
    minibatches,
    normalizers,
    off_policy,
    optimizers,
    problem,
    train,
    update,
    workdir,
)
from tfpg.errors import UsageError
from tfpg.learner import initial_state
from tfpg.types import Spaces, Trajectory

PAGE = Path(run.__file__).parent / "docs" / "demonstrations.md"
SEED, FULL = tf.constant([3, 5]), tf.constant(1.0)
ENV = "Imagined-v0"
LENGTHS = np.array([4, 2, 5])
MASK = np.arange(6)[:, None] < LENGTHS
LAST = np.arange(6)[:, None] == LENGTHS - 1
COUNTED = Spaces((2,), actions=3, action_start=-1)
SEVERAL = Spaces((2,), choices=(2, 3), choice_starts=(0, 4))
REAL = Spaces((2,), action_low=(-2.0, 1.0, 0.0), action_high=(2.0, 7.0, np.inf))


def some_file(rng, spaces=COUNTED, mask=MASK, last=LAST):
    """Arrays of a sound file, whose padding is sound in nothing."""
    shape = mask.shape
    log_prob = np.log(rng.uniform(0.2, 0.9, [2, *shape]))
    if spaces.action_low:
        action = rng.normal(2, 3, [*shape, 3])
    else:
        first, count = np.array(spaces.choice_starts or -1), np.array(spaces.choices or 3)
        action = first + rng.integers(0, count, [*shape, *count.shape])
    odd = rng.random(shape) < 0.5
    observation, following = rng.normal(size=[2, *shape, 2])
    arrays = {
        "format": np.array(1), "env": np.array(ENV), "observation": observation, "action": action,
        "reward": rng.normal(size=shape), "next_observation": following, "terminated": last & ~odd, "truncated": last & odd | ~mask,
        "mask": mask, "log_prob": log_prob,
    }  # fmt: skip
    for name in ("observation", "next_observation", "reward"):
        arrays[name][~mask] = np.nan
    arrays["action"][~mask], arrays["log_prob"][:, ~mask] = 99, 99
    return arrays


def save(path, arrays):
    np.savez(path, **arrays)
    return str(path)


def refusal(name, spaces=COUNTED, env=ENV):
    with pytest.raises(UsageError) as error:
        demonstrations.read(name, env, spaces)
    text = str(error.value)
    assert text.startswith(f"--demonstrations={name} ")
    assert text.endswith(".")
    assert "\n" not in text
    return text


def mixture(log_prob_jt, t, i):
    """log of the mean over behaviours of the product over the first t + 1 steps."""
    return np.log(np.mean(np.exp(log_prob_jt[:, : t + 1, i].sum(axis=1))))


def test_what_is_read_is_what_stands_in_the_file(tmp_path, rng):
    arrays = some_file(rng)
    t = demonstrations.read(save(tmp_path / "a.npz", arrays), ENV, COUNTED)
    for name in ("observation", "reward", "next_observation", "terminated", "truncated"):
        found = getattr(t, name).numpy()
        np.testing.assert_array_equal(found[MASK], arrays[name].astype(found.dtype)[MASK])
        assert not found[~MASK].any()
    np.testing.assert_array_equal(t.action.numpy(), np.where(MASK, arrays["action"] + 1, 0))
    np.testing.assert_array_equal(t.mask, MASK)
    np.testing.assert_array_equal(t.age.numpy()[MASK], np.broadcast_to(np.arange(6)[:, None], MASK.shape)[MASK])
    summed = np.cumsum(t.log_prob, axis=0)
    for step, i in np.argwhere(MASK):
        assert summed[step, i] == pytest.approx(mixture(arrays["log_prob"], step, i), abs=1e-5)
    of_steps = np.cumsum(np.log(np.exp(arrays["log_prob"]).mean(axis=0)), axis=0)
    assert np.abs(summed - of_steps)[MASK].max() > 0.05


@pytest.mark.parametrize("spaces", [COUNTED, SEVERAL, REAL], ids=["counted", "several", "real"])
def test_a_file_comes_back_as_it_was_written(spaces, tmp_path, rng):
    """Of one behaviour, so that the mixture is that behaviour; the steps that no episode has are not written."""
    arrays = some_file(rng, spaces)
    arrays["log_prob"] = arrays["log_prob"][:1]
    first = demonstrations.read(save(tmp_path / "a.npz", arrays), ENV, spaces)
    demonstrations.write(tmp_path / "b.npz", ENV, spaces, first, first.log_prob.numpy()[None])
    again = demonstrations.read(str(tmp_path / "b.npz"), ENV, spaces)
    assert again.mask.shape == (5, 3)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a[:5], b, rtol=1e-6, atol=1e-6), first, again)
    with np.load(tmp_path / "b.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["action"][MASK[:5]], arrays["action"][MASK], rtol=1e-6)
        np.testing.assert_allclose(file["log_prob"][0][MASK[:5]], arrays["log_prob"][0][MASK], rtol=1e-5)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a.npz", "b.npz"]


def test_real_actions_and_densities_are_in_the_environment_s_units(tmp_path, rng):
    """A Gaussian of the policy, mean m and deviation s, is one of mean middle + half m and deviation half s to the environment."""
    spaces = Spaces((2,), action_low=(-2.0, 1.0), action_high=(4.0, 2.0))
    middle, half = np.array([1.0, 1.5]), np.array([3.0, 0.5])
    policy = build.make_policy(config.Config(hidden=""), spaces)
    theta = policy.init(SEED)
    theta["log_std"] = tf.constant([-0.4, 0.3])
    seen = rng.normal(size=[*MASK.shape, 2])
    p = policy.parameters(theta, tf.constant(seen, tf.float32))
    m, s = p["loc"].numpy(), np.exp([-0.4, 0.3])
    drawn = m + s * rng.normal(size=m.shape)
    outside = middle + half * drawn
    z = (outside - (middle + half * m)) / (half * s)
    density = (-0.5 * z**2 - np.log(half * s) - 0.5 * np.log(2 * np.pi)).sum(axis=-1)
    arrays = {**some_file(rng, REAL), "action": outside, "log_prob": density[None]}
    t = demonstrations.read(save(tmp_path / "a.npz", arrays), ENV, spaces)
    np.testing.assert_allclose(t.action.numpy()[MASK], drawn[MASK], atol=1e-5)
    np.testing.assert_allclose(t.log_prob.numpy()[MASK], policy.distribution(p).log_prob(t.action).numpy()[MASK], atol=1e-4)


def changed(name, value, at=None):
    """A mistake: an array that is another one, or has one other entry."""

    def mistake(arrays):
        if at is None:
            arrays[name] = value(arrays[name]) if callable(value) else value
        else:
            arrays[name] = np.array(arrays[name])
            arrays[name][at] = value

    return mistake


def deterministic(arrays):
    arrays["log_prob"] = np.where(np.arange(2)[:, None, None] == 0, 0.0, np.where(MASK, -np.inf, 0.0))


MISTAKES = {
    "format": (changed("format", np.array(2)), ["format 2", "1 is read"]),
    "env": (changed("env", np.array("Other-v0")), ["--env=Other-v0", "--env=Imagined-v0"]),
    "bytes": (changed("env", np.array(b"Imagined-v0")), ["env", "text"]),
    "lacking": (lambda arrays: arrays.pop("reward"), ["lacks the array reward"]),
    "flat": (changed("mask", lambda x: x[:, 0]), ["mask of shape (6,)", "[T, N]"]),
    "empty": (changed("mask", lambda x: x[:, :0]), ["mask of shape (6, 0)"]),
    "observation": (changed("observation", lambda x: x[..., :1]), ["observation of shape (6, 3, 1)", "(6, 3, 2)"]),
    "next": (changed("next_observation", lambda x: x[1:]), ["next_observation of shape (5, 3, 2)"]),
    "action": (changed("action", lambda x: x[..., None]), ["action of shape (6, 3, 1)", "(6, 3)"]),
    "reward": (changed("reward", lambda x: x.T), ["reward of shape (3, 6)"]),
    "behaviours": (changed("log_prob", lambda x: x[0]), ["log_prob of shape (6, 3)", "(J, 6, 3)"]),
    "none": (changed("log_prob", lambda x: x[:0]), ["log_prob of shape (0, 6, 3)"]),
    "numbers": (changed("terminated", lambda x: x.astype(int)), ["int64 for terminated", "booleans"]),
    "halves": (changed("action", lambda x: x + 0.5), ["float64 for action", "whole numbers"]),
    "words": (changed("reward", lambda x: x.astype(str)), ["for reward", "real numbers"]),
    "objects": (changed("reward", lambda x: x.astype(object)), ["Python objects for reward"]),
    "NaN": (changed("observation", np.nan, (3, 0, 1)), ["observation that is not finite", "[[3, 0]]"]),
    "huge": (changed("reward", 1e300, (1, 1)), ["reward that is not finite", "[[1, 1]]"]),
    "infinite": (changed("next_observation", np.inf, (4, 2, 0)), ["next_observation that is not finite", "[[4, 2]]"]),
    "chance": (changed("log_prob", 0.1, (1, 2, 0)), ["log_prob 0.1", "[[1, 2, 0]]", "at most 0"]),
    "float32": (changed("log_prob", -1e300, (1, 2, 0)), ["log_prob -1e+300", "[[1, 2, 0]]", "float32"]),
    "sum": (changed("log_prob", -1e38, (1, 2, 0)), ["log_prob -1e+38", "[[1, 2, 0]]", "float32"]),
    "variance": (changed("observation", 1e19, (3, 0, 1)), ["observation too large", "[[3, 0]]", "at most 3e+18"]),
    "next variance": (changed("next_observation", -1e19, (4, 2, 0)), ["next_observation too large", "[[4, 2]]"]),
    "no chance": (changed("log_prob", np.nan, (0, 0, 2)), ["log_prob nan", "[[0, 0, 2]]"]),
    "above": (changed("action", 2, (0, 1)), ["action that there is not", "[[0, 1]]", "-1 to 1"]),
    "below": (changed("action", -2, (0, 2)), ["action that there is not", "[[0, 2]]"]),
    "gap": (changed("mask", False, (1, 2)), ["gap in episode 2"]),
    "no step": (changed("mask", False, (slice(None), 1)), ["no step in episode 1"]),
    "early": (changed("terminated", True, (2, 0)), ["episode 0 end elsewhere"]),
    "never": (lambda a: (changed("terminated", False, (1, 1))(a), changed("truncated", False, (1, 1))(a)), ["episode 1 end elsewhere"]),
    "uncovered": (changed("log_prob", -np.inf, (slice(None), 2, 2)), ["none of its behaviours", "[[2, 2]]", "cover"]),
    "deterministic": (deterministic, ["deterministic behaviours", "cover no policy but themselves"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_one_sentence(mistake, tmp_path, rng):
    arrays, (make, words) = some_file(rng), MISTAKES[mistake]
    make(arrays)
    text = refusal(save(tmp_path / "a.npz", arrays))
    for word in words:
        assert word in text


def test_what_is_no_archive_is_refused_and_nothing_is_unpickled(tmp_path, rng):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "text.npz").write_text("observation")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.save(tmp_path / "single.npy", np.zeros(3))
    np.savez(tmp_path / "trap.npz", **{**some_file(rng), "reward": np.array([Trap()], object)})
    np.save(tmp_path / "trap.npy", np.array([Trap()], object))
    whole = io.BytesIO()
    np.savez_compressed(whole, **some_file(rng))
    data = bytearray(whole.getvalue())
    (tmp_path / "short.npz").write_bytes(data[: len(data) // 2])
    middle = zipfile.ZipFile(whole).getinfo("observation.npy").header_offset + 120
    data[middle : middle + 8] = bytes(8)
    (tmp_path / "damaged.npz").write_bytes(data)
    for name in ("text.npz", "empty.npz", "single.npy", "short.npz", "trap.npy"):
        assert "is no .npz file of numpy" in refusal(str(tmp_path / name))
    assert "Python objects for reward" in refusal(str(tmp_path / "trap.npz"))
    assert "observation" in refusal(str(tmp_path / "damaged.npz"))
    assert "is not there" in refusal(str(tmp_path / "nowhere.npz"))
    assert "cannot be read" in refusal(str(tmp_path))
    assert not (tmp_path / "sprung").exists()


def test_a_density_is_held_to_float32_too(tmp_path, rng):
    arrays = some_file(rng, REAL)
    arrays["log_prob"][0, 1, 1] = 1e300
    assert "log_prob 1e+300" in refusal(save(tmp_path / "a.npz", arrays), REAL)


def test_the_largest_observations_have_finite_statistics(tmp_path, rng):
    arrays = some_file(rng)
    largest = 0.99 * (np.finfo(np.float32).max / (4 * MASK.sum())) ** 0.5
    arrays["observation"] = np.where(rng.random(arrays["observation"].shape) < 0.5, largest, -largest)
    t = demonstrations.read(save(tmp_path / "a.npz", arrays), ENV, COUNTED)
    statistics = normalizers.running((2,))
    for moment in statistics.update(statistics.update(statistics.init(), t.observation, t.mask), t.observation, t.mask):
        assert np.isfinite(moment).all()


def test_a_header_that_claims_the_impossible_is_damage(tmp_path, rng):
    np.savez(tmp_path / "whole.npz", **some_file(rng))
    for k, shape in enumerate([(2**42,), (2**60, 2), (2**70,)]):
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / f"{k}.npz", "w") as file:
            for name in whole.namelist():
                file.writestr(name, header.getvalue() if name == "reward.npy" else whole.read(name))
        assert "reward" in refusal(str(tmp_path / f"{k}.npz"))
    assert "is damaged where reward is" in refusal(str(tmp_path / "0.npz"))
    (tmp_path / "single.npy").write_bytes(header.getvalue())
    assert "is no .npz file" in refusal(str(tmp_path / "single.npy"))


def test_a_behaviour_may_rule_out_what_another_would_do(tmp_path, rng):
    arrays = some_file(rng)
    arrays["log_prob"][1, 1, 0] = -np.inf
    t = demonstrations.read(save(tmp_path / "a.npz", arrays), ENV, COUNTED)
    assert np.isfinite(t.log_prob).all()
    summed = np.cumsum(t.log_prob, axis=0)
    assert summed[3, 0] == pytest.approx(np.log(np.exp(arrays["log_prob"][0, :4, 0].sum()) / 2), abs=1e-5)


# What is learned: every trajectory of a process, seen by two behaviours.

GAMMA = 0.85
OTHER = np.random.default_rng(4).normal(0, 2, size=world.OLD.shape)
BEHAVIOURS = np.stack([world.log_prob(theta) for theta in (world.OLD, OTHER)])
Q = (world.probability(world.OLD) + world.probability(OTHER)) / 2
TABLE = Spaces((world.S,), actions=world.A)


def learner_of(**flags):
    given = {"hidden": "", "normalize_observations": False, "discount": GAMMA, "algo": "off_policy", "demonstrations": "file", **flags}
    return build.make_learner(config.check(config.configured(**given)), TABLE)


def listed(tmp_path, log_prob_jt):
    """Every trajectory of the process, by way of a file."""
    ends = {"terminated": world.LAST, "truncated": np.zeros_like(world.LAST), "mask": world.MASK, "action": world.ACTIONS}
    seen = np.eye(world.S)[world.STATES]
    rest = {"observation": seen, "next_observation": seen, "reward": world.R, "log_prob": log_prob_jt, "format": 1, "env": ENV}
    return demonstrations.read(save(tmp_path / "world.npz", {**ends, **rest}), ENV, TABLE)


def problem_of(learner, theta, trajectory, q=None):
    """The problem of a batch at theta [S, A], in expectation under q [N] where that is given."""
    state = initial_state(learner, SEED)
    state = state._replace(policy=({"kernel": tf.constant(theta, tf.float32), "bias": tf.zeros([world.A])},))
    if learner.algorithm.surrogate == "guided":
        state = state._replace(penalty=tf.constant(0.35))
    batch = assessed(learner, state, trajectory, SEED).batch
    if q is not None:
        batch = batch._replace(weight=tf.constant(q * world.MASK, tf.float32))
    return state, problem.policy_problem(learner, state, batch, FULL, SEED)


def kernel(gradient):
    return gradient[0]["kernel"].numpy().ravel()


@pytest.mark.parametrize("weights", ["causal", "trajectory"])
def test_weights_of_the_mixture_give_the_exact_gradient_at_the_new_policy(weights, tmp_path):
    exact = finite_difference(lambda x: world.objective(x, GAMMA), world.NEW).ravel()
    learner = learner_of(weights=weights, baseline="none", discount_from="start")
    state, found = problem_of(learner, world.NEW, listed(tmp_path, BEHAVIOURS), Q)
    assert np.abs(exact).max() > 0.1
    np.testing.assert_allclose(kernel(found.gradient(state.policy)), exact, atol=1e-5)
    for wrong in (BEHAVIOURS[:1], np.log(np.exp(BEHAVIOURS).mean(axis=0))[None]):
        state, other = problem_of(learner, world.NEW, listed(tmp_path, wrong), Q)
        assert np.abs(kernel(other.gradient(state.policy)) - exact).max() > 0.01


def test_the_guided_objective_is_that_of_the_behaviours(tmp_path):
    columns = slice(5, 90, 3)
    trajectory = tf.nest.map_structure(lambda x: x[:, columns], listed(tmp_path, BEHAVIOURS))
    state, found = problem_of(learner_of(guidance=0.35), world.NEW, trajectory)
    r = tf.constant((GAMMA ** np.arange(world.T)[:, None] * world.R)[:, columns])
    states, actions = world.STATES[:, columns], world.ACTIONS[:, columns]
    with tf.GradientTape() as tape:
        theta = tf.constant(world.NEW)
        tape.watch(theta)
        log_prob = tf.gather_nd(tf.nn.log_softmax(theta), np.stack([states, actions], axis=-1))
        phi = off_policy.guided_objective(log_prob, BEHAVIOURS[..., columns], r, 0.35, world.MASK[:, columns])
    expected = tape.gradient(phi, theta).numpy().ravel()
    assert np.abs(expected).max() > 0.1
    assert float(found.objective(state.policy)) == pytest.approx(float(phi), rel=1e-5)
    np.testing.assert_allclose(kernel(found.gradient(state.policy)), expected, rtol=1e-4, atol=1e-5)
    assert 0 < float(found.overlap(state.policy)) < 1


def test_the_estimated_return_is_the_self_normalised_one(tmp_path):
    """Over all trajectories, each as often as q has it, sum_i w_i r_i / Z is J; here they count once each, so the definition is summed."""
    learner = learner_of()
    trajectory = tf.nest.map_structure(lambda x: x[:, 7:60], listed(tmp_path, BEHAVIOURS))
    state, _ = problem_of(learner, world.NEW, trajectory)
    total, mask = 0.0, world.MASK[:, 7:60]
    new = np.where(mask, world.log_prob(world.NEW)[:, 7:60], 0)
    behaviours = np.where(mask, BEHAVIOURS[..., 7:60], 0)
    for t in range(world.T):
        w = np.array([np.exp(new[: t + 1, i].sum() - mixture(behaviours, t, i)) for i in range(53)])
        total += GAMMA**t * np.sum(w * np.where(mask[t], world.R[t, 7:60], 0)) / w.sum()
    assert float(demonstrations.estimated_return(learner, state, trajectory)) == pytest.approx(total, rel=1e-4)


def test_guidance_falls_after_a_rise_and_grows_after_none():
    for before, after, factor in ((1.0, 1.5, 0.9), (1.5, 1.0, 2.0), (1.0, 1.0, 2.0), (1.0, np.nan, 2.0)):
        found = demonstrations.adapt_guidance(tf.constant(0.3), tf.constant(before), tf.constant(after))
        assert float(found) == pytest.approx(0.3 * factor)


def test_imitation_finds_the_frequencies(tmp_path, rng):
    """A table's likelihood is greatest at how often each action was taken in each state, padding apart."""
    drawn = rng.choice(world.N, 400, p=world.probability(OTHER))
    trajectory = tf.nest.map_structure(lambda x: tf.gather(x, drawn, axis=1), listed(tmp_path, BEHAVIOURS))
    learner = learner_of(critic_learning_rate=0.03, critic_minibatches=4)
    state = initial_state(learner, SEED)
    cloned = tf.function(lambda s: demonstrations.clone(learner, s, trajectory, 300, SEED))(state)
    counts = np.zeros([world.S, world.A])
    seen, mask = trajectory.observation.numpy(), trajectory.mask.numpy()
    np.add.at(counts, (seen[mask].argmax(-1), trajectory.action.numpy()[mask]), 1)
    pi = tf.nn.softmax(learner.policy.parameters(cloned.policy, tf.eye(world.S))["logits"])
    np.testing.assert_allclose(pi, counts / counts.sum(-1, keepdims=True), atol=0.02)
    assert np.ptp(counts / counts.sum(-1, keepdims=True)) > 0.2
    tf.nest.map_structure(np.testing.assert_array_equal, cloned._replace(policy=()), state._replace(policy=()))


def test_the_first_update_finds_the_file_s_statistics_and_leaves_them(tmp_path):
    """The policy that imitated must not see other numbers after the first update; without imitation only the statistics change."""
    trajectory = tf.nest.map_structure(lambda x: x[:, 7:60], listed(tmp_path, BEHAVIOURS))
    learner = learner_of(normalize_observations=True, least_overlap=0.0)
    state = initial_state(learner, SEED)
    ready = demonstrations.prepare(learner, state, trajectory, 0, SEED)
    seen = np.eye(world.S)[world.STATES][:, 7:60][world.MASK[:, 7:60]]
    np.testing.assert_allclose(ready.observations.mean, seen.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(ready.observations.variance, seen.var(axis=0), atol=1e-6)
    tf.nest.map_structure(np.testing.assert_array_equal, ready._replace(observations=()), state._replace(observations=()))
    imitated = demonstrations.prepare(learner, state, trajectory, 2, SEED)
    tf.nest.map_structure(np.testing.assert_array_equal, imitated.observations, ready.observations)
    cloned = demonstrations.clone(learner, ready, trajectory, 2, SEED)
    tf.nest.map_structure(np.testing.assert_array_equal, imitated.policy, cloned.policy)
    later, _ = update.make_update(learner)(ready, trajectory, SEED, FULL)
    np.testing.assert_allclose(later.observations.mean, ready.observations.mean, atol=1e-6)
    assert np.abs(later.policy[0]["kernel"] - ready.policy[0]["kernel"]).max() > 0


# The program.

SMALL = ["--hidden=8", "--eval_episodes=4", "--tensorboard=false", "--progress=none", "--jit=false", "--episode_steps=30"]


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    """Two runs on CartPole whose policies differ."""
    folder = tmp_path_factory.mktemp("runs")
    for name, algo in (("a", "reinforce"), ("b", "npg")):
        rate = ["--learning_rate=0.3"] if algo == "reinforce" else ["--kl_radius=0.3", "--seed=2"]
        arguments = [*SMALL, f"--algo={algo}", "--envs=8", "--total_steps=1500", *rate, f"--workdir={folder / name}"]
        assert run.execute(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def collected(two_runs):
    path = two_runs / "both.npz"
    runs = f"--workdir={two_runs}/a,{two_runs}/b"
    assert run.execute(["--mode=collect", runs, "--eval_episodes=24", f"--output={path}"]) == 0
    return path


def restored(directory):
    settings = run.configure([f"--flagfile={directory}/run.flags"])
    found = train.Run(settings, directory, build.setup(settings))
    found.restore(repair=False)
    return found


def by_hand(directory, observation):
    """log pi(.|o) of a run on CartPole with one hidden layer, in numpy."""
    state = restored(directory).state
    mean, variance, _ = (x.numpy() for x in state.observations)
    hidden, last = state.policy
    x = np.clip((observation - mean) / np.sqrt(variance + 1e-8), -10, 10)
    logits = np.tanh(x @ hidden["kernel"].numpy() + hidden["bias"].numpy()) @ last["kernel"].numpy() + last["bias"].numpy()
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_every_episode_is_scored_by_every_run_with_its_own_statistics(two_runs, collected):
    with np.load(collected, allow_pickle=False) as file:
        a = dict(file)
    mask = a["mask"]
    assert a["log_prob"].shape == (2, *mask.shape)
    assert mask.shape[1] == 24
    assert (a["terminated"] | a["truncated"])[mask].sum() == 24
    assert mask.sum(0).max() == len(mask) <= 30
    for j, name in enumerate("ab"):
        every = by_hand(two_runs / name, a["observation"].astype(np.float64))
        wanted = np.take_along_axis(every, a["action"][..., None], -1)[..., 0]
        np.testing.assert_allclose(a["log_prob"][j][mask], wanted[mask], atol=1e-4)
    log_ratio = np.where(mask, a["log_prob"][0] - a["log_prob"][1], 0).sum(axis=0)
    assert log_ratio[:12].mean() > 0.3
    assert log_ratio[12:].mean() < -0.3
    same = (a["next_observation"][:-1] == a["observation"][1:]).all(-1)
    assert same[mask[1:]].all()


def test_collecting_says_what_it_did_and_samples(two_runs, collected, capfd):
    code, out, err = call(capfd, "--mode=collect", f"--workdir={two_runs}/a", "--eval_episodes=9")
    assert (code, err) == (0, "")
    t = demonstrations.read(str(two_runs / "a" / "demonstrations.npz"), "CartPole-v1", restored(two_runs / "a").parts.spaces)
    total = tf.reduce_sum(t.reward, axis=0).numpy()
    expected = f"9 episodes of 1 sampled policy, {int(total.sum())} steps, returning {total.mean():.1f} on average, are in {two_runs}/a"
    assert out == f"{expected}/demonstrations.npz.\n"
    with np.load(collected) as file:
        greedy = by_hand(two_runs / "a", file["observation"][:, :12].astype(np.float64)).argmax(-1)
        assert (greedy != file["action"][:, :12])[file["mask"][:, :12]].mean() > 0.02
    assert call(capfd, "--mode=collect", f"--workdir={two_runs}/a,{two_runs}/a", "--eval_episodes=8", f"--output={two_runs}/aa.npz")[0] == 0
    with np.load(two_runs / "aa.npz") as file:
        assert len(np.unique(file["observation"][0], axis=0)) == 8


def test_mistakes_of_collecting_are_sentences(two_runs, tmp_path, capfd):
    other = [*SMALL, "--env=Pendulum-v1", "--envs=4", "--horizon=8", "--total_steps=32", f"--workdir={tmp_path}/pendulum"]
    assert call(capfd, *other)[0] == 0
    a, b = two_runs / "a", two_runs / "b"
    for arguments, words in {
        (f"--workdir={a},{b}", "--eval_episodes=7"): ["--eval_episodes=7", "a multiple of 2"],
        (f"--workdir={a},{tmp_path}/pendulum",): ["pendulum is a run on Pendulum-v1, not on CartPole-v1"],
        (f"--workdir={a},{tmp_path}/none",): ["none holds no run"],
        (f"--workdir={a}", f"--output={tmp_path}/no/where.npz"): ["--output=", "cannot be written"],
        (f"--workdir={a}", f"--output={tmp_path}"): ["--output=", "cannot be written"],
        (f"--workdir={a}", "--seed=4"): ["--seed=4"],
        ("--algo=npg", "--output=x.npz"): ["--output=x.npz", "--mode=collect"],
        ("--algo=npg", "--demonstrations=x.npz"): ["--algo=off_policy"],
        ("--algo=off_policy", "--guidance=1"): ["--demonstrations=FILE"],
        ("--algo=off_policy", "--clone_epochs=1"): ["--demonstrations=FILE"],
        ("--algo=off_policy", "--demonstrations=x.npz", "--envs=3"): ["--envs=3 would not be read"],
        ("--algo=off_policy", "--demonstrations=x.npz", "--guidance=1", "--weights=causal"): ["--weights=causal would not be read"],
        ("--algo=off_policy", "--demonstrations=x.npz", "--network=gru"): ["--network=gru"],
        ("--algo=off_policy", "--demonstrations=x.npz", f"--workdir={tmp_path}/new"): ["--demonstrations=x.npz is not there"],
    }.items():
        mode = ["--mode=collect"] if str(a) in arguments[0] else []
        code, out, err = call(capfd, *mode, *arguments)
        assert (code, out) == (2, "")
        assert err.count("\n") == 1
        for word in words:
            assert word in err
    assert not (tmp_path / "new").exists()


def learning(collected, *more):
    return [*SMALL, "--algo=off_policy", f"--demonstrations={collected}", "--schedule=constant", *more]


@pytest.fixture(scope="module")
def learned(two_runs, collected):
    """Three iterations, with imitation first and guidance: every part of the state that learning from a file has."""
    directory = two_runs / "learned"
    flags = learning(collected, "--clone_epochs=3", "--guidance=0.2", "--least_overlap=0")
    assert run.execute([*flags, f"--total_steps={3 * steps_of(collected)}", f"--workdir={directory}"]) == 0
    return directory, flags


def steps_of(collected):
    with np.load(collected) as file:
        return int(file["mask"].sum())


def test_a_run_counts_the_file_s_steps_and_shows_its_return(learned, collected):
    rows = metrics.read(learned[0])
    n = steps_of(collected)
    assert [row["steps"] for row in rows] == [n, 2 * n, 3 * n]
    assert [row["episodes"] for row in rows] == [24, 48, 72]
    assert all(row["return_mean"] == pytest.approx(n / 24) for row in rows)
    assert json.loads((learned[0] / "summary.json").read_text())["engine"] == "demonstrations"
    before = 0.2
    for row in rows:
        assert row["penalty"] / before == pytest.approx(0.9) or row["penalty"] / before == pytest.approx(2.0)
        before = row["penalty"]


def leaves(directory):
    return [leaf.numpy() for leaf in tf.nest.flatten(restored(directory).state)]


def test_a_resumed_run_is_an_uninterrupted_one_bit_for_bit(learned, collected, tmp_path, capfd):
    directory, flags = learned
    n, parts = steps_of(collected), tmp_path / "parts"
    code, out, _ = call(capfd, *flags, f"--total_steps={n}", f"--workdir={parts}")
    assert (code, f"{n:,} steps of the 24 episodes in {collected}, all in each iteration" in out) == (0, True)
    assert call(capfd, "--resume", f"--total_steps={3 * n}", f"--workdir={parts}")[0] == 0
    for whole, pieces in zip(leaves(directory), leaves(parts), strict=True):
        np.testing.assert_array_equal(whole, pieces)
    rows = [[{**row, "seconds": 0, "steps_per_second": 0} for row in metrics.read(d)] for d in (directory, parts)]
    assert rows[0] == rows[1]


def test_a_learner_evaluates_exports_and_collects_without_the_file(learned, capfd, collected):
    hidden = collected.with_name("hidden.npz")
    collected.rename(hidden)
    try:
        for mode in ("evaluate", "export", "collect"):
            assert call(capfd, f"--mode={mode}", f"--workdir={learned[0]}", "--eval_episodes=3")[0] == 0
        assert "is not there" in call(capfd, "--resume", "--total_steps=99999", f"--workdir={learned[0]}")[2]
    finally:
        hidden.rename(collected)


def test_refusals_are_told_at_the_end(collected, tmp_path, capfd):
    code, out, _ = call(capfd, *learning(collected, "--least_overlap=1", "--epochs=3", "--total_steps=1"), f"--workdir={tmp_path}/run")
    assert code == 0
    assert re.search(r"3 of 3 updates were refused: .* below --least_overlap=1 \(down to 0\.\d+\)", out)
    plain = [*SMALL, "--algo=off_policy", "--envs=8", "--total_steps=1", "--learning_rate=1", f"--workdir={tmp_path}/plain"]
    assert re.search(r"\d of 4 updates were refused", call(capfd, *plain)[1])
    assert call(capfd, *plain[:-1], "--least_overlap=0", f"--workdir={tmp_path}/free")[1].count("refused") == 0


def test_an_overlap_that_is_no_number_is_a_refusal():
    theta = {"w": tf.constant([1.0, -2.0])}
    optimizer = optimizers.sgd(0.1)
    settings = improve.Settings(optimizer, 0.1, 0.1, 0.1, 1, 0.5, 1, epochs=3, least_overlap=0.0)
    step = {"w": tf.constant([np.nan, 5.0])}
    one = problem.Problem(
        lambda _: 0.0, lambda _: step, lambda _: 0.0, lambda: None, lambda _: {}, lambda _: tf.constant(np.nan), lambda _: one
    )
    found, memory, info = improve.epochs(one, theta, optimizer.init(theta), settings, FULL, minibatches.orders(4, 3, 1, SEED))
    np.testing.assert_array_equal(found["w"], theta["w"])
    tf.nest.map_structure(np.testing.assert_array_equal, memory, optimizer.init(theta))
    assert info["refused"].numpy() == 3


def test_refusals_without_an_overlap_are_told(collected, tmp_path, capfd, monkeypatch):
    """Every update is refused, none is skipped, and nothing has moved."""
    monkeypatch.setattr(problem, "effective_share", lambda *_: tf.constant(np.nan))
    directory = tmp_path / "run"
    code, out, err = call(capfd, *learning(collected, "--epochs=3", "--total_steps=1"), f"--workdir={directory}")
    assert (code, err) == (0, "")
    assert "3 of 3 updates were refused" in out
    assert "(it was not even a number)" in out
    (row,) = metrics.read(directory)
    assert (row["overlap"], row["refused"], row["skipped"], row["step_size"]) == (None, 3, 0, 0)
    assert all(np.isfinite(leaf).all() for leaf in leaves(directory))


def test_a_single_episode_is_not_held_against_others(collected, tmp_path, capfd):
    with np.load(collected) as file:
        arrays = {
            name: x if name in ("format", "env") else x[..., :1] if name in ("log_prob", "mask") else x[:, :1] for name, x in file.items()
        }
    path = save(tmp_path / "one.npz", arrays)
    for words, named in {
        ("--weights=causal",): "--weights=causal",
        **{("--weights=first_order", f"--baseline={b}"): f"--baseline={b}" for b in ("leave_one_out", "time_mean", "optimal")},
        ("--weights=first_order", "--psi=return", "--baseline=mean"): "--baseline=mean",
        ("--weights=first_order", "--psi=return", "--baseline=none", "--whiten"): "--whiten",
    }.items():
        code, out, err = call(capfd, *learning(path, *words, "--total_steps=1"), f"--workdir={tmp_path}/run")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"--demonstrations={path} holds a single episode" in err
        assert named in err
        assert not (tmp_path / "run").exists()
    sound = learning(path, "--weights=first_order", "--baseline=none", "--total_steps=1")
    assert call(capfd, *sound, f"--workdir={tmp_path}/run")[0] == 0


def test_minibatches_of_a_file_are_of_episodes(collected, tmp_path, capfd):
    code, _, err = call(capfd, *learning(collected, "--minibatches=25"), f"--workdir={tmp_path}/run")
    assert (code, "more than the 24 episodes" in err) == (2, True)


def test_a_file_that_was_replaced_is_refused(collected, tmp_path, capfd):
    """Another file of the same shapes; the one that the run began with is taken again."""
    path, directory = tmp_path / "file.npz", tmp_path / "run"
    path.write_bytes(collected.read_bytes())
    assert call(capfd, *learning(path, "--total_steps=1"), f"--workdir={directory}")[0] == 0
    assert (directory / workdir.DIGEST).read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n"
    with np.load(collected) as file:
        np.savez(path, **{**file, "reward": 2 * file["reward"]})
    before = (directory / "run.flags").read_bytes()
    code, out, err = call(capfd, "--resume", "--total_steps=99999", f"--workdir={directory}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"--demonstrations={path} is not what this run began with" in err
    assert (directory / "run.flags").read_bytes() == before
    path.write_bytes(collected.read_bytes())
    assert call(capfd, "--resume", f"--total_steps={steps_of(collected) + 1}", f"--workdir={directory}")[0] == 0


def test_runs_that_see_other_windows_are_told_apart(two_runs, tmp_path, capfd):
    other = [*SMALL, "--window=3", "--envs=4", "--horizon=8", "--total_steps=32", f"--workdir={tmp_path}/wide"]
    assert call(capfd, *other)[0] == 0
    code, _, err = call(capfd, "--mode=collect", f"--workdir={two_runs}/a,{tmp_path}/wide", "--eval_episodes=4")
    assert (code, err.count("\n")) == (2, 1)
    for word in ("wide sees", "(3, 4)", "--window=3", "(4,)", "--window=1"):
        assert word in err


def test_a_comma_at_the_end_names_no_further_run(two_runs, tmp_path, capfd):
    for names, j in ((f"{two_runs}/a,{two_runs}/b,", 2), (f"{two_runs}/a,", 1)):
        path = tmp_path / f"{j}.npz"
        assert call(capfd, "--mode=collect", f"--workdir={names}", "--eval_episodes=4", f"--output={path}")[0] == 0
        with np.load(path) as file:
            assert file["log_prob"].shape[0] == j


def test_an_output_that_cannot_be_written_is_named(two_runs, tmp_path, capfd, monkeypatch):
    code, out, err = call(capfd, "--mode=collect", f"--workdir={two_runs}/a", "--output=/proc/x.npz")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--output=/proc/x.npz cannot be written" in err

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    code, _, err = call(capfd, "--mode=collect", f"--workdir={two_runs}/a", "--eval_episodes=2", f"--output={tmp_path}/x.npz")
    assert (code, err) == (2, f"run.py: --output={tmp_path}/x.npz cannot be written: No space left on device.\n")
    assert list(tmp_path.iterdir()) == []


class Counted(gymnasium.Env):
    """CartPole's spaces, episodes of six steps, and a count of all steps."""

    observation_space = gymnasium.spaces.Box(-1, 1, [4])
    action_space = gymnasium.spaces.Discrete(2)
    steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.age = 0
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), {}

    def step(self, action):
        Counted.steps += 1
        self.age += 1
        return self.np_random.uniform(-1, 1, 4).astype(np.float32), float(action), self.age == 6, False, {}


gymnasium.register("tests/Counted-v0", Counted, max_episode_steps=9)


def test_no_environment_is_stepped_to_learn(tmp_path):
    flags = ["--env=tests/Counted-v0", "--hidden=8", "--jit=false", "--progress=none", "--tensorboard=false", "--eval_episodes=13"]
    first = f"--workdir={tmp_path}/first"
    assert run.execute([*flags, "--engine=sync", "--envs=2", "--horizon=8", "--total_steps=16", "--critic_minibatches=2", first]) == 0
    assert run.execute(["--mode=collect", first, f"--output={tmp_path}/file.npz"]) == 0
    with np.load(tmp_path / "file.npz") as file:
        assert file["mask"].shape == (6, 13)
        assert file["mask"].all()
        assert file["terminated"][-1].all()
        np.testing.assert_array_equal(file["reward"], file["action"])
        assert len(np.unique(file["observation"][0], axis=0)) == 13
    settings = config.check(
        config.configured(algo="off_policy", env="tests/Counted-v0", hidden="8", jit="false", demonstrations=f"{tmp_path}/file.npz")
    )
    parts = build.setup(settings)
    before, runner = Counted.steps, train.Run(settings, tmp_path, parts)
    runner.begin()
    start = tf.nest.map_structure(np.array, runner.state.policy)
    rows = [runner.iterate() for _ in range(2)]
    assert Counted.steps == before
    assert [row["steps"] for row in rows] == [78, 156]
    assert np.abs(runner.state.policy[0]["kernel"] - start[0]["kernel"]).max() > 0
    runner.judge("result")
    assert Counted.steps > before


def test_the_page_s_file_is_read_and_learned_from(tmp_path, monkeypatch, capfd):
    block = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.S)[1]
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    flags = [*SMALL[:-1], "--algo=off_policy", "--demonstrations=by_hand.npz", "--clone_epochs=2", "--total_steps=1", "--workdir=run"]
    code, _, err = call(capfd, *flags)
    assert (code, err) == (0, "")
    assert metrics.read(tmp_path / "run")[-1]["episodes"] == 20


def test_the_page_lists_the_format():
    arrays = re.findall(r"^\| `(\w+)` \| \[", PAGE.read_text(), re.M)
    assert arrays == list(demonstrations.KINDS)
    assert set(demonstrations.KINDS) - {"format", "env"} <= set(Trajectory._fields)
