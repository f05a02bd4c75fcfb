"""What a power cut may not take: each name that was made or removed is synced into its directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layerstore import FSMetadataStore, SQLMetadataStore
from layerstore.transfer.directory import new_file


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files and directories that were synced, in their order."""
    paths: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        paths.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return paths


def test_each_directory_of_a_base_that_is_made_is_synced_into_the_one_above(tmp_path: Path, synced: list[str]):
    FSMetadataStore(tmp_path / "image" / "vfs" / "distribution")

    assert synced == [str(tmp_path), str(tmp_path / "image"), str(tmp_path / "image" / "vfs")]


def test_a_base_that_is_there_costs_no_sync(tmp_path: Path, synced: list[str]):
    FSMetadataStore(tmp_path)

    assert synced == []


def test_the_directory_of_a_database_that_is_made_is_synced(tmp_path: Path, synced: list[str]):
    SQLMetadataStore(tmp_path / "state" / "layers.db").close()

    assert synced == [str(tmp_path)]


def test_a_file_that_is_deleted_is_gone_for_good(files: FSMetadataStore, synced: list[str]):
    files.set("n", "a/k", b"v")
    synced.clear()

    files.delete("n", "a/k")

    assert synced == [f"{files.path}/n/a"]


def test_an_archive_keeps_its_name(tmp_path: Path, synced: list[str]):
    with new_file(str(tmp_path / "out.tar")) as file:
        file.write(b"archive")

    assert len(synced) == 2
    assert synced[0].startswith(f"{tmp_path}/out.tar.tmp-")
    assert synced[1] == str(tmp_path)
