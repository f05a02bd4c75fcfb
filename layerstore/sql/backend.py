"""The one boundary to a database: what a store needs of it, whichever it is.

Entries, names and errors of our tree cross it; statements, rows, cursors and a driver's errors never do; but for
`run` and `stream`, which are for SQL that every database knows. Whoever implements it is a folder of its own:
`layerstore.sql.sqlite`, `layerstore.sql.postgresql`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from layerstore.collection import Doomed, Incoming, IndexedView, Loaded, Note, Place, Resolve
    from layerstore.digest import DiffID
    from layerstore.keys import Record
    from layerstore.store import Address, Change, Compute, SetAside

Parameters = Mapping[str, Any] | Sequence[Any]
"""Values for a statement: by name, or in their order."""
Value = str | int | float | bytes | None


class Known(NamedTuple):
    """What is known of layers."""

    lists: dict[str, bytes]
    """Docker's lists, by key."""
    digests: dict[str, list[str]]
    """All digests that map to a layer, by DiffID."""
    blobs: dict[str, dict[str, bytes]]
    """What other engines know of a layer's blobs, by DiffID and digest. One that Docker maps to another layer is left
    out."""

    @classmethod
    def of(cls, rows: Iterable[tuple[str, bytes | None, str | None]]) -> Known:
        """Sort rows: a list's has no digest, a mapping's has no value, and what other engines know has both."""
        known = cls({}, {}, {})
        for name, value, digest in rows:
            if value is None:
                known.digests.setdefault(name, []).append(str(digest))
            elif digest is None:
                known.lists[name] = value
            else:
                known.blobs.setdefault(name, {})[digest] = value
        return known


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A value in quarantine.

    Attributes:
        number: its `id`, by which the commands name it.
        namespace: where it was.
        key: its key there.
        value: the bytes.
        reason: why it was set aside.
        quarantined_at_ns: when, as Unix time in nanoseconds.
    """

    number: int
    namespace: str
    key: str
    value: bytes
    reason: str
    quarantined_at_ns: int


@dataclass
class Answer:
    """What a query gives.

    A TEXT that is not UTF-8 has its bytes as `\\x..`.

    Attributes:
        columns: the names of its columns.
        rows: its rows, as they come.
        truncated: whether there were more rows than asked for; known when the rows have been read.
    """

    columns: tuple[str, ...]
    rows: Iterator[tuple[Value, ...]]
    truncated: bool = False


class Backend(Protocol):
    """A database that keeps entries, the rows that are derived from them, and the quarantine.

    Every method raises `StoreError` (or one of its kinds) where the database fails, is busy, or was closed, and
    `InvalidInputError` for a value that it cannot take; a write that raises has written nothing.
    """

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    @property
    def shown(self) -> str | None:
        """What errors call the store: its file, or its URL without a password; `None` in memory."""

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine on the same database; its connections are its own."""

    def run(self, statement: str, parameters: Parameters = ()) -> list[Any]:
        """Run a statement that reads; return its rows. Parameters have names.

        The SQL is what all databases know, but for `instr(` and `CAST(value AS BLOB)`, which are SQLite's words.
        """

    def stream(self, statement: str, parameters: Parameters = ()) -> Iterator[Any]:
        """`run` inside a transaction; yield the rows as they come."""

    def get(self, namespace: str, key: str) -> bytes | None:
        """Return a value, or `None`. One statement, which waits for nobody."""

    def get_record(self, namespace: str, key: str) -> Record | None:
        """Return an entry with its time, or `None`. One statement."""

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there. One statement."""

    def known_layers(self, diff_ids: Iterable[DiffID]) -> Known:
        """Return what is known of layers. One statement."""

    def change(self, addresses: Sequence[Address], compute: Compute) -> Change:
        """Read entries, then write what `compute` makes of them, in one transaction; return what was done.

        `compute` may ask for further entries, and may be called again.
        """

    @property
    def is_held(self) -> bool:
        """Whether this thread is inside `transaction()`."""

    def put(self, record: tuple[str, str, bytes, int | None]) -> None:
        """Store an entry with what is derived from it; one without a time gets the present."""

    def write(self, records: Iterable[tuple[str, str, bytes, int | None]]) -> None:
        """`put` all of them in one transaction."""

    def delete(self, namespace: str, key: str) -> bool:
        """Remove an entry with what is derived from it; tell whether it was there."""

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        """Remove or shorten entries in one transaction; return the numbers of those that were left, as they come.

        Left is what another writer changed since, and the mapping of a digest that a list holds by now.
        """

    def mend(self, kind: str, place: Place) -> bool:
        """Mend a fault that a snapshot has found; tell whether it was there."""

    def load(self, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
        """Stage any number of entries beside the database, then merge them in one transaction; by source."""

    def transaction(self, *, deferred: bool = False) -> AbstractContextManager[None]:
        """Hold all writes of the body in one transaction; one inside another is a savepoint."""

    def snapshot(self, note: Note | None = None) -> AbstractContextManager[IndexedView]:
        """Open a view of the store at this moment, for work that reads more than one thing.

        On a connection of its own, so that writers need not wait and are not seen; inside `transaction()` a part of
        that. With `note`, what cannot be read of a damaged database is told to that, and is no error.
        """

    def set_aside(self, entries: Iterable[SetAside], *, at_ns: int | None = None) -> int:
        """Keep bytes in quarantine, since now or a time, and return how many. Exactly the same again is kept once."""

    def quarantined(self, number: int | None = None) -> list[Quarantined]:
        """Return what is in quarantine, the oldest first; or the one with a number, if it is there."""

    def drop_quarantined(self, numbers: Iterable[int]) -> None:
        """Forget values in quarantine."""

    def refuse_foreign_schema(self) -> None:
        """Refuse what opening to write refuses, in a store that was opened to read."""

    def size(self) -> tuple[int, int]:
        """Return the bytes of the database, and of its log beside it; 0 where they are not known or none."""

    def free_bytes(self, *, vacuum: bool) -> int | None:
        """Return how much of a file is free for later writes, with `vacuum` given back first; else `None`."""

    def backup(self, path: str | os.PathLike[str]) -> int:
        """Copy the database as it is now to a new file; return its bytes. A server says what to use instead."""

    def close(self) -> None:
        """Close every connection, also those of other threads and of the engine. A second call does nothing."""
