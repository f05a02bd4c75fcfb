"""Removing many entries at once, each only if it is still what it was when it was judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from layerstore.records import DIFF_IDS, V2_METADATA, Record, key_digest
from layerstore.sql.sqlite import statements
from layerstore.sql.store import SQLMetadataStore


class Doomed(NamedTuple):
    """An entry, as it was judged."""

    record: Record
    kept: bytes | None
    """What is stored in its place, with its time; `None` to remove it."""


def remove(store: SQLMetadataStore, doomed: Iterable[Doomed]) -> list[int]:
    """Remove or shorten entries in one transaction; return the numbers of those that were left, as they come.

    Left is what another writer changed since, and the mapping of a digest that a list holds by now: a pull would
    download what it knew. Lists must therefore come before mappings. Other writers wait for all of it.

    Raises: as `SQLMetadataStore.set`; nothing was removed.
    """
    with store.transaction():
        return [number for number, one in enumerate(doomed) if not _remove(store, one)]


def _remove(store: SQLMetadataStore, doomed: Doomed) -> bool:
    record, kept = doomed
    if kept is not None:
        if store.run(statements.IS_UNCHANGED, record) == []:
            return False
        store.put(record._replace(value=kept))
        return True
    digest = key_digest(record.key)
    if record.namespace == DIFF_IDS and store.run(statements.LAYERS_OF_DIGEST, (digest,)):
        return False
    store.run(statements.DELETE_UNCHANGED, record)
    if store.run("SELECT changes()") == [(0,)]:
        return False
    if record.namespace == V2_METADATA:
        store.run(statements.REMOVE_ASSOCIATIONS, (digest,))
    return True


def free_bytes(store: SQLMetadataStore) -> int:
    """Return how much of the file is free for later writes."""
    ((pages,),) = store.run("PRAGMA freelist_count")
    ((size,),) = store.run("PRAGMA page_size")
    return int(pages * size)


def vacuum(store: SQLMetadataStore) -> None:
    """Give the free space of the file back to the file system.

    The database is written anew into the write-ahead log, and from there into the file: it needs twice the room for a
    moment. Other writers wait for that, readers do not. Where one is reading the state of before, file and log shrink
    later: at a checkpoint that comes after it, or when the last process closes the store.

    Raises:
        StoreBusyError: another writer did not end in time. StoreFullError: there is no room. StoreError: it is inside
            `transaction()`, or the store failed.

    Source: sqlite.org/lang_vacuum.html.
    """
    store.run("VACUUM")
    if store.path is None:
        return
    ((timeout_ms,),) = store.run("PRAGMA busy_timeout")
    store.run("PRAGMA busy_timeout=0")  # while it waits for readers, writers would wait for it
    try:
        store.run("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        store.run(f"PRAGMA busy_timeout={timeout_ms}")
