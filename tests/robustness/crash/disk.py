"""What a power cut may leave of a directory, given the system calls of the process that wrote to it.

The model is more pessimistic than any journaling file system. What was not synced is there or not, in any mixture:

- A change of names (a file or directory made, linked, renamed, removed) is kept for sure once its directory, or the
  whole file system, was synced after it. Until then it may be lost, in any order and in any combination, but for this:
  a change of a name that is kept keeps the earlier changes of the same names, and a rename happens whole or not at all.
- A file's bytes are kept for sure once the file, or the whole file system, was synced. Until then each block of each
  write is there or not, what is missing is what was there before, or zeros; and the file's length is any that it has
  had since: so empty, cut off at a block, and full of zeros are among the states.
- Syncing a file keeps neither its name nor its directory; syncing a directory keeps not that directory's own name.
- Modes and times are kept once the file or directory itself, or the file system, was synced.

The states of ext4 (`data=ordered`), XFS and Btrfs, where names are kept in the order in which they were changed, are
some of these. Source: fsync(2), "does not necessarily ensure that the entry in the directory has reached disk"; Pillai
et al., "All File Systems Are Not Created Equal" (OSDI 2014).
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.robustness.crash.process import ACKNOWLEDGED
from tests.robustness.crash.trace import Call, Descriptor

BLOCK = 4096


@dataclass(eq=False)
class Inode:
    """A file or directory by itself, without its name; what it had when the recording began."""

    is_directory: bool
    mode: int
    data: bytes = b""
    modified_at_ns: int = 0
    names: dict[str, Inode] = field(default_factory=dict)


class Naming(NamedTuple):
    """Names that come to stand for other inodes, or for none, all at once."""

    changes: tuple[tuple[Inode, str, Inode | None], ...]


class Write(NamedTuple):
    inode: Inode
    offset: int
    data: bytes


class Length(NamedTuple):
    inode: Inode
    size: int


class Attributes(NamedTuple):
    inode: Inode
    mode: int | None
    modified_at_ns: int | None


class Sync(NamedTuple):
    """From now on, everything that was done to the inode before `began` is kept; without an inode, to anything."""

    inode: Inode | None
    began: int
    only_data: bool


class Acknowledged(NamedTuple):
    number: int


Event = Naming | Write | Length | Attributes | Sync | Acknowledged
Change = Naming | Write | Length | Attributes


class Disk:
    """A directory as it was, and what happened to it from then on.

    Attributes:
        top: the directory as it was when the recording began, all of it safely on the disk.
        events: what happened, in order.
    """

    def __init__(self, home: Path) -> None:
        self.top = _inode(home)
        self.events: list[Event] = []
        self._home = str(home)
        self._now: dict[Inode, dict[str, Inode]] = {}
        self._sizes: dict[Inode, int] = {}
        self._open: dict[int, tuple[Inode, bool]] = {}
        self._offsets: dict[tuple[int, Inode | None], int] = {}
        self._ended: list[int] = []

    def replay(self, calls: list[Call]) -> None:
        """Take in the calls of the process."""
        for call in calls:
            self._ended.append(len(self.events))
            if call.result >= 0:
                self._take(call)

    # What a call does. Calls that touch nothing below the directory are passed over.

    def _take(self, call: Call) -> None:  # noqa: C901, PLR0912  # one branch a call
        match call.name, call.arguments:
            case "openat", [Descriptor() as at, bytes() as name, str() as flags, *mode]:
                self._opened(call, at, name, flags, int(str(mode[0]), 8) if mode else 0)
            case "close", [Descriptor(number, _)]:
                self._open.pop(number, None)
            case (("dup" | "dup2" | "dup3" | "fcntl"), [Descriptor(number, _), *rest]):
                # Not in it is the directory itself, which is found by its path.
                if number in self._open and (call.name != "fcntl" or "F_DUPFD" in str(rest[0])):
                    self._open[call.result] = self._open[number]
            case "lseek", [Descriptor(number, _) as place, *_]:
                self._offsets[number, self._file(place)] = call.result
            case "write", [Descriptor() as place, bytes() as data, _]:
                self._wrote(place, data[: call.result])
            case "pwrite64", [Descriptor() as place, bytes() as data, _, str() as offset]:
                self._write(self._file(place), int(offset), data[: call.result])
            case "ftruncate", [Descriptor() as place, str() as size]:
                self._resize(self._file(place), int(size))
            case (("fsync" | "fdatasync"), [Descriptor() as place]):
                inode = self._file(place)
                if inode is not None:
                    self.events.append(Sync(inode, self._begin(call), only_data=call.name == "fdatasync"))
            case "syncfs", [Descriptor() as place]:
                assert self._file(place) is not None, "the other file system was synced"
                self.events.append(Sync(None, self._begin(call), only_data=False))
            case "sync", _:
                self.events.append(Sync(None, self._begin(call), only_data=False))
            case ("rename", [bytes() as old, bytes() as new]):
                self._rename(self._place(None, old), self._place(None, new))
            case (
                ("renameat" | "renameat2"),
                [Descriptor() as a, bytes() as old, Descriptor() as b, bytes() as new, *flags],
            ):
                self._rename(self._place(a, old), self._place(b, new), exchange="RENAME_EXCHANGE" in flags)
            case "link", [bytes() as old, bytes() as new]:
                self._link(self._lookup(None, old), self._place(None, new))
            case "linkat", [Descriptor() as a, bytes() as old, Descriptor() as b, bytes() as new, *_]:
                self._link(self._lookup(a, old), self._place(b, new))
            case (("unlink" | "rmdir"), [bytes() as name]):
                self._name(self._place(None, name), None)
            case "unlinkat", [Descriptor() as at, bytes() as name, *_]:
                self._name(self._place(at, name), None)
            case ("mkdir", [bytes() as name, str() as mode]):
                self._name(self._place(None, name), Inode(is_directory=True, mode=int(mode, 8) & ~0o022))
            case ("mkdirat", [Descriptor() as at, bytes() as name, str() as mode]):
                self._name(self._place(at, name), Inode(is_directory=True, mode=int(mode, 8) & ~0o022))
            case "mknod", [bytes() as name, str() as mode, *_]:
                self._name(self._place(None, name), Inode(is_directory=False, mode=_permissions(mode)))
            case "mknodat", [Descriptor() as at, bytes() as name, str() as mode, *_]:
                self._name(self._place(at, name), Inode(is_directory=False, mode=_permissions(mode)))
            case "chmod", [bytes() as name, str() as mode]:
                self._attributes(self._lookup(None, name), mode=int(mode, 8))
            case "fchmodat", [Descriptor() as at, bytes() as name, str() as mode, *_]:
                self._attributes(self._lookup(at, name), mode=int(mode, 8))
            case "fchmod", [Descriptor() as place, str() as mode]:
                self._attributes(self._file(place), mode=int(mode, 8))
            case "utimensat", [Descriptor() as place, "NULL", str() as times, *_]:
                self._attributes(self._file(place), modified_at_ns=_time(times))
            case "utimensat", [Descriptor() as at, bytes() as name, str() as times, *_]:
                self._attributes(self._lookup(at, name), modified_at_ns=_time(times))
            case _:
                assert self._home not in repr(call), f"a call that is not understood: {call!r:.300}"

    def _begin(self, call: Call) -> int:
        return self._ended[call.began] if call.began < len(self._ended) else len(self.events)

    def _opened(self, call: Call, at: Descriptor, name: bytes, flags: str, mode: int) -> None:
        place = self._place(at, name)
        if place is None:
            return
        inode = self._lookup(at, name)
        if "O_TMPFILE" in flags:
            inode = Inode(is_directory=False, mode=mode & ~0o022)
        elif inode is None:
            assert "O_CREAT" in flags, call
            inode = Inode(is_directory=False, mode=mode & ~0o022)
            self._name(place, inode)
        elif "O_TRUNC" in flags:
            self._resize(inode, 0)
        self._open[call.result] = inode, "O_APPEND" in flags
        self._offsets[call.result, inode] = 0

    def _wrote(self, place: Descriptor, data: bytes) -> None:
        inode = self._file(place)
        if ACKNOWLEDGED in data[:32]:
            self.events.append(Acknowledged(int(data.partition(ACKNOWLEDGED)[2])))
        elif inode is not None:
            appends = self._open[place.number][1]
            offset = self._size(inode) if appends else self._offsets[place.number, inode]
            self._write(inode, offset, data)
            self._offsets[place.number, inode] = offset + len(data)
        else:
            assert not place.path.startswith(self._home), "written to a file that is not known"

    def _write(self, inode: Inode | None, offset: int, data: bytes) -> None:
        if inode is not None:
            # Each block by itself: a disk may have written any of them.
            start = 0
            while start < len(data):
                end = min(len(data), start + BLOCK - (offset + start) % BLOCK)
                self.events.append(Write(inode, offset + start, data[start:end]))
                start = end
            self._sizes[inode] = max(self._size(inode), offset + len(data))

    def _resize(self, inode: Inode | None, size: int) -> None:
        if inode is not None:
            self.events.append(Length(inode, size))
            self._sizes[inode] = size

    def _size(self, inode: Inode) -> int:
        return self._sizes.get(inode, len(inode.data))

    def _attributes(self, inode: Inode | None, *, mode: int | None = None, modified_at_ns: int | None = None) -> None:
        if inode is not None:
            self.events.append(Attributes(inode, mode, modified_at_ns))

    def _link(self, inode: Inode | None, place: tuple[Inode, str] | None) -> None:
        assert (inode is None) == (place is None), "linked into the directory from outside, or the other way round"
        if inode is not None:
            self._name(place, inode)

    def _rename(self, old: tuple[Inode, str] | None, new: tuple[Inode, str] | None, *, exchange: bool = False) -> None:
        assert (old is None) == (new is None), "renamed into the directory from outside, or the other way round"
        if old is not None and new is not None:
            inode = self._names(old[0])[old[1]]
            self._change((*old, self._names(new[0])[new[1]] if exchange else None), (*new, inode))

    def _name(self, place: tuple[Inode, str] | None, inode: Inode | None) -> None:
        if place is not None:
            self._change((*place, inode))

    def _change(self, *changes: tuple[Inode, str, Inode | None]) -> None:
        for directory, name, inode in changes:
            if inode is None:
                del self._names(directory)[name]
            else:
                self._names(directory)[name] = inode
        self.events.append(Naming(changes))

    # Which inode is meant, by what the names are now.

    def _names(self, directory: Inode) -> dict[str, Inode]:
        return self._now.setdefault(directory, dict(directory.names))

    def _file(self, place: Descriptor) -> Inode | None:
        # By the path, as another process may have the same number; a file that has lost its name has only that.
        if place.path:
            return self._at(place.path)
        return self._open[place.number][0] if place.number in self._open else None

    def _lookup(self, at: Descriptor | None, name: bytes) -> Inode | None:
        path = os.path.join(at.path if at else os.getcwd(), os.fsdecode(name))
        if path.startswith("/proc/self/fd/"):
            number = int(os.path.basename(path))
            return self._open[number][0] if number in self._open else None
        return self._at(path)

    def _place(self, at: Descriptor | None, name: bytes) -> tuple[Inode, str] | None:
        path = os.path.join(at.path if at else os.getcwd(), os.fsdecode(name))
        directory = self._at(os.path.dirname(path))
        return None if directory is None else (directory, os.path.basename(path))

    def _at(self, path: str) -> Inode | None:
        path = os.path.normpath(path)
        if path == self._home:
            return self.top
        if not path.startswith(f"{self._home}/"):
            return None
        inode: Inode | None = self.top
        for segment in path.removeprefix(f"{self._home}/").split("/"):
            inode = None if inode is None else self._names(inode).get(segment)
        return inode


def _inode(path: Path) -> Inode:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISDIR(status.st_mode):
        names = {below.name: _inode(below) for below in path.iterdir()}
        return Inode(is_directory=True, mode=mode, modified_at_ns=status.st_mtime_ns, names=names)
    assert stat.S_ISREG(status.st_mode), path
    return Inode(is_directory=False, mode=mode, data=path.read_bytes(), modified_at_ns=status.st_mtime_ns)


def _permissions(mode: str) -> int:
    return int(mode.removeprefix("S_IFREG|"), 8) & ~0o022


def _time(times: str) -> int:
    """Return the second of two times, `[{tv_sec=0, tv_nsec=5} /* … */, {tv_sec=0, tv_nsec=6} /* … */]`."""
    seconds, nanoseconds = times.rpartition("tv_sec=")[2].split("}")[0].split(", tv_nsec=")
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
