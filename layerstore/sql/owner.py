"""To whom an open transaction belongs: to the asyncio task that began it, or outside of a loop to the thread.

All tasks of a loop run in one thread, and so on one connection: what another task wrote would be rolled back with the
transaction, and what it read might never be committed.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar
from typing import Final, NoReturn

from layerstore.errors import StoreError

_NEXT: Final = "put the whole transaction into one function, and run that with `asyncio.to_thread`"
_OTHERS: Final = f"a transaction of another asyncio task is open in this thread: {_NEXT}"
_ORDER: Final = (
    "rolled back: a transaction was left while one that began inside it was still open, or by another task or thread"
    f" than began it. Write it all again; in asyncio, {_NEXT}"
)
_WAITED_FOR: Final = f"this thread was started inside a transaction, which its write would wait for: {_NEXT}"
ROLLED_BACK: Final = "rolled back, as a write in the transaction had failed or the store was closed: write it all again"

inside: ContextVar[tuple[Owner, ...]] = ContextVar("inside", default=())
"""The owners whose transactions this context is in: a thread that `asyncio.to_thread` starts inside one inherits it."""


def _current_task() -> object | None:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return None
    task: object | None = asyncio.current_task()
    return task


class Owner:
    """Who has begun the transactions that are open on a connection, one inside another.

    Args:
        store: what is the same for all connections of a store.
        shown: what errors call the store.

    Attributes:
        open: the transactions, the innermost last.
        is_broken: whether they were not left in order, so that all of it was rolled back.
    """

    def __init__(self, store: object, shown: str | None) -> None:
        self.open: list[object] = []
        self.is_broken = False
        self._store, self._shown = store, shown
        self._task = _current_task()
        self._pid = os.getpid()

    @property
    def is_parents(self) -> bool:
        """Whether this process was forked inside the transactions, which are the parent's."""
        return self._pid != os.getpid()

    def check(self) -> None:
        """Raise a StoreError if it is another task that asks, or if they were not left in order."""
        if self.open and self.is_broken:
            self.refuse(_ORDER)
        if self.open and _current_task() is not self._task:
            self.refuse(_OTHERS)

    def leaves(self, transaction: object) -> bool:
        """Take out a transaction that ends; tell whether it is the innermost one, and the owner who ends it."""
        in_order = self.open[-1:] == [transaction] and _current_task() is self._task
        if transaction in self.open:
            self.open.remove(transaction)
        return in_order and not self.is_broken

    def refuse_order(self) -> NoReturn:
        """Raise a StoreError for what was not left in order."""
        self.refuse(_ORDER)

    def refuse_to_be_waited_for(self, store: object) -> None:
        """Refuse a write to the same store of a thread that was started inside, and that would wait for the end.

        Raises:
            StoreError: it would.
        """
        if store is self._store and self.open and not self.is_broken and not self.is_parents:
            self.refuse(_WAITED_FOR)

    def refuse(self, why: str) -> NoReturn:
        """Raise a StoreError."""
        raise StoreError(why, self._shown)
