"""Runs that are made twice, elsewhere or under load, and tests that are counted."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

from faults.killing import ROWS, same
from faults.processes import ROOT, SMALL, Started, ended


def threads(number: int, *arguments: object) -> tuple[int, str]:
    """The program in a process of its own, with so many threads for an operation."""
    limits = {"TF_NUM_INTRAOP_THREADS": str(number), "TF_NUM_INTEROP_THREADS": str(number), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "run.py", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **limits}, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def r1(count: int) -> list[str]:
    """A run again, with one thread, and beside another one: the same bits."""
    found = []
    for algo in list(ROWS)[:count]:
        flags = [*SMALL, f"--algo={algo}", *ROWS[algo], "--total_steps=8000", "--eval_every=5", "--seed=6"]
        with tempfile.TemporaryDirectory() as name:
            paths = [Path(name) / str(i) for i in range(4)]
            results = [ended(*flags, f"--workdir={paths[0]}"), threads(1, *flags, f"--workdir={paths[1]}")]
            beside = [Started(*flags, f"--workdir={path}") for path in paths[2:]]
            results += [process.end() for process in beside]
            found += [f"{algo}: {code} {err[-300:]}" for code, err in results if code]
            for path, how in zip(paths[1:], ("one thread", "beside another", "beside another"), strict=True):
                found += [f"{algo}, {how}: {what}" for what in same(paths[0], path)]
    return found


def tests(*files: str) -> tuple[list[str], int]:
    """Tests of the suite: what failed, and how many there were."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *files]
        subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        cases = list(ET.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    none = [] if len(cases) > skipped else [f"no test of {', '.join(files)} was run"]
    return none + [f"{case.get('classname')}.{case.get('name')}" for case in failed], len(cases) - skipped
