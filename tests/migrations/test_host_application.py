"""An older store is upgraded while the host application runs a migration of its own; neither disturbs the other."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect

from layerstore import SQLMetadataStore
from layerstore.sql.schema import HEAD
from layerstore.sql.sqlite import opening
from tests.conftest import OpenSQL

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "0001.db"

ENV = """
from alembic import context
from sqlalchemy import create_engine, pool
url = context.config.get_main_option("sqlalchemy.url")
with create_engine(url, poolclass=pool.NullPool).connect() as connection:
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()
    context.config.attributes["after"](context)
"""
REVISION = """
import sqlalchemy as sa
from alembic import context, op
revision, down_revision = "a1", None

def upgrade():
    op.create_table("one", sa.Column("x", sa.Integer))
    context.config.attributes["between"]()
    op.create_table("two", sa.Column("x", sa.Integer))
"""


def at_once(work: Callable[[], object]) -> None:
    work()


def in_another_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def migrate_application(folder: Path, between: Callable[[], object]) -> set[str]:
    """Run the application's migration, with `between` in its middle; return the tables that it has made."""
    (folder / "application" / "versions").mkdir(parents=True)
    (folder / "application" / "env.py").write_text(ENV)
    (folder / "application" / "script.py.mako").touch()
    (folder / "application" / "versions" / "a1.py").write_text(REVISION)
    seen: list[object] = []
    config = Config()
    config.set_main_option("script_location", str(folder / "application"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("sqlalchemy.url", f"sqlite:///{folder}/application.db")
    config.attributes.update(between=between, after=lambda context: seen.append(context.get_context()))
    command.upgrade(config, "head")
    assert seen != [None]
    engine = create_engine(f"sqlite:///{folder}/application.db")
    tables = set(inspect(engine).get_table_names())
    engine.dispose()
    return tables


@pytest.mark.parametrize("run", [at_once, in_another_thread])
def test_an_upgrade_inside_the_applications_migration_leaves_its_proxies_as_they_are(
    tmp_path: Path, run: Callable[[Callable[[], object]], None], open_sql: OpenSQL
):
    path = tmp_path / "old.db"
    shutil.copy(GOLDEN, path)

    tables = migrate_application(tmp_path, lambda: run(lambda: open_sql(path)))

    assert tables == {"alembic_version", "one", "two"}
    assert opening.revision(str(path)) == HEAD


def test_a_downgrade_does_so_too(tmp_path: Path, open_sql: OpenSQL):
    path = tmp_path / "layers.db"
    open_sql(path).close()

    tables = migrate_application(tmp_path, lambda: opening.move_to(str(path), "0001"))

    assert tables == {"alembic_version", "one", "two"}
    assert opening.revision(str(path)) == "0001"


def test_threads_upgrade_several_files_at_once(tmp_path: Path, open_sql: OpenSQL):
    paths = [tmp_path / f"old{number}.db" for number in range(6)]
    for path in paths:
        shutil.copy(GOLDEN, path)
    barrier = threading.Barrier(len(paths))
    failures: list[BaseException] = []

    def upgrade(path: Path) -> None:
        barrier.wait()
        try:
            with SQLMetadataStore(path):
                pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=upgrade, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    for path in paths:
        assert opening.revision(str(path)) == HEAD
        open_sql(path)
