"""A database as a collection of entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TypeVar

from layerstore.collection import Doomed, Incoming, IndexedView, Loaded, Note, Odd, Place, Resolve, View
from layerstore.errors import StoreClosedError
from layerstore.keys import Record
from layerstore.sql.backend import Backend
from layerstore.store import SetAside, Store

_Found = TypeVar("_Found")


def each(backend: Backend, read: Callable[[IndexedView], Iterator[_Found]]) -> Iterator[_Found]:
    """Yield what `read` finds in a snapshot.

    Raises:
        StoreClosedError: the store was closed meanwhile.
    """
    with backend.snapshot() as view:
        if not backend.is_held:
            for one in read(view):
                yield one
                refuse_closed(backend)
            return
        # Read whole: a transaction must not stay open for as long as somebody keeps this iterator.
        found = list(read(view))
    yield from found


def refuse_closed(backend: Backend) -> None:
    """Raise a StoreClosedError if the store was closed."""
    if backend.closed:
        raise StoreClosedError("this store was closed; make a new SQLMetadataStore", backend.shown)


class DatabaseCollection:
    """The entries of a database: `layerstore.collection.Target`."""

    directory: str | None = None
    moved_to: str | None = None
    in_order = False
    """What another program wrote there may be no text, and is once it is read."""

    def __init__(self, store: Store, backend: Backend) -> None:
        self.store, self._backend = store, backend
        self.name = backend.shown or ":memory:"

    def count(self) -> int:
        with self._backend.snapshot() as snapshot:
            return snapshot.count()

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        return (("", found) for found in each(self._backend, lambda view: view.scan()))

    def view(self, note: Note | None = None) -> AbstractContextManager[View]:
        return self._backend.snapshot(note)

    def indexed(self) -> AbstractContextManager[IndexedView]:
        return self._backend.snapshot()

    def refuse_change(self) -> None:
        self._backend.refuse_foreign_schema()

    def set_aside(self, namespace: str, key: str, value: bytes, reason: str) -> None:
        self._backend.set_aside([SetAside(namespace, key, value, reason)])

    def mend(self, kind: str, place: Place) -> bool:
        return self._backend.mend(kind, place)

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        return self._backend.remove(doomed)

    def remove_temporary(self, *, dry_run: bool) -> int:
        return 0

    def free_bytes(self, *, vacuum: bool) -> int | None:
        """Return how much of the file is free; with `vacuum`, give it back to the file system first.

        `None` for a database on a server, which does that by itself.

        The database is written anew into the write-ahead log, and from there into the file: it needs twice the room
        for a moment. Other writers wait for that, readers do not. Where one is reading the state of before, file and
        log shrink later: at a checkpoint that comes after it, or when the last process closes the store.

        Raises:
            StoreBusyError: another writer did not end in time. StoreFullError: there is no room. StoreError: it is
                inside `transaction()`, or the store failed.

        Source: sqlite.org/lang_vacuum.html.
        """
        return self._backend.free_bytes(vacuum=vacuum)

    def load(self, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
        return self._backend.load(incoming, resolve)
