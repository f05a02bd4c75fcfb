"""Pruning a database: one transaction beside other writers, an archive of what went, and the space it gives back."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from layerstore import (
    SQLMetadataStore,
    StoreBusyError,
    StoreError,
    StoreFullError,
    TransferError,
    V2Metadata,
    V2MetadataService,
    export_directory,
    import_directory,
    prune,
    verify,
)
from layerstore.docker import images
from layerstore.transfer import pruning
from tests.conftest import OpenSQL, sqlite_of, undone
from tests.support.entries import AT, LISTS, MAPPINGS, layer_key, rows_of, whole
from tests.support.strategies import sha256
from tests.transfer.prune.conftest import DAY, OLD, OURS, a_list, fill, make_layerdb, mapping, place, places
from tests.transfer.test_verify import run_sql


@pytest.fixture
def full(open_sql: OpenSQL) -> SQLMetadataStore:
    store = open_sql()
    fill(store, [a_list(1, (11, OLD), (12, OURS)), mapping(11, 1), mapping(12, 1)])
    fill(store, [a_list(2, (21, OLD)), mapping(21, 2), a_list(3, (31, OLD)), mapping(31, 3)])
    return store


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen between the judging and the removal."""

    def happens(action: Callable[[], object]) -> None:
        real = pruning._remove

        def remove(*arguments: Any) -> list[int]:
            action()
            return real(*arguments)

        monkeypatch.setattr(pruning, "_remove", remove)

    return happens


def test_what_another_writer_changed_meanwhile_is_left_alone(
    full: SQLMetadataStore, open_sql: OpenSQL, tmp_path: Path, meanwhile
):
    """A layer that was pulled again, a list that is there again: neither is what was judged."""
    root = make_layerdb(tmp_path, [99])
    other = V2MetadataService(open_sql())
    meanwhile(lambda: other.add(sha256(1), V2Metadata(sha256(12), OURS)))

    report = prune(full, keep_layers=root)

    # Layer 1's list and the mapping of 12 are new, that of 11 is needed by the list.
    assert (report.changed, report.lists, report.mappings) == (3, 2, 2)
    assert places(full) == {(LISTS, layer_key(1)), (MAPPINGS, layer_key(11)), (MAPPINGS, layer_key(12))}
    assert verify(full).findings == ()


def test_the_same_bytes_written_again_are_another_writers_too(full: SQLMetadataStore, tmp_path: Path, meanwhile):
    meanwhile(lambda: full.set(*a_list(2, (21, OLD))[:3]))

    report = prune(full, keep_layers=make_layerdb(tmp_path, [1, 3]))

    assert (report.changed, report.lists) == (2, 0)
    assert (LISTS, layer_key(2)) in places(full)


def test_a_shortened_list_that_changed_meanwhile_is_left_alone(full: SQLMetadataStore, open_sql: OpenSQL, meanwhile):
    newer = a_list(1, (11, OLD), (12, OURS), (13, OLD), at=AT + DAY)
    meanwhile(lambda: open_sql()._put(newer))

    report = prune(full, repository=OLD)

    assert (report.changed, report.shortened, report.lists) == (1, 0, 2)
    assert full.get(LISTS, layer_key(1)) == newer.value


