"""`make mutants`: does a test fail when a line of floor 1 or 2 is wrong? ARGS="--module=returns" asks for one module.

Cosmic Ray writes the mutants of a module. Each runs in a child forked from this process, which has imported TensorFlow but has not used
it (its threads start with the first operation), so a mutant costs its tests and not their imports. The child imports the mutated text
through a hook; files are read from a copy of the tree, and nothing is written but --out. An interrupted run goes on where it stopped.

A mutant meets the tests that bear its module's name, then, if it lives, those of floors 1 and 2 that import the module, file by file, and
only files that run its function. The tests that killed its neighbours go first, then the quick ones: most die in a fraction of a second.
tests/equivalent_mutants.toml excuses mutants that no test can kill.
"""

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path

from mutations import floors, mutants, relevant

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path("tests/equivalent_mutants.toml")
ENOUGH = 0.97
MEMORY = 12 * 2**30
# 'import' is a kill without merit: the module, or a file of tests, cannot be imported. 'crash' is a signal.
COLUMNS = ("mutants", "killed", "import", "timeout", "crash", "survived", "equivalent", "seconds")


def fingerprint(module, tests):
    """Of all that a module's results depend on, apart from the modules it imports."""
    helpers = [path for path in Path("tests").rglob("*.py") if not path.name.startswith(("test_", "mutants", "mutations"))]
    files = [Path(f"tfpg/{module}.py"), *map(Path, tests), *sorted(helpers)]
    return hashlib.sha256(b"\0".join(str(path).encode() + b"\0" + path.read_bytes() for path in files)).hexdigest()


class Watch:
    """The child's plugin: likely killers first, and a record of what failed and how long each test took."""

    def __init__(self, killers, seconds):
        self.rank = {test: i - len(killers) for i, test in enumerate(killers)}
        self.known, self.seconds, self.failed = seconds, {}, []

    def pytest_collection_modifyitems(self, items):
        items.sort(key=lambda item: self.rank.get(item.nodeid, self.known.get(item.nodeid, 0)))

    def pytest_runtest_logreport(self, report):
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0) + report.duration
        self.pytest_collectreport(report)

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed.append(report.nodeid)


class Mutated(SourceFileLoader):
    """Imports one module of the house from a text; it is its own finder."""

    def __init__(self, module, text):
        super().__init__(f"tfpg.{module}", str(Path(f"tfpg/{module}.py").resolve()))
        self.text = text

    def find_spec(self, name, path=None, target=None):
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, fullname):
        return compile(self.text, self.path, "exec")


def judge(module, text, files, watch, limits):
    """In the child: the outcome of the tests, file by file, each with a limit in seconds."""
    import pytest
    import tensorflow as tf

    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    sys.meta_path.insert(0, Mutated(module, text))
    options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--tb=no", "--hypothesis-profile=mutants"]
    for file, limit in zip(files, limits, strict=True):
        signal.alarm(math.ceil(limit))
        code = pytest.main([*options, file], plugins=[watch])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return "killed" if code == pytest.ExitCode.TESTS_FAILED else "import"
    return "survived"


def listen(module, *rest):
    """In a child: the judgement, and the names of the module's functions that ran."""
    ran = set()
    end = f"tfpg/{module}.py"
    sys.settrace(lambda frame, *_: ran.add(frame.f_code.co_name) if frame.f_code.co_filename.endswith(end) else None)
    return judge(module, *rest), ran


class Child:
    """A process that calls judge or listen."""

    def __init__(self, mutant, task, module, text, files, watch, limits):
        self.mutant, self.files, self.begun = mutant, files, time.monotonic()
        self.pipe, send = Pipe(duplex=False)
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                send.send((task(module, text, files, watch, limits), watch.failed, watch.seconds))
            finally:
                os._exit(0)
        send.close()

    def result(self):
        """(what it returned, tests that failed, seconds of each test), as soon as it is there."""
        try:
            told = self.pipe.recv()
        except EOFError:
            told = None
        except KeyboardInterrupt:
            self.kill()
            raise
        self.pipe.close()
        if told:
            self.kill()
            return told
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if code >= 0:
            raise SystemExit("A child ended without a word: an error in this program, not in a mutant.")
        return "timeout" if code == -signal.SIGALRM else "crash", [], {}

    def kill(self):
        """The child, and what it may have started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def warm():
    """Imports what every child needs. No operation runs: threads would not survive the fork."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    for name in ("numpy", "tensorflow", "tensorflow_probability", "pytest"):
        importlib.import_module(name)
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "mutants", max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    gc.collect()
    gc.freeze()


