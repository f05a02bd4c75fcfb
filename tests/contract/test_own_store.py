"""A Store of somebody's own: three methods are enough, and what it does wrong is said so."""

from __future__ import annotations

import pytest

from layerstore import (
    CorruptRecordError,
    NotFoundError,
    StoreError,
    V1IDService,
    V2Metadata,
    V2MetadataService,
)
from tests.support.strategies import sha256

LAYER, BLOB = sha256(1), sha256(2)


class Own:
    """The three methods of a Store."""

    def __init__(self) -> None:
        self.content: dict[tuple[str, str], bytes] = {}

    def get(self, namespace: str, key: str) -> bytes:
        try:
            return self.content[namespace, key]
        except KeyError:
            raise NotFoundError(namespace, key) from None

    def set(self, namespace: str, key: str, value: bytes) -> None:
        self.content[namespace, key] = value

    def delete(self, namespace: str, key: str) -> None:
        self.get(namespace, key)
        del self.content[namespace, key]


class Plain(Own):
    """Raises what a dict raises."""

    def get(self, namespace: str, key: str) -> bytes:
        return self.content[namespace, key]


def test_three_methods_are_a_store():
    store = Own()
    v2 = V2MetadataService(store)
    v2.add(LAYER, V2Metadata(BLOB, "localhost:5000/a"))
    v2.add(LAYER, V2Metadata(BLOB, "localhost:5000/b"))
    assert [entry.source_repository for entry in v2.get_metadata(LAYER)] == ["localhost:5000/a", "localhost:5000/b"]
    assert v2.get_diff_ids([BLOB, sha256(3)]) == {BLOB: LAYER}
    v2.remove(V2Metadata(BLOB, "localhost:5000/a"))
    v2.remove(V2Metadata(BLOB, "localhost:5000/b"))
    with pytest.raises(NotFoundError):
        v2.get_metadata(LAYER)
    V1IDService(store).set("0" * 64, "registry", LAYER)
    assert V1IDService(store).get("0" * 64, "registry") == LAYER


def test_an_unreadable_list_is_begun_anew_and_an_unreadable_mapping_is_corrupt(caplog: pytest.LogCaptureFixture):
    store = Own()
    store.set("v2metadata-by-diffid", LAYER.replace(":", "/"), b"{")
    V2MetadataService(store).add(LAYER, V2Metadata(BLOB))
    assert V2MetadataService(store).get_metadata(LAYER) == [V2Metadata(BLOB)]
    assert "are lost, as this store has no quarantine" in caplog.text

    store.set("diffid-by-digest", BLOB.replace(":", "/"), b"")
    with pytest.raises(CorruptRecordError):
        V2MetadataService(store).remove(V2Metadata(BLOB))


@pytest.mark.parametrize(
    "use",
    [
        lambda v2: v2.add(LAYER, V2Metadata(BLOB)),
        lambda v2: v2.remove(V2Metadata(BLOB)),
        lambda v2: v2.get_diff_ids([BLOB]),
        lambda v2: v2.get_metadata_many([LAYER]),
    ],
    ids=["add", "remove", "get_diff_ids", "get_metadata_many"],
)
def test_a_plain_key_error_is_named_as_the_stores_fault(use):
    with pytest.raises(StoreError, match=r"Plain\.get raised KeyError.*must raise layerstore\.NotFoundError"):
        use(V2MetadataService(Plain()))
