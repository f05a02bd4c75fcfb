"""Figures of Docker's Go package `distribution/metadata`, taken where it could be built, beside those of a run here.

The file is JSON: `{"machine": "…", "date": "2026-11-26", "seconds": {"get": 6.8e-06, "add_3": 0.00072}}`, with the
names of rows. They are seconds of another day, and perhaps of another machine, which the table says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import ROWS


@dataclass(frozen=True, slots=True)
class GoFigures:
    """What a file holds: where and when the figures were taken, and the seconds of one operation by the row's name."""

    machine: str
    date: str
    seconds: Mapping[str, float]

    def __str__(self) -> str:
        return f"Docker's Go driver: taken on {self.date}, {self.machine}."


def read(path: Path) -> GoFigures:
    """Read figures from a file.

    Raises:
        ValueError: it is not such a file; the message says what is wrong.
    """
    document = json.loads(path.read_text())
    if not isinstance(document, dict) or set(document) != {"machine", "date", "seconds"}:
        raise ValueError('an object with "machine", "date" and "seconds" is needed')
    unknown = set(document["seconds"]) - {row.name for row in ROWS}
    if unknown:
        raise ValueError(f"no row is called {', '.join(sorted(unknown))}")
    seconds = {name: float(value) for name, value in document["seconds"].items()}
    if not all(value > 0 for value in seconds.values()):
        raise ValueError("seconds are more than 0")
    return GoFigures(str(document["machine"]), str(document["date"]), seconds)
