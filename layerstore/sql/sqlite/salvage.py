"""Reading the rows of a damaged database page by page, without SQLite, which stops at the first damaged one.

Own code, as nothing kept serves here: `.recover` of the program `sqlite3` fails in Debian 12, whose SQLite is built
without `sqlite_dbpage`; neither Python's module nor the library has it. Every page is looked at by itself: what a page
belongs to is told from the shape of its rows, so that neither the schema nor the pages above it need be readable.
Source: sqlite.org/fileformat2.html, whose words are used; sqlite.org/walformat.html.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, Final, NamedTuple

from layerstore.errors import StoreError, StoreOpenError
from layerstore.sql.schema import PAGE_SIZE

Value = int | bytes | None
"""A column: text is its bytes; a real number, which we have none of, is `None`."""

MAGIC: Final = b"SQLite format 3\0"
_INTERIOR_INDEX, _LEAF_INDEX, _LEAF_TABLE = 0x02, 0x0A, 0x0D
_INTERIOR_TABLE = 0x05
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_WAL_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}


class DamagedError(Exception):
    """A page or cell that cannot be what its page says; never leaves this module."""


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
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  # closed by `close`
            size = os.fstat(self._file.fileno()).st_size
            log = _log(path)
        except OSError as error:
            raise StoreOpenError(f"cannot be read: {error.strerror}", path) from error
        head = self._file.read(100)
        intact = head[:16] == MAGIC
        given = struct.unpack(">H", head[16:18])[0] if len(head) >= 18 else 0
        given = 65536 if given == 1 else given
        self._size = given if intact and 512 <= given <= 65536 and not given & (given - 1) else PAGE_SIZE
        self._usable = self._size - (head[20] if intact and head[20] <= self._size - 480 else 0)
        self._newer, in_log = _committed(log, self._size)
        self.count = max(size // self._size, in_log)
        self.unreadable = 0

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def salvage(self, progress: Callable[[int, int], None] | None = None) -> Iterator[Salvage]:
        """Yield what each page has, but for free pages: what lies there was deleted."""
        free = set(self._free())
        parts: set[int] = set()
        odd: set[int] = set()
        for number in range(1, self.count + 1):
            if number not in free:
                found, whole = self._page(number, parts)
                if not whole:
                    odd.add(number)
                yield found
            if progress is not None:
                progress(number, self.count)
        self.unreadable = len(odd - parts)

    def _read(self, number: int) -> bytes:
        if number in self._newer:
            return self._newer[number]
        if not 0 < number <= self.count:
            raise DamagedError
        self._file.seek((number - 1) * self._size)
        page = self._file.read(self._size)
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


def _log(path: str) -> bytes:
    try:
        with open(f"{path}-wal", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""


def _committed(log: bytes, page_size: int) -> tuple[dict[int, bytes], int]:
    """Return the pages of the transactions that a write-ahead log holds whole, and the database's size after them."""
    if len(log) < 32:
        return {}, 0
    magic, _, size = struct.unpack(">III", log[:12])
    if magic not in _WAL_MAGIC or size != page_size:
        return {}, 0
    order, salts = _WAL_MAGIC[magic], log[16:24]
    sums = _checksum(log[:24], order, (0, 0))
    if struct.unpack(">II", log[24:32]) != sums:
        return {}, 0
    committed: dict[int, bytes] = {}
    waiting: dict[int, bytes] = {}
    count = 0
    for at in range(32, len(log) - page_size - 23, 24 + page_size):
        number, commit = struct.unpack(">II", log[at : at + 8])
        page = log[at + 24 : at + 24 + page_size]
        sums = _checksum(page, order, _checksum(log[at : at + 8], order, sums))
        if log[at + 8 : at + 16] != salts or struct.unpack(">II", log[at + 16 : at + 24]) != sums:
            break
        waiting[number] = page
        if commit:
            committed |= waiting
            waiting, count = {}, commit
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
        StoreError: it has. StoreOpenError: there is no such file.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise StoreOpenError(f"cannot be read: {error.strerror}", path) from error
    if (status.st_dev, status.st_ino) in databases:
        raise StoreError("it is open in this process: close it first", path)
