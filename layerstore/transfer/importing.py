"""Taking metadata into a store: directories, data roots, archives, other stores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from layerstore.errors import InvalidInputError, LayerstoreError
from layerstore.fs import Odd
from layerstore.records import Record, storable_time, why_unreadable
from layerstore.sql.load import Incoming, Loaded, Resolve, load
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import Store, check_key
from layerstore.transfer import sources as reading
from layerstore.transfer.merging import Conflict, Merge, OnConflict, Replace, keep
from layerstore.transfer.sources import Place, Progress


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What came from one source. Counts are entries.

    Attributes:
        source: the directory, database, or place inside an archive.
        read: entries that were found.
        added: that the store did not have.
        updated: that the store had otherwise; merged, or replaced.
        unchanged: that the store had already, perhaps with an earlier time, or kept.
        quarantined: that cannot be what their namespace says.
    """

    source: str
    read: int
    added: int
    updated: int
    unchanged: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An entry whose content cannot be what its namespace says: its bytes are in quarantine."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not taken: it is no entry, or could not be read."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did. Counts are entries.

    Attributes:
        sources: what came from where, in the order in which it was merged.
        read: entries that were found.
        added: that the store did not have.
        updated: that the store had otherwise; merged, or replaced.
        unchanged: that the store had already, perhaps with an earlier time, or kept.
        evicted: associations that fell off the end of a merged list of 50.
        conflicts: two values of one digest or V1 ID; the later one stays, the other is in quarantine.
        quarantined: entries that cannot be what their namespace says.
        skipped: every other file that was not taken, but for temporary ones.
        temporary: files that a write left behind; not entries, not looked at.
    """

    sources: tuple[SourceReport, ...]
    read: int
    added: int
    updated: int
    unchanged: int
    evicted: int
    conflicts: tuple[Conflict, ...]
    quarantined: tuple[Quarantined, ...]
    skipped: tuple[Skipped, ...]
    temporary: int

    @property
    def ok(self) -> bool:
        """Whether everything was taken: no conflict, nothing quarantined, nothing skipped."""
        return not (self.conflicts or self.quarantined or self.skipped)


def import_directory(
    store: Store,
    path: Place,
    *,
    on_conflict: OnConflict = "merge",
    progress: Progress | None = None,
) -> ImportReport:
    """Take a `distribution` directory into a store; or a data root, a tar archive, another store.

    The files' times come along. Temporary files are ignored, links are not followed. Everything is read first; then
    all of it is merged in one transaction, for which other writers wait. A second import of the same changes nothing.
    What cannot be what its namespace says goes to quarantine; every file that is not taken is in the report.

    Merging cannot see deletions: an association that a list has lost comes back from the store's version. Use
    `replace` to follow a directory; keys that it does not have stay either way.

    Args:
        store: a `SQLMetadataStore`.
        path: a `distribution` directory; a data root with `image/*/distribution`, also of remapped users
            (`<uid>.<gid>/image/*/distribution`); a tar of any of them, `-` for one on standard input; a database
            file; or a store.
        on_conflict: `merge` by time; `replace` takes what comes in, with its time; `keep` leaves what is there.
        progress: called with the entries done and, where that can be told, the entries there are.

    Raises:
        InvalidInputError: `store` or `on_conflict` is none of these.
        TransferError: there is nothing to read, or no metadata in it.
        StoreError: the store failed, or the source cannot be read at all; nothing was taken.

    Source: Docker's layout of `<data-root>/image/<driver>/distribution`.
    """
    return import_all(store, [path], on_conflict=on_conflict, progress=progress)


def import_all(
    store: Store,
    places: Sequence[Place],
    *,
    on_conflict: OnConflict = "merge",
    progress: Progress | None = None,
) -> ImportReport:
    """Take several places into a store, one after the other, in one transaction. Otherwise as `import_directory`."""
    if not isinstance(store, SQLMetadataStore):
        raise InvalidInputError(f"importing needs a SQLMetadataStore, not {type(store).__name__}")

    def set_aside(record: Record, reason: str) -> None:
        store.quarantine(*record[:3], reason)

    merge = Merge(set_aside)
    resolvers: dict[str, Resolve] = {"merge": merge, "replace": Replace(set_aside), "keep": keep}
    if on_conflict not in resolvers:
        raise InvalidInputError(f"on_conflict is one of {', '.join(resolvers)}, not {on_conflict!r}")
    found = _Reading([source for place in places for source in reading.sources(place)], progress)
    by_source = found.reports(load(store, found, resolvers[on_conflict]))
    return ImportReport(
        sources=by_source,
        read=sum(report.read for report in by_source),
        added=sum(report.added for report in by_source),
        updated=sum(report.updated for report in by_source),
        unchanged=sum(report.unchanged for report in by_source),
        evicted=merge.evicted,
        conflicts=tuple(merge.conflicts),
        quarantined=tuple(found.quarantined),
        skipped=tuple(found.skipped),
        temporary=found.temporary,
    )


@dataclass(slots=True)
class _Account:
    number: int
    read: int = 0
    quarantined: int = 0


class _Reading:
    """Read the sources one after the other, and keep account of what is not taken."""

    def __init__(self, sources: list[reading.Source], progress: Progress | None) -> None:
        self._sources = sources
        self._progress = progress
        self._accounts: dict[str, _Account] = {}
        self.temporary = 0
        self.quarantined: list[Quarantined] = []
        self.skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[Incoming]:
        total = None if self._progress is None else self._total()
        done = 0
        for source in self._sources:
            before = len(self._accounts)
            for below, found in source.scan():
                if isinstance(found, Odd):
                    self._leave_out(source, found)
                    continue
                yield self._incoming(os.path.join(source.name, below).rstrip("/"), found)
                done += 1
                if self._progress is not None:
                    self._progress(done, total)
            if len(self._accounts) == before:
                self._account(source.name)  # it is empty

    def reports(self, loaded: dict[int, Loaded]) -> tuple[SourceReport, ...]:
        """Put what was read and what became of it side by side."""
        reports = []
        for label, of in self._accounts.items():
            added, updated = loaded.get(of.number, Loaded(0, 0))
            unchanged = of.read - added - updated - of.quarantined
            reports.append(SourceReport(label, of.read, added, updated, unchanged, of.quarantined))
        return tuple(reports)

    def _total(self) -> int | None:
        counts = [source.count() for source in self._sources]
        return None if None in counts else sum(count or 0 for count in counts)

    def _account(self, label: str) -> _Account:
        return self._accounts.setdefault(label, _Account(len(self._accounts)))

    def _incoming(self, label: str, record: Record) -> Incoming:
        account = self._account(label)
        account.read += 1
        reason = _why_unfit(record)
        if reason is not None:
            account.quarantined += 1
            self.quarantined.append(Quarantined(os.path.join(label, record.namespace, record.key), reason))
        record = record._replace(modified_at_ns=storable_time(record.modified_at_ns))
        return Incoming(account.number, record, reason)

    def _leave_out(self, source: reading.Source, odd: Odd) -> None:
        if odd.kind == "temporary":
            self.temporary += 1
        else:
            self.skipped.append(Skipped(f"{source.name}/{odd.path}", odd.reason))


def _why_unfit(record: Record) -> str | None:
    """Say why an entry cannot be taken; a database from elsewhere may hold keys that no directory can have."""
    try:
        check_key(record.namespace, record.key)
    except LayerstoreError as error:
        return str(error)
    return why_unreadable(*record[:3])
