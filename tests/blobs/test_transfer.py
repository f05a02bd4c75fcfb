"""What verify, prune, remove, merge and import make of what other engines know."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import (
    NotFoundError,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    import_directory,
    prune,
    verify,
)
from layerstore.blobs import BlobRecord, decode, encode
from layerstore.blobs import merge as unite
from layerstore.keys import BLOBS, Record
from layerstore.transfer.merging import merge
from tests.blobs.test_record import records
from tests.conftest import AnyStore, OpenSQL, undone
from tests.support.entries import AT, layer_key, quarantine_of, whole, write_file
from tests.support.strategies import sha256
from tests.transfer.prune.conftest import DAY, HUB, OLD, OURS, a_list, fill, fill_directory, make_layerdb, mapping


def blob(digest: int, *names: str, at: int | None = AT, **fields: object) -> Record:
    """Return what is known of a blob: the repositories, all seen at one time, and other fields."""
    found = BlobRecord(locations=dict.fromkeys(names, at), **fields)  # type: ignore[arg-type]
    return Record(BLOBS, layer_key(digest), encode(found), found.modified_at_ns)


def known(store: AnyStore, digest: int) -> BlobRecord:
    return decode(store.get(BLOBS, layer_key(digest)), layer_key(digest))


def has(store: AnyStore, digest: int) -> bool:
    return bool(store.get_many(BLOBS, [layer_key(digest)]))


@given(records(), records(), st.integers(0, 2), st.integers(0, 2))
def test_two_versions_of_an_entry_are_united(one: BlobRecord, other: BlobRecord, first: int, second: int):
    left, right = (Record(BLOBS, layer_key(1), encode(found), at) for found, at in ((one, first), (other, second)))

    merged = merge(left, right)

    assert merged == merge(right, left)
    assert decode(merged.record.value, layer_key(1)) == unite(one, other)
    assert merged.record.modified_at_ns == max(first, second)
    assert (merged.displaced, merged.is_conflict) == (None, False)
    assert merge(merged.record, left).record == merged.record


def test_what_cannot_be_read_gives_way():
    good, bad = blob(1, OURS), Record(BLOBS, layer_key(1), b"[", AT + 1)

    assert merge(good, bad)[:2] == (good, bad)


def test_an_import_unites_and_a_second_one_changes_nothing(sql_file: SQLMetadataStore, tmp_path: Path):
    fill(sql_file, [blob(1, OURS, diff_id=sha256(9)), blob(2, OURS)])
    fill_directory(tmp_path / "distribution", [blob(1, HUB, at=AT + 5, compression="gzip"), blob(3, HUB)])
    write_file(tmp_path / "distribution", BLOBS, layer_key(2), b"{")

    report = import_directory(sql_file, tmp_path / "distribution")

    assert (report.added, report.updated, report.quarantined_count, report.conflict_count) == (1, 1, 1, 0)
    assert known(sql_file, 1) == BlobRecord(diff_id=sha256(9), compression="gzip", locations={HUB: AT + 5, OURS: AT})
    assert known(sql_file, 2) == BlobRecord(locations={OURS: AT})
    before = whole(sql_file)
    again = import_directory(sql_file, tmp_path / "distribution")
    assert (again.added, again.updated) == (0, 0)
    assert whole(sql_file) == before


def test_verify_names_contradictions_and_moves_away_what_cannot_be_read(sql_file: SQLMetadataStore):
    fill(
        sql_file,
        [
            blob(1, OURS, conflicts={"Compression": ("gzip", "zstd")}),
            blob(2, OURS, diff_id=sha256(9)),
            mapping(2, 8),
            a_list(8, (2, OURS)),
            blob(3, OURS, diff_id=sha256(8)),
            blob(4, OURS, diff_id=sha256(8)),
            mapping(4, 8),
            Record(BLOBS, layer_key(5), b'{"Compression":"lz4"}', AT),
        ],
    )

    report = verify(sql_file, repair=True)

    found = {finding.kind: finding for finding in report.findings}
    assert (found["contradiction"].severity, found["contradiction"].count) == ("warning", 2)
    assert found["contradiction"].examples == (
        f"{BLOBS}/{layer_key(1)}: Compression is gzip or zstd",
        f"{BLOBS}/{layer_key(2)}: DiffID is {sha256(9)}, and {sha256(8)} in diffid-by-digest",
    )
    assert (found["unreadable"].count, found["unreadable"].repaired) == (1, 1)
    assert not report.ok
    assert quarantine_of(sql_file)
    assert not has(sql_file, 5)


def test_remove_forgets_the_same_place(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add(sha256(9), V2Metadata(sha256(1), OURS))
    store.set(BLOBS, layer_key(1), blob(1, OURS, HUB, diff_id=sha256(9)).value)

    v2.remove(V2Metadata(sha256(1), OURS))

    assert known(store, 1) == BlobRecord(diff_id=sha256(9), locations={HUB: AT})
    assert v2.get_diff_id(sha256(1)) == sha256(9)
    with pytest.raises(NotFoundError):
        v2.remove(V2Metadata(sha256(1), OURS))


def test_remove_forgets_a_place_that_only_other_engines_know(store: AnyStore):
    store.set(BLOBS, layer_key(1), blob(1, OURS, HUB).value)
    v2 = V2MetadataService(store)

    v2.remove(V2Metadata(sha256(1), HUB))
    v2.remove(V2Metadata(sha256(1), OURS))

    assert not has(store, 1)
    with pytest.raises(NotFoundError):
        v2.remove(V2Metadata(sha256(1), OURS))


def test_remove_keeps_a_place_that_the_list_has_with_another_hmac(store: AnyStore):
    v2 = V2MetadataService(store)
    for hmac in ("", "f" * 64):
        v2.add(sha256(9), V2Metadata(sha256(1), OURS, hmac))
    store.set(BLOBS, layer_key(1), blob(1, OURS).value)

    v2.remove(V2Metadata(sha256(1), OURS))
    assert known(store, 1).locations == {OURS: AT}

    v2.remove(V2Metadata(sha256(1), OURS, "f" * 64))
    assert not has(store, 1)


def test_remove_leaves_what_cannot_be_read(store: AnyStore):
    v2 = V2MetadataService(store)
    v2.add(sha256(9), V2Metadata(sha256(1), OURS))
    store.set(BLOBS, layer_key(1), b"[")

    v2.remove(V2Metadata(sha256(1), OURS))

    assert store.get(BLOBS, layer_key(1)) == b"["


def test_an_error_keeps_list_and_locations(sql_file: SQLMetadataStore):
    """Both go in one transaction: here the whole is undone."""
    v2 = V2MetadataService(sql_file)
    v2.add(sha256(9), V2Metadata(sha256(1), OURS))
    sql_file.set(BLOBS, layer_key(1), blob(1, OURS, HUB).value)
    before = whole(sql_file)

    with undone(sql_file):
        v2.remove(V2Metadata(sha256(1), OURS))
        assert set(known(sql_file, 1).locations) == {HUB}

    assert whole(sql_file) == before


LONG_AGO = AT - 100 * DAY


def test_prune_by_repository_removes_the_place_everywhere(sql_file: SQLMetadataStore):
    fill(
        sql_file,
        [
            a_list(9, (1, OLD), (1, OURS)),
            mapping(1, 9),
            blob(1, OLD, OURS, diff_id=sha256(9)),
            blob(2, OLD),
            blob(3, OLD, compression="gzip"),
            blob(4, HUB),
        ],
    )

    report = prune(sql_file, repository=OLD)

    assert (report.blobs, report.locations, report.associations, report.shortened) == (1, 3, 1, 1)
    assert known(sql_file, 1) == BlobRecord(diff_id=sha256(9), locations={OURS: AT})
    assert not has(sql_file, 2)
    assert known(sql_file, 3) == BlobRecord(compression="gzip")
    assert known(sql_file, 4).locations == {HUB: AT}


def test_prune_by_registry_counts_and_archives_alike(sql_file: SQLMetadataStore, open_sql: OpenSQL, tmp_path: Path):
    fill(sql_file, [blob(1, OLD, OURS), blob(2, OLD)])
    before = whole(sql_file)

    trial = prune(sql_file, registry="old.example.com", dry_run=True)
    assert whole(sql_file) == before
    done = prune(sql_file, registry="old.example.com", to=tmp_path / "gone.tar")

    assert (trial.blobs, trial.locations) == (done.blobs, done.locations) == (1, 2)
    again = open_sql(tmp_path / "again.db")
    import_directory(again, tmp_path / "gone.tar")
    assert known(again, 1).locations == {OLD: AT, OURS: AT}


def test_prune_by_age_goes_by_when_a_blob_was_seen(sql_file: SQLMetadataStore):
    mixed = BlobRecord(compression="gzip", locations={OURS: AT, HUB: LONG_AGO, OLD: None})
    fill(
        sql_file,
        [
            Record(BLOBS, layer_key(1), encode(mixed), AT),
            blob(2, OURS, at=LONG_AGO, diff_id=sha256(9)),
            blob(3, OURS, at=None),
            blob(4, compression="gzip"),
            blob(5, OURS, at=None, compression="gzip"),
            a_list(8, (5, OURS), at=AT),
            mapping(5, 8, at=LONG_AGO),
            blob(6, HUB),
            mapping(6, 7, at=LONG_AGO),
            mapping(2, 9, at=LONG_AGO),
        ],
    )

    report = prune(sql_file, older_than="2023-11-01")

    assert (report.blobs, report.locations, report.mappings) == (3, 4, 1)
    assert known(sql_file, 1) == BlobRecord(compression="gzip", locations={OURS: AT})
    assert [has(sql_file, number) for number in (2, 3, 4)] == [False, False, False]
    # A list that stays has the same place.
    assert known(sql_file, 5) == BlobRecord(compression="gzip", locations={OURS: None})
    # The mapping alone says which layer the blob is that was seen lately.
    assert sql_file.get("diffid-by-digest", layer_key(6)) == sha256(7).encode()
    assert verify(sql_file).ok


def test_prune_by_layers_leaves_a_blob_of_no_known_layer(sql_file: SQLMetadataStore, tmp_path: Path):
    fill(
        sql_file,
        [
            blob(1, OURS, diff_id=sha256(1001)),
            blob(2, OURS, diff_id=sha256(1002)),
            blob(3, OURS),
            blob(4, OURS),
            mapping(4, 1002),
            blob(5, OURS, conflicts={"DiffID": (sha256(1001), sha256(1002))}),
        ],
    )

    report = prune(sql_file, keep_layers=make_layerdb(tmp_path, [1001]))

    assert (report.blobs, report.locations) == (2, 2)
    assert [has(sql_file, number) for number in range(1, 6)] == [True, False, True, False, True]


def test_prune_to_the_newest_forgets_the_places_that_lists_lose(sql_file: SQLMetadataStore):
    fill(
        sql_file,
        [a_list(9, (1, OLD), (1, HUB), (1, OURS)), mapping(1, 9), blob(1, OLD, HUB, OURS, "h.io/other"), blob(2, OLD)],
    )

    report = prune(sql_file, keep_newest=1)

    assert (report.associations, report.locations) == (2, 2)
    assert set(known(sql_file, 1).locations) == {OURS, "h.io/other"}
    assert has(sql_file, 2)


def test_prune_of_a_directory_knows_them_too(tmp_path: Path, open_sql: OpenSQL):
    base = tmp_path / "distribution"
    fill_directory(base, [a_list(9, (1, OLD), (1, OURS)), mapping(1, 9), blob(1, OLD, OURS), blob(2, OLD)])

    report = prune(base, repository=OLD)

    assert (report.blobs, report.locations) == (1, 2)
    store = open_sql()
    import_directory(store, base)
    assert set(known(store, 1).locations) == {OURS}
    assert not has(store, 2)


def test_prune_leaves_what_cannot_be_read(sql_file: SQLMetadataStore):
    fill(sql_file, [Record(BLOBS, layer_key(1), b"[", LONG_AGO)])

    report = prune(sql_file, older_than="2023-11-01")

    assert (report.unreadable, report.blobs) == (1, 0)
    assert sql_file.get(BLOBS, layer_key(1)) == b"["
