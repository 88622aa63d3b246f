"""A policy that remembers: what was stored when it acted is what the update sees when it looks again."""

import sys

import corridor
import numpy as np
import pytest
import tensorflow as tf
from learners import FULL, SEED, N, assert_equal, assessed, begun, differs, make, prepare

from tfpg import assess, build, gradients, learner, rollout, trees
from tfpg.config import check_values, configured
from tfpg.envs import gym
from tfpg.problem import policy_problem
from tfpg.types import Spaces
from tfpg.update import make_update

HORIZON = 8  # of a chunk: episodes of 3 and 5 steps end within it and run over its border
ENGINES = ["graph", "sync disabled", "sync same_step", "sync next_step", "envpool"]


def remembering(algo="ppo", **changes):
    """A learner on the corridor whose policy remembers, with parameters far enough from zero for its memory to tell."""
    given = {
        "algo": algo,
        "network": "gru",
        "hidden": "6",
        "discount": 0.9,
        "minibatches": 1,
        "critic_minibatches": 2,
        "entropy_bonus": 0.0,
    }
    made = build.make_learner(check_values(configured(**{**given, **changes})), Spaces((2,), actions=2))
    state = learner.initial_state(made, SEED)
    policy = tf.nest.map_structure(lambda x: x + 0.4 * tf.random.stateless_normal(x.shape, [2, 5]), state.policy)
    policy["last"]["kernel"] = 3 * policy["last"]["kernel"] + tf.random.stateless_normal([6, 2], [2, 6])
    return made, state._replace(policy=policy)


def chunks(engine, made, state, monkeypatch, count=3, horizon=HORIZON):
    """Trajectories that go on where the last one stopped."""
    if engine == "graph":
        environment = corridor.in_graph()
        run, carry, found = tf.function(rollout.make_collect(environment, made, 3, horizon)), rollout.start(environment, made, 3, SEED), []
        for k in range(count):
            carry, t, _ = run(state, carry, SEED + k)
            found.append(t)
        return found
    monkeypatch.setitem(sys.modules, "envpool", corridor.envpool())
    kind, _, mode = engine.partition(" ")
    environment = gym.ENGINES[kind](corridor.ID, 3, 0, autoreset=mode or "auto")
    stream = rollout.Stream(environment, made, 3, horizon)
    found = [stream.collect(state, SEED + k)[0] for k in range(count)]
    environment.close()
    return found


def network(params, x, h):
    """One step of the policy in numpy: logits and the memory afterwards."""
    p = tf.nest.map_structure(lambda leaf: np.array(leaf, np.float64), params)
    for layer in p["hidden"]:
        x = np.tanh(x @ layer["kernel"] + layer["bias"])
    z_d, r_d, c_d = np.split(x @ p["cell"]["kernel"] + p["cell"]["bias"], 3)
    z_u, r_u, c_u = np.split(p["cell"]["recurrent"], 3, axis=1)
    sigmoid = lambda y: 1 / (1 + np.exp(-y))  # noqa: E731
    z, r = sigmoid(z_d + h @ z_u), sigmoid(r_d + h @ r_u)
    h = z * h + (1 - z) * np.tanh(c_d + (r * h) @ c_u)
    return h @ p["last"]["kernel"] + p["last"]["bias"], h


@pytest.mark.parametrize("engine", ENGINES)
def test_what_was_stored_is_what_one_walk_along_each_episode_gives(engine, monkeypatch):
    """Log-probability, memory before and memory after each step, in numpy, across borders of chunks; nothing survives an end."""
    made, state = remembering()
    found = chunks(engine, made, state, monkeypatch)
    t = tf.nest.map_structure(lambda *x: np.concatenate(x), *found)
    ends = 0
    for i in range(3):
        h = np.zeros(6)
        for k in np.flatnonzero(t.mask[:, i]):
            if t.age[k, i] == 0:
                h = np.zeros(6)
                np.testing.assert_array_equal(t.memory[k, i], h)
            else:
                assert np.abs(t.memory[k, i]).max() > 1e-3
            np.testing.assert_allclose(t.memory[k, i], h, atol=1e-5)
            logits, h = network(state.policy, np.clip(t.observation[k, i], -10, 10).astype(float), h)
            np.testing.assert_allclose(t.next_memory[k, i], h, atol=1e-5)
            log_prob = logits - np.log(np.exp(logits).sum())
            assert t.log_prob[k, i] == pytest.approx(log_prob[t.action[k, i]], abs=2e-5)
            ends += t.terminated[k, i] | t.truncated[k, i]
    assert ends > 8


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("algo", ["ppo", "reinforce_togo"])
def test_looking_again_at_the_acting_parameters_finds_the_same_log_probabilities(engine, algo, monkeypatch):
    """So that PPO's ratios are 1 at first, in every chunk, in whole episodes, and in each part of a batch."""
    made, state = remembering(algo)
    for t in chunks(engine, made, state, monkeypatch, horizon=6 if algo == "reinforce_togo" else HORIZON):
        batch = assessed(made, state, t).batch
        found = made.policy.distribution(made.policy.parameters(state.policy, batch.observation)).log_prob(batch.action)
        mask = t.mask.numpy()
        ratio = np.exp(found - batch.log_prob)[mask]
        np.testing.assert_allclose(ratio, 1, atol=1e-5)
        part = assessed(made, state, tf.nest.map_structure(lambda x: tf.gather(x, [2, 0], axis=1), t)).batch
        np.testing.assert_allclose(part.log_prob, batch.log_prob.numpy()[:, [2, 0]], atol=1e-6)
        np.testing.assert_array_equal(part.observation[0], batch.observation[0].numpy()[:, [2, 0]])


@pytest.mark.parametrize("engine", ENGINES)
def test_critics_see_the_memory_before_and_the_memory_after_a_step(engine, monkeypatch):
    """At the end of an episode the memory after its last step, not the zeros of the next one: V of where a clock stopped needs it."""
    made, state = remembering()
    t = chunks(engine, made, state, monkeypatch)[1]
    seen = assess.view(made, state, t)
    now, following = (learner.critic_sees(made, state, *rows) for rows in (seen.now, seen.following))
    mask, cut = t.mask.numpy(), t.truncated.numpy()
    np.testing.assert_array_equal(now[..., 2:][mask], t.memory[mask])
    np.testing.assert_array_equal(following[..., 2:][mask], t.next_memory[mask])
    assert (np.abs(t.next_memory[cut]).max(-1) > 1e-3).all()
    goes_on = mask[:-1] & mask[1:] & ~(t.terminated | t.truncated).numpy()[:-1]
    np.testing.assert_allclose(following[:-1][goes_on], now[1:][goes_on], atol=1e-6)
    assert goes_on.sum() > 8


def test_a_part_of_a_problem_takes_whole_columns_with_their_memory(rng):
    made, state, t = prepare(rng, algo="ppo", network="gru")
    state = begun(made, rng)._replace(observations=state.observations, targets=state.targets)
    problem = policy_problem(made, state, assessed(made, state, t).batch, FULL, SEED)
    far = tf.nest.map_structure(lambda x: 1.1 * x, state.policy)
    whole = trees.flatten(problem.gradient(far))
    parts = [trees.flatten(problem.part(tf.constant([i])).gradient(far)) for i in range(N)]
    np.testing.assert_allclose(np.mean(parts, 0), whole, rtol=1e-3, atol=1e-5 * np.abs(whole).max())


def test_the_gradient_goes_through_time(rng):
    """Of the whole walk in one piece: a score at step t reaches what was seen before t, but not over the beginning of an episode."""
    made, state, t = prepare(rng, algo="reinforce_togo", network="gru", whole=True)
    batch = assessed(made, state, t).batch

    def at(x):
        o = (x, *batch.observation[1:])
        return made.policy.distribution(made.policy.parameters(state.policy, o)).log_prob(batch.action)[3, 0]

    _, slope = gradients.gradient(at, batch.observation[0])
    reached = np.abs(slope).max(-1) > 0
    assert reached[:4, 0].all()
    assert reached.sum() == 4


@pytest.mark.parametrize("engine", ["graph", "sync disabled"])
@pytest.mark.parametrize("algo", ["ppo", "ppo_kl", "a2c", "reinforce_baseline", "off_policy"])
def test_rows_update_a_policy_that_remembers(engine, algo, monkeypatch):
    made, state = remembering(algo)
    t = chunks(engine, made, state, monkeypatch, count=1)[0]
    after, metrics = tf.function(make_update(made), autograph=False)(state, t, SEED, FULL)
    assert float(metrics["skipped"]) == 0
    assert differs(after.policy, state.policy)
    again, _ = tf.function(make_update(made), autograph=False)(state, t, SEED, FULL)
    assert_equal(after, again)


def test_a_policy_that_remembers_nothing_has_no_memory(rng):
    made, _, t = prepare(rng)
    assert (t.memory, t.next_memory, made.policy.memory, made.policy.advance) == ((), (), 0, None)
    assert learner.no_memory(made.policy, 3) == ()
    assert learner.no_memory(make("ppo", network="gru").policy, 3).shape == [3, 6]
