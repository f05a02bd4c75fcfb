"""`transaction()`: all or nothing, nested ones included, also when SQLite gives up in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from layerstore import (
    NotFoundError,
    SQLMetadataStore,
    StoreClosedError,
    StoreError,
    StoreFullError,
    V2Metadata,
    V2MetadataService,
)
from layerstore.sql import derived
from layerstore.sql.sqlite import statements
from layerstore.sql.sqlite.handles import Handle
from tests.conftest import OpenSQL, database_rows, rolled_back, sqlite_of, transact, undone
from tests.support.strategies import sha256

LAYER = sha256(0xA)
LISTS, LIST_KEY = "v2metadata-by-diffid", f"sha256/{0xA:064x}"


def keys(store: SQLMetadataStore) -> list[str]:
    return [key for _, key, _ in store.entries()]


def test_what_was_written_in_it_is_there_afterwards(sql_store: SQLMetadataStore):
    with sql_store.transaction():
        sql_store.set("n", "a", b"1")
        sql_store.set("n", "b", b"2")
        sql_store.delete("n", "a")

    assert keys(sql_store) == ["b"]


def test_an_error_undoes_all_of_it_and_goes_on(sql_store: SQLMetadataStore):
    sql_store.set("n", "kept", b"before")
    with undone(sql_store):
        sql_store.set("n", "kept", b"after")
        sql_store.set("n", "new", b"")
        V2MetadataService(sql_store).add(LAYER, V2Metadata(sha256(1)))

    assert list(sql_store.entries()) == [("n", "kept", b"before")]
    assert database_rows(sql_store, "SELECT * FROM v2_metadata") == []


def test_an_interrupt_undoes_it_too(sql_store: SQLMetadataStore):
    def interrupted() -> None:
        with sql_store.transaction():
            sql_store.set("n", "new", b"")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert keys(sql_store) == []


def test_reads_in_it_see_its_writes(sql_store: SQLMetadataStore):
    sql_store.set("n", "old", b"")
    with sql_store.transaction():
        sql_store.set("n", "new", b"new")
        sql_store.delete("n", "old")

        assert sql_store.get("n", "new") == b"new"
        assert sql_store.get_many("n", ["old", "new"]) == {"new": b"new"}
        assert list(sql_store.entries()) == list(sql_store.entries("n")) == [("n", "new", b"new")]
        with pytest.raises(NotFoundError):
            sql_store.get("n", "old")


def test_others_see_nothing_of_it_until_it_ends(open_sql: OpenSQL):
    writer, reader = open_sql(), open_sql()
    with writer.transaction():
        writer.set("n", "k", b"")
        assert keys(reader) == []

    assert keys(reader) == ["k"]


def test_an_error_in_an_inner_one_undoes_the_inner_one_alone(sql_store: SQLMetadataStore):
    with sql_store.transaction():
        sql_store.set("n", "outer", b"1")
        with undone(sql_store):
            sql_store.set("n", "inner", b"")
            sql_store.set("n", "outer", b"2")
        sql_store.set("n", "afterwards", b"")

    assert keys(sql_store) == ["afterwards", "outer"]
    assert sql_store.get("n", "outer") == b"1"


def test_an_error_in_the_outer_one_undoes_the_inner_ones_too(sql_store: SQLMetadataStore):
    with undone(sql_store), sql_store.transaction(), sql_store.transaction():
        sql_store.set("n", "inner", b"")

    assert keys(sql_store) == []


def test_depth_has_no_limit_that_matters(sql_store: SQLMetadataStore):
    def nest(depth: int) -> None:
        with sql_store.transaction():
            sql_store.set("n", f"{depth:03}", b"")
            if depth:
                nest(depth - 1)

    nest(100)
    assert len(keys(sql_store)) == 101


def test_set_many_is_all_or_nothing(sql_store: SQLMetadataStore):
    sql_store.set("n", "a", b"before")
    with pytest.raises(ValueError, match="begins with"):
        sql_store.set_many([("n", "a", b"after"), ("n", "b", b""), ("n", ".tmp-c", b"")])

    assert list(sql_store.entries()) == [("n", "a", b"before")]


def test_set_many_inside_a_transaction_is_part_of_it(sql_store: SQLMetadataStore):
    with undone(sql_store):
        sql_store.set_many([("n", "a", b""), ("n", "b", b"")])

    assert keys(sql_store) == []


def test_an_add_is_atomic_when_its_second_write_fails(sqlite_store: SQLMetadataStore, monkeypatch: pytest.MonkeyPatch):
    """In Docker these are two files, and a crash in between leaves half."""
    original = Handle.execute

    def fail_on_the_mapping(handle: Handle, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        if statement == statements.SET and parameters[0] == "diffid-by-digest":
            raise StoreError("made up")
        return original(handle, statement, parameters)

    monkeypatch.setattr(Handle, "execute", fail_on_the_mapping)
    with pytest.raises(StoreError, match="made up"):
        V2MetadataService(sqlite_store).add(LAYER, V2Metadata(sha256(1)))

    assert keys(sqlite_store) == []
    assert database_rows(sqlite_store, "SELECT * FROM v2_metadata") == []


@pytest.fixture
def broken_derivation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the second half of writing a list fail, as on a full disk."""

    def fail(*_: Any) -> None:
        raise StoreFullError("made up")

    monkeypatch.setattr(derived, "difference", fail)


