"""What other engines know is in what people and pushes ask of a store: candidates, show, stats, search, the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V2Metadata, diff, known_layers, layer_candidates
from layerstore.blobs import BlobRecord, encode
from layerstore.keys import BLOBS, Record
from layerstore.sql.reading.layers import Location
from layerstore.sql.reading.search import look_up, search
from layerstore.sql.reading.totals import stats
from layerstore.transfer.diffing import BlobDifference
from layerstore.words import time_text
from tests.blobs.test_export import gzip, known
from tests.conftest import AnyStore
from tests.support.command import DONE, Run, lines
from tests.support.entries import AT, layer_key
from tests.support.strategies import sha256
from tests.transfer.prune.conftest import HUB, OLD, OURS, a_list, fill, mapping

LAYER = sha256(9)


def put(store: AnyStore, *records: Record) -> None:
    for record in records:
        store.set(*record[:3])


def test_a_layers_places_are_dockers_and_in_front_of_them_those_of_other_engines(sql_store: SQLMetadataStore):
    put(
        sql_store,
        a_list(9, (1, HUB)),
        mapping(1, 9),
        gzip(1, 9, ours=AT, hub=AT),
        gzip(2, 9, old=AT - 1),
        known(3, {OURS: AT}, diff_id=LAYER, compression="zstd"),
        known(4, {OURS: AT}),
        mapping(4, 9),
    )

    found = known_layers(sql_store, [LAYER])[LAYER]

    assert found.entries == (V2Metadata(sha256(2), OLD), V2Metadata(sha256(1), OURS), V2Metadata(sha256(1), HUB))
    assert found.unlisted == (sha256(3), sha256(4))
    assert found.blobs[sha256(3)] == BlobRecord(diff_id=LAYER, compression="zstd", locations={OURS: AT})
    assert found.blobs[sha256(4)] == BlobRecord(diff_id=LAYER, locations={OURS: AT})
    mounts = layer_candidates(sql_store, LAYER, "localhost:5000/team/other").mounts
    assert mounts == (V2Metadata(sha256(1), OURS),)


def test_a_blob_on_which_sources_disagree_is_no_candidate(sql_store: SQLMetadataStore):
    put(
        sql_store,
        gzip(1, 9, ours=AT),
        mapping(1, 8),
        known(2, {OURS: AT}, compression="gzip", conflicts={"DiffID": (sha256(8), LAYER)}),
        mapping(2, 9),
        known(3, {OURS: AT}, diff_id=LAYER, conflicts={"Compression": ("gzip", "zstd")}),
        Record(BLOBS, layer_key(4), b"[", AT),
    )

    found = known_layers(sql_store, [LAYER])[LAYER]

    assert (found.entries, found.blobs) == ((), {})
    assert layer_candidates(sql_store, LAYER, OURS).steps == ()


def test_any_store_gives_what_is_known_of_the_blobs_in_the_list(store: AnyStore):
    put(store, a_list(9, (1, HUB)), mapping(1, 9), known(1, {OURS: AT}, compression="gzip"))

    found = known_layers(store, [LAYER])[LAYER]

    assert found.entries == (V2Metadata(sha256(1), OURS), V2Metadata(sha256(1), HUB))


@pytest.fixture
def filled(database: Path) -> Path:
    with SQLMetadataStore(database) as store:
        fill(
            store,
            [
                a_list(9, (1, HUB)),
                mapping(1, 9),
                gzip(1, 9, ours=AT, old=None),
                known(2, {OURS: AT}, conflicts={"Compression": ("gzip", "zstd")}),
                known(3, {"h.io/only": AT}, diff_id=sha256(7), compression="zstd"),
            ],
        )
    return database


def test_all_about_a_layer_a_blob_and_a_repository_has_it(filled: Path):
    with SQLMetadataStore(filled) as store:
        (layer,) = look_up(store, sha256(7))
        (blob,) = look_up(store, sha256(3))
        (torn,) = look_up(store, sha256(2))
        (repository,) = look_up(store, "h.io/only")
        counted = stats(store)
        names = [match.name for match in search(store, "h.io/on")]

    assert layer.blobs[0].locations == (Location("h.io/only", AT),)  # type: ignore[union-attr]
    assert (blob.diff_id, blob.known.diff_id) == (None, sha256(7))  # type: ignore[union-attr]
    assert torn.known.conflicts == (("Compression", ("gzip", "zstd")),)  # type: ignore[union-attr]
    assert [one.digest for one in repository.located] == [sha256(3)]  # type: ignore[union-attr]
    assert (counted.blobs, counted.locations) == (3, 4)
    assert names == ["h.io/only"]


def test_show_says_it(run: Run, filled: Path):
    said = run("show", LAYER)
    assert said.code == DONE
    assert f"  other engines know it as {sha256(1)} (gzip):" in said.out
    assert "seen 2023-11-14" in said.out

    assert "sources disagree: Compression is gzip or zstd" in run("show", sha256(2)).out
    assert f"  is layer {sha256(7)}" in lines(run("show", sha256(3)).out)
    assert sha256(3) in run("show", "h.io/only").out
    assert run("show", "--json", sha256(3)).json[0]["known"]["compression"] == "zstd"
    assert "3 blobs in 4 locations" in run("stats").out


def test_a_record_that_cannot_be_read_is_shown_as_nothing(run: Run, filled: Path):
    with SQLMetadataStore(filled) as store:
        store.set(BLOBS, layer_key(5), encode(BlobRecord())[:-1])

    assert run("show", sha256(5)).code != DONE


def test_a_difference_is_told_fact_by_fact(run: Run, filled: Path, tmp_path: Path):
    with SQLMetadataStore(tmp_path / "other.db") as other:
        fill(other, [gzip(1, 9, ours=AT + 1, old=None), known(3, {"h.io/only": AT}, diff_id=sha256(7))])

    report = diff(filled, tmp_path / "other.db")

    assert report.blobs == (
        BlobDifference(sha256(1), (f"{OURS} seen {time_text(AT)}",), (f"{OURS} seen {time_text(AT + 1)}",)),
        BlobDifference(sha256(2), ("Compression is gzip or zstd", f"{OURS} seen {time_text(AT)}"), ()),
        BlobDifference(sha256(3), ("Compression zstd",), ()),
    )
    said = lines(run("diff", filled, tmp_path / "other.db").out)
    assert f"blob {sha256(3)}" in said
    assert "  only in left: Compression zstd" in said
    assert not [line for line in said if line.startswith("differs: ")]
