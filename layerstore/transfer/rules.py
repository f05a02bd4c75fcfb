"""What an export makes of each key: by which rule, and how often.

It decides and counts; who reads and writes is `exporting` and `placing`.
"""

from __future__ import annotations

import os
import time

from layerstore.errors import InvalidInputError
from layerstore.files import tree
from layerstore.keys import Record
from layerstore.records import why_unreadable
from layerstore.transfer.importing import Skipped
from layerstore.transfer.merging import Conflict, Examples, OnConflict, merge

MODES: tuple[OnConflict, ...] = ("merge", "replace", "keep")


class Rules:
    """Decide what a directory gets.

    Attributes:
        added, merged, replaced, kept, unchanged: files, as `ExportReport` counts them.
        evicted: associations that merged lists of 50 had no room for.
        conflicts: two values of one digest or V1 ID.
        skipped: what was not written, and why.
        quarantine: where values of the directory are moved to.
    """

    def __init__(self, base: str, on_conflict: OnConflict, *, under_a_daemon: bool, dry_run: bool) -> None:
        """Begin with a directory.

        Raises:
            InvalidInputError: `on_conflict` is none of `MODES`.
        """
        if on_conflict not in MODES:
            raise InvalidInputError(f"on_conflict is one of {', '.join(MODES)}, not {on_conflict!r}")
        self._base = base
        self._on_conflict = on_conflict
        self._under_a_daemon = under_a_daemon
        self.added = self.merged = self.replaced = self.kept = self.unchanged = self.evicted = 0
        self.conflicts: Examples[Conflict] = Examples()
        self.skipped: Examples[Skipped] = Examples()
        self.quarantine = Quarantine(base, dry_run=dry_run)

    def skip(self, namespace: str, key: str, reason: str) -> None:
        """Count an entry that is not written."""
        self.skipped.add(Skipped(f"{namespace}/{key}", reason))

    def settle(self, there: Record | None, wanted: Record, *, is_right: bool) -> Record | None:
        """Count one key, and return what to write, or `None` to leave what is there.

        Args:
            there: what the directory has.
            wanted: what the store has.
            is_right: of two that are equal, whether nothing else is wrong with the file.
        """
        if there is None:
            self.added += 1
            return wanted
        if there.value == wanted.value:
            return self._touch(there, wanted, is_right=is_right)
        if self._on_conflict == "keep":
            self.kept += 1
            return None
        if self._on_conflict == "replace":
            reason = why_unreadable(*there[:3])
            if reason is not None:
                self.quarantine.add(there)
            self.replaced += 1
            return wanted
        return self._merge(there, wanted)

    def settle_again(self, theirs: Record, ours: Record) -> Record | None:
        """Return what to write where somebody else has written since the key was settled.

        Only conflicts are counted, and what moves to quarantine.
        """
        if self._on_conflict != "merge":
            return ours if self._on_conflict == "replace" else None
        found = merge(theirs, ours)
        stays = found.displaced is theirs and self._under_a_daemon
        if found.is_conflict:
            kept, other = (theirs, ours) if stays or found.displaced is ours else (ours, theirs)
            self.conflicts.add(Conflict.between(kept, other, self._base))
        if stays:
            return None
        if found.displaced is not None:
            self.quarantine.add(found.displaced)
        return found.record

    def _touch(self, there: Record, wanted: Record, *, is_right: bool) -> Record | None:
        later = wanted if self._on_conflict == "replace" or wanted.modified_at_ns > there.modified_at_ns else there
        if self._on_conflict == "keep" or (later == there and is_right):
            self.unchanged += 1
            return None
        if self._on_conflict == "replace":
            self.replaced += 1
        else:
            self.merged += 1
        return later

    def _merge(self, there: Record, wanted: Record) -> Record | None:
        found = merge(there, wanted)
        stays = found.record == there or (found.displaced is there and self._under_a_daemon)
        if found.is_conflict:
            kept, other = (there, wanted) if stays else (wanted, there)
            self.conflicts.add(Conflict.between(kept, other, self._base))
        elif found.displaced is wanted:
            self.skip(*wanted[:2], f"the store's value cannot be read: {found.reason}")
        elif stays and found.displaced is there:
            self.skip(*wanted[:2], f"a daemon runs on the directory, whose value cannot be read: {found.reason}")
        if stays:
            self.kept += 1
            return None
        if found.displaced is there:
            self.quarantine.add(there)
            self.replaced += 1
        else:
            self.evicted += found.evicted
            self.merged += 1
        return found.record


class Quarantine:
    """`<directory>.quarantine/<time>`, which is made when something is moved there.

    Attributes:
        path: the directory.
        count: files that were moved there, or would be.
    """

    def __init__(self, base: str, *, dry_run: bool) -> None:
        self._base = base
        self._dry_run = dry_run
        self.path = self._new_path()
        self.count = 0

    def add(self, record: Record) -> None:
        """Write an entry there; it is on the disk afterwards."""
        self.count += 1
        if self._dry_run:
            return
        if os.path.lexists(os.path.join(self.path, record.namespace, record.key)):
            self.path = self._new_path()  # somebody else wrote the same key in between
        *segments, name = (record.namespace, *record.key.split("/"))
        try:
            with tree.directory(self.path, segments, create=True) as directory:
                tree.replace(directory, name, record.value, record.modified_at_ns)
        except OSError as error:
            error.filename = os.path.join(self.path, *segments)
            raise

    def _new_path(self) -> str:
        return f"{self._base}.quarantine/{time.time_ns()}"
