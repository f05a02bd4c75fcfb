"""Taking metadata into a store: directories, data roots, archives, other stores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from layerstore.collection import Batch, Incoming, Loaded, Odd, Resolve, Source, in_batches
from layerstore.errors import InvalidInputError
from layerstore.formats.facts import UNCERTAIN
from layerstore.keys import DIFF_IDS, MAX_SEGMENT, V2_METADATA, Record, why_not_a_key, why_not_a_namespace
from layerstore.records import Association, are_mappings, associations, why_unreadable
from layerstore.reports import Examples, Report, Skipped, of_rest, of_skipped
from layerstore.store import Store, read_modify_write
from layerstore.transfer import place
from layerstore.transfer.merging import Conflict, Eviction, Merge, OnConflict, keep, replace
from layerstore.transfer.place import Place, Progress
from layerstore.words import counted


@dataclass(frozen=True, slots=True)
class SourceReport:
    """What came from one source. Counts are entries.

    Attributes:
        source: the directory, database, or place inside an archive.
        read: number of entries that were found.
        added: number of entries that the store did not have.
        updated: number of entries that the store had with another value; merged, or replaced.
        unchanged: number of entries that were already in the store, or kept by `keep`.
        quarantined: number of invalid entries, which were quarantined.
    """

    source: str
    read: int
    added: int
    updated: int
    unchanged: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class QuarantinedEntry:
    """An entry that is invalid for its namespace: its bytes are in quarantine."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportReport(Report):
    """What an import did. Counts are entries; of what is named one by one, the first 1,000 are.

    Attributes:
        sources: one report per source, in the order in which they were merged. read: number of entries that were found.
        added: number of entries that the store did not have. updated: number of entries that the store had with another
        value; merged, or replaced. unchanged: number of entries that were already in the store, or kept by `keep`.
        evicted: number of associations that were evicted from merged lists (a list keeps 50). evictions: the layers and
        sources of these. conflicts: two values of one digest or V1 ID; the later one stays, the other is in quarantine.
        conflict_count: number of them. quarantined: entries that are invalid for their namespace. quarantined_count:
        number of them. skipped: every other file that was not imported, except temporary ones. skipped_count: number of
        them. notes: what is uncertain about what another engine knows, such as a registry's port, or could not be read
        because
            a daemon holds it. No repair is needed.
        note_count: number of them.
        temporary: number of temporary files that interrupted writes left behind.
        dry_run: whether nothing was done.
    """

    sources: tuple[SourceReport, ...]
    read: int
    added: int
    updated: int
    unchanged: int
    evicted: int
    evictions: tuple[Eviction, ...]
    conflicts: tuple[Conflict, ...]
    conflict_count: int
    quarantined: tuple[QuarantinedEntry, ...]
    quarantined_count: int
    skipped: tuple[Skipped, ...]
    skipped_count: int
    notes: tuple[Skipped, ...]
    note_count: int
    temporary: int
    dry_run: bool = False

    @property
    def ok(self) -> bool:
        """Whether everything was imported: no conflict, nothing quarantined, nothing skipped."""
        return not (self.conflict_count or self.quarantined_count or self.skipped_count)

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line; if `quiet`, only findings."""
        for conflict in self.conflicts:
            of = f"{conflict.namespace}/{conflict.key}"
            yield f"conflict: {of}: kept {conflict.kept}, quarantined {conflict.set_aside} (from {conflict.source})"
        yield from of_rest(self.conflict_count, self.conflicts, "conflicts: `layerstore quarantine list`")
        for entry in self.quarantined:
            yield f"quarantined: {entry.path}: {entry.reason}"
        yield from of_rest(self.quarantined_count, self.quarantined, "quarantined: `layerstore quarantine list`")
        yield from of_skipped(self.skipped_count, self.skipped)
        if quiet:
            return
        for note in self.notes:
            yield f"note: {note.path}: {note.reason}"
        yield from of_rest(self.note_count, self.notes, "notes")
        done = "would import" if self.dry_run else "imported"
        for source in self.sources:
            yield f"{done} {source.source}{f' into {store}' if store else ''}: {_counts(source)}"
        if len(self.sources) != 1:
            yield f"in all: {_counts(self)}"
        for evicted in self.evictions:
            number = counted(evicted.associations, "association")
            yield f"evicted: {number} of layer {evicted.diff_id} (merging {evicted.source})"
        if self.evicted:
            yield f"{counted(self.evicted, 'association')} evicted from merged lists (a list keeps 50)"
        if self.temporary:
            yield f"{counted(self.temporary, 'temporary file')} ignored"


def _counts(of: ImportReport | SourceReport) -> str:
    named = {"read": of.read, "added": of.added, "updated": of.updated, "unchanged": of.unchanged}
    return ", ".join(f"{count} {what}" for what, count in named.items() if count or what in ("read", "added"))


def import_directory(
    store: Store,
    path: Place,
    *,
    on_conflict: OnConflict = "merge",
    force: bool = False,
    allow_empty: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Take a `distribution` directory into a store; or a data root, a tar archive, another store.

    The files' times come along. Temporary files are ignored, links are not followed. Everything is read first; then
    all of it is merged in one transaction, for which other writers wait. A second import of the same changes nothing.
    Invalid entries are quarantined; every file that is not imported is in the report.

    Merging cannot see deletions: an association that a list has lost comes back from the store's version. Use
    `replace` to follow a directory; keys that it does not have stay either way.

    Args:
        store: a `SQLMetadataStore`.
        path: a `distribution` directory; a data root with `image/*/distribution`, also of remapped users
            (`<uid>.<gid>/image/*/distribution`); a tar of any of them, `-` for one on standard input; a database
            file; or a store.
        on_conflict: `merge` by time; `replace` takes what comes in, with its time; `keep` leaves what is there.
        force: import also a directory that has none of Docker's namespaces; every file below it is an entry.
        allow_empty: also accept sources without any entry. An empty directory called `distribution` is a fresh
            host's, and needs no such word.
        progress: called with the entries done and, where that can be told, the entries there are.

    Raises:
        InvalidInputError: `store` or `on_conflict` is none of these.
        TransferError: there is nothing to read, or no metadata in it; the message says what it looks like. Nothing
            was written.
        StoreError: the store failed, or the source cannot be read at all; nothing was imported.

    Source: Docker's layout of `<data-root>/image/<driver>/distribution`.
    """
    return import_layers(store, path, on_conflict=on_conflict, force=force, allow_empty=allow_empty, progress=progress)


