"""Giving a store out: as Docker's directory, to another engine, or into another store.

What a TARGET stands for is told by its content or, if it is not there yet, by its name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import IO, Literal, cast

from layerstore.blobs import BlobRecord
from layerstore.collection import View, records
from layerstore.digest import Digest
from layerstore.docker.dataroot import (
    has_namespaces,
    looks_like,
    refuse_above_a_distribution,
    refuse_under_a_daemon,
    running_on,
)
from layerstore.errors import InvalidInputError, StoreError, TransferError
from layerstore.files import tree
from layerstore.files.store import naming
from layerstore.formats import containerd_live, containers, tar_members
from layerstore.keys import TEMPORARY_PREFIX, V1_IDS
from layerstore.paths import absolute
from layerstore.reports import Examples, Report, Skipped, of_rest, of_skipped
from layerstore.sql.sqlite.recognition import is_database, resolve
from layerstore.sql.store import SQLMetadataStore
from layerstore.sql.url import is_url, names_a_database
from layerstore.store import Store
from layerstore.transfer import place
from layerstore.transfer.combining import facts, for_docker
from layerstore.transfer.directory import Directory, check_paths, new_file
from layerstore.transfer.importing import ImportReport, import_layers
from layerstore.transfer.merging import Conflict, OnConflict
from layerstore.transfer.place import Place, Progress, indexed, opened
from layerstore.words import counted


@dataclass(frozen=True, slots=True)
class ExportReport(Report):
    """What an export did, or with `dry_run` would do. Counts are files.

    Attributes:
        path: the directory, or what else was written.
        added: number of files that were not there.
        merged: number of files that were there otherwise, and now have what both sides know; or a later time, or
            Docker's mode.
        replaced: number of files whose value gave way to the store's.
        kept: number of files that stayed although the store has another value.
        unchanged: number of files that were right already, and were not touched.
        deleted: number of files that the store does not have, and that were removed.
        deleted_paths: where they were, below the directory; of the first 1,000.
        extra: number of files that the store does not have, and that were left.
        evicted: number of associations that were evicted from merged lists (a list keeps 50).
        conflicts: two values of one digest or V1 ID, the first 1,000. The later one stays; under a running daemon, the
            directory's.
        conflict_count: number of them.
        skipped: entries that were not written, and why, the first 1,000. No directory can hold their key, or one of the
            two values cannot be read.
        skipped_count: number of them.
        quarantined: number of values of the directory that were moved to `quarantine`.
        quarantine: the directory beside this one that they are in; `None` if there are none.
        dry_run: whether nothing was done.
        left_out: what cannot be carried to the target, by the reason, and number of such blobs or places.
    """

    path: str
    added: int = 0
    merged: int = 0
    replaced: int = 0
    kept: int = 0
    unchanged: int = 0
    deleted: int = 0
    deleted_paths: tuple[str, ...] = ()
    extra: int = 0
    evicted: int = 0
    conflicts: tuple[Conflict, ...] = ()
    conflict_count: int = 0
    skipped: tuple[Skipped, ...] = ()
    skipped_count: int = 0
    quarantined: int = 0
    quarantine: str | None = None
    dry_run: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def written(self) -> int:
        """Number of files that were written: added, merged or replaced."""
        return self.added + self.merged + self.replaced

    @property
    def ok(self) -> bool:
        """Whether there was no conflict, and nothing was skipped."""
        return not (self.conflict_count or self.skipped_count)

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line; if `quiet`, only findings."""
        for conflict in self.conflicts:
            yield f"conflict: {conflict.namespace}/{conflict.key}: {conflict.kept} stays, not {conflict.set_aside}"
        yield from of_rest(self.conflict_count, self.conflicts, "conflicts")
        yield from of_skipped(self.skipped_count, self.skipped)
        if quiet:
            return
        for deleted in self.deleted_paths:
            yield f"{'would delete' if self.dry_run else 'deleted'} {deleted}"
        yield from of_rest(self.deleted, self.deleted_paths, "deleted")
        if self.quarantine is not None:
            yield f"moved {self.quarantined} to {self.quarantine}"
        yield f"{'would export' if self.dry_run else 'exported'}{f' {store}' if store else ''} to {self.path}"
        kinds = {"added": self.added, "merged": self.merged, "replaced": self.replaced}
        others = {
            "kept": self.kept,
            "unchanged": self.unchanged,
            "deleted": self.deleted,
            "left that the store does not have": self.extra,
        }
        written = f"{self.written} written" + (f" ({_counts(kinds)})" if self.added != self.written else "")
        yield ", ".join(filter(None, (written, _counts(others))))
        for reason, count in sorted(self.left_out.items()):
            yield f"left out: {count}: {reason}"
        if self.evicted:
            yield f"{counted(self.evicted, 'association')} evicted from merged lists (a list keeps 50)"


