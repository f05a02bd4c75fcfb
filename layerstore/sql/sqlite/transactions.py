"""Transactions: what happens whole or not at all, on the handle of a thread.

While one is open, whoever takes the thread's handle is asked who it is (`layerstore.sql.owner`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import StoreError
from layerstore.sql.owner import ROLLED_BACK, Owner, inside

if TYPE_CHECKING:
    from layerstore.sql.sqlite.connections import Connections
    from layerstore.sql.sqlite.file import File
    from layerstore.sql.sqlite.handles import Handle


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
