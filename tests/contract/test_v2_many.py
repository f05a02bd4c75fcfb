"""`V2MetadataService.add_many` on every store: what `add` of each does, in one transaction where there are such."""

from __future__ import annotations

import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore import (
    AuthConfig,
    FSMetadataStore,
    InvalidDigestError,
    InvalidInputError,
    LayerstoreError,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    compute_hmac,
    compute_hmac_key,
)
from tests.conftest import AnyStore, sqlite_of
from tests.support.strategies import sha256

LISTS, DIFF_IDS = "v2metadata-by-diffid", "diffid-by-digest"
REPOSITORIES = ("localhost:5000/team/app", "docker.io/library/busybox", "")
IMAGE = [(sha256(number), V2Metadata(sha256(100 + number), REPOSITORIES[0])) for number in range(20)]

# Few layers and digests, so that lists grow, entries are equal, and digests change their layer.
associations = st.lists(
    st.tuples(
        st.integers(0, 2).map(sha256),
        st.builds(
            V2Metadata, st.integers(10, 13).map(sha256), st.sampled_from(REPOSITORIES), st.sampled_from(["", "ab"])
        ),
    ),
    max_size=70,
)


def contents(store: AnyStore) -> dict[tuple[str, str], bytes]:
    return {(namespace, key): value for namespace, key, value in store.entries()}


def test_the_layers_of_an_image_are_recorded_at_once(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add_many(iter(IMAGE))

    assert v2.get_metadata_many(layer for layer, _ in IMAGE) == {layer: [metadata] for layer, metadata in IMAGE}
    assert v2.get_diff_ids(metadata.digest for _, metadata in IMAGE) == {one.digest: layer for layer, one in IMAGE}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(associations, associations)
def test_it_does_what_adding_each_in_its_order_does(
    before: list[tuple[str, V2Metadata]], many: list[tuple[str, V2Metadata]]
):
    with SQLMetadataStore(":memory:") as one, SQLMetadataStore(":memory:") as other:
        for diff_id, metadata in before:
            V2MetadataService(one).add(diff_id, metadata)
            V2MetadataService(other).add(diff_id, metadata)
        for diff_id, metadata in many:
            V2MetadataService(one).add(diff_id, metadata)
        V2MetadataService(other).add_many(many)

        assert contents(one) == contents(other)
        rows = "SELECT diff_id, digest, source_repository, hmac FROM v2_metadata ORDER BY diff_id, position"
        assert one._run(rows) == other._run(rows)


def test_a_layer_may_come_several_times(store: AnyStore):
    """Of 60 associations the last 50 stay; one that comes again is the newest."""
    v2 = V2MetadataService(store)
    entries = [V2Metadata(sha256(100 + number), REPOSITORIES[0]) for number in range(60)]
    v2.add_many([*((sha256(1), entry) for entry in entries), (sha256(1), entries[20])])

    assert v2.get_metadata(sha256(1)) == [*(entry for entry in entries[10:] if entry != entries[20]), entries[20]]
    assert v2.get_diff_id(entries[0].digest) == sha256(1)


def test_with_a_key_each_is_tagged(store: AnyStore):
    v2 = V2MetadataService(store)
    key = compute_hmac_key(AuthConfig(username="user", password="password"))
    assert key is not None
    v2.add_many([(sha256(1), V2Metadata(sha256(2), "r", "of before")), *IMAGE], hmac_key=key)

    assert v2.get_metadata(sha256(2)) == [V2Metadata(sha256(102), REPOSITORIES[0], compute_hmac(key, IMAGE[2][1]))]
    assert V2Metadata(sha256(2), "r", compute_hmac(key, V2Metadata(sha256(2), "r"))) in v2.get_metadata(sha256(1))


def test_without_a_key_each_is_taken_as_it_is(store: AnyStore):
    V2MetadataService(store).add_many([(sha256(1), V2Metadata(sha256(2), "r", "ab"))])

    assert V2MetadataService(store).get_metadata(sha256(1)) == [V2Metadata(sha256(2), "r", "ab")]


def test_none_is_nothing_to_do(store: AnyStore):
    V2MetadataService(store).add_many([])
    V2MetadataService(None).add_many(IMAGE)

    assert contents(store) == {}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (("sha256:1", V2Metadata(sha256(1))), InvalidDigestError),
        ((sha256(1), V2Metadata("sha256:1")), InvalidDigestError),
        ((sha256(1), V2Metadata(sha256(1), "\ud800")), InvalidInputError),
        ((sha256(1), V2Metadata(sha256(1), "r", "\ud800")), InvalidInputError),
    ],
)
def test_a_wrong_one_is_found_before_anything_is_written(
    store: AnyStore, wrong: tuple[str, V2Metadata], error: type[LayerstoreError]
):
    with pytest.raises(error):
        V2MetadataService(store).add_many([*IMAGE, wrong])

    assert contents(store) == {}


