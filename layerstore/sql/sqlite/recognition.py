"""What a database file is, found out without changing it: new, ours, of which revision, or somebody else's.

Making it ready is `layerstore.sql.sqlite.opening`'s.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from contextlib import closing
from typing import Any, Final

from layerstore.errors import InvalidInputError, StoreCorruptError, StoreError, StoreOpenError, StoreReadOnlyError
from layerstore.paths import PERMISSION_DENIED, absolute
from layerstore.sql.schema import APPLICATION_ID, HEAD, creation
from layerstore.sql.sqlite.connections import Connections
from layerstore.sql.sqlite.errors import is_undecodable, mapping
from layerstore.sql.sqlite.objects import OBJECTS, Ours
from layerstore.sql.sqlite.statements import VERSION

_COLUMNS: Final = (
    "SELECT namespace, key, value, modified_at_ns, diff_id, position, digest, source_repository, hmac"
    " FROM metadata, v2_metadata LIMIT 0"
)
"""What every lookup reads; prepared only."""
_LONGEST = 504
"""Bytes of a path that SQLite opens: its MAX_PATHNAME of 512, with room for `-journal`."""


def resolve(path_or_url: str | os.PathLike[str]) -> str | None:
    """Return the absolute path of the database file, or `None` for a store in memory.

    Raises:
        StoreOpenError: a URL of another database than SQLite, or with a query.
        InvalidInputError: an empty path, or one that nothing can have.
    """
    if isinstance(path_or_url, str) and "://" in path_or_url:
        path_or_url = _database_of(path_or_url) or ":memory:"  # as SQLAlchemy has it
    text = os.fspath(path_or_url) if isinstance(path_or_url, str | os.PathLike) else path_or_url
    if text == ":memory:":
        return None
    if text == "." and not isinstance(path_or_url, str):
        raise InvalidInputError("an empty path, as Path('') is: is a variable unset?")
    path = absolute(text)
    if len(os.fsencode(path)) > _LONGEST:
        raise InvalidInputError(f"SQLite opens no path of over {_LONGEST} bytes: {path[:100]}…")
    return path


def _database_of(url_text: str) -> str:
    from sqlalchemy import make_url  # a path needs none of it
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(url_text)
    except ArgumentError as error:
        raise StoreOpenError(f"not a database URL: {url_text!r}") from error
    shown = url.render_as_string(hide_password=True)
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise StoreOpenError(f"only SQLite files can be opened so far: use sqlite:///FILE or a path, not {shown}")
    if url.host or url.username or url.port:
        raise StoreOpenError(f"a file has no host: sqlite:///FILE has three slashes, not {shown}")
    if url.query:
        raise StoreOpenError(f"a URL with a query cannot be opened: use the arguments of SQLMetadataStore, not {shown}")
    return url.database or ""


def version(connection: sqlite3.Connection, path: str | None, *, writing: bool = False) -> str | None:
    """Return the schema's revision; `None` for an empty database. With `writing`, refuse a schema that is not ours.

    Looks in one transaction: between two reads, another process may make the schema.
    """
    if connection.in_transaction:
        return _version_now(connection, path, writing=writing)
    connection.execute("BEGIN")
    try:
        return _version_now(connection, path, writing=writing)
    finally:
        connection.rollback()  # does nothing where SQLite has rolled back by itself


def _version_now(connection: sqlite3.Connection, path: str | None, *, writing: bool) -> str | None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    objects = connection.execute(OBJECTS).fetchall()
    no_table = next(ours().no_tables(objects), None)
    if application_id != APPLICATION_ID:
        if application_id == 0 and not objects:
            return None
        if application_id == 0 and no_table is None:
            raise StoreOpenError(
                "a copy of a layerstore database by `.dump` or `.clone` of `sqlite3`, which do not copy all of it:"
                " `layerstore recover FILE NEW` makes a database of it",
                path,
            )
        raise StoreOpenError("not a layerstore database: another program made it", path)
    found, why = (None, no_table) if no_table else _revision(connection)
    if found is None:
        raise StoreOpenError(
            f"a damaged layerstore database: {why}: `layerstore recover FILE NEW` makes a new one of what it holds",
            path,
        )
    if writing:
        refuse_foreign(objects, found, path)
    return found


def _revision(connection: sqlite3.Connection) -> tuple[str | None, str]:
    """Return the schema's revision, or `None` and why there is none or nothing can be read."""
    try:
        row = connection.execute(VERSION).fetchone()
        if row == (HEAD,):
            connection.execute(_COLUMNS)
    except sqlite3.OperationalError as error:
        if is_undecodable(error) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR:  # no such column
            return None, str(error)
        raise
    if row is None or not isinstance(row[0], str):
        return None, "its schema revision is missing"
    return row[0], ""


