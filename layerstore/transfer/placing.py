"""Writing files of a directory, with one sync for many, and losing nothing that somebody else writes there meanwhile.

A file never has its name before its bytes are on the disk, so that it is whole or absent at every moment, also after a
power cut:

- In a namespace that is there already, files are written beside their names (`.tmp-…`), then the file system is
  synced, then they get their names.
- Namespaces that are not there are written into a directory of another name, and get their own when all is synced:
  their files need no second name each. One export at a time does so. Where somebody else makes the namespace meanwhile,
  they get their names one by one.

A rename is atomic, and a second sync makes it last. Source: rename(2), syncfs(2).

Somebody else, such as a running daemon, may write the same files. A plain rename puts the new file over whatever is
there. renameat2(2) exchanges the two: what comes out is looked at, and goes back if it is not what was expected. Then
the two are settled again. Where a file system or C library lacks the call, the file is looked at right before a plain
rename: what is written between the two is lost.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Self

from layerstore.files import scan, tree
from layerstore.files.tree import sync_file_system
from layerstore.keys import TEMPORARY_PREFIX, Record
from layerstore.records import storable_time

_BATCH = 20_000
"""Files that get their names after one sync. A sync costs as much for one file as for many."""

_UNFINISHED = f"{TEMPORARY_PREFIX}layerstore"
"""The directory of namespaces that are not there yet. Whoever fills it has the base locked."""

Look = bytes
"""What tells one state of a file from another."""
NOTHING: Look = b"nothing"
NO_FILE: Look = b"no file"
"""There is a link, a directory, a device, a socket or a pipe."""

_Segments = tuple[str, ...]


class _Renaming(NamedTuple):
    segments: _Segments
    temporary: str
    name: str
    expected: Look


class Writer:
    """Write and remove files, in the order of the keys; as a context manager, which ends it.

    Args:
        base: the directory. It must be there.
        settle_again: given an entry that somebody else has written meanwhile, and ours, returns what to write, or
            `None` to leave what is there.
    """

    def __init__(self, base: str, settle_again: Callable[[Record, Record], Record | None]) -> None:
        self._base = base
        self._settle_again = settle_again
        self._suffix = tree.random_suffix()
        self._there: set[str] = set()
        self._new: list[str] = []
        """Namespaces that are written below `_UNFINISHED`."""
        self._renaming: list[_Renaming] = []
        self._has_removed = False

    def __enter__(self) -> Self:
        self._top = os.open(self._base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._folder = _Folder(self._top)
        try:
            if _is_there(self._top, _UNFINISHED):
                self._begin_namespaces()
        except BaseException:
            os.close(self._top)  # with its lock, for which this process itself would wait the next time
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            try:
                self._folder.close()
                self._discard()
            finally:
                os.close(self._top)

    def write(self, record: Record, there: Record | None) -> None:
        """Write an entry where `there` was found.

        Raises:
            OSError: it, or one before it, cannot be written. Its `filename` is below the base.
        """
        namespace, key, value, modified_at_ns = record
        *below, name = key.split("/")
        segments = (namespace, *below)
        if self._is_new(namespace):
            self._folder.write((_UNFINISHED, *segments), name, value, modified_at_ns)
            return
        self._folder.open(segments)
        temporary = tree.temporary_name(name, self._suffix)
        # Noted before it is there, so that an interrupt leaves none behind.
        self._renaming.append(_Renaming(segments, temporary, name, look_of(there)))
        self._folder.write(segments, temporary, value, modified_at_ns)
        if len(self._renaming) >= _BATCH:
            self._rename()

    def remove(self, record: Record) -> None:
        """Remove an entry. Raises OSError as `write`."""
        *segments, name = (record.namespace, *record.key.split("/"))
        tree.remove(self._folder.open(tuple(segments)), name)
        self._has_removed = True

    def _is_new(self, namespace: str) -> bool:
        """Tell whether a namespace was not there yet, so that it gets its name as a whole."""
        if namespace not in self._there and namespace not in self._new:
            if not (self._new or _is_there(self._top, namespace)):
                self._begin_namespaces()
            if _is_there(self._top, namespace):
                self._there.add(namespace)
            else:
                self._new.append(namespace)
        return namespace in self._new

    def _begin_namespaces(self) -> None:
        """Wait for another export that makes namespaces, and remove what one that was killed has left of them."""
        with suppress(OSError):  # NFS locks no directory: of two exports that make namespaces there, one fails
            fcntl.flock(self._top, fcntl.LOCK_EX)
        _clear(self._top)

    def _finish(self) -> None:
        self._rename()
        if self._new:
            sync_file_system(self._top)
            for namespace in self._new:
                self._adopt(namespace)
            self._rename()
        if self._new or self._has_removed:
            sync_file_system(self._top)

    def _adopt(self, namespace: str) -> None:
        """Put a namespace in its place; where there is one by now, move its files there one by one."""
        try:
            os.rename(f"{_UNFINISHED}/{namespace}", namespace, src_dir_fd=self._top, dst_dir_fd=self._top)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            here = tree.open_below(self._top, (_UNFINISHED, namespace))
            try:
                for found in scan.walk(here):
                    *below, last = os.fsdecode(found.path).split("/")
                    segments, temporary = (namespace, *below), tree.temporary_name(last, self._suffix)
                    self._renaming.append(_Renaming(segments, temporary, last, NOTHING))
                    directory = self._folder.open(segments)
                    os.rename(found.name, temporary, src_dir_fd=found.directory, dst_dir_fd=directory)
            finally:
                os.close(here)

    def _rename(self) -> None:
        """Sync what was written, then give it its names, then sync those."""
        if not self._renaming:
            return
        sync_file_system(self._top)
        while self._renaming:
            renaming = self._renaming[-1]
            try:
                self._place(renaming)
            except OSError as error:
                if not os.path.isabs(error.filename or ""):
                    error.filename = "/".join((*renaming.segments, renaming.name))
                raise
            self._renaming.pop()
        sync_file_system(self._top)

    def _place(self, renaming: _Renaming) -> None:
        segments, temporary, name, expected = renaming
        directory = self._folder.open(segments)
        while not take_name(directory, temporary, name, expected):
            expected = look(directory, name)
            if expected == NO_FILE:  # such as a link, which is no entry; of a directory it is an error
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                return
            theirs = _read(directory, renaming, name)
            if theirs is None:
                expected = NOTHING
                continue
            expected = look_of(theirs)
            ours = _read(directory, renaming, temporary)
            assert ours is not None
            wanted = self._settle_again(theirs, ours)
            if wanted is None or wanted == theirs:
                os.unlink(temporary, dir_fd=directory)
                return
            tree.replace(directory, temporary, wanted.value, wanted.modified_at_ns)

    def _discard(self) -> None:
        """Remove what has not got its name."""
        for segments, temporary, *_ in self._renaming:
            with suppress(FileNotFoundError), tree.directory(self._base, segments) as directory:
                os.unlink(temporary, dir_fd=directory)
        if self._new:
            _clear(self._top)


class _Folder:
    """The directory in which files are written now; it stays open for those that follow in it."""

    def __init__(self, top: int) -> None:
        """Begin with none, below the open directory `top`."""
        self._top = top
        self._segments: _Segments | None = None
        self._directory = -1

    def open(self, segments: _Segments) -> int:
        """Return the directory `segments` below the top, made if it is missing, in place of the one before."""
        if self._segments != segments:
            self.close()
            try:
                self._directory = tree.open_below(self._top, segments, create=True)
            except OSError as error:
                error.filename = "/".join(segments)
                raise
            self._segments = segments
        return self._directory

    def write(self, segments: _Segments, name: str, value: bytes, modified_at_ns: int) -> None:
        """Write a file that is not there; an error names the directory, as nothing is wrong with the name."""
        directory = self.open(segments)
        try:
            tree.write_new(directory, name, value, modified_at_ns)
        except OSError as error:
            error.filename = "/".join(segments)
            raise

    def close(self) -> None:
        """Leave it."""
        if self._segments is not None:
            self._segments = None
            os.close(self._directory)


def _read(directory: int, renaming: _Renaming, name: str) -> Record | None:
    """Read one of the two files of a key, as an entry."""
    namespace, *below = renaming.segments
    try:
        value, status = tree.read(directory, name)
    except FileNotFoundError:
        return None
    return Record(namespace, "/".join((*below, renaming.name)), value, storable_time(status.st_mtime_ns))


def look_of(record: Record | None) -> Look:
    """Return how a file looks that holds an entry."""
    if record is None:
        return NOTHING
    return hashlib.blake2b(record.value, digest_size=16).digest() + record.modified_at_ns.to_bytes(8, signed=True)


def look(directory: int, name: str) -> Look:
    """Return how a file looks now."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return NO_FILE
        value, status = tree.read(directory, name)
    except FileNotFoundError:
        return NOTHING
    return look_of(Record("", "", value, storable_time(status.st_mtime_ns)))


