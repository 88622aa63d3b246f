"""`make mutants`: does a test fail when a line of floor 1 or 2 is wrong? ARGS="--module=returns" asks for one module.

Cosmic Ray writes the mutants of a module. Each runs in a child forked from this process, which has imported TensorFlow but has not used
it (its threads start with the first operation), so a mutant costs its tests and not their imports. The child imports the mutated text
through a hook; files are read from a copy of the tree, and nothing is written but --out. An interrupted run goes on where it stopped.

Without a mutation, each file of tests runs once, to see which functions it runs. A mutant then meets the files that bear its module's name,
and the other files that run its function, as long as they take no more than SPARE seconds together. Where tests have a case for every
component, only those of its module count, and tests under XLA wait for --thorough, which judges the survivors again: the same line runs
in plain Python. The tests that killed its neighbours go first, then the quick ones: most die in a fraction of a second.
tests/equivalent_mutants.toml excuses mutants that no test can kill.
"""

import argparse
import contextlib
import functools
import gc
import hashlib
import importlib
import itertools
import json
import math
import os
import re
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

from mutations import candidates, floors, meaning, mutants, needs

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path("tests/equivalent_mutants.toml")
ENOUGH = 0.97
SPARE = 30
COLLECTION = 60
MEMORY = 12 * 2**30
# 'import' is a kill without merit: the module, or a file of tests, cannot be imported. 'crash' is a signal.
COLUMNS = ("mutants", "killed", "import", "timeout", "crash", "survived", "equivalent", "seconds")


def digest(*paths):
    return hashlib.sha256(b"\0".join(str(path).encode() + b"\0" + Path(path).read_bytes() for path in paths)).hexdigest()


class Watch:
    """The child's plugin: likely killers first, and a record of what failed and how long each test took."""

    def __init__(self, killers=(), seconds=None, module="", thorough=True):
        self.rank = {test: i - len(killers) for i, test in enumerate(killers)}
        self.known, self.seconds, self.failed = seconds or {}, {}, []
        self.module, self.thorough = module, thorough

    def counts(self, item):
        given = item.callspec.params if hasattr(item, "callspec") else {}
        component = given.get("name", "")
        foreign = self.module and isinstance(component, str) and "." in component and not component.startswith(f"{self.module}.")
        return not foreign and (self.thorough or given.get("mode") != "xla")

    def pytest_collection_modifyitems(self, items):
        items[:] = filter(self.counts, items)
        items.sort(key=lambda item: self.rank.get(item.nodeid, self.known.get(item.nodeid, 0)))

    def pytest_runtest_setup(self, item):
        signal.alarm(math.ceil(5 + 5 * self.known.get(item.nodeid, 60)))

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


