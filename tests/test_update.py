"""The update: what reaches the parameters, what must not, and in which order."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import algorithms, build, returns, surrogates, update
from tfpg.config import Config
from tfpg.types import Spaces, Trajectory

T, N = 7, 5
SEED, FULL = tf.constant([8, 9]), tf.constant(1.0)


def make_learner(algo="npg", actions=3, **changes):
    config = Config(algo=algo, hidden="6", discount=0.9, gae_lambda=0.8, critic_minibatches=3, **changes)
    spaces = Spaces((2,), actions=actions) if actions else Spaces((2,), action_low=(-1.0, -2.0), action_high=(1.0, 3.0))
    return build.make_learner(config, spaces)


def make_trajectory(learner, state, rng, whole=False):
    """Random steps scored by the policy; ends at several places, column 3 runs on; `whole` gives episodes of unequal length."""
    observation = tf.constant(rng.normal(1.0, 2.0, [T, N, 2]), tf.float32)
    p = learner.policy.parameters(state.policy, update.perceive(learner, state, update.flat(observation)))
    action = learner.policy.act(p, learner.policy.noise([T * N], SEED))
    log_prob = learner.policy.distribution(p).log_prob(action)
    terminated, truncated, mask = np.zeros([T, N], bool), np.zeros([T, N], bool), np.ones([T, N], bool)
    terminated[[2, 4, 6], [0, 1, 1]] = truncated[[3, 4, 5], [2, 1, 4]] = True
    if whole:
        for i, length in enumerate([7, 4, 5, 2, 6]):
            mask[length:, i], terminated[:, i], truncated[:, i] = False, np.arange(T) == length - 1, False
    following, reward = rng.normal(1.0, 2.0, [T, N, 2]).astype(np.float32), rng.normal(size=[T, N]).astype(np.float32)
    age = np.tile(np.arange(T, dtype=np.int32)[:, None], [1, N])
    shaped = (tf.reshape(action, [T, N, *action.shape[1:]]), tf.reshape(log_prob, [T, N]))
    return Trajectory(observation, *shaped, *map(tf.constant, (reward, following, terminated, truncated, mask, age)))


def prepare(rng, **kwargs):
    whole = kwargs.pop("whole", False)
    learner = make_learner(**kwargs)
    state = update.initial_state(learner, SEED)
    return learner, state, make_trajectory(learner, state, rng, whole)


def assert_equal(a, b):
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)


def differs(a, b):
    return any((x.numpy() != y.numpy()).any() for x, y in zip(tf.nest.flatten(a), tf.nest.flatten(b), strict=True))


def fill_padding(trajectory, number):
    """The same trajectory with `number` wherever the mask hides it."""

    def fill(x):
        hidden = np.broadcast_to(~trajectory.mask.numpy().reshape(T, N, *[1] * (x.ndim - 2)), x.shape)
        value = {tf.bool: True, tf.int32: 1}.get(x.dtype, number)
        return tf.constant(np.where(hidden, value, x.numpy()), x.dtype)

    return tf.nest.map_structure(fill, trajectory)._replace(mask=trajectory.mask)


@pytest.mark.parametrize("algo", algorithms.ALGORITHMS)
def test_padding_reaches_nothing(algo, rng):
    learner, state, trajectory = prepare(rng, algo=algo, whole=True)
    run = tf.function(update.make_update(learner))
    clean = run(state, fill_padding(trajectory, 0.0), SEED, FULL)
    assert float(clean[1]["skipped"]) == 0
    assert differs(clean[0].policy, state.policy)
    for garbage in (np.nan, np.inf, 1e30):
        assert_equal(run(state, fill_padding(trajectory, garbage), SEED, FULL), clean)
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("algo", ["reinforce_baseline", "trpo"])
def test_a_number_that_is_not_finite_changes_no_parameter(algo, jit, rng):
    learner, state, trajectory = prepare(rng, algo=algo)
    reward = trajectory.reward.numpy()
    reward[4, 3] = np.nan
    run = tf.function(update.make_update(learner), jit_compile=jit)
    after, metrics = run(state, trajectory._replace(reward=tf.constant(reward)), SEED, FULL)
    assert float(metrics["skipped"]) == 1
    assert_equal(after, state)
    assert float(run(state, trajectory, SEED, FULL)[1]["skipped"]) == 0


def test_statistics_are_taken_in_after_the_policy_has_moved(rng):
    learner, state, trajectory = prepare(rng)
    blind = learner._replace(observations=learner.observations._replace(update=lambda s, x, mask: s))
    after, plain = (update.make_update(each)(state, trajectory, SEED, FULL)[0] for each in (learner, blind))
    assert_equal(after.policy, plain.policy)
    seen = trajectory.observation.numpy().reshape(-1, 2)
    np.testing.assert_allclose(after.observations.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after.observations.variance, seen.var(0), rtol=1e-5)
    assert float(after.observations.count) == T * N


def test_statistics_in_force_are_used(rng):
    learner, state, trajectory = prepare(rng)
    moved = state._replace(observations=state.observations._replace(mean=tf.constant([5.0, -3.0])))
    assert differs(update.assess(learner, moved, trajectory)[0].observation, update.assess(learner, state, trajectory)[0].observation)


@pytest.mark.parametrize("algo", ["reinforce_baseline", "npg"])
def test_targets_are_the_lambda_returns_that_belong_to_psi(algo, rng):
    """target = G^lambda by the definition in `returns`, with lambda = 1 for the Monte-Carlo row."""
    learner, state, trajectory = prepare(rng, algo=algo)
    batch, target, v = update.assess(learner, state, trajectory)
    v_tp1 = update.values(learner, state, update.perceive(learner, state, update.flat(trajectory.next_observation)))
    lambda_ = 1.0 if algo == "reinforce_baseline" else 0.8
    vectors = returns.discount(0.9, trajectory.terminated), returns.trace(lambda_, trajectory.terminated, trajectory.truncated)
    shaped = (tf.reshape(x, [T, N]) for x in (v, v_tp1))
    wanted = returns.lambda_return(trajectory.reward, *vectors, *shaped, trajectory.mask)
    np.testing.assert_allclose(tf.reshape(target, [T, N]), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.psi, target - v, rtol=1e-4, atol=1e-5)
    assert np.abs(v).max() > 1e-3


def test_discounting_from_the_start_weighs_psi_by_age_and_leaves_targets(rng):
    learner, state, trajectory = prepare(rng)
    batch, target, _ = update.assess(learner, state, trajectory)
    weighed, same, _ = update.assess(learner._replace(weigh_by_age=True), state, trajectory)
    np.testing.assert_allclose(weighed.psi, batch.psi * 0.9 ** update.flat(trajectory.age).numpy(), rtol=1e-5)
    np.testing.assert_array_equal(target, same)


@pytest.mark.parametrize(("algo", "whole"), [("reinforce", True), ("npg", True)])
def test_batches_of_episodes_and_of_steps_are_normalised_by_name(algo, whole, rng):
    learner, state, trajectory = prepare(rng, algo=algo, whole=whole)
    batch, _, _ = update.assess(learner, state, trajectory)
    mask = update.flat(trajectory.mask).numpy()
    np.testing.assert_allclose(batch.weight, mask / (N if algo == "reinforce" else mask.sum()), rtol=1e-6)
    np.testing.assert_allclose(batch.share, mask / mask.sum(), rtol=1e-6)


def test_gain_and_kl_are_those_of_the_step_taken(rng):
    learner, state, trajectory = prepare(rng)
    after, metrics = update.make_update(learner)(state, trajectory, SEED, FULL)
    batch, _, _ = update.assess(learner, state, trajectory)
    old, new = (learner.policy.distribution(learner.policy.parameters(s.policy, batch.observation)) for s in (state, after))
    ratio = tf.exp(new.log_prob(batch.action) - old.log_prob(batch.action))
    assert float(metrics["surrogate_gain"]) == pytest.approx(float(tf.reduce_mean((ratio - 1) * batch.psi)), rel=1e-3)
    assert float(metrics["kl"]) == pytest.approx(float(tf.reduce_mean(old.kl_divergence(new))), rel=1e-3)
    assert float(metrics["entropy"]) == pytest.approx(float(tf.reduce_mean(old.entropy())), rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(0.01, rel=0.3)


def test_a_smaller_pace_is_a_smaller_radius(rng):
    learner, state, trajectory = prepare(rng)
    run = tf.function(update.make_update(learner))
    kl = [float(run(state, trajectory, SEED, tf.constant(pace))[1]["kl"]) for pace in (1.0, 0.25)]
    assert kl[1] / kl[0] == pytest.approx(0.25, rel=0.1)
    assert run.experimental_get_tracing_count() == 1


def test_the_critic_finds_the_least_squares_fit(rng):
    """A linear critic, long fitted, against numpy's least squares; samples of weight 0 do not count."""
    learner = make_learner(critic_learning_rate=0.02, critic_epochs=600)
    linear = build.values.state_value(build.nets.mlp([2, 1]))
    x, share = rng.normal(size=[30, 2]).astype(np.float32), np.full(30, 1 / 24, np.float32)
    y = (x @ [1.5, -0.7] + 0.3).astype(np.float32)
    share[::5], y[::5] = 0, 1e6
    learner = learner._replace(value=linear)
    phi = linear.init(SEED)
    fit = tf.function(
        lambda phi: update.fit_critic(learner, phi, learner.critic_optimizer.init(phi), *map(tf.constant, (x, y, share)), SEED)
    )
    phi, _ = fit(phi)
    np.testing.assert_allclose(np.ravel(phi[0]["kernel"]), [1.5, -0.7], atol=2e-2)
    np.testing.assert_allclose(phi[0]["bias"], [0.3], atol=2e-2)


