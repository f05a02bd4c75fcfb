"""Everything that lies below a base directory of Docker's: what is an entry, and what is none and why.

One loop in one process: each directory is listed and read through its descriptor, so that no path is joined and no link
followed. Nothing here is fatal but a base that cannot be read, and a process or machine that is out of file
descriptors or memory; who asks decides what an odd file means.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from layerstore.collection import Odd
from layerstore.errors import StoreError, StoreOpenError
from layerstore.files import tree
from layerstore.keys import KNOWN_NAMESPACES, TEMPORARY_PREFIX, Record, is_utf8, why_not_a_key, why_not_a_namespace
from layerstore.records import storable_time

# Docker's own keys: they break no rule, which then need not be asked one by one.
_is_plain = re.compile(rb"[0-9A-Za-z][0-9A-Za-z.,:_-]{0,199}(?:/[0-9A-Za-z][0-9A-Za-z.,:_-]{0,199})*").fullmatch

_TEMPORARY: Final = TEMPORARY_PREFIX.encode()
_LEFT: Final = "left by a write that did not end"
_SPECIAL: Final = "a link, device, socket or pipe"
_OPEN_DATABASE: Final = "a database that is open here"
_VANISHED: Final = "removed while it was read"
_NOT_UTF8: Final = "the name is not UTF-8"
_NAMES: Final = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


class Found(NamedTuple):
    """What a walk came upon. `directory` is open until the walk goes on."""

    directory: int
    name: bytes
    path: bytes
    kind: str
    """`file`, `temporary`, `special` (a link, device, socket, pipe or open database), or `unreadable` (a directory)."""
    reason: str = ""
    """Why it is no entry."""


def scan(base: str, namespace: str | None = None) -> Iterator[Record | Odd]:
    """Read every file below a base directory, by namespace and then by the UTF-8 bytes of the key.

    What is no entry, or cannot be read, comes as `Odd` in between; nothing of it is fatal.

    Raises:
        StoreOpenError: the base itself cannot be read.
        StoreError: there are too few file descriptors, or too little memory.
    """
    with _opened(base) as top:
        for typed in sorted(names(top), key=lambda typed: typed.rstrip(b"/\0")):
            shown = show(typed.rstrip(b"/\0"))
            if namespace is not None and shown != namespace:
                continue
            odd = _odd_namespace(top, typed, shown)
            if odd is None:
                yield from _scan_namespace(top, shown)
            else:
                yield odd


def count(base: str) -> int:
    """Return how many files lie below a base directory, without reading them.

    Raises: as `scan`.
    """
    with _opened(base) as top:
        return sum(found.kind == "file" for found in walk(top))


def walk(top: int) -> Iterator[Found]:
    """Come upon everything below a directory but the directories themselves, by the bytes of the whole path.

    What begins with `.tmp-` is `temporary`, files and directories alike. What the system raises comes as it is.
    """
    levels = [_level(top, b"")]
    try:
        while levels:
            here, prefix, rest = levels[-1]
            for typed in rest:
                name = typed.rstrip(b"/\0")
                path = prefix + name
                if name.startswith(_TEMPORARY):
                    yield Found(here, name, path, "temporary", _LEFT)
                elif name == typed:
                    yield Found(here, name, path, "file")
                elif typed.endswith(b"\0"):
                    yield Found(here, name, path, "special", _why_special(here, name))
                else:
                    try:
                        levels.append(_level(here, path + b"/", os.fsdecode(name)))
                    except OSError as error:
                        _raise_exhausted(error)
                        yield Found(here, name, path, "unreadable", tree.why_unreadable(error))
                        continue
                    break
            else:
                os.close(levels.pop()[0])
    finally:
        for here, _, _ in levels:
            os.close(here)


def _level(above: int, prefix: bytes, *below: str) -> tuple[int, bytes, Iterator[bytes]]:
    here = tree.open_below(above, below)
    try:
        return here, prefix, iter(names(here))
    except OSError:
        os.close(here)
        raise


def names(directory: int) -> list[bytes]:
    """List a directory by the bytes of the whole paths below it; each name ends with its type.

    A directory's ends with `/`, which also sorts it as its paths sort (`a-b` before `a/x`); that of a link, device,
    socket, pipe, or of a database that is open in this process ends with NUL; a file's is bare. One short object a
    name: a directory may have a million.
    """
    found = []
    databases: list[bytes] = []
    inodes = {inode for _, inode in list(tree.databases)}  # another thread, or a finalizer, may open or close one
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name.encode(*_NAMES)  # as `os.fsencode`, which takes three times as long
            if not entry.is_file(follow_symlinks=False):
                name += b"/" if entry.is_dir(follow_symlinks=False) else b"\0"
            elif entry.inode() in inodes and tree.is_open_database(directory, name):
                databases.append(name)
            found.append(name)
    for database in databases:
        # A process that closes one of the two drops SQLite's locks, whatever it opened it for.
        found = [name + b"\0" if name in (database, database + b"-shm") else name for name in found]
    found.sort()
    return found


def show(name: bytes) -> str:
    """Return a file's name as text; bytes that are not UTF-8 as `\\xff`."""
    return name.decode("utf-8", "backslashreplace")


