"""Giving a store out: to what a TARGET stands for, told by its content or, if it is not there yet, by its name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from layerstore.blobs import BlobRecord
from layerstore.digest import Digest
from layerstore.errors import InvalidInputError, TransferError
from layerstore.formats import containerd_live, containers
from layerstore.formats.facts import Written
from layerstore.keys import V1_IDS
from layerstore.paths import absolute
from layerstore.sql.sqlite.recognition import is_database, resolve
from layerstore.sql.store import SQLMetadataStore
from layerstore.sql.url import is_url, names_a_database
from layerstore.store import Store
from layerstore.transfer import place
from layerstore.transfer.combining import facts
from layerstore.transfer.exporting import ExportReport, assumes_gzip, export_directory
from layerstore.transfer.importing import ImportReport, Skipped, import_layers
from layerstore.transfer.merging import OnConflict
from layerstore.transfer.place import Place, Progress, indexed, opened


def export_layers(
    store: Store,
    target: Place,
    *,
    on_conflict: OnConflict = "merge",
    delete: bool = False,
    force: bool = False,
    dry_run: bool = False,
    assume_compression: str | None = None,
    all_namespaces: bool = False,
    images: Sequence[str] = (),
    to: str | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write what a store knows for an engine: Docker, Podman and the like, containerd; or into another store.

    What the target knows stays, unless a directory or store is told otherwise. Of a blob on which sources disagree,
    nothing is written. Writing the same again changes nothing.

    Args:
        store: a `SQLMetadataStore` or `FSMetadataStore`.
        target: a `distribution` directory, for which see `export_directory`; a cache of Podman, Skopeo, Buildah and
            CRI-O; a running containerd, `containerd:SOCKET?namespace=NAME`; a database of this package by its path or
            URL, or a store of it. What is not there yet is a database if it is a URL, a cache if its name is
            `blob-info-cache-v1.sqlite`, else a directory.
        on_conflict: `merge`; for a directory or store also `replace` and `keep`.
        delete: as `export_directory`; for a directory only.
        force: as `export_directory`; for a directory only.
        dry_run: only say what would be done.
        assume_compression: `gzip` takes layers whose compression is not known for gzip. If one is not, a push
            publishes a wrong manifest.
        all_namespaces: as `export_directory`; for a directory only.
        images: for containerd, only the content of these images.
        to: for containerd, the repository that will be pushed to: of each blob, only the name is written that
            containerd then chooses.
        progress: called with the entries or blobs done and, where that can be told, how many there are.

    Raises:
        InvalidInputError: an option is none of these, or the target does not support it.
        TransferError: the target cannot be written, or is something else.
        StoreError: the store failed.
    """
    assume_gzip = assumes_gzip(assume_compression)
    is_live = isinstance(target, str) and target.startswith(containerd_live.SCHEME)
    if not is_live and (images or to is not None):
        raise InvalidInputError("images and to go with containerd:SOCKET?namespace=NAME")
    is_other = is_live or names_a_database(target)
    path = None if is_other or not isinstance(target, str | os.PathLike) else absolute(target)
    if path is not None and not _is_file(path):
        return export_directory(
            store,
            path,
            on_conflict=on_conflict,
            delete=delete,
            force=force,
            dry_run=dry_run,
            assume_compression=assume_compression,
            all_namespaces=all_namespaces,
            progress=progress,
        )
    if delete:
        raise InvalidInputError("delete goes with a directory")
    if not is_live and (path is None or not _is_cache(path)):
        with _opened(target, dry_run=dry_run) as other:
            done = import_layers(other, store, on_conflict=on_conflict, dry_run=dry_run, progress=progress)
        return _of_import(place.name(target), done, dry_run=dry_run)
    if on_conflict != "merge":
        raise InvalidInputError(f"another engine's memory is merged into only, not {on_conflict!r}")
    with opened(store) as source, indexed(source) as (view, _):
        known = _counting(facts(view, assume_gzip=assume_gzip), progress)
        if path is not None:
            written = containers.write(path, known, dry_run=dry_run)
        else:
            socket = containerd_live.Socket.parse(str(target))
            written = containerd_live.write(socket, known, images=images, target=to, dry_run=dry_run)
        written.left_out["a V1 ID, which only Docker has"] += sum(1 for _ in view.scan(V1_IDS))
    return _of_written(path or str(target), written, dry_run=dry_run)


def _is_file(path: str) -> bool:
    """Tell whether a path is, or will be, one file.

    Raises:
        TransferError: it is a file of no kind that can be written, or a directory in which the file is meant.
    """
    if not os.path.lexists(path):
        return os.path.basename(path) == containers.NAME
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, containers.NAME)):
            raise TransferError(f"it is the folder of a cache: give {os.path.join(path, containers.NAME)}", path)
        return False
    if os.path.isfile(path) and (os.path.getsize(path) == 0 or not is_database(path)):
        raise TransferError("a file that is no cache and no database: give a directory, or --tar for an archive", path)
    return True


def _is_cache(path: str) -> bool:
    return containers.is_cache(path) if os.path.exists(path) else True


@contextmanager
def _opened(target: Place, *, dry_run: bool) -> Iterator[Store]:
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    file = None if is_url(target) else resolve(target)
    is_new = file is not None and not os.path.lexists(file)
    with SQLMetadataStore(":memory:" if dry_run and is_new else target) as store:
        yield store


def _counting(
    known: Iterator[tuple[Digest, BlobRecord]], progress: Progress | None
) -> Iterator[tuple[Digest, BlobRecord]]:
    for done, fact in enumerate(known, 1):
        yield fact
        if progress is not None:
            progress(done, None)


def _of_written(path: str, written: Written, *, dry_run: bool) -> ExportReport:
    return ExportReport(
        path=path,
        added=written.added,
        merged=written.updated,
        unchanged=written.unchanged,
        skipped=tuple(Skipped(*one) for one in written.differences),
        skipped_count=written.difference_count,
        left_out={reason: count for reason, count in written.left_out.items() if count},
        dry_run=dry_run,
    )


def _of_import(path: str, done: ImportReport, *, dry_run: bool) -> ExportReport:
    refused = [Skipped(one.path, one.reason) for one in done.quarantined]
    return ExportReport(
        path=path,
        added=done.added,
        merged=done.updated,
        unchanged=done.unchanged,
        evicted=done.evicted,
        conflicts=done.conflicts,
        conflict_count=done.conflict_count,
        skipped=(*done.skipped, *refused),
        skipped_count=done.skipped_count + done.quarantined_count,
        dry_run=dry_run,
    )
