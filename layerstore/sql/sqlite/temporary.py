"""SQLite's own temporary files: for what it sorts, stages and rewrites. Is it they that have no room?

SQLite fails with the same codes for them as for the database, and does not say which it means.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Final

from layerstore.errors import StoreError, StoreFullError
from layerstore.words import no_temporary

_NOT_MADE: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_GETTEMPPATH)


def trouble(code: int | None, path: str | None) -> StoreError | None:
    """Return the error for a result code of SQLite's that its temporary files have caused; else `None`.

    Args:
        code: the extended result code.
        path: the database file, `None` in memory.
    """
    if code == sqlite3.SQLITE_FULL:
        folder = _folder()
        return StoreFullError(no_temporary("no space is left"), folder) if _is_fuller(folder, path) else None
    if code in _NOT_MADE:
        folder = _folder()
        try:
            _make_one_in(folder)
        except OSError as error:
            return StoreError(no_temporary(f"{error.strerror}"), folder)
    return None


def _make_one_in(folder: str) -> None:
    path = os.path.join(folder, f"layerstore-{os.urandom(8).hex()}")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.close(descriptor)
    os.unlink(path)


def _folder() -> str:
    """Return where SQLite makes them. Source: sqlite.org/tempfiles.html, section 5."""
    places = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108
    return next((place for place in places if place and os.access(place, os.W_OK | os.X_OK)), ".")


def _is_fuller(folder: str, path: str | None) -> bool:
    """Tell whether a folder is on another file system than the database, with less room."""
    if path is None:
        return True
    try:
        beside = os.path.dirname(path)
        return os.stat(folder).st_dev != os.stat(beside).st_dev and _free(folder) < _free(beside)
    except OSError:
        return False


def _free(folder: str) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
