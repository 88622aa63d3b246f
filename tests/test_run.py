"""The program end to end: what a run leaves, that it repeats, that it can be stopped and continued, and that it learns."""

import csv
import dataclasses
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from program import assert_same_run, call, parameters, process, rows_without_times, start_and_stop

import run
from tfpg import build, metrics, train, workdir
from tfpg.config import Config, settled
from tfpg.envs import cartpole, gym

SMALL = ["--hidden=8", "--envs=8", "--horizon=32", "--total_steps=2048", "--eval_episodes=7", "--tensorboard=false"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small finished run, made by the program in a process of its own."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    return directory, process(*SMALL, "--jit=true", "--tensorboard=true", "--eval_every=3", f"--workdir={directory}")


def test_standard_error_stays_silent(finished):
    assert finished[1].stderr == ""


def test_it_says_what_it_does_shows_progress_and_reads_the_result_aloud(finished):
    directory, done = finished
    first, header, *table, _, verdict, where = done.stdout.splitlines()
    for text in ("npg", "CartPole-v1", "2,048 steps", "8 x 32", "graph", "seed 0", "CPU:0", "XLA", str(directory)):
        assert text in first
    for column in ("steps", "episodes", "return", "KL / radius", "entropy", "expl.var", "steps/s", "left"):
        assert column in header
    assert len(table) == 8
    assert table[-1].split()[0] == "2,048"
    assert "\r" not in done.stdout
    assert verdict.startswith("Over 7 greedy episodes it returns ")
    assert str(directory / "policy" / "1") in where


def test_the_run_directory_is_complete(finished):
    directory, _ = finished
    names = {path.name for path in directory.iterdir()}
    wanted = {"run.flags", "metrics.csv", "metrics.jsonl", "summary.json", "checkpoints", "policy", "learning_curve.png"}
    assert names - {"tensorboard"} == wanted
    assert (directory / "policy" / "1" / "saved_model.pb").exists()
    assert (directory / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert not list(directory.rglob("*.tmp"))


def test_the_summary_says_what_happened(finished):
    summary = json.loads((finished[0] / "summary.json").read_text())
    for name, value in {"algo": "npg", "env": "CartPole-v1", "seed": 0, "steps": 2048, "iterations": 8, "engine": "graph"}.items():
        assert summary[name] == value
    judged = summary["evaluation"]
    assert judged["episodes"] == 7
    assert 8 <= judged["min"] <= judged["mean"] <= judged["max"] <= 500
    spread = judged["max"] - judged["min"]  # seven numbers that far apart have a standard error between
    assert spread / np.sqrt(2 * 7 * 6) * (1 - 1e-6) <= judged["std_error"] <= spread / np.sqrt(4 * 6) * (1 + 1e-6)
    assert summary["episodes"] == metrics.read(finished[0])[-1]["episodes"] > 30
    assert summary["steps_per_second"] == pytest.approx(2048 / summary["wall_seconds"], rel=1e-2)
    assert summary["versions"]["tensorflow"] == tf.__version__
    assert summary["device"] == "CPU:0"


def test_both_metric_files_hold_the_same_rows(finished):
    rows = metrics.read(finished[0])
    assert [row["iteration"] for row in rows] == list(range(1, 9))
    assert [row["steps"] for row in rows] == list(range(256, 2049, 256))
    with (finished[0] / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == list(metrics.COLUMNS) == list(rows[0])
    for text, row in zip(table, rows, strict=True):
        assert {name: None if value == "" else float(value) for name, value in text.items()} == row
    assert [row["iteration"] for row in rows if row["eval_return"] is not None] == [3, 6]
    assert all(0 < row["kl"] < 0.05 for row in rows)


def test_events_are_written_where_tensorboard_is_installed(finished):
    (events,) = (finished[0] / "tensorboard").iterdir()
    _, *records = [tf.compat.v1.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(events))]
    rows = metrics.read(finished[0])
    assert [record.step for record in records] == [row["steps"] for row in rows]
    for record, row in zip(records, rows, strict=True):
        told = {value.tag: tf.make_ndarray(value.tensor).item() for value in record.summary.value}
        assert {value.metadata.plugin_data.plugin_name for value in record.summary.value} == {"scalars"}
        assert told == {name: np.float32(value) for name, value in row.items() if value is not None}


def test_tensorboard_reads_the_events(finished):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(finished[0] / "tensorboard")).Reload()
    told = [(event.step, event.tensor_proto.float_val[0]) for event in found.Tensors("kl")]
    assert told == [(row["steps"], np.float32(row["kl"])) for row in metrics.read(finished[0])]


def test_the_flags_it_left_repeat_the_run_to_the_bit(finished, tmp_path):
    process(f"--flagfile={finished[0]}/run.flags", f"--workdir={tmp_path}/again")
    assert_same_run(finished[0], tmp_path / "again")


def test_another_seed_is_another_run(finished, tmp_path, capfd):
    assert call(capfd, *SMALL, "--jit=true", "--seed=1", f"--workdir={tmp_path}/other")[0] == 0
    assert rows_without_times(tmp_path / "other")[0] != rows_without_times(finished[0])[0]


LONGER = [*SMALL, "--total_steps=51200", "--checkpoint_every=2", "--jit=false"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    process(*LONGER, f"--workdir={directory}")
    return directory


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_run_that_was_stopped_continues_to_the_same_end(number, code, uninterrupted, tmp_path):
    """SIGKILL loses what came after the last checkpoint, and makes it again. Each part is a process of its own, as in life."""
    stopped = tmp_path / "stopped"
    returncode, out, err = start_and_stop(stopped, number, *LONGER, f"--workdir={stopped}")
    assert (returncode, err) == (code, "")
    assert not (stopped / "summary.json").exists()
    if number != signal.SIGKILL:
        assert f"python run.py --resume --workdir={stopped}" in out
        assert signal.Signals(number).name in out
    assert 2 <= max(int(path.name) for path in (stopped / "checkpoints").iterdir() if path.name.isdigit()) < 200
    process("--resume", f"--workdir={stopped}")
    assert_same_run(uninterrupted, stopped)


def test_a_finished_run_evaluates_exports_and_learns_on(tmp_path, capfd):
    directory = tmp_path / "run"
    assert call(capfd, *SMALL, "--engine=sync", f"--workdir={directory}")[0] == 0
    code, out, _ = call(capfd, "--mode=evaluate", f"--workdir={directory}", "--eval_episodes=13")
    assert (code, "Over 13 greedy episodes" in out) == (0, True)
    assert json.loads((directory / "evaluation.json").read_text())["episodes"] == 13
    code, out, _ = call(capfd, "--mode=export", f"--workdir={directory}")
    assert (code, str(directory / "policy" / "2") in out) == (0, True)
    assert call(capfd, "--resume", "--total_steps=4096", f"--workdir={directory}")[0] == 0
    assert json.loads((directory / "summary.json").read_text())["steps"] == 4096
    assert [row["steps"] for row in metrics.read(directory)] == list(range(256, 4097, 256))
    flags = (directory / "run.flags").read_text()
    assert "--total_steps=4096\n" in flags
    assert "# Until step 2,048: --total_steps=2048" in flags
    assert (directory / "policy" / "3").is_dir()
    code, out, _ = call(capfd, "--resume", f"--workdir={directory}", "--total_steps=4096")
    assert (code, "is finished" in out, (directory / "policy" / "4").exists()) == (0, True, False)


FALLING = [*SMALL, "--jit=false", "--eval_every=1", "--schedule=constant", "--checkpoint_every=2", "--seed=3"]


def test_the_best_policy_that_was_evaluated_is_kept_and_shipped_if_asked(tmp_path, capfd):
    """Of a run that does not only get better: the policy is the one that the run had after the best of its evaluations."""
    directory = tmp_path / "run"
    code, out, _ = call(capfd, *FALLING, "--select=best", f"--workdir={directory}")
    rows = metrics.read(directory)
    best = max(rows, key=lambda row: (row["eval_return"], row["steps"]))
    assert (code, f"policy/1, as it was after {best['steps']:,} steps, the" in out) == (0, True)
    assert best["steps"] < rows[-1]["steps"]
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["policy_steps"] == best["steps"]
    assert call(capfd, *FALLING, f"--total_steps={best['steps']}", f"--workdir={tmp_path}/short")[0] == 0
    print_of = lambda path: json.loads((path / "assets.extra" / "policy.json").read_text())["fingerprint"]  # noqa: E731
    assert print_of(directory / "policy" / "1") == print_of(tmp_path / "short" / "policy" / "1")
    for select, steps in (("last", rows[-1]["steps"]), ("best", best["steps"])):
        assert f"after {steps:,} steps" in call(capfd, "--mode=export", f"--select={select}", f"--workdir={directory}")[1]
        assert call(capfd, "--mode=evaluate", f"--select={select}", f"--workdir={directory}")[0] == 0
        assert json.loads((directory / "evaluation.json").read_text())["steps"] == steps
    assert print_of(directory / "policy" / "2") != print_of(directory / "policy" / "3") == print_of(directory / "policy" / "1")


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_run_that_goes_on_knows_the_best_so_far(stop, tmp_path, capfd, monkeypatch):
    for name in ("whole", "parts"):
        if name == "parts":
            assert call(capfd, *FALLING, f"--total_steps={256 * stop}", f"--workdir={tmp_path}/parts")[0] == 0
        given = ["--resume", "--total_steps=2048"] if name == "parts" else FALLING
        assert call(capfd, *given, "--select=best", f"--workdir={tmp_path}/{name}")[0] == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_that_ends_before_its_first_evaluation_is_evaluated_at_its_end(tmp_path, capfd):
    path = tmp_path / "run"
    assert call(capfd, *SMALL, "--jit=false", "--eval_every=1000", "--select=best", f"--workdir={path}")[0] == 0
    assert json.loads((path / "summary.json").read_text())["policy_steps"] == 2048
    assert "after 2,048 steps" in call(capfd, "--mode=export", f"--workdir={path}")[1]


@pytest.mark.parametrize("mode", ["export", "evaluate"])
def test_a_best_that_nobody_knows_is_not_made_up(mode, tmp_path, capfd):
    path = tmp_path / "run"
    assert call(capfd, *SMALL, "--jit=false", f"--workdir={path}")[0] == 0
    code, _, err = call(capfd, f"--mode={mode}", "--select=best", f"--workdir={path}")
    assert (code, err) == (2, f"run.py: --select=best: nothing was evaluated in {path}; --select=last is allowed.\n")


def test_without_evaluations_there_is_no_best(tmp_path, capfd):
    code, _, err = call(capfd, *SMALL, "--select=best", f"--workdir={tmp_path}/run")
    assert (code, err) == (2, "run.py: --select=best needs evaluations to choose from: --eval_every says how often there is one.\n")


def test_a_reached_goal_stops_early(tmp_path, capfd):
    goal = ["--stop_at_return=20", "--eval_every=2", "--total_steps=400000", f"--workdir={tmp_path}/run"]
    code, out, _ = call(capfd, *SMALL, "--eval_episodes=10", *goal)
    rows = metrics.read(tmp_path / "run")
    assert code == 0
    assert "Reached --stop_at_return=20" in out
    assert rows[-1]["eval_return"] >= 20
    assert all(row["eval_return"] is None or row["eval_return"] < 20 for row in rows[:-1])
    assert rows[-1]["steps"] < 400_000
    whole = rows_without_times(tmp_path / "run"), parameters(tmp_path / "run")[1]
    (tmp_path / "run" / "summary.json").unlink()  # as if it had been killed before its summary
    code, out, _ = call(capfd, "--resume", f"--workdir={tmp_path}/run", "--progress=none")
    assert (code, (tmp_path / "run" / "summary.json").is_file()) == (0, True)
    assert (rows_without_times(tmp_path / "run"), parameters(tmp_path / "run")[1]) == whole
    code, out, _ = call(capfd, "--resume", f"--workdir={tmp_path}/run")
    assert "is finished" in out
    assert "it reached --stop_at_return=20, which may be another" in out
    code, out, _ = call(capfd, "--resume", f"--workdir={tmp_path}/run", "--progress=none", "--stop_at_return=1000", "--total_steps=20000")
    assert len(metrics.read(tmp_path / "run")) > len(rows)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--algo=reinforce", "--horizon=0", "--envs=4"],
        ["--algo=reinforce_togo", "--engine=sync", "--horizon=60", "--optimizer=sgd"],
        ["--algo=reinforce_baseline", "--env=Pendulum-v1", "--horizon=0", "--discount_from=start"],
        ["--algo=npg_fixed", "--jit=false", "--network=keras"],
        ["--algo=npg", "--env=Hopper-v5"],
        ["--algo=actor_critic", "--psi=q", "--critic=sarsa"],
        ["--algo=a2c", "--network=gru", "--env=tfpg/MaskedCartPole-v1"],
        ["--algo=off_policy", "--horizon=0", "--envs=4", "--weights=first_order"],
        ["--algo=ppo", "--engine=sync", "--window=2", "--noise_repeat=3"],
        ["--algo=ppo_kl", "--env=Pendulum-v1", "--schedule=cosine", "--log_std_floor=-3"],
        ["--algo=pathwise"],
        ["--algo=reinforce_togo", "--horizon=40", "--baseline=optimal_per_parameter", "--optimizer=rmsprop"],
        ["--algo=trpo", "--env=LunarLander-v3", "--nonormalize_observations"],
    ],
    ids=lambda arguments: "".join(arguments[:2]),
)
def test_every_row_runs(arguments, tmp_path, capfd):
    code, _, err = call(capfd, *SMALL, *arguments, "--eval_episodes=3", f"--workdir={tmp_path}/run")
    assert (code, err) == (0, "")
    rows = metrics.read(tmp_path / "run")
    assert rows[-1]["steps"] >= 2048
    assert all(row["skipped"] == 0 for row in rows)
    assert all(np.isfinite(row["gradient_norm"]) and row["gradient_norm"] > 0 for row in rows)


