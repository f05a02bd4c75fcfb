"""Checking a store, and mending what can be mended.

What Docker does by itself (a digest listed under two layers, duplicates, evicted entries) is `info`; what only a
crash, a power cut or another hand leaves is a `warning` or an `error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice

from layerstore.collection import Odd
from layerstore.digest import is_digest
from layerstore.docker.dataroot import refuse_under_a_daemon
from layerstore.errors import NotFoundError, StoreError, TransferError
from layerstore.files.scan import count, scan, show
from layerstore.files.store import FSMetadataStore
from layerstore.records import (
    DIFF_IDS,
    MAX_METADATA,
    V2_METADATA,
    Record,
    decode_diff_id,
    decode_list,
    digest_key,
    key_digest,
    why_unreadable,
)
from layerstore.repository import why_not_canonical
from layerstore.sql.sqlite.errors import noting_damage
from layerstore.sql.sqlite.snapshot import NOT_UTF8, OddName, Snapshot
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import why_not_a_key, why_not_a_namespace
from layerstore.transfer.findings import Findings, VerifyReport
from layerstore.transfer.repairing import digests_of, why_unfit
from layerstore.transfer.repairing import repair as mend
from layerstore.transfer.sources import (
    UNCHANGEABLE,
    Place,
    Progress,
    Readable,
    ReadableStore,
    is_archive,
    name,
    opened,
    view,
)

_BATCH = 500


def verify(
    store_or_path: Place,
    *,
    repair: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check that every value can be read, that lists and mappings agree, and that derived rows equal the truth.

    A database is checked as one snapshot, SQLite's own check of the file included; a directory as it is. Of a damaged
    file, what can still be read is checked; nothing of it is repaired.

    With `repair`, derived rows are derived again, a digest that half an `add` left unmapped is mapped, and what cannot
    be read moves to quarantine: in a database to its table, beside a directory to
    `<directory>.quarantine/<time>`.
    Each mend looks again first, so that a writer's newer value is left alone. The directory of a running daemon is
    refused. Nothing is lost either way.

    Args:
        store_or_path: a store, a database file, a `distribution` directory, a data root that has one, or a tar of
            one (to look only).
        repair: mend what can be mended.
        force: repair a directory also under a running daemon.
        progress: called with the entries checked and, for a database, how many there are.

    Raises:
        TransferError: there is nothing at the path; or, to repair it: it is an archive, or a directory that a
            daemon runs on.
        StoreOpenError: the store cannot be opened; or, to repair it: its schema is not ours.
        StoreError: it cannot be read, but for damage.
    """
    if repair and is_archive(store_or_path):
        raise TransferError(UNCHANGEABLE, name(store_or_path))
    with Findings(to_mend=repair) as findings:
        with opened(store_or_path) as (store, odd):
            if repair and isinstance(store, FSMetadataStore) and not force:
                refuse_under_a_daemon(store.path)
            if repair and isinstance(store, SQLMetadataStore):
                store.refuse_foreign_schema()
            for found in odd:
                findings.add_odd(found)
            with view(store) as content:
                checked = _check(store, content, findings, progress)
        moved_to = _mend(store_or_path, findings) if repair else None
        return VerifyReport(name(store_or_path), checked, findings.report(), moved_to)


def _mend(place: Place, findings: Findings) -> str | None:
    """Open the place to write, which a damaged file never is, and mend what was found."""
    if findings.has("damaged-file"):
        findings.add("not-repaired", None)
        return None
    if not any(len(places) for places in findings.places.values()):
        return None
    with opened(place, write=True) as (store, _):
        return mend(store, findings)


def _check(store: ReadableStore, content: Readable, findings: Findings, progress: Progress | None) -> int:
    def note_damage(line: str) -> None:
        findings.add("damaged-file", line)

    total = None
    if isinstance(content, Snapshot):
        total = _check_database(content, findings, note_damage)
    elif isinstance(store, FSMetadataStore) and progress is not None:
        total = count(store.path)
    checked = 0
    for batch in _batches(_records(store, content, findings, note_damage)):
        readable = [record for record in batch if _is_fit(record, findings)]
        # Of a damaged file, what can still be read is checked.
        with noting_damage(note_damage):
            _check_lists([record for record in readable if record.namespace == V2_METADATA], content, findings)
            _check_mappings([record for record in readable if record.namespace == DIFF_IDS], content, findings)
        checked += len(batch)
        if progress is not None:
            progress(checked, total)
    return checked


