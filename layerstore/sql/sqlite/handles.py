"""A driver connection with the transaction that is open on it: one for each thread, or one that the threads share."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from layerstore.errors import StoreBusyError, StoreError
from layerstore.files import tree
from layerstore.sql.sqlite.log import LogKeeper
from layerstore.sql.sqlite.place import Identity, Place

alive: weakref.WeakSet[Connection] = weakref.WeakSet()
"""Every open connection of this process to a file."""

_inherited: list[Connection] = []


class Connection(sqlite3.Connection):
    """A driver connection that knows its file, so that a fork can tell what it takes along."""

    path: str | None = None
    identity: Identity | None = None
    place: Place | None = None

    def know(self, place: Place) -> None:
        """Note the file that it is open on."""
        self.path, self.identity, self.place = place.path, place.identity, place
        alive.add(self)
        tree.databases.add(place.identity)

    def close(self) -> None:
        """Close it; a closed one, which the garbage collector may find late, is no part of a fork."""
        alive.discard(self)
        super().close()
        if self.identity is not None and all(other.identity != self.identity for other in list(alive)):
            tree.databases.discard(self.identity)


def _let_go(connection: Connection, pid: int) -> None:
    if connection.path is None or pid == os.getpid():
        connection.close()
    else:
        _inherited.append(connection)


class Fetched:
    """A result that was read to its end."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._rows = cursor.fetchall()
        self.rowcount = cursor.rowcount

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows


class Handle:
    """One driver connection and the transaction that is open on it. One thread uses it at a time."""

    def __init__(self, connection: Connection, *, read_only: bool = False) -> None:
        self.connection = connection
        self._cursors: list[sqlite3.Cursor] = []
        self.depth = 0
        self.pinned = False  # it has temporary tables that somebody comes back to
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        self._failed_at = 0
        self._pid = os.getpid()
        self._log_keeper = None if read_only else LogKeeper()
        # When this goes, too: closing while another thread is in a statement would end the process, but every statement
        # runs in a method of this object. Not by `__del__`: of a handle in a cycle, such as that of an error and its
        # traceback, the collector may come upon the connection first, and warns that nobody has closed it.
        self._close = weakref.finalize(self, _let_go, connection, os.getpid())
        self._close.atexit = False  # a thread that still runs may be in a statement

    def close(self) -> None:
        """Close the connection; in a forked child, keep it from being closed: it is the parent's."""
        self._close()

    def first(self, statement: str, parameters: Sequence[object] = ()) -> Any:
        """Run a statement that gives one row at most; return it, or `None`.

        On a cursor that is used again and again, as making one costs an eighth of a lookup. It is taken off the list
        meanwhile: what comes in between, a signal's handler or a finalizer, takes another one.
        """
        try:
            cursor = self._cursors.pop()
        except IndexError:
            cursor = self.connection.cursor()
        row = cursor.execute(statement, parameters).fetchone()
        self._cursors.append(cursor)
        return row

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> Fetched:
        """Run a statement to its end."""
        return Fetched(self.connection.execute(statement, parameters))

    def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of parameters."""
        self.connection.executemany(statement, rows)

    def stream(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[Any]:
        """Run a statement, and yield its rows as they come."""
        # Not `yield from`, which closes the cursor of a stream that is dropped, also when its connection is closed.
        for row in self.connection.execute(statement, parameters):  # noqa: UP028
            yield row

    def begin(self, *, deferred: bool = False) -> None:
        """Begin a transaction, or a savepoint inside the one that is open.

        With the lock of the writers from the beginning; `deferred`, for work on temporary tables, without.
        """
        self._check_transaction()
        try:
            if self.depth:
                self.connection.execute(f"SAVEPOINT layerstore_{self.depth}")
            else:
                self.connection.execute("BEGIN" if deferred else self._begin)
                if not (deferred or self._begin == "BEGIN"):
                    self._check_place()  # behind the lock, for which it may have waited long
            self.depth += 1
        except BaseException:
            if self.depth == 0:
                self.connection.rollback()  # an interrupt may have come between the two lines
            raise

    def check(self) -> None:
        """Refuse to write where a transaction was begun and is no more, or into a file that was removed.

        Raises:
            StoreError: SQLite rolled the transaction back by itself, or it is that of the process that forked this.
            StoreOpenError: the file was removed or replaced.
        """
        self._check_transaction()
        if self.depth == 0:
            self._check_place()

    def _check_place(self) -> None:
        place = self.connection.place
        if place is not None:
            place.check()

    def _check_transaction(self) -> None:
        """Refuse to write where a transaction was begun and is no more: the statement would be committed alone.

        One that nobody began, left by an interrupt between two lines of ours, is rolled back.
        """
        if self.depth == 0:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        elif not self.connection.in_transaction or self._pid != os.getpid():
            raise StoreError("the transaction around this write was rolled back: leave it, then write again")

    def committed(self) -> None:
        """See to the log after a write; nothing is done inside a transaction."""
        path = self.connection.path
        if self._log_keeper is not None and path is not None and self.depth == 0:
            self._log_keeper.committed(self.connection, path)

    def fail(self) -> None:
        """Note that a write of several statements broke off: the transaction around it must not stay."""
        self._failed_at = self.depth

    def end(self, *, commit: bool) -> bool:
        """End the innermost transaction; tell whether what it wrote stays.

        It does not when `commit` is false, when a write in it broke off, when SQLite rolled back by itself, as it
        does on a full disk, or in a child that was forked meanwhile: the transaction is the parent's.
        """
        if self._pid != os.getpid():
            return False
        self.depth -= 1
        failed = self._failed_at > self.depth
        if failed:
            self._failed_at = 0
        if not self.connection.in_transaction:
            return False
        stays = commit and not failed
        if self.depth:
            savepoint = f"layerstore_{self.depth}"
            if not stays:
                self.connection.execute(f"ROLLBACK TO {savepoint}")
            self.connection.execute(f"RELEASE {savepoint}")
        else:
            self._end_outermost("COMMIT" if stays else "ROLLBACK")
        return stays

    def abandon(self) -> None:
        """Roll everything back, after an interrupt in the middle of ending a transaction."""
        self.depth = self._failed_at = 0
        self.connection.rollback()

    def _end_outermost(self, statement: str) -> None:
        try:
            self.connection.execute(statement)
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        self.committed()


class MemoryHandle(Handle):
    """The one connection of a store in memory: threads take turns, for a statement or for a whole transaction."""

    def __init__(self, connection: Connection, timeout_s: float) -> None:
        super().__init__(connection)
        self.lent = 0  # connections of the engine that are in use: all are this one, in the thread whose turn it is
        self._timeout_s = timeout_s
        self._turn = threading.RLock()
        self._owner: int | None = None

    def take_turn(self) -> None:
        """Wait for the other threads.

        Raises:
            StoreBusyError: another thread's transaction did not end in time.
        """
        if not self._turn.acquire(timeout=self._timeout_s):
            raise StoreBusyError("another thread's transaction did not end in time: try again")

    def end_turn(self) -> None:
        """Let the next thread go on."""
        self._turn.release()

    def check(self) -> None:
        self.take_turn()  # what another thread has open is not this one's to judge
        try:
            super().check()
        finally:
            self.end_turn()

    def _check_transaction(self) -> None:
        if self.lent and not self.depth and self.connection.in_transaction:
            raise StoreError("a connection of the engine has a transaction open: end it before the store is written to")
        super()._check_transaction()

    def begin(self, *, deferred: bool = False) -> None:
        self.take_turn()
        try:
            super().begin(deferred=deferred)
        except BaseException:
            self.end_turn()
            raise
        self._owner = threading.get_ident()

    def end(self, *, commit: bool) -> bool:
        try:
            return super().end(commit=commit)
        finally:
            self.end_turn()

    def after_fork(self) -> None:
        """Make the child's copy usable: a transaction of a thread that the child does not have is rolled back."""
        self._pid = os.getpid()
        if self.depth and self._owner == threading.get_ident():
            return
        self._turn = threading.RLock()
        self.depth = self._failed_at = 0
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")

    def first(self, statement: str, parameters: Sequence[object] = ()) -> Any:
        return self.execute(statement, parameters).fetchone()

    def execute(self, statement: str, parameters: Sequence[object] = ()) -> Fetched:
        self.take_turn()
        try:
            return super().execute(statement, parameters)
        finally:
            self.end_turn()

    def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        self.take_turn()
        try:
            super().execute_many(statement, rows)
        finally:
            self.end_turn()

    def stream(self, statement: str, parameters: Sequence[object] = ()) -> Iterator[Any]:
        return iter(self.execute(statement, parameters))
