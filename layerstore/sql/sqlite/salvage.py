"""Reading the rows of a damaged database page by page, without SQLite, which stops at the first damaged one.

Own code, as nothing kept serves here: `.recover` of the program `sqlite3` fails in Debian 12, whose SQLite is built
without `sqlite_dbpage`; neither Python's module nor the library has it. Every page is looked at by itself: what a page
belongs to is told from the shape of its rows, so that neither the schema nor the pages above it need be readable.
Source: sqlite.org/fileformat2.html, whose words are used; sqlite.org/walformat.html.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final, NamedTuple

from layerstore.errors import StoreError, StoreOpenError
from layerstore.paths import kind, why_refused
from layerstore.sql.schema import PAGE_SIZE

Value = int | bytes | None
"""A column: text is its bytes; a real number, which we have none of, is `None`."""

MAGIC: Final = b"SQLite format 3\0"
_INTERIOR_INDEX, _LEAF_INDEX, _LEAF_TABLE = 0x02, 0x0A, 0x0D
_INTERIOR_TABLE = 0x05
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}


class DamagedError(Exception):
    """An invalid page or cell; never leaves this module."""


class Salvage(NamedTuple):
    """What one page gave: the rows of a table without rowids, or of one with them; in the order of the page."""

    keyed: list[tuple[Value, ...]]
    numbered: list[tuple[Value, ...]]


class Pages:
    """The pages of a database file, with those that its write-ahead log has newer.

    Attributes:
        count: how many there are.
        unreadable: after `salvage`, how many hold nothing that could be read, and are neither free nor part of a row.
    """

    def __init__(self, path: str) -> None:
        real = os.path.realpath(path)  # the log lies beside the file that a link leads to
        with ExitStack() as opened:
            try:
                self._file = _open(real, opened)
                try:
                    self._log: int | None = _open(f"{real}-wal", opened)
                except FileNotFoundError:
                    self._log = None
                self._bytes = os.fstat(self._file).st_size
                head = os.pread(self._file, 100, 0)
                intact = head[:16] == MAGIC
                given = struct.unpack(">H", head[16:18])[0] if len(head) >= 18 else 0
                given = 65536 if given == 1 else given
                self._size = given if intact and 512 <= given <= 65536 and not given & (given - 1) else PAGE_SIZE
                self._newer, in_log = ({}, 0) if self._log is None else _committed(self._log, self._size)
            except OSError as error:
                raise StoreOpenError(f"cannot be read: {why_refused(error)}", path) from error
            self._opened = opened.pop_all()
        self._usable = self._size - (head[20] if intact and head[20] <= self._size - 480 else 0)
        self._in_file = list(self._data())
        self.count = max(self._bytes // self._size, in_log)
        self.unreadable = 0

    def close(self) -> None:
        """Close the files."""
        self._opened.close()

    def salvage(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Salvage]:
        """Yield what each page has, but for free pages: what lies there was deleted.

        Holes of the file are passed over, as there may be a terabyte of them.
        """
        free = {number for number in self._free() if number <= self.count}
        parts: set[int] = set()
        odd: set[int] = set()
        seen = 0
        for number in self._written():
            seen += 1
            if number not in free:
                found, whole = self._page(number, parts)
                if not whole:
                    odd.add(number)
                yield found
            if progress is not None:
                progress(number, self.count)
        # A page in a hole is all zeros: nothing, but that it may be free, or the end of a row.
        holes = (
            self.count - seen - sum(not (number in self._newer or self._is_in_file(number)) for number in free | parts)
        )
        self.unreadable = len(odd - parts) + holes

    def _data(self) -> Iterator[range]:
        """Yield the pages of the file that are in no hole."""
        behind, at, pages = 1, 0, self._bytes // self._size
        while at < self._bytes:
            try:
                at = os.lseek(self._file, at, os.SEEK_DATA)
                hole = os.lseek(self._file, at, os.SEEK_HOLE)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole
                    return
                hole = self._bytes
            found = range(max(at // self._size + 1, behind), min(-(-hole // self._size), pages) + 1)
            if found:
                yield found
                behind = found.stop
            at = hole

    def _is_in_file(self, number: int) -> bool:
        at = bisect_right(self._in_file, number, key=lambda pages: pages.start) - 1
        return at >= 0 and number in self._in_file[at]

    def _written(self) -> Iterator[int]:
        """Yield the pages that the file or its log has."""
        for pages in self._in_file:
            yield from pages
        yield from sorted(number for number in self._newer if number <= self.count and not self._is_in_file(number))

    def _read(self, number: int) -> bytes:
        at = self._newer.get(number)
        if at is not None and self._log is not None:
            page = os.pread(self._log, self._size, at)
        elif 0 < number <= self.count:
            page = os.pread(self._file, self._size, (number - 1) * self._size)
        else:
            raise DamagedError
        if len(page) < self._size:
            raise DamagedError
        return page

    def _free(self) -> Iterator[int]:
        """Yield the free pages, as far as their list can be followed."""
        try:
            trunk = struct.unpack(">I", self._read(1)[32:36])[0]
            seen: set[int] = set()
            while trunk and trunk not in seen:
                page = self._read(trunk)
                seen.add(trunk)
                yield trunk
                trunk, count = struct.unpack(">II", page[:8])
                if count > self._usable // 4 - 2:
                    return
                yield from struct.unpack(f">{count}I", page[8 : 8 + 4 * count])
        except DamagedError:
            return

    def _page(self, number: int, parts: set[int]) -> tuple[Salvage, bool]:
        """Return the rows of a page, and whether all of it could be read; note the pages that its rows go on in."""
        found = Salvage([], [])
        try:
            page = self._read(number)
        except DamagedError:
            return found, False
        start = 100 if number == 1 else 0
        kind = page[start]
        if kind == _INTERIOR_TABLE:
            return found, True
        if kind not in (_INTERIOR_INDEX, _LEAF_INDEX, _LEAF_TABLE):
            return found, False
        cells = struct.unpack(">H", page[start + 3 : start + 5])[0]
        first = start + (12 if kind == _INTERIOR_INDEX else 8)
        if first + 2 * cells > self._usable:
            return found, False
        whole = True
        for pointer in struct.unpack(f">{cells}H", page[first : first + 2 * cells]):
            try:
                row = _record(self._payload(page, pointer, kind, parts))
            except (DamagedError, IndexError, struct.error):
                whole = False
                continue
            (found.numbered if kind == _LEAF_TABLE else found.keyed).append(row)
        return found, whole

    def _payload(self, page: bytes, at: int, kind: int, parts: set[int]) -> bytes:
        if kind == _INTERIOR_INDEX:
            at += 4
        length, at = _varint(page, at)
        if kind == _LEAF_TABLE:
            _, at = _varint(page, at)
        local = self._local(length, kind)
        if at + local > self._usable or length > self.count * self._size:
            raise DamagedError
        payload = bytearray(page[at : at + local])
        rest = struct.unpack(">I", page[at + local : at + local + 4])[0] if local < length else 0
        chain: set[int] = set()
        while len(payload) < length:
            if rest in chain:
                raise DamagedError
            following = self._read(rest)
            chain.add(rest)
            payload += following[4 : min(self._usable, 4 + length - len(payload))]
            rest = struct.unpack(">I", following[:4])[0]
        if rest and chain:
            raise DamagedError
        parts |= chain
        return bytes(payload)

    def _local(self, length: int, kind: int) -> int:
        """Return how much of a payload is on its first page."""
        usable = self._usable
        most = usable - 35 if kind == _LEAF_TABLE else (usable - 12) * 64 // 255 - 23
        if length <= most:
            return length
        least = (usable - 12) * 32 // 255 - 23
        there = least + (length - least) % (usable - 4)
        return there if there <= most else least


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, at + 8):
        value = value << 7 | data[place] & 0x7F
        if data[place] < 0x80:
            return value, place + 1
    return value << 8 | data[at + 8], at + 9


def _record(payload: bytes) -> tuple[Value, ...]:
    """Read a record whose parts fill it to the last byte; anything else is damaged."""
    end, at = _varint(payload, 0)
    types = []
    while at < end:
        kind, at = _varint(payload, at)
        types.append(kind)
    if at != end:
        raise DamagedError
    row: list[Value] = []
    for kind in types:
        value, size = _value(payload, at, kind)
        row.append(value)
        at += size
    if at != len(payload):
        raise DamagedError
    return tuple(row)


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind >= 12:
        size = (kind - 12) // 2
        return payload[at : at + size], size
    if kind in _INTEGERS:
        size = _INTEGERS[kind]
        return int.from_bytes(payload[at : at + size], "big", signed=True), size
    if kind in (8, 9):
        return kind - 8, 0
    if kind == 0:
        return None, 0
    if kind == 7:
        return None, 8
    raise DamagedError


def _open(path: str, opened: ExitStack) -> int:
    """Open a file to read; anything else, which might never end, is an OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    opened.callback(os.close, descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, f"{os.path.basename(path)} is no file, but a directory, device, pipe or socket")
    return descriptor


