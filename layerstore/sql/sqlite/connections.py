"""Connections: how one is made and configured, which thread has which, what close and fork do to them.

A thread keeps a connection of its own for as long as it lives; asking a pool for one costs more than the statement.
All that SQLite alone has (PRAGMAs, BEGIN IMMEDIATE, URIs) is here and in `layerstore.sql.sqlite.opening`.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import weakref
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool, StaticPool

from layerstore.errors import InvalidInputError, StoreClosedError, StoreError
from layerstore.sql.sqlite.errors import mapped
from layerstore.sql.sqlite.handles import Connection, Handle, MemoryHandle, alive
from layerstore.sql.sqlite.interrupts import let_signals_in, raise_interruption
from layerstore.sql.sqlite.log import CHECKPOINT_PAGES, LIMIT
from layerstore.sql.sqlite.place import Identity, Place, changed, identity

Durability = Literal["full", "normal"]

_SYNCHRONOUS = {"full": "FULL", "normal": "NORMAL"}
# Chosen by us, never by the driver: its own transactions lose updates. Newer Pythons need to be told twice.
_NO_DRIVER_TRANSACTIONS: dict[str, Any] = {"isolation_level": None}
if sys.version_info >= (3, 12):
    _NO_DRIVER_TRANSACTIONS["autocommit"] = sqlite3.LEGACY_TRANSACTION_CONTROL

# Files that a fork of this process has taken connections of along; see `_after_fork_in_child`.
_unusable: set[str] = set()
_everyone: weakref.WeakSet[Connections] = weakref.WeakSet()


_LONGEST_TIMEOUT_S = (2**31 - 1) // 1000  # SQLite counts milliseconds in 32 bits, and takes more for no waiting


def check_timeout(timeout_s: float) -> None:
    """Accept seconds that SQLite can wait.

    Raises:
        InvalidInputError: not a number, negative, or over 24 days, as infinity is.
    """
    is_number = isinstance(timeout_s, int | float) and not isinstance(timeout_s, bool)
    if not is_number or not 0 <= timeout_s <= _LONGEST_TIMEOUT_S:  # no comparison holds of NaN
        raise InvalidInputError(f"timeout_s is 0 to {_LONGEST_TIMEOUT_S} seconds, not {timeout_s!r}")


class _PerThread(threading.local):
    """Each thread's handle, made when the thread first asks for it and closed when the thread ends."""

    handle: Handle

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __getattr__(self, name: str) -> Any:
        # Asked for only while this thread has none; from then on the lookup finds the attribute itself.
        if name != "handle":
            raise AttributeError(name)
        self.handle = self._connections.new_handle()
        return self.handle


class _Shared:
    """The same handle for every thread."""

    def __init__(self, handle: MemoryHandle) -> None:
        self.handle = handle


class _Closed:
    def __init__(self, path: str | None) -> None:
        self._path = path

    @property
    def handle(self) -> Handle:
        raise StoreClosedError("this store was closed; make a new SQLMetadataStore", self._path)