def test_each_digest_that_was_another_layer_is_warned_of(store: AnyStore, caplog: pytest.LogCaptureFixture):
    v2 = V2MetadataService(store)
    v2.add(sha256(1), V2Metadata(sha256(9), REPOSITORIES[0]))
    with caplog.at_level(logging.WARNING):
        v2.add_many([(layer, V2Metadata(sha256(9), REPOSITORIES[0])) for layer in (sha256(1), sha256(2), sha256(3))])

    assert [record.getMessage() for record in caplog.records] == [
        f"digest {sha256(9)} was layer {sha256(1)} and is layer {sha256(2)} from now on",
        f"digest {sha256(9)} was layer {sha256(2)} and is layer {sha256(3)} from now on",
    ]
    assert v2.get_diff_id(sha256(9)) == sha256(3)


def test_unreadable_lists_are_begun_anew_with_a_warning_for_each(store: AnyStore, caplog: pytest.LogCaptureFixture):
    for layer in (1, 2):
        store.set(LISTS, f"sha256/{layer:064x}", b"{")
    with caplog.at_level(logging.WARNING):
        V2MetadataService(store).add_many(IMAGE)

    assert V2MetadataService(store).get_metadata(sha256(1)) == [IMAGE[1][1]]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert all(f"unreadable list of layer {sha256(layer)}" in warnings[layer - 1] for layer in (1, 2))
    if isinstance(store, SQLMetadataStore):
        assert [(one.key, one.value) for one in store.quarantined()] == [
            (f"sha256/{layer:064x}", b"{") for layer in (1, 2)
        ]


def test_when_one_cannot_be_written_a_database_has_none(sqlite_store: SQLMetadataStore):
    """An entry of the batch is larger than SQLite is told to take."""
    limit = 20_000
    sqlite_of(sqlite_store)._connections.local.handle.connection.setlimit(0, limit)  # SQLITE_LIMIT_LENGTH
    with pytest.raises(InvalidInputError, match="larger than SQLite allows"):
        V2MetadataService(sqlite_store).add_many([*IMAGE, (sha256(99), V2Metadata(sha256(98), "r" * limit))])
    sqlite_of(sqlite_store)._connections.local.handle.connection.setlimit(0, 1_000_000_000)

    assert contents(sqlite_store) == {}


def test_when_a_directory_fails_the_first_ones_stay(files: FSMetadataStore):
    """Each list and each mapping is a file of its own; here a directory is where the last one belongs."""
    files.set(DIFF_IDS, f"{IMAGE[-1][1].digest.replace(':', '/')}/in the way", b"")
    with pytest.raises(LayerstoreError):
        V2MetadataService(files).add_many(IMAGE)

    assert V2MetadataService(files).get_metadata_many(layer for layer, _ in IMAGE[:-1]) == {
        layer: [metadata] for layer, metadata in IMAGE[:-1]
    }
