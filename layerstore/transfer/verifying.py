"""Checking a store, and mending what can be mended.

What Docker does by itself (a digest listed under two layers, duplicates, evicted entries) is `info`; what only a
crash, a power cut or another hand leaves is a `warning` or an `error`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from layerstore import blobs
from layerstore.collection import Collection, Fault, Odd, View, in_batches
from layerstore.digest import is_digest
from layerstore.docker.dataroot import refuse_under_a_daemon
from layerstore.errors import NotFoundError
from layerstore.keys import (
    BLOBS,
    DIFF_IDS,
    V2_METADATA,
    Record,
    digest_key,
    key_digest,
    why_not_a_key,
    why_not_a_namespace,
)
from layerstore.records import MAX_METADATA, decode_diff_id, decode_list, digests_of, why_unfit, why_unreadable
from layerstore.reports import Report
from layerstore.repository import why_not_canonical
from layerstore.store import get_many, read_modify_write
from layerstore.transfer.place import Place, Progress, name, opened
from layerstore.words import counted

Severity = Literal["error", "warning", "info"]

_EXAMPLES: Final = 5
_UNFIT: Final = ("unreadable", "invalid-key")
"""Kinds of entries that cannot stay where they are."""
_FAULTS: Final = ("stale-rows", "odd-time", "odd-quarantine")
"""Kinds of faults that a collection mends itself."""
_REPAIR = "`verify --repair`"
_KINDS: Final[dict[str, tuple[Severity, str, str]]] = {
    "damaged-file": (
        "error",
        "SQLite finds the file damaged",
        "copy it and its -wal away, then `layerstore recover FILE NEW`",
    ),
    "not-repaired": (
        "warning",
        "nothing was repaired, as writing to a damaged file may lose more of it",
        "recover the file first, then repair the new one",
    ),
    "foreign-schema": (
        "error",
        "the schema is not layerstore's, so every write is refused",
        "undo that with `sqlite3`, or import the entries into a new database: `layerstore --db NEW import FILE`",
    ),
    "unreadable-file": ("error", "a file or directory cannot be read", "check its permissions, its size and the disk"),
    "unreadable": (
        "error",
        "an entry is invalid for its namespace",
        f"{_REPAIR} moves it to quarantine; an invalid mapping can crash a Docker daemon",
    ),
    "invalid-key": (
        "error",
        "an entry has a key that breaks the key rules; no export writes it",
        f"{_REPAIR} moves it to quarantine",
    ),
    "stale-rows": (
        "error",
        "derived rows are not what the layer's list or the blob's entry says",
        f"{_REPAIR} rebuilds them",
    ),
    "odd-digest": (
        "warning",
        "a list holds an entry whose digest is none",
        "nothing looks it up; later entries will evict it",
    ),
    "over-the-cap": (
        "warning",
        f"a list holds more than {MAX_METADATA} entries",
        "the next `add` to the layer cuts it",
    ),
    "contradiction": (
        "warning",
        "sources disagree about a blob: which layer it is, or how it is compressed; no export uses it",
        "compare with `layerstore show DIGEST`; `layerstore delete` the entry, then import from a source you trust",
    ),
    "unmapped": (
        "warning",
        "a list holds a digest that maps to no layer: half an `add`; a pull downloads it again",
        f"{_REPAIR} maps it to its layer",
    ),
    "no-entry": (
        "warning",
        "a file that is no entry: a link, a device, or a name that no key can have",
        "remove or rename it",
    ),
    "other-layer": ("info", "a list holds a digest that maps to another layer now", "none is needed"),
    "not-listed": (
        "info",
        "a digest maps to a layer whose list does not hold it: evicted, or removed",
        "none is needed",
    ),
    "not-canonical": (
        "info",
        "a list holds a repository name that is not canonical: no push mounts from it",
        "record layers under the name that `canonical_repository` returns",
    ),
    "duplicates": ("info", "a list holds an entry twice, as Docker 1.12 writes them", "none is needed"),
    "temporary": ("info", "a file that a write left behind", "`prune --temporary` removes it when no daemon runs"),
    "odd-time": (
        "warning",
        "an entry has a time that is no whole number; it counts as the number that it begins with, or 0",
        f"{_REPAIR} writes that number",
    ),
    "odd-quarantine": (
        "warning",
        "a value in quarantine has a name, reason or time that another program wrote in another type",
        f"{_REPAIR} writes them as `layerstore quarantine list` shows them",
    ),
    "quarantined": ("info", "bytes that were set aside are in quarantine", "`layerstore quarantine list` shows them"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
        kind: its name, such as `unmapped`.
        severity: `error`, `warning`, or `info` for what Docker does by itself.
        message: what it is.
        remedy: what to do about it.
        count: how often it was found.
        repaired: number of them that `repair` has repaired.
        examples: the first few, as namespace/key with what is wrong.
    """

    kind: str
    severity: Severity
    message: str
    remedy: str
    count: int
    repaired: int
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VerifyReport(Report):
    """What a check found.

    Attributes:
        path: what was checked.
        checked: how many entries were.
        findings: errors first, then warnings, then infos.
        quarantine: the directory that a repair moved files to; `None` if it moved none, or to a database's table.
    """

    path: str
    checked: int
    findings: tuple[Finding, ...]
    quarantine: str | None = None

    @property
    def ok(self) -> bool:
        """Whether no error and no warning is left unmended."""
        return all(found.severity == "info" or found.repaired == found.count for found in self.findings)

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line; if `quiet`, only findings."""
        for found in self.findings:
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
        if self.quarantine is not None:
            yield f"moved to {self.quarantine}"
        if not quiet:
            checked = counted(self.checked, "entry", "entries")
            yield f"checked {checked} of {self.path}: {'ok' if self.ok else 'not ok'}"


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
    findings = Findings(to_mend=repair)
    with opened(store_or_path, force=force) as collection:
        if repair:
            collection.refuse_change()
            if collection.directory is not None and not force:
                refuse_under_a_daemon(collection.directory)
        checked = _check(collection, findings, progress)
    moved_to = _mend(store_or_path, findings, force=force) if repair else None
    return VerifyReport(name(store_or_path), checked, findings.report(), moved_to)


class Findings:
    """What was found so far: a few examples, how many there are; and to mend them, the place of each."""

    def __init__(self, *, to_mend: bool) -> None:
        self._to_mend = to_mend
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)
        self._repaired: Counter[str] = Counter()
        self.places: list[tuple[str, tuple[str | bytes, ...]]] = []

    def has(self, kind: str) -> bool:
        """Tell whether there is a finding of this kind."""
        return kind in self._counts

    def add(self, kind: str, example: str | None, *place: str | bytes, count: int = 1) -> None:
        """Add what was found, and by which place it can be mended, if it can."""
        self._counts[kind] += count
        examples = self._examples[kind]
        if example is not None and len(examples) < _EXAMPLES:
            examples.append(example)
        if place and self._to_mend:
            self.places.append((kind, place))

    def add_fault(self, fault: Fault) -> None:
        self.add(fault.kind, fault.example, *(fault.place or ()), count=fault.number)

    def add_odd(self, odd: Odd) -> None:
        if odd.place is not None:
            self.add("invalid-key", f"{odd.path}: {odd.reason}", *odd.place)
        elif odd.kind != "vanished":
            kind = {"temporary": "temporary", "unreadable": "unreadable-file"}.get(odd.kind, "no-entry")
            self.add(kind, f"{odd.path}: {odd.reason}")

    def mend(self, kind: str) -> None:
        self._repaired[kind] += 1

    def report(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(kind, *of, self._counts[kind], self._repaired[kind], tuple(self._examples[kind]))
            for kind, of in _KINDS.items()
            if kind in self._counts
        )


def _mend(place: Place, findings: Findings, *, force: bool) -> str | None:
    """Open the place to write, which a damaged file never is, and mend it; return where files were moved.

    Each step looks again first, so that a writer's newer value is left alone.
    """
    if findings.has("damaged-file"):
        findings.add("not-repaired", None)
        return None
    if not findings.places:
        return None
    with opened(place, write=True, force=force) as collection:
        # An unreadable mapping is moved away before its digest is mapped.
        for kinds in (_UNFIT, ("unmapped",), _FAULTS):
            for kind, where in findings.places:
                if kind in kinds and _mend_one(collection, kind, *where):
                    findings.mend(kind)
        return collection.moved_to


def _mend_one(collection: Collection, kind: str, *place: str | bytes) -> bool:
    """Derive what can be derived, or move what cannot be read to quarantine; tell whether it was still there."""
    match kind, *place:
        case "unmapped", str(digest), str(key):
            _map(collection, digest, key)
            return True
        case (("unreadable" | "invalid-key"), str(namespace), str(key)):
            return _set_aside(collection, namespace, key)
    # Also a name in bytes, which is not UTF-8: only the collection itself can find it.
    return collection.mend(kind, place)


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
        for batch in in_batches(("", found) for found in view.scan()):
            for odd in batch.odd:
                findings.add_odd(odd)
            readable = [record for record in batch.records if _is_fit(record, findings)]
            _check_lists([record for record in readable if record.namespace == V2_METADATA], view, findings)
            _check_mappings([record for record in readable if record.namespace == DIFF_IDS], view, findings)
            _check_blobs([record for record in readable if record.namespace == BLOBS], view, findings)
            checked += len(batch.records)
            if progress is not None:
                progress(checked, total)
    return checked


def _is_fit(record: Record, findings: Findings) -> bool:
    reason = why_unfit(*record[:3])
    if reason is not None:
        no_key = why_not_a_namespace(record.namespace) or why_not_a_key(record.key)
        kind = "unreadable" if no_key is None else "invalid-key"
        findings.add(kind, f"{record.namespace}/{record.key}: {reason}", record.namespace, record.key)
    return reason is None


def _check_lists(lists: Sequence[Record], view: View, findings: Findings) -> None:
    """Check lists for themselves, and that each of their digests maps to a layer."""
    digests = [(digest, record.key) for record in lists for digest in _check_list(record, findings)]
    mapped = view.get_many(DIFF_IDS, [digest_key(digest) for digest, _ in digests])
    for digest, key in digests:
        value = mapped.get(digest_key(digest))
        diff_id = key_digest(key)
        if value is None or why_unreadable(DIFF_IDS, digest_key(digest), value) is not None:
            findings.add("unmapped", f"{digest} in {V2_METADATA}/{key}", digest, key)
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
