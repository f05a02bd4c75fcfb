"""`SQLMetadataStore`: the `Store` on a database, with transactions.

What an entry's name and value may be is said here; how they are kept is a `layerstore.sql.backend.Backend`'s.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar

from layerstore.arguments import several, tuples
from layerstore.collection import Incoming, records
from layerstore.errors import (
    InvalidInputError,
    InvalidKeyError,
    LayerstoreError,
    NotFoundError,
    StoreOpenError,
)
from layerstore.keys import check_key, why_not_a_namespace
from layerstore.sql.collection import DatabaseCollection, each, refuse_closed
from layerstore.sql.sqlite import recognition
from layerstore.sql.sqlite.backend import SQLite
from layerstore.sql.sqlite.file import check_timeout
from layerstore.sql.url import is_url, shown
from layerstore.store import SetAside, contains

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from layerstore.digest import DiffID
    from layerstore.keys import Record
    from layerstore.sql.backend import Backend, Known, Parameters, Quarantined
    from layerstore.store import Address, Change, Compute

_Found = TypeVar("_Found")

_FEW = 1000
"""Entries that `set_many` writes one by one, each then changing B-trees in places of its own."""


class SQLMetadataStore:
    """Keep entries in one SQLite file that threads and processes share.

    Each thread has a connection of its own. A transaction belongs to the asyncio task that began it, or outside of a
    loop to the thread. Idle connections are closed before a fork, and the child opens new ones. If one was in use (a
    transaction, an iteration, a connection of the engine), the child raises StoreError: SQLite would lose what it
    writes. Readers see the last commit and never wait; writers take turns, in the order in which they come. Opening a
    file that is not there makes it (0600, its directory 0700); opening an older one upgrades its schema; both are safe
    against others that open it at the same moment. If the file is removed or replaced while it is open, every write,
    and every method that reads all entries, raises StoreOpenError; `get` and `get_many` continue with the file that was
    opened.

    Args:
        path_or_url: a path, a URL `sqlite:///path`, or `":memory:"`: a private temporary file, removed when the
            store is closed. Or a database on a server: `postgresql://user@host/database` (docs/fleet.md).
        durability: `"full"` syncs each commit before the call returns, so that a power cut loses nothing that was
            acknowledged (others may see it a moment before); `"normal"`
            syncs at checkpoints only: a power cut may cost the last commits, each in full, and never the
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

    def __init__(
        self,
        path_or_url: str | os.PathLike[str],
        *,
        durability: Literal["full", "normal"] = "full",
        read_only: bool = False,
        timeout_s: float = 30.0,
    ) -> None:
        if durability not in ("full", "normal"):
            raise InvalidInputError(f"durability is 'full' or 'normal', not {durability!r}")
        check_timeout(timeout_s)
        self.path: str | None
        self._options = {"durability": durability, "read_only": read_only, "timeout_s": timeout_s}
        self._backend: Backend
        self._url = path_or_url if isinstance(path_or_url, str) and is_url(path_or_url) else None  # with its password
        if self._url is not None:
            self._backend = _postgresql(self._url, durability=durability, read_only=read_only, timeout_s=timeout_s)
            self.path = self._backend.shown
        else:
            self.path = recognition.resolve(path_or_url)
            self._backend = SQLite(self.path, durability=durability, read_only=read_only, timeout_s=timeout_s)

    def get(self, namespace: str, key: str) -> bytes:
        """Return the value. One statement, which never waits.

        Raises:
            NotFoundError: there is none.
            InvalidKeyError: there is none, and the namespace or key breaks the key rules.
            StoreError: the store failed or was closed.

        Source: Docker's `Get`.
        """
        try:
            value = self._backend.get(namespace, key)
        except LayerstoreError as error:
            self._fail(error, namespace, key)
        if value is None:
            check_key(namespace, key, to_write=False)
            raise NotFoundError(namespace, key)
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
        self._backend.put((namespace, key, _checked(namespace, key, value), None))

    def delete(self, namespace: str, key: str) -> None:
        """Remove the value and what was derived from it. One transaction; writers wait.

        Raises:
            NotFoundError: there is none.
            InvalidKeyError: there is none, and the namespace or key breaks the key rules.
            StoreError: as for `set`.

        Source: Docker's `Delete`.
        """
        try:
            is_gone = self._backend.delete(namespace, key)
        except LayerstoreError as error:
            self._fail(error, namespace, key)
        if not is_gone:
            check_key(namespace, key, to_write=False)
            raise NotFoundError(namespace, key)

    def change(self, addresses: Sequence[Address], compute: Compute) -> Change:
        """Read entries, then write what `compute` makes of them, in one transaction; return what was done.

        Other writers wait. What `compute` gives is written as it is: it has made names and values itself.

        Args:
            addresses: namespaces and keys of what to read.
            compute: is given the values that are there, and says what to write, or what else to read first. It may be
                called again, and must do nothing else. What it raises undoes all.

        Raises: as `set`; nothing was written.
        """
        return self._backend.change(addresses, compute)

    def entries(self, namespace: str | None = None) -> Iterator[tuple[str, str, bytes]]:
        """Yield all entries, or those of one namespace, by namespace and then by the UTF-8 bytes of the key.

        One snapshot, of the moment when the first is read, on a connection of its own; writers do not wait for it.
        Inside `transaction()`, and in memory, it is read into memory at that moment.

        Raises:
            InvalidKeyError: `namespace` is not one.
            CorruptRecordError: another program wrote an entry whose name is not UTF-8; `verify` with repair sets it
                aside. Those before it were yielded.
            StoreError: the store failed or was closed.
        """
        for found, key, value, _ in self._records(namespace):
            yield found, key, value

    def _records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield `entries` with their times."""
        reason = None if namespace is None else why_not_a_namespace(namespace, to_write=False)
        if reason is not None:
            raise InvalidKeyError(f"namespace {namespace!r}: {reason}")
        yield from each(self._backend, lambda view: records(view, namespace))

    def __contains__(self, entry: object) -> bool:
        """Tell whether there is an entry: `(namespace, key) in store`.

        Raises:
            InvalidInputError: `entry` is not a namespace and a key.
            StoreError: the store failed or was closed.
        """
        return contains(self, entry)

    def __len__(self) -> int:
        """Return the number of entries. Reads an index once: some 100 ms at a million layers."""
        return self._collection().count()

    def __iter__(self) -> Iterator[Address]:
        """Yield namespace and key of all entries, in the order of `entries`."""
        return ((namespace, key) for namespace, key, _ in self.entries())

    def __bool__(self) -> bool:
        """Return True, also for an empty store."""
        return True

    def get_many(self, namespace: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there; the others are left out. One statement, any number of keys.

        Raises:
            InvalidKeyError: the namespace or a key breaks the key rules, and is not there.
            StoreError: the store failed or was closed.
        """
        wanted = list(dict.fromkeys(several(keys, "keys")))
        try:
            found = self._backend.get_many(namespace, wanted)
        except (LayerstoreError, UnicodeEncodeError, TypeError) as error:
            for key in wanted:
                check_key(namespace, key, to_write=False)
            self._fail(error, namespace, "key")
        for key in wanted:
            if key not in found:
                check_key(namespace, key, to_write=False)
        return found

    def known_layers(self, diff_ids: Iterable[DiffID]) -> Known:
        """Return what Docker and other engines know of layers: `layerstore.push.layers.known_layers` reads it. One
        statement, one moment.

        Raises:
            StoreError: the store failed or was closed.
        """
        return self._backend.known_layers(diff_ids)

    def set_many(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        """`set` all entries in one transaction: all are there afterwards, or none. Of a key twice, the last one stays.

        More than 1,000 are staged beside the database first, sorted, so that any number costs the same for each, and
        other writers wait for the merge alone.

        Raises: as `set`.
        """
        rest = tuples(entries, 3, "entries")
        first = list(islice(rest, _FEW + 1))
        if len(first) <= _FEW:
            # One by one inside the transaction, so that what comes before a bad one is not checked for nothing.
            self._backend.write(
                (namespace, key, _checked(namespace, key, value), None) for namespace, key, value in first
            )
            return
        self._backend.load(self._incoming(chain(first, rest)), lambda _source, _existing, incoming, _aside: incoming)

    def _incoming(self, entries: Iterator[tuple[str, str, bytes]]) -> Iterator[Incoming]:
        while batch := list(islice(entries, _FEW)):
            now = time.time_ns()
            records = [(namespace, key, _checked(namespace, key, value), now) for namespace, key, value in batch]
            yield Incoming(0, records, last_stays=True)

    def _put(self, record: Record) -> None:
        """`set` an entry with the time that it has elsewhere.

        Raises: as `set`.
        """
        namespace, key, value, modified_at_ns = record
        self._backend.put((namespace, key, _checked(namespace, key, value), modified_at_ns))

    def quarantine(self, namespace: str, key: str, value: bytes, reason: str) -> None:
        """Keep bytes that are about to be replaced, or that were not imported. Exactly the same again is kept once.

        Raises: as `set`.
        """
        self._backend.set_aside([SetAside(namespace, key, value, reason)])

    def quarantined(self) -> list[Quarantined]:
        """Return all that is in quarantine, the oldest first.

        Raises:
            StoreError: the store failed or was closed.
        """
        return self._backend.quarantined()

    def backup(self, path: str | os.PathLike[str]) -> int:
        """Copy the store as it is at this moment to a new file, while others write; return its size in bytes.

        The copy is complete or absent. It is one file without a log, and is made 0600.

        Raises:
            StoreOpenError: there is a file already, or the copy cannot be made there.
            StoreError: the store failed.
        """
        return self._backend.backup(path)

    def transaction(self, *, deferred: bool = False) -> AbstractContextManager[None]:
        """Return a context manager: what this task writes in it is kept in full, or not at all if an error leaves it.

        It begins with the lock of the writers (`BEGIN IMMEDIATE`), so that what is read in it is still true when it
        is written; other writers wait, readers do not. Reads in it see its writes. One inside another is a savepoint:
        an error that leaves it undoes its part alone. A write that broke off, as on a full disk, undoes its
        transaction also when the error was caught.

        It belongs to the asyncio task that began it, or outside of a loop to the thread: while it is open, other tasks
        of the loop cannot use the store. Under asyncio, put all of the transaction into one function, and run that with
        `asyncio.to_thread`. Transactions are left in the reverse order of their beginning; otherwise all is rolled
        back.

        Args:
            deferred: begin without the lock, for reading alone: one snapshot from the first read on.

        Raises:
            StoreBusyError: another writer did not end in time.
            StoreError: the store failed or was closed; another task uses it, or it is left out of order; or, at the
                end, what was written could not be kept.
        """
        return self._backend.transaction(deferred=deferred)

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine on the same database, for your own queries.

        Its connections are its own: they see what was committed. What it writes to `metadata` is not derived from;
        use the store to write, or `verify(store, repair=True)` afterwards.

        Raises:
            StoreClosedError: the store was closed.
        """
        refuse_closed(self._backend)
        return self._backend.engine

    def _run(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        """Run a statement that reads, as `Backend.run` says; return its rows."""
        return self._backend.run(statement, parameters)

    def _stream(self, statement: str, parameters: Parameters = ()) -> Iterator[Any]:
        """Run a statement inside `transaction()`; yield its rows as they come."""
        return self._backend.stream(statement, parameters)

    def close(self) -> None:
        """Close every connection, also those of other threads and of the engine. A second call does nothing."""
        self._backend.close()

    def _collection(self) -> DatabaseCollection:
        """Return what work on whole stores needs: `layerstore.collection.Collection`."""
        return DatabaseCollection(self, self._backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[object, ...]]:
        """Pickle the path and the options: unpickling opens the file again, in another process too.

        Raises:
            InvalidInputError: the store is in memory, so that no other process can open it.
        """
        if self.path is None:
            raise InvalidInputError("a store in memory cannot be pickled: no other process can open it; use a file")
        return partial(type(self), **self._options), (self._url or self.path,)  # type: ignore[arg-type]  # as the constructor checked

    def __repr__(self) -> str:
        return f"SQLMetadataStore({self.path or ':memory:'!r})"

    def _fail(self, error: Exception, namespace: str, key: str) -> NoReturn:
        """Raise an error, or that for a namespace and key that break the rules, if that was why."""
        if not self._backend.closed:
            check_key(namespace, key, to_write=False)
        if not isinstance(error, LayerstoreError):
            raise InvalidInputError(str(error)) from error
        raise error


def _postgresql(url: str, *, durability: Literal["full", "normal"], read_only: bool, timeout_s: float) -> Backend:
    try:
        from layerstore.sql.postgresql.backend import PostgreSQL  # only where a URL says so
    except ImportError as error:
        raise StoreOpenError(
            f"a database on PostgreSQL needs psycopg ({error}): pip install 'layerstore[postgresql]'", shown(url)
        ) from error
    return PostgreSQL(url, durability=durability, read_only=read_only, timeout_s=timeout_s)


def _checked(namespace: str, key: str, value: object) -> bytes:
    """Return a value's bytes, if they and their place can be stored."""
    check_key(namespace, key)
    if not isinstance(value, bytes | bytearray | memoryview):
        raise InvalidInputError(f"a value is bytes, not {type(value).__name__}")
    return bytes(value)
