"""`make faults`: provokes what breaks, through the public command, and writes what held into docs/reliability.md.

    make faults                          the fast lane, under ten minutes
    make faults ARGS="--lane=slow"       the counts of a release, some hours
    make faults ARGS="--only=K1,S3"      some checks

Each check is a function of how often it is to be tried; it returns a sentence for each time that a promise was not kept. Results stay in
docs/reliability.json with the lane they are of, so that the page shows the newest of each; a check that fails makes the exit code 1.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np  # noqa: E402
import program  # noqa: E402
import tensorflow as tf  # noqa: E402

import run  # noqa: E402
from tfpg import checkpoint, export, metrics  # noqa: E402
from tfpg.errors import RunFault, UsageError  # noqa: E402
from tfpg.files import numbered, write_text  # noqa: E402

PAGE, RESULTS = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"
FAMILIES = {
    "npg": [],
    "trpo": ["--algo=trpo"],
    "ppo": ["--algo=ppo", "--horizon=32"],
    "ppo_kl": ["--algo=ppo_kl", "--horizon=32"],
    "a2c": ["--algo=a2c", "--horizon=16"],
    "reinforce": ["--algo=reinforce", "--horizon=40"],
    "off_policy": ["--algo=off_policy", "--horizon=40"],
    "pathwise": ["--algo=pathwise", "--horizon=32"],
}
SMALL = ["--hidden=8", "--envs=8", "--eval_episodes=3", "--progress=none", "--tensorboard=false", "--jit=false"]
draw = random.Random(0)


def started(*arguments: str, **more: object) -> subprocess.Popen:
    """The program, started."""
    command = [sys.executable, "run.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def ended(*arguments: str, **more: object) -> tuple[int, str]:
    """The program, from its start to its end: exit code and standard error."""
    process = started(*arguments, **more)
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def saved(directory: Path) -> int:
    """The newest iteration that a run has reported as saved, -1 for none."""
    found = numbered(directory / "checkpoints")
    return int(found[-1].name) if found else -1


def same(a: Path, b: Path) -> str:
    """What differs between two finished runs, or nothing."""
    try:
        program.assert_same_run(a, b)
    except AssertionError as error:
        return " ".join(str(error).split())[:200]
    return ""


def sentence(err: str) -> bool:
    """Whether standard error is one line in the program's own words, or nothing."""
    return err == "" or (err.count("\n") == 1 and err.startswith("run.py: "))


def killed_runs(family: str, kills: int, directory: Path) -> list[str]:
    """A run that is killed again and again and resumed ends as the one that was not."""
    flags = [*SMALL, *FAMILIES[family], "--total_steps=16000", "--checkpoint_every=3", "--seed=5"]
    whole, found = directory / "whole", []
    begun = time.monotonic()
    ended(*flags, f"--workdir={whole}")
    length = time.monotonic() - begun
    path, left = directory / "killed0", kills
    while left:
        resumed = (path / "run.flags").exists() and saved(path) >= 0
        if not resumed:
            shutil.rmtree(path, ignore_errors=True)
        process = started(*(["--resume", "--progress=none"] if resumed else flags), f"--workdir={path}")
        time.sleep(draw.uniform(0.3, 1.0) * length)
        had = saved(path)
        process.kill()
        process.communicate()
        left -= 1
        if process.returncode == 0:  # it was quicker: its end is compared, and another one is begun
            found += [f"{family}: {what}" for what in [same(whole, path)] if what]
            path = directory / f"killed{left}"
        elif saved(path) < had:
            found.append(f"{family}: checkpoint {had} was there before a kill, {saved(path)} after it")
    if (path / "run.flags").exists() and saved(path) >= 0:
        code, err = ended("--resume", "--progress=none", f"--workdir={path}")
        found += [f"{family}: resumed run ended with {code}: {err}"] if code else []
        found += [f"{family}: {what}" for what in [same(whole, path)] if what]
        leftovers = [each.name for each in (path / "checkpoints").iterdir() if not each.name.isdecimal()]
        found += [f"{family}: {leftovers} left after the end"] if leftovers else []
    return found


def k1(count: int) -> list[str]:
    found = []
    for family in FAMILIES:
        with tempfile.TemporaryDirectory() as directory:
            found += killed_runs(family, count, Path(directory))
    return found


CALLS = ("rename", "mkdir", "unlink", "rmdir", "fsync")


