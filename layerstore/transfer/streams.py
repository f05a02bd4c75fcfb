"""Streams of entries: which are fit, in batches, and two of them side by side."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final, NamedTuple

from layerstore.collection import Odd
from layerstore.errors import TransferError
from layerstore.keys import DIFF_IDS, V2_METADATA, Record
from layerstore.records import Association, are_mappings, associations, why_unreadable
from layerstore.store import MAX_SEGMENT, why_not_a_key, why_not_a_namespace

RECORDS = 1000
"""How many entries a batch has at most."""
_BYTES = 4 << 20
"""Of values, so that a batch of large files is no larger than a batch of small ones."""

Row = tuple[str, str, bytes, int]
"""What a `Record` holds; of a million, the plain tuple is made faster."""


_LOOKED_AT: Final = 1000
"""What is no entry, at the beginning of a stream, before the look at it ends."""


class Stream:
    """A source that is read from its beginning to its end, in its own order: an archive, what an engine remembers.

    Args:
        name: what reports call it.
        if_empty: why it is refused if there is no entry in it; `None` takes it.
        is_once: it can be read but once.
    """

    in_order = False

    def __init__(self, name: str, *, if_empty: str | None = None, is_once: bool = False) -> None:
        self.name, self._if_empty, self._is_once = name, if_empty, is_once
        self._begun: Iterator[tuple[str, Record | Odd]] | None = None

    @abstractmethod
    def entries(self) -> Iterator[tuple[str, Record | Odd]]:
        """Read it anew."""

    def count(self) -> None:
        return None

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        begun, self._begun = self._begun, None
        yield from begun or self.entries()

    def look(self, *, hold: bool) -> None:
        """Read up to the first entry, so that what cannot be read is found out before anything is made for it.

        What was read is read no second time, but where a file would have to be held open, and need not be.
        """
        reading = self.entries()
        first: list[tuple[str, Record | Odd]] = []
        for one in islice(reading, _LOOKED_AT):
            first.append(one)
            if isinstance(one[1], Record):
                break
        else:
            if self._if_empty is not None and len(first) < _LOOKED_AT:
                raise TransferError(self._if_empty, self.name)
        self._begun = chain(first, reading) if hold or self._is_once else None


class Batch(NamedTuple):
    """Some of what a source holds."""

    label: str
    """Where below the source's name they are from, or ``."""
    records: list[Row]
    odd: list[Odd]
    """What is no entry, or could not be read."""
    unfit: list[tuple[int, str]]
    """The invalid entries, by their number, with the reason."""
    associations: list[Association]
    """The rows that are derived from the V2 lists among the others."""


def in_batches(labelled: Iterable[tuple[str, Record | Odd]]) -> Iterator[Batch]:
    """Gather what comes one after the other."""
    batch, size = Batch("", [], [], [], []), 0
    for label, found in labelled:
        if label != batch.label:
            if batch.records or batch.odd:
                yield _checked(batch)
            batch, size = Batch(label, [], [], [], []), 0
        if isinstance(found, Odd):
            batch.odd.append(found)
        else:
            batch.records.append(found)
            size += len(found.value)
        if size >= _BYTES or len(batch.records) + len(batch.odd) >= RECORDS:
            yield _checked(batch)
            batch, size = Batch(label, [], [], [], []), 0
    if batch.records or batch.odd:
        yield _checked(batch)


def _checked(batch: Batch) -> Batch:
    if not are_mappings(batch.records):
        for number, row in enumerate(batch.records):
            reason = _why_not_taken(row, batch.associations)
            if reason is not None:
                batch.unfit.append((number, reason))
    return batch


def _why_not_taken(row: Row, derived: list[Association]) -> str | None:
    """Say why an entry cannot be taken, or derive its rows; a database may hold keys that no directory can have."""
    namespace, key, value, _ = row
    # A short key that is a digest's breaks no rule; one that is none has a reason below.
    is_short = namespace in (V2_METADATA, DIFF_IDS) and len(key) <= MAX_SEGMENT
    reason = None if is_short else why_not_a_namespace(namespace) or why_not_a_key(key)
    if reason is not None or namespace != V2_METADATA:
        return reason or why_unreadable(namespace, key, value)
    # A list is read but once.
    try:
        derived += associations(key, value)
    except ValueError as error:
        return str(error)
    return None


def why_unfit(namespace: str, key: str, value: bytes) -> str | None:
    """Say why an entry cannot stay where it is, or return `None`."""
    return why_not_a_namespace(namespace) or why_not_a_key(key) or why_unreadable(namespace, key, value)


Pair = tuple[Record | None, Record | None]


def side_by_side(left: Iterable[Record], right: Iterable[Record]) -> Iterator[Pair]:
    """Yield each key once, with the entries that the two sides have of it.

    Both sides must be ordered as stores order them: by namespace, then by the UTF-8 bytes of the whole key.
    """
    lefts, rights = iter(left), iter(right)
    one, other = next(lefts, None), next(rights, None)
    while one is not None or other is not None:
        if other is None or (one is not None and _place(one) < _place(other)):
            yield one, None
            one = next(lefts, None)
        elif one is None or _place(other) < _place(one):
            yield None, other
            other = next(rights, None)
        else:
            yield one, other
            one, other = next(lefts, None), next(rights, None)


def _place(record: Record) -> tuple[bytes, bytes]:
    return record.namespace.encode(), record.key.encode("utf-8", "surrogatepass")
