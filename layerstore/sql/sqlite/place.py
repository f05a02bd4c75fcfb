"""A database's files: has it one name, may others change it, is it still the one that was opened? And a short log.

One name: SQLite finds the write-ahead log by the name of the file. Under two names (hard links, or a bind mount of the
file alone) there are two logs, and what is written with one is lost with the other, without an error. Source:
sqlite.org/howtocorrupt.html, section 2.3, "Multiple links to the same file".

Still the one: SQLite goes on writing into a file that was removed, renamed or replaced, and says that all is well: what
it then acknowledges is lost with the last process that has the file open. In its rollback mode it looks itself
(SQLITE_READONLY_DBMOVED), in write-ahead mode it does not. Source: sqlite.org/howtocorrupt.html, section 2.4.

A short log: SQLite checkpoints by itself at every commit from some pages on, but begins the log anew only when nobody
reads from it: with readers that overlap, however short each is, it grows for ever. So whoever commits to a long log
holds off the other writers for a moment, until the readers of before are gone; those that come meanwhile need the log
no more.

Where each reader is long, that moment is long too. So it waits longer only when that can help: when the readers that
kept the log last time have ended since. How far the log was written back tells: never beyond the oldest reader. Source:
sqlite.org/wal.html ("Avoiding Excessively Large WAL Files"), sqlite.org/pragma.html#pragma_wal_checkpoint.
"""

from __future__ import annotations

import io
import os
import sqlite3
import stat
from collections.abc import Iterator
from typing import Final

from layerstore.errors import StoreOpenError
from layerstore.files import tree
from layerstore.warnings import warn

_told: set[tuple[str, str]] = set()

Identity = tuple[int, int]
"""Device and inode."""

CHECKPOINT_PAGES: Final = 1000
"""Pages of the log from which on SQLite writes it back: its own default, 4 MB, which 70 to 90 `add`s fill. All writers
wait for the one that writes it back: 6 ms, where 3,000 pages take 18 and save 4 % of an `add` in the mean."""

LIMIT: Final = 16 << 20
"""Bytes of the log from which on it is cut; four times as many as where SQLite begins to write it back."""

WAIT_MS: Final = 25
"""How long other writers are held off by one try. Several short ones, as a long one may wait in vain for as long as
readers overlap, where the next one finds nobody in its way: 5 of 100, when this was tried on a busy machine."""

TRIES: Final = 4
"""How many there are. One snapshot that is read for longer keeps the log as it is until it ends."""

PATIENCE_MS: Final = 2_000
"""How long other writers are held off where readers are long, but end: twice as long as one of them reads is enough. A
fifteenth of what a writer waits for the others by default."""

_SIDES: Final = ("-wal", "-shm")
_NEXT: Final = "refusing to write to a deleted file; open the store again"


