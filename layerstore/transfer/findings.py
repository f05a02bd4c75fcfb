"""What a check can find: the kinds of findings with their severity and remedy, and the report of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from layerstore.collection import Fault, Odd
from layerstore.records import MAX_METADATA
from layerstore.reports import Report
from layerstore.transfer import summaries
from layerstore.transfer.spool import Spool

Severity = Literal["error", "warning", "info"]

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class _Kind:
    severity: Severity
    message: str
    remedy: str


UNFIT = ("unreadable", "invalid-key")
"""Kinds of entries that cannot stay where they are."""
FAULTS = ("stale-rows", "odd-time", "odd-quarantine")
"""Kinds of faults that a collection mends itself."""

_REPAIR = "`verify --repair`"
_KINDS = {
    "damaged-file": _Kind(
        "error", "SQLite finds the file damaged", "copy it and its -wal away, then `layerstore recover FILE NEW`"
    ),
    "not-repaired": _Kind(
        "warning",
        "nothing was repaired, as writing to a damaged file may lose more of it",
        "recover the file first, then repair the new one",
    ),
    "foreign-schema": _Kind(
        "error",
        "the schema is not layerstore's, so every write is refused",
        "undo that with `sqlite3`, or import the entries into a new database: `layerstore --db NEW import FILE`",
    ),
    "unreadable-file": _Kind(
        "error", "a file or directory cannot be read", "check its permissions, its size and the disk"
    ),
    "unreadable": _Kind(
        "error",
        "an entry is invalid for its namespace",
        f"{_REPAIR} moves it to quarantine; an invalid mapping can crash a Docker daemon",
    ),
    "invalid-key": _Kind(
        "error",
        "an entry has a key that breaks the key rules; no export writes it",
        f"{_REPAIR} moves it to quarantine",
    ),
    "stale-rows": _Kind(
        "error", "derived rows are not what the layer's list or the blob's entry says", f"{_REPAIR} rebuilds them"
    ),
    "odd-digest": _Kind(
        "warning", "a list holds an entry whose digest is none", "nothing looks it up; later entries will evict it"
    ),
    "over-the-cap": _Kind(
        "warning", f"a list holds more than {MAX_METADATA} entries", "the next `add` to the layer cuts it"
    ),
    "contradiction": _Kind(
        "warning",
        "sources disagree about a blob: which layer it is, or how it is compressed; no export uses it",
        "compare with `layerstore show DIGEST`; `layerstore delete` the entry, then import from a source you trust",
    ),
    "unmapped": _Kind(
        "warning",
        "a list holds a digest that maps to no layer: half an `add`; a pull downloads it again",
        f"{_REPAIR} maps it to its layer",
    ),
    "no-entry": _Kind(
        "warning", "a file that is no entry: a link, a device, or a name that no key can have", "remove or rename it"
    ),
    "other-layer": _Kind("info", "a list holds a digest that maps to another layer now", "none is needed"),
    "not-listed": _Kind(
        "info", "a digest maps to a layer whose list does not hold it: evicted, or removed", "none is needed"
    ),
    "not-canonical": _Kind(
        "info",
        "a list holds a repository name that is not canonical: no push mounts from it",
        "record layers under the name that `canonical_repository` returns",
    ),
    "duplicates": _Kind("info", "a list holds an entry twice, as Docker 1.12 writes them", "none is needed"),
    "temporary": _Kind("info", "a file that a write left behind", "`prune --temporary` removes it when no daemon runs"),
    "odd-time": _Kind(
        "warning",
        "an entry has a time that is no whole number; it counts as the number that it begins with, or 0",
        f"{_REPAIR} writes that number",
    ),
    "odd-quarantine": _Kind(
        "warning",
        "a value in quarantine has a name, reason or time that another program wrote in another type",
        f"{_REPAIR} writes them as `layerstore quarantine list` shows them",
    ),
    "quarantined": _Kind(
        "info", "bytes that were set aside are in quarantine", "`layerstore quarantine list` shows them"
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        kind: its name, such as `unmapped`.
        severity: `error`, `warning`, or `info` for what Docker does by itself.
        message: what it is.
        remedy: what to do about it.
        count: how often it was found.
        repaired: number of them that `repair` has repaired.
        examples: the first few, as namespace/key with what is wrong.
    """

    kind: str
    severity: Severity
    message: str
    remedy: str
    count: int
    repaired: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport(Report):
    """What a check found.

    Attributes:
        path: what was checked.
        checked: how many entries were.
        findings: errors first, then warnings, then infos.
        quarantine: the directory that a repair moved files to; `None` if it moved none, or to a database's table.
    """

    path: str
    checked: int
    findings: tuple[Finding, ...]
    quarantine: str | None = None

    @property
    def ok(self) -> bool:
        """Whether no error and no warning is left unmended."""
        return all(found.severity == "info" or found.repaired == found.count for found in self.findings)

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line; if `quiet`, only findings."""
        return summaries.of_verify(self, quiet=quiet)


class Findings:
    """What was found so far: a few examples, how many there are; and to mend them, the place of each.

    Args:
        to_mend: whether places are kept.
    """

    def __init__(self, *, to_mend: bool) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._repaired: dict[str, int] = {}
        self._to_mend = to_mend
        self.places = {kind: Spool() for kind in (*UNFIT, "unmapped", *FAULTS)}

    def __enter__(self) -> Findings:
        return self

    def __exit__(self, *_: object) -> None:
        for spool in self.places.values():
            spool.close()

    def add_place(self, kind: str, example: str, *place: str | bytes) -> None:
        """Add what can be mended."""
        self.add(kind, example)
        if self._to_mend:
            self.places[kind].add(*place)

    def has(self, kind: str) -> bool:
        """Tell whether there is a finding of this kind."""
        return kind in self._counts

    def add(self, kind: str, example: str | None, count: int = 1) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + count
        examples = self._examples.setdefault(kind, [])
        if example is not None and len(examples) < _EXAMPLES:
            examples.append(example)

    def add_fault(self, fault: Fault) -> None:
        self.add(fault.kind, fault.example, fault.number)
        if fault.place is not None and self._to_mend:
            self.places[fault.kind].add(*fault.place)

    def add_odd(self, odd: Odd) -> None:
        if odd.place is not None:
            self.add_place("invalid-key", f"{odd.path}: {odd.reason}", *odd.place)
        elif odd.kind != "vanished":
            kind = {"temporary": "temporary", "unreadable": "unreadable-file"}.get(odd.kind, "no-entry")
            self.add(kind, f"{odd.path}: {odd.reason}")

    def mend(self, kind: str) -> None:
        self._repaired[kind] = self._repaired.get(kind, 0) + 1

    def report(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(
                kind,
                of.severity,
                of.message,
                of.remedy,
                self._counts[kind],
                self._repaired.get(kind, 0),
                tuple(self._examples[kind]),
            )
            for kind, of in _KINDS.items()
            if kind in self._counts
        )
