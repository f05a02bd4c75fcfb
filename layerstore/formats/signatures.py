"""What a file is, by its first bytes: a compression, or another thing that is given for a tar by mistake.

Nothing is read or unpacked here; `layerstore.formats.compression` does that with what Python can read.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import Final, NamedTuple

STANDARD_INPUT: Final = "standard input"
HEAD: Final = 1024
"""How many of a file's first bytes are looked at."""


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


COMPRESSIONS: Final = (
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


def compression(head: bytes) -> Signature | None:
    """Return the compression that a file begins with, or `None`."""
    return next((found for found in COMPRESSIONS if found.is_of(head)), None)


def command(tool: str, name: str) -> str:
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
    inner = compression(head)
    if inner is not None and outer is None:
        return f"it is compressed by {inner.what}, which Python cannot read here: {command(inner.remedy, name)}"
    if inner is not None and outer is not None:
        return f"it is {inner.what} inside {outer.what}, compressed twice: {command(outer.remedy, name)}"
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
