"""Each kind of finding: reached, counted, with its severity, in a database and in a directory."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from layerstore import (
    Finding,
    FSMetadataStore,
    SQLMetadataStore,
    TransferError,
    V2Metadata,
    V2MetadataService,
    VerifyReport,
    verify,
)
from tests.conftest import AnyStore
from tests.support.entries import LISTS, MAPPINGS, V1, entries, layer_key
from tests.support.strategies import sha256


def put_layer(store: AnyStore, number: int, *digests: int) -> None:
    """Write a layer as `add` leaves it: its list, and each digest mapped to it."""
    store.set(LISTS, layer_key(number), entries(*digests))
    for digest in digests:
        store.set(MAPPINGS, layer_key(digest), sha256(number).encode())


def put_row(store: SQLMetadataStore, namespace: str, key: str, value: bytes) -> None:
    """Write a row past the rules."""
    with store.engine.begin() as connection:
        connection.execute(text("INSERT INTO metadata VALUES (:n, :k, :v, 1)"), {"n": namespace, "k": key, "v": value})


def run_sql(store: SQLMetadataStore, statement: str) -> None:
    with store.engine.begin() as connection:
        connection.execute(text(statement))


def kinds(report: VerifyReport) -> dict[str, tuple[str, int]]:
    return {found.kind: (found.severity, found.count) for found in report.findings}


def finding(report: VerifyReport, kind: str) -> Finding:
    (found,) = (found for found in report.findings if found.kind == kind)
    return found


def no_json(store: AnyStore) -> None:
    store.set(LISTS, layer_key(1), b"[")


def empty_mapping(store: AnyStore) -> None:
    put_layer(store, 1, 11)
    store.set(MAPPINGS, layer_key(12), b"")


def odd_v1_key(store: AnyStore) -> None:
    store.set(V1, "registry,abc", sha256(1).encode())


def odd_digest(store: AnyStore) -> None:
    store.set(LISTS, layer_key(1), b'[{"Digest":"sha256:short"},{}]')


def too_long(store: AnyStore) -> None:
    put_layer(store, 1, *range(100, 151))


def half_an_add(store: AnyStore) -> None:
    store.set(LISTS, layer_key(1), entries(11, 12))
    store.set(MAPPINGS, layer_key(11), sha256(1).encode())


def empty_mapping_of_a_list(store: AnyStore) -> None:
    put_layer(store, 1, 11)
    store.set(MAPPINGS, layer_key(11), b"")


def under_two_layers(store: AnyStore) -> None:
    put_layer(store, 1, 11)
    put_layer(store, 2, 11)


def evicted(store: AnyStore) -> None:
    v2 = V2MetadataService(store)
    for digest in range(100, 153):
        v2.add(sha256(1), V2Metadata(sha256(digest)))


def list_gone(store: AnyStore) -> None:
    store.set(MAPPINGS, layer_key(11), sha256(1).encode())


def twice(store: AnyStore) -> None:
    put_layer(store, 1, 11)
    store.set(LISTS, layer_key(1), entries(11, 11))


def names_as_typed(store: AnyStore) -> None:
    v2 = V2MetadataService(store)
    for name in ("", "busybox", "localhost/app:1", "docker.io/library/busybox"):
        v2.add(sha256(1), V2Metadata(sha256(11), name))


FINDINGS: dict[Callable[[AnyStore], None], dict[str, tuple[str, int]]] = {
    no_json: {"unreadable": ("error", 1)},
    empty_mapping: {"unreadable": ("error", 1)},
    odd_v1_key: {"unreadable": ("error", 1)},
    odd_digest: {"odd-digest": ("warning", 2)},
    too_long: {"over-the-cap": ("warning", 1)},
    half_an_add: {"unmapped": ("warning", 1)},
    empty_mapping_of_a_list: {"unreadable": ("error", 1), "unmapped": ("warning", 1)},
    under_two_layers: {"other-layer": ("info", 1)},
    evicted: {"not-listed": ("info", 3)},
    list_gone: {"not-listed": ("info", 1)},
    twice: {"duplicates": ("info", 1)},
    names_as_typed: {"not-canonical": ("info", 2)},
}


@pytest.mark.parametrize(("make", "expected"), FINDINGS.items(), ids=[make.__name__ for make in FINDINGS])
def test_each_kind_is_found_in_every_store_with_its_severity(
    store: AnyStore, make: Callable[[AnyStore], None], expected: dict[str, tuple[str, int]]
):
    make(store)

    report = verify(store)

    assert kinds(report) == expected
    assert report.ok == all(severity == "info" for severity, _ in expected.values())
    assert report.checked == len(list(store.entries()))
    for found in report.findings:
        assert found.message
        assert found.remedy
        assert found.repaired == 0
        assert 1 <= len(found.examples) <= min(found.count, 5)


def test_a_store_that_is_well_has_no_findings(store: AnyStore):
    v2 = V2MetadataService(store)
    for number in range(20):
        v2.add(sha256(number), V2Metadata(sha256(100 + number)))
    store.set(V1, "registry," + "a" * 64, sha256(1).encode())
    store.set("other", "anything", b"\xff")

    report = verify(store)

    assert (report.checked, report.findings, report.ok) == (42, (), True)


def test_an_example_says_where_and_what(store: AnyStore):
    no_json(store)

    (example,) = finding(verify(store), "unreadable").examples
    assert example.startswith(f"{LISTS}/{layer_key(1)}: ")


def test_many_findings_of_a_kind_are_counted_and_five_are_shown(store: AnyStore):
    for number in range(12):
        store.set(MAPPINGS, layer_key(number), b"")

    found = finding(verify(store), "unreadable")
    assert (found.count, len(found.examples)) == (12, 5)


def test_errors_come_before_warnings_and_infos(store: AnyStore):
    for make in (twice, odd_v1_key):
        make(store)
    store.set(LISTS, layer_key(2), entries(99))

    assert [found.severity for found in verify(store).findings] == ["error", "warning", "info"]


BAD_KEYS = [("n", "../../x"), ("n", ""), ("n", "/a"), ("n", "a//b"), ("a/b", "c"), ("", "k"), (LISTS, ".tmp-1")]


@pytest.mark.parametrize(("namespace", "key"), BAD_KEYS)
def test_a_key_that_breaks_the_rules_is_an_error(sql_store: SQLMetadataStore, namespace: str, key: str):
    put_row(sql_store, namespace, key, b"[]")

    assert kinds(verify(sql_store)) == {"invalid-key": ("error", 1)}


STALE = {
    "missing": "DELETE FROM v2_metadata WHERE position = 2",
    "changed": "UPDATE v2_metadata SET hmac = 'x' WHERE position = 2",
    "one too many": f"INSERT INTO v2_metadata VALUES ('{sha256(1)}', 9, '{sha256(5)}', '', '')",
    "another layer's": f"INSERT INTO v2_metadata VALUES ('{sha256(8)}', 1, '{sha256(5)}', '', '')",
    "of no digest": f"INSERT INTO v2_metadata VALUES ('nonsense', 1, '{sha256(5)}', '', '')",
    "out of order": "UPDATE v2_metadata SET position = 10 WHERE position = 1",
    "list changed": "UPDATE metadata SET value = '[]' WHERE namespace = 'v2metadata-by-diffid'",
    "list unreadable": "UPDATE metadata SET value = 'x' WHERE namespace = 'v2metadata-by-diffid'",
    "list gone": "DELETE FROM metadata WHERE namespace = 'v2metadata-by-diffid'",
}


@pytest.mark.parametrize("statement", STALE.values(), ids=STALE.keys())
def test_derived_rows_that_are_not_what_the_list_says_are_an_error(sql_memory: SQLMetadataStore, statement: str):
    put_layer(sql_memory, 1, 11, 12, 13)
    run_sql(sql_memory, statement)

    report = verify(sql_memory)

    assert finding(report, "stale-rows").severity == "error"
    assert finding(report, "stale-rows").count == 1
    assert verify(sql_memory, repair=True).ok
    assert "stale-rows" not in kinds(verify(sql_memory))


@pytest.mark.parametrize("key", ["nonsense", layer_key(1)], ids=["odd-key", "digest-with-a-slash"])
def test_derived_rows_of_a_list_that_can_have_none_are_an_error(sql_memory: SQLMetadataStore, key: str):
    """The list is there, under a key that is no DiffID; or the row's DiffID is written as a key is."""
    put_row(sql_memory, LISTS, key, b"[]")
    run_sql(sql_memory, f"INSERT INTO v2_metadata VALUES ('{key}', 1, '{sha256(5)}', '', '')")

    assert "stale-rows" in kinds(verify(sql_memory))
    verify(sql_memory, repair=True)
    assert "stale-rows" not in kinds(verify(sql_memory))
    with sql_memory.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM v2_metadata")).scalar() == 0


