"""Removing entries that are no longer needed.

First everything is judged, in a snapshot and without a lock. Then what is to be removed is written to an archive, and
then removed from the store in one transaction, but for what another writer has changed since.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from layerstore.collection import Collection, Doomed, IndexedView, Odd
from layerstore.docker.dataroot import refuse_under_a_daemon
from layerstore.docker.images import layers_of
from layerstore.errors import InvalidInputError, StoreError, TransferError
from layerstore.files.temporary import Spool
from layerstore.formats import tar_members
from layerstore.keys import BLOBS, DIFF_IDS, V1_IDS, V2_METADATA, Record
from layerstore.paths import absolute
from layerstore.records import why_unfit
from layerstore.reports import Report
from layerstore.transfer import criteria as judging
from layerstore.transfer.criteria import Age, Criteria, Verdict
from layerstore.transfer.directory import new_file
from layerstore.transfer.place import Place, Progress, indexed, name, opened
from layerstore.words import counted, size

_EXAMPLES = 20
_FIELDS = {V2_METADATA: "lists", DIFF_IDS: "mappings", V1_IDS: "v1_ids", BLOBS: "blobs"}


@dataclass(frozen=True, slots=True)
class PruneReport(Report):
    """What a prune did, or with `dry_run` would do. Counts are entries, or files.

    Attributes:
        path: the store or directory.
        checked: number of entries that were judged.
        lists: number of lists that were removed.
        shortened: number of lists that lost some of their associations.
        associations: number of associations that were removed, in both.
        mappings: number of mappings that were removed.
        v1_ids: number of V1 IDs that were removed.
        blobs: number of entries of `blob-by-digest` that were removed.
        locations: number of locations of blobs that were removed, of those entries and of others.
        unreadable: number of unreadable entries; they stay.
        changed: number of entries that stay because another writer changed or needs them since they were judged.
        temporary: number of temporary files that were removed; 0 unless asked for.
        examples: the first few removed entries.
        archive: the archive with what was removed; `None` if nothing was written.
        free_bytes: free bytes of the database file, for later writes; `None` for a directory.
        vacuumed: whether free space was returned to the file system.
        unknown: registries and repositories that were named, and that no association has.
        dry_run: whether nothing was done.
    """

    path: str
    checked: int
    lists: int
    shortened: int
    associations: int
    mappings: int
    v1_ids: int
    blobs: int
    locations: int
    unreadable: int
    changed: int
    temporary: int
    examples: tuple[str, ...]
    archive: str | None
    free_bytes: int | None
    vacuumed: bool
    unknown: tuple[str, ...]
    dry_run: bool

    @property
    def ok(self) -> bool:
        """True: a prune does everything or raises; what it left alone is as it was."""
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing was removed."""
        counts = (self.associations, self.lists, self.mappings, self.v1_ids, self.blobs, self.locations, self.temporary)
        return not (any(counts) or self.vacuumed)

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line; if `quiet`, only findings."""
        if quiet:
            return
        if self.dry_run:
            yield from (f"would remove {example}" for example in self.examples)
            more = self.lists + self.shortened + self.mappings + self.v1_ids + self.blobs - len(self.examples)
            if more > 0:
                yield f"and {more:,} more"
        counts = {
            counted(self.lists, "list"): self.lists,
            f"{counted(self.shortened, 'list')} shortened": self.shortened,
            counted(self.associations, "association"): self.associations,
            counted(self.mappings, "mapping"): self.mappings,
            counted(self.v1_ids, "V1 ID"): self.v1_ids,
            counted(self.blobs, "blob"): self.blobs,
            counted(self.locations, "location of a blob", "locations of blobs"): self.locations,
            counted(self.temporary, "temporary file"): self.temporary,
        }
        removed = ", ".join(what for what, count in counts.items() if count) or "nothing"
        checked = counted(self.checked, "entry", "entries")
        yield f"{'would prune' if self.dry_run else 'pruned'} {self.path}: {removed} of {checked}"
        if self.unknown:
            yield f"no association has {', '.join(self.unknown)}"
        if self.unreadable:
            yield f"kept {counted(self.unreadable, 'unreadable entry', 'unreadable entries')}: see `layerstore verify`"
        if self.changed:
            entries = counted(self.changed, "entry", "entries")
            yield f"kept {entries} that another writer changed or needs since"
        if self.archive is not None:
            yield f"the removed entries are in {self.archive}: `layerstore import` restores them"
        if not (self.dry_run or os.path.isdir(self.path)) and removed != "nothing":
            yield "an export merges, so a directory keeps what was removed here. To remove it there, too:"
            yield "  layerstore export --on-conflict replace --delete DIR"
        if self.free_bytes and not self.dry_run:
            yield f"{size(self.free_bytes)} of the file are free for later writes: --vacuum returns them"


def prune(
    store_or_path: Place,
    *,
    keep_layers: str | os.PathLike[str] | None = None,
    older_than: Age | None = None,
    registry: str | Iterable[str] = (),
    repository: str | Iterable[str] = (),
    keep_newest: int | None = None,
    to: str | os.PathLike[str] | None = None,
    temporary: bool = False,
    vacuum: bool = False,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> PruneReport:
    """Remove the entries that match all criteria; in a database in one transaction.

    `keep_layers` and `older_than` judge lists, mappings and V1 IDs, by their layer and by the time of the entry.
    `registry`, `repository` and `keep_newest` judge the associations of lists, `registry` V1 IDs too; as with Docker's
    `remove`, the digests still resolve: with one of them, mappings stay. A mapping also stays while a list that
    stays holds its digest. A list without associations is removed; a shortened one keeps its time.

    What other engines know (`blob-by-digest`) is judged alike: each location by the time when the blob was seen there,
    an entry by its latest. A location or entry stays while a remaining list has the same. `keep_layers` removes no blob
    of an unknown layer. Other namespaces, the quarantine, and unreadable entries stay.

    Everything is judged in one snapshot, without a lock. Then other writers wait for the removal alone. Entries that
    they have changed since stay.

    Args:
        store_or_path: a store, a database file, a `distribution` directory, or a data root that has one.
        keep_layers: a Docker data root; entries of its layers are kept.
        older_than: only entries that were last written before are removed: `30d`, `12h`, a date in UTC.
        registry: one or several; only their associations are removed. A `*` matches any text.
        repository: one or several; only their associations are removed. A `*` matches any text.
        keep_newest: number of associations of each layer that are kept, the newest.
        to: a new tar archive for what is removed; `import_directory` restores it. A list is in it in full. It is on the
            disk before anything is removed.
        temporary: also remove temporary files that interrupted writes left in a directory.
        vacuum: return the free space of a database to the file system; this needs twice its room for a moment.
        dry_run: only count.
        force: also prune under a running daemon; accept a data root that has no layers, or unreadable ones.
        progress: called with the entries judged and how many there are.

    Raises:
        InvalidInputError: no criterion, or one that cannot be; an option that does not fit the place.
        InvalidKeyError: with `to`, a key that cannot be a path.
        TransferError: the place is an archive, or a directory that a daemon runs on; the data root's layers cannot be
            read; `to` is there already or cannot be written.
        StoreError: the store failed. Nothing was removed; of a directory perhaps a part.
    """
    criteria = Criteria(
        before_ns=None if older_than is None else judging.before(older_than, datetime.now(UTC)),
        registries=judging.registries(registry),
        repositories=judging.repositories(repository),
        keep_newest=_count(keep_newest),
    )
    judges = keep_layers is not None or criteria.are_given
    if not (judges or temporary or vacuum):
        raise InvalidInputError("give a criterion, such as keep_layers or older_than")
    archive = None if to is None else _new_name(to)
    with Spool() as doomed, opened(store_or_path, write=not dry_run, force=force) as collection:
        _check_place(collection, temporary=temporary, vacuum=vacuum)
        if collection.directory is not None and not (dry_run or force):
            refuse_under_a_daemon(collection.directory)
        judge = _Judge(doomed, progress)
        if judges:
            with indexed(collection) as (content, odd):
                judge.note_odd(odd)
                judge.total = content.count()  # from here on the snapshot stands: layers that come later do not matter
                if keep_layers is not None:
                    criteria = replace(criteria, layers=layers_of(keep_layers, force=force))
                judge.judge(content, criteria)
        left = [] if dry_run else _remove(collection, doomed, archive)
        swept = collection.remove_temporary(dry_run=dry_run) if temporary else 0
        return PruneReport(
            path=name(store_or_path),
            checked=judge.checked,
            unreadable=judge.unreadable,
            changed=len(left),
            temporary=swept,
            examples=tuple(judge.examples),
            archive=archive if len(doomed) and not dry_run else None,
            free_bytes=collection.free_bytes(vacuum=vacuum and not dry_run),
            vacuumed=vacuum and not dry_run,
            unknown=criteria.unseen,
            dry_run=dry_run,
            **judge.counts_without(left),
        )


def _count(keep_newest: int | None) -> int | None:
    if keep_newest is None or (type(keep_newest) is int and keep_newest > 0):
        return keep_newest
    raise InvalidInputError(f"keep_newest is a number from 1, not {keep_newest!r}")


def _new_name(to: str | os.PathLike[str]) -> str:
    path = absolute(to)
    if os.path.lexists(path):
        raise TransferError("there is a file already: give a new name, so that no earlier archive is lost", path)
    return path


def _check_place(collection: Collection, *, temporary: bool, vacuum: bool) -> None:
    collection.refuse_change()
    if temporary and collection.directory is None:
        raise InvalidInputError("only a directory has temporary files")
    if vacuum and collection.directory is not None:
        raise InvalidInputError("only a database has free space to return")


class _Judge:
    """Judge a store's entries, note what goes, and keep account of it."""

    def __init__(self, doomed: Spool, progress: Progress | None) -> None:
        self._doomed = doomed
        self._progress = progress
        self.total = 0
        self.checked = 0
        self.unreadable = 0
        self.examples: list[str] = []

    def note_odd(self, odd: Iterable[Odd]) -> None:
        self.unreadable += sum(found.kind == "unreadable" for found in odd)

    def judge(self, content: IndexedView, criteria: Criteria) -> None:
        """Note what goes: lists first, as mappings stay while a list that stays holds their digest."""
        for namespace in (V2_METADATA, V1_IDS, DIFF_IDS, BLOBS):
            for record in content.scan(namespace):
                self.checked += 1
                if self._progress is not None:
                    self._progress(self.checked, self.total)
                if isinstance(record, Odd) or why_unfit(*record[:3]) is not None:
                    self.unreadable += 1
                    continue
                verdict = criteria.judge(record, content)
                if verdict is not None:
                    self._note(record, verdict)

    def _note(self, record: Record, verdict: Verdict) -> None:
        self._doomed.add(*record, verdict.kept, verdict.associations)
        if len(self.examples) < _EXAMPLES:
            what = "location" if record.namespace == BLOBS else "association"
            some = "" if verdict.kept is None else f": {counted(verdict.associations, what)}"
            self.examples.append(f"{record.namespace}/{record.key}{some}")

    def counts_without(self, left: list[int]) -> dict[str, int]:
        """Return how many of each kind went, by the names of the report's fields."""
        counts = dict.fromkeys((*_FIELDS.values(), "shortened", "associations", "locations"), 0)
        missing = set(left)
        for number, (namespace, _, _, _, kept, associations) in enumerate(self._doomed):
            if number in missing:
                continue
            if kept is None:
                counts[_FIELDS[namespace]] += 1
            elif namespace == V2_METADATA:
                counts["shortened"] += 1
            counts["locations" if namespace == BLOBS else "associations"] += associations
        return counts


def _each(doomed: Spool) -> Iterator[Doomed]:
    for *record, kept, _ in doomed:
        yield Doomed(Record(*record), kept)


def _remove(collection: Collection, doomed: Spool, archive: str | None) -> list[int]:
    """Write what goes to an archive, if there shall be one, then take it out; return what was left."""
    if not len(doomed):
        return []
    if archive is not None:
        _write(archive, doomed)
    try:
        return collection.remove(_each(doomed))
    except StoreError:
        if archive is not None:
            os.unlink(archive)  # nothing went
        raise


def _write(archive: str, doomed: Spool) -> None:
    with new_file(archive) as file, tar_members.Writer(file) as writer:
        for record, _ in _each(doomed):
            writer.add(record)