def judge(module, text, files, watch):
    """In the child: the outcome of the tests, file by file. Each may take five times what it takes unmutated, and five seconds."""
    import pytest
    import tensorflow as tf

    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    if module:
        sys.meta_path.insert(0, Mutated(module, text))
    options = ["-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "--tb=no", "--hypothesis-profile=mutants"]
    for file in files:
        signal.alarm(COLLECTION)
        code = pytest.main([*options, file], plugins=[watch])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return "killed" if code == pytest.ExitCode.TESTS_FAILED else "import"
    return "survived"


def listen(*task):
    """In a child: the judgement, and the functions of each module that ran."""
    ran, home = {}, str(Path("tfpg").resolve())
    here = {str(path): path.stem for path in Path(home).glob("*.py")}

    def note(frame, *_):
        name = here.get(frame.f_code.co_filename)
        if name:
            ran.setdefault(name, set()).add(frame.f_code.co_name)

    sys.settrace(note)
    return judge(*task), ran


class Child:
    """A process that calls judge or listen."""

    def __init__(self, mutant, task, module, text, files, watch):
        self.mutant, self.files, self.begun = mutant, files, time.monotonic()
        self.pipe, send = Pipe(duplex=False)
        self.pid = os.fork()
        if not self.pid:
            try:
                os.setsid()
                send.send((task(module, text, files, watch), watch.failed, watch.seconds))
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
    """The results so far, kept in a file: {'files': what each file of tests runs, 'modules': {module: {name of mutant: result}}}.

    They hold as long as the module, and for a kill the file of the test that killed, is as it was.
    """

    def __init__(self, out, found, thorough):
        self.out, self.found, self.thorough, self.broken = out, found, thorough, []
        self.state = json.loads(out.read_text()) if out.exists() else {"files": {}, "modules": {}}
        self.marks = {file: digest(file, *needs(file)) for file in candidates()}
        changed = [file for file, mark in self.marks.items() if self.state["files"].get(file, {}).get("mark") != mark]
        self.state["files"] = {file: known for file, known in self.state["files"].items() if file in self.marks and file not in changed}
        for module in found:
            text, old = Path(f"tfpg/{module}.py").read_text(), self.state["modules"].get(module, {})
            source = hashlib.sha256(meaning(text).encode()).hexdigest()
            known = old.get("mutants", {}) if old.get("source") == source else {}
            kept = {name: result for name, result in known.items() if self.holds(result, changed)}
            self.state["modules"][module] = {"source": source, "mutants": kept}
        self.saved = self.begun = time.monotonic()
        self.before = len(self.results())

    def holds(self, result, changed):
        """A survivor is judged again when any tests changed, or more thoroughly; a kill when its own did."""
        if result["outcome"] == "survived":
            return not changed and result["thorough"] >= self.thorough
        return not result["test"] or result["test"][0].split("::")[0] in self.marks.keys() - set(changed)

    def results(self):
        """(module, mutant, result) of every mutant that has been judged."""
        known = (
            (module, mutant, self.state["modules"][module]["mutants"].get(mutant.name))
            for module in self.found
            for mutant in self.found[module]
        )
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

    def pool(self, tasks, workers):
        """Runs children, so many at a time: an iterator of functions that start one -> each child with its result."""
        running, tasks = {}, iter(tasks)
        try:
            while True:
                for start in itertools.islice(tasks, workers - len(running)):
                    child = start()
                    running[child.pipe] = child
                if not running:
                    return
                for pipe in wait(list(running)):
                    child = running.pop(pipe)
                    yield child, child.result()
        finally:
            for child in running.values():
                child.kill()

    def listen(self, workers):
        """Without a mutation: the functions that each file of tests runs, and the seconds of each test. Files that fail are left out."""
        new = [file for file in self.marks if file not in self.state["files"]]
        tasks = (functools.partial(Child, file, listen, "", "", [file], Watch()) for file in new)
        for child, (told, failed, seconds) in self.pool(tasks, workers):
            if told[0] == "survived":
                ran = {module: sorted(names) for module, names in told[1].items()}
                self.state["files"][child.mutant] = {"mark": self.marks[child.mutant], "ran": ran, "seconds": seconds}
            else:
                self.broken += failed or [f"{child.mutant} ({told})"]

    def files(self, module, function):
        """The files of tests that run a function: those named after its module, then quick ones; with the seconds each takes."""
        cost = {
            file: sum(known["seconds"].values())
            for file, known in self.state["files"].items()
            if (function or "<module>") in known["ran"].get(module, ())
        }
        own = [file for file in cost if re.fullmatch(rf"test_{module}(_\w+)?|test_laws", Path(file).stem)]
        spare, others = math.inf if self.thorough else SPARE, []
        for file in sorted(cost.keys() - set(own), key=cost.get):
            spare -= cost[file]
            others += [file] * (spare > 0)
        return {file: cost[file] for file in [*own, *others]}

    def module(self, module, workers):
        """Judges what is left of a module."""
        results, killers = self.state["modules"][module]["mutants"], {}
        seconds = {test: x for known in self.state["files"].values() for test, x in known["seconds"].items()}

        def start(mutant):
            likely = killers.setdefault(mutant.function, [])
            cost = self.files(module, mutant.function)
            files = sorted(cost, key=lambda file: not any(test.startswith(file) for test in likely[:1]))
            watch = Watch(likely, seconds, module, self.thorough)
            return Child(mutant, judge, module, mutant.text, files, watch)

        todo = [mutant for mutant in self.found[module] if mutant.name not in results]
        for child, (outcome, failed, _) in self.pool((functools.partial(start, mutant) for mutant in todo), workers):
            took = round(time.monotonic() - child.begun, 2)
            told = {"outcome": outcome, "seconds": took, "test": failed[:1], "files": len(child.files), "thorough": self.thorough}
            results[child.mutant.name] = told
            if outcome == "killed":
                likely = killers[child.mutant.function]
                likely[:] = failed[:1] + [test for test in likely if test not in failed]
            self.save()


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
    parser.add_argument("--thorough", action="store_true", help="judge survivors by all tests that run their function, under XLA too")
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
        modules = given.module or floors()
        run = Run(out, {module: list(mutants(Path(f"tfpg/{module}.py"))) for module in modules}, given.thorough)
        warm()
        try:
            run.listen(given.workers)
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
