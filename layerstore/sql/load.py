"""Taking in many entries at once: staged beside the database first, then merged in one transaction.

Staging reads and decodes while other writers go on; the write lock is held for the merge alone. What is staged is in
temporary tables, so that memory stays bounded, and sorted by key, so that the B-trees of the store are appended to. Of
a key that a source has twice, as an archive may, the last one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import islice
from typing import NamedTuple

from layerstore.records import V2_METADATA, Record
from layerstore.sql import derived
from layerstore.sql.store import SQLMetadataStore

_BATCH = 2000

_STAGE = (
    "CREATE TEMP TABLE staged("
    "source INTEGER, namespace TEXT, key TEXT, value BLOB, modified_at_ns INTEGER,"
    " PRIMARY KEY (source, namespace, key)) WITHOUT ROWID",
    "CREATE TEMP TABLE staged_unfit(namespace TEXT, key TEXT, value BLOB, reason TEXT)",
    "CREATE TEMP TABLE staged_v2("
    "source INTEGER, key TEXT, diff_id TEXT, position INTEGER, digest TEXT, source_repository TEXT, hmac TEXT,"
    " PRIMARY KEY (source, key, position)) WITHOUT ROWID",
)
_UNSTAGE = tuple(f"DROP TABLE IF EXISTS temp.{table}" for table in ("staged", "staged_unfit", "staged_v2"))
_ADD_STAGED = "INSERT OR REPLACE INTO temp.staged VALUES (?, ?, ?, ?, ?)"
_ADD_UNFIT = "INSERT INTO temp.staged_unfit VALUES (?, ?, ?, ?)"
_FORGET_STAGED_V2 = "DELETE FROM temp.staged_v2 WHERE source = ? AND key = ?"
_ADD_STAGED_V2 = "INSERT INTO temp.staged_v2 VALUES (?, ?, ?, ?, ?, ?, ?)"

_ABSENT = "NOT EXISTS (SELECT 1 FROM main.metadata m WHERE m.namespace = {namespace} AND m.key = s.key)"
_DIFFERING = """
    SELECT s.namespace, s.key FROM temp.staged s JOIN main.metadata m ON m.namespace = s.namespace AND m.key = s.key
    WHERE s.source = ?
    AND (CAST(m.value AS BLOB) <> s.value OR m.modified_at_ns <> s.modified_at_ns)
    ORDER BY s.namespace, s.key"""
_FORGET_STALE_V2 = f"""
    DELETE FROM main.v2_metadata WHERE diff_id IN (
    SELECT diff_id FROM temp.staged_v2 s WHERE source = ? AND {_ABSENT.format(namespace=f"'{V2_METADATA}'")})"""
_ADD_V2 = f"""
    INSERT INTO main.v2_metadata(diff_id, position, digest, source_repository, hmac)
    SELECT diff_id, position, digest, source_repository, hmac FROM temp.staged_v2 s
    WHERE source = ? AND {_ABSENT.format(namespace=f"'{V2_METADATA}'")} ORDER BY s.key, s.position"""
_ADD = f"""
    INSERT INTO main.metadata(namespace, key, value, modified_at_ns)
    SELECT namespace, key, value, modified_at_ns FROM temp.staged s
    WHERE source = ? AND {_ABSENT.format(namespace="s.namespace")} ORDER BY namespace, key"""
_CLASH = """
    SELECT CAST(m.value AS BLOB), m.modified_at_ns, s.value, s.modified_at_ns
    FROM temp.staged s JOIN main.metadata m ON m.namespace = s.namespace AND m.key = s.key
    WHERE s.source = ? AND s.namespace = ? AND s.key = ?"""
_UNFIT = "SELECT namespace, key, value, reason FROM temp.staged_unfit"


class Incoming(NamedTuple):
    """An entry on its way in."""

    source: int
    """Which source it is from; sources are merged one after the other, by this number."""
    record: Record
    reason: str | None
    """Why it cannot be taken and goes to quarantine instead; `None` when it can."""


class Loaded(NamedTuple):
    """What a load did with one source, in entries. One whose time alone is later by now is not counted."""

    added: int
    updated: int


Resolve = Callable[[Record, Record], Record | None]
"""Given the entry that is there and the one that comes in, return what to store, or `None` to leave it as it is."""


def load(store: SQLMetadataStore, incoming: Iterable[Incoming], resolve: Resolve) -> dict[int, Loaded]:
    """Stage everything, then merge it in one transaction; return what was done, by source.

    What has a reason against it goes to quarantine; where an entry is there and differs, in its value or its time,
    `resolve` says what to store. In memory, where all threads have one connection, the others wait for all of it.

    Raises: as `SQLMetadataStore.set`, nothing was taken in; what `incoming` raises, as it is.
    """
    with store.transaction() if store.path is None else nullcontext():
        try:
            sources = _stage(store, incoming)
            with store.transaction():
                for namespace, key, value, reason in store.run(_UNFIT):
                    store.quarantine(namespace, key, value, reason)
                return {source: _merge(store, source, resolve) for source in sorted(sources)}
        finally:
            for statement in _UNSTAGE:
                store.run(statement)


def _stage(store: SQLMetadataStore, incoming: Iterable[Incoming]) -> set[int]:
    sources: set[int] = set()
    for statement in (*_UNSTAGE, *_STAGE):
        store.run(statement)
    for batch in _batches(incoming):
        # In a transaction for speed; deferred, so that it locks the temporary database alone.
        with store.transaction(deferred=True):
            for entry in batch:
                sources.add(entry.source)
                _stage_one(store, entry)
    return sources


def _batches(incoming: Iterable[Incoming]) -> Iterator[list[Incoming]]:
    rest = iter(incoming)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _stage_one(store: SQLMetadataStore, entry: Incoming) -> None:
    source, record, reason = entry
    if reason is not None:
        store.run(_ADD_UNFIT, (*record[:3], reason))
        return
    store.run(_ADD_STAGED, (source, *record))
    if record.namespace == V2_METADATA:
        store.run(_FORGET_STAGED_V2, (source, record.key))
        for row in derived.rows(record.key, record.value):
            store.run(_ADD_STAGED_V2, (source, record.key, *row))


def _merge(store: SQLMetadataStore, source: int, resolve: Resolve) -> Loaded:
    differing = store.run(_DIFFERING, (source,))
    store.run(_FORGET_STALE_V2, (source,))  # rows that another program left without their list
    store.run(_ADD_V2, (source,))
    store.run(_ADD, (source,))
    ((added,),) = store.run("SELECT changes()")
    updated = 0
    for namespace, key in differing:
        ((value, modified_at_ns, new_value, new_modified_at_ns),) = store.run(_CLASH, (source, namespace, key))
        existing = Record(namespace, key, value, modified_at_ns)
        stored = resolve(existing, Record(namespace, key, new_value, new_modified_at_ns))
        if stored is not None and stored != existing:
            store.put(stored)
            updated += stored.value != existing.value
    return Loaded(added, updated)
