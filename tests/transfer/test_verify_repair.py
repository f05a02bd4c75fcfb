"""Repairing: what can be mended is mended, nothing is lost, and the second check is clean."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import (
    FSMetadataStore,
    LayerstoreError,
    SQLMetadataStore,
    StoreReadOnlyError,
    V2Metadata,
    V2MetadataService,
    diff,
    export_directory,
    import_directory,
    verify,
)
from layerstore.sql.sqlite.connections import Connections
from tests.conftest import AnyStore, OpenSQL, assert_sound, sqlite_of
from tests.support.entries import LISTS, MAPPINGS, V1, entries, files_of, layer_key, quarantine_of, rows_of
from tests.support.strategies import sha256
from tests.transfer.test_verify import BAD_KEYS, half_an_add, kinds, put_layer, put_row, run_sql

DAMAGE: list[tuple[str, str, bytes]] = [
    (LISTS, layer_key(2), b""),
    (LISTS, layer_key(3), b"\0" * 200),
    (LISTS, "sha256/short", entries(4)),
    (MAPPINGS, layer_key(12), b""),
    (MAPPINGS, layer_key(13), b"nonsense"),
    (V1, "registry,abc", sha256(1).encode()),
]


def damage(store: AnyStore) -> None:
    put_layer(store, 1, 11, 12)
    store.set(LISTS, layer_key(5), entries(15))
    for entry in DAMAGE:
        store.set(*entry)


def check_repaired(store: AnyStore) -> None:
    report = verify(store, repair=True)

    assert report.ok
    assert kinds(report)["unreadable"] == ("error", len(DAMAGE))
    assert kinds(report)["unmapped"] == ("warning", 2)
    assert all(found.repaired == found.count for found in report.findings if found.severity != "info")
    assert store.get(MAPPINGS, layer_key(12)) == sha256(1).encode()
    assert store.get(MAPPINGS, layer_key(15)) == sha256(5).encode()
    assert len(list(store.entries())) == 5
    again = verify(store)
    assert again.ok
    assert set(kinds(again)) <= {"quarantined"}


def test_a_database_is_mended_and_what_was_unreadable_is_in_quarantine(sql_store: SQLMetadataStore):
    damage(sql_store)

    check_repaired(sql_store)

    assert sorted(row[:3] for row in quarantine_of(sql_store)) == sorted(DAMAGE)


def test_a_directory_is_mended_and_what_was_unreadable_lies_beside_it(files: FSMetadataStore):
    damage(files)

    check_repaired(files)

    beside = files_of(Path(f"{files.path}.quarantine"))
    found = [(*path.split("/", 2)[1:], file.value) for path, file in beside.items()]
    assert sorted(found) == sorted(DAMAGE)


def test_what_lies_beside_a_directory_is_never_overwritten(files: FSMetadataStore):
    for value in (b"", b"[", b""):
        files.set(LISTS, layer_key(1), value)
        verify(files, repair=True)

    beside = files_of(Path(f"{files.path}.quarantine"))
    assert sorted(file.value for file in beside.values()) == [b"", b"", b"["]


@pytest.mark.parametrize(
    ("namespace", "key"),
    [(V1, "r" * 235 + ",abc"), (MAPPINGS, "sha256/" + "f" * 239), (LISTS, "é" * 119)],
    ids=["v1", "mapping", "two-byte-letters"],
)
def test_an_entry_with_the_longest_name_goes_to_quarantine_too(files: FSMetadataStore, namespace: str, key: str):
    """A key's segment may have 239 bytes: nothing can be put behind it."""
    files.set(namespace, key, b"unreadable")

    assert verify(files, repair=True).ok

    beside = files_of(Path(f"{files.path}.quarantine"))
    assert [file.value for file in beside.values()] == [b"unreadable"]
    assert verify(files).findings == ()


@pytest.mark.parametrize(("namespace", "key"), BAD_KEYS)
def test_a_key_that_breaks_the_rules_moves_to_quarantine_and_the_export_goes_on(
    sql_file: SQLMetadataStore, tmp_path: Path, namespace: str, key: str
):
    put_row(sql_file, namespace, key, b"[]")
    put_layer(sql_file, 1, 11)

    assert verify(sql_file, repair=True).ok

    assert [row[:3] for row in quarantine_of(sql_file)] == [(namespace, key, b"[]")]
    assert verify(sql_file).ok
    assert export_directory(sql_file, tmp_path / "target").written == 2


def test_all_damage_at_once_is_mended_at_once(sql_file: SQLMetadataStore, golden: Path):
    """Derived rows broken in every way, beside unreadable entries, odd keys and half an `add`."""
    import_directory(sql_file, golden)
    before = rows_of(sql_file)
    run_sql(sql_file, "DELETE FROM v2_metadata WHERE position % 3 = 0")
    run_sql(sql_file, "UPDATE v2_metadata SET source_repository = 'x' WHERE position % 3 = 1")
    run_sql(sql_file, f"INSERT INTO v2_metadata VALUES ('{sha256(99)}', 1, '{sha256(98)}', '', '')")
    put_row(sql_file, "n", "../x", b"")
    put_row(sql_file, MAPPINGS, layer_key(1), b"")

    report = verify(sql_file, repair=True)

    assert report.ok
    assert {"stale-rows", "invalid-key", "unreadable"} <= set(kinds(report))
    assert rows_of(sql_file) == before
    assert_sound(sql_file)
    assert diff(sql_file, golden).ok
    assert verify(sql_file).ok


