"""Other engines' memories as sources: which of them a path or text stands for, told by its content.

A memory is read from its beginning to its end, as an archive is. It yields an entry of `blob-by-digest` for each fact;
those of one blob are united where they are stored.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from layerstore.collection import Odd
from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.formats import bbolt, containerd, containerd_live, containers
from layerstore.formats.facts import Facts, as_entry, uncertain
from layerstore.keys import Record
from layerstore.transfer.looks import EXPECTED
from layerstore.transfer.streams import Stream

_HEAD: Final = 64
_EMPTY: Final = f"nothing is recorded in it: {EXPECTED}; --allow-empty accepts it"
_STORAGE_FOLDER: Final = "-layers"
_LOCK_WAIT_S: Final = 1.0


class Memory(Stream):
    """What an engine knows, somewhere: a source of entries.

    Args:
        name: what reports call it.
        facts: reads it.
        may_be_empty: take it also if there is nothing in it.
        socket: where the daemon that may hold the file can be asked; empty if it cannot be. A file that is held is left
            out with a note. `None`: that is an error.
    """

    def __init__(
        self, name: str, facts: Callable[[], Facts], *, may_be_empty: bool = False, socket: str | None = None
    ) -> None:
        super().__init__(name, if_empty=None if may_be_empty else _EMPTY)
        self._facts, self._socket = facts, socket

    def entries(self) -> Iterator[tuple[str, Record | Odd]]:
        try:
            for fact in self._facts():
                yield "", as_entry(fact)
        except TransferError as error:
            if self._socket is None or not bbolt.is_in_use(error):
                raise
            instead = f", or give {self._socket}" if self._socket else ""
            yield "", uncertain("", f"left out: {error.args[0]}{instead}")


def of_text(text: str) -> Memory | None:
    """Return what a text stands for that begins with `containerd:`; `None` for any other one.

    Raises:
        InvalidInputError: it begins so, and is no socket with namespaces.
    """
    if not text.startswith(containerd_live.SCHEME):
        return None
    socket = containerd_live.Socket.parse(text)
    return Memory(socket.name, lambda: containerd_live.read(socket))


def of_file(path: str, *, is_database: bool, allow_empty: bool = False) -> Memory | None:
    """Return what a regular file stands for, `None` if it is no memory of another engine.

    Args:
        path: the file; links are followed, as a person gave it.
        is_database: whether it is an SQLite database; one is not opened here but by SQLite.
        allow_empty: take one that has nothing in it.

    Raises:
        TransferError: it cannot be read.
    """
    if is_database:
        if not _is_cache(path):
            return None
        return Memory(path, lambda: containers.read_sqlite(path), may_be_empty=allow_empty)
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    if bbolt.is_bbolt(head):
        return Memory(path, lambda: _read_bolt(os.path.realpath(path)), may_be_empty=allow_empty)
    if containers.begins_layers(head):
        return Memory(path, lambda: containers.read_layers(path), may_be_empty=allow_empty)
    return None


def in_directory(path: str) -> list[Memory]:
    """Return the memories of other engines in a directory: of a cache, a storage, containerd, BuildKit or Docker.

    A file that a daemon holds is left out with a note if there are others, also of Docker's own.

    Raises:
        TransferError: it cannot be read.
    """
    try:
        names = sorted(os.listdir(path))
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error
    found = [
        Memory(file.path, partial(containerd.read, file), may_be_empty=True, socket=file.socket)
        for file in containerd.files_below(path)
    ]
    if containers.NAME in names:
        cache = os.path.join(path, containers.NAME)
        found.append(Memory(cache, partial(containers.read_sqlite, cache), may_be_empty=True))
    if containers.BOLT_NAME in names:
        cache = os.path.join(path, containers.BOLT_NAME)
        found.append(Memory(cache, partial(_read_bolt, path, containers.BOLT_NAME), may_be_empty=True))
    below: list[tuple[str, ...]] = [(name, containers.LAYERS_NAME) for name in names if name.endswith(_STORAGE_FOLDER)]
    below += [(name,) for name in names if name == containers.LAYERS_NAME and path.endswith(_STORAGE_FOLDER)]
    for way in below:
        layers = os.path.join(path, *way)
        if os.path.lexists(layers):
            found.append(Memory(layers, partial(containers.read_layers, path, *way), may_be_empty=True))
    return found


def _is_cache(path: str) -> bool:
    try:
        return containers.is_cache(path)
    except TransferError:
        return False  # opening it as a store says what is wrong with it


def _read_bolt(base: str, *below: str) -> Facts:
    """Read a bbolt file of which only the content says whose it is, found as by `bbolt.read`."""
    file = bbolt.read(base, *below, wait_s=_LOCK_WAIT_S)
    if b"v1" in dict(file.root.buckets()):
        return containerd.read(containerd.file_at(file.name))
    return containers.read_bolt(file)
