"""What a PATH, a text or a store stands for, told by its content: here, and nowhere else.

A store is its own collection. A path is a directory of metadata, a data root that has some, a database, or else an
archive; `-` is an archive on standard input. Where nothing of Docker's is found, that is an error which says what the
place looks like, unless somebody said that it is meant.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Final, cast

from layerstore.arguments import a_store
from layerstore.collection import (
    Collection,
    Fault,
    Incoming,
    IndexedView,
    Note,
    Odd,
    Source,
    Target,
    View,
    in_batches,
)
from layerstore.docker.dataroot import described, distributions, has_namespaces
from layerstore.errors import InvalidInputError, LayerstoreError, TransferError
from layerstore.files import temporary, tree
from layerstore.files.store import FSMetadataStore
from layerstore.formats import containerd_live, tar_members
from layerstore.formats.facts import UNCERTAIN, uncertain
from layerstore.keys import KNOWN_NAMESPACES, TEMPORARY_PREFIX, Record
from layerstore.paths import PERMISSION_DENIED, absolute, kind, status
from layerstore.sql.collection import DatabaseCollection
from layerstore.sql.sqlite.recognition import is_database
from layerstore.sql.store import SQLMetadataStore
from layerstore.sql.url import names_a_database, shown
from layerstore.store import Store
from layerstore.transfer.sources import Database, Stream, archive, memories_in, memory_of_file, memory_of_text

Progress = Callable[[int, int | None], None]
"""Called with how many entries are done, and how many there are, if that is known."""

Place = Store | str | os.PathLike[str]
"""A store, or the path of one: a directory, a data root, a tar archive, a database file; `-` is a tar on stdin. Or the
URL of a database, in a file or on a server; a file of such a name is `./postgresql:…`, or a `Path`."""

STANDARD_INPUT: Final = "-"
_EXPECTED: Final = "give a `distribution` directory, a data root, a tar, or a database (`layerstore import` makes one)"
_UNCHANGEABLE: Final = "it can only be read, and cannot be changed: import it, then work on the store"
_HELD: Final = 100
"""Sources of which an archive is held open between the look into it and its reading. Those behind are opened again."""
_LOOKED_AT: Final = 1000
"""What is no entry, at the beginning of a stream, before the look at it ends."""
_NEW_FILE_SYSTEM: Final = "lost+found"
"""All that a file system has on which nothing was ever written."""

_SYSTEM: Final = "/var/lib"
_SOCKETS: Final = (
    ("/run/containerd/containerd.sock", "containerd"),
    ("/run/docker/containerd/containerd.sock", None),
)
"""Each with the directory of the same containerd, which is read if it does not run."""
_DIRECTORIES: Final = ("docker", "buildkit", "containers/cache", "containers/storage")

_Place = Collection | Database | Stream


def name(place: Place) -> str:
    """Return what a report calls a store or path."""
    if not isinstance(place, str | os.PathLike):
        return getattr(place, "path", None) or ":memory:"
    if names_a_database(place):
        return shown(place)
    asked = memory_of_text(place) if isinstance(place, str) else None
    if asked is not None:
        return asked.name
    return "standard input" if os.fspath(place) == STANDARD_INPUT else absolute(place)


def is_database_file(path: str) -> bool:
    """Tell whether a path is a database of this package, or nothing that anything can be read from."""
    if names_a_database(path) or memory_of_text(path) is not None or os.path.isdir(path):
        return path.startswith("sqlite:")
    file = absolute(path)
    return not os.path.isfile(file) or (is_database(file) and memory_of_file(file, is_database=True) is None)


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
            there, may_be_empty = _sources_of(place, force=force, allow_empty=allow_empty)
            for source in there:
                _look(source, may_be_empty=may_be_empty, hold=len(found) < _HELD)
                found.append(source)
        else:
            # What this function has returned knows its order; no store does.
            found.append(cast("Source", place) if hasattr(place, "in_order") else _of_store(place))
    return found


def _look(source: _Place, *, may_be_empty: bool, hold: bool) -> None:
    """Read up to the first entry, so that what cannot be read is found out before anything is made for it.

    What was read of a stream is read no second time, but where a file would have to be held open, and need not be.
    """
    stream = source if isinstance(source, Stream) else None
    if stream is None and may_be_empty:
        return
    reading = source.read()
    first: list[tuple[str, Record | Odd]] = []
    for one in islice(reading, None if stream is None else _LOOKED_AT):
        first.append(one)
        if isinstance(one[1], Record):
            break
    else:
        if not may_be_empty and (stream is None or len(first) < _LOOKED_AT):
            raise TransferError(f"there is no entry in it: {_EXPECTED}; --allow-empty accepts it", source.name)
    if stream is not None and (hold or stream.is_once):
        stream.begun = chain(first, reading)


def sources_here() -> list[Source]:
    """Return a source for each memory that is there. One that cannot be read is left out with a note.

    Raises:
        TransferError: there is none at all.
    """
    found: list[Source] = []
    for one in _places_here():
        try:
            found += sources([one], allow_empty=True)
        except LayerstoreError as error:
            why = uncertain("", f"left out: {str(error).removeprefix(f'{one}: ')}")
            found.append(Stream(one, partial(iter, [("", why)])))
    if not found:
        where = f"{_SYSTEM}, {_own()}, {', '.join(path for path, _ in _SOCKETS)}"
        raise TransferError(f"no container engine has left anything here: {where}")
    return found


def _places_here() -> Iterator[str]:
    for path, directory in _SOCKETS:
        if os.path.exists(path):
            yield f"{containerd_live.SCHEME}{path}"
        elif directory is not None and os.path.isdir(os.path.join(_SYSTEM, directory)):
            yield os.path.join(_SYSTEM, directory)
    for base in dict.fromkeys((_SYSTEM, _own())):
        yield from filter(os.path.isdir, (os.path.join(base, name) for name in _DIRECTORIES))


def _own() -> str:
    """Return where engines keep what is the caller's own. Source: the XDG Base Directory Specification."""
    return os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")


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
    found, _ = _sources_of(place, force=force, allow_empty=force)
    # What other engines have beside Docker's directory, in a data root, is imported only.
    found = [source for source in found if not isinstance(source, Stream)] or found
    if len(found) != 1:
        names = ", ".join(source.name for source in found)
        what = f"several metadata directories: give one of {names}" if found else "it has no metadata"
        raise TransferError(what, name(place))
    (source,) = found
    if isinstance(source, Stream):
        if write:
            raise TransferError(_UNCHANGEABLE, source.name)
        with unpacked(source) as collection:
            yield collection
    elif isinstance(source, Database):
        with source.opened(write=write) as collection:
            yield collection
    else:
        yield source


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


