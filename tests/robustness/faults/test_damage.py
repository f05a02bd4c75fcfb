"""Files that are damaged, cut off, or beside the wrong log: a right answer, or an error with the remedy."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import (
    NotFoundError,
    SQLMetadataStore,
    StoreCorruptError,
    StoreError,
    TransferError,
    V2MetadataService,
    verify,
)
from tests.conftest import OpenSQL, sqlite_of
from tests.robustness.faults.conftest import emptied, held
from tests.robustness.faults.operations import COPIES, LAYER, READS, WRITES, Outcome, fill, outcome, run_all
from tests.support.counting import Counted

PAGE = 4096
REMEDY = "`layerstore recover"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("good") / "layers.db"
    fill(path)
    return path


@pytest.fixture(scope="module")
def truth(good: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """What each reading operation answers when all is well."""
    return run_all(good, tmp_path_factory.mktemp("out"), {**READS, **COPIES}, read_only=True)


@pytest.fixture
def path(tmp_path: Path, good: Path) -> Path:
    """A copy to be damaged."""
    (tmp_path / "folder").mkdir()
    return Path(shutil.copy(good, tmp_path / "folder" / "layers.db"))


def assert_answers_are_right_or_refused(path: Path, folder: Path, truth: dict[str, Outcome]) -> int:
    """Do everything; return how many operations were refused. What only reads leaves every byte."""
    before = held(path.parent)
    emptied(folder)
    found = run_all(path, folder, {**READS, **COPIES}, read_only=True)
    assert held(path.parent) == before
    for name, (error, said) in found.items():
        if error is None:
            # What a check counts and a copy has is damaged with the file; they are not answers. Noise inside of a value
            # is no damage that SQLite can see: then the check says that the value cannot be read.
            assert name in ("verify", *COPIES) or said == truth[name].said or not is_fine(path), name
    emptied(folder)
    found |= run_all(path, folder, WRITES)
    for name, (error, said) in found.items():
        if error is not None:
            assert error in ("StoreCorruptError", "StoreOpenError", "StoreError"), f"{name}: {error} {said}"
            assert said.startswith(str(path)), name
            assert REMEDY in said or "layerstore verify" in said, f"{name}: {said}"
    return sum(error is not None for error, _ in found.values())


def is_fine(path: Path) -> bool:
    """Tell whether a check finds nothing; one that cannot be ended finds something."""
    try:
        return verify(path).ok
    except StoreError:
        return False
    except TransferError:
        return False  # what is no database any more is taken for an archive, and is none


@pytest.mark.parametrize("part", range(10))
def test_a_file_that_was_cut_off(path: Path, tmp_path: Path, part: int, truth: dict[str, Outcome], counted: Counted):
    """At the boundary of a page, anywhere in the file, and a byte behind and before it."""
    pages = path.stat().st_size // PAGE
    boundary = max(1, pages * part // 10) * PAGE
    for size in (boundary - 1, boundary, boundary + 1):
        os.truncate(path, boundary + PAGE)
        os.truncate(path, size)
        counted("faults")
        assert assert_answers_are_right_or_refused(path, tmp_path / "out", truth) > len(WRITES)


@pytest.mark.parametrize("size", [2, 15, 16, 40, 99, 100, 511, 512, PAGE - 1])
def test_a_file_that_was_cut_off_in_its_first_page_is_refused_and_left_alone(path: Path, size: int, counted: Counted):
    os.truncate(path, size)
    before = path.read_bytes()
    counted("faults", 2)
    for read_only in (False, True):
        with pytest.raises(StoreError) as caught:
            SQLMetadataStore(path, read_only=read_only)
        assert str(caught.value).startswith(str(path))
        assert REMEDY in str(caught.value)
    assert held(path.parent) == {"layers.db": before}


@pytest.mark.parametrize("seed", range(12))
def test_a_page_of_noise(path: Path, tmp_path: Path, seed: int, truth: dict[str, Outcome], counted: Counted):
    luck = random.Random(seed)
    page = 0 if seed == 0 else luck.randrange(1, path.stat().st_size // PAGE)
    content = bytearray(path.read_bytes())
    content[page * PAGE : page * PAGE + PAGE] = luck.randbytes(PAGE)
    path.write_bytes(content)
    counted("faults")

    refused = assert_answers_are_right_or_refused(path, tmp_path / "out", truth)

    path.write_bytes(content)
    assert not is_fine(path) or refused == 0, "an operation was refused, and the check found nothing"


def test_the_same_store_goes_on_where_the_damage_is_not(path: Path, counted: Counted):
    """An error of one lookup or write is not the end of the connection."""
    with SQLMetadataStore(path) as store, store.engine.connect() as connection:
        root = connection.exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'v2_metadata'").scalar_one()
    content = bytearray(path.read_bytes())
    content[(root - 1) * PAGE : root * PAGE] = b"\xff" * PAGE
    path.write_bytes(content)
    with SQLMetadataStore(path) as store:
        entries = list(store.entries())
        for _ in range(3):
            counted("faults")
            found = outcome(WRITES["add"], store, path.parent)
            assert found.error == "StoreCorruptError"
            assert list(store.entries()) == entries
        store.set("n", "elsewhere", b"goes on")
        assert store.get("n", "elsewhere") == b"goes on"
        assert V2MetadataService(store).get_metadata(LAYER)


KILLED = """
import os, sys
from layerstore import SQLMetadataStore
store = SQLMetadataStore(sys.argv[1])
for number in range(50):
    store.set("n", f"late/{number}", b"value")
    print(number, flush=True)
