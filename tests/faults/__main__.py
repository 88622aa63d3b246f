"""`make faults`: provokes what breaks, through the public command, and writes what held into docs/reliability.md.

    make faults                          the fast lane, under ten minutes
    make faults ARGS="--lane=slow"       the counts of a release, some hours
    make faults ARGS="--only=K1,S3"      some checks; two such commands may run side by side

Each check is a function of how often it is to be tried; it returns a sentence for each time that a promise was not kept. Results stay in
docs/reliability.json with the lane they are of, so that the page shows the newest of each; a check that fails makes the exit code 1.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from faults import NotRunError, disks, environments, killing, lines, malformed, repeating  # noqa: E402
from tfpg.files import write_text  # noqa: E402

PAGE, RESULTS = ROOT / "docs" / "reliability.md", ROOT / "docs" / "reliability.json"


class Check(NamedTuple):
    """A promise, how it is tried, and how often in each lane. What it returns beside failures is how often it was, if not so often."""

    promise: str
    what: str
    of: Callable[[int], Any]
    fast: int
    slow: int


def tests(promise: str, *files: str) -> Check:
    """A promise that tests of the suite hold; the fast lane leaves them to `make test`."""
    return Check(promise, f"the tests of {', '.join(files)}", lambda _: repeating.tests(*(f"tests/{file}.py" for file in files)), 0, 1)


RESUMED = "A run that is killed and resumed ends as one that was not, bit for bit: parameters, optimiser, best policy, counters, metrics"
CHECKS = {
    **{
        f"K1 {family}": Check(RESUMED, f"SIGKILL at random instants: {', '.join(rows)}", killing.k1(family), 3, 200)
        for family, rows in killing.FAMILIES.items()
    },
    "K2": Check(
        "So does one that is killed at any step of a save",
        "SIGKILL before the n-th call that creates, renames, removes, cuts or flushes a file or directory, at three sizes of policy",
        killing.k2,
        24,
        1,
    ),
    "K3": Check("After a power failure the checkpoint before is taken", "files of the newest one empty, in part or gone", disks.k3, 8, 100),
    "K4": Check("A damaged checkpoint is noticed, and the one before it taken", "random damage to its files", disks.k4, 200, 5000),
    "K5": Check(
        "A disk that is full, gone or not to be written ends in a sentence that names the path; what was saved can be gone on with",
        "small disks, limits on file size, directories removed, read-only disks",
        disks.k5,
        2,
        12,
    ),
    "K6": Check("SIGTERM and SIGINT save within 5 s, exit code 128 + signal", "signals at random instants", killing.k6, 5, 100),
    "E1": Check(
        "A failing worker is named, or replaced as often as it may be and counted",
        "workers that raise, exit, die, are killed, hang, are slow, at random instants, of environments and in runs of random rows",
        environments.e1,
        20,
        600,
    ),
    "E1u": tests("It is named at the step where it fails, within its time", "test_env_faults"),
    "E2": Check("CartPole is learned while environments crash and hang", "seeds, within 1.5 times the steps", environments.e2, 0, 3),
    "E3": Check(
        "Wrong data is no policy's teacher",
        "16 kinds of wrong data at random instants",
        environments.e3,
        20,
        288,
    ),
    "E4": Check("A million steps grow a run by less than 20 MB", "kinds of run", environments.e4, 0, 3),
    "E5": Check("Checks that are always on take at most 3 %", "CartPole iterations with and without them", environments.e5, 0, 600),
    "N1": tests("Numbers that go wrong leave finite parameters, or the same ones, and are counted; under XLA too", "test_numbers"),
    "C1": Check("A mistake in the flags is one sentence, and writes nothing", "random command lines and flagfiles", lines.c1, 1000, 10_000),
    "C1p": Check("So it is through the whole program", "random command lines", lines.c1_program, 60, 300),
    "S1": Check("The policy refuses what is no observation", "random tensors in Python", malformed.s1, 3000, 100_000),
    "S1c": Check("So it does through the C API", "random tensors in C", malformed.s1_c, 3000, 100_000),
    "S1h": Check("The server refuses what is no request, and serves on", "random JSON over HTTP", malformed.s1_http, 3000, 100_000),
    "S2": tests("Every runtime gives the training-time policy's actions", "test_export", "test_signatures", "test_c_api", "test_convert"),
    "S3": Check("A reader never sees a version that does not load", "exports killed at random instants", killing.s3, 8, 200),
    "S4": tests("A policy that does more than compute is refused unread", "test_verify"),
    "R1": Check("A run repeats to the bit", "algorithms: again, with one thread, under load", repeating.r1, 1, 12),
}


def table(results: dict[str, dict]) -> str:
    """The page."""
    lines = [
        "# What was provoked, and what held",
        "",
        "Made by `make faults`; `tests/faults/` says how. The fast lane, under ten minutes, has small counts, strikes in K2 at every 24th",
        "call, and leaves the suite's own tests to `make test`. The slow lane takes hours, more of them where",
        "other work goes on beside it, as it did for the minutes below.",
        "",
        "| check | promise | provoked by | lane | count | failures | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, check in CHECKS.items():
        found = results.get(name)
        told = ["not run", "", "", ""]
        if found:
            told = [found["lane"], f"{found['count']:,}", str(found["failures"]), f"{found['minutes']:.1f}"]
        lines.append(f"| {name} | {check.promise} | {check.what} | {' | '.join(told)} |")
    return "\n".join(lines) + "\n"


def known() -> dict[str, dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def tried(name: str, lane: str) -> int:
    """Makes a check, and writes down what came of it. Returns the number of failures."""
    check, begun = CHECKS[name], time.monotonic()
    count = getattr(check, lane)
    if not count:
        return 0
    try:
        found = check.of(count)
    except NotRunError as error:
        print(f"{name}: not run, {error}", flush=True)
        return 0
    failures, count = found if isinstance(found, tuple) else (found, count)
    minutes = (time.monotonic() - begun) / 60
    results = {**known(), name: {"lane": lane, "count": count, "failures": len(failures), "minutes": minutes}}
    print(f"{name}: {len(failures)} failures in {count:,} ({minutes:.1f} min) {'; '.join(failures[:3])}", flush=True)
    write_text(RESULTS, json.dumps({key: results[key] for key in CHECKS if key in results}, indent=1) + "\n")
    write_text(PAGE, table(results))
    return len(failures)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__.splitlines()[0])
    parser.add_argument("--lane", choices=("fast", "slow"), default="fast")
    parser.add_argument("--only", default=",".join(CHECKS), help="names of checks; K1 is that of every family")
    asked = parser.parse_args()
    names = [name for each in asked.only.split(",") for name in CHECKS if each in (name, name.split()[0])]
    unknown = sorted(set(asked.only.split(",")) - set(CHECKS) - {name.split()[0] for name in CHECKS})
    if unknown:
        parser.error(f"--only={unknown[0]} is no check: {', '.join(CHECKS)} are")
    return int(sum(tried(name, asked.lane) for name in names) > 0)


if __name__ == "__main__":
    sys.exit(main())
