"""A large export is written by processes of their own; what they write, and what they cannot, is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, export_directory, import_directory
from layerstore.records import Record
from layerstore.transfer import newfiles
from layerstore.transfer.processes import Helper
from tests.transfer.conftest import AT, GOLDEN_FILES, directory_modes, files_of, is_running, run_python

Processes = list[subprocess.Popen[bytes]]


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Processes:
    """Take every export of some files for a large one; return the processes that write, each waited for once."""
    started: Processes = []

    class Noted(Helper):
        def __init__(self, program: str, arguments: Collection[str], *, descriptors: Collection[int] = ()) -> None:
            super().__init__(program, arguments, descriptors=descriptors)
            started.append(self.process)

        def is_ready(self, patience_s: float) -> bool:
            assert patience_s == 0
            return super().is_ready(60)

    monkeypatch.setattr(newfiles, "Helper", Noted)
    monkeypatch.setattr(newfiles, "_ALONE", 10)
    monkeypatch.setattr(newfiles, "_LOOKS", 5)
    monkeypatch.setattr(newfiles, "_SYNC", 20)
    monkeypatch.setattr(newfiles, "_BATCH_BYTES", 1000)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    return started


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def fill(store: SQLMetadataStore, count: int, size: int = 500) -> None:
    """Make more than the queue holds."""
    store.set_many(("n", f"sha256/{number:05}", b"%d" % number * (size // 5)) for number in range(count))


def assert_ended(processes: Processes) -> None:
    assert [process.returncode is not None for process in processes] == [True, True]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777], ids="umask-{:03o}".format)
def test_they_write_what_this_process_writes(
    sql_file: SQLMetadataStore, golden: Path, target: Path, writers: Processes, umask: int
):
    import_directory(sql_file, golden)
    before = os.umask(umask)
    try:
        report = export_directory(sql_file, target)
    finally:
        os.umask(before)

    assert report.written == GOLDEN_FILES
    assert files_of(target) == files_of(golden)
    assert directory_modes(target) == directory_modes(golden)
    assert_ended(writers)


@pytest.mark.parametrize("which", [0, 1])
def test_one_that_stands_still_keeps_nobody_else_waiting(
    sql_file: SQLMetadataStore, target: Path, writers: Processes, which: int
):
    """What one of them does not take, the other does."""
    fill(sql_file, 3000)

    def stand_still(done: int, _total: int | None) -> None:
        if done == 100:
            writers[which].send_signal(signal.SIGSTOP)
        elif done == 3000:
            writers[which].send_signal(signal.SIGCONT)

    export_directory(sql_file, target, progress=stand_still)

    assert len(files_of(target)) == 3000
    assert_ended(writers)


def test_keys_of_any_depth_and_values_of_any_size(sql_file: SQLMetadataStore, target: Path, writers: Processes):
    for number in range(300):
        size = (0, 1, 999, 1000, 1001, 31 << 10, 64 << 10, 1 << 20)[number % 8]
        deep = "/".join(f"{number % 7}" * 200 for _ in range(number % 5))
        sql_file.put(Record(f"n{number // 100}", f"{deep}/{number}".lstrip("/"), b"v" * size, AT + number))

    report = export_directory(sql_file, target)

    assert report.written == 300
    found = files_of(target)
    wanted = {
        f"{record.namespace}/{record.key}": (record.value, record.modified_at_ns) for record in sql_file.records()
    }
    assert {path: (file.value, file.modified_at_ns) for path, file in found.items()} == wanted
    assert_ended(writers)


def test_what_the_queue_cannot_take_is_written_here(
    sql_file: SQLMetadataStore, target: Path, writers: Processes, monkeypatch: pytest.MonkeyPatch
):
    """As where the system's limit for a socket is lower than a message."""
    monkeypatch.setattr(newfiles, "_MESSAGE_BYTES", 1 << 30)
    monkeypatch.setattr(newfiles, "_BATCH_BYTES", 16 << 20)
    fill(sql_file, 2000, 20_000)

    export_directory(sql_file, target)

    assert {path: file.value for path, file in files_of(target).items()} == {
        f"{record.namespace}/{record.key}": record.value for record in sql_file.records()
    }
    assert_ended(writers)


@pytest.mark.usefixtures("writers")
@pytest.mark.parametrize("executable", ["", "/nonexistent/python", "/bin/false", "/bin/echo", "{}/waits"])
def test_without_an_interpreter_to_start_this_process_writes(
    sql_file: SQLMetadataStore, golden: Path, tmp_path: Path, executable: str, monkeypatch: pytest.MonkeyPatch
):
    import_directory(sql_file, golden)
    target = tmp_path / "target"
    (tmp_path / "waits").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "waits").chmod(0o755)
    monkeypatch.setattr(sys, "executable", executable.format(tmp_path))
    monkeypatch.setattr(newfiles, "Helper", Helper)  # nobody waits for one

    export_directory(sql_file, target)

    assert files_of(target) == files_of(golden)


def test_with_one_core_this_process_writes(
    sql_file: SQLMetadataStore, golden: Path, target: Path, writers: Processes, monkeypatch: pytest.MonkeyPatch
):
    import_directory(sql_file, golden)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0})

    assert export_directory(sql_file, target).written == GOLDEN_FILES
    assert writers == []


def test_a_small_export_starts_none(
    sql_file: SQLMetadataStore, golden: Path, target: Path, writers: Processes, monkeypatch: pytest.MonkeyPatch
):
    import_directory(sql_file, golden)
    monkeypatch.setattr(newfiles, "_ALONE", GOLDEN_FILES + 1)

    assert export_directory(sql_file, target).written == GOLDEN_FILES
    assert writers == []


