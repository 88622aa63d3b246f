"""Metrics: one row per iteration, in `metrics.csv` and `metrics.jsonl`, and as TensorBoard events where tensorboard is installed."""

import contextlib
import csv
import importlib.util
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfpg.errors import RunFault

COLUMNS = {
    "iteration": "iterations done, this one included",
    "steps": "steps learned from so far, of environments or demonstrations",
    "episodes": "episodes finished so far",
    "return_mean": "mean undiscounted return of the episodes that finished in this iteration; empty if none did",
    "return_min": "least of them",
    "length_mean": "their mean length, in steps",
    "eval_return": "mean return of the greedy policy, in iterations that evaluate",
    "surrogate_gain": "rise of the surrogate objective over this batch",
    "kl": "mean KL(old||new) of the update over this batch, in nats",
    "kl_radius": "radius in force, for the rows that keep one",
    "step_size": "alpha along the natural direction; for the reinforce rows the norm of the change",
    "accepted": "trpo: 1 if some step length was acceptable, 0 if the parameters stayed",
    "gradient_norm": "norm of the policy gradient",
    "refused": "updates within this iteration that were refused, since the batch said too little about the policy (least_overlap)",
    "overlap": "least effective sample size of the batch over its size, over the updates of this iteration",
    "penalty": "beta of the KL penalty after the update; with --guidance its w_r",
    "cg_residual": "relative residual of the conjugate gradient, ||g - (F + eta I) x|| / ||g||",
    "cg_breakdown": "1 if conjugate gradient met a direction without curvature, p.Fp <= 0, and ended there",
    "constant_advantages": "1 if every advantage of the batch was the same, up to rounding: it says nothing about what is better",
    "entropy": "mean entropy of the policy before the update, in nats",
    "explained_variance": "1 - Var(target - V)/Var(target) of the critic before its fit",
    "value_rmse": "root mean square error of the critic before its fit, in units of reward",
    "skipped": "1 if the update would have left a number that is not finite, and was not made",
    "env_restarts": "times that failed environments were replaced, and what the iteration had until then was dropped; empty in graph",
    "seconds": "wall time of training so far, earlier starts of the run included",
    "steps_per_second": "environment steps per second of this iteration",
}

Row = dict[str, Any]

COUNTED = ("skipped", "refused", "cg_breakdown", "constant_advantages", "env_restarts")
"""Columns that count what went wrong and was mended."""


def events(rows: list[Row]) -> dict[str, int]:
    """How often each thing went wrong, and was mended, in the iterations of a run."""
    counts = {name: round(sum(row[name] or 0 for row in rows)) for name in COUNTED}
    return {**counts, "line_search_failed": sum(row["accepted"] == 0 for row in rows)}


def clean(value: Any) -> Any:
    """A number as JSON can hold it: NaN and infinities become None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Log:
    """Appends rows to the run's metric files; each row is flushed as it is written.

    Opening with `keep` drops rows after that iteration: a resumed run writes them again, so none is there twice.
    """

    def __init__(self, directory: Path, keep: int = 0, tensorboard: bool = True) -> None:
        self.directory = directory
        with self._on_disk():
            _rewrite(directory, [row for row in read(directory) if row["iteration"] <= keep])
        self.csv = (directory / "metrics.csv").open("a", newline="")
        self.jsonl = (directory / "metrics.jsonl").open("a")
        self.events = _events(directory / "tensorboard") if tensorboard else None

    def write(self, values: Row) -> Row:
        """Writes one row, COLUMNS that are missing or not finite left empty. Returns it. Raises: RunFault if the disk does not take it."""
        row = {name: clean(values.get(name)) for name in COLUMNS}
        with self._on_disk():
            self.jsonl.write(json.dumps(row) + "\n")
            csv.DictWriter(self.csv, COLUMNS).writerow(row)
            self.csv.flush()
            self.jsonl.flush()
        if self.events:
            import tensorflow as tf

            with self.events.as_default(step=row["steps"]):
                tf.summary.experimental.write_raw_pb(_summary(row))
        return row

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """What an open file's error does not say is which file it is."""
        try:
            yield
        except OSError as error:
            raise RunFault(f"{self.directory / 'metrics.csv'} or metrics.jsonl beside it cannot be written: {error}") from error

    def sync(self) -> None:
        """Flushes both files to disk, rows that failed before included: a checkpoint shall not know an iteration whose row is lost.

        Raises: RunFault likewise.
        """
        with self._on_disk():
            for file in (self.csv, self.jsonl):
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        for file in (self.csv, self.jsonl):
            with contextlib.suppress(OSError):  # a row that did not go to disk was told of when it did not
                file.close()
        if self.events:
            self.events.close()


def _rewrite(directory: Path, rows: list[Row]) -> None:
    """Replaces both files, each in one piece."""
    with (directory / "metrics.csv.tmp").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (directory / "metrics.jsonl.tmp").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("metrics.csv", "metrics.jsonl"):
        (directory / f"{name}.tmp").replace(directory / name)


def _events(directory: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    import tensorflow as tf

    return tf.summary.create_file_writer(str(directory))


def _summary(row: Row) -> bytes:
    """A row as TensorBoard's scalars, all in one message: an operation for each takes twenty times as long and more."""
    from tensorflow.core.framework import summary_pb2

    found = summary_pb2.Summary()
    for name, value in row.items():
        if value is not None:
            each = found.value.add(tag=name)
            each.metadata.plugin_data.plugin_name = "scalars"
            each.tensor.dtype = 1  # DT_FLOAT
            each.tensor.tensor_shape.SetInParent()
            each.tensor.float_val.append(value)
    return found.SerializeToString()


def _row(line: bytes) -> Row | None:
    """A line of metrics.jsonl as a row, or None if it is not one. One of an earlier version may lack a column."""
    with contextlib.suppress(ValueError):
        row = json.loads(line)
        if isinstance(row, dict) and {"iteration"} <= set(row) <= set(COLUMNS) and isinstance(row["iteration"], int):
            return {name: row.get(name) for name in COLUMNS}
    return None


def read(directory: Path) -> list[Row]:
    """The rows of a run so far; a line that a crash cut short is dropped."""
    path = directory / "metrics.jsonl"
    rows = map(_row, path.read_bytes().splitlines()) if path.exists() else []
    return [row for row in rows if row is not None]
