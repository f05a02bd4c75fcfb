"""A large directory is read by processes of their own; what they read, and what they cannot, is the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, import_directory
from layerstore.files import scanning
from layerstore.files.scanning import Odd
from layerstore.transfer import reader
from tests.transfer.conftest import is_running


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Take every directory of some files for a large one; return the processes that read."""
    started: list[subprocess.Popen[bytes]] = []

    class Noted(reader._Reader):
        def __init__(self, base: str) -> None:
            super().__init__(base)
            started.append(self._helper.process)

    monkeypatch.setattr(reader, "_FIRST", 1)
    monkeypatch.setattr("layerstore.transfer.batches.RECORDS", 20)
    monkeypatch.setattr("layerstore.files.walking._RUN", 20)
    monkeypatch.setattr(reader, "_Reader", Noted)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    return started


def read(base: Path) -> tuple[list[tuple[object, ...]], list[Odd]]:
    batches = list(reader.scan(str(base)))
    records = [tuple(record) for batch in batches for record in batch.records]
    return records, [odd for batch in batches for odd in batch.odd]


def many_files(base: Path) -> None:
    """Make more than the pipes hold, so that nobody can be done before somebody reads."""
    (base / "other").mkdir(parents=True)
    for number in range(3000):
        (base / "other" / f"{number:04}").write_bytes(b"x" * 2000)


def test_they_read_what_a_scan_in_this_process_reads(golden: Path, readers: list[subprocess.Popen[bytes]]):
    (golden / "v1id").mkdir(exist_ok=True)
    (golden / "v1id" / "link").symlink_to("/etc/passwd")
    (golden / "v1id" / ".tmp-left").write_bytes(b"")
    (golden / "v1id" / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"")
    (golden / "a file").write_bytes(b"")
    deep = golden / "deep" / "a" / "b" / "c"
    deep.mkdir(parents=True)
    for number in range(50):
        (deep / f"{number}").write_bytes(b"%d" % number)
        (deep / f"{number}.d").mkdir()
        (deep / f"{number}.d" / "one").write_bytes(b"1")

    records, odd = read(golden)

    found = list(scanning.scan(str(golden)))
    assert records == [tuple(one) for one in found if not isinstance(one, Odd)]
    assert odd == [one for one in found if isinstance(one, Odd)]
    assert sorted(one.kind for one in odd) == ["name", "outside", "special", "temporary"]
    assert [process.returncode is not None for process in readers] == [True, True]


def test_an_import_takes_what_they_read(
    sql_file: SQLMetadataStore, golden: Path, readers: list[subprocess.Popen[bytes]], tmp_path: Path
):
    lists = golden / "v2metadata-by-diffid" / "sha256"
    (lists / ("0" * 64)).write_bytes(b"{")
    (lists / "no-digest").write_bytes(b"[]")
    mappings = golden / "diffid-by-digest" / "sha256"
    (mappings / ("f" * 64)).write_bytes(b"")

    report = import_directory(sql_file, golden)

    assert len(readers) == 2
    assert report.quarantined_count == 3
    assert report.added == report.read - 3
    quarantined = {Path(one.path) for one in report.quarantined}
    with SQLMetadataStore(tmp_path / "one-by-one.db") as other:
        for record in scanning.scan(str(golden)):
            assert not isinstance(record, Odd)
            if golden / record.namespace / record.key not in quarantined:
                other.put(record)
        assert list(other.records()) == list(sql_file.records())


def test_a_reader_answers_in_parts_so_that_large_files_are_not_in_memory_together(
    golden: Path, readers: list[subprocess.Popen[bytes]]
):
    (golden / "large").mkdir()
    for number in range(30):
        (golden / "large" / f"{number:02}").write_bytes(bytes([number]) * (1 << 20))

    batches = [batch.records for batch in reader.scan(str(golden))]

    assert len(readers) == 2
    assert max(sum(len(row[2]) for row in records) for records in batches) < 6 << 20
    values = [row[2] for records in batches for row in records if row[0] == "large"]
    assert values == [bytes([number]) * (1 << 20) for number in range(30)]


