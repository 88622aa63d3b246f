"""Writes the table of algorithms in README.md anew from `tfpg.algorithms`:  python docs/table.py [--check]"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tfpg.algorithms import ALGORITHMS, DEFAULTS, Algorithm, needs_critic, whole_episodes  # noqa: E402

BEGIN, END = "<!-- table: made by `make table` -->", "<!-- end of table -->"


def flag(name: str, value: object) -> str:
    """A flag as it is written on the command line."""
    return f"`--{name}`" if value is True else f"`--{name}={value}`"


def cells(name: str, row: Algorithm) -> list[str]:
    """One row of the table: a word that nothing reads is left out."""
    words = [row.psi, row.baseline, row.critic if needs_critic(row) else "–", row.surrogate, row.improve]
    if row.surrogate == "pathwise":
        words[:2] = "–", "–"
    batch = "whole episodes" if whole_episodes(row) else "steps"
    return [f"`{name}`", *words, batch, " ".join(flag(*item) for item in DEFAULTS.get(name, {}).items())]


def table() -> str:
    """The table as Markdown, between its marks."""
    head = ["`--algo`", "psi", "baseline", "critic", "surrogate", "improve", "a batch is", "also sets"]
    rows = [head, ["---"] * len(head), *(cells(*item) for item in ALGORITHMS.items())]
    return "\n".join([BEGIN, *("| " + " | ".join(row) + " |" for row in rows), END])


def main() -> int:
    path = ROOT / "README.md"
    before, rest = path.read_text().split(BEGIN)
    after = rest.split(END)[1]
    written = before + table() + after
    if "--check" in sys.argv[1:]:
        return int(written != path.read_text())
    path.write_text(written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
