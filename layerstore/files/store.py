"""Docker's directory as a store and as a collection, byte for byte: `<base>/<namespace>/<key>`, one file an entry.

What exports and repairs move out of it is in its quarantine, `<directory>.quarantine/<time>`.

How files are reached without following links is `layerstore.files.tree`'s, what all of them hold is
`layerstore.files.scan`'s.
Source: Docker's distribution/metadata/metadata.go.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import NamedTuple, Self

from layerstore.arguments import several, tuples
from layerstore.collection import Doomed, Fault, Note, Odd, Place
from layerstore.errors import (
    InvalidInputError,
    InvalidKeyError,
    NotFoundError,
    StoreClosedError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
    TransferError,
)
from layerstore.files import scan, tree
from layerstore.keys import DIFF_IDS, V2_METADATA, Record, check_key, key_digest, why_not_a_namespace
from layerstore.paths import absolute, why_refused
from layerstore.records import digests_of
from layerstore.store import contains

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
        for found in scan.scan(self.path, namespace):
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

    def _collection(self) -> DirectoryCollection:
        """Return what work on whole stores needs: `layerstore.collection.Collection`."""
        return DirectoryCollection(self)

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


class DirectoryCollection:
    """The files of a directory, as a collection and as the view of one: `layerstore.collection.Collection`."""

    in_order = True

    def __init__(self, files: FSMetadataStore) -> None:
        self.store = files
        self.name = self.directory = files.path
        self.moved_to: str | None = None

    def count(self) -> int:
        return scan.count(self.directory)

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        self.store._check_open()
        return (("", found) for found in self.scan())

    @contextmanager
    def view(self, note: Note | None = None) -> Iterator[Self]:
        """Give the files as they are: `layerstore.collection.View`."""
        self.store._check_open()
        yield self

    def scan(self, namespace: str | None = None) -> Iterator[Record | Odd]:
        return scan.scan(self.directory, namespace)

    def names(self) -> Iterator[tuple[str, str]]:
        return (found[:2] for found in self.scan() if isinstance(found, Record))

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for key in keys:
            with suppress(NotFoundError, StoreError):  # `verify` alone asks, whom the scan tells what cannot be read
                found[key] = self.store.get(namespace, key)
        return found

    def faults(self) -> Iterator[Fault]:
        return iter(())

    def indexed(self) -> None:
        return None

    def refuse_change(self) -> None:
        """Do nothing: any directory can be changed."""

    def set_aside(self, namespace: str, key: str, value: bytes, _reason: str) -> None:
        """Write a file below `<directory>.quarantine/<time>`, one for each repair, so that none is overwritten."""
        self.moved_to = self.moved_to or f"{self.directory}.quarantine/{time.time_ns()}"
        FSMetadataStore(self.moved_to).set(namespace, key, value)

    def mend(self, kind: str, place: Place) -> bool:
        raise NotImplementedError(kind, place)  # a scan of files finds nothing for it

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        """Remove or shorten files, as `layerstore.collection.Collection.remove`.

        Each file is whole or absent at every moment; a crash leaves some of it done. Left is what changed since, and
        the mapping of a digest that such a list holds.

        Raises:
            TransferError: a file cannot be changed; those before it are. StoreFullError: no space is left for a list.
        """
        left: list[int] = []
        listed: set[str] = set()  # by lists that were left
        touched: set[tuple[str, ...]] = set()
        with naming(self.directory, "changed"):
            for number, (record, kept) in enumerate(doomed):
                if record.namespace == DIFF_IDS and key_digest(record.key) in listed:
                    left.append(number)
                    continue
                *segments, name = (record.namespace, *record.key.split("/"))
                with self.store.exclusive():
                    now = _now(self.directory, segments, name)
                    if now == (record.value, record.modified_at_ns):
                        with tree.directory(self.directory, segments) as folder:
                            if kept is None:
                                tree.remove(folder, name)
                            else:
                                tree.replace(folder, name, kept, record.modified_at_ns)
                        touched.add(tuple(segments))
                        continue
                left.append(number)
                if now is not None and record.namespace == V2_METADATA:
                    listed |= digests_of(now[0])
            for below in touched:
                with tree.directory(self.directory, below) as folder:
                    os.fsync(folder)
        return left

    def remove_temporary(self, *, dry_run: bool) -> int:
        """Remove the files that writes left behind; return how many there are. Directories and links stay.

        Raises:
            TransferError: one cannot be removed.
        """
        removed = 0
        with naming(self.directory, "changed"), tree.directory(self.directory, ()) as top:
            for found in scan.walk(top):
                if found.kind != "temporary":
                    continue
                if not stat.S_ISREG(os.stat(found.name, dir_fd=found.directory, follow_symlinks=False).st_mode):
                    continue
                removed += 1
                if not dry_run:
                    os.unlink(found.name, dir_fd=found.directory)
        return removed

    def free_bytes(self, *, vacuum: bool) -> None:
        return None


def _now(base: str, segments: list[str], name: str) -> tuple[bytes, int] | None:
    try:
        with tree.directory(base, segments) as folder:
            value, status = tree.read(folder, name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None  # a link by now
        raise
    return value, status.st_mtime_ns


@contextmanager
def naming(base: str, done: str = "written") -> Iterator[None]:
    """Turn what the file system raises into errors that name the file, and say that it cannot be `done`."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the archive has gone; that is no failure of ours
    except OSError as error:
        path = os.path.join(base, os.fsdecode(error.filename)) if error.filename else base
        if error.errno in _FULL:
            raise StoreFullError(f"{error.strerror}: free some space, then try again", path) from error
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise TransferError(f"cannot be {done}: {error.strerror or error}", path) from error
        while not os.path.lexists(path):
            path = os.path.dirname(path)  # the directory in which it cannot be made
        raise TransferError(f"cannot be {done}: {why_refused(error)}", path) from error


class QuarantinedFile(NamedTuple):
    """A file that was moved there."""

    path: str
    bytes: int
    modified_at_ns: int


def quarantined_files(directory: str) -> list[QuarantinedFile]:
    """Return the files that were moved out of a metadata directory, the earliest move first.

    Raises:
        TransferError: there is no such directory, or its quarantine cannot be read.
    """
    base = absolute(directory)
    if not os.path.isdir(base):
        raise TransferError("there is no such directory: give a `distribution` directory", base)
    top = f"{base}.quarantine"
    try:
        moves = sorted(os.listdir(top))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TransferError(f"cannot be read: {why_refused(error)}", top) from error
    return [
        QuarantinedFile(os.path.join(top, move, found.namespace, found.key), len(found.value), found.modified_at_ns)
        for move in moves
        for found in scan.scan(os.path.join(top, move))
        if isinstance(found, Record)
    ]
