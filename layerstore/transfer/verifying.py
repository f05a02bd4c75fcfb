"""Checking a store, and mending what can be mended.

What Docker does by itself (a digest listed under two layers, duplicates, evicted entries) is `info`; what only a
crash, a power cut or another hand leaves is a `warning` or an `error`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from layerstore.digest import is_digest
from layerstore.errors import NotFoundError
from layerstore.fs import FSMetadataStore, Odd, count, scan
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
from layerstore.sql.snapshot import Snapshot
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import read_modify_write, why_not_a_key, why_not_a_namespace
from layerstore.transfer.sources import (
    Place,
    Progress,
    Readable,
    ReadableStore,
    name,
    opened,
    refuse_under_a_daemon,
    view,
)

Severity = Literal["error", "warning", "info"]

_BATCH = 500
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class _Kind:
    severity: Severity
    message: str
    remedy: str


_REPAIR = "`verify --repair`"
_KINDS = {
    "damaged-file": _Kind(
        "error", "SQLite finds the file damaged", "copy the file away, then `sqlite3 FILE .recover` into a new one"
    ),
    "unreadable-file": _Kind("error", "a file or directory cannot be read", "check its permissions and the disk"),
    "unreadable": _Kind("error", "an entry cannot be what its namespace says", f"{_REPAIR} moves it to quarantine"),
    "invalid-key": _Kind(
        "error", "an entry has a key that breaks the key rules; no export takes it", f"{_REPAIR} moves it to quarantine"
    ),
    "stale-rows": _Kind("error", "derived rows are not what the layer's list says", f"{_REPAIR} derives them again"),
    "odd-digest": _Kind(
        "warning", "a list holds an entry whose digest is none", "nothing looks it up; it goes when the list moves on"
    ),
    "over-the-cap": _Kind(
        "warning", f"a list holds more than {MAX_METADATA} entries", "the next `add` to the layer cuts it"
    ),
    "unmapped": _Kind(
        "warning", "a list holds a digest that maps to no layer: half an `add`", f"{_REPAIR} maps it to its layer"
    ),
    "no-entry": _Kind(
        "warning", "a file that is no entry: a link, a device, or a name that no key can have", "remove or rename it"
    ),
    "other-layer": _Kind("info", "a list holds a digest that maps to another layer by now", "none is needed"),
    "not-listed": _Kind(
        "info", "a digest maps to a layer whose list does not hold it: evicted, or removed", "none is needed"
    ),
    "duplicates": _Kind("info", "a list holds an entry twice, as Docker 1.12 writes them", "none is needed"),
    "temporary": _Kind("info", "a file that a write left behind", "remove it when no daemon runs"),
    "quarantined": _Kind(
        "info", "bytes that were set aside are in quarantine", "look at them in the table `quarantine`"
    ),
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
        repaired: how many of them `repair` has mended.
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
class VerifyReport:
    """What a check found.

    Attributes:
        path: what was checked.
        checked: how many entries were.
        findings: errors first, then warnings, then infos.
    """

    path: str
    checked: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether no error and no warning is left unmended."""
        return all(found.severity == "info" or found.repaired == found.count for found in self.findings)


