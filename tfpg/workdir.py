"""The run directory and its `run.flags`: the complete flagfile that starts the same run again."""

import contextlib
import dataclasses
import os
import shutil
import time
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tfpg.config import FREE, PLACES, Config, flag_text
from tfpg.errors import UsageError
from tfpg.files import write_text
from tfpg.metrics import read

DIGEST = "demonstrations.sha256"
"""Beside `run.flags` where a run learns from a file: its SHA-256 and name, as sha256sum writes them."""


def flags(config: Config) -> dict[str, str]:
    """Every flag of a run as text, but for where it lies and what is done with it."""
    names = [field.name for field in dataclasses.fields(config)]
    return {name: flag_text(getattr(config, name)) for name in names if name not in PLACES}


def flagfile(config: Config) -> str:
    """The flags of a run as a file that `--flagfile` reads."""
    lines = [f"--{name}={value}\n" for name, value in flags(config).items()]
    return "# The same run again: python run.py --flagfile=<this file>\n" + "".join(lines)


def one_line(text: str) -> str:
    """The text with what would break its line, or is no text, as Python writes it: a newline as \\n."""
    return "".join(repr(sign)[1:-1] if unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") else sign for sign in text)


def check_text(given: dict[str, Any]) -> None:
    """Raises UsageError for a text that a line of `run.flags` cannot hold, or that no file's name can."""
    for name, value in given.items():
        if isinstance(value, str) and (value != value.strip() or value != one_line(value)):
            raise UsageError(f"--{name}={value!r} is not allowed: one line of text is, without blanks at its ends.")


def ancestry(config: Config) -> list[Path]:
    """The directories that are there of those that lead to a new run: what `discard` leaves standing."""
    path = Path(config.workdir or "runs/new").absolute()
    return [each for each in (path, *path.parents) if os.path.isdir(each)]  # a name too long is not there


# What a run has written when not one iteration is done.
BEGINNING = ("run.flags", "run.flags.tmp", DIGEST, f"{DIGEST}.tmp", "metrics.csv", "metrics.jsonl", "tensorboard", "checkpoints")


def discard(directory: Path, there: Iterable[Path]) -> None:
    """Removes a new run that has not done an iteration, and the directories that were made for it; else, and if it holds more, nothing."""
    found = list(directory.iterdir()) if os.path.isdir(directory) else []
    saved = {path.name for path in (directory / "checkpoints").glob("*")} if found else set()
    if saved - {"0", "0.tmp"} or {path.name for path in found} - set(BEGINNING) or (found and read(directory)):
        return
    for path in found:
        with contextlib.suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (directory.absolute(), *directory.absolute().parents):
        if path in there:
            return
        with contextlib.suppress(OSError):
            path.rmdir()


def create(config: Config) -> Path:
    """Makes the directory of a new run and writes its flags. Raises: UsageError if it is in use or cannot be written."""
    seeds = f"seed{config.seed}" if config.num_seeds == 1 else f"seeds{config.seed}-{config.seed + config.num_seeds - 1}"
    named = config.workdir or f"runs/{config.algo}-{config.env.replace('/', '_').replace(':', '_')}-{seeds}"
    directory, there = Path(named), ancestry(config)
    try:
        if not config.workdir:
            directory = Path(f"{named}-{time.strftime('%Y%m%d-%H%M%S')}")
            while directory.exists():
                directory = directory.with_name(directory.name + "x")
        if directory.is_dir() and any(directory.iterdir()):
            raise UsageError(f"--workdir={directory} is not empty: name a new directory, or add --resume to continue a run.")
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "run.flags", flagfile(config))
    except OSError as error:
        with contextlib.suppress(OSError):
            discard(directory, there)
        raise UsageError(f"--workdir={directory} cannot be written: {error.strerror}.") from None
    return directory


def existing(workdir: str) -> Path:
    """The flagfile of a run that is there. Raises: UsageError if there is none."""
    path = Path(workdir) / "run.flags"
    if not path.is_file():
        raise UsageError(f"--workdir={workdir} holds no run: there is no {path.name} in it.")
    return path


@contextlib.contextmanager
def of_flags(directory: Path) -> Iterator[None]:
    """A mistake in the flags that a run brings along is one of its `run.flags`."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{directory / 'run.flags'}: {error}") from None


def merge(saved: Config, given: dict[str, Any]) -> Config:
    """The run's own configuration with what the command line may change. Raises: UsageError for what it may not."""
    for name, value in given.items():
        if name not in FREE and value != getattr(saved, name):
            raise UsageError(
                f"--{name}={flag_text(value)} differs from this run's {flag_text(getattr(saved, name))}: "
                f"a run keeps what it learns with; --total_steps and the flags of evaluation and logging may change."
            )
    return dataclasses.replace(saved, **given)


def keep_digest(directory: Path, name: str, digest: str) -> None:
    """Writes down which file of demonstrations a run begins with."""
    write_text(directory / DIGEST, f"{digest}  {name}\n")


def check_digest(directory: Path, name: str, digest: str) -> None:
    """Raises UsageError if the file of demonstrations is another one than the run began with."""
    path = directory / DIGEST
    if path.is_file() and path.read_bytes().split()[:1] != [digest.encode()]:
        raise UsageError(f"--demonstrations={name} is not what this run began with ({path} has its SHA-256): put that file back to go on.")


def change(config: Config, steps: int) -> None:
    """Writes what a resumed run changed into its `run.flags`, with what it had until then as a comment.

    Raises: UsageError for fewer steps than are made, if it had not as few before (the last iteration is a whole one).
    """
    path, budget = Path(config.workdir) / "run.flags", f"--total_steps={config.total_steps}"
    before, now = path.read_text(), flagfile(config).splitlines()
    if config.total_steps < steps and budget not in before.splitlines():
        raise UsageError(f"{budget} is less than the {steps:,} steps that {config.workdir} has made: {steps} or more is allowed.")
    old = [line for line in before.splitlines() if line.startswith("--") and line not in now]
    if old:
        notes = [line for line in before.splitlines() if line.startswith("# Until step")]
        write_text(path, "\n".join([*now, *notes, f"# Until step {steps:,}: {' '.join(old)}"]) + "\n")
