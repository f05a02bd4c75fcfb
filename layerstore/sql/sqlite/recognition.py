"""What a database file is, found out without changing it: new, ours, of which revision, or somebody else's.

Making it ready is `layerstore.sql.sqlite.opening`'s.

A trigger on our tables would change what we write, a view or virtual table in the place of a table would keep nothing,
a generated column or a collation would make a key another one. What people add for themselves under other names
(tables, views, indexes) is theirs. Source: sqlite.org/security.html, "Untrusted SQLite Database Files".
"""

from __future__ import annotations

import functools
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, Final, NamedTuple

from layerstore.errors import InvalidInputError, StoreCorruptError, StoreError, StoreOpenError, StoreReadOnlyError
from layerstore.paths import PERMISSION_DENIED, absolute
from layerstore.sql.schema import APPLICATION_ID, HEAD, creation
from layerstore.sql.sqlite.connections import Connections
from layerstore.sql.sqlite.errors import is_undecodable, mapping
from layerstore.sql.sqlite.statements import VERSION

OBJECTS = (
    "SELECT "
    + ", ".join(f"CAST({name} AS BLOB)" for name in ("type", "name", "tbl_name", "sql"))
    + (" FROM sqlite_master")
)
"""As bytes, because what another program wrote need not be UTF-8."""

_IN_EVERY_REVISION = ("metadata", "v2_metadata", "quarantine", "alembic_version")
_CREATION = r"CREATE (?:UNIQUE )?(TABLE|INDEX|VIEW) (\w+)(?: ON (\w+))?"
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
    elif isinstance(path_or_url, str) and path_or_url.startswith("sqlite:"):
        raise StoreOpenError(
            f"not a URL of a database: sqlite:///FILE, or sqlite:////FILE from the root; a file of this name is"
            f" ./{path_or_url}"
        )
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
        raise StoreOpenError(f"give a path, sqlite:///FILE or postgresql://HOST/DATABASE, not {shown}")
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


class Object(NamedTuple):
    """A row of `sqlite_master`. Of the SQL, quotes and spaces do not count: `ALTER TABLE` writes others."""

    type: str
    name: str
    table: str
    sql: str


class Ours:
    """What `sqlite_master` holds of a database that these statements have made."""

    def __init__(self, creation: Iterable[str]) -> None:
        self._objects: dict[str, Object] = {}
        for statement in creation:
            match = re.match(_CREATION, statement)
            if match is not None:
                kind, name, table = match[1].lower(), match[2], match[3] or match[2]
                self._objects[name] = Object(kind, name, table, _packed(statement))
        self._tables = {name.encode() for name, of in self._objects.items() if of.type == "table"}

    def foreign(self, found: Iterable[Sequence[bytes | None]]) -> Iterator[str]:
        """Yield what is not ours in the rows of `OBJECTS`."""
        rows = [_object(row) for row in found]
        missing = dict(self._objects)
        for there in rows:
            expected = missing.pop(there.name.lower(), None)
            if expected is not None and there._replace(name=expected.name, table=there.table.lower()) != expected:
                yield f"{there.type} {there.name} is not the {expected.type} that layerstore makes"
            if "\N{REPLACEMENT CHARACTER}" in there.name:
                yield f"{there.type} {there.name} has a name that is not UTF-8"
        for name, lacking in missing.items():
            yield f"{lacking.type} {name} is missing"
        yield from self._triggers(rows)

    def triggers(self, found: Iterable[Sequence[bytes | None]]) -> Iterator[str]:
        """Yield the triggers on what has one of our names; for schemas of other revisions."""
        return self._triggers([_object(row) for row in found])

    def _triggers(self, rows: list[Object]) -> Iterator[str]:
        for there in rows:
            if there.type == "trigger" and there.table.lower() in self._objects:
                yield f"trigger {there.name} on {there.table} (`DROP TRIGGER` removes it)"

    def no_tables(self, found: Iterable[Sequence[bytes | None]]) -> Iterator[str]:
        """Yield which of our tables are none: reading a view in the place of one may never end."""
        there = {row.name.lower(): row for row in map(_object, filter(self._has_name_of_a_table, found))}
        for name in _IN_EVERY_REVISION:
            if name not in there:
                yield f"table {name} is missing"
        for name, row in there.items():
            if not row.sql.lower().startswith(f"createtable{name}("):
                yield f"{row.type} {row.name} is not the table that layerstore makes"

    def _has_name_of_a_table(self, row: Sequence[bytes | None]) -> bool:
        return (row[1] or b"").lower() in self._tables


def _object(row: Sequence[bytes | None]) -> Object:
    kind, name, table, sql = ((part or b"").decode("utf-8", "replace") for part in row)
    return Object(kind, name, table, _packed(sql))


def _packed(sql: str) -> str:
    return "".join(sql.replace('"', "").split())
