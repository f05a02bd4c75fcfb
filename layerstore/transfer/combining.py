"""What Docker and other engines know together: entries for Docker's directory, and facts for another engine.

Made at every export from what is stored, so that a DiffID that is learned later completes a place that was learned
earlier. What is made is not stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain, groupby, islice
from operator import itemgetter

from msgspec.structs import replace

from layerstore import blobs
from layerstore.blobs import BlobRecord
from layerstore.collection import IndexedView, View, records, side_by_side
from layerstore.digest import Digest
from layerstore.keys import BLOBS, DIFF_IDS, V2_METADATA, Record, key_digest
from layerstore.push.layers import filled, why_not_for_docker
from layerstore.records import decode_list, encode_list, why_unreadable
from layerstore.repository import why_not_canonical

_STEP_NS = 1000
"""By how much an entry of a list counts as older than the one behind it, as a list has one time."""
_WINDOW = 500
_NOTHING = Record(BLOBS, "", b"", 0)


def for_docker(
    view: IndexedView, left_out: Counter[str], *, assume_gzip: bool = False, all_namespaces: bool = False
) -> Iterator[Record]:
    """Yield the entries of Docker's directory, in order: what is stored, and what other engines add to it.

    Args:
        view: what is stored.
        left_out: counts the blobs that Docker must not learn of, by the reason.
        assume_gzip: take a compression that is not known for gzip.
        all_namespaces: yield also what other engines know, as it is stored.
    """
    if next(view.scan(BLOBS), None) is None:
        yield from records(view)
        return
    made = chain(_mappings(view, left_out, assume_gzip), _lists(view, assume_gzip))
    for stored, addition in side_by_side(records(view), made):
        if addition is None:
            assert stored is not None
            if stored.namespace != BLOBS or all_namespaces:
                yield stored
        elif stored is None:
            yield addition
        else:
            yield stored._replace(value=addition.value)


def _mappings(view: View, left_out: Counter[str], assume_gzip: bool) -> Iterator[Record]:
    """Yield the mappings that Docker lacks."""
    for mapping, known in _by_digest(view):
        blob = None if known is None else _blob(known.key, known.value, mapping and mapping.value, assume_gzip)
        if known is None or blob is None:
            continue  # nothing to add, or nothing that can be read
        reason = why_not_for_docker(blob)
        if reason is not None:
            left_out[reason] += 1
        elif mapping is None and blob.diff_id is not None:
            yield Record(DIFF_IDS, known.key, blob.diff_id.encode(), known.modified_at_ns)


def _lists(view: IndexedView, assume_gzip: bool) -> Iterator[Record]:
    """Yield the lists to which something is added, and those that Docker lacks."""
    layers = groupby(view.blobs_by_layer(), itemgetter(0))
    found = ((key, [row[1:] for row in rows]) for key, rows in layers)
    while window := list(islice(found, _WINDOW)):
        there = view.get_many(V2_METADATA, [key for key, _ in window])
        for key, rows in window:
            own = there.get(key, b"[]")
            if why_unreadable(V2_METADATA, key, own) is not None:
                continue
            known = [(digest_of(of), _blob(of, value, mapped, assume_gzip)) for of, value, mapped in rows]
            fit = [(digest, blob) for digest, blob in known if blob is not None and why_not_for_docker(blob) is None]
            entries = decode_list(own)
            more = filled(entries, fit)
            if len(more) > len(entries):
                at = max(blob.modified_at_ns for _, blob in fit)
                yield Record(V2_METADATA, key, encode_list(more), at)


def facts(view: IndexedView, *, assume_gzip: bool = False) -> Iterator[tuple[Digest, BlobRecord]]:
    """Yield all that is known of each blob, by Docker and by other engines, in the order of the digests.

    Where they disagree, that is a conflict. A list's newest entry has the list's time.

    Args:
        view: what is stored.
        assume_gzip: take a layer's compression that is not known for gzip.
    """
    for mapping, known in _by_digest(view):
        key = (known or mapping or _NOTHING).key
        blob = _blob(key, known and known.value, mapping and mapping.value, assume_gzip)
        if key_digest(key) is not None and blob is not None:
            listed = BlobRecord(locations=_listed(view, digest_of(key)))
            yield Digest(digest_of(key)), blobs.merge(blob, listed)


def digest_of(key: str) -> str:
    """Return the digest of a key that is one's."""
    return key.replace("/", ":", 1)


def _by_digest(view: View) -> Iterator[tuple[Record | None, Record | None]]:
    """Yield each digest once: Docker's mapping of it, and what other engines know."""
    mappings = (found for found in view.scan(DIFF_IDS) if isinstance(found, Record))
    others = (found for found in view.scan(BLOBS) if isinstance(found, Record))
    return side_by_side((found._replace(namespace=BLOBS) for found in mappings), others)


def _blob(key: str, value: bytes | None, mapped: bytes | None, assume_gzip: bool) -> BlobRecord | None:
    """Return what is known of a blob, with Docker's mapping of it; `None` if that cannot be read."""
    if value is not None and why_unreadable(BLOBS, key, value) is not None:
        return None
    blob = BlobRecord() if value is None else blobs.decode(value, key)
    if mapped is not None and why_unreadable(DIFF_IDS, key, mapped) is None:
        blob = blobs.merge(blob, BlobRecord(diff_id=mapped.decode()))
    # An uncompressed layer has its own digest.
    is_layer = blob.diff_id is not None and blob.diff_id != digest_of(key)
    if assume_gzip and is_layer and blob.compression is None and "Compression" not in blob.conflicts:
        blob = replace(blob, compression="gzip")
    return blob


def _listed(view: IndexedView, digest: str) -> dict[str, int | None]:
    """Return from where Docker's lists have a blob, each with its time."""
    locations: dict[str, int | None] = {}
    for record in view.lists_with(digest):
        if why_unreadable(*record[:3]) is not None:
            continue
        for age, entry in enumerate(reversed(decode_list(record.value))):
            name = entry.source_repository
            if entry.digest == digest and name and why_not_canonical(name) is None:
                seen = record.modified_at_ns - age * _STEP_NS
                locations[name] = max(seen, locations.get(name) or seen)
    return locations
