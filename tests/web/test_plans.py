"""What pages ask the store goes through an index, whatever is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore
from layerstore.sql.query import whole_reads
from layerstore.sql.reading import layers as reading_layers
from layerstore.sql.reading import search as reading_search
from layerstore.sql.reading.search import look_up, search
from layerstore.sql.tables import schema
from tests.support.strategies import sha256
from tests.web.conftest import TWO_BLOBS

KEY = (1 << 62, sha256(5))
QUESTIONS: dict[str, Callable[[SQLMetadataStore], object]] = {
    "newest layers": reading_layers.newest_layers,
    "newest layers, the next page": lambda store: reading_layers.newest_layers(store, after=KEY),
    "newest layers of a registry": lambda store: reading_layers.newest_layers(store, registry="r", after=KEY),
    "oldest layers with a text": lambda store: reading_layers.newest_layers(
        store, part="a/o", oldest_first=True, after=KEY
    ),
    "repositories": reading_search.repositories,
    "repositories of a registry": lambda store: reading_search.repositories(store, registry="r", after="r/a"),
    "repository": lambda store: reading_search.repository(store, "registry.example.com/a/one"),
    "repository, the next page": lambda store: reading_search.repository(
        store, "registry.example.com/a/one", after=KEY
    ),
    "repository, some of its oldest layers": lambda store: reading_search.repository(
        store, "registry.example.com/a/one", part="0", oldest_first=True, after=KEY
    ),
    "repository, whole": lambda store: reading_search.repository(store, "registry.example.com/a/one", size=None),
    "layer": lambda store: reading_layers.layer(store, TWO_BLOBS),
    "search for a digest": lambda store: search(store, TWO_BLOBS),
    "search for digits": lambda store: search(store, "00"),
    "search for a repository": lambda store: search(store, "a/o"),
    "look up a digest": lambda store: look_up(store, TWO_BLOBS),
    "look up digits": lambda store: look_up(store, TWO_BLOBS[7:30]),
    "look up a repository": lambda store: look_up(store, "registry.example.com/a/one"),
    "search for nothing": lambda store: search(store, "zz"),
}


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("ordered_by_time", [0, 2_000])
def test_no_page_reads_a_table_whole(odd: Path, monkeypatch: pytest.MonkeyPatch, name: str, ordered_by_time: int):
    monkeypatch.setattr(reading_search, "ORDERED_BY_TIME", ordered_by_time)
    asked: list[tuple[str, Any]] = []
    with SQLMetadataStore(odd, read_only=True) as store:
        run = store._run

        def noting(statement: str, parameters: Any = ()) -> list[Any]:
            asked.append((statement, parameters))
            return run(statement, parameters)

        monkeypatch.setattr(store, "_run", noting)
        QUESTIONS[name](store)
        assert asked
        for statement, parameters in asked:
            plan = run(f"EXPLAIN QUERY PLAN {statement}", parameters)
            assert whole_reads([str(row[3]) for row in plan], list(schema.tables)) == [], statement
