"""DeepRM against a plain simulator of one cluster, its laws, its views, and the schedulers that learn nothing."""

import copy

import gymnasium
import numpy as np
import plain_deeprm
import pytest
import tensorflow as tf
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

import run as program
import tfpg.envs.registered
from tfpg import build, rollout, schedulers
from tfpg.envs import deeprm
from tfpg.envs.deeprm import Cluster, Jobs
from tfpg.learner import initial_state
from tfpg.update import make_update

SEED = tf.constant([1, 2])
PLAIN = {"SJF": plain_deeprm.sjf, "packer": plain_deeprm.packer, "Tetris-like": plain_deeprm.tetris}


def some_jobs(rng, sequences, steps, cluster, rate, longest=None):
    """Jobs that fit the cluster, the largest and longest ones included."""
    length = rng.integers(1, (longest or cluster.window) + 1, size=[sequences, steps]) * (rng.random([sequences, steps]) < rate)
    return Jobs(length, rng.integers(0, cluster.units + 1, size=[sequences, steps, cluster.resources]))


def plain(jobs, cluster, state, semantics, i):
    """The plain simulator of cluster i, with the colours that ours drew."""
    return plain_deeprm.PlainDeepRM(jobs.length[i], jobs.size[i], semantics, *cluster, colours=state.colours[i].numpy())


def slowdowns(state):
    """(finish - arrival) / length of every job that was not dropped, cluster by cluster, and which jobs there are."""
    length, start = (np.array(x) for x in (state.length, state.start))
    kept = (length > 0) & (start != deeprm.DROPPED)
    return np.where(kept, (start + length - np.arange(length.shape[1])) / np.maximum(length, 1), 0), kept


@pytest.mark.equation("PG-125")
@pytest.mark.parametrize("semantics", deeprm.SEMANTICS)
@pytest.mark.parametrize(
    ("cluster", "rate"),
    [(Cluster(), 0.9), (Cluster(3, 4, 6, 2, 5), 0.7), (Cluster(1, 3, 4, 3, 4), 1.0)],
    ids=["published", "small", "full"],
)
def test_every_step_is_the_plain_simulator_s(semantics, cluster, rate, rng):
    """Rewards, ends, images and starts over 300 random decisions in 6 clusters, dropped jobs and planned ones among them."""
    jobs = some_jobs(rng, 6, 30, cluster, rate, cluster.window - (semantics == "reference"))  # which cannot start the longest ones
    environment = deeprm.make(tf.float64, semantics=semantics, view="image", jobs=jobs, cluster=cluster)
    state, step, n = environment.reset(6, SEED), tf.function(environment.step), 6
    others = [plain(jobs, cluster, state, semantics, i) for i in range(n)]
    ended = np.zeros(n, bool)
    for _ in range(300):
        seen = environment.observe(state).numpy()
        action = rng.integers(cluster.slots + 1, size=n)
        state, reward, terminated = step(state, tf.constant(action, tf.int32), SEED)
        for i in np.flatnonzero(~ended):
            np.testing.assert_allclose(seen[i], others[i].image(), atol=1e-12)
            expected, done = others[i].step(int(action[i]))
            assert abs(expected - float(reward[i])) < 1e-12
            assert done == bool(terminated[i])
        ended |= terminated.numpy()
    start = np.array(state.start)
    for i, other in enumerate(others):
        if ended[i]:
            arrived = np.array(jobs.length[i]) > 0
            arrived[0] &= semantics == "corrected"
            np.testing.assert_array_equal(start[i][arrived], np.array(other.start)[arrived])
    assert ended.any()
    assert (start == deeprm.DROPPED).any() == (cluster != Cluster())


@pytest.mark.equation("PG-125")
@given(st.integers(0, 10**6))
def test_the_return_is_minus_the_sum_of_slowdowns_and_no_capacity_is_exceeded(number):
    """Random clusters, jobs and policies; each of the latter likes some actions better than others."""
    rng = np.random.default_rng(number)
    cluster = Cluster(*(int(rng.integers(*bounds)) for bounds in ((1, 4), (1, 8), (2, 12), (1, 6), (1, 9))))
    jobs = some_jobs(rng, 4, int(rng.integers(1, 25)), cluster, rng.uniform(0.1, 1))
    environment, taste = deeprm.make(tf.float64, jobs=jobs, cluster=cluster), rng.normal(size=cluster.slots + 1)
    state, total, ended = environment.reset(4, SEED), np.zeros(4), np.zeros(4, bool)
    while not ended.all():
        used = np.zeros(np.shape(state.used), int)
        start, length, size, time = (np.array(x) for x in (state.start, state.length, state.size, state.time))
        for i, k in np.argwhere(start >= 0):
            begin = start[i, k] - time[i]
            rows = slice(max(begin, 0), max(begin + length[i, k], 0))
            used[i][:, rows] += size[i, k][:, None]
        np.testing.assert_array_equal(state.used, used)
        assert used.max() <= cluster.units
        action = (taste + rng.gumbel(size=[4, cluster.slots + 1])).argmax(1)
        state, reward, terminated = environment.step(state, tf.constant(action, tf.int32), SEED)
        dropped = (np.array(state.start) == deeprm.DROPPED) & (np.array(state.length) > 0)
        total += np.where(ended, 0, reward)
        ended |= terminated.numpy()
    slowed, kept = slowdowns(state)
    np.testing.assert_allclose(total, -slowed.sum(1), rtol=1e-9, atol=1e-9)
    assert (slowed[kept] >= 1).all()
    assert (kept | dropped | (np.array(state.length) == 0)).all()
    assert (np.array(state.start)[kept] >= 0).all()


