"""bbolt files, read only: what containerd, BuildKit and older Podman and Skopeo keep their memory in.

A file is read into memory under its lock, and the lock is released before anything is decoded, so that its engine never
waits for what is done with the content. Only the two meta pages have a checksum. Therefore every page must have its
own number, be used once, and hold its keys in order. The reader of the values checks those as well.
Source: go.etcd.io/bbolt: internal/common/page.go, meta.go, inode.go; node.go, bucket.go; `cmd/bbolt`'s check.
"""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
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
_ROOT_META: Final = 1 << 64
"""Stands for what refers to the root page, where no page has this number."""

_GO_TIME = struct.Struct(">BqI")  # version, seconds since the year 1, nanoseconds; a time zone follows
_YEAR_1: Final = 62_135_596_800
_LATEST: Final = 2**63 - 1

_EMPTY_PAGE: Final = _HEADER.pack(0, _LEAF, 0, 0)

_Referrer = tuple[int, int]
"""Which page, and which element of it, leads to a page."""


class Bucket(NamedTuple):
    """A bucket of a file: its keys, in order, with a value or a bucket each."""

    file: File
    page: int
    """Root page; 0 for a bucket that is kept in the page of its parent."""
    referrer: _Referrer
    inline: bytes

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Yield the keys in order, each with its value or bucket.

        Raises:
            TransferError: the file is damaged; what was yielded before that need not be right either.
        """
        previous = None
        for key, value in self.file.elements(self):
            if previous is not None and key <= previous:
                raise self.file.damaged("the keys of a bucket are not in order", self.page)
            previous = key
            yield key, value

    def values(self) -> dict[bytes, bytes]:
        """Return the keys that have a value, with it. Raises TransferError as `items`."""
        return {key: value for key, value in self.items() if isinstance(value, bytes)}

    def buckets(self) -> Iterator[tuple[bytes, Bucket]]:
        """Yield the keys that have a bucket, with it. Raises TransferError as `items`."""
        return ((key, value) for key, value in self.items() if isinstance(value, Bucket))

    def below(self, *path: bytes) -> Bucket:
        """Return the bucket under a path of keys, an empty one if there is none. Raises TransferError as `items`."""
        here = self
        for name in path:
            found = (bucket for key, bucket in here.buckets() if key == name)
            here = next(found, Bucket(self.file, 0, (0, 0), _EMPTY_PAGE))
        return here


class File:
    """The content of a bbolt file, as of its last transaction.

    Args:
        content: the whole file.
        name: what errors call it.

    Raises:
        TransferError: neither of the two meta pages is whole, or they want more pages than there are.
    """

    def __init__(self, content: bytes, name: str) -> None:
        self.name, self._content = name, content
        self._page_size, root, self._end = self._meta()
        self._pages = len(content) // self._page_size
        self._used: dict[int, _Referrer] = {}
        self.root = Bucket(self, root, (_ROOT_META, 0), b"")

    def damaged(self, why: str, page: int | None = None) -> TransferError:
        """Return the error for something in the file that cannot be."""
        where = "" if page is None else f" at page {page}"
        return TransferError(
            f"a damaged bolt database{where}: {why}; nothing of it can be trusted: use an older copy, if there is one",
            self.name,
        )

    def elements(self, bucket: Bucket) -> Iterator[tuple[bytes, bytes | Bucket]]:
        """Yield what the leaves of a bucket hold, in their order, which is not checked."""
        if not bucket.page:
            yield from self._leaf(bucket.inline, 0, is_inline=True)
            return
        # No recursion: each page is used once, but a chain of them may be as long as the file.
        todo = [(bucket.page, bucket.referrer)]
        while todo:
            number, referrer = todo.pop()
            page = self._page(number, referrer)
            if _HEADER.unpack_from(page)[1] == _BRANCH:
                todo += reversed([(child, (number, at)) for at, child in enumerate(self._branch(page, number))])
            else:
                yield from self._leaf(page, number)

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

    def _page(self, number: int, referrer: _Referrer) -> bytes:
        """Return a page with what belongs to it, after a check of its header and that only `referrer` leads to it."""
        if not 2 <= number < min(self._end, self._pages):
            raise self.damaged(f"it is not in the file, which has {min(self._end, self._pages)} pages", number)
        start = number * self._page_size
        own, flags, _, overflow = _HEADER.unpack_from(self._content, start)
        after = number + 1 + overflow
        if own != number or flags not in (_BRANCH, _LEAF) or after > self._pages:
            raise self.damaged("its header is wrong", number)
        if self._used.get(number) != referrer:
            if any(used in self._used for used in range(number, after)):
                raise self.damaged("it is used twice", number)
            self._used |= dict.fromkeys(range(number, after), (number, -1))
            self._used[number] = referrer
        return self._content[start : after * self._page_size]

    def _branch(self, page: bytes, number: int) -> list[int]:
        count: int = _HEADER.unpack_from(page)[2]
        end = _HEADER.size + count * _CHILD.size
        if not count or end > len(page):
            raise self.damaged("its table of children does not fit into it", number)
        return [child for _, _, child in _CHILD.iter_unpack(page[_HEADER.size : end])]

    def _leaf(self, page: bytes, number: int, *, is_inline: bool = False) -> Iterator[tuple[bytes, bytes | Bucket]]:
        if len(page) < _HEADER.size:
            raise self.damaged("a bucket in it is cut off", number or None)
        _, flags, count, _ = _HEADER.unpack_from(page)
        table = _HEADER.size + count * _ELEMENT.size
        if flags != _LEAF or table > len(page):
            raise self.damaged("its table of elements does not fit into it", number or None)
        last = table
        for at in range(count):
            place = _HEADER.size + at * _ELEMENT.size
            flags, position, key_size, value_size = _ELEMENT.unpack_from(page, place)
            start = place + position
            middle, end = start + key_size, start + key_size + value_size
            # One behind the other, as bbolt writes them: so no byte is read twice, however wrong the table is.
            if start < last or end > len(page) or flags not in (0, _IS_BUCKET):
                raise self.damaged("an element does not fit into it", number or None)
            last = end
            key, value = page[start:middle], page[middle:end]
            yield key, self._bucket(value, (number, at), is_inline=is_inline) if flags else value

    def _bucket(self, value: bytes, referrer: _Referrer, *, is_inline: bool) -> Bucket:
        # bbolt keeps a bucket in its parent's page only if it has no buckets itself.
        if len(value) < _BUCKET.size or is_inline:
            raise self.damaged("a bucket in it is cut off, or where none can be", referrer[0] or None)
        root, _ = _BUCKET.unpack_from(value)
        return Bucket(self, root, referrer, b"" if root else value[_BUCKET.size :])


def read(base: str, *below: str, wait_s: float = 0.0) -> File:
    """Read a bbolt file, found as by `opened`.

    Args:
        base: the file, or a directory above it.
        below: names of the directories below `base`, and of the file.
        wait_s: how long to wait for a program that holds the lock, in seconds. A daemon holds it as long as it runs.

    Raises:
        TransferError: another program holds the lock (`is_in_use` tells); it cannot be read, is too large or is no
            regular file; or it is damaged, as far as that shows in its meta pages.
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
