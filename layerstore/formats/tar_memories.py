"""What other engines remember, inside an archive: their files, told by their content, and read at its end.

A cache of Podman and Skopeo, the `layers.json` of their storage, the metadata of containerd and BuildKit. A file is
unpacked into a temporary folder, and read at the end of the archive, as the content by whose first bytes a compression
is told may come behind it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Final, Self

from layerstore.collection import Odd
from layerstore.digest import is_digest
from layerstore.errors import TransferError
from layerstore.files import temporary, tree
from layerstore.formats import bbolt, containerd, containers, tar_members
from layerstore.formats.facts import Facts, as_entry, uncertain, unreadable
from layerstore.formats.tar_members import Member, Members
from layerstore.keys import Record

_HEAD: Final = 4096
"""A cache's first page, which has the names of its tables."""
_SQLITE: Final = b"SQLite format 3\0"
_A_TABLE: Final = b"KnownLocations"
_MAX_FILE: Final = bbolt.MAX_BYTES
_MAX_SPARSE: Final = tree.MAX_VALUE
"""Bytes of the largest sparse file that is looked at: it is unpacked in memory."""
_MAX_HEADS: Final = 200_000
"""Blobs whose first bytes are remembered. They take 50 MB."""
_NAMES: Final = frozenset((containers.NAME, containers.BOLT_NAME, "meta.db", "containerdmeta.db"))
"""Names of memories. A damaged bolt database of another name is not known to be one, and is passed over."""
_match_blob = re.compile(r"(?:.*/)?blobs/([^/]+)/([^/]+)", re.DOTALL).fullmatch
# What an image or a container brings along is not what this host knows.
_of_a_container = re.compile(
    r"(?:.*/)?(?:overlay2?|fuse-overlayfs|vfs|btrfs|zfs|aufs|devicemapper|snapshots"
    r"|io\.containerd\.(?:snapshotter|runtime)[^/]*|volumes/[^/]+/_data)/",
    re.DOTALL,
).match


class Memories:
    """The memories in an archive, as its members come. Behind the `with` statement, what was unpacked is gone.

    Args:
        archive: what errors call it.
        max_bytes: how many bytes they may have in all.
    """

    def __init__(self, archive: str, max_bytes: int) -> None:
        self._archive, self._room = archive, max_bytes
        self._stack = ExitStack()
        self._folder = ""
        self._unpacked: list[tuple[str, str]] = []
        self._odd: list[Odd] = []
        self._heads: dict[str, bytes] = {}
        self._left_heads = 0
        self.are_there = False
        """Whether there is any; known behind `entries`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def take(self, path: str, member: Member, members: Members) -> bool:
        """Unpack a member if it may be a memory, and tell whether it was taken. Note how containerd's content begins.

        Raises:
            TransferError: they have too many bytes in all, or there is no room for them.
        """
        if member.kind not in tar_members.REGULAR or member.problem is not None or _of_a_container(path):
            return False
        name = path.rpartition("/")[2]
        if members.is_sparse and member.size > _MAX_SPARSE:
            if name in _NAMES:
                self._odd.append(unreadable(path, f"a sparse file over {_MAX_SPARSE >> 20} MiB: unpack it"))
            return name in _NAMES
        head = members.head(_HEAD)
        if not _may_be_one(name, head):
            self._note(path, head[: containerd.HEAD])
            return False
        if member.size > _MAX_FILE:
            self._odd.append(unreadable(path, f"larger than {_MAX_FILE >> 20} MiB"))
            return True
        self._room -= member.size
        if self._room < 0:
            what = "what other engines remember has too many bytes in it; --force lifts the limit, if you trust it"
            raise TransferError(what, self._archive)
        self._unpacked.append((path, self._unpack(members)))
        return True

    def entries(self) -> Iterator[tuple[str, Record | Odd]]:
        """Yield what each memory holds, with its path in the archive.

        Raises:
            TransferError: one is damaged.
        """
        for odd in self._odd:
            yield "", odd
        for path, file in self._unpacked:
            try:
                for fact in self._read(path, file) or ():
                    entry = as_entry(fact)
                    yield path, entry._replace(path=f"{path}/{entry.path}") if isinstance(entry, Odd) else entry
            except TransferError as error:
                raise TransferError(str(error.args[0]), os.path.join(self._archive, path)) from error
        if self._left_heads and self.are_there:
            yield "", uncertain("blobs", f"compressions that are not known, of blobs beyond {_MAX_HEADS:,}")

    def _note(self, path: str, head: bytes) -> None:
        blob = _match_blob(path)
        if blob is None or not is_digest(digest := f"{blob[1]}:{blob[2]}"):
            return
        if len(self._heads) < _MAX_HEADS:
            self._heads[digest] = head
        else:
            self._left_heads += 1

    def _unpack(self, members: Members) -> str:
        """Write the content of the member that came last into a file; return its path."""
        try:
            if not self._folder:
                self._folder = self._stack.enter_context(temporary.folder("layerstore-"))
            file = os.path.join(self._folder, str(len(self._unpacked)))
            with open(file, "xb") as unpacked:
                unpacked.writelines(members.chunks())
        except OSError as error:
            raise temporary.cannot_write(error) from error
        return file

    def _read(self, path: str, file: str) -> Facts | None:
        """Return what a file holds, `None` if it is no memory."""
        with open(file, "rb") as unpacked:
            head = unpacked.read(_HEAD)
        found: Facts | None
        if bbolt.is_bbolt(head):
            found = self._read_bolt(file, is_named=path.rpartition("/")[2] in _NAMES)
        elif head.startswith(_SQLITE):
            found = containers.read_sqlite(file)
        else:
            found = containers.read_layers(file)
        self.are_there = self.are_there or found is not None
        return found

    def _read_bolt(self, path: str, *, is_named: bool) -> Facts | None:
        try:
            file = bbolt.read(path)
            buckets = dict(file.root.buckets())
        except TransferError:
            if is_named:
                raise
            return None
        if b"v1" in buckets:
            return containerd.facts_of(file, self._heads.get)
        if buckets.keys() & containers.BUCKETS:
            return containers.read_bolt(file)
        return iter(()) if is_named and not buckets else None  # one in which nothing was recorded yet


def _may_be_one(name: str, head: bytes) -> bool:
    if head.startswith(_SQLITE):
        return _A_TABLE in head or name == containers.NAME
    return bbolt.is_bbolt(head) or (name == containers.LAYERS_NAME and containers.begins_layers(head) is not None)
