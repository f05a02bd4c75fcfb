"""Signals while SQLite works: Ctrl-C ends a statement, however long it is.

Python runs a signal's handler between two of its own instructions only, so a statement that never ends would never
let it. A progress handler gives it the chance. What the signal's handler raises there, the driver drops, and says
SQLITE_INTERRUPT instead; so it is kept here, and raised where that is mapped. It is a generator, because the exception
comes at the very beginning of a call: in a function no `try` would be around it yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Final

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
