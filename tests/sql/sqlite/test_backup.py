"""A backup is one consistent file, whole or absent, that can be read where nothing can be written."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreClosedError, StoreError, StoreOpenError, verify
from tests.conftest import sqlite_of
from tests.support.command import BAD, DONE, ROOT, Run, assert_one_line_error
from tests.support.daemons import pragma
from tests.support.entries import GOLDEN_FILES, rows_of, run_python, whole


def assert_whole(path: Path) -> None:
    """Hold a backup against everything that it promises."""
    assert os.listdir(path.parent) == [path.name]
    assert path.read_bytes()[18:20] == b"\1\1"  # neither read nor written by a write-ahead log
    assert pragma(path, "journal_mode") == "delete"
    assert pragma(path, "integrity_check") == "ok"
    report = verify(path)
    assert report.ok
    assert "unmapped" not in [found.kind for found in report.findings]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == [path.name]


def test_the_copy_has_everything(golden_store: SQLMetadataStore, folder: Path):
    """Entries with their times, derived rows and the quarantine, though all of it is in the write-ahead log yet."""
    size = golden_store.backup(folder / "copy.db")

    assert size == (folder / "copy.db").stat().st_size > 0
    assert_whole(folder / "copy.db")
    with SQLMetadataStore(folder / "copy.db", read_only=True) as copy:
        assert whole(copy) == whole(golden_store)


_WRITER = """
import sys
from itertools import count
from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
with SQLMetadataStore(sys.argv[1], durability="normal") as store:
    v2 = V2MetadataService(store)
    for number in count(int(sys.argv[2]), 2):
        v2.add(f"sha256:{number % 50:064x}", V2Metadata(f"sha256:{number:064x}", "localhost:5000/team/app"))
        if number < 2:
            print("writing", flush=True)
"""


@pytest.fixture
def writers(golden_store: SQLMetadataStore) -> Iterator[str]:
    """The path of a store to which two processes write as fast as they can, until the test is over."""
    assert golden_store.path is not None
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, golden_store.path, str(number)], stdout=subprocess.PIPE, cwd=ROOT
        )
        for number in (0, 1)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
        yield golden_store.path
        assert [process.poll() for process in processes] == [None, None]  # nothing has kept them from it
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_the_copy_is_of_one_moment_while_two_processes_write(writers: str, folder: Path):
    """An `add` writes two entries: a copy that was made in steps would have one without the other."""
    counts = []
    for number in range(5):
        path = folder / "copy.db"
        with SQLMetadataStore(writers, read_only=number % 2 == 0) as store:
            store.backup(path)
        assert_whole(path)
        with SQLMetadataStore(path, read_only=True) as copy:
            counts.append(len(rows_of(copy)))
        path.unlink()
    assert counts == sorted(counts)
    assert counts[-1] > GOLDEN_FILES


def test_the_command_copies_while_others_write(writers: str, folder: Path, run: Run):
    done = run("--db", writers, "backup", folder / "copy.db")

    assert done.code == DONE
    size = (folder / "copy.db").stat().st_size
    assert done.out == f"copied {writers} to {folder / 'copy.db'}: {size} bytes\n"
    assert_whole(folder / "copy.db")


def test_the_command_says_the_same_as_json_and_nothing_when_quiet(
    golden_store: SQLMetadataStore, folder: Path, run: Run
):
    done = run("--db", golden_store.path, "backup", "--json", folder / "a.db")
    quiet = run("--db", golden_store.path, "backup", "--quiet", folder / "b.db")

    assert done.json == {"path": str(folder / "a.db"), "bytes": (folder / "a.db").stat().st_size}
    assert (quiet.code, quiet.raw) == (DONE, b"")


def test_the_copy_is_0600_whatever_the_umask(golden_store: SQLMetadataStore, folder: Path):
    before = os.umask(0)
    try:
        golden_store.backup(folder / "copy.db")
    finally:
        os.umask(before)

    assert_whole(folder / "copy.db")


@pytest.mark.parametrize("there", ["file", "folder", "broken link", "the store itself"])
def test_what_has_the_name_already_is_not_touched(there: str, golden_store: SQLMetadataStore, folder: Path, run: Run):
    target = folder / "copy.db"
    if there == "file":
        target.write_bytes(b"precious")
    elif there == "folder":
        target.mkdir()
    elif there == "broken link":
        target.symlink_to(folder / "nowhere")
    else:
        target = Path(str(golden_store.path))
    before = (sorted(os.listdir(target.parent)), target.read_bytes() if target.is_file() else None)

    with pytest.raises(StoreOpenError, match="already") as raised:
        golden_store.backup(target)
    done = run("--db", golden_store.path, "backup", target)

    assert raised.value.path == str(target)
    assert done.code == BAD
    assert_one_line_error(done, target)
    assert (sorted(os.listdir(target.parent)), target.read_bytes() if target.is_file() else None) == before


def test_who_takes_the_name_meanwhile_keeps_it(
    golden_store: SQLMetadataStore, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    target = folder / "copy.db"
    copy_to = sqlite_of(golden_store).copy_to

    def copy(connection: sqlite3.Connection) -> None:
        copy_to(connection)
        target.write_bytes(b"precious")

    monkeypatch.setattr(golden_store._backend, "copy_to", copy)
    with pytest.raises(StoreError, match=str(target)):
        golden_store.backup(target)
    assert target.read_bytes() == b"precious"
    assert os.listdir(folder) == ["copy.db"]


@pytest.mark.parametrize("where", ["missing/copy.db", "file/copy.db", "x" * 250])
def test_a_place_where_no_file_can_be_is_an_error_that_names_it(
    where: str, golden_store: SQLMetadataStore, folder: Path, run: Run
):
    (folder / "file").write_bytes(b"")

    with pytest.raises(StoreOpenError, match=str(folder / where)):
        golden_store.backup(folder / where)
    done = run("--db", golden_store.path, "backup", folder / where)

    assert done.code == BAD
    assert_one_line_error(done, folder / where)
    assert os.listdir(folder) == ["file"]


_LIMITED = """
import resource, sys
from layerstore import SQLMetadataStore, StoreError
with SQLMetadataStore(sys.argv[1], read_only=True) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    try:
        store.backup(sys.argv[2])
    except StoreError as error:
        print(type(error).__name__, error)
"""


def test_a_full_disk_is_an_error_that_names_the_copy_and_leaves_nothing(golden_store: SQLMetadataStore, folder: Path):
    done = run_python(_LIMITED, golden_store.path, folder / "copy.db")

    assert done.stderr == ""
    assert "Store" in done.stdout.split()[0]
    assert str(folder / "copy.db") in done.stdout
    assert os.listdir(folder) == []


def test_a_closed_store_is_an_error_that_leaves_nothing(golden_store: SQLMetadataStore, folder: Path):
    golden_store.close()

    with pytest.raises(StoreClosedError):
        golden_store.backup(folder / "copy.db")
    assert os.listdir(folder) == []


def test_without_a_database_the_command_makes_neither(database: Path, folder: Path, run: Run):
    done = run("backup", folder / "copy.db")

    assert done.code == BAD
    assert_one_line_error(done, database)
    assert not database.exists()
    assert os.listdir(folder) == []
