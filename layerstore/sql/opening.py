"""Opening a database file: is it new, ours, older, newer, or somebody else's, and making it ready.

A new file is made from the Core schema, without importing Alembic, which takes longer than all the rest; an older one
is upgraded by `layerstore.sql.migrate`. Both happen in one transaction, so that any number of processes may open the
same file at the same moment.
"""

from __future__ import annotations

import functools
import os
import sqlite3
import stat
import time
from types import ModuleType
from typing import Any

from sqlalchemy import make_url
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.exc import ArgumentError
from sqlalchemy.schema import CreateTable

from layerstore import tree
from layerstore.errors import (
    InvalidInputError,
    SchemaVersionError,
    StoreBusyError,
    StoreCorruptError,
    StoreOpenError,
    StoreReadOnlyError,
)
from layerstore.sql.connections import Connections
from layerstore.sql.errors import mapped, mapping
from layerstore.sql.objects import OBJECTS, Ours
from layerstore.sql.owners import warn_of_others
from layerstore.sql.schema import (
    APPLICATION_ID,
    HEAD,
    PAGE_SIZE,
    STATISTICS,
    VIEWS,
    alembic_version,
    index_statement,
    schema,
)
from layerstore.sql.statements import STAMP, VERSION

_FILE_MODE = 0o600


def resolve(path_or_url: str | os.PathLike[str]) -> str | None:
    """Return the absolute path of the database file, or `None` for a store in memory.

    Raises:
        StoreOpenError: a URL of another database than SQLite, or with a query.
    """
    text = os.fspath(path_or_url)
    if isinstance(path_or_url, str) and "://" in text:
        text = _database_of(text)
    return None if text in ("", ":memory:") else os.path.abspath(text)


def _database_of(url_text: str) -> str:
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


def make_ready(connections: Connections, timeout_s: float) -> None:
    """Make the database usable: create it, upgrade it, or refuse it; then switch it to WAL.

    Raises:
        StoreOpenError: it is missing and cannot be made, not a file of ours, or, to write, its schema is not ours.
        SchemaVersionError: it is newer than this code, or older and may only be read.
        StoreError: SQLite failed; the file is as it was.
    """
    prepare_file(connections)
    if connections.path is not None:
        warn_of_others(connections.path)
        if not connections.read_only:
            _look_at_log(connections.path)
    with mapping(connections.path):
        try:
            connection = connections.local.handle.connection
            found = _version(connection, connections.path, writing=not connections.read_only)
        except sqlite3.Error as error:
            _explain(error, connections.path, read_only=connections.read_only)
            raise
        if found != HEAD:
            if connections.read_only:
                raise _refusal(found, connections.path)
            if found is None:
                _create(connection, connections.path)
            else:
                _migrate().upgrade(connections, HEAD, check=_refuse_migrated)
        if connections.path is not None and not connections.read_only:
            _switch_to_wal(connection, connections.path, timeout_s)


def _version(connection: sqlite3.Connection, path: str | None, *, writing: bool = False) -> str | None:
    """Return the schema's revision; `None` for an empty database. With `writing`, refuse a schema that is not ours.

    Looks in one transaction: between two reads, another process may make the schema.
    """
    if connection.in_transaction:
        return _version_now(connection, path)
    connection.execute("BEGIN")
    try:
        found = _version_now(connection, path)
        if writing and found is not None:
            refuse_foreign(connection.execute(OBJECTS).fetchall(), found, path)
        return found
    finally:
        connection.rollback()  # does nothing where SQLite has rolled back by itself


def _version_now(connection: sqlite3.Connection, path: str | None) -> str | None:
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id != APPLICATION_ID:
        if application_id or connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            raise StoreOpenError("not a layerstore database: another program made it", path)
        return None
    row = connection.execute(VERSION).fetchone()
    if row is None:
        raise StoreOpenError(
            "a layerstore database without a schema revision: it is damaged, `layerstore recover FILE NEW` mends it",
            path,
        )
    return str(row[0])