def take_name(directory: int, temporary: str, name: str, expected: Look) -> bool:
    """Give a temporary file a name, if that still looks as expected; tell whether it does.

    If not, both are there as they were; but the temporary file may be what somebody else wrote over it in between.

    Raises:
        OSError: the name cannot be given; or what was there cannot be read, and is there again.
    """
    try:
        if expected == NOTHING:
            return _take_free_name(directory, temporary, name)
        return _take_from(directory, temporary, name, expected)
    except OSError as error:
        if error.errno not in tree.LACKING:
            raise
    if look(directory, name) != expected:
        return False
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    return True


def _take_free_name(directory: int, temporary: str, name: str) -> bool:
    try:
        tree.rename(directory, temporary, name, tree.NO_REPLACE)
    except FileExistsError:
        return False
    return True


def _take_from(directory: int, temporary: str, name: str, expected: Look) -> bool:
    if look(directory, name) != expected:
        return False  # seen before anybody could read our file in its place
    ours = _inode(directory, temporary)
    try:
        tree.rename(directory, temporary, name, tree.EXCHANGE)
        if look(directory, temporary) == expected:
            os.unlink(temporary, dir_fd=directory)
            return True
        tree.rename(directory, temporary, name, tree.EXCHANGE)
    except FileNotFoundError:
        return False
    except BaseException:
        if _inode(directory, temporary) not in (ours, None):  # interrupted in between
            tree.rename(directory, temporary, name, tree.EXCHANGE)
        raise
    return False


def _inode(directory: int, name: str) -> int | None:
    with suppress(FileNotFoundError):
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    return None


def _is_there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _clear(top: int) -> None:
    """Remove what has been written of namespaces, and has not got its name."""
    with suppress(FileNotFoundError):
        shutil.rmtree(_UNFINISHED, dir_fd=top)
