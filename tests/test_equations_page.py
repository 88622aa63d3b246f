"""Every equation has a function and a test, and the page that says so is up to date; and the checker would notice."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("equations_page", ROOT / "docs" / "equations.py")
equations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(equations)

TABLE = """
[PG-01]
section = "Returns"
name = "return"
equation = 'R'
source = "standard"

[PG-02]
section = "Gradients"
name = "gradient"
equation = 'g'
source = "000 L1"
"""
FLOORS = 'FLOORS = {0: ["types"], 1: ["returns"], 2: ["gradients"], 4: ["train"]}\n'
RETURNS = '''
def total(r):
    """R   (PG-01 'total')."""

def other():
    """Not PG-02: no parentheses."""

def _private():
    """(PG-02)"""
'''
GRADIENTS = '''
class Gradient:
    """g."""

    def estimate(self):
        """g   (PG-01, PG-02), and so on."""
'''
PROOFS = """
import pytest

equation = pytest.mark.equation

@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.equation("PG-01")
def test_total(n): ...

@equation("PG-02")
class TestGradient:
    @equation("PG-01")
    def test_both(self): ...

    def test_one(self): ...

    def helper(self): ...
"""


@pytest.fixture
def tree(tmp_path):
    """A small project without a fault."""
    files = {
        "docs/equations.toml": TABLE,
        "tests/test_house.py": FLOORS,
        "tfpg/returns.py": RETURNS,
        "tfpg/gradients.py": GRADIENTS,
        "tfpg/train.py": 'def train():\n    """(PG-01)"""\n',
        "tests/equations/test_all.py": PROOFS,
        "tests/equations/test_more.py": 'pytestmark = [pytest.mark.slow, pytest.mark.equation("PG-02")]\ndef test_more(): ...\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    write(tmp_path)
    return tmp_path


def write(root):
    (root / equations.PAGE).write_text(equations.page(root), "utf-8")


def edit(root, name, old, new):
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def faults(root):
    return {kind: found for kind, found in equations.problems(root).items() if found}


@pytest.mark.parametrize("kind", ["function", "test", "unmarked", "unknown", "stale"])
def test_the_project_has_no_fault_of_kind(kind):
    found = equations.problems(ROOT)[kind]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def test_every_equation_survives_markdown():
    """GitHub's tables end a cell at |, its inline mathematics at `; a bracket before a parenthesis would read as a link."""
    for id_, entry in equations.load(ROOT).items():
        assert re.fullmatch(r"PG-\d{2,3}", id_)
        assert entry.keys() == {"section", "name", "equation", "source"}, id_
        assert not re.search(r"[|`<>$*\n]|\]\(|\\\\|\\[{}]", entry["equation"]), id_
        assert not re.search(r"[|`<>$*\n]|\]\(", entry["name"] + entry["source"]), id_


def test_a_tree_without_a_fault(tree):
    assert faults(tree) == {}


def test_the_page(tree):
    rows = [line for line in (tree / equations.PAGE).read_text().splitlines() if line.startswith(("## ", "| PG"))]
    gradient = "[`gradients.Gradient.estimate`](../tfpg/gradients.py)"
    total = "[`returns.total`](../tfpg/returns.py)"
    every, more = "[test_all](../tests/equations/test_all.py): 2", "[test_more](../tests/equations/test_more.py): 1"
    assert rows == [
        "## Returns",
        f"| PG-01 | $`R`$ | return | {gradient}, {total} | {every} | standard |",
        "## Gradients",
        f"| PG-02 | $`g`$ | gradient | {gradient} | {every}, {more} | 000 L1 |",
    ]


def test_a_missing_function_is_found(tree):
    edit(tree, "tfpg/gradients.py", "(PG-01, PG-02)", "(PG-01)")
    write(tree)
    assert faults(tree) == {"function": ["PG-02 (gradient) has no function."]}


@pytest.mark.parametrize("module", ["train", "types"])
def test_a_function_on_an_outer_floor_does_not_count(tree, module):
    edit(tree, "tfpg/gradients.py", "(PG-01, PG-02)", "(PG-01)")
    (tree / f"tfpg/{module}.py").write_text('def f():\n    """(PG-02)"""\n')
    write(tree)
    assert faults(tree) == {"function": ["PG-02 (gradient) has no function."]}


def test_a_missing_test_is_found(tree):
    edit(tree, "tests/equations/test_all.py", "PG-01", "PG-02")
    write(tree)
    assert faults(tree) == {"test": ["PG-01 (return) has no test."]}


def test_an_unmarked_test_is_found(tree):
    edit(tree, "tests/equations/test_all.py", '@equation("PG-02")\n', "")
    write(tree)
    assert faults(tree) == {"unmarked": ["tests/equations/test_all.py: TestGradient.test_one names no equation."]}


def test_an_unknown_id_in_a_mark_is_found(tree):
    edit(tree, "tests/equations/test_more.py", '"PG-02"', '"PG-02", "PG-2"')
    write(tree)
    assert faults(tree) == {"unknown": ["tests/equations/test_more.py: test_more names PG-2, which docs/equations.toml does not have."]}


@pytest.mark.parametrize("module", ["returns", "train", "envs/pendulum"])
def test_an_unknown_id_in_a_docstring_is_found(tree, module):
    (tree / "tfpg/envs").mkdir()
    with (tree / f"tfpg/{module}.py").open("a") as file:
        file.write('def _f():\n    """As in PG-999."""\n')
    assert faults(tree) == {"unknown": [f"tfpg/{module}.py: the docstring of _f names PG-999, which docs/equations.toml does not have."]}


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("docs/equations.toml", "'R'", "'R_t'"),
        ("docs/equations.md", "standard", "000"),
        ("tfpg/returns.py", "total", "entire"),
        ("tests/equations/test_all.py", "def helper", "def test_two"),
    ],
)
def test_a_stale_page_is_found(tree, name, old, new):
    edit(tree, name, old, new)
    assert faults(tree) == {"stale": ["docs/equations.md is stale: `make equations` writes it anew."]}


def test_the_program_checks_and_writes(tree, monkeypatch, capsys):
    (tree / equations.PAGE).unlink()
    monkeypatch.setattr(sys, "argv", ["equations.py", "--check"])
    assert equations.main(tree) == 1
    assert capsys.readouterr().out == "docs/equations.md is stale: `make equations` writes it anew.\n"
    monkeypatch.setattr(sys, "argv", ["equations.py"])
    assert equations.main(tree) == 0
    monkeypatch.setattr(sys, "argv", ["equations.py", "--check"])
    assert equations.main(tree) == 0
    assert capsys.readouterr().out == "Every equation has a function and a test.\n"
