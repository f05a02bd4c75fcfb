"""Datasette's own addresses stay what they are: JSON and CSV of every table, view and query."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from urllib.parse import urlencode

import pytest

from layerstore.sql.questions import QUESTIONS
from layerstore.sql.sqlite.views import VIEWS
from layerstore.sql.tables import schema as tables
from layerstore.web.plugin import ANSWERED
from tests.web.conftest import BLOB, LAYER, REPOSITORY, Show

NAMES = [*tables.tables, *VIEWS]
GIVEN = {
    "digest": BLOB,
    "diff_id": LAYER,
    "source_repository": REPOSITORY,
    "registry": "localhost:5000",
    "v1_id": "c" * 64,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_table_is_there_as_page_json_and_csv(sample: Path, show: Show, name: str):
    site = show(sample)
    found = site.json(f"/store/{name}.json?_size=3&_shape=objects")
    rows = list(csv.reader(io.StringIO(site.text(f"/store/{name}.csv?_size=3"))))

    assert rows[0] == found["columns"]
    assert len(rows) - 1 == len(found["rows"])
    assert f'<h1 class="mono">{name}</h1>' in site.text(f"/store/{name}")


@pytest.mark.parametrize("question", QUESTIONS, ids=[one.name for one in QUESTIONS])
def test_each_question_is_asked_with_its_defaults(sample: Path, show: Show, question: object):
    site = show(sample)
    (one,) = [each for each in QUESTIONS if each is question]
    if one.name in ANSWERED:
        assert ANSWERED[one.name] in site.text("/")
        return
    values = "&".join(f"{name}={GIVEN[name]}" for name in one.needed)
    found = site.json(f"/store/ask-{one.name}.json?{values}")
    page = site.text(f"/store/ask-{one.name}?{values}&limit=&like=&layers=")

    assert found["ok"] is True
    assert found["rows"] or one.name in ("v1", "quarantine", "unlisted", "blob")
    assert one.question.replace("'", "&#39;") in page
    assert f"/store/ask-{one.name}" in site.text("/")


def test_a_question_takes_what_is_typed(sample: Path, show: Show):
    found = show(sample).json("/store/ask-repositories.json?like=*/team1/*&limit=1&_shape=array")

    assert found == [{"source_repository": REPOSITORY, "layers": 2}]


def test_sql_of_ones_own_is_answered(sample: Path, show: Show):
    site = show(sample)

    assert site.json("/store.json?sql=select+count(*)+as+n+from+metadata&_shape=array") == [{"n": 178}]
    assert "178" in site.text("/store?sql=select+count(*)+as+n+from+metadata")
    assert "no such table" in site.text("/store?sql=select+*+from+nowhere", 400)


def test_facets_and_filters_are_on_tables(sample: Path, show: Show):
    site = show(sample)
    html = site.text("/store/v2_metadata")

    assert "source_repository=localhost%3A5000%2Fapps%2Fa21" in html
    assert "2 rows" in site.text(f"/store/v2_metadata?source_repository={REPOSITORY}")
    assert "registry=localhost%3A5000" in site.text("/store/repositories")


def test_a_row_has_a_page(sample: Path, show: Show):
    site = show(sample)
    html = site.text("/store/metadata?namespace=diffid-by-digest&_size=1")
    start = html.index('<a href="/store/metadata/') + len('<a href="')
    row = html[start : html.index('"', start)]

    assert "Row of metadata" in site.text(row)


def test_sorting_is_offered_where_an_index_serves_it_alone(sample: Path, show: Show):
    site = show(sample)

    assert site.json("/store/layers.json?_sort_desc=modified_at_ns&_size=1&_shape=array")
    assert site.get("/store/layers?_sort=associations").status_code == 400
    assert "Cannot sort table by associations" in site.text("/store/layers?_sort=associations", 400)


def test_many_rows_are_not_counted_for_a_page(sample: Path, show: Show, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("layerstore.web.server._COUNTED_AT_MOST", 100)
    site = show(sample)

    assert "More rows than are counted for a page" in site.text("/store/metadata")
    assert site.json("/store/metadata.json?_size=1")["filtered_table_rows_count"] is None
    assert "89 rows" in site.text("/store/layers")
    assert "many" in site.text("/store")
    assert site.json("/store.json?sql=select+count(*)+from+metadata&_shape=arrays")["rows"] == [[178]]


@pytest.mark.parametrize("more", ["", "&_stream=1", "&_header=off", "&_dl=1"])
@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT * FROM nowhere", "no such table: nowhere"),
        ("SELECT json('{') FROM metadata", "malformed JSON"),
        ("SELECT writefile('x', 'y')", "no such function: writefile"),
    ],
)
def test_a_csv_of_sql_that_fails_is_an_error_and_no_empty_file(
    sample: Path, show: Show, sql: str, says: str, more: str
):
    site = show(sample)
    answer = site.get(f"/store.csv?{urlencode({'sql': sql})}{more}")

    assert (answer.status_code, answer.text) == (400, f"the SQL failed: {says}\n")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    nothing = site.get(f"/store.csv?{urlencode({'sql': 'SELECT key FROM metadata WHERE 0'})}")
    assert (nothing.status_code, nothing.text) == (200, "key\r\n")
