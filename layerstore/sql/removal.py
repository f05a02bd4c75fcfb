"""What only a database has to give back: free space in its file."""

from __future__ import annotations

from layerstore.sql.store import SQLMetadataStore


def free_bytes(store: SQLMetadataStore) -> int:
    """Return how much of the file is free for later writes."""
    return store._backend.free_bytes()


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
    store._backend.vacuum()
