"""Docker's directory as a store, byte for byte: `<base>/<namespace>/<key>`, one file an entry.

How files are reached without following links is `layerstore.files.tree`'s, what all of them hold is
`layerstore.files.scan`'s.
Source: Docker's distribution/metadata/metadata.go.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Self

from layerstore.arguments import several, tuples
from layerstore.errors import (
    InvalidInputError,
    InvalidKeyError,
    NotFoundError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
)
from layerstore.files import tree
from layerstore.files.collection import Directory
from layerstore.files.scan import scan
from layerstore.keys import Record
from layerstore.paths import absolute, why_refused
from layerstore.store import check_key, contains, why_not_a_namespace

_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

_locks: dict[str, threading.RLock] = {}
# A thread of the parent may hold one while it forks; nobody in the child would ever release it.
os.register_at_fork(after_in_child=_locks.clear)


class FSMetadataStore:
    """Keep entries as Docker does: one file per key, each written completely or not at all.

    The base directory and the missing ones above it are made 0700, directories below it 0755, files 0644,
    with any umask. `.tmp-…` files are not entries; below the base no link is followed. Threads of one process
    take turns for an `add`; two processes may lose one of two, as with Docker.

    Args:
        base_path: the directory, such as `/var/lib/docker/image/overlay2/distribution`.

    Raises:
        StoreOpenError: the directory cannot be made, or is no directory.

    Source: Docker's `FSMetadataStore`.
    Differs: Docker obeys the umask, does not sync the directory after the rename, and follows links and `..`.
    """

    def __init__(self, base_path: str | os.PathLike[str]) -> None:
        self.path = absolute(base_path)
        self._closed = False
        try:
            tree.make_base(self.path)
        except OSError as error:
            raise StoreOpenError(f"cannot be made: {why_refused(error)}", self.path) from error

    def get(self, namespace: str, key: str) -> bytes:
        """Return the value.

        Raises:
            NotFoundError: no regular file is there (also when a directory or a link is).
            InvalidKeyError: the namespace or key breaks the key rules.
            StoreError: the file cannot be read.

        Source: Docker's `Get`.
        """
        with self._at(namespace, key) as (directory, name):
            return tree.read(directory, name, limit_bytes=None)[0]

    def set(self, namespace: str, key: str, value: bytes) -> None:
        """Write the value: temporary file, fsync, rename, fsync of the directory. It is complete or absent.

        Raises:
            InvalidKeyError: the namespace or key breaks the key rules, or cannot be a path here: an entry in the place
                of a directory, or the other way round.
            InvalidInputError: `value` is not bytes.
            StoreFullError: no space is left. StoreReadOnlyError: the file system is. StoreError: anything else.

        Source: Docker's `Set`.
        """
        if not isinstance(value, bytes | bytearray | memoryview):
            raise InvalidInputError(f"a value is bytes, not {type(value).__name__}")
        with self._at(namespace, key, create=True) as (directory, name):
            tree.replace(directory, name, bytes(value))

    def delete(self, namespace: str, key: str) -> None:
        """Remove the value, and sync that; directories stay, as with Docker.

        Raises:
            NotFoundError: no regular file is there.
            InvalidKeyError: the namespace or key breaks the key rules.
            StoreError: the file cannot be removed.

        Source: Docker's `Delete`.
        Differs: Docker removes an empty directory that is in the key's place, and does not sync the directory.
        """
        with self._at(namespace, key) as (directory, name):
            tree.remove(directory, name)
            os.fsync(directory)

    def entries(self, namespace: str | None = None) -> Iterator[tuple[str, str, bytes]]:
        """Yield all entries, or those of one namespace, by namespace and then by the UTF-8 bytes of the key.

        Not a snapshot: a file that vanishes while this runs is left out. What is no entry is left out.

        Raises:
            InvalidKeyError: `namespace` is not one. StoreError: a file or directory cannot be read.
        """
        for found, key, value, _ in self._records(namespace):
            yield found, key, value

    def _records(self, namespace: str | None = None) -> Iterator[Record]:
        """Yield `entries` with the times of their files."""
        self._check_open()
        reason = None if namespace is None else why_not_a_namespace(namespace, to_write=False)
        if reason is not None:
            raise InvalidKeyError(f"namespace {namespace!r}: {reason}")
        for found in scan(self.path, namespace):
            if isinstance(found, Record):
                yield found
            elif found.kind == "unreadable":
                raise StoreError(found.reason, os.path.join(self.path, found.path))

    def __contains__(self, entry: object) -> bool:
        """Tell whether there is an entry: `(namespace, key) in store`.

        Raises:
            InvalidInputError: `entry` is not a namespace and a key.
            StoreError: the file cannot be read.
        """
        return contains(self, entry)

    def __len__(self) -> int:
        """Return the number of entries. Reads every directory."""
        return sum(1 for _ in self._records())

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield namespace and key of all entries, in the order of `entries`."""
        return ((namespace, key) for namespace, key, _ in self.entries())

    def __bool__(self) -> bool:
        """Return True, also for an empty directory."""
        return True

    def __reduce__(self) -> tuple[type[Self], tuple[str]]:
        """Pickle the path: unpickling opens the directory again."""
        return type(self), (self.path,)

    def get_many(self, namespace: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the values of the keys that are there; the others are left out. A read a key, no snapshot.

        Raises: as `get`, but for NotFoundError.
        """
        found: dict[str, bytes] = {}
        for key in several(keys, "keys"):
            with suppress(NotFoundError):
                found[key] = self.get(namespace, key)
        return found

    def set_many(self, entries: Iterable[tuple[str, str, bytes]]) -> None:
        """`set` each entry in turn. An error leaves those before it written: files have no transactions."""
        for namespace, key, value in tuples(entries, 3, "entries"):
            self.set(namespace, key, value)

    def exclusive(self) -> AbstractContextManager[object]:
        """Return the lock that every `FSMetadataStore` of this process on the same directory shares."""
        return _locks.setdefault(os.path.realpath(self.path), threading.RLock())

    def close(self) -> None:
        """End the use of the store; nothing is held open. A second call does nothing."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"FSMetadataStore({self.path!r})"

    def _collection(self) -> Directory:
        """Return what work on whole stores needs: `layerstore.collection.Collection`."""
        return Directory(self)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("this store was closed; make a new FSMetadataStore", self.path)

    @contextmanager
    def _at(self, namespace: str, key: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the directory of a key, and turn what fails there or in the body into our errors."""
        self._check_open()
        check_key(namespace, key, to_write=create)
        *segments, name = (namespace, *key.split("/"))
        try:
            with tree.directory(self.path, segments, create=create) as directory:
                yield directory, name
        except OSError as error:
            if error.errno is not None and error.errno not in _ABSENT:
                raise self._failure(error, namespace, key) from error
            if create:
                raise InvalidKeyError(
                    f"namespace {namespace!r}, key {key!r}: cannot be a path below {self.path}: "
                    f"{error.strerror or error}"
                ) from error
            raise NotFoundError(namespace, key) from error

    def _failure(self, error: OSError, namespace: str, key: str) -> StoreError:
        path = os.path.join(self.path, namespace, key)
        if error.errno in _FULL:
            return StoreFullError(f"{error.strerror}: free some space, then write again", path)
        if error.errno == errno.EROFS:
            return StoreReadOnlyError("the file system is read-only", path)
        return StoreError(why_refused(error), path)
