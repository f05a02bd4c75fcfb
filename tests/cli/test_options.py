"""Where the database is: `--db` before or after the command, `LAYERSTORE_DB`, the place for root and for a user."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import click
import pytest

from layerstore.cli.options import Settings
from tests.support.command import BAD, DONE, GOLDEN, USAGE, Run, assert_one_line_error, with_places


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "other.db"


def test_db_may_stand_before_or_after_the_command(run: Run, database: Path, elsewhere: Path):
    assert run("--db", elsewhere, "set", "n", "before", "1").code == DONE
    assert run("set", "--db", elsewhere, "n", "after", "2").code == DONE
    assert run("set", "n", "end", "3", f"--db={elsewhere}").code == DONE

    assert not database.exists()
    for arguments in (["--db", elsewhere, "list"], ["list", "--db", elsewhere], ["list", "n", "--db", elsewhere]):
        result = run(*arguments)
        assert [line.rpartition("  ")[2] for line in result.out.splitlines()] == ["n/after", "n/before", "n/end"]


def test_the_last_db_counts(run: Run, database: Path, elsewhere: Path):
    assert run("--db", database, "set", "n", "k", "v", "--db", elsewhere).code == DONE

    assert elsewhere.exists()
    assert not database.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["import", "GOLDEN"],
        ["export", "OUT"],
        ["verify"],
        ["diff", "GOLDEN"],
        ["show", "host/name"],
        ["query", "SELECT 1"],
        ["list"],
        ["get", "n", "k"],
        ["set", "n", "k", "v"],
        ["delete", "n", "k"],
        ["quarantine", "list"],
        ["quarantine", "drop", "--all"],
        ["schema", "current"],
        ["schema", "upgrade"],
        ["schema", "downgrade", "0001"],
    ],
    ids=" ".join,
)
def test_every_command_takes_db_in_both_places(
    run: Run, database: Path, elsewhere: Path, tmp_path: Path, arguments: list[str]
):
    run("--db", elsewhere, "set", "n", "k", "v")
    arguments = with_places(arguments, tmp_path)

    before = run("--db", elsewhere, *arguments)
    if arguments[0] == "delete":
        run("--db", elsewhere, "set", "n", "k", "v")
    after = run(*arguments, "--db", elsewhere)

    assert (before.code, after.code) < (USAGE, USAGE)
    assert before.code == after.code
    assert not database.exists()


def test_the_environment_names_the_database(run_process: Run, elsewhere: Path):
    assert run_process("set", "n", "k", "v", environment={"LAYERSTORE_DB": str(elsewhere)}).code == DONE
    assert elsewhere.exists()


def test_without_either_a_user_has_it_in_the_state_directory(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What is made on the way there is the user's alone."""
    monkeypatch.delenv("LAYERSTORE_DB")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))

    assert run("set", "n", "k", "v").code == DONE

    path = tmp_path / "xdg" / "layerstore" / "layers.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert run("get", "n", "k").out == "v"


@pytest.mark.parametrize("state", [None, ""])
def test_without_a_state_directory_it_is_below_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str | None
):
    for name in ("LAYERSTORE_DB", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if state is not None:
        monkeypatch.setenv("XDG_STATE_HOME", state)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))

    assert Settings().path == str(tmp_path / ".local/state/layerstore/layers.db")


def test_root_has_it_in_var_lib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("LAYERSTORE_DB", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert Settings().path == "/var/lib/layerstore/layers.db"
    monkeypatch.setenv("LAYERSTORE_DB", "x.db")
    assert Settings().path == "x.db"
    settings = Settings()
    settings.database = "y.db"
    assert settings.path == "y.db"


def test_a_directory_given_as_db_is_bad_input(run: Run, tmp_path: Path):
    result = run("--db", tmp_path, "list")

    assert result.code == BAD
    assert_one_line_error(result, tmp_path, "a directory, not a database file")


@pytest.mark.parametrize("home", ["nowhere", ""])
def test_a_relative_state_directory_or_home_is_ignored(monkeypatch: pytest.MonkeyPatch, home: str):
    """XDG base directory specification; a database below whatever directory one is in would be lost."""
    monkeypatch.delenv("LAYERSTORE_DB", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings().path == "/home/somebody/.local/state/layerstore/layers.db"

    monkeypatch.setenv("HOME", home)
    if home:
        with pytest.raises(click.UsageError, match="give --db"):
            _ = Settings().path
    else:
        assert Settings().path == "/.local/state/layerstore/layers.db"  # as the system has it


def test_only_import_and_set_make_a_database(run: Run, database: Path):
    for arguments in (["list"], ["get", "n", "k"], ["delete", "n", "k"], ["show", "a/b"], ["verify"]):
        result = run(*arguments)
        assert result.code == BAD
        assert_one_line_error(result, database)
        assert not database.parent.exists()

    assert run("import", GOLDEN).code == DONE
    assert database.exists()
