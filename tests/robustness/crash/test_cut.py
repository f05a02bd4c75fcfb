"""The power fails: every state that a cut may leave of the files that we write is laid out, and looked at.

Each file is whole, as it was or as it should be, or absent if it was; what was acknowledged is there; and the next run
of the same writer brings everything to its end. What a cut may leave is in `tests.robustness.crash.disk`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from tests.conftest import assert_sound
from tests.robustness.crash import cuts, process, trace
from tests.robustness.crash import databases as db
from tests.robustness.crash.conftest import Stage
from tests.robustness.crash.disk import Acknowledged, Disk, Inode, Naming, Write
from tests.robustness.crash.writers import ON_FILES, WRITERS
from tests.support.counting import Counted

MakeStage = Callable[[str], Stage]
pytestmark = pytest.mark.usefixtures("strace")


@pytest.fixture
def stage(in_memory: Path) -> MakeStage:
    """What a cut may leave follows from the calls alone, and is laid out anew: a disk would only take longer."""
    return lambda name: Stage(name, in_memory)


def recorded(stage: Stage) -> Disk:
    """Let the writer work to its end; return what it did, and make sure that this is all that it did."""
    home = stage.home()
    disk = Disk(home)
    stage.victim(home).record(stage.log)
    disk.replay(trace.read(stage.log))
    assert_equal(cuts.end(disk), cuts.end(Disk(home)))
    stage.forget(home)
    return disk


def assert_equal(replayed: cuts.Tree, there: cuts.Tree) -> None:
    """The control of the recording: replayed, it gives what is there, times that were not set apart."""
    assert {path for path in replayed if not path.endswith("-shm")} == {
        path for path in there if not path.endswith("-shm")
    }
    for path, leaf in replayed.items():
        if path.endswith("-shm"):
            continue
        assert (leaf.data, oct(leaf.mode)) == (there[path].data, oct(there[path].mode)), path
        assert leaf.modified_at_ns in (0, there[path].modified_at_ns) or leaf.data is None, path


def check(stage: Stage, disk: Disk, limit: int, counted: Counted) -> int:
    """Lay out states after a cut, and hold them against the steps; return how many."""
    count = 0
    for state in cuts.states(disk, limit, "layerstore"):
        home = stage.empty()
        cuts.lay_out(state.tree, home)
        counted("cuts")
        count += 1
        stage.writer.check(home, stage.steps, state.acknowledged, cut=True)
        stage.forget(home)
    return count


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.promises(cuts=cuts)) for name, cuts in ON_FILES.items()]
)
def test_a_power_cut_leaves_each_file_whole_or_absent_and_what_was_acknowledged(
    stage: MakeStage, request: pytest.FixtureRequest, counted: Counted, name: str
):
    """The file store, exports to a directory and to an archive, backups, and repairs of a directory."""
    at = stage(name)
    check(at, recorded(at), request.config.getoption("--cuts") // 10, counted)


@pytest.mark.timeout(3600)
@pytest.mark.promises(cuts=40)
@pytest.mark.parametrize("name", [name for name in WRITERS if name not in {*ON_FILES, "large values"}])
def test_a_power_cut_costs_a_database_nothing_that_was_acknowledged(
    stage: MakeStage, request: pytest.FixtureRequest, counted: Counted, name: str
):
    """SQLite's recovery is trusted; that it finds what it needs, as each connection has the settings for it, is shown.

    With `durability="normal"` the last steps may be gone, whole ones from the end.
    """
    at = stage(name)
    check(at, recorded(at), request.config.getoption("--cuts") // 30, counted)


@pytest.mark.timeout(3600)
@pytest.mark.promises(cuts=100)
def test_a_power_cut_costs_no_thread_what_was_acknowledged_to_it(
    in_memory: Path, request: pytest.FixtureRequest, counted: Counted
):
    """Threads write at once, each syncs the log behind its own commit, and others checkpoint and begin the log anew."""
    home = in_memory / "home"
    home.mkdir()
    db.some_layers(home)
    disk = Disk(home)
    process.Victim(db.threads, home).record(in_memory / "calls")
    disk.replay(trace.read(in_memory / "calls"))
    log = disk_inode(disk, "layers.db-wal")
    begun = [event for event in disk.events if isinstance(event, Write) and event.inode is log and event.offset == 0]
    assert len(begun) > 1, "the log never began anew"
    acknowledged = {event.number for event in disk.events if isinstance(event, Acknowledged)}
    assert acknowledged == set(range(db.THREADS * db.SETS))

    for number, state in enumerate(cuts.states(disk, request.config.getoption("--cuts") // 8, "threads")):
        cuts.lay_out(state.tree, in_memory / f"{number}")
        counted("cuts")
        with SQLMetadataStore(in_memory / f"{number}" / "layers.db") as store:
            assert_sound(store)
            found = {int(key): value for _, key, value in store.entries("n")}
        assert found == {number: bytes([number]) * 3_000 for number in found}
        assert state.each <= found.keys()
        shutil.rmtree(in_memory / f"{number}")


def disk_inode(disk: Disk, name: str) -> Inode:
    """Return the file that was made under a name."""
    namings = [event for event in disk.events if isinstance(event, Naming)]
    [inode] = [inode for event in namings for _, made, inode in event.changes if made == name and inode is not None]
    return inode