def refuse_foreign(rows: list[Any], version: str, path: str | None) -> None:
    """Refuse to write where something else than our schema would decide what is written.

    Of another revision than this code's it is only known that it has no triggers.

    Raises:
        StoreOpenError: an object under our names is not ours, or a trigger is on one.
    """
    reason = ours().why_foreign(rows) if version == HEAD else ours().why_triggered(rows)
    if reason is not None:
        raise StoreOpenError(
            f"its schema is not layerstore's: {reason}. It can be read, not written: mend it with `sqlite3`,"
            " or take its entries into a new one with `layerstore --db NEW import FILE`",
            path,
        )


def _refuse_migrated(rows: list[Any], path: str | None) -> None:
    """Undo a migration whose outcome is not our schema: it was not before either."""
    refuse_foreign(rows, HEAD, path)


@functools.cache
def ours() -> Ours:
    """Return what the schema of a database of ours has; made when first asked for, in 0.4 ms."""
    return Ours(creation())


def _look_at_log(path: str) -> None:
    """Refuse a write-ahead log that does not fit the database, before a connection that writes lays hands on it.

    SQLite takes any log that lies there for the right one, and writes it back into the database when it closes, also
    after it has found the two to be nonsense. A connection that only reads does not. Only where there is a log: it was
    left by a process that was killed, or another one is at work.

    Raises:
        StoreCorruptError: with this log, the database cannot be read.
    """
    log = f"{os.path.realpath(path)}-wal"
    if not (os.path.exists(log) and os.path.getsize(log)):
        return
    connections = Connections(path, durability="full", read_only=True, timeout_s=30.0)
    try:
        _version(connections.local.handle.connection, path)
    except sqlite3.Error as error:
        if isinstance(mapped(error, path), StoreCorruptError):
            raise StoreCorruptError(
                f"it is damaged, or {os.path.basename(log)} is another database's: if so, move that away first;"
                f" else copy both away, then `layerstore recover FILE NEW` ({error})",
                path,
            ) from error
        # Whatever else keeps it from being read, the connection that is to write will say.
    finally:
        connections.close()


