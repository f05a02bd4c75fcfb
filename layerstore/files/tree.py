"""A directory below which no link is followed: reading, writing, renaming and removing its files.

Each step down goes through a file descriptor of the directory above, so that a link put in the way at any moment is
refused, not followed. Errors are plain `OSError`; `layerstore.files.store` and `layerstore.transfer` name them.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Final

from layerstore.keys import TEMPORARY_PREFIX
from layerstore.paths import why_refused

if TYPE_CHECKING:
    from ctypes import CDLL

BASE_MODE = 0o700
DIRECTORY_MODE = 0o755
FILE_MODE = 0o644
MAX_VALUE = 64 << 20
"""Bytes of the largest file that is taken unless it is asked for by name. A list of 50 entries has about 12,000."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a FIFO that lies there would wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What the process or the machine lacks: it says nothing about the file."""

# The flags of `rename`.
NO_REPLACE: Final = 1
EXCHANGE: Final = 2
LACKING: Final = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What `rename` fails with where the file system, the kernel or the C library (musl before 1.2.6) lacks it."""

databases: set[tuple[int, int]] = set()
"""Device and inode of the databases that this process has open. Opening and closing one as a file would drop the locks
that SQLite holds on it. Source: sqlite.org/howtocorrupt.html, section 2.2."""


def make_base(path: str) -> None:
    """Make a base directory and the missing ones above it, 0700 whatever the umask, as Docker's constructor.

    Each is synced into the one above it, so that a power cut does not take what is written below.
    """
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent != path:
        make_base(parent)
    try:
        os.mkdir(path, BASE_MODE)
    except FileExistsError:
        if os.path.isdir(path):
            return  # another process made it just now
        raise
    os.chmod(path, BASE_MODE)
    sync_directory(parent)


def sync_directory(path: str) -> None:
    """Make what was made, renamed or removed in a directory survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def directory(base: str, segments: Sequence[str], *, create: bool = False) -> Iterator[int]:
    """Open the directory `segments` below `base`; with `create`, make what is missing 0755 whatever the umask.

    Links in `base` itself are followed, as it is the operator's; below it, one is `NotADirectoryError`.
    """
    if create:
        make_base(base)
    top = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        here = open_below(top, segments, create=create)
    finally:
        os.close(top)
    try:
        yield here
    finally:
        os.close(here)


def open_below(top: int, segments: Sequence[str], *, create: bool = False) -> int:
    """Open the directory `segments` below an open one, for the caller to close; otherwise as `directory`."""
    here = os.dup(top)
    try:
        for segment in segments:
            below = _step_down(here, segment, create=create)
            os.close(here)
            here = below
    except BaseException:
        os.close(here)
        raise
    return here


def _step_down(here: int, segment: str, *, create: bool) -> int:
    try:
        return os.open(segment, _DIRECTORY, dir_fd=here)
    except FileNotFoundError:
        if not create:
            raise
    try:
        os.mkdir(segment, DIRECTORY_MODE, dir_fd=here)
    except FileExistsError:
        return os.open(segment, _DIRECTORY, dir_fd=here)  # another process made it just now
    made = os.open(segment, _DIRECTORY, dir_fd=here)
    try:
        os.fchmod(made, DIRECTORY_MODE)
        os.fsync(here)
    except OSError:
        os.close(made)
        raise
    return made


def read(directory: int, name: str | bytes, *, limit_bytes: int | None = MAX_VALUE) -> tuple[bytes, os.stat_result]:
    """Return a regular file's bytes and status; anything else is `IsADirectoryError`.

    A file of more than `limit_bytes` is `EFBIG`, and no more of it than that is ever in memory.
    """
    if databases and is_open_database(directory, os.fsencode(name)):
        raise PermissionError(errno.EPERM, "it is a database that is open here")
    return read_regular(directory, name, limit_bytes=limit_bytes)


