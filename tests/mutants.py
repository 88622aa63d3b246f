"""`make mutants`: does a test fail when a line of floor 1 or 2 is wrong? ARGS="--module=returns" asks for one module.

Cosmic Ray writes the mutants of a module. Each runs in a child forked from this process, which has imported TensorFlow but has not used
it (its threads start with the first operation), so a mutant costs its tests and not their imports. The child imports the mutated text
through a hook; files are read from a copy of the tree, and nothing is written but --out. An interrupted run goes on where it stopped.

A mutant meets the tests that bear its module's name, then, if it lives, those of floors 1 and 2 that import the module. The ones that
killed its neighbours go first, then the quick ones. tests/equivalent_mutants.toml excuses mutants no test can kill.

Not counted, since they say nothing about tests:
- what leaves the program as it is: mutants in annotations and docstrings, and texts that do not parse or that another mutant has;
- arithmetic turned into logic or shifts, or back: tensors of floats have none, any call whatever would kill it;
- `==` for `is`, `!=` for `is not`, and back: of None, types and strings they say the same.
VariableReplacer and VariableInserter need names of variables as arguments; without them they are no part of Cosmic Ray's stock.
"""

import argparse
import ast
import contextlib
import difflib
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
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.ast.ast_query import ASTQuery
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path("tests/equivalent_mutants.toml")
ENOUGH = 0.97
MEMORY = 12 * 2**30
FAMILIES = ({"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"}, {"BitOr", "BitAnd", "BitXor"}, {"LShift", "RShift"})
IDENTITY = {("Eq", "Is"), ("NotEq", "IsNot"), ("Is", "Eq"), ("IsNot", "NotEq")}
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "runs", "build")
# Outcomes. 'import' is a kill without merit: the module, or a file of tests, cannot even be imported. 'crash' is a signal.
COLUMNS = ("mutants", "killed", "import", "timeout", "crash", "survived", "equivalent", "seconds")


@dataclass(frozen=True)
class Mutant:
    """One change. `name` is the operator and its occurrence; `before` and `after` are the lines that differ."""

    name: str
    operator: str
    function: str
    text: str
    diff: str
    before: str
    after: str


class Meaning(ast.NodeTransformer):
    """A program without annotations and docstrings."""

    def visit(self, node):
        self.generic_visit(node)
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and ast.get_docstring(node) is not None:
            node.body[0] = ast.Pass()
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(None))
        return node


def meaning(text):
    return ast.dump(Meaning().visit(ast.parse(text)))


def says_something(operator):
    kind, _, change = operator.partition("_")
    if kind == "ReplaceBinaryOperator":
        return any(set(change.split("_")) <= family for family in FAMILIES)
    return tuple(change.split("_")) not in IDENTITY


def mutants(path):
    """All mutants of a file that count."""
    source = path.read_text()
    seen, tree = {meaning(source)}, get_ast(source)
    for full_name in operator_names():
        operator, kind = full_name.removeprefix("core/"), get_operator(full_name)
        if kind.arguments() or not says_something(operator):
            continue
        places = [node for node in ast_nodes(tree) for _ in kind().mutation_positions(node)]
        for occurrence, node in enumerate(places):
            text = mutate_code(source, kind(), occurrence)
            try:
                new = meaning(text)
            except SyntaxError:
                continue
            if new not in seen:
                seen.add(new)
                lines = list(difflib.unified_diff(source.splitlines(), text.splitlines(), str(path), str(path), lineterm="", n=0))
                before, after = ("\n".join(line[1:].strip() for line in lines[3:] if line[0] == sign) for sign in "-+")
                function = ASTQuery(node).get_definition_name() or ""
                yield Mutant(f"{operator}#{occurrence}", operator, function, text, "\n".join(lines), before, after)


def floors():
    """The modules of floors 1 and 2, as tests/test_house.py has them."""
    for node in ast.parse(next(Path("tests").rglob("test_house.py")).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            table = ast.literal_eval(node.value)
            return [*table[1], *table[2]]
    raise SystemExit("test_house.py has no FLOORS")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names if node.module == "tfpg")
            yield (node.module or "").removeprefix("tfpg.")
        elif isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("tfpg.") for alias in node.names)


def relevant(module, names):
    """Files of tests: those named after the module, and the others of floors 1 and 2 that import it."""
    own = re.compile(rf"test_{module}(_\w+)?\.py")
    files = {*Path("tests/equations").glob("test_*.py"), *(path for name in names for path in Path("tests").glob(f"test_{name}.py"))}
    named = {path for path in files if own.fullmatch(path.name)}
    longer = {path for name in names if name.startswith(f"{module}_") for path in named if path.name.startswith(f"test_{name}")}
    named -= longer
    return [sorted(map(str, named)), sorted(str(path) for path in files - named if module in imported(path))]


def fingerprint(module, stages):
    """Of all that a module's results depend on, apart from the modules it imports."""
    helpers = [path for path in Path("tests").rglob("*.py") if not path.name.startswith("test_") and path.name != "mutants.py"]
    files = [Path(f"tfpg/{module}.py"), *map(Path, itertools.chain(*stages)), *sorted(helpers)]
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
        if report.failed:
            self.failed.append(report.nodeid)

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