@pytest.mark.usefixtures("broken_derivation")
def test_a_list_whose_rows_cannot_be_written_is_not_written(sqlite_store: SQLMetadataStore):
    with pytest.raises(StoreFullError):
        sqlite_store.set(LISTS, LIST_KEY, b"[{}]")

    assert keys(sqlite_store) == []


@pytest.mark.usefixtures("broken_derivation")
def test_a_caught_failure_still_undoes_the_transaction(sqlite_store: SQLMetadataStore):
    """Else the list would be committed without its derived rows."""
    with rolled_back(sqlite_store):
        sqlite_store.set("n", "before", b"")
        with pytest.raises(StoreFullError):
            sqlite_store.set(LISTS, LIST_KEY, b"[{}]")
        sqlite_store.set("n", "after", b"")

    assert keys(sqlite_store) == []
    sqlite_store.set("n", "k", b"the store goes on")
    assert keys(sqlite_store) == ["k"]


@pytest.mark.usefixtures("broken_derivation")
def test_a_caught_failure_in_an_inner_transaction_undoes_that_one_alone(sqlite_store: SQLMetadataStore):
    with sqlite_store.transaction():
        sqlite_store.set("n", "outer", b"")
        with rolled_back(sqlite_store):
            sqlite_store.set("n", "inner", b"")
            with pytest.raises(StoreFullError):
                sqlite_store.set(LISTS, LIST_KEY, b"[{}]")
        sqlite_store.set("n", "after", b"")

    assert keys(sqlite_store) == ["after", "outer"]


def test_a_full_file_keeps_nothing_of_a_transaction_whose_error_was_caught(sqlite_store: SQLMetadataStore):
    """SQLite rolls back by itself on SQLITE_FULL; a later write must not be committed alone."""
    sqlite_store.set("n", "before", b"")
    connection = sqlite_of(sqlite_store)._connections.local.handle.connection
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count={pages + 2}").close()
    with rolled_back(sqlite_store):
        sqlite_store.set("n", "first", b"")
        with pytest.raises(StoreFullError):
            sqlite_store.set("n", "large", b"x" * 1_000_000)
        with pytest.raises(StoreError, match="rolled back"):
            sqlite_store.set("n", "second", b"")
        with pytest.raises(StoreError, match="rolled back"):
            sqlite_store.set(LISTS, LIST_KEY, b"[]")
        with pytest.raises(StoreError, match="rolled back"):
            transact(sqlite_store)

    assert keys(sqlite_store) == ["before"]
    sqlite_store.set("n", "after", b"")
    assert keys(sqlite_store) == ["after", "before"]


def test_entries_are_one_snapshot_of_the_moment_when_the_first_is_taken(sql_store: SQLMetadataStore):
    sql_store.set_many(("n", str(number), b"old") for number in range(9))
    entries = sql_store.entries()
    first = next(entries)
    sql_store.set("n", "8", b"new")
    sql_store.delete("n", "4")
    sql_store.set("n", "9", b"new")

    assert [first, *entries] == [("n", str(number), b"old") for number in range(9)]


def test_an_iteration_that_is_broken_off_holds_nothing_up(open_sql: OpenSQL):
    store = open_sql(timeout_s=0.5)
    store.set_many(("n", str(number), b"") for number in range(9))
    entries = store.entries()
    next(entries)
    store.set("n", "9", b"")
    store.close()

    with pytest.raises(StoreClosedError):
        list(entries)


def test_a_transaction_of_a_closed_store_is_refused(sql_store: SQLMetadataStore):
    sql_store.close()

    with pytest.raises(StoreClosedError):
        transact(sql_store)


def test_closing_inside_a_transaction_undoes_it(open_sql: OpenSQL):
    store = open_sql()

    def close_inside() -> None:
        with store.transaction():
            store.set("n", "k", b"")
            store.close()

    with pytest.raises(StoreError):
        close_inside()
    assert keys(open_sql()) == []


def test_a_transaction_object_can_be_used_again_after_it_ended(sql_store: SQLMetadataStore):
    for number in range(3):
        with sql_store.transaction():
            sql_store.set("n", str(number), b"")

    assert keys(sql_store) == ["0", "1", "2"]


def test_what_an_interrupt_left_open_is_rolled_back_by_the_next_write(sqlite_store: SQLMetadataStore):
    """Between BEGIN and the line that notes it; the next write must neither fail nor stay uncommitted."""
    sqlite_of(sqlite_store)._connections.local.handle.connection.execute("BEGIN IMMEDIATE")
    sqlite_store.set("n", "k", b"v")
    sqlite_of(sqlite_store)._connections.local.handle.connection.execute("BEGIN IMMEDIATE")
    with sqlite_store.transaction():
        sqlite_store.set("n", "other", b"v")

    assert not sqlite_of(sqlite_store)._connections.local.handle.connection.in_transaction
    assert sqlite_store.get_many("n", ["k", "other"]) == {"k": b"v", "other": b"v"}
