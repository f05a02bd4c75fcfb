"""The driver's errors become ours here, by PostgreSQL's SQLSTATE, never by their text.

Source: postgresql.org/docs/15/errcodes-appendix.html.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg

from layerstore.errors import (
    InvalidInputError,
    LayerstoreError,
    StoreBusyError,
    StoreClosedError,
    StoreConnectionError,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
)

_NOT_KNOWN: Final = (
    "the connection to the server was lost; whether the last write was kept is not known: look, then repeat it"
)

_RIGHTS: Final = "this role may not do that: ask the owner of the database for the rights (docs/fleet.md has them)"
_DAMAGED: Final = "the server found the database damaged: `pg_amcheck`, or restore a backup"
_BY_STATE: Final[dict[str, tuple[type[StoreError], str]]] = {
    "55P03": (StoreBusyError, "another writer did not end in time: try again"),
    "57014": (
        StoreBusyError,
        "the server stopped the statement: it took too long, or was cancelled: try again",
    ),
    "40001": (StoreBusyError, "another writer was faster: try again"),
    "40P01": (StoreBusyError, "two writers waited for each other: try again"),
    "53300": (StoreBusyError, "the server has no free connection: try again, or pool them (docs/fleet.md)"),
    "57P03": (StoreBusyError, "the server is starting or stopping: try again"),
    "25006": (StoreReadOnlyError, "the database can only be read: it is a standby, or set to read only"),
    "42501": (StoreReadOnlyError, _RIGHTS),
    "53100": (StoreFullError, "the server's disk is full: free some space; nothing of this write was kept"),
    "53200": (StoreError, "the server ran out of memory"),
    "42P01": (StoreOpenError, "the store's tables are not there: open the store again"),
    "3F000": (StoreOpenError, "the database has no schema to keep the store in"),
    "3D000": (StoreOpenError, "there is no such database: `createdb` makes it"),
    "28000": (StoreOpenError, "the server does not let this role in"),
    "28P01": (StoreOpenError, "the server does not take the password"),
    "25P02": (StoreError, "the transaction around this was rolled back: leave it, then write it all again"),
    "XX001": (StoreCorruptError, _DAMAGED),
    "XX002": (StoreCorruptError, _DAMAGED),
    # Classes: whatever else begins so.
    "53": (StoreError, "the server lacks resources"),
    "58": (StoreError, "the server's file system failed"),
}
_LOST: Final = ("57P01", "57P02", "57P05", "25P03", "25P04", "08")


class FailedError(Exception):
    """What the server said of a statement that was sent without psycopg's cursor; or that the connection is lost."""

    def __init__(self, state: str | None, said: str, *, lost: bool) -> None:
        super().__init__(said)
        self.state = state
        self.said = said
        self.lost = lost or (state or "").startswith(_LOST)


def error_of(failed: FailedError, shown: str, *, closed: bool = False, read_only: bool = False) -> LayerstoreError:
    """Return the error of our tree for what the server said.

    Args:
        failed: its SQLSTATE and text.
        shown: what errors call the store.
        closed: whether the store was closed meanwhile.
        read_only: whether it was opened to read only.
    """
    state, said = failed.state or "", " ".join(failed.said.split())
    if closed:
        return StoreClosedError("this store was closed; make a new SQLMetadataStore", shown)
    if failed.lost:
        return StoreConnectionError(f"{_NOT_KNOWN} ({said})", shown)
    if state == "54000":
        return InvalidInputError(f"a name is longer than an index of PostgreSQL takes: {said}")
    if state == "22021" or state.startswith("22P"):
        return InvalidInputError(f"PostgreSQL cannot store this: {said}")
    if read_only and state in ("25006", "42501"):
        return StoreReadOnlyError("it was opened read_only: open it again without read_only to write", shown)
    kind, advice = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or (StoreError, "PostgreSQL failed")
    return kind(f"{advice} ({f'{state}: ' if state else ''}{said})", shown)


def failure(error: BaseException) -> FailedError:
    """Return what an error of psycopg says."""
    if isinstance(error, FailedError):
        return error
    state = getattr(error, "sqlstate", None)
    # A server that is gone says nothing.
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and state is None
    diagnosed = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return FailedError(state, diagnosed or str(error), lost=lost)


def unopened(error: psycopg.Error, shown: str) -> StoreError:
    """Return the error of our tree for a connection that could not be made: the driver gives no SQLSTATE there."""
    said = " ".join(str(error).split())
    state = getattr(error, "sqlstate", None) or ""
    kind, advice = _BY_STATE.get(state, (StoreOpenError, "cannot be opened"))
    return kind(f"{advice} ({said})", shown)


@contextmanager
def mapping(shown: str, *, read_only: bool = False) -> Iterator[None]:
    """Turn whatever the driver raises in the body into an error of our tree."""
    try:
        yield
    except (psycopg.Error, FailedError) as error:
        raise error_of(failure(error), shown, read_only=read_only) from error
