"""Opening a database file: making it ready, or refusing it.

A new file is made from the Core schema, without importing Alembic, which takes longer than all the rest; an older one
is upgraded by `layerstore.sql.migrate`. Both happen in one transaction, so that any number of processes may open the
same file at the same moment.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from contextlib import closing
from types import ModuleType
from typing import Any

from layerstore.errors import InvalidInputError, SchemaVersionError, StoreBusyError, StoreError, StoreOpenError
from layerstore.files import tree
from layerstore.paths import kind, status, why_refused
from layerstore.sql.schema import HEAD, PAGE_SIZE, STATISTICS, creation
from layerstore.sql.sqlite.connections import Connections
from layerstore.sql.sqlite.errors import mapped, mapping
from layerstore.sql.sqlite.place import check_name, warn_of_others
from layerstore.sql.sqlite.recognition import explain, look_at_log, refuse_foreign, version
from layerstore.sql.sqlite.statements import STAMP

_FILE_MODE = 0o600


def make_ready(connections: Connections, timeout_s: float) -> None:
    """Make the database usable: create it, upgrade it, or refuse it; then switch it to WAL.

    Raises:
        StoreOpenError: it is missing and cannot be made, not a file of ours, or, to write, its schema is not ours.
        SchemaVersionError: it is newer than this code, or older and may only be read.
        StoreError: SQLite failed; the file is as it was.
    """
    prepare_file(connections)
    warn_of_others(connections.path)
    if not connections.read_only:
        look_at_log(connections.path)
    try:
        handle = connections.local.handle
    except StoreError as error:
        explain(error, connections.path, read_only=connections.read_only)
        raise
    with mapping(connections.path), handle.driver() as connection:
        try:
            found = version(connection, connections.path, writing=not connections.read_only)
        except sqlite3.Error as error:
            explain(error, connections.path, read_only=connections.read_only)
            raise
        if found != HEAD:
            if connections.read_only:
                raise _refusal(found, connections.path)
            if found is None:
                _create(connection, connections.path)
            else:
                _migrate().upgrade(connections, HEAD, check=_refuse_migrated)
        if not connections.read_only:
            _switch_to_wal(connection, connections.path, timeout_s)
            connections.settle(connection)


def _refuse_migrated(rows: list[Any], path: str | None) -> None:
    """Undo a migration whose outcome is not our schema: it was not before either."""
    refuse_foreign(rows, HEAD, path)


def revision(path: str) -> str | None:
    """Return the schema's revision of a file, which is not changed; `None` for an empty one.

    Raises:
        StoreOpenError: the file is missing, or not one of ours.
    """
    with closing(Connections(path, read_only=True)) as connections:
        prepare_file(connections)
        with mapping(path), connections.local.handle.driver() as connection:
            return version(connection, path)


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
    with closing(Connections(path)) as connections:
        prepare_file(connections)
        with mapping(path), connections.local.handle.driver() as connection:
            version(connection, path, writing=True)
        if known.index(target) >= known.index(before):
            migrate.upgrade(connections, target, check=_refuse_migrated if target == HEAD else None)
        else:
            migrate.downgrade(connections, target)
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
        StoreOpenError: the file is missing, a directory, a device or the like, or cannot be made; or, to write, it has
            another name, under which writes get lost.

    The file is not even opened: closing it again would drop the locks that other connections of this process hold, as
    another thread may have one by then. Source: sqlite.org/howtocorrupt.html, section 2.2.
    """
    path = connections.path
    try:
        found = status(path)
    except OSError as error:
        raise StoreOpenError(f"cannot be opened: {why_refused(error)}", path) from error
    if found is not None:
        if not stat.S_ISREG(found.st_mode):
            next_step = "`layerstore import` reads directories" if stat.S_ISDIR(found.st_mode) else "give a file"
            raise StoreOpenError(f"{kind(found.st_mode)}, not a database file: {next_step}", path)
        check_name(path, read_only=connections.read_only)
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
        raise StoreOpenError(f"cannot be made: {why_refused(error)}", path) from error


def _create(connection: sqlite3.Connection, path: str | None) -> None:
    connection.execute(f"PRAGMA page_size={PAGE_SIZE}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version(connection, path) is None:  # else another process was faster
            for statement in creation():
                connection.execute(statement)
            connection.executemany("INSERT INTO sqlite_stat1(tbl, idx, stat) VALUES (?, ?, ?)", STATISTICS)
            connection.execute(STAMP, (HEAD,))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


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
