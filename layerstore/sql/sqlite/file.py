"""One database file: how a connection to it is made and closed, and what a fork does to those that are open.

All that SQLite alone has (PRAGMAs, BEGIN IMMEDIATE, URIs) is here and in `layerstore.sql.sqlite.opening`.

SQLite keeps a table of the locks that a process holds. A forked child inherits the table, and not the locks: a
connection that came along makes the child believe that it holds locks which only the parent has, and what the child
then writes can be lost. So every idle connection is closed before a fork, and made again when it is next used. Where
one is in use, in a transaction or by another thread, the child cannot use that file, and says so. And where another
thread is in a call of SQLite's, it may hold a mutex that SQLite needs for everything, which nobody in the child would
ever release: then the child cannot use any file. Source: sqlite.org/howtocorrupt.html, section 2.6; mutex(3).
"""

from __future__ import annotations

import sqlite3
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal

from layerstore.errors import InvalidInputError, StoreBusyError, StoreClosedError, StoreError
from layerstore.files import tree
from layerstore.sql.sqlite.errors import let_signals_in
from layerstore.sql.sqlite.place import CHECKPOINT_PAGES, LIMIT, Identity, Place, changed, identity
from layerstore.sql.sqlite.queue import Queue

Durability = Literal["full", "normal", "off"]
"""When a commit is synced: at once; at a checkpoint; never, for a file that goes with the process."""

_SYNCHRONOUS: Final = {"full": "FULL", "normal": "NORMAL", "off": "OFF"}
# Chosen by us, never by the driver: its own transactions lose updates. Newer Pythons need to be told twice.
_NO_DRIVER_TRANSACTIONS: dict[str, Any] = {"isolation_level": None}
if sys.version_info >= (3, 12):
    _NO_DRIVER_TRANSACTIONS["autocommit"] = sqlite3.LEGACY_TRANSACTION_CONTROL

# What ends a path in SQLite's URIs, or begins an escape. Source: sqlite.org/uri.html, section 3.1.
_IN_A_URI: Final = str.maketrans({"%": "%25", "?": "%3f", "#": "%23"})
_LONGEST_TIMEOUT_S: Final = (2**31 - 1) // 1000  # SQLite counts milliseconds in 32 bits, and takes more for no waiting

_open: weakref.WeakSet[Connection] = weakref.WeakSet()
"""Every open connection of this process; added to and listed with the lock below."""
_unusable: set[str] = set()
"""Files of which a fork of this process has taken connections along."""
_apart_from_forks = threading.RLock()
_doubtful: set[Identity] = set()
"""Files of which commits are in the log that may be lost yet: a sync of it has failed."""
_may_be_in_a_call = False
"""Whether at the last fork another thread may have been in a call of SQLite's."""
_is_in_a_call = False
"""Whether this process was forked at such a moment."""


@contextmanager
def apart_from_forks() -> Iterator[None]:
    """Open or close a connection while no other thread forks. Never held while waiting for a busy database."""
    with _apart_from_forks:
        yield


def check_timeout(timeout_s: float) -> None:
    """Accept seconds that SQLite can wait.

    Raises:
        InvalidInputError: not a number, negative, or over 24 days, as infinity is.
    """
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 <= timeout_s <= _LONGEST_TIMEOUT_S:  # no comparison holds of NaN
        raise InvalidInputError(f"timeout_s is 0 to {_LONGEST_TIMEOUT_S} seconds, not {timeout_s!r}")


class Connection(sqlite3.Connection):
    """A driver connection that knows its file."""

    place: Place | None = None

    def close(self) -> None:
        """Close it. The last connection to a file writes the log back and removes it."""
        with _apart_from_forks:
            _open.discard(self)
            super().close()
            found = None if self.place is None else self.place.identity
            if found is not None and all(other.place is None or other.place.identity != found for other in list(_open)):
                tree.databases.discard(found)


