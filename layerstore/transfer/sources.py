"""What entries are read from besides stores and directories: archives, databases by name, other engines' memories.

Which of them a path stands for is told by its content (`layerstore.transfer.place`); of other engines' files, here.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import IO, Final

from layerstore.collection import Collection, Odd
from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.formats import bbolt, containerd, containerd_live, containers, tar
from layerstore.formats.facts import Facts, as_entry, uncertain
from layerstore.keys import Record
from layerstore.sql.store import SQLMetadataStore
from layerstore.sql.url import shown

_HEAD: Final = 64
_STORAGE_FOLDER: Final = "-layers"
_LOCK_WAIT_S: Final = 1.0

Entries = Iterator[tuple[str, Record | Odd]]


class Database:
    """A database in a file or on a server, opened when it is read."""

    in_order = False

    def __init__(self, path_or_url: str) -> None:
        self.name, self._place = shown(path_or_url), path_or_url

    def count(self) -> int | None:
        with self.opened() as database:
            return database.count()

    def read(self) -> Entries:
        with self.opened() as database:
            yield from database.read()

    @contextmanager
    def opened(self, *, write: bool = False) -> Iterator[Collection]:
        with SQLMetadataStore(self._place, read_only=not write) as store:
            yield store._collection()


class Stream:
    """A source that is read from its beginning to its end, in its own order: an archive, what an engine remembers.

    Attributes:
        name: what reports call it.
        is_once: it can be read but once.
        begun: what was looked at already, and the rest; the next reading begins with that.
    """

    in_order = False

    def __init__(self, name: str, entries: Callable[[], Entries], *, is_once: bool = False) -> None:
        self.name, self._entries, self.is_once = name, entries, is_once
        self.begun: Entries | None = None

    def count(self) -> None:
        return None

    def read(self) -> Entries:
        begun, self.begun = self.begun, None
        return begun or self._entries()


def archive(path: str, *, is_once: bool, force: bool, allow_empty: bool) -> Stream:
    """Return the tar at a path; `-` is one on standard input."""
    name = "standard input" if path == "-" else path

    def entries() -> Entries:
        try:
            file = _standard_input() if path == "-" else open(path, "rb")  # noqa: SIM115  # closed below
        except OSError as error:
            raise TransferError(tree.why_unreadable(error), name) from error
        if file.closed:
            raise TransferError("it was read to its end already: name it once", name)
        with file:
            yield from tar.scan(file, name, force=force, allow_empty=allow_empty)

    return Stream(name, entries, is_once=is_once)


def _standard_input() -> IO[bytes]:
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    return sys.stdin.buffer


def memory(name: str, facts: Callable[[], Facts], *, socket: str | None = None) -> Stream:
    """Return what an engine knows as entries of `blob-by-digest`; those of one blob are united where they are stored.

    Args:
        name: what reports call it.
        facts: reads it.
        socket: where the daemon that may hold the file can be asked; empty if it cannot be. A file that is held is left
            out with a note. `None`: that is an error.
    """

    def entries() -> Entries:
        try:
            for fact in facts():
                yield "", as_entry(fact)
        except TransferError as error:
            if socket is None or not bbolt.is_in_use(error):
                raise
            instead = f", or give {socket}" if socket else ""
            yield "", uncertain("", f"left out: {error.args[0]}{instead}")

    return Stream(name, entries)


def memory_of_text(text: str) -> Stream | None:
    """Return what a text stands for that begins with `containerd:`; `None` for any other one.

    Raises:
        InvalidInputError: it begins so, and is no socket with namespaces.
    """
    if not text.startswith(containerd_live.SCHEME):
        return None
    socket = containerd_live.Socket.parse(text)
    return memory(socket.name, lambda: containerd_live.read(socket))


def memory_of_file(path: str, *, is_database: bool) -> Stream | None:
    """Return what a regular file stands for, `None` if it is no memory of another engine.

    Args:
        path: the file; links are followed, as a person gave it.
        is_database: whether it is an SQLite database; one is not opened here but by SQLite.

    Raises:
        TransferError: it cannot be read.
    """
    if is_database:
        return memory(path, lambda: containers.read_sqlite(path)) if _is_cache(path) else None
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    if bbolt.is_bbolt(head):
        return memory(path, lambda: _read_bolt(os.path.realpath(path)))
    if containers.begins_layers(head):
        return memory(path, lambda: containers.read_layers(path))
    return None


def memories_in(path: str, names: Sequence[str]) -> list[Stream]:
    """Return the memories of other engines in a directory: of a cache, a storage, containerd, BuildKit or Docker.

    A file that a daemon holds is left out with a note if there are others, also of Docker's own.

    Args:
        path: the directory.
        names: what is in it.
    """
    files = containerd.files_below(path, names)
    found = [memory(file.path, partial(containerd.read, file), socket=file.socket) for file in files]
    if containers.NAME in names:
        cache = os.path.join(path, containers.NAME)
        found.append(memory(cache, partial(containers.read_sqlite, cache)))
    if containers.BOLT_NAME in names:
        cache = os.path.join(path, containers.BOLT_NAME)
        found.append(memory(cache, partial(_read_bolt, path, containers.BOLT_NAME)))
    below: list[tuple[str, ...]] = [(name, containers.LAYERS_NAME) for name in names if name.endswith(_STORAGE_FOLDER)]
    below += [(name,) for name in names if name == containers.LAYERS_NAME and path.endswith(_STORAGE_FOLDER)]
    for way in below:
        layers = os.path.join(path, *way)
        if os.path.lexists(layers):
            found.append(memory(layers, partial(containers.read_layers, path, *way)))
    return found


def _is_cache(path: str) -> bool:
    try:
        return containers.is_cache(path)
    except TransferError:
        return False  # opening it as a store says what is wrong with it


def _read_bolt(base: str, *below: str) -> Facts:
    """Read a bbolt file of which only the content says whose it is, found as by `bbolt.read`."""
    file = bbolt.read(base, *below, wait_s=_LOCK_WAIT_S)
    if b"v1" in file.root.buckets:
        return containerd.read(containerd.file_at(file.name))
    return containers.read_bolt(file)
