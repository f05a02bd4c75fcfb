"""The machinery of migrations, with a made-up revision 0004: whole or not at all, and safe against others."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from layerstore import (
    InvalidInputError,
    SchemaVersionError,
    SQLMetadataStore,
    StoreError,
    StoreOpenError,
    V2Metadata,
    V2MetadataService,
)
from layerstore.sql.sqlite import opening
from tests.conftest import OpenSQL, assert_sound, database_rows
from tests.migrations import next_revision
from tests.support.strategies import sha256

CONTEXT = multiprocessing.get_context("forkserver")
Row = tuple[object, ...]


@pytest.fixture
def location(tmp_path: Path) -> Path:
    return next_revision.make(tmp_path)


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    """A file of revision 0003 with some data, and its write-ahead log checkpointed."""
    path = tmp_path / "old.db"
    with SQLMetadataStore(path) as store:
        for number in range(20):
            V2MetadataService(store).add(sha256(number % 5), V2Metadata(sha256(100 + number), f"r{number % 3}"))
        store.quarantine("n", "k", b"value", "reason")
    return path


def content(path: Path) -> dict[str, list[Row]]:
    """Return all rows of the tables of 0003, by the columns of 0003."""
    connection = sqlite3.connect(path)
    try:
        return {
            query: connection.execute(query).fetchall()
            for query in (
                "SELECT namespace, key, value, modified_at_ns FROM metadata"
                " WHERE namespace <> 'opened by' ORDER BY 1, 2",
                "SELECT * FROM v2_metadata ORDER BY 1, 2",
                "SELECT * FROM quarantine",
                "SELECT * FROM diff_id_by_digest ORDER BY 1",
            )
        }
    finally:
        connection.close()


def version_and_objects(path: Path) -> tuple[str, set[str]]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        [(version,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        names = {
            row[0]
            for row in connection.execute(
                "SELECT name FROM sqlite_master UNION SELECT name FROM pragma_table_info('metadata')"
            )
        }
        return version, names & {"notes", "seen"}
    finally:
        connection.close()


OLD: tuple[str, set[str]] = ("0003", set())
NEW: tuple[str, set[str]] = ("0004", {"notes", "seen"})


def test_up_down_and_up_again_keeps_the_data(old_file: Path, location: Path, monkeypatch: pytest.MonkeyPatch):
    before = content(old_file)
    next_revision.install(location, monkeypatch)
    for _ in range(2):
        with SQLMetadataStore(old_file) as store:
            assert database_rows(store, "SELECT DISTINCT seen FROM metadata") == [(8,)]
            assert_sound(store)
        assert version_and_objects(old_file) == NEW
        assert content(old_file) == before
        assert opening.move_to(str(old_file), "0003") == ("0004", "0003")
        assert version_and_objects(old_file) == OLD
        assert content(old_file) == before


def test_an_upgraded_file_is_used_like_any_other(
    old_file: Path, location: Path, monkeypatch: pytest.MonkeyPatch, open_sql: OpenSQL
):
    next_revision.install(location, monkeypatch)
    store = open_sql(old_file)
    V2MetadataService(store).add(sha256(1), V2Metadata(sha256(999), "new"))

    assert V2MetadataService(store).get_metadata(sha256(1))[-1] == V2Metadata(sha256(999), "new")
    assert database_rows(store, "PRAGMA journal_mode") == [("wal",)]


def test_the_code_of_0003_refuses_a_file_of_0004(old_file: Path, location: Path):
    with pytest.MonkeyPatch.context() as monkeypatch:
        next_revision.install(location, monkeypatch)
        SQLMetadataStore(old_file).close()

    for read_only in (False, True):
        with pytest.raises(SchemaVersionError, match=r"0004.*install a newer layerstore"):
            SQLMetadataStore(old_file, read_only=read_only)
    assert version_and_objects(old_file) == NEW


def test_read_only_refuses_an_old_file_and_says_what_to_run(
    old_file: Path, location: Path, monkeypatch: pytest.MonkeyPatch
):
    next_revision.install(location, monkeypatch)
    with pytest.raises(SchemaVersionError, match=r"0003.*needs 0004.*layerstore schema upgrade") as caught:
        SQLMetadataStore(old_file, read_only=True)

    assert caught.value.path == str(old_file)
    assert version_and_objects(old_file) == OLD


def test_a_migration_that_fails_leaves_the_file_as_it_was(
    old_file: Path, location: Path, monkeypatch: pytest.MonkeyPatch
):
    before = content(old_file)
    script = location / "versions" / "0004_made_up.py"
    script.write_text(
        next_revision.TEXT.replace(
            "    pause()\n    op.execute", "    op.execute('SELECT * FROM absent')\n    op.execute"
        )
    )
    next_revision.install(location, monkeypatch)
    with pytest.raises(StoreError):
        SQLMetadataStore(old_file)

    assert version_and_objects(old_file) == OLD
    assert content(old_file) == before


def test_an_error_of_python_in_a_migration_leaves_the_file_as_it_was(
    old_file: Path, location: Path, monkeypatch: pytest.MonkeyPatch
):
    script = location / "versions" / "0004_made_up.py"
    script.write_text(next_revision.TEXT.replace("    pause()\n", "    1 / 0\n", 1))
    next_revision.install(location, monkeypatch)
    with pytest.raises(ZeroDivisionError):
        SQLMetadataStore(old_file)

    assert version_and_objects(old_file) == OLD


@pytest.mark.parametrize("revision", ["0009", "base", "-1", "", "heads", "0003:0004"])
def test_what_is_no_revision_is_refused(old_file: Path, revision: str):
    """`base` too: going back before the first revision would delete everything."""
    with pytest.raises(InvalidInputError):
        opening.move_to(str(old_file), revision)

    assert version_and_objects(old_file) == OLD


@pytest.mark.parametrize("revision", ["0003", "head"])
def test_a_move_to_where_it_is_changes_nothing(old_file: Path, revision: str):
    before = content(old_file)

    assert opening.move_to(str(old_file), revision) == ("0003", "0003")
    assert (version_and_objects(old_file), content(old_file)) == (OLD, before)


def test_a_move_up_and_down_by_name(old_file: Path, location: Path, monkeypatch: pytest.MonkeyPatch):
    next_revision.install(location, monkeypatch)

    assert opening.revision(str(old_file)) == "0003"
    assert opening.move_to(str(old_file), "head") == ("0003", "0004")
    assert opening.move_to(str(old_file), "0004") == ("0004", "0004")
    assert opening.move_to(str(old_file), "0003") == ("0004", "0003")
    assert opening.revision(str(old_file)) == "0003"


def test_a_file_of_an_unknown_revision_is_not_moved(old_file: Path, location: Path):
    with pytest.MonkeyPatch.context() as patch:
        next_revision.install(location, patch)
        SQLMetadataStore(old_file).close()

    with pytest.raises(SchemaVersionError, match="0004"):
        opening.move_to(str(old_file), "0003")
    assert version_and_objects(old_file) == NEW


def test_only_a_file_of_ours_is_moved(tmp_path: Path):
    (tmp_path / "empty").touch()
    (tmp_path / "garbage").write_bytes(b"garbage" * 1000)
    for name in ("absent", "empty", "garbage"):
        with pytest.raises(StoreOpenError):
            opening.move_to(str(tmp_path / name), "head")

    assert sorted(os.listdir(tmp_path)) == ["empty", "garbage"]


def test_six_processes_that_open_an_old_file_at_once_all_succeed(old_file: Path, location: Path, open_sql: OpenSQL):
    before = content(old_file)
    processes = [
        CONTEXT.Process(target=next_revision.open_with_next_revision, args=(str(old_file), location)) for _ in range(6)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * 6
    assert version_and_objects(old_file) == NEW
    assert content(old_file) == before
    connection = sqlite3.connect(old_file)
    opened_by = {int(row[0]) for row in connection.execute("SELECT key FROM metadata WHERE namespace = 'opened by'")}
    connection.close()
    assert opened_by == {process.pid for process in processes}


def killed_in_the_middle(
    work: object, path: Path, location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run `work` in a process, and kill it when half of the migration is done."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    monkeypatch.setenv(next_revision.PAUSE, str(fifo))
    process = multiprocessing.get_context("spawn").Process(target=work, args=(str(path), location))  # type: ignore[arg-type]
    process.start()
    assert fifo.read_text() == "half"
    assert process.is_alive()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.delenv(next_revision.PAUSE)
    fifo.unlink()


def test_killed_in_the_middle_of_an_upgrade_the_file_is_the_old_one(
    old_file: Path, location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = content(old_file)
    killed_in_the_middle(next_revision.open_with_next_revision, old_file, location, tmp_path, monkeypatch)

    assert version_and_objects(old_file) == OLD
    assert content(old_file) == before
    next_revision.install(location, monkeypatch)
    SQLMetadataStore(old_file).close()
    assert version_and_objects(old_file) == NEW
    assert content(old_file) == before


def test_killed_in_the_middle_of_a_downgrade_the_file_is_the_new_one(
    old_file: Path, location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before = content(old_file)
    with pytest.MonkeyPatch.context() as patch:
        next_revision.install(location, patch)
        SQLMetadataStore(old_file).close()
    killed_in_the_middle(next_revision.downgrade_with_next_revision, old_file, location, tmp_path, monkeypatch)

    assert version_and_objects(old_file) == NEW
    assert content(old_file) == before


def test_killed_at_any_moment_the_file_is_old_or_new(old_file: Path, location: Path, tmp_path: Path):
    """Each process is killed a little later than the one before, from its start to beyond its end."""
    before = content(old_file)
    seen = set()
    for number in range(8):
        path = tmp_path / f"copy{number}.db"
        shutil.copy(old_file, path)
        process = CONTEXT.Process(target=next_revision.open_with_next_revision, args=(str(path), location))
        process.start()
        process.join(timeout=0.1 * number)
        process.kill()
        process.join()

        assert version_and_objects(path) in (OLD, NEW)
        assert content(path) == before
        seen.add(version_and_objects(path)[0])
    assert seen
