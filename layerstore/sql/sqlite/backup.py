"""A copy of a store in one file, made while others write."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing

from layerstore.errors import StoreError, StoreOpenError
from layerstore.files.temporary import whole_file
from layerstore.paths import absolute, why_refused
from layerstore.sql.sqlite.errors import mapping


def backup(copy_to: Callable[[sqlite3.Connection], None], path: str | os.PathLike[str]) -> int:
    """Copy a database to a new file by a function that copies it to a connection; return the size in bytes.

    The copy is whole or absent. It is in SQLite's rollback mode, so that it is one file, and can be read where nothing
    can be written, and by other users when they are given the right (it is made 0600). Writers do not wait.

    Raises:
        StoreOpenError: there is a file already, or the copy cannot be made there.
        StoreError: the store failed.

    Source: sqlite.org/backup.html, sqlite.org/wal.html ("Read-Only Databases").
    """
    target = absolute(path)
    if os.path.lexists(target):
        raise StoreOpenError("there is a file already: give a new name, or remove it first", target)
    try:
        with whole_file(target) as temporary:
            _copy(copy_to, temporary, target)
    except FileExistsError as error:
        raise StoreError("another process has made a file of this name", target) from error
    except OSError as error:
        raise StoreOpenError(f"cannot be made: {why_refused(error)}", target) from error
    return os.path.getsize(target)


def _copy(copy_to: Callable[[sqlite3.Connection], None], temporary: str, target: str) -> None:
    try:
        with mapping(target), closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            copy_to(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
    finally:
        for leftover in (f"{temporary}-wal", f"{temporary}-shm", f"{temporary}-journal"):
            if os.path.exists(leftover):
                os.unlink(leftover)
