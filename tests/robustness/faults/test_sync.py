"""The disk fails when the log is synced behind a commit: the writer is told, writes no more, and begins on firm ground.

strace makes the kernel's answer to one call of `fdatasync` an error.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore
from tests.conftest import OpenSQL
from tests.robustness.crash import trace
from tests.support.counting import Counted

PROGRAM = """
import sys, threading
from layerstore import SQLMetadataStore, StoreBusyError, StoreError

path, open_another = sys.argv[1], len(sys.argv) > 2

def refused(write, says):
    try:
        write()
    except StoreError as error:
        assert says in str(error) and error.path == path, error
        return error
    raise AssertionError("it was taken for durable")

store = SQLMetadataStore(path)
store.set("n", "first", b"")
print("begun", flush=True)
reader = SQLMetadataStore(path, read_only=True) if open_another else None
error = refused(lambda: WRITE, "this was written, but is not known to be durable")
assert isinstance(error.__cause__, OSError)
for write in (lambda: store.set("n", "k", b""), lambda: store.delete("n", "first"), lambda: store.set_many([])):
    refused(write, "an earlier write is not known to be durable")
failures = []
def in_a_thread():
    try:
        refused(lambda: store.set("n", "thread", b""), "an earlier write is")
    except BaseException as error:
        failures.append(error)
thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
assert failures == []
assert store.get("n", "first") == b""
assert store.get("n", "doubtful") == b"v"
if reader is not None:
    entries = reader.entries()
    next(entries)
    try:
        SQLMetadataStore(path, timeout_s=0.1)
    except StoreBusyError as error:
        assert "stop the others, then open it again" in str(error), error
    else:
        raise AssertionError("it was opened although the log could not be written back")
    entries.close()
with SQLMetadataStore(path) as again:
    import os
    assert os.path.getsize(path + "-wal") == 0
    again.set("n", "again", b"")
print("done", flush=True)
store.close()
"""


def run(path: Path, write: str, log: Path, *options: str, arguments: tuple[str, ...] = ()) -> str:
    program = PROGRAM.replace("WRITE", write)
    strace = ["strace", "-f", "-y", "-o", str(log), "-e", "trace=fdatasync,write", *options]
    command = [*strace, sys.executable, "-c", program, str(path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


WRITES = {
    "set": 'store.set("n", "doubtful", b"v")',
    "set_many": 'store.set_many([("n", "doubtful", b"v"), ("n", "other", b"")])',
}


@pytest.mark.parametrize("arguments", [(), ("beside a reader",)], ids=["alone", "beside a reader"])
@pytest.mark.parametrize("write", WRITES.values(), ids=list(WRITES))
def test_a_sync_that_fails_is_told_and_nothing_more_is_written(
    tmp_path: Path, open_sql: OpenSQL, counted: Counted, write: str, arguments: tuple[str, ...]
):
    if (reason := trace.why_untraceable()) is not None:
        pytest.skip(reason)
    # How many syncs there are up to the first write, each run the same: the next one is that of the doubtful write.
    assert "it was taken for durable" in run(tmp_path / "rehearsal.db", write, tmp_path / "calls", arguments=arguments)
    before, begun, _ = re.split(r'"(begun)', (tmp_path / "calls").read_text(), maxsplit=1)
    assert begun
    number = len(re.findall(r"fdatasync\(", before)) + 1

    failing = ("-e", f"inject=fdatasync:error=EIO:when={number}")
    said = run(tmp_path / "layers.db", write, tmp_path / "calls", *failing, arguments=arguments)
    counted("faults")

    assert re.search(r"fdatasync\(\d+<[^>]*layers.db-wal>\) += -1 EIO .*INJECTED", (tmp_path / "calls").read_text())
    assert said == "begun\ndone\n"
    store: SQLMetadataStore = open_sql()
    assert {key for _, key, _ in store.entries("n")} >= {"first", "doubtful", "again"}
