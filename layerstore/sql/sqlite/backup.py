"""A copy of a store in one file, made while others write."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
from contextlib import closing

from layerstore.errors import StoreError, StoreOpenError
from layerstore.files import tree
from layerstore.sql.sqlite.errors import mapping
from layerstore.sql.store import SQLMetadataStore

_FILE_MODE = 0o600
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS}
"""What link(2) fails with where there are no hard links."""


def backup(store: SQLMetadataStore, path: str | os.PathLike[str]) -> int:
    """Copy the store as it is at this moment to a new file; return its size in bytes.

    The copy is whole or absent. It is in SQLite's rollback mode, so that it is one file, and can be read where nothing
    can be written, and by other users when they are given the right (it is made 0600). Writers do not wait.

    Raises:
        StoreOpenError: there is a file already, or the copy cannot be made there.
        StoreError: the store failed.

    Source: sqlite.org/backup.html, sqlite.org/wal.html ("Read-Only Databases").
    """
    target = os.path.abspath(os.fspath(path))
    if os.path.lexists(target):
        raise StoreOpenError("there is a file already: give a new name, or remove it first", target)
    temporary = f"{target}.tmp-{secrets.token_hex(8)}"
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
        os.chmod(temporary, _FILE_MODE)  # whatever the umask
        with mapping(target), closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            store.copy_to(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        _settle(temporary, target)
    except OSError as error:
        raise StoreOpenError(f"cannot be made: {error.strerror}", target) from error
    finally:
        for leftover in (temporary, f"{temporary}-wal", f"{temporary}-shm", f"{temporary}-journal"):
            if os.path.exists(leftover):
                os.unlink(leftover)
    return os.path.getsize(target)


def _settle(temporary: str, target: str) -> None:
    """Give the synced copy its name, unless somebody took it meanwhile.

    A hard link is the name that replaces none. Where a file system has no links (FAT, some of FUSE), an empty file
    claims the name, and the copy takes the place of this claim alone.
    """
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        try:
            os.link(temporary, target)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            _claim(temporary, target)
    except FileExistsError:
        raise StoreError("another file has this name by now", target) from None
    tree.sync_directory(os.path.dirname(target))


def _claim(temporary: str, target: str) -> None:
    """Rename a file to a name that nobody has.

    Raises:
        FileExistsError: somebody has it.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
    try:
        os.rename(temporary, target)
    except BaseException:
        if os.path.exists(temporary):  # an interrupt may come right behind the rename
            os.unlink(target)
        raise
