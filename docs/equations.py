"""Writes docs/equations.md: each equation, the functions that compute it, and the tests that hold them to its definition.

    python docs/equations.py            writes the page
    python docs/equations.py --check    says what is missing, unknown or stale, and exits 1 if anything is

The equations are those of docs/equations.toml. A function names its equations in its docstring, in parentheses: (PG-24, PG-32). A test
names them by a mark on itself, on its class, or on its module: @pytest.mark.equation("PG-24", "PG-32"). Both are read, not imported.
"""

import argparse
import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
PAGE, TABLE, TESTS = "docs/equations.md", "docs/equations.toml", "tests/equations"
OUTER_FLOORS = (0, 4)  # tests/test_house.py says which modules these are; equations live on the floors between
APPLICATION = {"envs.deeprm", "schedulers"}  # and in these two of floor 4: the notes' own application

INTRODUCTION = """\
# The equations

The equations of policy gradients, each with the functions that compute it and the tests that hold them to its definition (the number is
that of a file's test functions). Docstrings and tests refer to an equation by its id, such as PG-24; not every number is used.
`python docs/equations.py` writes this page from [equations.toml](equations.toml), the code and the tests.

The sources are five sets of lecture notes, and "standard" stands for what none of them writes down:

- 000: "CS285: Lecture 5, Policy Gradient", notes on the Berkeley course
- 001: Julien Vitay, "Deep Reinforcement Learning: Policy gradient"
- 002: "Policy Gradient Notes"
- 003: "Policy Gradients in Reinforcement Learning"
- 004: Sergey Levine, "Lecture 5: Policy Gradients"

A source is followed by the equation's number (17), its label [objective], a section §3.1, or a line of the notes' text, L94. Where it
says "corrected", the notes have another form than the one shown here; [errata.md](errata.md) says what was wrong with it. "Named only"
are methods that the notes mention without an equation.

Notation: steps $`t = 1, \\dots, T`$ of trajectories $`\\tau_i`$, $`i = 1, \\dots, N`$, with rewards $`r_t = r(s_t,a_t)`$; $`z`$ logits,
$`f`$ and $`\\Sigma`$ the mean and covariance of a Gaussian policy. Scores $`g_t = \\nabla \\log \\pi_\\theta(a_t \\mid s_t)`$ and
$`g(\\tau) = \\sum_t g_t`$; $`\\hat g`$ an estimate of the gradient; $`\\mathrm{sg}`$ passes values and no gradient. $`\\gamma_t`$ is
$`\\gamma`$, and 0 where the task terminated; $`\\lambda_t`$ is $`\\lambda`$, and 0 where an episode ended. $`\\mathbb{E}`$ is over
trajectories of $`\\pi_\\theta`$; off-policy they come from $`\\pi_\\theta`$ and the policy in question is $`\\pi_{\\theta'}`$, with score
$`g'_t`$, ratios $`\\rho_t = \\pi_{\\theta'}(a_t \\mid s_t) / \\pi_\\theta(a_t \\mid s_t)`$ and $`W_t = \\prod_{k \\le t} \\rho_k`$.
$`\\mu_t`$ and $`\\mu`$ are marginal and stationary distributions, $`F`$ is the Fisher matrix, $`\\Delta`$ a step of the parameters,
$`\\varepsilon`$ a radius, a clip or a small constant.
"""


class Named(NamedTuple):
    """A function, class, method or test: its file, its name there, and the equations it names."""

    path: str
    name: str
    ids: tuple[str, ...]


def load(root: Path) -> dict[str, dict[str, str]]:
    """The equations, by id, in the page's order."""
    return tomllib.loads((root / TABLE).read_text("utf-8"))


