"""Docker's directory as a target: brought to what a store says; and the file of an archive of one.

What each key of a directory becomes is decided and counted here; how its files are written is
`layerstore.transfer.placing`'s.
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import IO

from layerstore.collection import View, side_by_side
from layerstore.errors import TransferError
from layerstore.files import scan, tree
from layerstore.files.store import naming
from layerstore.files.temporary import whole_file
from layerstore.formats import compression
from layerstore.keys import KNOWN_NAMESPACES, MAX_SEGMENT, Record, check_key
from layerstore.paths import absolute
from layerstore.records import why_unreadable
from layerstore.reports import Examples, Skipped
from layerstore.sql.sqlite.recognition import is_database
from layerstore.transfer.merging import Conflict, OnConflict, merge
from layerstore.transfer.place import Progress
from layerstore.transfer.placing import Writer

# Docker's own keys, of which no segment is too long and nothing else breaks a rule.
_is_plain = re.compile("sha256/[0-9a-f]{64}").fullmatch


@dataclass
class Directory:
    """A directory that is brought to what a store says.

    Attributes:
        base: the directory.
        on_conflict: by which rule.
        delete: whether files that the store does not have are removed.
        under_a_daemon: whether its values stay in place, rather than move to quarantine.
        dry_run: only count.
        counts: files and associations, by the fields of `ExportReport`.
        conflicts: two values of one digest or V1 ID.
        skipped: what was not written, and why.
        deleted: what was removed.
        quarantine: where values of the directory were moved to; `None` if none were.
        unplaceable: keys of the store that no directory can hold, and why.
        unreadable: files of the directory that cannot be read, and why.
    """

    base: str
    on_conflict: OnConflict
    delete: bool
    under_a_daemon: bool
    dry_run: bool
    counts: Counter[str] = field(default_factory=Counter)
    conflicts: Examples[Conflict] = field(default_factory=Examples)
    skipped: Examples[Skipped] = field(default_factory=Examples)
    deleted: Examples[str] = field(default_factory=Examples)
    quarantine: str | None = None
    unplaceable: dict[tuple[str, str], str] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def fill(self, wanted_records: Iterable[Record], progress: Progress | None, total: int | None) -> None:
        """Settle each key that the directory or the store has."""
        writing = nullcontext() if self.dry_run else Writer(self.base, self._settle_again)
        with writing as writer:
            for done, (there, wanted) in enumerate(side_by_side(self._existing(), wanted_records), 1):
                if wanted is None:
                    assert there is not None
                    self._remove(there, writer)
                elif (reason := self._why_not(there, wanted)) is not None:
                    self._skip(wanted, reason)
                else:
                    written = self._settle(there, wanted)
                    if written is not None and writer is not None:
                        writer.write(written, there)
                if progress is not None:
                    progress(done, total)

    def _existing(self) -> Iterator[Record]:
        if not os.path.isdir(self.base):
            return
        for found in scan.scan(self.base):
            if isinstance(found, Record):
                yield found
            elif found.kind == "unreadable":
                self.unreadable[found.path] = found.reason

    def _remove(self, there: Record, writer: Writer | None) -> None:
        if not self.delete:
            self.counts["extra"] += 1
            return
        self.deleted.add(f"{there.namespace}/{there.key}")
        if writer is not None:
            writer.remove(there)

    def _why_not(self, there: Record | None, wanted: Record) -> str | None:
        if self.unplaceable and (wanted.namespace, wanted.key) in self.unplaceable:
            return self.unplaceable[wanted.namespace, wanted.key]
        if there is None and self.unreadable:
            reason = self.unreadable.get(f"{wanted.namespace}/{wanted.key}")
            return reason and f"the directory's file stays as it is: {reason}"
        return None

    def _skip(self, wanted: Record, reason: str) -> None:
        self.skipped.add(Skipped(f"{wanted.namespace}/{wanted.key}", reason))

    def _settle(self, there: Record | None, wanted: Record) -> Record | None:
        """Count one key, and return what to write, or `None` to leave what is there."""
        if there is None:
            self.counts["added"] += 1
            return wanted
        if there.value == wanted.value:
            return self._touch(there, wanted)
        if self.on_conflict == "keep":
            self.counts["kept"] += 1
            return None
        if self.on_conflict == "replace":
            if why_unreadable(*there[:3]) is not None:
                self._set_aside(there)
            self.counts["replaced"] += 1
            return wanted
        return self._merge(there, wanted)

    def _touch(self, there: Record, wanted: Record) -> Record | None:
        """Settle a file that has the right bytes: its time and mode may be others."""
        replaces = self.on_conflict == "replace"
        later = wanted if replaces or wanted.modified_at_ns > there.modified_at_ns else there
        if self.on_conflict == "keep" or (later == there and _has_right_mode(self.base, there)):
            self.counts["unchanged"] += 1
            return None
        self.counts["replaced" if replaces else "merged"] += 1
        return later

    def _merge(self, there: Record, wanted: Record) -> Record | None:
        found = merge(there, wanted)
        stays = found.record == there or (found.displaced is there and self.under_a_daemon)
        if found.is_conflict:
            kept, other = (there, wanted) if stays else (wanted, there)
            self.conflicts.add(Conflict.between(kept, other, self.base))
        elif found.displaced is wanted:
            self._skip(wanted, f"the store's value cannot be read: {found.reason}")
        elif stays and found.displaced is there:
            self._skip(wanted, f"a daemon runs on the directory, whose value cannot be read: {found.reason}")
        if stays:
            self.counts["kept"] += 1
            return None
        if found.displaced is there:
            self._set_aside(there)
            self.counts["replaced"] += 1
        else:
            self.counts["evicted"] += found.evicted
            self.counts["merged"] += 1
        return found.record

    def _settle_again(self, theirs: Record, ours: Record) -> Record | None:
        """Return what to write where somebody else has written since the key was settled; that was counted then."""
        counted = self.counts.copy()
        found = self._settle(theirs, ours)
        self.counts = counted | Counter(quarantined=self.counts["quarantined"])
        return found

    def _set_aside(self, record: Record) -> None:
        """Write an entry to the quarantine; it is on the disk afterwards."""
        self.counts["quarantined"] += 1
        if self.dry_run:
            return
        # Somebody else may have written the same key a second time.
        if self.quarantine is None or os.path.lexists(os.path.join(self.quarantine, record.namespace, record.key)):
            self.quarantine = f"{self.base}.quarantine/{time.time_ns()}"
        *segments, name = (record.namespace, *record.key.split("/"))
        try:
            with tree.directory(self.quarantine, segments, create=True) as directory:
                tree.replace(directory, name, record.value, record.modified_at_ns)
        except OSError as error:
            error.filename = os.path.join(self.quarantine, *segments)
            raise


def _has_right_mode(base: str, record: Record) -> bool:
    """Tell whether the file of an entry has the mode that Docker gives it."""
    *segments, name = (record.namespace, *record.key.split("/"))
    try:
        with tree.directory(base, segments) as directory:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return True  # somebody has removed it just now
    return stat.S_IMODE(status.st_mode) == tree.FILE_MODE


@contextmanager
def new_file(path: str, *, overwrite: bool = False) -> Iterator[IO[bytes]]:
    """Open a file for writing that gets its name when it is whole.

    It is compressed if its name says so: .tar.gz, .tgz, .tar.bz2, .tar.xz. It is 0600, as the database is; with
    `overwrite` it replaces one that has the name already, and leaves that one's mode. A device or pipe is written to.

    Raises:
        TransferError: there is a file already, or a database in any case; it cannot be written, or not compressed as
            its name says.
    """
    target = absolute(path)
    compressor = compression.compressor(target)
    if os.path.exists(target) and not (os.path.isfile(target) or os.path.isdir(target)):
        with naming(target), open(target, "wb") as device, compression.compressing(device, compressor) as packed:
            yield packed
        return
    _refuse_existing(target, overwrite=overwrite)
    with naming(target), whole_file(target, overwrite=overwrite) as temporary:
        with open(temporary, "wb") as file:
            if os.path.isfile(target):
                os.fchmod(file.fileno(), stat.S_IMODE(os.stat(target).st_mode))
            with compression.compressing(file, compressor) as packed:
                yield packed
        _refuse_existing(target, overwrite=overwrite)  # somebody may have made it meanwhile


def _refuse_existing(target: str, *, overwrite: bool) -> None:
    if os.path.isfile(target) and os.path.getsize(target) and is_database(target):
        raise TransferError("it is a database, which an archive must not replace: give another name", target)
    if os.path.lexists(target) and not overwrite:
        raise TransferError("there is a file already: give a new name, or use --overwrite", target)


def check_paths(content: View, unplaceable: dict[tuple[str, str], str]) -> int:
    """Refuse keys that break the key rules, and find those that no directory can hold; return how many keys there are.

    Raises:
        InvalidKeyError: a key breaks the key rules.
    """
    total = 0
    directories: set[str] = set()
    for namespace, key in content.names():
        total += 1
        if namespace in KNOWN_NAMESPACES and _is_plain(key):
            directories.add(f"{namespace}/sha256")
            continue
        path = f"{namespace}/{key}"
        if max(len(segment.encode("utf-8", "surrogatepass")) for segment in path.split("/")) > MAX_SEGMENT:
            unplaceable[namespace, key] = f"a segment over {MAX_SEGMENT} bytes cannot be a file"
            continue
        check_key(namespace, key)
        while (path := path.rpartition("/")[0]) and path not in directories:
            directories.add(path)
    for directory in directories:
        namespace, _, key = directory.partition("/")
        if key and key in content.get_many(namespace, [key]):
            unplaceable[namespace, key] = "it cannot be a file, as other keys lie below it"
    return total
