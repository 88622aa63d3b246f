"""From a trajectory to what is learned from it: every psi, baseline, critic and weight against a double loop over its steps."""

import numpy as np
import pytest
import tensorflow as tf
from learners import GAMMA, LAMBDA, STEPS, N, T, assert_equal, assessed, begun, episodes, fill_padding, make, prepare, trajectory

from tfpg import algorithms, assess, blocks, gradients, learner, trees
from tfpg.learner import flat
from tfpg.normalizers import Moments
from tfpg.types import Policy

CLOSE = {"rtol": 3e-4, "atol": 3e-5}  # float32 networks against float64 loops


def network(params, x):
    """A tanh network in numpy."""
    *hidden, last = params
    for layer in hidden:
        x = np.tanh(x @ np.float64(layer["kernel"]) + np.float64(layer["bias"]))
    return x @ np.float64(last["kernel"]) + np.float64(last["bias"])


def seen(state, observation):
    """Observations standardised by hand."""
    s = state.observations
    return np.clip((np.float64(observation) - np.float64(s.mean)) / np.sqrt(np.float64(s.variance)), -10, 10)


def critics(made, state, t, sampled=None):
    """q_t, v_t, v_tp1 and max Q(o_{t+1}, .) as the critic has them, in units of reward. `sampled` [T, N, ...] are actions at o_{t+1}."""
    m, s = float(state.targets.mean), np.sqrt(float(state.targets.variance))
    now, then = seen(state, t.observation), seen(state, t.next_observation)
    if not algorithms.fits_q(made.algorithm):
        v_t, v_tp1 = (m + s * network(state.value, x)[..., 0] for x in (now, then))
        return {"v_t": v_t, "v_tp1": v_tp1}
    if made.value.every is None:
        q_t = m + s * network(state.value, np.concatenate([now, t.action], -1))[..., 0]
        return {"q_t": q_t, "v_tp1": m + s * network(state.value, np.concatenate([then, sampled], -1))[..., 0]}
    every_t, every_tp1 = (m + s * network(state.value, x) for x in (now, then))
    pi_t, pi_tp1 = (tf.nn.softmax(network(state.policy, x)).numpy() for x in (now, then))
    q_t = np.array([[every_t[k, i, t.action[k, i]] for i in range(N)] for k in range(T)])
    found = {"q_t": q_t, "v_t": (pi_t * every_t).sum(-1), "v_tp1": (pi_tp1 * every_tp1).sum(-1), "best": every_tp1.max(-1)}
    if sampled is not None:
        found["sampled"] = np.take_along_axis(every_tp1, np.asarray(sampled)[..., None], -1)[..., 0]
    return found


def tail(t, i, rows, k, v_tp1, steps=10**9):
    """sum of at most `steps` discounted rewards from row k of an episode on, then V where the sum stops, unless the task has ended."""
    stop = min(k + steps, rows[-1] + 1)
    total = sum(GAMMA ** (u - k) * float(t.reward[u, i]) for u in range(k, stop))
    over = bool(t.terminated[stop - 1, i])
    return total if over or v_tp1 is None else total + GAMMA ** (stop - k) * v_tp1[stop - 1, i]


def member(psi, baseline, t, c):
    """psi_t by its definition, without a baseline of its own but with the V that is part of it."""
    found = np.zeros([T, N])
    for i, rows in episodes(t):
        for k in rows:
            left = rows[-1] + 1 - k
            if psi == "return":
                found[k, i] = tail(t, i, rows, rows[0], None)
            elif psi == "togo":
                found[k, i] = tail(t, i, rows, k, c["v_tp1"] if baseline == "value" else None)
            elif psi == "q":
                found[k, i] = c["q_t"][k, i]
            elif psi == "advantage":
                found[k, i] = c["q_t"][k, i] - c["v_t"][k, i]
            elif psi in ("td", "n_step"):
                found[k, i] = tail(t, i, rows, k, c["v_tp1"], 1 if psi == "td" else STEPS) - c["v_t"][k, i]
            else:
                found[k, i] = mixture(t, i, rows, k, c, LAMBDA) - c["v_t"][k, i]
            assert left >= 1
    return found