def read_regular(
    directory: int, name: str | bytes, *, limit_bytes: int | None = MAX_VALUE
) -> tuple[bytes, os.stat_result]:
    """`read` what is known to be no database that is open here. Each step of it counts in a scan of a million files."""
    descriptor = os.open(name, _FILE, dir_fd=directory)
    try:
        status = os.fstat(descriptor)
        size = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise IsADirectoryError(f"not a regular file: {os.fsdecode(name)!r}")
        if limit_bytes is not None and size > limit_bytes:
            raise _too_large(limit_bytes)
        value = os.read(descriptor, size + 1)
        if len(value) != size:  # it is being written, or is more than one call reads
            value = _read_on(descriptor, value, limit_bytes)
        return value, status
    finally:
        os.close(descriptor)


def _read_on(descriptor: int, begun: bytes, limit_bytes: int | None) -> bytes:
    parts, size = [begun], len(begun)
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
        size += len(part)
        if limit_bytes is not None and size > limit_bytes:
            raise _too_large(limit_bytes)
    return b"".join(parts)


def _too_large(limit_bytes: int) -> OSError:
    return OSError(errno.EFBIG, f"larger than {limit_bytes} bytes")


def is_open_database(directory: int, name: bytes) -> bool:
    """Tell whether a file is a database that this process has open, or the `-shm` of one."""
    for of in (name, name.removesuffix(b"-shm")):
        try:
            status = os.stat(of, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if (status.st_dev, status.st_ino) in databases:
            return True
    return False


def why_unreadable(error: OSError) -> str:
    """Say what keeps a file or directory from being read, and what helps."""
    return f"cannot be read: {why_refused(error)}"


def random_suffix() -> str:
    """Return what makes the name of a temporary file its own."""
    return str(int.from_bytes(os.urandom(8)) % 10**10)


def temporary_name(name: str, suffix: str) -> str:
    """Return the name that a file has while it is written.

    Source: Docker's `ioutils.AtomicWriteFile`, which names it `.tmp-<name><random>`.
    """
    return f"{TEMPORARY_PREFIX}{name}{suffix}"


def write_new(
    directory: int, name: str, value: bytes, modified_at_ns: int | None = None, *, sync: bool = False
) -> None:
    """Write a file that is not there, 0644 whatever the umask. When that fails, there is none."""
    descriptor = os.open(name, _NEW, 0o600, dir_fd=directory)
    try:
        left = memoryview(value)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fchmod(descriptor, FILE_MODE)
        if modified_at_ns is not None:
            os.utime(descriptor, ns=(modified_at_ns, modified_at_ns))
        if sync:
            os.fsync(descriptor)
    except BaseException:
        os.unlink(name, dir_fd=directory)
        raise
    finally:
        os.close(descriptor)


def replace(directory: int, name: str, value: bytes, modified_at_ns: int | None = None) -> None:
    """Write a file whole or not at all: temporary file, fsync, rename, fsync of the directory."""
    temporary = temporary_name(name, random_suffix())
    write_new(directory, temporary, value, modified_at_ns, sync=True)
    try:
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):  # an interrupt may come right behind the rename
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


def remove(directory: int, name: str) -> None:
    """Remove a regular file; anything else is `IsADirectoryError`."""
    if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
        raise IsADirectoryError(f"not a regular file: {name!r}")
    os.unlink(name, dir_fd=directory)


# System calls that Python does not offer: syncfs(2), and renameat2(2) with its flags.


@cache
def _library() -> CDLL:
    from ctypes import CDLL  # noqa: PLC0415  # a lookup needs none of it

    return CDLL(None, use_errno=True)


def sync_file_system(descriptor: int) -> None:
    """Write everything of the file system in which `descriptor` is open to its disk.

    Where the C library has no syncfs(2), sync(2) does it for all of them.
    """
    if not hasattr(_library(), "syncfs"):
        os.sync()
    elif _library().syncfs(descriptor) != 0:
        raise _failed()


def rename(directory: int, one: str, other: str, flags: int) -> None:
    """Rename within a directory: to a name that nobody has (`NO_REPLACE`), or exchange the two (`EXCHANGE`).

    Raises:
        FileExistsError: somebody has the name.
        OSError: one of `LACKING`, or anything else.
    """
    if not hasattr(_library(), "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if _library().renameat2(directory, os.fsencode(one), directory, os.fsencode(other), flags) != 0:
        raise _failed(other)


def _failed(name: str | None = None) -> OSError:
    from ctypes import get_errno  # noqa: PLC0415  # as above

    code = get_errno()
    return OSError(code, os.strerror(code), name)
