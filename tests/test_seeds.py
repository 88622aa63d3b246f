"""Many seeds in one program: each is the run that it would be by itself, and together they are summed up."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from program import ROOT, assert_same_run, call, process, start_and_stop

from tfpg import engines, metrics, seeds, statistics, train
from tfpg.errors import RunFault, Stopped

LONG = 512_000
SMALL = ["--hidden=8", "--envs=4", "--horizon=32", "--total_steps=512", "--eval_episodes=5", "--tensorboard=false"]


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three seeds, made by the program in a process of its own."""
    directory = tmp_path_factory.mktemp("seeds") / "three"
    return directory, process(*SMALL, "--jit=true", "--seed=4", "--num_seeds=3", f"--workdir={directory}")


def test_it_says_what_it_does_and_reads_the_result_aloud(three):
    directory, done = three
    assert done.stderr == ""
    first, description, header, *lines, learned, judged, where = done.stdout.splitlines()
    assert "3 runs, seeds 4 to 6, 3 at a time" in first
    assert str(directory / "seed4") in description
    assert done.stdout.count(header) == 1
    assert told("\n".join(lines)) == ["4", "5", "6"]
    assert header.split()[:2] == ["seed", "steps"]
    assert {tuple(line.split()[:2]) for line in lines if not line.startswith("Seed")} >= {("4", "512"), ("5", "512"), ("6", "512")}
    assert "npg learned CartPole-v1 with 3 seeds, 1,536 steps in all" in learned
    summary = json.loads((directory / "summary.json").read_text())
    assert f"{summary['evaluation']['interquartile_mean']:,.1f}, the interquartile mean" in judged
    assert f"seed {summary['evaluation']['worst_seed']} returns least" in judged
    assert str(directory / "learning_curve.png") in where


