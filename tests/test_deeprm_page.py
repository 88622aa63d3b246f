"""What docs/deeprm.md says follows from what was measured, and was measured as it says."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from plain_deeprm import PlainDeepRM

from benchmarks import deeprm as page
from tfpg import schedulers
from tfpg.envs import deeprm


def played(jobs, choose=schedulers.shortest_job_first):
    return schedulers.play(deeprm.make(jobs=jobs), choose, len(jobs.length), page.SEED)


def test_measures_are_counted_by_hand():
    """A job of 2 steps that fills the cluster, one of 1 step that waits for it, and a cluster without jobs but one."""
    length, size = np.zeros([2, 3], int), np.zeros([2, 3, 2], int)
    length[0, 0], size[0, 0], length[0, 1], size[0, 1] = 2, 10, 1, (10, 5)
    length[1, 2], size[1, 2] = 4, (5, 0)
    found = page.measures(played(deeprm.Jobs(length, size)))
    np.testing.assert_array_equal(found["jobs"], [2, 1])
    np.testing.assert_allclose(found["slowdown"], [1 + 2, 1])
    np.testing.assert_allclose(found["completion"], [2 + 2, 4])
    np.testing.assert_allclose(found["utilisation"], [(2 * 20 + 15) / (3 * 20), 4 * 5 / (6 * 20)])


def test_a_job_that_never_ran_is_not_passed_over():
    """A schedule is measured when all jobs are done, or not at all."""
    with pytest.raises(RuntimeError, match="never ran"):
        page.measures(schedulers.play(deeprm.make(), schedulers.shortest_job_first, 2, page.SEED, limit=5))


def test_an_interval_is_paired():
    """Half of everything is half for every resample, whatever the sequences; noise of one's own widens the interval."""
    rng = np.random.default_rng(1)
    jobs, slowdown = rng.integers(1, 50, page.SEQUENCES), rng.exponential(100, page.SEQUENCES)
    sjf = {"jobs": jobs, "slowdown": slowdown}
    np.testing.assert_allclose(page.interval({"jobs": jobs, "slowdown": slowdown / 2}, sjf), [0.5] * 3)
    ratio, low, high = page.interval({"jobs": jobs, "slowdown": rng.permutation(slowdown)}, sjf)
    assert ratio == pytest.approx(1)
    assert low < 0.9
    assert high > 1.1


def test_the_plain_batch_is_the_same_environment():
    """Codes of a plain cluster are those of ours along a schedule; the batch that it makes holds whole episodes with the returns."""
    jobs = deeprm.published(1, 50, 0.9, 42)
    environment = deeprm.make(view="code", jobs=jobs)
    state = environment.reset(1, page.SEED)
    env, rng = PlainDeepRM(jobs.length[0], jobs.size[0], colours=state.colours[0].numpy()), np.random.default_rng(2)
    for _ in range(60):
        np.testing.assert_array_equal(page.plain_code(env), environment.observe(state)[0])
        action = int(rng.integers(11))
        state = environment.step(state, tf.constant([action]), page.SEED)[0]
        env.step(action)
    kernels = [rng.normal(0, 0.01, shape) for shape in ((4480, 5), (5, 11))]
    policy = [{"kernel": tf.constant(k), "bias": tf.zeros([k.shape[1]], tf.float64)} for k in kernels]
    batch = page.plain_trajectory(SimpleNamespace(policy=policy), SimpleNamespace(envs=4, group=2, horizon=60), 3)
    assert batch.observation.shape == (60, 4, 432)
    np.testing.assert_array_equal(batch.observation[0][:, 400:430], np.repeat(batch.observation[0][::2, 400:430], 2, axis=0))
    np.testing.assert_allclose(np.exp(batch.log_prob[0]), 1 / 11, rtol=0.2)
    assert batch.mask.numpy().all()
    assert batch.truncated.numpy()[-1].all()


def test_the_page_follows_from_the_files(monkeypatch, tmp_path):
    """Percentages, references and factors are worked out from the figures, and both pictures are drawn."""
    entry = lambda slowdown, ratio: {  # noqa: E731
        "slowdown": slowdown, "completion": 2 * slowdown, "utilisation": 0.5, "of_sjf": [ratio, ratio - 0.05, ratio + 0.05],
    }  # fmt: skip
    fresh = {name: {str(rate): entry(4 * k, k) for rate in page.RATES} for name, k in (("SJF", 1.0), ("ppo", 0.625))}
    fresh |= {"npg": {**fresh["ppo"], "0.1": None}, "leave-one-out": dict.fromkeys(fresh["ppo"])}
    known = {s: {name: {str(rate): 3.25 for rate in page.RATES} for name in schedulers.SCHEDULERS} for s in deeprm.SEMANTICS}
    curves = {"published, rate 0.7": {"return": [-211.6] * 300, "steps": 9_000_000, "seconds": 600.0, "greedy": -500.4}}
    speed = {"ours": 200.0, "plain": 4.0, "ratio_median": 50.0, "ratio_min": 49.0, "ratio_max": 52.0, "cores": 2.0}
    for name, content in (("judged", {"fresh": fresh, "known": known}), ("curves", curves), ("speed", speed)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr(page, "OUT", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    page.page()
    text = (tmp_path / "page.md").read_text()
    assert "| ppo | 2.50<br>62 % (57 to 68) |" in text
    assert "| ppo | 5.0<br>50 % |" in text
    assert text.count("| npg | not finished | ") == 2
    assert text.count(f"| leave-one-out |{' not finished |' * 10}") == 2
    assert "| 0.7 | 200 | -211.6 | -211.6 | +0 % |" in text
    assert "| 0.7 | 400 | -160.7 | not run |  |" in text
    assert "published, rate 0.7 -500, -212." in text
    assert "10 min for 9,000,000 decisions" in text
    assert "makes 4.0: a factor of 50 (49 to 52" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"slowdown.png", "curves.png"}