def mixture(t, i, rows, k, c, lambda_):
    """(1 - lambda) sum_{n < m} lambda^(n-1) G^(n)_t + lambda^(m-1) G^(m)_t, m the steps that are left: the lambda-return."""
    m = rows[-1] + 1 - k
    parts = [tail(t, i, rows, k, c["v_tp1"], n) for n in range(1, m + 1)]
    return (1 - lambda_) * sum(lambda_ ** (n - 1) * parts[n - 1] for n in range(1, m)) + lambda_ ** (m - 1) * parts[-1]


def scores(made, state, t, estimate, scale):
    """g_i and c_i [N, P] from one Jacobian of all log-probabilities."""
    x = tf.constant(seen(state, t.observation), tf.float32)
    rows = gradients.score(made.policy, state.policy, x, t.action)
    g = np.concatenate([np.reshape(leaf, [T, N, -1]) for leaf in tf.nest.flatten(rows)], -1).astype(np.float64)
    w = t.mask.numpy() * scale
    return np.einsum("tn,tnp->np", w, g), np.einsum("tn,tn,tnp->np", w, estimate, g)


def others(x, i):
    return np.delete(x, i, axis=0)


def subtracted(made, state, t, estimate, c, scale):
    """b_t by its definition, and the moving average afterwards."""
    mask, kind = t.mask.numpy(), made.algorithm.baseline
    b, first = np.zeros([T, N]), estimate[0]
    togo = made.algorithm.psi == "togo"
    if kind == "value":
        return c["v_t"], ()
    if kind == "moving_average":
        m, count = 0.23, 4
        now = estimate[mask].mean() if togo else first.mean()
        return b + m / (1 - 0.9**count), (0.1 * now + 0.9 * m, count + 1)
    g, gc = scores(made, state, t, estimate, scale) if kind == "optimal" else (None, None)
    for k, i in np.argwhere(mask):
        if kind == "mean":
            b[k, i] = estimate[mask].mean() if togo else first.mean()
        elif kind == "leave_one_out" and togo:
            alive = [estimate[k, j] for j in range(N) if j != i and mask[k, j]]
            b[k, i] = np.mean(alive) if alive else 0
        elif kind == "leave_one_out":
            b[k, i] = others(first, i).mean()
        elif kind == "time_mean":
            b[k, i] = np.where(mask[k], estimate[k], 0).sum() / N
        elif kind == "optimal":
            b[k, i] = (others(g, i) * others(gc, i)).sum() / (others(g, i) ** 2).sum()
    return b, ()


CHUNKED = [("td", "value"), ("n_step", "value"), ("gae", "value"), ("q", "none"), ("advantage", "value")]
WHOLE = [
    *(("return", b) for b in ("none", "mean", "leave_one_out", "moving_average", "optimal", "value")),
    *(("togo", b) for b in ("none", "mean", "leave_one_out", "moving_average", "time_mean", "optimal", "value")),
]


def expected(made, state, t):
    """psi_t of the learner's row and options, all of it by definition; and the moving average."""
    c = critics(made, state, t) if algorithms.needs_critic(made.algorithm) else {}
    row, mask = made.algorithm, t.mask.numpy()
    estimate = member(row.psi, row.baseline, t, c)
    scale = GAMMA ** t.age.numpy().astype(float) if made.objective.weigh_by_age else np.ones([T, N])
    own = row.psi in ("return", "togo") and row.baseline not in ("none", "optimal_per_parameter")
    b, average = subtracted(made, state, t, estimate, c, scale) if own else (np.zeros([T, N]), ())
    return np.where(mask, scale * (estimate - b), 0), average


def assert_psi(made, state, t):
    found = assessed(made, state, t)
    psi, average = expected(made, state, t)
    assert np.abs(psi).max() > 0.5
    np.testing.assert_allclose(np.reshape(found.batch.psi, [T, N]), psi, **CLOSE)
    np.testing.assert_allclose(tf.nest.flatten(found.average), tf.nest.flatten(average), **CLOSE)
    return found


