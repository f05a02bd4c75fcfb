"""The write-ahead log does not grow without bound under readers that never pause; and what cuts it harms nobody."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from layerstore import SQLMetadataStore
from layerstore.sql.sqlite import place as wal
from tests.conftest import OpenSQL, sqlite_of

VALUE = 400_000
WRITES = 3 * wal.LIMIT // VALUE


def size_of_log(store: SQLMetadataStore) -> int:
    return os.path.getsize(f"{store.path}-wal")


def write(store: SQLMetadataStore, count: int = WRITES, before_each: Callable[[], None] = lambda: None) -> int:
    """Write so many values over one another; return the largest size that the log had meanwhile."""
    largest = 0
    for number in range(count):
        before_each()
        store.set("large", f"{number % 8}", bytes([number % 256]) * VALUE)
        largest = max(largest, size_of_log(store))
    return largest


class Chain:
    """Short snapshots that overlap: each begins before the one before it ends."""

    def __init__(self, store: SQLMetadataStore) -> None:
        self._store = store
        self._held = ExitStack()

    def turn(self) -> None:
        """Begin one, look at it, and only then end the one before."""
        following = ExitStack()
        snapshot = following.enter_context(self._store._backend.snapshot())
        assert snapshot.count() == 9
        self.end()
        self._held = following

    def end(self) -> None:
        self._held.close()


@contextmanager
def constant_reader(store: SQLMetadataStore, *, each_s: float = 0.002) -> Iterator[None]:
    """Turn a chain of snapshots in a thread of its own, without a pause."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        chain = Chain(store)
        try:
            while not stop.wait(each_s):
                chain.turn()
        except BaseException as error:
            failures.append(error)
        finally:
            chain.end()

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert failures == []


@pytest.fixture
def chain(open_sql: OpenSQL) -> Iterator[Chain]:
    """Snapshots that are turned between two writes, so that each sees all but the next one."""
    chain = Chain(open_sql(timeout_s=0))
    yield chain
    chain.end()


@pytest.fixture
def unsynced(open_sql: OpenSQL) -> SQLMetadataStore:
    """A store with nine entries; without a sync a commit, as what is written is much."""
    store = open_sql(durability="normal")
    store.set("n", "k", b"value")
    write(store, 8)
    return store


def test_readers_that_overlap_do_not_make_the_log_grow_without_bound(
    unsynced: SQLMetadataStore, open_sql: OpenSQL, monkeypatch: pytest.MonkeyPatch
):
    """However busy the machine is, as there are more tries here; the readers go on meanwhile."""
    monkeypatch.setattr(wal, "TRIES", 2_000)
    with constant_reader(open_sql(timeout_s=0)):
        assert write(unsynced) < wal.LIMIT + 2 * VALUE
    assert unsynced.get("n", "k") == b"value"


def test_long_readers_that_overlap_do_not_either_as_they_are_waited_for(
    unsynced: SQLMetadataStore, open_sql: OpenSQL, monkeypatch: pytest.MonkeyPatch
):
    """Not by a lucky try: none of the short ones waits at all here. The patience is for a machine however busy."""
    monkeypatch.setattr(wal, "WAIT_MS", 0)
    monkeypatch.setattr(wal, "PATIENCE_MS", 60_000)
    with constant_reader(open_sql(timeout_s=0), each_s=0.05):
        assert write(unsynced, 15 * wal.LIMIT // VALUE) < 8 * wal.LIMIT
    write(unsynced, 2 * wal.LIMIT // VALUE)
    assert size_of_log(unsynced) <= wal.LIMIT
    assert unsynced.get("n", "k") == b"value"


def test_a_snapshot_that_does_not_end_is_not_waited_for(
    unsynced: SQLMetadataStore, open_sql: OpenSQL, monkeypatch: pytest.MonkeyPatch
):
    """With this patience, one try would outlast the test."""
    monkeypatch.setattr(wal, "PATIENCE_MS", 3_600_000)
    with open_sql(timeout_s=0)._backend.snapshot() as snapshot:
        assert snapshot.count() == 9
        assert write(unsynced) > WRITES * VALUE


def test_without_the_cut_they_do(open_sql: OpenSQL, chain: Chain, monkeypatch: pytest.MonkeyPatch):
    """The control: SQLite by itself begins the log anew only when nobody reads from it."""
    monkeypatch.setattr(wal, "LIMIT", 1 << 40)
    store = open_sql(durability="normal")
    store.set("n", "k", b"value")
    write(store, 8)
    assert write(store, before_each=chain.turn) > WRITES * VALUE


def test_one_snapshot_keeps_the_log_for_as_long_as_it_is_read_and_is_not_disturbed(
    unsynced: SQLMetadataStore, open_sql: OpenSQL
):
    """It must: what it shows is in the log. When it ends, the log is short again."""
    before = [(key, value[:1]) for _, key, value in unsynced.entries()]
    reader = open_sql(timeout_s=0)
    entries = reader.entries()
    first = next(entries)
    grown = write(unsynced)
    assert grown > WRITES * VALUE

    assert [(key, value[:1]) for _, key, value in itertools.chain([first], entries)] == before
    write(unsynced, 2)
    assert size_of_log(unsynced) <= wal.LIMIT


def test_a_transaction_that_makes_the_log_long_leaves_it_short(unsynced: SQLMetadataStore):
    with unsynced.transaction():
        for number in range(wal.LIMIT // VALUE + 3):
            unsynced.set("large", f"{number}", os.urandom(VALUE))
    assert size_of_log(unsynced) <= wal.LIMIT
    assert len(list(unsynced.entries("large"))) == wal.LIMIT // VALUE + 3


def test_a_log_that_the_engine_made_long_gets_short_again(unsynced: SQLMetadataStore):
    with unsynced.engine.begin() as connection:
        for number in range(wal.LIMIT // VALUE + 3):
            connection.exec_driver_sql(
                "INSERT INTO metadata VALUES ('engine', ?, ?, 1)", (f"{number}", os.urandom(VALUE))
            )
    unsynced.set("n", "k", b"value")
    assert size_of_log(unsynced) <= wal.LIMIT


def test_a_cut_that_fails_takes_nothing_back(
    unsynced: SQLMetadataStore, chain: Chain, caplog: pytest.LogCaptureFixture
):
    """The commit stands, the failure is logged, and the connection waits for others as long as before."""

    def refuse(action: int, name: str | None, argument: str | None, *_: object) -> int:
        return sqlite3.SQLITE_DENY if name == "wal_checkpoint" else sqlite3.SQLITE_OK

    handle = sqlite_of(unsynced)._connections.local.handle
    handle.connection.set_authorizer(refuse)
    with caplog.at_level(logging.WARNING, "layerstore"):
        assert write(unsynced, before_each=chain.turn) > WRITES * VALUE
    chain.end()
    handle.connection.set_authorizer(None)

    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert "cannot be written back yet" in caplog.text
    assert handle.first("PRAGMA busy_timeout") == (30_000,)
    assert unsynced.get("large", "0")[:1] == bytes([(WRITES - 1) // 8 * 8 % 256])
    write(unsynced, 2 * wal.LIMIT // VALUE)
    assert size_of_log(unsynced) <= wal.LIMIT
