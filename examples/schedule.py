"""Schedules the jobs of a CSV file with a trained policy of tfpg/DeepRM-v0, and says what became of each.

    python examples/schedule.py --policy=runs/…/policy/1 examples/jobs.csv [--seed=0]

The file has a line "arrival,length,units_1,units_2" and one such line of whole numbers per job: the step at which it arrives (one job per
step, in order), how many steps it runs, and how many of the ten units of each resource it takes. The schedule goes to standard output as
CSV, a summary beside SJF's to standard error.
"""

import argparse
import csv
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from run import quiet

with quiet():
    import numpy as np
    import tensorflow as tf

    from tfpg import schedulers
    from tfpg.envs import deeprm

COLUMNS = ["arrival", "length", "units_1", "units_2"]
CLUSTER = deeprm.Cluster()
LAST_STEP = 10_000


class Mistake(Exception):
    """Something that the user can mend, in one sentence."""


def number(text: str, column: str, low: int, high: int) -> int:
    """A whole number of a column. Raises: Mistake."""
    if not text.strip().isascii() or not text.strip().isdigit() or not low <= int(text) <= high:
        raise Mistake(f"{column} is {text.strip() or 'empty'}: a whole number from {low} to {high} is allowed")
    return int(text)


def job(cells: list[str]) -> list[int]:
    """One line of the file: arrival, length, units. Raises: Mistake."""
    if len(cells) != len(COLUMNS):
        raise Mistake(f"{len(cells)} columns: {len(COLUMNS)} are needed, {','.join(COLUMNS)}")
    bounds = [(0, LAST_STEP), (1, CLUSTER.window), (0, CLUSTER.units), (0, CLUSTER.units)]
    return [number(text, column, *bound) for text, column, bound in zip(cells, COLUMNS, bounds, strict=True)]


def read(path: Path) -> list[list[int]]:
    """The jobs of a file. Raises: Mistake that names the line."""
    try:
        lines = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise Mistake(f"{path} cannot be read: {error}") from error
    if not lines or [cell.strip() for cell in lines[0]] != COLUMNS:
        raise Mistake(f"{path}, line 1: the heading must be {','.join(COLUMNS)}")
    jobs: list[list[int]] = []
    for k, cells in enumerate(lines[1:], start=2):
        try:
            if cells:
                jobs.append(job(cells))
            if len(jobs) > 1 and cells and jobs[-1][0] <= jobs[-2][0]:
                raise Mistake(f"arrival is {jobs[-1][0]} after {jobs[-2][0]}: jobs come in order, one per step")
        except Mistake as mistake:
            raise Mistake(f"{path}, line {k}: {mistake}") from None
    if not jobs:
        raise Mistake(f"{path} has no jobs")
    return jobs


def load(path: Path) -> schedulers.Scheduler:
    """The policy of a run, its `policy` directory, or one version: draws actions, as it did in training. Raises: Mistake."""
    versions = sorted([*path.glob("[0-9]*"), *path.glob("policy/[0-9]*")], key=lambda where: where.name.zfill(9))
    found = [where for where in (path, *versions) if (where / "saved_model.pb").exists()]
    if not found:
        raise Mistake(f"--policy={path} holds no policy: a run of --env={deeprm.NAME}, or its policy directory, is allowed")
    policy = tf.saved_model.load(str(found[-1]))
    shape = tuple(policy.signatures["sample"].structured_input_signature[1]["observation"].shape[1:])
    views = {tuple(deeprm.make(view=name).spaces.observation_shape): view for name, view in deeprm.VIEWS.items()}
    if shape not in views:
        raise Mistake(f"--policy={path} observes {list(shape)}, which is no view of {deeprm.NAME}")

    def choose(state: deeprm.State, seed: tf.Tensor) -> tf.Tensor:
        seeds = tf.random.stateless_uniform([state.slots.shape[0], 2], seed, minval=None, maxval=None, dtype=tf.int32)
        return policy.signatures["sample"](observation=views[shape](deeprm.code(state), CLUSTER), seed=seeds)["action"]

    return choose


def schedule(jobs: list[list[int]], choose: schedulers.Scheduler, seed: int) -> np.ndarray:
    """When each job starts; -1 for those that were dropped because slots and backlog were full."""
    steps = jobs[-1][0] + 1
    length, size = np.zeros([1, steps], np.int32), np.zeros([1, steps, 2], np.int32)
    for arrival, steps_needed, *units in jobs:
        length[0, arrival], size[0, arrival] = steps_needed, units
    environment = deeprm.make(jobs=deeprm.Jobs(length, size))
    played = tf.function(lambda: schedulers.play(environment, choose, 1, tf.constant([seed, 0])), autograph=False)()
    return np.maximum(played.state.start[0].numpy()[[arrival for arrival, *_ in jobs]], -1)


def mean_slowdown(jobs: list[list[int]], start: np.ndarray) -> float:
    kept = start >= 0
    arrival, length = (np.array(column) for column in list(zip(*jobs, strict=True))[:2])
    return float(((start + length - arrival) / length)[kept].mean()) if kept.any() else float("nan")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", type=Path, help="the file")
    parser.add_argument("--policy", type=Path, required=True, help="a run, or its exported policy")
    parser.add_argument("--seed", type=int, default=0, help="of the policy's draws")
    given = parser.parse_args(arguments)
    try:
        jobs = read(given.jobs)
        start = schedule(jobs, load(given.policy), given.seed)
    except Mistake as mistake:
        print(f"schedule.py: {mistake}.", file=sys.stderr)
        return 2
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, "start", "finish", "slowdown"])
    for row, begin in zip(jobs, start, strict=True):
        finish = begin + row[1]
        writer.writerow([*row, begin, finish, f"{(finish - row[0]) / row[1]:.2f}"] if begin >= 0 else [*row, "dropped", "", ""])
    sys.stdout.write(text.getvalue())
    plain = mean_slowdown(jobs, schedule(jobs, schedulers.shortest_job_first, 0))
    dropped = f", {int((start < 0).sum())} dropped" if (start < 0).any() else ""
    print(f"{len(jobs)} jobs{dropped}: mean slowdown {mean_slowdown(jobs, start):.2f}; SJF has {plain:.2f}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