def only_of(psi):
    return {"kind": "real"} if psi in ("td", "return") else {}


@pytest.mark.parametrize("start", ["togo", "start"])
@pytest.mark.parametrize(("psi", "baseline"), [*CHUNKED, *WHOLE])
def test_psi_is_its_definition(psi, baseline, start, rng):
    """In chunks with several ends, and in whole episodes with padding; every fourth of them also with real actions."""
    for whole in [True] if psi in algorithms.WHOLE else [False, True]:
        chosen = {"psi": psi, "baseline": baseline, "discount_from": start, **only_of(psi)}
        made, state, t = prepare(rng, moved=True, whole=whole, algo="reinforce", **chosen)
        assert made.objective.weigh_by_age == (start == "start" and psi != "return")
        assert_psi(made, state, t)


@pytest.mark.parametrize("psi", ["return", "togo"])
def test_an_optimal_baseline_for_each_parameter_is_a_gradient(psi, rng):
    """1/N sum_i (c_i - b_i g_i), b_i = sum_{j != i} g_j c_j / sum_{j != i} g_j^2, component by component; scores from one Jacobian."""
    made, state, t = prepare(
        rng, moved=True, whole=True, algo="reinforce", psi=psi, baseline="optimal_per_parameter", discount_from="start"
    )
    scale = GAMMA ** t.age.numpy().astype(float) if psi == "togo" else np.ones([T, N])
    g, c = scores(made, state, t, member(psi, "none", t, {}), scale)
    b = np.array([(others(g, i) * others(c, i)).sum(0) / np.maximum((others(g, i) ** 2).sum(0), 1e-30) for i in range(N)])
    found = assessed(made, state, t)
    wanted = (c - b * g).mean(0)
    np.testing.assert_allclose(trees.flatten(found.gradient), wanted, rtol=2e-3, atol=1e-4 * np.abs(wanted).max())
    assert np.abs((b * g).mean(0)).max() > 0.1 * np.abs(wanted).max()


def test_every_baseline_is_tried():
    assert {b for _, b in [*CHUNKED, *WHOLE]} == set(algorithms.BASELINES) - {"optimal_per_parameter"}
    assert {psi for psi, _ in [*CHUNKED, *WHOLE]} == set(algorithms.PSI)


@pytest.mark.parametrize(("psi", "whole"), [("gae", False), ("togo", True)])
def test_whitening_comes_last_and_reads_valid_steps_alone(psi, whole, rng):
    made, state, t = prepare(rng, moved=True, whole=whole, algo="reinforce", psi=psi, baseline="value", whiten=True, discount_from="start")
    plain, _ = expected(made, state, t)
    valid = t.mask.numpy()
    wanted = np.where(valid, (plain - plain[valid].mean()) / plain[valid].std(), 0)
    np.testing.assert_allclose(np.reshape(assessed(made, state, t).batch.psi, [T, N]), wanted, rtol=1e-3, atol=1e-4)


def test_whitening_a_single_step_gives_zero(rng):
    made, state, t = prepare(rng, moved=True, algo="npg", whiten=True)
    alone = t._replace(mask=tf.constant(np.arange(T * N).reshape(T, N) == 3))
    np.testing.assert_array_equal(assessed(made, state, alone).batch.psi, np.zeros(T * N))


@pytest.mark.parametrize("critic", [True, False])
def test_return_scaling_divides_by_the_running_deviation_of_what_is_fitted(critic, rng):
    """Of all targets so far, those of this batch included; without a critic, of psi before its baseline."""
    made, state, t = prepare(rng, moved=True, whole=True, algo="reinforce_baseline" if critic else "reinforce_togo", return_scaling=True)
    plain, _ = expected(made, state, t)
    valid = t.mask.numpy()
    before = state.targets
    new = (plain + critics(made, state, t)["v_t"])[valid] if critic else plain[valid]
    n, m, v = float(before.count), float(before.mean), float(before.variance)
    together = n + len(new)
    mean = (n * m + new.sum()) / together
    deviation = np.sqrt((n * (v + (m - mean) ** 2) + ((new - mean) ** 2).sum()) / together)
    np.testing.assert_allclose(np.reshape(assessed(made, state, t).batch.psi, [T, N]), plain / deviation, **CLOSE)
    assert abs(deviation - 1) > 0.3


