"""An open database: its transactions, statements, snapshots and errors. What is in it is `layerstore.sql.store`'s."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, NoReturn, Self

from sqlalchemy import Engine

from layerstore.errors import InvalidInputError, LayerstoreError, StoreClosedError, StoreError
from layerstore.sql.schema import HEAD
from layerstore.sql.sqlite import opening, recognition
from layerstore.sql.sqlite.connections import Connections, Durability, check_timeout
from layerstore.sql.sqlite.errors import mapped, mapping
from layerstore.sql.sqlite.handles import MemoryHandle
from layerstore.sql.sqlite.objects import OBJECTS
from layerstore.sql.sqlite.snapshot import Snapshot
from layerstore.sql.sqlite.transactions import Transaction
from layerstore.store import check_key


class Database:
    """A database file, or one in memory, with a connection for each thread."""

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
        check_timeout(timeout_s)
        self.path = recognition.resolve(path_or_url)
        with mapping(self.path):
            self._connections = Connections(self.path, durability=durability, read_only=read_only, timeout_s=timeout_s)
        try:
            opening.make_ready(self._connections, timeout_s)
        except BaseException:
            self._connections.close()
            raise

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

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Open a view of the store at this moment, for work that reads more than one thing.

        On a connection of its own, so that writers need not wait and are not seen; inside `transaction()` and in
        memory, where there is none, a nested transaction.

        Raises:
            StoreError: the store failed or was closed meanwhile, in the body too.
        """
        try:
            if self.is_held:
                with self.transaction():
                    yield Snapshot(self._connections.local.handle)
            else:
                with closing(self._connections.new_handle(read_only=True)) as reader:
                    reader.begin()
                    yield Snapshot(reader)
        except sqlite3.Error as error:
            raise self._mapped(error) from error

    @property
    def is_held(self) -> bool:
        """Whether this thread is inside `transaction()`, or has its one connection in memory."""
        return self._connections.local.handle.depth > 0 or self.path is None

    def run(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        """Run one of `layerstore.sql.sqlite.statements` on this thread's connection; return its rows.

        Raises:
            InvalidInputError: a parameter that SQLite cannot take. StoreError: the store failed or was closed.
        """
        try:
            return self._connections.local.handle.execute(statement, parameters).fetchall()
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            self._fail(error)

    def run_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of parameters, inside `transaction()`.

        Raises: as `run`.
        """
        try:
            self._connections.local.handle.execute_many(statement, rows)
        except (sqlite3.Error, UnicodeEncodeError, OverflowError) as error:
            self._fail(error)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Give this thread another connection in the body, which goes afterwards with its temporary tables.

        Inside `transaction()` and in memory the thread keeps the connection that it has.

        Raises:
            StoreError: the store failed or was closed.
        """
        if self.is_held:
            yield
            return
        before = self._connections.local.handle
        with mapping(self.path), closing(self._connections.new_handle()) as handle:
            handle.pinned = True
            self._connections.keep(handle)
            try:
                yield
            finally:
                self._connections.keep(before)

    def refuse_foreign_schema(self) -> None:
        """Refuse what opening to write refuses, in a store that was opened to read.

        Raises:
            StoreOpenError: there are triggers on our tables, or something else is under our names.
        """
        recognition.refuse_foreign(self.run(OBJECTS), HEAD, self.path)

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
        use the store to write, or `verify(store, repair=True)` afterwards. In memory there is one connection for both,
        in turns: a write to the store inside a transaction of the engine is a `StoreError`, and so is the reverse.

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

    def _check_open(self) -> None:
        if self._connections.closed:
            raise StoreClosedError("this store was closed; make a new SQLMetadataStore", self.path)

    def _fail(self, error: Exception, *place: str) -> NoReturn:
        """Raise the error of our tree for one of the driver's, or for a namespace and key that it could not take."""
        if place and not self._connections.closed and getattr(error, "sqlite_errorcode", None) is None:
            check_key(*place)
        if not isinstance(error, sqlite3.Error):
            raise InvalidInputError(str(error)) from error
        raise self._mapped(error) from error

    def _mapped(self, error: BaseException) -> LayerstoreError:
        return mapped(error, self.path, closed=self._connections.closed)
