"""The members of a tar archive that may be damaged: what is damaged is never taken for its end.

The library on its own takes a broken header and a missing end mark for the end, does not look at the checksum of what
was compressed, and reads on for as long as a false size says.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any, Final, Self, TypeVar

from layerstore.errors import TransferError

_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0"
_REST: Final = 1 << 20
# Headers that are read whole: names, and what pax says of the next member.
_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_LARGEST_HEADER: Final = 1 << 20

# What the library and its decompressors raise on bytes that are no archive.
_DAMAGED = (
    tarfile.TarError,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    RecursionError,
    zlib.error,
    lzma.LZMAError,
)
_NO_ARCHIVE = (*_DAMAGED, TypeError)

Found = TypeVar("Found")
Read = Callable[[tarfile.TarFile, tarfile.TarInfo], Found]


def members(file: IO[bytes], name: str, read: Read[Found]) -> Iterator[Found]:
    """Yield what `read` makes of each member, in the order of the archive.

    The file is read to its end, so that a checksum there is checked, and whoever writes into a pipe can end.

    Raises:
        TransferError: it is not an archive, or it is damaged or cut off.
    """
    try:
        plain = _decompressed(file)
        stream: Any = _UntilEnd(plain)
        archive = tarfile.open(  # noqa: SIM115  # the next `with` has it
            fileobj=stream, mode="r|", tarinfo=_Header, encoding="utf-8", errors="surrogateescape"
        )
    except _NO_ARCHIVE as error:
        raise TransferError(f"not a layerstore database, and not a tar archive: {error}", name) from error
    try:
        with archive:
            for member in archive:
                yield read(archive, member)
                archive.members.clear()  # type: ignore[attr-defined]  # the library keeps every one of them
        while plain.read(_REST):
            continue
    except _DAMAGED as error:
        raise TransferError(f"the archive is damaged: {error}: nothing was taken from it", name) from error


def _decompressed(file: IO[bytes]) -> Any:
    head = file.read(len(_XZ))
    whole: Any = _Rejoined(head, file)
    if head.startswith(_GZIP):
        return gzip.GzipFile(fileobj=whole)
    if head.startswith(_BZIP2):
        return bz2.BZ2File(whole)
    if head.startswith(_XZ):
        return lzma.LZMAFile(whole)
    return whole


class _Header(tarfile.TarInfo):
    """A header that is whole, or an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # the end mark; typeshed does not have it
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"cut off or damaged: {error}") from error
        if member.size < 0:
            raise tarfile.ReadError("a negative size")
        if member.type in _HEADERS and member.size > _LARGEST_HEADER:
            raise tarfile.ReadError("a header that is longer than any name or time")
        return member


class _Rejoined:
    """A file whose first bytes were read already, to see what it is."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1) -> bytes:
        head, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
        return head or self._rest.read(size)

    def seekable(self) -> bool:
        return False


class _UntilEnd:
    """Refuse to be read on behind the end."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._ended = False

    def read(self, size: int) -> bytes:
        found: bytes = self._file.read(size)
        if not found and self._ended:
            raise EOFError("cut off")
        self._ended = not found
        return found