def identity(path: str) -> Identity | None:
    """Return which file is at a path; `None` when there is none, or it cannot be told."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def check_name(path: str, *, read_only: bool) -> None:
    """Refuse to write to a database that has another name; to read, log a warning, once for each file and process.

    Raises:
        StoreOpenError: it is to be written, and has hard links, or is a mount point itself.
    """
    reason = _why_two_names(path)
    if reason is not None and not read_only:
        raise StoreOpenError(reason, path)
    if reason is not None:
        _warn(path, reason)


def warn_of_others(path: str) -> None:
    """Log a warning, once for each file and process, if other users may change a database or its directory.

    The rule is that of OpenSSH's StrictModes: both must belong to root or to this user, and not be writable for
    everybody. OpenSSH refuses; here it is a warning, as the operator may know why it is so. A group may write, which
    is how several builders share a store; and in a sticky directory as /tmp, only the owner can replace a file.
    """
    real = os.path.realpath(path)
    reasons = [*_reasons_of(real), *_reasons_of(os.path.dirname(real))]
    if reasons:
        _warn(path, f"other users may change this database: {'; '.join(reasons)}")


def _warn(path: str, what: str) -> None:
    if (path, what) not in _told:
        _told.add((path, what))
        warn("%s: %s", path, what)


def _why_two_names(path: str) -> str | None:
    try:
        links = os.stat(path).st_nlink
    except OSError:
        return None  # it has just been removed, which whoever opens it will say
    if links > 1:
        return (
            f"the file has {links} names (hard links). Each has a log of its own, so writes under one name are lost"
            f" under another. Stop the programs that write to it, then run `layerstore --db {path} backup NEW` and"
            f" `mv NEW {path}`"
        )
    if _is_mount_point(os.path.realpath(path)):
        return (
            "the file is mounted alone (a bind mount). Its log is not beside the original, so writes are lost there or"
            f" here. Stop the programs that write to it, run `layerstore --db {path} backup NEW`, `mv` NEW over the"
            " original, and mount the directory instead of the file"
        )
    return None


def _is_mount_point(path: str) -> bool:
    """Tell whether a file is one, which `os.path.ismount` does not; where there is no /proc, say no."""
    try:
        return _mount_of(path) != _mount_of(os.path.dirname(path))
    except OSError:
        return False


def _mount_of(path: str) -> str:
    # O_PATH does not open the file: to close it does not drop the locks that this process has on it.
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}") as lines:
            return next((line for line in lines if line.startswith("mnt_id:")), "")
    finally:
        os.close(descriptor)


def _reasons_of(path: str) -> Iterator[str]:
    try:
        status = os.stat(path)
    except OSError:
        return  # it is not for us to look there
    if status.st_uid not in (0, os.geteuid()):
        yield f"{path} belongs to the user with number {status.st_uid} (`chown` gives it to you)"
    elif status.st_mode & stat.S_IWOTH and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        yield f"everybody may write to {path} (`chmod o-w` ends that)"


class LogFile(io.FileIO):
    """A log that is open to be synced; it is closed when nobody uses it any more."""

    def __del__(self) -> None:
        self.close()


class Place:
    """Where a connection's database is, and which files its write-ahead log and index are.

    The log and its index are there from a connection's first transaction until the last connection closes, and are
    never replaced meanwhile: SQLite truncates them, and removes them only when nobody has them open.

    Attributes:
        path: the database.
        identity: which file it is.
    """

    __slots__ = ("_known", "_sides", "identity", "path")

    def __init__(self, path: str, found: Identity) -> None:
        self.path, self.identity = path, found
        # SQLite puts them beside the file that a link leads to.
        real = os.path.realpath(path)
        self._sides = tuple(real + side for side in _SIDES)
        self._known: tuple[Identity | None, ...] | None = None

    def check(self) -> None:
        """Refuse to write to a deleted or replaced file. Three `stat` calls, 3 µs in all.

        Called with the lock of the writers, or right before a statement that takes it.

        Raises:
            StoreOpenError: the database, its log or its index was removed or replaced since it was opened.
        """
        if identity(self.path) != self.identity:
            raise changed(self.path)
        log, index = self._sides
        sides = identity(log), identity(index)
        if sides != self._known:
            if self._known is not None:
                raise self._lost(sides)
            if None not in sides:  # else it is in rollback mode, or this is before its first transaction
                self._known = sides

    def open_log(self) -> LogFile | None:
        """Open the log to sync it, behind a `check`; `None` where it is not what SQLite has open.

        Its name is synced here, as SQLite does before it syncs a log for the first time. SQLite has no locks on this
        file, so it may be closed again.
        """
        path = self._sides[0]
        try:
            log = LogFile(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC))
            status = os.fstat(log.fileno())
            if self._known is None or self._known[0] != (status.st_dev, status.st_ino):
                return None
            tree.sync_directory(os.path.dirname(path))
        except OSError:
            return None
        return log

    def _lost(self, sides: tuple[Identity | None, ...]) -> StoreOpenError:
        assert self._known is not None
        lost = next(path for path, now, known in zip(self._sides, sides, self._known, strict=True) if now != known)
        return StoreOpenError(
            f"{os.path.basename(lost)}, which is a part of it, was removed or replaced while it was in use; {_NEXT},"
            " then `layerstore verify`",
            self.path,
        )


def changed(path: str) -> StoreOpenError:
    """Return the error for a database that is not the one that was opened."""
    what = "was replaced by another file" if os.path.lexists(path) else "was removed"
    return StoreOpenError(f"{what} since this store opened it; {_NEXT}", path)


class LogKeeper:
    """Cuts the log after commits of one connection. After a try in vain, not before it has grown by the limit again."""

    def __init__(self) -> None:
        self._log = ""
        self._forget()

    def _forget(self) -> None:
        self._allowed = LIMIT
        self._patient_from = 2 * LIMIT
        self._kept_until = 0  # pages of the log when it was last kept: beyond them, other readers keep it

    def committed(self, connection: sqlite3.Connection, path: str) -> None:
        """Cut the log of the database at `path` if it is long. The commit stands, whatever happens here."""
        self._log = self._log or f"{os.path.realpath(path)}-wal"  # beside the file that a link leads to
        try:
            size = os.stat(self._log).st_size
        except FileNotFoundError:
            return
        if size <= LIMIT:
            if self._allowed > LIMIT:
                self._forget()
        elif size > self._allowed:
            try:
                self._cut(connection, path, size)
            except sqlite3.Error as error:
                # As SQLite does for the checkpoints that it makes by itself: what is committed is in the log.
                self._allowed = size + LIMIT
                warn("the write-ahead log of %s cannot be written back yet: %s", path, error)

    def _cut(self, connection: sqlite3.Connection, path: str, size: int) -> None:
        """Write the log into the database and make it empty, if the readers allow it."""
        for _ in range(TRIES):
            busy, pages, written_back = _checkpoint(connection, WAIT_MS)
            if not busy:
                return self._forget()
        if size >= self._patient_from and written_back >= self._kept_until > 0:
            busy, pages, written_back = _checkpoint(connection, PATIENCE_MS)
            if not busy:
                return self._forget()
            self._patient_from = 2 * size  # these readers are longer still
        if written_back >= self._kept_until:
            self._kept_until = pages
        self._allowed = size + LIMIT
        return None


def _checkpoint(connection: sqlite3.Connection, wait_ms: int) -> tuple[int, int, int]:
    """Return whether readers are in the way, the pages of the log, and how many of them are in the database now."""
    timeout_ms = connection.execute("PRAGMA busy_timeout").fetchone()[0]
    connection.execute(f"PRAGMA busy_timeout={wait_ms}")
    try:
        busy, pages, written_back = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return busy, pages, written_back
    finally:
        connection.execute(f"PRAGMA busy_timeout={timeout_ms}")
