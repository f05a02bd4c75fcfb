"""What a PATH, a text or a store stands for, told by its content: here, and nowhere else.

A store is its own collection. A path is a directory of metadata, a data root that has some, a database, or else an
archive; `-` is an archive on standard input. Where nothing of Docker's is found, that is an error which says what the
place looks like, unless somebody said that it is meant.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import IO, cast

from layerstore.arguments import a_store
from layerstore.collection import Collection, Fault, Incoming, IndexedView, Note, Odd, Source, Target, View
from layerstore.docker.dataroot import distributions, has_namespaces
from layerstore.errors import InvalidInputError, TransferError
from layerstore.files import scan, temporary, tree
from layerstore.files.store import FSMetadataStore
from layerstore.formats import tar, tar_members
from layerstore.formats.facts import UNCERTAIN
from layerstore.keys import BLOBS, Record
from layerstore.paths import PERMISSION_DENIED, absolute, kind, status
from layerstore.sql.collection import DatabaseCollection
from layerstore.sql.sqlite.recognition import is_database
from layerstore.sql.store import SQLMetadataStore
from layerstore.sql.url import names_a_database, shown
from layerstore.store import TEMPORARY_PREFIX, Store
from layerstore.transfer import engines
from layerstore.transfer.looks import EXPECTED, NEW_FILE_SYSTEM, looks_like
from layerstore.transfer.streams import Stream, in_batches

Progress = Callable[[int, int | None], None]
"""Called with how many entries are done, and how many there are, if that is known."""

Place = Store | str | os.PathLike[str]
"""A store, or the path of one: a directory, a data root, a tar archive, a database file; `-` is a tar on stdin. Or the
URL of a database, in a file or on a server; a file of such a name is `./postgresql:…`, or a `Path`."""

STANDARD_INPUT = "-"
_UNCHANGEABLE = "it can only be read, and cannot be changed: import it, then work on the store"
_HELD = 100
"""Sources of which an archive is held open between the look into it and its reading. Those behind are opened again."""


def name(place: Place) -> str:
    """Return what a report calls a store or path."""
    if not isinstance(place, str | os.PathLike):
        return getattr(place, "path", None) or ":memory:"
    if names_a_database(place):
        return shown(place)
    asked = engines.of_text(place) if isinstance(place, str) else None
    if asked is not None:
        return asked.name
    return "standard input" if os.fspath(place) == STANDARD_INPUT else absolute(place)


def is_database_file(path: str) -> bool:
    """Tell whether a path is a database of this package, or nothing that anything can be read from."""
    if names_a_database(path) or engines.of_text(path) is not None or os.path.isdir(path):
        return path.startswith("sqlite:")
    file = absolute(path)
    return not os.path.isfile(file) or (is_database(file) and engines.of_file(file, is_database=True) is None)


def target(store: Store) -> Target:
    """Return a store as what an import fills.

    Raises:
        InvalidInputError: it is none that can take in many entries at once.
    """
    collection: Target | None = getattr(store, "_collection", lambda: None)()
    if not hasattr(collection, "load"):
        raise InvalidInputError(f"importing needs a SQLMetadataStore, not {type(store).__name__}")
    assert collection is not None
    return collection


def sources(places: Sequence[Place | Source], *, force: bool = False, allow_empty: bool = False) -> list[Source]:
    """Return what several places stand for: one source each, but for a data root several, all with something in them.

    Args:
        places: stores and paths; a source that was made of one is kept.
        force: take a directory with none of Docker's namespaces, and every file below it for an entry.
        allow_empty: take also what has nothing in it.

    Raises:
        TransferError: there is nothing to read from, or nothing in it.
        StoreError: a database or directory cannot be read.
    """
    found: list[Source] = []
    for place in places:
        if isinstance(place, str | os.PathLike):
            for source in _sources_of(place, force=force, allow_empty=allow_empty):
                source.look(hold=len(found) < _HELD)
                found.append(source)
        else:
            # What this function has returned knows its order; no store does.
            found.append(cast("Source", place) if hasattr(place, "in_order") else _of_store(place))
    return found


@contextmanager
def opened(place: Place, *, write: bool = False, force: bool = False) -> Iterator[Collection]:
    """Open a place as one collection: a directory as files, a database as it is, an archive in a temporary database.

    Args:
        place: a store or a path.
        write: open it to be changed.
        force: take a directory with none of Docker's namespaces.

    Raises:
        TransferError: there is nothing at the path, or several directories, or none of Docker's; or, to `write`, it is
            an archive.
        StoreError: it cannot be opened.
    """
    if not isinstance(place, str | os.PathLike):
        yield _of_store(place)
        return
    found = _sources_of(place, force=force, allow_empty=force)
    # What other engines have beside Docker's directory, in a data root, is imported only.
    found = [source for source in found if not isinstance(source, engines.Memory)] or found
    if len(found) != 1:
        names = ", ".join(source.name for source in found)
        what = f"several metadata directories: give one of {names}" if found else "it has no metadata"
        raise TransferError(what, name(place))
    (source,) = found
    if isinstance(source, Stream) and write:
        raise TransferError(_UNCHANGEABLE, source.name)
    with unpacked(source) if isinstance(source, Stream) else source.opened(write=write) as collection:
        yield collection


@contextmanager
def unpacked(source: Source) -> Iterator[Unpacked]:
    """Hold a source's entries, readable or not, in a database that goes afterwards."""
    odd: list[Odd] = []

    def entries() -> Iterator[Incoming]:
        labels: dict[str, None] = {}
        for batch in in_batches(source.read()):
            odd.extend(one for one in batch.odd if one.kind != UNCERTAIN)
            if batch.records:
                labels[batch.label] = None
            if len(labels) > 1:
                raise TransferError(f"several metadata directories: {', '.join(labels)}: import it first", source.name)
            yield Incoming(0, batch.records)

    with (
        temporary.folder("layerstore-") as folder,
        SQLMetadataStore(os.path.join(folder, "archive.db"), durability="normal") as store,
    ):
        copy = Unpacked(store, source.name, odd)
        copy.load(entries(), lambda _source, _existing, incoming, _aside: incoming)
        yield copy