def _explain(error: sqlite3.Error, path: str | None, *, read_only: bool) -> None:
    """Say what SQLite means that cannot open a file which is there, as it finds no place for the log beside it.

    Raises:
        StoreOpenError: nothing can be written in the file's directory, which even reading needs.
        StoreReadOnlyError: the same, for a store that was to be written.

    Not opened as immutable instead: where another mount can be written, that reads nonsense. Source:
    sqlite.org/wal.html, "Read-Only Databases".
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if path is None or code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or not os.access(path, os.R_OK):
        return
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
    connections = Connections(path, durability="full", read_only=True, timeout_s=30.0)
    try:
        connections.local.handle.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            return False
        _explain(error, path, read_only=True)
        raise mapped(error, path) from error
    finally:
        connections.close()
    return True


def revision(path: str) -> str | None:
    """Return the schema's revision of a file, which is not changed; `None` for an empty one.

    Raises:
        StoreOpenError: the file is missing, or not one of ours.
    """
    connections = Connections(path, durability="full", read_only=True, timeout_s=30.0)
    try:
        prepare_file(connections)
        with mapping(path):
            return _version(connections.local.handle.connection, path)
    finally:
        connections.close()


def move_to(path: str, wanted: str) -> tuple[str, str]:
    """Bring a file's schema to a revision, up or down; return the revisions before and after.

    Raises:
        StoreOpenError: the file is missing, empty, or not one of ours.
        InvalidInputError: there is no such revision.
        SchemaVersionError: the file is at a revision that this code does not know.
        StoreError: the migration failed; the file is as it was.
    """
    before = revision(path)
    if before is None:
        raise StoreOpenError("an empty file: `layerstore import` fills it", path)
    migrate = _migrate()
    known = migrate.revisions()
    target = HEAD if wanted == "head" else wanted
    if target not in known:
        raise InvalidInputError(f"no revision {wanted!r}: `layerstore schema history` lists them")
    if before not in known:
        raise migrate.unknown(before, path)
    connections = Connections(path, durability="full", read_only=False, timeout_s=30.0)
    try:
        with mapping(path):
            _version(connections.local.handle.connection, path, writing=True)
        if known.index(target) >= known.index(before):
            migrate.upgrade(connections, target, check=_refuse_migrated if target == HEAD else None)
        else:
            migrate.downgrade(connections, target)
    finally:
        connections.close()
    return before, target


def _migrate() -> ModuleType:
    # Loaded when a schema is not this version's, which is seldom.
    from layerstore.sql import migrate

    return migrate


def _refusal(found: str | None, path: str | None) -> StoreOpenError | SchemaVersionError:
    if found is None:
        return StoreOpenError("an empty file: open it for writing once, or import into it", path)
    migrate = _migrate()
    if found not in migrate.revisions():
        newer: SchemaVersionError = migrate.unknown(found, path)
        return newer
    return SchemaVersionError(
        f"its schema is revision {found}, this version of layerstore needs {HEAD}: run `layerstore schema upgrade`",
        path,
    )


def prepare_file(connections: Connections) -> None:
    """Make the file 0600 and its directory 0700 if they are not there; to read only, they must be.

    Raises:
        StoreOpenError: the file is missing, a directory, or cannot be made.

    The file is not even opened: closing it again would drop the locks that other connections of this process hold, as
    another thread may have one by then. Source: sqlite.org/howtocorrupt.html, section 2.2.
    """
    path = connections.path
    if path is None:
        return
    if os.path.isdir(path):
        raise StoreOpenError("a directory, not a database file: `layerstore import` reads directories", path)
    if os.path.exists(path):
        return
    if connections.read_only:
        raise StoreOpenError("there is no such file: `layerstore import` makes one", path)
    try:
        tree.make_base(os.path.dirname(path))
        os.mknod(path, stat.S_IFREG | _FILE_MODE)
        os.chmod(path, _FILE_MODE)
    except FileExistsError:
        return  # another process made it just now
    except OSError as error:
        raise StoreOpenError(f"cannot be made: {error.strerror}", path) from error


def _create(connection: sqlite3.Connection, path: str | None) -> None:
    connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _version(connection, path) is None:  # else another process was faster
            for statement in creation():
                connection.execute(statement)
            connection.executemany("INSERT INTO sqlite_stat1(tbl, idx, stat) VALUES (?, ?, ?)", STATISTICS)
            connection.execute(STAMP, (HEAD,))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def creation() -> list[str]:
    """Return the statements that make an empty database one of ours, but for the rows of statistics and the stamp."""
    tables: list[str] = []
    for table in (*schema.sorted_tables, alembic_version):
        tables.append(str(CreateTable(table).compile(dialect=SQLiteDialect_pysqlite())).strip())
        tables += [index_statement(name) for name in sorted(str(index.name) for index in table.indexes)]
    return [f"PRAGMA application_id={APPLICATION_ID}", *tables, *VIEWS.values(), "ANALYZE sqlite_master"]


def _switch_to_wal(connection: sqlite3.Connection, path: str, timeout_s: float) -> None:
    """Switch the file to write-ahead logging, which it then stays in.

    The switch needs the file for itself for a moment, and does not always wait for it: two first openers can meet.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            if mode != "wal":
                mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            busy = mapped(error, path)
            if not isinstance(busy, StoreBusyError) or time.monotonic() > deadline:
                raise busy from error
            time.sleep(0.01)
            continue
        if mode != "wal":
            raise StoreOpenError(f"this file system does not allow write-ahead logging (journal mode {mode})", path)
        return