@pytest.mark.parametrize(("algo", "whole"), [("reinforce", True), ("off_policy", True), ("npg", True), ("npg", False), ("a2c", False)])
def test_batches_of_episodes_and_of_steps_are_normalised_by_name(algo, whole, rng):
    made, state, t = prepare(rng, whole=whole, algo=algo)
    batch, mask = assessed(made, state, t).batch, t.mask.numpy()
    wanted = mask / (N if algorithms.whole_episodes(made.algorithm) else mask.sum())
    np.testing.assert_allclose(np.reshape(batch.weight, [T, N]), wanted, rtol=1e-6)
    np.testing.assert_allclose(np.reshape(batch.share, [T, N]), mask / mask.sum(), rtol=1e-6)
    assert batch.weight.shape == ([T, N] if algo == "off_policy" else [T * N])


def nearly_deterministic(made, state, kind):
    """The same state whose policy leaves nothing to chance, and what it does at o_{t+1}: [T, N, ...]."""
    if kind == "real":
        policy = {**state.policy, "log_std": tf.fill([2], -20.0)}
        return state._replace(policy=policy), lambda x: network(policy["net"], x)
    *first, last = state.policy
    sharp = tf.nest.map_structure(lambda x: 3e5 * x, last)
    return state._replace(policy=(*first, sharp)), lambda x: network((*first, last), x).argmax(-1)


TARGETS = [
    *(("monte_carlo", psi, "discrete") for psi in ("gae", "togo", "q", "advantage")),
    ("monte_carlo", "q", "real"),
    *(("lambda", psi, "discrete") for psi in ("gae", "n_step", "td")),
    *(("td", psi, "real") for psi in ("gae", "td", "n_step")),
    *(("sarsa", psi, "discrete") for psi in ("q", "advantage", "gae", "td")),
    ("sarsa", "q", "real"),
    *(("q_learning", psi, "discrete") for psi in ("q", "advantage", "gae")),
]


@pytest.mark.parametrize(("critic", "psi", "kind"), TARGETS)
def test_the_critic_s_target_and_its_error_are_their_definitions(critic, psi, kind, rng):
    """A policy that leaves nothing to chance, so that a' ~ pi is known: what is sampled, and what the mean over actions is."""
    chosen = {"algo": "reinforce", "psi": psi, "critic": critic, "baseline": "value" if psi == "togo" else "", "kind": kind}
    made, state, t = prepare(rng, moved=True, **chosen)
    state, decide = nearly_deterministic(made, state, kind)
    sampled = decide(seen(state, t.next_observation))
    c = critics(made, state, t, sampled)
    wanted = np.zeros([T, N])
    for i, rows in episodes(t):
        for k in rows:
            goes_on = GAMMA * ~t.terminated.numpy()[k, i]
            if critic == "monte_carlo":
                wanted[k, i] = tail(t, i, rows, k, c["v_tp1"])
            elif critic == "lambda":
                wanted[k, i] = mixture(t, i, rows, k, c, LAMBDA)
            elif critic == "td":
                wanted[k, i] = tail(t, i, rows, k, c["v_tp1"], STEPS if psi == "n_step" else 1)
            else:
                then = c["best"] if critic == "q_learning" else c.get("sampled", c["v_tp1"])
                wanted[k, i] = float(t.reward[k, i]) + goes_on * then[k, i]
    found = assessed(made, state, t)
    np.testing.assert_allclose(found.lesson.target, wanted, rtol=2e-3, atol=2e-4)
    mask, target = t.mask.numpy(), found.lesson.target.numpy()
    error = (target - (c["q_t"] if algorithms.fits_q(made.algorithm) else c["v_t"]))[mask]
    assert float(found.known["value_rmse"]) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)
    assert float(found.known["explained_variance"]) == pytest.approx(1 - np.var(error) / np.var(target[mask]), rel=1e-3, abs=1e-3)


