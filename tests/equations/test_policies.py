"""Policies against their definitions: of the softmax its density, score, divergence and samples; of both heads their types and seeds."""

import numpy as np
import pytest
import tensorflow as tf

from tfpg import gradients, nets, policies

equation = pytest.mark.equation

SEED = tf.constant([3, 5])
SAMPLES = 20_000


def categorical(actions=4, start=0, dtype=tf.float64):
    return policies.categorical(nets.mlp([3, 5, actions], dtype=dtype), actions, start, dtype)


def gaussian(actions=2, initial_log_std=0.0, dtype=tf.float64):
    return policies.gaussian(nets.mlp([3, 4, actions], dtype=dtype), [-1.0] * actions, [2.0] * actions, initial_log_std, dtype)


def random_like(nest, rng):
    return tf.nest.map_structure(lambda leaf: tf.constant(rng.normal(scale=0.7, size=leaf.shape), leaf.dtype), nest)


def softmax(logits):
    unnormalised = np.exp(logits)
    return unnormalised / unnormalised.sum(-1, keepdims=True)


def assert_frequencies(counts, probabilities):
    """|z| <= 5 for every cell, and the chi-square statistic below its 1 - 1e-6 quantile."""
    expected = counts.sum() * probabilities
    z = (counts - expected) / np.sqrt(expected * (1 - probabilities))
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert np.abs(z).max() <= 5
    assert float(tf.math.igammac((len(counts) - 1) / 2, statistic / 2)) > 1e-6


# Categorical


@equation("PG-90")
def test_categorical_log_prob_is_the_logit_minus_log_sum_exp(mode, rng):
    logits = rng.normal(scale=2.0, size=[2, 3, 4])
    action = rng.integers(4, size=[2, 3])
    policy = categorical()
    found = mode(lambda logits, action: policy.distribution({"logits": logits}).log_prob(action))(tf.constant(logits), tf.constant(action))
    chosen = np.take_along_axis(logits, action[..., None], -1)[..., 0]
    np.testing.assert_allclose(found, chosen - np.log(np.exp(logits).sum(-1)), rtol=1e-12)


@equation("PG-90", "PG-29")
def test_categorical_log_prob_is_minus_the_cross_entropy_of_the_one_hot_action(rng):
    logits, action = rng.normal(scale=2.0, size=[6, 4]), np.array([0, 3, 1, 2, 2, 0])
    log_prob = categorical().distribution({"logits": tf.constant(logits)}).log_prob(action)
    np.testing.assert_allclose(-log_prob, tf.nn.softmax_cross_entropy_with_logits(np.eye(4)[action], logits), rtol=1e-12)


@equation("PG-90")
def test_categorical_score_in_logits_is_one_hot_minus_pi(mode, rng):
    logits, action = tf.constant(rng.normal(scale=2.0, size=[5, 4])), tf.constant([2, 0, 3, 1, 1])
    policy = categorical()

    def total(logits):
        return tf.reduce_sum(policy.distribution({"logits": logits}).log_prob(action))

    _, slope = mode(lambda logits: gradients.gradient(total, logits))(logits)
    np.testing.assert_allclose(slope, np.eye(4)[action] - softmax(logits.numpy()), rtol=1e-11)


@equation("PG-90", "PG-22")
def test_categorical_score_has_zero_mean(rng):
    policy = categorical()
    params, observation = random_like(policy.init(SEED), rng), tf.constant(rng.normal(size=[6, 3]))
    pi = softmax(policy.parameters(params, observation)["logits"].numpy())
    scores = [gradients.score(policy, params, observation, tf.fill([6], a)) for a in range(4)]
    for leaves in zip(*map(tf.nest.flatten, scores), strict=True):
        terms = [np.reshape(leaf, [6, -1]) * pi[:, [a]] for a, leaf in enumerate(leaves)]
        assert np.abs(terms).max() > 1e-2
        np.testing.assert_allclose(sum(terms), 0, atol=1e-14)


@equation("PG-90", "PG-102")
def test_categorical_entropy_and_divergence_are_sums_over_actions(mode, rng):
    x, y = rng.normal(scale=1.5, size=[2, 5, 4])
    policy = categorical()

    def both(x, y):
        p, q = policy.distribution({"logits": x}), policy.distribution({"logits": y})
        return p.entropy(), p.kl_divergence(q), q.kl_divergence(p)

    entropy, forward, reverse = mode(both)(tf.constant(x), tf.constant(y))
    p, q = softmax(x), softmax(y)
    np.testing.assert_allclose(entropy, -(p * np.log(p)).sum(-1), rtol=1e-11)
    np.testing.assert_allclose(forward, (p * np.log(p / q)).sum(-1), rtol=1e-11)
    np.testing.assert_allclose(reverse, (q * np.log(q / p)).sum(-1), rtol=1e-11)
    assert np.abs(forward - reverse).max() > 1e-1


