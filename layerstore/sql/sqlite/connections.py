"""All connections of one store: which thread has which, the engine's, and what close and fork do to them.

A thread keeps a connection of its own for as long as it lives; asking a pool for one costs more than the statement.
While a transaction is open on it, whoever takes it is asked who it is (`layerstore.sql.owner`).
"""

from __future__ import annotations

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from layerstore.errors import StoreClosedError, StoreError, StoreOpenError
from layerstore.sql.owner import ROLLED_BACK, Owner, inside
from layerstore.sql.sqlite import file as files
from layerstore.sql.sqlite.errors import raise_interruption
from layerstore.sql.sqlite.file import Connection, Durability, File, apart_from_forks
from layerstore.sql.sqlite.handles import Handle

if TYPE_CHECKING:
    from sqlalchemy import Engine

_everyone: weakref.WeakSet[Connections] = weakref.WeakSet()
"""Added to and listed apart from forks."""


class Held(Owner):
    """A thread's handle while a transaction is open on it: only who began the transaction gets it."""

    def __init__(self, handle: Handle, file: File) -> None:
        super().__init__(file, file.path)
        self.handle = handle

    def mine(self) -> Handle:
        """Return the handle.

        Raises:
            StoreError: it is another task that asks, or the transaction was left out of order.
        """
        self.check()
        return self.handle

    def leave(self, transaction: Transaction, *, commit: bool) -> bool:
        """End a transaction; tell whether what it wrote stays.

        Raises:
            StoreError: it is not the innermost one, or somebody else than began it ends it: all is rolled back. Or it
                was rolled back for such a reason before.
        """
        in_order = self.leaves(transaction)
        if self.is_parents:
            return False
        if not in_order:
            if not self.is_broken:
                self.is_broken = True
                self.handle.abandon()
            self.refuse_order()
        try:
            return self.handle.end(commit=commit)
        except BaseException:
            self.is_broken = self.handle.depth < len(self.open)
            raise


class _PerThread(threading.local):
    """Each thread's handle, made when the thread first asks for it and closed when the thread ends.

    While a transaction is open on it, `held` has it, and gives it only to the task that began the transaction.
    """

    handle: Handle
    held: Held | None = None

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def __getattr__(self, name: str) -> Any:
        # Asked for only while this thread has none, or it is held; else the lookup finds the attribute itself.
        if name != "handle":
            raise AttributeError(name)
        if self.held is not None:
            return self.held.mine()
        self.handle = self._connections.new_handle(syncs_log=True)
        return self.handle


class _Closed:
    def __init__(self, shown: str | None) -> None:
        self._shown = shown

    @property
    def handle(self) -> Handle:
        raise StoreClosedError("this store was closed; make a new SQLMetadataStore", self._shown)


