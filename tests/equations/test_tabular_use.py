"""Processes solved exactly, in use: draws against exact probabilities, the figures of one process, and what is refused."""

import collections
import contextlib
import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from episodes import assert_frequencies, chi_square_bound, draw, softmax

from tfpg import estimators, exact, importance, lqr, returns
from tfpg.tabular import PartiallyObservedMDP, TabularMDP

equation = pytest.mark.equation
rng = np.random.default_rng(43)
ENDS = draw(5, states=4, actions=3, gamma=0.8, horizon=3, over=(2,))
THETA = rng.normal(size=(4, 3))
MDP = TabularMDP(ENDS.start, ENDS.move, ENDS.reward, ENDS.gamma, ENDS.horizon, ENDS.over)
SEED = [17, 4]


def paths(record):
    state, action, mask = (np.asarray(x).T for x in (record.observation, record.action, record.mask))
    return [tuple((int(s), int(a)) for s, a, m in zip(*column, strict=True) if m) for column in zip(state, action, mask, strict=True)]


def drawn(episodes=20_000):
    return MDP.sample(THETA, episodes, SEED)


@equation("PG-05", "PG-129")
def test_draws_are_as_frequent_as_they_are_probable():
    expected = collections.Counter()
    for p, path in ENDS.episodes(softmax(THETA)):
        expected[path] += p
    found = collections.Counter(paths(drawn()))
    assert found.keys() <= expected.keys()
    assert_frequencies([found[path] for path in expected], list(expected.values()))


@equation("PG-129")
def test_the_stored_log_probability_is_that_of_the_policy_that_drew(mode):
    """Recomputed under the same policy the ratio is one; under another it is that of the probabilities."""
    t = drawn(50)
    mask, pairs = t.mask.numpy(), (t.observation.numpy(), t.action.numpy())
    np.testing.assert_allclose(t.log_prob.numpy()[mask], np.log(softmax(THETA))[pairs][mask], atol=1e-14)
    later = THETA + 0.3 * rng.normal(size=THETA.shape)
    for theta in (THETA, later):
        ratio = np.exp(mode(importance.log_ratio)(tf.constant(np.log(softmax(theta))[pairs]), t.log_prob, t.mask))
        np.testing.assert_allclose(ratio[mask], (softmax(theta) / softmax(THETA))[pairs][mask], rtol=1e-12)
        assert (np.abs(ratio[mask] - 1).max() < 1e-12) == (theta is THETA)


@equation("PG-05")
def test_a_sampled_episode_ends_in_a_terminal_state():
    t = tf.nest.map_structure(np.asarray, drawn(200))
    over = t.observation == 2
    assert over.any()
    assert not over.all()
    np.testing.assert_array_equal(t.mask, ~over)
    assert not (over[:-1] & ~over[1:]).any()
    assert not t.reward[over].any()
    ends = np.concatenate([over[1:], np.ones((1, 200), bool)])
    np.testing.assert_array_equal(t.terminated[t.mask], ends[t.mask])
    np.testing.assert_array_equal(t.reward[t.mask], ENDS.reward[t.observation, t.action][t.mask])
    np.testing.assert_array_equal(t.next_observation[:-1], t.observation[1:])


@equation("PG-05", "PG-129")
def test_draws_follow_the_seed():
    a, b, c = (MDP.sample(THETA, 40, seed) for seed in (SEED, tf.constant(SEED), [17, 5]))
    tf.nest.map_structure(np.testing.assert_array_equal, a, b)
    assert np.any(a.action != c.action)
    in_graph = tf.function(lambda seed: MDP.sample(THETA, 40, seed))(tf.constant(SEED))
    tf.nest.map_structure(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-14), a, in_graph)
    compiled = tf.function(lambda seed: MDP.sample(THETA, 3000, seed), jit_compile=True)(tf.constant(SEED))
    first = np.bincount(compiled.observation[0], minlength=4)
    assert_frequencies(first, ENDS.start)


@equation("PG-24", "PG-44")
def test_the_sampled_gradient_is_off_by_no_more_than_its_exact_covariance():
    """Per parameter, and as a vector: a chi-square of as many degrees as the covariance has rank."""
    n, t = 20_000, drawn()
    g = estimators.reinforce(MDP.score_t(THETA, t), t.reward, MDP.gamma, t.mask)
    exact = MDP.moments(THETA, lambda t, score_t: estimators.reinforce(score_t, t.reward, MDP.gamma, t.mask))
    error = g.numpy() - MDP.gradient(THETA).numpy().ravel()
    sigma = np.sqrt(exact.variance / n)
    moving = sigma > 1e-9
    assert moving.sum() == 9  # a terminal state has no score
    np.testing.assert_allclose(error[~moving], 0, atol=1e-14)
    assert (np.abs(error)[moving] < 5 * sigma[moving]).all()
    rank = np.linalg.matrix_rank(exact.covariance, tol=1e-9)
    assert rank == 6  # each row of scores sums to zero
    assert error @ np.linalg.pinv(exact.covariance / n, rcond=1e-8) @ error < chi_square_bound(rank)