@equation("PG-90")
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_categorical_samples_follow_pi(mode, rng, dtype):
    policy, logits = categorical(dtype=dtype), rng.normal(size=[2, 4])

    def draw(logits, seed):
        return policy.act({"logits": logits}, policy.noise([SAMPLES, 2], seed))

    action = mode(draw)(tf.constant(logits, dtype), SEED).numpy()
    assert action.dtype == np.int32
    assert action.shape == (SAMPLES, 2)
    for column, pi in zip(action.T, softmax(logits), strict=True):
        assert_frequencies(np.bincount(column, minlength=4), pi)
    joint = np.bincount(4 * action[:, 0] + action[:, 1], minlength=16)
    assert_frequencies(joint, np.outer(*softmax(logits)).ravel())


@equation("PG-90")
def test_categorical_noise_is_standard_gumbel(mode):
    noise = mode(lambda seed: categorical().noise([SAMPLES], seed))(SEED).numpy()
    uniform = np.exp(-np.exp(-noise))  # the distribution function: uniform exactly when the law is right
    for column in uniform.T:
        assert_frequencies(np.bincount((20 * column).astype(int), minlength=20), np.full(20, 1 / 20))


@equation("PG-90")
def test_categorical_noise_is_finite_where_the_uniform_number_is_zero():
    assert np.isfinite(categorical(3, dtype=tf.float32).noise([10**6], tf.constant([1, 2]))).all()


@equation("PG-90")
def test_categorical_mode_is_the_best_action_and_the_lowest_of_a_tie(mode):
    logits = tf.constant([[0.1, 2.0, -1.0, 1.9], [-3.0, -2.0, -2.5, -1.0], [0.5, 0.7, 0.7, -9.0]], tf.float64)
    found = mode(lambda logits: categorical().mode({"logits": logits}))(logits)
    assert found.dtype == tf.int32
    np.testing.assert_array_equal(found, [1, 3, 1])


@equation("PG-90")
def test_categorical_to_env_counts_from_start():
    given = categorical(start=-2).to_env(tf.constant([0, 1, 3]))
    assert given.dtype == tf.int32
    np.testing.assert_array_equal(given, [-2, -1, 1])
    np.testing.assert_array_equal(categorical().to_env(tf.constant([0, 1, 3])), [0, 1, 3])


