"""Docker's directory as a collection of entries."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from layerstore.collection import Doomed, Fault, Note, Odd, Place
from layerstore.errors import NotFoundError, StoreError
from layerstore.files import removal, scan
from layerstore.keys import Record

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
        return removal.remove(self.store, doomed)

    def remove_temporary(self, *, dry_run: bool) -> int:
        return removal.remove_temporary(self.directory, dry_run=dry_run)

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
