"""How often the suite tries to break a promise: kills, power cuts, faults, hostile inputs, accesses; as a table.

A test says `counted("kills")` for each attempt, before it looks at what came of it. The table at the end of a run adds
them up over all processes; `--promise` runs those tests alone. Registered as a plugin by `tests/conftest.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

Counted = Callable[..., None]
"""`counted(what: str, number: int = 1) -> None`, where `what` is one of `KINDS`."""

KINDS = {
    "kills": "writers killed by SIGKILL",
    "cuts": "states that a power cut leaves",
    "faults": "faults of files and disks",
    "inputs": "hostile or broken inputs",
    "access": "refused accesses",
    "tasks": "tasks, threads and generators that cross a transaction",
    "names": "accesses to a file of two names",
    "forks": "forks beside threads that open, write and close",
    "headers": "hostile files, headers and requests",
}

HOW_MUCH = {
    "kills": (300, "how many writers the crash tests kill, about"),
    "cuts": (1500, "how many states after a power cut are checked, about"),
    "inputs": (25, "how many broken inputs each test of them tries, about"),
    "forks": (2000, "how many forks there are beside threads that use stores, about"),
    "load-seconds": (4, "how long the load test lasts"),
}
"""Options: with a smaller number than the default nothing is promised."""

_PROPERTY = "counted "
_NOTE = "noted"


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Iterator[Counted]:
    """Count attempts to break a promise; the mark `promises(kills=50)` makes fewer than that in a test a failure."""
    counts: Counter[str] = Counter()

    def count(what: str, number: int = 1) -> None:
        assert what in KINDS, f"{what!r} is not counted: {', '.join(KINDS)}"
        counts[what] += number

    yield count
    request.node.user_properties.extend((_PROPERTY + what, number) for what, number in counts.items())
    mark = request.node.get_closest_marker("promises")
    called = getattr(request.node, "outcome_of_call", None)
    fewer = any(request.config.getoption(f"--{option}") < number for option, (number, _) in HOW_MUCH.items())
    if mark is not None and called == "passed" and not fewer:
        short = {what: number for what, number in mark.kwargs.items() if counts[what] < number}
        assert not short, f"tried {dict(counts)}, which is fewer than promised: {short}"


@pytest.fixture
def noted(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line below the table: something measured that no test asserts."""
    return lambda line: request.node.user_properties.append((_NOTE, line))


class Table:
    """Adds up what the tests of all processes have counted; used where the summary is printed."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self._notes: list[str] = []
        self._failed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failed.add(report.nodeid)
        if report.when == "teardown":
            for name, number in report.user_properties:
                if name.startswith(_PROPERTY):
                    what = name.removeprefix(_PROPERTY)
                    self.tried[what] += int(str(number))
                    self.lost[what] += report.nodeid in self._failed
                elif name == _NOTE:
                    self._notes.append(str(number))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.tried or self._notes:
            terminalreporter.section("nothing lost, no one let in")
        if self.tried:
            terminalreporter.write_line(f"{'':8}{'tried':>8}{'lost':>6}")
        for what, meaning in KINDS.items():
            if what in self.tried:
                terminalreporter.write_line(f"{what:8}{self.tried[what]:>8}{self.lost[what]:>6}  {meaning}")
        for note in self._notes:
            terminalreporter.write_line(note)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--promise", action="store_true", help="run only the tests that try to break a promise")
    for option, (number, meaning) in HOW_MUCH.items():
        parser.addoption(f"--{option}", type=int, default=number, help=f"{meaning} (default {number})")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "promises(kills=…, …): how often this case tries at least to break a promise")
    config.pluginmanager.register(Table(), "table-of-the-promise")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--promise"):
        kept = [item for item in items if {"counted", "noted"} & {*getattr(item, "fixturenames", ())}]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report: pytest.TestReport = yield  # type: ignore[assignment]  # what pytest sends is the report
    if report.when == "call":
        item.outcome_of_call = report.outcome  # type: ignore[attr-defined]  # for the fixture above
    return report  # type: ignore[return-value]  # and what it takes back, too
