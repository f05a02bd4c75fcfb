"""Threads that share a store: each has a connection of its own, or takes its turn."""

from __future__ import annotations

import gc
import os
import threading
from functools import partial
from pathlib import Path

import pytest

from layerstore import (
    FSMetadataStore,
    NotFoundError,
    SQLMetadataStore,
    StoreBusyError,
    StoreError,
    V2Metadata,
    V2MetadataService,
)
from tests.conftest import AnyStore, OpenSQL, database_rows, sqlite_of, undone
from tests.contract.test_v2_damage import PlainStore
from tests.robustness.concurrency.workers import LAYERS, add_to_all_layers, association, in_threads
from tests.support.strategies import sha256


def assert_all_there(store: AnyStore | PlainStore, writers: int) -> None:
    found = V2MetadataService(store).get_metadata_many(sha256(layer) for layer in range(LAYERS))
    assert {key: set(entries) for key, entries in found.items()} == {
        sha256(layer): {association(writer, layer) for writer in range(writers)} for layer in range(LAYERS)
    }


def test_threads_of_one_process_lose_nothing(store: AnyStore):
    works = [lambda writer=writer: add_to_all_layers(store, writer) for writer in range(4)]

    assert in_threads(works) == []
    assert_all_there(store, 4)


def test_threads_with_a_file_store_each_lose_nothing(tmp_path: Path):
    """The lock goes by the directory, also when a store was opened through a link."""
    (tmp_path / "link").symlink_to(tmp_path)
    stores = [FSMetadataStore(tmp_path / "d"), FSMetadataStore(tmp_path / "link" / "d")]
    works = [lambda writer=writer: add_to_all_layers(stores[writer % 2], writer) for writer in range(4)]

    assert in_threads(works) == []
    assert_all_there(stores[0], 4)


def test_a_store_without_transactions_loses_nothing_between_threads():
    plain = PlainStore()
    works = [lambda writer=writer: add_to_all_layers(plain, writer) for writer in range(4)]

    assert in_threads(works) == []
    assert_all_there(plain, 4)


def test_transactions_of_threads_do_not_mix(sql_store: SQLMetadataStore):
    """Those of the even threads are undone, those of the odd ones stay."""

    def work(number: int) -> None:
        for step in range(20):
            try:
                with sql_store.transaction():
                    sql_store.set("n", f"{number}-{step}", b"")
                    with sql_store.transaction():
                        sql_store.set("n", f"{number}-{step}-inner", b"")
                    if number % 2 == 0:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass

    assert in_threads([partial(work, number) for number in range(4)]) == []
    keys = [key for _, key, _ in sql_store.entries()]
    assert len(keys) == 2 * 20 * 2
    assert {key[0] for key in keys} == {"1", "3"}


def test_a_thread_never_sees_another_threads_open_transaction(sql_store: SQLMetadataStore):
    """On a file it sees the last commit; in memory it waits for the end, and then sees what stayed: nothing."""
    written, asked = threading.Event(), threading.Event()
    answers: list[str] = []

    def write() -> None:
        with undone(sql_store):
            sql_store.set("n", "k", b"")
            written.set()
            assert asked.wait(20)

    def read() -> None:
        assert written.wait(20)
        asked.set()
        try:
            sql_store.get("n", "k")
            answers.append("seen")
        except NotFoundError:
            answers.append("not found")

    assert in_threads([write, read]) == []
    assert answers == ["not found"]


def test_a_file_is_busy_while_another_threads_transaction_lasts(open_sql: OpenSQL):
    store = open_sql(timeout_s=0.01)
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction():
            store.set("n", "k", b"")
            begun.set()
            assert ended.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(20)
    with pytest.raises(StoreBusyError):
        store.set("n", "other", b"")
    with pytest.raises(NotFoundError):
        store.get("n", "k")
    ended.set()
    thread.join()
    assert [key for _, key, _ in store.entries()] == ["k"]


def test_threads_use_the_engine_of_a_store_in_memory_in_turn(sql_memory: SQLMetadataStore):
    def work(number: int) -> None:
        for step in range(30):
            sql_memory.set("n", f"{number}-{step}", b"")
            assert database_rows(sql_memory, "SELECT count(*) FROM metadata")[0] >= (step + 1,)

    assert in_threads([partial(work, number) for number in range(4)]) == []
    assert database_rows(sql_memory, "SELECT count(*) FROM metadata") == [(120,)]


def open_descriptors(path: str | None) -> int:
    """Count this process's descriptors of a file, its write-ahead log included."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(path))
        except FileNotFoundError:
            continue
    return found


def test_a_thread_that_ends_closes_its_connection(sql_file: SQLMetadataStore):
    def run_a_thread() -> None:
        assert in_threads([lambda: sql_file.set("n", "k", b"")]) == []

    run_a_thread()
    before = open_descriptors(sql_file.path)
    for _ in range(30):
        run_a_thread()

    assert before > 0
    assert open_descriptors(sql_file.path) == before
    assert len(sqlite_of(sql_file)._connections._handles) == 1


def test_close_closes_the_connections_of_all_threads(open_sql: OpenSQL):
    store = open_sql()
    used, closed = threading.Barrier(4), threading.Event()

    def work() -> None:
        store.set("n", str(threading.get_ident()), b"")
        used.wait(20)
        assert closed.wait(20)
        with pytest.raises(StoreError):
            store.get("n", "k")

    def close() -> None:
        database_rows(store, "SELECT 1")
        used.wait(20)
        store.close()
        closed.set()

    assert in_threads([work, work, work, close]) == []
    assert open_descriptors(store.path) == 0


def test_a_store_that_is_forgotten_closes_its_connections(tmp_path: Path):
    store = SQLMetadataStore(tmp_path / "layers.db")
    V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2)))
    path = store.path
    assert open_descriptors(path) > 0
    del store
    gc.collect()

    assert open_descriptors(path) == 0


def test_a_thread_that_ended_with_an_error_closes_its_connection(sql_file: SQLMetadataStore):
    """Its traceback holds the connection, and is part of a cycle that holds itself; from 3.13 on, Python could warn."""
    before = open_descriptors(sql_file.path)
    for _ in range(20):
        kept: list[object] = []

        def work(kept: list[object] = kept) -> None:
            handle = sqlite_of(sql_file)._connections.local.handle
            try:
                sql_file.get("n", "absent")
            except NotFoundError as error:
                kept += [error, kept, handle.connection, handle]

        assert in_threads([work]) == []
        assert len(kept) == 4
    del kept, work
    gc.collect()

    assert open_descriptors(sql_file.path) == before > 0
