"""A driver connection with the transaction that is open on it: one for each thread, or one that the threads share."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from layerstore.errors import StoreBusyError, StoreError

inherited: list[object] = []
"""Connections that a fork took along. Closing one in the child would drop the parent's locks and perhaps its WAL."""


class Result(Protocol):
    """The part of a cursor that the store uses."""

    @property
    def rowcount(self) -> int: ...
    def fetchone(self) -> Any: ...
    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Handle:
    """One driver connection and the transaction that is open on it. One thread uses it at a time."""

    def __init__(self, connection: sqlite3.Connection, *, read_only: bool = False) -> None:
        self.connection = connection
        self.execute: Callable[..., Result] = connection.execute
        self.depth = 0
        self._begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"
        self._failed_at = 0
        self._pid = os.getpid()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; in a forked child, only keep it from being closed."""
        if self._pid == os.getpid():
            self.connection.close()
        else:
            inherited.append(self.connection)

    def begin(self, *, deferred: bool = False) -> None:
        """Begin a transaction, or a savepoint inside the one that is open.

        With the lock of the writers from the beginning; `deferred`, for work on temporary tables, without.
        """
        self.check()
        if self.depth:
            self.connection.execute(f"SAVEPOINT layerstore_{self.depth}")
        else:
            self.connection.execute("BEGIN" if deferred else self._begin)
        self.depth += 1

    def check(self) -> None:
        """Refuse to write where a transaction was begun and is no more: the statement would be committed alone.

        One that nobody began, left by an interrupt between two lines of ours, is rolled back.

        Raises:
            StoreError: SQLite rolled the transaction back by itself, or it is that of the process that forked this.
        """
        if self.depth == 0:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        elif not self.connection.in_transaction or self._pid != os.getpid():
            raise StoreError("the transaction around this write was rolled back: leave it, then write again")

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

    def _end_outermost(self, statement: str) -> None:
        try:
            self.connection.execute(statement)
        finally:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")


class _Fetched:
    """A result that was read to its end while the lock was held."""

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


class MemoryHandle(Handle):
    """The one connection of a store in memory: threads take turns, for a statement or for a whole transaction."""

    def __init__(self, connection: sqlite3.Connection, timeout_s: float) -> None:
        super().__init__(connection)
        self.execute = self._execute_in_turn
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

    def _execute_in_turn(self, *statement: Any) -> Result:
        self.take_turn()
        try:
            return _Fetched(self.connection.execute(*statement))
        finally:
            self.end_turn()
