"""Processes that share one file: none loses a write, none waits to read, and any number may open it at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreBusyError, V2MetadataService
from tests.conftest import OpenSQL, assert_sound, database_rows, transact
from tests.robustness.concurrency import workers
from tests.support.strategies import sha256


def test_eight_writers_on_a_file_that_does_not_exist_yet_lose_nothing(tmp_path: Path, open_sql: OpenSQL):
    """4 processes of 2 threads add 480 entries to 60 shared layers."""
    path = tmp_path / "new" / "layers.db"
    assert workers.in_processes(workers.write, [(str(path), [2 * n, 2 * n + 1]) for n in range(4)]) == []

    store = open_sql(path)
    v2 = V2MetadataService(store)
    for layer in range(workers.LAYERS):
        expected = {workers.association(writer, layer) for writer in range(8)}
        found = v2.get_metadata(sha256(layer))
        assert len(found) == 8
        assert set(found) == expected
        assert set(v2.get_diff_ids(entry.digest for entry in expected).values()) == {sha256(layer)}
    assert database_rows(store, "SELECT count(*) FROM v2_metadata") == [(480,)]


@pytest.mark.parametrize("attempt", range(3))
def test_many_may_open_a_new_file_at_the_same_moment(tmp_path: Path, open_sql: OpenSQL, attempt: int):
    path = tmp_path / f"new{attempt}.db"
    assert workers.in_processes(workers.open_often, [(str(path), number) for number in range(6)]) == []

    assert len(list(open_sql(path).entries("opened"))) == 24
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_read_that_a_write_depends_on_is_still_true_when_it_is_written(sql_file: SQLMetadataStore):
    sql_file.set("n", "count", b"0")
    assert workers.in_processes(workers.count_up, [(sql_file.path, 50)] * 4) == []

    assert sql_file.get("n", "count") == b"200"


@pytest.fixture
def held(sql_file: SQLMetadataStore) -> Iterator[SQLMetadataStore]:
    """A store that has one entry, and whose write lock another process holds with a change of it."""
    sql_file.set("n", "k", b"old")
    here, there = workers.CONTEXT.Pipe()
    process = workers.CONTEXT.Process(target=workers.hold, args=(there, sql_file.path))
    process.start()
    assert here.recv() == "holding"
    yield sql_file
    here.send("end")
    process.join()
    assert process.exitcode == 0
    assert sql_file.get("n", "k") == b"new"


def test_a_reader_is_not_blocked_by_a_writer_and_sees_the_last_commit(held: SQLMetadataStore, open_sql: OpenSQL):
    for options in ({}, {"read_only": True}):
        with open_sql(timeout_s=0.01, **options) as reader:
            assert reader.get("n", "k") == b"old"
            assert list(reader.entries()) == [("n", "k", b"old")]
            assert reader.get_many("n", ["k"]) == {"k": b"old"}
    assert held.get("n", "k") == b"old"


def test_a_writer_that_waits_too_long_is_told_so_and_has_written_nothing(held: SQLMetadataStore, open_sql: OpenSQL):
    with open_sql(timeout_s=0.01) as writer:
        uses: list[Callable[[], None]] = [
            lambda: writer.set("n", "other", b""),
            lambda: writer.set("v2metadata-by-diffid", "other", b"[]"),
            lambda: writer.delete("n", "k"),
            lambda: writer.set_many([("n", "other", b"")]),
            lambda: transact(writer),
        ]
        for use in uses:
            with pytest.raises(StoreBusyError) as caught:
                use()
            assert isinstance(caught.value, TimeoutError)
            assert caught.value.path == writer.path
    assert list(held.entries()) == [("n", "k", b"old")]


def test_a_file_of_other_processes_is_sound_while_they_write(held: SQLMetadataStore):
    assert_sound(held)
    assert list(held.entries()) == [("n", "k", b"old")]
