"""Compression of archives: told by a file's first bytes, read in bounded memory, and written as a name's suffix says.

A file is recognised whatever it is called, also one that is no tar. What Python cannot read or write is named, with the
command that can.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import os
import re
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO, Any, Final, NamedTuple

from layerstore.errors import TransferError

STANDARD_INPUT: Final = "standard input"
HEAD: Final = 1024
"""How many of a file's first bytes are looked at."""

_CHUNK: Final = 1 << 14
_BUFFER: Final = 1 << 18
_MEMORY: Final = 128 << 20
"""Bytes that xz may take to unpack; what `xz -9` wrote needs 65 MiB."""


class Damaged(Exception):  # noqa: N818  # what is wrong, in words that go on: "the archive is damaged: …"
    """The compressed data is damaged."""


class Signature(NamedTuple):
    """How a kind of file begins.

    Attributes:
        begins: a pattern for its first bytes.
        what: what users call it.
        remedy: a command that makes a tar of it (a compression), else a sentence that says what would be right.
    """

    begins: bytes
    what: str
    remedy: str

    def is_of(self, head: bytes) -> bool:
        """Tell whether a file begins so."""
        return re.match(self.begins, head, re.DOTALL) is not None


_COMPRESSIONS: Final = (
    Signature(rb"\x1f\x8b", "gzip", "gzip -dc"),
    Signature(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "bzip2", "bzip2 -dc"),
    Signature(rb"\xfd7zXZ\0", "xz", "xz -dc"),
    Signature(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", "zstd", "zstd -dc"),
    # A properties byte that everybody writes, a dictionary of whole 64 KiB, a size that is unknown or below 1 TiB.
    Signature(rb"\x5d\0\0.{2}(?:\xff{8}|.{5}\0{3})", "lzma", "xz --format=lzma -dc"),
    Signature(rb"\x04\x22\x4d\x18|\x02\x21\x4c\x18", "lz4", "lz4 -dc"),
    Signature(rb"\x1f\x9d", "compress", "gzip -dc"),
    Signature(rb"\x1f\x1e", "pack", "gzip -dc"),
    Signature(rb"LZIP", "lzip", "lzip -dc"),
    Signature(rb"\x89LZO\0\r\n\x1a\n", "lzop", "lzop -dc"),
    Signature(rb"\xff\x06\0\0sNaPpY", "snappy", "snzip -dc"),
)

_UNPACK: Final = "unpack it, and import the directory that is in it"
_OTHERS: Final = (
    Signature(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)", "a zip archive", _UNPACK),
    Signature(rb"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    Signature(rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    Signature(rb"07070[127]|\xc7\x71|\x71\xc7", "a cpio archive", "unpack it (`cpio -id`), and import the directory"),
    Signature(rb"\xed\xab\xee\xdb", "an RPM package", "give an archive of Docker's `distribution` directory"),
    Signature(rb"!<arch>\n", "an ar archive or Debian package", "give an archive of Docker's `distribution` directory"),
    Signature(rb".{16}\xda\xed\x0c\xed", "a bolt database", "give the path of the file itself, not compressed"),
    Signature(rb"(?i)\s*<(?:!doctype )?html", "an HTML page", "download the archive again: this may be an error page"),
    Signature(rb"(?i)\s*<\?xml", "an XML document", "download the archive again: this may be an error message"),
    Signature(rb"\s*(?:\{\s*[\"}]|\[\s*[\[{\"\]])", "JSON", "give an archive of Docker's `distribution` directory"),
)
_DATABASE: Final = b"SQLite format 3\0"
_TEXT: Final = rb"[\t\n\r\x1b\x20-\x7e\x80-\xff]+"
_SHOWN: Final = 60


def compression_of(head: bytes) -> Signature | None:
    """Return the compression that a file begins with, or `None`."""
    return next((found for found in _COMPRESSIONS if found.is_of(head)), None)


def _command(tool: str, name: str) -> str:
    """Return what unpacks a compressed archive and imports it."""
    if name == STANDARD_INPUT:
        return f"`… | {tool} | layerstore import -`"
    return f"`{tool} {shlex.quote(name)} | layerstore import -`"


def why_no_tar(head: bytes, name: str, outer: Signature | None) -> str:
    """Say what a file is that is no tar, and what would be right.

    Args:
        head: its first bytes; of a compressed file, those of what is in it.
        name: the file's path, or `standard input`.
        outer: how the file is compressed, or `None`.
    """
    inner = compression_of(head)
    if inner is not None and outer is None:
        return f"it is compressed by {inner.what}, which Python cannot read here: {_command(inner.remedy, name)}"
    if inner is not None and outer is not None:
        return f"it is {inner.what} inside {outer.what}, compressed twice: {_command(outer.remedy, name)}"
    if head.startswith(_DATABASE):
        return _of_a_database(name, outer)
    inside = "" if outer is None else f" compressed by {outer.what}"
    if not head:
        return f"it is empty{inside and ',' + inside}: the program that wrote it may have failed"
    for other in _OTHERS:
        if other.is_of(head):
            return f"it is {other.what}{inside}, not a tar archive: {other.remedy}"
    return _of_the_unknown(head, f"not a layerstore database, and not a tar archive{inside}")


def _of_the_unknown(head: bytes, what: str) -> str:
    if re.fullmatch(_TEXT, head):
        line = head.decode("utf-8", "replace").strip().partition("\n")[0]
        shown = line if len(line) <= _SHOWN else line[:_SHOWN] + "…"
        return f"{what}, but text: {shown!r}: the program that wrote it may have failed, or printed a message into it"
    return f"{what}: give a tar, a `distribution` directory, a data root, or a database"


def _of_a_database(name: str, outer: Signature | None) -> str:
    if outer is None and os.path.isfile(name):
        return "it begins as an SQLite database, but SQLite cannot read it: try `layerstore recover FILE NEW`"
    if outer is None:
        return "it is a database in a pipe or on standard input: give the path of its file"
    of = "" if name == STANDARD_INPUT else f" {shlex.quote(name)}"
    unpack = f"{outer.remedy}{of} > copy.db"
    return f"it is a database compressed by {outer.what}: unpack it (`{unpack}`), and give that file"


def buffered(file: IO[bytes]) -> io.BufferedReader:
    """Return a file that can be looked at before it is read, and gives all bytes that are asked for until its end."""
    # One system call at a time: `read` makes several, and a signal between two of them would wait for more data.
    read = getattr(file, "read1", file.read)
    return io.BufferedReader(_Joined(iter(partial(read, _BUFFER), b"")), _BUFFER)


def decompressed(file: io.BufferedReader, signature: Signature, name: str) -> io.BufferedReader | None:
    """Return what is in a compressed file, or `None` where Python cannot read this compression.

    Reading raises `Damaged` for what is damaged or cut off, at its end too, as checksums are there; and a
    TransferError for what needs much memory.
    """
    make = _decompressor(signature.what)
    if make is None:
        return None
    too_large = f"unpacking it needs more than {_MEMORY >> 20} MiB of memory: {_command(signature.remedy, name)}"
    return io.BufferedReader(_Joined(_decompress(file, make, TransferError(too_large, name))), _BUFFER)


class _Joined(io.RawIOBase):
    """Pieces as one file, which fills what it is given: else nobody could look at the beginning of a slow pipe."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer), 0
        while done < len(view):
            if not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    break
                self._left = memoryview(piece)
            size = min(len(self._left), len(view) - done)
            view[done : done + size] = self._left[:size]
            self._left = self._left[size:]
            done += size
        return done


class _Gunzip:
    """What `bz2.BZ2Decompressor` is, for gzip. `gzip.GzipFile` reads the name in a header byte by byte."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, /, max_length: int) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _decompressor(compression: str) -> Callable[[], Any] | None:
    """Return what makes an object with the methods of `bz2.BZ2Decompressor`."""
    if compression == "zstd":
        try:
            # Python 3.14 and later.
            return importlib.import_module("compression.zstd").ZstdDecompressor  # type: ignore[no-any-return]  # not known to older ones
        except ImportError:
            return None
    known: dict[str, Callable[[], Any]] = {
        "gzip": _Gunzip,
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
        "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY),
    }
    return known.get(compression)


def _decompress(file: io.BufferedReader, make: Callable[[], Any], too_large: TransferError) -> Iterator[bytes]:
    """Yield what one compressed stream behind the other holds. Between and behind them may be zeros, as on tapes."""
    data = file.read(_CHUNK)
    while data:
        stream = make()
        while not stream.eof:
            wants = stream.needs_input
            data = data or (file.read(_CHUNK) if wants else b"")
            try:
                found = stream.decompress(data, _BUFFER)
            except MemoryError:
                raise
            except Exception as error:  # each module has its own, and bz2 an OSError
                if isinstance(error, lzma.LZMAError) and "Memory usage limit" in str(error):  # it has no code
                    raise too_large from error
                raise Damaged(f"its compressed bytes: {error}") from error
            if wants and not (data or found or stream.eof):
                raise Damaged("its compressed bytes are cut off")
            data = b""
            yield found
        data = stream.unused_data.lstrip(b"\0")
        while not data and (more := file.read(_CHUNK)):
            data = more.lstrip(b"\0")


Compressor = Any
"""What those of `zlib`, `bz2` and `lzma` are: an object with `compress` and `flush`."""

_WRITTEN: Final[dict[str, Callable[[], Compressor]]] = {
    # Without a name and a time, so that the same store gives the same bytes.
    "gz": lambda: zlib.compressobj(wbits=31),
    "bz2": bz2.BZ2Compressor,
    "xz": lzma.LZMACompressor,
}
_SHORT: Final = {"tgz": "gz", "tbz": "bz2", "tbz2": "bz2", "txz": "xz", "tzst": "zst", "tlz": "lzma", "taz": "z"}
_NOT_WRITTEN: Final = {
    "zst": "zstd",
    "lz4": "lz4",
    "lz": "lzip",
    "lzma": "xz --format=lzma",
    "lzo": "lzop",
    "z": "compress",
    "br": "brotli",
}
_NO_TARS: Final = ("zip", "7z", "rar", "cpio")


def compressor(path: str) -> Compressor | None:
    """Return what compresses an archive of this name, or `None` for one that is not compressed.

    Raises:
        TransferError: the suffix is one of a compression that Python cannot write, or of what is no tar.
    """
    suffix = os.path.basename(path).lower().rpartition(".")[2]
    suffix = _SHORT.get(suffix, suffix)
    if suffix in _NOT_WRITTEN:
        raise TransferError(
            f"this compression cannot be written: `layerstore export --tar - | {_NOT_WRITTEN[suffix]} >"
            f" {shlex.quote(path)}`, or give a name that ends in .tar.gz, .tar.bz2 or .tar.xz",
            path,
        )
    if suffix in _NO_TARS:
        raise TransferError("an archive is a tar: give a name that ends in .tar, .tar.gz, .tar.bz2 or .tar.xz", path)
    make = _WRITTEN.get(suffix)
    return None if make is None else make()


class _Compressing:
    """The one method of a file that an archive's writer needs.

    Not `gzip.GzipFile`: that writes an end also when it is thrown away, and an archive that broke off must have none.
    """

    def __init__(self, file: IO[bytes], with_: Compressor) -> None:
        self._file, self._compressor = file, with_
        self.name = file.name

    def write(self, content: bytes) -> int:
        self._file.write(self._compressor.compress(content))
        return len(content)


@contextmanager
def compressing(file: IO[bytes], with_: Compressor | None) -> Iterator[IO[bytes]]:
    """Open a file that compresses what is written to it; its end is written unless an error is raised meanwhile."""
    if with_ is None:
        yield file
        return
    compressed: Any = _Compressing(file, with_)
    yield compressed
    file.write(with_.flush())
