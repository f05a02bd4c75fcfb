"""`import` from other engines' memories, and `export` for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import FSMetadataStore, SQLMetadataStore, V2MetadataService
from layerstore.blobs import BlobRecord, encode
from layerstore.keys import BLOBS
from tests.support.command import BAD, DONE, Run, lines
from tests.support.entries import AT, layer_key
from tests.support.strategies import sha256

ENGINES = Path(__file__).parents[1] / "golden" / "engines"
CACHE = "blob-info-cache-v1.sqlite"
SKOPEO, PODMAN = ENGINES / "skopeo-1.22.0-raw-push-and-pull.sqlite", ENGINES / "podman-5.8.6-zstd-chunked.sqlite"


@pytest.fixture
def filled(database: Path) -> Path:
    """A database that knows of one blob for certain, and of another not its compression."""
    with SQLMetadataStore(database) as store:
        for number, compression in ((1, "gzip"), (2, None)):
            blob = BlobRecord(diff_id=sha256(9), compression=compression, locations={"h.io/a": AT})
            store.set(BLOBS, layer_key(number), encode(blob))
    return database


def test_a_cache_goes_in_and_a_new_one_comes_out(run: Run, database: Path, tmp_path: Path):
    result = run("import", SKOPEO, PODMAN)
    assert (result.code, result.err) == (DONE, "")
    assert lines(result.out)[0].startswith(f"imported {SKOPEO} into {database}: ")

    result = run("export", tmp_path / CACHE)
    assert (result.code, result.err) == (DONE, "")
    assert f"exported {database} to {tmp_path / CACHE}" in result.out

    assert run("import", "--json", tmp_path / CACHE).json["updated"] == 0
    assert run("diff", database, tmp_path / CACHE).code == DONE


def test_a_trial_makes_no_database(run: Run, database: Path):
    result = run("import", "--dry-run", SKOPEO)

    assert result.code == DONE
    assert result.out.startswith("would import ")
    assert not database.exists()


def test_a_trial_leaves_the_database_as_it_was(run: Run, filled: Path):
    before = run("query", "SELECT count(*) FROM blobs").out

    assert run("import", "-n", SKOPEO).code == DONE

    assert run("query", "SELECT count(*) FROM blobs").out == before


def test_what_is_left_out_is_counted_by_reason(run: Run, filled: Path, tmp_path: Path):
    result = run("export", tmp_path / "out")

    assert result.code == DONE
    assert "left out: 1: its compression is not known" in lines(result.out)
    assert run("export", "--dry-run", "--json", tmp_path / "out").json["left_out"] == {
        "its compression is not known": 1
    }


def test_a_compression_is_assumed_when_told(run: Run, filled: Path, tmp_path: Path):
    assert run("export", "--assume-compression", "gzip", tmp_path / "out").code == DONE

    found = V2MetadataService(FSMetadataStore(tmp_path / "out")).get_metadata(sha256(9))
    assert [entry.digest for entry in found] == [sha256(1), sha256(2)]


def test_all_namespaces_are_written_when_told(run: Run, filled: Path, tmp_path: Path):
    assert run("export", "--all-namespaces", tmp_path / "out").code == DONE

    assert (tmp_path / "out" / BLOBS / layer_key(1)).exists()


def test_what_goes_with_containerd_alone_is_refused_elsewhere(run: Run, filled: Path, tmp_path: Path):
    for options in (["--image", "busybox"], ["--to", "localhost:5000/a"]):
        result = run("export", *options, tmp_path / "out")
        assert result.code == BAD
        assert "containerd:SOCKET?namespace=NAME" in result.err
    assert not (tmp_path / "out").exists()


def test_no_socket_is_one_error(run: Run, filled: Path, tmp_path: Path):
    for command in ("import", "export"):
        result = run(command, f"containerd:{tmp_path}/socket?namespace=moby")
        assert result.code == BAD
        assert str(tmp_path) in result.err
