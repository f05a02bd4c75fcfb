"""An error of a query points at the place in its text."""

from __future__ import annotations

import pytest

from layerstore.sql.query.tokens import QueryError, tokens
from tests.query.conftest import Rows

# The token that is marked stands between « and ».
WRONG = {
    "syntax": "SELECT digest FRM «v2_metadata»",
    "syntax, the word twice": "SELECT diff_id FROM v2_metadata WHERE diff_id = 'x' AND AND «»diff_id",
    "syntax at the second line": "SELECT digest\nFROM v2_metadata\n\tWHERE «=» 1",
    "syntax behind an expression": "SELECT ((1 + 2) * 3 «FROM» metadata",
    "unfinished": "SELECT * FROM metadata WHERE «(»",
    "unfinished text": "SELECT * FROM metadata WHERE key = «'x»",
    "strange sign": "SELECT 1 «^» 2",
    "column": "SELECT «digets» FROM v2_metadata",
    "column of a table": "SELECT v.digest, «v».digets FROM v2_metadata v",
    "column, right in a part of the query": "SELECT key FROM metadata WHERE EXISTS (SELECT «key» FROM v1_ids v)"
    " AND 1 = (SELECT 1 FROM (SELECT 1 AS a) WHERE «»b)",
    "column in a text too": "SELECT 'digets', /* digets */ «digets» FROM v2_metadata",
    "quoted column": "SELECT v.«» FROM v2_metadata v",
    "table": "SELECT * FROM «metadat»",
    "table, not the column of that name": "SELECT key AS absent FROM «absent»",
    "function": "SELECT «sha256»(value) FROM metadata",
    "number of arguments": "SELECT «substr»(value) FROM metadata",
    "aggregate": "SELECT key FROM metadata WHERE «count»(*) > 1",
    "ambiguous": "SELECT «key» FROM metadata, quarantine",
    "collation": "SELECT key FROM metadata ORDER BY key COLLATE «german»",
    "behind accents and emoji": "SELECT 'é\U0001f600', «digets» FROM v2_metadata",
    "parameter without value": "SELECT * FROM metadata WHERE key = «:key»",
    "second statement": "SELECT 1; «SELECT» 2",
    "write": "WITH x AS (SELECT 1) «DELETE» FROM metadata",
}
# Where SQLite itself names another place than one would think.
del WRONG["syntax, the word twice"], WRONG["column, right in a part of the query"], WRONG["quoted column"]
WRONG["syntax, the word twice"] = "SELECT diff_id FROM v2_metadata WHERE diff_id = 'x' AND «AND» diff_id = 'y'"
WRONG["column, right elsewhere"] = "SELECT key FROM metadata WHERE 1 = (SELECT 1 FROM v1_ids) AND «registry» = 'x'"
WRONG["quoted column"] = "SELECT v.digest, «v».[no such] FROM v2_metadata v"
WRONG["the column is there in one subquery and not in another"] = (
    "SELECT (SELECT registry FROM v1_ids), (SELECT «registry» FROM quarantine)"
)


@pytest.mark.parametrize("marked", WRONG.values(), ids=WRONG)
def test_an_error_is_marked_where_it_is(rows: Rows, marked: str):
    start, end = marked.index("«"), marked.index("»") - 1
    sql = marked.replace("«", "").replace("»", "")
    with pytest.raises(QueryError) as caught:
        rows(sql)

    line, mark = caught.value.excerpt.split("\n")
    before = sql[:start]
    assert line == sql.split("\n")[before.count("\n")]
    column = start - (before.rfind("\n") + 1)
    assert (mark.index("^"), mark.count("^")) == (column, end - start), caught.value.excerpt
    assert f"line {before.count(chr(10)) + 1}, column {column + 1}" in str(caught.value)


@pytest.mark.parametrize("sql", ["", "  ", "-- nothing", "/* open", ";", ";;"], ids=repr)
def test_no_sql_at_all_is_said(rows: Rows, sql: str):
    with pytest.raises(QueryError, match="no SQL is given"):
        rows(sql)


def test_a_nul_is_refused(rows: Rows):
    with pytest.raises(QueryError, match="NUL"):
        rows("SELECT 1\0; DELETE FROM metadata")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'it''s', \"a\"\"b\", `c``d`, [e f], x'00', 1.5e-3, .5, 0xff, ?1, :a, @b, $c::d -- end",
        "a||b<=c<>d->>'$.e' /* x */ != f /**/",
        "'open",
        "/* open",
        "é.\x7f\U0001f600",
    ],
)
def test_the_tokens_are_the_text_without_blanks_and_comments(sql: str):
    found = tokens(sql)

    assert all(sql[token.start : token.end] == token.text for token in found)
    between = sql
    for token in reversed(found):
        between = between[: token.start] + between[token.end :]
    assert not between.strip() or between.strip().startswith(("--", "/*"))
