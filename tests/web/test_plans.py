"""What pages ask the store goes through an index, whatever is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import event

from layerstore import SQLMetadataStore
from layerstore.sql.query.plans import whole_reads
from layerstore.sql.reading import browsing
from layerstore.sql.reading.search import search
from layerstore.sql.schema import schema
from tests.strategies import sha256
from tests.web.conftest import TWO_BLOBS

KEY = (1 << 62, sha256(5))
QUESTIONS: dict[str, Callable[[SQLMetadataStore], object]] = {
    "newest layers": browsing.newest_layers,
    "newest layers, the next page": lambda store: browsing.newest_layers(store, after=KEY),
    "newest layers of a registry": lambda store: browsing.newest_layers(store, registry="r", after=KEY),
    "repositories": browsing.repositories,
    "repositories of a registry": lambda store: browsing.repositories(store, registry="r", after="r/a"),
    "repository": lambda store: browsing.repository(store, "registry.example.com/a/one"),
    "repository, the next page": lambda store: browsing.repository(store, "registry.example.com/a/one", after=KEY),
    "layer": lambda store: browsing.layer(store, TWO_BLOBS),
    "search for a digest": lambda store: search(store, TWO_BLOBS),
    "search for digits": lambda store: search(store, "00"),
    "search for a repository": lambda store: search(store, "a/o"),
    "search for nothing": lambda store: search(store, "zz"),
}


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("ordered_by_time", [0, 2_000])
def test_no_page_reads_a_table_whole(odd: Path, monkeypatch: pytest.MonkeyPatch, name: str, ordered_by_time: int):
    monkeypatch.setattr(browsing, "ORDERED_BY_TIME", ordered_by_time)
    asked: list[tuple[str, object]] = []
    with SQLMetadataStore(odd, read_only=True) as store:
        event.listen(
            store.engine,
            "before_cursor_execute",
            lambda _connection, _cursor, statement, parameters, *_: asked.append((statement, parameters)),
        )
        QUESTIONS[name](store)
        selects = [(statement, parameters) for statement, parameters in asked if "SELECT" in statement]
        assert selects
        for statement, parameters in selects:
            with store.engine.connect() as connection:
                plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()  # type: ignore[arg-type]  # as the driver got them
            assert whole_reads([str(row[3]) for row in plan], list(schema.tables)) == [], statement
