"""Giving a store out as Docker's directory."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import IO

from layerstore.collection import View, records
from layerstore.docker.daemon import running_on
from layerstore.docker.dataroot import refuse_above_a_distribution, refuse_under_a_daemon
from layerstore.errors import InvalidInputError, StoreFullError, TransferError
from layerstore.files import scan, tree
from layerstore.files.temporary import whole_file
from layerstore.formats import compression, tar_members
from layerstore.keys import KNOWN_NAMESPACES, Record
from layerstore.paths import absolute, why_refused
from layerstore.reports import Report
from layerstore.sql.sqlite.recognition import is_database
from layerstore.store import MAX_SEGMENT, TEMPORARY_PREFIX, Store, check_key
from layerstore.transfer import summaries
from layerstore.transfer.combining import for_docker
from layerstore.transfer.importing import Skipped
from layerstore.transfer.merging import Conflict, Examples, OnConflict
from layerstore.transfer.place import Progress, opened, viewed
from layerstore.transfer.placing import Writer, has_right_mode
from layerstore.transfer.rules import Rules
from layerstore.transfer.streams import side_by_side

# Docker's own keys, of which no segment is too long and nothing else breaks a rule.
_is_plain = re.compile("sha256/[0-9a-f]{64}").fullmatch


@dataclass(frozen=True, slots=True)
class ExportReport(Report):
    """What an export did, or with `dry_run` would do. Counts are files.

    Attributes:
        path: the directory.
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
        return summaries.of_export(self, store, quiet=quiet)


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
        force: replace and delete also under a running daemon, and delete in a directory of unknown namespaces alone. A
            merge treats a running daemon as none.
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
        TransferError: the directory cannot be read or written, or is one above a `distribution` directory; or, to
            replace: a daemon runs on it.
        StoreError: the store failed.

    Source: Docker's `FSMetadataStore`, `ioutils.AtomicWriteFile`.
    """
    base = absolute(path)
    if delete and on_conflict != "replace":
        raise InvalidInputError(f'delete needs on_conflict="replace", not {on_conflict!r}')
    assume_gzip = assumes_gzip(assume_compression)
    refuse_above_a_distribution(base)
    if on_conflict == "replace" and not (dry_run or force):
        refuse_under_a_daemon(base)
    under_a_daemon = not force and running_on(base) is not None
    rules = Rules(base, on_conflict, under_a_daemon=under_a_daemon, dry_run=dry_run)
    left_out: Counter[str] = Counter()
    with opened(store) as source, viewed(source) as (content, combined):
        target = _Target(base, rules, delete=delete, dry_run=dry_run)
        total = _check_paths(content, target.unplaceable) if source.directory is None else None
        with _naming(base):
            if not dry_run:
                tree.make_base(base)
            if delete and not force:
                _refuse_to_empty(base, content)
            wanted = records(content)
            if combined is not None:
                wanted = for_docker(combined, left_out, assume_gzip=assume_gzip, all_namespaces=all_namespaces)
            target.fill(wanted, progress, total)
    return replace(target.report(), left_out=dict(left_out))


class _Target:
    """A directory that is brought to what the rules say.

    Attributes:
        unplaceable: keys of the store that no directory can hold, and why.
    """

    def __init__(self, base: str, rules: Rules, *, delete: bool, dry_run: bool) -> None:
        self._base = base
        self._rules = rules
        self._delete = delete
        self._dry_run = dry_run
        self._unreadable: dict[str, str] = {}
        self._deleted: Examples[str] = Examples()
        self._extra = 0
        self.unplaceable: dict[tuple[str, str], str] = {}

    def fill(self, wanted_records: Iterable[Record], progress: Progress | None, total: int | None) -> None:
        """Settle each key that the directory or the store has."""
        writing = nullcontext() if self._dry_run else Writer(self._base, self._rules.settle_again)
        with writing as writer:
            for done, (there, wanted) in enumerate(side_by_side(self._existing(), wanted_records), 1):
                if wanted is None:
                    assert there is not None
                    self._remove(there, writer)
                else:
                    self._settle(there, wanted, writer)
                if progress is not None:
                    progress(done, total)

    def report(self) -> ExportReport:
        """Return what was done."""
        rules, quarantine = self._rules, self._rules.quarantine
        return ExportReport(
            path=self._base,
            added=rules.added,
            merged=rules.merged,
            replaced=rules.replaced,
            kept=rules.kept,
            unchanged=rules.unchanged,
            deleted=self._deleted.count,
            deleted_paths=tuple(self._deleted.first),
            extra=self._extra,
            evicted=rules.evicted,
            conflicts=tuple(rules.conflicts.first),
            conflict_count=rules.conflicts.count,
            skipped=tuple(rules.skipped.first),
            skipped_count=rules.skipped.count,
            quarantined=quarantine.count,
            quarantine=quarantine.path if quarantine.count and not self._dry_run else None,
            dry_run=self._dry_run,
        )

    def _existing(self) -> Iterator[Record]:
        if not os.path.isdir(self._base):
            return
        for found in scan.scan(self._base):
            if isinstance(found, Record):
                yield found
            elif found.kind == "unreadable":
                self._unreadable[found.path] = found.reason

    def _settle(self, there: Record | None, wanted: Record, writer: Writer | None) -> None:
        reason = self._why_not(there, wanted)
        if reason is not None:
            self._rules.skip(wanted.namespace, wanted.key, reason)
            return
        is_right = there is None or there.value != wanted.value or has_right_mode(self._base, there)
        written = self._rules.settle(there, wanted, is_right=is_right)
        if written is not None and writer is not None:
            writer.write(written, there)

    def _why_not(self, there: Record | None, wanted: Record) -> str | None:
        if self.unplaceable and (wanted.namespace, wanted.key) in self.unplaceable:
            return self.unplaceable[wanted.namespace, wanted.key]
        if there is None and self._unreadable:
            reason = self._unreadable.get(f"{wanted.namespace}/{wanted.key}")
            return reason and f"the directory's file stays as it is: {reason}"
        return None

    def _remove(self, there: Record, writer: Writer | None) -> None:
        if not self._delete:
            self._extra += 1
            return
        self._deleted.add(f"{there.namespace}/{there.key}")
        if writer is not None:
            writer.remove(there)


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
        total = _check_paths(content, unplaceable) if source.directory is None else None
        with _naming(getattr(file, "name", None) or "the archive"), tar_members.Writer(file) as writer:
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
        with _naming(target), open(target, "wb") as device, compression.compressing(device, compressor) as packed:
            yield packed
        return
    _refuse_existing(target, overwrite=overwrite)
    with _naming(target), whole_file(target, overwrite=overwrite) as temporary:
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


def _check_paths(content: View, unplaceable: dict[tuple[str, str], str]) -> int:
    """Refuse keys that break the key rules, and find those that no directory can hold; return how many keys there are.

    Raises:
        InvalidKeyError: a key breaks the key rules.
    """
    total = 0
    directories: set[str] = set()
    for namespace, key in content.names():
        total += 1
        if namespace in KNOWN_NAMESPACES and _is_plain(key):
            directories.add(f"{namespace}/sha256")
            continue
        path = f"{namespace}/{key}"
        if max(len(segment.encode("utf-8", "surrogatepass")) for segment in path.split("/")) > MAX_SEGMENT:
            unplaceable[namespace, key] = f"a segment over {MAX_SEGMENT} bytes cannot be a file"
            continue
        check_key(namespace, key)
        while (path := path.rpartition("/")[0]) and path not in directories:
            directories.add(path)
    for directory in directories:
        namespace, _, key = directory.partition("/")
        if key and key in content.get_many(namespace, [key]):
            unplaceable[namespace, key] = "it cannot be a file, as other keys lie below it"
    return total


def assumes_gzip(compression: str | None) -> bool:
    """Tell whether a compression that is not known is to be taken for gzip.

    Raises:
        InvalidInputError: it is to be taken for something else.
    """
    if compression not in (None, "gzip"):
        raise InvalidInputError(f'assume_compression is "gzip" or None, not {compression!r}')
    return compression is not None


def _refuse_to_empty(base: str, content: View) -> None:
    """Refuse to delete in a directory that has nothing of what it should have: it is another one than was meant.

    Raises:
        TransferError: it has files, and no namespace of Docker's or of the store.
    """
    names = os.listdir(base) if os.path.isdir(base) else ()
    there = {name for name in names if not name.startswith(TEMPORARY_PREFIX)}
    if there and not there & {*KNOWN_NAMESPACES, *(record.namespace for record in records(content))}:
        raise TransferError(
            "none of the store's namespaces is there, so that --delete would empty it: give a `distribution` directory,"
            " or use --force",
            base,
        )


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
        if error.errno not in (errno.EACCES, errno.EPERM):
            raise TransferError(f"cannot be written: {error.strerror or error}", path) from error
        while not os.path.lexists(path):
            path = os.path.dirname(path)  # the directory in which it cannot be made
        raise TransferError(f"cannot be written: {why_refused(error)}", path) from error
