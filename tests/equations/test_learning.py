"""The loop that samples, estimates and ascends: whether it learns, whether it stops, and whether its samples are of its own policy."""

import numpy as np
import pytest
import tensorflow as tf
from episodes import softmax

from tfpg import estimators, learning, objectives, optimizers, returns
from tfpg.gradients import gradient
from tfpg.tabular import TabularMDP
from tfpg.types import Optimizer

equation = pytest.mark.equation
SEED = [5, 9]


def bandit(rewards):
    """One state, one step, and an arm per action."""
    return TabularMDP([1.0], np.ones([1, len(rewards), 1]), [rewards], horizon=1)


TASKS = {
    # process, rate, episodes per iteration, iterations: the budget
    "two arms": (bandit([1.0, 0.2]), 4.0, 20, 250),
    "five arms": (bandit([0.1, -0.5, 0.9, 0.3, 0.0]), 4.0, 40, 400),
    "a process": (TabularMDP.random(4, gamma=0.9), 2.0, 50, 400),
}
every_task = pytest.mark.parametrize("task", TASKS)


def togo(mdp):
    """grad log pi times the reward to go less its mean over the batch, by automatic differentiation."""

    def estimate(theta, t):
        g_t = returns.reward_to_go(t.reward, returns.discount(mdp.gamma, t.terminated, t.reward), tf.ones_like(t.reward), t.mask)
        psi_t = returns.discount_from_start(g_t - tf.reduce_mean(g_t, axis=1, keepdims=True), mdp.gamma, t.age)
        pairs = tf.stack([t.observation, t.action], axis=-1)

        def objective(theta):
            log_prob_t = tf.gather_nd(tf.nn.log_softmax(theta), pairs)
            return objectives.pseudo(log_prob_t, psi_t, t.mask, "traj")

        return gradient(objective, theta)[1]

    return estimate


def learn(task, seed=SEED, **changes):
    mdp, rate, episodes, iterations = TASKS[task]
    given = {"optimizer": optimizers.sgd(rate), "iterations": iterations, "estimate": togo(mdp), **changes}

    @tf.function(autograph=False)
    def run(seed):
        theta = tf.zeros_like(mdp.reward)
        return learning.reinforce(lambda theta, seed: mdp.sample(theta, episodes, seed), params=theta, seed=seed, **given)

    return run(tf.constant(seed))


def share_of_optimum(mdp, theta):
    """(J - J_0) / (J* - J_0), J_0 that of the uniform policy."""
    uniform, best = mdp.objective(tf.zeros_like(theta)), tf.tensordot(mdp.start, mdp.optimal_values().v[0], 1)
    assert float(best - uniform) > 0.2
    return float((mdp.objective(theta) - uniform) / (best - uniform))


@equation("PG-124")
@every_task
def test_it_reaches_99_percent_of_the_optimum_within_the_budget(task):
    learned = learn(task)
    assert int(learned.iterations) == TASKS[task][-1]
    assert share_of_optimum(TASKS[task][0], learned.params) > 0.99


@equation("PG-124", "PG-122")
def test_any_optimiser_will_do():
    learned = learn("five arms", optimizer=optimizers.adam(0.05))
    assert share_of_optimum(TASKS["five arms"][0], learned.params) > 0.95


@equation("PG-124", "PG-26")
def test_exact_gradients_never_lower_the_objective(mode):
    """theta <- theta + alpha grad J, as numpy would do it; J rises at every step."""
    mdp, theta = TabularMDP.random(4, gamma=0.9), np.zeros((3, 2))

    def climbed(iterations):
        exact = lambda theta, batch: mdp.gradient(theta)  # noqa: E731
        arguments = tf.zeros([3, 2], tf.float64), optimizers.sgd(0.5), iterations, tf.constant(SEED)
        return learning.reinforce(lambda theta, seed: (), exact, *arguments)

    climb, height = mode(climbed), [float(mdp.objective(theta))]
    for k in range(1, 6):
        slope = mdp.gradient(theta).numpy()
        theta = theta + 0.5 * slope
        found = climb(tf.constant(k))
        np.testing.assert_allclose(found.params, theta, atol=1e-13)
        assert float(found.gradient_norm) == pytest.approx(np.linalg.norm(slope))
        height.append(float(mdp.objective(found.params)))
    assert (np.diff(height) > 1e-3).all()


@equation("PG-124")
def test_the_same_seed_learns_the_same_and_another_does_not():
    first, again, other = (learn("two arms", seed, iterations=20) for seed in (SEED, SEED, [5, 10]))
    tf.nest.map_structure(np.testing.assert_array_equal, first, again)
    assert np.abs(first.params - other.params).min() > 1e-6