def _check_database(content: Snapshot, findings: Findings, note_damage: Callable[[str], None]) -> int | None:
    """Check what only a database has; return how many entries there are, if that can be told."""
    total = None
    with noting_damage(note_damage):
        for line in content.damage():
            note_damage(line)
    with noting_damage(note_damage):
        for reason in content.foreign():
            findings.add("foreign-schema", reason)
    with noting_damage(note_damage):
        total = content.count()
    with noting_damage(note_damage):
        for diff_id in content.stale():
            findings.add_place("stale-rows", diff_id if isinstance(diff_id, str) else show(diff_id), diff_id)
    with noting_damage(note_damage):
        if quarantined := content.quarantined():
            findings.add("quarantined", None, quarantined)
    if not findings.has("foreign-schema"):  # its columns may be others
        with noting_damage(note_damage):
            _check_types(content, findings)
    return total


def _check_types(content: Snapshot, findings: Findings) -> None:
    """Check what only another program can have written: text where numbers belong, and bytes where text does."""
    for odd in content.odd_times():
        findings.add_place("odd-time", "/".join(odd.shown()), *odd)
    for number in content.odd_quarantine():
        findings.add_place("odd-quarantine", f"number {number}", str(number))


def _records(
    store: ReadableStore, content: Readable, findings: Findings, note_damage: Callable[[str], None]
) -> Iterator[Record]:
    if isinstance(content, Snapshot):
        with noting_damage(note_damage):
            for entry in content.scan():
                if isinstance(entry, OddName):
                    findings.add_place("invalid-key", f"{'/'.join(entry.shown())}: {NOT_UTF8}", *entry)
                else:
                    yield entry
        return
    assert isinstance(store, FSMetadataStore)
    for found in scan(store.path):
        if isinstance(found, Odd):
            findings.add_odd(found)
        else:
            yield found


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    rest = iter(records)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _is_fit(record: Record, findings: Findings) -> bool:
    reason = why_unfit(*record[:3])
    if reason is not None:
        no_key = why_not_a_namespace(record.namespace) or why_not_a_key(record.key)
        kind = "unreadable" if no_key is None else "invalid-key"
        findings.add_place(kind, f"{record.namespace}/{record.key}: {reason}", record.namespace, record.key)
    return reason is None


def _check_lists(lists: Sequence[Record], content: Readable, findings: Findings) -> None:
    """Check lists for themselves, and that each of their digests maps to a layer."""
    digests = [(digest, record.key) for record in lists for digest in _check_list(record, findings)]
    mapped = _look_up(content, DIFF_IDS, [digest_key(digest) for digest, _ in digests])
    for digest, key in digests:
        value = mapped.get(digest_key(digest))
        diff_id = key_digest(key)
        if value is None or why_unreadable(DIFF_IDS, digest_key(digest), value) is not None:
            findings.add_place("unmapped", f"{digest} in {V2_METADATA}/{key}", digest, key)
        elif diff_id is not None and value != diff_id.encode():
            findings.add("other-layer", f"{digest} in {V2_METADATA}/{key}")


def _check_list(record: Record, findings: Findings) -> Iterator[str]:
    """Check a list for itself, and yield its digests."""
    entries = decode_list(record.value)
    place = f"{record.namespace}/{record.key}"
    if len(entries) > MAX_METADATA:
        findings.add("over-the-cap", f"{place}: {len(entries)} entries")
    if len(set(entries)) < len(entries):
        findings.add("duplicates", place)
    for repository in dict.fromkeys(entry.source_repository for entry in entries):
        if (reason := why_not_canonical(repository)) is not None:
            findings.add("not-canonical", f"{place}: {reason}")
    for digest in dict.fromkeys(entry.digest for entry in entries):
        if is_digest(digest):
            yield digest
        else:
            findings.add("odd-digest", f"{place}: {digest!r}")


def _check_mappings(mappings: Sequence[Record], content: Readable, findings: Findings) -> None:
    """Check that the layer of each mapping lists the digest."""
    layers = {record.key: digest_key(decode_diff_id(record.value)) for record in mappings}
    lists = _look_up(content, V2_METADATA, list(dict.fromkeys(layers.values())))
    listed = {key: digests_of(value) for key, value in lists.items()}
    for key, layer in layers.items():
        if key_digest(key) not in listed.get(layer, ()):
            findings.add("not-listed", f"{DIFF_IDS}/{key}")


def _look_up(content: Readable, namespace: str, keys: list[str]) -> dict[str, bytes]:
    """Return the values that are there and can be read; of those that cannot, the walk tells."""
    if not isinstance(content, FSMetadataStore):
        return content.get_many(namespace, keys)
    found: dict[str, bytes] = {}
    for key in keys:
        with suppress(NotFoundError, StoreError):
            found[key] = content.get(namespace, key)
    return found
