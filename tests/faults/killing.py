"""Processes that are killed while they train, save or export."""

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import program
import tensorflow as tf

from faults import NotRunError
from faults.processes import ROOT, SMALL, Started, ended
from tfpg import metrics
from tfpg.files import numbered

ROWS = {
    "npg": [],
    "npg_fixed": [],
    "trpo": [],
    "ppo": ["--horizon=32"],
    "ppo_kl": ["--horizon=32"],
    "a2c": [],
    "actor_critic": [],
    "reinforce": ["--horizon=40"],
    "reinforce_togo": ["--horizon=40"],
    "reinforce_baseline": ["--horizon=40"],
    "off_policy": ["--horizon=40"],
    "pathwise": ["--horizon=32"],
}
"""Every algorithm, and what makes its runs short."""
FAMILIES = {
    "natural": ["npg", "npg_fixed", "trpo"],
    "ppo": ["ppo", "ppo_kl"],
    "actor_critic": ["a2c", "actor_critic"],
    "reinforce": ["reinforce", "reinforce_togo", "reinforce_baseline"],
    "off_policy": ["off_policy"],
    "pathwise": ["pathwise"],
}
MANY = 20  # failures after which there is no point in going on
draw = random.Random(0)


def saved(directory: Path) -> int:
    """The newest iteration that a run has reported as saved, -1 for none."""
    found = numbered(directory / "checkpoints")
    return int(found[-1].name) if found else -1


def bits(directory: Path) -> tuple[dict, dict, list]:
    """What two runs of the same flags share: the files of the last checkpoint's tensors, how far they came, and their metrics."""
    manifest = json.loads((numbered(directory / "checkpoints")[-1] / "manifest.json").read_text())
    counters = {name: count for name, count in manifest["counters"].items() if name != "seconds"}
    return manifest["files"], counters, program.rows_without_times(directory)


def same(a: Path, b: Path) -> list[str]:
    """What differs between two finished runs."""
    names = ("tensors", "counters", "metrics")
    return [f"other {name}" for name, x, y in zip(names, bits(a), bits(b), strict=True) if x != y]


def begun(path: Path) -> bool:
    """Whether there is something to go on with."""
    return (path / "run.flags").exists() and saved(path) >= 0


def gone_on(path: Path, whole: Path) -> list[str]:
    """Resumes a run until its end. Returns what is not as in the run that was never stopped."""
    code, err = ended("--resume", "--progress=none", f"--workdir={path}")
    if code:
        return [f"resumed run ended with {code}: {err[-300:]}"]
    leftovers = [each.name for each in (path / "checkpoints").iterdir() if not each.name.isdecimal()]
    return same(whole, path) + [f"{name} is left after the end" for name in leftovers]


def training(algo: str) -> list[str]:
    return [
        *SMALL,
        f"--algo={algo}",
        *ROWS[algo],
        "--total_steps=12000",
        "--checkpoint_every=3",
        "--eval_every=5",
        "--select=best",
        "--seed=5",
    ]


class Whole(NamedTuple):
    """A run that nobody stopped, when it had its first checkpoint, and how long it took."""

    path: Path
    first: float
    length: float


def never_stopped(algo: str, path: Path) -> Whole:
    start = time.monotonic()
    process = Started(*training(algo), f"--workdir={path}")
    while process.running() and saved(path) < 0:
        time.sleep(0.02)
    first = time.monotonic() - start
    code, err = process.end()
    if code:
        raise RuntimeError(f"{algo} ended with {code}: {err}")
    return Whole(path, first, time.monotonic() - start)


def killed(path: Path, algo: str, whole: Whole) -> tuple[Whole | None, list[str]]:
    """Begins a run, or goes on with it, and kills it at a random instant.

    Returns: if it was quicker, how long it takes, so that the next one is not; and what is wrong.
    """
    going_on = begun(path)
    if not going_on:
        shutil.rmtree(path, ignore_errors=True)
    process = Started(*(["--resume", "--progress=none"] if going_on else training(algo)), f"--workdir={path}")
    start, until = time.monotonic(), draw.uniform(whole.first, whole.length)
    while (took := time.monotonic() - start) < until and process.running():
        time.sleep(0.01)
    had = saved(path)
    process.signal(signal.SIGKILL)
    code, err = process.end()
    if code == 0:
        return whole if going_on else Whole(whole.path, whole.first * took / whole.length, took), same(whole.path, path)
    if code != -signal.SIGKILL:
        return None, [f"ended with {code} before it was killed: {err[-300:]}"]
    return None, [f"checkpoint {had} was there before a kill, {saved(path)} after it"] if saved(path) < had else []


