"""A database as a collection of entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from layerstore.collection import Doomed, Fault, Incoming, IndexedView, Loaded, Note, Odd, Place, Resolve, View
from layerstore.keys import V2_METADATA, Record, digest_key
from layerstore.sql.backend import NOT_UTF8, OddName, Snapshot

if TYPE_CHECKING:
    from layerstore.sql.store import SQLMetadataStore


class DatabaseCollection:
    """The entries of a database: `layerstore.collection.Target`."""

    directory: str | None = None
    moved_to: str | None = None
    in_order = False
    """What another program wrote there may be no text, and is once it is read."""

    def __init__(self, store: SQLMetadataStore) -> None:
        self.store = store
        self.name = store.path or ":memory:"

    def count(self) -> int:
        with self.store._snapshot() as snapshot:
            return snapshot.count()

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        return (("", _found(one)) for one in self.store._scan())

    @contextmanager
    def view(self, note: Note | None = None) -> Iterator[View]:
        with self.store._snapshot() as snapshot:
            yield _View(snapshot, note)

    @contextmanager
    def indexed(self) -> Iterator[IndexedView]:
        with self.store._snapshot() as snapshot:
            yield _View(snapshot, None)

    def refuse_change(self) -> None:
        self.store._refuse_foreign_schema()

    def set_aside(self, namespace: str, key: str, value: bytes, reason: str) -> None:
        self.store.quarantine(namespace, key, value, reason)

    def mend(self, kind: str, place: Place) -> bool:
        return self.store._backend.mend(kind, place)

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        return self.store._remove(doomed)

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
        return self.store._backend.free_bytes(vacuum=vacuum)

    def load(self, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
        return self.store._load(incoming, resolve)


class _View:
    """A database at one moment: `layerstore.collection.IndexedView`."""

    def __init__(self, snapshot: Snapshot, note: Note | None) -> None:
        self._snapshot, self._note = snapshot, note

    def count(self) -> int:
        found = 0
        with self._noting():
            found = self._snapshot.count()
        return found  # noqa: RET504  # damage ends the block above

    def scan(self, namespace: str | None = None) -> Iterator[Record | Odd]:
        with self._noting():
            yield from map(_found, self._snapshot.scan(namespace))

    def names(self) -> Iterator[tuple[str, str]]:
        return self._snapshot.names()

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        with self._noting():
            found = self._snapshot.get_many(namespace, keys)
        return found  # noqa: RET504  # damage ends the block above

    def lists_with(self, digest: str) -> Iterator[Record]:
        keys = [digest_key(diff_id) for diff_id in self._snapshot.layers_of(digest)]
        return self._snapshot.get_records(V2_METADATA, keys)

    def blobs_by_layer(self) -> Iterator[tuple[str, str, bytes, bytes | None]]:
        return self._snapshot.blobs_by_layer()

    def faults(self) -> Iterator[Fault]:
        return self._snapshot.faults(self._note)

    def _noting(self) -> AbstractContextManager[None]:
        return self._snapshot.noting(self._note)


def _found(one: Record | OddName) -> Record | Odd:
    return Odd("/".join(one.shown()), "name", NOT_UTF8, one) if isinstance(one, OddName) else one
