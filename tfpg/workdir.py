"""The run directory and its `run.flags`: the complete flagfile that starts the same run again."""

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

from tfpg.config import FREE, PLACES, Config
from tfpg.errors import UsageError
from tfpg.files import write_text


def flag_text(value: Any) -> str:
    """A value as it stands behind `--name=`."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def flagfile(config: Config) -> str:
    """Every flag of a run, but for where it lies and what is done with it."""
    lines = [f"--{field.name}={flag_text(getattr(config, field.name))}" for field in dataclasses.fields(config)]
    kept = [line for line in lines if line[2:].split("=")[0] not in PLACES]
    return "# The same run again: python run.py --flagfile=<this file>\n" + "\n".join(kept) + "\n"


def create(config: Config) -> Path:
    """Makes the directory of a new run and writes its flags. Raises: UsageError if it is in use or cannot be written."""
    named = config.workdir or f"runs/{config.algo}-{config.env.replace('/', '_').replace(':', '_')}-seed{config.seed}"
    directory = Path(named)
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
        for name in ("run.flags", "run.flags.tmp"):
            with contextlib.suppress(OSError):
                (directory / name).unlink()
        raise UsageError(f"--workdir={directory} cannot be written: {error.strerror}.") from None
    return directory


def existing(workdir: str) -> Path:
    """The flagfile of a run that is there. Raises: UsageError if there is none."""
    path = Path(workdir) / "run.flags"
    if not path.is_file():
        raise UsageError(f"--workdir={workdir} holds no run: there is no {path.name} in it.")
    return path


def merge(saved: Config, given: dict[str, Any]) -> Config:
    """The run's own configuration with what the command line may change. Raises: UsageError for what it may not."""
    for name, value in given.items():
        if name not in FREE and value != getattr(saved, name):
            raise UsageError(
                f"--{name}={flag_text(value)} differs from this run's {flag_text(getattr(saved, name))}: "
                f"a run keeps what it learns with; --total_steps and the flags of evaluation and logging may change."
            )
    return dataclasses.replace(saved, **given)


def change(config: Config, steps: int) -> None:
    """Writes what a resumed run changed into its `run.flags`, with what it had until then as a comment."""
    path = Path(config.workdir) / "run.flags"
    before, now = path.read_text(), flagfile(config).splitlines()
    old = [line for line in before.splitlines() if line.startswith("--") and line not in now]
    if old:
        notes = [line for line in before.splitlines() if line.startswith("# Until step")]
        write_text(path, "\n".join([*now, *notes, f"# Until step {steps:,}: {' '.join(old)}"]) + "\n")
