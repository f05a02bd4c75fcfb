"""Every lookup that DESIGN promises goes through an index: the query plan has no scan, at every size."""

from __future__ import annotations

import re
import sqlite3

import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from layerstore.sql.sqlite import statements
from layerstore.sql.sqlite.backend import KNOWN_LAYERS
from tests.conftest import database_rows
from tests.support.strategies import sha256

LOOKUPS = {
    "a digest's layer": "SELECT * FROM diff_id_by_digest WHERE digest = 'x'",
    "a layer's digests": "SELECT * FROM diff_id_by_digest WHERE diff_id = 'x'",
    "a digest's associations": "SELECT * FROM v2_metadata WHERE digest = 'x'",
    "a layer's associations": "SELECT * FROM v2_metadata WHERE diff_id = 'x' ORDER BY position",
    "a repository's associations": "SELECT * FROM v2_metadata WHERE source_repository = 'x'",
    "a registry's V1 IDs": "SELECT * FROM v1_ids WHERE registry = 'x'",
    "a V1 ID": "SELECT * FROM v1_ids WHERE v1_id = 'x'",
    "a V1 ID at a registry": "SELECT * FROM v1_ids WHERE registry = 'x' AND v1_id = 'y'",
    "a layer's V1 IDs": "SELECT * FROM v1_ids WHERE diff_id = 'x'",
    "a repository's layers by digest": (
        "SELECT * FROM v2_metadata JOIN diff_id_by_digest USING (digest) WHERE source_repository = 'x'"
    ),
    "a layer's associations by its digests": (
        "SELECT v.* FROM diff_id_by_digest m JOIN v2_metadata v ON v.digest = m.digest WHERE m.diff_id = 'x'"
    ),
    "a digest's associations by its layer": (
        "SELECT v.* FROM diff_id_by_digest m JOIN v2_metadata v ON v.diff_id = m.diff_id WHERE m.digest = 'x'"
    ),
    "what else a repository's layers are called": (
        "SELECT m.* FROM v2_metadata v JOIN diff_id_by_digest m ON m.diff_id = v.diff_id"
        " WHERE v.source_repository = 'x'"
    ),
    "several digests": "SELECT * FROM diff_id_by_digest WHERE digest IN ('x', 'y', 'z')",
    "a digest's prefix": "SELECT * FROM v2_metadata WHERE digest >= 'sha256:ab' AND digest < 'sha256:ac'",
    "what a blob is": "SELECT * FROM blobs WHERE digest = 'x'",
    "a layer's blobs": "SELECT * FROM blobs WHERE diff_id = 'x'",
    "a blob's locations": "SELECT * FROM locations WHERE digest = 'x'",
    "a repository's locations": "SELECT * FROM locations WHERE source_repository = 'x'",
    "a blob's places": "SELECT * FROM places WHERE digest = 'x'",
    "a layer's places": "SELECT * FROM places WHERE diff_id = 'x'",
    "a repository's places": "SELECT * FROM places WHERE source_repository = 'x'",
    "a registry's places": "SELECT * FROM places WHERE source_repository >= 'x/' AND source_repository < 'x0'",
    "a layer's places, the newest first": "SELECT * FROM places WHERE diff_id = 'x' ORDER BY seen_at_ns DESC",
    "what is in quarantine of a key": "SELECT * FROM quarantine WHERE namespace = 'n' AND key = 'k'",
}
HOT = {
    name: getattr(statements, name) for name in ("GET", "SET", "DELETE", "GET_MANY", "ASSOCIATIONS", "IS_QUARANTINED")
}
HOT["KNOWN_LAYERS"] = KNOWN_LAYERS


def plan(store: SQLMetadataStore, query: str) -> list[str]:
    with store.engine.connect() as connection:
        parameters = tuple("x" for _ in range(query.count("?")))
        found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", parameters).all()
    return [str(row[3]) for row in found]


