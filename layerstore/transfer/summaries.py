"""What reports read like for people: the lines that the command prints, and that `str()` of a report has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING

from layerstore.words import counted, size

if TYPE_CHECKING:
    from layerstore.transfer.diffing import DiffReport
    from layerstore.transfer.exporting import ExportReport
    from layerstore.transfer.findings import VerifyReport
    from layerstore.transfer.importing import ImportReport, Skipped, SourceReport
    from layerstore.transfer.pruning import PruneReport
    from layerstore.transfer.recovering import RecoverReport

_NAMED = 10
"""How many skipped files of one reason are named one by one."""


def of_import(report: ImportReport, store: str, *, quiet: bool) -> Iterator[str]:
    """Yield what an import has to say; findings alone if it shall be quiet."""
    for conflict in report.conflicts:
        place = f"{conflict.namespace}/{conflict.key}"
        yield f"conflict: {place}: kept {conflict.kept}, quarantined {conflict.set_aside} (from {conflict.source})"
    yield from _rest(report.conflict_count, report.conflicts, "conflicts: `layerstore quarantine list`")
    for quarantined in report.quarantined:
        yield f"quarantined: {quarantined.path}: {quarantined.reason}"
    yield from _rest(report.quarantined_count, report.quarantined, "quarantined: `layerstore quarantine list`")
    yield from skipped(report.skipped_count, report.skipped)
    if quiet:
        return
    for note in report.notes:
        yield f"note: {note.path}: {note.reason}"
    yield from _rest(report.note_count, report.notes, "notes")
    done = "would import" if report.dry_run else "imported"
    for source in report.sources:
        yield f"{done} {source.source}{f' into {store}' if store else ''}: {_imported(source)}"
    if len(report.sources) != 1:
        yield f"in all: {_imported(report)}"
    for evicted in report.evictions:
        number = counted(evicted.associations, "association")
        yield f"evicted: {number} of layer {evicted.diff_id} (merging {evicted.source})"
    if report.evicted:
        yield f"{counted(report.evicted, 'association')} evicted from merged lists (a list keeps 50)"
    if report.temporary:
        yield f"{counted(report.temporary, 'temporary file')} ignored"


def of_export(report: ExportReport, store: str, *, quiet: bool) -> Iterator[str]:
    """Yield what an export has to say; findings alone if it shall be quiet."""
    for conflict in report.conflicts:
        yield f"conflict: {conflict.namespace}/{conflict.key}: {conflict.kept} stays, not {conflict.set_aside}"
    yield from _rest(report.conflict_count, report.conflicts, "conflicts")
    yield from skipped(report.skipped_count, report.skipped)
    if quiet:
        return
    for deleted in report.deleted_paths:
        yield f"{'would delete' if report.dry_run else 'deleted'} {deleted}"
    yield from _rest(report.deleted, report.deleted_paths, "deleted")
    if report.quarantine is not None:
        yield f"moved {report.quarantined} to {report.quarantine}"
    yield f"{'would export' if report.dry_run else 'exported'}{f' {store}' if store else ''} to {report.path}"
    kinds = _listed({"added": report.added, "merged": report.merged, "replaced": report.replaced})
    written = f"{report.written} written" + (f" ({kinds})" if report.added != report.written else "")
    others = _listed(
        {
            "kept": report.kept,
            "unchanged": report.unchanged,
            "deleted": report.deleted,
            "left that the store does not have": report.extra,
        }
    )
    yield f"{written}, {others}" if others else written
    for reason, count in sorted(report.left_out.items()):
        yield f"left out: {count}: {reason}"
    if report.evicted:
        yield f"{counted(report.evicted, 'association')} evicted from merged lists (a list keeps 50)"


def of_verify(report: VerifyReport, *, quiet: bool) -> Iterator[str]:
    """Yield what a check found; without infos if it shall be quiet."""
    for found in report.findings:
        if quiet and found.severity == "info":
            continue
        repaired = f", {found.repaired} repaired" if found.repaired else ""
        yield f"{found.severity}: {found.message} ({found.kind}): {found.count}{repaired}"
        for example in found.examples:
            yield f"  {example}"
        if found.examples and found.count > len(found.examples):
            yield f"  and {found.count - len(found.examples)} more"
        if found.repaired < found.count:
            yield f"  remedy: {found.remedy}"
    if report.quarantine is not None:
        yield f"moved to {report.quarantine}"
    if not quiet:
        checked = counted(report.checked, "entry", "entries")
        yield f"checked {checked} of {report.path}: {'ok' if report.ok else 'not ok'}"


def of_diff(report: DiffReport, *, quiet: bool) -> Iterator[str]:
    """Yield how two sides differ; that they were compared only if it need not be quiet."""
    for layer in report.layers:
        yield f"layer {layer.diff_id}"
        for association in layer.only_left:
            yield f"  only in left: {association}"
        for association in layer.only_right:
            yield f"  only in right: {association}"
        if layer.reordered:
            yield "  the associations that both have are in another order"
    for blob in report.blobs:
        yield f"blob {blob.digest}"
        yield from (f"  only in left: {one}" for one in blob.only_left)
        yield from (f"  only in right: {one}" for one in blob.only_right)
    told = {("v2metadata-by-diffid", layer.diff_id.replace(":", "/", 1)) for layer in report.layers}
    told |= {("blob-by-digest", blob.digest.replace(":", "/", 1)) for blob in report.blobs}
    for what, entries in (
        ("only in left", report.only_left),
        ("only in right", report.only_right),
        ("differs", report.differing),
    ):
        for entry in entries:
            if (entry.namespace, entry.key) not in told:
                yield f"{what}: {entry.namespace}/{entry.key}"
    if not quiet:
        equal = f"{counted(report.equal, 'entry', 'entries')} {'is' if report.equal == 1 else 'are'} equal"
        times = f", {report.times_differ} of them modified at other times" if report.times_differ else ""
        yield f"left {report.left}, right {report.right}: {equal}{times}"


def of_prune(report: PruneReport, *, is_directory: bool) -> Iterator[str]:
    """Yield what a prune removed, or would remove."""
    if report.dry_run:
        yield from (f"would remove {example}" for example in report.examples)
        more = report.lists + report.shortened + report.mappings + report.v1_ids + report.blobs - len(report.examples)
        if more > 0:
            yield f"and {more:,} more"
    counts = {
        counted(report.lists, "list"): report.lists,
        f"{counted(report.shortened, 'list')} shortened": report.shortened,
        counted(report.associations, "association"): report.associations,
        counted(report.mappings, "mapping"): report.mappings,
        counted(report.v1_ids, "V1 ID"): report.v1_ids,
        counted(report.blobs, "blob"): report.blobs,
        counted(report.locations, "location of a blob", "locations of blobs"): report.locations,
        counted(report.temporary, "temporary file"): report.temporary,
    }
    removed = ", ".join(what for what, count in counts.items() if count) or "nothing"
    checked = counted(report.checked, "entry", "entries")
    yield f"{'would prune' if report.dry_run else 'pruned'} {report.path}: {removed} of {checked}"
    if report.unknown:
        yield f"no association has {', '.join(report.unknown)}"
    if report.unreadable:
        yield f"kept {counted(report.unreadable, 'unreadable entry', 'unreadable entries')}: see `layerstore verify`"
    if report.changed:
        entries = counted(report.changed, "entry", "entries")
        yield f"kept {entries} that another writer changed or needs since"
    if report.archive is not None:
        yield f"the removed entries are in {report.archive}: `layerstore import` restores them"
    if not (report.dry_run or is_directory) and removed != "nothing":
        yield "an export merges, so a directory keeps what was removed here. To remove it there, too:"
        yield "  layerstore export --on-conflict replace --delete DIR"
    if report.free_bytes and not report.dry_run:
        yield f"{size(report.free_bytes)} of the file are free for later writes: --vacuum returns them"


def of_recover(report: RecoverReport, *, quiet: bool) -> Iterator[str]:
    """Yield what was found in a damaged database; findings alone if it shall be quiet."""
    for count, what in (
        (report.unreadable_pages, f"of {report.pages} pages could not be read in full: import their sources again"),
        (report.quarantined, "invalid values were quarantined"),
        (report.older, "older values of the same keys were quarantined"),
    ):
        if count:
            yield f"{count} {what}"
    if not quiet:
        found, kept = counted(report.recovered, "entry", "entries"), counted(report.kept_in_quarantine, "value")
        yield f"recovered {report.path} to {report.new}: {found}, {kept} in quarantine"


def skipped(count: int, named: Sequence[Skipped]) -> Iterator[str]:
    """Yield what was not imported: the first files of each reason, and how many more; macOS's own files as a number."""
    by_macos = sum(1 for one in named if _is_macos(one.path))
    if by_macos:
        yield f"skipped: {counted(by_macos, 'file')} that macOS adds (._*, .DS_Store)"
    others = [one for one in named if not _is_macos(one.path)]
    reasons = Counter(one.reason for one in others)
    told: Counter[str] = Counter()
    for one in others:
        told[one.reason] += 1
        if told[one.reason] <= _NAMED:
            yield f"skipped: {one.path}: {one.reason}"
            if told[one.reason] == _NAMED and reasons[one.reason] > _NAMED:
                yield f"skipped: {reasons[one.reason] - _NAMED:,} more: {one.reason}"
    yield from _rest(count, named, "skipped")


def _is_macos(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith("._") or name == ".DS_Store"


def _imported(counts: ImportReport | SourceReport) -> str:
    named = {"read": counts.read, "added": counts.added, "updated": counts.updated, "unchanged": counts.unchanged}
    return ", ".join(f"{count} {what}" for what, count in named.items() if count or what in ("read", "added"))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _rest(count: int, named: Sized, what: str) -> Iterable[str]:
    return [f"and {count - len(named):,} more {what}"] if count > len(named) else []