def test_the_summary_is_made_of_the_runs_own(three):
    directory, _ = three
    summary = json.loads((directory / "summary.json").read_text())
    each = [json.loads((directory / f"seed{seed}" / "summary.json").read_text()) for seed in (4, 5, 6)]
    means = [one["evaluation"]["mean"] for one in each]
    assert len(set(means)) == 3
    assert (summary["seeds"], summary["steps"]) == ([4, 5, 6], 3 * 512)
    assert summary["episodes"] == sum(one["episodes"] for one in each)
    judged, (low, middle, high) = summary["evaluation"], sorted(means)
    assert judged["means"] == means
    assert judged["interquartile_mean"] == pytest.approx((low / 4 + middle + high / 4) / 1.5)
    assert (judged["worst"], judged["worst_seed"]) == (low, 4 + means.index(low))
    assert judged["band"] == pytest.approx(statistics.band(means))
    assert low <= judged["band"][0] <= judged["interquartile_mean"] <= judged["band"][1] <= high
    assert (directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_seed_among_others_is_the_run_that_it_is_alone(three, tmp_path, capfd):
    assert call(capfd, *SMALL, "--jit=true", "--seed=6", f"--workdir={tmp_path}/alone")[0] == 0
    assert_same_run(three[0] / "seed6", tmp_path / "alone")
    summaries = [json.loads((path / "summary.json").read_text()) for path in (three[0] / "seed6", tmp_path / "alone")]
    assert summaries[0]["evaluation"] == summaries[1]["evaluation"]
    assert (three[0] / "seed6" / "run.flags").read_text() == (tmp_path / "alone" / "run.flags").read_text()


def test_so_it_is_through_gymnasium_and_with_what_learners_remember(tmp_path, capfd):
    flags = ["--algo=reinforce_togo", "--baseline=moving_average", "--env=Pendulum-v1", "--engine=sync", "--horizon=200"]
    flags = [*SMALL, *flags, "--jit=false", "--envs=2", "--total_steps=800"]
    assert call(capfd, *flags, "--num_seeds=2", f"--workdir={tmp_path}/two")[0] == 0
    assert call(capfd, *flags, "--seed=1", f"--workdir={tmp_path}/alone")[0] == 0
    assert_same_run(tmp_path / "two" / "seed1", tmp_path / "alone")


def test_a_signal_stops_all_of_them_and_is_told_for_all(tmp_path):
    directory = tmp_path / "stopped"
    flags = [*SMALL, "--seed=4", "--num_seeds=5", f"--total_steps={LONG}", f"--workdir={directory}"]
    code, out, err = start_and_stop(directory / "seed4", signal.SIGTERM, *flags)
    assert (code, err) == (143, "")
    assert f"python run.py --resume --workdir={directory}\n" in out
    steps = [json.loads(saved.read_text())["counters"]["steps"] for saved in directory.glob("seed*/checkpoints/*/manifest.json")]
    assert f"after {sum(steps):,} steps, saved" in out
    assert (min(steps) > 0, max(steps) < LONG) == (True, True)
    assert not {"seed7", "seed8", "summary.json"} & {path.name for path in directory.iterdir()}


def test_a_signal_waits_until_all_is_saved_and_not_longer():
    before = signal.getsignal(signal.SIGTERM)
    with train.Interrupt() as interrupt:
        with interrupt.raising():
            pass
        signal.raise_signal(signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is before  # a second one acts as usual
        with interrupt.raising():
            assert signal.getsignal(signal.SIGTERM) is before
    with train.Interrupt() as interrupt:
        with pytest.raises(Stopped), interrupt.raising():
            signal.raise_signal(signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_fails_ends_the_others_which_are_saved(tmp_path, capfd, monkeypatch):
    directory, opened = tmp_path / "failed", seeds.open_seed

    def open_seed(config, directory, parts, seed):
        if seed == 5:
            raise RunFault("the disk is full.")
        return opened(config, directory, parts, seed)

    monkeypatch.setattr(seeds, "open_seed", open_seed)
    flags = [*SMALL, "--jit=false", "--seed=4", "--num_seeds=5", f"--workdir={directory}"]
    code, _, err = call(capfd, *flags, f"--total_steps={LONG}")
    assert (code, err) == (1, "run.py: the disk is full.\n")
    (saved,) = directory.glob("seed4/checkpoints/*/manifest.json")
    assert json.loads(saved.read_text())["counters"]["steps"] < LONG
    assert not {"seed7", "seed8", "summary.json"} & {path.name for path in directory.iterdir()}


def as_it_was_when_killed(done, directory):
    """Of three seeds the first is finished, the second had not saved anything, the third had not begun."""
    shutil.copytree(done, directory)
    (directory / "summary.json").unlink()
    shutil.rmtree(directory / "seed5" / "checkpoints")
    shutil.rmtree(directory / "seed6")


def told(out):
    """The seeds whose results are told, in their order: which is told first is a matter of time."""
    return sorted(line.split()[1] for line in out.splitlines() if line.startswith("Seed "))


def test_what_was_killed_goes_on_where_it_was(three, tmp_path, capfd):
    directory = tmp_path / "killed"
    as_it_was_when_killed(three[0], directory)
    before = os.stat(directory / "seed4" / "metrics.csv").st_mtime_ns
    code, out, _ = call(capfd, "--resume", f"--workdir={directory}")
    assert code == 0
    assert told(out) == ["5", "6"]
    assert os.stat(directory / "seed4" / "metrics.csv").st_mtime_ns == before
    for seed in (4, 5, 6):
        assert_same_run(directory / f"seed{seed}", three[0] / f"seed{seed}")
    means = [json.loads((path / "summary.json").read_text())["evaluation"]["means"] for path in (directory, three[0])]
    assert means[0] == means[1]


def test_a_seed_that_reached_the_goal_is_not_trained_on(tmp_path, capfd):
    """Its budget is not used up, and yet it is done."""
    goal = ["--jit=false", "--stop_at_return=5", "--eval_every=1", "--seed=4", "--num_seeds=3", f"--workdir={tmp_path}/goal"]
    assert call(capfd, *SMALL, *goal)[0] == 0
    assert [metrics.read(tmp_path / "goal" / f"seed{seed}")[-1]["steps"] for seed in (4, 5, 6)] == [128, 128, 128]
    as_it_was_when_killed(tmp_path / "goal", tmp_path / "killed")
    code, out, _ = call(capfd, "--resume", f"--workdir={tmp_path}/killed")
    assert (code, told(out)) == (0, ["5", "6"])
    for seed in (4, 5, 6):
        assert_same_run(tmp_path / "killed" / f"seed{seed}", tmp_path / "goal" / f"seed{seed}")


def test_all_of_them_learn_on(three, tmp_path, capfd):
    directory = tmp_path / "more"
    shutil.copytree(three[0], directory)
    assert call(capfd, "--resume", f"--workdir={directory}", "--total_steps=1024")[0] == 0
    assert json.loads((directory / "summary.json").read_text())["steps"] == 3 * 1024
    for flags in (directory / "run.flags", directory / "seed5" / "run.flags"):
        assert "--total_steps=1024\n" in flags.read_text()
        assert "# Until step 512: --total_steps=512" in flags.read_text()


@pytest.mark.parametrize("mode", ["evaluate", "export", "collect"])
def test_what_takes_one_run_says_which_there_are(mode, three, capfd):
    code, _, err = call(capfd, f"--mode={mode}", f"--workdir={three[0]}")
    assert code == 2
    assert f"--mode={mode} takes one run" in err
    assert f"{three[0]}/seed4" in err


@pytest.mark.parametrize(("large", "told"), [(128, "one after another"), (129, "2 at a time")])
def test_large_batches_have_the_machine_for_themselves(large, told, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(seeds, "LARGE", large)
    code, out, _ = call(capfd, *SMALL, "--jit=false", "--num_seeds=2", f"--workdir={tmp_path}/two")
    assert (code, f"2 runs, seeds 0 to 1, {told}." in out) == (0, True)


def test_every_thread_computes_where_the_run_does(tmp_path):
    program = (
        "import json, sys, run, tensorflow as tf\n"
        "(cpu,) = tf.config.list_physical_devices('CPU')\n"
        "tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)\n"
        "run.place = lambda _: '/CPU:1'\n"
        "sys.exit(run.execute(sys.argv[1:]))"
    )
    flags = [*SMALL, "--jit=false", "--num_seeds=2", f"--workdir={tmp_path}/second"]
    subprocess.run([sys.executable, "-c", program, *flags], cwd=ROOT, check=True, capture_output=True)
    summaries = [json.loads((tmp_path / "second" / f"seed{seed}" / "summary.json").read_text()) for seed in (0, 1)]
    assert [summary["device"] for summary in summaries] == ["CPU:1", "CPU:1"]


def test_too_little_memory_leaves_nothing(tmp_path, capfd, monkeypatch):
    def begin(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "")

    monkeypatch.setattr(engines, "start", begin)
    code, _, err = call(capfd, *SMALL, "--num_seeds=2", f"--workdir={tmp_path}/new")
    assert (code, "not enough memory" in err, list(tmp_path.iterdir())) == (1, True, [])


def test_a_band_of_runs_holds_their_interquartile_mean():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(9, 50))
    low, high = statistics.band(x)
    assert np.all((low <= statistics.interquartile_mean(x)) & (statistics.interquartile_mean(x) <= high))
    assert np.all((x.min(axis=0) <= low) & (high <= x.max(axis=0)))