def test_an_unwritable_policy_ends_with_a_sentence_and_the_checkpoint_stays(tmp_path, capfd, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tf.saved_model, "save", full)
    code, _, err = call(capfd, *SMALL, f"--workdir={tmp_path}/run")
    assert code == 1
    assert err == f"run.py: {tmp_path}/run/policy/1 cannot be written: [Errno 28] No space left on device\n"
    assert parameters(tmp_path / "run")[1]["steps"] == 2048


def test_a_row_that_does_not_fit_on_the_disk_ends_the_run_with_a_sentence_that_names_its_file(tmp_path, capfd, monkeypatch):
    write = metrics.Log.write

    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def flush(self):
            raise OSError(28, "No space left on device")

    def full(self, values):
        if values["iteration"] == 3:
            self.csv = Full(self.csv)
        return write(self, values)

    monkeypatch.setattr(metrics.Log, "write", full)
    code, _, err = call(capfd, *SMALL, "--jit=false", "--checkpoint_every=2", f"--workdir={tmp_path}/run")
    words = f"run.py: {tmp_path}/run/metrics.csv or metrics.jsonl beside it cannot be written: [Errno 28] No space left on device\n"
    assert (code, err) == (1, words)
    monkeypatch.undo()
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == {"2"}  # none that covers the row that was lost
    assert call(capfd, "--resume", f"--workdir={tmp_path}/run")[0] == 0
    assert [row["iteration"] for row in metrics.read(tmp_path / "run")] == list(range(1, 9))


