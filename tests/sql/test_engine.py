"""The engine, for queries of one's own: its URL, the tables, and reflection."""

from __future__ import annotations

import warnings

from sqlalchemy import MetaData, func, inspect, select

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService, schema
from tests.support.strategies import sha256


def test_the_url_says_which_database_it_is(sql_file: SQLMetadataStore):
    assert str(sql_file.engine.url) == f"sqlite:///{sql_file.path}"
    assert sql_file.engine.url.database == sql_file.path


def test_the_tables_are_there_to_build_queries_with(sql_store: SQLMetadataStore):
    V2MetadataService(sql_store).add(sha256(1), V2Metadata(sha256(2), "docker.io/library/a"))
    table = schema.tables["v2_metadata"]

    with sql_store.engine.connect() as connection:
        assert connection.execute(select(table.c.digest)).scalars().all() == [sha256(2)]
        assert connection.scalar(select(func.count()).select_from(schema.tables["metadata"])) == 2


def test_reflection_gives_no_warning(sql_store: SQLMetadataStore):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reflected = MetaData()
        reflected.reflect(sql_store.engine)
        assert inspect(sql_store.engine).get_indexes("v2_metadata")

    assert set(schema.tables) <= set(reflected.tables)