def verify(
    store_or_path: Place,
    *,
    repair: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> VerifyReport:
    """Check that every value can be read, that lists and mappings agree, and that derived rows equal the truth.

    A database is checked as one snapshot, SQLite's own check of the file included; a directory as it is.

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
        StoreError: the store cannot be opened or read.
    """
    with opened(store_or_path, write=repair) as (store, odd):
        if repair and isinstance(store, FSMetadataStore) and not force:
            refuse_under_a_daemon(store.path)
        findings = _Findings()
        for found in odd:
            findings.add_odd(found)
        with view(store) as content:
            checked = _check(store, content, findings, progress)
        if repair:
            _repair(store, findings)
        return VerifyReport(name(store_or_path), checked, findings.report())


class _Findings:
    """What was found so far: all places of what can be mended, a few examples of the rest."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._repaired: dict[str, int] = {}
        self.unfit: list[tuple[str, str, str]] = []
        self.unmapped: list[tuple[str, str]] = []
        self.stale: list[str] = []

    def add(self, kind: str, example: str, count: int = 1) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + count
        examples = self._examples.setdefault(kind, [])
        if len(examples) < _EXAMPLES:
            examples.append(example)

    def add_odd(self, odd: Odd) -> None:
        if odd.kind != "vanished":
            kind = {"temporary": "temporary", "unreadable": "unreadable-file"}.get(odd.kind, "no-entry")
            self.add(kind, f"{odd.path}: {odd.reason}")

    def mend(self, kind: str) -> None:
        self._repaired[kind] = self._repaired.get(kind, 0) + 1

    def report(self) -> tuple[Finding, ...]:
        return tuple(
            Finding(
                kind,
                of.severity,
                of.message,
                of.remedy,
                self._counts[kind],
                self._repaired.get(kind, 0),
                tuple(self._examples[kind]),
            )
            for kind, of in _KINDS.items()
            if kind in self._counts
        )


def _check(store: ReadableStore, content: Readable, findings: _Findings, progress: Progress | None) -> int:
    total = None
    if isinstance(content, Snapshot):
        total = content.count()
        for line in content.damage():
            findings.add("damaged-file", line)
        for diff_id in content.stale():
            findings.add("stale-rows", diff_id)
            findings.stale.append(diff_id)
        if quarantined := content.quarantined():
            findings.add("quarantined", "SELECT * FROM quarantine", quarantined)
    elif isinstance(store, FSMetadataStore) and progress is not None:
        total = count(store.path)
    checked = 0
    for batch in _batches(_records(store, content, findings)):
        readable = [record for record in batch if _is_fit(record, findings)]
        _check_lists([record for record in readable if record.namespace == V2_METADATA], content, findings)
        _check_mappings([record for record in readable if record.namespace == DIFF_IDS], content, findings)
        checked += len(batch)
        if progress is not None:
            progress(checked, total)
    return checked


def _records(store: ReadableStore, content: Readable, findings: _Findings) -> Iterator[Record]:
    if isinstance(store, SQLMetadataStore):
        yield from content.records()
        return
    for found in scan(store.path):
        if isinstance(found, Odd):
            findings.add_odd(found)
        else:
            yield found


def _batches(records: Iterable[Record]) -> Iterator[list[Record]]:
    rest = iter(records)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def _is_fit(record: Record, findings: _Findings) -> bool:
    reason = _why_unfit(*record[:3])
    if reason is not None:
        kind = "unreadable" if _why_no_key(*record[:2]) is None else "invalid-key"
        findings.add(kind, f"{record.namespace}/{record.key}: {reason}")
        findings.unfit.append((kind, record.namespace, record.key))
    return reason is None


def _why_unfit(namespace: str, key: str, value: bytes) -> str | None:
    return _why_no_key(namespace, key) or why_unreadable(namespace, key, value)


def _why_no_key(namespace: str, key: str) -> str | None:
    return why_not_a_namespace(namespace) or why_not_a_key(key)


def _check_lists(lists: Sequence[Record], content: Readable, findings: _Findings) -> None:
    """Check lists for themselves, and that each of their digests maps to a layer."""
    digests: list[tuple[str, str]] = []
    for record in lists:
        entries = decode_list(record.value)
        place = f"{record.namespace}/{record.key}"
        if len(entries) > MAX_METADATA:
            findings.add("over-the-cap", f"{place}: {len(entries)} entries")
        if len(set(entries)) < len(entries):
            findings.add("duplicates", place)
        for digest in dict.fromkeys(entry.digest for entry in entries):
            if is_digest(digest):
                digests.append((digest, record.key))
            else:
                findings.add("odd-digest", f"{place}: {digest!r}")
    mapped = content.get_many(DIFF_IDS, [digest_key(digest) for digest, _ in digests])
    for digest, key in digests:
        value = mapped.get(digest_key(digest))
        diff_id = key_digest(key)
        if value is None or why_unreadable(DIFF_IDS, digest_key(digest), value) is not None:
            findings.add("unmapped", f"{digest} in {V2_METADATA}/{key}")
            findings.unmapped.append((digest, key))
        elif diff_id is not None and value != diff_id.encode():
            findings.add("other-layer", f"{digest} in {V2_METADATA}/{key}")


def _check_mappings(mappings: Sequence[Record], content: Readable, findings: _Findings) -> None:
    """Check that the layer of each mapping lists the digest."""
    layers = {record.key: digest_key(decode_diff_id(record.value)) for record in mappings}
    lists = content.get_many(V2_METADATA, list(dict.fromkeys(layers.values())))
    listed = {key: _digests(value) for key, value in lists.items()}
    for key, layer in layers.items():
        if key_digest(key) not in listed.get(layer, ()):
            findings.add("not-listed", f"{DIFF_IDS}/{key}")


def _digests(value: bytes) -> set[str]:
    try:
        return {entry.digest for entry in decode_list(value)}
    except ValueError:
        return set()


def _repair(store: ReadableStore, findings: _Findings) -> None:
    # Each repair of a directory has a quarantine of its own, so that none overwrites what is there.
    aside = f"{store.path}.quarantine/{time.time_ns()}"
    for kind, namespace, key in findings.unfit:
        _set_aside(store, namespace, key, aside)
        findings.mend(kind)
    for digest, key in findings.unmapped:
        _map(store, digest, key)
        findings.mend("unmapped")
    if isinstance(store, SQLMetadataStore):
        for diff_id in findings.stale:
            store.rederive(diff_id)
            findings.mend("stale-rows")


def _set_aside(store: ReadableStore, namespace: str, key: str, aside: str) -> None:
    """Move an entry that still cannot be read to quarantine."""
    with read_modify_write(store)():
        try:
            value = store.get(namespace, key)
        except NotFoundError:
            return
        reason = _why_unfit(namespace, key, value)
        if reason is None:
            return
        if isinstance(store, SQLMetadataStore):
            store.quarantine(namespace, key, value, reason)
        else:
            FSMetadataStore(aside).set(namespace, key, value)
        store.delete(namespace, key)


def _map(store: ReadableStore, digest: str, key: str) -> None:
    """Map a digest to the layer that still lists it, if it still maps to none."""
    diff_id = key_digest(key)
    with read_modify_write(store)():
        if diff_id is None or digest_key(digest) in store.get_many(DIFF_IDS, [digest_key(digest)]):
            return
        listed = store.get_many(V2_METADATA, [key]).get(key, b"[]")
        if digest in _digests(listed):
            store.set(DIFF_IDS, digest_key(digest), diff_id.encode())
