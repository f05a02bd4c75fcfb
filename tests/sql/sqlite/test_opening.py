"""Opening: paths and URLs, modes, durability, the engine, read only."""

from __future__ import annotations

import gc
import os
import stat
import tempfile
from pathlib import Path

import pytest
from sqlalchemy import Engine

from layerstore import (
    InvalidInputError,
    NotFoundError,
    SQLMetadataStore,
    StoreClosedError,
    StoreOpenError,
    StoreReadOnlyError,
)
from tests.conftest import OpenSQL, database_rows, sqlite_of


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277])
def umask(request: pytest.FixtureRequest):
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_a_new_file_is_0600_and_its_directory_0700_whatever_the_umask(tmp_path: Path, open_sql: OpenSQL):
    store = open_sql(tmp_path / "one" / "two" / "layers.db")
    store.set("n", "k", b"")

    assert [mode(tmp_path / "one"), mode(tmp_path / "one" / "two")] == [0o700, 0o700]
    assert {name: mode(tmp_path / "one" / "two" / name) for name in os.listdir(tmp_path / "one" / "two")} == {
        "layers.db": 0o600,
        "layers.db-wal": 0o600,
        "layers.db-shm": 0o600,
        "layers.db-queue": 0o600,
    }


def test_an_existing_files_mode_and_directory_are_left_alone(tmp_path: Path, open_sql: OpenSQL):
    tmp_path.chmod(0o755)
    path = tmp_path / "layers.db"
    path.touch(0o640)
    path.chmod(0o640)
    open_sql(path).set("n", "k", b"")

    assert (mode(path), mode(tmp_path)) == (0o640, 0o755)


@pytest.mark.parametrize(
    "name", ["a b.db", "100%.db", "a%20b.db", "what?.db", "a#b.db", "é.db", "x;y.db", os.fsdecode(b"\xff.db")]
)
def test_a_file_may_have_any_name(tmp_path: Path, open_sql: OpenSQL, name: str):
    open_sql(tmp_path / name).set("n", "k", b"value")

    assert name in os.listdir(tmp_path)
    assert open_sql(tmp_path / name, read_only=True).get("n", "k") == b"value"


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite+pysqlite:///{}", "{}"])
def test_a_path_and_an_sqlite_url_are_the_same_file(tmp_path: Path, open_sql: OpenSQL, form: str):
    path = str(tmp_path / "layers.db")
    store = open_sql(form.format(path))
    store.set("n", "k", b"value")

    assert store.path == path
    assert open_sql(Path(path)).get("n", "k") == b"value"


def test_a_relative_path_stays_where_it_was(tmp_path: Path, open_sql: OpenSQL, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    by_path, by_url = open_sql("a.db"), open_sql("sqlite:///b.db")
    monkeypatch.chdir("/")
    by_path.set("n", "k", b"")
    by_url.set("n", "k", b"")

    assert (by_path.path, by_url.path) == (str(tmp_path / "a.db"), str(tmp_path / "b.db"))


@pytest.mark.parametrize("form", [":memory:", "sqlite://", "sqlite:///:memory:", "sqlite+pysqlite:///:memory:"])
def test_a_store_in_memory_is_nobody_elses(form: str):
    with SQLMetadataStore(form) as one, SQLMetadataStore(form) as other:
        one.set("n", "k", b"")

        assert one.path is None
        assert list(other.entries()) == []


@pytest.mark.parametrize(
    "url",
    ["postgresql://user:secret@host/db", "mysql+pymysql://u:secret@h/d", "sqlite+aiosqlite:///x.db", "://", "x://"],
)
def test_another_databases_url_is_refused_without_its_password(url: str):
    with pytest.raises(StoreOpenError) as caught:
        SQLMetadataStore(url)
    assert "secret" not in str(caught.value)


def test_a_url_with_a_query_is_refused(tmp_path: Path):
    with pytest.raises(StoreOpenError, match="query"):
        SQLMetadataStore(f"sqlite:///{tmp_path}/x.db?mode=ro")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1)])
def test_durability_is_sqlites_synchronous_on_every_connection(open_sql: OpenSQL, durability: str, synchronous: int):
    store = open_sql(durability=durability)

    assert database_rows(store, "PRAGMA synchronous") == [(synchronous,)]
    assert sqlite_of(store)._connections.local.handle.first("PRAGMA synchronous") == (synchronous,)


def test_full_is_the_default_durability(sql_file: SQLMetadataStore):
    assert database_rows(sql_file, "PRAGMA synchronous") == [(2,)]


def test_a_store_in_memory_is_never_synced(sql_memory: SQLMetadataStore):
    assert database_rows(sql_memory, "PRAGMA synchronous") == [(0,)]


