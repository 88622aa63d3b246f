"""Command lines and flagfiles that nobody should write."""

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import run
from faults.processes import ended, sentence
from tfpg.errors import UsageError

draw = random.Random(2)
WORDS = ["", "0", "-1", "1", "2", "nan", "inf", "1e999", "npg", "true", "../x", "/etc/passwd", "ü", "\u2028", "64,64", "x" * 5000]
WORDS += ["__import__('os')", "{}", "[]", "--", "=", "a=b", "a=b,c", "9" * 40, "CartPole-v1", "nothing:Nothing-v0", "$(id)", "%s"]
WORDS += ["\\", "'", '"', "\t", "-0.0", "1_0", "٣"]
SHORT = ["--total_steps=1", "--eval_episodes=1", "--progress=none", "--cache=none"]


def line(fields: list[str]) -> list[str]:
    """One to three flags of random values, and now and then what is no flag at all."""
    flags = [f"--{draw.choice(fields)}={draw.choice(WORDS)}" for _ in range(draw.randrange(1, 4))]
    return flags + draw.choice([[], [], ["--nothing"], [draw.choice(WORDS)], [f"--no{draw.choice(fields)}"], [f"--{draw.choice(fields)}"]])


def configured(given: list[str]) -> str:
    """What is wrong with how a command line is taken: nothing, if it makes a configuration or one sentence."""
    try:
        run.configure(given)
    except UsageError as error:
        return "" if str(error) and "\n" not in run.workdir.one_line(str(error)) else repr(error)
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return ""


@contextmanager
def elsewhere() -> Iterator[Path]:
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        try:
            yield Path(directory)
        finally:
            os.chdir(before)


def c1(count: int) -> list[str]:
    """One sentence, or a configuration; nothing is written."""
    found, fields = [], list(run.Config.__dataclass_fields__)
    with elsewhere() as directory:
        for i in range(count):
            given = line(fields)
            if i % 3 == 0:
                Path("x.flags").write_text("\n".join(given))
                given = ["--flagfile=x.flags"]
            what = configured(given)
            there = {each.name for each in directory.iterdir()} - {"x.flags"}
            found += [f"{given}: {what}{there or ''}"] if what or there else []
    return found


def c1_program(count: int) -> list[str]:
    """The same through the whole program, which does what it is told if it can: 0, 1 or 2, one sentence at most, no file elsewhere."""
    fields = [name for name in run.Config.__dataclass_fields__ if name not in ("num_seeds", "clone_epochs")]
    lines = [line(fields) for _ in range(count)]
    with tempfile.TemporaryDirectory() as name:

        def of(i: int) -> list[str]:
            home = Path(name) / str(i)
            home.mkdir()
            code, err = ended(*SHORT, *lines[i], directory=home)
            wrong = code not in (0, 1, 2) or not sentence(err) or (code == 0) != (err == "")
            there = [] if code == 0 else [each.name for each in home.iterdir()]
            return [f"{lines[i]}: {code} {err[-300:]} {there}"] if wrong or (there and code == 2) else []

        return [what for i in range(count) for what in of(i)] + [each.name for each in Path(name).iterdir() if not each.name.isdecimal()]
