"""Files that are damaged, and disks that are full, gone or not to be written."""

import contextlib
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from faults.killing import begun, gone_on, saved
from faults.processes import SMALL, Started, ended, sentence
from tfpg import checkpoint
from tfpg.errors import RunFault

draw = random.Random(1)
FLAGS = [*SMALL, "--total_steps=16000", "--checkpoint_every=2", "--seed=5"]


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


def lost(run: Path) -> str:
    """What a disk may have of a run when the power fails: the newest checkpoint in part, rows after the one before in part. Returns how."""
    newest = run / "checkpoints" / str(saved(run))
    how = draw.choice(["empty files", "no manifest", "half a file", "not renamed", "no files", "zeros"])
    files = sorted(newest.iterdir())
    if how == "not renamed":
        newest.rename(newest.with_name(f"{newest.name}.tmp"))
        return how
    for file in {"no manifest": [newest / "manifest.json"], "no files": files}.get(how, []):
        file.unlink()
    for file in files if how == "empty files" else [draw.choice(files)] if how in ("half a file", "zeros") else []:
        content = file.read_bytes()
        file.write_bytes({"empty files": b"", "half a file": content[: len(content) // 2]}.get(how, bytes(len(content))))
    return how


def k3(count: int) -> list[str]:
    """The run goes on from the checkpoint before, says which one it passed over, and ends as the one that was never stopped."""
    with tempfile.TemporaryDirectory() as directory:
        whole, half = Path(directory) / "whole", Path(directory) / "half"
        ended(*FLAGS, f"--workdir={whole}")
        process = Started(*FLAGS, f"--workdir={half}")
        while saved(half) < 6 and process.running():
            time.sleep(0.01)
        process.signal(9)
        process.end()

        def of(i: int) -> list[str]:
            path = Path(directory) / str(i)
            shutil.copytree(half, path)
            how = lost(path)
            for name in ("metrics.jsonl", "metrics.csv"):  # rows beyond the last checkpoint were not flushed
                lines = (path / name).read_bytes().splitlines(True)
                (path / name).write_bytes(b"".join(lines[: saved(path) + draw.randint(1, 2)]) + b'{"iteration": 9')
            found = gone_on(path, whole)
            shutil.rmtree(path)
            return [f"{how}: {what}" for what in found if not what.endswith(".bad is left after the end")]

        return [what for i in range(count) for what in of(i)]


def _state(number: int) -> dict:
    return {"a": tf.fill([30, 20], float(number)), "b": tf.constant(number)}


def _counters(number: int) -> dict:
    return {"iteration": number, "steps": 12_345 * number, "seconds": 0.1 * number}


def k4(count: int) -> list[str]:
    """A damaged newest checkpoint: the one before it is taken, or the same numbers come out; never others, never a new start."""
    found = []
    with tempfile.TemporaryDirectory() as directory:
        for i in range(count):
            path = Path(directory) / str(i)
            for number in (1, 2):
                checkpoint.save(path, number, _state(number), _counters(number))
            how = damage(path / "2")
            try:
                with contextlib.redirect_stdout(None):
                    state, counters = checkpoint.latest(path, lambda _: _state(0), repair=True)
            except RunFault as error:
                found.append(f"{how}: {error}")
                continue
            number = counters["iteration"]
            sound = number in (1, 2) and counters == _counters(number)
            if not sound or not all(np.array_equal(state[name], _state(number)[name]) for name in state):
                found.append(f"{how}: other numbers came out")
            if number == 1 and not (path / "2.bad").exists():
                found.append(f"{how}: the damaged one was not set aside")
            shutil.rmtree(path)
    return found


@contextlib.contextmanager
def small_disk(path: Path, kilobytes: int) -> Iterator[None]:
    """A file system of its own, where this user may mount one."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", path], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def goes_on(path: Path, *more: str) -> list[str]:
    """What was saved can be gone on with, once there is room."""
    code, err = ended("--resume", "--progress=none", *more, f"--workdir={path}") if begun(path) else (0, "")
    return [f"it does not go on: {code} {err[-300:]}"] if code else []


def told(code: int, err: str, path: Path) -> list[str]:
    """Nothing where a run ended well, or with one sentence that names the path."""
    return [] if code == 0 or (code in (1, 2) and sentence(err) and str(path) in err) else [f"{code} {err[-300:]}"]


def full(i: int, directory: Path) -> list[str]:
    """A disk with no more room, of a random size."""
    path, size = directory / f"disk{i}", draw.randrange(20, 500)
    with small_disk(path, size):
        found = told(*ended(*FLAGS, f"--workdir={path}/run"), path)
        if begun(path / "run"):
            subprocess.run(["mount", "-o", "remount,size=50m", path], check=True)
            found += goes_on(path / "run")
    return [f"disk of {size} kB: {what}" for what in found]


def limited(i: int, directory: Path) -> list[str]:
    """No file may become longer than so much."""
    path, size = directory / f"files{i}", 2 ** draw.randrange(10, 17)
    found = told(*ended(*FLAGS, f"--workdir={path}", largest_file=size), path)
    return [f"files of at most {size} bytes: {what}" for what in found + goes_on(path)]


def removed(i: int, directory: Path) -> list[str]:
    """The directory vanishes while the run works in it."""
    path = directory / f"gone{i}"
    process = Started(*FLAGS, "--total_steps=10000000", f"--workdir={path}")
    while saved(path) < 2 and process.running():
        time.sleep(0.05)
    shutil.rmtree(path, ignore_errors=True)
    code, err = process.end()
    return [] if code == 1 and not told(code, err, path) else [f"directory gone: {code} {err[-300:]}"]


def read_only(i: int, directory: Path) -> list[str]:
    """A directory that cannot be written any more when the run goes on, or from the start."""
    path = directory / f"still{i}"
    with small_disk(path, 50_000):
        ended(*FLAGS, f"--workdir={path}/run")
        subprocess.run(["mount", "-o", "remount,ro", path], check=True)
        found = told(*ended(*FLAGS, f"--workdir={path}/other"), path)
        code, err = ended("--resume", "--total_steps=20000", "--progress=none", f"--workdir={path}/run")
        found += told(code, err, path) + (["a disk that cannot be written was written"] if code == 0 else [])
        subprocess.run(["mount", "-o", "remount,rw", path], check=True)
        found += goes_on(path / "run", "--total_steps=20000")
    return [f"read-only: {what}" for what in found]


def k5(count: int) -> list[str]:
    """Training ends with a sentence that names the path, or goes on; what was saved is intact."""
    ways = [limited, removed]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with contextlib.suppress(OSError, subprocess.CalledProcessError), small_disk(directory / "try", 100):
            ways += [full, read_only]
        return [what for i in range(count) for way in ways for what in way(i, directory)]
