"""Namespaces and keys: what an entry is called, and for which digest it stands.

Apart from `layerstore.records`, which reads values, as a lookup by key need not wait for what reads JSON.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from layerstore.digest import is_digest

V1_IDS: Final = "v1id"
V2_METADATA: Final = "v2metadata-by-diffid"
DIFF_IDS: Final = "diffid-by-digest"
BLOBS: Final = "blob-by-digest"
"""What other engines know of a blob; `layerstore.blobs`."""
KNOWN_NAMESPACES: Final = (DIFF_IDS, V1_IDS, V2_METADATA)
"""Docker's."""
DERIVED_FROM: Final = (V2_METADATA, BLOBS)
"""The namespaces from which a database derives rows."""


class Record(NamedTuple):
    """An entry as a store keeps it."""

    namespace: str
    key: str
    value: bytes
    modified_at_ns: int
    """Unix time in nanoseconds."""


def digest_key(digest: str) -> str:
    """Return the key of a valid digest: `sha256/<hex>`."""
    return digest.replace(":", "/", 1)


def key_digest(key: str) -> str | None:
    """Return the digest that a key stands for, or `None` when it stands for none."""
    digest = key.replace("/", ":", 1)
    return digest if ":" not in key and is_digest(digest) else None