def k2(count: int) -> list[str]:
    """Kills the program at the n-th call of each kind that changes a directory or flushes a file, for every `count`-th n."""
    if not shutil.which("strace"):
        raise NotRunError("strace is not installed")
    found, flags = [], [*SMALL, "--total_steps=1600", "--horizon=40", "--checkpoint_every=1", "--seed=5"]
    with tempfile.TemporaryDirectory() as directory:
        whole = Path(directory) / "whole"
        ended(*flags, f"--workdir={whole}")
        for call in CALLS:
            n = 1 + draw.randrange(count)
            while True:
                path = Path(directory) / f"{call}{n}"
                tool = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}"]
                command = [*tool, sys.executable, "run.py", *flags, f"--workdir={path}"]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
                if (path / "run.flags").exists() and saved(path) >= 0 and done.returncode:
                    code, err = ended("--resume", "--progress=none", f"--workdir={path}")
                    found += [f"{call} {n}: {code} {err}"] if code else [f"{call} {n}: {what}" for what in [same(whole, path)] if what]
                if done.returncode == 0:
                    break
                n += count
    return found


def _state(number: int) -> dict:
    return {"a": tf.fill([30, 20], float(number)), "b": tf.constant(number)}


def damage(path: Path) -> str:
    """Damages one file of a checkpoint in a random way. Returns how."""
    file = draw.choice(sorted(path.iterdir()))
    content = bytearray(file.read_bytes())
    how = draw.choice(["flip", "flip", "cut", "longer", "nothing in it", "gone", "zeros", "noise"])
    if how == "gone":
        file.unlink()
        return f"{file.name} {how}"
    at = draw.randrange(max(1, len(content)))
    if how == "flip":
        content[at] ^= 1 << draw.randrange(8)
    changed = {"cut": content[:at], "longer": content + b"x", "nothing in it": b"", "zeros": bytes(len(content)), "flip": content}
    noise = bytes(draw.randrange(256) for _ in range(min(len(content), 2000)))
    file.write_bytes(bytes(changed.get(how, noise)))
    return f"{file.name} {how} at {at}"


def k4(count: int) -> list[str]:
    """A damaged newest checkpoint: the one before it is taken, or the same numbers come out; never others, never a new start."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for i in range(count):
            path = Path(directory) / str(i)
            for number in (1, 2):
                checkpoint.save(path, number, _state(number), {"iteration": number})
            how = damage(path / "2")
            try:
                with contextlib.redirect_stdout(None):
                    state, counters = checkpoint.latest(path, _state(0), repair=True)
            except RunFault as error:
                found.append(f"{how}: {error}")
                continue
            number = counters["iteration"]
            if number not in (1, 2) or not all(np.array_equal(state[name], _state(number)[name]) for name in state):
                found.append(f"{how}: other numbers came out")
            if number == 1 and not (path / "2.bad").exists():
                found.append(f"{how}: the damaged one was not set aside")
            shutil.rmtree(path)
    return found


def k5(count: int) -> list[str]:
    """A disk that takes no more than so much of a file, a directory that is gone, one that cannot be written: a sentence with the path."""
    found, flags = [], [*SMALL, "--total_steps=16000", "--checkpoint_every=2", "--seed=5"]
    with tempfile.TemporaryDirectory() as directory:
        for i in range(count):
            path, size = Path(directory) / f"full{i}", 2 ** draw.randrange(9, 17)
            limit = lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
            code, err = ended(*flags, f"--workdir={path}", preexec_fn=limit)
            if code != 0 and (code != 1 or not sentence(err) or str(path) not in err):
                found.append(f"files of at most {size} bytes: {code} {err[-300:]}")
            if saved(path) >= 0:
                code, err = ended("--resume", "--progress=none", f"--workdir={path}")
                found += [f"after files of at most {size} bytes: {code} {err}"] if code else []
        for i in range(count):
            path = Path(directory) / f"gone{i}"
            process = started(*flags, "--total_steps=10000000", f"--workdir={path}")
            while saved(path) < 2 and process.poll() is None:
                time.sleep(0.05)
            shutil.rmtree(path)
            _, err = process.communicate(timeout=300)
            if process.returncode != 1 or not sentence(err) or str(path) not in err:
                found.append(f"directory gone: {process.returncode} {err[-300:]}")
    return found


def k6(count: int) -> list[str]:
    """SIGTERM and SIGINT at random instants of training: saved within 5 s, and the exit code says which it was."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for i in range(count):
            path, number = Path(directory) / str(i), draw.choice([signal.SIGTERM, signal.SIGINT])
            process = started(*SMALL, "--total_steps=100000000", "--seed=5", f"--workdir={path}")
            while not metrics.read(path) and process.poll() is None:
                time.sleep(0.02)
            time.sleep(draw.random())
            begun = time.monotonic()
            process.send_signal(number)
            _, err = process.communicate(timeout=60)
            took = time.monotonic() - begun
            if process.returncode != 128 + number or err or took > 5 or saved(path) != metrics.read(path)[-1]["iteration"]:
                found.append(f"{number.name}: {process.returncode} after {took:.1f} s, {err}")
    return found