def test_with_the_smallest_of_pipes_nobody_waits_for_ever(
    tmp_path: Path, readers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
):
    """As where a user's pipes may have a page each: requests and answers are many times as large."""
    monkeypatch.setattr(reader, "_PIPE_BYTES", 4096)
    monkeypatch.setattr("layerstore.transfer.batches.RECORDS", 1000)
    monkeypatch.setattr("layerstore.files.walking._RUN", 1000)
    many_files(tmp_path)

    assert len(read(tmp_path)[0]) == 3000
    assert len(readers) == 2


@pytest.mark.usefixtures("readers")
@pytest.mark.parametrize("executable", ["", "/nonexistent/python", "/bin/false", "/bin/echo", "{}/waits"])
def test_without_an_interpreter_to_start_this_process_reads(
    golden: Path, tmp_path: Path, executable: str, monkeypatch: pytest.MonkeyPatch
):
    expected = read(golden)
    (tmp_path / "waits").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "waits").chmod(0o755)
    monkeypatch.setattr(sys, "executable", executable.format(tmp_path))
    monkeypatch.setattr(reader, "_PATIENCE_S", 0.5)

    assert read(golden) == expected


def test_with_one_core_this_process_reads(
    golden: Path, readers: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0})

    assert len(read(golden)[0]) > 100
    assert readers == []


@pytest.mark.parametrize("which", [0, 1])
def test_a_reader_that_is_killed_is_an_error_and_nothing_is_taken(
    sql_file: SQLMetadataStore, tmp_path: Path, readers: list[subprocess.Popen[bytes]], which: int
):
    base = tmp_path / "distribution"
    many_files(base)

    def kill(done: int, _total: int | None) -> None:
        if done == 100:
            readers[which].send_signal(signal.SIGKILL)

    with pytest.raises(TransferError, match="ended: try again; nothing was taken") as raised:
        import_directory(sql_file, base, progress=kill)

    assert raised.value.path == str(base)
    assert list(sql_file.entries()) == []
    assert [process.returncode is not None for process in readers] == [True, True]


def test_what_vanishes_before_it_is_read_is_odd(tmp_path: Path, readers: list[subprocess.Popen[bytes]]):
    for name in ("first", "second"):
        (tmp_path / name / "sha256").mkdir(parents=True)
        for number in range(300):
            (tmp_path / name / "sha256" / f"{number:03}").write_bytes(b"")

    batches = reader.scan(str(tmp_path))
    seen = [next(batches)]
    shutil.rmtree(tmp_path / "second" / "sha256")
    (tmp_path / "first" / "sha256" / "299").unlink()
    seen += batches

    assert len(readers) == 2
    odd = [one for batch in seen for one in batch.odd]
    assert ("first/sha256/299", "vanished") in [(one.path, one.kind) for one in odd]
    assert {one.path.split("/")[0] for one in odd if one.path != "first/sha256/299"} <= {"second"}
    assert sum(len(batch.records) for batch in seen) >= 299


def test_whoever_stops_in_the_middle_leaves_no_process(tmp_path: Path, readers: list[subprocess.Popen[bytes]]):
    many_files(tmp_path)

    batches = reader.scan(str(tmp_path))
    for _ in range(3):
        next(batches)
    batches.close()  # type: ignore[attr-defined]  # it is a generator

    assert [process.poll() is not None for process in readers] == [True, True]


def test_a_reader_whose_importer_is_killed_ends_by_itself(tmp_path: Path):
    many_files(tmp_path / "distribution")
    code = (
        "import os, sys; from layerstore.transfer import reader; reader._FIRST = 1; reader.batches.RECORDS = 20\n"
        "import layerstore.files.walking; layerstore.files.walking._RUN = 20; os.sched_getaffinity = lambda _: {0, 1}\n"
        "made = []; start = reader._start\n"
        "reader._start = lambda base: made.extend(start(base)) or list(made)\n"
        "batches = reader.scan(sys.argv[1]); next(batches); next(batches)\n"
        "print(*(one._helper.process.pid for one in made), flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "distribution"], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2

    end = time.monotonic() + 60
    while left := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.05)
