"""The queue of writers: each gets its turn in the order in which they came, and waits without polling.

SQLite lets one connection write at a time, and whoever finds it taken sleeps and looks again: the lucky write a
thousand times while another one waits for seconds. So whoever is about to write lines up here first. The threads of a
store wait in a line. The first of them waits for the other processes, by locks on a file beside the database: of its
two bytes, whoever writes holds the second one, and whoever is next the first one. So whoever ends cannot get in front
of the one who waits.

A lock of the kernel's goes when its process is killed, and is waited for in order, but without a limit of time. So it
is a thread that waits for it, and only while another process is in front. Where its waiter has given up meanwhile, the
turn goes to the next one.

The queue keeps order; that only one connection writes is SQLite's doing, as ever. So a program that does not line up
does no harm, and neither does a store that cannot: on another system than Linux, on a medium without such locks, or
where it may not make or open the file. The locks are those of an open file description (OFD), as those of a process go
with any descriptor that it closes. Source: fcntl(2), "Open file description locks".

"""

from __future__ import annotations

import fcntl
import io
import os
import sqlite3
import stat
import struct
import sys
import time
from _thread import LockType, RLock, start_new_thread
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final

from layerstore.warnings import listeners, tell


def _lock(kind: int, first: int, count: int) -> bytes:
    return struct.pack("hhqqi", kind, os.SEEK_SET, first, count, 0)


_NEXT, _WRITING = 0, 1
"""The byte that whoever is next holds, and that of whoever writes."""
_SET: Final[int] = getattr(fcntl, "F_OFD_SETLK", 0)
_WAIT_AND_SET: Final[int] = getattr(fcntl, "F_OFD_SETLKW", 0)
_TAKE_BOTH: Final = _lock(fcntl.F_WRLCK, _NEXT, 2)
_LEAVE_BOTH: Final = _lock(fcntl.F_UNLCK, _NEXT, 2)
_LEAVE_NEXT: Final = _lock(fcntl.F_UNLCK, _NEXT, 1)
_TAKE_NEXT: Final = _lock(fcntl.F_WRLCK, _NEXT, 1)
_TAKE_WRITING: Final = _lock(fcntl.F_WRLCK, _WRITING, 1)

_LOOK_AGAIN_S: Final = 1.0
"""How long a waiter sleeps at most before it looks whether it is its turn: nobody has told it where an interrupt came
between two lines."""

_LAST_TRY_S: Final = 0.25
"""How long a writer whose turn has not come in time waits for SQLite's lock: others of the line ask just then, too."""

_UNKNOWN, _WITHOUT, _FREE, _AWAITED, _ARRIVED = "unknown", "without", "free", "awaited", "arrived"


class _Sidecar(io.FileIO):
    """The file of the locks. It is closed when nobody uses it any more, a thread that waits for a lock included."""

    def __del__(self) -> None:
        self.close()


