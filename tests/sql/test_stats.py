"""`stats`: every number is that of the store, and the directory's size is what a directory takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService, export_directory, import_directory
from layerstore.sql.reading.totals import INODE_BYTES, stats
from tests.conftest import OpenSQL
from tests.support.command import GOLDEN
from tests.support.strategies import sha256


def test_an_empty_store_has_nothing_and_no_times(sql_store: SQLMetadataStore):
    found = stats(sql_store)

    assert (found.layers, found.digests, found.repositories, found.registries, found.quarantined) == (0, 0, 0, 0, 0)
    assert (found.oldest_ns, found.newest_ns, found.largest) == (None, None, ())
    assert (found.directory.files, found.directory.directories) == (0, 1)


def test_the_numbers_are_those_of_the_store(sql_store: SQLMetadataStore):
    v2 = V2MetadataService(sql_store)
    for number in range(24):
        for layer in range(1 + number % 3):
            v2.add(sha256(layer), V2Metadata(sha256(100 + 3 * number + layer), f"host-{number % 2}/r{number // 2}"))
    v2.add(sha256(0), V2Metadata(sha256(99)))
    V1IDService(sql_store).set("a" * 64, "v1.example", sha256(1))
    sql_store.set("v2metadata-by-diffid", sha256(77).replace(":", "/"), b"unreadable")
    sql_store.quarantine("n", "k", b"", "reason")

    found = stats(sql_store)

    assert (found.layers, found.associations, found.digests, found.v1_ids) == (3, 49, 49, 1)
    assert (found.repositories, found.registries, found.quarantined) == (24, 3, 1)
    assert found.oldest_ns is not None
    assert found.newest_ns is not None
    assert found.oldest_ns <= found.newest_ns
    layers = {f"host-{number % 2}/r{number // 2}": 1 + number % 3 for number in range(24)}
    assert found.largest == tuple(sorted(layers.items(), key=lambda item: (-item[1], item[0]))[:10])


def test_the_sizes_are_those_of_the_files(open_sql: OpenSQL, tmp_path: Path):
    with open_sql() as store:
        V2MetadataService(store).add(sha256(1), V2Metadata(sha256(2), "r"))
        found = stats(store)

        assert found.path == str(tmp_path / "layers.db")
        assert found.file_bytes == os.path.getsize(tmp_path / "layers.db")
        assert found.wal_bytes == os.path.getsize(tmp_path / "layers.db-wal") > 0


def takes(base: Path) -> tuple[int, int, int, int]:
    """Return how many files and directories there are, the blocks of the files, and of the directories."""
    files = [path for path in base.rglob("*") if path.is_file()]
    folders = [base, *(path for path in base.rglob("*") if path.is_dir())]
    blocks = [sum(path.stat().st_blocks * 512 for path in paths) for paths in (files, folders)]
    return len(files), len(folders), blocks[0], blocks[1]


@pytest.fixture
def in_blocks(tmp_path: Path) -> bool:
    """Tell whether this file system counts blocks of 4 KiB, as ext4 does."""
    (tmp_path / "one").write_bytes(b"x")
    (tmp_path / "none").touch()
    (tmp_path / "folder").mkdir()
    found = [(tmp_path / name).stat().st_blocks * 512 for name in ("one", "none", "folder")]
    return found == [4096, 0, 4096]


def test_the_directory_is_the_one_that_export_writes(sql_file: SQLMetadataStore, tmp_path: Path, in_blocks: bool):
    import_directory(sql_file, GOLDEN)
    sql_file.set("v1id", f"a/deep/registry,{'b' * 64}", b"x")
    sql_file.set("other", "a/b/c", b"")
    sql_file.set("other", "a/d", b"x" * 4097)
    sql_file.set("other", "e", b"x" * 4096)
    export_directory(sql_file, tmp_path / "out")
    files, folders, of_files, of_folders = takes(tmp_path / "out")

    found = stats(sql_file).directory

    assert (found.files, found.directories) == (files, folders)
    assert found.inode_bytes == (files + folders) * INODE_BYTES
    assert found.bytes == found.block_bytes + found.inode_bytes
    if in_blocks:
        # ext4 fills a directory's blocks only in part once it has more than one.
        assert of_files <= found.block_bytes <= of_files + of_folders
