"""Driver errors become ours here, by SQLite's result code, never by their text; and Ctrl-C ends a statement.

Python runs a signal's handler between two of its own instructions only, so a statement that never ends would never
let it. A progress handler gives it the chance. What the signal's handler raises there, the driver drops, and says
SQLITE_INTERRUPT instead; so it is kept here, and raised where that is mapped. It is a generator, because the exception
comes at the very beginning of a call: in a function no `try` would be around it yet.

Source: sqlite.org/rescode.html.
"""

from __future__ import annotations

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from layerstore.errors import (
    InvalidInputError,
    LayerstoreError,
    StoreBusyError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
)
from layerstore.words import no_temporary

_NO_MORE_SPACE = "no space is left: free some, then write again; nothing of this write was kept"
DAMAGED: Final = "the database is damaged: copy it and its -wal away, then `layerstore recover FILE NEW`"

# By primary result code, the low 8 bits of the extended one.
_BY_CODE: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusyError, "another process is writing and did not end in time: try again"),
    sqlite3.SQLITE_LOCKED: (StoreBusyError, "another connection of this process is writing: try again"),
    sqlite3.SQLITE_FULL: (StoreFullError, _NO_MORE_SPACE),
    sqlite3.SQLITE_READONLY: (StoreReadOnlyError, "the store can only be read: check its permissions and mount"),
    sqlite3.SQLITE_CANTOPEN: (StoreOpenError, "cannot be opened: check that it exists and who may read it"),
    sqlite3.SQLITE_PERM: (StoreOpenError, "cannot be opened: check who may read it"),
    sqlite3.SQLITE_AUTH: (StoreOpenError, "not allowed"),
    sqlite3.SQLITE_NOTADB: (
        StoreOpenError,
        "not a layerstore database: it is not an SQLite file, or its first page is damaged (then `layerstore recover`)",
    ),
    sqlite3.SQLITE_CORRUPT: (StoreCorruptError, DAMAGED),
    sqlite3.SQLITE_FORMAT: (StoreCorruptError, DAMAGED),
    sqlite3.SQLITE_IOERR: (StoreError, "reading or writing the file failed: check the disk, then `layerstore verify`"),
    sqlite3.SQLITE_NOMEM: (StoreError, "SQLite ran out of memory"),
    sqlite3.SQLITE_INTERRUPT: (StoreError, "interrupted"),
    sqlite3.SQLITE_PROTOCOL: (StoreBusyError, "too many processes open the file at once: try again"),
}


def mapped(error: BaseException, path: str | None, *, closed: bool = False, read_only: bool = False) -> LayerstoreError:
    """Return the error of our tree for one of the driver.

    Args:
        error: `sqlite3.Error`, or what the driver raises instead of one.
        path: the database file, `None` in memory.
        closed: whether the store was closed, which the driver reports without a code.
        read_only: whether it was opened to read only.

    Raises: what a signal's handler raised, KeyboardInterrupt as a rule, if that has stopped the statement.
    """
    raise_interruption(error)
    if closed:
        return StoreClosedError("this store was closed; make a new SQLMetadataStore", path)
    if isinstance(error, UnicodeDecodeError):
        # The driver cannot tell what SQLite says, as it names an object whose name is not UTF-8.
        return StoreCorruptError(
            "its schema is damaged: copy it and its -wal away, then `layerstore recover FILE NEW`", path
        )
    if is_undecodable(error):
        return StoreError(
            f"another program wrote text that is not UTF-8: `layerstore verify` says where ({error})", path
        )
    code = getattr(error, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_TOOBIG:
        return InvalidInputError(f"larger than SQLite allows: {error}")
    kind, advice = _BY_CODE.get((code or 0) & 0xFF, (StoreError, "SQLite failed"))
    if code == sqlite3.SQLITE_IOERR_WRITE:
        kind, advice = _why_not_written()
    elif read_only and kind is StoreReadOnlyError:
        return kind("it was opened read_only: open it again without read_only to write", path)
    name = getattr(error, "sqlite_errorname", None)
    return _of_temporary(code, path) or kind(f"{advice} ({f'{name}: ' if name else ''}{error})", path)


def error_of(code: int | None, said: str, path: str | None) -> StoreError:
    """Return the error of our tree for SQLite's code and text, which another process was told."""
    kind, advice = _BY_CODE.get((code or 0) & 0xFF, (StoreError, "SQLite failed"))
    return _of_temporary(code, path) or kind(f"{advice} ({said})", path)


def _why_not_written() -> tuple[type[StoreError], str]:
    """Say why writing failed; SQLite tells a full disk from everything else alone, and not a limit or a quota."""
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return StoreFullError, "the limit on the size of files (`ulimit -f`) is reached; nothing of this write was kept"
    return StoreError, "writing the file failed: check the quota and the disk, then `layerstore verify`"


_NOT_MADE: Final = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR_GETTEMPPATH)


def _of_temporary(code: int | None, path: str | None) -> StoreError | None:
    """Return the error for a result code that SQLite's own temporary files have caused; else `None`.

    It fails with the same codes for them as for the database, and does not say which it means.

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


@contextmanager
def mapping(path: str | None) -> Iterator[None]:
    """Turn whatever the driver raises in the body into an error of our tree."""
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise mapped(error, path) from error


def is_undecodable(error: BaseException) -> bool:
    """Tell whether the driver, not SQLite, failed on what a row holds: text that is not UTF-8. Also of ours for it."""
    if isinstance(error, StoreError) and error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, sqlite3.OperationalError) and getattr(error, "sqlite_errorcode", None) is None


_UNREADABLE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_IOERR}


@contextmanager
def noting_damage(note: Callable[[str], None]) -> Iterator[None]:
    """Go on behind the body when SQLite cannot read on in it, as the file or the disk is damaged; say so to `note`."""
    try:
        yield
    except StoreError as error:
        cause = error.__cause__
        if (
            not isinstance(cause, sqlite3.Error)
            or (getattr(cause, "sqlite_errorcode", None) or 0) & 0xFF not in _UNREADABLE
        ):
            raise
        note(f"reading stopped: {cause.sqlite_errorname}: {cause}")


_STEPS: Final = 1_000_000
"""Instructions of SQLite between two chances: about 20 ms. No lookup has as many."""

_raised: list[BaseException] = []  # handlers run in the main thread only


def let_signals_in(connection: sqlite3.Connection) -> None:
    """Let handlers of signals run while this connection works. One thread at a time may use it."""
    connection.set_progress_handler(_chances().__next__, _STEPS)


def raise_interruption(error: BaseException) -> None:
    """Raise what a signal's handler raised, if that is why the driver failed."""
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_INTERRUPT and _raised:
        error = _raised[0]  # of several that came in one statement, the first
        _raised.clear()
        raise error from None


def _chances() -> Iterator[bool]:
    """Yield whether the statement shall stop."""
    stop = False
    while True:
        try:
            yield stop
            stop = False
        except GeneratorExit:
            return
        except BaseException as error:  # noqa: BLE001  # it is raised later
            _raised.append(error)
            stop = True