class Queue:
    """The writers of one store in line, and its place among those of other processes.

    Args:
        path: the database; `None` for a private file, which no other process writes to.
        timeout_s: seconds that a writer waits.
        apart_from_forks: holds off forks, in whose child a file that is just being opened would stay open.
    """

    def __init__(
        self, path: str | None, timeout_s: float, *, apart_from_forks: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._apart_from_forks = apart_from_forks
        self._begin()

    def _begin(self) -> None:
        # A lock for each of its writers, the one whose turn it is in front. Nobody else has a turn: to release a lock
        # only wakes its writer up, to look.
        self._line: deque[LockType] = deque()
        # Whether this process is first: `_FREE` where that is for the writer in front to find out.
        # OFD locks are Linux's alone; the layout of their parameter is, too.
        self._process = _UNKNOWN if self._path is not None and sys.platform == "linux" else _WITHOUT
        self._sidecar: _Sidecar | None = None
        self._changing = RLock()  # a signal's handler may write where its thread has just taken it

    def wait(self, ready: LockType) -> float:
        """Wait in line for the turn of a writer; return the seconds.

        Where it does not come in time, the writer may ask SQLite all the same: whoever is in front may have been
        stopped before it began.
        """
        began = time.monotonic()
        self._line.append(ready)
        is_told = False
        while not self._is_turn_of(ready):
            left = began + self._timeout_s - time.monotonic()
            if left <= 0:
                break
            ready.acquire(timeout=min(left, _LOOK_AGAIN_S))
            if not is_told and time.monotonic() - began >= _LOOK_AGAIN_S:
                is_told = True
                self._tell()
        return time.monotonic() - began

    def take_lock(self, cursor: sqlite3.Cursor, statement: str, parameters: Sequence[object], by_s: float) -> None:
        """Run a statement that takes SQLite's lock of the writers: who has waited in line waits for it the less.

        A person is told after a second, as by `wait`: a program that does not line up may have the lock.
        """
        left_s = max(self._timeout_s - by_s, min(self._timeout_s, _LAST_TRY_S))
        first_s = min(left_s, _LOOK_AGAIN_S) if listeners and by_s < _LOOK_AGAIN_S else left_s
        try:
            _wait_at_most(cursor, first_s)
            try:
                cursor.execute(statement, parameters)
            except sqlite3.OperationalError as error:
                if first_s == left_s or error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                self._tell()
                _wait_at_most(cursor, left_s - first_s)
                cursor.execute(statement, parameters)
        finally:
            _wait_at_most(cursor, self._timeout_s)

    def _tell(self) -> None:
        tell("waiting for another writer of %s, for up to %g s", self._path or "the store", self._timeout_s)

    def leave(self, ready: LockType) -> None:
        """Take a writer out of the line, whether it has had its turn or not; do nothing if it is not in line."""
        try:
            if self._line and self._line[0] is ready and self._process is _FREE:
                self._unlock()
        finally:
            try:
                with suppress(ValueError):
                    self._line.remove(ready)
                if self._process is _ARRIVED:
                    self._give_back()
            finally:
                self.wake()

    def wake(self) -> None:
        """Tell the first in line to look whether it is its turn."""
        with suppress(IndexError, RuntimeError):  # nobody is in line; or it has been told
            self._line[0].release()

    def close(self) -> None:
        """Let go of the sidecar; who is still in line goes on without."""
        with self._changing:
            self._process, self._sidecar = _WITHOUT, None

    def after_fork_in_child(self) -> None:
        """Begin anew: the parent's locks are not the child's, and must end with the parent."""
        if self._sidecar is not None:
            self._sidecar.close()
        self._begin()

    def _is_turn_of(self, ready: LockType) -> bool:
        if not self._line or self._line[0] is not ready:
            return False
        with self._changing:
            if self._process is _UNKNOWN:
                assert self._path is not None
                with self._apart_from_forks():
                    self._sidecar = _open(self._path)
                self._process = _WITHOUT if self._sidecar is None else _FREE
            if self._process is _ARRIVED:
                self._process = _FREE
            elif self._process is _AWAITED or (self._process is _FREE and not self._take()):
                return False
            return True

    def _take(self) -> bool:
        """Take the turn of this process, if no other one is in front; else let a thread wait for it."""
        sidecar = self._sidecar
        assert sidecar is not None
        try:
            fcntl.fcntl(sidecar, _SET, _TAKE_BOTH)
            fcntl.fcntl(sidecar, _SET, _LEAVE_NEXT)
        except (BlockingIOError, PermissionError):
            pass
        except OSError:
            self._process = _WITHOUT  # this medium has no such locks
            return True
        else:
            return True
        self._process = _AWAITED
        try:
            start_new_thread(self._await, (sidecar,))
        except RuntimeError:  # there are too many threads: SQLite's own way of waiting is left
            self._process = _WITHOUT
            return True
        return False

    def _await(self, sidecar: _Sidecar) -> None:
        """Wait for the turn of this process, in a thread of its own; give it back if nobody is in line by then."""
        try:
            fcntl.fcntl(sidecar, _WAIT_AND_SET, _TAKE_NEXT)
            fcntl.fcntl(sidecar, _WAIT_AND_SET, _TAKE_WRITING)
            fcntl.fcntl(sidecar, _SET, _LEAVE_NEXT)
        except OSError:
            arrived = _WITHOUT
        else:
            arrived = _ARRIVED
        with self._changing:
            if self._process is _AWAITED:  # else the store was closed
                self._process = arrived
        if arrived is _ARRIVED:
            self._give_back()
        self.wake()

    def _give_back(self) -> None:
        with self._changing:
            if self._process is _ARRIVED and not self._line:
                self._unlock()
                self._process = _FREE

    def _unlock(self) -> None:
        sidecar = self._sidecar
        if sidecar is not None:
            fcntl.fcntl(sidecar, _SET, _LEAVE_BOTH)


def _wait_at_most(cursor: sqlite3.Cursor, timeout_s: float) -> None:
    cursor.connection.execute(f"PRAGMA busy_timeout={round(timeout_s * 1000)}").close()


def _open(database: str) -> _Sidecar | None:
    """Open the file of the locks beside a database, as SQLite does its log: made with the database's mode and owner.

    Return `None` where that cannot be done, and for what is no regular file, or another user's: whoever holds a lock on
    it lets all others wait. It is never written to, and never removed: who has it open would be in another queue.
    """
    path = f"{os.path.realpath(database)}-queue"
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        of_database = os.stat(database)
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            is_new = True
        except FileExistsError:
            descriptor = os.open(path, flags)
            is_new = False
    except OSError:
        return None
    sidecar = None
    try:
        if is_new:
            with suppress(PermissionError):  # only root may give it away, and to a group only who is in it
                os.fchown(descriptor, of_database.st_uid if os.geteuid() == 0 else -1, of_database.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(of_database.st_mode) & 0o666)
        if _is_trusted(os.fstat(descriptor), of_database):
            sidecar = _Sidecar(descriptor, "r+")
    except OSError:
        pass
    finally:
        if sidecar is None:
            os.close(descriptor)
    return sidecar


def _is_trusted(found: os.stat_result, of_database: os.stat_result) -> bool:
    is_of_group = bool(of_database.st_mode & stat.S_IWGRP) and found.st_gid == of_database.st_gid
    return stat.S_ISREG(found.st_mode) and (found.st_uid in (0, os.geteuid(), of_database.st_uid) or is_of_group)
