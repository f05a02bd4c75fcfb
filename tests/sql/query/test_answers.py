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

from layerstore import QueryError, QueryStoppedError, StoreError
from layerstore.sql.backend import Parameters
from layerstore.sql.query import given
from layerstore.sql.query import query as ask
from layerstore.sql.sqlite.confined import GRACE_S, VALUE_BYTES
from layerstore.sql.sqlite.sandbox import Sandbox
from tests.sql.query.conftest import Rows
from tests.support.strategies import sha256

ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
NEVER = {
    "no row": ENDLESS.format("count(*)"),
    "rows for ever": ENDLESS.format("x"),
    "a join": "SELECT count(*) FROM metadata a, metadata b, metadata c, metadata d, metadata e, metadata f",
    "a sort": ENDLESS.format("x") + " ORDER BY x DESC",
    "one function": f"SELECT instr(zeroblob({VALUE_BYTES - 1}), CAST(zeroblob({VALUE_BYTES // 2}) AS BLOB) || x'01')",
    "one function in a row that is not the first": "SELECT CASE WHEN x > 200 THEN"
    f" instr(zeroblob({VALUE_BYTES - 1}), CAST(zeroblob({VALUE_BYTES // 2}) AS BLOB) || x'01') END"
    f" FROM ({ENDLESS.format('x')} LIMIT 300)",
}


@pytest.mark.parametrize("sql", NEVER.values(), ids=NEVER)
def test_a_query_that_never_ends_is_stopped(rows: Rows, sql: str):
    with pytest.raises(QueryStoppedError, match=r"stopped after 0\.2 s"):
        rows(sql, timeout_s=0.2)


def test_the_process_that_runs_a_query_ends_without_whoever_asked(answering: Path):
    """As the one that asked, and would have ended it, may be killed itself."""
    asking = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "layerstore",
            "--db",
            answering,
            "query",
            "--timeout",
            "0.1",
            NEVER["one function"],
        ]
    )
    children = Path(f"/proc/{asking.pid}/task/{asking.pid}/children")
    while not (found := children.read_text().split()):
        time.sleep(0.01)
    asking.kill()
    asking.wait()

    (process,) = found
    deadline = time.monotonic() + 30 + GRACE_S
    while Path(f"/proc/{process}/stat").exists() and Path(f"/proc/{process}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.1)


def test_another_thread_can_end_a_query(answering: Path):
    sandbox = Sandbox(str(answering))
    timer = threading.Timer(0.3, sandbox.kill)
    timer.start()
    with pytest.raises(StoreError, match="ended"):
        sandbox.ask(NEVER["one function"], timeout_s=60)
    timer.join()


def test_a_query_can_follow_one_that_failed_was_stopped_or_was_not_read_to_its_end(answering: Path):
    sandbox = Sandbox(str(answering))
    for sql in (NEVER["no row"], NEVER["one function"], "SELECT wrong", "SELECT zeroblob(1000000000)", "DELETE FROM x"):
        with pytest.raises((QueryError, QueryStoppedError)):
            sandbox.ask(sql, timeout_s=0.1)
        assert list(sandbox.ask("SELECT 1", timeout_s=10).rows) == [(1,)]
    begun = sandbox.ask(NEVER["rows for ever"], timeout_s=10).rows
    assert next(begun) == (1,)
    assert list(sandbox.ask("SELECT 1", timeout_s=10).rows) == [(1,)]
    sandbox.close()


def test_rows_and_bytes_can_be_limited(answering: Path):
    sandbox = Sandbox(str(answering))
    answer = sandbox.ask(NEVER["rows for ever"], timeout_s=10, most_rows=250)
    assert [row[0] for row in answer.rows] == list(range(1, 251))
    assert answer.truncated
    answer = sandbox.ask("VALUES (1), (2)", timeout_s=10, most_rows=2)
    assert (list(answer.rows), answer.truncated) == ([(1,), (2,)], False)
    with pytest.raises(QueryError, match="larger than"):
        list(sandbox.ask(ENDLESS.format("hex(zeroblob(1000))"), timeout_s=10, most_bytes=100_000).rows)
    sandbox.close()


def test_the_time_of_who_reads_the_rows_does_not_count(answering: Path):
    with ask(str(answering), ENDLESS.format("x") + " LIMIT 3000", timeout_s=1.0) as answer:
        next(answer.rows)
        time.sleep(1.1)
        assert sum(1 for _ in answer.rows) == 2999


def test_an_interrupt_stops_a_query(answering: Path):
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), ask(str(answering), NEVER["no row"]):
        pass
    timer.join()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("form", ["table", "jsonl"])
def test_ctrl_c_ends_the_command_with_130(answering: Path, number: signal.Signals, form: str):
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", "--db", answering, "query", "--format", form, NEVER["rows for ever"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(number)
    _, said = process.communicate()

    assert process.returncode == 130
    assert said.startswith(b"layerstore: interrupted")


