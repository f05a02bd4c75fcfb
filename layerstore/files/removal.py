"""Removing files of a metadata directory, each only if it is still what it was when it was judged."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from layerstore.collection import Doomed
from layerstore.errors import TransferError
from layerstore.files import scan, tree
from layerstore.keys import DIFF_IDS, V2_METADATA, Record, key_digest
from layerstore.records import digests_of

if TYPE_CHECKING:
    from layerstore.files.store import FSMetadataStore


def remove(store: FSMetadataStore, doomed: Iterable[Doomed]) -> list[int]:
    """Remove or shorten files; return the numbers of those that were left, as they come.

    Each file is whole or absent at every moment; a crash leaves some of it done. Left is what changed since, and the
    mapping of a digest that such a list holds. Lists must come before mappings.

    Raises:
        TransferError: a file cannot be changed; those before it are.
    """
    left: list[int] = []
    listed: set[str] = set()  # by lists that were left
    touched: set[tuple[str, ...]] = set()
    with _naming(store.path):
        for number, (record, kept) in enumerate(doomed):
            if record.namespace == DIFF_IDS and key_digest(record.key) in listed:
                left.append(number)
                continue
            *segments, name = (record.namespace, *record.key.split("/"))
            with store.exclusive():
                now = _now(store.path, segments, name)
                if now == (record.value, record.modified_at_ns):
                    _change(store.path, segments, name, record, kept)
                    touched.add(tuple(segments))
                    continue
            left.append(number)
            if now is not None and record.namespace == V2_METADATA:
                listed |= digests_of(now[0])
        for folder in touched:
            with tree.directory(store.path, folder) as directory:
                os.fsync(directory)
    return left


def _now(base: str, segments: list[str], name: str) -> tuple[bytes, int] | None:
    try:
        with tree.directory(base, segments) as folder:
            value, status = tree.read(folder, name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None  # a link by now
        raise
    return value, status.st_mtime_ns


def _change(base: str, segments: list[str], name: str, record: Record, kept: bytes | None) -> None:
    with tree.directory(base, segments) as folder:
        if kept is None:
            tree.remove(folder, name)
            return
        tree.replace(folder, name, kept, record.modified_at_ns)


def remove_temporary(base: str, *, dry_run: bool) -> int:
    """Remove the files that writes left behind; return how many there are. Directories and links stay.

    Raises:
        TransferError: one cannot be removed.
    """
    removed = 0
    with _naming(base), tree.directory(base, ()) as top:
        for found in scan.walk(top):
            if found.kind != "temporary":
                continue
            if not stat.S_ISREG(os.stat(found.name, dir_fd=found.directory, follow_symlinks=False).st_mode):
                continue
            removed += 1
            if not dry_run:
                os.unlink(found.name, dir_fd=found.directory)
    return removed


@contextmanager
def _naming(base: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = os.path.join(base, os.fsdecode(error.filename)) if error.filename else base
        raise TransferError(f"cannot be changed: {error.strerror or error}", path) from error
