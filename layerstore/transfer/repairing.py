"""Mending what a check has found. Each mend looks again first, so that a writer's newer value is left alone."""

from __future__ import annotations

import time

from layerstore.errors import NotFoundError
from layerstore.files.store import FSMetadataStore
from layerstore.records import DIFF_IDS, V2_METADATA, decode_list, digest_key, key_digest, why_unreadable
from layerstore.sql.quarantine import rewrite, set_aside_odd_name
from layerstore.sql.sqlite.snapshot import OddName
from layerstore.sql.store import SQLMetadataStore
from layerstore.store import read_modify_write, why_not_a_key, why_not_a_namespace
from layerstore.transfer.findings import UNFIT, Findings
from layerstore.transfer.sources import ReadableStore


def repair(store: ReadableStore, findings: Findings) -> str | None:
    """Derive what can be derived, move what cannot be read to quarantine, and note it in the findings.

    Returns the directory that files were moved to, if any were.
    """
    # Each repair of a directory has a quarantine of its own, so that none overwrites what is there.
    aside = f"{store.path}.quarantine/{time.time_ns()}"
    for kind in UNFIT:
        for namespace, key in findings.places[kind]:
            if _set_aside(store, namespace, key, aside):
                findings.mend(kind)
    for digest, key in findings.places["unmapped"]:
        _map(store, digest, key)
        findings.mend("unmapped")
    if isinstance(store, SQLMetadataStore):
        for (diff_id,) in findings.places["stale-rows"]:
            store.rederive(diff_id)
            findings.mend("stale-rows")
        for name in findings.places["odd-time"]:
            store._backend.mend_time(*name)
            findings.mend("odd-time")
        for (number,) in findings.places["odd-quarantine"]:
            rewrite(store, int(number))
            findings.mend("odd-quarantine")
        return None
    return aside if any(len(findings.places[kind]) for kind in UNFIT) else None


def _set_aside(store: ReadableStore, namespace: str | bytes, key: str | bytes, aside: str) -> bool:
    """Move an entry that still cannot be read to quarantine; tell whether it was there to be moved."""
    if isinstance(namespace, bytes):
        assert isinstance(key, bytes)
        assert isinstance(store, SQLMetadataStore)
        return set_aside_odd_name(store, OddName(namespace, key))
    assert isinstance(key, str)
    with read_modify_write(store)():
        try:
            value = store.get(namespace, key)
        except NotFoundError:
            return False
        reason = why_unfit(namespace, key, value)
        if reason is None:
            return True
        if isinstance(store, SQLMetadataStore):
            store.quarantine(namespace, key, value, reason)
        else:
            FSMetadataStore(aside).set(namespace, key, value)
        store.delete(namespace, key)
        return True


def _map(store: ReadableStore, digest: str, key: str) -> None:
    """Map a digest to the layer that still lists it, if it still maps to none."""
    diff_id = key_digest(key)
    with read_modify_write(store)():
        if diff_id is None or digest_key(digest) in store.get_many(DIFF_IDS, [digest_key(digest)]):
            return
        listed = store.get_many(V2_METADATA, [key]).get(key, b"[]")
        if digest in digests_of(listed):
            store.set(DIFF_IDS, digest_key(digest), diff_id.encode())


def why_unfit(namespace: str, key: str, value: bytes) -> str | None:
    """Say why an entry cannot stay where it is, or return `None`."""
    return why_not_a_namespace(namespace) or why_not_a_key(key) or why_unreadable(namespace, key, value)


def digests_of(value: bytes) -> set[str]:
    """Return the digests in a list; of one that cannot be read, none."""
    try:
        return {entry.digest for entry in decode_list(value)}
    except ValueError:
        return set()