os.kill(os.getpid(), 9)
"""


def leave_log(path: Path) -> None:
    """Let a writer be killed behind its last commit."""
    done = subprocess.run([sys.executable, "-c", KILLED, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()[-1]) == (-9, "49"), done.stderr
    assert Path(f"{path}-wal").stat().st_size > 50 * PAGE


def test_a_log_that_a_killed_writer_left_is_taken_in(path: Path, open_sql: OpenSQL, counted: Counted):
    leave_log(path)
    counted("faults")
    with SQLMetadataStore(path, read_only=True) as store:
        assert sum(key.startswith("late/") for _, key, _ in store.entries("n")) == 50
    store = open_sql(path)
    assert sum(key.startswith("late/") for _, key, _ in store.entries("n")) == 50


GARBAGE = {
    "noise": random.Random(1).randbytes(32768),
    "zeros": bytes(32768),
    "short": b"x",
    "nothing": b"",
    "long": random.Random(2).randbytes(200_001),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
@pytest.mark.parametrize("with_log", [False, True])
def test_an_index_of_the_log_that_is_garbage_is_made_anew(
    path: Path, garbage: bytes, with_log: bool, open_sql: OpenSQL, counted: Counted
):
    if with_log:
        leave_log(path)
    Path(f"{path}-shm").write_bytes(garbage)
    counted("faults")

    for read_only in (True, False):
        store = open_sql(path, read_only=read_only)
        assert store.get("n", "k") == b"value"
        assert sum(key.startswith("late/") for _, key, _ in store.entries("n")) == (50 if with_log else 0)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_log_that_is_garbage_holds_nothing(path: Path, garbage: bytes, open_sql: OpenSQL, counted: Counted):
    with SQLMetadataStore(path, read_only=True) as store:
        entries = list(store.entries())
    Path(f"{path}-wal").write_bytes(garbage)
    counted("faults")

    for read_only in (True, False):
        assert list(open_sql(path, read_only=read_only).entries()) == entries
    open_sql(path).set("n", "k", b"new")


def log_of_another(path: Path, entries: int, *, late: bool) -> None:
    """Put the log of another store beside a file; a late one holds a few of the other's pages only."""
    other = path.parent.parent / f"other-{entries}-{late}.db"
    with SQLMetadataStore(other) as store:
        store.set_many(("n", f"other/{number}", b"y" * 400) for number in range(entries))
        if late:
            sqlite_of(store).run("PRAGMA wal_checkpoint(TRUNCATE)")
            store.set("n", "late", b"z")
        shutil.copy(f"{other}-wal", f"{path}-wal")


@pytest.mark.parametrize(("entries", "late"), [(1, False), (300, True)])
def test_a_log_of_another_database_that_does_not_fit_is_refused_and_not_written_back(
    path: Path, entries: int, late: bool, open_sql: OpenSQL, counted: Counted
):
    """Without it, the store is as it was: that is what the error advises."""
    log_of_another(path, entries, late=late)
    before = held(path.parent)
    counted("faults", 3)

    for _ in range(2):
        with pytest.raises(StoreCorruptError, match=r"layers\.db-wal is another database's"):
            SQLMetadataStore(path)
    with pytest.raises(StoreCorruptError):
        SQLMetadataStore(path, read_only=True)
    assert held(path.parent) == before

    for side in ("-wal", "-shm"):
        Path(f"{path}{side}").unlink(missing_ok=True)
    assert open_sql(path).get("n", "k") == b"value"


@pytest.mark.parametrize(("entries", "late"), [(50, False), (300, False), (3000, True)])
def test_a_log_of_another_database_that_seems_to_fit_is_found_by_verify(
    path: Path, entries: int, late: bool, counted: Counted
):
    """SQLite cannot tell: no file of it says what it belongs to. docs/repair.md warns of that."""
    log_of_another(path, entries, late=late)
    counted("faults")

    assert not is_fine(path)
    for side in ("-wal", "-shm"):
        Path(f"{path}{side}").unlink(missing_ok=True)
    with SQLMetadataStore(path, read_only=True) as store:
        assert store.get("n", "k") == b"value", "reading writes nothing back"


def test_an_empty_file_is_a_new_store_and_says_so_by_being_empty(path: Path):
    """A file that was cut to nothing cannot be told from one that is yet to be filled, as SQLite has it."""
    os.truncate(path, 0)
    with SQLMetadataStore(path) as store, pytest.raises(NotFoundError):
        store.get("n", "k")