@equation("PG-90", "PG-102")
def test_categorical_is_finite_and_right_at_extreme_logits(mode):
    logits = tf.constant([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]])
    other = tf.constant([[-1e4, 1e4, 0.0], [1e4, 0.0, -1e4]])
    policy = categorical(3, dtype=tf.float32)

    def everything(logits):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(logits)
            p = policy.distribution({"logits": logits})
            values = {
                "log_prob": tf.stack([p.log_prob([a, a]) for a in range(3)], axis=1),
                "entropy": p.entropy(),
                "divergence": p.kl_divergence(policy.distribution({"logits": other})),
                "reverse": policy.distribution({"logits": other}).kl_divergence(p),
            }
        return values, {name: tape.gradient(value, logits) for name, value in values.items()}

    values, slopes = mode(everything)(logits)
    np.testing.assert_allclose(values["log_prob"], [[0, -2e4, -1e4], [-2e4 - np.log(2), -np.log(2), -np.log(2)]], rtol=1e-6)
    np.testing.assert_allclose(values["entropy"], [0, np.log(2)], atol=1e-6)
    np.testing.assert_allclose(values["divergence"], [2e4, 1.5e4 - np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(values["reverse"], [2e4, 2e4 + np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(slopes["log_prob"], [[-2, 1, 1], [1, -0.5, -0.5]], atol=1e-6)
    assert all(np.isfinite(slope).all() for slope in slopes.values())


# Both heads

MAKERS = [categorical, gaussian]


def random_head(make, rng, rows):
    policy = make()
    return policy, policy.parameters(random_like(policy.init(SEED), rng), tf.constant(rng.normal(size=[rows, 3])))


@equation("PG-90", "PG-91")
@pytest.mark.parametrize("make", MAKERS)
def test_action_is_a_function_of_parameters_and_seed_alone(mode, rng, make):
    policy, p = random_head(make, rng, 50)
    draw = mode(lambda p, seed: policy.act(p, policy.noise([50], seed)))
    first = draw(p, tf.constant([8, 1])).numpy()
    tf.random.set_seed(99)
    np.testing.assert_array_equal(draw(p, tf.constant([8, 1])), first)
    for seed in ([8, 2], [9, 1]):
        assert (draw(p, tf.constant(seed)).numpy() != first).any()


@equation("PG-90", "PG-91")
@pytest.mark.parametrize("make", MAKERS)
def test_each_row_acts_on_its_own_parameters_and_noise_alone(mode, rng, make):
    policy, p = random_head(make, rng, 6)
    act = mode(policy.act)
    noise, other = policy.noise([6], SEED).numpy(), 3 * policy.noise([6], tf.constant([11, 4])).numpy()
    base, moved = act(p, tf.constant(noise)).numpy(), act(p, tf.constant(other)).numpy()
    differs = np.reshape(base != moved, [6, -1]).any(1)
    assert differs.sum() >= 2
    for i in range(6):
        row = np.arange(6) == i
        mixed = np.where(row[:, None], other, noise)
        changed = act(p, tf.constant(mixed)).numpy()
        np.testing.assert_array_equal(changed[row], moved[row])
        np.testing.assert_array_equal(changed[~row], base[~row])
        alone = act(tf.nest.map_structure(lambda leaf, i=i: leaf[i : i + 1], p), tf.constant(noise[i : i + 1]))
        np.testing.assert_allclose(alone, base[i : i + 1], rtol=1e-14)


@equation("PG-90", "PG-91")
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_one_float_type_throughout(rng, make, dtype):
    policy = make(dtype=dtype)
    params = policy.init(SEED)
    p = policy.parameters(params, tf.constant(rng.normal(size=[2, 5, 3]), dtype))
    noise = policy.noise([2, 5], SEED)
    action, greedy = policy.act(p, noise), policy.mode(p)
    distribution = policy.distribution(p)
    floats = [params, p, noise, distribution.log_prob(action), distribution.entropy(), distribution.kl_divergence(distribution)]
    assert {leaf.dtype for leaf in tf.nest.flatten(floats)} == {dtype}
    assert action.dtype == greedy.dtype == policy.to_env(action).dtype == (tf.int32 if make is categorical else dtype)
    assert action.shape == greedy.shape == ([2, 5] if make is categorical else [2, 5, 2])
    assert distribution.log_prob(action).shape == distribution.entropy().shape == [2, 5]


@equation("PG-90", "PG-91")
@pytest.mark.parametrize("make", MAKERS)
def test_single_precision_agrees_with_double(mode, rng, make):
    params, observation = random_like(make().init(SEED), rng), rng.normal(size=[7, 3])
    action = make().act(make().parameters(params, tf.constant(observation)), make().noise([7], SEED))
    found = {}
    for dtype in (tf.float32, tf.float64):
        policy = make(dtype=dtype)

        def log_prob(params, observation, action, policy=policy):
            return policy.distribution(policy.parameters(params, observation)).log_prob(action)

        given = tf.nest.map_structure(lambda leaf, dtype=dtype: tf.cast(leaf, dtype), params)
        typed = action if make is categorical else tf.cast(action, dtype)
        found[dtype] = mode(log_prob)(given, tf.constant(observation, dtype), typed)
    np.testing.assert_allclose(found[tf.float32], found[tf.float64], rtol=1e-5, atol=1e-6)


def pairs(dtype=tf.float64):
    """Of policies of three sorts: the policy, two sets of parameters, actions."""
    rng = np.random.default_rng(3)
    several = policies.multi_categorical(nets.mlp([3, 5], dtype=dtype), [2, 3], dtype=dtype)
    for policy in (categorical(dtype=dtype), gaussian(dtype=dtype), several):
        p, q = (policy.parameters(random_like(policy.init(SEED), rng), tf.constant(rng.normal(size=[2, 5, 3]), dtype)) for _ in range(2))
        yield policy, p, q, policy.act(p, policy.noise([2, 5], SEED))


@equation("PG-90", "PG-91", "PG-102")
def test_distributions_agree_with_those_of_tensorflow_probability(mode):
    for policy, p, q, action in pairs():

        def both(p, q, action, policy=policy):
            ours, other = policy.distribution(p), policy.distribution(q)
            theirs = ours.tfp()
            return (
                (ours.log_prob(action), ours.entropy(), ours.kl_divergence(other)),
                (theirs.log_prob(action), theirs.entropy(), theirs.kl_divergence(other.tfp())),
            )

        ours, theirs = mode(both)(p, q, action)
        for found, expected in zip(ours, theirs, strict=True):
            assert found.shape == [2, 5]
            np.testing.assert_allclose(found, expected, rtol=1e-10)


@equation("PG-90", "PG-91")
def test_actions_of_another_shape_than_the_batch_are_refused():
    for policy, p, _, action in pairs():
        with pytest.raises(ValueError, match="shape"):
            policy.distribution(p).log_prob(tf.concat([action, action], 0))


@equation("PG-90", "PG-91")
@pytest.mark.parametrize("make", MAKERS)
def test_init_depends_on_the_seed_alone(make):
    a, b, c = (tf.nest.flatten(make().init(tf.constant(seed))) for seed in ([1, 2], [1, 2], [1, 3]))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert any((x.numpy() != z.numpy()).any() for x, z in zip(a, c, strict=True))


@equation("PG-90", "PG-91")
def test_actions_start_at_zero_and_deviations_at_one_unless_told():
    assert int(policies.categorical(nets.mlp([1, 2]), 2).to_env(tf.constant(1))) == 1
    normal = policies.gaussian(nets.mlp([1, 2]), [-1.0] * 2, [1.0] * 2)
    np.testing.assert_array_equal(normal.init(tf.constant([1, 2]))["log_std"], [0.0, 0.0])