@pytest.mark.equation("PG-127")
@pytest.mark.parametrize("semantics", deeprm.SEMANTICS)
@pytest.mark.parametrize("name", PLAIN)
def test_schedulers_are_the_plain_ones(name, semantics):
    """Returns and slowdowns of the published unseen sequences, the first 8 at a rate of 0.7."""
    jobs = deeprm.published(8, 50, 0.7, 314159)
    environment = deeprm.make(tf.float64, semantics=semantics, jobs=jobs)
    played = tf.function(lambda: schedulers.play(environment, schedulers.SCHEDULERS[name], 8, SEED))()
    for i in range(8):
        total, expected = plain_deeprm.play(plain_deeprm.PlainDeepRM(jobs.length[i], jobs.size[i], semantics), PLAIN[name])
        assert abs(float(played.total[i]) - total) < 1e-9
        slowed, kept = slowdowns(played.state)
        counted = slowed[i][kept[i] & (np.array(played.state.start)[i] >= 0)]
        np.testing.assert_allclose(sorted(counted), sorted(expected), rtol=1e-12)
    assert played.finished.numpy().all()


def test_sequences_are_those_of_the_published_program():
    """And so are the returns that its authors print for them, of the packer and of SJF, in 100 steps at a rate of 0.3."""
    jobs = deeprm.published(10, 100, 0.3, 42)
    length, size = plain_deeprm.sequences(10, 100, 0.3, 42)
    np.testing.assert_array_equal(jobs.length, length)
    np.testing.assert_array_equal(jobs.size, size)
    environment = deeprm.make(tf.float64, semantics="reference", jobs=Jobs(length[:3], size[:3]))
    for name, expected in (
        ("packer", [-309.16223776224, -105.80952380952, -183.29329004329]),
        ("SJF", [-122.80221445221, -94.06263736264, -100.88095238095]),
    ):
        played = schedulers.play(environment, schedulers.SCHEDULERS[name], 3, SEED)
        np.testing.assert_allclose(played.total, expected, atol=1e-11)


@pytest.mark.equation("PG-127")
@pytest.mark.parametrize(("semantics", "expected"), [("reference", (4.152, 9.997, 4.120)), ("corrected", (4.222, 10.174, 4.170))])
def test_mean_slowdowns_are_the_known_ones(semantics, expected):
    """100 unseen sequences at a rate of 0.6, to all digits known, near ties included; `make deeprm` shows every rate."""
    environment = deeprm.make(tf.float64, semantics=semantics, jobs=deeprm.published(100, 50, 0.6, 314159))
    for name, figure in zip(PLAIN, expected, strict=True):
        state = tf.function(lambda name=name: schedulers.play(environment, schedulers.SCHEDULERS[name], 100, SEED).state)()
        slowed, kept = slowdowns(state)
        kept &= np.array(state.start) >= 0
        assert round(slowed[kept].mean(), 3) == figure


def test_a_scheduler_that_keeps_room_does_better():
    """The known figure of 2.674 at a rate of 0.7 with six units kept free, about half that of SJF."""
    environment = deeprm.make(tf.float64, jobs=deeprm.published(100, 50, 0.7, 314159))
    slowed, kept = slowdowns(schedulers.play(environment, schedulers.hold(6), 100, SEED).state)
    assert round(slowed[kept].mean(), 3) == 2.674


def best_total(other):
    """The greatest return that there is from here: every action is tried."""
    if other.done:
        return 0.0
    totals = []
    for action in (*(i for i, job in enumerate(other.slot) if job >= 0), other.slots):
        after = copy.deepcopy(other)
        totals.append(after.step(action)[0])
        totals[-1] += best_total(after) if after.time <= 9 else -np.inf
    return max(totals)


