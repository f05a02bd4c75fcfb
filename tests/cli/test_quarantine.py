"""`quarantine` and `backup`: what was set aside, and one consistent copy."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from tests.support.command import BAD, DONE, FOUND, GOLDEN_FILES, USAGE, Run, assert_one_line_error, lines
from tests.support.strategies import sha256

MAPPINGS = "diffid-by-digest"
KEY = "sha256/" + "1" * 64


@pytest.fixture
def aside(database: Path) -> Path:
    """A database with three values in quarantine: one readable, one not, one of any bytes."""
    with SQLMetadataStore(database) as store:
        store.set("n", "k", b"now")
        store.quarantine(MAPPINGS, KEY, sha256(1).encode(), "conflict")
        store.quarantine(MAPPINGS, KEY, b"", "it is empty")
        store.quarantine("n", "k", b"\xff\0", "a reason")
    return database


def test_list_shows_each_value_with_its_number_place_and_reason(run: Run, aside: Path):
    shown = [line.split() for line in lines(run("quarantine", "list").out)]
    assert [(words[0], words[4], words[5]) for words in shown] == [
        ("1", "71", f"{MAPPINGS}/{KEY}"),
        ("2", "0", f"{MAPPINGS}/{KEY}"),
        ("3", "2", "n/k"),
    ]
    found = run("quarantine", "list", "--json").json
    assert [(one["number"], one["value"], one["reason"]) for one in found] == [
        (1, sha256(1), "conflict"),
        (2, "", "it is empty"),
        (3, "\\xff\0", "a reason"),
    ]
    assert aside.exists()


def test_an_empty_quarantine_is_an_empty_list(run: Run, small: Path):
    assert run("quarantine", "list") == (DONE, b"", "")
    assert run("quarantine", "list", "--json").json == []
    assert run("quarantine", "drop", "--all").code == DONE
    assert small.exists()


def test_show_writes_the_bytes_as_they_are(run: Run, aside: Path):
    assert run("quarantine", "show", 3) == (DONE, b"\xff\0", "")
    assert aside.exists()


def test_restore_puts_a_value_back_and_sets_the_other_aside(run: Run, aside: Path):
    assert run("quarantine", "restore", 1).code == DONE
    assert run("get", MAPPINGS, KEY).out == sha256(1)

    assert run("quarantine", "restore", 3).code == DONE
    assert run("get", "n", "k").raw == b"\xff\0"
    assert [one["value"] for one in run("quarantine", "list", "--json").json] == ["", "now"]
    assert aside.exists()


def test_restore_refuses_what_still_cannot_be_read_unless_forced(run: Run, aside: Path):
    result = run("quarantine", "restore", 2)
    assert result.code == BAD
    assert_one_line_error(result, "it is empty", "--force")

    assert run("quarantine", "restore", "--force", 2).code == DONE
    assert run("get", MAPPINGS, KEY) == (DONE, b"", "")
    assert aside.exists()


def test_drop_forgets_those_named_or_none(run: Run, aside: Path):
    result = run("quarantine", "drop", 1, 9)
    assert result.code == FOUND
    assert_one_line_error(result, "9")
    assert len(run("quarantine", "list", "--json").json) == 3

    assert run("quarantine", "drop", 1, 2).code == DONE
    assert [one["number"] for one in run("quarantine", "list", "--json").json] == [3]
    assert run("quarantine", "drop", "--all").code == DONE
    assert run("quarantine", "list").out == ""
    for arguments in ([], ["--all", "3"]):
        assert run("quarantine", "drop", *arguments).code == USAGE
    assert aside.exists()


@pytest.mark.parametrize("command", ["show", "restore", "drop"])
def test_a_number_that_is_not_there_exits_with_1(run: Run, aside: Path, command: str):
    result = run("quarantine", command, 77)

    assert result.code == FOUND
    assert_one_line_error(result, "77")
    assert aside.exists()


def test_backup_makes_one_file_that_needs_no_other(run: Run, imported: Path, tmp_path: Path):
    """Not in write-ahead mode, so that it can be read where nothing can be written."""
    copy = tmp_path / "copy" / "layers.db"
    copy.parent.mkdir()

    result = run("backup", copy)

    assert (result.code, result.err) == (DONE, "")
    assert str(copy) in result.out
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [path.name for path in copy.parent.iterdir()] == ["layers.db"]
    connection = sqlite3.connect(f"file:{copy}?immutable=1", uri=True)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("SELECT count(*) FROM metadata").fetchone() == (GOLDEN_FILES,)
    connection.close()
    assert run("diff", copy, imported).code == DONE


def test_backup_can_be_quiet_and_in_json(run: Run, imported: Path, tmp_path: Path):
    assert run("backup", "--quiet", tmp_path / "1.db") == (DONE, b"", "")

    report = run("backup", "--json", tmp_path / "2.db").json
    assert report == {"path": str(tmp_path / "2.db"), "bytes": (tmp_path / "2.db").stat().st_size}
    assert imported.exists()
