"""Changing the schema of an existing database with Alembic, which is imported only here, and only when it is needed.

A migration of a file is one BEGIN IMMEDIATE: without that, several processes that open a file at once fail ("table
already exists"), and a migration that fails leaves its first tables.

Alembic's `op` and `context` are proxies of the whole process, which a migration of the host application may be using at
this moment, in this thread or another one. So they are left alone: each revision's module is loaded anew, and gets an
`op` of its own. `migrations/env.py` is for the command `alembic` only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layerstore.errors import SchemaVersionError, StoreError
from layerstore.sql.schema import HEAD
from layerstore.sql.sqlite.errors import mapped, mapping
from layerstore.sql.sqlite.recognition import OBJECTS

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory
    from sqlalchemy import Connection

    from layerstore.sql.sqlite.connections import Connections


class Revision(NamedTuple):
    """One step of the schema's history."""

    revision: str
    down_revision: str | None
    doc: str


def script_location() -> Path:
    """Return the folder of the migrations: inside the installed wheel, or beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreError("the migrations are missing from this installation: install layerstore again", str(package))


def revisions() -> list[str]:
    """Return the known revisions, the oldest first."""
    return [revision.revision for revision in history()]


def history() -> list[Revision]:
    """Return the schema's history, the oldest revision first."""
    scripts = _scripts()
    found = [
        Revision(script.revision, _only(script.down_revision), script.doc)
        for script in scripts.walk_revisions("base", "heads")
    ]
    return found[::-1]


def unknown(found: str | None, path: str | None) -> SchemaVersionError:
    """Return the error for a revision that this code does not know."""
    return SchemaVersionError(
        f"its schema is revision {found}, this version of layerstore knows up to {HEAD}: install a newer layerstore",
        path,
    )


class Step(NamedTuple):
    """One step of a migration: the revision's script, its function to run, and the revision afterwards."""

    script: Script
    run: Callable[[], None]
    then: str | None


Steps = Callable[["ScriptDirectory", str], Iterable[Step]]
"""Takes the scripts and the revision that was found; gives the steps from there."""

Check = Callable[[list[Any], str | None], None]
"""Takes the rows of `sqlite_master` after a migration, and the path; what it raises undoes the migration."""


def upgrade(connections: Connections, revision: str = HEAD, *, check: Check | None = None) -> None:
    """Bring a file up to `revision`, whole or not at all. A process that comes second finds it done.

    Raises:
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the file is as it was.
    """
    _move_file(connections, upwards(revision), check)


def downgrade(connections: Connections, revision: str) -> None:
    """Take a file back to `revision`, whole or not at all.

    Raises:
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the file is as it was.
    """
    _move_file(connections, downwards(revision), None)


def upwards(revision: str) -> Steps:
    """Return what leads up to a revision, from the one that is found."""

    def steps(scripts: ScriptDirectory, found: str) -> Iterable[Step]:
        for script in reversed(list(scripts.walk_revisions(found, revision))):
            if script.revision != found:
                yield Step(script, script.module.upgrade, script.revision)

    return steps


def downwards(revision: str) -> Steps:
    """Return what leads down to a revision, from the one that is found."""

    def steps(scripts: ScriptDirectory, found: str) -> Iterable[Step]:
        for script in scripts.walk_revisions(revision, found):
            if script.revision != revision:
                yield Step(script, script.module.downgrade, _only(script.down_revision))

    return steps


def run(connection: Connection, steps: Steps, path: str | None) -> None:
    """Run steps on a connection, inside a transaction that holds off everybody else who changes the schema.

    Raises:
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: a step failed.
    """
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError
    from sqlalchemy import text

    scripts = _scripts()
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    if found not in {script.revision for script in scripts.walk_revisions()}:
        raise unknown(found, path)
    operations = Operations(MigrationContext.configure(connection))
    try:
        for script, step, then in steps(scripts, found):
            script.module.op = operations  # type: ignore[attr-defined]  # in place of the process's proxy
            step()
            connection.execute(text("UPDATE alembic_version SET version_num = :then"), {"then": then})
    except CommandError as error:
        raise StoreError(f"the migration failed: {error}", path) from error


def _move_file(connections: Connections, steps: Steps, check: Check | None) -> None:
    from sqlalchemy.exc import DBAPIError

    engine = connections.engine.execution_options(layerstore_begin="BEGIN IMMEDIATE")
    try:
        with mapping(connections.path), engine.connect() as connection, connection.begin():
            run(connection, steps, connections.path)
            if check is not None:
                check([tuple(row) for row in connection.exec_driver_sql(OBJECTS)], connections.path)
    except DBAPIError as error:
        raise mapped(error.orig or error, connections.path) from error


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(script_location()))


def _only(down: object) -> str | None:
    return down if isinstance(down, str) else None
