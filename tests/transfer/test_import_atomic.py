"""An import is one transaction, starts with the lock of nobody, and can be part of a larger transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService, import_directory
from layerstore.records import Association, associations
from layerstore.sql.sqlite import writing
from tests.conftest import OpenSQL, sqlite_of
from tests.support.entries import (
    AT,
    GOLDEN_FILES,
    LISTS,
    MAPPINGS,
    Write,
    entries,
    layer_key,
    quarantine_of,
    rows_of,
    whole,
    write_file,
)
from tests.support.strategies import sha256


class BrokenError(Exception):
    """What a caller's own code raises."""


def break_at(number: int) -> Callable[[int, int | None], None]:
    def progress(done: int, _total: int | None) -> None:
        if done == number:
            raise BrokenError

    return progress


def temporary_tables(store: SQLMetadataStore) -> list[str]:
    """Return the temporary tables of this thread's own connection."""
    handle = sqlite_of(store)._connections.local.handle
    return [name for (name,) in handle.execute("SELECT name FROM sqlite_temp_master")]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stage ten entries at a time, so that an import of the golden directory stages many times."""
    monkeypatch.setattr("layerstore.collection.RECORDS", 10)


def in_a_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Start work in another thread; what it raises is put into the list."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("at", [1, 25, GOLDEN_FILES])
def test_an_error_while_reading_leaves_the_store_as_it_was_and_usable(
    sqlite_store: SQLMetadataStore, golden: Path, at: int
):
    sqlite_store.set(LISTS, layer_key(1), entries(1))
    before = whole(sqlite_store)

    with pytest.raises(BrokenError):
        import_directory(sqlite_store, golden, progress=break_at(at))

    assert whole(sqlite_store) == before
    assert temporary_tables(sqlite_store) == []
    assert import_directory(sqlite_store, golden).added == GOLDEN_FILES


def test_an_error_while_merging_leaves_the_store_as_it_was(
    sqlite_store: SQLMetadataStore, directory: Path, write: Write, monkeypatch: pytest.MonkeyPatch
):
    """Also what went to quarantine and what was added before the error."""
    sqlite_store.set(LISTS, layer_key(5), entries(5))
    before = whole(sqlite_store)
    write(LISTS, layer_key(1), entries(1))
    write(LISTS, layer_key(5), entries(6), 1)
    write(MAPPINGS, layer_key(1), b"unreadable")

    def put(*_: object) -> None:
        raise BrokenError

    with monkeypatch.context() as patched:
        patched.setattr(writing, "write", put)
        with pytest.raises(BrokenError):
            import_directory(sqlite_store, directory)

    assert whole(sqlite_store) == before
    assert temporary_tables(sqlite_store) == []
    report = import_directory(sqlite_store, directory)
    assert (report.added, report.updated, len(report.quarantined)) == (1, 1, 1)


def test_temporary_tables_are_gone_after_an_import(sqlite_store: SQLMetadataStore, golden: Path):
    import_directory(sqlite_store, golden)

    assert temporary_tables(sqlite_store) == []


@pytest.mark.usefixtures("small_batches")
def test_an_import_inside_a_transaction_is_part_of_it(sqlite_store: SQLMetadataStore, golden: Path):
    with sqlite_store.transaction():
        sqlite_store.set("n", "before", b"")
        assert import_directory(sqlite_store, golden).added == GOLDEN_FILES
        assert len(list(sqlite_store.entries(LISTS))) == GOLDEN_FILES // 2
        sqlite_store.set("n", "after", b"")

    assert len(rows_of(sqlite_store)) == GOLDEN_FILES + 2


@pytest.mark.usefixtures("small_batches")
def test_an_import_is_undone_with_the_transaction_around_it(sqlite_store: SQLMetadataStore, golden: Path):
    sqlite_store.set("n", "k", b"")
    write_file(golden, MAPPINGS, "sha256/odd", b"for the quarantine")
    before = whole(sqlite_store)

    with pytest.raises(BrokenError), sqlite_store.transaction():  # noqa: PT012  # what is before the error is the point
        import_directory(sqlite_store, golden)
        raise BrokenError

    assert whole(sqlite_store) == before
    assert temporary_tables(sqlite_store) == []


@pytest.mark.usefixtures("small_batches")
def test_a_failed_import_undoes_its_own_part_of_a_transaction_alone(sqlite_store: SQLMetadataStore, golden: Path):
    with sqlite_store.transaction():
        sqlite_store.set("n", "before", b"")
        with pytest.raises(BrokenError):
            import_directory(sqlite_store, golden, progress=break_at(100))
        sqlite_store.set("n", "after", b"")

    assert [row[1] for row in rows_of(sqlite_store)] == ["after", "before"]
    assert temporary_tables(sqlite_store) == []


@pytest.mark.usefixtures("small_batches")
def test_a_writer_is_not_kept_waiting_while_an_import_reads(open_sql: OpenSQL, golden: Path):
    """The other writer would fail at once if it had to wait: after the first file, in the middle, after the last."""
    store, other = open_sql(), open_sql(timeout_s=0.0)
    v2 = V2MetadataService(other)
    seen: list[int] = []

    def progress(done: int, _total: int | None) -> None:
        if done not in (1, 95, GOLDEN_FILES):
            return
        thread, errors = in_a_thread(lambda: v2.add(sha256(7), V2Metadata(sha256(done), "host/name")))
        thread.join()
        assert errors == []
        seen.append(len(rows_of(other)))

    assert import_directory(store, golden, progress=progress).added == GOLDEN_FILES
    assert seen == [2, 3, 4]
    assert [found.digest for found in v2.get_metadata(sha256(7))] == [sha256(1), sha256(95), sha256(GOLDEN_FILES)]


@pytest.mark.usefixtures("small_batches")
def test_what_another_writer_wrote_while_an_import_read_is_merged_with(
    open_sql: OpenSQL, directory: Path, write: Write
):
    store, other = open_sql(), open_sql()
    for number in range(15):
        write(LISTS, layer_key(number), entries(1000), AT)

    def progress(done: int, _total: int | None) -> None:
        if done == 15:
            V2MetadataService(other).add(sha256(3), V2Metadata(sha256(1001), "localhost:5000/team/app"))

    report = import_directory(store, directory, progress=progress)

    assert (report.added, report.updated) == (14, 1)
    assert store.get(LISTS, layer_key(3)) == entries(1000, 1001)


def test_another_thread_may_write_while_entries_are_staged(
    sqlite_store: SQLMetadataStore, golden: Path, monkeypatch: pytest.MonkeyPatch
):
    """Staging has a transaction of its own, on the connection that the threads share when the store is in memory."""
    v2 = V2MetadataService(sqlite_store)
    started: list[tuple[threading.Thread, list[BaseException]]] = []

    def rows(key: str, value: bytes) -> list[Association]:
        if not started:
            started.append(in_a_thread(lambda: v2.add(sha256(7), V2Metadata(sha256(1), "host/name"))))
            started[0][0].join(0.2)  # it may have to wait for its turn
        return real(key, value)

    real = associations
    monkeypatch.setattr("layerstore.transfer.importing.associations", rows)
    report = import_directory(sqlite_store, golden)
    thread, errors = started[0]
    thread.join()

    assert errors == []
    assert report.added == GOLDEN_FILES
    assert [found.digest for found in v2.get_metadata(sha256(7))] == [sha256(1)]


def test_two_threads_may_import_at_once(sqlite_store: SQLMetadataStore, golden: Path, tmp_path: Path):
    for number in range(20):
        write_file(tmp_path / "second", LISTS, layer_key(number), entries(number))
    started: list[tuple[threading.Thread, list[BaseException]]] = []

    def progress(done: int, _total: int | None) -> None:
        if done == 90:
            started.append(in_a_thread(lambda: import_directory(sqlite_store, tmp_path / "second")))
            started[0][0].join(0.2)  # it may have to wait for its turn

    report = import_directory(sqlite_store, golden, progress=progress)
    thread, errors = started[0]
    thread.join()

    assert errors == []
    assert report.added == GOLDEN_FILES
    assert len(rows_of(sqlite_store)) == GOLDEN_FILES + 20
    assert quarantine_of(sqlite_store) == []
