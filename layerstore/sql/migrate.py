"""Changing the schema of an existing file with Alembic, which is imported only here, and only when it is needed.

A migration is one BEGIN IMMEDIATE: without that, several processes that open a file at once fail ("table already
exists"), and a migration that fails leaves its first tables.

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
from layerstore.sql.sqlite.objects import OBJECTS

if TYPE_CHECKING:
    from alembic.script import Script, ScriptDirectory

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


Check = Callable[[list[Any], str | None], None]
"""Takes the rows of `sqlite_master` after a migration, and the path; what it raises undoes the migration."""


def upgrade(connections: Connections, revision: str = HEAD, *, check: Check | None = None) -> None:
    """Bring the database up to `revision`, whole or not at all. A process that comes second finds it done.

    Raises:
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the file is as it was.
    """

    def steps(scripts: ScriptDirectory, found: str) -> Iterable[Step]:
        for script in reversed(list(scripts.walk_revisions(found, revision))):
            if script.revision != found:
                yield Step(script, script.module.upgrade, script.revision)

    _run(connections, steps, check)


def downgrade(connections: Connections, revision: str) -> None:
    """Take the database back to `revision`, whole or not at all.

    Raises:
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the file is as it was.
    """

    def steps(scripts: ScriptDirectory, found: str) -> Iterable[Step]:
        for script in scripts.walk_revisions(revision, found):
            if script.revision != revision:
                yield Step(script, script.module.downgrade, _only(script.down_revision))

    _run(connections, steps)


def _run(
    connections: Connections,
    steps: Callable[[ScriptDirectory, str], Iterable[Step]],
    check: Check | None = None,
) -> None:
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    scripts = _scripts()
    engine = connections.engine.execution_options(layerstore_begin="BEGIN IMMEDIATE")
    try:
        with mapping(connections.path), engine.connect() as connection, connection.begin():
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            if found not in {script.revision for script in scripts.walk_revisions()}:
                raise unknown(found, connections.path)
            operations = Operations(MigrationContext.configure(connection))
            try:
                for script, run, then in steps(scripts, found):
                    script.module.op = operations  # type: ignore[attr-defined]  # in place of the process's proxy
                    run()
                    connection.exec_driver_sql("UPDATE alembic_version SET version_num = ?", (then,))
            except CommandError as error:
                raise StoreError(f"the migration failed: {error}", connections.path) from error
            if check is not None:
                check([tuple(row) for row in connection.exec_driver_sql(OBJECTS)], connections.path)
    except DBAPIError as error:
        raise mapped(error.orig or error, connections.path) from error


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(script_location()))


def _only(down: object) -> str | None:
    return down if isinstance(down, str) else None