@contextmanager
def _opened(base: str) -> Iterator[int]:
    try:
        with tree.directory(base, ()) as top:
            yield top
    except OSError as error:
        if error.errno in tree.EXHAUSTED:
            raise StoreError(f"cannot be read: {error.strerror}: raise the limit (`ulimit -n`)", base) from error
        raise StoreOpenError(tree.why_unreadable(error), base) from error


def _odd_namespace(top: int, typed: bytes, shown: str) -> Odd | None:
    if typed.startswith(_TEMPORARY):
        return Odd(shown, "temporary", _LEFT)
    if typed.endswith(b"\0"):
        return Odd(shown, "special", _why_special(top, typed[:-1]))
    if not typed.endswith(b"/"):
        return Odd(shown, "outside", "a file outside every namespace")
    if shown in KNOWN_NAMESPACES:
        return None
    reason = why_not_a_namespace(shown) if _is_utf8(typed) else _NOT_UTF8
    return None if reason is None else Odd(shown, "name", reason)


def _scan_namespace(top: int, namespace: str) -> Iterator[Record | Odd]:
    try:
        here = tree.open_below(top, (namespace,))
    except FileNotFoundError:
        yield Odd(namespace, "vanished", _VANISHED)
        return
    except OSError as error:
        _raise_exhausted(error)
        yield Odd(namespace, "unreadable", tree.why_unreadable(error))
        return
    try:
        for found in walk(here):
            yield _read(namespace, found)
    finally:
        os.close(here)


def _read(namespace: str, found: Found) -> Record | Odd:
    directory, name, path, kind, reason = found
    if kind != "file":
        return _odd(namespace, path, kind, reason)
    if _is_plain(path) is None and (why_no_key := _why_not_a_key(path)) is not None:
        return _odd(namespace, path, "name", why_no_key)
    try:
        value, status = tree.read_regular(directory, name)
    except OSError as error:
        return _unreadable(namespace, path, error)
    return Record(namespace, path.decode(), value, storable_time(status.st_mtime_ns))


def _why_not_a_key(path: bytes) -> str | None:
    return why_not_a_key(path.decode()) if _is_utf8(path) else _NOT_UTF8


def _unreadable(namespace: str, path: bytes, error: OSError) -> Odd:
    _raise_exhausted(error)
    if isinstance(error, FileNotFoundError):
        return _odd(namespace, path, "vanished", _VANISHED)
    if error.errno == errno.EFBIG:
        return _odd(namespace, path, "unreadable", f"larger than {tree.MAX_VALUE >> 20} MiB")
    return _odd(namespace, path, "unreadable", tree.why_unreadable(error))


def _raise_exhausted(error: OSError) -> None:
    """Raise an error that is this process's or the machine's, and says nothing about what it was to read."""
    if error.errno in tree.EXHAUSTED:
        raise error


def _why_special(directory: int, name: bytes) -> str:
    return _OPEN_DATABASE if tree.databases and tree.is_open_database(directory, name) else _SPECIAL


def _odd(namespace: str, path: bytes, kind: str, reason: str) -> Odd:
    return Odd(f"{namespace}/{show(path)}", kind, reason)


def _is_utf8(name: bytes) -> bool:
    return is_utf8(name.decode(*_NAMES))