def test_repeated_updates_teach_the_critic_the_scale_of_its_targets(rng):
    """Rewards of a few thousand that the observation tells: the critic explains nearly all of them after 60 fits of one batch."""
    learner, state, trajectory = prepare(rng, algo="reinforce_baseline", critic_learning_rate=0.01)
    trajectory = trajectory._replace(reward=3000 * trajectory.observation[..., 0], terminated=tf.ones([T, N], tf.bool))
    run, first = tf.function(update.make_update(learner)), None
    for i in range(60):
        state, metrics = run(state, trajectory, SEED + i, tf.constant(0.0))
        first = first or float(metrics["value_rmse"])
    assert first > 2000
    assert float(metrics["explained_variance"]) > 0.9
    assert float(metrics["value_rmse"]) < 0.3 * first


@pytest.mark.parametrize(("algo", "actions"), [("reinforce", 0), ("npg", 3), ("trpo", 0)])
def test_xla_and_graph_agree(algo, actions, rng):
    learner, state, trajectory = prepare(rng, algo=algo, actions=actions)
    results = [tf.function(update.make_update(learner), jit_compile=jit)(state, trajectory, SEED, FULL)[0] for jit in (False, True)]
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3), results[0].policy, results[1].policy)
    assert differs(results[0].policy, state.policy)