def _counts(of: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in of.items() if count)


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
    assume_gzip = _assumes_gzip(assume_compression)
    kind = _kind(target)
    if kind != "containerd" and (images or to is not None):
        raise InvalidInputError("images and to go with containerd:SOCKET?namespace=NAME")
    if kind == "directory":
        return export_directory(
            store,
            cast("str", target),
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
    if kind == "store":
        with _opened(target, dry_run=dry_run) as other:
            done = import_layers(other, store, on_conflict=on_conflict, dry_run=dry_run, progress=progress)
        return _of_import(place.name(target), done, dry_run=dry_run)
    if on_conflict != "merge":
        raise InvalidInputError(f"another engine's memory is merged into only, not {on_conflict!r}")
    path = absolute(cast("str", target)) if kind == "cache" else str(target)
    with opened(store) as source, indexed(source) as (view, _):
        known = _counting(facts(view, assume_gzip=assume_gzip), progress)
        if kind == "cache":
            written = containers.write(path, known, dry_run=dry_run)
        else:
            socket = containerd_live.Socket.parse(path)
            written = containerd_live.write(socket, known, images=images, target=to, dry_run=dry_run)
        written.left_out["a V1 ID, which only Docker has"] += sum(1 for _ in view.scan(V1_IDS))
    return ExportReport(
        path=path,
        added=written.added,
        merged=written.updated,
        unchanged=written.unchanged,
        skipped=tuple(written.differences.first),
        skipped_count=written.differences.count,
        left_out={reason: count for reason, count in written.left_out.items() if count},
        dry_run=dry_run,
    )


def _kind(target: Place) -> Literal["containerd", "store", "cache", "directory"]:
    """Tell what a target is, or will be.

    Raises:
        TransferError: it is a file of no kind that can be written, or a directory in which the file is meant.
    """
    if isinstance(target, str) and target.startswith(containerd_live.SCHEME):
        return "containerd"
    if names_a_database(target) or not isinstance(target, str | os.PathLike):
        return "store"
    path = absolute(target)
    if not os.path.lexists(path):
        return "cache" if os.path.basename(path) == containers.NAME else "directory"
    if os.path.isdir(path):
        if os.path.isfile(os.path.join(path, containers.NAME)):
            raise TransferError(f"it is the folder of a cache: give {os.path.join(path, containers.NAME)}", path)
        return "directory"
    if os.path.isfile(path) and (os.path.getsize(path) == 0 or not is_database(path)):
        raise TransferError("a file that is no cache and no database: give a directory, or --tar for an archive", path)
    return "cache" if not os.path.exists(path) or containers.is_cache(path) else "store"


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


def export_directory(
    store: Store,
    path: str | os.PathLike[str],
    *,
    on_conflict: OnConflict = "merge",
    delete: bool = False,
    force: bool = False,
    dry_run: bool = False,
    assume_compression: str | None = None,
    all_namespaces: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a store as a directory that a Docker daemon can use.

    A directory that has entries loses nothing of what it knows, unless told to: lists are merged as an import merges
    them. A value of one digest or V1 ID that is older than the store's, or cannot be read, moves to
    `<directory>.quarantine/<time>`. A second export of the same changes nothing. Merging cannot see deletions: what was
    removed from the store stays in the directory, and comes back by the next import; `replace` with `delete` mirrors.

    What other engines know of blobs completes lists and mappings: of blobs that are gzip and whose layer is known, and
    only as far as Docker's own entries leave room in a list of 50. A blob on which sources disagree is left out.

    Files get Docker's modes, and the times that the store has. Each file is complete or absent at every moment, also
    after a power cut (`layerstore.transfer.placing` says why). Files that are right already are not touched. A store in
    a database is read as one snapshot; its writers do not wait. Several exports into one directory may run at once.

    A daemon may run on the directory: it reads these files each time. What it writes during the export is merged. Its
    values that would move to quarantine stay in place and are reported. On a file system without `RENAME_EXCHANGE`
    (NFS, for example), what it writes within the microseconds between a last look and a rename is lost.

    Args:
        store: a `SQLMetadataStore` or `FSMetadataStore`.
        path: the `distribution` directory; it is made if it is not there.
        on_conflict: `merge` by time; `replace` writes the store's values, with their times; `keep` leaves what the
            directory has, and adds what it has not.
        delete: remove files that the store does not have; only regular files with a valid key, and only in a
            directory that has a namespace of Docker's or of the store. Needs `on_conflict="replace"`.
        force: replace and delete also under a running daemon, and delete in a directory of unknown namespaces alone;
            write also into what looks like something else, such as `/etc`. A merge treats a running daemon as none.
        dry_run: only count.
        assume_compression: `gzip` takes layers whose compression is not known for gzip. If one is not, a push by Docker
            publishes a wrong manifest.
        all_namespaces: write also `blob-by-digest` as it is, which Docker ignores and an import reads.
        progress: called with the entries done and the entries there are.

    Raises:
        InvalidInputError: `on_conflict` or `assume_compression` is none of these, or `delete` is given without
            `replace`.
        InvalidKeyError: a key breaks the key rules. Found before anything is written.
        StoreFullError: no space is left; what was renamed stays, nothing is half written.
        TransferError: the directory cannot be read or written, looks like something else, or is one above a
            `distribution` directory; or, to replace: a daemon runs on it.
        StoreError: the store failed.

    Source: Docker's `FSMetadataStore`, `ioutils.AtomicWriteFile`.
    """
    base = absolute(path)
    if on_conflict not in ("merge", "replace", "keep"):
        raise InvalidInputError(f"on_conflict is one of merge, replace, keep, not {on_conflict!r}")
    if delete and on_conflict != "replace":
        raise InvalidInputError(f'delete needs on_conflict="replace", not {on_conflict!r}')
    assume_gzip = _assumes_gzip(assume_compression)
    refuse_above_a_distribution(base)
    if on_conflict == "replace" and not (dry_run or force):
        refuse_under_a_daemon(base)
    directory = Directory(
        base,
        on_conflict,
        delete=delete,
        under_a_daemon=not force and running_on(base) is not None,
        dry_run=dry_run,
    )
    left_out: Counter[str] = Counter()
    with opened(store) as source, indexed(source) as (content, odd):
        for unreadable in (found for found in odd if found.kind == "unreadable"):
            raise StoreError(unreadable.reason, unreadable.path)
        total = check_paths(content, directory.unplaceable)
        with naming(base):
            if not force:
                _refuse_elsewhere(base, content, delete=delete)
            if not dry_run:
                tree.make_base(base)
            wanted = for_docker(content, left_out, assume_gzip=assume_gzip, all_namespaces=all_namespaces)
            directory.fill(wanted, progress, total)
    return ExportReport(
        path=base,
        deleted=directory.deleted.count,
        deleted_paths=tuple(directory.deleted.first),
        conflicts=tuple(directory.conflicts.first),
        conflict_count=directory.conflicts.count,
        skipped=tuple(directory.skipped.first),
        skipped_count=directory.skipped.count,
        quarantine=directory.quarantine,
        dry_run=dry_run,
        left_out=dict(left_out),
        **directory.counts,
    )


def _refuse_elsewhere(base: str, content: View, *, delete: bool) -> None:
    """Refuse a directory without a namespace of Docker's that is another one than was meant.

    Raises:
        TransferError: it is known to be something else, such as `/etc`; or, to delete, none of the store's is there.
    """
    names = os.listdir(base) if os.path.isdir(base) else ()
    there = {name for name in names if not name.startswith(TEMPORARY_PREFIX)}
    if not there or has_namespaces(base):
        return
    what = looks_like(there)
    what = f"it looks like {what}" if what else None
    if delete and what is None and not there & {record.namespace for record in records(content)}:
        what = "none of the store's namespaces is there, so that --delete would empty it"
    if what is not None:
        raise TransferError(f"{what}: give a `distribution` directory, or use --force", base)


def _assumes_gzip(compression: str | None) -> bool:
    """Tell whether a compression that is not known is to be taken for gzip.

    Raises:
        InvalidInputError: it is to be taken for something else.
    """
    if compression not in (None, "gzip"):
        raise InvalidInputError(f'assume_compression is "gzip" or None, not {compression!r}')
    return compression is not None


def export_tar(store: Store, file: IO[bytes], *, progress: Progress | None = None) -> ExportReport:
    """Write a store as a tar archive of one `distribution` directory.

    Modes and times are as `export_directory` writes them; the times keep their nanoseconds (pax). Entries whose key no
    directory can hold are skipped.

    Raises:
        InvalidKeyError: a key breaks the key rules. Found before anything is written.
        TransferError: the file cannot be written.
        StoreError: the store failed.
    """
    path = getattr(file, "name", None) or "the archive"
    skipped: Examples[Skipped] = Examples()
    with opened(store) as source, source.view() as content:
        unplaceable: dict[tuple[str, str], str] = {}
        total = check_paths(content, unplaceable) if source.directory is None else None
        with naming(path), tar_members.Writer(file) as writer:
            for record in records(content):
                if unplaceable and record[:2] in unplaceable:
                    skipped.add(Skipped("/".join(record[:2]), unplaceable[record[:2]]))
                    continue
                writer.add(record)
                if progress is not None:
                    progress(writer.written, total)
    return ExportReport(path, added=writer.written, skipped=tuple(skipped.first), skipped_count=skipped.count)


def export_archive(
    store: Store, path: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
) -> ExportReport:
    """`export_tar` to a file of this name, compressed as the name says (`new_file`). It is whole or absent.

    Args:
        store: a `SQLMetadataStore` or `FSMetadataStore`.
        path: the archive; a device or pipe is written to.
        overwrite: replace the file that has the name.
        progress: called with the entries done and the entries there are.

    Raises: as `export_tar`; TransferError also where there is a file already.
    """
    with new_file(os.fspath(path), overwrite=overwrite) as file:
        return replace(export_tar(store, file, progress=progress), path=absolute(path))
