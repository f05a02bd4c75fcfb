"""The files that a connection is open on: are they still the ones at their paths?

SQLite goes on writing into a file that was removed, renamed or replaced, and says that all is well: what it then
acknowledges is lost with the last process that has the file open. In its rollback mode it looks itself
(SQLITE_READONLY_DBMOVED), in write-ahead mode it does not. Source: sqlite.org/howtocorrupt.html, section 2.4.
"""

from __future__ import annotations

import os
from typing import Final

from layerstore.errors import StoreOpenError

Identity = tuple[int, int]
"""Device and inode."""

_SIDES: Final = ("-wal", "-shm")
_NEXT: Final = "nothing more is written into what nobody can find: make a new SQLMetadataStore"


def identity(path: str) -> Identity | None:
    """Return which file is at a path; `None` when there is none, or it cannot be told."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


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
        """Refuse to write into a file that nobody can find any more. Three `stat` calls, 3 µs in all.

        Called with the lock of the writers, or right before a statement that takes it.

        Raises:
            StoreOpenError: the database, its log or its index was removed or replaced since it was opened.
        """
        if identity(self.path) != self.identity:
            raise changed(self.path)
        sides = tuple(map(identity, self._sides))
        if sides != self._known:
            if self._known is not None:
                raise self._lost(sides)
            if None not in sides:  # else it is in rollback mode, or this is before its first transaction
                self._known = sides

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
