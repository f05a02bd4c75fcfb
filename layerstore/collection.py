"""Entries somewhere: what a database, a directory and an archive of entries have in common.

Whatever works on whole stores (`layerstore.transfer`) is written against the protocols here, and does not ask what it
has. A store gives its collection by the method `_collection`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from layerstore.errors import CorruptRecordError, StoreError
from layerstore.keys import Record
from layerstore.store import SetAside, Store

if TYPE_CHECKING:
    from layerstore.records import Association

Place = tuple[str | bytes, ...]
"""By which `Collection.mend` finds what it can mend: namespace and digest of derived rows, namespace and key of an odd
row."""


NOT_UTF8: Final = "the name is not UTF-8; another program wrote it"


class Odd(NamedTuple):
    """Something that is no entry, or whose entry could not be read."""

    path: str
    """Below the collection's name; bytes that are not UTF-8 are shown as `\\xff`."""
    kind: str
    """`temporary`, `special`, `name`, `outside`, `unreadable` or `vanished`."""
    reason: str
    place: Place | None = None


class Fault(NamedTuple):
    """Something wrong with a collection itself, and with none of its entries."""

    kind: str
    """As `layerstore.transfer.verifying` calls it."""
    example: str | None
    number: int = 1
    """How many there are."""
    place: Place | None = None


class Doomed(NamedTuple):
    """An entry that is to be removed, as it was judged."""

    record: Record
    kept: bytes | None
    """What is stored in its place, with its time; `None` to remove it."""


class Incoming(NamedTuple):
    """Entries on their way in."""

    source: int
    """Which source they are from; sources are merged one after the other, by this number."""
    records: Sequence[tuple[str, str, bytes, int]]
    """Those that can be taken."""
    unfit: Sequence[tuple[str, str, bytes, str]] = ()
    """Those that cannot, with the reason; they go to quarantine instead."""
    in_order: bool = False
    """Whether this source comes in the order of namespaces and keys, each once. Otherwise it is sorted first, and of a
    key that it has twice, as an archive may, the last one counts."""
    associations: Sequence[Association] = ()
    """The rows that are derived from the lists among them, where they come in order."""
    last_stays: bool = False
    """Whether the last one counts also of what other engines know of one blob. Otherwise that is united."""


class Loaded(NamedTuple):
    """What a load did with one source, in entries. One whose time alone is later by now is not counted."""

    added: int
    updated: int
    refused: Sequence[SetAside] = ()
    """What only this database cannot hold; it was quarantined."""


Aside = Callable[[Record, str], None]
"""Keep an entry's bytes in quarantine, with the reason."""

Resolve = Callable[[int, Record, Record, Aside], Record | None]
"""Given the source, the entry that is there and the one that comes in, return what to store, or `None` to leave it.
What is lost by that can be set aside by the last argument."""

Note = Callable[[str], None]
"""Is told what cannot be read of a damaged database, so that the rest can be."""


class View(Protocol):
    """A collection to be read more than once: a database as it was at one moment, a directory as it is."""

    def count(self) -> int:
        """Return how many entries there are, or files."""

    def scan(self, namespace: str | None = None) -> Iterator[Record | Odd]:
        """Yield all entries, or those of one namespace, by namespace and then by the UTF-8 bytes of the key."""

    def names(self) -> Iterator[tuple[str, str]]:
        """Yield namespace and key of all entries, in the order of `scan`.

        Raises:
            CorruptRecordError: the name of the next one is not UTF-8.
        """

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there."""

    def faults(self) -> Iterator[Fault]:
        """Yield what is wrong with the collection itself."""


class IndexedView(View, Protocol):
    """A view that finds lists by what they hold, as a database does."""

    def lists_with(self, digest: str) -> Iterator[Record]:
        """Yield the layers' lists that hold a digest."""

    def blobs_by_layer(self) -> Iterator[tuple[str, str, bytes, bytes | None]]:
        """Yield what other engines know of blobs whose layer is known, by layer: the key of the layer's list, the key
        and value of the blob's entry, and the DiffID that Docker's mapping has of it, if there is one."""


