"""bbolt files, read only: what containerd, BuildKit and older Podman and Skopeo keep their memory in.

A file is read into memory under its lock, which is released before it is decoded. Only the two meta pages have a
checksum. Therefore every page must have its own number, be used once, and hold its keys in order. The reader of the
values checks those as well.
Source: go.etcd.io/bbolt: internal/common/page.go, meta.go, inode.go; node.go, bucket.go; `cmd/bbolt`'s check.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.formats.facts import opened

MAX_BYTES: Final = 1 << 30
"""Bytes of the largest file that is read: it is in memory. 100,000 layers take about 100 MB."""

_MAGIC: Final = 0xED0CDAED
_BRANCH, _LEAF, _META = 0x01, 0x02, 0x04
_IS_BUCKET: Final = 0x01
_HEADER = struct.Struct("<QHHI")  # page number, flags, count of elements, further pages that belong to it
_METADATA = struct.Struct("<IIIIQQQQQQ")
_ELEMENT = struct.Struct("<IIII")  # of a leaf: flags, position, size of the key, size of the value
_CHILD = struct.Struct("<IIQ")  # of a branch: position, size of the key, page number
_BUCKET = struct.Struct("<QQ")  # root page, 0 if the bucket's only page follows here; sequence
_DEEPEST: Final = 20
"""Buckets that lie in one another. containerd has eight."""

_GO_TIME = struct.Struct(">BqI")  # version, seconds since the year 1, nanoseconds; a time zone follows
_YEAR_1: Final = 62_135_596_800
_LATEST: Final = 2**63 - 1


class Bucket(NamedTuple):
    """A bucket of a file: its keys, in order, those with a value and those with a bucket."""

    values: dict[bytes, bytes]
    buckets: dict[bytes, Bucket]

    def below(self, *path: bytes) -> Bucket:
        """Return the bucket under a path of keys, an empty one if there is none."""
        here = self
        for name in path:
            here = here.buckets.get(name, Bucket({}, {}))
        return here


class File:
    """The content of a bbolt file, as of its last transaction.

    Args:
        content: the whole file.
        name: what errors call it.

    Raises:
        TransferError: it is damaged.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self.name, self._content = name, content
        self._page_size, root, self._end = self._meta()
        self._pages = len(content) // self._page_size
        self._used: set[int] = set()
        self.root = self._bucket(self._leaves(root), 0)

    def damaged(self, why: str, page: int | None = None) -> TransferError:
        """Return the error for something in the file that cannot be."""
        where = "" if page is None else f" at page {page}"
        return TransferError(
            f"a damaged bolt database{where}: {why}; nothing of it can be trusted: use an older copy, if there is one",
            self.name,
        )

    def _bucket(self, leaves: Iterable[tuple[int, bytes]], depth: int) -> Bucket:
        """Decode a bucket, given its leaves in order, each with the number of the page that it is in."""
        found = Bucket({}, {})
        previous = None
        for number, page in leaves:
            for is_bucket, key, value in self._elements(page, number):
                if previous is not None and key <= previous:
                    raise self.damaged("the keys of a bucket are not in order", number)
                previous = key
                if is_bucket:
                    found.buckets[key] = self._below(value, number, depth)
                else:
                    found.values[key] = value
        return found

    def _below(self, value: bytes, number: int, depth: int) -> Bucket:
        if len(value) < _BUCKET.size or depth >= _DEEPEST:
            raise self.damaged("a bucket in it is cut off, or where none can be", number)
        root, _ = _BUCKET.unpack_from(value)
        if root:
            return self._bucket(self._leaves(root), depth + 1)
        # bbolt keeps a bucket in its parent's page only if it has no buckets itself.
        return self._bucket([(number, value[_BUCKET.size :])], _DEEPEST)

    def _leaves(self, root: int) -> Iterator[tuple[int, bytes]]:
        # No recursion: each page is used once, but a chain of them may be as long as the file.
        todo = [root]
        while todo:
            number = todo.pop()
            page = self._page(number)
            if _HEADER.unpack_from(page)[1] == _BRANCH:
                todo += reversed(self._branch(page, number))
            else:
                yield number, page

    def _meta(self) -> tuple[int, int, int]:
        """Return page size, root page and the number of pages by the newer of the two meta pages that are whole."""
        found = []
        first = self._meta_at(0)
        sizes = [first[0]] if first else [1 << power for power in range(9, 25)]
        for size in sizes:
            second = self._meta_at(size)
            if second and second[0] == size:
                found.append(second)
        if first:
            found.append(first)
        if not found:
            raise self.damaged("no meta page is whole")
        size, root, end, _ = max(found, key=lambda meta: meta[3])
        return size, root, end

    def _meta_at(self, at: int) -> tuple[int, int, int, int] | None:
        """Return page size, root page, number of pages and transaction of a meta page, `None` if it is not whole."""
        start = at + _HEADER.size
        if start + _METADATA.size > len(self._content):
            return None
        magic, version, size, _, root, _, _, end, transaction, checksum = _METADATA.unpack_from(self._content, start)
        is_whole = checksum == _fnv64a(self._content[start : start + _METADATA.size - 8])
        if not is_whole or magic != _MAGIC or version != 2 or size < 512 or size & (size - 1):
            return None
        return size, root, end, transaction

    def _page(self, number: int) -> bytes:
        """Return a page with what belongs to it, after a check of its header, and that nothing else leads to it."""
        if not 2 <= number < min(self._end, self._pages):
            raise self.damaged(f"it is not in the file, which has {min(self._end, self._pages)} pages", number)
        start = number * self._page_size
        own, flags, _, overflow = _HEADER.unpack_from(self._content, start)
        after = number + 1 + overflow
        if own != number or flags not in (_BRANCH, _LEAF) or after > self._pages:
            raise self.damaged("its header is wrong", number)
        if any(used in self._used for used in range(number, after)):
            raise self.damaged("it is used twice", number)
        self._used.update(range(number, after))
        return self._content[start : after * self._page_size]

    def _branch(self, page: bytes, number: int) -> list[int]:
        count: int = _HEADER.unpack_from(page)[2]
        end = _HEADER.size + count * _CHILD.size
        if not count or end > len(page):
            raise self.damaged("its table of children does not fit into it", number)
        return [child for _, _, child in _CHILD.iter_unpack(page[_HEADER.size : end])]

    def _elements(self, page: bytes, number: int) -> Iterator[tuple[bool, bytes, bytes]]:
        """Yield the elements of a leaf: whether it is a bucket, key and value."""
        if len(page) < _HEADER.size:
            raise self.damaged("a bucket in it is cut off", number)
        _, flags, count, _ = _HEADER.unpack_from(page)
        table = _HEADER.size + count * _ELEMENT.size
        if flags != _LEAF or table > len(page):
            raise self.damaged("its table of elements does not fit into it", number)
        last = table
        for at in range(count):
            place = _HEADER.size + at * _ELEMENT.size
            flags, position, key_size, value_size = _ELEMENT.unpack_from(page, place)
            start = place + position
            middle, end = start + key_size, start + key_size + value_size
            # One behind the other, as bbolt writes them: so no byte is read twice, however wrong the table is.
            if start < last or end > len(page) or flags not in (0, _IS_BUCKET):
                raise self.damaged("an element does not fit into it", number)
            last = end
            yield bool(flags), page[start:middle], page[middle:end]


