"""A disk that is full in mid-write: nothing of the write stays, all else does, and the same store goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore, StoreFullError, verify
from tests.conftest import assert_sound
from tests.robustness.faults.conftest import child, mounted, needs_root
from tests.robustness.faults.operations import COPIES, LARGE, WRITES, fill, under
from tests.support.counting import Counted


def assert_each_is_refused_and_left_nothing(found: Mapping[str, Any], path: Path, folder: Path, says: str) -> None:
    """Hold what `under` has found against what a full disk must come to."""
    for name in (*WRITES, *COPIES):
        error, said = found[name]
        assert error == "StoreFullError", f"{name}: {error} {said}"
        place = path if name in WRITES else folder
        assert said.startswith(str(place)), f"{name}: {said}"
        assert says in said or "free some space" in said, f"{name}: {said}"
        assert [found[f"{name}: {what}"] for what in ("can be read", "left as it was", "goes on")] == [True] * 3, name
    with SQLMetadataStore(path) as store:
        assert_sound(store)
    assert not (folder / "copy.db").exists()
    assert [file for file in folder.rglob("*") if file.name.startswith(".tmp-")] == []
    assert [file for file in folder.rglob("*") if file.is_file() and file.stat().st_size not in range(LARGE_FILE)] == []


LARGE_FILE = len(LARGE)


def test_a_limit_on_the_size_of_files(tmp_path: Path, counted: Counted):
    path, folder = tmp_path / "layers.db", tmp_path / "out"
    folder.mkdir()
    fill(path)
    counted("faults", len(WRITES) + len(COPIES))

    found = child("limited", path, folder, room=150_000)

    assert_each_is_refused_and_left_nothing(found, path, folder, "`ulimit -f`")


@needs_root
def test_a_small_file_system(tmp_path: Path, counted: Counted):
    """Its space is taken away by another file before each write, and given back behind it."""
    place = tmp_path / "mounted"
    counted("faults", len(WRITES) + len(COPIES))
    with mounted(place, 8 << 20):
        path, folder, ballast = place / "layers.db", place / "out", place / "ballast"
        folder.mkdir()
        fill(path)

        def fill_up() -> None:
            with open(ballast, "wb", buffering=0) as file:
                try:
                    while file.write(bytes(4096)):
                        pass
                except OSError:
                    file.truncate(file.tell() - 20 * 4096)

        found = under(path, folder, fill_up, ballast.unlink)
        assert_each_is_refused_and_left_nothing(found, path, folder, "no space is left")


@needs_root
def test_a_file_system_without_a_byte_left_cannot_take_a_new_store(tmp_path: Path, counted: Counted):
    place = tmp_path / "mounted"
    with mounted(place, 1 << 20):
        (place / "ballast").write_bytes(bytes((1 << 20) - 4096 * 2))
        counted("faults")
        with pytest.raises(StoreFullError, match=str(place / "layers.db")):
            SQLMetadataStore(place / "layers.db")
        (place / "ballast").unlink()
        with SQLMetadataStore(place / "layers.db") as store:
            store.set("n", "k", b"value")
            assert verify(store).ok
        assert sorted(os.listdir(place)) == ["layers.db", "layers.db-queue"]
