"""An archive of metadata directories, and of what other engines remember: read from a tar that may be hostile.

What is metadata is told by the names of the members. Files of other engines are told by their content: a cache of
Podman and Skopeo, the `layers.json` of their storage, the metadata of containerd and BuildKit. Those are unpacked into
a temporary folder and read at the end of the archive, as the content by whose first bytes a compression is told may
come behind them.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import IO, Final

from layerstore.collection import Odd
from layerstore.docker.dataroot import described
from layerstore.errors import TransferError
from layerstore.files import temporary, tree
from layerstore.files.scan import show
from layerstore.formats import bbolt, compression, containerd, containers, tar_members
from layerstore.formats.compression import Damaged
from layerstore.formats.facts import Facts, as_entry, uncertain, unreadable
from layerstore.formats.tar_members import Member, Members
from layerstore.keys import KNOWN_NAMESPACES, TEMPORARY_PREFIX, Record, why_not_a_key, why_not_a_namespace

MAX_VALUE: Final = tree.MAX_VALUE
MAX_BYTES: Final = 8 << 30
"""Bytes that the values of one archive may have in all, unless more are allowed."""
_LIMIT: Final = ", the limit of one archive; --force lifts it, if you trust the archive"
_LINKABLE: Final = 32 << 20
"""Bytes of values that are remembered for hard links to them, with what remembering one takes."""
_REMEMBERING: Final = 400
_NAMED: Final = 1000
"""Files outside every namespace that are named. Of more, the number is told."""

_NAMESPACE: Final = f"(?:{'|'.join(KNOWN_NAMESPACES)})/"
_top_namespace = re.compile(_NAMESPACE).match
_any_namespace = re.compile(f"(?:.*?/)?{_NAMESPACE}", re.DOTALL).match
_data_root = re.compile(r"(?:.*?/)?image/[^/]+/distribution/", re.DOTALL).match
_named = re.compile(rf"(?:.*?/)?(?:distribution/|(?={_NAMESPACE}))", re.DOTALL).match
_distribution = re.compile(r"(?:.*?/)?distribution/", re.DOTALL).match
_rest_of_a_data_root = re.compile(
    rf"(?:.*?/)?image/(?!{_NAMESPACE})(?:[^/]+/(?!distribution/)|[^/]+\Z|\Z)", re.DOTALL
).match

_TOPS: Final = 1000
_RIGHT: Final = "pack the metadata, as by `sudo tar -C /var/lib/docker -c image/overlay2/distribution`"

_HEAD: Final = 4096
"""A cache's first page, which has the names of its tables."""
_SQLITE: Final = b"SQLite format 3\0"
_A_TABLE: Final = b"KnownLocations"
_MAX_FILE: Final = bbolt.MAX_BYTES
_MAX_HEADS: Final = 200_000
"""Blobs whose first bytes are remembered. They take 50 MB."""
_NAMES: Final = frozenset((containers.NAME, containers.BOLT_NAME, "meta.db", "containerdmeta.db"))
"""Names of memories. A damaged bolt database of another name is not known to be one, and is passed over."""
_match_blob = re.compile(r"(?:.*/)?blobs/([^/]{1,32})/([^/]{1,128})", re.DOTALL).fullmatch
# What an image or a container brings along is not what this host knows.
_of_a_container = re.compile(
    r"(?:.*/)?(?:overlay2?|fuse-overlayfs|vfs|btrfs|zfs|aufs|devicemapper|snapshots"
    r"|io\.containerd\.(?:snapshotter|runtime)[^/]*|volumes/[^/]+/_data)/",
    re.DOTALL,
).match


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
    with ExitStack() as stack:
        memories = _Memories(name, limit, stack)
        try:
            members = Members(_plain(file, name))
            reading = _Reading(members, memories, force=force)
            given = 0
            for base, found in reading:
                if isinstance(found, Record):
                    given += len(found.value)
                    if given > limit:
                        raise TransferError(f"its values have more than {limit} bytes in all{_LIMIT}", name)
                yield base, found
        except Damaged as error:
            raise TransferError(f"the archive is damaged: {error}: make it or send it again", name) from error
        except OSError as error:
            raise TransferError(f"cannot be read: {error.strerror or error}", name) from error
    if not (reading.contents.has_metadata or reading.has_entries or allow_empty):
        nothing = "what container engines remember is in it, but nothing is recorded there; --allow-empty accepts it"
        raise TransferError(nothing if memories.are_there else reading.contents.why_nothing(), name)


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