def outer_modules(root: Path) -> set[str]:
    """The modules on floors that hold no equations."""
    for node in ast.parse((root / "tests/test_house.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "FLOORS":
            floors = ast.literal_eval(node.value)
            return {name for floor in OUTER_FLOORS for name in floors[floor]} - APPLICATION
    raise SystemExit("tests/test_house.py has no table FLOORS.")


def documented(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Public functions, classes and methods with their docstrings."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                yield from documented(node.body, f"{prefix}{node.name}.")


def functions(root: Path) -> list[Named]:
    """What computes equations, with the ids in its docstring: `(PG-24, PG-32)`, `(PG-35 'togo')`."""
    found, outer = [], outer_modules(root)
    modules = {".".join(path.relative_to(root / "tfpg").with_suffix("").parts): path for path in sorted((root / "tfpg").rglob("*.py"))}
    for module, path in modules.items():
        if module in outer or path.stem == "__init__":
            continue
        for name, docstring in documented(ast.parse(path.read_text("utf-8")).body):
            ids = re.findall(r"PG-\d+", " ".join(re.findall(r"\((PG-[^)]*)\)", docstring)))
            found.append(Named(path.relative_to(root).as_posix(), f"{module}.{name}", tuple(dict.fromkeys(ids))))
    return found


def marked(nodes: Iterable[ast.AST], aliases: set[str]) -> Iterator[str]:
    """Ids in calls such as pytest.mark.equation("PG-24")."""
    for call in (call for node in nodes for call in ast.walk(node) if isinstance(call, ast.Call)):
        name = ast.unparse(call.func)
        if name in aliases or name.endswith("mark.equation"):
            yield from (argument.value for argument in call.args if isinstance(argument, ast.Constant))


def proofs_in(body: list[ast.stmt], aliases: set[str], outer: tuple[str, ...], prefix: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Test functions with their ids: their own, their class's and their module's."""
    assigned = [(ast.unparse(node.targets[0]), node.value) for node in body if isinstance(node, ast.Assign)]
    aliases = aliases | {name for name, value in assigned if ast.unparse(value).endswith("mark.equation")}
    outer += tuple(marked((value for name, value in assigned if name == "pytestmark"), aliases))
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            yield prefix + node.name, tuple(dict.fromkeys((*outer, *marked(node.decorator_list, aliases))))
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            yield from proofs_in(node.body, aliases, (*outer, *marked(node.decorator_list, aliases)), f"{prefix}{node.name}.")


def proofs(root: Path) -> list[Named]:
    """The tests of equations: all below tests/equations, and those elsewhere that carry the mark."""
    found = []
    for path in sorted((root / "tests").rglob("test_*.py")):
        tests = proofs_in(ast.parse(path.read_text("utf-8")).body, set(), (), "")
        within = path.is_relative_to(root / TESTS)
        found += [Named(path.relative_to(root).as_posix(), name, ids) for name, ids in tests if within or ids]
    return found


def page(root: Path) -> str:
    """The text of docs/equations.md."""
    equations, code, tests = load(root), functions(root), proofs(root)
    lines = [INTRODUCTION]
    for section in dict.fromkeys(entry["section"] for entry in equations.values()):
        lines += [f"## {section}\n", "| id | equation | name | functions | tests | source |", "| --- | --- | --- | --- | --- | --- |"]
        for id_, entry in equations.items():
            if entry["section"] == section:
                links = [f"[`{function.name}`](../{function.path})" for function in code if id_ in function.ids]
                files = [test.path for test in tests if id_ in test.ids]
                counts = [f"[{Path(path).stem}](../{path}): {files.count(path)}" for path in dict.fromkeys(files)]
                cells = [id_, f"$`{entry['equation']}`$", entry["name"], ", ".join(links), ", ".join(counts), entry["source"]]
                lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def mentions(root: Path) -> Iterator[tuple[str, str]]:
    """Places that name equations, and the id: every docstring below tfpg, and the marks of the tests."""
    for path in sorted((root / "tfpg").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                for id_ in dict.fromkeys(re.findall(r"PG-\d+", ast.get_docstring(node) or "")):
                    yield f"{path.relative_to(root).as_posix()}: the docstring of {getattr(node, 'name', 'the module')}", id_
    yield from ((f"{test.path}: {test.name}", id_) for test in proofs(root) for id_ in test.ids)


def problems(root: Path) -> dict[str, list[str]]:
    """What is wrong, in a sentence each, under the kind of mistake."""
    equations, tests = load(root), proofs(root)
    computed = {id_ for function in functions(root) for id_ in function.ids}
    proved = {id_ for test in tests for id_ in test.ids}
    written = (root / PAGE).read_text("utf-8") if (root / PAGE).exists() else ""
    return {
        "function": [f"{id_} ({equations[id_]['name']}) has no function." for id_ in equations if id_ not in computed],
        "test": [f"{id_} ({equations[id_]['name']}) has no test." for id_ in equations if id_ not in proved],
        "unmarked": [f"{test.path}: {test.name} names no equation." for test in tests if not test.ids],
        "unknown": [f"{where} names {id_}, which {TABLE} does not have." for where, id_ in mentions(root) if id_ not in equations],
        "stale": [] if written == page(root) else [f"{PAGE} is stale: `make equations` writes it anew."],
    }


def main(root: Path = ROOT) -> int:
    """Writes or checks the page; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="say what is missing, unknown or stale")
    if not parser.parse_args().check:
        (root / PAGE).write_text(page(root), "utf-8")
        return 0
    sentences = [sentence for found in problems(root).values() for sentence in found]
    print("\n".join(sentences) or "Every equation has a function and a test.")
    return int(bool(sentences))


if __name__ == "__main__":
    sys.exit(main())
