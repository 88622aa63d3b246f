"""Processes solved exactly, against the list of their episodes: values, visitation, gradients, and what the records say."""

import numpy as np
import pytest
import tensorflow as tf
from episodes import Process, draw, softmax, table_score
from laws import finite_difference

from tfpg.tabular import TabularMDP

equation = pytest.mark.equation
rng = np.random.default_rng(41)

PLAIN = draw(3)
THETA = rng.normal(size=(3, 2))
# A process that ends: state 2 is over, which one may also start in; the numbers written there must not matter.
_ends = draw(5, states=4, actions=3, gamma=0.8, horizon=3, over=(2,))
_ends.move[0, 1] = [0, 0, 1, 0]
_ends.move[3, 2] = [0.3, 0.7, 0, 0]
ENDS = _ends
THETA_ENDS = rng.normal(size=(4, 3))
CASES = {"plain": (PLAIN, THETA), "ends": (ENDS, THETA_ENDS)}
both = pytest.mark.parametrize("case", CASES)
LONG = 400  # gamma^400 < 1e-17 for the gammas used


def facade(process, **changes):
    given = {"gamma": process.gamma, "horizon": process.horizon, "terminal": process.over, **changes}
    return TabularMDP(process.start, process.move, process.reward, **given)


def forever(process, theta):
    """J, Q, V, and d(s, a), summed over a very long time, one step after the other."""
    alive = ~np.isin(np.arange(len(process.start)), process.over)
    pi, reward, move = softmax(theta), process.reward * alive[:, None], process.move * alive * alive[:, None, None]
    v, d, mu = np.zeros(len(pi)), np.zeros_like(pi), process.start * alive
    for t in range(LONG):
        q = reward + process.gamma * move @ v
        v = (pi * q).sum(-1)
        d += process.gamma**t * mu[:, None] * pi
        mu = np.einsum("s,sa,sak->k", mu, pi, move)
    return process.start @ v, q, v, d


@equation("PG-12", "PG-17")
@both
def test_the_objective_is_the_mean_return(case):
    process, theta = CASES[case]
    np.testing.assert_allclose(facade(process).objective(theta), process.objective(softmax(theta)), rtol=1e-13)


@equation("PG-16", "PG-18")
@both
def test_values_are_means_of_what_is_to_come(case):
    process, theta = CASES[case]
    mdp, (q, v) = facade(process), process.values(softmax(theta))
    seen = process.occupancy(softmax(theta)) > 0
    found, alive = mdp.values(theta), ~np.isin(np.arange(len(process.start)), process.over)
    assert seen[:, alive].all()
    np.testing.assert_allclose(found.q, q, atol=1e-13)
    np.testing.assert_allclose(found.v, v, atol=1e-13)
    np.testing.assert_allclose(mdp.advantage(theta), np.where(seen, q - v[..., None], 0), atol=1e-13)


@equation("PG-08", "PG-56")
@both
def test_occupancy_is_discounted_and_leaves_out_what_follows_the_end(case):
    process, theta = CASES[case]
    mdp, d = facade(process), process.occupancy(softmax(theta))
    np.testing.assert_allclose(mdp.occupancy(theta), d, atol=1e-14)
    np.testing.assert_allclose(mdp.visitation(theta), d.sum((0, 2)), atol=1e-14)


@equation("PG-22")
def test_scores_are_slopes_of_log_probabilities():
    mdp = facade(PLAIN)
    np.testing.assert_allclose(mdp.score(THETA), table_score(THETA), atol=1e-14)
    for s, a in np.ndindex(3, 2):
        slope = finite_difference(lambda x, s=s, a=a: np.log(softmax(x))[s, a], THETA)
        np.testing.assert_allclose(mdp.score(THETA)[s, a], slope.ravel(), atol=1e-9)


@equation("PG-56", "PG-13")
@both
def test_the_gradient_is_the_slope_of_the_objective(case):
    process, theta = CASES[case]
    mdp, slope = facade(process), finite_difference(lambda x: process.objective(softmax(x)), theta)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(mdp.gradient(theta), slope, atol=1e-9)
    with tf.GradientTape() as tape:
        x = tf.constant(theta)
        tape.watch(x)
        objective = mdp.objective(x)
    np.testing.assert_allclose(tape.gradient(objective, x), mdp.gradient(theta), atol=1e-14)


@equation("PG-104", "PG-107")
@both
def test_fisher_matrix_and_natural_gradient(case):
    process, theta = CASES[case]
    mdp, d, g = facade(process), process.occupancy(softmax(theta)).sum(0), table_score(theta)
    fisher = np.einsum("sa,sap,saq->pq", d, g, g)
    np.testing.assert_allclose(mdp.fisher(theta), fisher, atol=1e-13)
    slope = finite_difference(lambda x: process.objective(softmax(x)), theta).ravel()
    expected = np.linalg.pinv(fisher, rcond=1e-8) @ slope
    np.testing.assert_allclose(mdp.natural_gradient(theta), expected.reshape(theta.shape), atol=1e-7)


