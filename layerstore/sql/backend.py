"""The one boundary to a database: what a store needs of it, whichever it is.

Entries, names and errors of our tree cross it; statements, rows, cursors and a driver's errors never do; but for
`run` and `stream`, which are for SQL that every database knows. Whoever implements it is a folder of its own:
`layerstore.sql.sqlite`, `layerstore.sql.postgresql`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from layerstore.collection import Doomed, Fault, Incoming, Loaded, Note, Place, Resolve
    from layerstore.digest import DiffID
    from layerstore.keys import Record
    from layerstore.store import Address, Change, Compute, SetAside

Parameters = Mapping[str, Any] | Sequence[Any]
"""Values for a statement: by name, or in their order."""


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


class OddName(NamedTuple):
    """An entry of another program whose namespace or key is not UTF-8: no store can be asked for it."""

    namespace: bytes
    key: bytes

    def shown(self) -> tuple[str, str]:
        """Return namespace and key as text; bytes that are not UTF-8 as `\\xff`."""
        return self.namespace.decode("utf-8", "backslashreplace"), self.key.decode("utf-8", "backslashreplace")


NOT_UTF8 = "the name is not UTF-8; another program wrote it"


class Snapshot(Protocol):
    """What a store held at one moment. What fails in reading is an error of our tree."""

    def count(self) -> int:
        """Return how many entries there are."""

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield namespace and key of all entries, in the order of `records`, and raise as it does."""

    def records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield all entries, or those of one namespace, by namespace and then by the UTF-8 bytes of the key.

        Raises:
            CorruptRecordError: the name of the next one is not UTF-8; `scan` goes on behind it.
        """

    def scan(self, namespace: str | None = None) -> Iterator[Record | OddName]:
        """Yield what `records` yields, and what it stops at."""

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there."""

    def get_records(self, namespace: str, keys: Sequence[str]) -> Iterator[Record]:
        """Yield the entries of the keys that are there."""

    def layers_of(self, digest: str) -> list[str]:
        """Return the DiffIDs whose lists hold a digest."""

    def blobs_by_layer(self) -> Iterator[tuple[str, str, bytes, bytes | None]]:
        """Yield the entries of blobs by the key of their layers, with what Docker maps each to."""

    def noting(self, note: Note | None) -> AbstractContextManager[None]:
        """Go on behind the body when the database cannot be read on in it, as it is damaged; say so to `note`."""

    def faults(self, note: Note | None) -> Iterator[Fault]:
        """Yield what is wrong with the database itself, and with no entry; `Backend.mend` takes their places."""


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

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Open a view of the store at this moment, for work that reads more than one thing."""

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

    def close(self) -> None:
        """Close every connection, also those of other threads and of the engine. A second call does nothing."""
