"""`V2MetadataService` on every store, where all is well. The first test's vectors are Docker's own unit test's."""

from __future__ import annotations

import logging
import random

import pytest

from layerstore import (
    AuthConfig,
    DiffID,
    Digest,
    InvalidDigestError,
    InvalidInputError,
    InvalidRepositoryError,
    LayerstoreError,
    NotFoundError,
    V2Metadata,
    V2MetadataService,
    check_hmac,
    compute_hmac,
    compute_hmac_key,
    repository,
)
from tests.conftest import AnyStore
from tests.support.strategies import sha256

F0CD = "sha256:f0cd5ca10b07f35512fc2f1cbf9a6cefbdb5cba70ac6b0c9e5988f4497f71937"
NINE_E = "sha256:9e3447ca24cb96d86ebd5960cb34d1299b07e0a0e03801d90b9969a2c187dd6e"
ABSENT = "sha256:82379823067823853223359023576437723560923756b03560378f4497753917"
TOO_MANY = [V2Metadata(f"sha256:{random.Random(number).randbytes(32).hex()}") for number in range(100)]
VECTORS = {
    "sha256:a3ed95caeb02ffe68cdd9fd84406680ae93d633cb16422d00e8a7c22955b46d4": [V2Metadata(F0CD)],
    "sha256:86e0e091d0da6bde2456dbb48306f3956bbeb2eae1b5b9a43045843f69fe4aaa": [V2Metadata(F0CD), V2Metadata(NINE_E)],
    "sha256:03f4658f8b782e12230c1783426bd3bacce651ce582a4ffb6fbbfa2079428ecb": TOO_MANY,
}
LAYER, OTHER_LAYER = sha256(0xA), sha256(0xB)
A, B = sha256(1), sha256(2)
LISTS, DIFF_IDS = "v2metadata-by-diffid", "diffid-by-digest"


class Text(str):
    """A subclass, as frameworks make them."""

    __slots__ = ()


def test_dockers_own_vectors(store: AnyStore):
    """v2_metadata_service_test.go: of 100 the last 50 stay, and a digest resolves to the layer it was added to last."""
    v2 = V2MetadataService(store)
    for diff_id, entries in VECTORS.items():
        for metadata in entries:
            v2.add(diff_id, metadata)

    assert {diff_id: v2.get_metadata(diff_id) for diff_id in VECTORS} == {
        diff_id: entries[-50:] for diff_id, entries in VECTORS.items()
    }
    with pytest.raises(NotFoundError):
        v2.get_metadata(ABSENT)
    with pytest.raises(NotFoundError):
        v2.get_diff_id(ABSENT)
    first, second, _ = VECTORS
    v2.add(second, VECTORS[first][0])
    assert v2.get_diff_id(F0CD) == second


def test_an_add_writes_dockers_two_entries(store: AnyStore):
    V2MetadataService(store).add(LAYER, V2Metadata(sha256(1), "localhost:5000/team/app", "ab"))

    document = f'[{{"Digest":"{sha256(1)}","SourceRepository":"localhost:5000/team/app","HMAC":"ab"}}]'
    assert list(store.entries()) == [
        (DIFF_IDS, f"sha256/{1:064x}", LAYER.encode()),
        (LISTS, f"sha256/{0xA:064x}", document.encode()),
    ]


def test_digests_that_were_parsed_are_stored_as_the_text_that_they_are(store: AnyStore):
    """`Digest` is a `str`; so may a repository's name be a subclass of it."""
    v2 = V2MetadataService(store)
    entry = V2Metadata(Digest.parse(A), Text("localhost:5000/a"), Text(""))

    v2.add(LAYER, entry)
    v2.tag_and_add(LAYER, b"key", V2Metadata(Digest.parse(B), "localhost:5000/<b>"))

    assert [type(found.digest) for found in v2.get_metadata(LAYER)] == [str, str]
    assert v2.get_metadata(LAYER)[0] == entry
    assert v2.get_diff_ids([Digest.parse(A), Text(B)]) == {A: LAYER, B: LAYER}
    v2.remove(entry)
    assert [found.digest for found in v2.get_metadata(DiffID(LAYER))] == [B]


