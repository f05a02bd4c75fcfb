"""The text of the statements and of the schema is what SQLAlchemy Core makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from layerstore.sql import tables
from layerstore.sql.schema import creation
from layerstore.sql.sqlite import core, statements
from layerstore.sql.sqlite.views import VIEWS
from tests.conftest import database_rows, sqlite_of

ONES = {name: made for name, made in core.STATEMENTS.items() if isinstance(made, core.Statement) and name != "AFTER"}


def test_the_text_is_what_core_makes():
    """`python -m layerstore.sql.sqlite.core` writes it anew."""
    assert Path(statements.__file__).read_text() == core.module()


@pytest.mark.parametrize("name", ONES)
def test_a_statement_takes_the_parameters_that_it_names(sqlite_store: SQLMetadataStore, name: str):
    """SQLite counts them: with one more or fewer, the driver refuses."""
    text, parameters = getattr(statements, name), ONES[name].parameters

    assert sqlite_of(sqlite_store).run(f"EXPLAIN {text}", ["1"] * len(parameters))


def test_a_new_database_has_every_table_index_and_view_of_core(sqlite_store: SQLMetadataStore):
    rows = database_rows(sqlite_store, "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    made = {(kind, name) for kind, name in rows if name != "alembic_version"}

    assert {name for kind, name in made if kind == "table"} == set(tables.schema.tables)
    assert {name for kind, name in made if kind == "view"} == set(VIEWS)
    assert {name for kind, name in made if kind == "index"} == {
        index.name for table in tables.schema.tables.values() for index in table.indexes
    }
    assert sum(statement.startswith("CREATE") for statement in creation()) == len(rows)
