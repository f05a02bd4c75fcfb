"""A large directory is read by a process of its own; what it reads, and what it cannot, is the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreOpenError, TransferError, import_directory, scanning
from layerstore.scanning import Odd
from layerstore.transfer import reader


@pytest.fixture
def in_a_process(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Take every directory for a large one, and this process for one that must not read; return those that do."""
    started: list[subprocess.Popen[bytes]] = []
    start = reader._start

    def noted(base: str) -> subprocess.Popen[bytes] | None:
        process = start(base)
        if process is not None:
            started.append(process)
        return process

    monkeypatch.setattr(reader, "_LARGE", 1)
    monkeypatch.setattr(reader, "_start", noted)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1})
    return started


def read(base: Path) -> tuple[list[tuple[object, ...]], list[Odd]]:
    batches = list(reader.scan(str(base)))
    records = [tuple(record) for batch in batches for record in batch.records]
    return records, [odd for batch in batches for odd in batch.odd]


def test_it_reads_what_a_scan_in_this_process_reads(golden: Path, in_a_process: list[subprocess.Popen[bytes]]):
    (golden / "v1id").mkdir(exist_ok=True)
    (golden / "v1id" / "link").symlink_to("/etc/passwd")
    (golden / "v1id" / ".tmp-left").write_bytes(b"")
    (golden / "v1id" / os.fsdecode(b"not-utf8-\xff")).write_bytes(b"")
    (golden / "a file").write_bytes(b"")

    records, odd = read(golden)

    found = list(scanning.scan(str(golden)))
    assert records == [tuple(one) for one in found if not isinstance(one, Odd)]
    assert odd == [one for one in found if isinstance(one, Odd)]
    assert sorted(one.kind for one in odd) == ["name", "outside", "special", "temporary"]
    assert [process.returncode is not None for process in in_a_process] == [True]


def test_an_import_takes_what_it_reads(
    sql_file: SQLMetadataStore, golden: Path, in_a_process: list[subprocess.Popen[bytes]]
):
    report = import_directory(sql_file, golden)

    assert report.ok
    assert report.added == report.read == len(read(golden)[0])
    assert len(in_a_process) == 2


@pytest.mark.usefixtures("in_a_process")
@pytest.mark.parametrize("executable", ["", "/nonexistent/python", "/bin/false", "/bin/echo"])
def test_without_an_interpreter_to_start_this_process_reads(
    golden: Path, executable: str, monkeypatch: pytest.MonkeyPatch
):
    expected = read(golden)
    monkeypatch.setattr(sys, "executable", executable)
    assert reader._start(str(golden)) is None

    assert read(golden) == expected


def test_with_one_core_this_process_reads(golden: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "_LARGE", 1)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0})
    monkeypatch.setattr(subprocess, "Popen", lambda *_: pytest.fail("started"))

    assert len(read(golden)[0]) > 100


def test_a_reader_that_is_killed_is_an_error_and_nothing_is_taken(
    sql_file: SQLMetadataStore, tmp_path: Path, in_a_process: list[subprocess.Popen[bytes]]
):
    base = tmp_path / "distribution"
    (base / "other").mkdir(parents=True)
    for number in range(3000):  # more than the pipe holds, so that it cannot be done before it is killed
        (base / "other" / f"{number:04}").write_bytes(b"x" * 2000)

    def kill(done: int, _total: int | None) -> None:
        if done == 1:
            in_a_process[0].send_signal(signal.SIGKILL)

    with pytest.raises(TransferError, match="ended: try again; nothing was taken") as raised:
        import_directory(sql_file, base, progress=kill)

    assert raised.value.path == str(base)
    assert list(sql_file.entries()) == []


def test_a_base_that_vanishes_is_an_error(tmp_path: Path, in_a_process: list[subprocess.Popen[bytes]]):
    process = reader._start(str(tmp_path / "gone"))
    assert process is not None
    assert process.stdout is not None
    with pytest.raises(StoreOpenError, match="cannot be read"):
        list(reader._batches(process.stdout, str(tmp_path / "gone")))
    process.stdout.close()
    process.wait()
    assert in_a_process == [process]


def test_whoever_stops_in_the_middle_leaves_no_process(tmp_path: Path, in_a_process: list[subprocess.Popen[bytes]]):
    (tmp_path / "other").mkdir()
    for number in range(2000):
        (tmp_path / "other" / f"{number:04}").write_bytes(b"x" * 2000)

    batches = reader.scan(str(tmp_path))
    next(batches)
    batches.close()  # type: ignore[attr-defined]  # it is a generator

    assert in_a_process[0].poll() is not None
