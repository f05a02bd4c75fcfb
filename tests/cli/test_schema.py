"""`schema`: which revision a database has, and moving it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from layerstore.sql.schema import HEAD
from tests.support.command import BAD, DONE, Run, assert_one_line_error, lines


def test_current_is_the_revision_of_the_database(run: Run, small: Path):
    assert run("schema", "current") == (DONE, f"{HEAD}\n".encode(), "")
    assert run("schema", "current", "--json").json == {"path": str(small), "revision": HEAD, "head": HEAD}


def test_current_tells_of_an_older_revision_and_changes_nothing(run: Run, small: Path):
    connection = sqlite3.connect(small)
    connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.commit()
    connection.close()

    assert run("schema", "current").out == f"0000 (this version of layerstore works with {HEAD})\n"
    assert run("schema", "current", "--json").json["revision"] == "0000"


def test_an_empty_file_has_no_revision(run: Run, database: Path):
    database.parent.mkdir()
    database.touch()

    assert run("schema", "current").out.startswith("empty")
    assert run("schema", "current", "--json").json["revision"] is None
    assert database.stat().st_size == 0


@pytest.mark.parametrize(
    "arguments",
    [["schema", "upgrade"], ["schema", "upgrade", "head"], ["schema", "upgrade", HEAD], ["schema", "downgrade", HEAD]],
)
def test_moving_to_where_it_is_changes_nothing(run: Run, small: Path, arguments: list[str]):
    before = run("list", "--json").out

    assert run(*arguments) == (DONE, f"{small}: {HEAD} already\n".encode(), "")
    assert run("list", "--json").out == before


def test_history_begins_with_the_first_revision_and_ends_with_the_newest(run: Run):
    shown = [line.split(maxsplit=1) for line in lines(run("schema", "history").out)]
    assert (shown[0][0], shown[-1][0]) == ("0001", HEAD)
    assert all(doc for _, doc in shown)

    history = run("schema", "history", "--json").json
    assert [(one["revision"], one["doc"]) for one in history] == [tuple(row) for row in shown]
    assert history[0]["down_revision"] is None


@pytest.mark.parametrize("command", ["upgrade", "downgrade"])
def test_an_unknown_revision_is_refused(run: Run, small: Path, command: str):
    result = run("schema", command, "9999")

    assert result.code == BAD
    assert_one_line_error(result, "9999", "layerstore schema history")
    assert small.exists()


@pytest.mark.parametrize("arguments", [["current"], ["upgrade"], ["downgrade", HEAD]])
def test_a_missing_database_is_an_error_and_not_made(run: Run, database: Path, arguments: list[str]):
    result = run("schema", *arguments)

    assert result.code == BAD
    assert_one_line_error(result, database, "layerstore import")
    assert not database.exists()
