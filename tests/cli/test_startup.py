"""What the command imports: nothing heavy for help and completion, no Alembic unless a migration runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command import GOLDEN, ROOT

REPORTING = """
import json, sys
from layerstore.cli import main
sys.argv = ["layerstore", *sys.argv[1:]]
try:
    main()
except SystemExit as ended:
    code = ended.code
print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]), file=sys.stderr)
"""
DIGEST = next((GOLDEN / "diffid-by-digest" / "sha256").iterdir()).name
HEAVY = {"sqlalchemy", "alembic", "sqlite3", "msgspec", "mako", "datasette", "uvicorn"}


def imported_by(*arguments: str | Path, **environment: str) -> set[str]:
    """Run the command and return the packages that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", REPORTING, *arguments],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stderr)
    assert code == 0
    return set(modules)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["import", "--help"],
        ["schema", "--help"],
        ["schema", "upgrade", "-h"],
        ["serve", "--help"],
    ],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(arguments: list[str]):
    assert imported_by(*arguments) & HEAVY == set()


def test_a_completion_script_imports_nothing_heavy():
    assert imported_by("completion", "zsh") & HEAVY == set()


@pytest.mark.parametrize("words", ["layerstore ", "layerstore list ", "layerstore schema ", "layerstore query @"])
def test_a_completion_imports_nothing_heavy(words: str):
    environment = {
        "_LAYERSTORE_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }

    assert imported_by(**environment) & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["get", "diffid-by-digest", f"sha256/{DIGEST}"],
        ["set", "n", "k", "v"],
        ["list"],
        ["show", DIGEST],
        ["show", "localhost:5000/team1/app"],
        ["query", "@digest", f"sha256:{DIGEST}"],
        ["query", "--explain", "SELECT * FROM metadata"],
        ["--db", "new.db", "set", "n", "k", "v"],
    ],
    ids=" ".join,
)
def test_a_question_imports_no_sqlalchemy(imported: Path, tmp_path: Path, arguments: list[str]):
    """The process has started a fifth sooner than SQLAlchemy alone would be imported."""
    arguments = [str(tmp_path / word) if word == "new.db" else word for word in arguments]
    modules = imported_by(*arguments, LAYERSTORE_DB=str(imported))

    assert modules & {"sqlalchemy", "alembic", "logging"} == set()
    assert "sqlite3" in modules


def test_no_command_but_a_migration_imports_alembic(imported: Path, tmp_path: Path):
    """Not on a file that is there, and not for one that is made."""
    for arguments in (
        ["get", "diffid-by-digest", f"sha256/{next((GOLDEN / 'diffid-by-digest/sha256').iterdir()).name}"],
        ["list"],
        ["verify"],
        ["--db", str(tmp_path / "new.db"), "import", str(GOLDEN)],
        ["--db", str(tmp_path / "other.db"), "set", "n", "k", "v"],
        ["schema", "current"],
    ):
        modules = imported_by(*arguments, LAYERSTORE_DB=str(imported))
        assert modules & {"alembic", "mako"} == set(), arguments
        assert "sqlite3" in modules


def test_a_migration_imports_alembic(imported: Path):
    """The control of the tests above: the package is found when it is needed."""
    assert "alembic" in imported_by("schema", "upgrade", LAYERSTORE_DB=str(imported))
