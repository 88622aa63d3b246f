"""The program, called as a user calls it, in this process: exit code, standard output and standard error; and what runs have in common."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

import run
from tfpg import build, checkpoint, metrics, train

ROOT = Path(run.__file__).parent
TIMES = ("seconds", "steps_per_second")


def call(capfd, *arguments):
    before, sys.argv = sys.argv, ["run.py", *map(str, arguments)]
    try:
        run.main()
    except SystemExit as end:
        out, err = capfd.readouterr()
        return end.code, out, err
    finally:
        sys.argv = before


def process(*arguments):
    """The program in a process of its own, as in life; it must end well."""
    command = [sys.executable, "run.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def start_and_stop(directory, number, *arguments):
    """Starts a run, sends it a signal once `directory` holds some rows, and returns its exit code and output."""
    process = subprocess.Popen(
        [sys.executable, "run.py", *map(str, arguments)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(metrics.read(directory)) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def rows_without_times(directory):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in metrics.read(directory)]


def parameters(directory):
    """Every number of the newest checkpoint, environments included."""
    config = run.configure([f"--flagfile={directory}/run.flags"])
    parts = build.setup(config)
    again = train.Run(config, directory, parts)
    again.begin()
    like = lambda counters: again.kept(counters["best_steps"] > 0)  # noqa: E731
    state, counters = checkpoint.latest(directory / "checkpoints", like, repair=False)
    parts.engine.close()
    return [leaf.numpy() for leaf in tf.nest.flatten(state)], {name: x for name, x in counters.items() if name != "seconds"}


def assert_same_run(a, b):
    assert rows_without_times(a) == rows_without_times(b)
    (leaves_a, counters_a), (leaves_b, counters_b) = parameters(a), parameters(b)
    assert counters_a == counters_b
    for x, y in zip(leaves_a, leaves_b, strict=True):
        np.testing.assert_array_equal(x, y)