def scans(steps: list[str]) -> list[str]:
    """Return the steps that read a table or index from end to end, or a namespace of a million keys."""
    return [
        step
        for step in steps
        if (step.startswith("SCAN") and "json_each" not in step and "VIRTUAL TABLE" not in step)
        or re.search(r"PRIMARY KEY \(namespace=\?\)", step)
    ]


@pytest.fixture(params=["empty", "filled", "analyzed"])
def sized(request: pytest.FixtureRequest, sql_file: SQLMetadataStore) -> SQLMetadataStore:
    """A store at sizes where SQLite, left alone, would choose differently."""
    if request.param != "empty":
        with sql_file.transaction():
            for number in range(300):
                V2MetadataService(sql_file).add(
                    sha256(number % 40), V2Metadata(sha256(1000 + number), f"r{number % 7}")
                )
    if request.param == "analyzed":
        with sql_file.engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
    return sql_file


@pytest.mark.parametrize("query", LOOKUPS.values(), ids=list(LOOKUPS))
def test_a_lookup_goes_through_an_index(sql_file: SQLMetadataStore, query: str):
    steps = plan(sql_file, query)

    assert steps
    assert scans(steps) == []
    assert any("USING" in step for step in steps)


@pytest.mark.parametrize("name", ["a digest's layer", "a digest's associations", "a repository's associations"])
def test_the_plan_is_the_same_at_every_size_and_after_analyze(sized: SQLMetadataStore, name: str):
    assert scans(plan(sized, LOOKUPS[name])) == []


@pytest.mark.parametrize("statement", HOT.values(), ids=list(HOT))
def test_the_stores_own_statements_go_through_an_index(sql_file: SQLMetadataStore, statement: str):
    assert scans(plan(sql_file, statement)) == []


def test_the_check_would_see_a_scan(sql_file: SQLMetadataStore):
    """The control: queries that must scan are found out."""
    assert scans(plan(sql_file, "SELECT * FROM v2_metadata WHERE hmac = 'x'"))
    assert scans(plan(sql_file, "SELECT * FROM metadata WHERE namespace = 'x' AND value = 'y'"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT source_repository FROM repositories WHERE source_repository >= 'z/' AND source_repository < 'z0'",
        "SELECT source_repository FROM repositories WHERE source_repository GLOB 'z/*'",
        "SELECT source_repository FROM repositories WHERE source_repository > 'y'",
        "SELECT diff_id FROM shared_layers WHERE diff_id > 'sha256:f'",
        "SELECT * FROM registries WHERE registry = 'z'",
        "SELECT source_repository FROM repositories LIMIT 1",
        "SELECT diff_id FROM layers ORDER BY modified_at_ns DESC LIMIT 1",
    ],
)
def test_a_part_of_a_view_does_not_cost_the_whole(sql_file: SQLMetadataStore, query: str):
    """A plan does not say which of two lower bounds is used: the steps of SQLite's machine are counted."""
    with sql_file.transaction():
        for number in range(600):
            V2MetadataService(sql_file).add(
                sha256(number), V2Metadata(sha256(1000 + number), f"{'z' if number == 599 else 'a'}/r{number}")
            )
    connection = sqlite3.connect(str(sql_file.path))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(count, 10)
    connection.execute(query).fetchall()
    part, steps = steps, 0
    connection.execute("SELECT source_repository FROM repositories").fetchall()
    whole = steps
    connection.close()

    assert whole > 300
    assert part < whole / 5


def test_a_digest_pasted_from_a_terminal_works_in_where(sql_store: SQLMetadataStore):
    V2MetadataService(sql_store).add(sha256(0xA), V2Metadata(sha256(1), "localhost:5000/team/app"))

    for query in (
        "SELECT diff_id FROM diff_id_by_digest WHERE digest = :d",
        "SELECT diff_id FROM v2_metadata WHERE digest = :d",
        "SELECT m.diff_id FROM v2_metadata v JOIN diff_id_by_digest m USING (digest) WHERE v.digest = :d",
    ):
        assert database_rows(sql_store, query, d=sha256(1)) == [(sha256(0xA),)]
