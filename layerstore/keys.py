"""Namespaces and keys: what an entry may be called, and for which digest it stands.

Apart from `layerstore.records`, which reads values, as a lookup by key need not wait for what reads JSON.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from layerstore.digest import is_digest
from layerstore.errors import InvalidKeyError

V1_IDS: Final = "v1id"
V2_METADATA: Final = "v2metadata-by-diffid"
DIFF_IDS: Final = "diffid-by-digest"
BLOBS: Final = "blob-by-digest"
"""What other engines know of a blob; `layerstore.blobs`."""
KNOWN_NAMESPACES: Final = (DIFF_IDS, V1_IDS, V2_METADATA)
"""Docker's."""
DERIVED_FROM: Final = (V2_METADATA, BLOBS)
"""The namespaces from which a database derives rows."""


TEMPORARY_PREFIX = ".tmp-"
"""Begins the name of a file that is still being written. Source: Docker's `ioutils.AtomicWriteFile`."""
MAX_SEGMENT = 239
"""Bytes of a namespace or a key's segment: 255, the most of a file's name, less `.tmp-` and up to 11 random digits."""


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


def check_key(namespace: str, key: str, *, to_write: bool = True) -> None:
    """Accept a namespace of one segment and a key of one or more, each fit to be a file's name.

    Args:
        namespace: the namespace.
        key: the key.
        to_write: refuse also what is too long; such an entry can be there already, and be read and deleted.

    Raises:
        InvalidKeyError: the namespace is not one segment, or a segment is empty, `.` or `..`, begins with
            `.tmp-`, holds NUL, cannot be UTF-8, or is over 239 bytes. An absolute key begins with an empty segment.

    Differs: Docker joins whatever it is given to its base directory, and follows it out of there.
    """
    reason = why_not_a_namespace(namespace, to_write=to_write) or why_not_a_key(key, to_write=to_write)
    if reason is not None:
        raise InvalidKeyError(f"namespace {namespace!r}, key {key!r}: {reason}")


def why_not_a_namespace(namespace: object, *, to_write: bool = True) -> str | None:
    """Say which rule a namespace breaks, or return `None`."""
    if not isinstance(namespace, str):
        return f"the namespace must be text, not {type(namespace).__name__}"
    if "/" in namespace:
        return "a namespace is one path segment, without a slash"
    reason = _why_not_a_segment(namespace, to_write=to_write)
    return reason and f"the namespace {reason}"


def why_not_a_key(key: object, *, to_write: bool = True) -> str | None:
    """Say which rule a key breaks, or return `None`."""
    if not isinstance(key, str):
        return f"the key must be text, not {type(key).__name__}"
    for segment in key.split("/"):
        reason = _why_not_a_segment(segment, to_write=to_write)
        if reason is not None:
            return f"a segment of the key {reason}"
    return None


def _why_not_a_segment(segment: str, *, to_write: bool) -> str | None:
    if segment in ("", ".", ".."):
        return f"is {segment!r}" if segment else "is empty"
    if segment.startswith(TEMPORARY_PREFIX):
        return f"begins with {TEMPORARY_PREFIX!r}, as files do that are still being written"
    if "\0" in segment:
        return "holds a NUL character"
    if not is_utf8(segment):
        return "cannot be written as UTF-8"
    if to_write and len(segment) * 4 > MAX_SEGMENT and len(segment.encode()) > MAX_SEGMENT:
        return f"is over {MAX_SEGMENT} bytes, more than a directory of Docker's can hold"
    return None


def is_utf8(text: str) -> bool:
    """Tell whether text can be written as UTF-8: it has no lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