class File:
    """A database file, and how a connection to it is made.

    Attributes:
        path: its absolute path.
        read_only: whether it is opened to read only.
        closed: whether the store on it was closed.
        queue: who of the store's connections may write next.
        syncs: whether what is acknowledged must be durable.
        is_doubtful: whether a sync of the log has failed; this store writes no more then.
    """

    def __init__(self, path: str, *, durability: Durability, read_only: bool, timeout_s: float) -> None:
        self.path = path
        self.read_only = read_only
        self.closed = False
        self.timeout_s = timeout_s
        self.queue = Queue(None if durability == "off" else path, timeout_s, apart_from_forks=apart_from_forks)
        self.syncs = durability == "full"
        self.is_doubtful = False
        self._durability = durability
        self._identity: Identity | None = None  # of the file that the first connection opened

    def doubt(self) -> None:
        """Note that a sync of the log has failed: what was committed last may be lost, and what comes behind it too."""
        self.is_doubtful = True
        if self._identity is not None:
            _doubtful.add(self._identity)

    def settle(self, connection: Connection) -> None:
        """Write a log whose sync has failed into the database, and sync that, before more is written.

        Raises:
            StoreBusyError: others read or write.
        """
        if self._identity not in _doubtful:
            return
        for _ in range(2):  # SQLite syncs the log first, and may be told of the same failure once more
            with suppress(sqlite3.OperationalError):
                if not connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    _doubtful.discard(self._identity)
                    return
        raise StoreBusyError(
            "the last writes are not known to be durable, and cannot be secured while others use the database: check"
            " the disk, stop the others, then open it again",
            self.path,
        )

    def connect(self) -> Connection:
        """Make a configured driver connection.

        It must be the file that this store opened first, or threads of one store would see different ones.

        Settings, each with its reason and source (sqlite.org/pragma.html):
        - synchronous FULL: each commit is synced, so that a power cut loses none; NORMAL syncs at checkpoints only. A
          thread's own connection becomes NORMAL at its first write, and syncs the log by itself: see `handles`.
        - trusted_schema OFF: a schema from elsewhere cannot call functions with side effects.
        - cell_size_check ON: a damaged page is found when it is read, before it spreads.
        - wal_autocheckpoint: see `layerstore.sql.sqlite.place`.
        - journal_size_limit: a log that one large transaction made long gets short again.
        - mmap_size 0: a file that is truncated meanwhile is an error, not a signal that ends the process.
        """
        if self.closed:
            raise StoreClosedError("this store was closed; make a new SQLMetadataStore", self.path)
        if self.path in _unusable or _is_in_a_call:
            what = "another thread used a store" if _is_in_a_call else "the file was in use"
            raise StoreError(
                f"this process was forked while {what}: fork before that, or start processes by spawn", self.path
            )
        connection = self._connect()
        try:
            for setting in (
                f"synchronous={_SYNCHRONOUS[self._durability]}",
                "trusted_schema=OFF",
                "cell_size_check=ON",
                f"wal_autocheckpoint={CHECKPOINT_PAGES}",
                f"journal_size_limit={LIMIT}",
                "mmap_size=0",
            ):
                connection.execute(f"PRAGMA {setting}").close()
            let_signals_in(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> Connection:
        target = f"file:{self.path.translate(_IN_A_URI)}?mode={'ro' if self.read_only else 'rw'}"
        while True:
            found = identity(self.path)
            if self._identity not in (None, found):
                raise changed(self.path)
            with _apart_from_forks:
                connection = sqlite3.connect(
                    target,
                    uri=True,
                    timeout=self.timeout_s,
                    check_same_thread=False,
                    factory=Connection,
                    **_NO_DRIVER_TRANSACTIONS,
                )
                # Looked at before and behind: between the two, the file that was opened may have been replaced.
                if found is not None and found == identity(self.path):
                    self._identity = found
                    connection.place = Place(self.path, found)
                    _open.add(connection)
                    tree.databases.add(found)
                    return connection
                connection.close()


def keep_for_ever(inherited: object) -> None:
    """Keep an object of the parent's from ever being finalized in a forked child, at its end neither.

    Closing a connection, or even resetting a statement, can wait for a mutex that a thread of the parent held.
    """
    import ctypes  # seldom needed; `hold_forks` has loaded it where it is

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))


def hold_forks() -> None:
    """Begin a fork: connections are neither opened nor closed by other threads until it is over."""
    _apart_from_forks.acquire()


def before_fork(not_in_a_call: set[Connection]) -> None:
    """Prepare for connections that come along, behind the closing of those that were idle.

    Args:
        not_in_a_call: connections that no other thread can be in a call of SQLite's on.
    """
    global _may_be_in_a_call  # noqa: PLW0603
    _may_be_in_a_call = any(connection not in not_in_a_call for connection in list(_open))
    if _open:
        import ctypes  # noqa: F401  # in the child it may be too late: another thread may be importing it just now


def end_fork_in_parent() -> None:
    """End a fork in the process that forked."""
    _apart_from_forks.release()


def end_fork_in_child() -> None:
    """Give up the files whose connections came along; all, where another thread was in a call. No call of SQLite's."""
    global _apart_from_forks, _is_in_a_call  # noqa: PLW0603  # a thread that the child does not have may hold the lock
    _apart_from_forks = threading.RLock()
    _is_in_a_call = _is_in_a_call or _may_be_in_a_call
    for connection in list(_open):
        if connection.place is not None:
            _unusable.add(connection.place.path)
        keep_for_ever(connection)
    _open.clear()