def judge(module, text, stages, watch, limits, options=("-x",)):
    """In the child: the outcome of the tests, files of one stage after the other."""
    import pytest
    import tensorflow as tf

    os.setsid()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(quiet, stream)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    sys.meta_path.insert(0, Mutated(module, text))
    quick = ["-q", "-p", "no:cacheprovider", "--assert=plain", "--tb=no", "--hypothesis-profile=mutants", *options]
    for files, limit in zip(stages, limits, strict=True):
        signal.alarm(math.ceil(limit))
        code = pytest.main([*quick, *files], plugins=[watch]) if files else pytest.ExitCode.OK
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            return "killed" if code == pytest.ExitCode.TESTS_FAILED else "import"
    return "survived"


@dataclass
class Child:
    """A process that judges a mutant."""

    mutant: Mutant | None
    pid: int
    pipe: Connection
    begun: float

    @classmethod
    def fork(cls, mutant, module, text, stages, watch, *rest):
        receive, send = Pipe(duplex=False)
        pid = os.fork()
        if not pid:
            try:
                send.send((judge(module, text, stages, watch, *rest), watch.failed, watch.seconds))
            finally:
                os._exit(0)
        send.close()
        return cls(mutant, pid, receive, time.monotonic())

    def result(self):
        """(outcome, tests that failed, seconds of each test), as soon as it is there."""
        with contextlib.suppress(EOFError), self.pipe:
            told = self.pipe.recv()
            self.kill()
            return told
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
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
    """The results so far, kept in a file: {module: {'fingerprint', 'mutants': {name: {'outcome', 'seconds', 'test', 'diff'}}}}."""

    def __init__(self, out, found, stages):
        self.out, self.found, self.stages = out, found, stages
        self.state = json.loads(out.read_text()) if out.exists() else {}
        for module in found:
            mark = fingerprint(module, stages[module])
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

    def module(self, module, workers):
        """Judges what is left of a module. Returns the tests that fail without a mutation."""
        results, stages, running, killers = self.state[module]["mutants"], self.stages[module], {}, {}
        todo = [mutant for mutant in self.found[module] if mutant.name not in results]
        if not todo:
            return []
        source = Path(f"tfpg/{module}.py").read_text()
        outcome, failed, known = Child.fork(None, module, source, stages, Watch([], {}), (1800, 1800), ()).result()
        if outcome != "survived":
            return failed or [outcome]
        limits = [10 + 5 * sum(known[test] for test in known if test.split("::")[0] in files) for files in stages]
        try:
            while todo or running:
                while todo and len(running) < workers:
                    mutant = todo.pop(0)
                    likely = killers.setdefault(mutant.function, [])
                    child = Child.fork(mutant, module, mutant.text, stages, Watch(likely, known), limits)
                    running[child.pipe] = child
                for pipe in wait(list(running)):
                    child = running.pop(pipe)
                    outcome, failed, _ = child.result()
                    mutant, seconds = child.mutant, round(time.monotonic() - child.begun, 2)
                    results[mutant.name] = {"outcome": outcome, "seconds": seconds, "test": failed[:1], "diff": mutant.diff}
                    if outcome == "killed":
                        likely = killers[mutant.function]
                        likely[:] = failed[:1] + [test for test in likely if test not in failed]
                    self.save()
        finally:
            for child in running.values():
                child.kill()
        return []


def report(run, broken):
    """Prints survivors and a table. Returns whether enough mutants were killed, and nothing else is wrong."""
    entries = tomllib.loads(EQUIVALENT.read_text()).get("mutant", [])
    excused = {(entry["module"], entry["operator"], entry["before"], entry["after"]) for entry in entries}
    survivors = {(module, m.operator, m.before, m.after) for module, m, result in run.results() if result["outcome"] == "survived"}
    stale = [key for key in excused - survivors if key[0] in run.found and key[0] not in broken]
    rows = {module: dict.fromkeys(COLUMNS, 0) for module in run.found}
    for module, mutant, result in run.results():
        equivalent = (module, mutant.operator, mutant.before, mutant.after) in excused - set(stale)
        outcome = "equivalent" if result["outcome"] == "survived" and equivalent else result["outcome"]
        if outcome == "survived":
            print(f"\n{mutant.operator} in {mutant.function or module}\n{mutant.diff}")
        rows[module]["mutants"] += 1
        rows[module]["seconds"] += result["seconds"]
        rows[module][outcome] += 1
    rows["all"] = {column: sum(row[column] for row in rows.values()) for column in COLUMNS}
    print("\n" + " ".join(f"{column:>10}" for column in ("module", *COLUMNS, "killed %", "s/mutant")))
    for module, row in rows.items():
        score = 1 - row["survived"] / max(row["mutants"] - row["equivalent"], 1)
        numbers = [f"{row[column]:10.0f}" for column in COLUMNS] + [
            f"{100 * score:10.1f}",
            f"{row['seconds'] / max(row['mutants'], 1):10.2f}",
        ]
        print(f"{module:>10}", *numbers)
    for key in stale:
        print(f"Stale in {EQUIVALENT}, no survivor is like it: {key}")
    for module, failed in broken.items():
        print(f"{module} was left out, its tests fail without a mutation: {', '.join(failed)}")
    return score >= ENOUGH and not stale and not broken


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
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        os.chdir(tree)
        sys.path[0] = str(tree)
        names = floors()
        modules = given.module or names
        run = Run(out, {module: list(mutants(Path(f"tfpg/{module}.py"))) for module in modules}, {m: relevant(m, names) for m in modules})
        warm()
        try:
            broken = {module: failed for module in modules if (failed := run.module(module, given.workers))}
        finally:
            run.save(last=True)
            os.chdir(ROOT)
        return report(run, broken)


if __name__ == "__main__":
    sys.exit(not main())