@pytest.mark.parametrize("which", [[0], [1], [0, 1]], ids=str)
def test_one_that_is_killed_is_an_error_and_nothing_is_left(
    sql_file: SQLMetadataStore, target: Path, writers: Processes, which: list[int]
):
    fill(sql_file, 3000)

    def kill(done: int, _total: int | None) -> None:
        if done == 1000:
            for number in which:
                writers[number].send_signal(signal.SIGKILL)

    with pytest.raises(TransferError, match="a process that wrote it was ended: export again") as raised:
        export_directory(sql_file, target, progress=kill)

    assert raised.value.path == str(target)
    assert list(target.iterdir()) == []
    assert_ended(writers)
    export_directory(sql_file, target)
    assert len(files_of(target)) == 3000


def test_an_interrupt_ends_them_and_leaves_nothing(sql_file: SQLMetadataStore, target: Path, writers: Processes):
    fill(sql_file, 3000)

    def interrupt(done: int, _total: int | None) -> None:
        if done == 1000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_directory(sql_file, target, progress=interrupt)

    assert list(target.iterdir()) == []
    assert_ended(writers)


LIMITED = """
import os, resource, sys
from layerstore import SQLMetadataStore, StoreFullError, export_directory
from layerstore.transfer import newfiles

newfiles._ALONE, newfiles._LOOKS = 10, 5
os.sched_getaffinity = lambda _: {0, 1}
ready = newfiles.Helper.is_ready
newfiles.Helper.is_ready = lambda self, _: ready(self, 60)
with SQLMetadataStore(sys.argv[1], read_only=True) as store:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        export_directory(store, sys.argv[2])
    except StoreFullError as error:
        print(error)
"""


@pytest.mark.parametrize("at", [500, 2999])
def test_what_one_of_them_cannot_write_is_an_error_of_ours_and_nothing_is_left(
    sql_file: SQLMetadataStore, target: Path, at: int
):
    """Whether it is met in the middle, or when all was given to them."""
    fill(sql_file, 3000)
    sql_file.set("n", f"sha256/{at:05}", b"x" * 20_001)

    done = run_python(LIMITED, sql_file.path, target)

    assert done.stdout == f"{target}: File too large: free some space, then export again\n", done.stderr
    assert list(target.iterdir()) == []


EXPORT = """
import os, resource, sys
from layerstore import FSMetadataStore, export_directory
from layerstore.transfer import newfiles, reader

newfiles._ALONE, newfiles._LOOKS, reader._FIRST, reader.batches.RECORDS = 10, 5, 1, 20
os.sched_getaffinity = lambda _: {0, 1}
ready, seen = newfiles.Helper.is_ready, []

def wait(self, _):
    seen.append(ready(self, 60))
    return seen[-1]

newfiles.Helper.is_ready = wait
if sys.argv[3] == "many":
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 4096))
    kept = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
else:
    os.close(0)
with FSMetadataStore(sys.argv[1]) as store:
    export_directory(store, sys.argv[2])
print(seen)
"""


@pytest.mark.parametrize("descriptors", ["many", "no standard input"])
def test_with_any_descriptors(golden: Path, target: Path, descriptors: str):
    """Numbers above what select(2) takes; and 0, which the pipes of a new process would take."""
    done = run_python(EXPORT, golden, target, descriptors)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[True, True") or descriptors != "many"
    assert files_of(target) == files_of(golden)


KILLED = """
import os, sys
from layerstore import SQLMetadataStore, export_directory
from layerstore.transfer import newfiles

newfiles._ALONE, newfiles._LOOKS = 10, 5
os.sched_getaffinity = lambda _: {0, 1}
started, ready = {}, newfiles.Helper.is_ready

def wait(self, _):
    started[self.process.pid] = True
    return ready(self, 60)

newfiles.Helper.is_ready = wait

def die(done, _):
    if done == 1000:
        print(*started, flush=True)
        os.kill(os.getpid(), 9)

with SQLMetadataStore(sys.argv[1], read_only=True) as store:
    export_directory(store, sys.argv[2], progress=die)
"""


def test_when_whoever_exports_is_killed_they_end_by_themselves_and_no_name_is_given(
    sql_file: SQLMetadataStore, target: Path
):
    fill(sql_file, 3000)

    died = run_python(KILLED, sql_file.path, target)

    assert died.returncode == -signal.SIGKILL, died.stderr
    pids = [int(pid) for pid in died.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_running, pids)))
    assert [name[:16] for name in os.listdir(target)] == [".tmp-layerstore-"]
    export_directory(sql_file, target)
    assert os.listdir(target) == ["n"]
    assert len(files_of(target)) == 3000


@pytest.mark.usefixtures("writers")
def test_what_they_still_write_into_is_not_removed(sql_file: SQLMetadataStore, target: Path):
    """As when whoever exported was killed, and took its own lock along."""
    sql_file.set("n", "k", b"v")
    unfinished = target / ".tmp-layerstore-1"
    unfinished.mkdir(parents=True)
    top = os.open(target, os.O_RDONLY)
    crew = newfiles._Crew(str(target), top)
    try:
        crew.gather()
        crew.gather()
        assert crew.give(((unfinished.name, "sha256"), [("1", b"v", AT)]))
        wait_until((unfinished / "sha256" / "1").exists)

        export_directory(sql_file, target)

        assert sorted(os.listdir(target)) == [unfinished.name, "n"]
        crew.finish()
    finally:
        crew.stop()
        os.close(top)
    export_directory(sql_file, target)
    assert os.listdir(target) == ["n"]


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