class _Reading:
    """The entries of an archive, and what is none, one after the other."""

    def __init__(self, members: Members, memories: _Memories, *, force: bool) -> None:
        self._members, self._memories, self._force = members, memories, force
        self._outside: list[Odd] = []
        self._outside_count = 0
        self._earlier: dict[str, bytes] = {}
        self._room = _LINKABLE
        self.contents = _Contents()
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
            for number in range(self._outside_count):
                yield "", self._outside[min(number, len(self._outside) - 1)]

    def _read(self, member: Member) -> tuple[str, Record | Odd] | None:
        """Read a member, or return `None` for one that is not about metadata."""
        path = _relative(member.name)
        if member.kind in tar_members.DIRECTORY:
            path = path.rstrip("/") + "/" if path else ""
            self.contents.add(path, _base_of(path))
            return None
        base = _base_of(path)
        if member.kind == tar_members.LABEL or (member.kind == tar_members.CONTINUED and base is None):
            return None
        self.contents.add(path, base)
        if base is None and (self._memories.take(path, member) or self._is_passed_over(path, member)):
            return None
        known = base is not None or self._force
        base = base or ""
        namespace, _, key = path[len(base) :].lstrip("/").partition("/")
        odd = _why_no_entry(member, namespace, key, known=known)
        value = self._value(path, member) if odd is None else None
        if value is None:
            kind, reason = odd or ("special", "a hard link to what the archive does not have before it")
            found = Odd(show(os.fsencode(member.name)), kind, reason)
            if kind == "outside":
                self._outside_count += 1
                self._outside += [found] if len(self._outside) < _NAMED else []
                return None
            return base.rstrip("/"), found
        self.has_entries = True
        return base.rstrip("/"), Record(namespace, key, value, member.modified_at_ns)

    def _is_passed_over(self, path: str, member: Member) -> bool:
        """Tell whether a member is what else a data root holds.

        One that lies in a copy of the metadata may have the content of a hard link that follows: it is remembered.
        """
        found = _is_rest_of_a_data_root(path)
        if found and _any_namespace(path) and member.kind in tar_members.REGULAR and member.size <= MAX_VALUE:
            self._value(path, member)
        return found

    def _value(self, path: str, member: Member) -> bytes | None:
        """Return a member's content, and remember it for hard links; of a hard link that of its target, if known."""
        if member.kind == tar_members.HARD_LINK:
            value = self._earlier.get(_relative(member.link))
            if value is None:
                return None
        else:
            value = member.content()
        room = self._room - len(value) - len(path) - _REMEMBERING
        if room >= 0:
            self._earlier[path], self._room = value, room
        return value


