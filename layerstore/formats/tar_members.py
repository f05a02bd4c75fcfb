"""The members of a tar archive: read from front to back of one that may be damaged or hostile, and written.

Reads what POSIX (ustar, pax), GNU tar (long names, sparse files, volume labels, incremental and multi-volume archives)
and the oldest tars (v7) write. Python's own reader is not used: it takes a broken header and a missing end mark for the
end, reads pax headers in quadratic time (3.11), and keeps the map of a sparse file however long it is.

Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block"; GNU tar's manual, "Basic Tar Format" and
"Storing Sparse Files".
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain, islice
from types import TracebackType
from typing import IO, Final

from layerstore.files import tree
from layerstore.formats.compression import Damaged
from layerstore.keys import Record
from layerstore.records import storable_time

BLOCK: Final = 512
MAX_HEADER: Final = 64 << 10
"""Bytes of the largest pax header, and of the longest name."""
_MAX_PIECES: Final = 1 << 17
"""Of a sparse file. One of 64 MiB has no more blocks."""
_MAX_NESTED: Final = 16
"""Headers before one member that say more about it; GNU tar writes three at most."""

ROOT: Final = "distribution"
"""The directory that an archive of ours holds."""

_ZEROS: Final = bytes(BLOCK)
_CHUNK: Final = 1 << 20
_NANOSECONDS: Final = 1_000_000_000
_FAR_S: Final = Decimal(2**63 // _NANOSECONDS + 1)

# Types of members, by the header's byte 156.
REGULAR: Final = frozenset(b"07S\x00")
DIRECTORY: Final = frozenset(b"5D")
HARD_LINK: Final = ord("1")
LABEL: Final = ord("V")
CONTINUED: Final = ord("M")
_WITHOUT_CONTENT: Final = frozenset(b"123456V")
_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = frozenset(b"xX"), ord("g"), ord("L"), ord("K"), ord("S")
_EXTENDED: Final = _PAX | {_GLOBAL, _LONG_NAME, _LONG_LINK}

_SPARSE_SIZES: Final = ("GNU.sparse.realsize", "GNU.sparse.size")

_is_octal = re.compile(rb"[0-7]*").fullmatch
_is_decimal = re.compile(rb"[0-9]{1,20}").fullmatch


@dataclass(slots=True)
class Member:
    """One member. Its content can be read once, until the next member is asked for.

    Attributes:
        name: as the archive has it; bytes that are not UTF-8 as lone surrogates.
        kind: the type byte.
        link: of a hard link, the name of the member that has the content.
        size: bytes of its content; of a sparse file those it unpacks to.
        modified_at_ns: Unix time in nanoseconds.
        problem: why its content or name cannot be told, or `None`.
    """

    name: str
    kind: int
    link: str
    size: int
    modified_at_ns: int
    problem: str | None
    _coming: Iterator[bytes]
    _begun: bytes = b""

    def content(self) -> bytes:
        """Return the content."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """Yield the content in pieces of about 1 MiB. Holes are zeros."""
        begun, self._begun = self._begun, b""
        return chain([begun], self._coming)

    def head(self, size: int) -> bytes:
        """Return the first bytes of the content, before the rest is asked for."""
        while len(self._begun) < size and (piece := next(self._coming, None)) is not None:
            self._begun += piece
        return self._begun[:size]


_Pieces = Iterable[tuple[int, int]]
"""Where the bytes of a file belong: offset and length of each piece."""


@dataclass(slots=True)
class _Extended:
    """What extended headers say of the next member."""

    fields: dict[str, bytes] = field(default_factory=dict)
    sparse: list[int] = field(default_factory=list)
    count: int = 0
    problem: str | None = None


class Members:
    """Iterate over the members of an archive.

    An archive behind the end mark of another (`cat 1.tar 2.tar`) is read on, as `tar -i` does.

    Raises:
        Damaged: a header that is none, a size that cannot be, an end that is missing.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._globals: dict[str, bytes] = {}
        self._left = self._padding = 0
        self._name = ""
        self.rest = 0
        """Bytes after the end that are no archive; known at the end."""

    def __iter__(self) -> Iterator[Member]:
        extended = _Extended()
        zeros = 0
        while block := self._file.read(BLOCK):
            if block == _ZEROS[: len(block)] and not extended.count:
                zeros += 1
                continue
            if not is_header(block):
                if zeros < 2 or extended.count:
                    raise Damaged(f"cut off or damaged {self._behind()}")
                self._measure_rest(len(block))
                return
            zeros = 0
            if block[156] in _EXTENDED:
                self._extend(extended, block)
                continue
            member = self._member(block, extended)
            self._name = member.name
            extended = _Extended()
            yield member
            self._skip(self._left + self._padding)
        if not zeros or extended.count:
            raise Damaged(f"cut off {self._behind()}")

    def _behind(self) -> str:
        return f"behind {self._name!r}" if self._name else "in its first member"

    def _measure_rest(self, size: int) -> None:
        """Count what follows the end. A member there says that this was no end: zeros lie where a header was."""
        self.rest = size
        while block := self._file.read(BLOCK):
            if block[257:262] == b"ustar" and is_header(block):
                raise Damaged(f"zeros or other bytes in its middle, {self._behind()}")
            self.rest += len(block)

    def _member(self, block: bytes, extended: _Extended) -> Member:
        fields = {**self._globals, **extended.fields}
        kind = block[156]
        stored = _decimal(fields["size"]) if "size" in fields else _number(block[124:136])
        if stored < 0:
            raise Damaged(f"a negative size {self._behind()}")
        name = _text(fields.get("GNU.sparse.name") or fields.get("path") or _name(block))
        if kind == 0 and name.endswith("/"):
            kind = ord("5")  # the oldest tars have no type for it
        if kind in _WITHOUT_CONTENT:
            stored = 0
        self._left, self._padding = stored, -stored % BLOCK
        size, problem = stored, extended.problem
        pieces: _Pieces = [(0, stored)]
        if kind == _SPARSE:
            size, pieces, too_many = self._gnu_map(block)
            problem = too_many or problem
        elif kind in REGULAR and not fields.keys().isdisjoint(_SPARSE_SIZES):
            real = next(fields[name] for name in _SPARSE_SIZES if name in fields)
            size, pieces = _decimal(real), self._pax_map(fields, extended.sparse)
        return Member(
            name=name,
            kind=kind,
            link=_text(fields.get("linkpath") or block[157:257].partition(b"\0")[0]),
            size=size,
            modified_at_ns=_time(fields.get("mtime"), block),
            problem=problem,
            _coming=self._content(size, pieces),
        )

    def _extend(self, extended: _Extended, block: bytes) -> None:
        """Read a header that says more of the next member, or of all that follow."""
        kind, size = block[156], _number(block[124:136])
        if size < 0:
            raise Damaged(f"a negative size {self._behind()}")
        if size > MAX_HEADER:
            what = f"a header of {size} bytes, over {MAX_HEADER >> 10} KiB"
            if kind == _GLOBAL:
                raise Damaged(f"{what}, {self._behind()}")
            extended.problem = what
            self._skip(size + -size % BLOCK)
        else:
            self._left, self._padding = size, -size % BLOCK
            content = self._take(size)
            self._skip(self._padding)
            if kind == _GLOBAL:
                _read_pax(content, self._globals, [])
                return
            if kind in _PAX:
                _read_pax(content, extended.fields, extended.sparse)
            else:
                extended.fields["path" if kind == _LONG_NAME else "linkpath"] = content.partition(b"\0")[0]
        extended.count += kind != _GLOBAL
        if extended.count > _MAX_NESTED:
            raise Damaged(f"more than {_MAX_NESTED} headers for one member {self._behind()}")

    def _gnu_map(self, block: bytes) -> tuple[int, _Pieces, str | None]:
        """Read size and map of a sparse file as old GNU tars write it: in the header, and in blocks behind it."""
        size, pieces = _number(block[483:495]), _gnu_pieces(block[386:482])
        if size < 0:
            raise Damaged(f"a negative size {self._behind()}")
        more = block[482]
        while more:
            following = self._exactly(BLOCK)
            more = following[504]
            if len(pieces) <= _MAX_PIECES:
                pieces += _gnu_pieces(following[:504])
        return size, pieces, "a sparse file of too many pieces" if len(pieces) > _MAX_PIECES else None

    def _pax_map(self, fields: dict[str, bytes], sparse: list[int]) -> _Pieces:
        """Return the map of a sparse file as pax headers have it, in one of three versions."""
        if fields.get("GNU.sparse.major") == b"1":
            return self._map_in_content()
        text = fields.get("GNU.sparse.map")
        return _in_pairs(sparse if text is None else [_decimal(number) for number in text.split(b",") if text])

    def _map_in_content(self) -> _Pieces:
        """Yield the map that the content begins with; it is read in full before the first piece."""
        numbers = self._numbers()
        (count,) = islice(numbers, 1)
        if count > _MAX_PIECES:
            raise Damaged(f"a sparse file of {count} pieces {self._behind()}")
        yield from _in_pairs(list(islice(numbers, 2 * count)))

    def _numbers(self) -> Iterator[int]:
        """Yield the numbers that a sparse file's content begins with, one a line, in whole blocks."""
        rest = b""
        while len(rest) < BLOCK:
            *lines, rest = (rest + self._take(BLOCK)).split(b"\n")
            yield from map(_decimal, lines)
        raise Damaged(f"no map of a sparse file {self._behind()}")

    def _content(self, size: int, pieces: _Pieces) -> Iterator[bytes]:
        """Yield the content of a member: its pieces, which the archive has one behind the other, and holes as zeros."""
        end = 0
        for offset, length in chain(pieces, [(size, 0)]):
            if not end <= offset <= offset + length <= size:
                raise Damaged(f"the map of a sparse file {self._behind()}")
            for some in _cut(offset - end):
                yield bytes(some)
            for some in _cut(length):
                yield self._take(some)
            end = offset + length

    def _take(self, size: int) -> bytes:
        """Read some of the content that is left: no more than a piece, whatever size a header claims."""
        if size > self._left:
            raise Damaged(f"content that is shorter than its header says, {self._behind()}")
        self._left -= size
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        found = self._file.read(size)
        if len(found) < size:
            raise Damaged(f"cut off {self._behind()}")
        return found

    def _skip(self, size: int) -> None:
        while size:
            found = len(self._file.read(min(size, _CHUNK)))
            if not found:
                raise Damaged(f"cut off {self._behind()}")
            size -= found


