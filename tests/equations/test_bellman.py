"""Values of policies: against nested sums, long series, and expectations over all trajectories."""

import numpy as np
import pytest
import tables
import tensorflow as tf
from definitions import assert_is
from laws import finite_difference

from tfpg import bellman

equation = pytest.mark.equation
S, A, T, GAMMA = 4, 3, 5, 0.83


def arguments():
    process, rng = tables.draw(21, S, A), np.random.default_rng(6)
    q_t = rng.normal(size=(T, S, A))
    return {
        "start": process.start,
        "transition": process.move,
        "reward": process.reward,
        "pi": tables.softmax(process.theta),
        "pi_t": rng.dirichlet(np.ones(A), size=(T, S)),
        "gamma": np.array(GAMMA),
        "v": rng.normal(size=S),
        "v_t": rng.normal(size=(T, S)),
        "q": q_t[0],
        "q_t": q_t,
        "score": rng.normal(size=(S, A, 7)),
        "occupancy": rng.uniform(0.1, 2, size=(T, S, A)),
    }


def pick(**names):
    given = arguments()
    return {key: given[name] for key, name in names.items()}


def backup(reward, transition, gamma, v):
    return np.array([[reward[s, a] + gamma * sum(transition[s, a, k] * v[k] for k in range(S)) for a in range(A)] for s in range(S)])


def nested(reward, transition, pi_t, gamma):
    """r_1 + E_{s_2}[E_{a_2}[r_2 + ...]] as it is written, from the outside in; discounted."""

    def q(t, s, a):
        return reward[s, a] + gamma * sum(transition[s, a, k] * v(t + 1, k) for k in range(S)) if t + 1 < len(pi_t) else reward[s, a]

    def v(t, s):
        return sum(pi_t[t, s, a] * q(t, s, a) for a in range(A))

    steps = range(len(pi_t))
    return (
        np.array([[[q(t, s, a) for a in range(A)] for s in range(S)] for t in steps]),
        np.array([[v(t, s) for s in range(S)] for t in steps]),
    )


def series(chain, first, gamma):
    """sum_k gamma^k chain^k first."""
    total, term = np.zeros(S), first
    for _ in range(300):
        total, term = total + term, gamma * chain @ term
    return total


def for_ever(reward, transition, pi, gamma):
    chain = np.einsum("sa,sak->sk", pi, transition)
    v = series(chain, (pi * reward).sum(1), gamma)
    return backup(reward, transition, gamma, v), v


def theorem(occupancy, score, q):
    total = np.zeros(score.shape[-1])
    for *time, s, a in np.ndindex(occupancy.shape):
        total += occupancy[(*time, s, a)] * q[(*time, s, a)] * score[s, a]
    return total


MODEL = {"reward": "reward", "transition": "transition"}
DEFINITIONS = {
    "backup": (backup, pick(**MODEL, gamma="gamma", v="v")),
    "expected_value": (lambda q, pi: np.array([[pi[t, s] @ q[t, s] for s in range(S)] for t in range(T)]), pick(q="q_t", pi="pi_t")),
    "advantage": (lambda q, v: np.stack([q[..., a] - v for a in range(A)], axis=-1), pick(q="q_t", v="v_t")),
    "discounted_values": (for_ever, pick(**MODEL, pi="pi", gamma="gamma")),
    "discounted_visitation": (
        lambda start, transition, pi, gamma: series(np.einsum("sa,sak->ks", pi, transition), start, gamma),
        pick(start="start", transition="transition", pi="pi", gamma="gamma"),
    ),
    "theorem_gradient": (theorem, pick(occupancy="occupancy", score="score", q="q_t")),
    "value_of_start": (lambda start, v: np.array(sum(start[s] * v[s] for s in range(S))), pick(start="start", v="v")),
    "value_of_first_action": (
        lambda start, pi, q: np.array(sum(start[s] * pi[s, a] * q[s, a] for s in range(S) for a in range(A))),
        pick(start="start", pi="pi", q="q"),
    ),
}


@equation("PG-15", "PG-16", "PG-17", "PG-18", "PG-56")
@pytest.mark.parametrize("name", DEFINITIONS)
def test_equals_its_definition(mode, name):
    assert_is(mode, getattr(bellman, name), *DEFINITIONS[name])