def refuse_foreign(rows: list[Any], found: str, path: str | None) -> None:
    """Refuse to write where something else than our schema would decide what is written.

    Of another revision than this code's it is only known that it has no triggers.

    Raises:
        StoreOpenError: an object under our names is not ours, or a trigger is on one.
    """
    reason = next(ours().foreign(rows) if found == HEAD else ours().triggers(rows), None)
    if reason is not None:
        raise StoreOpenError(
            f"its schema is not layerstore's: {reason}. It can be read, not written: repair it with `sqlite3`,"
            " or import its entries into a new one with `layerstore --db NEW import FILE`",
            path,
        )


@functools.cache
def ours() -> Ours:
    """Return what the schema of a database of ours has; made when first asked for, in 0.4 ms."""
    return Ours(creation())


def look_at_log(path: str) -> None:
    """Refuse a write-ahead log that does not fit the database, before a connection that writes lays hands on it.

    SQLite takes any log that lies there for the right one, and writes it back into the database when it closes, also
    after it has found the two to be nonsense. A connection that only reads does not. Only where there is a log: it was
    left by a process that was killed, or another one is at work.

    Raises:
        StoreOpenError: it is no file.
        StoreCorruptError: with this log, the database cannot be read.
    """
    log = f"{os.path.realpath(path)}-wal"
    if not os.path.exists(log):
        return
    if not os.path.isfile(log):
        raise StoreOpenError(f"{log} is no file, but a directory, device, pipe or socket: remove it", path)
    if not os.path.getsize(log):
        return
    try:
        with (
            closing(Connections(path, read_only=True)) as connections,
            mapping(path),
            connections.local.handle.driver() as connection,
        ):
            version(connection, path)
    except StoreError as error:
        if isinstance(error, StoreCorruptError):
            raise StoreCorruptError(
                f"it is damaged, or {os.path.basename(log)} is another database's: if so, move that away first;"
                f" else copy both away, then `layerstore recover FILE NEW` ({error})",
                path,
            ) from error
        # Whatever else keeps it from being read, the connection that is to write will say.


def explain(error: Exception, path: str | None, *, read_only: bool) -> None:
    """Say what SQLite means that cannot open a file which is there, as it finds no place for the log beside it.

    Raises:
        StoreOpenError: the file may not be read; or nothing can be written in its directory, which even reading needs.
        StoreReadOnlyError: the same, for a store that was to be written.

    Not opened as immutable instead: where another mount can be written, that reads nonsense. Source:
    sqlite.org/wal.html, "Read-Only Databases".
    """
    code = (getattr(error.__cause__ or error, "sqlite_errorcode", None) or 0) & 0xFF
    if path is None or code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return
    if not os.access(path, os.R_OK):
        raise StoreOpenError(PERMISSION_DENIED, path) from error
    folder = os.path.dirname(os.path.realpath(path))
    if os.access(folder, os.W_OK):
        return
    if read_only:
        raise StoreOpenError(
            f"nothing can be written in {folder}, which even reading needs, for the log beside the file: copy it to"
            " another place, or read what `layerstore backup` makes, which needs none",
            path,
        ) from error
    raise StoreReadOnlyError(f"nothing can be written in {folder}: check its permissions and mount", path) from error


def is_database(path: str) -> bool:
    """Tell whether a file is an SQLite database, or empty as a new one is.

    SQLite looks, as whoever opens a database file otherwise drops this process's locks on it when closing it.

    Raises:
        StoreError: the file cannot be read.
    """
    try:
        with closing(Connections(path, read_only=True)) as connections:
            connections.local.handle.execute("PRAGMA schema_version")
    except StoreError as error:
        code = getattr(error.__cause__, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_NOTADB:
            return False
        if code == sqlite3.SQLITE_READONLY_ROLLBACK:
            return True  # one that a killed program left half written, which its next writer rolls back
        explain(error, path, read_only=True)
        raise
    return True
