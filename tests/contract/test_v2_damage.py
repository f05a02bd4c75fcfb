"""`V2MetadataService` on what a power cut, a bug or another program left: read as Docker reads it, and nothing lost."""

from __future__ import annotations

import logging

import pytest

from layerstore import (
    CorruptRecordError,
    FSMetadataStore,
    NotFoundError,
    SQLMetadataStore,
    StoreError,
    V2Metadata,
    V2MetadataService,
)
from tests.conftest import AnyStore, database_rows, undone
from tests.support.strategies import sha256

LAYER, OTHER_LAYER = sha256(0xA), sha256(0xB)
LIST_KEY, MAPPING_KEY = f"sha256/{0xA:064x}", f"sha256/{1:064x}"
LISTS, DIFF_IDS = "v2metadata-by-diffid", "diffid-by-digest"
NEW = V2Metadata(sha256(1), "localhost/r")
UNREADABLE = {
    "empty": b"",
    "zeros": b"\0" * 120,
    "cut off": b'[{"Digest":"sha256:',
    "an object": b"{}",
    "a number": b"[1]",
    "not a string": b'[{"Digest":5}]',
    "two documents": b"[][]",
    "a BOM": b"\xef\xbb\xbf[]",
    "too deep": b"[" * 10_001,
}
QUARANTINE = "SELECT namespace, key, value FROM quarantine ORDER BY id"


@pytest.fixture(params=UNREADABLE.values(), ids=list(UNREADABLE))
def unreadable(request: pytest.FixtureRequest) -> bytes:
    value: bytes = request.param
    return value


def test_an_unreadable_list_is_a_corrupt_record(store: AnyStore, unreadable: bytes):
    store.set(LISTS, LIST_KEY, unreadable)
    v2 = V2MetadataService(store)

    with pytest.raises(CorruptRecordError) as caught:
        v2.get_metadata(LAYER)
    assert (caught.value.namespace, caught.value.key) == (LISTS, LIST_KEY)
    assert caught.value.reason
    assert LIST_KEY in str(caught.value)
    with pytest.raises(CorruptRecordError):
        v2.get_metadata_many([OTHER_LAYER, LAYER])


@pytest.mark.parametrize("value", [b"", b"sha256:1", b"\xff", LAYER.encode() + b"\n"], ids=repr)
def test_what_a_digest_maps_to_must_be_a_diff_id(store: AnyStore, value: bytes):
    """Docker returns it as it is."""
    store.set(DIFF_IDS, MAPPING_KEY, value)
    v2 = V2MetadataService(store)

    for use in (
        lambda: v2.get_diff_id(sha256(1)),
        lambda: v2.get_diff_ids([sha256(2), sha256(1)]),
        lambda: v2.remove(NEW),
    ):
        with pytest.raises(CorruptRecordError) as caught:
            use()
        assert (caught.value.namespace, caught.value.key) == (DIFF_IDS, MAPPING_KEY)
    assert store.get(DIFF_IDS, MAPPING_KEY) == value


def test_add_begins_an_unreadable_list_anew_with_a_warning(
    store: AnyStore, unreadable: bytes, caplog: pytest.LogCaptureFixture
):
    store.set(LISTS, LIST_KEY, unreadable)
    V2MetadataService(store).add(LAYER, NEW)

    assert V2MetadataService(store).get_metadata(LAYER) == [NEW]
    assert V2MetadataService(store).get_diff_id(NEW.digest) == LAYER
    [(logger, level, message)] = caplog.record_tuples
    assert (logger, level) == ("layerstore", logging.WARNING)
    assert LAYER in message
    assert "quarantine" in message


def test_the_bytes_that_add_replaces_are_in_quarantine(sql_store: SQLMetadataStore, unreadable: bytes):
    sql_store.set(LISTS, LIST_KEY, unreadable)
    V2MetadataService(sql_store).add(LAYER, NEW)

    assert database_rows(sql_store, QUARANTINE) == [(LISTS, LIST_KEY, unreadable)]
    [(reason, time_ns)] = database_rows(sql_store, "SELECT reason, quarantined_at_ns FROM quarantine")
    assert reason
    assert isinstance(time_ns, int)


def test_the_warning_on_files_says_that_the_bytes_are_lost(files: FSMetadataStore, caplog: pytest.LogCaptureFixture):
    files.set(LISTS, LIST_KEY, b"")
    V2MetadataService(files).add(LAYER, NEW)

    assert "lost, as this store has no quarantine" in caplog.text


