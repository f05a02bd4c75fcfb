"""How the command `alembic` runs here. A store that upgrades a file does not come by: see `layerstore.sql.migrate`.

The migration is one BEGIN IMMEDIATE: it happens whole or not at all.
"""

import logging.config
import os
import warnings

from alembic import context
from sqlalchemy import Connection

from layerstore.sql.schema import APPLICATION_ID
from layerstore.sql.sqlite.connections import Connections
from layerstore.sql.sqlite.opening import prepare_file
from layerstore.sql.sqlite.recognition import resolve
from layerstore.sql.tables import schema

# Autogenerate cannot compare expression indexes in SQLite; tests compare them by their SQL.
warnings.filterwarnings("ignore", message=".*expression-based index.*")


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=schema, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


def run_from_the_command_line() -> None:
    if context.config.config_file_name is not None:
        logging.config.fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    path = context.get_x_argument(as_dictionary=True).get("db") or os.environ.get("LAYERSTORE_DB") or "layers.db"
    connections = Connections(resolve(path), durability="full", read_only=False, timeout_s=30.0)
    try:
        prepare_file(connections)
        engine = connections.engine.execution_options(layerstore_begin="BEGIN IMMEDIATE")
        with engine.connect() as connection, connection.begin():
            connection.exec_driver_sql(f"PRAGMA application_id={APPLICATION_ID}")
            run(connection)
    finally:
        connections.close()


if context.is_offline_mode():
    context.configure(dialect_name="sqlite", target_metadata=schema, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    run_from_the_command_line()
