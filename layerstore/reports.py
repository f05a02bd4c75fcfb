"""What reports and answers share: the first of many findings, lines for people, JSON for programs.

Times in JSON stand as ISO 8601 text beside the nanoseconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import Any, Generic, TypeVar

from layerstore.words import time_text

_NS = "_ns"
_MAX_EXAMPLES = 1000
_NAMED = 10
"""How many skipped files of one reason are named one by one."""
Found = TypeVar("Found")


class Report:
    """What a piece of work found or did: a frozen dataclass with `ok`. `str()` of it is what the command prints."""

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error, warning or conflict."""
        raise NotImplementedError

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line.

        Args:
            quiet: only findings.
            store: what the lines shall call the store that was worked on; without a name it is left out.
        """
        raise NotImplementedError

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def to_json(self) -> str:
        """Return the fields and `ok` as one JSON document, as `--json` prints it."""
        return json.dumps(document(self), ensure_ascii=False, default=str)


@dataclasses.dataclass(slots=True)
class Examples(Generic[Found]):
    """The first of what may be a million, and how many there were."""

    first: list[Found] = dataclasses.field(default_factory=list)
    count: int = 0

    def add(self, found: Found) -> None:
        """Count one, and keep it if it is one of the first 1,000."""
        self.count += 1
        if self.count <= _MAX_EXAMPLES:
            self.first.append(found)


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not imported: it is no entry, or could not be read."""

    path: str
    reason: str


def of_skipped(count: int, named: Sequence[Skipped]) -> Iterator[str]:
    """Yield what was not imported: the first files of each reason, and how many more."""
    reasons = Counter(one.reason for one in named)
    told: Counter[str] = Counter()
    for one in named:
        told[one.reason] += 1
        if told[one.reason] <= _NAMED:
            yield f"skipped: {one.path}: {one.reason}"
            if told[one.reason] == _NAMED and reasons[one.reason] > _NAMED:
                yield f"skipped: {reasons[one.reason] - _NAMED:,} more: {one.reason}"
    yield from of_rest(count, named, "skipped")


def of_rest(count: int, named: Sized, what: str) -> Iterator[str]:
    """Yield how many there are that were not named one by one, if any."""
    if count > len(named):
        yield f"and {count - len(named):,} more {what}"


def document(report: Report) -> dict[str, Any]:
    """Return a report's fields for JSON, with what follows from them: `ok`, and of an export `written`."""
    derived = [name for name, value in vars(type(report)).items() if isinstance(value, property)]
    found = with_iso_times(dataclasses.asdict(report))  # type: ignore[call-overload]  # each report is one
    return {**found, **{name: getattr(report, name) for name in derived}}


def with_iso_times(value: Any) -> Any:
    """Return a document with each time also as text: `modified_at` beside `modified_at_ns`."""
    if isinstance(value, Mapping):
        found: dict[Any, Any] = {}
        for name, inner in value.items():
            found[name] = with_iso_times(inner)
            if isinstance(name, str) and name.endswith(_NS) and isinstance(inner, int | None):
                found.setdefault(name.removesuffix(_NS), None if inner is None else time_text(inner))
        return found
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [with_iso_times(inner) for inner in value]
    return value
