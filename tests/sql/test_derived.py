"""What is derived from the lists and the mappings is right after every write, and follows Python's own reading."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService
from layerstore.digest import is_digest
from layerstore.keys import V1_IDS, key_digest
from layerstore.records import decode_diff_id, encode_list, why_unreadable
from tests.conftest import assert_sound, database_rows
from tests.support.strategies import METADATA, NEAR_DIFF_IDS, NEAR_DIGESTS, NEAR_V1_KEYS, sha256

LAYER, KEY = sha256(0xA), f"sha256/{0xA:064x}"
LISTS = "v2metadata-by-diffid"
ROWS = "SELECT diff_id, digest, source_repository, hmac FROM v2_metadata ORDER BY diff_id, position"


def rows(store: SQLMetadataStore) -> list[tuple[object, ...]]:
    return database_rows(store, ROWS)


def entries(*numbers: int) -> list[V2Metadata]:
    return [V2Metadata(sha256(number), f"r{number}", f"{number:02x}") for number in numbers]


def wanted(*numbers: int) -> list[tuple[object, ...]]:
    return [(LAYER, entry.digest, entry.source_repository, entry.hmac) for entry in entries(*numbers)]


def test_rows_follow_every_kind_of_write(sql_store: SQLMetadataStore):
    v2 = V2MetadataService(sql_store)
    for entry in entries(1, 2, 3, 1):
        v2.add(LAYER, entry)
    assert rows(sql_store) == wanted(2, 3, 1)
    v2.remove(entries(3)[0])
    assert rows(sql_store) == wanted(2, 1)
    sql_store.set(LISTS, KEY, encode_list(entries(9, 2, 8)))
    assert rows(sql_store) == wanted(9, 2, 8)
    sql_store.set(LISTS, KEY, b"unreadable")
    assert rows(sql_store) == []
    v2.add(LAYER, entries(4)[0])
    assert rows(sql_store) == wanted(4)
    sql_store.set_many([(LISTS, KEY, encode_list(entries(5, 6)))])
    assert rows(sql_store) == wanted(5, 6)
    sql_store.delete(LISTS, KEY)
    assert rows(sql_store) == []


@pytest.mark.parametrize("value", [b"", b"null", b"[]", b"{}", b"[1]", b'["x"]'])
def test_a_list_that_is_empty_or_unreadable_has_no_rows(sql_store: SQLMetadataStore, value: bytes):
    sql_store.set(LISTS, KEY, encode_list(entries(1, 2)))
    sql_store.set(LISTS, KEY, value)

    assert rows(sql_store) == []


@pytest.mark.parametrize("key", ["x", "sha256/abc", f"SHA256/{1:064x}", f"sha256:{1:064x}", f"sha256/{1:064x}/x"])
def test_a_list_under_a_key_that_is_no_diff_id_has_no_rows(sql_store: SQLMetadataStore, key: str):
    sql_store.set(LISTS, key, encode_list(entries(1)))
    assert rows(sql_store) == []
    sql_store.delete(LISTS, key)

    assert rows(sql_store) == []


def test_another_namespaces_value_has_no_rows(sql_store: SQLMetadataStore):
    sql_store.set("v2metadata", KEY, encode_list(entries(1)))

    assert rows(sql_store) == []


def test_positions_only_rise_and_an_append_rewrites_nothing(sql_store: SQLMetadataStore):
    v2 = V2MetadataService(sql_store)
    for entry in entries(*range(60)):
        v2.add(LAYER, entry)
    before = database_rows(sql_store, "SELECT position, digest FROM v2_metadata ORDER BY position")
    v2.add(LAYER, entries(99)[0])
    after = database_rows(sql_store, "SELECT position, digest FROM v2_metadata ORDER BY position")

    assert len(before) == len(after) == 50
    assert after[:-1] == before[1:]
    assert after[-1][1] == sha256(99)


def test_duplicates_in_a_list_are_rows_of_their_own(sql_store: SQLMetadataStore):
    sql_store.set(LISTS, KEY, encode_list(entries(1, 2, 1, 1)))

    assert rows(sql_store) == wanted(1, 2, 1, 1)


@given(st.lists(st.lists(st.one_of(METADATA, st.builds(V2Metadata, NEAR_DIGESTS)), max_size=8), min_size=1, max_size=5))
def test_rows_equal_the_list_after_any_series_of_lists(series: list[list[V2Metadata]]):
    with SQLMetadataStore(":memory:") as store:
        for listed in series:
            store.set(LISTS, KEY, encode_list(listed))

            assert rows(store) == [
                (LAYER, entry.digest, entry.source_repository, entry.hmac)
                for entry in listed
                if is_digest(entry.digest)
            ]
        assert_sound(store)


def reading(namespace: str, key: str, value: bytes) -> list[tuple[object, ...]]:
    """Return the view's row as Python reads the entry."""
    if why_unreadable(namespace, key, value) is not None:
        return []
    diff_id = str(decode_diff_id(value))
    if namespace == V1_IDS:
        registry, _, v1_id = key.rpartition(",")
        return [(registry, v1_id, diff_id)]
    return [(key_digest(key), diff_id)]


def allowed(key: str) -> str | None:
    """Return the key if a store takes it."""
    bad = {"", ".", ".."}
    return None if bad & set(key.split("/")) or "\0" in key or "/.tmp-" in f"/{key}" else key


@given(NEAR_DIGESTS.map(lambda text: text.replace(":", "/", 1)), NEAR_DIFF_IDS)
@example(f"sha256/{1:064x}", b"a+b:c\0d")
@example("a/b:c", b"a:b")
@example("a/b/c", b"a:b")
@example("sha512/" + "0" * 64, b"a:b")
@example("a+b.c-d_e/=_-", b"a:b")
@example("a++b/c", b"a:b")
@example("a/b", b"a:\xc3\xa9")
@example("a/b", b"a:\xff")
@example("a/b", b"\xef\xbb\xbfa:b")
@example("sha256", b"a:b")
def test_the_view_of_mappings_is_pythons_reading(key: str, value: bytes):
    if allowed(key) is None:
        key = "sha256/odd"
    with SQLMetadataStore(":memory:") as store:
        store.set("diffid-by-digest", key, value)

        assert database_rows(store, "SELECT digest, diff_id FROM diff_id_by_digest") == reading(
            "diffid-by-digest", key, value
        )


@given(NEAR_V1_KEYS, NEAR_DIFF_IDS)
@example(f",{1:064x}", b"a:b")
@example(f"{1:064x}", b"a:b")
@example(f"r,{1:064x},{2:064x}", b"a:b")
@example(f"r,{'A' * 64}", b"a:b")
@example(f"é,{1:064x}", b"a:b")
@example(f"r,{'é' * 64}", b"a:b")
@example("x", b"a:b")
def test_the_view_of_v1_ids_is_pythons_reading(key: str, value: bytes):
    if allowed(key) is None:
        key = "odd"
    with SQLMetadataStore(":memory:") as store:
        store.set("v1id", key, value)

        assert database_rows(store, "SELECT registry, v1_id, diff_id FROM v1_ids") == reading("v1id", key, value)


@pytest.mark.parametrize("letters", ["a_+A:", "a.-=:", "0_.\n:"])
def test_the_views_digests_are_ours_for_every_short_text(letters: str):
    """All texts of up to six characters that the grammar treats differently, as keys and as values."""
    texts = ["".join(text) for length in range(7) for text in itertools.product(letters, repeat=length)]
    keys = [text.replace(":", "/") for text in texts]
    rows = [("diffid-by-digest", key, b"a:b") for key in keys]
    rows += [("diffid-by-digest", f"x/{number}", text.encode()) for number, text in enumerate(texts)]
    with SQLMetadataStore(":memory:") as store:
        with store.engine.begin() as connection:
            connection.exec_driver_sql("INSERT INTO metadata VALUES (?, ?, ?, 0)", rows)
        found = database_rows(store, "SELECT digest, diff_id FROM diff_id_by_digest")

    by_key = {key_digest(key) for key in keys} - {None}
    by_value = {f"x:{number}": text for number, text in enumerate(texts) if is_digest(text)}
    assert by_key
    assert by_value
    assert dict(found) == by_value | dict.fromkeys(by_key, "a:b")  # type: ignore[arg-type]  # rows of two


def test_the_views_show_what_the_services_write(sql_store: SQLMetadataStore):
    V2MetadataService(sql_store).add(LAYER, V2Metadata(sha256(1)))
    V1IDService(sql_store).set("0" * 64, "localhost:5000,odd", LAYER)

    assert database_rows(sql_store, "SELECT * FROM diff_id_by_digest") == [(sha256(1), LAYER)]
    assert database_rows(sql_store, "SELECT * FROM v1_ids") == [("localhost:5000,odd", "0" * 64, LAYER)]


def test_text_that_another_tool_wrote_is_read_as_its_bytes(sqlite_store: SQLMetadataStore):
    """`UPDATE metadata SET value = 'sha256:…'` in the sqlite3 shell stores TEXT, not BLOB."""
    with sqlite_store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO metadata VALUES ('diffid-by-digest', ?, ?, 0)", (f"sha256/{1:064x}", LAYER)
        )

    assert V2MetadataService(sqlite_store).get_diff_id(sha256(1)) == LAYER
    assert list(sqlite_store.entries()) == [("diffid-by-digest", f"sha256/{1:064x}", LAYER.encode())]
    assert database_rows(sqlite_store, "SELECT * FROM diff_id_by_digest WHERE digest = :d", d=sha256(1)) == [
        (sha256(1), LAYER)
    ]


def test_modified_at_is_set_at_every_write(sql_store: SQLMetadataStore):
    times = []
    for value in (b"1", b"1", b"2"):
        sql_store.set("n", "k", value)
        times.append(database_rows(sql_store, "SELECT modified_at_ns FROM metadata")[0][0])

    assert times == sorted(set(times))  # type: ignore[type-var]  # they are integers