def _cut(size: int) -> Iterator[int]:
    """Yield the sizes of the pieces in which so many bytes are read."""
    while size:
        yield min(size, _CHUNK)
        size -= min(size, _CHUNK)


def is_header(block: bytes) -> bool:
    """Tell whether a block is a header: its checksum is right. Some old tars summed signed bytes."""
    if len(block) < BLOCK:
        return False
    text = block[148:156].partition(b"\0")[0].strip()
    if not text or _is_octal(text) is None:
        return False
    stored, rest = int(text, 8), block[:148] + block[156:BLOCK]
    unsigned = sum(rest) + 8 * ord(" ")
    return stored == unsigned or stored == unsigned - 256 * sum(byte > 127 for byte in rest)


def begins(head: bytes) -> bool:
    """Tell whether a file begins as a tar: with a header, also a damaged one, or with zeros, as an empty one."""
    return is_header(head[:BLOCK]) or head[257:262] == b"ustar" or (bool(head) and not head.strip(b"\0"))


def _number(text: bytes) -> int:
    """Read a number of a header: octal, or in GNU tar's way two's complement of all but the first bit."""
    if text[0] & 0x80:
        bits = 8 * len(text) - 1
        number = int.from_bytes(text, "big") & ((1 << bits) - 1)
        return number - (1 << bits) if number >> (bits - 1) else number
    digits = text.partition(b"\0")[0].strip()
    if _is_octal(digits) is None:
        raise Damaged(f"not a number in a header: {text!r}")
    return int(digits or b"0", 8)