def test_every_critic_is_tried():
    assert {critic for critic, *_ in TARGETS} == set(algorithms.CRITICS)


def test_the_next_action_of_sarsa_is_drawn_from_the_policy(rng):
    """Over many seeds Q(o', a') has the mean sum_a pi Q, which is V(o')."""
    made, state, t = prepare(rng, moved=True, algo="reinforce", psi="q", critic="sarsa")
    run = tf.function(lambda seed: assessed(made, state, t, seed).lesson.target)
    draws = np.stack([run(tf.constant([7, k])).numpy() for k in range(600)])
    c = critics(made, state, t)
    goes_on = GAMMA * ~t.terminated.numpy()
    wanted = t.reward.numpy() + goes_on * c["v_tp1"]
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - wanted) <= 4.5 * error + 1e-4).all()
    assert error.max() > 1e-3


def test_statistics_in_force_are_used(rng):
    made, state, t = prepare(rng)
    moved = state._replace(observations=state.observations._replace(mean=tf.constant([5.0, -3.0])))
    a, b = (np.array(assessed(made, s, t).batch.observation) for s in (state, moved))
    np.testing.assert_allclose(a, np.clip(np.reshape(t.observation, [-1, 2]), -10, 10), rtol=1e-5)
    np.testing.assert_allclose(b, np.clip(np.reshape(t.observation, [-1, 2]) - [5, -3], -10, 10), rtol=1e-4, atol=1e-5)


VARIANTS = [
    {"algo": algo, "psi": psi, "baseline": baseline}
    for algo, psi, baseline in [
        *(("reinforce", *pair) for pair in WHOLE),
        *(("reinforce", psi, "optimal_per_parameter") for psi in ("return", "togo")),
        ("off_policy", "togo", "value"),
        ("off_policy", "togo", "time_mean"),
    ]
]


@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: "-".join(changes.values()))
def test_padding_reaches_no_part_of_an_assessment(changes, rng):
    made, state, t = prepare(rng, moved=True, whole=True, **changes)
    run = tf.function(lambda t: assessed(made, state, t))
    clean = run(fill_padding(t, 0.0))
    assert_equal(run(fill_padding(t, np.nan)), clean)
    assert all(np.isfinite(leaf.numpy()).all() for leaf in tf.nest.flatten(clean._asdict()) if hasattr(leaf, "numpy"))


@pytest.mark.equation("PG-126")
@pytest.mark.parametrize("forms", [assess.PER_STEP, assess.PER_TRAJECTORY], ids=["togo", "return"])
def test_a_group_s_baseline_is_made_of_its_own_trajectories(forms, mode, rng):
    """That of six columns in groups of three is that of each three by themselves; a group of one is none at all."""
    return_t, mask_t = tf.constant(rng.normal(size=[T, 6])), tf.constant(np.arange(T)[:, None] < [7, 4, 5, 2, 6, 3])
    for form in forms.values():
        found = mode(lambda form=form: assess.by_groups(form, return_t, mask_t, 3))()
        halves = [form(return_t[:, half], mask_t[:, half]) for half in (slice(0, 3), slice(3, 6))]
        np.testing.assert_allclose(found, tf.concat(halves, axis=1), rtol=1e-12)
        np.testing.assert_array_equal(assess.by_groups(form, return_t, mask_t, 1), form(return_t, mask_t))
        assert np.abs(found - form(return_t, mask_t)).max() > 0.01


def test_what_a_batch_holds_is_data(rng):
    """No gradient flows into it from rewards, old log-probabilities, or the critic."""
    made, state, t = prepare(rng, moved=True)
    with tf.GradientTape() as tape:
        tape.watch((t.reward, t.log_prob, state.value))
        found = assessed(made, state, t)
        total = sum(tf.reduce_sum(x) for x in (found.batch.psi, found.batch.log_prob, found.lesson.target))
    assert all(leaf is None for leaf in tf.nest.flatten(tape.gradient(total, (t.reward, t.log_prob, state.value))))


