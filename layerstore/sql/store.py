"""`SQLMetadataStore`: the `Store` on one SQLite file, with transactions.

Connections are `layerstore.sql.connections`', opening is `layerstore.sql.opening`'s, derived rows are
`layerstore.sql.derived`'s; this module is what a caller sees of them.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NoReturn, Self

from sqlalchemy import Engine

from layerstore.digest import is_digest
from layerstore.errors import (
    InvalidInputError,
    InvalidKeyError,
    LayerstoreError,
    NotFoundError,
    StoreClosedError,
    StoreError,
)
from layerstore.records import V2_METADATA, Record, digest_key, key_digest
from layerstore.sql import derived, opening, statements
from layerstore.sql.connections import Connections, Durability
from layerstore.sql.errors import mapped, mapping
from layerstore.sql.handles import Handle, MemoryHandle
from layerstore.sql.snapshot import Snapshot, fetch_many
from layerstore.sql.transactions import Transaction
from layerstore.store import check_key, why_not_a_namespace


class SQLMetadataStore:
    """Keep entries in one SQLite file that threads and processes share.

    Each thread has a connection of its own. A fork lets go of idle connections, and the child makes new ones; where one
    was in use (a transaction, an iteration, a connection of the engine), the file cannot be used in the child, which
    says so: SQLite would lose what it writes. Readers see the last commit and wait for
    nobody; writers take turns. Opening a file that is not there makes it (0600, its directory 0700); opening an older
    one upgrades its schema; both are safe against others that open it at the same moment.

    Args:
        path_or_url: a path, a URL `sqlite:///path`, or `":memory:"`: then one connection, which the threads take in
            turns, and nothing is kept.
        durability: `"full"` syncs each commit, so that a power cut loses nothing that was acknowledged; `"normal"`
            syncs at checkpoints only: a power cut may cost the last commits, whole ones from the end, and never the
            file's consistency. A crash of the process alone costs nothing either way.
        read_only: open only to read, and never change the file; it must be there and at this version's schema.
        timeout_s: seconds that a writer waits for the others before `StoreBusyError`.

    Raises:
        StoreOpenError: the file is missing and cannot be made, is no file of ours, or is a URL of another database.
        SchemaVersionError: the file is of a newer version, or of an older one and `read_only`.
        StoreCorruptError, StoreBusyError, StoreError: SQLite failed.

    Source: Docker's `metadata.Store`; sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous.
    """

    def __init__(
        self,
        path_or_url: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        read_only: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        if durability not in ("full", "normal"):
            raise InvalidInputError(f"durability is 'full' or 'normal', not {durability!r}")
        self.path = opening.resolve(path_or_url)
        with mapping(self.path):
            self._connections = Connections(self.path, durability=durability, read_only=read_only, timeout_s=timeout_s)
        try:
            opening.make_ready(self._connections, timeout_s)
        except BaseException:
            self._connections.close()
            raise

    def get(self, namespace: str, key: str) -> bytes:
        """Return the value. One statement; it waits for nobody.

        Raises:
            NotFoundError: there is none.
            InvalidKeyError: there is none, and the namespace or key breaks the key rules.
            StoreError: the store failed or was closed.

        Source: Docker's `Get`.
        """
        try:
            row = self._connections.local.handle.first(statements.GET, (namespace, key))
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            self._fail(error, namespace, key)
        if row is None:
            check_key(namespace, key)
            raise NotFoundError(namespace, key)
        value: bytes = row[0]
        return value

    def set(self, namespace: str, key: str, value: bytes) -> None:
        """Store the value and what is derived from it, in place of what was there. One transaction; writers wait.

        Raises:
            InvalidKeyError: the namespace or key breaks the key rules.
            InvalidInputError: `value` is not bytes, or larger than SQLite's limit (1 GB unless built otherwise).
            StoreBusyError: another writer did not end in time. StoreFullError, StoreReadOnlyError, StoreError: the
                store failed. Nothing was written.

        Source: Docker's `Set`.
        """
        self._set(namespace, key, value)

    def delete(self, namespace: str, key: str) -> None:
        """Remove the value and what was derived from it. One transaction; writers wait.

        Raises:
            NotFoundError: there is none.
            InvalidKeyError: there is none, and the namespace or key breaks the key rules.
            StoreError: as for `set`.

        Source: Docker's `Delete`.
        """
        try:
            with self.transaction():
                handle = self._connections.local.handle
                gone = handle.execute(statements.DELETE, (namespace, key)).rowcount
                diff_id = key_digest(key) if gone and namespace == V2_METADATA else None
                if diff_id is not None:
                    self._derive(handle, lambda: handle.execute(statements.REMOVE_ASSOCIATIONS, (diff_id,)))
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            self._fail(error, namespace, key)
        if not gone:
            check_key(namespace, key)
            raise NotFoundError(namespace, key)

    def entries(self, namespace: str | None = None) -> Iterator[tuple[str, str, bytes]]:
        """Yield all entries, or those of one namespace, by namespace and then by the UTF-8 bytes of the whole key.

        One snapshot, of the moment when the first is taken, on a connection of its own; writers do not wait for it.
        Inside `transaction()`, and in memory, it is read whole into memory at that moment.

        Raises:
            InvalidKeyError: `namespace` is not one. StoreError: the store failed or was closed meanwhile.
        """
        for found, key, value, _ in self.records(namespace):
            yield found, key, value

    def records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield `entries` with their times."""
        reason = None if namespace is None else why_not_a_namespace(namespace)
        if reason is not None:
            raise InvalidKeyError(f"namespace {namespace!r}: {reason}")
        with self.snapshot() as snapshot:
            if not self._is_held():
                for record in snapshot.records(namespace):
                    yield record
                    self._check_open()
                return
            # Read whole: a transaction must not stay open for as long as somebody keeps this iterator.
            records = list(snapshot.records(namespace))
        yield from records

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Open a view of the store at this moment, for work that reads more than one thing.

        On a connection of its own, so that writers need not wait and are not seen; inside `transaction()` and in
        memory, where there is none, a nested transaction.

        Raises:
            StoreError: the store failed or was closed meanwhile, in the body too.
        """
        try:
            if self._is_held():
                with self.transaction():
                    yield Snapshot(self._connections.local.handle)
            else:
                with closing(self._connections.new_handle(read_only=True)) as reader:
                    reader.begin()
                    yield Snapshot(reader)
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    def _check_open(self) -> None:
        if self._connections.closed:
            raise StoreClosedError("this store was closed; make a new SQLMetadataStore", self.path)

    def _is_held(self) -> bool:
        return self._connections.local.handle.depth > 0 or self.path is None

    def get_many(self, namespace: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there; the others are left out. One statement, any number of keys.

        Raises:
            InvalidKeyError: the namespace or a key breaks the key rules, and is not there.
            StoreError: the store failed or was closed.
        """
        wanted = list(dict.fromkeys(keys))
        try:
            found = fetch_many(self._connections.local.handle.execute, namespace, wanted)
        except (sqlite3.Error, UnicodeEncodeError, OverflowError, TypeError) as error:
            for key in wanted:
                check_key(namespace, key)
            self._fail(error, namespace, "")
        for key in wanted:
            if key not in found:
                check_key(namespace, key)
        return found

    def set_many(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        """`set` all entries in one transaction: all are there afterwards, or none.

        Raises: as `set`.
        """
        with self.transaction():
            for namespace, key, value in entries:
                self._set(namespace, key, value)

    def put(self, record: Record) -> None:
        """`set` an entry with the time that it has elsewhere.

        Raises: as `set`.
        """
        self._set(*record)

    def rederive(self, diff_id: str) -> None:
        """Make a layer's derived rows what its list says; without a list, or if it is no DiffID, remove them.

        Raises: as `set`.
        """
        with self.transaction():
            # What another program wrote need not even be text.
            key = digest_key(diff_id) if isinstance(diff_id, str) and is_digest(diff_id) else ""
            values = self.run(statements.GET, (V2_METADATA, key))
            if key and values:
                handle = self._connections.local.handle
                self._derive(handle, lambda: derived.update(handle, key, values[0][0]))
            else:
                self.run(statements.REMOVE_ASSOCIATIONS, (diff_id,))

    def transaction(self, *, deferred: bool = False) -> Transaction:
        """Return a context manager: what this thread writes in it happens whole, or not at all if an error leaves it.

        It begins with the lock of the writers (`BEGIN IMMEDIATE`), so that what is read in it is still true when it
        is written; other writers wait, readers do not. Reads in it see its writes. One inside another is a savepoint:
        an error that leaves it undoes its part alone. A write that broke off, as on a full disk, undoes its
        transaction also when the error was caught.

        Args:
            deferred: begin without the lock, for reading alone: one snapshot from the first read on.

        Raises:
            StoreBusyError: another writer did not end in time.
            StoreError: the store failed or was closed; or, at the end, what was written could not be kept.
        """
        return Transaction(self._connections, deferred=deferred)

    def quarantine(self, namespace: str, key: str, value: bytes, reason: str) -> None:
        """Keep bytes that are about to be replaced or were not taken. Exactly the same again is kept once.

        Raises: as `set`.
        """
        row = (namespace, key, value, reason)
        with self.transaction():
            if not self.run(statements.IS_QUARANTINED, row):
                self.run(statements.QUARANTINE, (*row, time.time_ns()))

    def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Run one of `layerstore.sql.statements` on this thread's connection; return its rows.

        Raises:
            InvalidInputError: a parameter that SQLite cannot take. StoreError: the store failed or was closed.
        """
        try:
            return self._connections.local.handle.execute(statement, parameters).fetchall()
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            self._fail(error)

    def copy_to(self, connection: sqlite3.Connection) -> None:
        """Copy the whole database, as it was last committed, to another one.

        In one step, as a copy in steps begins anew at every write; on a connection of its own, as SQLite waits for
        ever for a connection to end its own transaction.

        Raises:
            StoreError: it is in memory and inside `transaction()`, or was closed. What the other database raises
                comes as it is.
        """
        handle = self._connections.local.handle
        if isinstance(handle, MemoryHandle):
            if handle.depth:
                raise StoreError("a store in memory cannot be copied inside transaction()")
            handle.take_turn()
            try:
                handle.connection.backup(connection)
            finally:
                handle.end_turn()
            return
        with closing(self._connections.new_handle(read_only=True)) as reader:
            reader.connection.backup(connection)

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine on the same database, for queries of one's own.

        Its connections are its own: they see what was committed. What it writes to `metadata` is not derived from;
        use the store to write, or `verify(store, repair=True)` afterwards.

        Raises:
            StoreClosedError: the store was closed.
        """
        self._check_open()
        return self._connections.engine

    def close(self) -> None:
        """Close every connection, also those of other threads and of the engine. A second call does nothing."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SQLMetadataStore({self.path or ':memory:'!r})"

    def _set(self, namespace: str, key: str, value: bytes, modified_at_ns: int | None = None) -> None:
        check_key(namespace, key)
        if not isinstance(value, bytes | bytearray | memoryview):
            raise InvalidInputError(f"a value is bytes, not {type(value).__name__}")
        value = bytes(value)
        row = (namespace, key, value, time.time_ns() if modified_at_ns is None else modified_at_ns)
        handle = self._connections.local.handle
        try:
            if namespace != V2_METADATA:
                handle.check()
                handle.execute(statements.SET, row)
                handle.committed()
            elif handle.depth:
                handle.check()
                self._set_list(handle, row)
            else:
                with self.transaction():
                    self._set_list(handle, row)
        except (sqlite3.Error, OverflowError) as error:
            self._fail(error, namespace, key)

    def _set_list(self, handle: Handle, row: tuple[str, str, bytes, int]) -> None:
        handle.execute(statements.SET, row)
        self._derive(handle, lambda: derived.update(handle, row[1], row[2]))

    @staticmethod
    def _derive(handle: Handle, write: Any) -> None:
        """Run the second part of a write; if it breaks off, the first part must not stay."""
        try:
            write()
        except BaseException:
            handle.fail()
            raise

    def _fail(self, error: Exception, *place: str) -> NoReturn:
        """Raise the error of our tree for one of the driver's, or for a namespace and key that it could not take."""
        if place and not self._connections.closed and getattr(error, "sqlite_errorcode", None) is None:
            check_key(*place)
        if not isinstance(error, sqlite3.Error):
            raise InvalidInputError(str(error)) from error
        raise self._mapped(error) from error

    def _mapped(self, error: BaseException) -> LayerstoreError:
        return mapped(error, self.path, closed=self._connections.closed)
