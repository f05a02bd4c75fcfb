"""Making a new database of what a damaged one still holds."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass

from layerstore.errors import StoreOpenError
from layerstore.files import tree
from layerstore.files.temporary import folder_in
from layerstore.keys import Record
from layerstore.paths import absolute, why_refused
from layerstore.records import storable_time, why_unfit
from layerstore.reports import Report
from layerstore.sql.sqlite import salvage
from layerstore.sql.sqlite.salvage import Value
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import SetAside
from layerstore.transfer.place import Progress
from layerstore.words import counted


@dataclass(frozen=True, slots=True)
class RecoverReport(Report):
    """What was found in a damaged database.

    Attributes:
        path: the damaged database, which is not changed.
        new: the database that was made.
        recovered: number of entries that were found, and are in the new one.
        quarantined: number of invalid values, which are in quarantine in the new one.
        kept_in_quarantine: number of values that were in quarantine before, and are again.
        older: number of earlier values of the same keys, which are in quarantine.
        pages: number of pages of the database.
        unreadable_pages: number of pages that could not be read in full. What they held is not known.
    """

    path: str
    new: str
    recovered: int
    quarantined: int
    kept_in_quarantine: int
    older: int
    pages: int
    unreadable_pages: int

    @property
    def ok(self) -> bool:
        """Whether every page could be read and every value is where it was."""
        return not (self.unreadable_pages or self.quarantined or self.older)

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line; if `quiet`, only findings."""
        for count, what in (
            (self.unreadable_pages, f"of {self.pages} pages could not be read in full: import their sources again"),
            (self.quarantined, "invalid values were quarantined"),
            (self.older, "older values of the same keys were quarantined"),
        ):
            if count:
                yield f"{count} {what}"
        if not quiet:
            found, kept = counted(self.recovered, "entry", "entries"), counted(self.kept_in_quarantine, "value")
            yield f"recovered {self.path} to {self.new}: {found}, {kept} in quarantine"


def recover(
    path: str | os.PathLike[str], new: str | os.PathLike[str], *, progress: Progress | None = None
) -> RecoverReport:
    """Make a new database of the entries and the quarantine that can be read in a damaged one.

    Every page is read by itself, so that one that is damaged takes no other along; what its write-ahead log holds is
    read too. Derived rows, indexes and views are made anew. The damaged files are not changed; no process may write to
    them while this runs. Tables, views and indexes that users have added are not copied.

    The new file is complete or absent, and has mode 0600.

    Args:
        path: the damaged database.
        new: where the new one shall be; no file may be there.
        progress: called with the pages done and the pages there are.

    Raises:
        StoreOpenError: `path` cannot be read or has no page with a layerstore entry, or there is a file at `new`.
        StoreError: the new one cannot be written, or `path` is open in this process.
    """
    broken, target = absolute(path), absolute(new)
    if os.path.lexists(target):
        raise StoreOpenError("there is a file already: give a new name, or remove it first", target)
    salvage.refuse_open(broken, tree.databases)
    with ExitStack() as stack:
        try:
            tree.make_base(os.path.dirname(target))
            folder = stack.enter_context(folder_in(os.path.dirname(target), ".tmp-recover-"))
        except OSError as error:
            raise StoreOpenError(f"cannot be made: {why_refused(error)}", target) from error
        pages = stack.enter_context(closing(salvage.Pages(broken)))
        store = stack.enter_context(SQLMetadataStore(os.path.join(folder, "new.db"), durability="normal"))
        taking = _Taking(store)
        with store.transaction():
            for found in pages.salvage(progress):
                taking.take(found)
        if not (taking.recovered or taking.quarantined or taking.kept):
            raise StoreOpenError("no layerstore entry is in it: nothing was recovered, nothing was made", broken)
        store.backup(target)
        return RecoverReport(
            path=broken,
            new=target,
            recovered=taking.recovered,
            quarantined=taking.quarantined,
            kept_in_quarantine=taking.kept,
            older=taking.older,
            pages=pages.count,
            unreadable_pages=pages.unreadable,
        )


class _Taking:
    """Take rows into a store, told apart by their shape; a value that was found twice is kept once."""

    def __init__(self, store: SQLMetadataStore) -> None:
        self._store = store
        self.recovered = self.quarantined = self.kept = self.older = 0

    def take(self, found: salvage.Salvage) -> None:
        """Take what one page gave."""
        for row in found.keyed:
            self._row(row)
        for row in found.numbered:
            match row:
                # `lost_and_found`, in which `.recover` of `sqlite3` puts rows of which it does not know the table: root
                # page, page, number of columns, rowid, columns. Source: sqlite.org/recovery.html.
                case (int(), int(), int(count), None | int(), *columns) if 0 < count <= len(columns):
                    self._row(columns[:count])
                case _:
                    self._row(row)

    def _row(self, row: Sequence[Value]) -> None:
        match row:
            case (bytes(namespace), bytes(key), bytes(value), int(at)):
                self._entry(namespace, key, value, at)
            case (None, bytes(), bytes(), bytes(), bytes(), int()):
                self._set_aside(row[1:])

    def _entry(self, namespace: bytes, key: bytes, value: bytes, at: int) -> None:
        record = Record(_text(namespace), _text(key), value, storable_time(at))
        reason = why_unfit(*record[:3])
        if reason is not None:
            self.quarantined += 1
            self._store.quarantine(*record[:3], f"recovered from a damaged database: {reason}")
            return
        other = self._store._backend.get_record(*record[:2])
        if other is None:
            self.recovered += 1
            self._store._put(record)
            return
        newer, older = (record, other) if record.modified_at_ns > other.modified_at_ns else (other, record)
        if older.value != newer.value:
            self.older += 1
            self._store.quarantine(*older[:3], "recovered from a damaged database, which had a newer value too")
        if newer is record:
            self._store._put(record)

    def _set_aside(self, row: Sequence[Value]) -> None:
        namespace, key, value, reason, at = row
        assert isinstance(namespace, bytes)
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        assert isinstance(reason, bytes)
        place = SetAside(_text(namespace), _text(key), value, _text(reason))
        self.kept += self._store._backend.set_aside([place], at_ns=at if isinstance(at, int) else None)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
