"""Bringing a directory to what it should be, with one sync for many files.

A file never has its name before its bytes are on the disk, so that it is whole or absent at every moment, also after a
power cut:

- In a namespace that is there already, files are written beside their names (`.tmp-…`), then the file system is
  synced, then they are renamed.
- A namespace that is not there is written as a directory of another name, and gets its own when all of it is synced;
  the files in it need no second name. Where somebody makes the namespace meanwhile, they are moved into it one by one.

A rename is atomic, and a second sync makes it last. Source: rename(2), syncfs(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
from contextlib import suppress
from typing import NamedTuple

from layerstore.files import tree, walking
from layerstore.records import Record
from layerstore.store import TEMPORARY_PREFIX
from layerstore.transfer.merging import Examples
from layerstore.transfer.newfiles import Folder, NewFiles, hold
from layerstore.transfer.spool import Spool
from layerstore.transfer.syncing import sync_file_system

_BATCH = 20_000
"""Files that are renamed after one sync. A sync costs as much for one file as for many."""

_UNFINISHED = f"{TEMPORARY_PREFIX}layerstore-"
"""Begins the name of a directory that becomes a namespace. Whoever fills it has it locked."""
_TRIES = 100
"""To make one: another export may take it for an abandoned one before it is locked, and remove it."""


class _Renaming(NamedTuple):
    segments: tuple[str, ...]
    temporary: str
    name: str


class _Unfinished(NamedTuple):
    name: str
    lock: int


class Writer:
    """Write what a directory does not have, in the order of the keys; as a context manager, which ends it.

    Attributes:
        written: files that were not there, or otherwise; with `dry_run`, that would be written.
        unchanged: that were right already.
        deleted: where the files are that were not wanted and are removed, with `delete`.
        extra: how many were not wanted, and were left.
    """

    def __init__(self, base: str, *, delete: bool, dry_run: bool) -> None:
        self._base = base
        self._delete = delete
        self._dry_run = dry_run
        self._suffix = tree.random_suffix()
        self._unfinished: dict[str, _Unfinished] = {}
        self._renaming: list[_Renaming] = []
        self._doomed = Spool()
        self.deleted: Examples[str] = Examples()
        self.written = self.unchanged = self.extra = 0

    def __enter__(self) -> Writer:
        if not self._dry_run:
            self._top = os.open(self._base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._folder = Folder(self._top)
            self._new_files = NewFiles(self._base, self._top)
            _clear(self._top)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._dry_run:
                self._finish()
        finally:
            self._doomed.close()
            if not self._dry_run:
                self._new_files.stop()
                self._folder.close()
                self._discard()
                os.close(self._top)

    def settle(self, there: Record | None, wanted: Record | None) -> None:
        """Make one path what it should be."""
        if wanted is None:
            assert there is not None
            self._remove(there)
        elif there == wanted and self._has_right_mode(wanted):
            self.unchanged += 1
        else:
            self.written += 1
            if not self._dry_run:
                self._write(wanted)

    def _write(self, record: Record) -> None:
        try:
            self._write_in_its_place(record)
        except NotADirectoryError:
            if not len(self._doomed):
                raise
            self._remove_doomed()  # one of them may be where a directory must be
            self._write_in_its_place(record)

    def _write_in_its_place(self, record: Record) -> None:
        namespace, value, modified_at_ns = record.namespace, record.value, record.modified_at_ns
        *below, name = record.key.split("/")
        if namespace not in self._unfinished:
            self._begin(namespace)
        unfinished = self._unfinished.get(namespace)
        if unfinished is not None:
            self._new_files.write((unfinished.name, *below), name, value, modified_at_ns)
            return
        segments = (namespace, *below)
        directory = self._folder.open(segments)
        temporary = tree.temporary_name(name, self._suffix)
        # Noted before it is there, so that an interrupt leaves none behind.
        self._renaming.append(_Renaming(segments, temporary, name))
        tree.write_new(directory, temporary, value, modified_at_ns)
        if len(self._renaming) >= _BATCH:
            self._rename()

    def _begin(self, namespace: str) -> None:
        """Make the directory that becomes a namespace, unless there is something of that name."""
        with suppress(FileNotFoundError):
            os.stat(namespace, dir_fd=self._top, follow_symlinks=False)
            return
        left = _TRIES
        while namespace not in self._unfinished:
            left -= 1
            name = f"{_UNFINISHED}{secrets.token_hex(8)}"
            try:
                os.close(tree.open_below(self._top, (name,), create=True))
                self._unfinished[namespace] = _Unfinished(name, hold(self._top, name))
            except (BlockingIOError, FileNotFoundError):
                if not left:
                    raise

    def _finish(self) -> None:
        self._new_files.finish()
        self._rename()
        if self._unfinished:
            sync_file_system(self._top)
            for namespace in list(self._unfinished):
                self._adopt(namespace)
            self._rename()
            sync_file_system(self._top)
        self._remove_doomed()
        _clear(self._top)  # what processes of an export that was killed had not left yet at the beginning

    def _adopt(self, namespace: str) -> None:
        """Give a directory the name of its namespace; where there is one by now, let its files be renamed into it."""
        name, lock = self._unfinished[namespace]
        try:
            os.rename(name, namespace, src_dir_fd=self._top, dst_dir_fd=self._top)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            for found in walking.walk(lock):
                *segments, last = (namespace, *os.fsdecode(found.path).split("/"))
                with tree.directory(self._base, segments, create=True) as directory:
                    os.rename(found.name, last, src_dir_fd=found.directory, dst_dir_fd=directory)
            shutil.rmtree(name, dir_fd=self._top)
        del self._unfinished[namespace]
        os.close(lock)

    def _rename(self) -> None:
        """Sync what was written, then give it its names, then sync those."""
        if not self._renaming:
            return
        sync_file_system(self._top)
        while self._renaming:
            segments, temporary, name = self._renaming[-1]
            directory = self._folder.open(segments)
            os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            self._renaming.pop()
        sync_file_system(self._top)

    def _discard(self) -> None:
        """Remove what has not got its name."""
        for segments, temporary, _ in self._renaming:
            with suppress(FileNotFoundError), tree.directory(self._base, segments) as directory:
                os.unlink(temporary, dir_fd=directory)
        for name, lock in self._unfinished.values():
            shutil.rmtree(name, dir_fd=self._top)
            os.close(lock)

    def _remove(self, record: Record) -> None:
        if not self._delete:
            self.extra += 1
            return
        self.deleted.add(f"{record.namespace}/{record.key}")
        if not self._dry_run:
            self._doomed.add(record.namespace, *record.key.split("/"))

    def _remove_doomed(self) -> None:
        """Remove files, if possible last, when all that should be there is; a power cut brings none of them back."""
        if not len(self._doomed):
            return
        self._folder.close()
        for *segments, name in self._doomed:
            with tree.directory(self._base, segments) as directory:
                tree.remove(directory, name)
        self._doomed.close()
        self._doomed = Spool()
        sync_file_system(self._top)

    def _has_right_mode(self, record: Record) -> bool:
        *segments, name = (record.namespace, *record.key.split("/"))
        with tree.directory(self._base, segments) as directory:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return stat.S_IMODE(status.st_mode) == tree.FILE_MODE


def _clear(top: int) -> None:
    """Remove what exports that were killed have left of namespaces; one that goes on has its directory locked."""
    for typed in walking.names(top):
        name = os.fsdecode(typed.rstrip(b"/"))
        if not (typed.endswith(b"/") and name.startswith(_UNFINISHED)):
            continue
        # One that gets its name meanwhile, or is locked, was not abandoned.
        with suppress(BlockingIOError, FileNotFoundError):
            lock = tree.open_below(top, (name,))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(name, dir_fd=top)
            finally:
                os.close(lock)