WORDS = [
    "",
    "0",
    "-1",
    "1",
    "nan",
    "inf",
    "1e999",
    "npg",
    "true",
    "../x",
    "/etc/passwd",
    "ü",
    "\u2028",
    "64,64",
    "x" * 5000,
    "__import__('os')",
]
WORDS += [
    "{}",
    "[]",
    "--",
    "=",
    "a=b",
    "a=b,c",
    "9" * 40,
    "CartPole-v1",
    "nothing:Nothing-v0",
    "$(id)",
    "%s",
    "\\",
    "'",
    '"',
    "\t",
    "-0.0",
    "1_0",
    "٣",
]


def c1(count: int) -> list[str]:
    """Command lines and flagfiles of random flags with random values: one sentence, or a configuration; nothing is written."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        before = os.getcwd()
        os.chdir(directory)
        try:
            for i in range(count):
                fields = list(run.Config.__dataclass_fields__)
                line = [f"--{draw.choice(fields)}={draw.choice(WORDS)}" for _ in range(draw.randrange(1, 4))]
                line += draw.choice(
                    [[], [], ["--nothing"], [draw.choice(WORDS)], [f"--no{draw.choice(fields)}"], [f"--{draw.choice(fields)}"]]
                )
                if i % 3 == 0:
                    Path("x.flags").write_text("\n".join(line))
                    line = ["--flagfile=x.flags"]
                try:
                    run.configure(line)
                except UsageError as error:
                    if not str(error) or "\n" in run.workdir.one_line(str(error)):
                        found.append(f"{line}: {error!r}")
                except BaseException as error:
                    found.append(f"{line}: {type(error).__name__}: {error}")
                there = {each.name for each in Path().iterdir()} - {"x.flags"}
                found += [f"{line} left {there}"] if there else []
        finally:
            os.chdir(before)
    return found


def _policy(directory: Path) -> Path:
    import test_export as shipped

    learner, state = shipped.trained("real")
    return export.export(directory, learner, state, shipped.SPACES["real"])


def s1(count: int) -> list[str]:
    """Tensors of random shapes, types and values, to the loaded policy: what is not an observation is refused, and nothing crashes."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        policy = tf.saved_model.load(str(_policy(Path(directory)))).signatures["serving_default"]
        for _ in range(count):
            shape = [draw.randrange(5) for _ in range(draw.randrange(4))]
            dtype = draw.choice([np.float32, np.float32, np.float64, np.int32, np.bool_])
            x = np.asarray(np.random.default_rng(draw.randrange(2**32)).normal(size=shape)).astype(dtype)
            if dtype == np.float32 and x.size and draw.random() < 0.3:
                x.flat[draw.randrange(x.size)] = draw.choice([np.nan, np.inf, -np.inf])
            good = dtype == np.float32 and x.ndim == 2 and x.shape[1] == 3 and np.isfinite(x).all()
            try:
                answered = policy(observation=tf.constant(x))["action"].shape == x.shape
            except (tf.errors.InvalidArgumentError, TypeError, ValueError):
                answered = False
            if answered != good:
                found.append(f"{dtype.__name__} {shape} was {'answered' if answered else 'refused'}")
    return found


