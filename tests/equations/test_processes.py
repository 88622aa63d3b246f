"""How probability moves, against sums written out entry by entry and against every trajectory listed."""

import numpy as np
import pytest
import tables
import tensorflow as tf
from definitions import assert_is, tensors
from laws import finite_difference

from tfpg import processes

equation = pytest.mark.equation
S, A, SEEN, T = 4, 3, 5, 6


def arguments():
    rng = np.random.default_rng(5)
    simplex = lambda *shape: rng.dirichlet(np.ones(shape[-1]), size=shape[:-1])  # noqa: E731
    return {
        "mu": simplex(S),
        "start": simplex(S),
        "xi": simplex(A),
        "chain": simplex(S, S).T.copy(),
        "transition": simplex(S, A, S),
        "pi": simplex(S, A),
        "pi_t": simplex(T, S, A),
        "emission": simplex(S, SEEN),
        "reward": rng.normal(size=(S, A)),
        "occupancy": simplex(S * A).reshape(S, A),
    }


def entries(entry, *shape):
    return np.array([entry(*index) for index in np.ndindex(*shape)]).reshape(shape)


def push(mu, chain):
    return entries(lambda i: sum(chain[i, j] * mu[j] for j in range(S)), S)


def step(mu, pi, transition):
    return entries(lambda k: sum(transition[s, a, k] * pi[s, a] * mu[s] for s in range(S) for a in range(A)), S)


def marginals(start, pi_t, transition):
    """p(s_t = s) as the sum over all sequences of states before t, the probability of each of its steps being a sum over actions."""
    rows = []
    for t in range(len(pi_t)):
        path = np.indices([S] * (t + 1)).reshape(t + 1, -1)
        weight = start[path[0]]
        for u in range(t):
            weight = weight * sum(pi_t[u][path[u], a] * transition[path[u], a, path[u + 1]] for a in range(A))
        rows.append([weight[path[t] == s].sum() for s in range(S)])
    return np.array(rows)


