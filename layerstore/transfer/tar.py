"""Metadata directories inside a tar archive: read from one that may be hostile, written as Docker would lay it out.

Source: POSIX.1-2001 pax interchange format, whose `mtime` record keeps nanoseconds.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from types import TracebackType
from typing import IO, Final

from layerstore import tree
from layerstore.errors import TransferError
from layerstore.fs import Odd
from layerstore.records import KNOWN_NAMESPACES, Record
from layerstore.store import TEMPORARY_PREFIX, why_not_a_key, why_not_a_namespace

MAX_VALUE: Final = 64 << 20
"""Bytes of the largest file that is taken from an archive. A list of 50 entries has about 12,000."""

ROOT: Final = "distribution"
"""The directory that an archive of ours holds."""

_DATA_ROOT = re.compile(r"(?:.*?/)?image/[^/]+/distribution(?=/)")
_DISTRIBUTION = re.compile(r"(?:.*?/)?distribution(?=/)")
_NANOSECONDS: Final = 1_000_000_000


def scan(file: IO[bytes], name: str) -> Iterator[tuple[str, Record | Odd]]:
    """Read an archive, compressed or not, from its beginning to its end, in its own order.

    Yields each entry with the directory that it is from, as the archive has it: `image/overlay2/distribution`,
    `distribution`, or `` when the namespaces lie at the top. Nothing is unpacked. Absolute names, `..`, links, devices
    and files over 64 MiB come as `Odd`.

    Raises:
        TransferError: it is not an archive, or it is cut off.
    """
    try:
        archive = tarfile.open(fileobj=file, mode="r|*", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise TransferError(f"not a layerstore database, and not a tar archive: {error}", name) from error
    try:
        with archive:
            for member in archive:
                if not member.isdir():
                    yield _read(archive, member)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise TransferError(f"the archive is damaged: {error}: nothing was taken from it", name) from error


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> tuple[str, Record | Odd]:
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
    checks = (
        (not member.isreg(), "special", "a link, device, socket or pipe"),
        (_is_temporary(segments), "temporary", "left by a write that did not end"),
        (member.name.startswith("/") or ".." in segments, "name", "the path leads out of the archive"),
        (not key, "outside", "a file outside every namespace"),
        (member.size > MAX_VALUE, "unreadable", f"larger than {MAX_VALUE >> 20} MiB"),
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
        return int(Decimal(member.pax_headers.get("mtime", str(int(member.mtime)))) * _NANOSECONDS)
    except (InvalidOperation, OverflowError, ValueError):
        return int(member.mtime) * _NANOSECONDS


class Writer:
    """Write a store as an archive of one `distribution` directory, with Docker's modes and the store's times."""

    def __init__(self, file: IO[bytes]) -> None:
        self._archive = tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115  # see __exit__
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
