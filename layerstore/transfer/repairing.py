"""Repairing what a check has found. Each step looks again first, so that a writer's newer value is left alone."""

from __future__ import annotations

from layerstore.collection import Collection
from layerstore.errors import NotFoundError
from layerstore.keys import DIFF_IDS, V2_METADATA, digest_key, key_digest
from layerstore.records import digests_of, why_unreadable
from layerstore.store import get_many, read_modify_write, why_not_a_key, why_not_a_namespace
from layerstore.transfer.findings import FAULTS, UNFIT, Findings


def repair(collection: Collection, findings: Findings) -> None:
    """Derive what can be derived, move what cannot be read to quarantine, and note it in the findings."""
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


def why_unfit(namespace: str, key: str, value: bytes) -> str | None:
    """Say why an entry cannot stay where it is, or return `None`."""
    return why_not_a_namespace(namespace) or why_not_a_key(key) or why_unreadable(namespace, key, value)