@pytest.mark.equation("PG-126")
def test_the_published_learner_finds_the_best_schedule_of_one_sequence():
    """A long job that fills the cluster comes first: better than to start it at once, as SJF does, is to wait for the short ones."""
    jobs, cluster = Jobs(np.array([[3, 1, 1]]), np.array([[[2], [2], [2]]])), Cluster(1, 2, 5, 2, 2)
    environment = deeprm.make(jobs=jobs, cluster=cluster, view="image")
    flags = ["algo=reinforce_togo", "baseline=time_mean", "env=tfpg/DeepRM-v0", "envs=100", "group=100", "horizon=40", "discount=1"]
    flags += ["hidden=20", "activation=relu", "optimizer=rmsprop_inside", "learning_rate=1e-2", "normalize_observations=false"]
    config = program.configure([f"--{flag}" for flag in flags])
    learner = build.make_learner(config, environment.spaces)
    state, carry = initial_state(learner, SEED), rollout.start(environment, learner, config.envs, SEED)
    assert sum(x.shape.num_elements() for x in tf.nest.flatten(state.policy)) == (cluster.window * cluster.width + 1) * 20 + 21 * 3
    collect, update = rollout.make_collect(environment, learner, config.envs, config.horizon), make_update(learner)

    @tf.function(jit_compile=True, autograph=False)
    def iterate(state, carry, seed):
        carry, t, _ = collect(state, carry, seed)
        return update(state, t, seed, tf.constant(1.0))[0], carry, tf.reduce_sum(tf.where(t.mask, t.reward, 0), 0)

    for k in range(120):  # at first about -9.5
        state, carry, total = iterate(state, carry, SEED + k)
    best = best_total(plain_deeprm.PlainDeepRM(jobs.length[0], jobs.size[0], "corrected", *cluster))
    shortest_first = schedulers.play(environment, schedulers.shortest_job_first, 1, SEED).total
    assert best > float(shortest_first[0]) + 1
    assert (abs(total.numpy() - best) < 1e-4).mean() > 0.8


@pytest.mark.equation("PG-127")
def test_random_scheduling_takes_any_action(rng):
    actions = np.concatenate([schedulers.anything(deeprm.make().reset(200, SEED), tf.constant([0, k])) for k in range(20)])
    counts = np.bincount(actions, minlength=11)
    assert len(counts) == 11
    assert (abs(counts - 4000 / 11) < 5 * np.sqrt(4000 / 11)).all()


def test_drawn_jobs_follow_their_laws():
    """Rate, share of short jobs, lengths, sizes, and which resource is needed much: within 5 standard errors."""
    length, size = (x.numpy() for x in deeprm.draw(400, 100, 0.6, 0.6, SEED, Cluster()))
    arrived = length > 0
    n = arrived.sum()
    assert abs(arrived.mean() - 0.6) < 5 * np.sqrt(0.24 / arrived.size)
    assert (size[~arrived] == 0).all()
    drawn, needs = length[arrived], size[arrived]
    assert set(np.unique(drawn)) == {1, 2, 3, *range(10, 16)}
    assert abs((drawn <= 3).mean() - 0.8) < 5 * np.sqrt(0.16 / n)
    much = needs.argmax(1)
    assert abs(much.mean() - 0.5) < 5 * np.sqrt(0.25 / n)
    assert set(np.unique(needs.max(1))) == set(range(5, 11))
    assert set(np.unique(needs.min(1))) == {1, 2}
    assert abs(needs.max(1).mean() - 7.5) < 5 * np.sqrt(35 / 12 / n)
    assert abs((drawn * needs[:, 0]).mean() * 0.6 / 10 - 1.845 * 0.6) < 0.03  # the load per resource


def test_clusters_may_draw_rates_of_their_own():
    """Shares of steps with an arrival between 0.2 and 0.8: spread wider than those of one rate, evenly, around the middle."""
    environment = deeprm.make(rate=0.2, rate_to=0.8, steps=400)
    share = (environment.reset(500, SEED).length.numpy() > 0).mean(1)
    assert abs(share.mean() - 0.5) < 5 * 0.6 / np.sqrt(12 * 500)
    assert abs(share.std() - np.sqrt(0.6**2 / 12 + 0.22 / 400)) < 0.015
    assert share.min() < 0.25
    assert share.max() > 0.75


def codes(rng, cluster=Cluster(), n=5):  # noqa: B008
    """Codes of states some way into an episode."""
    environment = deeprm.make(view="code", cluster=cluster, jobs=some_jobs(rng, n, 20, cluster, 0.9))
    state = environment.reset(n, SEED)
    for _ in range(25):
        state = environment.step(state, tf.constant(rng.integers(cluster.slots + 1, size=n), tf.int32), SEED)[0]
    return environment.observe(state)


