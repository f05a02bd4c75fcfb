"""Giving a store out as Docker's directory."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO

from layerstore.docker.dataroot import refuse_above_a_distribution, refuse_under_a_daemon
from layerstore.errors import InvalidKeyError, StoreFullError, TransferError
from layerstore.files import tree
from layerstore.formats import compression, tar
from layerstore.records import KNOWN_NAMESPACES, Record
from layerstore.sql.sqlite.recognition import is_database
from layerstore.sql.sqlite.snapshot import Snapshot
from layerstore.store import TEMPORARY_PREFIX, Store, check_key
from layerstore.transfer import reader
from layerstore.transfer.joining import side_by_side
from layerstore.transfer.placing import Writer
from layerstore.transfer.sources import (
    Progress,
    Readable,
    opened,
    view,
)

# Docker's own keys, of which no segment is too long and nothing else breaks a rule.
_is_plain = re.compile("sha256/[0-9a-f]{64}").fullmatch

_PRIVATE = 0o600


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did, or with `dry_run` would do. Counts are files.

    Attributes:
        path: the directory.
        written: that were not there, or otherwise.
        unchanged: that were right already, and were not touched.
        deleted: that the store does not have.
        deleted_paths: where they are, below the directory; of the first 1,000.
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
    after a power cut (`layerstore.transfer.placing` says why). Files that are right already are not touched. A store in
    a database is read as one snapshot; its writers do not wait. Several exports into one directory may run at once.
    Into a new directory, two more processes write most of what is above 5,000 files, where there is a second core.

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
            `delete`, a daemon runs on it; or somebody ended a process that wrote.
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
            with Writer(base, delete=delete, dry_run=dry_run) as writer:
                existing = _existing(base)
                for done, (there, wanted) in enumerate(side_by_side(existing, content.records()), 1):
                    writer.settle(there, wanted)
                    if progress is not None:
                        progress(done, total)
    deleted = writer.deleted
    return ExportReport(
        base, writer.written, writer.unchanged, deleted.count, tuple(deleted.first), writer.extra, dry_run
    )


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


def export_archive(
    store: Store, path: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
) -> int:
    """Write a store as a tar archive with this name; return how many entries it has. Otherwise as `export_tar`.

    Compressed as the name says (`new_file`). The archive is whole or absent.

    Args:
        store: a `SQLMetadataStore` or `FSMetadataStore`.
        path: the archive; a device or pipe is written to.
        overwrite: replace the file that has the name.
        progress: called with the entries done and the entries there are.

    Raises:
        InvalidKeyError: a key that cannot be a path; found before anything is written.
        TransferError: there is a file already, or none can be written.
        StoreError: the store failed.
    """
    with new_file(os.fspath(path), overwrite=overwrite) as file:
        return export_tar(store, file, progress=progress)


@contextmanager
def new_file(path: str, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when it is whole.

    It is compressed if its name says so: .tar.gz, .tgz, .tar.bz2, .tar.xz. It is 0600, as the database is; with
    `overwrite` it replaces one that has the name already, and leaves that one's mode. A device or pipe is written to.

    Raises:
        TransferError: there is a file already, or a database in any case; it cannot be written, or not compressed as
            its name says.
    """
    target = os.path.abspath(path)
    compressor = compression.compressor(target)
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        with _naming(target), open(target, "wb") as device, compression.compressing(device, compressor) as packed:
            yield packed
        return
    _refuse_existing(target, overwrite=overwrite)
    temporary = f"{target}.tmp-{secrets.token_hex(8)}"
    with _naming(target):
        try:
            with open(temporary, "xb", opener=_private) as file:
                mode = stat.S_IMODE(os.stat(target).st_mode) if os.path.isfile(target) else _PRIVATE
                os.fchmod(file.fileno(), mode)
                with compression.compressing(file, compressor) as packed:
                    yield packed
                file.flush()
                os.fsync(file.fileno())
            _refuse_existing(target, overwrite=overwrite)  # somebody may have made it meanwhile
            os.rename(temporary, target)
            tree.sync_directory(os.path.dirname(target))
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _refuse_existing(target: str, *, overwrite: bool) -> None:
    if os.path.isfile(target) and os.path.getsize(target) and is_database(target):
        raise TransferError("it is a database, which an archive must not replace: give another name", target)
    if os.path.lexists(target) and not overwrite:
        raise TransferError("there is a file already: give a new name, or use --overwrite", target)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, _PRIVATE)


def _check_paths(snapshot: Snapshot) -> int:
    """Refuse keys that cannot be paths; return how many keys there are."""
    total = 0
    directories: set[str] = set()
    for namespace, key in snapshot.names():
        total += 1
        if namespace in KNOWN_NAMESPACES and _is_plain(key):
            if namespace not in directories:
                directories.update((namespace, f"{namespace}/sha256"))
            continue
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
    names = os.listdir(base) if os.path.isdir(base) else ()
    there = {name for name in names if not name.startswith(TEMPORARY_PREFIX)}
    if there and not there & {*KNOWN_NAMESPACES, *(record.namespace for record in content.records())}:
        raise TransferError(
            "none of the store's namespaces is there, so that --delete would empty it: give a `distribution` directory,"
            " or use --force",
            base,
        )


def _existing(base: str) -> Iterator[Record]:
    if os.path.isdir(base):
        for batch in reader.scan(base):
            yield from map(Record._make, batch.records)


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
