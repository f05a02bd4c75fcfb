"""System calls that Python does not offer: syncfs(2), and renameat2(2) with its flags."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Final

NO_REPLACE: Final = 1
EXCHANGE: Final = 2
LACKING: Final = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
"""What `rename` fails with where the file system, the kernel or the C library (musl before 1.2.6) lacks it."""


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


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
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), name)
