"""`SQLMetadataStore`: the `Store` on one SQLite file, with transactions.

Transactions and statements are `layerstore.sql.database`'s, derived rows are `layerstore.sql.derived`'s; this module
says what an entry is in the database.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from layerstore.digest import DiffID, is_digest
from layerstore.errors import InvalidInputError, InvalidKeyError, NotFoundError
from layerstore.records import V2_METADATA, Record, digest_key, key_digest
from layerstore.sql import derived
from layerstore.sql.database import Database
from layerstore.sql.reading.known import Known, fetch_known
from layerstore.sql.sqlite import statements
from layerstore.sql.sqlite.handles import Handle
from layerstore.sql.sqlite.snapshot import OddName, Snapshot, fetch_many
from layerstore.store import check_key, why_not_a_namespace

if TYPE_CHECKING:
    from layerstore.sql.sqlite.load import Incoming

_Found = TypeVar("_Found")

_FEW = 1000
"""Entries that `set_many` writes one by one, each then changing B-trees in places of its own."""


class SQLMetadataStore(Database):
    """Keep entries in one SQLite file that threads and processes share.

    Each thread has a connection of its own. A fork lets go of idle connections, and the child makes new ones; where one
    was in use (a transaction, an iteration, a connection of the engine), the file cannot be used in the child, which
    says so: SQLite would lose what it writes. Readers see the last commit and wait for
    nobody; writers take turns. Opening a file that is not there makes it (0600, its directory 0700); opening an older
    one upgrades its schema; both are safe against others that open it at the same moment. When the file is removed or
    replaced meanwhile, every write, and whatever reads the whole store, is a StoreOpenError; `get` and `get_many` go
    on with the file that was opened.

    Args:
        path_or_url: a path, a URL `sqlite:///path`, or `":memory:"`: then one connection, which the threads take in
            turns, and nothing is kept.
        durability: `"full"` syncs each commit, so that a power cut loses nothing that was acknowledged; `"normal"`
            syncs at checkpoints only: a power cut may cost the last commits, whole ones from the end, and never the
            file's consistency. A crash of the process alone costs nothing either way.
        read_only: open only to read, and never change the file; it must be there and at this version's schema.
        timeout_s: seconds that a writer waits for the others before `StoreBusyError`; 0 does not wait.

    Raises:
        InvalidInputError: an argument is none of these.
        StoreOpenError: the file is missing and cannot be made, is no file of ours, or is a URL of another database; or,
            to write, has triggers on our tables, or something else under our names.
        SchemaVersionError: the file is of a newer version, or of an older one and `read_only`.
        StoreCorruptError, StoreBusyError, StoreError: SQLite failed.

    Source: Docker's `metadata.Store`; sqlite.org/wal.html, sqlite.org/pragma.html#pragma_synchronous.
    """

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
            InvalidKeyError: `namespace` is not one.
            CorruptRecordError: another program wrote an entry whose name is not UTF-8; `verify` with repair sets it
                aside. Those before it were yielded.
            StoreError: the store failed or was closed meanwhile.
        """
        for found, key, value, _ in self.records(namespace):
            yield found, key, value

    def records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield `entries` with their times."""
        reason = None if namespace is None else why_not_a_namespace(namespace)
        if reason is not None:
            raise InvalidKeyError(f"namespace {namespace!r}: {reason}")
        yield from self._each(lambda snapshot: snapshot.records(namespace))

    def scan(self) -> Iterator[Record | OddName]:
        """Yield what `records` yields, and what it stops at."""
        return self._each(Snapshot.scan)

    def _each(self, read: Callable[[Snapshot], Iterator[_Found]]) -> Iterator[_Found]:
        with self.snapshot() as snapshot:
            if not self.is_held:
                for one in read(snapshot):
                    yield one
                    self._check_open()
                return
            # Read whole: a transaction must not stay open for as long as somebody keeps this iterator.
            found = list(read(snapshot))
        yield from found

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

    def known_layers(self, diff_ids: Iterable[DiffID]) -> Known:
        """Return layers' lists, by key, and all digests that map to them, by DiffID. One statement, one moment.

        Raises: as `run`.
        """
        return fetch_known(self.run, diff_ids)

    def set_many(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        """`set` all entries in one transaction: all are there afterwards, or none. Of a key twice, the last one stays.

        More than 1,000 are staged beside the database first, sorted, so that any number costs the same for each, and
        other writers wait for the merge alone.

        Raises: as `set`.
        """
        rest = iter(entries)
        first = list(islice(rest, _FEW + 1))
        if len(first) <= _FEW:
            with self.transaction():
                for namespace, key, value in first:
                    self._set(namespace, key, value)
            return
        from layerstore.sql.sqlite.load import load  # lookups need not wait for it

        load(self, self._incoming(chain(first, rest)), lambda _source, _existing, incoming: incoming)

    def _incoming(self, entries: Iterator[tuple[str, str, bytes]]) -> Iterator[Incoming]:
        from layerstore.sql.sqlite.load import Incoming

        while batch := list(islice(entries, _FEW)):
            now = time.time_ns()
            yield Incoming(
                0, [(namespace, key, _checked(namespace, key, value), now) for namespace, key, value in batch]
            )

    def put(self, record: Record) -> None:
        """`set` an entry with the time that it has elsewhere.

        Raises: as `set`.
        """
        self._set(*record)

    def rederive(self, diff_id: str | bytes) -> None:
        """Make a layer's derived rows what its list says; without a list, or if it is no DiffID, remove them.

        Raises: as `set`.
        """
        with self.transaction():
            # What another program wrote need not even be text, and the rows that are there need not be readable.
            is_text = isinstance(diff_id, str)
            self.run(statements.REMOVE_ASSOCIATIONS if is_text else statements.REMOVE_RAW_ASSOCIATIONS, (diff_id,))
            key = digest_key(diff_id) if isinstance(diff_id, str) and is_digest(diff_id) else ""
            values = self.run(statements.GET, (V2_METADATA, key))
            if key and values:
                handle = self._connections.local.handle
                self._derive(handle, lambda: derived.update(handle, key, values[0][0]))

    def quarantine(self, namespace: str, key: str, value: bytes, reason: str) -> None:
        """Keep bytes that are about to be replaced or were not taken. Exactly the same again is kept once.

        Raises: as `set`.
        """
        row = (namespace, key, value, reason)
        with self.transaction():
            if not self.run(statements.IS_QUARANTINED, row):
                self.run(statements.QUARANTINE, (*row, time.time_ns()))

    def _set(self, namespace: str, key: str, value: bytes, modified_at_ns: int | None = None) -> None:
        value = _checked(namespace, key, value)
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


def _checked(namespace: str, key: str, value: object) -> bytes:
    """Return a value's bytes, if they and their place can be stored."""
    check_key(namespace, key)
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidInputError(f"a value is bytes, not {type(value).__name__}")
    return bytes(value)
