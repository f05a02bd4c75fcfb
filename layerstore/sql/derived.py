"""The rows that are derived from V2 lists and blobs: kept right by every write, checked and rebuilt by `verify`.

`metadata` is the truth. A list that cannot be read, an entry with an odd digest, and a key that is no DiffID have no
rows. Positions only rise; a gap stays where an entry went, so that nothing need be renumbered. Nothing is read or
written here.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import astuple

from layerstore import blobs
from layerstore.digest import are_sha256, is_digest, match_digest
from layerstore.errors import CorruptRecordError
from layerstore.keys import key_digest
from layerstore.records import Association, V2Metadata, associations, decode_list

Row = tuple[int, str, str, str]
"""Position, digest, source repository, HMAC."""


Difference = tuple[list[int], list[Row]]
"""What makes the rows of a layer those that its list wants: positions of rows that go, and rows that come."""


def wanted(key: str, value: bytes) -> tuple[str | None, Sequence[V2Metadata]]:
    """Return the DiffID of a list, `None` if its key is none, and the entries that have rows."""
    diff_id = key_digest(key)
    if diff_id is None:
        return None, []
    return diff_id, with_rows(listed(value))


def rows(key: str, value: bytes) -> list[Association]:
    """Return the rows of a list that has none yet."""
    try:
        return associations(key, value)
    except ValueError:
        return []


def difference(there: Sequence[Row], entries: Sequence[V2Metadata]) -> Difference:
    """Return the difference between the rows that are there and those that a list wants.

    What stays is the longest beginning of the new list that the old one has in the same order; so an append, a move
    to the end and an eviction cost a row or two each.
    """
    new, old, stale = texts(entries), [row[1:] for row in there], []
    if old == new[: len(old)]:  # an append, as nearly always
        new = [one for one in new[len(old) :] if match_digest(one[0])]
    else:
        # A digest that has a row was found to be one when that was written.
        known = {one[0] for one in old}
        new = [one for one in new if one[0] in known or match_digest(one[0])]
        gone, kept = beginning(old, new)
        stale = [there[number][0] for number in gone]
        del new[:kept]
    at = there[-1][0] if there else 0
    rows_to_come = []
    for digest, source_repository, hmac in new:
        at += 1
        rows_to_come.append((at, digest, source_repository, hmac))
    return stale, rows_to_come


def beginning(old: Sequence[object], new: Sequence[object]) -> tuple[list[int], int]:
    """Return which ones of an old list are not in the longest beginning of a new one that it has, and how long that is.

    Both in the same order. The first of the old list is number 0.
    """
    gone, kept = [], 0
    for number, one in enumerate(old):
        if kept < len(new) and one == new[kept]:
            kept += 1
        else:
            gone.append(number)
    return gone, kept


def listed(value: bytes) -> list[V2Metadata]:
    """Return what a list holds; one that cannot be read has no rows."""
    try:
        return decode_list(value)
    except ValueError:
        return []


def with_rows(entries: Sequence[V2Metadata]) -> Sequence[V2Metadata]:
    """Return the entries that have rows."""
    if are_sha256([entry.digest for entry in entries]):
        return entries
    return [entry for entry in entries if is_digest(entry.digest)]


def texts(entries: Sequence[V2Metadata]) -> list[tuple[str, str, str]]:
    """Return what the rows of these entries hold behind their position."""
    return list(map(astuple, entries))


BlobRow = tuple[str | None, str | None, str | None]
"""DiffID, compression, digest of the table of contents."""


def blob(key: str, value: bytes) -> tuple[BlobRow | None, dict[str, int | None]]:
    """Return what the row of a blob holds behind its digest, and its locations; of what cannot be read, nothing."""
    try:
        found = blobs.decode(value, key)
    except CorruptRecordError:
        return None, {}
    return (found.diff_id, found.compression, found.toc), dict(found.locations)