def test_columns_keep_what_products_over_time_need(rng):
    """An episode that the clock cut is paid V of where it stopped, as every other row is; without V it is not."""
    for baseline in ("value", "none"):
        made, state, t = prepare(rng, moved=True, whole=True, algo="off_policy", baseline=baseline)
        b = assessed(made, state, t).batch
        mask, end = t.mask.numpy(), (t.terminated | t.truncated).numpy()
        cut = mask & t.truncated.numpy() & ~t.terminated.numpy()
        assert cut.sum() == 1
        paid = np.where(mask, t.reward, 0).astype(float)
        if baseline == "value":
            paid += np.where(cut, GAMMA * critics(made, state, t)["v_tp1"], 0)
        np.testing.assert_allclose(b.reward, paid, **CLOSE)
        np.testing.assert_allclose(b.lambda_ * mask, ~end * mask, rtol=1e-6)
        np.testing.assert_allclose(b.psi, b.scale * np.where(mask, loop_togo(b, mask) - b.baseline, 0), **CLOSE)


def loop_togo(b, mask):
    """sum_{u >= t} gamma^(u-t) r_u of a batch in columns."""
    r = np.where(mask, b.reward, 0)
    return np.array([[sum(GAMMA ** (u - k) * r[u, i] for u in range(k, T)) for i in range(N)] for k in range(T)])


def test_shapes_are_known_when_a_program_is_traced(rng):
    assert isinstance(make().policy, Policy)
    made, state, t = prepare(rng)
    assert flat(t.reward).shape == [T * N]
    assert trajectory(made, state, rng, whole=True).mask.shape == [T, N]


@pytest.mark.parametrize("rows", [15, blocks.BLOCK, 7 * 331, 3 * blocks.BLOCK])
@pytest.mark.parametrize("jit", [False, True])
def test_rows_in_turn_are_the_rows_at_once(rows, jit, rng):
    """Of one block, of blocks that are full, and of a last one that is not; never are more rows than a block looked at."""
    x, y, most = tf.constant(rng.normal(size=[rows, 2])), tf.constant(rng.uniform(size=[rows])), []

    def of(x, y):
        most.append(x.shape[0])
        return tf.reduce_sum(x**2, -1) + y

    found = tf.function(lambda: blocks.in_turn(of, tf.float64, x, y), jit_compile=jit)()
    np.testing.assert_allclose(found, np.sum(x.numpy() ** 2, -1) + y, rtol=1e-14)
    assert max(most) <= blocks.BLOCK


@pytest.mark.parametrize("critic", ["td", "sarsa"])
def test_values_of_a_batch_larger_than_a_block_are_those_of_its_parts(critic, rng):
    made = make("actor_critic", critic=critic, psi="q" if critic == "sarsa" else "td")
    state = begun(made, rng)
    observation = tf.constant(rng.normal(size=[7, 331, 2]), tf.float32)
    mask = tf.ones([7, 331], tf.bool)
    action = [tf.constant(rng.integers(0, 2, size=[7, 331]), tf.int32)] if critic == "sarsa" else []
    found = learner.values(made, state, (observation, mask, ()), *action)
    at = lambda t: tf.nest.map_structure(lambda x: x[t : t + 1], ((observation, mask, ()), *action))  # noqa: E731
    parts = [learner.values(made, state, *at(t))[0] for t in range(7)]
    np.testing.assert_allclose(found, parts, rtol=1e-5, atol=1e-6)
    assert np.ptp(found) > 1e-2


@pytest.mark.parametrize(("mean", "wanted"), [(0.0, 0.75), (1e4, 0.0)])
def test_targets_that_vary_by_round_off_alone_are_not_explained(mean, wanted):
    """Around 10,000 a variance of 100 may be the round-off of sums of squares of 10^8."""
    target, error = (Moments(*map(tf.constant, (m, v, 50.0))) for m, v in ((mean, 100.0), (3.0, 25.0)))
    found = assess.metrics(assess.Judged(target, error))
    assert float(found["explained_variance"]) == pytest.approx(wanted)
    assert float(found["value_rmse"]) == pytest.approx(np.sqrt(25 + 9))
