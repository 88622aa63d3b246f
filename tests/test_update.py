"""The update: what reaches the parameters, what must not, and in which order."""

import numpy as np
import pytest
import tensorflow as tf
from learners import FULL, SEED, N, T, assert_equal, assessed, begun, differs, fill_padding, make, prepare, trajectory

from tfpg import acting, algorithms, blocks, gradients, learner, trees, update
from tfpg.assess import read
from tfpg.learner import initial_state
from tfpg.update import make_update

VARIANTS = {
    **{algo: {"algo": algo} for algo in algorithms.ALGORITHMS if algo != "pathwise"},
    "pathwise": {"algo": "pathwise", "kind": "real"},
    **{f"reinforce-{b}": {"algo": "reinforce", "baseline": b} for b in algorithms.BASELINES if b != "time_mean"},
    **{f"togo-{b}": {"algo": "reinforce_togo", "baseline": b} for b in algorithms.BASELINES},
    **{f"off_policy-{w}": {"algo": "off_policy", "weights": w, "self_normalise": True} for w in algorithms.WEIGHTS},
    "off_policy-none": {"algo": "off_policy", "baseline": "none", "discount_from": "start"},
    "off_policy-gru": {"algo": "off_policy", "network": "gru"},
    "reinforce-gru": {"algo": "reinforce", "network": "gru", "baseline": "optimal"},
    "a2c-gru": {"algo": "a2c", "network": "gru", "kind": "real"},
    "ppo-gru": {"algo": "ppo", "network": "gru", "entropy_bonus": 0.01},
    "ppo_kl-real": {"algo": "ppo_kl", "kind": "real"},
    "ppo-several": {"algo": "ppo", "kind": "several"},
    "q-sarsa": {"algo": "actor_critic", "psi": "q", "critic": "sarsa"},
    "q-real": {"algo": "actor_critic", "psi": "q", "critic": "monte_carlo", "kind": "real"},
    "advantage-q_learning": {"algo": "actor_critic", "psi": "advantage", "critic": "q_learning", "return_scaling": True},
    "togo-scaled": {"algo": "reinforce_togo", "return_scaling": True, "whiten": True},
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


def updated(made, jit=False):
    return tf.function(make_update(made), jit_compile=jit, autograph=False)


@every_variant
def test_padding_reaches_nothing(changes, rng):
    made, state, t = prepare(rng, whole=True, **changes)
    run = updated(made)
    clean = run(state, fill_padding(t, 0.0), SEED, FULL)
    assert float(clean[1]["skipped"]) == 0
    assert differs(clean[0].policy, state.policy)
    assert all(np.isfinite(x).all() for x in clean[1].values())
    for garbage in (np.nan, np.inf, 1e30):
        assert_equal(run(state, fill_padding(t, garbage), SEED, FULL), clean)
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("algo", ["npg", "a2c", "reinforce_baseline"])
def test_more_padding_changes_nothing(algo, rng):
    """Four more rows that hold nothing: padding counts neither for the policy and its critic nor in statistics and metrics."""
    made, state, t = prepare(rng, whole=True, algo=algo, critic_minibatches=1)
    longer = tf.nest.map_structure(lambda x: tf.concat([x, tf.zeros([4, *x.shape[1:]], x.dtype)], 0), t)
    found, wanted = (updated(made)(state, each, SEED, FULL) for each in (longer, t))
    assert differs(wanted[0].value, state.value)
    for a, b in zip(*map(tf.nest.flatten, (found, wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5)


@every_variant
def test_a_number_that_is_not_finite_changes_no_state(changes, rng):
    made, state, t = prepare(rng, whole=True, **changes)
    reward = t.reward.numpy()
    reward[3, 2] = np.nan
    after, metrics = updated(made)(state, t._replace(reward=tf.constant(reward)), SEED, FULL)
    assert float(metrics["skipped"]) == 1
    assert_equal(after, state)


@pytest.mark.parametrize("algo", ["reinforce_baseline", "trpo"])
def test_nor_does_it_under_xla(algo, rng):
    made, state, t = prepare(rng, algo=algo)
    reward = t.reward.numpy()
    reward[4, 3] = np.nan
    run = updated(made, jit=True)
    assert_equal(run(state, t._replace(reward=tf.constant(reward)), SEED, FULL)[0], state)
    assert float(run(state, t, SEED, FULL)[1]["skipped"]) == 0


def test_statistics_are_taken_in_after_the_policy_has_moved(rng):
    made, state, t = prepare(rng)
    blind = made._replace(observations=made.observations._replace(update=lambda s, x, mask: s))
    after, plain = (make_update(each)(state, t, SEED, FULL)[0] for each in (made, blind))
    assert_equal(after.policy, plain.policy)
    seen = t.observation.numpy().reshape(-1, 2)
    np.testing.assert_allclose(after.observations.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after.observations.variance, seen.var(0), rtol=1e-5)
    assert float(after.observations.count) == T * N


def test_gain_and_kl_are_those_of_the_step_taken(rng):
    made, state, t = prepare(rng)
    after, metrics = make_update(made)(state, t, SEED, FULL)
    batch = assessed(made, state, t).batch
    old, new = (made.policy.distribution(made.policy.parameters(s.policy, batch.observation)) for s in (state, after))
    ratio = tf.exp(new.log_prob(batch.action) - old.log_prob(batch.action))
    assert float(metrics["surrogate_gain"]) == pytest.approx(float(tf.reduce_mean((ratio - 1) * batch.psi)), rel=1e-3)
    assert float(metrics["kl"]) == pytest.approx(float(tf.reduce_mean(old.kl_divergence(new))), rel=1e-3)
    assert float(metrics["entropy"]) == pytest.approx(float(tf.reduce_mean(old.entropy())), rel=1e-5)
    assert float(metrics["kl"]) == pytest.approx(0.01, rel=0.3)


def test_a_smaller_pace_is_a_smaller_radius(rng):
    made, state, t = prepare(rng)
    run = updated(made)
    kl = [float(run(state, t, SEED, tf.constant(pace))[1]["kl"]) for pace in (1.0, 0.25)]
    assert kl[1] / kl[0] == pytest.approx(0.25, rel=0.1)
    assert run.experimental_get_tracing_count() == 1


@pytest.mark.parametrize("algo", ["reinforce", "ppo", "off_policy"])
def test_without_pace_nothing_moves(algo, rng):
    made, state, t = prepare(rng, algo=algo, whole=True)
    assert_equal(make_update(made)(state, t, SEED, tf.constant(0.0))[0].policy, state.policy)


def test_a_gradient_that_is_made_of_scores_is_the_one_that_is_ascended(rng):
    made, state, t = prepare(rng, algo="reinforce", baseline="optimal_per_parameter", optimizer="sgd", whole=True)
    found = assessed(made, state, t)
    after, metrics = make_update(made)(state, t, SEED, tf.constant(0.5))
    moved = trees.flatten(after.policy) - trees.flatten(state.policy)
    np.testing.assert_allclose(moved, 0.5 * 0.01 * trees.flatten(found.gradient), rtol=1e-3, atol=1e-7)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(trees.norm(found.gradient)), rel=1e-5)


def test_the_moving_average_of_one_batch_serves_the_next(rng):
    made, state, t = prepare(rng, algo="reinforce", baseline="moving_average", average_rate=0.3, discount=1.0, whole=True)
    run, totals = updated(made), np.where(t.mask, t.reward, 0).sum(0)
    first, _ = run(state, t, SEED, FULL)
    np.testing.assert_allclose(first.average[0], 0.3 * totals.mean(), rtol=1e-5)
    second, _ = run(first, t, SEED, FULL)
    np.testing.assert_allclose(second.average[0], 0.3 * totals.mean() * 1.7, rtol=1e-5)
    assert (int(first.average[1]), int(second.average[1])) == (1, 2)
    without = assessed(made, state, t).batch.psi
    with_b = assessed(made, first, t).batch.psi
    gap = np.where(np.reshape(t.mask, [-1]), totals.mean(), 0)
    np.testing.assert_allclose(without - with_b, gap, rtol=1e-4, atol=1e-5)


def test_the_penalty_follows_the_divergence():
    """It doubles above 1.5 times the target, halves below the target / 1.5, stays in between, and stays within its bounds."""
    made = make("ppo_kl", kl_target=0.02)
    state = initial_state(made, SEED)
    assert float(state.penalty) == 1
    for kl, wanted in [(0.031, 2.0), (0.029, 1.0), (0.02, 1.0), (0.0135, 1.0), (0.0132, 0.5), (0.0, 0.5)]:
        assert float(update.adapt_penalty(made, state, tf.constant(kl)).penalty) == wanted
    for penalty, kl in [(1e6, 1.0), (1e-6, 0.0)]:
        bounded = state._replace(penalty=tf.constant(penalty))
        assert float(update.adapt_penalty(made, bounded, tf.constant(kl)).penalty) == pytest.approx(penalty)
    plain = make("ppo")
    assert update.adapt_penalty(plain, initial_state(plain, SEED), tf.constant(1.0)).penalty == ()


def test_a_large_penalty_keeps_the_policy_nearer(rng):
    """KL after many small steps on one batch; what is told is the penalty that the next update has."""
    made, state, t = prepare(rng, algo="ppo_kl", optimizer="sgd", learning_rate=0.1, gradient_clip=0.0, epochs=30, minibatches=1)
    run, moved = updated(made), []
    for penalty in (0.01, 10.0):
        before = state._replace(penalty=tf.constant(penalty))
        after, metrics = run(before, t, SEED, FULL)
        moved.append(float(metrics["kl"]))
        assert float(metrics["penalty"]) == float(after.penalty) == float(update.adapt_penalty(made, before, metrics["kl"]).penalty)
    assert moved[1] < 0.2 * moved[0]


def test_updates_that_the_data_say_too_little_about_are_refused(rng):
    """Data of another policy: nothing moves but the critic, and each of 3 x 2 updates is counted."""
    made, state, t = prepare(rng, algo="off_policy", epochs=3, minibatches=2, least_overlap=0.999, whole=True)
    far = begun(made, rng)._replace(observations=state.observations, targets=state.targets)
    after, metrics = updated(made)(far, t, SEED, FULL)
    assert_equal((after.policy, after.policy_optimizer), (far.policy, far.policy_optimizer))
    assert float(metrics["refused"]) == 6
    assert 0 < float(metrics["overlap"]) < 0.999
    assert differs(after.value, far.value)
    _, metrics = updated(made)(state, t, SEED, tf.constant(1e-6))
    assert float(metrics["refused"]) == 0


def test_repeated_updates_teach_the_critic_the_scale_of_its_targets(rng):
    """Rewards of a few thousand that the observation tells: the critic explains nearly all of them after 60 fits of one batch."""
    made, state, t = prepare(rng, algo="reinforce_baseline", critic_learning_rate=0.01)
    t = t._replace(reward=3000 * t.observation[..., 0], terminated=tf.ones([T, N], tf.bool))
    run, first = updated(made), None
    for i in range(60):
        state, metrics = run(state, t, SEED + i, tf.constant(0.0))
        first = first or float(metrics["value_rmse"])
    assert first > 2000
    assert float(metrics["explained_variance"]) > 0.9
    assert float(metrics["value_rmse"]) < 0.3 * first


def test_a_critic_of_actions_learns_which_action_pays(rng):
    """Steps that end at once and pay 5 for action 1, nothing for the others: Q says so, whatever the state."""
    made, state, t = prepare(rng, algo="actor_critic", psi="q", critic="sarsa", critic_learning_rate=0.01)
    t = t._replace(reward=5 * tf.cast(t.action == 1, tf.float32), terminated=tf.ones([T, N], tf.bool))
    run = updated(made)
    for i in range(60):
        state, metrics = run(state, t, SEED + i, tf.constant(0.0))
    assert float(metrics["explained_variance"]) > 0.9
    seen = made.observations.apply(state.observations, tf.reshape(t.observation, [-1, 2]))
    q = made.targets.invert(state.targets, made.value.every(state.value, seen)).numpy().mean(0)
    np.testing.assert_allclose(q, [0, 5, 0], atol=1.0)


SAMPLE = [
    *("reinforce", "togo-optimal", "reinforce-optimal_per_parameter", "off_policy-causal", "ppo-gru"),
    *("ppo_kl-real", "q-sarsa", "pathwise", "trpo"),
]


@pytest.mark.parametrize("name", SAMPLE)
def test_xla_and_graph_agree(name, rng):
    """Of one part that is the whole batch, and without noise: compiled programs draw other numbers from the same seed."""
    changes = {
        **VARIANTS[name],
        "optimizer": "sgd",
        "minibatches": 1,
        "critic_minibatches": 1,
        "initial_log_std": -20.0 * (name == "pathwise"),
    }
    made, state, t = prepare(rng, whole=True, **changes)
    results = [updated(made, jit)(state, t, SEED, FULL)[0] for jit in (False, True)]
    moved = [trees.flatten(result.policy) - trees.flatten(state.policy) for result in results]
    np.testing.assert_allclose(*moved, rtol=2e-2, atol=2e-2 * np.abs(moved[0]).max())
    assert np.abs(moved[0]).max() > 1e-5


def test_a_keras_network_learns_through_the_same_update(rng):
    made, state, t = prepare(rng, network="keras")
    after, metrics = updated(made, jit=True)(state, t, SEED, FULL)
    assert float(metrics["kl"]) == pytest.approx(0.01, rel=0.3)
    assert differs(after.policy, state.policy)
    assert differs(after.value, state.value)


@pytest.mark.parametrize("algo", ["npg", "trpo"])
@pytest.mark.parametrize("kind", ["discrete", "real"])
def test_neither_parts_nor_blocks_change_the_step(algo, kind, rng, monkeypatch):
    """With factors that are kept, and without; each block is seen by the statistics in force, and without its padding.

    Of 24 samples the Fisher matrix is nearly singular: further iterations would magnify the last digits.
    """
    for hidden, kept in (("6", False), ("80,80", True)):
        monkeypatch.setattr(gradients, "KEPT_BYTES", kept * 2**28)
        made, state, t = prepare(rng, moved=True, whole=True, algo=algo, kind=kind, hidden=hidden, cg_iterations=4)
        assert gradients.worth_keeping(made.policy, state.policy, T * N) == kept
        t = fill_padding(t, np.nan)
        steps = [updated(made._replace(shards=n, fisher_block=size))(state, t, SEED, FULL)[0] for n, size in ((1, 10**6), (3, 4))]
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *(step.policy for step in steps))
        moved = [trees.flatten(step.policy) - trees.flatten(state.policy) for step in steps]
        np.testing.assert_allclose(*moved, rtol=1e-4, atol=1e-4 * np.abs(moved[0]).max())
        assert np.abs(moved[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["npg", "trpo", "ppo", "ppo_kl-real", "togo-scaled", "off_policy-causal", "q-sarsa", "pathwise"])
def test_an_update_in_pieces_is_the_update(name, rng):
    """Programs side by side come to what one program comes to, statistics and critic included."""
    made, state, t = prepare(rng, whole=True, **VARIANTS[name])
    made = made._replace(fisher_block=10)  # a batch of one block is one program
    piece = lambda f: tf.function(f, autograph=False)  # noqa: E731
    whole, pieces = (tf.function(make, autograph=False)(state, t, SEED, FULL) for make in (make_update(made), make_update(made, piece)))
    tf.nest.assert_same_structure(whole, pieces)
    for a, b in zip(tf.nest.flatten(whole), tf.nest.flatten(pieces), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert differs(whole[0].policy, state.policy)


LARGE_TOO = [
    "npg",
    "trpo",
    "ppo",
    "ppo_kl-real",
    "reinforce-value",
    "togo-scaled",
    "off_policy-causal",
    "advantage-q_learning",
    "a2c-gru",
    "pathwise",
]


@pytest.mark.parametrize("name", LARGE_TOO)
@pytest.mark.parametrize("minibatches", [1, 3])
def test_the_update_of_a_large_batch_is_the_update(name, minibatches, rng, monkeypatch):
    """Columns read one after another, programs of a part of the batch and of a step of the critic: nothing is learned otherwise."""
    made, state, t = prepare(rng, moved=True, whole=True, **{**VARIANTS[name], "critic_minibatches": minibatches})
    made, t = made._replace(fisher_block=4), fill_padding(t, np.nan)
    piece = lambda f: tf.function(f, autograph=False)  # noqa: E731
    wanted = tf.function(make_update(made), autograph=False)(state, t, SEED, FULL)
    shapes, plain = [], update.read
    monkeypatch.setattr(update, "LARGE", 9)
    monkeypatch.setattr(blocks, "ALONE", 1)
    monkeypatch.setattr(update, "read", lambda learner, state, t, seed: shapes.append(t.mask.shape) or plain(learner, state, t, seed))
    found = tf.function(make_update(made, piece), autograph=False)(state, t, SEED, FULL)
    assert shapes == [(T, 1)]  # one program, for five columns
    tf.nest.assert_same_structure(found, wanted)
    for a, b in zip(tf.nest.flatten(found), tf.nest.flatten(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    assert differs(wanted[0].policy, state.policy)


def test_what_has_been_read_is_forgotten(rng, monkeypatch):
    """Where an observation leads to is the largest part of a batch: no program takes it but those that read columns, and none waits for all
    of it to be there again. Weights are made when it is gone."""
    made, state, t = prepare(rng, fisher_block=4)
    monkeypatch.setattr(update, "LARGE", 9)
    monkeypatch.setattr(blocks, "ALONE", 1)
    run = acting.traced(make_update(made, lambda f: tf.function(f, autograph=False)), state, t, SEED, FULL)
    inputs = tf.nest.pack_sequence_as((state, t, SEED, FULL), run.inputs)[1]
    calls = [op for op in run.graph.get_operations() if op.type == "PartitionedCall"]
    assert inputs.next_observation.consumers() == calls[:N]
    concluded = calls[N]
    for op in inputs.mask.consumers():
        if op not in calls and op.type != "Reshape":
            assert concluded in waited_for(op)


def waited_for(op):
    """The operations that this one waits for, by control, its inputs' own included."""
    return {*op.control_inputs, *(other for x in op.inputs for other in (*x.op.control_inputs, x.op))}


@pytest.mark.parametrize(("samples", "kept"), [(36, 3), (35, 0)])
def test_a_large_batch_keeps_no_more_factors_in_more_parts(samples, kept, rng, monkeypatch):
    """Three parts of 12 where one was asked for: together they keep what one may, or nothing."""
    made, state, t = prepare(rng, hidden="80,80", fisher_block=4, shards=1, cg_iterations=1)
    numbers = 2 + 80 + 80 + 3 + 81 + 2 * 80 * 2  # inputs of each layer, again with ones of all but the last, slopes for two combinations
    calls, keep = [], gradients.keep_factors
    monkeypatch.setattr(gradients, "KEPT_BYTES", 4 * samples * numbers)
    monkeypatch.setattr(gradients, "keep_factors", lambda *given: calls.append(0) or keep(*given))
    monkeypatch.setattr(update, "LARGE", 11)
    make_update(made, lambda f: f)(state, t, SEED, FULL)
    assert len(calls) == kept


@every_variant
def test_columns_are_read_as_if_they_were_alone(changes, rng):
    """In parts of a column each with a seed of its own; what is said of the critic is about all of them."""
    made, state, t = prepare(rng, moved=True, whole=True, **changes)
    look = lambda state, t, start, count, seed: read(made, state, blocks.columns(t, start, count), seed)  # noqa: E731
    found, seeds = update.read_in_parts(look, state, t, N, SEED), tf.random.experimental.stateless_split(SEED, N)
    alone = [read(made, state, tf.nest.map_structure(lambda x, i=i: x[:, i : i + 1], t), seeds[i])._replace(judged=()) for i in range(N)]
    tf.nest.map_structure(lambda x, *parts: np.testing.assert_array_equal(x, np.concatenate(parts, 1)), found._replace(judged=()), *alone)
    assert bool(found.judged) == algorithms.needs_critic(made.algorithm)
    if found.judged:
        target = found.lesson.target.numpy()[t.mask.numpy()]
        for a, b in zip(found.judged.target, (target.mean(), target.var(), target.size), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)
        q = tf.reshape(learner.values(made, state, (t.observation, t.mask, t.memory), *own_action(made, t)), [T, N])
        error = target - q.numpy()[t.mask.numpy()]
        np.testing.assert_allclose(found.judged.error[:2], (error.mean(), error.var()), rtol=1e-3, atol=1e-4)


def own_action(made, t):
    """What a critic of actions reads beside observations."""
    return (t.action,) if algorithms.fits_q(made.algorithm) else ()


ONE_OR_MORE = [(0, 10**6, 3, 4), (0, 35, 3, 4), (0, 34, 3, 3 + 3 * 4), (0, 34, 2, 3 + 2 * 4), (2**28, 34, 3, 3 + 3 * 5)]


@pytest.mark.parametrize(("room", "block", "shards", "programs"), ONE_OR_MORE)
def test_a_natural_gradient_of_one_block_is_one_program(room, block, shards, programs, rng, monkeypatch):
    """Of 35 samples: reading, policy, critic, statistics. In parts: of each gradient, factors if kept, two products, outcome."""
    monkeypatch.setattr(gradients, "KEPT_BYTES", room)
    made, state, t = prepare(rng, hidden="6", fisher_block=block, shards=shards, cg_iterations=2)
    calls = []

    def piece(f):
        return lambda *given: calls.append(f) or f(*given)

    make_update(made, piece)(state, t, SEED, FULL)
    assert len(calls) == programs


def test_programs_are_not_kept_from_running_at_the_same_time(rng):
    """TensorFlow runs a function without any control flow on the thread that calls it, one program after another (2.21)."""
    made, state, t = prepare(rng)
    run = acting.traced(make_update(made, lambda f: tf.function(f, autograph=False)), state, t, SEED, FULL)
    calls = [op.type for op in run.graph.get_operations() if "Call" in op.type or "While" in op.type]
    assert "StatelessWhile" in calls
    assert len(calls) == 5


@pytest.mark.parametrize("of", ["policy", "critic"])
def test_the_flag_of_adams_epsilon_reaches_both_optimisers(of):
    """Of a first gradient g the moments are (1-b1) g and (1-b2) g^2: the increment is alpha sqrt(1-b2) g / (sqrt(1-b2) |g| + epsilon)."""
    made = make("ppo", learning_rate=0.3, critic_learning_rate=0.3, gradient_clip=0.0, adam_epsilon=0.02)
    optimizer = made.improve.optimizer if of == "policy" else made.critic.optimizer
    g = np.array([0.5, -0.04], np.float32)
    increment, _ = optimizer.update(tf.constant(g), optimizer.init(tf.zeros(2)))
    np.testing.assert_allclose(increment, 0.3 * 0.001**0.5 * g / (0.001**0.5 * np.abs(g) + 0.02), rtol=1e-5)


def test_only_what_a_row_needs_is_in_its_state(rng):
    for name, filled in [("reinforce", ()), ("npg", ("value",)), ("ppo_kl", ("value", "penalty")), ("pathwise", ("model",))]:
        made = make(**VARIANTS[name])
        state = initial_state(made, SEED)
        assert tuple(field for field in ("value", "average", "penalty", "model") if tf.nest.flatten(getattr(state, field))) == filled
        t = trajectory(made, state, rng, whole=True)
        tf.nest.assert_same_structure(make_update(made)(state, t, SEED, FULL)[0], state)