def test_a_directory_that_is_gone_ends_the_run_with_a_sentence_and_is_not_made_anew(tmp_path, capfd, monkeypatch):
    """A new one would hold no flags to go on with."""
    iterate = train.Run.iterate

    def gone(self):
        if self.counters.iteration == 2:
            shutil.rmtree(tmp_path / "run")
        return iterate(self)

    monkeypatch.setattr(train.Run, "iterate", gone)
    code, _, err = call(capfd, *SMALL, "--jit=false", "--checkpoint_every=1", f"--workdir={tmp_path}/run")
    assert (code, err.count("\n"), f"{tmp_path}/run/checkpoints/3 cannot be written" in err) == (1, 1, True)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_environment_ends_with_a_sentence_and_what_was_learned_is_saved(tmp_path, capfd, monkeypatch):
    calls, sound = [], gym.Sound.check

    def break_later(self, observation, reward=None):
        calls.extend([] if reward is None else [1])
        broken = len(calls) == 70
        sound(self, observation, np.where(np.arange(len(reward)) == 5, np.nan, reward) if broken else reward)

    monkeypatch.setattr(gym.Sound, "check", break_later)
    code, _, err = call(capfd, *SMALL, "--engine=sync", "--max_env_restarts=0", f"--workdir={tmp_path}/run")
    assert code == 1
    assert err == "run.py: environment 5 of CartPole-v1 failed: at step 70 its reward is nan: it must be finite.\n"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["2"]