@equation("PG-15", "PG-16")
def test_finite_values_are_the_nested_expectations(mode):
    given = pick(**MODEL, pi_t="pi_t", gamma="gamma")
    assert_is(mode, bellman.finite_values, nested, {**given, "pi_t": given["pi_t"][:3]})


@equation("PG-15", "PG-16")
def test_the_last_step_earns_its_reward_and_values_depend_on_time():
    given = pick(**MODEL, pi_t="pi_t", gamma="gamma")
    q, v = (x.numpy() for x in bellman.finite_values(**given))
    np.testing.assert_array_equal(q[-1], given["reward"])
    for t in range(T - 1):
        np.testing.assert_allclose(q[t], given["reward"] + GAMMA * given["transition"] @ v[t + 1], rtol=1e-13)
    assert np.abs(q[0] - q[-1]).max() > 0.1
    one = bellman.finite_values(**{**given, "pi_t": given["pi_t"][:1]})
    np.testing.assert_array_equal(one.q, given["reward"][None])


def conditional(listed, gamma, states, actions):
    """E[sum_{u>=t} gamma^(u-t) r_u | s_t = s, a_t = a] over all trajectories, renormalised."""
    g_t, q = tables.togo(listed.r_t, gamma), np.zeros((len(listed.r_t), states, actions))
    for t, s, a in np.ndindex(q.shape):
        there = (listed.state_t[t] == s) & (listed.action_t[t] == a)
        q[t, s, a] = listed.p[there] @ g_t[t, there] / listed.p[there].sum()
    return q


@equation("PG-15", "PG-16", "PG-34", "PG-35")
@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_action_values_are_the_mean_reward_to_go_given_state_and_action(gamma):
    process = tables.draw(22)
    listed = tables.listed(process, 4)
    q = bellman.finite_values(process.reward, process.move, tables.every_step(tables.softmax(process.theta), 4), gamma).q
    np.testing.assert_allclose(q, conditional(listed, gamma, 3, 2), rtol=1e-12, atol=1e-13)


@equation("PG-15", "PG-17")
@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_the_objective_is_the_value_of_the_start(gamma):
    process = tables.draw(23)
    pi = tables.softmax(process.theta)
    values = bellman.finite_values(process.reward, process.move, tables.every_step(pi, 4), gamma)
    j = tables.objective(process, process.theta, 4, gamma)
    np.testing.assert_allclose(bellman.value_of_start(process.start, values.v[0]), j, rtol=1e-12)
    np.testing.assert_allclose(bellman.value_of_first_action(process.start, pi, values.q[0]), j, rtol=1e-12)


@equation("PG-16")
def test_without_an_end_values_are_the_limit_of_long_horizons_and_their_own_backup():
    given = pick(**MODEL, pi="pi", gamma="gamma")
    q, v = (x.numpy() for x in bellman.discounted_values(**given))
    np.testing.assert_allclose(given["reward"] + GAMMA * given["transition"] @ v, q, rtol=1e-12)
    np.testing.assert_allclose((given["pi"] * q).sum(1), v, rtol=1e-12)
    long = bellman.finite_values(given["reward"], given["transition"], tables.every_step(given["pi"], 200), GAMMA)
    np.testing.assert_allclose(long.q[0], q, rtol=1e-12)
    np.testing.assert_allclose(long.v[0], v, rtol=1e-12)


@equation("PG-16")
def test_one_state_and_one_action_is_a_geometric_series():
    one = bellman.discounted_values(np.array([[1.3]]), np.ones((1, 1, 1)), np.ones((1, 1)), GAMMA)
    np.testing.assert_allclose(one.v, [1.3 / (1 - GAMMA)], rtol=1e-14)
    nearsighted = bellman.discounted_values(**{**pick(**MODEL, pi="pi"), "gamma": 0.0})
    np.testing.assert_allclose(nearsighted.q, arguments()["reward"], rtol=1e-14)


@equation("PG-18")
def test_advantages_average_to_zero_under_the_policy():
    given = pick(**MODEL, pi_t="pi_t", gamma="gamma")
    values = bellman.finite_values(**given)
    mean = np.sum(given["pi_t"] * bellman.advantage(values.q, values.v).numpy(), axis=-1)
    np.testing.assert_allclose(mean, np.zeros((T, S)), atol=1e-14)


