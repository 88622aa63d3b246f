"""Fitting by minibatches: critics of V and Q, and models, against least squares."""

import numpy as np
import pytest
import tensorflow as tf
from learners import SEED, N, T, begun, make, trajectory

from tfpg import fit, minibatches, nets, optimizers, update, values
from tfpg.assess import assess, lesson, view
from tfpg.learner import Fit


def ordered(plan, samples, seed=SEED):
    """Which samples are in which minibatch."""
    return minibatches.orders(samples, plan.epochs, plan.minibatches, seed)


def fitted(made, net_value, data, share):
    """phi after a long fit, from the start."""
    phi = net_value.init(SEED)
    made = made._replace(value=net_value)
    order = ordered(made.critic, len(share))
    run = tf.function(lambda phi, memory: fit.fit_critic(made, phi, memory, *map(tf.constant, (*data, share)), order))
    return run(phi, made.critic.optimizer.init(phi))[0]


LONG = {"critic_learning_rate": 0.02, "critic_epochs": 600}


def test_the_critic_finds_the_least_squares_fit(rng):
    """A linear critic, long fitted; samples of weight 0 do not count, be their targets not numbers."""
    x, share = rng.normal(size=[30, 2]).astype(np.float32), np.full(30, 1 / 24, np.float32)
    y = (x @ [1.5, -0.7] + 0.3).astype(np.float32)
    share[::5], y[::5] = 0, np.nan
    phi = fitted(make(**LONG), values.state_value(nets.mlp([2, 1])), (x, np.zeros(30, np.int32), y), share)
    np.testing.assert_allclose(np.ravel(phi[0]["kernel"]), [1.5, -0.7], atol=2e-2)
    np.testing.assert_allclose(phi[0]["bias"], [0.3], atol=2e-2)


def test_the_critic_of_actions_fits_the_action_that_was_taken(rng):
    """Another line for each action, each learned from its own samples alone; the third action never occurs and stays as it began."""
    x, a = rng.normal(size=[36, 2]).astype(np.float32), (np.arange(36) % 2).astype(np.int32)
    slopes = np.array([[1.5, -0.7], [-0.4, 0.8]])
    y = ((x * slopes[a]).sum(-1) + np.array([0.3, -1.0])[a]).astype(np.float32)
    value = values.action_values(nets.mlp([2, 3]))
    phi = fitted(make(**LONG), value, (x, a, y), np.full(36, 1 / 36, np.float32))
    np.testing.assert_allclose(np.transpose(phi[0]["kernel"])[:2], slopes, atol=2e-2)
    np.testing.assert_allclose(phi[0]["bias"][:2], [0.3, -1.0], atol=2e-2)
    np.testing.assert_array_equal(phi[0]["kernel"][:, 2], value.init(SEED)[0]["kernel"][:, 2])


def test_the_critic_of_real_actions_reads_them(rng):
    x, a = rng.normal(size=[2, 36, 2]).astype(np.float32)
    y = (x @ [1.5, -0.7] + a @ [0.2, -1.1] + 0.3).astype(np.float32)
    phi = fitted(make(**LONG), values.real_action_value(nets.mlp([4, 1])), (x, a, y), np.full(36, 1 / 36, np.float32))
    np.testing.assert_allclose(np.ravel(phi[0]["kernel"]), [1.5, -0.7, 0.2, -1.1], atol=2e-2)


def test_each_pass_shares_the_samples_out_and_another_remainder_sits_out():
    """The identity as a loss tells which samples a minibatch holds: sgd on phi . (indicator) leaves a mark on each of them."""
    marks = tf.eye(11)
    plan = Fit(optimizers.sgd(1.0), epochs=1, minibatches=3)

    def loss(phi, part):
        rows, w = part
        return -tf.reduce_sum(tf.linalg.matvec(rows, phi) * tf.stop_gradient(w))

    left_out = []
    for k in range(12):
        phi, _ = fit.by_minibatches(plan, loss, marks, tf.fill([11], 1 / 11), tf.zeros([11]), (), ordered(plan, 11, tf.constant([3, k])))
        np.testing.assert_allclose(np.sort(phi), [0, 0, *[1 / 3] * 9], rtol=1e-6)  # three parts of three, each with shares that sum to 1
        left_out.append(tuple(np.flatnonzero(phi.numpy() == 0)))
    assert len(set(left_out)) > 6
    plan = plan._replace(epochs=4)
    phi, _ = fit.by_minibatches(plan, loss, marks, tf.fill([11], 1 / 11), tf.zeros([11]), (), ordered(plan, 11))
    assert (phi.numpy() > 0).all()  # four passes leave nobody out: with one order for all of them two would be
    assert float(tf.reduce_sum(phi)) == pytest.approx(12)


@pytest.mark.parametrize(
    ("changes", "critic", "policy"),
    [
        ({"algo": "npg"}, (35, 3, 5), None),
        ({"algo": "reinforce"}, None, None),
        ({"algo": "ppo", "epochs": 4}, (35, 3, 5), (35, 2, 4)),
        ({"algo": "ppo", "epochs": 4, "network": "gru"}, (35, 3, 5), (5, 2, 4)),
        ({"algo": "off_policy", "epochs": 4}, (35, 3, 5), (5, 2, 4)),
        ({"algo": "pathwise", "epochs": 4, "critic_epochs": 6, "kind": "real"}, (35, 3, 6), (35, 2, 4)),
        ({"algo": "npg", "critic_minibatches": 1}, (35, 1, 5), None),
    ],
    ids=str,
)
def test_orders_are_of_samples_and_where_time_matters_of_columns(changes, critic, policy, rng):
    """Of 7 steps of 5 environments: the critic takes 35 samples, a policy with a memory, or weighed over time, 5 columns."""
    made = make(**changes)
    state = begun(made)
    found = update.drawn(made, assess(made, state, trajectory(made, state, rng, whole=True), SEED), [SEED, SEED + 1])
    assert tuple((order.units, order.minibatches, order.keys.shape[0]) if order else None for order in found) == (critic, policy)
    if found[0] and found[1]:
        assert not np.isin(found[0].keys, found[1].keys).any()  # another order each


