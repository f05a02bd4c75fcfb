"""A copy of a store in one file, made while others write."""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from layerstore.errors import StoreError, StoreOpenError
from layerstore.files import system, tree
from layerstore.paths import absolute, why_refused
from layerstore.sql.sqlite.backend import SQLite
from layerstore.sql.sqlite.errors import mapping

if TYPE_CHECKING:
    from layerstore.sql.store import SQLMetadataStore

_FILE_MODE = 0o600
_AT_FDCWD = -100


def backup(store: SQLMetadataStore, path: str | os.PathLike[str]) -> int:
    """Copy the store as it is at this moment to a new file; return its size in bytes.

    The copy is whole or absent. It is in SQLite's rollback mode, so that it is one file, and can be read where nothing
    can be written, and by other users when they are given the right (it is made 0600). Writers do not wait.

    Raises:
        StoreOpenError: there is a file already, or the copy cannot be made there.
        StoreError: the store failed.

    Source: sqlite.org/backup.html, sqlite.org/wal.html ("Read-Only Databases").
    """
    backend = store._backend
    if not isinstance(backend, SQLite):
        raise StoreError(
            "a database on a server is backed up by `pg_dump`, or copied to a file: `layerstore --db FILE import URL`",
            store.path,
        )
    target = absolute(path)
    if os.path.lexists(target):
        raise StoreOpenError("there is a file already: give a new name, or remove it first", target)
    temporary = f"{target}.tmp-{secrets.token_hex(8)}"
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE))
        os.chmod(temporary, _FILE_MODE)  # whatever the umask
        with mapping(target), closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            backend.copy_to(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        _settle(temporary, target)
    except OSError as error:
        raise StoreOpenError(f"cannot be made: {why_refused(error)}", target) from error
    finally:
        for leftover in (temporary, f"{temporary}-wal", f"{temporary}-shm", f"{temporary}-journal"):
            if os.path.exists(leftover):
                os.unlink(leftover)
    return os.path.getsize(target)


def _settle(temporary: str, target: str) -> None:
    """Give the synced copy its name, unless somebody took it in the meantime.

    Not by a hard link and the removal of the first name: killed in between, the copy would have two names, and a
    database that has two is refused.
    """
    descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        try:
            system.rename(_AT_FDCWD, temporary, target, system.NO_REPLACE)
        except OSError as error:
            if error.errno not in system.LACKING:
                raise
            _claim(temporary, target)
    except FileExistsError:
        raise StoreError("another process has made a file of this name", target) from None
    tree.sync_directory(os.path.dirname(target))


def _claim(temporary: str, target: str) -> None:
    """Rename a file to a name that nobody has, in two steps: killed in between, an empty file is left.

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