@equation("PG-18")
@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_raising_a_logit_raises_the_objective_by_the_advantage(gamma):
    process = tables.draw(24)
    pi, listed = tables.softmax(process.theta), tables.listed(process, 4)
    values = bellman.finite_values(process.reward, process.move, tables.every_step(pi, 4), gamma)
    advantage_t, rate = bellman.advantage(values.q, values.v).numpy(), np.zeros((3, 2))
    for t in range(4):
        for s, a in np.ndindex(3, 2):
            rate[s, a] += gamma**t * listed.p[listed.state_t[t] == s].sum() * pi[s, a] * advantage_t[t, s, a]
    slope = finite_difference(lambda theta: tables.objective(process, theta, 4, gamma), process.theta)
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(rate, slope, atol=1e-9)


def discounted_objective(process, theta, gamma):
    pi = tables.softmax(theta)
    return process.start @ for_ever(process.reward, process.move, pi, gamma)[1]


@equation("PG-56")
def test_the_theorem_is_the_gradient_of_the_discounted_objective():
    process = tables.draw(25, S, A)
    pi, score = tables.softmax(process.theta), tables.every_score(process.theta)
    d = bellman.discounted_visitation(process.start, process.move, pi, GAMMA).numpy()
    np.testing.assert_allclose(d.sum(), 1 / (1 - GAMMA), rtol=1e-13)
    q = bellman.discounted_values(process.reward, process.move, pi, GAMMA).q
    gradient = bellman.theorem_gradient(d[:, None] * pi, score, q).numpy()
    slope = finite_difference(lambda theta: discounted_objective(process, theta, GAMMA), process.theta).ravel()
    assert np.abs(slope).max() > 1e-2
    np.testing.assert_allclose(gradient, slope, atol=1e-9 * max(1, np.abs(slope).max()))
    normalised = bellman.theorem_gradient(d[:, None] / d.sum() * pi, score, q)
    np.testing.assert_allclose(normalised, (1 - GAMMA) * slope, atol=1e-9)


@equation("PG-56")
def test_where_the_process_settles_is_no_weight_for_the_discounted_gradient():
    process = tables.draw(25, S, A)
    pi = tables.softmax(process.theta)
    chain = np.linalg.matrix_power(np.einsum("sak,sa->ks", process.move, pi), 256)
    q = bellman.discounted_values(process.reward, process.move, pi, GAMMA).q
    slope = finite_difference(lambda theta: discounted_objective(process, theta, GAMMA), process.theta).ravel()
    settled = bellman.theorem_gradient(chain[:, :1] * pi, tables.every_score(process.theta), q).numpy()
    ratio = (settled / slope)[np.abs(slope) > 1e-3]
    assert np.ptp(ratio) > 1e-2


@equation("PG-56")
@pytest.mark.parametrize("gamma", [0.7, 1.0])
def test_with_an_end_the_theorem_sums_over_time(gamma):
    process = tables.draw(26)
    pi, score, listed = tables.softmax(process.theta), tables.every_score(process.theta), tables.listed(process, 4)
    occupancy = np.zeros((4, 3, 2))
    for t in range(4):
        np.add.at(occupancy[t], (listed.state_t[t], listed.action_t[t]), gamma**t * listed.p)
    q = bellman.finite_values(process.reward, process.move, tables.every_step(pi, 4), gamma).q.numpy()
    slope = finite_difference(lambda theta: tables.objective(process, theta, 4, gamma), process.theta).ravel()
    np.testing.assert_allclose(bellman.theorem_gradient(occupancy, score, q), slope, atol=1e-9)
    same_time = bellman.theorem_gradient(occupancy.sum(0), score, q[0])
    assert np.abs(same_time - slope).max() > 1e-3


@equation("PG-56")
def test_values_and_their_gradient_follow_the_policy():
    """The theorem holds for what the tape says as well: of the linear solve itself."""
    process = tables.draw(27, S, A)
    theta = tf.constant(process.theta)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        v = bellman.discounted_values(process.reward, process.move, tf.nn.softmax(theta), GAMMA).v
        j = bellman.value_of_start(process.start, v)
    slope = finite_difference(lambda theta: discounted_objective(process, theta, GAMMA), process.theta)
    np.testing.assert_allclose(tape.gradient(j, theta), slope, atol=1e-8)