class Connections:
    """All connections of one store.

    Attributes:
        path: the absolute path of the database file; `None` in memory.
        local: has the `handle` of the thread that asks.
    """

    def __init__(self, path: str | None, *, durability: Durability, read_only: bool, timeout_s: float) -> None:
        self.path = path
        self.read_only = read_only
        self._durability = durability
        self._timeout_s = timeout_s
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()  # to see which have a transaction open
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._identity: Identity | None = None  # of the file that the first connection opened
        self.local: _PerThread | _Shared | _Closed
        if path is None:
            self.local = _Shared(MemoryHandle(self.connect(), timeout_s))
        else:
            self.local = _PerThread(self)
        _everyone.add(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return isinstance(self.local, _Closed)

    def connect(self) -> Connection:
        """Make a configured driver connection.

        It must be the file that this store opened first, or threads of one store would see different ones.

        Settings, each with its reason and source (sqlite.org/pragma.html):
        - synchronous FULL: each commit is synced, so that a power cut loses none; NORMAL syncs at checkpoints only.
        - trusted_schema OFF: a schema from elsewhere cannot call functions with side effects.
        - cell_size_check ON: a damaged page is found when it is read, before it spreads.
        - wal_autocheckpoint: see `layerstore.sql.sqlite.log`.
        - journal_size_limit: a log that one large transaction made long gets short again.
        - mmap_size 0: a file that is truncated meanwhile is an error, not a signal that ends the process.
        """
        if self.path in _unusable:
            raise StoreError(
                "this process was forked while the file was in use: fork before that, or start processes by spawn",
                self.path,
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
            if self.path is not None:  # in memory, several threads use one
                let_signals_in(connection)
        except UnicodeDecodeError as error:
            connection.close()
            raise mapped(error, self.path) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> Connection:
        if self.path is None:
            return self._driver(":memory:", uri=False)
        mode = "ro" if self.read_only else "rw"
        target = f"file:{quote(os.fsencode(self.path))}?mode={mode}"
        while True:
            found = identity(self.path)
            if self._identity not in (None, found):
                raise changed(self.path)
            connection = self._driver(target, uri=True)
            # Looked at before and behind: between the two, the file that was opened may have been replaced.
            if found is not None and found == identity(self.path):
                self._identity = found
                connection.know(Place(self.path, found))
                return connection
            connection.close()

    def _driver(self, target: str, *, uri: bool) -> Connection:
        return sqlite3.connect(
            target,
            uri=uri,
            timeout=self._timeout_s,
            check_same_thread=False,
            factory=Connection,
            **_NO_DRIVER_TRANSACTIONS,
        )

    def new_handle(self, *, read_only: bool = False) -> Handle:
        """Make a connection of its own, which `close` closes too.

        Raises: what the driver raises.
        """
        handle = Handle(self.connect(), read_only=read_only or self.read_only)
        with self._lock:
            self._handles.add(handle)
        return handle

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine on the same database, with a pool of its own; made when first asked for."""
        with self._lock:
            if self._engine is None:
                self._engine = self._make_engine()
            return self._engine

    def _make_engine(self) -> Engine:
        local = self.local
        if isinstance(local, _Shared):
            connection: Any = local.handle.connection
            turns = _Turns(lambda: connection)
            turns.handle = local.handle
            engine = create_engine("sqlite://", pool=turns)
        else:
            engine = create_engine("sqlite://", creator=self.connect, poolclass=QueuePool)
        # The driver begins nothing by itself; writing code of ours asks for BEGIN IMMEDIATE by this option.
        event.listen(
            engine,
            "begin",
            lambda connection: connection.exec_driver_sql(
                connection.get_execution_options().get("layerstore_begin", "BEGIN")
            ),
        )
        event.listen(engine, "handle_error", lambda context: raise_interruption(context.original_exception))
        return engine

    def keep(self, handle: Handle) -> None:
        """Make sure that a handle with a transaction stays the thread's own; a fork may just have let go of it."""
        with self._lock:
            if isinstance(self.local, _PerThread):
                self.local.handle = handle

    def close(self) -> None:
        """Close all connections; one that another thread is using, as soon as its statement ends."""
        with self._lock:
            local, self.local = self.local, _Closed(self.path)
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()
        if isinstance(local, _Shared):
            local.handle.connection.close()
        elif isinstance(local, _PerThread) and (own := vars(local).get("handle")) is not None:
            own.close()  # this thread's; it is in no statement, as it is here

    def before_fork(self) -> None:
        """Let go of every connection that is idle, so that none comes along into the child."""
        with self._lock:
            if not isinstance(self.local, _PerThread) or any(handle.depth or handle.pinned for handle in self._handles):
                return
            self.local = _PerThread(self)
            pool = None if self._engine is None else self._engine.pool
            if isinstance(pool, QueuePool) and pool.checkedout() == 0:
                pool.dispose()

    def after_fork(self) -> None:
        """Begin anew in the child."""
        self._lock = threading.Lock()
        if isinstance(self.local, _Shared):
            self.local.handle.after_fork()
        elif isinstance(self.local, _PerThread):
            self.local = _PerThread(self)
            self._handles = weakref.WeakSet()
            if self._engine is not None:
                self._engine.dispose(close=False)


class _Turns(StaticPool):
    """The engine's pool on a store in memory: whoever takes the one connection takes a turn among the threads.

    Not by an event at the checkout: what fails there makes the pool close the connection, and with it the store.
    """

    handle: MemoryHandle

    def _do_get(self) -> ConnectionPoolEntry:
        self.handle.take_turn()
        if self.handle.depth:
            self.handle.end_turn()
            raise StoreError("the engine of a store in memory cannot be used inside transaction()")
        self.handle.lent += 1
        return super()._do_get()

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        super()._do_return_conn(record)
        self.handle.lent -= 1
        self.handle.end_turn()


def _before_fork() -> None:
    for connections in list(_everyone):
        connections.before_fork()


def _after_fork_in_child() -> None:
    """Give up the files whose connections came along.

    SQLite would take them, in its table of this process, for its own: new connections would believe that they hold
    locks which only the parent has, and lose what they write. Source: sqlite.org/howtocorrupt.html, section 2.6.
    """
    _unusable.update(connection.path for connection in alive if connection.path is not None)
    for connections in list(_everyone):
        connections.after_fork()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
