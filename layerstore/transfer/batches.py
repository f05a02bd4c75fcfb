"""What a source gives, a handful at a time: entries and what is none, with where they are from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from layerstore.records import Record
from layerstore.scanning import Odd

_RECORDS = 1000
_BYTES = 4 << 20
"""Of values, so that a batch of large files is no larger than a batch of small ones."""


Row = tuple[str, str, bytes, int]
"""What a `Record` holds; of a million, the plain tuple is made faster."""


class Batch(NamedTuple):
    """Some of what a source holds."""

    label: str
    """Where below the source's name they are from, or ``."""
    records: list[Row]
    odd: list[Odd]


def in_batches(labelled: Iterable[tuple[str, Record | Odd]]) -> Iterator[Batch]:
    """Gather what comes one after the other."""
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
        if len(batch.records) + len(batch.odd) >= _RECORDS or size >= _BYTES:
            yield batch
            batch, size = Batch(label, [], []), 0
    if batch.records or batch.odd:
        yield batch
