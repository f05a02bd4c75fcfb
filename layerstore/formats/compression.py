"""Compressed streams: read in bounded memory, and written as a file's suffix says.

What is read is recognised by its first bytes, whatever it is called. What Python cannot read or write is named, with
the command that can.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import os
import shlex
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, Protocol

from layerstore.errors import TransferError
from layerstore.formats.signatures import Signature, command

_CHUNK: Final = 1 << 14
_BUFFER: Final = 1 << 18
_MEMORY: Final = 128 << 20
"""Bytes that xz may take to unpack; what `xz -9` wrote needs 65 MiB."""


class Damaged(Exception):  # noqa: N818  # what is wrong, in words that go on: "the archive is damaged: …"
    """The compressed data is damaged."""


def buffered(file: IO[bytes] | io.RawIOBase) -> io.BufferedReader:
    """Return a file that can be looked at before it is read, and gives all bytes that are asked for until its end."""
    return io.BufferedReader(_Filled(file), _BUFFER)


def decompressed(file: io.BufferedReader, signature: Signature, name: str) -> io.BufferedReader | None:
    """Return what is in a compressed file, or `None` where Python cannot read this compression.

    Reading raises `Damaged` for what is damaged or cut off, at its end too, as checksums are there; and a
    TransferError for what needs much memory.
    """
    make = _decompressor(signature.what)
    too_large = f"unpacking it needs more than {_MEMORY >> 20} MiB of memory: {command(signature.remedy, name)}"
    return None if make is None else buffered(_Decompressed(file, make, TransferError(too_large, name)))


class _Filled(io.RawIOBase):
    """A file that fills what it is given, though a pipe has less at once: else nobody could look at its beginning."""

    def __init__(self, file: IO[bytes] | io.RawIOBase) -> None:
        # One system call at a time: `read` makes several, and a signal between two of them would wait for more data.
        self._read: Callable[[int], bytes] = getattr(file, "read1", file.read)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer), 0
        while done < len(view) and (found := self._read(len(view) - done)):
            view[done : done + len(found)] = found
            done += len(found)
        return done


class _Decompressor(Protocol):
    """What those of `bz2`, `lzma` and `compression.zstd` are."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


class _Gunzip:
    """The same for gzip. `gzip.GzipFile` reads the name in a header byte by byte, however long it is."""

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


def _decompressor(compression: str) -> Callable[[], _Decompressor] | None:
    if compression == "zstd":
        try:
            # Python 3.14 and later.
            return importlib.import_module("compression.zstd").ZstdDecompressor  # type: ignore[no-any-return]  # not known to older ones
        except ImportError:
            return None
    known: dict[str, Callable[[], _Decompressor]] = {
        "gzip": _Gunzip,
        "bzip2": bz2.BZ2Decompressor,
        "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MEMORY),
        "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MEMORY),
    }
    return known.get(compression)


class _Decompressed(io.RawIOBase):
    """One compressed stream behind the other, with zeros between and behind them, as tapes have."""

    def __init__(self, file: io.BufferedReader, make: Callable[[], _Decompressor], too_large: TransferError) -> None:
        self._file, self._make, self._too_large = file, make, too_large
        self._stream = make()
        self._next = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, and none at the end only."""
        while not self._stream.eof or self._begin_another():
            wants = self._stream.needs_input
            data = (self._next or self._file.read(_CHUNK)) if wants else b""
            self._next = b""
            found = self._decompress(data, size)
            if found:
                return found
            if wants and not data and not self._stream.eof:
                raise Damaged("its compressed bytes are cut off")
        return b""

    def _decompress(self, data: bytes, size: int) -> bytes:
        try:
            return self._stream.decompress(data, size)
        except MemoryError:
            raise
        except Exception as error:  # each module has its own, and bz2 an OSError
            if isinstance(error, lzma.LZMAError) and "Memory usage limit" in str(error):  # it has no code
                raise self._too_large from error
            raise Damaged(f"its compressed bytes: {error}") from error

    def _begin_another(self) -> bool:
        rest = self._stream.unused_data.lstrip(b"\0")
        while not rest:
            more = self._file.read(_CHUNK)
            if not more:
                return False
            rest = more.lstrip(b"\0")
        self._stream, self._next = self._make(), rest
        return True


class Compressor(Protocol):
    """What those of `zlib`, `bz2` and `lzma` are."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


_WRITTEN: dict[str, Callable[[], Compressor]] = {
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
