"""Temporary data: where it cannot be written, `TMPDIR` is named, and not the database, whose disk has room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, verify
from tests.support.command import BAD, DONE, GOLDEN, Run

NAMED = "temporary data cannot be written here"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    subprocess.run(["tar", "-C", GOLDEN, "-cf", tmp_path / "g.tar", "."], check=True)
    return tmp_path / "g.tar"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A directory on a disk of its own that is all but full."""
    path = tmp_path / "full"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def assert_named(run: Run, directory: Path, *arguments: object) -> None:
    result = run(*arguments, environment={"TMPDIR": str(directory)})
    assert result.code == BAD
    assert result.err.startswith(f"layerstore: {directory}: {NAMED}"), result.err
    assert "set TMPDIR" in result.err
    assert result.err.count("\n") == 1


def test_a_full_directory_for_temporary_data_is_named(
    run_process: Run, imported: Path, full: Path, archive: Path, tmp_path: Path
):
    for arguments in (
        ["--db", tmp_path / "new.db", "import", archive],
        ["verify", archive],
        ["diff", archive],
        ["serve", GOLDEN, "--port", "0"],
    ):
        assert_named(run_process, full, *arguments)
        assert list(full.iterdir()) == []
    assert verify(imported).ok
    with SQLMetadataStore(tmp_path / "new.db") as store:
        assert len(list(store.entries())) == 0


def test_a_directory_in_which_no_file_can_be_made_is_named(run_process: Run, archive: Path, database: Path):
    """Not even by root. Python looks for another place by itself; SQLite does not."""
    assert_named(run_process, Path("/proc"), "import", archive)
    result = run_process("import", archive)
    assert (result.code, result.err) == (DONE, "")
    assert verify(database).ok


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_of_the_database_is_still_named_as_such(run_process: Run, full: Path, archive: Path):
    result = run_process("--db", full / "layers.db", "import", archive)

    assert result.code == BAD
    assert result.err.startswith(f"layerstore: {full}/layers.db: no space is left")
    assert "TMPDIR" not in result.err
