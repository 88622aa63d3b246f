"""Runs that differ in their seed alone, in one program: what is compiled for the first serves them all.

In graph, if batches are small, three are made at a time: one alone leaves cores idle while it collects, draws and exports.

<workdir>/run.flags, summary.json, learning_curve.png    of all together
<workdir>/seed<K>/                                       a run like any other, equal to one that is made by itself
"""

import dataclasses
import json
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfpg import report, statistics, workdir
from tfpg.build import Setup
from tfpg.config import Config
from tfpg.files import numbered
from tfpg.metrics import read
from tfpg.train import Interrupt, Run, describe, finished, learn, opened, stopped, write_json

AT_ONCE = 3
LARGE = 100_000  # samples of a batch that needs the cores, and the memory, for itself


def open_seed(config: Config, directory: Path, parts: Setup, seed: int) -> Run:
    """The run of one seed: a new one, or where one has saved something, that one."""
    path = directory / f"seed{seed}"
    begun = (path / "run.flags").is_file() and bool(numbered(path / "checkpoints"))
    alone = dataclasses.replace(config, seed=seed, num_seeds=1, workdir=str(path), resume=begun)
    if not begun:
        shutil.rmtree(path, ignore_errors=True)
        workdir.create(alone)
    return opened(alone, path, parts)


def train(config: Config, directory: Path, parts: Setup) -> int:
    """Trains with each seed, and leaves a directory for each and one summary. Returns the exit code: 0, or 128 + signal."""
    progress = report.Progress(config.progress, config.total_steps, config.num_seeds)
    seeds = range(config.seed, config.seed + config.num_seeds)
    engine = parts.engine
    at_once = min(AT_ONCE, len(seeds)) if engine.name == "graph" and engine.envs * engine.horizon < LARGE else 1
    with _enough_memory(directory, seeds[0]):
        first = open_seed(config, directory, parts, seeds[0])
    if config.resume:
        workdir.change(config, first.counters.steps)
    how = f"{at_once} at a time" if at_once > 1 else "one after another"
    print(f"{len(seeds)} runs, seeds {seeds[0]} to {seeds[-1]}, {how}. The first:\n{describe(first)}", flush=True)
    progress.begin()
    where = tf.zeros([]).device  # each thread has to be told

    def make(seed: int) -> int:
        """Makes the run of a seed. Returns how many steps it has."""
        if interrupt.signal:
            return 0
        try:
            with tf.device(where), _enough_memory(directory, seed):
                run = first if seed == seeds[0] else open_seed(config, directory, parts, seed)
                if not finished(run):
                    learn(run, progress, interrupt, lambda summary: progress.say(_line(summary)))
                return run.counters.steps
        except BaseException:
            interrupt.signal = interrupt.signal or signal.SIGTERM  # it ends the others too
            raise

    with Interrupt() as interrupt, ThreadPoolExecutor(at_once) as threads:
        steps = sum((threads.map if at_once > 1 else map)(make, seeds))
    if interrupt.signal:
        return stopped(interrupt.signal, steps, progress, directory)
    summary = summarise(directory, seeds)
    write_json(directory / "summary.json", summary)
    title = f"{config.algo} on {config.env}, {len(seeds)} seeds"
    report.common_learning_curve(directory / "learning_curve.png", [read(directory / f"seed{seed}") for seed in seeds], title)
    print(report.read_all_aloud(summary, directory))
    return 0


@contextmanager
def _enough_memory(directory: Path, seed: int) -> Iterator[None]:
    """A run for which there is not leaves nothing."""
    try:
        yield
    except (tf.errors.ResourceExhaustedError, MemoryError):
        workdir.discard(directory / f"seed{seed}", [directory.absolute()])
        raise


def _line(summary: dict[str, Any]) -> str:
    judged = summary["evaluation"]
    return f"Seed {summary['seed']} returns {judged['mean']:,.1f} (worst {judged['min']:,.1f}) after {summary['steps']:,} steps."


def summarise(directory: Path, seeds: range) -> dict[str, Any]:
    """What the summaries of all seeds come to: interquartile mean over seeds of the mean greedy return, its band, and the worst seed."""
    each = [json.loads((directory / f"seed{seed}" / "summary.json").read_text()) for seed in seeds]
    means = [summary["evaluation"]["mean"] for summary in each]
    worst = min(range(len(means)), key=means.__getitem__)
    low, high = statistics.band(means)
    return {
        "algo": each[0]["algo"],
        "env": each[0]["env"],
        "seeds": list(seeds),
        "steps": sum(summary["steps"] for summary in each),
        "episodes": sum(summary["episodes"] for summary in each),
        "wall_seconds": round(sum(summary["wall_seconds"] for summary in each), 3),
        "evaluation": {
            "interquartile_mean": float(statistics.interquartile_mean(means)),
            "band": [float(low), float(high)],
            "worst_seed": seeds[worst],
            "worst": means[worst],
            "means": means,
            "episodes": each[0]["evaluation"]["episodes"],
        },
        "runs": [f"seed{seed}" for seed in seeds],
        **{name: each[0][name] for name in ("engine", "envs", "horizon", "device", "jit", "threads", "versions")},
    }