def _decimal(text: bytes) -> int:
    if _is_decimal(text) is None:
        raise Damaged(f"not a number in a header: {text[:30]!r}")
    return int(text)


def _name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    # GNU tar has times where POSIX has the first part of a long name.
    prefix = block[345:500].partition(b"\0")[0] if block[257:263] == b"ustar\0" else b""
    return prefix + b"/" + name if prefix else name


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _time(text: bytes | None, block: bytes) -> int:
    """Return a time that can be stored, whatever a header says."""
    if text is not None:
        try:
            seconds = Decimal(text.decode("ascii"))
            # Held to what can be stored first: a million digits, as 1e999990 has, take half a minute to become one.
            return storable_time(int(max(-_FAR_S, min(seconds, _FAR_S)).scaleb(9)))
        except (ArithmeticError, ValueError):
            pass
    return storable_time(_number(block[136:148]) * _NANOSECONDS)


def _read_pax(content: bytes, fields: dict[str, bytes], sparse: list[int]) -> None:
    """Read the records `<length> <name>=<value>\\n` that matter here."""
    at = 0
    while at < len(content) and content[at]:
        space = content.find(b" ", at, at + 21)
        length = _decimal(content[at : max(space, at)])
        record = content[space + 1 : at + length]
        if length <= space - at or len(content) < at + length or not record.endswith(b"\n"):
            raise Damaged("a pax header that is none")
        name, _, value = record[:-1].partition(b"=")
        at += length
        if name in (b"path", b"linkpath", b"size", b"mtime"):
            fields[name.decode()] = value
        elif name in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(_decimal(value))
        elif name.startswith(b"GNU.sparse.") and len(fields) < _MAX_NESTED:
            fields[name.decode("latin-1")] = value


