"""Metadata directories inside a tar archive: read from one that may be hostile, written as Docker would lay it out.

Source: POSIX.1-2001 pax interchange format, whose `mtime` record keeps nanoseconds.
"""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterator
from decimal import Decimal
from itertools import chain, repeat
from types import TracebackType
from typing import IO, Any, Final

from layerstore.collection import Odd
from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.formats import compression, tar_members
from layerstore.formats.compression import Damaged
from layerstore.formats.tar_contents import Contents, base_of, is_rest_of_a_data_root, may_be_linked_to, relative
from layerstore.formats.tar_members import Member, Members
from layerstore.formats.tar_memories import Memories
from layerstore.keys import Record
from layerstore.store import TEMPORARY_PREFIX, why_not_a_key, why_not_a_namespace

MAX_VALUE: Final = tree.MAX_VALUE
MAX_BYTES: Final = 8 << 30
"""Bytes that the values of one archive may have in all, unless more are allowed."""

ROOT: Final = "distribution"
"""The directory that an archive of ours holds."""

_LINKABLE: Final = 32 << 20
"""Bytes of values that are remembered for hard links to them, with what remembering one takes."""
_REMEMBERING: Final = 400
_NAMED: Final = 1000
"""Files outside every namespace that are named. Of more, the number is told."""
_NANOSECONDS: Final = 1_000_000_000


def scan(
    file: IO[bytes],
    name: str,
    *,
    force: bool = False,
    allow_empty: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[str, Record | Odd]]:
    """Read an archive, compressed or not, from its beginning to its end, in its own order.

    Yields each entry with the directory that it is from, as the archive has it: `image/overlay2/distribution`,
    `distribution`, another directory that holds Docker's namespaces, or `` when they lie at the top. Nothing is
    unpacked, but for what other engines remember: that comes at the end, each memory as a directory of its own. Beside
    one, files outside every namespace are passed over. So are what else a data root holds, volume labels, and the lists
    of incremental archives.
    Names with `..`, symbolic links, devices and files over 64 MiB come as `Odd`; so does a hard link whose target does
    not come before it, or 32 MiB of metadata before it. An absolute name counts without its slash.

    The file is read to its end, so that a checksum there is checked, and whoever writes into a pipe can end.

    Args:
        file: what is read; a terminal is refused.
        name: what errors call it.
        force: take every file for an entry, also below directories that hold none of Docker's namespaces.
        allow_empty: take an archive without any metadata for one of an empty directory.
        max_bytes: how many bytes the values may have in all, without `force`; each has 64 MiB at most.

    Raises:
        TransferError: it is not an archive, or cannot be read here; it is damaged or cut off; it has no metadata, or
            too much. The caller must then drop what it has been given.
    """
    if file.isatty():
        raise TransferError("it is a terminal: give an archive's path, or pipe one in", name)
    limit = sys.maxsize if force else max_bytes
    with Memories(name, limit) as memories:
        try:
            members = Members(_plain(file, name))
            reading = _Reading(members, memories, force=force)
            given = 0
            for base, found in reading:
                if isinstance(found, Record):
                    given += len(found.value)
                    if given > limit:
                        raise TransferError(_too_much(max_bytes), name)
                yield base, found
        except Damaged as error:
            raise TransferError(f"the archive is damaged: {error}: make it or send it again", name) from error
        except OSError as error:
            raise TransferError(f"cannot be read: {error.strerror or error}", name) from error
    if not (reading.contents.has_metadata or reading.has_entries or allow_empty):
        raise TransferError(_EMPTY if memories.are_there else reading.contents.why_nothing(), name)


def _plain(file: IO[bytes], name: str) -> io.BufferedReader:
    """Return the archive without its compression.

    Raises:
        TransferError: it is no archive, or of a compression that Python cannot read.
    """
    stream = compression.buffered(file)
    head = stream.peek(compression.HEAD)[: compression.HEAD]
    if tar_members.begins(head):
        return stream
    outer = compression.compression_of(head)
    inside = None if outer is None else compression.decompressed(stream, outer, name)
    if inside is None:
        raise TransferError(compression.why_no_tar(head, name, None), name)
    head = inside.peek(compression.HEAD)[: compression.HEAD]
    if not tar_members.begins(head):
        raise TransferError(compression.why_no_tar(head, name, outer), name)
    return inside


_EMPTY: Final = "what container engines remember is in it, but nothing is recorded there; --allow-empty accepts it"


