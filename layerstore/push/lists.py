"""A layer's list as Docker uses it, filled up with places that other engines know of.

Docker's own entries stay as they are. What is added only fills what they leave of the 50, in front of them, so that
Docker takes its own for newer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from layerstore.blobs import BlobRecord
from layerstore.records import MAX_METADATA, V2Metadata


def why_not_for_docker(blob: BlobRecord) -> str | None:
    """Say why Docker must not learn of a blob from other engines, or return `None`.

    Docker calls every blob that it lists gzip, in the manifest of a push: another one would make a wrong manifest.
    Source: tried with Docker 28.5.2, which lists zstd layers and calls them `…diff.tar.gzip`.
    """
    if blob.conflicts:
        return f"sources disagree about the {' and '.join(blob.conflicts)}"
    if blob.diff_id is None:
        return "no engine has verified which layer it is"
    if blob.compression is None:
        return "its compression is not known"
    return None if blob.compression == "gzip" else f"Docker's directory is for gzip, and it is {blob.compression}"


def filled(own: Sequence[V2Metadata], blobs: Iterable[tuple[str, BlobRecord]]) -> list[V2Metadata]:
    """Return a layer's list with the places of its blobs in front, the oldest first, up to 50 in all.

    Args:
        own: Docker's list.
        blobs: digests that are the layer, and what other engines know of them.
    """
    known = {(entry.digest, entry.source_repository) for entry in own}
    places = sorted(
        (seen is not None, seen or 0, name, digest)
        for digest, blob in blobs
        for name, seen in blob.locations.items()
        if (digest, name) not in known
    )
    room = max(0, MAX_METADATA - len(own))
    newest = places[max(0, len(places) - room) :] if room else []
    return [*(V2Metadata(digest, name) for _, _, name, digest in newest), *own]
