"""Transactions: what happens whole or not at all, and to whom it belongs.

A transaction belongs to the asyncio task that began it, or outside of a loop to the thread. All tasks of a loop run in
one thread, and so on one connection: what another task wrote would be rolled back with the transaction, and what it
read might never be committed. So while one is open, whoever takes the thread's handle is asked who it is.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

from layerstore.errors import StoreError
from layerstore.sql.sqlite.handles import Handle, inside

if TYPE_CHECKING:
    from layerstore.sql.sqlite.connections import Connections
    from layerstore.sql.sqlite.file import File

_NEXT: Final = "put the whole transaction into one function, and run that with `asyncio.to_thread`"
_OTHERS: Final = f"a transaction of another asyncio task is open in this thread: {_NEXT}"
_ORDER: Final = (
    "rolled back: a transaction was left while one that began inside it was still open, or by another task or thread"
    f" than began it. Write it all again; in asyncio, {_NEXT}"
)


def current_task() -> object | None:
    """Return the asyncio task that runs in this thread; `None` outside of a loop."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return None
    task: object | None = asyncio.current_task()
    return task


class Held:
    """A thread's handle while a transaction is open on it: only the task that began the transaction gets it."""

    def __init__(self, handle: Handle, file: File) -> None:
        self.handle = handle
        self.open: list[Transaction] = []
        self._file = file
        self._owner = current_task()
        self._pid = os.getpid()
        self._broken = False

    def mine(self) -> Handle:
        """Return the handle, if it is the task's that asks.

        Raises:
            StoreError: it is another task's, or the transaction was left out of order.
        """
        if self._broken and self.open:
            self._refuse(_ORDER)
        if self.open and current_task() is not self._owner:
            self._refuse(_OTHERS)
        return self.handle

    def enter(self, transaction: Transaction, *, deferred: bool) -> None:
        """Begin a transaction, or one inside those that are open."""
        self.mine().begin(deferred=deferred)
        self.open.append(transaction)

    def leave(self, transaction: Transaction, *, commit: bool) -> bool:
        """End a transaction; tell whether what it wrote stays.

        Raises:
            StoreError: it is not the innermost one, or somebody else than began it ends it: all is rolled back. Or it
                was rolled back for such a reason before.
        """
        in_order = self.open[-1:] == [transaction] and current_task() is self._owner
        if transaction in self.open:
            self.open.remove(transaction)
        if self._pid != os.getpid():
            return False  # it is the parent's
        if self._broken or not in_order:
            if not self._broken:
                self._broken = True
                self.handle.abandon()
            self._refuse(_ORDER)
        try:
            return self.handle.end(commit=commit)
        except BaseException:
            self._broken = self.handle.depth < len(self.open)
            raise

    def refuse_to_be_waited_for(self, file: File) -> None:
        """Refuse a write of a thread that was started inside this transaction, and that it would wait for.

        Raises:
            StoreError: the write would wait for this transaction.
        """
        if file is self._file and self.open and not self._broken and self._pid == os.getpid():
            self._refuse(f"this thread was started inside a transaction, which its write would wait for: {_NEXT}")

    def _refuse(self, why: str) -> NoReturn:
        raise StoreError(why, self._file.path)


class Transaction:
    """What `SQLMetadataStore.transaction` returns: a transaction, or a savepoint inside another."""

    __slots__ = ("_connections", "_deferred", "_held")

    def __init__(self, connections: Connections, *, deferred: bool = False) -> None:
        self._connections = connections
        self._deferred = deferred

    def __enter__(self) -> None:
        self._held = self._connections.hold()
        try:
            self._held.enter(self, deferred=self._deferred)
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
            raise StoreError(
                "rolled back, as a write in the transaction had failed or the store was closed: write it all again",
                self._connections.shown,
            )

    def _let_go(self) -> None:
        if not self._held.open:
            self._connections.release(self._held)
            inside.set(tuple(held for held in inside.get() if held.open))
