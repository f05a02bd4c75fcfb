"""The views for people say what the lists say: held against a count in Python, whatever is in the store."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService
from layerstore.keys import DIFF_IDS, V2_METADATA, Record
from layerstore.records import encode_list
from tests.conftest import assert_sound, database_rows
from tests.support.strategies import TEXTS, sha256

# Neighbours in the order of bytes: '-' and '.' come before '/', '0' right behind it.
HOSTS = st.sampled_from(["a", "a-b", "a.b", "a0", "a:5000", "b", "[::1]:5000", "é", "", "A"])
NAMES = st.one_of(
    st.builds("{}/{}".format, HOSTS, st.sampled_from(["x", "y", "x/y", "", "0", "/"])),
    st.sampled_from(["", "busybox", "a", "a0", "/", "a\x7f", "zz"]),
    TEXTS,
)
TIMES_S = st.integers(0, 4_000_000_000)
LISTS = st.dictionaries(
    st.integers(0, 5),
    st.tuples(st.lists(st.tuples(st.integers(10, 16), NAMES), min_size=1, max_size=6), TIMES_S),
    max_size=6,
)
MAPPINGS = st.dictionaries(st.integers(10, 20), st.tuples(st.integers(0, 5), TIMES_S), max_size=8)
V1_IDS = st.sets(st.tuples(HOSTS, st.integers(0, 9)), max_size=5)


def utc(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def fill(store: SQLMetadataStore, lists: object, mappings: object, v1_ids: object) -> None:
    assert isinstance(lists, dict)
    assert isinstance(mappings, dict)
    assert isinstance(v1_ids, set)
    for layer, (entries, seconds) in lists.items():
        value = encode_list([V2Metadata(sha256(digest), name) for digest, name in entries])
        store._put(Record(V2_METADATA, sha256(layer).replace(":", "/"), value, seconds * 10**9 + 5))
    for digest, (layer, seconds) in mappings.items():
        key = sha256(digest).replace(":", "/")
        store._put(Record(DIFF_IDS, key, sha256(layer).encode(), seconds * 10**9))
    for registry, number in v1_ids:
        V1IDService(store).set(f"{number:064x}", registry, sha256(1))
    # What no view may show.
    store.set(V2_METADATA, "sha256/short", encode_list([V2Metadata(sha256(99), "odd/key")]))
    store.set(V2_METADATA, sha256(88).replace(":", "/"), b"not JSON")
    store.set(V2_METADATA, sha256(87).replace(":", "/"), b'[{"Digest":"odd","SourceRepository":"odd/digest"}]')
    store.set(DIFF_IDS, sha256(86).replace(":", "/"), b"odd")
    store.set(DIFF_IDS, "sha256:" + "0" * 64, sha256(1).encode())


@given(lists=LISTS, mappings=MAPPINGS, v1_ids=V1_IDS)
def test_the_views_are_a_count_of_the_lists(lists: object, mappings: object, v1_ids: object):
    with SQLMetadataStore(":memory:") as store:
        fill(store, lists, mappings, v1_ids)
        check(store, lists, mappings, v1_ids)
        assert_sound(store)


def check(store: SQLMetadataStore, lists: object, mappings: object, v1_ids: object) -> None:
    assert isinstance(lists, dict)
    assert isinstance(mappings, dict)
    assert isinstance(v1_ids, set)
    of_repository = defaultdict(list)
    for layer, (entries, seconds) in lists.items():
        for _, name in entries:
            of_repository[name].append((layer, seconds))
    unknown = of_repository.pop("", [])
    assert len(unknown) == sum(not name for entries, _ in lists.values() for _, name in entries)

    layers = {
        (sha256(layer), utc(seconds), seconds * 10**9 + 5, len(entries), len({name for _, name in entries} - {""}))
        for layer, (entries, seconds) in lists.items()
    }
    assert sorted(database_rows(store, "SELECT * FROM layers")) == sorted(layers)
    newest = [row[2] for row in database_rows(store, "SELECT * FROM layers ORDER BY modified_at_ns DESC")]
    assert newest == sorted(newest, reverse=True)  # type: ignore[type-var]

    repositories = {
        (name, name.partition("/")[0] if "/" in name else "", len(set(rows)), len(rows), utc(max(s for _, s in rows)))
        for name, rows in of_repository.items()
    }
    found = database_rows(store, "SELECT * FROM repositories")
    assert sorted(found) == sorted(repositories)
    for row in found:
        only = database_rows(store, "SELECT * FROM repositories WHERE source_repository = :name", name=row[0])
        assert only == [row]

    hosts = {name.partition("/")[0] for name in of_repository if "/" in name} | {host for host, _ in v1_ids}
    registries = {
        (
            host,
            sum(name.startswith(f"{host}/") for name in of_repository),
            len([one for one, _ in v1_ids if one == host]),
        )
        for host in hosts - {""}
    }
    assert sorted(database_rows(store, "SELECT * FROM registries")) == sorted(registries)
    for registry in registries:
        assert database_rows(store, "SELECT * FROM registries WHERE registry = :r", r=registry[0]) == [registry]

    shared = {(layer[0], layer[4], layer[3]) for layer in layers if layer[4] > 1}
    assert sorted(database_rows(store, "SELECT * FROM shared_layers")) == sorted(shared)

    listed = {digest for entries, _ in lists.values() for digest, _ in entries}
    unlisted = {
        (sha256(digest), sha256(layer), utc(seconds))
        for digest, (layer, seconds) in mappings.items()
        if digest not in listed
    }
    assert sorted(database_rows(store, "SELECT * FROM unlisted_digests")) == sorted(unlisted)


def test_a_digest_that_falls_out_of_a_full_list_is_unlisted(sql_store: SQLMetadataStore):
    for number in range(52):
        V2MetadataService(sql_store).add(sha256(1), V2Metadata(sha256(100 + number), "host/app"))

    found = database_rows(sql_store, "SELECT digest, diff_id FROM unlisted_digests ORDER BY 1")
    assert found == [(sha256(100), sha256(1)), (sha256(101), sha256(1))]
    assert database_rows(sql_store, "SELECT count(*) FROM diff_id_by_digest WHERE diff_id = :d", d=sha256(1)) == [(52,)]


@pytest.mark.parametrize("view", ["layers", "repositories", "registries", "shared_layers", "unlisted_digests"])
def test_a_view_of_an_empty_store_is_empty(sql_store: SQLMetadataStore, view: str):
    assert database_rows(sql_store, f"SELECT * FROM {view}") == []


def test_a_time_that_no_calendar_has_is_no_text_and_no_error(sql_store: SQLMetadataStore):
    for number, time_ns in enumerate((-(2**63), -1, 2**63 - 1)):
        value = encode_list([V2Metadata(sha256(50), "host/app")])
        sql_store._put(Record(V2_METADATA, sha256(number).replace(":", "/"), value, time_ns))

    texts = [row[0] for row in database_rows(sql_store, "SELECT modified_at FROM layers ORDER BY modified_at_ns")]
    assert texts == ["1677-09-21T00:12:44Z", "1970-01-01T00:00:00Z", "2262-04-11T23:47:16Z"]
