"""Taking a metadata directory into a store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from layerstore.errors import InvalidInputError
from layerstore.fs import Odd, count, scan
from layerstore.records import Record, why_unreadable
from layerstore.sql.load import Incoming, Resolve
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import Store
from layerstore.transfer.merging import Conflict, Merge, OnConflict, keep, replace
from layerstore.transfer.sources import Progress, distributions


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A file whose content cannot be what its namespace says: its bytes are in quarantine."""

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
        sources: the directories that were read, in their order.
        read: entries that were found.
        added: that the store did not have.
        updated: that the store had otherwise; merged, or replaced.
        unchanged: that the store had already, or kept.
        evicted: associations that fell off the end of a merged list of 50.
        conflicts: two values of one digest or V1 ID; the later one stays, the other is in quarantine.
        quarantined: files that cannot be what their namespace says.
        skipped: every other file that was not taken, but for temporary ones.
        temporary: files that a write left behind; not entries, not looked at.
    """

    sources: tuple[str, ...]
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
    path: str | os.PathLike[str],
    *,
    on_conflict: OnConflict = "merge",
    progress: Progress | None = None,
) -> ImportReport:
    """Take a `distribution` directory, or all of a data root's, into a store.

    The files' times come along. Temporary files are ignored, links are not followed. Everything is read first; then
    all of it is merged in one transaction, for which other writers wait. A second import of the same changes nothing.
    What cannot be what its namespace says goes to quarantine; every file that is not taken is in the report.

    Merging cannot see deletions: an association that a list has lost comes back from the store's version. Use
    `replace` to follow a directory; keys that it does not have stay either way.

    Args:
        store: a `SQLMetadataStore`.
        path: a `distribution` directory or a data root with `image/*/distribution`.
        on_conflict: `merge` by time; `replace` takes what comes in, with its time; `keep` leaves what is there.
        progress: called with the files done and the files there are.

    Raises:
        InvalidInputError: `store` or `on_conflict` is none of these.
        TransferError: there is no directory, or no metadata in it.
        StoreError: the store failed, or the directory cannot be read at all; nothing was taken.

    Source: Docker's layout of `<data-root>/image/<driver>/distribution`.
    """
    if not isinstance(store, SQLMetadataStore):
        raise InvalidInputError(f"importing needs a SQLMetadataStore, not {type(store).__name__}")
    sources = distributions(path)
    merge = Merge(lambda record, reason: store.quarantine(*record[:3], reason))
    resolvers: dict[str, Resolve] = {"merge": merge, "replace": replace, "keep": keep}
    if on_conflict not in resolvers:
        raise InvalidInputError(f"on_conflict is one of {', '.join(resolvers)}, not {on_conflict!r}")
    reading = _Reading(sources, progress)
    loaded = store.load(reading, resolvers[on_conflict])
    return ImportReport(
        sources=tuple(sources),
        read=reading.read,
        added=loaded.added,
        updated=loaded.updated,
        unchanged=reading.read - loaded.added - loaded.updated - len(reading.quarantined),
        evicted=merge.evicted,
        conflicts=tuple(merge.conflicts),
        quarantined=tuple(reading.quarantined),
        skipped=tuple(reading.skipped),
        temporary=reading.temporary,
    )


class _Reading:
    """Read the sources one after the other, and keep account of what is not taken."""

    def __init__(self, sources: list[str], progress: Progress | None) -> None:
        self._sources = sources
        self._progress = progress
        self.read = 0
        self.temporary = 0
        self.quarantined: list[Quarantined] = []
        self.skipped: list[Skipped] = []

    def __iter__(self) -> Iterator[Incoming]:
        total = None if self._progress is None else sum(map(count, self._sources))
        for number, base in enumerate(self._sources):
            for found in scan(base):
                if isinstance(found, Record):
                    self.read += 1
                    yield self._incoming(number, base, found)
                    if self._progress is not None:
                        self._progress(self.read, total)
                else:
                    self._leave_out(base, found)

    def _incoming(self, number: int, base: str, record: Record) -> Incoming:
        reason = why_unreadable(*record[:3])
        if reason is not None:
            self.quarantined.append(Quarantined(os.path.join(base, record.namespace, record.key), reason))
        return Incoming(number, record, reason)

    def _leave_out(self, base: str, odd: Odd) -> None:
        if odd.kind == "temporary":
            self.temporary += 1
        else:
            self.skipped.append(Skipped(os.path.join(base, odd.path), odd.reason))
