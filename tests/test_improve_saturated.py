"""The natural gradient where the policy is nearly certain: the quadratic model then calls any step short."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import improve, nets, optimizers, policies, surrogates, trees
from tfpg.gradients import fisher_vector_product, gradient
from tfpg.types import Problem

RADIUS, DAMPING = 0.01, 0.1


def certain(margin):
    """A policy over two actions that takes the first with probability 1 / (1 + e^-margin), and a batch that says the other is better."""
    policy = policies.categorical(nets.mlp([1, 2]), 2)
    theta = ({"kernel": tf.zeros([1, 2]), "bias": tf.constant([margin, 0.0])},)
    observation, action = tf.ones([8, 1]), tf.constant([0] * 7 + [1])
    weight, psi = tf.fill([8], 1 / 8), tf.constant([-0.1] * 7 + [1.0])
    old = policy.distribution(policy.parameters(theta, observation))

    def objective(params):
        log_prob = policy.distribution(policy.parameters(params, observation)).log_prob(action)
        return surrogates.weighted_sum(weight, surrogates.importance(log_prob, old.log_prob(action), psi))

    def divergence(params):
        return surrogates.weighted_sum(weight, old.kl_divergence(policy.distribution(policy.parameters(params, observation))))

    flat = lambda v: trees.flatten(fisher_vector_product(policy, theta, observation, weight, trees.unflatten(v, theta)))  # noqa: E731
    fisher = lambda: flat  # noqa: E731
    return theta, Problem(
        objective, lambda t: gradient(objective, t)[1], divergence, fisher, lambda t: {}, lambda t: 1.0, lambda rows: None
    )


def settings():
    return improve.Settings(optimizers.sgd(1.0), 0.1, RADIUS, DAMPING, 10, 0.8, 10)


@pytest.mark.parametrize("margin", [0.0, 5.0, 12.0, 25.0, 60.0])
def test_a_step_never_leaves_the_radius_however_certain_the_policy(margin):
    theta, problem = certain(margin)
    better, _, info = improve.natural(improve.kl_scaled)(problem, theta, (), settings(), tf.constant(1.0), ())
    moved = sum(float(tf.reduce_sum((a - b) ** 2)) for a, b in zip(tf.nest.flatten(better), tf.nest.flatten(theta), strict=True))
    assert float(problem.divergence(better)) <= 1.3 * RADIUS
    assert 0.5 * DAMPING * moved <= RADIUS * (1 + 1e-4)
    assert np.isfinite(float(info["step_size"]))


def test_where_the_policy_is_undecided_the_step_fills_the_radius():
    theta, problem = certain(0.0)
    better, _, _ = improve.natural(improve.kl_scaled)(problem, theta, (), settings(), tf.constant(1.0), ())
    assert float(problem.divergence(better)) == pytest.approx(RADIUS, rel=0.2)