def test_an_equal_entry_moves_to_the_end(store: AnyStore):
    v2 = V2MetadataService(store)
    one, two, three = (V2Metadata(sha256(1), repository) for repository in ("a", "b", "c"))
    for metadata in (one, two, three, one):
        v2.add(LAYER, metadata)

    assert v2.get_metadata(LAYER) == [two, three, one]


def test_entries_differ_by_any_of_the_three_fields(store: AnyStore):
    v2 = V2MetadataService(store)
    different = [
        V2Metadata(sha256(1)),
        V2Metadata(sha256(1), "r"),
        V2Metadata(sha256(1), "r", "ab"),
        V2Metadata(sha256(2)),
    ]
    for metadata in different:
        v2.add(LAYER, metadata)

    assert v2.get_metadata(LAYER) == different


def test_the_oldest_goes_when_there_are_more_than_50_and_its_digest_still_resolves(store: AnyStore):
    v2 = V2MetadataService(store)
    for number in range(51):
        v2.add(LAYER, V2Metadata(sha256(number)))

    assert v2.get_metadata(LAYER) == [V2Metadata(sha256(number)) for number in range(1, 51)]
    assert v2.get_diff_id(sha256(0)) == LAYER


def test_a_longer_list_from_elsewhere_is_cut_to_50_by_the_next_add(store: AnyStore):
    store.set(LISTS, f"sha256/{0xA:064x}", b"[" + b",".join([f'{{"Digest":"{n}"}}'.encode() for n in range(60)]) + b"]")
    v2 = V2MetadataService(store)
    assert len(v2.get_metadata(LAYER)) == 60
    v2.add(LAYER, V2Metadata(sha256(1)))

    assert [entry.digest for entry in v2.get_metadata(LAYER)] == [*map(str, range(11, 60)), sha256(1)]


def test_a_digest_that_was_another_layer_is_mapped_anew_with_a_warning(
    store: AnyStore, caplog: pytest.LogCaptureFixture
):
    v2 = V2MetadataService(store)
    v2.add(LAYER, V2Metadata(sha256(1), "localhost/r"))
    v2.add(LAYER, V2Metadata(sha256(1), "localhost/s"))
    assert caplog.record_tuples == []
    v2.add(OTHER_LAYER, V2Metadata(sha256(1), "localhost/r"))

    assert v2.get_diff_id(sha256(1)) == OTHER_LAYER
    assert v2.get_metadata(LAYER) == [V2Metadata(sha256(1), "localhost/r"), V2Metadata(sha256(1), "localhost/s")]
    [(logger, level, message)] = caplog.record_tuples
    assert (logger, level) == ("layerstore", logging.WARNING)
    assert all(text in message for text in (sha256(1), LAYER, OTHER_LAYER))