def test_remove_deletes_an_unreadable_list_and_keeps_its_bytes(
    sql_store: SQLMetadataStore, unreadable: bytes, caplog: pytest.LogCaptureFixture
):
    sql_store.set(LISTS, LIST_KEY, unreadable)
    sql_store.set(DIFF_IDS, MAPPING_KEY, LAYER.encode())
    V2MetadataService(sql_store).remove(NEW)

    assert list(sql_store.entries()) == [(DIFF_IDS, MAPPING_KEY, LAYER.encode())]
    assert database_rows(sql_store, QUARANTINE) == [(LISTS, LIST_KEY, unreadable)]
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_remove_deletes_an_unreadable_list_of_files(files: FSMetadataStore, unreadable: bytes):
    files.set(LISTS, LIST_KEY, unreadable)
    files.set(DIFF_IDS, MAPPING_KEY, LAYER.encode())
    V2MetadataService(files).remove(NEW)

    with pytest.raises(NotFoundError):
        files.get(LISTS, LIST_KEY)


def test_an_add_that_is_rolled_back_quarantines_nothing(sql_store: SQLMetadataStore):
    """The list, the mapping and the quarantine are one transaction."""
    sql_store.set(LISTS, LIST_KEY, b"broken")
    with undone(sql_store):
        V2MetadataService(sql_store).add(LAYER, NEW)

    assert list(sql_store.entries()) == [(LISTS, LIST_KEY, b"broken")]
    assert database_rows(sql_store, QUARANTINE) == []


def test_the_same_damage_again_is_kept_once(sql_store: SQLMetadataStore):
    for _ in range(3):
        sql_store.set(LISTS, LIST_KEY, b"broken")
        V2MetadataService(sql_store).add(LAYER, NEW)
    sql_store.set(LISTS, LIST_KEY, b"broken otherwise")
    V2MetadataService(sql_store).add(LAYER, NEW)

    assert [row[2] for row in database_rows(sql_store, QUARANTINE)] == [b"broken", b"broken otherwise"]


@pytest.mark.parametrize("value", [b"[{}]", b"[null]", b'[{"Digest":"odd"},{"Digest":"","HMAC":"\\u0000"}]'])
def test_odd_digests_in_a_readable_list_are_kept_in_it_and_not_derived(sql_store: SQLMetadataStore, value: bytes):
    sql_store.set(LISTS, LIST_KEY, value)
    odd = V2MetadataService(sql_store).get_metadata(LAYER)
    V2MetadataService(sql_store).add(LAYER, NEW)

    assert odd
    assert V2MetadataService(sql_store).get_metadata(LAYER) == [*odd, NEW]
    assert database_rows(sql_store, "SELECT digest FROM v2_metadata") == [(NEW.digest,)]
    assert database_rows(sql_store, QUARANTINE) == []


class FailingReads:
    """A store without transactions whose `get` of a list fails, and which notes what is written."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def get(self, namespace: str, key: str) -> bytes:
        if namespace == LISTS:
            raise StoreError("made up")
        return LAYER.encode()

    def set(self, namespace: str, key: str, value: bytes) -> None:
        self.written.append(key)

    def delete(self, namespace: str, key: str) -> None:
        self.written.append(key)


def test_a_read_that_fails_is_not_taken_for_an_empty_list():
    """Docker takes any error for "no entries", and overwrites the list."""
    failing = FailingReads()

    with pytest.raises(StoreError, match="made up"):
        V2MetadataService(failing).add(LAYER, NEW)
    with pytest.raises(StoreError, match="made up"):
        V2MetadataService(failing).remove(NEW)
    assert failing.written == []


class PlainStore:
    """The least that a service needs: get, set, delete on a dict."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], bytes] = {}

    def get(self, namespace: str, key: str) -> bytes:
        try:
            return self.values[namespace, key]
        except KeyError:
            raise NotFoundError(namespace, key) from None

    def set(self, namespace: str, key: str, value: bytes) -> None:
        self.values[namespace, key] = value

    def delete(self, namespace: str, key: str) -> None:
        self.get(namespace, key)
        del self.values[namespace, key]


def test_a_service_needs_no_more_than_get_set_and_delete():
    plain = PlainStore()
    v2 = V2MetadataService(plain)
    v2.add(LAYER, NEW)
    v2.add(LAYER, V2Metadata(sha256(2)))

    assert v2.get_metadata_many([LAYER, OTHER_LAYER]) == {LAYER: [NEW, V2Metadata(sha256(2))]}
    assert v2.get_diff_ids([NEW.digest, sha256(3)]) == {NEW.digest: LAYER}
    v2.remove(NEW)
    v2.remove(V2Metadata(sha256(2)))
    with pytest.raises(NotFoundError):
        v2.get_metadata(LAYER)
