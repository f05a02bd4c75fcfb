"""docs/sql.md: every name is the schema's, every query runs through an index, every answer is real."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from layerstore.blobs import BlobRecord, encode
from layerstore.sql.query import whole_reads
from layerstore.sql.questions import QUESTIONS
from layerstore.sql.sqlite.views import VIEWS
from layerstore.sql.tables import schema
from tests.docs.sql import ANSWERS, LOOKUPS, NAMES, VIEWS_ASKED, asked_for, fixture_database
from tests.support.strategies import sha256

WHOLE = {"largest"}  # the page says what it costs
READS_ALL_OF_A_NAMESPACE = "PRIMARY KEY (namespace=?)"
# They give their rows as they find them, and LIMIT ends them.
STREAMING = {"unlisted", next(sql for sql in ANSWERS if "unlisted_digests" in sql)}


@pytest.fixture(scope="module")
def fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixture_database(tmp_path_factory.mktemp("fixture"))


@pytest.fixture
def connection(fixture: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(fixture)) as found:
        yield found


def plan(connection: sqlite3.Connection, sql: str, parameters: object = None) -> list[str]:
    values = ("x*",) * sql.count("?") if parameters is None else parameters
    return [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]  # type: ignore[arg-type]


def test_the_page_has_all_names_with_the_columns_of_the_database(connection: sqlite3.Connection):
    actual = {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({name})")] for name in (*schema.tables, *VIEWS)
    }

    assert actual == NAMES


def test_there_are_lookups_answers_and_a_question_for_each_view():
    assert len(LOOKUPS) >= 18
    assert set(VIEWS_ASKED) == set(VIEWS) - {"diff_id_by_digest", "v1_ids"}
    assert [view for view in VIEWS_ASKED if any(f"FROM {view}" in sql for sql in ANSWERS)] == VIEWS_ASKED


@pytest.mark.parametrize("sql", [*LOOKUPS.values(), *ANSWERS])
def test_what_the_page_asks_goes_through_an_index(connection: sqlite3.Connection, sql: str):
    steps = plan(connection, sql)

    assert any("SEARCH" in step for step in steps)
    assert whole_reads(steps, list(schema.tables)) == []
    assert sql in STREAMING or not [step for step in steps if READS_ALL_OF_A_NAMESPACE in step]
    assert "GLOB" not in sql or "(source_repository>? AND source_repository<?)" in steps[1]


@pytest.mark.parametrize("one", QUESTIONS, ids=lambda one: one.name)
def test_every_named_query_runs_through_an_index(connection: sqlite3.Connection, one: object):
    question = next(each for each in QUESTIONS if each is one)
    values = {**dict.fromkeys(question.needed, "x"), **question.defaults}
    steps = plan(connection, question.sql, values)

    assert whole_reads(steps, list(schema.tables)) == []
    assert question.name in STREAMING or not [step for step in steps if READS_ALL_OF_A_NAMESPACE in step]
    connection.execute(question.sql, values).fetchall()
    if question.name == "registry":
        assert "(source_repository>? AND source_repository<?)" in steps[1]
    assert ("full index scan" in question.question) == (question.name in WHOLE)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM v2_metadata v WHERE hmac = 'x'",
        "SELECT count(*) FROM v2_metadata",
        "SELECT * FROM metadata ORDER BY namespace, key",
        "SELECT * FROM layers, quarantine",
        "SELECT m.diff_id FROM v2_metadata v LEFT JOIN diff_id_by_digest m USING (digest) WHERE v.digest = 'x'",
    ],
)
def test_the_check_would_see_a_scan(connection: sqlite3.Connection, sql: str):
    """The control."""
    assert whole_reads(plan(connection, sql), list(schema.tables)) or READS_ALL_OF_A_NAMESPACE in str(
        plan(connection, sql)
    )


def test_no_answer_on_the_page_is_empty():
    """That they are the real ones, `test_pages` shows."""
    assert [sql for sql, answer in ANSWERS.items() if answer.count("\n") < 3] == []


def test_the_lookups_answer_with_what_was_written(fixture: Path, connection: sqlite3.Connection):
    """Each lookup, asked for something that is there, finds it."""
    layer, digest, repository = connection.execute(
        "SELECT diff_id, digest, source_repository FROM v2_metadata WHERE source_repository LIKE '%/team1/app'"
    ).fetchone()
    v1_id, registry = "a" * 64, "registry1"
    with SQLMetadataStore(fixture) as store:
        store.set("v1id", f"{registry},{v1_id}", layer.encode())
        store.set("diffid-by-digest", sha256(7).replace(":", "/"), layer.encode())
        store.quarantine("n", "k", b"", "reason")
        store.set("blob-by-digest", digest.replace(":", "/"), encode(BlobRecord(diff_id=layer, compression="gzip")))
    values = {
        "digest": digest,
        "diff_id": layer,
        "source_repository": repository,
        "registry": registry,
        "v1_id": v1_id,
        "namespace": "n",
        "key": "k",
        "prefix": "localhost:5000/apps/*",
        "day": "2024-05-01",
    }
    for question, sql in LOOKUPS.items():
        given = [values[name] for name in asked_for(sql)]
        if "whether a digest is in no list" in question:
            given = [sha256(7)]
        assert connection.execute(sql, given).fetchall(), question
