"""A medium that can only be read, and users without the right to write or to read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore
from tests.robustness.faults.conftest import NOBODY, child, emptied, held, mounted, needs_root, remounted
from tests.robustness.faults.operations import ALL, WRITES, fill, run_all
from tests.support.counting import Counted


def assert_written_by_none(found: Mapping[str, Any], path: Path, *, read_only: bool) -> None:
    """Reading went well, and each write is an error that names the file and the remedy."""
    for name, (error, said) in found.items():
        if name in WRITES:
            assert error == "StoreReadOnlyError", f"{name}: {error} {said}"
            assert said.startswith(f"{path}: ")
            assert ("it was opened read_only" if read_only else "check its permissions and mount") in said
        else:
            assert error is None, f"{name}: {error} {said}"


def assert_refused(found: Mapping[str, Any], path: Path, expected: str, remedy: str) -> None:
    """Opening failed already, whatever was to be done."""
    assert set(found) == set(ALL)
    for name, (error, said) in found.items():
        assert error == expected, f"{name}: {error} {said}"
        assert said.startswith(f"{path}: ")
        assert remedy in said, f"{name}: {said}"


@needs_root
@pytest.mark.parametrize("read_only", [False, True])
def test_a_copy_without_a_log_on_a_read_only_file_system_is_read(tmp_path: Path, read_only: bool, counted: Counted):
    """What `backup` makes."""
    place, folder = tmp_path / "mounted", tmp_path / "out"
    emptied(folder)
    counted("faults", len(ALL))
    with mounted(place, 4 << 20):
        fill(tmp_path / "layers.db")
        with SQLMetadataStore(tmp_path / "layers.db") as store:
            store.backup(place / "copy.db")
        remounted(place, "ro")
        found = run_all(place / "copy.db", folder, ALL, read_only=read_only)
        if read_only:
            assert_written_by_none(found, place / "copy.db", read_only=True)
        else:  # it is to be switched to write-ahead logging
            assert_refused(found, place / "copy.db", "StoreReadOnlyError", "check its permissions and mount")
        assert list(held(place)) == ["copy.db"]


@needs_root
def test_a_store_with_its_log_on_a_read_only_file_system_is_read(tmp_path: Path, counted: Counted):
    """As a snapshot of a host is, on which a writer was at work: what the log holds is seen."""
    place, folder = tmp_path / "mounted", tmp_path / "out"
    emptied(folder)
    fill(tmp_path / "layers.db")
    with mounted(place, 4 << 20):
        with SQLMetadataStore(tmp_path / "layers.db") as store:
            store.set("n", "in the log", b"")
            for file in tmp_path.glob("layers.db*"):
                shutil.copy(file, place)
            expected = list(store.entries())
        remounted(place, "ro")
        before = held(place)
        counted("faults", len(ALL))
        with SQLMetadataStore(place / "layers.db", read_only=True) as store:
            assert list(store.entries()) == expected
        for read_only in (True, False):
            emptied(folder)
            found = run_all(place / "layers.db", folder, ALL, read_only=read_only)
            assert_written_by_none(found, place / "layers.db", read_only=read_only)
        assert held(place) == before


@needs_root
def test_a_store_without_its_log_on_a_read_only_file_system_is_refused_with_what_to_do(
    tmp_path: Path, counted: Counted
):
    place, folder = tmp_path / "mounted", tmp_path / "out"
    emptied(folder)
    with mounted(place, 4 << 20):
        path = place / "layers.db"
        fill(path)
        remounted(place, "ro")
        counted("faults", 2 * len(ALL))
        before = held(place)
        assert_refused(run_all(path, folder, ALL), path, "StoreReadOnlyError", "check its permissions and mount")
        assert_refused(run_all(path, folder, ALL, read_only=True), path, "StoreOpenError", "`layerstore backup`")
        assert held(place) == before
        remounted(place, "rw")
        with SQLMetadataStore(path) as store:
            store.set("n", "k", b"again")


@needs_root
@pytest.mark.parametrize("what", ["writing", "read_only"])
def test_a_user_who_may_not_write_where_it_is(open_folder: Path, tmp_path: Path, what: str, counted: Counted):
    path, folder = open_folder / "layers.db", tmp_path / "out"
    folder.mkdir()
    fill(path)
    path.chmod(0o644)
    counted("faults", len(ALL))
    before = held(open_folder)

    found = child(what, path, folder, user=NOBODY)

    expected = {
        "writing": ("StoreReadOnlyError", "check its permissions and mount"),
        "read_only": ("StoreOpenError", "`layerstore backup`"),
    }
    assert_refused(found, path, *expected[what])
    assert held(open_folder) == before
    assert sorted(os.listdir(open_folder)) == ["layers.db", "layers.db-queue"]


@needs_root
@pytest.mark.parametrize("what", ["writing", "read_only"])
def test_a_user_who_may_not_read_it(open_folder: Path, tmp_path: Path, what: str, counted: Counted):
    path, folder = open_folder / "layers.db", tmp_path / "out"
    folder.mkdir()
    fill(path)
    counted("faults", len(ALL))
    before = held(open_folder)

    assert_refused(child(what, path, folder, user=NOBODY), path, "StoreOpenError", "permission denied")
    assert held(open_folder) == before


@needs_root
def test_a_user_who_may_not_make_it(open_folder: Path, tmp_path: Path, counted: Counted):
    path, folder = open_folder / "new" / "layers.db", tmp_path / "out"
    folder.mkdir()
    counted("faults", len(ALL))

    assert_refused(child("writing", path, folder, user=NOBODY), path, "StoreOpenError", "permission denied")
    assert os.listdir(open_folder) == []


@needs_root
def test_a_user_who_may_write_the_file_and_not_the_folder(open_folder: Path, tmp_path: Path, counted: Counted):
    """SQLite has no place for the log: it must not fall back to something less safe."""
    path, folder = open_folder / "layers.db", tmp_path / "out"
    folder.mkdir()
    fill(path)
    os.chown(path, NOBODY, -1)
    counted("faults", len(ALL))
    before = held(open_folder)

    assert_refused(child("writing", path, folder, user=NOBODY), path, "StoreReadOnlyError", "nothing can be written in")
    assert held(open_folder) == before


def test_a_store_that_was_opened_to_read_only_says_so_when_it_refuses_a_write(tmp_path: Path, counted: Counted):
    """Its permissions and its mount, which another one is checked for, are as they should be."""
    path, folder = tmp_path / "layers.db", tmp_path / "out"
    fill(path)
    emptied(folder)
    counted("faults", len(ALL))

    assert_written_by_none(run_all(path, folder, ALL, read_only=True), path, read_only=True)