@contextmanager
def indexed(collection: Collection) -> Iterator[tuple[IndexedView, list[Odd]]]:
    """Open a view that finds lists by what they hold, of a temporary database if the collection has none.

    Also gives what that left out: what is no entry.
    """
    own = collection.indexed()
    if own is not None:
        with own as view:
            yield view, []
        return
    with unpacked(collection) as copy, copy.indexed() as view:
        yield view, copy.odd


@contextmanager
def viewed(collection: Collection) -> Iterator[tuple[View, IndexedView | None]]:
    """Open a view; and the same as one that finds lists and blobs by what they hold, if other engines know anything."""
    own = collection.indexed()
    with collection.view() if own is None else own as view:
        if next(view.scan(BLOBS), None) is None:
            yield view, None
            return
        if own is not None:
            yield view, cast("IndexedView", view)
            return
    with unpacked(collection) as copy, copy.indexed() as indexed:
        yield indexed, indexed


class Unpacked(DatabaseCollection):
    """A temporary database that stands for a source, and what the source has that is no entry."""

    def __init__(self, store: SQLMetadataStore, source: str, odd: list[Odd]) -> None:
        super().__init__(store, store._backend)
        self.name, self.odd = source, odd

    def refuse_change(self) -> None:
        raise TransferError(_UNCHANGEABLE, self.name)

    @contextmanager
    def view(self, note: Note | None = None) -> Iterator[View]:
        with super().view(note) as view:
            yield _ViewWithOdd(view, self.odd)


class _ViewWithOdd:
    """A view of a temporary database, of which nobody need know what is wrong with it."""

    def __init__(self, view: View, odd: list[Odd]) -> None:
        self._view, self._odd = view, odd
        self.count, self.names, self.get_many = view.count, view.names, view.get_many

    def scan(self, namespace: str | None = None) -> Iterator[Record | Odd]:
        return chain(self._odd if namespace is None else (), self._view.scan(namespace))

    def faults(self) -> Iterator[Fault]:
        return iter(())


class _Directory:
    """A directory of metadata."""

    in_order = True

    def __init__(self, path: str, *, may_be_empty: bool) -> None:
        self.name, self._may_be_empty = path, may_be_empty

    def count(self) -> int:
        return scan.count(self.name)

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        return (("", found) for found in scan.scan(self.name))

    def look(self, *, hold: bool) -> None:
        if not self._may_be_empty:
            _refuse_nothing(self)

    @contextmanager
    def opened(self, *, write: bool = False) -> Iterator[Collection]:
        with FSMetadataStore(self.name) as store:
            yield store._collection()


class _Database:
    """A database in a file or on a server, opened when it is read."""

    in_order = False

    def __init__(self, path_or_url: str, *, may_be_empty: bool) -> None:
        self.name, self._place, self._may_be_empty = shown(path_or_url), path_or_url, may_be_empty

    def count(self) -> int | None:
        with self.opened() as database:
            return database.count()

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        with self.opened() as database:
            yield from database.read()

    def look(self, *, hold: bool) -> None:
        if not self._may_be_empty:
            _refuse_nothing(self)

    @contextmanager
    def opened(self, *, write: bool = False) -> Iterator[Collection]:
        with SQLMetadataStore(self._place, read_only=not write) as store:
            yield store._collection()


