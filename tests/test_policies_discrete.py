"""Policies of several discrete components against their definition: every joint action listed."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from tfpg import gradients, nets, policies

SEED = tf.constant([3, 5])
SIZES, STARTS = (3, 1, 4, 2), (0, 5, -2, 1)
JOINT = np.array(list(itertools.product(*map(range, SIZES))), np.int32)
SAMPLES = 20_000


def make(dtype=tf.float64, sizes=SIZES, starts=STARTS):
    return policies.multi_categorical(nets.mlp([3, 5, sum(sizes)], dtype=dtype), sizes, starts, dtype)


def drawn(rng, policy, m=5):
    """Parameters of some size, and observations [m, 3]."""
    theta = tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(scale=0.9, size=leaf.shape), leaf.dtype), policy.init(SEED))
    return theta, tf.constant(rng.normal(size=[m, 3]), tf.nest.flatten(theta)[0].dtype)


def components(theta, observation):
    """The probabilities of each component, by softmax of its own slice of the network's outputs."""
    outputs = nets.mlp([3, 5, sum(SIZES)], dtype=observation.dtype).apply(theta, observation).numpy()
    slices = np.split(outputs, np.cumsum(SIZES)[:-1], axis=-1)
    return [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in slices]


def joint(theta, observation):
    """pi(a|o) of all joint actions: [M, number of joint actions]."""
    pi = components(theta, observation)
    return np.stack([np.prod([pi[k][:, a[k]] for k in range(len(SIZES))], axis=0) for a in JOINT], axis=1)


def every(policy, p):
    """log pi of all joint actions, as the policy has it."""
    return tf.stack([policy.distribution(p).log_prob(tf.broadcast_to(a, [*p["logits"].shape[:-2], len(SIZES)])) for a in JOINT], axis=1)


def test_log_prob_of_every_joint_action(mode, rng):
    policy = make()
    theta, observation = drawn(rng, policy)
    found = mode(lambda theta, o: every(policy, policy.parameters(theta, o)))(theta, observation)
    np.testing.assert_allclose(found, np.log(joint(theta, observation)), rtol=1e-10)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-12)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_entropy_and_divergence_are_sums_over_joint_actions(mode, rng, dtype):
    policy = make(dtype)
    (theta, observation), (other, _) = drawn(rng, policy), drawn(rng, policy)

    def both(theta, other):
        p, q = (policy.distribution(policy.parameters(x, observation)) for x in (theta, other))
        return p.entropy(), p.kl_divergence(q), q.kl_divergence(p)

    found = mode(both)(theta, other)
    p, q = joint(theta, observation), joint(other, observation)
    wanted = -(p * np.log(p)).sum(1), (p * np.log(p / q)).sum(1), (q * np.log(q / p)).sum(1)
    for x, y in zip(found, wanted, strict=True):
        assert x.shape == (5,)
        np.testing.assert_allclose(x, y, rtol=1e-11 if dtype == tf.float64 else 1e-4)


@pytest.mark.parametrize("kind", ["log_prob", "entropy", "divergence"])
def test_gradients_are_those_of_the_sums(kind, mode, rng):
    """Against the same quantities written with one softmax per slice and no padding."""
    policy = make()
    (theta, observation), (other, _) = drawn(rng, policy), drawn(rng, policy)
    action = tf.constant(JOINT[[0, 5, 9, 17, 23]])
    net = nets.mlp([3, 5, sum(SIZES)], dtype=tf.float64)

    def ours(theta):
        p, q = (policy.distribution(policy.parameters(x, observation)) for x in (theta, other))
        return tf.reduce_sum(
            {"log_prob": lambda: p.log_prob(action), "entropy": p.entropy, "divergence": lambda: q.kl_divergence(p)}[kind]()
        )

    def plain(theta):
        total = 0.0
        slices = zip(*(tf.split(net.apply(x, observation), SIZES, axis=-1) for x in (theta, other)), strict=True)
        for k, (x, y) in enumerate(slices):
            log_p, log_q = tf.nn.log_softmax(x), tf.nn.log_softmax(y)
            total += {
                "log_prob": tf.reduce_sum(tf.one_hot(action[:, k], SIZES[k], dtype=tf.float64) * log_p),
                "entropy": -tf.reduce_sum(tf.exp(log_p) * log_p),
                "divergence": tf.reduce_sum(tf.exp(log_q) * (log_q - log_p)),
            }[kind]
        return total

    value, slope = mode(lambda theta: gradients.gradient(ours, theta))(theta)
    wanted_value, wanted = gradients.gradient(plain, theta)
    np.testing.assert_allclose(value, wanted_value, rtol=1e-12)
    for x, y in zip(tf.nest.flatten(slope), tf.nest.flatten(wanted), strict=True):
        assert np.abs(y).max() > 1e-3
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_fisher_product_is_the_explicit_sum_over_joint_actions(mode, rng, dtype):
    """F v = sum_m w_m sum_a pi(a|o_m) g_a (g_a . v), g_a the score of joint action a; compiled too: forward over reverse."""
    policy = make(dtype)
    theta, observation = drawn(rng, policy)
    weight = tf.constant([0.1, 0.4, 0.2, 0.05, 0.25], dtype)
    v = tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(size=leaf.shape), dtype), theta)
    found = mode(lambda theta, v: gradients.fisher_vector_product(policy, theta, observation, weight, v))(theta, v)
    pi, wanted = joint(theta, observation), 0.0
    flat_v = np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(v)])
    for a, action in enumerate(JOINT):
        scores = gradients.score(policy, theta, observation, tf.broadcast_to(action, [5, len(SIZES)]))
        g = np.concatenate([np.reshape(leaf, [5, -1]) for leaf in tf.nest.flatten(scores)], axis=1)
        wanted += np.einsum("m,mi,m->i", weight * pi[:, a], g, g @ flat_v)
    flat = np.concatenate([np.ravel(leaf) for leaf in tf.nest.flatten(found)])
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(flat, wanted, rtol=0, atol=np.abs(wanted).max() * (1e-11 if dtype == tf.float64 else 1e-5))


