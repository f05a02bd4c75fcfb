"""What a query answers: rows as they come, parameters, limits of time and size, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from layerstore.sql.query.parameters import Parameters, given
from layerstore.sql.query.query import QueryStoppedError, ask
from layerstore.sql.query.tokens import QueryError
from tests.query.conftest import Rows
from tests.strategies import sha256

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
NEVER = {
    "no row": ENDLESS.format("count(*)"),
    "rows for ever": ENDLESS.format("x"),
    "a join": "SELECT count(*) FROM metadata a, metadata b, metadata c, metadata d, metadata e, metadata f",
    "a sort": ENDLESS.format("x") + " ORDER BY x DESC",
}


@pytest.mark.parametrize("sql", NEVER.values(), ids=NEVER)
def test_a_query_that_never_ends_is_stopped(rows: Rows, sql: str):
    with pytest.raises(QueryStoppedError, match=r"stopped after 0\.2 s"):
        rows(sql, timeout_s=0.2)


def test_the_time_of_who_reads_the_rows_does_not_count(filled: Path):
    with ask(str(filled), ENDLESS.format("x") + " LIMIT 3000", timeout_s=1.0) as answer:
        next(answer.rows)
        time.sleep(1.1)
        assert sum(1 for _ in answer.rows) == 2999


def test_an_interrupt_stops_a_query(filled: Path):
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), ask(str(filled), NEVER["no row"]):
        pass
    timer.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_ctrl_c_ends_the_command_with_130(filled: Path, number: signal.Signals, form: str):
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", "--db", filled, "query", "--format", form, NEVER["rows for ever"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(number)
    _, said = process.communicate()

    assert process.returncode == 130
    assert said.startswith(b"layerstore: interrupted")


def test_memory_does_not_grow_with_the_rows(filled: Path):
    """Two million rows of a hundred bytes in each format that streams, below an address space of 400 MB."""
    for form in ("csv", "tsv", "jsonl", "json", "table"):
        done = subprocess.run(
            [
                "sh",
                "-c",
                'ulimit -v 400000; exec "$0" -m layerstore --db "$1" query --format "$2" "$3" | wc -l',
                sys.executable,
                filled,
                form,
                ENDLESS.format("printf('%0100d', x) AS text") + " LIMIT 200000",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        assert int(done.stdout) >= 200000


def test_an_answer_is_one_snapshot(filled: Path):
    with ask(str(filled), "SELECT key FROM metadata, (" + ENDLESS.format("x") + " LIMIT 100)") as answer:
        next(answer.rows)
        writer = sqlite3.connect(filled, isolation_level=None)
        (before,) = writer.execute("SELECT count(*) FROM metadata").fetchone()
        writer.execute("BEGIN")
        writer.execute("DELETE FROM metadata WHERE namespace = 'other'")
        assert sum(1 for _ in answer.rows) == before * 100 - 1
        writer.execute("ROLLBACK")
        writer.close()


@pytest.mark.parametrize(
    ("sql", "texts", "values"),
    [
        ("SELECT ?", ["x"], ["x"]),
        ("SELECT ?, ?", ["1", "-20"], [1, -20]),
        ("SELECT ?", ["007"], ["007"]),
        ("SELECT ?", ["1.0"], ["1.0"]),
        ("SELECT ?", ["99999999999999999999"], ["99999999999999999999"]),
        ("SELECT ?", ["a=b"], ["a=b"]),
        ("SELECT :a", ["a=b"], {"a": "b"}),
        ("SELECT :a", ["b"], {"a": "b"}),
        ("SELECT :a, :b, :a", ["x", "y"], {"a": "x", "b": "y"}),
        ("SELECT :a, $b, @c", ["b=2", "x", "c=z=z"], {"a": "x", "b": 2, "c": "z=z"}),
        ("SELECT ':a', \":b\", /* :c */ :d", ["1"], {"d": 1}),
        ("SELECT 1", [], []),
    ],
)
def test_values_are_given_in_order_or_by_name(sql: str, texts: list[str], values: Parameters):
    assert given(sql, texts) == values


def test_what_is_not_given_is_the_default():
    assert given("SELECT :a, :b", ["a=1"], {"a": 5, "b": 6}) == {"a": 1, "b": 6}


def test_more_values_than_names_are_refused():
    with pytest.raises(QueryError, match="no parameter for 'y'"):
        given("SELECT :a", ["x", "y"])


@pytest.mark.parametrize(
    ("sql", "parameters", "said"),
    [
        ("SELECT ?", (), "parameters of the SQL: 1; values given: 0"),
        ("SELECT ?, ?", ("x",), "parameters of the SQL: 2; values given: 1"),
        ("SELECT 1", ("x",), "parameters of the SQL: 0; values given: 1"),
        ("SELECT ?3", ("x",), "parameters of the SQL: 3; values given: 1"),
        ("SELECT :a", (), "no value is given for :a"),
        ("SELECT :a", {"b": 1}, "no value is given for :a"),
        ("SELECT :a", {"a": 1, "b": 1}, "no parameter :b"),
        ("SELECT :a, ?", {"a": 1}, "cannot be mixed"),
        ("SELECT ?", {"a": 1}, "parameters of the SQL|no parameter :a"),
    ],
)
def test_a_parameter_without_value_and_a_value_without_parameter_are_refused(
    rows: Rows, sql: str, parameters: Parameters, said: str
):
    with pytest.raises(QueryError, match=said):
        rows(sql, parameters)


def test_parameters_reach_the_query(rows: Rows):
    assert rows("SELECT count(*) FROM v2_metadata WHERE diff_id = ? LIMIT ?", (sha256(1), 5)) == [(3,)]
    assert rows("SELECT ?2, ?1, ?2", ("x", "y")) == [("y", "x", "y")]
    assert rows("SELECT count(*) FROM v2_metadata WHERE position = :p", {"p": 1}) == [(10,)]


def test_text_that_is_no_utf8_is_shown_with_its_bytes(rows: Rows):
    assert rows("SELECT CAST(x'61ff' AS TEXT)") == [("a\\xff",)]


def test_a_value_that_would_fill_the_memory_is_refused(rows: Rows):
    with pytest.raises(QueryError, match="too big"):
        rows("SELECT zeroblob(1000000000)")


def test_a_plan_is_given_in_place_of_rows(rows: Rows):
    (step,) = rows("SELECT * FROM v2_metadata WHERE digest = 'x'", explain=True)
    assert "USING INDEX v2_metadata_by_digest" in step[3]
    with pytest.raises(QueryError, match="explained already"):
        rows("EXPLAIN SELECT 1", explain=True)
