"""`query`: SQL from the command line, a file or a pipe, named queries, and how rows look in each format."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from layerstore.sql.questions import QUESTIONS
from tests.support.command import BAD, DONE, ROOT, USAGE, Run, assert_one_line_error, lines

LAYER_SQL = "SELECT position, source_repository FROM v2_metadata WHERE source_repository <> '' ORDER BY 1, diff_id"
ODD = (
    "SELECT 1 AS a, NULL AS b, 'x,\"y\"' AS \"c,d\", x'ff00' AS e, CAST('té' AS BLOB) AS f, 1.5 AS g,"
    " 'a' || char(9) || 'b\\' || char(10) || 'c' AS h, 9e999 AS i, x'1b5b' AS j"
)


def test_rows_are_a_table_with_numbers_to_the_right(run: Run, imported: Path):
    result = run("query", "SELECT source_repository, layers FROM repositories ORDER BY layers DESC, 1 LIMIT 3")

    assert (result.code, result.err) == (DONE, "")
    assert lines(result.out) == [
        "source_repository        layers",
        "-----------------------  ------",
        "localhost:5000/apps/a01       6",
        "localhost:5000/apps/a11       6",
        "localhost:5000/apps/a13       6",
    ]
    assert imported.exists()


def test_a_table_without_rows_has_its_header_and_a_parameter_its_value(run: Run, small: Path):
    assert run("query", "SELECT digest FROM v2_metadata WHERE digest = ?", "x").out == "digest\n------\n"
    assert (
        run("query", "SELECT :b AS b, :a AS a", "a=1", "two words").out == "b          a\n---------  -\ntwo words  1\n"
    )
    assert small.exists()


def test_csv_is_read_back_as_it_was(run: Run, small: Path):
    out = run("query", "--format", "csv", ODD).out

    header, row = csv.reader(io.StringIO(out, newline=""))
    assert header == ["a", "b", "c,d", "e", "f", "g", "h", "i", "j"]
    assert row == ["1", "", 'x,"y"', "x'ff00'", "té", "1.5", "a\tb\\\nc", "inf", "x'1b5b'"]
    assert small.exists()


def test_tsv_has_a_line_a_row_and_escapes_what_would_break_it(run: Run, small: Path):
    header, row = run("query", "--format", "tsv", ODD).out.splitlines()

    assert header.split("\t")[2] == "c,d"
    assert row.split("\t")[6] == r"a\tb\\\nc"
    assert small.exists()


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_json_has_an_object_a_row(run: Run, small: Path, form: str):
    out = run("query", "--format", form, f"{ODD}, 2 AS a UNION ALL {ODD}, 3").out
    rows = json.loads(out) if form == "json" else [json.loads(line) for line in out.splitlines()]

    assert rows[0] == {
        "a": 1,
        "b": None,
        "c,d": 'x,"y"',
        "e": "x'ff00'",
        "f": "té",
        "g": 1.5,
        "h": "a\tb\\\nc",
        "i": "inf",
        "j": "x'1b5b'",
        "a_2": 2,
    }
    assert [row["a_2"] for row in rows] == [2, 3]
    assert small.exists()


def test_json_of_no_rows_is_an_empty_list(run: Run, small: Path):
    sql = "SELECT 1 WHERE 0"

    assert run("query", "--json", sql).json == []
    assert run("query", "--format", "jsonl", sql).out == ""
    assert run("query", "--format", "csv", sql).out == "1\n"
    assert small.exists()


def test_a_blob_that_is_text_is_shown_as_text_and_another_one_in_hex(run: Run, small: Path):
    with SQLMetadataStore(small) as store:
        store.set("n", "binary", b"\xff\x00")
        store.set("n", "control", b"\x1b[2J")
    out = run("query", "SELECT value FROM metadata WHERE namespace IN ('n', 'v1id') ORDER BY key").out

    assert "x'ff00'" in out
    assert "x'1b5b324a'" in out
    assert "sha256:a000" in out


def test_control_characters_do_not_reach_a_terminal(run: Run, small: Path):
    sql = "SELECT 'a' || char(27) || '[2J' || char(155) AS \"x\x1b\""
    for form in ("table", "json", "jsonl"):
        assert "\x1b" not in run("query", "--format", form, sql).out
    assert "\x1b" in run("query", "--format", "csv", sql).out, "a program gets every byte"
    leader, follower = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "layerstore", "query", "--format", "csv", sql],
        cwd=ROOT,
        env={**os.environ, "LAYERSTORE_DB": str(small)},
        stdout=follower,
        check=True,
    )
    os.close(follower)
    assert b"\x1b" not in os.read(leader, 10000)
    os.close(leader)


def test_rows_behind_those_that_a_table_was_measured_by_are_there_too(run: Run, small: Path):
    sql = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2500) SELECT x, 'n' || x FROM c"
    shown = lines(run("query", sql).out)

    assert len(shown) == 2502
    assert shown[-1].split() == ["2500", "n2500"]
    assert small.exists()


def test_sql_comes_from_a_file_and_from_standard_input(run: Run, small: Path, tmp_path: Path):
    (tmp_path / "q.sql").write_bytes(b"\xef\xbb\xbf-- a comment\nSELECT ? AS x;\n")

    assert run("query", "--file", tmp_path / "q.sql", "v").out == "x\n-\nv\n"
    assert run("query", "--file", "-", "v", stdin=b"SELECT ? AS y").out == "y\n-\nv\n"
    assert run("query", "-", "v", stdin=b"SELECT ? AS z").out == "z\n-\nv\n"
    assert small.exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe"], ids=["missing", "no text"])
def test_a_file_that_cannot_be_read_is_said(run: Run, small: Path, tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "q.sql").write_bytes(content)
    result = run("query", "--file", tmp_path / "q.sql")

    assert result.code == BAD
    assert_one_line_error(result, "q.sql")
    assert small.exists()


def test_a_pipe_without_a_writer_and_a_file_without_end_are_refused(run_process: Run, small: Path, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for file, said in ((tmp_path / "pipe", "no SQL is given"), (Path("/dev/zero"), "longer than 1048576 bytes")):
        result = run_process("query", "--file", file)
        assert (result.code, result.raw) == (BAD, b"")
        assert said in result.err
    assert small.exists()


def test_sql_comes_from_a_pipe(small: Path):
    done = subprocess.run(
        ["bash", "-c", '"$0" -m layerstore query --file <(sleep 0.2; echo "SELECT 1 AS one")', sys.executable],
        cwd=ROOT,
        env={**os.environ, "LAYERSTORE_DB": str(small)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "one\n---\n  1\n"


def test_an_error_says_what_is_wrong_in_one_line(run: Run, small: Path, tmp_path: Path):
    (tmp_path / "q.sql").write_text("SELECT digest\n\tFROM v2_metadta\n")
    result = run("query", "--file", tmp_path / "q.sql")

    assert (result.code, result.raw) == (BAD, b"")
    assert result.err == "layerstore: no such table: v2_metadta\n"
    assert small.exists()


def test_a_write_is_refused(run: Run, small: Path):
    before = small.read_bytes()
    result = run("query", "DELETE FROM metadata")

    assert (result.code, result.raw) == (BAD, b"")
    assert result.err == "layerstore: queries only read: DELETE metadata is refused\n"
    assert small.read_bytes() == before


def test_a_value_that_is_too_long_is_refused_with_the_limit(run: Run, small: Path):
    result = run("query", "SELECT zeroblob(200000000) FROM metadata LIMIT 100")

    assert (result.code, result.raw) == (BAD, b"")
    assert "a value is longer than 8 MiB" in result.err
    assert small.exists()


def test_a_query_that_takes_too_long_is_stopped(run: Run, small: Path):
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    result = run("query", "--timeout", "0.1", endless)

    assert result.code == BAD
    assert_one_line_error(result, small, "stopped after 0.1 s", "--timeout")


def test_explain_shows_the_plan_and_what_is_read_whole(run: Run, small: Path):
    good = run("query", "--explain", "@newest").out
    assert re.search(r"^SEARCH (TABLE metadata AS )?m USING COVERING INDEX metadata_by_time", good)
    assert re.search(r"\n  SEARCH (TABLE )?v2_metadata USING PRIMARY KEY", good)
    assert "full scan" not in good

    bad = run("query", "--explain", "SELECT * FROM v2_metadata WHERE hmac = ?", "x").out
    assert re.fullmatch(r"SCAN (TABLE )?v2_metadata   <- full scan\n", bad)
    assert run("query", "--explain", "--json", "SELECT * FROM metadata").json[0]["detail"].startswith("SCAN ")
    assert small.exists()


def test_the_list_has_every_named_query_with_its_question(run: Run, database: Path):
    shown = run("query", "--list").out

    assert not database.exists()
    for one in QUESTIONS:
        assert re.search(rf"^@{one.name}\b.*{re.escape(one.question)}$", shown, re.MULTILINE)
    assert [one["name"] for one in run("query", "--list", "--json").json] == [one.name for one in QUESTIONS]
    assert run("query", "--list", "--format", "csv").out.count("@") == len(QUESTIONS)


def test_a_named_query_takes_values_in_order_and_by_name(run: Run, imported: Path):
    by_order = run("query", "@repositories", "localhost:5000/apps/a0*", "2").out
    by_name = run("query", "@repositories", "limit=2", "like=localhost:5000/apps/a0*").out

    assert by_order == by_name
    assert lines(by_order)[2:] == ["localhost:5000/apps/a00       2", "localhost:5000/apps/a01       6"]
    assert imported.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], USAGE, "--list"),
        (["--list", "SELECT 1"], USAGE, "--list takes no SQL"),
        (["@absent"], BAD, "no query is named @absent"),
        (["@digest"], BAD, "digest=VALUE"),
        (["@newest", "1", "2"], BAD, "no parameter for '2'"),
        (["SELECT ?"], BAD, "0 are given"),
        (["--format", "xml", "SELECT 1"], USAGE, "'xml'"),
        (["--timeout", "0", "SELECT 1"], USAGE, "--timeout"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_asked_is_said(run: Run, small: Path, arguments: list[str], code: int, said: str):
    result = run("query", *arguments)

    assert (result.code, result.raw) == (code, b"")
    assert said in result.err
    assert small.exists()


def test_a_database_that_is_not_there_is_not_made(run: Run, database: Path):
    result = run("query", "SELECT 1")

    assert result.code == BAD
    assert_one_line_error(result, database, "layerstore import")
    assert not database.exists()


def test_a_reader_that_goes_away_ends_the_query(small: Path):
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c"
    done = subprocess.run(
        ["sh", "-c", '"$0" -m layerstore query "$1" | head -3; echo "$?"', sys.executable, endless],
        cwd=ROOT,
        env={**os.environ, "LAYERSTORE_DB": str(small)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "x\n-\n1\n0\n".replace("x\n", "   x\n").replace("-\n", "----\n").replace("1\n", "   1\n")
    assert done.stderr == ""
