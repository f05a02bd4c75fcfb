"""What a reader of another engine's memory yields, and what a writer into one reports.

A reader yields one fact or all that is known of a blob at a time, in any order; the caller merges them
(`layerstore.blobs.merge`). What cannot be used is yielded as `Odd`, of the kind `unreadable`; what is not certain, of
the kind `UNCERTAIN`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from layerstore.blobs import BlobRecord, encode
from layerstore.collection import Odd
from layerstore.digest import Digest, is_digest
from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.keys import BLOBS, Record, digest_key
from layerstore.reports import Examples, Skipped
from layerstore.repository import why_not_canonical

Fact = tuple[Digest, BlobRecord]
Facts = Iterator[Fact | Odd]

UNCERTAIN: Final = "uncertain"
"""The kind of what is imported, or not needed, but should be reported."""


@dataclass(slots=True)
class Written:
    """What was written into another engine's memory, or with a dry run would be. Counts are blobs.

    Attributes:
        added: number of blobs of which the target knew nothing.
        updated: number of blobs of which it learned something.
        unchanged: number of blobs of which it knew all that.
        left_out: why blobs or some of their locations were not written, and how many.
        differences: blobs of which the target knows something else, each with what that is. Nothing of such a blob was
            written.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    differences: Examples[Skipped] = field(default_factory=Examples)


def as_entry(found: Fact | Odd) -> Record | Odd:
    """Return what a reader yields as an entry of `blob-by-digest`, if it is a fact."""
    if isinstance(found, Odd):
        return found
    digest, record = found
    return Record(BLOBS, digest_key(digest), encode(record), record.modified_at_ns)


@contextmanager
def opened(base: str, *below: str) -> Iterator[tuple[int, str]]:
    """Open the directory of a file, and give its name there.

    Links in `base` are followed, as a person gave it; below it none is.

    Args:
        base: the file, or a directory above it.
        below: names of the directories below `base`, and of the file.

    Raises:
        TransferError: it cannot be read.
        FileNotFoundError: it is not there.
    """
    path = os.path.join(base, *below)
    if not below:
        base, name = os.path.split(os.path.realpath(base))
        below = (name,)
    try:
        with tree.directory(base, below[:-1]) as folder:
            yield folder, below[-1]
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TransferError(tree.why_unreadable(error), path) from error


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
