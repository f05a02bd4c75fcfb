"""The control of the power cuts: writers that forget a sync are found out, and by the states that they deserve."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.robustness.crash import cuts, process, trace
from tests.robustness.crash.disk import Disk
from tests.robustness.crash.process import Acknowledge, Work

pytestmark = pytest.mark.usefixtures("strace")

NEW = b"n" * 10_000


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def careful(home: Path, acknowledge: Acknowledge) -> None:
    (home / "temporary").write_bytes(NEW)
    _sync(home / "temporary")
    (home / "temporary").rename(home / "file")
    _sync(home)
    acknowledge(1)


def never_syncs(home: Path, acknowledge: Acknowledge) -> None:
    (home / "temporary").write_bytes(NEW)
    (home / "temporary").rename(home / "file")
    _sync(home)
    acknowledge(1)


def forgets_the_directory(home: Path, acknowledge: Acknowledge) -> None:
    (home / "temporary").write_bytes(NEW)
    _sync(home / "temporary")
    (home / "temporary").rename(home / "file")
    acknowledge(1)


def syncs_too_late(home: Path, acknowledge: Acknowledge) -> None:
    (home / "temporary").write_bytes(NEW)
    (home / "temporary").rename(home / "file")
    _sync(home)
    _sync(home / "file")
    acknowledge(1)


def writes_in_place(home: Path, acknowledge: Acknowledge) -> None:
    with open(home / "file", "r+b", buffering=0) as file:
        file.write(NEW)
        os.fsync(file.fileno())
    acknowledge(1)


def forgets_a_directory_above(home: Path, acknowledge: Acknowledge) -> None:
    (home / "file").unlink()
    _sync(home)
    (home / "new").mkdir()
    (home / "new" / "file").write_bytes(NEW)
    _sync(home / "new" / "file")
    _sync(home / "new")
    acknowledge(1)


OLD = b"o" * 5_000
Found = dict[int, set[bytes | None]]


def found(work: Work, tmp_path: Path) -> Found:
    """Return what the file holds after a cut, before and after the acknowledgement; `None` where it is not there."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "file").write_bytes(OLD)
    disk = Disk(home)
    process.Victim(work, home).record(tmp_path / "calls")
    disk.replay(trace.read(tmp_path / "calls"))
    left: Found = {0: set(), 1: set()}
    for state in cuts.states(disk, 3000, "control"):
        file = state.tree.get("file", state.tree.get("new/file"))
        left[state.acknowledged].add(None if file is None else file.data)
    return left


def test_a_careful_writer_leaves_the_old_file_or_the_new_one(tmp_path: Path):
    assert found(careful, tmp_path) == {0: {OLD, NEW}, 1: {NEW}}


def test_bytes_that_were_not_synced_before_the_rename_are_torn_in_every_way(tmp_path: Path):
    left = found(never_syncs, tmp_path)
    assert {OLD, NEW} <= left[0]
    assert {b"", NEW[:4096], NEW[:8192], bytes(10_000)} <= left[0] & left[1]


def test_a_rename_that_was_not_synced_may_be_lost_also_after_it_was_acknowledged(tmp_path: Path):
    assert found(forgets_the_directory, tmp_path) == {0: {OLD}, 1: {OLD, NEW}}


def test_a_sync_after_the_rename_is_too_late(tmp_path: Path):
    left = found(syncs_too_late, tmp_path)
    assert {b"", NEW[:4096], bytes(10_000)} <= left[0]
    assert left[1] == {NEW}


def test_a_file_that_is_written_in_place_is_a_mixture(tmp_path: Path):
    left = found(writes_in_place, tmp_path)
    assert {OLD, NEW, NEW[:4096] + OLD[4096:], OLD[:4096] + NEW[4096:8192]} <= left[0]
    assert left[1] == {NEW}


def test_a_directory_whose_own_name_was_not_synced_takes_its_files_with_it(tmp_path: Path):
    assert found(forgets_a_directory_above, tmp_path)[1] == {None, NEW}


@pytest.mark.parametrize("work", [careful, never_syncs, writes_in_place], ids=lambda work: work.__name__)
def test_the_states_are_the_same_in_every_run(tmp_path: Path, work: Callable[[Path, Acknowledge], None]):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    assert found(work, tmp_path / "one") == found(work, tmp_path / "two")