def _committed(log: int, page_size: int) -> tuple[dict[int, int], int]:
    """Return where in a write-ahead log the pages of whole transactions are, and the database's size after them."""
    head = os.pread(log, 32, 0)
    if len(head) < 32:
        return {}, 0
    magic, _, size = struct.unpack(">III", head[:12])
    if magic not in _WAL_MAGIC or size != page_size:
        return {}, 0
    order, salts = _WAL_MAGIC[magic], head[16:24]
    sums = _checksum(head[:24], order, (0, 0))
    if struct.unpack(">II", head[24:32]) != sums:
        return {}, 0
    committed: dict[int, int] = {}
    waiting: dict[int, int] = {}
    count, at = 0, 32
    while len(frame := os.pread(log, 24 + page_size, at)) == 24 + page_size:
        number, commit = struct.unpack(">II", frame[:8])
        if frame[8:16] != salts:
            break
        sums = _checksum(frame[24:], order, _checksum(frame[:8], order, sums))
        if struct.unpack(">II", frame[16:24]) != sums:
            break
        waiting[number] = at + 24
        if commit:
            committed |= waiting
            waiting, count = {}, commit
        at += len(frame)
    return committed, count


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    one, other = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for word, following in zip(words[::2], words[1::2], strict=True):
        one = one + word + other & 0xFFFFFFFF
        other = other + following + one & 0xFFFFFFFF
    return one, other


def refuse_open(path: str, databases: set[tuple[int, int]]) -> None:
    """Refuse a database that this process has open: closing it as a file would drop the locks on it.

    Raises:
        StoreError: it has. StoreOpenError: there is no such file, or it is none.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise StoreOpenError(f"cannot be read: {why_refused(error)}", path) from error
    if not stat.S_ISREG(status.st_mode):
        raise StoreOpenError(f"{kind(status.st_mode)}, not a database file: give a file", path)
    if (status.st_dev, status.st_ino) in databases:
        raise StoreError("it is open in this process: close it first", path)