def _why_no_entry(member: Member, namespace: str, key: str, *, known: bool) -> tuple[str, str] | None:
    is_temporary = any(segment.startswith(TEMPORARY_PREFIX) for segment in (namespace, *key.split("/")))
    is_file = member.kind in tar_members.REGULAR or member.kind == tar_members.HARD_LINK
    checks = (
        (member.kind == tar_members.CONTINUED, "unreadable", "the end of a file that begins in another volume"),
        (not is_file, "special", "a link, device, socket or pipe"),
        (is_temporary, "temporary", "left by a write that did not end"),
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


def _relative(name: str) -> str:
    """Return a member's name as `tar` unpacks it: without what only says that it is absolute, or here."""
    while name.startswith(("/", "./")):
        name = name.lstrip("/") if name.startswith("/") else name[2:]
    return "" if name == "." else name


def _base_of(path: str) -> str | None:
    """Return the part of a member's path that leads to its namespace, with a slash at its end, or `None`.

    That is `distribution/` or `image/<driver>/distribution/`, wherever they lie; else whatever holds one of Docker's
    namespaces: a directory of any name, or (``) the archive itself. Other directories of a data root, such as a
    `distribution.bak`, are none.
    """
    if _top_namespace(path):
        return ""
    found = _data_root(path) or (None if _is_rest_of_a_data_root(path) else _named(path))
    return None if found is None else found[0]


def _is_rest_of_a_data_root(path: str) -> bool:
    """Tell a daemon's other files in an archive of a data root from metadata."""
    return _rest_of_a_data_root(path) is not None and _distribution(path) is None


class _Contents:
    """What an archive holds, told by the names of its members."""

    def __init__(self) -> None:
        self._tops: dict[str, None] = {}
        self._has_image = self._has_base = self._has_folders = self._has_files = False

    @property
    def has_metadata(self) -> bool:
        """Whether there is a directory of Docker's metadata: with files, or an empty one, as on a fresh host."""
        return self._has_files or (self._has_base and not self._has_folders)

    def add(self, path: str, base: str | None) -> None:
        """Note a member, of a directory with a slash at its end, and what `_base_of` says of it."""
        if base is not None:
            self._has_base = True
            self._has_files = self._has_files or not path.endswith("/")
            self._has_folders = self._has_folders or len(path) > len(base)
        self._has_image = self._has_image or _is_rest_of_a_data_root(path)
        top = path.partition("/")[0]
        if top and len(self._tops) < _TOPS:
            self._tops[top] = None

    def why_nothing(self) -> str:
        """Say that the archive has no metadata, what it looks like, and what would be right."""
        nothing = f"nothing of Docker's namespaces ({', '.join(KNOWN_NAMESPACES)}) is in it"
        return f"{nothing}: {self._looks_like()}; {_RIGHT}"

    def _looks_like(self) -> str:
        known = (
            (
                not self._tops,
                "it is an empty tar. The program that packed it found nothing, or had no permission to read, or the"
                " file was zeroed",
            ),
            (
                self._has_folders,
                "it has their directories, but no file. The program that packed it had no permission to read them, or"
                " a format without such long names (`tar --format=v7`)",
            ),
            (
                self._has_image,
                "it is of a data root, without image/<driver>/distribution. This Docker has recorded nothing yet, or"
                " the program that packed it had no permission to read",
            ),
        )
        return next((what for applies, what in known if applies), f"it holds {described(self._tops)}")


class _Memories:
    """The memories in an archive, as its members come.

    Args:
        archive: what errors call it.
        max_bytes: how many bytes they may have in all.
        stack: behind it, what was unpacked is gone.
    """

    def __init__(self, archive: str, max_bytes: int, stack: ExitStack) -> None:
        self._archive, self._room, self._stack = archive, max_bytes, stack
        self._folder = ""
        self._unpacked: list[tuple[str, str]] = []
        self._odd: list[Odd] = []
        self._heads: dict[str, bytes] = {}
        self.are_there = False
        """Whether there is any; known behind `entries`."""

    def take(self, path: str, member: Member) -> bool:
        """Unpack a member if it may be a memory, and tell whether it was taken. Note how containerd's content begins.

        Raises:
            TransferError: they have too many bytes in all, or there is no room for them.
        """
        if member.kind not in tar_members.REGULAR or member.problem is not None or _of_a_container(path):
            return False
        name = path.rpartition("/")[2]
        head = member.head(_HEAD)
        if not _may_be_one(name, head):
            blob = _match_blob(path)
            if blob is not None and len(self._heads) < _MAX_HEADS:
                self._heads[f"{blob[1]}:{blob[2]}"] = head[: containerd.HEAD]
            return False
        if member.size > _MAX_FILE:
            self._odd.append(unreadable(path, f"larger than {_MAX_FILE >> 20} MiB"))
            return True
        self._room -= member.size
        if self._room < 0:
            raise TransferError(f"what other engines remember has too many bytes in it{_LIMIT}", self._archive)
        self._unpacked.append((path, self._unpack(member)))
        return True

    def entries(self) -> Iterator[tuple[str, Record | Odd]]:
        """Yield what each memory holds, with its path in the archive.

        Raises:
            TransferError: one is damaged.
        """
        for odd in self._odd:
            yield "", odd
        for path, file in self._unpacked:
            try:
                for fact in self._read(path, file) or ():
                    entry = as_entry(fact)
                    yield path, entry._replace(path=f"{path}/{entry.path}") if isinstance(entry, Odd) else entry
            except TransferError as error:
                raise TransferError(str(error.args[0]), os.path.join(self._archive, path)) from error
        if len(self._heads) == _MAX_HEADS and self.are_there:
            yield "", uncertain("blobs", f"compressions that are not known, of blobs beyond {_MAX_HEADS:,}")

    def _unpack(self, member: Member) -> str:
        """Write the content of a member into a file; return its path."""
        try:
            if not self._folder:
                self._folder = self._stack.enter_context(temporary.folder("layerstore-"))
            file = os.path.join(self._folder, str(len(self._unpacked)))
            with open(file, "xb") as unpacked:
                unpacked.writelines(member.chunks())
        except OSError as error:
            raise temporary.cannot_write(error) from error
        return file

    def _read(self, path: str, file: str) -> Facts | None:
        """Return what a file holds, `None` if it is no memory."""
        with open(file, "rb") as unpacked:
            head = unpacked.read(_HEAD)
        found: Facts | None
        if bbolt.is_bbolt(head):
            found = self._read_bolt(file, is_named=path.rpartition("/")[2] in _NAMES)
        elif head.startswith(_SQLITE):
            found = containers.read_sqlite(file)
        else:
            found = containers.read_layers(file)
        self.are_there = self.are_there or found is not None
        return found

    def _read_bolt(self, path: str, *, is_named: bool) -> Facts | None:
        try:
            file = bbolt.read(path)
        except TransferError:
            if is_named:
                raise
            return None
        buckets = file.root.buckets
        if b"v1" in buckets:
            return containerd.facts_of(file, self._heads.get)
        if buckets.keys() & containers.BUCKETS:
            return containers.read_bolt(file)
        return iter(()) if is_named and not buckets else None  # one in which nothing was recorded yet


def _may_be_one(name: str, head: bytes) -> bool:
    if head.startswith(_SQLITE):
        return _A_TABLE in head or name == containers.NAME
    return bbolt.is_bbolt(head) or (name == containers.LAYERS_NAME and containers.begins_layers(head) is not None)