def _refuse_nothing(source: Source) -> None:
    """Raise if there is no entry in a source: before anything is made for what it has."""
    if not any(isinstance(found, Record) for _, found in source.read()):
        raise TransferError(f"there is no entry in it: {EXPECTED}; --allow-empty accepts it", source.name)


class _Archive(Stream):
    """A tar."""

    def __init__(
        self, name: str, open_: Callable[[], IO[bytes]], *, is_once: bool, force: bool, allow_empty: bool
    ) -> None:
        super().__init__(name, is_once=is_once)
        self._open, self._force, self._allow_empty = open_, force, allow_empty

    def entries(self) -> Iterator[tuple[str, Record | Odd]]:
        try:
            file = self._open()
        except OSError as error:
            raise TransferError(tree.why_unreadable(error), self.name) from error
        if file.closed:
            raise TransferError("it was read to its end already: name it once", self.name)
        with file:
            yield from tar.scan(file, self.name, force=self._force, allow_empty=self._allow_empty)


_Place = _Directory | _Database | Stream


def _named(place: str | os.PathLike[str], *, force: bool, allow_empty: bool) -> _Place | None:
    """Return what a text stands for that is no path; `None` if it is one."""
    if os.fspath(place) == STANDARD_INPUT:
        return _Archive("standard input", _standard_input, is_once=True, force=force, allow_empty=allow_empty)
    if not isinstance(place, str):
        return None
    return _Database(place, may_be_empty=allow_empty) if names_a_database(place) else engines.of_text(place)


def _sources_of(place: str | os.PathLike[str], *, force: bool, allow_empty: bool) -> Sequence[_Place]:
    named = _named(place, force=force, allow_empty=allow_empty)
    if named is not None:
        return [named]
    path = absolute(place)
    there = _status(path)
    if stat.S_ISDIR(there.st_mode):
        return _directories(path, force=force, allow_empty=allow_empty)
    if not os.access(path, os.R_OK):
        raise TransferError(f"cannot be read: {PERMISSION_DENIED}", path)
    is_file = stat.S_ISREG(there.st_mode)
    if not (is_file or stat.S_ISFIFO(there.st_mode)):
        socket = f"; if it is containerd's, give containerd:{path}" if stat.S_ISSOCK(there.st_mode) else ""
        raise TransferError(f"{kind(there.st_mode)}: {EXPECTED}{socket}", path)
    if is_file and not there.st_size:
        raise TransferError(f"an empty file: it was cut off, or a disk was full; {EXPECTED}", path)
    is_ours = is_file and is_database(path)
    memory = engines.of_file(path, is_database=is_ours, allow_empty=allow_empty) if is_file else None
    if memory is not None:
        return [memory]
    if is_ours:
        return [_Database(path, may_be_empty=allow_empty)]
    return [_Archive(path, lambda: open(path, "rb"), is_once=not is_file, force=force, allow_empty=allow_empty)]


def _directories(path: str, *, force: bool, allow_empty: bool) -> Sequence[_Place]:
    """Return the directories of metadata that a directory stands for.

    A store may have any namespaces, so that an import would take every file of such a directory; of `/etc`, too.
    """
    readable = os.access(path, os.R_OK | os.X_OK)
    memories: Sequence[_Place] = engines.in_directory(path) if readable else ()
    try:
        found = distributions(path, may_be_none=bool(memories))
        names = os.listdir(path)
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    except TransferError:
        if allow_empty and os.path.isdir(os.path.join(path, "image")):
            return []  # it has recorded nothing yet
        raise
    if memories:
        return [*(_Directory(base, may_be_empty=True) for base in found), *memories]
    # An empty one of this name is a fresh host's.
    is_known = found != [path] or has_namespaces(path) or os.path.basename(path) == tar_members.ROOT
    there = [name for name in names if not name.startswith(TEMPORARY_PREFIX) and name != NEW_FILE_SYSTEM]
    if not (is_known or (force if there else allow_empty)):
        raise TransferError(looks_like(path, there), path)
    return [_Directory(base, may_be_empty=is_known or allow_empty) for base in found]


def _of_store(store: Store) -> Collection:
    make: Callable[[], Collection] | None = getattr(store, "_collection", None)
    if make is None:
        a_store(store)
        raise TransferError(f"{type(store).__name__} cannot list its entries: give a store of this package, or a path")
    return make()


def _status(path: str) -> os.stat_result:
    try:
        found = status(path)
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    if found is None:
        raise TransferError(f"there is no such file or directory: {EXPECTED}", path)
    return found


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer
