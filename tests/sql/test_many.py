"""`set_many` of more entries than it writes one by one: staged, sorted, merged, and the same in the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from layerstore import InvalidKeyError, SQLMetadataStore, V2Metadata
from layerstore.collection import Incoming
from layerstore.keys import DIFF_IDS, V2_METADATA
from layerstore.records import encode_list
from layerstore.sql.schema import REBUILT, STATISTICS
from layerstore.transfer.merging import keep
from tests.conftest import database_rows, undone


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def layers(count: int) -> Iterator[tuple[str, str, bytes]]:
    for number in range(count):
        layer, blob = sha256(f"layer {number}"), sha256(f"blob {number}")
        yield V2_METADATA, f"sha256/{layer}", encode_list([V2Metadata(f"sha256:{blob}", f"r/{number % 7}")])
        yield DIFF_IDS, f"sha256/{blob}", f"sha256:{layer}".encode()


def schema_of(store: SQLMetadataStore) -> list[tuple[object, ...]]:
    return database_rows(store, "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name") + database_rows(
        store, "SELECT tbl, idx, stat FROM sqlite_stat1 ORDER BY idx"
    )


def test_many_are_there_with_what_is_derived_from_them(sql_store: SQLMetadataStore):
    sql_store.set_many(layers(1200))

    assert set(sql_store.entries()) == set(layers(1200))
    assert database_rows(sql_store, "SELECT count(*) FROM v2_metadata") == [(1200,)]
    assert database_rows(sql_store, "SELECT count(*) FROM diff_id_by_digest") == [(1200,)]


def test_indexes_that_are_built_at_the_end_are_those_of_a_new_file(sqlite_store: SQLMetadataStore):
    before = schema_of(sqlite_store)
    assert len([row for row in before if row[1] in REBUILT]) == 2 * len(REBUILT)
    assert len(STATISTICS) == len({row[1] for row in STATISTICS})

    sqlite_store.set_many(layers(1200))

    assert schema_of(sqlite_store) == before


def test_many_replace_what_is_there_and_of_a_key_twice_the_last_stays(sql_store: SQLMetadataStore):
    sql_store.set_many(layers(800))
    sql_store.set("other", "k", b"kept")
    key = f"sha256/{sha256('layer 3')}"
    last = encode_list([V2Metadata(f"sha256:{sha256('another blob')}", "r/new")])

    sql_store.set_many([*layers(1000), (V2_METADATA, key, b"[]"), (V2_METADATA, key, last)])

    assert sql_store.get(V2_METADATA, key) == last
    assert sql_store.get("other", "k") == b"kept"
    assert database_rows(sql_store, "SELECT digest FROM v2_metadata WHERE diff_id = :d", d=key.replace("/", ":")) == [
        (f"sha256:{sha256('another blob')}",)
    ]


def test_a_bad_key_among_many_leaves_all_as_it_was(sql_store: SQLMetadataStore):
    sql_store.set("other", "k", b"kept")

    with pytest.raises(InvalidKeyError):
        sql_store.set_many([*layers(1200), ("other", "../k", b"")])

    assert list(sql_store.entries()) == [("other", "k", b"kept")]


def test_many_inside_a_transaction_are_undone_with_it(sqlite_store: SQLMetadataStore):
    before = schema_of(sqlite_store)
    with undone(sqlite_store):
        sqlite_store.set_many(layers(1200))
        assert sqlite_store.get(DIFF_IDS, f"sha256/{sha256('blob 7')}")

    assert list(sqlite_store.entries()) == []
    assert schema_of(sqlite_store) == before


@pytest.mark.parametrize("count", [1, 450], ids=["one blob", "more blobs than fit into a window"])
def test_facts_about_one_blob_are_united_and_of_other_entries_the_last_counts(sql_store: SQLMetadataStore, count: int):
    facts = [
        ("blob-by-digest", f"sha256/{number:064x}", b'{"Locations":[{"Repository":"localhost:5000/%s"}]}' % name, at)
        for at, name in ((2, b"a"), (1, b"b"))
        for number in range(count)
    ]
    others = [("n", "k", b"first", 5), ("n", "k", b"last", 4)]

    loaded = sql_store._backend.load([Incoming(0, facts), Incoming(0, others)], keep)

    assert loaded[0].added == count + 1
    assert sql_store.get("n", "k") == b"last"
    assert database_rows(sql_store, "SELECT count(*), min(modified_at_ns), max(modified_at_ns) FROM metadata") == [
        (count + 1, 2, 4)
    ]
    places = "SELECT digest, source_repository FROM locations ORDER BY digest, source_repository"
    assert database_rows(sql_store, places) == [
        (f"sha256:{number:064x}", f"localhost:5000/{name}") for number in range(count) for name in ("a", "b")
    ]
