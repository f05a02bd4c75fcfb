"""Checking a store, and mending what can be mended.

What Docker does by itself (a digest listed under two layers, duplicates, evicted entries) is `info`; what only a
crash, a power cut or another hand leaves is a `warning` or an `error`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from layerstore import blobs
from layerstore.collection import Collection, Odd, View
from layerstore.digest import is_digest
from layerstore.docker.dataroot import refuse_under_a_daemon
from layerstore.errors import NotFoundError
from layerstore.keys import BLOBS, DIFF_IDS, V2_METADATA, Record, digest_key, key_digest
from layerstore.records import MAX_METADATA, decode_diff_id, decode_list, digests_of, why_unreadable
from layerstore.repository import why_not_canonical
from layerstore.store import get_many, read_modify_write, why_not_a_key, why_not_a_namespace
from layerstore.transfer.findings import FAULTS, UNFIT, Findings, VerifyReport
from layerstore.transfer.place import Place, Progress, name, opened
from layerstore.transfer.streams import why_unfit

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

    With `repair`, derived rows are rebuilt, a digest that an interrupted `add` left unmapped is mapped, and unreadable
    entries move to quarantine: in a database to its table, beside a directory to `<directory>.quarantine/<time>`.
    Each repair step looks again first, so that a writer's newer value stays. The directory of a running daemon is
    refused. Nothing is lost either way.

    Args:
        store_or_path: a store, a database file, a `distribution` directory, a data root that has one, or a tar of
            one (to look only).
        repair: rebuild derived data, and quarantine unreadable entries.
        force: also check a directory that has none of Docker's namespaces, or nothing; also repair under a running
            daemon.
        progress: called with the entries checked and, for a database, how many there are.

    Raises:
        TransferError: there is nothing at the path, or none of Docker's metadata; or, to repair it: it is an archive,
            or a directory that a daemon runs on.
        StoreOpenError: the store cannot be opened; or, to repair it: its schema is not ours.
        StoreError: it cannot be read, but for damage.
    """
    with Findings(to_mend=repair) as findings:
        with opened(store_or_path, force=force) as collection:
            if repair:
                collection.refuse_change()
                if collection.directory is not None and not force:
                    refuse_under_a_daemon(collection.directory)
            checked = _check(collection, findings, progress)
        moved_to = _mend(store_or_path, findings, force=force) if repair else None
        return VerifyReport(name(store_or_path), checked, findings.report(), moved_to)


def _mend(place: Place, findings: Findings, *, force: bool) -> str | None:
    """Open the place to write, which a damaged file never is, and mend it; return where files were moved."""
    if findings.has("damaged-file"):
        findings.add("not-repaired", None)
        return None
    if not any(len(places) for places in findings.places.values()):
        return None
    with opened(place, write=True, force=force) as collection:
        _repair(collection, findings)
        return collection.moved_to


def _repair(collection: Collection, findings: Findings) -> None:
    """Derive what can be derived, move what cannot be read to quarantine, and note it in the findings.

    Each step looks again first, so that a writer's newer value is left alone.
    """
    for kind in UNFIT:
        for namespace, key in findings.places[kind]:
            # A name in bytes is not UTF-8: only the collection itself can find it.
            is_name = isinstance(namespace, str)
            if _set_aside(collection, namespace, key) if is_name else collection.mend(kind, (namespace, key)):
                findings.mend(kind)
    for digest, key in findings.places["unmapped"]:
        _map(collection, digest, key)
        findings.mend("unmapped")
    for kind in FAULTS:
        for place in findings.places[kind]:
            if collection.mend(kind, place):
                findings.mend(kind)


def _set_aside(collection: Collection, namespace: str, key: str) -> bool:
    """Move an entry that still cannot be read to quarantine; tell whether it was there to be moved."""
    store = collection.store
    with read_modify_write(store)():
        try:
            value = store.get(namespace, key)
        except NotFoundError:
            return False
        reason = why_unfit(namespace, key, value)
        if reason is not None:
            collection.set_aside(namespace, key, value, reason)
            store.delete(namespace, key)
        return True


def _map(collection: Collection, digest: str, key: str) -> None:
    """Map a digest to the layer that still lists it, if it still maps to none."""
    store, diff_id = collection.store, key_digest(key)
    with read_modify_write(store)():
        if diff_id is None or digest_key(digest) in get_many(store, DIFF_IDS, [digest_key(digest)]):
            return
        listed = get_many(store, V2_METADATA, [key]).get(key, b"[]")
        if digest in digests_of(listed):
            store.set(DIFF_IDS, digest_key(digest), diff_id.encode())


def _check(collection: Collection, findings: Findings, progress: Progress | None) -> int:
    checked = 0
    # Of a damaged file, what can still be read is checked.
    with collection.view(note=lambda line: findings.add("damaged-file", line)) as view:
        for fault in view.faults():
            findings.add_fault(fault)
        total = None if progress is None else view.count()
        for batch in _batches(_records(view, findings)):
            readable = [record for record in batch if _is_fit(record, findings)]
            _check_lists([record for record in readable if record.namespace == V2_METADATA], view, findings)
            _check_mappings([record for record in readable if record.namespace == DIFF_IDS], view, findings)
            _check_blobs([record for record in readable if record.namespace == BLOBS], view, findings)
            checked += len(batch)
            if progress is not None:
                progress(checked, total)
    return checked


def _records(view: View, findings: Findings) -> Iterator[Record]:
    for found in view.scan():
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


def _check_lists(lists: Sequence[Record], view: View, findings: Findings) -> None:
    """Check lists for themselves, and that each of their digests maps to a layer."""
    digests = [(digest, record.key) for record in lists for digest in _check_list(record, findings)]
    mapped = view.get_many(DIFF_IDS, [digest_key(digest) for digest, _ in digests])
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


def _check_mappings(mappings: Sequence[Record], view: View, findings: Findings) -> None:
    """Check that the layer of each mapping lists the digest."""
    layers = {record.key: digest_key(decode_diff_id(record.value)) for record in mappings}
    lists = view.get_many(V2_METADATA, list(dict.fromkeys(layers.values())))
    listed = {key: digests_of(value) for key, value in lists.items()}
    for key, layer in layers.items():
        if key_digest(key) not in listed.get(layer, ()):
            findings.add("not-listed", f"{DIFF_IDS}/{key}")


def _check_blobs(records: Sequence[Record], view: View, findings: Findings) -> None:
    """Check that sources agree about each blob, the mapping that Docker has of it included."""
    mapped = view.get_many(DIFF_IDS, [record.key for record in records])
    for record in records:
        blob = blobs.decode(record.value, record.key)
        place = f"{BLOBS}/{record.key}"
        for field, values in blob.conflicts.items():
            findings.add("contradiction", f"{place}: {field} is {' or '.join(values)}")
        diff_id = mapped.get(record.key, b"").decode("utf-8", "replace")
        if diff_id and blob.diff_id not in (None, diff_id):
            findings.add("contradiction", f"{place}: DiffID is {blob.diff_id}, and {diff_id} in {DIFF_IDS}")