DEFINITIONS = {
    "chain_step": (push, ["mu", "chain"]),
    "chain_marginals": (
        lambda mu, chain, horizon=T: np.array([np.linalg.matrix_power(chain, t) @ mu for t in range(horizon)]),
        ["mu", "chain"],
    ),
    "open_loop_step": (
        lambda mu, xi, transition: entries(lambda k: sum(transition[s, a, k] * mu[s] * xi[a] for s in range(S) for a in range(A)), S),
        ["mu", "xi", "transition"],
    ),
    "marginal_step": (step, ["mu", "pi", "transition"]),
    "state_marginals": (marginals, ["start", "pi_t", "transition"]),
    "state_action_marginals": (
        lambda start, pi_t, transition: np.array([m[:, None] * pi for m, pi in zip(marginals(start, pi_t, transition), pi_t, strict=True)]),
        ["start", "pi_t", "transition"],
    ),
    "state_chain": (
        lambda pi, transition: entries(lambda i, j: sum(transition[j, a, i] * pi[j, a] for a in range(A)), S, S),
        ["pi", "transition"],
    ),
    "state_action_chain": (
        lambda pi, transition: entries(
            lambda row, column: transition[column // A, column % A, row // A] * pi[row // A, row % A], S * A, S * A
        ),
        ["pi", "transition"],
    ),
    "average_reward": (
        lambda occupancy, reward: np.array(sum(occupancy[i] * reward[i] for i in np.ndindex(S, A))),
        ["occupancy", "reward"],
    ),
    "observation_marginal": (
        lambda mu, emission: entries(lambda o: sum(emission[s, o] * mu[s] for s in range(S)), SEEN),
        ["mu", "emission"],
    ),
}


@equation("PG-01", "PG-02", "PG-03", "PG-04", "PG-07", "PG-08", "PG-10")
@pytest.mark.parametrize("name", DEFINITIONS)
def test_equals_its_definition(mode, name):
    definition, names = DEFINITIONS[name]
    given = {key: arguments()[key] for key in names}
    if name == "chain_marginals":
        given["horizon"] = T
    if name in ("state_marginals", "state_action_marginals"):
        given["pi_t"] = given["pi_t"][:3]
    assert_is(mode, getattr(processes, name), definition, given)


@equation("PG-04")
def test_induced_policy_equals_its_definition(mode):
    rng = np.random.default_rng(2)
    given = {"emission": rng.dirichlet(np.ones(SEEN), size=S), "pi": rng.dirichlet(np.ones(A), size=SEEN)}

    def definition(emission, pi):
        return entries(lambda s, a: sum(emission[s, o] * pi[o, a] for o in range(SEEN)), S, A)

    assert_is(mode, processes.induced_policy, definition, given)


@equation("PG-01")
def test_a_chain_keeps_mass_and_composes_and_does_not_know_the_names_of_states():
    mu, chain, order = arguments()["mu"], arguments()["chain"], np.array([2, 0, 3, 1])
    mu_t = processes.chain_marginals(mu, chain, 9).numpy()
    assert mu_t.shape == (9, S)
    np.testing.assert_array_equal(mu_t[0], mu)
    np.testing.assert_allclose(mu_t.sum(1), 1, rtol=1e-14)
    assert mu_t.min() > 0
    np.testing.assert_allclose(processes.chain_marginals(mu_t[4], chain, 5), mu_t[4:], rtol=1e-13)
    renamed = processes.chain_step(mu[order], chain[np.ix_(order, order)])
    np.testing.assert_allclose(renamed, processes.chain_step(mu, chain).numpy()[order], rtol=1e-14)
    assert np.abs(chain.T @ mu - mu_t[1]).max() > 1e-2
    np.testing.assert_array_equal(processes.chain_marginals(mu, chain, 1), mu[None])


@equation("PG-02", "PG-03")
def test_actions_drawn_blindly_are_a_policy_with_equal_rows():
    given = arguments()
    blind = processes.open_loop_step(given["mu"], given["xi"], given["transition"])
    same = processes.marginal_step(given["mu"], np.repeat(given["xi"][None], S, 0), given["transition"])
    np.testing.assert_allclose(blind, same, rtol=1e-14)
    np.testing.assert_allclose(tf.reduce_sum(blind), 1, rtol=1e-14)


@equation("PG-02", "PG-03")
def test_the_product_of_marginals_is_wrong_for_a_policy_that_looks():
    for seed in range(5):
        p = tables.draw(seed)
        pi = tables.softmax(p.theta)
        gap = processes.open_loop_step(p.start, p.start @ pi, p.move) - processes.marginal_step(p.start, pi, p.move)
        assert np.abs(gap).max() > 1e-3
        np.testing.assert_allclose(np.sum(gap), 0, atol=1e-15)


@equation("PG-02")
def test_open_loop_propagation_is_linear_in_states_and_in_actions():
    given, rng = arguments(), np.random.default_rng(1)
    (mu, nu), (xi, chi) = rng.normal(size=(2, S)), rng.normal(size=(2, A))
    f = lambda mu, xi: processes.open_loop_step(mu, xi, given["transition"]).numpy()  # noqa: E731
    expected = 2 * f(mu, xi) - 1.4 * f(mu, chi) - 6 * f(nu, xi) + 4.2 * f(nu, chi)
    np.testing.assert_allclose(f(2 * mu - 6 * nu, xi - 0.7 * chi), expected, rtol=1e-12, atol=1e-12)


def listed_marginals(process, pi_t):
    """p(s_t, a_t) [T, S, A] from all trajectories of all T steps."""
    states, actions = process.reward.shape
    state_t, action_t = tables.paths(states, actions, len(pi_t))
    p, joint = tables.probability(process.start, process.move, pi_t, state_t, action_t), np.zeros((len(pi_t), states, actions))
    for t in range(len(pi_t)):
        np.add.at(joint[t], (state_t[t], action_t[t]), p)
    return joint


@equation("PG-03", "PG-05", "PG-07", "PG-08")
@pytest.mark.parametrize("seed", range(3))
def test_marginals_are_those_of_all_trajectories(seed):
    process, rng = tables.draw(seed), np.random.default_rng(seed)
    pi_t = rng.dirichlet(np.ones(2), size=(4, 3))
    joint = listed_marginals(process, pi_t)
    np.testing.assert_allclose(processes.state_marginals(process.start, pi_t, process.move), joint.sum(2), atol=1e-14)
    np.testing.assert_allclose(processes.state_action_marginals(process.start, pi_t, process.move), joint, atol=1e-14)
    np.testing.assert_allclose(joint.sum((1, 2)), 1, rtol=1e-13)


@equation("PG-03", "PG-08")
def test_gradient_of_marginals_in_the_policy_is_that_of_all_trajectories():
    process, rng = tables.draw(1), np.random.default_rng(4)
    theta, weight = rng.normal(size=(4, 3, 2)), rng.normal(size=(4, 3, 2))
    theta_t = tf.constant(theta)
    with tf.GradientTape() as tape:
        tape.watch(theta_t)
        scalar = tf.reduce_sum(weight * processes.state_action_marginals(process.start, tf.nn.softmax(theta_t), process.move))
    slope = finite_difference(lambda z: np.sum(weight * listed_marginals(process, tables.softmax(z))), theta)
    np.testing.assert_allclose(tape.gradient(scalar, theta_t), slope, rtol=1e-7, atol=1e-9)


@equation("PG-07")
def test_powers_of_the_state_action_chain_move_the_pairs():
    process = tables.draw(2)
    pi = tables.softmax(process.theta)
    joint = listed_marginals(process, tables.every_step(pi, 4))
    chain = processes.state_action_chain(pi, process.move).numpy()
    np.testing.assert_allclose(chain.sum(0), 1, rtol=1e-14)
    for t in range(4):
        np.testing.assert_allclose(np.linalg.matrix_power(chain, t) @ (process.start[:, None] * pi).ravel(), joint[t].ravel(), atol=1e-14)


@equation("PG-01", "PG-03")
def test_the_chain_of_a_policy_moves_states_as_the_policy_does():
    given = arguments()
    chain = processes.state_chain(given["pi"], given["transition"])
    np.testing.assert_allclose(tf.reduce_sum(chain, axis=0), np.ones(S), rtol=1e-14)
    moved = processes.state_marginals(given["mu"], tables.every_step(given["pi"], 7), given["transition"])
    np.testing.assert_allclose(processes.chain_marginals(given["mu"], chain, 7), moved, rtol=1e-13)


def sampled(rng, probabilities):
    """One index per row of probabilities [N, K]."""
    return (probabilities.cumsum(1) < rng.random(len(probabilities))[:, None]).sum(1)


@equation("PG-03")
def test_sampled_trajectories_visit_states_as_often_as_the_marginals_say(rng):
    process, n = tables.draw(0, 4, 3), 40_000
    pi = tables.softmax(process.theta)
    mu_t = processes.state_marginals(process.start, tables.every_step(pi, 5), process.move).numpy()
    state = sampled(rng, np.repeat(process.start[None], n, 0))
    for mu in mu_t:
        count = np.bincount(state, minlength=4)
        assert np.all(np.abs(count / n - mu) < 5 * np.sqrt(mu * (1 - mu) / n))
        state = sampled(rng, process.move[state, sampled(rng, pi[state])])


@equation("PG-04")
def test_observing_the_state_itself_changes_nothing():
    given = arguments()
    np.testing.assert_array_equal(processes.induced_policy(np.eye(S), given["pi"]), given["pi"])
    np.testing.assert_array_equal(processes.observation_marginal(given["mu"], np.eye(S)), given["mu"])


@equation("PG-04", "PG-12")
def test_a_policy_of_observations_earns_what_its_induced_policy_earns():
    process, rng = tables.draw(3), np.random.default_rng(3)
    emission, pi = rng.dirichlet(np.ones(4), size=3), rng.dirichlet(np.ones(2), size=4)
    code = np.indices([3 * 4 * 2] * 3).reshape(3, -1)
    s, o, a = code // 8, code // 2 % 4, code % 2
    p = process.start[s[0]] * process.move[s[0], a[0], s[1]] * process.move[s[1], a[1], s[2]]
    p = p * np.prod(emission[s, o] * pi[o, a], axis=0)
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    pi_s = tables.every_step(processes.induced_policy(emission, pi).numpy(), 3)
    state_t, action_t = tables.paths(3, 2, 3)
    earned = tables.probability(process.start, process.move, pi_s, state_t, action_t) @ process.reward[state_t, action_t].sum(0)
    np.testing.assert_allclose(earned, p @ process.reward[s, a].sum(0), rtol=1e-12)
    mu_t = processes.state_marginals(process.start, pi_s, process.move)
    seen = [p[o[2] == k].sum() for k in range(4)]
    np.testing.assert_allclose(processes.observation_marginal(mu_t[2], emission), seen, atol=1e-14)


def columns():
    """Three trajectories of a four-state process: whole, of three steps, of one step. Padding holds other indices."""
    state_t = np.array([[0, 3, 1], [2, 1, 3], [2, 0, 2], [1, 2, 0], [3, 1, 1]], np.int32)
    action_t = np.array([[1, 2, 0], [0, 2, 1], [2, 0, 1], [1, 1, 2], [0, 2, 0]], np.int32)
    mask_t = np.arange(5)[:, None] < np.array([5, 3, 1])
    return {"state_t": state_t, "action_t": action_t, "mask_t": mask_t}


def trajectory_definition(start, pi_t, transition, state_t, action_t, mask_t):
    result = []
    for i in range(state_t.shape[1]):
        steps = int(mask_t[:, i].sum())
        s, a = state_t[:steps, i], action_t[:steps, i]
        p = start[s[0]] * np.prod([pi_t[t][s[t], a[t]] for t in range(steps)])
        result.append(p * np.prod([transition[s[t], a[t], s[t + 1]] for t in range(steps - 1)]))
    return np.array(result)


def dynamics():
    return {key: arguments()[key] for key in ("start", "pi_t", "transition")}


def trajectory_arguments():
    given = {**dynamics(), **columns()}
    given["pi_t"] = given["pi_t"][:5]
    return given


@equation("PG-05", "PG-06")
@pytest.mark.parametrize("name", ["trajectory_probability", "trajectory_log_prob"])
def test_a_trajectory_has_the_product_of_its_factors(mode, name):
    definition = trajectory_definition if name == "trajectory_probability" else lambda **given: np.log(trajectory_definition(**given))
    assert_is(mode, getattr(processes, name), definition, trajectory_arguments())


@equation("PG-06", "PG-22")
def test_policy_log_prob_sums_the_valid_steps(mode, rng):
    given = {"log_prob_t": rng.normal(size=(5, 3)), "mask_t": columns()["mask_t"]}

    def definition(log_prob_t, mask_t):
        return np.array([sum(log_prob_t[t, i] for t in range(5) if mask_t[t, i]) for i in range(3)])

    assert_is(mode, processes.policy_log_prob, definition, given)


@equation("PG-05")
@pytest.mark.parametrize("steps", [1, 3, 4])
def test_probabilities_of_all_trajectories_sum_to_one(steps):
    process = tables.draw(steps)
    pi_t = np.random.default_rng(0).dirichlet(np.ones(2), size=(steps, 3))
    state_t, action_t = tables.paths(3, 2, steps)
    given = (process.start, pi_t, process.move, state_t, action_t, np.ones(state_t.shape, bool))
    p = processes.trajectory_probability(*given).numpy()
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(p, tables.probability(process.start, process.move, pi_t, state_t, action_t), rtol=1e-12)
    np.testing.assert_allclose(np.exp(processes.trajectory_log_prob(*given)), p, rtol=1e-12)


@equation("PG-06")
def test_a_long_trajectory_does_not_underflow(rng):
    process, steps = tables.draw(1), 400
    pi_t = rng.dirichlet([1.0, 9.0], size=(steps, 3))
    state_t, action_t = rng.integers(3, size=(steps, 2)), np.zeros((steps, 2), int)
    given = (process.start, pi_t, process.move, state_t, action_t, np.ones((steps, 2), bool))
    assert not np.any(processes.trajectory_probability(*given))
    factors = [np.log(pi_t[t][state_t[t], 0]) for t in range(steps)]
    factors += [np.log(process.move[state_t[t], 0, state_t[t + 1]]) for t in range(steps - 1)]
    log_p = processes.trajectory_log_prob(*given)
    np.testing.assert_allclose(log_p, np.log(process.start[state_t[0]]) + np.sum(factors, axis=0), rtol=1e-12)
    assert np.max(log_p) < -800


@equation("PG-05", "PG-06")
def test_what_cannot_happen_has_probability_zero():
    given = trajectory_arguments()
    given["pi_t"][1, 2, 0] = 0  # the second step of the first column
    p, log_p = (getattr(processes, f"trajectory_{name}")(**given).numpy() for name in ("probability", "log_prob"))
    assert p[0] == 0
    assert log_p[0] == -np.inf
    np.testing.assert_allclose(np.exp(log_p[1:]), p[1:], rtol=1e-12)


@equation("PG-06")
def test_padding_that_cannot_happen_changes_neither_value_nor_gradient(mode):
    given = trajectory_arguments()
    for key in ("state_t", "action_t"):
        given[key][~given["mask_t"]] = 0
    zero = {key: given[key].copy() for key in ("pi_t", "transition")}
    zero["pi_t"][3:, 0, 0] = zero["transition"][0, 0] = 0  # visited on padding alone

    def slopes(**arguments):
        sources = [arguments[key] for key in ("start", "pi_t", "transition")]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            value = processes.trajectory_log_prob(**arguments)
        return value, *map(tf.convert_to_tensor, tape.gradient(value, sources))

    clean = [np.array(x) for x in mode(slopes)(**tensors(given))]
    dirty = [np.array(x) for x in mode(slopes)(**tensors({**given, **zero}))]
    for x, y in zip(clean, dirty, strict=True):
        np.testing.assert_allclose(y, x, rtol=1e-12)
