"""Changing the schema of an existing file with Alembic, which is imported only here, and only when it is needed.

A migration runs in one BEGIN IMMEDIATE on a connection that is handed to `migrations/env.py`: without that, several
processes that open a file at once fail ("table already exists"), and a migration that fails leaves its first tables.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from layerstore.errors import SchemaVersionError, StoreError
from layerstore.sql.schema import HEAD
from layerstore.sql.sqlite.errors import mapping
from layerstore.sql.sqlite.objects import OBJECTS

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    from layerstore.sql.sqlite.connections import Connections

# Alembic's context is global to the process.
_one_at_a_time = threading.Lock()


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
    scripts = _scripts(_config())
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


Check = Callable[[list[Any], str | None], None]
"""Takes the rows of `sqlite_master` after a migration, and the path; what it raises undoes the migration."""


def upgrade(connections: Connections, revision: str = "head", *, check: Check | None = None) -> None:
    """Bring the database up to `revision`, whole or not at all. A process that comes second finds it done.

    Raises:
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the file is as it was.
    """
    from alembic import command

    _run(connections, lambda config: command.upgrade(config, revision), check)


def downgrade(connections: Connections, revision: str) -> None:
    """Take the database back to `revision`, whole or not at all.

    Raises:
        SchemaVersionError: the database is at a revision that this code does not know.
        StoreError: the migration failed; the file is as it was.
    """
    from alembic import command

    _run(connections, lambda config: command.downgrade(config, revision))


def _run(connections: Connections, migration: Callable[[Config], None], check: Check | None = None) -> None:
    from alembic.util import CommandError

    with _one_at_a_time, mapping(connections.path):
        config = _config()
        engine = connections.engine.execution_options(layerstore_begin="BEGIN IMMEDIATE")
        with engine.connect() as connection, connection.begin():
            found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
            if found not in {script.revision for script in _scripts(config).walk_revisions()}:
                raise unknown(found, connections.path)
            config.attributes["connection"] = connection
            try:
                migration(config)
            except CommandError as error:
                raise StoreError(f"the migration failed: {error}", connections.path) from error
            if check is not None:
                check([tuple(row) for row in connection.exec_driver_sql(OBJECTS)], connections.path)


def _config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(script_location()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _scripts(config: Config) -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory.from_config(config)


def _only(down: object) -> str | None:
    return down if isinstance(down, str) else None
