"""What is derived from entries of `blob-by-digest`, and the view of all places that Docker and other engines know."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import SQLMetadataStore, StoreError, V2Metadata, V2MetadataService, import_directory, verify
from layerstore.blobs import BlobRecord, encode
from layerstore.blobs import merge as unite
from layerstore.keys import BLOBS, Record
from layerstore.sql.sqlite import opening
from tests.blobs.test_record import records
from tests.conftest import OpenSQL, assert_sound, database_rows, undone
from tests.support.entries import AT, layer_key
from tests.support.strategies import sha256
from tests.transfer.prune.conftest import a_list, fill, fill_directory, mapping

GOLDEN = Path(__file__).parents[1] / "golden"
A, B = "docker.io/library/a", "localhost:5000/b"
BLOB_ROWS = "SELECT digest, diff_id, compression, toc_digest FROM blobs ORDER BY 1"
LOCATIONS = "SELECT digest, source_repository, seen_at_ns FROM locations ORDER BY 1, 2"
PLACES = "SELECT digest, diff_id, source_repository, hmac, seen_at_ns FROM places ORDER BY 1, 3"


def value(**fields: object) -> bytes:
    return encode(BlobRecord(**fields))  # type: ignore[arg-type]


def test_rows_follow_every_kind_of_write(sql_store: SQLMetadataStore):
    key = layer_key(1)
    sql_store.set(BLOBS, key, value(diff_id=sha256(9), compression="gzip", toc=sha256(8), locations={A: 5, B: None}))
    assert database_rows(sql_store, BLOB_ROWS) == [(sha256(1), sha256(9), "gzip", sha256(8))]
    assert database_rows(sql_store, LOCATIONS) == [(sha256(1), A, 5), (sha256(1), B, None)]
    sql_store.set(BLOBS, key, value(locations={B: 7}))
    assert database_rows(sql_store, BLOB_ROWS) == [(sha256(1), None, None, None)]
    assert database_rows(sql_store, LOCATIONS) == [(sha256(1), B, 7)]
    sql_store.set_many([(BLOBS, key, value(conflicts={"Compression": ("gzip", "zstd")}, locations={A: 1}))])
    assert database_rows(sql_store, LOCATIONS) == [(sha256(1), A, 1)]
    with undone(sql_store):
        sql_store.delete(BLOBS, key)
    V2MetadataService(sql_store).remove(V2Metadata(sha256(1), A))
    assert database_rows(sql_store, LOCATIONS) == []
    assert database_rows(sql_store, BLOB_ROWS) == [(sha256(1), None, None, None)]
    sql_store.set(BLOBS, key, b"[")
    assert database_rows(sql_store, BLOB_ROWS) == []
    sql_store.set(BLOBS, key, value(locations={A: 1}))
    sql_store.delete(BLOBS, key)
    assert database_rows(sql_store, BLOB_ROWS) + database_rows(sql_store, LOCATIONS) == []


def test_a_key_that_is_no_digest_has_no_rows(sql_store: SQLMetadataStore):
    for key in ("x", "sha256/abc", f"sha256:{1:064x}"):
        sql_store.set(BLOBS, key, value(locations={A: 1}))

    assert database_rows(sql_store, BLOB_ROWS) + database_rows(sql_store, LOCATIONS) == []


_writes = st.lists(st.tuples(st.integers(1, 3), st.none() | st.just(b"[") | records().map(encode)), max_size=6)


@given(_writes, st.lists(_writes, max_size=3))
def test_rows_are_those_of_the_entries_after_any_writes(alone: list[tuple[int, bytes | None]], loads: list[object]):
    """Written one by one, and loaded in bulk, over what is there."""
    with SQLMetadataStore(":memory:") as store:
        for number, written in alone:
            if written is not None:
                store.set(BLOBS, layer_key(number), written)
            elif store.get_many(BLOBS, [layer_key(number)]):
                store.delete(BLOBS, layer_key(number))
            assert_sound(store)
        for load in loads:
            assert isinstance(load, list)
            entries = [(BLOBS, layer_key(number), written) for number, written in load if written is not None]
            filler = [("n", f"{number}", b"") for number in range(1001)]  # so many are staged
            store.set_many([*filler, *entries])
            assert_sound(store)


@pytest.mark.parametrize("filled", [False, True])
def test_an_import_of_several_sources_derives_their_rows(open_sql: OpenSQL, tmp_path: Path, filled: bool):
    """A directory, which comes in order, and a database, which does not; into nothing, and over what is there."""
    one = BlobRecord(compression="gzip", locations={A: AT})
    other = BlobRecord(diff_id=sha256(9), locations={A: AT + 1, B: None})
    fill_directory(
        tmp_path / "distribution", [Record(BLOBS, layer_key(number), encode(one), AT) for number in range(1, 1500)]
    )
    source = open_sql(tmp_path / "source.db")
    source.set_many([(BLOBS, layer_key(number), encode(other)) for number in range(1000, 2500)])
    store = open_sql()
    if filled:
        store.set(BLOBS, layer_key(1200), value(toc=sha256(8)))

    import_directory(store, tmp_path / "distribution")
    import_directory(store, source)

    assert database_rows(store, "SELECT count(*) FROM blobs") == [(2499,)]
    assert database_rows(store, "SELECT count(*) FROM locations") == [(999 + 2 * 1500,)]
    whole = unite(unite(one, other), BlobRecord(toc=sha256(8)) if filled else one)
    assert store.get(BLOBS, layer_key(1200)) == encode(whole)
    assert_sound(store)


def test_rows_that_another_program_wrote_are_found_and_mended(sql_file: SQLMetadataStore):
    sql_file.set(BLOBS, layer_key(1), value(diff_id=sha256(9), locations={A: 1}))
    sql_file.set(BLOBS, layer_key(2), value(locations={A: 1, B: 2}))
    sql_file.set(BLOBS, layer_key(4), value(locations={A: 1}))
    with sql_file.engine.begin() as connection:
        for statement in (
            f"UPDATE blobs SET diff_id = '{sha256(8)}' WHERE digest = '{sha256(1)}'",
            f"DELETE FROM locations WHERE digest = '{sha256(2)}' AND source_repository = '{A}'",
            f"INSERT INTO locations VALUES ('{sha256(3)}', 'r', 1)",
            "INSERT INTO blobs VALUES (CAST(x'ff' AS TEXT), NULL, NULL, NULL)",
            f"INSERT INTO locations VALUES ('{sha256(4)}', CAST(x'ff' AS TEXT), 1)",
        ):
            connection.exec_driver_sql(statement)

    (found,) = (found for found in verify(sql_file, repair=True).findings if found.kind == "stale-rows")

    assert (found.count, found.repaired) == (5, 5)
    assert {sha256(number) for number in range(1, 5)} | {"\\xff"} == set(found.examples)
    assert verify(sql_file).ok


def test_places_are_those_of_both_and_each_is_there_once(sql_store: SQLMetadataStore):
    fill(
        sql_store,
        [
            a_list(9, (1, A), (1, B), (2, "")),
            mapping(1, 9),
            Record(BLOBS, layer_key(1), value(diff_id=sha256(9), locations={A: AT + 5, "h.io/c": 7}), AT),
            mapping(3, 8),
            Record(BLOBS, layer_key(3), value(locations={A: None}), AT),
            Record(BLOBS, layer_key(4), value(locations={A: 3}), AT),
        ],
    )
    V2MetadataService(sql_store).add(sha256(7), V2Metadata(sha256(5), B, "f" * 64))
    at = sql_store._run("SELECT modified_at_ns FROM metadata WHERE key = :key", {"key": layer_key(7)})[0][0]

    assert database_rows(sql_store, PLACES) == [
        (sha256(1), sha256(9), A, "", AT + 5),
        (sha256(1), sha256(9), "h.io/c", "", 7),
        (sha256(1), sha256(9), B, "", AT - 1000),
        (sha256(3), sha256(8), A, "", None),
        (sha256(4), None, A, "", 3),
        (sha256(5), sha256(7), B, "f" * 64, at),
    ]
    for column, wanted in (
        ("digest", sha256(1)),
        ("diff_id", sha256(9)),
        ("diff_id", sha256(8)),
        ("source_repository", A),
    ):
        found = database_rows(sql_store, f"SELECT * FROM places WHERE {column} = '{wanted}' ORDER BY 1, 3")
        number = {"digest": 0, "diff_id": 1, "source_repository": 2}[column]
        assert found == [row for row in database_rows(sql_store, PLACES) if row[number] == wanted]
        assert found


def old_file(path: Path, entries: list[tuple[object, object, object]]) -> Path:
    """Return a database of 0002 that has entries in `blob-by-digest`."""
    shutil.copy(GOLDEN / "0002.db", path)
    connection = sqlite3.connect(path)
    connection.executemany("INSERT INTO metadata VALUES ('blob-by-digest', ?, ?, ?)", entries)
    connection.commit()
    connection.close()
    return path


def test_an_older_file_that_has_such_entries_is_upgraded_with_their_rows(tmp_path: Path, open_sql: OpenSQL):
    entries: list[tuple[object, object, object]] = [
        (layer_key(number), value(locations={A: number, B: None}), number) for number in range(2500)
    ]
    path = old_file(
        tmp_path / "old.db",
        [
            *entries,
            (layer_key(3000), value(compression="zstd").decode(), 1),  # as text
            (layer_key(3001), b"[", 1),
            ("no digest", b"{}", 1),
            (b"sha256/\xff", b"{}", 1),
        ],
    )

    store = open_sql(path)

    assert database_rows(store, "SELECT count(*) FROM blobs") == [(2501,)]
    assert database_rows(store, "SELECT count(*) FROM locations") == [(5000,)]
    assert {found.kind for found in verify(store).findings} >= {"unreadable", "invalid-key"}
    verify(store, repair=True)
    assert store.get(BLOBS, layer_key(1)) == entries[1][1]


@pytest.mark.slow
def test_an_upgrade_of_many_takes_memory_that_does_not_grow(tmp_path: Path):
    """Of 100,000 entries it takes 20 MB more than of none at most."""
    program = (
        "import sys; from layerstore import SQLMetadataStore; SQLMetadataStore(sys.argv[1]).close();"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    taken = []
    for count in (0, 100_000):
        entries: list[tuple[object, object, object]] = [
            (layer_key(number), value(diff_id=sha256(number), locations={A: number, B: None}), number)
            for number in range(count)
        ]
        path = old_file(tmp_path / f"{count}.db", entries)
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        taken.append(int(done.stdout))
        with SQLMetadataStore(path) as store:
            assert database_rows(store, "SELECT count(*) FROM locations") == [(2 * count,)]

    assert taken[1] - taken[0] < 20_000


def test_a_table_of_somebody_elses_of_that_name_keeps_the_file_as_it_was(tmp_path: Path, open_sql: OpenSQL):
    path = old_file(tmp_path / "old.db", [])
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE locations(mine)")
    connection.commit()
    connection.close()

    with pytest.raises(StoreError, match="locations"):
        SQLMetadataStore(path)

    assert opening.revision(str(path)) == "0002"