class Connections:
    """All connections of one store.

    Args:
        path: the absolute path of the database file; `None` for a private file that goes with this object.

    Attributes:
        path: the file.
        shown: what errors call it; `None` for a private file.
        local: has the `handle` of the thread that asks.
    """

    def __init__(
        self, path: str | None, *, durability: Durability = "full", read_only: bool = False, timeout_s: float = 30.0
    ) -> None:
        self.shown = path
        self._private_folder: Callable[[], object] | None = None
        if path is None:
            folder = _make_private_folder()
            self._private_folder = weakref.finalize(self, _remove, folder, os.getpid())
            path, durability = os.path.join(folder, "memory.db"), "off"
        self.path = path
        self.read_only = read_only
        self._file = File(path, durability=durability, read_only=read_only, timeout_s=timeout_s)
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._engine: Engine | None = None
        self.local: _PerThread | _Closed = _PerThread(self)
        with apart_from_forks():
            _everyone.add(self)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._file.closed

    def settle(self, connection: Connection) -> None:
        """Secure what a store on this file has left in doubt: see `File.settle`."""
        self._file.settle(connection)

    def connect(self) -> Connection:
        """Make a configured driver connection, for the caller to close."""
        return self._file.connect()

    def new_handle(self, *, read_only: bool = False, syncs_log: bool = False) -> Handle:
        """Make a connection of its own; SQLite syncs its commits, unless it shall sync the log by itself.

        Raises:
            StoreError: the file cannot be opened.
        """
        handle = Handle(self._file, read_only=read_only, syncs_log=syncs_log)
        with apart_from_forks():
            self._handles.add(handle)
        return handle

    def hold(self) -> Held:
        """Let this thread's handle ask who uses it, for as long as a transaction is open on it."""
        local, handle = self.local, self.local.handle
        assert isinstance(local, _PerThread)  # else there is no handle
        held = local.held
        if held is None or not held.open:
            held = local.held = Held(handle, self._file)
            vars(local).pop("handle", None)
        return held

    def release(self, held: Held) -> None:
        """End that. Where it is another thread that ends it, the handle just serves everybody."""
        local = self.local
        if isinstance(local, _PerThread) and local.held is held:
            local.handle, local.held = held.handle, None

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine on the same database, with a pool of its own; made when first asked for."""
        if (engine := self._engine) is not None:
            return engine
        # Not apart from forks: it takes locks that a fork takes first (that of `logging`). Of two, the first one stays.
        made = self._make_engine()
        with apart_from_forks():
            if self._engine is None:
                self._engine = made
            return self._engine

    def _make_engine(self) -> Engine:
        from sqlalchemy import URL, create_engine, event  # takes longer than all that most processes do with a store
        from sqlalchemy.pool import QueuePool

        # For those who ask for the URL. Connections are made by us, as they have settings of their own.
        url = URL.create("sqlite", database=self.path)
        engine = create_engine(url, creator=self.connect, poolclass=QueuePool)
        _reflect_quietly(engine.dialect)
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

    def close(self) -> None:
        """Close all connections; one that another thread is using, as soon as its statement ends."""
        self._file.closed = True
        local, self.local = self.local, _Closed(self.shown)
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()
        if isinstance(local, _PerThread):
            own = vars(local).get("handle") if local.held is None else local.held.handle
            if own is not None:
                own.close()  # this thread's; it is in no statement, as it is here
        self._file.queue.close()
        if self._private_folder is not None:
            self._private_folder()

    def before_fork(self) -> None:
        """Close every connection that is idle."""
        for handle in list(self._handles):
            handle.let_go()
        if self._engine is not None and self._engine.pool.checkedout() == 0:  # type: ignore[attr-defined]  # a QueuePool
            self._engine.pool.dispose()

    def not_in_a_call(self) -> Iterator[Connection]:
        """Yield the connections that no other thread is in a call of SQLite's on."""
        for handle in list(self._handles):
            if not handle.is_in_a_call:
                yield handle.connection

    def after_fork_in_child(self) -> None:
        """Begin anew, without a call of SQLite's."""
        self._file.queue.after_fork_in_child()
        for handle in list(self._handles):
            if handle.is_inherited:
                files.keep_for_ever(handle)
        if isinstance(self.local, _PerThread):
            self.local = _PerThread(self)
        self._handles = weakref.WeakSet()
        if self._engine is not None:
            files.keep_for_ever(self._engine.pool)
            self._engine.dispose(close=False)


class Transaction:
    """What `SQLMetadataStore.transaction` returns: a transaction, or a savepoint inside another."""

    __slots__ = ("_connections", "_deferred", "_held")

    def __init__(self, connections: Connections, *, deferred: bool = False) -> None:
        self._connections = connections
        self._deferred = deferred

    def __enter__(self) -> None:
        self._held = self._connections.hold()
        try:
            self._held.mine().begin(deferred=self._deferred)
            self._held.open.append(self)
        except BaseException:
            self._let_go()
            raise
        if len(self._held.open) == 1:
            inside.set((*inside.get(), self._held))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        try:
            stays = self._held.leave(self, commit=kind is None and not self._connections.closed)
        finally:
            self._let_go()
        if kind is None and not stays:
            raise StoreError(ROLLED_BACK, self._connections.shown)

    def _let_go(self) -> None:
        if not self._held.open:
            self._connections.release(self._held)
            inside.set(tuple(held for held in inside.get() if held.open))


def _make_private_folder() -> str:
    """Make the folder of a store in memory; nobody else can look into it.

    Raises:
        StoreOpenError: no temporary folder can be made.
    """
    import tempfile  # a store in a file needs none

    try:
        return tempfile.mkdtemp(prefix="layerstore-")
    except OSError as error:
        raise StoreOpenError(
            f"a store in memory keeps its data in a temporary file, which cannot be made ({error.strerror}): set TMPDIR"
            " to a directory with free space",
            os.environ.get("TMPDIR"),
        ) from error


def _reflect_quietly(dialect: Any) -> None:
    """Keep reflection from warning about indexes on expressions and partial ones, which SQLAlchemy leaves out."""
    from sqlalchemy.exc import SAWarning

    get_indexes = dialect.get_indexes

    def without_warning(*arguments: Any, **options: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)
            return get_indexes(*arguments, **options)

    dialect.get_indexes = without_warning


def _remove(folder: str, pid: int) -> None:
    if pid == os.getpid():  # a forked child has its parent's
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def _before_fork() -> None:
    files.hold_forks()
    for connections in list(_everyone):
        connections.before_fork()
    files.before_fork({one for connections in list(_everyone) for one in connections.not_in_a_call()})


def _after_fork_in_child() -> None:
    files.end_fork_in_child()
    for connections in list(_everyone):
        connections.after_fork_in_child()


os.register_at_fork(before=_before_fork, after_in_parent=files.end_fork_in_parent, after_in_child=_after_fork_in_child)