def test_layers_are_looked_up_behind_the_moment_of_the_snapshot(
    full: SQLMetadataStore, open_sql: OpenSQL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A layer that is pulled between the two is in neither: its entries stay."""
    root = make_layerdb(tmp_path, [1])
    real = images.layers_of

    def layers_of(*arguments: Any, **options: Any) -> frozenset[str]:
        found = real(*arguments, **options)
        V2MetadataService(open_sql()).add(sha256(50), V2Metadata(sha256(51), OURS))
        return found

    monkeypatch.setattr(pruning, "layers_of", layers_of)
    prune(full, keep_layers=root)

    assert {(LISTS, layer_key(50)), (MAPPINGS, layer_key(51))} <= places(full)


def test_a_failure_leaves_everything_and_no_archive(full: SQLMetadataStore, tmp_path: Path):
    run_sql(
        full,
        f"CREATE TRIGGER no BEFORE DELETE ON metadata WHEN old.key = '{layer_key(31)}'"
        " BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    before = whole(full)

    with pytest.raises(StoreError):
        prune(full, keep_layers=make_layerdb(tmp_path, [1]), to=tmp_path / "gone.tar")

    assert whole(full) == before
    assert not (tmp_path / "gone.tar").exists()
    run_sql(full, "DROP TRIGGER no")


def test_a_writer_that_does_not_end_is_an_error_and_nothing_went(open_sql: OpenSQL, full, tmp_path: Path, meanwhile):
    before = rows_of(full)
    hasty = open_sql(timeout_s=0)
    stack = full.transaction()
    meanwhile(stack.__enter__)

    with pytest.raises(StoreBusyError):
        prune(hasty, repository=OLD, to=tmp_path / "gone.tar")

    stack.__exit__(None, None, None)
    assert rows_of(full) == before
    assert not (tmp_path / "gone.tar").exists()


def test_inside_a_transaction_it_is_part_of_it(full: SQLMetadataStore):
    before = whole(full)

    with undone(full):
        assert prune(full, repository=OLD).lists == 2
        assert (LISTS, layer_key(2)) not in places_inside(full)

    assert whole(full) == before


def places_inside(store: SQLMetadataStore) -> set[tuple[str, str]]:
    return {(namespace, key) for namespace, key, _ in store.entries()}


def test_the_archive_is_whole_before_anything_goes(full: SQLMetadataStore, tmp_path: Path, monkeypatch):
    before = rows_of(full)
    seen: list[object] = []
    backend = type(full._backend)
    real = backend.remove

    def remove(*arguments: Any) -> list[int]:
        with SQLMetadataStore(":memory:") as other:
            report = import_directory(other, tmp_path / "gone.tar")
            seen.append((report.added, rows_of(full) == before))
        return real(*arguments)

    monkeypatch.setattr(backend, "remove", remove)
    report = prune(full, keep_layers=make_layerdb(tmp_path, [1]), to=tmp_path / "gone.tar")

    assert report.archive == str(tmp_path / "gone.tar")
    assert seen == [(4, True)]
    assert import_directory(full, tmp_path / "gone.tar").added == 4
    assert rows_of(full) == before


def test_no_earlier_archive_is_replaced(full: SQLMetadataStore, tmp_path: Path):
    (tmp_path / "gone.tar").write_bytes(b"precious")

    for dry_run in (True, False):
        with pytest.raises(TransferError, match="there is a file already"):
            prune(full, repository=OLD, to=tmp_path / "gone.tar", dry_run=dry_run)

    assert (tmp_path / "gone.tar").read_bytes() == b"precious"
    assert len(rows_of(full)) == 7


def test_without_anything_to_prune_there_is_no_archive(full: SQLMetadataStore, tmp_path: Path):
    report = prune(full, repository="busybox", to=tmp_path / "gone.tar")

    assert (report.archive, (tmp_path / "gone.tar").exists()) == (None, False)


def test_an_archive_that_cannot_be_written_keeps_everything(full: SQLMetadataStore, tmp_path: Path):
    before = rows_of(full)

    with pytest.raises(TransferError):
        prune(full, repository=OLD, to=tmp_path / "missing" / "gone.tar")
    if os.path.exists("/dev/full"):
        (tmp_path / "full").symlink_to("/dev/full")
        with pytest.raises(TransferError, match="there is a file already"):
            prune(full, repository=OLD, to=tmp_path / "full")

    assert rows_of(full) == before


def test_a_key_that_no_archive_can_have_is_left(full: SQLMetadataStore, tmp_path: Path):
    """An earlier version could store it."""
    key = f"alg/{'x' * 300}"
    with full.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO metadata VALUES ('diffid-by-digest', :key, :value, 0)"),
            {"key": key, "value": sha256(9).encode()},
        )

    report = prune(full, keep_layers=make_layerdb(tmp_path, [1]), to=tmp_path / "gone.tar")

    assert (report.mappings, report.unreadable) == (2, 1)
    assert full.get(MAPPINGS, key) == sha256(9).encode()


def test_an_archive_cannot_be_pruned(full: SQLMetadataStore, tmp_path: Path):
    prune(full, repository=OLD, to=tmp_path / "gone.tar")

    with pytest.raises(TransferError, match="cannot be changed"):
        prune(tmp_path / "gone.tar", repository=OLD)


def test_a_path_is_opened_and_for_a_dry_run_only_read(full: SQLMetadataStore, tmp_path: Path):
    assert full.path is not None
    before = Path(full.path).read_bytes()
    assert prune(full.path, repository=OLD, dry_run=True).path == full.path
    assert Path(full.path).read_bytes() == before
    assert prune(full.path, repository=OLD).lists == 2
    with pytest.raises(TransferError):
        prune(tmp_path / "missing.db", repository=OLD)
    assert not (tmp_path / "missing.db").exists()


def make_large(store: SQLMetadataStore) -> int:
    fill(store, (a_list(number, (number, OLD), (number, OURS)) for number in range(2000)))
    assert store.path is not None
    run_sql(store, "SELECT 1")
    sqlite_of(store).run("PRAGMA wal_checkpoint(TRUNCATE)")
    return os.path.getsize(store.path)


def test_the_space_is_free_for_later_writes_and_given_back_on_request(open_sql: OpenSQL, tmp_path: Path):
    store = open_sql(tmp_path / "large.db")
    assert store.path is not None
    size = make_large(store)

    report = prune(store, keep_layers=make_layerdb(tmp_path, [1]))
    assert report.free_bytes is not None
    assert report.free_bytes > size // 2
    assert (report.vacuumed, os.path.getsize(store.path) >= size) == (False, True)

    assert prune(store, vacuum=True, dry_run=True).vacuumed is False
    again = prune(store, vacuum=True)
    assert (again.vacuumed, again.free_bytes, again.lists) == (True, 0, 0)
    assert os.path.getsize(store.path) < size // 2
    assert places(store) == {place(a_list(1))}
    assert verify(store).findings[0].kind == "unmapped"


@pytest.mark.slow
def test_vacuum_beside_writers_and_readers_loses_nothing(open_sql: OpenSQL, tmp_path: Path):
    store = open_sql(tmp_path / "large.db")
    make_large(store)
    stop, written, errors = threading.Event(), [0], []

    def write() -> None:
        try:
            with SQLMetadataStore(tmp_path / "large.db") as other:
                while not stop.is_set() or written[0] < 20:
                    other.set("n", f"{written[0]}", b"v")
                    written[0] += 1
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=write)
    reading = store._records()
    next(reading)
    thread.start()
    try:
        prune(store, keep_layers=make_layerdb(tmp_path, [1]), vacuum=True)
        assert sum(1 for _ in reading) == 1999  # the snapshot of before
        prune(store, keep_layers=tmp_path, vacuum=True)
    finally:
        stop.set()
        thread.join()

    assert errors == []
    assert len(places(store)) == written[0] + 1


def test_a_pruned_store_exports_and_verifies(full: SQLMetadataStore, tmp_path: Path):
    prune(full, repository=OLD)

    export_directory(full, tmp_path / "distribution")
    assert verify(full).ok
    assert verify(tmp_path / "distribution").ok


def test_no_room_for_the_archive_is_an_error(full: SQLMetadataStore, tmp_path: Path, monkeypatch):
    before = rows_of(full)

    def write(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", write)
    with pytest.raises(StoreFullError):
        prune(full, repository=OLD, to=tmp_path / "gone.tar")

    assert rows_of(full) == before
    assert os.listdir(tmp_path / ".") == [name for name in os.listdir(tmp_path) if "gone" not in name]