def test_what_is_in_quarantine_is_an_info(sql_store: SQLMetadataStore):
    sql_store.quarantine("n", "k", b"bytes", "a reason")

    assert kinds(verify(sql_store)) == {"quarantined": ("info", 1)}


def test_an_index_that_misses_a_row_is_damage(tmp_path: Path):
    """Made as a disk does it: a page of the index keeps what it was while the table went on."""
    path = tmp_path / "damaged.db"
    with SQLMetadataStore(path) as store:
        put_layer(store, 1, 11)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA writable_schema=ON")
    where = "name = 'v2_metadata_by_digest'"
    row = connection.execute(f"SELECT * FROM sqlite_master WHERE {where}").fetchone()
    connection.execute(f"DELETE FROM sqlite_master WHERE {where}")
    connection.close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("INSERT INTO v2_metadata VALUES (?, 7, ?, '', '')", (sha256(3), sha256(4)))
    connection.execute("PRAGMA writable_schema=ON")
    connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", row)
    connection.close()

    report = verify(path)

    assert finding(report, "damaged-file").severity == "error"
    assert "layerstore recover" in finding(report, "damaged-file").remedy
    assert not report.ok


def test_what_is_no_entry_in_a_directory_is_named(files: FSMetadataStore):
    base = Path(files.path)
    files.set("n", "k", b"")
    (base / "n" / ".tmp-left").write_bytes(b"")
    (base / "n" / "link").symlink_to("k")
    os.mkfifo(base / "n" / "pipe")
    (base / "stray").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(base) + b"/n/\xff")).write_bytes(b"")

    report = verify(files)

    assert kinds(report) == {"no-entry": ("warning", 4), "temporary": ("info", 1)}
    assert [example.partition(": ")[0] for example in finding(report, "no-entry").examples] == [
        "n/link",
        "n/pipe",
        "n/\\xff",
        "stray",
    ]


