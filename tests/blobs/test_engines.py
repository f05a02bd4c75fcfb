"""A cache as source and target, beside what Docker recorded."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, export_layers, import_layers
from layerstore.blobs import BlobRecord, decode, encode
from layerstore.keys import BLOBS
from tests.conftest import OpenSQL, assert_sound
from tests.formats.test_containers import all_rows
from tests.support.entries import AT, layer_key
from tests.support.strategies import sha256
from tests.transfer.prune.conftest import HUB, OURS, a_list, fill, mapping

ENGINES = Path(__file__).parents[1] / "golden" / "engines"
FILES = sorted(path for path in ENGINES.rglob("*") if path.suffix in (".db", ".sqlite", ".boltdb", ".json"))
CACHE = "blob-info-cache-v1.sqlite"


def test_a_folder_of_a_cache_is_a_source_and_as_a_target_it_names_the_file(sql_file: SQLMetadataStore, tmp_path: Path):
    for suffix in (".sqlite", ".boltdb"):
        found = next(path for path in FILES if path.suffix == suffix)
        shutil.copy(found, tmp_path / f"blob-info-cache-v1{suffix}")

    report = import_layers(sql_file, tmp_path)

    assert len(report.sources) == 2
    assert report.ok
    with pytest.raises(TransferError, match=CACHE):
        export_layers(sql_file, tmp_path)


def test_what_docker_recorded_goes_into_a_cache(sql_file: SQLMetadataStore, tmp_path: Path):
    fill(sql_file, [a_list(9, (1, HUB), (2, OURS)), mapping(1, 9), mapping(2, 9)])
    sql_file.set(BLOBS, layer_key(2), encode(BlobRecord(compression="gzip", locations={HUB: AT})))
    sql_file.set("v1id", "registry," + "a" * 64, sha256(9).encode())

    report = export_layers(sql_file, tmp_path / CACHE)

    found = all_rows(tmp_path / CACHE)
    assert found["DigestCompressors"] == [(sha256(2), "gzip")]
    assert {row[0] for row in found["DigestUncompressedPairs"]} >= {sha256(1), sha256(2)}
    assert {(row[2], row[3]) for row in found["KnownLocations"]} >= {(sha256(2), HUB), (sha256(2), OURS)}
    assert report.left_out["a V1 ID, which only Docker has"] == 1
    export_layers(sql_file, tmp_path / CACHE, assume_compression="gzip")
    assert all_rows(tmp_path / CACHE)["DigestCompressors"] == [(sha256(1), "gzip"), (sha256(2), "gzip")]


def test_a_blob_on_which_docker_and_others_disagree_is_not_written(sql_file: SQLMetadataStore, tmp_path: Path):
    fill(sql_file, [a_list(9, (1, HUB)), mapping(1, 9)])
    other = BlobRecord(diff_id=sha256(8), compression="gzip", locations={HUB: AT})
    sql_file.set(BLOBS, layer_key(1), encode(other))

    report = export_layers(sql_file, tmp_path / CACHE)

    assert all_rows(tmp_path / CACHE)["DigestUncompressedPairs"] == []
    assert sum(report.left_out.values()) == 1


def test_several_facts_of_one_blob_are_united(sql_file: SQLMetadataStore, open_sql: OpenSQL, tmp_path: Path):
    """As an engine's memory gives them that keeps a blob under several namespaces; through the same seam."""
    from layerstore import import_layers
    from layerstore.digest import Digest
    from layerstore.transfer.sources import memory

    facts = [
        (Digest(sha256(number)), BlobRecord(**fields))
        for number in (2, 1)
        for fields in ({"locations": {HUB: 5}}, {"compression": "gzip"}, {"locations": {HUB: 3, OURS: None}})
    ]

    report = import_layers(sql_file, memory("engine", lambda: iter(facts)))

    assert (report.read, report.added) == (6, 2)
    whole_record = BlobRecord(compression="gzip", locations={HUB: 5, OURS: None})
    assert decode(sql_file.get(BLOBS, layer_key(1)), "") == whole_record
    assert_sound(sql_file)