NOTHING = {name: tf.constant(0) for name in ("steps", "episodes")}
"""The metrics of an iteration in which nothing happens."""


def learn(config, seeds):
    """Greedy evaluations over 100 episodes after training with each seed, by one compiled program."""
    parts, means = build.setup(config), []
    for seed in seeds:
        one = train.Run(dataclasses.replace(config, seed=seed), Path(os.devnull), parts)
        one.begin()
        while one.counters.steps < config.total_steps:
            one.iterate()
        means.append(float(np.mean(one.judge("result"))))
    return means


def test_every_iteration_has_a_seed_of_its_own_folded_from_the_run_s():
    config, given = Config(env="CartPole-v1", seed=7), []
    run = train.Run(config, Path(os.devnull), build.setup(config))
    run.parts = run.parts._replace(engine=run.parts.engine._replace(iterate=lambda s, c, seed, _: given.append(seed) or (s, c, NOTHING)))
    for _ in range(3):
        run.iterate()
    of_the_run = tf.random.experimental.stateless_split(tf.constant([7, 0]), 4)[2]
    np.testing.assert_array_equal(given, [tf.random.experimental.stateless_fold_in(of_the_run, k) for k in range(3)])


def test_npg_solves_cartpole_with_every_seed_in_its_default_budget():
    assert min(learn(Config(), range(10))) >= 475


