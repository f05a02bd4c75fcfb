"""Tar archives of a store, as of one `distribution` directory; each is whole or absent."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from layerstore.collection import records
from layerstore.errors import TransferError
from layerstore.files.temporary import whole_file
from layerstore.formats import compression, tar
from layerstore.paths import absolute
from layerstore.reports import Examples, Skipped
from layerstore.sql.sqlite.recognition import is_database
from layerstore.store import Store
from layerstore.transfer.directory import check_paths, naming
from layerstore.transfer.place import Progress, opened


def export_tar(
    store: Store, file: IO[bytes], *, skipped: Examples[Skipped] | None = None, progress: Progress | None = None
) -> int:
    """Write a store as a tar archive of one `distribution` directory; return how many entries it has.

    Modes and times are as `export_directory` writes them; the times keep their nanoseconds (pax). Entries whose key no
    directory can hold are left out, and added to `skipped`.

    Raises:
        InvalidKeyError: a key breaks the key rules. Found before anything is written.
        TransferError: the file cannot be written.
        StoreError: the store failed.
    """
    with opened(store) as source, source.view() as content:
        unplaceable: dict[tuple[str, str], str] = {}
        total = check_paths(content, unplaceable) if source.directory is None else None
        with naming(getattr(file, "name", None) or "the archive"), tar.Writer(file) as writer:
            for record in records(content):
                if unplaceable and record[:2] in unplaceable:
                    if skipped is not None:
                        skipped.add(Skipped("/".join(record[:2]), unplaceable[record[:2]]))
                    continue
                writer.add(record)
                if progress is not None:
                    progress(writer.written, total)
        return writer.written


def export_archive(
    store: Store,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    skipped: Examples[Skipped] | None = None,
    progress: Progress | None = None,
) -> int:
    """Write a store as a tar archive with this name; return how many entries it has. Otherwise as `export_tar`.

    Compressed as the name says (`new_file`). The archive is whole or absent.

    Args:
        store: a `SQLMetadataStore` or `FSMetadataStore`.
        path: the archive; a device or pipe is written to.
        overwrite: replace the file that has the name.
        skipped: takes the entries that no directory can hold.
        progress: called with the entries done and the entries there are.

    Raises:
        InvalidKeyError: a key that cannot be a path; found before anything is written.
        TransferError: there is a file already, or none can be written.
        StoreError: the store failed.
    """
    with new_file(os.fspath(path), overwrite=overwrite) as file:
        return export_tar(store, file, skipped=skipped, progress=progress)


@contextmanager
def new_file(path: str, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when it is whole.

    It is compressed if its name says so: .tar.gz, .tgz, .tar.bz2, .tar.xz. It is 0600, as the database is; with
    `overwrite` it replaces one that has the name already, and leaves that one's mode. A device or pipe is written to.

    Raises:
        TransferError: there is a file already, or a database in any case; it cannot be written, or not compressed as
            its name says.
    """
    target = absolute(path)
    compressor = compression.compressor(target)
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        with naming(target), open(target, "wb") as device, compression.compressing(device, compressor) as packed:
            yield packed
        return
    _refuse_existing(target, overwrite=overwrite)
    with naming(target), whole_file(target, overwrite=overwrite) as temporary:
        with open(temporary, "wb") as file:
            if os.path.isfile(target):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(target).st_mode))
            with compression.compressing(file, compressor) as packed:
                yield packed
        _refuse_existing(target, overwrite=overwrite)  # somebody may have made it meanwhile


def _refuse_existing(target: str, *, overwrite: bool) -> None:
    if os.path.isfile(target) and os.path.getsize(target) and is_database(target):
        raise TransferError("it is a database, which an archive must not replace: give another name", target)
    if os.path.lexists(target) and not overwrite:
        raise TransferError("there is a file already: give a new name, or use --overwrite", target)