def k1(family: str) -> Callable[[int], list[str]]:
    """Runs of a family's rows in turn that are killed at random instants, so many times in all, and resumed until they end."""

    def of(count: int) -> list[str]:
        found: list[str] = []
        with tempfile.TemporaryDirectory() as name:
            wholes = {algo: never_stopped(algo, Path(name) / algo) for algo in FAMILIES[family][:count]}
            rows, path, kills = itertools.cycle(wholes), Path(name) / "killed", 0
            algo = next(rows)
            while kills < count and len(found) < MANY:
                quicker, what = killed(path, algo, wholes[algo])
                found += [f"{algo}: {each}" for each in what]
                if quicker:
                    wholes[algo] = quicker
                    shutil.rmtree(path)
                    algo = next(rows)
                else:
                    kills += 1
            found += [f"{algo}: {each}" for each in (gone_on(path, wholes[algo].path) if begun(path) else [])]
        return found

    return of


SHORT = ["--total_steps=960", "--horizon=40", "--checkpoint_every=1", "--seed=5"]
SIZES = ["8", "64,64", "512,512"]
"""Widths of policies whose checkpoints take 10 kB, 100 kB and 2 MB."""


def struck(library: Path, n: int, path: Path, hidden: str) -> tuple[int, str]:
    """The program, killed when it is about to change its files for the n-th time, never if 0: its exit code, and what it said.

    How often it has changed them stands beside the library once it ends by itself.
    """
    count = library.with_suffix(".count")
    told = {"LD_PRELOAD": str(library), "STRIKE_BELOW": str(path), "STRIKE_AT": str(n), "STRIKE_COUNT": str(count)}
    command = [sys.executable, "run.py", *SMALL, *SHORT, f"--hidden={hidden}", f"--workdir={path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **told}, check=False)
    return done.returncode, done.stderr


def k2(every: int) -> tuple[list[str], int]:
    """Killed at the n-th call that changes its files, for every `every`-th n and each size. Returns how often, too."""
    if not shutil.which("gcc"):
        raise NotRunError("there is no gcc")
    found, count = [], 0
    with tempfile.TemporaryDirectory() as directory:
        library, whole = Path(directory) / "strike.so", Path(directory) / "whole"
        subprocess.run(["gcc", "-O2", "-shared", "-fPIC", ROOT / "tests/faults/strike.c", "-o", library, "-ldl"], check=True)
        for hidden in SIZES:
            shutil.rmtree(whole, ignore_errors=True)
            code, err = struck(library, 0, whole, hidden)
            if code:
                raise RuntimeError(f"--hidden={hidden} ended with {code}: {err}")
            changes = int(library.with_suffix(".count").read_text())
            for n in range(draw.randint(1, every), changes + 1, every):
                path, count = Path(directory) / f"{hidden}-{n}", count + 1
                code, err = struck(library, n, path, hidden)
                wrong = [f"ended with {code}: {err[-300:]}"] if code != -signal.SIGKILL else gone_on(path, whole) if begun(path) else []
                found += [f"--hidden={hidden}, change {n}: {what}" for what in wrong]
                shutil.rmtree(path, ignore_errors=True)
    return found, count


def k6(count: int) -> list[str]:
    """SIGTERM and SIGINT at random instants of training: saved within 5 s, and the exit code says which it was."""
    found = []
    for _ in range(count):
        with tempfile.TemporaryDirectory() as directory:
            path, number = Path(directory) / "run", draw.choice([signal.SIGTERM, signal.SIGINT])
            process = Started(*SMALL, "--total_steps=100000000", "--seed=5", f"--workdir={path}")
            while not metrics.read(path) and process.running():
                time.sleep(0.02)
            time.sleep(draw.random())
            start = time.monotonic()
            process.signal(number)
            code, err = process.end(60)
            took, last = time.monotonic() - start, metrics.read(path)[-1]["iteration"]
            if (code, err, took <= 5, saved(path)) != (128 + number, "", True, last):
                found.append(f"{number.name}: {code} after {took:.1f} s {err}")
    return found


def loads(version: Path) -> list[str]:
    try:
        tf.saved_model.load(str(version)).signatures["serving_default"](observation=tf.zeros([1, 4]))
    except (OSError, tf.errors.OpError) as error:
        return [f"version {version.name}: {error}"]
    return []


def s3(count: int) -> list[str]:
    """An export that is killed while others look: whatever version they see can be loaded."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run"
        ended(*SMALL, "--total_steps=800", f"--workdir={path}")
        start = time.monotonic()
        ended("--mode=export", f"--workdir={path}")
        length, seen = time.monotonic() - start, set()
        for _ in range(count):
            process, until = Started("--mode=export", f"--workdir={path}"), time.monotonic() + draw.uniform(0.3, 1.0) * length
            while time.monotonic() < until and process.running():
                for version in {each.name for each in numbered(path / "policy")} - seen:
                    seen.add(version)
                    found += loads(path / "policy" / version)
                time.sleep(0.002)
            process.signal(signal.SIGKILL)
            process.end()
        code, err = ended("--mode=verify", f"--policy={path}")
        found += [f"verify: {err}"] if code else []
    return found