def _gnu_pieces(entries: bytes) -> list[tuple[int, int]]:
    pieces = [
        (_number(entries[at : at + 12]), _number(entries[at + 12 : at + 24])) for at in range(0, len(entries), 24)
    ]
    return [(offset, length) for offset, length in pieces if offset or length]


def _in_pairs(numbers: list[int]) -> _Pieces:
    if len(numbers) % 2:
        raise Damaged("half a piece of a sparse file")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


class Writer:
    """Write a store as an archive of one `distribution` directory, with Docker's modes and the store's times.

    Source: POSIX.1-2001 pax interchange format, whose `mtime` record keeps nanoseconds.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._size = file, 0
        self._directories: set[str] = set()
        self.written = 0
        """Entries."""

    def __enter__(self) -> Writer:
        self._add_directories(f"{ROOT}/")  # also of an empty store, so that an import knows it for one
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if kind is None:  # an archive that broke off must have no end
            self._write(bytes(2 * BLOCK), to=tarfile.RECORDSIZE)

    def add(self, record: Record) -> None:
        """Append one entry; its directories come before it."""
        path = f"{ROOT}/{record.namespace}/{record.key}"
        self._add_directories(path)
        member = tarfile.TarInfo(path)
        member.size = len(record.value)
        member.mode = tree.FILE_MODE
        seconds, nanoseconds = divmod(record.modified_at_ns, _NANOSECONDS)
        member.mtime = seconds
        member.pax_headers = {"mtime": f"{Decimal(seconds) + Decimal(nanoseconds) / _NANOSECONDS:f}"}
        self._write(member.tobuf(tarfile.PAX_FORMAT))
        self._write(record.value)
        self.written += 1

    def _add_directories(self, path: str) -> None:
        parts = path.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            directory = "/".join(parts[:depth])
            if directory not in self._directories:
                self._directories.add(directory)
                member = tarfile.TarInfo(directory)
                member.type = tarfile.DIRTYPE
                member.mode = tree.BASE_MODE if depth == 1 else tree.DIRECTORY_MODE
                self._write(member.tobuf(tarfile.PAX_FORMAT))

    def _write(self, content: bytes, *, to: int = BLOCK) -> None:
        """Write bytes, and zeros up to the next multiple of a size."""
        self._size += len(content)
        padding = -self._size % to
        self._file.write(content + bytes(padding))
        self._size += padding
