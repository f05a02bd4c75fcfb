"""What a path is: a metadata directory, a data root that has some, or a database file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from layerstore.errors import TransferError
from layerstore.fs import FSMetadataStore
from layerstore.records import KNOWN_NAMESPACES, Record
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import Store

Progress = Callable[[int, int | None], None]
"""Called with how many entries are done, and how many there are, if that is known."""

ReadableStore = SQLMetadataStore | FSMetadataStore


class Readable(Protocol):
    """What work that reads a whole store needs of it."""

    def records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield all entries, by namespace and then by the UTF-8 bytes of the whole key."""

    def get_many(self, namespace: str, keys: list[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there."""


def distributions(path: str | os.PathLike[str]) -> list[str]:
    """Return the metadata directories that a path stands for: itself, or a data root's `image/*/distribution`.

    A directory that has one of Docker's namespaces is itself one.

    Raises:
        TransferError: there is no directory, or it is a data root without any metadata.
    """
    base = os.path.abspath(os.fspath(path))
    if not os.path.isdir(base):
        what = "not a directory" if os.path.exists(base) else "there is no such directory"
        raise TransferError(f"{what}: give a `distribution` directory or a Docker data root", base)
    if any(os.path.isdir(os.path.join(base, namespace)) for namespace in KNOWN_NAMESPACES):
        return [base]
    image = os.path.join(base, "image")
    if not os.path.isdir(image):
        return [base]
    found = [os.path.join(image, driver, "distribution") for driver in sorted(os.listdir(image))]
    found = [directory for directory in found if os.path.isdir(directory)]
    if not found:
        raise TransferError("a data root without image/*/distribution: this host has recorded nothing yet", base)
    return found


@contextmanager
def opened(store_or_path: Store | str | os.PathLike[str], *, write: bool = False) -> Iterator[ReadableStore]:
    """Open what is given as a store: a store as it is, a directory as files, a file as a database.

    Raises:
        TransferError: a store that cannot list its entries; a path that is not there; several directories.
        StoreError: the database cannot be opened.
    """
    if isinstance(store_or_path, SQLMetadataStore | FSMetadataStore):
        yield store_or_path
        return
    if not isinstance(store_or_path, str | os.PathLike):
        raise TransferError(f"{type(store_or_path).__name__} cannot list its entries: give a store or a path")
    path = os.path.abspath(os.fspath(store_or_path))
    if os.path.isdir(path):
        found = distributions(path)
        if len(found) > 1:
            raise TransferError(f"several metadata directories: give one of {', '.join(found)}", path)
        with FSMetadataStore(found[0]) as files:
            yield files
        return
    if not os.path.exists(path):
        raise TransferError("there is no such file or directory", path)
    with SQLMetadataStore(path, read_only=not write) as database:
        yield database


@contextmanager
def view(store: ReadableStore) -> Iterator[Readable]:
    """Open a view for reading more than once: a snapshot of a database, a directory as it is."""
    if isinstance(store, SQLMetadataStore):
        with store.snapshot() as snapshot:
            yield snapshot
    else:
        yield store


def name(store_or_path: object) -> str:
    """Return what a report calls a store or path."""
    if isinstance(store_or_path, str | os.PathLike):
        return os.path.abspath(os.fspath(store_or_path))
    return getattr(store_or_path, "path", None) or ":memory:"