def test_repairing_what_is_well_changes_nothing(sql_file: SQLMetadataStore, golden: Path):
    import_directory(sql_file, golden)
    before = rows_of(sql_file)
    files = files_of(golden)

    assert verify(sql_file, repair=True).findings == verify(golden, repair=True).findings
    assert rows_of(sql_file) == before
    assert files_of(golden) == files
    assert not Path(f"{golden}.quarantine").exists()


@pytest.mark.parametrize("kind", ["sql_file", "files"])
def test_a_mend_looks_again_and_leaves_a_newer_value_alone(request: pytest.FixtureRequest, kind: str):
    """A writer came in between: its list is not moved away, its mapping is not overwritten."""
    store: AnyStore = request.getfixturevalue(kind)
    half_an_add(store)
    store.set(LISTS, layer_key(2), b"[")

    def progress(done: int, total: int | None) -> None:
        if done == total:
            store.set(LISTS, layer_key(2), entries(21))
            V2MetadataService(store).add(sha256(3), V2Metadata(sha256(12)))

    verify(store, repair=True, progress=progress)

    assert store.get(LISTS, layer_key(2)) == entries(21)
    assert store.get(MAPPINGS, layer_key(12)) == sha256(3).encode()


def test_repairing_needs_a_store_that_can_be_written(open_sql: OpenSQL):
    with open_sql() as store:
        half_an_add(store)

    with pytest.raises(StoreReadOnlyError):
        verify(open_sql(read_only=True), repair=True)


def test_without_repair_nothing_is_changed(store: AnyStore):
    damage(store)
    before = list(store.entries())

    verify(store)

    assert list(store.entries()) == before


GARBAGE = st.one_of(st.binary(max_size=12), st.text(max_size=8), st.integers(-(2**63), 2**63 - 1), st.floats())
NAMES = st.one_of(st.sampled_from([LISTS, MAPPINGS, V1, layer_key(1), "../x", sha256(1)]), st.text(max_size=8), GARBAGE)


@pytest.mark.slow
@given(
    st.lists(st.tuples(NAMES, NAMES, GARBAGE, st.one_of(st.integers(0, 2**62), GARBAGE)), max_size=6),
    st.lists(st.tuples(NAMES, st.integers(0, 9), NAMES, NAMES, NAMES), max_size=4),
)
def test_no_garbage_in_a_database_raises_anything_but_our_errors(
    metadata: list[tuple[object, ...]], derived: list[tuple[object, ...]]
):
    """Whatever another program wrote into the tables. What could be repaired is clean when it is checked again."""
    with SQLMetadataStore(":memory:") as store:
        insert(sqlite_of(store)._connections, "INSERT OR IGNORE INTO metadata VALUES (?, ?, ?, ?)", metadata)
        insert(sqlite_of(store)._connections, "INSERT OR IGNORE INTO v2_metadata VALUES (?, ?, ?, ?, ?)", derived)
        try:
            verify(store)
            repaired = verify(store, repair=True)
            again = verify(store)
        except LayerstoreError:
            return
        assert repaired.ok <= again.ok


def insert(connections: Connections, statement: str, rows: list[tuple[object, ...]]) -> None:
    for row in rows:
        try:
            connections.local.handle.execute(statement, row)
        except UnicodeEncodeError:
            continue  # a lone surrogate, which no SQLite text can hold


@pytest.mark.slow
@given(
    st.dictionaries(
        st.tuples(
            st.sampled_from([LISTS, MAPPINGS, V1, "other"]), st.sampled_from([layer_key(1), layer_key(2), "odd"])
        ),
        st.one_of(st.binary(max_size=30), st.sampled_from([sha256(1).encode(), entries(1, 2), b"null", b"[{}]"])),
        max_size=8,
    ),
    st.booleans(),
)
def test_whatever_a_crash_left_is_clean_after_a_repair_and_nothing_is_lost(
    values: dict[tuple[str, str], bytes], in_files: bool
):
    """Entries that stay have their bytes, the others are in quarantine with theirs."""
    with tempfile.TemporaryDirectory() as folder:
        base = f"{folder}/distribution"
        store: AnyStore = FSMetadataStore(base) if in_files else SQLMetadataStore(":memory:")
        with store:
            for place, value in values.items():
                store.set(*place, value)
            repaired = verify(store, repair=True)
            again = verify(store)

            assert repaired.ok == again.ok
            assert {found.kind for found in again.findings if found.severity != "info"} <= {"odd-digest"}
            stayed = {(namespace, key): value for namespace, key, value in store.entries()}
            moved = [value for place, value in values.items() if stayed.get(place) != value]
            if isinstance(store, SQLMetadataStore):
                kept = [row[2] for row in quarantine_of(store)]
            else:
                kept = [file.value for file in files_of(Path(f"{base}.quarantine")).values()]
            assert Counter(moved) == Counter(kept)