class Source(Protocol):
    """Something to read entries from, once."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    @property
    def in_order(self) -> bool:
        """Whether its entries come in the order of namespaces and keys, each once."""

    def count(self) -> int | None:
        """Return how many entries there are, if that can be told beforehand."""

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        """Yield what there is, each with where below the name it is from (an archive may hold several directories)."""


class Collection(Source, Protocol):
    """Entries that can be read more than once, and changed."""

    @property
    def store(self) -> Store:
        """The store that keeps them, for what any store can do."""

    @property
    def directory(self) -> str | None:
        """The directory of files that it is, on which a daemon may run; else `None`."""

    def view(self, note: Note | None = None) -> AbstractContextManager[View]:
        """Open a view. With `note`, what cannot be read is told to that, or left out, and is no error."""

    def indexed(self) -> AbstractContextManager[IndexedView] | None:
        """Open a view that finds lists by what they hold; `None` where there is no index for that."""

    def refuse_change(self) -> None:
        """Raise if it cannot be changed, or must not be.

        Raises:
            StoreOpenError: a database has other tables or triggers than this package makes.
            TransferError: it stands for an archive.
        """

    def set_aside(self, namespace: str, key: str, value: bytes, reason: str) -> None:
        """Keep bytes in quarantine."""

    @property
    def moved_to(self) -> str | None:
        """Where files were set aside; `None` if none were, or the quarantine is in the database."""

    def mend(self, kind: str, place: Place) -> bool:
        """Mend a fault, or move a row whose name is not UTF-8 to quarantine; tell whether it was there."""

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        """Remove or shorten entries, each only if it is still what it was; return the numbers of those that were left.

        The mapping of a digest stays while a list holds it; so lists must come before mappings.
        """

    def remove_temporary(self, *, dry_run: bool) -> int:
        """Remove the files that writes left behind; return how many there are."""

    def free_bytes(self, *, vacuum: bool) -> int | None:
        """Return how much of a database file is free for later writes, with `vacuum` given back first; else `None`."""


class Target(Collection, Protocol):
    """A collection that can take in any number of entries in one transaction."""

    def load(self, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
        """Take in entries; where one is there and differs, `resolve` says what to store. All of them, or none."""


def records(view: View, namespace: str | None = None) -> Iterator[Record]:
    """Yield all entries of a view, or those of one namespace, in order; what is no entry is left out.

    Raises:
        CorruptRecordError: the name of an entry is not UTF-8. StoreError: a file or directory cannot be read.
    """
    for found in view.scan(namespace):
        if isinstance(found, Record):
            yield found
        elif found.place is not None:
            namespace, _, key = found.path.partition("/")
            raise CorruptRecordError(namespace, key, found.reason)
        elif found.kind == "unreadable":
            raise StoreError(found.reason, found.path)


RECORDS = 1000
"""How many entries a batch has at most."""
_BYTES = 4 << 20
"""Of values, so that a batch of large files is no larger than a batch of small ones."""


class Batch(NamedTuple):
    """Some of what a source or view holds."""

    label: str
    """Where below the source's name they are from, or ``."""
    records: list[Record]
    odd: list[Odd]
    """What is no entry, or could not be read."""


def in_batches(labelled: Iterable[tuple[str, Record | Odd]]) -> Iterator[Batch]:
    """Gather what comes one after the other, each with where it is from."""
    batch, size = Batch("", [], []), 0
    for label, found in labelled:
        if label != batch.label:
            if batch.records or batch.odd:
                yield batch
            batch, size = Batch(label, [], []), 0
        if isinstance(found, Odd):
            batch.odd.append(found)
        else:
            batch.records.append(found)
            size += len(found.value)
        if size >= _BYTES or len(batch.records) + len(batch.odd) >= RECORDS:
            yield batch
            batch, size = Batch(label, [], []), 0
    if batch.records or batch.odd:
        yield batch


Pair = tuple[Record | None, Record | None]


def side_by_side(left: Iterable[Record], right: Iterable[Record]) -> Iterator[Pair]:
    """Yield each key once, with the entries that the two sides have of it.

    Both sides must be ordered as stores order them: by namespace, then by the UTF-8 bytes of the whole key.
    """
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if other is None or (one is not None and _order(one) < _order(other)):
            yield one, None
            one = next(lefts, None)
        elif one is None or _order(other) < _order(one):
            yield None, other
            other = next(rights, None)
        else:
            yield one, other
            one, other = next(lefts, None), next(rights, None)


def _order(record: Record) -> tuple[bytes, bytes]:
    return record.namespace.encode(), record.key.encode("utf-8", "surrogatepass")
