"""Behind each promise of docs/promises.md stand tests that exist, and that try as often as it says."""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from tests.support.counting import KINDS

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "docs" / "promises.md").read_text()
ROWS = [row for row in SECTION.splitlines() if row.startswith("| ")][1:]
TEST = re.compile(r"`(?P<file>[\w/]+)\.py::(?P<name>\w+)`(?: \((?P<counts>[^)]*)\))?")


def cases(function: Callable[..., object]) -> Iterator[Counter[str]]:
    """Yield what each case of a test promises to try at least, by its marks."""
    marks: list[Any] = getattr(function, "pytestmark", [])
    own: Counter[str] = Counter()
    for mark in marks:
        if mark.name == "promises":
            own.update(mark.kwargs)
    values = [mark.args[1] for mark in marks if mark.name == "parametrize"]
    for chosen in product(*values):
        case = Counter(own)
        for value in chosen:
            for mark in getattr(value, "marks", ()):
                if mark.name == "promises":
                    case.update(mark.kwargs)
        yield case


def promised(function: Callable[..., object]) -> Counter[str]:
    total: Counter[str] = Counter()
    for case in cases(function):
        total.update(case)
    return total


def test_every_promise_names_tests_that_exist():
    assert len(ROWS) >= 6
    for row in ROWS:
        found = list(TEST.finditer(row))
        assert found, row
        for test in found:
            module = importlib.import_module(f"tests.{test['file'].replace('/', '.')}")
            assert callable(getattr(module, test["name"])), test[0]


def test_the_counts_of_the_page_are_at_most_what_the_suite_tries():
    """A case that tries less than its mark says fails by itself."""
    seen: Counter[str] = Counter()
    for test in TEST.finditer(SECTION):
        if test["counts"] is None:
            continue
        function = getattr(importlib.import_module(f"tests.{test['file'].replace('/', '.')}"), test["name"])
        for part in test["counts"].split(", "):
            number, what = part.split()
            assert what in KINDS
            assert int(number) <= promised(function)[what], (test["name"], part, promised(function))
            seen[what] += int(number)
    assert {"kills", "cuts"} <= {*seen}
    assert seen["kills"] >= 300
    assert seen["cuts"] >= 800
