"""What the documents show is what happens."""

import doctest
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfpg import metrics

ROOT = Path(__file__).parent.parent


def test_the_worked_path_of_a_reward():
    failed, tried = doctest.testfile(str(ROOT / "docs" / "architecture.md"), module_relative=False, encoding="utf-8")
    assert (failed, tried > 20) == (0, True)


def test_the_readme_s_equation():
    block = next(block for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "reward_to_go" in block)
    *statements, last = block.strip().splitlines()
    expression, shown = last.split("#")
    scope = {}
    exec("\n".join(statements), scope)
    np.testing.assert_allclose(eval(expression, scope), eval(shown), rtol=1e-6)


def test_the_readme_s_exact_process():
    block = next(block for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if "TabularMDP" in block)
    *statements, exact, last = block.strip().splitlines()
    scope = {}
    exec("\n".join(statements), scope)
    assert [np.shape(x) for x in eval(exact, scope)] == [(), (3, 2), (3, 3, 2), (6, 6), (3, 2)]
    assert (np.asarray(eval(last, scope)) > 0).all()


def test_every_metric_is_documented():
    page = (ROOT / "docs" / "run-directory.md").read_text()
    table = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.M))
    for name, meaning in metrics.COLUMNS.items():
        assert table[name] == meaning.replace("|", "&#124;")


@pytest.mark.parametrize("page", ["README.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#:]+)\)", prose):
        assert ((ROOT / page).parent / target).exists(), target


def test_the_readme_s_table_is_the_table():
    subprocess.run([sys.executable, str(ROOT / "docs" / "table.py"), "--check"], check=True)