def import_layers(
    store: Store,
    *sources: Place | Source,
    on_conflict: OnConflict = "merge",
    force: bool = False,
    allow_empty: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> ImportReport:
    """Take what any container engine knows of layers into a store, all sources in one transaction.

    What each source is, is told by its content. Every value that comes in is checked. What several sources know of a
    blob is united; sources that disagree about its layer or compression are noted in the entry, `verify` names them,
    and no export uses it. Otherwise as `import_directory`.

    Args:
        store: a `SQLMetadataStore`.
        sources: those that `import_directory` imports; the cache of Podman, Skopeo, Buildah and CRI-O
            (`blob-info-cache-v1.sqlite` or `.boltdb`, or the folder of it); the `layers.json` of their storage;
            containerd's `meta.db` and BuildKit's `containerdmeta.db`, or the roots of them; a running containerd:
            `containerd:SOCKET?namespace=NAME`.
        dry_run: only report what would be done. Other writers wait as long as it takes.

    Other arguments, and Raises: as `import_directory`.
    """
    if not (sources or allow_empty):
        raise InvalidInputError("nothing to import from: give a source")
    target = place.target(store)
    found = _Reading(place.sources(sources, force=force, allow_empty=allow_empty), progress)
    merge = Merge(found.name)
    resolvers: dict[str, Resolve] = {"merge": merge, "replace": replace, "keep": keep}
    if on_conflict not in resolvers:
        raise InvalidInputError(f"on_conflict is one of {', '.join(resolvers)}, not {on_conflict!r}")
    if dry_run:
        with suppress(_UndoError), read_modify_write(store)():
            loaded = target.load(found, resolvers[on_conflict])
            raise _UndoError
    else:
        loaded = target.load(found, resolvers[on_conflict])
    by_source = found.reports(loaded)
    return ImportReport(
        sources=by_source,
        read=sum(report.read for report in by_source),
        added=sum(report.added for report in by_source),
        updated=sum(report.updated for report in by_source),
        unchanged=sum(report.unchanged for report in by_source),
        evicted=merge.evicted,
        evictions=tuple(merge.evictions.first),
        conflicts=tuple(merge.conflicts.first),
        conflict_count=merge.conflicts.count,
        quarantined=tuple(found.quarantined.first),
        quarantined_count=found.quarantined.count,
        skipped=tuple(found.skipped.first),
        skipped_count=found.skipped.count,
        notes=tuple(found.notes.first),
        note_count=found.notes.count,
        temporary=found.temporary,
        dry_run=dry_run,
    )


class _UndoError(Exception):
    """Leaves a transaction, so that it is undone."""


@dataclass(slots=True)
class _Account:
    number: int
    label: str
    read: int = 0
    quarantined: int = 0


class _Reading:
    """Read the sources one after the other, and keep account of what is not taken."""

    def __init__(self, sources: list[Source], progress: Progress | None) -> None:
        self._sources = sources
        self._progress = progress
        self._accounts: list[_Account] = []
        self.temporary = 0
        self.quarantined: Examples[QuarantinedEntry] = Examples()
        self.skipped: Examples[Skipped] = Examples()
        self.notes: Examples[Skipped] = Examples()

    def __iter__(self) -> Iterator[Incoming]:
        total = None if self._progress is None else self._total()
        done = 0
        for source in self._sources:
            accounts: dict[str, _Account] = {}
            for batch in in_batches(source.read()):
                for one in batch.odd:
                    self._leave_out(source, one)
                if batch.records:
                    account = accounts.get(batch.label)
                    if account is None:
                        name = os.path.join(source.name, batch.label).rstrip("/")
                        account = accounts[batch.label] = self._account(name)
                    yield self._incoming(account, batch, in_order=source.in_order)
                if self._progress is not None:
                    for _ in batch.records:
                        done += 1
                        self._progress(done, total)
            if not accounts:
                self._account(source.name)  # it is empty

    def name(self, number: int) -> str:
        """Return what a report calls a source."""
        return self._accounts[number].label

    def reports(self, loaded: dict[int, Loaded]) -> tuple[SourceReport, ...]:
        """Put what was read and what became of it side by side."""
        reports = []
        for of in self._accounts:
            added, updated, refused = loaded.get(of.number, Loaded(0, 0))
            of.quarantined += len(refused)
            for namespace, key, _, reason in refused:
                self.quarantined.add(QuarantinedEntry(os.path.join(of.label, namespace, key), reason))
            unchanged = of.read - added - updated - of.quarantined
            reports.append(SourceReport(of.label, of.read, added, updated, unchanged, of.quarantined))
        return tuple(reports)

    def _total(self) -> int | None:
        counts = [source.count() for source in self._sources]
        return None if None in counts else sum(count or 0 for count in counts)

    def _account(self, label: str) -> _Account:
        account = _Account(len(self._accounts), label)
        self._accounts.append(account)
        return account

    def _incoming(self, account: _Account, batch: Batch, *, in_order: bool) -> Incoming:
        account.read += len(batch.records)
        derived: list[Association] = []
        if are_mappings(batch.records):
            return Incoming(account.number, batch.records, (), in_order, derived)
        fit, unfit = [], []
        for record in batch.records:
            reason = _why_not_taken(record, derived)
            if reason is None:
                fit.append(record)
                continue
            namespace, key, value, _ = record
            self.quarantined.add(QuarantinedEntry(os.path.join(account.label, namespace, key), reason))
            unfit.append((namespace, key, value, reason))
        account.quarantined += len(unfit)
        return Incoming(account.number, fit, unfit, in_order, derived)

    def _leave_out(self, source: Source, odd: Odd) -> None:
        if odd.kind == "temporary":
            self.temporary += 1
            return
        path = f"{source.name}/{odd.path}"
        if odd.kind == UNCERTAIN:
            self.notes.add(Skipped(path.rstrip("/"), odd.reason))
        else:
            self.skipped.add(Skipped(path, odd.reason))


def _why_not_taken(record: Record, derived: list[Association]) -> str | None:
    """Say why an entry cannot be taken, or derive its rows; a database may hold keys that no directory can have."""
    namespace, key, value, _ = record
    # A short key that is a digest's breaks no rule; one that is none has a reason below.
    is_short = namespace in (V2_METADATA, DIFF_IDS) and len(key) <= MAX_SEGMENT
    reason = None if is_short else why_not_a_namespace(namespace) or why_not_a_key(key)
    if reason is not None or namespace != V2_METADATA:
        return reason or why_unreadable(namespace, key, value)
    # A list is read but once.
    try:
        derived += associations(key, value)
    except ValueError as error:
        return str(error)
    return None
