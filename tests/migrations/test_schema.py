"""The schema: a new file equals an upgrade from nothing, and Alembic's commands work in the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Engine, create_engine, text

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from layerstore.sql import migrate
from layerstore.sql.schema import APPLICATION_ID, HEAD, PAGE_SIZE
from layerstore.sql.sqlite.views import VIEWS
from layerstore.sql.tables import schema
from tests.conftest import OpenSQL, database_rows
from tests.support.strategies import sha256

ROOT = Path(__file__).resolve().parents[2]


def upgraded_from_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a database with Alembic alone, as `alembic upgrade head` does."""
    monkeypatch.setenv("LAYERSTORE_DB", str(path))
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    command.upgrade(config, "head")


def objects(engine: Engine) -> dict[tuple[str, str], tuple[str, str | None]]:
    """Return each object's SQL by type and name; how it is broken into lines does not count."""
    with engine.connect() as connection:
        found = connection.execute(text("SELECT type, name, tbl_name, sql FROM sqlite_master")).all()
    return {(kind, name): (table, sql and " ".join(sql.split())) for kind, name, table, sql in found}


def pragmas_and_rows(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            query: sorted(tuple(row) for row in connection.execute(text(query)))
            for query in (
                "PRAGMA application_id",
                "PRAGMA user_version",
                "PRAGMA page_size",
                "PRAGMA encoding",
                "PRAGMA auto_vacuum",
                "SELECT tbl, idx, stat FROM sqlite_stat1",
                "SELECT version_num FROM alembic_version",
            )
        }


def test_a_new_file_equals_an_upgrade_from_nothing(
    tmp_path: Path, sql_file: SQLMetadataStore, monkeypatch: pytest.MonkeyPatch
):
    upgraded_from_nothing(tmp_path / "upgraded.db", monkeypatch)
    upgraded = create_engine(f"sqlite:///{tmp_path}/upgraded.db")
    new = sql_file.engine
    try:
        assert objects(new) == objects(upgraded)
        assert pragmas_and_rows(new) == pragmas_and_rows(upgraded)
    finally:
        upgraded.dispose()


def test_an_upgrade_from_nothing_is_a_store(tmp_path: Path, open_sql: OpenSQL, monkeypatch: pytest.MonkeyPatch):
    upgraded_from_nothing(tmp_path / "upgraded.db", monkeypatch)
    store = open_sql(tmp_path / "upgraded.db")
    V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2), "r"))

    assert V2MetadataService(store).get_diff_id(sha256(2)) == sha256(1)
    assert (tmp_path / "upgraded.db").stat().st_mode & 0o777 == 0o600


