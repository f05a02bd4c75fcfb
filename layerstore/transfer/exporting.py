"""Giving a store out as Docker's directory."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from layerstore import tree
from layerstore.errors import InvalidKeyError, StoreFullError, TransferError
from layerstore.fs import scan
from layerstore.records import KNOWN_NAMESPACES, Record
from layerstore.sql.opening import is_database
from layerstore.sql.snapshot import Snapshot
from layerstore.store import Store, check_key
from layerstore.transfer import tar
from layerstore.transfer.joining import side_by_side
from layerstore.transfer.sources import (
    Progress,
    Readable,
    opened,
    refuse_above_a_distribution,
    refuse_under_a_daemon,
    view,
)

_BATCH = 20_000
"""Files that are renamed after one sync. A sync costs as much for one file as for many."""


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did, or with `dry_run` would do. Counts are files.

    Attributes:
        path: the directory.
        written: that were not there, or otherwise.
        unchanged: that were right already, and were not touched.
        deleted: that the store does not have.
        deleted_paths: where they are, below the directory.
        extra: that the store does not have, and that were left.
        dry_run: whether nothing was done.
    """

    path: str
    written: int
    unchanged: int
    deleted: int
    deleted_paths: tuple[str, ...]
    extra: int
    dry_run: bool

    @property
    def ok(self) -> bool:
        """True: an export does everything or raises."""
        return True


