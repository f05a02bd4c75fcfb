"""`V1IDService` on every store. The vectors are those of Docker's own unit test (v1_id_service_test.go)."""

from __future__ import annotations

import pytest

from layerstore import (
    CorruptRecordError,
    DiffID,
    InvalidDigestError,
    InvalidKeyError,
    InvalidV1IDError,
    LayerstoreError,
    NotFoundError,
    V1IDService,
)
from tests.conftest import AnyStore
from tests.support.strategies import sha256

F0CD = "f0cd5ca10b07f35512fc2f1cbf9a6cefbdb5cba70ac6b0c9e5988f4497f71937"
NINE_E = "9e3447ca24cb96d86ebd5960cb34d1299b07e0a0e03801d90b9969a2c187dd6e"
A3ED = "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4"
EIGHT_6 = "sha256:86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa"
ABSENT = "82379823067823853223359023576437723560923756b03560378f4497753917"
VECTORS = [
    ("registry1", F0CD, A3ED),
    ("registry2", NINE_E, EIGHT_6),
    ("registry1", NINE_E, "sha256:03f4658f8b782e12230c1783426bd3bacce651ce582a4ffb6fbbfa2079428ecb"),
]


def test_dockers_own_vectors(store: AnyStore):
    v1 = V1IDService(store)
    for registry, v1_id, diff_id in VECTORS:
        v1.set(v1_id, registry, DiffID(diff_id))

    assert [v1.get(v1_id, registry) for registry, v1_id, _ in VECTORS] == [diff_id for _, _, diff_id in VECTORS]
    with pytest.raises(NotFoundError):
        v1.get(ABSENT, "registry1")
    v1.set(F0CD, "registry1", EIGHT_6)
    assert v1.get(F0CD, "registry1") == EIGHT_6


def test_an_entry_is_where_docker_keeps_it(store: AnyStore):
    V1IDService(store).set(F0CD, "localhost:5000", A3ED)

    assert list(store.entries()) == [("v1id", f"localhost:5000,{F0CD}", A3ED.encode())]


def test_the_answer_is_a_diff_id(store: AnyStore):
    v1 = V1IDService(store)
    v1.set(F0CD, "registry1", A3ED)

    answer = v1.get(F0CD, "registry1")
    assert type(answer) is DiffID
    assert (answer.algorithm, answer.encoded) == ("sha256", A3ED[7:])


@pytest.mark.parametrize(
    "v1_id", ["", "abc", F0CD.upper(), F0CD + "0", F0CD[:-1], F0CD + "\n", "g" + F0CD[1:], A3ED, 5]
)
def test_a_v1_id_is_64_lower_case_hex_digits(store: AnyStore, v1_id: str):
    v1 = V1IDService(store)

    with pytest.raises(InvalidV1IDError, match="64 lower-case hex digits"):
        v1.get(v1_id, "registry1")
    with pytest.raises(InvalidV1IDError, match="64 lower-case hex digits"):
        v1.set(v1_id, "registry1", A3ED)
    assert list(store.entries()) == []


@pytest.mark.parametrize("diff_id", ["", "sha256:abc", A3ED + "\n", A3ED.upper(), A3ED[7:]])
def test_only_a_diff_id_can_be_set(store: AnyStore, diff_id: str):
    with pytest.raises(InvalidDigestError):
        V1IDService(store).set(F0CD, "registry1", diff_id)
    assert list(store.entries()) == []


@pytest.mark.parametrize("registry", ["..", "/abs", "a//b", "a\0", "\ud800", ".tmp-x"])
def test_a_registry_that_would_break_the_key_rules_is_refused(store: AnyStore, registry: str):
    v1 = V1IDService(store)
    if registry == "..":
        registry = "../up"  # `..,<id>` is a fine name

    with pytest.raises(InvalidKeyError):
        v1.get(F0CD, registry)
    with pytest.raises(InvalidKeyError):
        v1.set(F0CD, registry, A3ED)
    assert list(store.entries()) == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "it is empty"),
        (b"sha256:abc", "not a DiffID"),
        (A3ED.encode() + b"\n", "not a DiffID"),
        (b"\xff\xfe", "not a DiffID"),
        (b"\0" * 71, "not a DiffID"),
    ],
    ids=["power cut", "short", "newline", "not UTF-8", "zeros"],
)
def test_what_is_no_diff_id_is_a_corrupt_record(store: AnyStore, value: bytes, reason: str):
    """Docker returns it as it is."""
    store.set("v1id", f"registry1,{F0CD}", value)

    with pytest.raises(CorruptRecordError) as caught:
        V1IDService(store).get(F0CD, "registry1")
    assert (caught.value.namespace, caught.value.key) == ("v1id", f"registry1,{F0CD}")
    assert reason in caught.value.reason
    assert reason in str(caught.value)


def test_a_corrupt_record_can_be_set_right(store: AnyStore):
    store.set("v1id", f"registry1,{F0CD}", b"")
    v1 = V1IDService(store)
    v1.set(F0CD, "registry1", sha256(1))

    assert v1.get(F0CD, "registry1") == sha256(1)


def test_without_a_store_it_knows_nothing():
    v1 = V1IDService(None)

    v1.set(F0CD, "registry1", A3ED)
    with pytest.raises(LayerstoreError, match="no store") as caught:
        v1.get(F0CD, "registry1")
    assert not isinstance(caught.value, NotFoundError)
