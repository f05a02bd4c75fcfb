"""How the command `alembic` runs here. A store that upgrades a file does not come by: see `layerstore.sql.migrate`.

The migration is one BEGIN IMMEDIATE, or on PostgreSQL one transaction behind an advisory lock: it happens whole or not
at all. PostgreSQL is born at a later revision than SQLite: an empty database begins with the one before.
"""

import logging.config
import os
import warnings

from alembic import context
from sqlalchemy import Connection, MetaData, create_engine, inspect

from layerstore.sql.postgresql.schema import BORN
from layerstore.sql.postgresql.schema import schema as schema_of_server
from layerstore.sql.schema import APPLICATION_ID
from layerstore.sql.sqlite.connections import Connections
from layerstore.sql.sqlite.opening import prepare_file
from layerstore.sql.sqlite.recognition import resolve
from layerstore.sql.tables import schema
from layerstore.sql.url import is_url

# Autogenerate cannot compare expression indexes; tests compare them by their SQL.
warnings.filterwarnings("ignore", message=".*expression-based index.*")


def run(connection: Connection, target: MetaData) -> None:
    context.configure(
        connection=connection, target_metadata=target, render_as_batch=connection.dialect.name == "sqlite"
    )
    with context.begin_transaction():
        context.run_migrations()


def run_on_file(path: str) -> None:
    connections = Connections(resolve(path), durability="full", read_only=False, timeout_s=30.0)
    try:
        prepare_file(connections)
        engine = connections.engine.execution_options(layerstore_begin="BEGIN IMMEDIATE")
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
            run(connection, schema)
    finally:
        connections.close()


def run_on_server(url: str) -> None:
    from layerstore.sql.postgresql.opening import LOCK, sessions_of  # noqa: PLC0415  # a file needs no psycopg

    sessions = sessions_of(url, read_only=False)
    engine = create_engine("postgresql+psycopg://", creator=lambda: sessions.connect(autocommit=False))
    with engine.connect() as connection, connection.begin():
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
        if not inspect(connection).has_table("alembic_version"):
            before = context.script.get_revision(BORN).down_revision
            context.configure(connection=connection, target_metadata=schema_of_server)
            context.get_context().stamp(context.script, str(before))
        run(connection, schema_of_server)
    engine.dispose()


if context.config.config_file_name is not None and not context.is_offline_mode():
    logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)
database = context.get_x_argument(as_dictionary=True).get("db") or os.environ.get("LAYERSTORE_DB") or "layers.db"
if context.is_offline_mode():
    on_server = is_url(database)
    context.configure(
        dialect_name="postgresql" if on_server else "sqlite",
        target_metadata=schema_of_server if on_server else schema,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()
elif is_url(database):
    run_on_server(database)
else:
    run_on_file(database)