def test_memory_does_not_grow_with_the_rows(answering: Path):
    """Rows of 80 MB in each format that streams, with an address space of 60 MB."""
    for form in ("csv", "tsv", "jsonl", "json", "table"):
        done = subprocess.run(
            [
                "sh",
                "-c",
                'ulimit -v 60000; exec "$0" -m layerstore --db "$1" query --format "$2" "$3" | wc -l',
                sys.executable,
                answering,
                form,
                ENDLESS.format("printf('%020000d', x) AS text") + " LIMIT 4000",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        assert int(done.stdout) >= 4000


def test_an_answer_is_one_snapshot(answering: Path):
    with ask(str(answering), "SELECT key FROM metadata, (" + ENDLESS.format("x") + " LIMIT 100)") as answer:
        next(answer.rows)
        writer = sqlite3.connect(answering, isolation_level=None)
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


def test_more_values_than_names_and_fewer_are_refused():
    with pytest.raises(QueryError, match="no parameter for 'y'"):
        given("SELECT :a", ["x", "y"])
    with pytest.raises(QueryError, match="no value is given for :b: give b=VALUE"):
        given("SELECT :a, :b", ["x"])


@pytest.mark.parametrize("sql", ["", "  ", "-- nothing", "/* open", ";", ";;"], ids=repr)
def test_no_sql_at_all_is_said(rows: Rows, sql: str):
    with pytest.raises(QueryError, match="no SQL is given"):
        rows(sql)


def test_a_nul_is_refused(rows: Rows):
    with pytest.raises(QueryError, match="NUL"):
        rows("SELECT 1\0; DELETE FROM metadata")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT digest FRM v2_metadata", 'near "v2_metadata": syntax error'),
        ("SELECT * FROM metadata WHERE (", "incomplete input"),
        ("SELECT digets FROM v2_metadata", "no such column: digets"),
        ("SELECT * FROM metadat", "no such table: metadat"),
        ("SELECT sha256(value) FROM metadata", "no such function: sha256"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELECT '\udcff'", "surrogates not allowed"),
    ],
)
def test_what_is_wrong_with_sql_is_said(rows: Rows, sql: str, said: str):
    with pytest.raises(QueryError, match=said):
        rows(sql)


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT ?", ()),
        ("SELECT ?, ?", ("x",)),
        ("SELECT 1", ("x",)),
        ("SELECT ?3", ("x",)),
        ("SELECT :a", ()),
        ("SELECT :a", {"b": 1}),
        ("SELECT :a, ?", {"a": 1}),
        ("SELECT ?", {"a": 1}),
        ("SELECT ?", (1 << 70,)),
        ("SELECT ?", ("\udcff",)),
    ],
)
def test_a_parameter_without_value_and_a_value_without_parameter_are_refused(
    rows: Rows, sql: str, parameters: Parameters
):
    with pytest.raises(QueryError) as refused:
        rows(sql, parameters)

    assert str(refused.value)


def test_parameters_reach_the_query(rows: Rows):
    assert rows("SELECT count(*) FROM v2_metadata WHERE diff_id = ? LIMIT ?", (sha256(1), 5)) == [(3,)]
    assert rows("SELECT ?2, ?1, ?2", ("x", "y")) == [("y", "x", "y")]
    assert rows("SELECT count(*) FROM v2_metadata WHERE position = :p", {"p": 1}) == [(10,)]


def test_text_that_is_no_utf8_is_shown_with_its_bytes(rows: Rows):
    assert rows("SELECT CAST(x'61ff' AS TEXT)") == [("a\\xff",)]


@pytest.mark.parametrize(
    ("sql", "limit"),
    [
        ("SELECT zeroblob(1000000000)", "8 MiB"),
        ("SELECT zeroblob(200000000) FROM metadata LIMIT 100", "8 MiB"),
        ("SELECT group_concat(hex(zeroblob(1000000))) FROM metadata", "8 MiB"),
        (f"SELECT json_array({', '.join(['hex(zeroblob(4000000))'] * 60)})", "256 MiB of memory"),
    ],
)
def test_what_would_fill_the_memory_is_refused_with_the_limit(rows: Rows, sql: str, limit: str):
    with pytest.raises(QueryError, match=limit):
        rows(sql)


def test_temporary_files_are_limited(answering: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By the same error as where there is no room for them."""
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    asked = (
        "from layerstore.sql.query import query as ask\n"
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))\n"
        "with ask(sys.argv[1], sys.argv[2]) as answer: print(next(answer.rows))"
    )
    sql = ENDLESS.format("x, hex(zeroblob(5000)) AS text") + " LIMIT 10000) ORDER BY text, x"
    done = subprocess.run(
        [sys.executable, "-c", asked, answering, f"SELECT x FROM ({sql}"], capture_output=True, text=True, check=False
    )

    assert done.returncode != 0
    assert "QueryError: the query needs more than 4 GiB for temporary files" in done.stderr
    assert not list(tmp_path.glob("etilqs*"))


def test_a_plan_is_given_in_place_of_rows(rows: Rows):
    (step,) = rows("SELECT * FROM v2_metadata WHERE digest = 'x'", explain=True)
    assert "USING INDEX v2_metadata_by_digest" in step[3]
    with pytest.raises(QueryError, match="EXPLAIN"):
        rows("EXPLAIN SELECT 1", explain=True)