def test_a_keras_network_learns_through_the_same_update(rng):
    learner, state, trajectory = prepare(rng, network="keras")
    after, metrics = tf.function(update.make_update(learner), jit_compile=True)(state, trajectory, SEED, FULL)
    assert float(metrics["kl"]) == pytest.approx(0.01, rel=0.3)
    assert differs(after.policy, state.policy)
    assert differs(after.value, state.value)


def test_blocks_of_the_fisher_product_do_not_change_the_step(rng):
    learner, state, trajectory = prepare(rng)
    whole, blocked = (
        update.make_update(learner._replace(fisher_block=size))(state, trajectory, SEED, FULL)[0].policy for size in (10**6, 4)
    )
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), whole, blocked)


def test_psi_and_old_log_probs_are_data(rng):
    """No gradient of the objective flows into what the batch holds."""
    learner, state, trajectory = prepare(rng)
    with tf.GradientTape() as tape:
        tape.watch((trajectory.reward, trajectory.log_prob, state.value))
        batch, _, _ = update.assess(learner, state, trajectory)
        problem = update.policy_problem(learner.policy, surrogates.importance, state.policy, batch, 100)
        objective = problem.objective(state.policy)
    found = tape.gradient(objective, (trajectory.reward, trajectory.log_prob, state.value))
    assert all(leaf is None for leaf in tf.nest.flatten(found))