class Run:
    """The results so far, kept in a file: {module: {'fingerprint', 'mutants': {name: {'outcome', 'test', ...}}}}."""

    def __init__(self, out, found, tests):
        self.out, self.found, self.tests, self.broken = out, found, tests, []
        self.state = json.loads(out.read_text()) if out.exists() else {}
        for module in found:
            mark = fingerprint(module, tests[module])
            if self.state.get(module, {}).get("fingerprint") != mark:
                self.state[module] = {"fingerprint": mark, "mutants": {}}
        self.saved = self.begun = time.monotonic()
        self.before = len(self.results())

    def results(self):
        """(module, mutant, result) of every mutant that has been judged."""
        known = ((module, mutant, self.state[module]["mutants"].get(mutant.name)) for module in self.found for mutant in self.found[module])
        return [(module, mutant, result) for module, mutant, result in known if result]

    def save(self, last=False):
        """Every ten seconds, with a line on the progress."""
        if last or time.monotonic() > self.saved + 10:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            new = self.out.with_name(f"{self.out.name}.new")
            new.write_text(json.dumps(self.state, indent=1))
            new.replace(self.out)
            self.saved, results = time.monotonic(), self.results()
            total, lived = sum(map(len, self.found.values())), sum(result["outcome"] == "survived" for *_, result in results)
            left = (self.saved - self.begun) / max(len(results) - self.before, 1) * (total - len(results)) / 60
            print(f"{len(results)}/{total} mutants, {len(results) - lived} killed, {lived} alive, {left:.0f} min left", flush=True)

    def listen(self, module, source):
        """Without a mutation: the functions that ran in each file of tests, and the seconds of each test. Files that fail are left out."""
        functions, known = {}, {}
        for file in self.tests[module]:
            told, failed, seconds = Child(None, listen, module, source, [file], Watch([], {}), [1800]).result()
            if told[0] == "survived":
                functions[file] = told[1] if seconds else set()
                known |= seconds
            else:
                self.broken += failed or [f"{file} ({told})"]
        return functions, known

    def module(self, module, workers):
        """Judges what is left of a module."""
        results, running, killers = self.state[module]["mutants"], {}, {}
        todo = [mutant for mutant in self.found[module] if mutant.name not in results]
        source = Path(f"tfpg/{module}.py").read_text()
        functions, known = self.listen(module, source) if todo else ({}, {})
        try:
            while todo or running:
                while todo and len(running) < workers:
                    mutant = todo.pop(0)
                    likely = killers.setdefault(mutant.function, [])
                    files = [file for file, ran in functions.items() if (mutant.function or "<module>") in ran]
                    files.sort(key=lambda file: -any(test.startswith(file) for test in likely[:1]))
                    limits = [10 + 5 * sum(known[test] for test in known if test.startswith(file)) for file in files]
                    child = Child(mutant, judge, module, mutant.text, files, Watch(likely, known), limits)
                    running[child.pipe] = child
                for pipe in wait(list(running)):
                    child = running.pop(pipe)
                    outcome, failed, _ = child.result()
                    mutant, seconds = child.mutant, round(time.monotonic() - child.begun, 2)
                    results[mutant.name] = {
                        "outcome": outcome,
                        "seconds": seconds,
                        "test": failed[:1],
                        "files": len(child.files),
                        "diff": mutant.diff,
                    }
                    if outcome == "killed":
                        likely = killers[mutant.function]
                        likely[:] = failed[:1] + [test for test in likely if test not in failed]
                    self.save()
        finally:
            for child in running.values():
                child.kill()


def report(run):
    """Prints survivors and a table. Returns whether enough mutants were killed, and nothing else is wrong."""
    entries = tomllib.loads(EQUIVALENT.read_text()).get("mutant", [])
    excused = {tuple(entry[key] for key in ("module", "function", "operator", "before", "after")) for entry in entries}
    survivors = {mutant.key(module) for module, mutant, result in run.results() if result["outcome"] == "survived"}
    stale = [key for key in excused - survivors if key[0] in run.found]
    rows = {module: dict.fromkeys(COLUMNS, 0) for module in run.found}
    for module, mutant, result in run.results():
        outcome = "equivalent" if result["outcome"] == "survived" and mutant.key(module) in excused else result["outcome"]
        if outcome == "survived":
            print(f"\n{mutant.operator} in {mutant.function or module}{'' if result['files'] else ', which no test runs'}\n{mutant.diff}")
        rows[module]["mutants"] += 1
        rows[module]["seconds"] += result["seconds"]
        rows[module][outcome] += 1
    rows["all"] = {column: sum(row[column] for row in rows.values()) for column in COLUMNS}
    print("\n" + " ".join(f"{column:>10}" for column in ("module", *COLUMNS, "killed %", "s/mutant")))
    for module, row in rows.items():
        score = 1 - row["survived"] / max(row["mutants"] - row["equivalent"], 1)
        numbers = [*(f"{row[column]:.0f}" for column in COLUMNS), f"{100 * score:.1f}", f"{row['seconds'] / max(row['mutants'], 1):.2f}"]
        print(" ".join(f"{cell:>10}" for cell in (module, *numbers)))
    for key in stale:
        print(f"Stale in {EQUIVALENT}, no survivor is like it: {key}")
    print(*(f"Fails without a mutation, so its file was left out: {test}" for test in sorted(set(run.broken))), sep="\n")
    return score >= ENOUGH and not stale and not run.broken


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", action="append", help="one module of floor 1 or 2, may be given again; all if left out")
    parser.add_argument("--out", type=Path, default=ROOT / "build/mutants.json", help="where results are kept")
    parser.add_argument("--workers", type=int, default=2, help="mutants at a time")
    given = parser.parse_args()
    out = given.out.resolve()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch, "tree")
        tree.mkdir()
        for name in ("tfpg", "tests", "docs"):
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", tree)
        os.chdir(tree)
        sys.path[0] = str(tree)
        names = floors()
        modules = given.module or names
        run = Run(out, {module: list(mutants(Path(f"tfpg/{module}.py"))) for module in modules}, {m: relevant(m, names) for m in modules})
        warm()
        try:
            for module in modules:
                run.module(module, given.workers)
        finally:
            run.save(last=True)
            os.chdir(ROOT)
        return report(run)


if __name__ == "__main__":
    try:
        sys.exit(not main())
    except KeyboardInterrupt:
        sys.exit("Interrupted; the next run goes on from here.")
