"""The table in Markdown, and everything in JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from benchmarks import contended
from benchmarks.godriver import GoFigures
from benchmarks.machine import Machine
from benchmarks.rounds import Times
from benchmarks.rows import GO, OURS, PEERS, ROWS, Result, Row
from benchmarks.scale import Scale

BEGIN, END = "<!-- python -m benchmarks -->", "<!-- end -->"


@dataclass(slots=True)
class Report:
    """What a run has measured so far.

    Attributes:
        results: by the row's name.
        rounds: the seconds of one operation in each round, by the row's name and by the side.
        go: figures of Docker's Go driver, if they are given.
        costs: the median seconds of one operation, by what it is and by the number of layers.
        contended: what many writers at once did, by their number.
    """

    machine: Machine
    scale: Scale
    results: dict[str, Result] = field(default_factory=dict)
    rounds: dict[str, Times] = field(default_factory=dict)
    costs: dict[str, dict[int, float]] = field(default_factory=dict)
    contended: list[contended.Contended] = field(default_factory=list)
    go: GoFigures | None = None

    def take(self, measured: Mapping[str, tuple[Result, Times]]) -> None:
        """Add what a part of the run has measured."""
        for name, (result, times) in measured.items():
            self.results[name] = result
            self.rounds[name] = times

    def too_high(self) -> list[str]:
        """Name the rows that are above what they may reach."""
        measured = [(row, self.results[row.name]) for row in ROWS if row.name in self.results]
        rows = [row.what for row, result in measured if row.at_most is not None and result.value > row.at_most]
        return rows + [what for one in self.contended for what in one.too_much()]

    def markdown(self) -> str:
        """Return the table, ready for docs/speed.md: the machine, a row each, the ratios of the peers beside ours."""
        peers = PEERS if self.go is None else (*PEERS, GO)
        head = ("what", OURS, "at most", *peers, "1 × is")
        rows = [_cells(row, self._beside_go(row.name), peers) for row in ROWS if row.name in self.results]
        lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
        lines.insert(1, "|" + "---|" * len(head))
        tables = ["\n".join(lines)] if rows else []
        if self.contended:
            tables.append(contended.markdown(self.contended))
        taken = [] if self.go is None else [str(self.go)]
        return "\n\n".join([f"{self.machine}; {self.scale}.", *taken, *tables])

    def _beside_go(self, name: str) -> Result:
        """Return a result with the ratio of Docker's Go driver to what the row is compared with, where it is given."""
        result = self.results[name]
        if self.go is None or name not in self.go.seconds or not result.base_s:
            return result
        return replace(result, peers={**result.peers, GO: self.go.seconds[name] / result.base_s})

    def write_json(self, path: Path) -> None:
        """Write everything to a file."""
        content = {
            "machine": asdict(self.machine),
            "scale": asdict(self.scale),
            "go": None if self.go is None else asdict(self.go),
            "rows": [
                {**asdict(row), **asdict(self.results[row.name]), "rounds_s": _rounds(self.rounds.get(row.name))}
                for row in ROWS
                if row.name in self.results
            ],
            "costs_s": self.costs,
            "contended": [asdict(one) for one in self.contended],
        }
        path.write_text(json.dumps(content, indent=1) + "\n")

    def write_into(self, path: Path) -> None:
        """Replace what stands between the two marks of a Markdown file.

        Raises: as `around_the_table`.
        """
        before, after = around_the_table(path)
        path.write_text(f"{before}{BEGIN}\n{self.markdown()}\n{END}{after}")


def around_the_table(path: Path) -> tuple[str, str]:
    """Return what stands before and behind the two marks of a Markdown file.

    Raises:
        ValueError: the file does not have both.
    """
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{path} has no line {BEGIN} with a line {END} behind it")
    return before, after


def _rounds(times: Times | None) -> Mapping[str, object]:
    return {} if times is None else dict(times.seconds)


def _cells(row: Row, result: Result, names: Sequence[str]) -> tuple[str, ...]:
    at_most = "" if row.at_most is None else f"{row.at_most:g}"
    if not row.base:
        return (row.what, f"{result.value:.0f} MB", f"{at_most} MB", *("" for _ in names), "")
    peers = [_ratio(result.peers[name]) if name in result.peers else "" for name in names]
    return (row.what, _ratio(result.value), at_most, *peers, f"{row.base}: {_time(result.base_s)}")


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
