"""Metadata directories inside a tar archive: read from one that may be hostile, written as Docker would lay it out.

Source: POSIX.1-2001 pax interchange format, whose `mtime` record keeps nanoseconds.
"""

from __future__ import annotations

import io
import math
import os
import re
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from types import TracebackType
from typing import IO, Any, Final

from layerstore.files import tree
from layerstore.files.scanning import Odd
from layerstore.formats.members import members
from layerstore.records import KNOWN_NAMESPACES, Record, storable_time
from layerstore.store import TEMPORARY_PREFIX, why_not_a_key, why_not_a_namespace

MAX_VALUE: Final = tree.MAX_VALUE

ROOT: Final = "distribution"
"""The directory that an archive of ours holds."""

_DATA_ROOT = re.compile(r"(?:.*?/)?image/[^/]+/distribution(?=/)")
_DISTRIBUTION = re.compile(r"(?:.*?/)?distribution(?=/)")
_OTHER_OF_A_DATA_ROOT = re.compile(r"(?:.*?/)?image/(?:[^/]+/(?!distribution/)|[^/]+$)")
_NANOSECONDS: Final = 1_000_000_000
_FAR_S: Final = Decimal(2**63 // _NANOSECONDS + 1)


def scan(file: IO[bytes], name: str) -> Iterator[tuple[str, Record | Odd]]:
    """Read an archive, compressed or not, from its beginning to its end, in its own order.

    Yields each entry with the directory that it is from, as the archive has it: `image/overlay2/distribution`,
    `distribution`, or `` when Docker's namespaces lie at the top. Nothing is unpacked. What else a data root holds is
    passed over. Absolute names, `..`, links, devices and files over 64 MiB come as `Odd`.

    Raises:
        TransferError: it is not an archive, or it is damaged or cut off.
    """
    for found in members(file, name, _read):
        if found is not None:
            yield found


def _is_elsewhere(path: str) -> bool:
    """Tell a daemon's other files in an archive of a data root from metadata."""
    return _base(path.removeprefix("./")) == "" and _OTHER_OF_A_DATA_ROOT.match(path) is not None


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, Record | Odd] | None:
    """Read a member, or return `None` for one that is not about metadata."""
    if member.isdir() or _is_elsewhere(member.name):
        return None
    shown = os.fsencode(member.name).decode("utf-8", "backslashreplace")
    path = member.name.removeprefix("./")
    base = _base(path)
    namespace, _, key = path[len(base) :].lstrip("/").partition("/")
    odd = _why_no_entry(member, namespace, key)
    if odd is not None:
        kind, reason = odd
        return base, Odd(shown, kind, reason)
    content = archive.extractfile(member)
    assert content is not None
    return base, Record(namespace, key, content.read(), _modified_at_ns(member))


def _base(path: str) -> str:
    """Return the part of a member's path that leads to its namespace."""
    if path.split("/", 1)[0] in KNOWN_NAMESPACES:
        return ""
    match = _DATA_ROOT.match(path) or _DISTRIBUTION.match(path)
    return "" if match is None else match[0]


def _why_no_entry(member: tarfile.TarInfo, namespace: str, key: str) -> tuple[str, str] | None:
    segments = member.name.split("/")
    below = [namespace, *key.split("/")]
    known = namespace in KNOWN_NAMESPACES or _base(member.name.removeprefix("./")) != ""
    too_long = any(len(os.fsencode(segment)) > tree.MAX_SEGMENT for segment in below)
    checks = (
        (not member.isreg(), "special", "a link, device, socket or pipe"),
        (_is_temporary(below), "temporary", "left by a write that did not end"),
        (member.name.startswith("/") or ".." in segments, "name", "the path leads out of the archive"),
        (not key or not known, "outside", "a file outside every namespace"),
        (member.size > MAX_VALUE, "unreadable", f"larger than {MAX_VALUE >> 20} MiB"),
        (too_long, "name", f"a segment is over {tree.MAX_SEGMENT} bytes"),
    )
    for applies, kind, reason in checks:
        if applies:
            return kind, reason
    why = why_not_a_namespace(namespace) or why_not_a_key(key)
    return None if why is None else ("name", why)


def _is_temporary(segments: list[str]) -> bool:
    return any(segment.startswith(TEMPORARY_PREFIX) for segment in segments)


def _modified_at_ns(member: tarfile.TarInfo) -> int:
    # The library reads the record as a float, which loses nanoseconds.
    try:
        seconds = Decimal(member.pax_headers["mtime"])
        # Held to what can be stored first: a million digits, as 1e999990 has, take half a minute to become an integer.
        at = int(max(-_FAR_S, min(seconds, _FAR_S)).scaleb(9))
    except (KeyError, ArithmeticError, ValueError):
        at = int(member.mtime) * _NANOSECONDS if math.isfinite(member.mtime) else 0
    return storable_time(at)


class _Sink:
    """The two methods that the library needs; a stream of its own would write on while it is thrown away."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._at = file, 0

    def write(self, content: bytes) -> int:
        self._at += len(content)
        return self._file.write(content)

    def tell(self) -> int:
        return self._at


class Writer:
    """Write a store as an archive of one `distribution` directory, with Docker's modes and the store's times."""

    def __init__(self, file: IO[bytes]) -> None:
        sink: Any = _Sink(file)
        self._archive = tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # see __exit__
        self._directories: set[str] = set()
        self.written = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _at: TracebackType | None
    ) -> None:
        if kind is None:
            self._archive.close()

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
        self._archive.addfile(member, io.BytesIO(record.value))
        self._archive.members.clear()  # type: ignore[attr-defined]  # the library keeps every one of them
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
                self._archive.addfile(member)