def export_directory(
    store: Store,
    path: str | os.PathLike[str],
    *,
    delete: bool = False,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a store as a directory that a Docker daemon takes for its own.

    Files get Docker's modes, and the times that the store has. Each file is whole or absent at every moment, also
    after a power cut: many are written beside their names, then synced at once, then renamed. Files that are right
    already are not touched. A store in a database is read as one snapshot; its writers do not wait.

    Args:
        store: a `SQLMetadataStore` or `FSMetadataStore`.
        path: the `distribution` directory; it is made if it is not there.
        delete: remove files that the store does not have; only regular files with a valid key, and only in a
            directory that has a namespace of Docker's or of the store.
        dry_run: only count.
        force: delete also under a running daemon, and in a directory of unknown namespaces alone.
        progress: called with the entries done and the entries there are.

    Raises:
        InvalidKeyError: a key that cannot be a path: it breaks the key rules, a segment is over 255 bytes, or it is
            the directory of another. Found before anything is written.
        StoreFullError: no space is left; what was renamed stays, nothing is half written.
        TransferError: the directory cannot be read or written, or is one above a `distribution` directory; or, to
            `delete`, a daemon runs on it.
        StoreError: the store failed.

    Source: Docker's `FSMetadataStore`, `ioutils.AtomicWriteFile`.
    """
    base = os.path.abspath(os.fspath(path))
    refuse_above_a_distribution(base)
    if delete and not (dry_run or force):
        refuse_under_a_daemon(base)
    with opened(store) as (source, _), view(source) as content:
        total = _check_paths(content) if isinstance(content, Snapshot) else None
        with _naming(base):
            if not dry_run:
                tree.make_base(base)
            if delete and not force:
                _refuse_to_empty(base, content)
            with _Writer(base, delete=delete, dry_run=dry_run) as writer:
                existing = _existing(base)
                for done, (there, wanted) in enumerate(side_by_side(existing, content.records()), 1):
                    writer.settle(there, wanted)
                    if progress is not None:
                        progress(done, total)
    deleted = tuple(writer.deleted)
    return ExportReport(base, writer.written, writer.unchanged, len(deleted), deleted, writer.extra, dry_run)


def export_tar(store: Store, file: IO[bytes], *, progress: Progress | None = None) -> int:
    """Write a store as a tar archive of one `distribution` directory; return how many entries it has.

    Modes and times are as `export_directory` writes them; the times keep their nanoseconds (pax).

    Raises:
        InvalidKeyError: a key that cannot be a path; found before anything is written.
        TransferError: the file cannot be written.
        StoreError: the store failed.
    """
    with opened(store) as (source, _), view(source) as content:
        total = _check_paths(content) if isinstance(content, Snapshot) else None
        with _naming(getattr(file, "name", None) or "the archive"), tar.Writer(file) as writer:
            for record in content.records():
                writer.add(record)
                if progress is not None:
                    progress(writer.written, total)
        return writer.written


@contextmanager
def new_file(path: str) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when it is whole, and in place of the one that has it.

    Raises:
        TransferError: it cannot be written.
    """
    target = os.path.abspath(path)
    if os.path.lexists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        with _naming(target), open(target, "wb") as device:
            yield device
        return
    if os.path.isfile(target) and os.path.getsize(target) and is_database(target):
        raise TransferError("it is a database, which an archive must not replace: give another name", target)
    temporary = f"{target}.tmp-{secrets.token_hex(8)}"
    with _naming(target):
        try:
            with open(temporary, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, target)
            tree.sync_directory(os.path.dirname(target))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _check_paths(snapshot: Snapshot) -> int:
    """Refuse keys that cannot be paths; return how many keys there are."""
    total = 0
    directories: set[str] = set()
    for namespace, key in snapshot.names():
        total += 1
        check_key(namespace, key)
        path = f"{namespace}/{key}"
        for segment in path.split("/"):
            if len(segment.encode()) > tree.MAX_SEGMENT:
                raise InvalidKeyError(
                    f"namespace {namespace!r}, key {key!r}: a segment over {tree.MAX_SEGMENT} bytes cannot be a file;"
                    " `layerstore delete` removes the entry"
                )
        while (path := path.rpartition("/")[0]) and path not in directories:
            directories.add(path)
    for directory in sorted(directories):
        namespace, _, key = directory.partition("/")
        if key and key in snapshot.get_many(namespace, [key]):
            raise InvalidKeyError(
                f"namespace {namespace!r}, key {key!r}: cannot be a file, as other keys lie below it;"
                " `layerstore delete` removes the entry"
            )
    return total


def _refuse_to_empty(base: str, content: Readable) -> None:
    """Refuse to delete in a directory that has nothing of what it should have: it is another one than was meant.

    Raises:
        TransferError: it has files, and no namespace of Docker's or of the store.
    """
    there = set(os.listdir(base)) if os.path.isdir(base) else set()
    if there and not there & {*KNOWN_NAMESPACES, *(record.namespace for record in content.records())}:
        raise TransferError(
            "none of the store's namespaces is there, so that --delete would empty it: give a `distribution` directory,"
            " or use --force",
            base,
        )


def _existing(base: str) -> Iterator[Record]:
    if os.path.isdir(base):
        yield from (found for found in scan(base) if isinstance(found, Record))


@contextmanager
def _naming(base: str) -> Iterator[None]:
    """Turn what the file system raises into errors that name the directory."""
    try:
        yield
    except BrokenPipeError:
        raise  # whoever read the archive has gone; that is no failure of ours
    except OSError as error:
        path = os.path.join(base, os.fsdecode(error.filename)) if error.filename else base
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFullError(f"{error.strerror}: free some space, then export again", path) from error
        raise TransferError(f"cannot be written: {error.strerror or error}", path) from error


class _Writer:
    """Bring a directory to what it should be, file by file, in the order of the keys."""

    def __init__(self, base: str, *, delete: bool, dry_run: bool) -> None:
        self._base = base
        self._delete = delete
        self._dry_run = dry_run
        self._waiting: list[tuple[tuple[str, ...], str, str]] = []
        self._doomed: list[Record] = []
        self.deleted: list[str] = []
        self.written = self.unchanged = self.extra = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._rename()
                self._remove_doomed()
        finally:
            self._discard()

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
        *segments, name = (record.namespace, *record.key.split("/"))
        try:
            temporary = self._write_temporary(segments, name, record)
        except NotADirectoryError:
            if not self._doomed:
                raise
            self._remove_doomed()  # one of them may be where a directory must be
            temporary = self._write_temporary(segments, name, record)
        self._waiting.append((tuple(segments), temporary, name))
        if len(self._waiting) >= _BATCH:
            self._rename()

    def _write_temporary(self, segments: list[str], name: str, record: Record) -> str:
        with tree.directory(self._base, segments, create=True) as directory:
            return tree.write_temporary(directory, name, record.value, modified_at_ns=record.modified_at_ns, sync=False)

    def _rename(self) -> None:
        """Sync what was written, then give it its names: a name never stands for bytes that a power cut may take."""
        if not self._waiting:
            return
        with tree.directory(self._base, ()) as base:
            _sync_file_system(base)
            while self._waiting:
                segments, temporary, name = self._waiting[-1]
                with tree.directory(self._base, segments) as directory:
                    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
                self._waiting.pop()
            _sync_file_system(base)

    def _discard(self) -> None:
        """Remove what has not got its name."""
        for segments, temporary, _ in self._waiting:
            with suppress(FileNotFoundError), tree.directory(self._base, segments) as directory:
                os.unlink(temporary, dir_fd=directory)

    def _remove(self, record: Record) -> None:
        if not self._delete:
            self.extra += 1
            return
        self.deleted.append(f"{record.namespace}/{record.key}")
        if not self._dry_run:
            self._doomed.append(record._replace(value=b""))

    def _remove_doomed(self) -> None:
        """Remove files, if possible last, when all that should be there is; a power cut brings none of them back."""
        doomed, self._doomed = self._doomed, []
        if not doomed:
            return
        for record in doomed:
            *segments, name = (record.namespace, *record.key.split("/"))
            with tree.directory(self._base, segments) as directory:
                tree.remove(directory, name)
        with tree.directory(self._base, ()) as base:
            _sync_file_system(base)

    def _has_right_mode(self, record: Record) -> bool:
        *segments, name = (record.namespace, *record.key.split("/"))
        with tree.directory(self._base, segments) as directory:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return stat.S_IMODE(status.st_mode) == tree.FILE_MODE


def _sync_file_system(descriptor: int) -> None:
    """Write everything of one file system to its disk.

    Source: syncfs(2), which Python does not offer; where the C library has none, sync(2), which does all of them.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "syncfs"):
        os.sync()
    elif library.syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
