"""Each error of the notes, shown in numbers: the lines of docs/errata.md give what they say."""

import doctest
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "errata.md"
pytestmark = pytest.mark.equation(
    "PG-02",
    "PG-03",
    "PG-05",
    "PG-09",
    "PG-100",
    "PG-102",
    "PG-103",
    "PG-104",
    "PG-106",
    "PG-107",
    "PG-112",
    "PG-123",
    "PG-131",
    "PG-15",
    "PG-16",
    "PG-19",
    "PG-21",
    "PG-24",
    "PG-25",
    "PG-26",
    "PG-27",
    "PG-28",
    "PG-29",
    "PG-30",
    "PG-31",
    "PG-33",
    "PG-34",
    "PG-35",
    "PG-36",
    "PG-38",
    "PG-41",
    "PG-42",
    "PG-43",
    "PG-44",
    "PG-45",
    "PG-46",
    "PG-47",
    "PG-48",
    "PG-51",
    "PG-56",
    "PG-57",
    "PG-60",
    "PG-61",
    "PG-64",
    "PG-70",
    "PG-75",
    "PG-76",
    "PG-77",
    "PG-78",
    "PG-79",
    "PG-81",
    "PG-82",
    "PG-92",
    "PG-93",
)


def test_the_numbers_are_as_written():
    failed, tried = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert (failed, tried > 100) == (0, True)


def test_every_error_has_its_numbers_or_stands_in_the_table_of_words():
    shown, told = PAGE.read_text(encoding="utf-8").split("## Wording")
    entries = re.split(r"^\*\*(?=ERR-)", shown, flags=re.M)[1:]
    numbers = {entry[:6] for entry in entries if "\n    >>> " in entry}
    words = set(re.findall(r"^\| (ERR-\d\d) \|", told, re.M))
    assert len(numbers) + len(words) == len(entries) + len(words) == 50
    assert numbers | words == {f"ERR-{n:02}" for n in range(1, 51)}