def test_the_fixed_names_are_there(sql_file: SQLMetadataStore):
    """DESIGN, "SQL names": people write queries against them."""
    columns = {
        name: [row[1] for row in database_rows(sql_file, f"PRAGMA table_info({name})")]
        for name in ("metadata", "v2_metadata", "diff_id_by_digest", "v1_ids", "quarantine")
    }

    assert columns == {
        "metadata": ["namespace", "key", "value", "modified_at_ns"],
        "v2_metadata": ["diff_id", "position", "digest", "source_repository", "hmac"],
        "diff_id_by_digest": ["digest", "diff_id"],
        "v1_ids": ["registry", "v1_id", "diff_id"],
        "quarantine": ["id", "namespace", "key", "value", "reason", "quarantined_at_ns"],
    }
    assert database_rows(sql_file, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert database_rows(sql_file, "PRAGMA page_size") == [(PAGE_SIZE,)]


def test_what_old_sqlite_lacks_is_not_in_the_schema(sql_file: SQLMetadataStore):
    """The file opens in SQLite 3.34: no STRICT tables, no `->>`."""
    texts = [sql or "" for _, sql in objects(sql_file.engine).values()]

    assert len(texts) > 10
    assert not [sql for sql in texts if "STRICT" in sql or "->" in sql]


def test_the_constant_head_is_the_script_directorys():
    assert ScriptDirectory(str(ROOT / "migrations")).get_current_head() == HEAD
    assert migrate.revisions()[-1] == HEAD
    assert migrate.history()[0].down_revision is None


def test_each_revision_names_the_one_before_it_and_its_file():
    scripts = ScriptDirectory(str(ROOT / "migrations"))
    found = list(scripts.walk_revisions())

    assert [script.revision for script in found] == sorted((script.revision for script in found), reverse=True)
    assert all(Path(script.path).name.startswith(f"{script.revision}_") for script in found)


def test_the_migrations_are_found_beside_the_package():
    assert migrate.script_location() == ROOT / "migrations"


def test_a_new_file_is_made_without_importing_alembic(tmp_path: Path):
    code = (
        "import sys; from layerstore import SQLMetadataStore; SQLMetadataStore(sys.argv[1]).close();"
        "print([name for name in sys.modules if name.partition('.')[0] in ('alembic', 'mako')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "layers.db"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert result.stdout == "[]\n"
    assert (tmp_path / "layers.db").exists()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what Alembic needs, so that what it writes is not in the real one."""
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    for folder in ("migrations", "layerstore"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def alembic(checkout: Path, *arguments: str) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=checkout,
        env=os.environ | {"LAYERSTORE_DB": str(checkout / "work.db"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


@pytest.mark.slow
def test_alembics_commands_work_at_the_root(checkout: Path):
    """upgrade, check, current, a revision by autogenerate (which finds nothing to do), downgrade, and up again."""
    before = set((checkout / "migrations" / "versions").iterdir())
    alembic(checkout, "upgrade", "head")
    assert "No new upgrade operations detected" in alembic(checkout, "check")
    assert HEAD in alembic(checkout, "current")
    alembic(checkout, "revision", "--autogenerate", "--rev-id", "9998", "-m", "nothing to do")
    [made] = set((checkout / "migrations" / "versions").iterdir()) - before
    assert made.name == "9998_nothing_to_do.py"
    assert made.read_text().count("    pass\n") == 2
    assert f"down_revision = '{HEAD}'" in made.read_text()
    alembic(checkout, "upgrade", "head")
    alembic(checkout, "downgrade", HEAD)
    with SQLMetadataStore(checkout / "work.db") as store:
        store.set("n", "k", b"")
        assert len(list(store.entries())) == 1


def test_alembic_prints_an_upgrade_as_sql(checkout: Path):
    """`--sql`, for those who look before they run."""
    printed = alembic(checkout, "upgrade", "head", "--sql")

    assert "CREATE VIEW diff_id_by_digest" in printed
    assert "INSERT INTO sqlite_stat1" in printed


def test_alembic_check_would_see_a_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The control: a column that the migrations do not make is found."""
    upgraded_from_nothing(tmp_path / "upgraded.db", monkeypatch)
    table = schema.tables["quarantine"].to_metadata(other := type(schema)())
    table.append_column(Column("more", table.c.reason.type))
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    engine = create_engine(f"sqlite:///{tmp_path}/upgraded.db")
    try:
        with engine.connect() as connection:
            found = compare_metadata(MigrationContext.configure(connection), other)
    finally:
        engine.dispose()

    assert any(isinstance(step, tuple) and step[0] == "add_column" for step in found)


def test_a_downgrade_of_the_first_revision_leaves_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    upgraded_from_nothing(tmp_path / "upgraded.db", monkeypatch)
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations"))
    config.set_main_option("path_separator", "os")
    command.downgrade(config, "base")
    engine = create_engine(f"sqlite:///{tmp_path}/upgraded.db")
    left = {name for _, name in objects(engine) if not name.startswith(("sqlite_", "alembic_"))}
    engine.dispose()

    assert left == set()


def test_views_of_the_schema_are_those_of_the_database(sql_file: SQLMetadataStore):
    found = objects(sql_file.engine)

    assert {name for kind, name in found if kind == "view"} == set(VIEWS)