def read(base: str, *below: str, wait_s: float = 0.0) -> File:
    """Read a bbolt file, found as by `opened`.

    Args:
        base: the file, or a directory above it.
        below: names of the directories below `base`, and of the file.
        wait_s: how long to wait for a program that holds the lock, in seconds. A daemon holds it as long as it runs.

    Raises:
        TransferError: another program holds the lock (`is_in_use` tells); it cannot be read, is too large or is no
            regular file; or it is damaged.
        FileNotFoundError: it is not there.
    """
    path = os.path.join(base, *below)
    with opened(base, *below) as (folder, name):
        content = _locked(folder, name, path, wait_s)
    return File(content, path)


def time_ns(value: bytes) -> int | None:
    """Read a time as Go programs keep it, as Unix time in nanoseconds; `None` if it is none that 64 bits can hold.

    Source: Go's `time.Time.MarshalBinary`, versions 1 and 2. The zone does not change the instant.
    """
    if not (len(value) == 15 and value[0] == 1) and not (len(value) == 16 and value[0] == 2):
        return None
    _, seconds, nanoseconds = _GO_TIME.unpack_from(value)
    found: int = (seconds - _YEAR_1) * 1_000_000_000 + nanoseconds
    return found if nanoseconds < 1_000_000_000 and -_LATEST <= found <= _LATEST else None


def text(value: bytes) -> str:
    """Return a key or value as text, whatever is in it."""
    return value.decode("utf-8", "backslashreplace")


def is_in_use(error: TransferError) -> bool:
    """Tell whether `read` failed because another program holds the file's lock."""
    return isinstance(error.__cause__, BlockingIOError)


def is_bbolt(head: bytes) -> bool:
    """Tell by a file's first bytes whether it is a bbolt file whose first meta page is there."""
    return head[16:20] == _MAGIC.to_bytes(4, "little")


def _locked(folder: int, name: str, path: str, wait_s: float) -> bytes:
    """Return a file's bytes, read under a shared lock."""
    until = time.monotonic() + wait_s
    # Without O_NONBLOCK, opening a FIFO that lies there would wait for a writer.
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                # A second descriptor: flock(2) belongs to the first, and stays until that is closed.
                return tree.read_regular(folder, name, limit_bytes=MAX_BYTES)[0]
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    raise TransferError("a running program holds its lock: stop that program first", path) from error
                time.sleep(0.05)
    finally:
        os.close(descriptor)


def _fnv64a(content: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in content:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value
