"""The one boundary to a database: what a store needs of it, whichever it is.

Entries, names and errors of our tree cross it; statements, rows, cursors and a driver's errors never do. Whoever
implements it is a folder of its own: `layerstore.sql.sqlite`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.collection import Doomed, Incoming, Loaded, Resolve
from layerstore.store import Address, Change, Compute, SetAside

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from layerstore.digest import DiffID
    from layerstore.sql.sqlite.snapshot import Snapshot


class Known(NamedTuple):
    """What is known of layers."""

    lists: dict[str, bytes]
    """Docker's lists, by key."""
    digests: dict[str, list[str]]
    """All digests that map to a layer, by DiffID."""
    blobs: dict[str, dict[str, bytes]]
    """What other engines know of a layer's blobs, by DiffID and digest. One that Docker maps to another layer is left
    out."""


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


class Backend(Protocol):
    """A database that keeps entries, the rows that are derived from them, and the quarantine.

    Every method raises `StoreError` (or one of its kinds) where the database fails, is busy, or was closed, and
    `InvalidInputError` for a value that it cannot take; a write that raises has written nothing.
    """

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine on the same database; its connections are its own."""

    def get(self, namespace: str, key: str) -> bytes | None:
        """Return a value, or `None`. One statement, which waits for nobody."""

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

    def rederive(self, namespace: str, digest: str | bytes) -> None:
        """Make a layer's or blob's derived rows what its entry says; without one, or for no digest, remove them."""

    def load(self, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
        """Stage any number of entries beside the database, then merge them in one transaction; by source."""

    def transaction(self, *, deferred: bool = False) -> AbstractContextManager[None]:
        """Hold all writes of the body in one transaction; one inside another is a savepoint."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a view of the store at this moment, for work that reads more than one thing."""

    def set_aside(self, entries: Iterable[SetAside]) -> None:
        """Keep bytes in quarantine. Exactly the same again is kept once."""

    def quarantined(self, number: int | None = None) -> list[Quarantined]:
        """Return what is in quarantine, the oldest first; or the one with a number, if it is there."""

    def drop_quarantined(self, numbers: Iterable[int]) -> None:
        """Forget values in quarantine."""

    def close(self) -> None:
        """Close every connection, also those of other threads and of the engine. A second call does nothing."""