def _sources_of(place: str | os.PathLike[str], *, force: bool, allow_empty: bool) -> tuple[Sequence[_Place], bool]:
    """Return what a text or path stands for, and whether there need be no entry in it."""
    if os.fspath(place) == STANDARD_INPUT:
        return [archive(STANDARD_INPUT, is_once=True, force=force, allow_empty=allow_empty)], True
    if isinstance(place, str):
        named = Database(place) if names_a_database(place) else memory_of_text(place)
        if named is not None:
            return [named], allow_empty
    path = absolute(place)
    try:
        there = status(path)
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    if there is None:
        raise TransferError(f"there is no such file or directory: {_EXPECTED}", path)
    if stat.S_ISDIR(there.st_mode):
        return _directories(path, force=force, allow_empty=allow_empty)
    found = _file(path, there)
    # A tar tells by itself whether it may be empty, as a fresh host's directory may.
    if found is None:
        return [archive(path, is_once=not stat.S_ISREG(there.st_mode), force=force, allow_empty=allow_empty)], True
    return [found], allow_empty


def _file(path: str, there: os.stat_result) -> Database | Stream | None:
    """Return which database or memory a file is; `None` if it is to be read as a tar."""
    if not os.access(path, os.R_OK):
        raise TransferError(f"cannot be read: {PERMISSION_DENIED}", path)
    if stat.S_ISFIFO(there.st_mode):
        return None
    if not stat.S_ISREG(there.st_mode):
        socket = f"; if it is containerd's, give containerd:{path}" if stat.S_ISSOCK(there.st_mode) else ""
        raise TransferError(f"{kind(there.st_mode)}: {_EXPECTED}{socket}", path)
    if not there.st_size:
        raise TransferError(f"an empty file: it was cut off, or a disk was full; {_EXPECTED}", path)
    is_ours = is_database(path)
    return memory_of_file(path, is_database=is_ours) or (Database(path) if is_ours else None)


def _directories(path: str, *, force: bool, allow_empty: bool) -> tuple[Sequence[_Place], bool]:
    """Return the directories of metadata that a directory stands for, and whether they may be empty.

    A store may have any namespaces, so that an import would take every file of such a directory; of `/etc`, too.
    """
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    if has_namespaces(path):
        return [FSMetadataStore(path)._collection()], True
    memories = memories_in(path, names)
    try:
        found = distributions(path, may_be_none=bool(memories))
    except TransferError:
        if allow_empty and os.path.isdir(os.path.join(path, "image")):
            return [], True  # it has recorded nothing yet
        raise
    directories = [FSMetadataStore(base)._collection() for base in found]
    if memories:
        return [*directories, *memories], True
    # An empty one of this name is a fresh host's.
    is_known = found != [path] or os.path.basename(path) == tar_members.ROOT
    there = [name for name in names if not name.startswith(TEMPORARY_PREFIX) and name != _NEW_FILE_SYSTEM]
    if not (is_known or (force if there else allow_empty)):
        raise TransferError(_looks_like(path, there), path)
    return directories, is_known or allow_empty


def _of_store(store: Store) -> Collection:
    make: Callable[[], Collection] | None = getattr(store, "_collection", None)
    if make is None:
        a_store(store)
        raise TransferError(f"{type(store).__name__} cannot list its entries: give a store of this package, or a path")
    return make()


def _looks_like(path: str, names: list[str]) -> str:
    """Say that a directory with these names is none of metadata, what it may be, and what to give instead."""
    if not names:
        mounted = " (one is, and is empty)" if os.path.ismount(path) else ""
        return (
            f"it is empty: check the path, and that its file system is mounted{mounted}; {_EXPECTED};"
            " --allow-empty accepts an empty directory"
        )
    return (
        f"it has none of Docker's namespaces ({', '.join(KNOWN_NAMESPACES)}), but {described(names)}:"
        f" {_EXPECTED}; --force imports every file below it as an entry"
    )
