"""Every engine gives the same trajectories, ends of episodes included: held against a corridor whose returns are closed forms."""

import importlib.util
import sys

import corridor
import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from tfpg import blocks, build, psi, rollout
from tfpg.config import Config
from tfpg.envs import cartpole, gym
from tfpg.learner import initial_state, perceive
from tfpg.types import Critique, Horizon, Spaces

GAMMA, LAMBDA, T = 0.9, 0.8, 13
SEED = tf.constant([3, 4])
MODES = ("disabled", "same_step", "next_step")
ENGINES = ["graph", "envpool", *(f"sync {mode}" for mode in MODES), "async same_step"]


def make_learner(algo="npg", spaces=None):
    config = Config(algo=algo, hidden="8", discount=GAMMA, gae_lambda=LAMBDA)
    return build.make_learner(config, spaces or Spaces((2,), actions=2))


def collect(engine, learner, horizon, chunks, monkeypatch):
    """`chunks` trajectories in a row, and their episode metrics."""
    state = initial_state(learner, tf.constant([1, 2]))
    if engine == "graph":
        environment = corridor.in_graph()
        run, carry, found = (
            tf.function(rollout.make_collect(environment, learner, 3, horizon)),
            rollout.start(environment, learner, 3, SEED),
            [],
        )
        for i in range(chunks):
            carry, trajectory, metrics = run(state, carry, SEED + i)
            found.append((trajectory, metrics))
        return state, found
    monkeypatch.setitem(sys.modules, "envpool", corridor.envpool())
    kind, _, mode = engine.partition(" ")
    environment = gym.ENGINES[kind](corridor.ID, 3, 0, autoreset=mode or "auto")
    stream = rollout.Stream(environment, learner, 3, horizon)
    found = [stream.collect(state, SEED + i) for i in range(chunks)]
    environment.close()
    return state, found


def valid(trajectory, column):
    """The fields of one column, without its padding."""
    mask = trajectory.mask.numpy()[:, column]
    return {name: x.numpy()[:, column][mask] for name, x in trajectory._asdict().items() if tf.is_tensor(x)}


def value(observation):
    """Some V that no step can confuse with another."""
    return 2 + 0.7 * observation[..., 0] - 0.01 * observation[..., 1]


@pytest.mark.parametrize("engine", ENGINES)
def test_steps_flags_and_next_observations_are_the_corridor_s(engine, monkeypatch):
    _, found = collect(engine, make_learner(), T, 2, monkeypatch)
    for column, length in enumerate(corridor.LENGTHS):
        rows = [valid(trajectory, column) for trajectory, _ in found]
        k = np.concatenate([row["observation"][:, 0] for row in rows])
        episode = min(length, corridor.LIMIT)
        expected = np.arange(len(k)) % episode
        np.testing.assert_array_equal(k, expected)
        for name, wanted in {
            "age": expected,
            "reward": corridor.reward(expected, np.concatenate([row["action"] for row in rows])),
            "terminated": (expected + 1 == episode) & (length <= corridor.LIMIT),
            "truncated": expected + 1 == corridor.LIMIT,
        }.items():
            np.testing.assert_allclose(np.concatenate([row[name] for row in rows]), wanted, rtol=1e-6, err_msg=name)
        following = np.concatenate([row["next_observation"] for row in rows])
        np.testing.assert_array_equal(following, np.stack([expected + 1, np.full(len(k), length)], axis=1))
        assert len(k) == 2 * T if engine not in ("envpool", "sync next_step") else len(k) < 2 * T


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lambda_", [LAMBDA, 1.0])
def test_bootstraps_have_their_closed_form(engine, lambda_, monkeypatch):
    """A_t = sum_l (gamma lambda)^l delta_{t+l} to the end of the episode or of the chunk; V counts unless the corridor terminated."""
    _, found = collect(engine, make_learner(), T, 2, monkeypatch)
    for trajectory, _ in found:
        v_t, v_tp1 = value(trajectory.observation), value(trajectory.next_observation)
        advantages = {
            "gae": psi.gae(trajectory, Critique(v_t, v_tp1), Horizon(GAMMA, lambda_)),
            "monte_carlo": psi.monte_carlo_advantage(trajectory, Critique(v_t, v_tp1), Horizon(GAMMA, LAMBDA)),
        }
        for column, length in enumerate(corridor.LENGTHS):
            row, mask = valid(trajectory, column), trajectory.mask.numpy()[:, column]
            k, action = row["observation"][:, 0].astype(int), row["action"]

            def delta(j, k=k, action=action, length=length):
                bootstrap = 0 if k[j] + 1 == length else value(np.array([k[j] + 1, length]))
                return corridor.reward(k[j], action[j]) + GAMMA * bootstrap - value(np.array([k[j], length]))

            for kind, trace in (("gae", lambda_), ("monte_carlo", 1.0)):
                ends = [min(len(k), j + min(length, corridor.LIMIT) - k[j]) for j in range(len(k))]
                wanted = [sum((GAMMA * trace) ** (m - j) * delta(m) for m in range(j, ends[j])) for j in range(len(k))]
                np.testing.assert_allclose(advantages[kind].numpy()[:, column][mask], wanted, rtol=1e-4, atol=1e-5, err_msg=kind)
                np.testing.assert_array_equal(advantages[kind].numpy()[:, column][~mask], 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_episode_metrics_count_what_ended(engine, monkeypatch):
    _, found = collect(engine, make_learner(), T, 2, monkeypatch)
    seen = {column: [] for column in range(3)}
    for i in range(2):
        trajectory, metrics = found[i]
        returns, lengths = [], []
        for column, length in enumerate(corridor.LENGTHS):
            rows = [valid(found[j][0], column) for j in range(i + 1)]
            paid, k = (np.concatenate([row[name] for row in rows]) for name in ("reward", "age"))
            episode = min(length, corridor.LIMIT)
            ended = [m for m in np.flatnonzero(k + 1 == episode) if m not in seen[column]]
            seen[column] += ended
            returns += [paid[m - episode + 1 : m + 1].sum() for m in ended]
            lengths += [episode] * len(ended)
        assert int(metrics["episodes"]) == len(returns)
        assert int(metrics["steps"]) == int(trajectory.mask.numpy().sum())
        for name, wanted in (("return_mean", np.mean(returns)), ("return_min", min(returns)), ("length_mean", np.mean(lengths))):
            assert float(metrics[name]) == pytest.approx(wanted, rel=1e-5), name


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("horizon", [4, 7])
def test_whole_episodes_begin_at_their_first_step_and_end_once(engine, horizon, monkeypatch):
    """Horizon 7 holds every episode; horizon 4 cuts two of them, which is a truncation."""
    _, found = collect(engine, make_learner("reinforce"), horizon, 2, monkeypatch)
    for trajectory, metrics in found:
        mask = trajectory.mask.numpy()
        lengths = [min(length, corridor.LIMIT, horizon) for length in corridor.LENGTHS]
        np.testing.assert_array_equal(mask, np.arange(horizon)[:, None] < np.array(lengths))
        for column, length in enumerate(corridor.LENGTHS):
            row = valid(trajectory, column)
            np.testing.assert_array_equal(row["age"], np.arange(lengths[column]))
            assert bool(row["terminated"][-1]) == (length == lengths[column])
            assert row["terminated"][-1] or row["truncated"][-1]
            assert not (row["terminated"] | row["truncated"])[:-1].any()
        assert int(metrics["episodes"]) == 3


@pytest.mark.parametrize("engine", ENGINES)
def test_stored_log_probs_are_those_of_the_policy_that_acted(engine, monkeypatch):
    learner = make_learner()
    state, ((trajectory, _),) = collect(engine, learner, T, 1, monkeypatch)
    p = learner.policy.parameters(state.policy, perceive(learner, state, tf.reshape(trajectory.observation, [-1, 2])))
    again = learner.policy.distribution(p).log_prob(tf.reshape(trajectory.action, [-1]))
    mask = trajectory.mask.numpy()
    np.testing.assert_allclose(trajectory.log_prob.numpy()[mask], tf.reshape(again, [T, 3]).numpy()[mask], rtol=1e-5)
    assert 0 < trajectory.action.numpy()[mask].mean() < 1


@pytest.mark.parametrize("engine", ["graph", "sync"])
def test_seeds_decide_the_actions(engine, monkeypatch):
    learner = make_learner()
    _, ((first, _), (second, _)) = collect(engine, learner, T, 2, monkeypatch)
    _, ((again, _),) = collect(engine, learner, T, 1, monkeypatch)
    np.testing.assert_array_equal(first.action, again.action)
    assert (first.action.numpy() != second.action.numpy()).any()


def test_environments_in_a_batch_start_differently():
    environment = cartpole.make()
    collect_whole = rollout.make_collect(environment, make_learner("reinforce", environment.spaces), 4, 3)
    learner = make_learner("reinforce", environment.spaces)
    state, carry = initial_state(learner, SEED), rollout.start(environment, learner, 4, SEED)
    starts = [collect_whole(state, carry, SEED + i)[1].observation[0].numpy() for i in range(2)]
    assert len(np.unique(np.concatenate(starts), axis=0)) == 8


def test_an_environment_without_a_time_limit_gets_one(monkeypatch):
    gymnasium.register("Endless-v0", corridor.Corridor)
    monkeypatch.setattr(gym, "TIME_LIMIT", 7)
    environment = gym.open_gymnasium("Endless-v0", 1, 2)
    environment.reset()
    truncated = [bool(environment.step(np.zeros(1, np.int64)).truncated[0]) for _ in range(9)]
    assert (environment.time_limit, truncated.index(True)) == (7, 6)


@pytest.mark.parametrize("engine", ["sync", "async", *(["envpool"] if importlib.util.find_spec("envpool") else [])])
def test_cartpole_of_every_engine_keeps_its_own_physics(engine):
    """Each valid row's next observation is one step of the equations from its observation: nothing is mixed up across resets."""
    environment = gym.ENGINES[engine]("CartPole-v1", 3, 5)
    learner = make_learner(spaces=environment.spaces)
    stream = rollout.Stream(environment, learner, 3, 120)
    trajectory, metrics = stream.collect(initial_state(learner, SEED), SEED)
    environment.close()
    mask = trajectory.mask.numpy()
    following = cartpole.physics(tf.reshape(trajectory.observation, [-1, 4]), tf.reshape(trajectory.action, [-1]))
    np.testing.assert_allclose(trajectory.next_observation.numpy()[mask], following.numpy().reshape(120, 3, 4)[mask], rtol=1e-4, atol=1e-5)
    outside = np.abs(trajectory.next_observation.numpy()[..., [0, 2]]) > [cartpole.X_LIMIT, cartpole.ANGLE_LIMIT]
    np.testing.assert_array_equal(trajectory.terminated.numpy()[mask], outside.any(-1)[mask])
    assert int(metrics["episodes"]) > 3


def test_a_group_begins_alike_and_acts_apart():
    """Groups of two: the same start within, different ones between; actions are drawn for each environment by itself."""
    environment = cartpole.make()
    config = Config(algo="reinforce_togo", baseline="time_mean", hidden="8", group=2)
    learner = build.make_learner(config, environment.spaces)
    state, run = initial_state(learner, SEED), tf.function(rollout.make_collect(environment, learner, 8, T))
    for i in range(2):
        _, trajectory, _ = run(state, rollout.start(environment, learner, 8, SEED), SEED + i)
        first = trajectory.observation[0].numpy()
        np.testing.assert_array_equal(first[::2], first[1::2])
        assert len(np.unique(first[::2, 0])) == 4
        assert not np.array_equal(trajectory.action[:, ::2], trajectory.action[:, 1::2])


@pytest.mark.parametrize(
    ("n", "group", "parts"),
    [
        (1, 1, 1),
        (512, 1, 1),
        (1023, 1, 1),
        (1024, 1, 2),
        (1536, 1, 3),
        (1537, 1, 1),
        (1030, 1, 2),
        (2048, 512, 4),
        (1200, 400, 1),
        (4096, 8, 8),
    ],
)
def test_many_environments_are_shared_out_in_equal_parts_and_whole_groups(n, group, parts):
    assert blocks.shared_out(n, group) == parts


@pytest.mark.parametrize("algo", ["npg", "reinforce"])
def test_parts_are_what_their_environments_are_alone(algo, monkeypatch):
    """Six environments in three parts: those of three pairs with seeds of their own, side by side, and what is told is of all of them."""
    environment = cartpole.make()
    learner = make_learner(algo, environment.spaces)
    state, carry = initial_state(learner, SEED), rollout.start(environment, learner, 6, SEED)
    alone = tf.function(rollout.make_collect(environment, learner, 2, 40))
    seeds = tf.unstack(tf.random.experimental.stateless_split(SEED, 3))
    pairs = [alone(state, tf.nest.map_structure(lambda x, i=i: x[2 * i : 2 * i + 2], carry), seeds[i]) for i in range(3)]
    monkeypatch.setattr(blocks, "ALONE", 2)
    after, trajectory, metrics = tf.function(rollout.make_collect(environment, learner, 6, 40))(state, carry, SEED)
    equal = lambda found, axis, parts: np.testing.assert_allclose(found, np.concatenate(parts, axis), rtol=1e-6)  # noqa: E731
    tf.nest.map_structure(lambda found, *parts: equal(found, 0, parts), after, *[pair[0] for pair in pairs])
    tf.nest.map_structure(lambda found, *parts: equal(found, 1, parts), trajectory, *[pair[1] for pair in pairs])
    assert len(np.unique(trajectory.observation[1, :, 1])) == 6
    told = [pair[2] for pair in pairs]
    ended = np.array([float(each["episodes"]) for each in told])
    assert (ended > 0).all()
    assert float(metrics["episodes"]) == ended.sum()
    assert float(metrics["steps"]) == trajectory.mask.numpy().sum() == sum(float(each["steps"]) for each in told)
    assert float(metrics["return_min"]) == min(float(each["return_min"]) for each in told)
    for name in ("return_mean", "length_mean"):
        assert float(metrics[name]) == pytest.approx(np.average([float(each[name]) for each in told], weights=ended), rel=1e-6)


def test_without_an_end_there_is_nothing_to_tell():
    environment = cartpole.make()
    learner = make_learner("npg", environment.spaces)
    state, carry = initial_state(learner, SEED), rollout.start(environment, learner, 2, SEED)
    metrics = tf.function(rollout.make_collect(environment, learner, 2, 3))(state, carry, SEED)[2]
    assert (int(metrics["steps"]), int(metrics["episodes"])) == (6, 0)
    assert np.isnan([metrics["return_mean"], metrics["return_min"], metrics["length_mean"]]).all()