@pytest.mark.parametrize("size", [1.0, 1e4])
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_what_fills_up_has_no_part_in_anything(mode, rng, dtype, size):
    """Padding of another size gives the same numbers; its own derivatives are 0, also of second order, also for logits of thousands."""
    policy, present = make(dtype), np.arange(max(SIZES)) < np.array(SIZES)[:, None]
    logits = tf.constant(rng.normal(scale=size, size=[6, *present.shape]), dtype)
    other, u = (tf.constant(rng.normal(size=logits.shape), dtype) for _ in range(2))
    action = tf.constant(JOINT[[0, 5, 9, 17, 23, 2]])

    def numbers(x, y, u):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            p, q = policy.distribution({"logits": x}), policy.distribution({"logits": y})
            values = (p.log_prob(action), p.entropy(), p.kl_divergence(q), q.kl_divergence(p))
        slopes = [tape.gradient(value, x) for value in values]
        curved = gradients.head_fisher(policy.distribution, {"logits": x}, {"logits": u})["logits"]
        return values, [*slopes, curved]

    def filled(x, fill):
        return tf.where(present, x, tf.constant(fill, dtype))

    values, derivatives = mode(numbers)(filled(logits, policies.NEVER), filled(other, policies.NEVER), u)
    again, _ = mode(numbers)(filled(logits, 3 * policies.NEVER), filled(other, 3 * policies.NEVER), u)
    for x, y in zip(values, again, strict=True):
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(x, y)
    for x in derivatives:
        assert np.isfinite(x).all()
        np.testing.assert_array_equal(np.asarray(x)[:, ~present], 0)
    np.testing.assert_array_equal(np.asarray(policy.parameters(*drawn(rng, policy))["logits"])[:, ~present], policies.NEVER)


def test_samples_follow_the_joint_distribution(mode, rng):
    """|z| <= 5 in every cell of 20,000 samples; components of a sample are independent, so are samples."""
    policy = make(tf.float32)
    theta, observation = drawn(rng, policy, 1)
    draw = mode(lambda p, seed: policy.act(p, policy.noise([SAMPLES, 1], seed)))
    action = draw(policy.parameters(theta, observation), SEED).numpy()[:, 0]
    assert action.dtype == np.int32
    counts = np.array([(action == a).all(1).sum() for a in JOINT])
    assert counts.sum() == SAMPLES
    expected = SAMPLES * joint(theta, observation)[0]
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_mode_and_the_environment_s_own_numbers(rng):
    policy = make()
    theta, observation = drawn(rng, policy)
    best = policy.mode(policy.parameters(theta, observation))
    np.testing.assert_array_equal(best, JOINT[joint(theta, observation).argmax(1)])
    np.testing.assert_array_equal(policy.to_env(best), best + np.array(STARTS))
    np.testing.assert_array_equal(make(starts=None).to_env(best), best)


def test_time_and_batch_axes_go_before():
    policy = make()
    p = policy.parameters(policy.init(SEED), tf.ones([2, 7, 3], tf.float64))
    action = policy.act(p, policy.noise([2, 7], SEED))
    assert (p["logits"].shape, action.shape, policy.distribution(p).log_prob(action).shape) == ((2, 7, 4, 4), (2, 7, 4), (2, 7))


@pytest.mark.parametrize(("sizes", "starts"), [((3, 0), (0, 0)), ((3, 2), (0,))])
def test_sizes_and_starts_that_do_not_go_together_are_refused(sizes, starts):
    with pytest.raises(ValueError, match="as many starts as sizes are allowed, and sizes from 1 on"):
        make(sizes=sizes, starts=starts)


def test_shaped_actions_reach_the_environment_in_its_own_shape(mode):
    policy = policies.shaped(make(), (2, 2))
    action = tf.constant(JOINT[:10].reshape(5, 2, 4))
    found = mode(policy.to_env)(action)
    np.testing.assert_array_equal(found, (JOINT[:10] + np.array(STARTS)).reshape(5, 2, 2, 2))
    scalar = policies.shaped(policies.gaussian(nets.mlp([3, 1]), [-2.0], [2.0]), ())
    np.testing.assert_array_equal(scalar.to_env(tf.constant([[0.25], [7.0]])), [0.5, 2.0])