def s3(count: int) -> list[str]:
    """An export that is killed while others look: whatever version they see can be loaded."""
    found: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "run"
        ended(*SMALL, "--total_steps=800", f"--workdir={path}")
        begun = time.monotonic()
        ended("--mode=export", f"--workdir={path}")
        length, seen = time.monotonic() - begun, set()
        for _ in range(count):
            process = started("--mode=export", f"--workdir={path}")
            until = time.monotonic() + draw.uniform(0.5, 1.0) * length
            while time.monotonic() < until and process.poll() is None:
                for version in {each.name for each in numbered(path / "policy")} - seen:
                    seen.add(version)
                    try:
                        tf.saved_model.load(str(path / "policy" / version)).signatures["serving_default"](observation=tf.zeros([1, 4]))
                    except (OSError, tf.errors.OpError) as error:
                        found.append(f"version {version}: {error}")
                time.sleep(0.005)
            process.kill()
            process.communicate()
        code, err = ended("--mode=verify", f"--policy={path}")
        found += [f"verify: {err}"] if code else []
    return found


def s1_http(count: int) -> list[str]:
    """Random JSON to the server: 200 for requests that are some, 400 for the rest, and it serves on."""
    if importlib.util.find_spec("aiohttp") is None or importlib.util.find_spec("tensorflow_serving") is None:
        raise NotRunError("the packages of tfpg[serve] are not installed")
    import test_serving

    with tempfile.TemporaryDirectory() as directory:
        _policy(Path(directory))
        server = test_serving.Server(Path(directory))
        try:
            return test_serving.malformed(server, count, draw)
        finally:
            server.end()


class NotRunError(Exception):
    """A check that needs what is not there."""


class Check(NamedTuple):
    """A promise, how it is tried, and how often in each lane."""

    promise: str
    what: str
    of: Callable[[int], list[str]]
    fast: int
    slow: int


CHECKS = {
    "K1": Check(
        "A run that is killed and resumed ends as one that was not, bit for bit", "SIGKILL at random instants, per family", k1, 3, 200
    ),
    "K2": Check(
        "A save can be killed at any of its steps", "SIGKILL at the n-th system call that changes a directory or flushes", k2, 7, 1
    ),
    "K4": Check("A damaged checkpoint is noticed, and the one before it taken", "random damage to its files", k4, 200, 5000),
    "K5": Check(
        "A full or vanished disk ends in a sentence that names the path", "limits on file size, and directories removed", k5, 3, 30
    ),
    "K6": Check("SIGTERM and SIGINT save within 5 s", "signals at random instants", k6, 4, 100),
    "C1": Check("A mistake in the flags is one sentence", "random command lines and flagfiles", c1, 1000, 10_000),
    "S1": Check("The policy refuses what is no observation", "random tensors", s1, 3000, 100_000),
    "S1h": Check("The server refuses what is no request, and serves on", "random JSON over HTTP", s1_http, 3000, 100_000),
    "S3": Check("A reader never sees a version that does not load", "exports killed at random instants", s3, 8, 200),
}


def table(results: dict[str, dict]) -> str:
    """The page."""
    lines = [
        "# What was provoked, and what held",
        "",
        "Made by `make faults`; `tests/faults.py` says how. K1 is counted per family of algorithms. K2 with 1 kills at every system call",
        "of a kind, with 7 at every seventh.",
        "",
        "| check | promise | provoked by | lane | count | failures | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, check in CHECKS.items():
        found = results.get(name)
        told = (
            [found["lane"], f"{found['count']:,}", str(found["failures"]), f"{found['minutes']:.1f}"] if found else ["not run", "", "", ""]
        )
        lines.append(f"| {name} | {check.promise} | {check.what} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lane", choices=("fast", "slow"), default="fast")
    parser.add_argument("--only", default=",".join(CHECKS), help="names of checks")
    parser.add_argument("--check", action="store_true", help="only see whether the page is that of the results")
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if asked.check:
        return int(PAGE.read_text() != table(results))
    unknown = sorted(set(asked.only.split(",")) - set(CHECKS))
    if unknown:
        parser.error(f"--only={unknown[0]} is no check: {', '.join(CHECKS)} are")
    failed = 0
    for name in asked.only.split(","):
        check, begun = CHECKS[name], time.monotonic()
        count = getattr(check, asked.lane)
        try:
            found = check.of(count)
        except NotRunError as error:
            print(f"{name}: not run, {error}", flush=True)
            continue
        minutes = (time.monotonic() - begun) / 60
        results[name] = {"lane": asked.lane, "count": count, "failures": len(found), "minutes": minutes}
        print(f"{name}: {len(found)} failures in {count:,} ({minutes:.1f} min) {'; '.join(found[:3])}", flush=True)
        failed += len(found)
        write_text(RESULTS, json.dumps({key: results[key] for key in CHECKS if key in results}, indent=1) + "\n")
        write_text(PAGE, table(results))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
