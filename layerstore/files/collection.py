"""Docker's directory as a collection of entries: read, shortened, and with what was moved out of it in its quarantine.

The quarantine is `<directory>.quarantine/<time>`, one for each repair or export that moves a file there.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from layerstore.collection import Doomed, Fault, Note, Odd, Place
from layerstore.errors import NotFoundError, StoreError, TransferError
from layerstore.files import scan, tree
from layerstore.keys import DIFF_IDS, V2_METADATA, Record, key_digest
from layerstore.paths import absolute, why_refused
from layerstore.records import digests_of

if TYPE_CHECKING:
    from layerstore.files.store import FSMetadataStore


class Directory:
    """The files of a directory: `layerstore.collection.Collection`."""

    in_order = True

    def __init__(self, files: FSMetadataStore) -> None:
        self.store = files
        self.name = self.directory = files.path
        self.moved_to: str | None = None

    def count(self) -> int:
        return scan.count(self.directory)

    def read(self) -> Iterator[tuple[str, Record | Odd]]:
        self.store._check_open()
        return (("", found) for found in scan.scan(self.directory))

    @contextmanager
    def view(self, note: Note | None = None) -> Iterator[_View]:
        self.store._check_open()
        yield _View(self.store, tolerant=note is not None)

    def indexed(self) -> None:
        return None

    def refuse_change(self) -> None:
        """Do nothing: any directory can be changed."""

    def set_aside(self, namespace: str, key: str, value: bytes, _reason: str) -> None:
        """Write a file below `<directory>.quarantine/<time>`, one for each repair, so that none is overwritten."""
        self.moved_to = self.moved_to or f"{self.directory}.quarantine/{time.time_ns()}"
        type(self.store)(self.moved_to).set(namespace, key, value)

    def mend(self, kind: str, place: Place) -> bool:
        raise NotImplementedError(kind, place)  # a scan of files finds nothing for it

    def remove(self, doomed: Iterable[Doomed]) -> list[int]:
        """Remove or shorten files, as `layerstore.collection.Collection.remove`.

        Each file is whole or absent at every moment; a crash leaves some of it done. Left is what changed since, and
        the mapping of a digest that such a list holds.

        Raises:
            TransferError: a file cannot be changed; those before it are.
        """
        left: list[int] = []
        listed: set[str] = set()  # by lists that were left
        touched: set[tuple[str, ...]] = set()
        with _naming(self.directory):
            for number, (record, kept) in enumerate(doomed):
                if record.namespace == DIFF_IDS and key_digest(record.key) in listed:
                    left.append(number)
                    continue
                *segments, name = (record.namespace, *record.key.split("/"))
                with self.store.exclusive():
                    now = _now(self.directory, segments, name)
                    if now == (record.value, record.modified_at_ns):
                        with tree.directory(self.directory, segments) as folder:
                            if kept is None:
                                tree.remove(folder, name)
                            else:
                                tree.replace(folder, name, kept, record.modified_at_ns)
                        touched.add(tuple(segments))
                        continue
                left.append(number)
                if now is not None and record.namespace == V2_METADATA:
                    listed |= digests_of(now[0])
            for below in touched:
                with tree.directory(self.directory, below) as folder:
                    os.fsync(folder)
        return left

    def remove_temporary(self, *, dry_run: bool) -> int:
        """Remove the files that writes left behind; return how many there are. Directories and links stay.

        Raises:
            TransferError: one cannot be removed.
        """
        removed = 0
        with _naming(self.directory), tree.directory(self.directory, ()) as top:
            for found in scan.walk(top):
                if found.kind != "temporary":
                    continue
                if not stat.S_ISREG(os.stat(found.name, dir_fd=found.directory, follow_symlinks=False).st_mode):
                    continue
                removed += 1
                if not dry_run:
                    os.unlink(found.name, dir_fd=found.directory)
        return removed

    def free_bytes(self, *, vacuum: bool) -> None:
        return None


class _View:
    """The files as they are: `layerstore.collection.View`."""

    def __init__(self, files: FSMetadataStore, *, tolerant: bool) -> None:
        self._files, self._tolerant = files, tolerant

    def count(self) -> int:
        return scan.count(self._files.path)

    def scan(self, namespace: str | None = None) -> Iterator[Record | Odd]:
        return scan.scan(self._files.path, namespace)

    def names(self) -> Iterator[tuple[str, str]]:
        return (found[:2] for found in self.scan() if isinstance(found, Record))

    def get_many(self, namespace: str, keys: Sequence[str]) -> dict[str, bytes]:
        if not self._tolerant:
            return self._files.get_many(namespace, keys)
        found: dict[str, bytes] = {}
        for key in keys:
            with suppress(NotFoundError, StoreError):  # of those that cannot be read, the scan tells
                found[key] = self._files.get(namespace, key)
        return found

    def faults(self) -> Iterator[Fault]:
        return iter(())


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


@contextmanager
def _naming(base: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = os.path.join(base, os.fsdecode(error.filename)) if error.filename else base
        raise TransferError(f"cannot be changed: {error.strerror or error}", path) from error


class QuarantinedFile(NamedTuple):
    """A file that was moved there."""

    path: str
    bytes: int
    modified_at_ns: int


def quarantined_files(directory: str) -> list[QuarantinedFile]:
    """Return the files that were moved out of a metadata directory, the earliest move first.

    Raises:
        TransferError: there is no such directory, or its quarantine cannot be read.
    """
    base = absolute(directory)
    if not os.path.isdir(base):
        raise TransferError("there is no such directory: give a `distribution` directory", base)
    top = f"{base}.quarantine"
    try:
        moves = sorted(os.listdir(top))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TransferError(f"cannot be read: {why_refused(error)}", top) from error
    return [
        QuarantinedFile(os.path.join(top, move, found.namespace, found.key), len(found.value), found.modified_at_ns)
        for move in moves
        for found in scan.scan(os.path.join(top, move))
        if isinstance(found, Record)
    ]
