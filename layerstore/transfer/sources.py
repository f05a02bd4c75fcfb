"""What can be read from: metadata directories, data roots that have some, tar archives, database files, stores.

Each is scanned as labelled entries, the label saying where an entry came from.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Protocol

from layerstore.docker.dataroot import distributions, has_namespaces
from layerstore.errors import TransferError
from layerstore.files import scanning, temporary
from layerstore.files.scanning import Odd
from layerstore.files.store import FSMetadataStore
from layerstore.formats import tar
from layerstore.paths import absolute, kind, status, why_refused
from layerstore.records import KNOWN_NAMESPACES, Record
from layerstore.sql.backend import Incoming
from layerstore.sql.sqlite.recognition import is_database
from layerstore.sql.sqlite.snapshot import NOT_UTF8, OddName
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import TEMPORARY_PREFIX, Store
from layerstore.transfer import reader
from layerstore.transfer.batches import Batch, in_batches

Progress = Callable[[int, int | None], None]
"""Called with how many entries are done, and how many there are, if that is known."""

ReadableStore = SQLMetadataStore | FSMetadataStore
Place = Store | str | os.PathLike[str]
"""A store, or the path of one: a directory, a data root, a tar archive, a database file; `-` is a tar on stdin."""

STANDARD_INPUT = "-"
_EXPECTED = "give a `distribution` directory, a data root, a tar, or a database (`layerstore import` makes one)"
UNCHANGEABLE = "an archive cannot be changed: import it, then work on the store"


class Readable(Protocol):
    """What work that reads a whole store needs of it."""

    def records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield all entries, by namespace and then by the UTF-8 bytes of the whole key."""

    def get_many(self, namespace: str, keys: list[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there."""


@dataclass(frozen=True, slots=True)
class Source:
    """Something to read entries from.

    Attributes:
        name: what a report calls it.
        batches: yields its entries, and what is none, a handful at a time.
        count: returns how many entries there are, if that can be told beforehand.
        in_order: whether they come in the order of namespaces and keys, each once.
    """

    name: str
    batches: Callable[[], Iterator[Batch]]
    count: Callable[[], int | None]
    in_order: bool


def sources(place: Place) -> list[Source]:
    """Return what a place stands for: several sources for a data root with several drivers, else one.

    Raises:
        TransferError: there is nothing to read from.
        StoreError: a database cannot be opened.
    """
    if not isinstance(place, str | os.PathLike):
        return [_store_source(place)]
    text = os.fspath(place)
    if text == STANDARD_INPUT:
        return [_tar_source("standard input", _standard_input)]
    path = absolute(text)
    try:
        found = status(path)
    except OSError as error:
        raise TransferError(f"cannot be read: {why_refused(error)}", path) from error
    if found is None:
        raise TransferError(f"there is no such file or directory: {_EXPECTED}", path)
    if stat.S_ISDIR(found.st_mode):
        return [_directory_source(base) for base in distributions(path)]
    if stat.S_ISREG(found.st_mode) and is_database(path):
        return [_database_source(path)]
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISFIFO(found.st_mode)):
        raise TransferError(f"{kind(found.st_mode)}: {_EXPECTED}", path)
    return [_tar_source(path, lambda: open(path, "rb"))]


def refuse_unknown(path: str | os.PathLike[str]) -> None:
    """Raise if a directory has files and none of Docker's namespaces, and is not called `distribution` either.

    A store may have any namespaces, so that an import takes every file of such a directory; of `/etc`, too.

    Raises:
        TransferError: it is one; or a data root without any metadata.
    """
    if os.fspath(path) == STANDARD_INPUT:
        return
    base = absolute(path)
    if not os.path.isdir(base) or distributions(base) != [base]:
        return
    if has_namespaces(base) or os.path.basename(base) == tar.ROOT:
        return
    try:
        names = sorted(map(os.fsencode, os.listdir(base)))
    except OSError as error:
        raise TransferError(f"cannot be read: {why_refused(error)}", base) from error
    there = [scanning.show(name) for name in names if not name.startswith(TEMPORARY_PREFIX.encode())]
    if there:
        raise TransferError(
            f"it has none of Docker's namespaces ({', '.join(KNOWN_NAMESPACES)}), but {_shortened(there)}: {_EXPECTED};"
            " --force takes every file below it for an entry",
            base,
        )


def _shortened(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"


def is_archive(place: Place) -> bool:
    """Tell whether a place is read as a tar archive: standard input, or a file that is no database.

    Raises:
        StoreError: the file cannot be read.
    """
    if not isinstance(place, str | os.PathLike):
        return False
    if os.fspath(place) == STANDARD_INPUT:
        return True
    path = absolute(place)
    return os.path.isfile(path) and not is_database(path)


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer


def _directory_source(base: str) -> Source:
    return Source(base, lambda: reader.scan(base), lambda: scanning.count(base), in_order=True)


def _tar_source(name: str, open_: Callable[[], IO[bytes]]) -> Source:
    def scan() -> Iterator[tuple[str, Record | Odd]]:
        try:
            file = open_()
        except OSError as error:
            raise TransferError(f"cannot be read: {why_refused(error)}", name) from error
        if file.closed:
            raise TransferError("it was read to its end already: name it once", name)
        with file:
            yield from tar.scan(file, name)

    return Source(name, lambda: in_batches(scan()), lambda: None, in_order=False)


def _store_source(store: Store) -> Source:
    if not isinstance(store, SQLMetadataStore | FSMetadataStore):
        raise TransferError(f"{type(store).__name__} cannot list its entries: give a store of this package, or a path")

    if isinstance(store, FSMetadataStore):
        return _directory_source(store.path)
    return Source(
        name(store), lambda: in_batches(("", found) for found in _scan_database(store)), lambda: None, in_order=False
    )


def _database_source(path: str) -> Source:
    def batches() -> Iterator[Batch]:
        with SQLMetadataStore(path, read_only=True) as store:
            yield from in_batches(("", found) for found in _scan_database(store))

    def count() -> int | None:
        with SQLMetadataStore(path, read_only=True) as store, store.snapshot() as snapshot:
            return snapshot.count()

    # Not in order: what another program wrote there may be no text, and is once it is read.
    return Source(path, batches, count, in_order=False)


def _scan_database(store: SQLMetadataStore) -> Iterator[Record | Odd]:
    for found in store.scan():
        yield Odd("/".join(found.shown()), "name", NOT_UTF8) if isinstance(found, OddName) else found


@contextmanager
def opened(place: Place, *, write: bool = False) -> Iterator[tuple[ReadableStore, list[Odd]]]:
    """Open a place as one store: a directory as files, a database file as it is, an archive in a temporary database.

    Also gives what an archive holds that is no entry; of a directory, `scanning.scan` tells.

    Raises:
        TransferError: there is nothing at the path, or several directories, or an archive to `write` to.
        StoreError: the database cannot be opened.
    """
    if not isinstance(place, str | os.PathLike):
        _store_source(place)
        assert isinstance(place, SQLMetadataStore | FSMetadataStore)
        yield place, []
        return
    path = None if os.fspath(place) == STANDARD_INPUT else absolute(place)
    if path is not None and os.path.isdir(path):
        found = distributions(path)
        if len(found) > 1:
            raise TransferError(f"several metadata directories: give one of {', '.join(found)}", path)
        with FSMetadataStore(found[0]) as files:
            yield files, []
    elif path is not None and os.path.isfile(path) and is_database(path):
        with SQLMetadataStore(path, read_only=not write) as database:
            yield database, []
    else:
        (archive,) = sources(place)
        if write:
            raise TransferError(UNCHANGEABLE, archive.name)
        with unpacked(archive) as content:
            yield content


@contextmanager
def unpacked(archive: Source) -> Iterator[tuple[SQLMetadataStore, list[Odd]]]:
    """Hold a source's entries, readable or not, in a database that goes afterwards."""
    odd: list[Odd] = []

    def entries() -> Iterator[Incoming]:
        labels: dict[str, None] = {}
        for batch in archive.batches():
            odd.extend(batch.odd)
            if batch.records:
                labels[batch.label] = None
            if len(labels) > 1:
                raise TransferError(f"several metadata directories: {', '.join(labels)}: import it first", archive.name)
            yield Incoming(0, batch.records)

    with (
        temporary.folder("layerstore-") as folder,
        SQLMetadataStore(os.path.join(folder, "archive.db"), durability="normal") as store,
    ):
        store.load(entries(), lambda _source, _existing, incoming, _aside: incoming)
        yield store, odd


@contextmanager
def view(store: ReadableStore) -> Iterator[Readable]:
    """Open a view for reading more than once: a snapshot of a database, a directory as it is."""
    if isinstance(store, SQLMetadataStore):
        with store.snapshot() as snapshot:
            yield snapshot
    else:
        yield store


def name(place: Place) -> str:
    """Return what a report calls a store or path."""
    if isinstance(place, str | os.PathLike):
        text = os.fspath(place)
        return "standard input" if text == STANDARD_INPUT else absolute(text)
    return getattr(place, "path", None) or ":memory:"