@pytest.fixture
def warned_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which names were warned of is known for as long as the process lives."""
    monkeypatch.setattr(repository, "_warned", set())


@pytest.mark.usefixtures("warned_of_nothing")
def test_a_repository_that_no_push_mounts_from_is_warned_of_once(store: AnyStore, caplog: pytest.LogCaptureFixture):
    v2 = V2MetadataService(store)
    for name in ("", "docker.io/library/busybox", "localhost:5000/team/app", "localhost/a/b"):
        v2.add(LAYER, V2Metadata(sha256(1), name))
    assert caplog.record_tuples == []

    for name in ("busybox", "https://localhost/app", "busybox", "localhost/app:1", "localhost/app:1"):
        v2.add(LAYER, V2Metadata(sha256(1), name))
    v2.tag_and_add(LAYER, b"key", V2Metadata(sha256(1), "busybox"))

    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert [record.name for record in caplog.records] == ["layerstore"] * 3
    for message, name, remedy in zip(
        caplog.messages,
        ("busybox", "https://localhost/app", "localhost/app:1"),
        ("record 'docker.io/library/busybox'", "leave out the scheme", "record 'localhost/app'"),
        strict=True,
    ):
        assert repr(name) in message
        assert remedy in message


@pytest.mark.usefixtures("warned_of_nothing")
def test_so_are_100_repositories_at_most_and_long_names_are_cut(store: AnyStore, caplog: pytest.LogCaptureFixture):
    v2 = V2MetadataService(store)
    v2.add(LAYER, V2Metadata(sha256(1), "X" * 100_000))
    for number in range(150):
        v2.add(LAYER, V2Metadata(sha256(1), f"app{number}"))

    assert len(caplog.records) == 100
    assert max(map(len, caplog.messages)) < 2_000
    assert max(map(len, repository._warned)) < 2_000


def test_remove_goes_through_the_digests_mapping_and_keeps_it(store: AnyStore):
    v2 = V2MetadataService(store)
    one, two = V2Metadata(sha256(1), "r"), V2Metadata(sha256(2), "r")
    for metadata in (one, two):
        v2.add(LAYER, metadata)
    v2.remove(one)

    assert v2.get_metadata(LAYER) == [two]
    assert v2.get_diff_id(sha256(1)) == LAYER


def test_remove_looks_only_where_the_digest_points_to_now(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add(LAYER, V2Metadata(sha256(1), "r"))
    v2.add(OTHER_LAYER, V2Metadata(sha256(1), "r"))
    v2.remove(V2Metadata(sha256(1), "r"))

    assert v2.get_metadata(LAYER) == [V2Metadata(sha256(1), "r")]
    with pytest.raises(NotFoundError):
        v2.get_metadata(OTHER_LAYER)


def test_remove_of_an_entry_that_is_not_listed_changes_nothing(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add(LAYER, V2Metadata(sha256(1), "r"))
    before = list(store.entries())
    v2.remove(V2Metadata(sha256(1), "another"))

    assert list(store.entries()) == before


def test_remove_of_the_last_entry_deletes_the_list_and_a_second_remove_fails(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add(LAYER, V2Metadata(sha256(1), "r"))
    v2.remove(V2Metadata(sha256(1), "r"))

    assert [namespace for namespace, _, _ in store.entries()] == [DIFF_IDS]
    with pytest.raises(NotFoundError) as caught:
        v2.remove(V2Metadata(sha256(1), "r"))
    assert caught.value.namespace == LISTS


def test_remove_of_an_unknown_digest_is_not_found(store: AnyStore):
    with pytest.raises(NotFoundError) as caught:
        V2MetadataService(store).remove(V2Metadata(sha256(1)))
    assert caught.value.namespace == DIFF_IDS


def test_remove_takes_all_equal_entries(store: AnyStore):
    """Docker 1.12 dropped HMACs from lists that it rewrote, so duplicates are real."""
    entry = f'{{"Digest":"{sha256(1)}","SourceRepository":"r"}}'
    store.set(LISTS, f"sha256/{0xA:064x}", f'[{entry},{{"Digest":"{sha256(2)}"}},{entry}]'.encode())
    store.set(DIFF_IDS, f"sha256/{1:064x}", LAYER.encode())
    V2MetadataService(store).remove(V2Metadata(sha256(1), "r"))

    assert V2MetadataService(store).get_metadata(LAYER) == [V2Metadata(sha256(2))]


def test_an_empty_list_is_answered_as_one(store: AnyStore):
    for value in (b"[]", b"null", b" [ ] "):
        store.set(LISTS, f"sha256/{0xA:064x}", value)

        assert V2MetadataService(store).get_metadata(LAYER) == []


def test_tag_and_add_sets_the_hmac_of_the_key(store: AnyStore):
    key = compute_hmac_key(AuthConfig(username="u", password="p"))
    V2MetadataService(store).tag_and_add(LAYER, key, V2Metadata(sha256(1), "r", "replaced"))

    [entry] = V2MetadataService(store).get_metadata(LAYER)
    assert entry == V2Metadata(sha256(1), "r", compute_hmac(key, V2Metadata(sha256(1), "r")))
    assert check_hmac(entry, key)


@pytest.mark.parametrize("key", [None, b""])
def test_tag_and_add_without_a_key_leaves_no_hmac(store: AnyStore, key: bytes | None):
    V2MetadataService(store).tag_and_add(LAYER, key, V2Metadata(sha256(1), "r", "removed"))

    assert V2MetadataService(store).get_metadata(LAYER) == [V2Metadata(sha256(1), "r", "")]


def test_the_batch_forms_leave_out_what_is_absent(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add(LAYER, V2Metadata(sha256(1), "r"))
    v2.add(OTHER_LAYER, V2Metadata(sha256(2), "r"))

    assert v2.get_metadata_many([OTHER_LAYER, ABSENT, LAYER, LAYER]) == {
        LAYER: [V2Metadata(sha256(1), "r")],
        OTHER_LAYER: [V2Metadata(sha256(2), "r")],
    }
    assert v2.get_diff_ids(digest for digest in (sha256(2), ABSENT)) == {sha256(2): OTHER_LAYER}
    assert type(v2.get_diff_ids([sha256(2)])[sha256(2)]) is DiffID
    assert v2.get_metadata_many([]) == {}
    assert v2.get_diff_ids([]) == {}


BAD_DIGESTS = [
    "",
    "sha256",
    "sha256:",
    ":abc",
    "sha256:abc",
    sha256(1) + "\n",
    sha256(1).upper(),
    "sha256/" + "0" * 64,
    5,
]


@pytest.mark.parametrize("digest", BAD_DIGESTS, ids=repr)
def test_a_malformed_digest_is_refused_everywhere_and_nothing_is_written(store: AnyStore, digest: str):
    v2 = V2MetadataService(store)
    for use in (
        lambda: v2.get_metadata(digest),
        lambda: v2.get_diff_id(digest),
        lambda: v2.get_metadata_many([LAYER, digest]),
        lambda: v2.get_diff_ids([LAYER, digest]),
        lambda: v2.add(digest, V2Metadata(sha256(1))),
        lambda: v2.add(LAYER, V2Metadata(digest)),
        lambda: v2.tag_and_add(digest, None, V2Metadata(sha256(1))),
        lambda: v2.remove(V2Metadata(digest)),
    ):
        with pytest.raises(InvalidDigestError):
            use()
    assert list(store.entries()) == []


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        (V2Metadata(sha256(1), "\ud800"), InvalidRepositoryError),
        (V2Metadata(sha256(1), "r", "\udcff"), InvalidInputError),
    ],
    ids=["repository", "hmac"],
)
def test_a_field_that_cannot_be_utf8_is_refused(store: AnyStore, metadata: V2Metadata, error: type[Exception]):
    with pytest.raises(error, match="UTF-8"):
        V2MetadataService(store).add(LAYER, metadata)
    assert list(store.entries()) == []


def test_without_a_store_it_knows_nothing():
    """As Docker's: lookups fail, writes do nothing."""
    v2 = V2MetadataService(None)

    v2.add(LAYER, V2Metadata(sha256(1)))
    v2.tag_and_add(LAYER, b"key", V2Metadata(sha256(1)))
    v2.remove(V2Metadata(sha256(1)))
    for look_up in (
        lambda: v2.get_metadata(LAYER),
        lambda: v2.get_diff_id(sha256(1)),
        lambda: v2.get_metadata_many([LAYER]),
        lambda: v2.get_diff_ids([sha256(1)]),
    ):
        with pytest.raises(LayerstoreError, match="no store") as caught:
            look_up()
        assert not isinstance(caught.value, NotFoundError)