@equation("PG-107")
@both
def test_the_natural_gradient_of_a_table_is_the_advantage(case):
    """Averaged over time, up to a constant per state; and the shortest such vector, of mean zero in every state."""
    process, theta = CASES[case]
    mdp, d = facade(process), process.occupancy(softmax(theta))
    q, v = process.values(softmax(theta))
    weight = d.sum(0)
    advantage = np.divide((d * (q - v[..., None])).sum(0), weight, out=np.zeros_like(weight), where=weight > 0)
    expected = advantage - advantage.mean(-1, keepdims=True)
    np.testing.assert_allclose(mdp.natural_gradient(theta), expected, atol=1e-12)


@equation("PG-16", "PG-17", "PG-18", "PG-56", "PG-104", "PG-107")
@both
def test_everything_for_ever_is_the_limit_of_long_sums(case):
    process, theta = CASES[case]
    mdp = facade(process, horizon=None)
    objective, q, v, d = forever(process, theta)
    np.testing.assert_allclose(mdp.objective(theta), objective, rtol=1e-12)
    np.testing.assert_allclose(mdp.values(theta).q, q, atol=1e-12)
    np.testing.assert_allclose(mdp.values(theta).v, v, atol=1e-12)
    np.testing.assert_allclose(mdp.advantage(theta), q - v[:, None], atol=1e-12)
    np.testing.assert_allclose(mdp.occupancy(theta), d, atol=1e-12)
    np.testing.assert_allclose(mdp.visitation(theta), d.sum(-1), atol=1e-12)
    slope = finite_difference(lambda x: forever(process, x)[0], theta)
    np.testing.assert_allclose(mdp.gradient(theta), slope, atol=1e-9)
    g = table_score(theta)
    fisher = np.einsum("sa,sap,saq->pq", d, g, g)
    np.testing.assert_allclose(mdp.fisher(theta), fisher, atol=1e-12)
    natural = np.linalg.pinv(fisher, rcond=1e-8) @ slope.ravel()
    np.testing.assert_allclose(mdp.natural_gradient(theta), natural.reshape(theta.shape), atol=1e-7)


@equation("PG-130")
def test_optimal_values_are_the_best_of_all_policies():
    process = draw(9, gamma=0.7, horizon=2)
    tables = [np.eye(2)[list(choice)] for choice in np.ndindex(2, 2, 2)]
    best = np.full((2, 3), -np.inf)
    for first in tables:
        for last in tables:
            later = (last * process.reward).sum(-1)
            now = (first * (process.reward + 0.7 * process.move @ later)).sum(-1)
            best = np.maximum(best, [now, later])
    found = facade(process).optimal_values()
    np.testing.assert_allclose(found.v, best, rtol=1e-13)
    np.testing.assert_allclose(found.q, [process.reward + 0.7 * process.move @ best[1], process.reward], rtol=1e-13)
    stationary = np.array([forever(process, 800 * table)[2] for table in tables])
    np.testing.assert_allclose(facade(process, horizon=None).optimal_values().v, stationary.max(0), rtol=1e-12)


def columns(record):
    """Episode and column number of every trajectory of a record."""
    state, action, mask = (np.asarray(x).T for x in (record.observation, record.action, record.mask))
    return [tuple((int(s), int(a)) for s, a, m in zip(*column, strict=True) if m) for column in zip(state, action, mask, strict=True)]


@equation("PG-05", "PG-22")
@both
def test_the_listing_holds_every_episode_once(case):
    process, theta = CASES[case]
    listing = facade(process).trajectories(theta)
    expected = {path: p for p, path in process.episodes(softmax(theta)) if path}
    found = columns(listing.trajectory)
    if process.start[list(process.over)].sum():
        assert found.count(()) == len(process.over)
        expected[()] = process.start[list(process.over)].sum()
    assert len(found) == len(expected)
    np.testing.assert_allclose(listing.probability, [expected[path] for path in found], rtol=1e-12)
    np.testing.assert_allclose(np.sum(listing.probability), 1, rtol=1e-13)


@equation("PG-22", "PG-129")
@both
def test_a_record_says_what_happened(case):
    process, theta = CASES[case]
    listing = tf.nest.map_structure(np.asarray, facade(process).trajectories(theta))
    t, score, log_pi = listing.trajectory, table_score(theta), np.log(softmax(theta))
    steps = np.arange(process.horizon)
    for n, path in enumerate(columns(t)):
        length = len(path)
        pairs = tuple(np.array(path, int).reshape(-1, 2).T)
        np.testing.assert_array_equal(t.mask[:, n], steps < length)
        np.testing.assert_array_equal(t.reward[:, n], np.append(process.reward[pairs], np.zeros(process.horizon - length)))
        np.testing.assert_allclose(t.log_prob[:length, n], log_pi[pairs], atol=1e-14)
        np.testing.assert_allclose(listing.score_t[:length, n], score[pairs], atol=1e-14)
        np.testing.assert_array_equal(t.next_observation[:length, n][:-1], pairs[0][1:])
        np.testing.assert_array_equal(t.terminated[:length, n], steps[:length] == length - 1)
        assert not np.any(listing.score_t[length:, n])
    assert not np.any(t.truncated)
    np.testing.assert_array_equal(t.age, np.broadcast_to(np.arange(process.horizon)[:, None], t.age.shape))