def test_a_single_minibatch_is_the_batch_as_it_is_at_each_pass():
    seen = []
    step = lambda rows, passes: seen.append(rows) or passes + 1  # noqa: E731
    assert int(minibatches.passes(step, tf.constant(0), minibatches.orders(5, 3, 1, SEED))) == 3
    assert seen == [None] * 3
    marks, plan = tf.eye(5), Fit(optimizers.sgd(1.0), epochs=3, minibatches=1)
    loss = lambda phi, part: -tf.reduce_sum(tf.linalg.matvec(part[0], phi) * part[1])  # noqa: E731
    phi, _ = fit.by_minibatches(plan, loss, marks, tf.fill([5], 1 / 5), tf.zeros([5]), (), ordered(plan, 5))
    np.testing.assert_allclose(phi, [3 / 5] * 5, rtol=1e-6)


def test_shares_weigh_samples_within_their_minibatch():
    plan = Fit(optimizers.sgd(1.0), epochs=1, minibatches=1)
    share = tf.constant([0.1, 0.3, 0.0, 0.2])

    def loss(phi, part):
        return -tf.tensordot(part[1], tf.linalg.matvec(part[0], phi), 1)

    phi, _ = fit.by_minibatches(plan, loss, tf.eye(4), share, tf.zeros([4]), (), ordered(plan, 4))
    np.testing.assert_allclose(phi, np.array(share) / 0.6, rtol=1e-6)


def linear_data(rng, m):
    """o' = o + A o + B a + c and r = u.o + v.a + w, exactly."""
    o, a = rng.normal(size=[2, m, 2]).astype(np.float32)
    change = o @ np.array([[-0.1, 0.3], [0.2, -0.4]]) + a @ np.array([[0.5, 0.0], [-0.2, 0.7]]) + [0.1, -0.2]
    return o, a, change.astype(np.float32), (o @ [0.6, -0.3] + a @ [0.2, 0.4] + 0.25).astype(np.float32)


def test_a_model_of_linear_data_predicts(rng):
    made = make("pathwise", "real", hidden="", **LONG)
    o, a, change, reward = linear_data(rng, 60)
    share = np.full(60, 1 / 48, np.float32)
    share[::5], change[::5] = 0, np.nan
    phi = made.model.init(SEED)
    order = ordered(made.critic, 60)
    run = tf.function(lambda phi, memory: fit.fit_model(made, phi, memory, *map(tf.constant, (o, a, change, reward, share)), order))
    phi, _ = run(phi, made.critic.optimizer.init(phi))
    o, a, change, reward = linear_data(np.random.default_rng(99), 20)
    found = made.model.apply(phi, tf.concat([o, a], -1))
    np.testing.assert_allclose(found[:, :-1], change, atol=3e-2)
    np.testing.assert_allclose(found[:, -1], reward, atol=3e-2)


def test_an_update_fits_the_model_to_what_the_networks_see(rng):
    """Rewards of a few hundreds: changes are fitted in units of the observations' deviation, rewards of theirs."""
    made = make("pathwise", "real", hidden="", critic_learning_rate=0.02, critic_epochs=400)
    state = begun(made, rng)
    t = trajectory(made, state, rng, whole=True)
    o, a = np.reshape(t.observation, [-1, 2]), np.reshape(t.action, [-1, 2])
    after = np.reshape(o + o @ np.array([[-0.1, 0.3], [0.2, -0.4]]) + 0.5 * a, [T, N, 2]).astype(np.float32)
    reward = np.reshape(300 * (o @ [0.6, -0.3]) + 100 * a[:, 0], [T, N]).astype(np.float32)
    t = t._replace(next_observation=tf.constant(after), reward=tf.constant(reward))
    taught = lesson(made, state, view(made, state, t), t.reward)
    new, metrics = tf.function(lambda: update.improve_model(made, state, t, taught, ordered(made.critic, T * N)))()
    assert float(metrics["explained_variance"]) > 0.99
    mean, deviation = np.array(state.observations.mean), np.sqrt(np.array(state.observations.variance))
    z = (np.array([[1.0, 2.0]]) - mean) / deviation
    inputs = tf.constant(np.concatenate([z, [[0.3, -0.4]]], -1), tf.float32)
    predicted = made.model.apply(new.model, inputs)[0].numpy()
    change = (np.array([1.0, 2.0]) @ np.array([[-0.1, 0.3], [0.2, -0.4]]) + 0.5 * np.array([0.3, -0.4])) / deviation
    np.testing.assert_allclose(predicted[:2], change, atol=5e-2)
    in_units = new.targets.mean + predicted[2] * np.sqrt(new.targets.variance)
    assert float(in_units) == pytest.approx(300 * (0.6 - 0.6) + 30, abs=15)
