"""How many inputs are tried, and what lies around the place of a trial."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck


@pytest.fixture
def inputs(request: pytest.FixtureRequest) -> int:
    """How many inputs a test shall try, by `--inputs`."""
    number: int = request.config.getoption("--inputs")
    return number


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give the tests with Hypothesis below this folder as many examples as `--inputs` says, and the time for them."""
    number = config.getoption("--inputs")
    tests = {
        item.function
        for item in items
        if isinstance(item, pytest.Function) and item.path.is_relative_to(Path(__file__).parent)
    }
    as_many = hypothesis.settings(max_examples=number, deadline=None, suppress_health_check=list(HealthCheck))
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(120 + 4 * number))
    for test in tests:
        if hypothesis.is_hypothesis_test(test):
            as_many(test)


def everything(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return all that is below a folder: kind, mode, size, what it holds or leads to."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        if path.is_symlink():
            found[str(path)] = (status.st_mode, os.readlink(path))
        else:
            found[str(path)] = (status.st_mode, path.read_bytes() if path.is_file() else None)
    return found