@equation("PG-44", "PG-34")
def test_three_lines_tell_bias_and_variance():
    """Trace variance 2.187 with the whole return and 1.101 with the reward to go, for the process of seed 0; neither has a bias."""
    draws = np.random.default_rng(0)
    draws.dirichlet(np.ones(3), size=1), draws.dirichlet(np.ones(3), size=(3, 2)), draws.normal(size=(3, 2))
    mdp, theta = TabularMDP.random(0), draws.normal(size=(3, 2))
    whole = mdp.moments(theta, lambda t, score_t: estimators.reinforce(score_t, t.reward, mdp.gamma, t.mask))

    def togo(t, score_t):
        g_t = returns.reward_to_go(t.reward, returns.discount(1.0, t.terminated, t.reward), tf.ones_like(t.reward), t.mask)
        return estimators.policy_gradient(score_t, g_t, tf.ones_like(g_t))

    later = mdp.moments(theta, togo)
    assert float(np.sum(whole.variance)) == pytest.approx(2.187, abs=5e-4)
    assert float(np.sum(later.variance)) == pytest.approx(1.101, abs=5e-4)
    for moments in (whole, later):
        np.testing.assert_allclose(moments.bias, 0, atol=1e-14)
        np.testing.assert_allclose(moments.mean, np.ravel(mdp.gradient(theta)), atol=1e-14)


def changed(**changes):
    given = {"start": ENDS.start, "transition": ENDS.move, "reward": ENDS.reward, "gamma": 0.8, "horizon": 3}
    return lambda: TabularMDP(**{**given, **changes})


WRONG = {
    "start must hold probabilities": changed(start=[0.5, 0.50001, 0.0, 0.0]),
    "start must hold": changed(start=[1.5, -0.5, 0.0, 0.0]),
    "start must": changed(start=[0.5, np.nan, 0.5, 0.0]),
    "start has shape": changed(start=ENDS.start[None]),
    "transition must hold probabilities": changed(transition=2 * ENDS.move),
    r"transition has shape \(4, 3, 3\)": changed(transition=ENDS.move[..., :3]),
    "reward has shape": changed(reward=ENDS.reward.T),
    "gamma is 1.0: without a horizon": changed(gamma=1.0, horizon=None),
    "gamma is -0.1: without a horizon": changed(gamma=-0.1, horizon=None),
    "horizon is 0": changed(horizon=0),
    "horizon is 2.5": changed(horizon=2.5),
    r"terminal is \(4,\): states are 0 to 3": changed(terminal=(4,)),
    r"terminal is \(-1,\)": changed(terminal=(-1,)),
    "horizon is 20: that makes more than": lambda: changed(horizon=20)().trajectories(THETA),
    r"seed has shape \(\)": lambda: MDP.sample(THETA, 5, 3),
    r"theta has shape \(3, 4\): it makes a policy \(3, 4\), but \[S, A\] is \(4, 3\)": lambda: MDP.objective(THETA.T),
}


@equation("PG-12")
@pytest.mark.parametrize("message", WRONG)
def test_a_fault_is_named(message):
    with pytest.raises(ValueError, match=message):
        WRONG[message]()


@equation("PG-12", "PG-44")
@pytest.mark.parametrize("ask", ["policy_t", "trajectories", "sample", "moments"])
def test_what_needs_a_horizon_says_so(ask):
    more = {"sample": (5, SEED), "moments": (lambda t, score_t: score_t[0, 0],)}.get(ask, ())
    with pytest.raises(ValueError, match="horizon is None"):
        getattr(changed(horizon=None)(), ask)(THETA, *more)


@equation("PG-05")
def test_few_trajectories_of_a_long_process_can_be_listed():
    """A ring of five states, each step deterministic, and one action that matters at most: 2^12 episodes out of 10^12 sequences."""
    ring = np.roll(np.eye(5), 1, axis=1)
    mdp = TabularMDP(np.eye(5)[0], np.stack([ring, ring], axis=1), rng.normal(size=(5, 2)), horizon=12)
    listing = mdp.trajectories(rng.normal(size=(5, 2)))
    assert listing.probability.shape == (4096,)
    np.testing.assert_allclose(np.sum(listing.probability), 1)


@equation("PG-12", "PG-16")
def test_discounts_from_zero_to_below_one_and_any_states_that_end_are_taken():
    start, move, reward = [0.4, 0.6], [[[0.5, 0.5]] * 2] * 2, [[1.0, 2.0], [3.0, 5.0]]
    theta = np.zeros((2, 2))
    assert float(TabularMDP(start, move, reward, gamma=0.0).objective(theta)) == pytest.approx(0.4 * 1.5 + 0.6 * 4)
    assert float(TabularMDP(start, move, reward, horizon=2, terminal=(0, 1)).objective(theta)) == 0
    for gamma in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match=rf"gamma is {gamma}: without a horizon"):
            TabularMDP(start, move, reward, gamma=gamma)


@equation("PG-04", "PG-12")
def test_a_process_cannot_be_changed_and_is_only_equal_to_itself():
    """What was worked out when it was made stays true; comparing tensors one by one is not asked for."""
    made = [[TabularMDP.random(0), PartiallyObservedMDP(TabularMDP.random(0), np.eye(3))] for _ in range(2)]
    for one, other in zip(*made, strict=True):
        assert one != other
        assert len({one, other}) == 2
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.gamma = 0.5
    assert "joint" not in repr(made[0][1])
    assert lqr.LQR() == lqr.LQR(20, 0.95, 1.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        lqr.LQR().gamma = 0.5


@equation("PG-05", "PG-12")
def test_just_as_many_trajectories_as_may_be_listed_are_listed(monkeypatch):
    mdp, task = TabularMDP.random(0), lqr.LQR(horizon=2)
    for most, refused in ((216, False), (215, True)):
        monkeypatch.setattr(exact, "MOST", most)
        with pytest.raises(ValueError, match="horizon is 3: that makes more than 215") if refused else contextlib.nullcontext():
            assert mdp.trajectories(np.zeros((3, 2))).probability.shape == (216,)
        with pytest.raises(ValueError, match="horizon is 2: that makes more than 215") if refused else contextlib.nullcontext():
            assert task.trajectories([-0.2, 0.5], nodes=6).probability.shape == (216,)