@pytest.mark.parametrize("cluster", [Cluster(), Cluster(3, 4, 5, 2, 7)], ids=["published", "small"])
def test_the_first_layer_of_a_code_is_that_of_its_image(cluster, mode, rng):
    """Value, and derivative by the weights: x W, where x is the image."""
    code, w = codes(rng, cluster), tf.constant(rng.normal(size=[cluster.window * cluster.width, 3]), tf.float32)
    g = tf.constant(rng.normal(size=[5, 3]), tf.float32)

    def slope(of):
        with tf.GradientTape() as tape:
            tape.watch(w)
            y = of(w)
        return y, tape.gradient(y, w, g)

    image = tf.reshape(deeprm.paint(code, cluster), [5, -1])
    expected = slope(lambda w: image @ w)
    for found, wanted in zip(mode(lambda: slope(lambda w: deeprm.first_layer(code, w, cluster)))(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)
    stacked = deeprm.first_layer(tf.stack([code, code[::-1]]), w, cluster)
    np.testing.assert_allclose(stacked, tf.stack([expected[0], expected[0][::-1]]), atol=1e-4)


def test_the_summary_says_what_the_image_says(rng):
    """Shares taken, lengths, sizes, backlog and quiet, read off the image."""
    cluster = Cluster()
    code = codes(rng)
    image, found = deeprm.paint(code, cluster).numpy(), deeprm.summary(code, cluster).numpy()
    parts = image[..., :220].reshape(5, 20, 2, 11, 10)
    np.testing.assert_allclose(found[:, :40], (parts[:, :, :, 0] > 0).mean(-1).transpose(0, 2, 1).reshape(5, 40))
    blocks = parts[:, :, :, 1:]
    np.testing.assert_allclose(found[:, 40:50], (blocks[..., 0].max(2)).sum(1) / 20, rtol=1e-6)
    np.testing.assert_allclose(found[:, 50:70], blocks[:, 0].sum(-1).transpose(0, 2, 1).reshape(5, 20) / 10, rtol=1e-6)
    np.testing.assert_allclose(found[:, 70], image[..., 220:223].sum((1, 2)) / 60, rtol=1e-6)
    np.testing.assert_allclose(found[:, 71], image[:, 0, 223], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"semantics": "both"}, ["semantics=both", "corrected and reference"]),
        ({"view": "all"}, ["view=all", "summary, image, code"]),
        ({"rate": 1.5}, ["rate=1.5", "from 0 to 1"]),
        ({"rate": float("nan")}, ["rate=nan"]),
        ({"rate_to": 2.0}, ["rate_to=2.0", "from 0 to 1"]),
        ({"rate_to": 0.9, "sequences": 3}, ["rate_to=0.9", "sequences=0"]),
        ({"steps": 0}, ["steps=0"]),
        ({"sequences": -1}, ["sequences=-1"]),
        ({"jobs": Jobs(np.array([[3, 21]]), np.ones([1, 2, 2]))}, ["job 1 of sequence 0", "21 steps", "20"]),
        ({"jobs": Jobs(np.array([[3, 2]]), np.array([[[1, 11], [1, 1]]]))}, ["job 0 of sequence 0", "[1, 11]", "10"]),
        ({"jobs": Jobs(np.ones([3], int), np.ones([3, 2]))}, ["[3]", "[E, L]"]),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=r"allowed|not") as error:
        deeprm.make(**given)
    for word in words:
        assert word in str(error.value)


def test_gymnasium_has_it(rng):
    """The same episodes as in graph, and a picture: 20 rows of 224 cells."""
    env = gymnasium.make("tfpg/DeepRM-v0", sequences=3, rate=0.9, view="image", render_mode="rgb_array")
    check_env(env.unwrapped, skip_render_check=False)
    observation, _ = env.reset(seed=5)
    jobs = deeprm.published(1, 50, 0.9, 42)
    other = plain(Jobs(*jobs), Cluster(), env.unwrapped._state, "corrected", 0)
    for _ in range(40):
        np.testing.assert_allclose(observation, other.image(), atol=1e-6)
        action = int(rng.integers(11))
        observation, reward, terminated, truncated, _ = env.step(action)
        assert (pytest.approx(reward, abs=1e-6), terminated) == other.step(action)
        assert not truncated
    picture = env.render()
    assert picture.shape == (20 * 6, 224 * 6, 3)
    shown, cells = picture[::6, ::6].max(-1) > 0, other.image() > 0
    np.testing.assert_array_equal(shown, cells)
    with pytest.raises(ValueError, match="render_mode=ansi"):
        gymnasium.make("tfpg/DeepRM-v0", render_mode="ansi", disable_env_checker=True)


@pytest.mark.parametrize("name", [name for name in tfpg.envs.registered.OWN if name != deeprm.NAME])
def test_gymnasium_has_the_other_environments_too(name):
    check_env(gymnasium.make(name).unwrapped)
    with pytest.raises(ValueError, match=f"rgb_array is unknown to {name}"):
        gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