def test_npg_swings_up_the_pendulum_with_the_same_flags():
    """Four of 168 seeds came to rest between -440 and -694, in policies that swing and do not balance; here are two of the others."""
    assert min(learn(Config(env="Pendulum-v1"), range(2, 4))) >= -200


def test_the_default_is_what_the_tests_train():
    assert workdir.flagfile(run.configure([])) == workdir.flagfile(settled(Config()))
    assert "--algo=npg" in workdir.flagfile(Config())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_save_stops_at_once(number, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(train, "finish", lambda *_: os.kill(os.getpid(), number) or time.sleep(60))
    before = signal.getsignal(number)
    code, out, err = call(capfd, *SMALL, f"--workdir={tmp_path}/run")
    assert (code, err) == (128 + number, "")
    assert f"python run.py --resume --workdir={tmp_path}/run" in out
    assert signal.getsignal(number) == before
    assert parameters(tmp_path / "run")[1]["steps"] == 2048


def test_updates_that_were_not_made_are_told(tmp_path, capfd, monkeypatch):
    """Rewards too large for float32 make every update one that is not made."""
    environment = cartpole.make()
    huge = environment._replace(
        step=lambda state, action, seed: (state, tf.fill(state.shape[:1], 1e35), tf.zeros(state.shape[:1], tf.bool))
    )
    monkeypatch.setitem(build.IN_GRAPH, "CartPole-v1", lambda: huge)
    code, out, _ = call(capfd, *SMALL, "--eval_episodes=2", f"--workdir={tmp_path}/run")
    assert code == 0
    assert "8 of 8 updates were not made" in out


def test_a_run_that_goes_on_elsewhere_says_what_differs(tmp_path, capfd, monkeypatch):
    assert call(capfd, *SMALL, f"--workdir={tmp_path}/run")[0] == 0
    more = ["--resume", f"--workdir={tmp_path}/run", "--progress=none"]
    assert "Not as it was" not in call(capfd, *more, "--total_steps=3072")[1]
    had = train.made_with()
    monkeypatch.setattr(train, "made_with", lambda: {**had, "tensorflow": "9.9", "threads": "77"})
    code, out, _ = call(capfd, *more, "--total_steps=4096")
    assert code == 0
    told = f"tensorflow {had['tensorflow']} then, 9.9 now; threads {had['threads']} then, 77 now. It goes on"
    assert f"Not as it was when this run was saved: {told}" in out


@pytest.mark.parametrize("content", ["", "{", '{"steps": 2048}', "[2048]", "7", b"\xff\xfe"])
def test_a_summary_that_says_nothing_is_written_anew(content, finished, tmp_path, capfd):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    path = directory / "summary.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, out, err = call(capfd, "--resume", f"--workdir={directory}")
    assert (code, err, "is finished" in out) == (0, "", False)
    again, before = (json.loads(file.read_text()) for file in (path, finished[0] / "summary.json"))
    assert (again["steps"], again["evaluation"]) == (2048, before["evaluation"])
    assert len(metrics.read(directory)) == 8


def test_fewer_steps_than_are_made_are_refused(finished, tmp_path, capfd):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    before = (directory / "run.flags").read_bytes()
    code, out, err = call(capfd, "--resume", "--total_steps=512", f"--workdir={directory}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--total_steps=512 is less than the 2,048 steps" in err
    assert (directory / "run.flags").read_bytes() == before


def test_a_whole_last_iteration_is_no_reason_to_refuse_the_budget_it_was_made_for(tmp_path, capfd):
    directory = tmp_path / "run"
    assert call(capfd, *SMALL, "--total_steps=300", f"--workdir={directory}")[0] == 0
    code, out, _ = call(capfd, "--resume", "--total_steps=300", f"--workdir={directory}")
    assert (code, "is finished: it has its 512 steps" in out) == (0, True)


FLAGS_MISTAKES = {
    "value": (lambda text: text.replace("--algo=npg", "--algo=trp"), "--algo=trp"),
    "flag": (lambda text: text + "--nothing=3\n", "--nothing"),
    "word": (lambda text: text + "hello\n", "hello"),
    "number": (lambda text: text.replace("--seed=0", "--seed=x"), "--seed=x"),
    "binary": (lambda text: b"\xff\xfe\x00" + text.encode(), "not a text file"),
    "included": (lambda text: text + "--flagfile=no/such.flags\n", "no/such.flags"),
    "row": (lambda text: text.replace("--clip_range=0.2", "--clip_range=0.3"), "--clip_range=0.3"),
    "environment": (lambda text: text.replace("--env=CartPole-v1", "--env=CartPole-v9"), "--env=CartPole-v9"),
    "unfit": (lambda text: text.replace("--hidden=8", "--hidden=9"), "checkpoints/8 holds another network"),
}


@pytest.mark.parametrize("mode", ["--resume", "--mode=evaluate"])
@pytest.mark.parametrize("mistake", FLAGS_MISTAKES)
def test_a_mistake_in_the_flags_of_a_run_is_one_of_its_file(mistake, mode, finished, tmp_path, capfd):
    directory = tmp_path / "run"
    shutil.copytree(finished[0], directory)
    change, named = FLAGS_MISTAKES[mistake]
    path = directory / "run.flags"
    changed = change(path.read_text())
    path.write_bytes(changed if isinstance(changed, bytes) else changed.encode())
    content = path.read_bytes()
    assert content != (finished[0] / "run.flags").read_bytes()
    code, out, err = call(capfd, mode, f"--workdir={directory}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"run.py: {path}")
    assert named in err
    assert path.read_bytes() == content


@pytest.mark.parametrize("error", [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM")])
@pytest.mark.parametrize("place", ["new", "there", ""])
def test_too_little_memory_for_one_iteration_leaves_nothing(error, place, tmp_path, capfd, monkeypatch):
    """In a directory that was there already, the directory stays. What holds an iteration, or something else, stays as it is."""

    def fail(*_):
        raise error

    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    where = {"new": "--workdir=deep/new", "there": "--workdir=there", "": "--seed=0"}[place]
    for method in ("begin", "iterate"):
        with monkeypatch.context() as patch:
            patch.setattr(train.Run, method, fail)
            code, _, err = call(capfd, *SMALL, where)
        assert (code, err.count("\n")) == (1, 1)
        assert "--envs=8, --horizon=32 and --hidden=8" in err
        assert [path.name for path in tmp_path.rglob("*")] == ["there"]


def test_too_little_memory_later_leaves_what_was_learned(tmp_path, capfd, monkeypatch):
    sound = train.Run.iterate

    def later(one):
        if one.counters.iteration == 3:
            raise MemoryError
        return sound(one)

    monkeypatch.setattr(train.Run, "iterate", later)
    assert call(capfd, *SMALL, f"--workdir={tmp_path}/run")[0] == 1
    assert parameters(tmp_path / "run")[1]["iteration"] == 3


def test_only_a_beginning_is_discarded(tmp_path):
    """Neither what somebody put there, nor a run of which a checkpoint is left."""
    for name, content in (("mine", "thesis.txt"), ("learned", "checkpoints/3")):
        path = tmp_path / name / content
        path.mkdir(parents=True)
        (tmp_path / name / "run.flags").write_text("")
        workdir.discard(tmp_path / name, [tmp_path])
        assert path.exists()
        assert (tmp_path / name / "run.flags").exists()


def test_a_run_in_use_is_safe_from_a_program_without_memory(finished, capfd, monkeypatch):
    """It fails before it looks at the directory: what is there is not its own."""

    def fail(*_):
        raise MemoryError

    before = sorted(finished[0].rglob("*"))
    monkeypatch.setattr(build, "setup", fail)
    assert call(capfd, *SMALL, f"--workdir={finished[0]}")[0] == 1
    assert sorted(finished[0].rglob("*")) == before


def test_rows_of_an_earlier_version_are_kept(tmp_path, capfd):
    """One that had a column less."""
    assert call(capfd, *SMALL, f"--workdir={tmp_path}/run")[0] == 0
    path, before = tmp_path / "run" / "metrics.jsonl", metrics.read(tmp_path / "run")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({name: x for name, x in row.items() if name != "env_restarts"}) + "\n" for row in rows))
    assert metrics.read(tmp_path / "run") == before
    assert call(capfd, "--resume", f"--workdir={tmp_path}/run", "--total_steps=3072", "--progress=none")[0] == 0
    assert metrics.read(tmp_path / "run")[: len(before)] == before
