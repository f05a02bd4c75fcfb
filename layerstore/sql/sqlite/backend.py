"""SQLite as what `SQLMetadataStore` is kept in: `layerstore.sql.backend.Backend` on one file."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Final

from layerstore.collection import NOT_UTF8
from layerstore.keys import BLOBS, V2_METADATA, Record, digest_key
from layerstore.sql.backend import Known, Quarantined
from layerstore.sql.schema import HEAD
from layerstore.sql.sqlite import opening, recognition, statements, writing
from layerstore.sql.sqlite.connections import Connections, Transaction
from layerstore.sql.sqlite.recognition import OBJECTS
from layerstore.store import SetAside

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from layerstore.collection import Doomed, Incoming, Loaded, Note, Place, Resolve
    from layerstore.digest import DiffID
    from layerstore.sql.sqlite.file import Durability
    from layerstore.sql.sqlite.handles import Parameters
    from layerstore.sql.sqlite.snapshot import Snapshot
    from layerstore.store import Address, Change, Compute

# In SQL, as Core has no CROSS JOIN: it keeps SQLite from walking all digests and looking for each in the array. The
# namespace is no parameter: a bound value that decides whether a partial index can serve makes SQLite prepare the
# statement anew at each run, which takes ten times as long as running it.
# Which layer a blob is, other engines know, or else Docker's mapping.
KNOWN_LAYERS: Final = f"""\
SELECT key, CAST(value AS BLOB), NULL
FROM metadata
WHERE namespace = '{V2_METADATA}' AND key IN (SELECT CAST(value AS TEXT) FROM json_each(?))
UNION ALL
SELECT mapping.diff_id, NULL, mapping.digest
FROM json_each(?) AS wanted
CROSS JOIN diff_id_by_digest AS mapping ON mapping.diff_id = CAST(wanted.value AS TEXT)
UNION ALL
SELECT b.diff_id, CAST(m.value AS BLOB), b.digest
FROM json_each(?) AS wanted
CROSS JOIN blobs AS b ON b.diff_id = CAST(wanted.value AS TEXT)
CROSS JOIN metadata AS m ON m.namespace = '{BLOBS}' AND m.key = CAST(replace(b.digest, ':', '/') AS TEXT)
WHERE NOT EXISTS (SELECT 1 FROM diff_id_by_digest WHERE digest = b.digest AND diff_id <> b.diff_id)
UNION ALL
SELECT mapping.diff_id, CAST(m.value AS BLOB), b.digest
FROM json_each(?) AS wanted
CROSS JOIN diff_id_by_digest AS mapping ON mapping.diff_id = CAST(wanted.value AS TEXT)
CROSS JOIN blobs AS b ON b.digest = mapping.digest AND +b.diff_id IS NULL
CROSS JOIN metadata AS m ON m.namespace = '{BLOBS}' AND m.key = CAST(replace(b.digest, ':', '/') AS TEXT)"""


class SQLite:
    """One SQLite file, with a connection for each thread.

    Args:
        path: the absolute path of the file; `None` for a private one that goes when this is closed.
        durability: `"full"` syncs each commit, `"normal"` at checkpoints only.
        read_only: open only to read.
        timeout_s: seconds that a writer waits for the others.
    """

    def __init__(self, path: str | None, *, durability: Durability, read_only: bool, timeout_s: float) -> None:
        self._connections = Connections(path, durability=durability, read_only=read_only, timeout_s=timeout_s)
        try:
            opening.make_ready(self._connections, timeout_s)
        except BaseException:
            self._connections.close()
            raise

    @property
    def closed(self) -> bool:
        return self._connections.closed

    @property
    def shown(self) -> str | None:
        return self._connections.shown

    @property
    def engine(self) -> Engine:
        return self._connections.engine

    def get(self, namespace: str, key: str) -> bytes | None:
        handle = self._connections.local.handle
        row = handle.first(statements.GET, (namespace, key))
        if row is not None and row[0] is None:
            raise handle.damaged()
        return None if row is None else row[0]

    def get_record(self, namespace: str, key: str) -> Record | None:
        row = self._connections.local.handle.first(statements.GET_RECORD, (namespace, key))
        return None if row is None else Record._make(row)

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        from layerstore.sql.sqlite.snapshot import fetch_many  # it reads JSON

        return fetch_many(self._connections.local.handle, namespace, keys)

    def known_layers(self, diff_ids: Iterable[DiffID]) -> Known:
        from layerstore.records import as_json

        wanted = list(dict.fromkeys(diff_ids))
        keys, layers = as_json([digest_key(diff_id) for diff_id in wanted]).decode(), as_json(wanted).decode()
        return Known.of(self._connections.local.handle.execute(KNOWN_LAYERS, (keys, layers, layers, layers)))

    def change(self, addresses: Sequence[Address], compute: Compute) -> Change:
        return writing.change(self._connections.local.handle, addresses, compute)

    def write(self, records: Iterable[tuple[str, str, bytes, int | None]]) -> None:
        handle = self._connections.local.handle
        with writing.together(handle):
            for record in records:
                writing.write(handle, record)

    def put(self, record: tuple[str, str, bytes, int | None]) -> None:
        writing.write(self._connections.local.handle, record)

    def delete(self, namespace: str, key: str) -> bool:
        handle = self._connections.local.handle
        with writing.together(handle):
            return writing.delete(handle, namespace, key)

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        handle = self._connections.local.handle
        with writing.together(handle):
            return [number for number, one in enumerate(doomed) if not writing.remove(handle, one)]

    def mend(self, kind: str, place: Place) -> bool:
        match kind, place:
            case "stale-rows", (str(namespace), digest):
                self._rederive(namespace, digest)
            case "odd-time", (bytes(raw_namespace), bytes(raw_key)):
                self._mend_time(raw_namespace, raw_key)
            case "odd-quarantine", (str(number),):
                self._rewrite_quarantined(int(number))
            case _, (bytes(raw_namespace), bytes(raw_key)):
                return self._set_aside_odd_name(raw_namespace, raw_key)
        return True

    def _rederive(self, namespace: str, digest: str | bytes) -> None:
        """Make a layer's or blob's derived rows what its entry says; without one, or for no digest, remove them."""
        handle = self._connections.local.handle
        with writing.together(handle):
            writing.rederive(handle, namespace, digest)

    def load(self, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
        from layerstore.sql.sqlite.load import load  # it reads JSON

        if self.is_held:
            return load(self._connections.local.handle, incoming, resolve)
        with closing(self._connections.new_handle()) as handle:
            return load(handle, incoming, resolve)

    def transaction(self, *, deferred: bool = False) -> Transaction:
        return Transaction(self._connections, deferred=deferred)

    @contextmanager
    def snapshot(self, note: Note | None = None) -> Iterator[Snapshot]:
        from layerstore.sql.sqlite.snapshot import Snapshot  # it reads JSON

        if self.is_held:
            handle = self._connections.local.handle
            was_strict = handle.decodes_strictly
            try:
                with writing.together(handle):
                    yield Snapshot(handle, note)
            finally:
                handle.decode(strictly=was_strict)
            return
        with closing(self._connections.new_handle(read_only=True)) as reader:
            reader.begin()
            yield Snapshot(reader, note)

    def set_aside(self, entries: Iterable[SetAside], *, at_ns: int | None = None) -> int:
        handle = self._connections.local.handle
        with writing.together(handle):
            return writing.set_aside(handle, entries, at_ns=at_ns)

    def quarantined(self, number: int | None = None) -> list[Quarantined]:
        handle = self._connections.local.handle
        rows = (
            handle.execute(statements.QUARANTINED)
            if number is None
            else handle.execute(statements.ONE_QUARANTINED, (number,))
        )
        return list(map(_quarantined, rows))

    def _rewrite_quarantined(self, number: int) -> None:
        """Write a value's names and time as `quarantined` shows them: another program wrote them in another type."""
        handle = self._connections.local.handle
        with writing.together(handle):
            for found in self.quarantined(number):
                row = (found.namespace, found.key, found.reason, found.quarantined_at_ns, number)
                handle.execute(statements.REWRITE_QUARANTINED, row)

    def _mend_time(self, namespace: bytes, key: bytes) -> None:
        """Make a time that another program wrote in another type a whole number."""
        self._connections.local.handle.write(statements.MEND_TIME, (namespace, namespace, key, key))

    def drop_quarantined(self, numbers: Iterable[int]) -> None:
        handle = self._connections.local.handle
        with writing.together(handle):
            for number in numbers:
                handle.execute(statements.DROP_QUARANTINED, (number,))

    def _set_aside_odd_name(self, namespace: bytes, key: bytes) -> bool:
        """Move an entry whose name is not UTF-8 to quarantine; tell whether it was there."""
        handle = self._connections.local.handle
        twice = (namespace, namespace, key, key)
        reason = f"{NOT_UTF8}: X'{namespace.hex()}', X'{key.hex()}'"
        shown = (namespace.decode("utf-8", "backslashreplace"), key.decode("utf-8", "backslashreplace"))
        with writing.together(handle):
            values = handle.execute(statements.GET_RAW, twice)
            writing.set_aside(handle, [SetAside(*shown, value, reason) for (value,) in values])
            handle.execute(statements.DELETE_RAW, twice)
        return bool(values)

    def refuse_foreign_schema(self) -> None:
        """Refuse what opening to write refuses, in a store that was opened to read."""
        recognition.refuse_foreign(self.run(OBJECTS), HEAD, self._connections.shown)

    def size(self) -> tuple[int, int]:
        path = self._connections.shown
        return _file_size(path, ""), _file_size(path, "-wal")

    def free_bytes(self, *, vacuum: bool) -> int:
        if vacuum:
            self._vacuum()
        handle = self._connections.local.handle
        return int(handle.first("PRAGMA freelist_count")[0] * handle.first("PRAGMA page_size")[0])

    def _vacuum(self) -> None:
        """Give the free space of the file back to the file system. Source: sqlite.org/lang_vacuum.html."""
        handle = self._connections.local.handle
        handle.execute("VACUUM")
        timeout_ms = handle.first("PRAGMA busy_timeout")[0]
        handle.execute("PRAGMA busy_timeout=0")  # while it waits for readers, writers would wait for it
        try:
            handle.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            handle.execute(f"PRAGMA busy_timeout={timeout_ms}")

    def data_version(self) -> int:
        """Return a number that is another one when somebody has written since this thread asked last.

        Source: sqlite.org/pragma.html#pragma_data_version.
        """
        return int(self._connections.local.handle.first("PRAGMA data_version")[0])

    def backup(self, path: str | os.PathLike[str]) -> int:
        from layerstore.sql.sqlite.backup import backup  # it needs what makes temporary files

        return backup(self.copy_to, path)

    def copy_to(self, connection: sqlite3.Connection) -> None:
        """Copy the whole database, as it was last committed, to another one.

        In one step, as a copy in steps begins anew at every write; on a connection of its own, as SQLite waits for
        ever for a connection to end its own transaction. What the driver raises of the other one comes as it is.
        """
        with closing(self._connections.new_handle(read_only=True)) as handle, handle.driver() as reader:
            reader.backup(connection)

    def run(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        """Run a statement on this thread's connection; return its rows."""
        return self._connections.local.handle.execute(statement, parameters)

    def stream(self, statement: str, parameters: Parameters = ()) -> Iterator[Any]:
        """Run a statement inside a transaction; yield its rows as they come."""
        return self._connections.local.handle.stream(statement, parameters)

    def close(self) -> None:
        self._connections.close()

    @property
    def is_held(self) -> bool:
        """Whether this thread is inside `transaction()`."""
        return self._connections.local.handle.depth > 0


def _file_size(path: str | None, suffix: str) -> int:
    try:
        return 0 if path is None else os.stat(os.path.realpath(path) + suffix).st_size
    except FileNotFoundError:
        return 0


def _quarantined(row: tuple[int, bytes | None, bytes | None, bytes | None, bytes | None, int | None]) -> Quarantined:
    number, namespace, key, value, reason, at_ns = row
    # What another program wrote need not be UTF-8, and in a damaged file each of them may be NULL.
    namespace_, key_, reason_ = ((text or b"").decode("utf-8", "backslashreplace") for text in (namespace, key, reason))
    return Quarantined(number, namespace_, key_, value or b"", reason_, at_ns or 0)