def _too_much(limit: int) -> str:
    return (
        f"its values have more than {limit} bytes in all, the limit of one archive; --force lifts it, if you trust the"
        " archive"
    )


class _Reading:
    """The entries of an archive, and what is none, one after the other."""

    def __init__(self, members: Members, memories: Memories, *, force: bool) -> None:
        self._members, self._memories, self._force = members, memories, force
        self._outside: list[Odd] = []
        self._outside_count = 0
        self._earlier: dict[str, bytes] = {}
        self._room = _LINKABLE
        self.contents = Contents()
        self.has_entries = False

    def __iter__(self) -> Iterator[tuple[str, Record | Odd]]:
        for member in self._members:
            found = self._read(member)
            if found is not None:
                yield found
        if self._members.rest:
            yield "", Odd("(behind the end)", "outside", f"{self._members.rest} bytes that are no archive")
        for path, found_there in self._memories.entries():
            self.has_entries = self.has_entries or isinstance(found_there, Record)
            yield path, found_there
        if self._outside and not self._memories.are_there:
            more = repeat(self._outside[-1], self._outside_count - len(self._outside))
            yield from (("", odd) for odd in chain(self._outside, more))

    def _read(self, member: Member) -> tuple[str, Record | Odd] | None:
        """Read a member, or return `None` for one that is not about metadata."""
        path = relative(member.name)
        if member.kind in tar_members.DIRECTORY:
            path = path.rstrip("/") + "/" if path else ""
            self.contents.add(path, base_of(path))
            return None
        base = base_of(path)
        if member.kind == tar_members.LABEL or (member.kind == tar_members.CONTINUED and base is None):
            return None
        self.contents.add(path, base)
        if base is None and (self._memories.take(path, member, self._members) or self._is_passed_over(path, member)):
            return None
        known = base is not None or self._force
        base = base or ""
        namespace, _, key = path[len(base) :].lstrip("/").partition("/")
        odd = _why_no_entry(member, namespace, key, known=known)
        value = self._value(path, member) if odd is None else None
        if value is None:
            kind, reason = odd or ("special", "a hard link to what the archive does not have before it")
            found = Odd(_shown(member.name), kind, reason)
            if kind == "outside":
                self._outside_count += 1
                self._outside += [found] if len(self._outside) < _NAMED else []
                return None
            return base.rstrip("/"), found
        self.has_entries = True
        return base.rstrip("/"), Record(namespace, key, value, member.modified_at_ns)

    def _is_passed_over(self, path: str, member: Member) -> bool:
        """Tell whether a member is what else a data root holds; remember it for hard links that name it."""
        found = is_rest_of_a_data_root(path)
        is_file = member.kind in tar_members.REGULAR and member.size <= MAX_VALUE
        if found and is_file and may_be_linked_to(path):
            self._value(path, member)
        return found

    def _value(self, path: str, member: Member) -> bytes | None:
        """Return a member's content, and remember it for hard links; of a hard link that of its target, if known."""
        if member.kind == tar_members.HARD_LINK:
            value = self._earlier.get(relative(member.link))
            if value is None:
                return None
        else:
            value = self._members.content()
        room = self._room - len(value) - len(path) - _REMEMBERING
        if room >= 0:
            self._earlier[path], self._room = value, room
        return value


def _shown(name: str) -> str:
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _why_no_entry(member: Member, namespace: str, key: str, *, known: bool) -> tuple[str, str] | None:
    below = [namespace, *key.split("/")]
    is_file = member.kind in tar_members.REGULAR or member.kind == tar_members.HARD_LINK
    checks = (
        (member.kind == tar_members.CONTINUED, "unreadable", "the end of a file that begins in another volume"),
        (not is_file, "special", "a link, device, socket or pipe"),
        (_is_temporary(below), "temporary", "left by a write that did not end"),
        (".." in member.name.split("/"), "name", "the path leads out of the archive"),
        (not key or not known, "outside", "a file outside every namespace"),
        (member.problem is not None, "unreadable", member.problem or ""),
        (member.size > MAX_VALUE, "unreadable", f"larger than {MAX_VALUE >> 20} MiB"),
    )
    for applies, kind, reason in checks:
        if applies:
            return kind, reason
    why = why_not_a_namespace(namespace) or why_not_a_key(key)
    return None if why is None else ("name", why)


def _is_temporary(segments: list[str]) -> bool:
    return any(segment.startswith(TEMPORARY_PREFIX) for segment in segments)


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
        self._add_directories(f"{ROOT}/")  # also of an empty store, so that an import knows it for one
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
