"""A driver connection with the transaction that is open on it: each thread has one, and each long read.

What the driver raises becomes an error of our tree here, where the driver is called.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from _thread import LockType, allocate_lock
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, NoReturn

from layerstore.errors import InvalidInputError, StoreCorruptError, StoreError
from layerstore.sql.owner import ROLLED_BACK, inside
from layerstore.sql.sqlite.errors import DAMAGED, mapped
from layerstore.sql.sqlite.file import Connection, File, apart_from_forks, keep_for_ever
from layerstore.sql.sqlite.place import LogFile, LogKeeper
from layerstore.sql.sqlite.queue import Queue
from layerstore.warnings import listeners

_REFUSED: Final = (sqlite3.Error, UnicodeError, OverflowError)
"""What the driver raises: on what SQLite says, and on parameters that SQLite cannot take."""

Parameters = Sequence[object] | Mapping[str, object]
"""Values for `?` in their order, or for `:name` by their names."""

_any_text: Final = partial(str, encoding="utf-8", errors="surrogateescape")

_NEGLIGIBLE_S: Final = 0.05
"""Seconds of waiting in line that need not be taken off those that SQLite may wait."""


def _let_go(connection: Connection, pid: int, queue: Queue, ready: LockType) -> None:
    if pid == os.getpid():
        connection.close()
        queue.leave(ready)  # a thread may end inside a transaction
    else:
        keep_for_ever(connection)


class Handle:
    """One driver connection and the transaction that is open on it. One thread uses it at a time.

    A cursor is out of the list of idle ones while a statement runs on it: so a fork sees whether the connection is in
    use, and a lookup need not make a cursor, which costs an eighth of it. A signal's handler or a finalizer that comes
    in between takes another one.
    """

    def __init__(self, file: File, *, read_only: bool = False, syncs_log: bool = False) -> None:
        self._file = file
        self.depth = 0
        self.is_staging = False
        """Whether it has temporary tables that are still needed: a fork must not close it."""
        self._begin = "BEGIN" if read_only or file.read_only else "BEGIN IMMEDIATE"
        self._failed_at = 0
        self._streaming_in: int | None = None
        self._pid = os.getpid()
        self._log_keeper = None if self._begin == "BEGIN" else LogKeeper()
        self._queue = file.queue
        self._ready = allocate_lock()  # what this handle waits by when it is in line
        self._ready.acquire()
        # Where there is no `fdatasync` that is a full sync, as on macOS, SQLite does it.
        self._syncs_log = syncs_log and file.syncs and hasattr(os, "fdatasync") and self._begin != "BEGIN"
        self._connect()

    def _connect(self) -> None:
        try:
            self.connection = self._file.connect()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise mapped(error, self._file.path, closed=self._file.closed) from error
        self._pid = os.getpid()
        self._log: LogFile | None = None
        self._has_written = False
        self._cursors = 1
        self._idle = [self.connection.cursor()]
        # When this goes, too: closing while another thread is in a statement would end the process, but every statement
        # runs in a method of this object. Not by `__del__`: of a handle in a cycle, such as that of an error and its
        # traceback, the collector may come upon the connection first, and warns that nobody has closed it.
        self._close = weakref.finalize(self, _let_go, self.connection, self._pid, self._queue, self._ready)
        self._close.atexit = False  # a thread that still runs may be in a statement

    def close(self) -> None:
        """Close the connection; in a forked child, keep it from being closed: it is the parent's."""
        self._close()
        self._log = None

    def let_go(self) -> bool:
        """Close the connection before a fork, if it is not in use; the next use makes a new one. Tell whether it is.

        The caller holds off whoever opens and closes connections.
        """
        taken: list[sqlite3.Cursor] = []
        try:
            while True:
                taken.append(self._idle.pop())
        except IndexError:
            pass
        if len(taken) == self._cursors and not self.depth and not self.is_staging:
            self._close()
            self._log = None
            self._cursors = 0
        else:
            self._idle.extend(taken)
        return self._cursors == 0

    @contextmanager
    def driver(self) -> Iterator[Connection]:
        """Give the driver's connection itself; no fork closes it in the body. What it raises comes as it is."""
        cursor = self._take()
        try:
            yield self.connection
        finally:
            self._idle.append(cursor)

    @property
    def is_in_a_call(self) -> bool:
        """Whether another thread may be in a call of SQLite's on this connection."""
        return len(self._idle) < self._cursors or self._streaming_in not in (None, threading.get_ident())

    @property
    def is_inherited(self) -> bool:
        """Whether the connection came along into a forked child: a fork has not closed it."""
        return self._cursors > 0

    def _another(self) -> sqlite3.Cursor:
        """Return a cursor where none is idle: inside a statement of this very thread, or behind a fork."""
        while True:
            with apart_from_forks():  # one that goes on may have taken them
                if self._cursors:
                    self._cursors += 1
                    return self.connection.cursor()
            self._connect()
            with suppress(IndexError):  # the next fork has closed it already
                return self._idle.pop()

    def _take(self) -> sqlite3.Cursor:
        try:
            return self._idle.pop()
        except IndexError:
            return self._another()

    def first(self, statement: str, parameters: Parameters = ()) -> Any:
        """Run a statement that gives one row at most; return it, or `None`."""
        try:
            cursor = self._idle.pop()
        except IndexError:
            cursor = self._another()
        try:
            return cursor.execute(statement, parameters).fetchone()
        except _REFUSED as error:
            self._fail(error)
        finally:
            self._idle.append(cursor)

    def execute(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        """Run a statement to its end; return its rows."""
        try:
            cursor = self._idle.pop()
        except IndexError:
            cursor = self._another()
        try:
            return cursor.execute(statement, parameters).fetchall()
        except _REFUSED as error:
            self._fail(error)
        finally:
            self._idle.append(cursor)

    @property
    def decodes_strictly(self) -> bool:
        """Whether text that is not UTF-8 is an error."""
        return self.connection.text_factory is str

    def decode(self, *, strictly: bool) -> None:
        """Read text that is not UTF-8 as an error, or with a lone surrogate for each byte that does not fit."""
        self.connection.text_factory = str if strictly else _any_text

    def execute_many(self, statement: str, rows: Sequence[Sequence[object]]) -> None:
        """Run a statement once for each row of parameters."""
        cursor = self._take()
        try:
            cursor.executemany(statement, rows)
        except _REFUSED as error:
            self._fail(error)
        finally:
            self._idle.append(cursor)

    def stream(self, statement: str, parameters: Parameters = ()) -> Iterator[Any]:
        """Run a statement inside a transaction, and yield its rows as they come."""
        self._streaming_in = threading.get_ident()
        try:
            # Not `yield from`, which closes the cursor of a stream that is dropped, also when its connection is closed.
            for row in self.connection.execute(statement, parameters):  # noqa: UP028
                yield row
        except _REFUSED as error:
            self._fail(error)
        finally:
            self._streaming_in = None

    def write(self, statement: str, parameters: Sequence[object]) -> None:
        """Run one statement that writes, as a transaction of its own outside of one.

        Raises:
            StoreBusyError, StoreError: as `begin`.
            StoreOpenError: the file was removed or replaced.
        """
        cursor = self._take()
        try:
            self._check_transaction(cursor)
            if self.depth:
                cursor.execute(statement, parameters)
            else:
                self._write_alone(cursor, statement, parameters)
        except _REFUSED as error:
            self._fail(error)
        finally:
            self._idle.append(cursor)

    def _write_alone(self, cursor: sqlite3.Cursor, statement: str, parameters: Sequence[object]) -> None:
        try:
            if not self._has_written:
                self._prepare(cursor)
            waited_s = self._line_up()
            if (place := self.connection.place) is not None:
                place.check()
            if waited_s < _NEGLIGIBLE_S and not listeners:
                cursor.execute(statement, parameters)
            else:
                self._queue.take_lock(cursor, statement, parameters, waited_s)
            self._ended(stays=True)
        except BaseException:
            self._queue.leave(self._ready)
            raise

    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        """Before the first write of a connection: from now on, this syncs the log behind each commit, not SQLite.

        SQLite would hold the lock of the writers meanwhile. A checkpoint still syncs the log before it writes it into
        the database, and the database before the log begins anew; and the first page of a new log is synced before the
        others. So a commit can be lost by a power cut only until it is synced here, before it is acknowledged. Source:
        sqlite.org/pragma.html#pragma_synchronous. Where the log cannot be opened, SQLite goes on to sync it.
        """
        self._has_written = True
        place = self.connection.place
        if not self._syncs_log or place is None or cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            return
        cursor.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the log is there when it has been read
        place.check()
        self._log = place.open_log()
        if self._log is not None:
            cursor.execute("PRAGMA synchronous=NORMAL")

    def begin(self, *, deferred: bool = False) -> None:
        """Begin a transaction, or a savepoint inside the one that is open.

        With the lock of the writers from the beginning; `deferred`, for work on temporary tables, without.

        Raises:
            StoreError: SQLite rolled the transaction around this back by itself, or it is that of the process that
                forked this; or this thread was started inside a transaction of the store, which it would wait for.
            StoreBusyError: other writers did not end in time.
            StoreOpenError: the file was removed or replaced.
            StoreError: what this store wrote before is not known to be durable.
        """
        cursor = self._take()
        try:
            self._begin_on(cursor, deferred=deferred)
        except _REFUSED as error:
            self._fail(error)
        finally:
            self._idle.append(cursor)

    def _begin_on(self, cursor: sqlite3.Cursor, *, deferred: bool) -> None:
        self._check_transaction(cursor)
        try:
            if self.depth:
                cursor.execute(f"SAVEPOINT layerstore_{self.depth}")
            elif deferred or self._begin == "BEGIN":
                cursor.execute("BEGIN")
            else:
                if not self._has_written:
                    self._prepare(cursor)
                waited_s = self._line_up()
                if waited_s < _NEGLIGIBLE_S and not listeners:
                    cursor.execute(self._begin)
                else:
                    self._queue.take_lock(cursor, self._begin, (), waited_s)
                if (place := self.connection.place) is not None:
                    place.check()  # behind the lock, for which it may have waited long
            self.depth += 1
        except BaseException:
            if self.depth == 0:
                self._undo(cursor)
            raise

    def _undo(self, cursor: sqlite3.Cursor) -> None:
        """Leave nothing of a transaction that could not begin, as an interrupt may have come between two lines."""
        try:
            if self.connection.in_transaction:
                cursor.execute("ROLLBACK")
        finally:
            self._queue.leave(self._ready)

    def _line_up(self) -> float:
        """Wait until this handle may write; return the seconds.

        Raises:
            StoreError: what this store wrote before is not known to be durable.
        """
        if self._file.is_doubtful:
            raise self._not_durable("an earlier write is")
        return self._queue.wait(self._ready)

    def _ended(self, *, stays: bool) -> None:
        """Cut the log if it is long, let the next one write, and sync the log if what was written stays.

        Synced is also what changed nothing: it may have found what another one wrote, and has not synced so far.
        """
        if self._log_keeper is not None:
            self._log_keeper.committed(self.connection, self._file.path)
        self._queue.leave(self._ready)
        log = self._log
        if stays and log is not None:
            try:
                os.fdatasync(log)
            except OSError as error:
                self._file.doubt()
                raise self._not_durable(
                    f"syncing the log failed ({error.strerror}): this was written, but is"
                ) from error

    def _not_durable(self, what: str) -> StoreError:
        return StoreError(f"{what} not known to be durable; check the disk, then open the store again", self._file.path)

    def _check_transaction(self, cursor: sqlite3.Cursor) -> None:
        """Refuse to write where a transaction was begun and is no more: the statement would be committed alone.

        One that nobody began, left by an interrupt between two lines of ours, is rolled back.
        """
        if self.depth == 0:
            for other in inside.get():
                other.refuse_to_be_waited_for(self._file)
            if self.connection.in_transaction:
                cursor.execute("ROLLBACK")
        elif not self.connection.in_transaction or self._pid != os.getpid():
            raise StoreError(
                "the transaction around this write was rolled back: leave it, then write again", self._file.path
            )

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
        cursor = self._take()
        try:
            self.depth -= 1
            failed = self._failed_at > self.depth
            if failed:
                self._failed_at = 0
            stays = commit and not failed and self.connection.in_transaction
            if self.depth:
                self._end_savepoint(cursor, stays=stays)
                return stays
            try:
                if self.connection.in_transaction:
                    cursor.execute("COMMIT" if stays else "ROLLBACK")
            finally:
                if self.connection.in_transaction:
                    cursor.execute("ROLLBACK")
            self._ended(stays=stays)
        except _REFUSED as error:
            if not self.depth:
                self._queue.leave(self._ready)
            self._fail(error)
        except BaseException:
            self.abandon()
            raise
        else:
            return stays
        finally:
            self._idle.append(cursor)

    def _end_savepoint(self, cursor: sqlite3.Cursor, *, stays: bool) -> None:
        if self.connection.in_transaction:
            if not stays:
                cursor.execute(f"ROLLBACK TO layerstore_{self.depth}")
            cursor.execute(f"RELEASE layerstore_{self.depth}")

    def commit(self) -> None:
        """End the innermost transaction, and raise if what it wrote does not stay."""
        if not self.end(commit=True):
            raise StoreError(ROLLED_BACK, self._file.path)

    def abandon(self) -> None:
        """Roll everything back, whatever is open."""
        if self._pid == os.getpid():
            self.depth = self._failed_at = 0
            try:
                self.connection.rollback()
            finally:
                self._queue.leave(self._ready)

    def damaged(self) -> StoreCorruptError:
        """Return the error for what cannot be in a column, as NULL: SQLite reads it from a damaged page silently."""
        return StoreCorruptError(f"{DAMAGED} (NULL, or a value of another type, where none can be)", self._file.path)

    def _fail(self, error: Exception) -> NoReturn:
        if isinstance(error, UnicodeEncodeError | OverflowError):
            raise InvalidInputError(str(error)) from error
        file = self._file
        raise mapped(error, file.path, closed=file.closed, read_only=file.read_only) from error