def test_a_file_that_cannot_be_read_is_an_error(files: FSMetadataStore, monkeypatch: pytest.MonkeyPatch):
    def read(*_: object) -> None:
        raise OSError(5, "Input/output error")

    files.set("n", "k", b"")
    monkeypatch.setattr("layerstore.files.scan.tree.read_regular", read)

    assert kinds(verify(files)) == {"unreadable-file": ("error", 1)}


def test_a_path_stands_for_what_is_there(sql_file: SQLMetadataStore, files: FSMetadataStore, tmp_path: Path):
    """A database file, a directory, or a data root that has one; anything else is refused."""
    put_layer(sql_file, 1, 11)
    put_layer(files, 1, 11)
    root = tmp_path / "root" / "image" / "vfs"
    shutil.copytree(files.path, root / "distribution")

    for path in (str(sql_file.path), files.path, str(tmp_path / "root")):
        report = verify(path)
        assert (report.path, report.checked, report.ok) == (path, 2, True)
    with pytest.raises(TransferError, match="no such file"):
        verify(tmp_path / "missing")


def test_progress_counts_up_to_the_number_of_entries(store: AnyStore):
    for number in range(3):
        put_layer(store, number, number + 10)
    calls: list[tuple[int, int | None]] = []

    verify(store, progress=lambda done, total: calls.append((done, total)))

    assert calls[-1] == (6, 6)
