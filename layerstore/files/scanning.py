"""Everything that lies below a base directory of Docker's: what is an entry, and what is none and why.

Nothing here is fatal but a base that cannot be read; who asks decides what an odd file means.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from layerstore.errors import StoreOpenError
from layerstore.files import tree, walking
from layerstore.records import Record, storable_time
from layerstore.store import why_not_a_key, why_not_a_namespace

# Docker's own keys: they break no rule, which then need not be asked one by one.
_are_plain = re.compile(rb"[0-9A-Za-z][0-9A-Za-z.,:_-]*(?:/[0-9A-Za-z][0-9A-Za-z.,:_-]*)*").fullmatch

VANISHED: Final = "removed while it was read"
_NOT_FILES = {
    "temporary": "left by a write that did not end",
    "special": "a link, device, socket or pipe",
    "unreadable": "the directory cannot be read",
}


class Odd(NamedTuple):
    """Something in the directory that is no entry, or whose entry could not be read."""

    path: str
    """Below the base; bytes that are not UTF-8 are shown as `\\xff`."""
    kind: str
    """`temporary`, `special`, `name`, `outside`, `unreadable` or `vanished`."""
    reason: str


def scan(base: str, namespace: str | None = None) -> Iterator[Record | Odd]:
    """Read every file below a base directory, by namespace and then by the UTF-8 bytes of the whole key.

    What is no entry, or cannot be read, comes as `Odd` in between; nothing of it is fatal.

    Raises:
        StoreOpenError: the base itself cannot be read.
    """
    for listed in listing(base, namespace):
        if isinstance(listed, Odd):
            yield listed
        else:
            yield from read(listed.namespace, listed.files)


class Listed(NamedTuple):
    """Files that lie one behind the other in the order of a scan."""

    namespace: str
    files: walking.Files


def listing(base: str, namespace: str | None = None) -> Iterator[Odd | Listed]:
    """Come upon every file, in the order of `scan`, without reading it.

    Raises:
        StoreOpenError: the base itself cannot be read.
    """
    try:
        with tree.directory(base, ()) as top:
            namespaces = sorted(walking.names(top), key=lambda typed: typed.rstrip(b"/\0"))
    except OSError as error:
        raise StoreOpenError(f"cannot be read: {error.strerror}", base) from error
    for typed in namespaces:
        shown = show(typed.rstrip(b"/\0"))
        if namespace is not None and shown != namespace:
            continue
        odd = _odd_namespace(typed, shown)
        if odd is not None:
            yield odd
            continue
        yield from _list_namespace(base, shown)


def _odd_namespace(typed: bytes, shown: str) -> Odd | None:
    if typed.startswith(b".tmp-"):
        return Odd(shown, "temporary", _NOT_FILES["temporary"])
    if typed.endswith(b"\0"):
        return Odd(shown, "special", _NOT_FILES["special"])
    if not typed.endswith(b"/"):
        return Odd(shown, "outside", "a file outside every namespace")
    reason = None if _is_utf8(typed) else "the name is not UTF-8"
    reason = reason or why_not_a_namespace(shown)
    return None if reason is None else Odd(shown, "name", reason)


def _list_namespace(base: str, namespace: str) -> Iterator[Odd | Listed]:
    try:
        with tree.directory(base, (namespace,)) as top:
            for found in walking.walk_in_runs(top):
                if isinstance(found, walking.Files):
                    yield Listed(namespace, found)
                else:
                    yield _odd(namespace, found.path, found.kind, _NOT_FILES[found.kind])
    except FileNotFoundError:
        yield Odd(namespace, "vanished", VANISHED)
    except OSError as error:
        yield Odd(namespace, "unreadable", f"cannot be read: {error.strerror}")


def read(namespace: str, files: walking.Files) -> Iterator[Record | Odd]:
    """Read files, while their directory is open."""
    directory, prefix, names = files
    if _are_plain(prefix + b"/".join(names)):
        keys = (prefix + (b"\n" + prefix).join(names)).decode().split("\n")
        for name, key in zip(names, keys, strict=True):
            yield _read(namespace, directory, name, key)
        return
    for name in names:
        path = prefix + name
        reason = why_not_a_key(path.decode()) if _is_utf8(path) else "the name is not UTF-8"
        yield _odd(namespace, path, "name", reason) if reason else _read(namespace, directory, name, path.decode())


def _read(namespace: str, directory: int, name: bytes, key: str) -> Record | Odd:
    try:
        value, status = tree.read(directory, name)
    except FileNotFoundError:
        return _odd(namespace, key.encode(), "vanished", VANISHED)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or error}"
        if error.errno == errno.EFBIG:
            reason = f"larger than {tree.MAX_VALUE >> 20} MiB"
        return _odd(namespace, key.encode(), "unreadable", reason)
    return Record(namespace, key, value, storable_time(status.st_mtime_ns))


def _odd(namespace: str, path: bytes, kind: str, reason: str) -> Odd:
    return Odd(f"{namespace}/{show(path)}", kind, reason)


def count(base: str) -> int:
    """Return how many files lie below a base directory, without reading them.

    Raises:
        StoreOpenError: the base itself cannot be read.
    """
    try:
        with tree.directory(base, ()) as top:
            return sum(len(found.names) for found in walking.walk_in_runs(top) if isinstance(found, walking.Files))
    except OSError as error:
        raise StoreOpenError(f"cannot be read: {error.strerror}", base) from error


def show(name: bytes) -> str:
    """Return a file's name as text; bytes that are not UTF-8 as `\\xff`."""
    return name.decode("utf-8", "backslashreplace")


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