def test_a_store_in_memory_is_a_private_file_that_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with SQLMetadataStore(":memory:") as store:
        store.set("n", "k", b"value")
        (folder,) = tmp_path.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert (store.path, repr(store)) == (None, "SQLMetadataStore(':memory:')")
    assert list(tmp_path.iterdir()) == []

    store = SQLMetadataStore(":memory:")
    store.set("n", "k", b"value")
    del store
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_stores_in_memory_share_nothing(sql_memory: SQLMetadataStore):
    with SQLMetadataStore(":memory:") as other:
        other.set("n", "k", b"value")
        assert list(sql_memory.entries()) == []


def test_a_store_in_memory_without_a_place_names_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(StoreOpenError, match="set TMPDIR"):
        SQLMetadataStore(":memory:")


def test_another_durability_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="'full' or 'normal'"):
        SQLMetadataStore(tmp_path / "x.db", durability="off")  # type: ignore[arg-type]  # the mistake is the point
    assert os.listdir(tmp_path) == []


def test_the_file_is_in_write_ahead_mode_with_pages_of_4096_bytes(sql_file: SQLMetadataStore):
    assert database_rows(sql_file, "PRAGMA journal_mode") == [("wal",)]
    assert database_rows(sql_file, "PRAGMA page_size") == [(4096,)]
    assert database_rows(sql_file, "PRAGMA mmap_size") == [(0,)]


def test_the_engine_is_sqlalchemys_on_the_same_database(sqlite_store: SQLMetadataStore):
    sqlite_store.set("n", "k", b"value")

    assert isinstance(sqlite_store.engine, Engine)
    assert sqlite_store.engine is sqlite_store.engine
    assert database_rows(sqlite_store, "SELECT namespace, key, value FROM metadata") == [("n", "k", b"value")]


def test_a_closed_store_has_no_engine(sqlite_store: SQLMetadataStore):
    assert database_rows(sqlite_store, "SELECT 1") == [(1,)]
    sqlite_store.close()

    with pytest.raises(StoreClosedError):
        _ = sqlite_store.engine


def test_read_only_reads_and_refuses_to_write(open_sql: OpenSQL):
    with open_sql() as writer:
        writer.set("n", "k", b"value")
    store = open_sql(read_only=True)

    assert store.get("n", "k") == b"value"
    assert list(store.entries()) == [("n", "k", b"value")]
    assert store.get_many("n", ["k", "absent"]) == {"k": b"value"}
    with store.transaction():
        assert store.get("n", "k") == b"value"
    with pytest.raises(NotFoundError):
        store.get("n", "absent")
    with pytest.raises(StoreReadOnlyError):
        store.set("n", "k", b"")
    with pytest.raises(StoreReadOnlyError):
        store.set("v2metadata-by-diffid", "k", b"")
    with pytest.raises(StoreReadOnlyError):
        store.delete("n", "k")
    with pytest.raises(StoreReadOnlyError):
        store.set_many([("n", "k", b"")])


def test_read_only_sees_what_is_written_later(open_sql: OpenSQL):
    writer = open_sql()
    reader = open_sql(read_only=True)
    writer.set("n", "k", b"value")

    assert reader.get("n", "k") == b"value"


def test_read_only_makes_no_file(tmp_path: Path):
    with pytest.raises(StoreOpenError, match="no such file"):
        SQLMetadataStore(tmp_path / "absent.db", read_only=True)
    assert os.listdir(tmp_path) == []


def test_read_only_refuses_an_empty_file(tmp_path: Path):
    (tmp_path / "empty.db").touch()

    with pytest.raises(StoreOpenError, match="empty file"):
        SQLMetadataStore(tmp_path / "empty.db", read_only=True)
    assert (tmp_path / "empty.db").stat().st_size == 0


def test_an_empty_file_becomes_a_store(tmp_path: Path, open_sql: OpenSQL):
    (tmp_path / "empty.db").touch()
    open_sql(tmp_path / "empty.db").set("n", "k", b"")

    assert len(list(open_sql(tmp_path / "empty.db").entries())) == 1


@pytest.mark.parametrize("timeout_s", [float("nan"), float("inf"), -float("inf"), -1, -0.001, 1e10, "5", True, None])
def test_a_timeout_that_nobody_can_wait_is_refused_and_no_file_is_made(tmp_path: Path, timeout_s: object):
    with pytest.raises(InvalidInputError, match="timeout_s"):
        SQLMetadataStore(tmp_path / "layers.db", timeout_s=timeout_s)  # type: ignore[arg-type]

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timeout_s", [0, 0.5, 3, 2_147_483])
def test_a_timeout_is_any_number_of_seconds(open_sql: OpenSQL, timeout_s: float):
    store = open_sql(timeout_s=timeout_s)
    store.set("n", "k", b"v")

    assert store.get("n", "k") == b"v"
