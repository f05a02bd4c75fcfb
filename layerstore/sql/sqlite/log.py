"""Keeping the write-ahead log short where readers never pause.

SQLite checkpoints by itself at every commit from some pages on, but begins the log anew only when nobody reads from
it: with readers that overlap, however short each is, it grows for ever. So whoever commits to a long log holds off the
other writers for a moment, until the readers of before are gone; those that come meanwhile need the log no more.

Where each reader is long, that moment is long too. So it waits longer only when that can help: when the readers that
kept the log last time have ended since. How far the log was written back tells: never beyond the oldest reader.
Source: sqlite.org/wal.html ("Avoiding Excessively Large WAL Files"), sqlite.org/pragma.html#pragma_wal_checkpoint.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Final

from layerstore.warnings import warn

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