def recorded(iterations, tolerance=0.0, rate=1.0, rewards=(1.0, 0.2, -0.4), episodes=6):
    """The loop step by step in Python: what was given to `sample` and to `estimate`, the batches, and the estimates."""
    mdp, log = bandit(list(rewards)), {"sampled": [], "seeds": [], "estimated": [], "batches": [], "g": []}

    def sample(theta, seed):
        log["sampled"].append(theta.numpy())
        log["seeds"].append(tuple(np.asarray(seed)))
        log["batches"].append(mdp.sample(theta, episodes, seed))
        return log["batches"][-1]

    def estimate(theta, batch):
        log["estimated"].append(theta.numpy())
        g = tf.reshape(estimators.reinforce(mdp.score_t(theta, batch), batch.reward, 1.0, batch.mask), theta.shape)
        log["g"].append(g.numpy())
        assert batch is log["batches"][-1]
        return g

    start = tf.constant([[0.5, -0.1, 0.2]], tf.float64)
    return learning.reinforce(sample, estimate, start, optimizers.sgd(rate), iterations, tf.constant(SEED), tolerance), log


@equation("PG-124", "PG-129")
def test_every_iteration_samples_anew_from_the_policy_that_it_improves():
    learned, log = recorded(8)
    assert len(log["batches"]) == int(learned.iterations) == 8
    assert len(set(log["seeds"])) == 8
    theta = np.array([[0.5, -0.1, 0.2]])
    for sampled, estimated, batch, g in zip(log["sampled"], log["estimated"], log["batches"], log["g"], strict=True):
        np.testing.assert_allclose(sampled, theta, atol=1e-14)
        np.testing.assert_array_equal(estimated, sampled)
        np.testing.assert_allclose(batch.log_prob, np.log(softmax(theta))[0, batch.action], atol=1e-14)
        theta = theta + g
    np.testing.assert_allclose(learned.params, theta, atol=1e-13)
    assert float(learned.gradient_norm) == pytest.approx(np.linalg.norm(log["g"][-1]))
    actions = {tuple(np.ravel(batch.action)) for batch in log["batches"]}
    assert len(actions) > 4


@equation("PG-124")
def test_it_stops_when_the_gradient_is_small_or_the_budget_is_spent():
    mdp = bandit([1.0, 0.0])

    def climbed(iterations, tolerance):
        start = tf.zeros([1, 2], tf.float64)
        return learning.reinforce(
            lambda theta, seed: (), lambda theta, _: mdp.gradient(theta), start, optimizers.sgd(5.0), iterations, SEED, tolerance
        )

    stopped, theta, k = climbed(1000, 0.01), np.zeros((1, 2)), 0
    while True:
        g = mdp.gradient(theta).numpy()
        theta, k = theta + 5 * g, k + 1
        if np.linalg.norm(g) < 0.01:
            break
    assert int(stopped.iterations) == k
    assert 5 < k < 500
    assert float(stopped.gradient_norm) < 0.01
    np.testing.assert_allclose(stopped.params, theta, rtol=1e-10)
    assert int(climbed(7, 0.01).iterations) == 7
    assert int(climbed(0, 0.01).iterations) == 0


@equation("PG-124")
def test_a_batch_without_reward_is_no_reason_to_stop():
    """One episode at a time, one arm in three pays: most estimates are exactly zero."""
    learned, log = recorded(30, rewards=(0.0, 0.0, 1.0), episodes=1)
    still = [not np.any(g) for g in log["g"]]
    assert 0 < sum(still) < 30
    assert int(learned.iterations) == 30


@equation("PG-124", "PG-26")
def test_parameters_may_be_nests_and_the_memory_travels_along():
    """Momentum as optimiser, parameters in two leaves of single and double precision, a whole loop as one compiled program."""
    momentum = Optimizer(
        lambda params: tf.nest.map_structure(tf.zeros_like, params),
        lambda g, m: 2 * (tf.nest.map_structure(lambda g, m: g + tf.cast(0.5, g.dtype) * m, g, m),),
    )
    start = {"a": tf.constant([1.0, -2.0]), "b": tf.constant(3.0)}

    @tf.function(autograph=False, jit_compile=True)
    def run():
        constant = lambda theta, batch: {"a": tf.ones([2]) * batch, "b": tf.ones([]) * batch}  # noqa: E731
        return learning.reinforce(lambda theta, seed: tf.constant(0.25), constant, start, momentum, 3, tf.constant(SEED))

    moved = 0.25 * (1 + 1.5 + 1.75)
    np.testing.assert_allclose(run().params["a"], [1 + moved, -2 + moved], rtol=1e-6)
    np.testing.assert_allclose(run().params["b"], 3 + moved, rtol=1e-6)
    assert float(run().gradient_norm) == pytest.approx(0.25 * 3**0.5)