@equation("PG-16")
def test_what_stands_in_a_terminal_state_does_not_matter():
    move, reward = ENDS.move.copy(), ENDS.reward.copy()
    move[2], reward[2] = np.eye(4)[0], 1e6
    other = Process(ENDS.start, move, reward, ENDS.gamma, ENDS.horizon, ENDS.over)
    for horizon in (3, None):
        for method in ("objective", "values", "gradient", "fisher"):
            a, b = (getattr(facade(process, horizon=horizon), method)(THETA_ENDS) for process in (ENDS, other))
            tf.nest.map_structure(np.testing.assert_array_equal, a, b)
        assert not np.any(facade(other, horizon=horizon).values(THETA_ENDS).v[..., 2])


@equation("PG-22", "PG-56", "PG-107")
def test_a_policy_of_fewer_parameters():
    """pi(a|s) proportional to exp(x(s, a) . theta), theta [2]: gradients are like theta."""
    features, theta = rng.normal(size=(3, 2, 2)), np.array([0.4, -0.7])
    mdp = facade(PLAIN, policy=lambda theta: tf.nn.softmax(tf.linalg.matvec(features, theta)))
    slope = finite_difference(lambda x: PLAIN.objective(softmax(features @ x)), theta)
    np.testing.assert_allclose(mdp.gradient(theta), slope, atol=1e-9)
    d, pi = PLAIN.occupancy(softmax(features @ theta)), softmax(features @ theta)
    g = features - (pi[..., None] * features).sum(1, keepdims=True)
    np.testing.assert_allclose(mdp.score(theta), g, atol=1e-14)
    fisher = np.einsum("tsa,sap,saq->pq", d, g, g)
    np.testing.assert_allclose(mdp.natural_gradient(theta), np.linalg.solve(fisher, slope), atol=1e-8)


@equation("PG-22", "PG-56")
def test_certainty_is_no_trouble():
    """A saturated table: the other action has probability 0 exactly, its logarithm is -inf, and no NaN comes of it."""
    theta = np.array([[900.0, 0.0], [0.3, -0.2], [0.0, 0.5]])
    mdp, pi = facade(PLAIN), softmax(theta)
    assert pi[0, 1] == 0
    slope = finite_difference(lambda x: PLAIN.objective(softmax(x)), theta)
    np.testing.assert_allclose(mdp.gradient(theta), slope, atol=1e-9)
    assert np.isfinite(mdp.natural_gradient(theta)).all()


@equation("PG-12", "PG-56")
def test_the_random_process_is_drawn_in_the_order_of_its_documentation():
    draws = np.random.default_rng(6)
    start, move, reward = draws.dirichlet(np.ones(4)), draws.dirichlet(np.ones(4), size=(4, 3)), draws.normal(size=(4, 3))
    mdp = TabularMDP.random(6, states=4, actions=3, gamma=0.6, horizon=5)
    for found, expected in ((mdp.start, start), (mdp.transition, move), (mdp.reward, reward)):
        np.testing.assert_array_equal(found, expected)
    assert (mdp.gamma, mdp.horizon, mdp.terminal) == (0.6, 5, ())
    assert mdp.some_parameters(1).shape == (4, 3)
    assert np.ptp(mdp.some_parameters(1)) > 0.5
    assert np.abs(mdp.some_parameters(1) - mdp.some_parameters(2)).min() > 0


@equation("PG-12", "PG-16", "PG-56")
@pytest.mark.parametrize("horizon", [3, None])
def test_methods_are_parts_of_any_program(mode, horizon):
    mdp = facade(ENDS, horizon=horizon)

    def solved(theta):
        return mdp.objective(theta), mdp.values(theta), mdp.gradient(theta)

    expected = solved(THETA_ENDS)
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), mode(solved)(tf.constant(THETA_ENDS)), expected)


@equation("PG-05", "PG-104", "PG-107")
def test_the_other_methods_become_a_graph():
    mdp = facade(draw(6, horizon=2, over=(2,)))

    def solved(theta):
        return mdp.visitation(theta), mdp.fisher(theta), mdp.natural_gradient(theta), mdp.trajectories(theta)

    found = tf.function(solved, autograph=False)(tf.constant(THETA))
    tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found, solved(THETA))


@equation("PG-12", "PG-16", "PG-56", "PG-107")
@pytest.mark.parametrize("convert", [list, np.asarray, tf.constant, tf.Variable, lambda x: tf.constant(x, tf.float32)])
def test_theta_may_be_anything_that_holds_numbers(convert):
    theta = np.float32(THETA).astype(float)
    mdp, given = facade(PLAIN), convert(theta.tolist())
    tolerance = 1e-6 if getattr(given, "dtype", None) in (tf.float32,) else 1e-14
    for method in ("objective", "values", "gradient", "natural_gradient", "fisher", "visitation", "trajectories"):
        found, expected = getattr(mdp, method)(given), getattr(mdp, method)(tf.constant(theta))
        tf.nest.map_structure(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), found, expected)
