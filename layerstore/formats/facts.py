"""What a reader of another engine's memory yields, and what a writer into one reports.

A reader yields one fact or all that is known of a blob at a time, in any order; the caller merges them
(`layerstore.blobs.merge`). What cannot be used is yielded as `Odd`, of the kind `unreadable`; what is not certain, of
the kind `UNCERTAIN`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from layerstore.blobs import BlobRecord, encode
from layerstore.collection import Odd
from layerstore.digest import Digest, is_digest
from layerstore.keys import BLOBS, Record, digest_key
from layerstore.repository import why_not_canonical

Fact = tuple[Digest, BlobRecord]
Facts = Iterator[Fact | Odd]

UNCERTAIN: Final = "uncertain"
"""The kind of what is imported, or not needed, but should be reported."""

_EXAMPLES: Final = 1000


@dataclass(slots=True)
class Written:
    """What was written into another engine's memory, or with a dry run would be. Counts are blobs.

    Attributes:
        added: number of blobs of which the target knew nothing.
        updated: number of blobs of which it learned something.
        unchanged: number of blobs of which it knew all that.
        left_out: why blobs or some of their locations were not written, and how many.
        differences: the first 1,000 blobs of which the target knows something else, each with what that is. Nothing of
            such a blob was written.
        difference_count: number of them.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    differences: list[tuple[str, str]] = field(default_factory=list)
    difference_count: int = 0

    def differs(self, digest: str, difference: str) -> None:
        """Count a difference, and keep it if it is one of the first 1,000."""
        self.difference_count += 1
        if self.difference_count <= _EXAMPLES:
            self.differences.append((digest, difference))


def as_entry(found: Fact | Odd) -> Record | Odd:
    """Return what a reader yields as an entry of `blob-by-digest`, if it is a fact."""
    if isinstance(found, Odd):
        return found
    digest, record = found
    return Record(BLOBS, digest_key(digest), encode(record), record.modified_at_ns)


def unreadable(path: str, reason: str) -> Odd:
    """Return what stands for something that is left out."""
    return Odd(path if len(path) <= 300 else path[:300] + "…", "unreadable", reason)


def uncertain(path: str, reason: str) -> Odd:
    """Return what stands for something that is not certain."""
    return Odd(path, UNCERTAIN, reason)


def why_no_digest(text: object) -> str | None:
    """Say why something is not a digest, or return `None` when it is one."""
    if isinstance(text, str) and is_digest(text):
        return None
    shown = repr(text)
    return f"not a digest: {shown if len(shown) <= 120 else shown[:120] + '…'}"


def why_no_location(name: object, host: str | None = None) -> str | None:
    """Say why something is not a repository's canonical name, at this host if one is given, or return `None`."""
    if not isinstance(name, str) or not name:
        return f"not a repository's name: {name!r}"
    reason = why_not_canonical(name)
    if reason is None and "/" not in name:
        reason = f"{name!r} has no registry's host"
    if reason is None and host is not None and name.partition("/")[0] != host:
        reason = f"{name!r} is not at the registry {host!r}, under which it is recorded"
    return reason
