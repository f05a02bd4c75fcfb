"""Fork: the child uses the store with connections of its own, and takes nothing from the parent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import OpenSQL

ROOT = Path(__file__).resolve().parents[3]

# Each program runs in an interpreter of its own: pytest's has threads, and a fork of those is warned of.
PRELUDE = """
import os, sys, threading
from sqlalchemy import text
from layerstore import SQLMetadataStore, StoreError, V2Metadata, V2MetadataService, NotFoundError

path = sys.argv[1]

def fork(work):
    "Run `work` in a child; return its exit code."
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def refused(use):
    "Expect to be told that the file cannot be used here."
    try:
        use()
    except StoreError as error:
        assert "forked while" in str(error), error
    else:
        raise AssertionError("it was used with connections that are the parent's")

def keys(store):
    return [key for _, key, _ in store.entries()]
"""

PROGRAMS = {
    "the child uses the store that the parent opened": """
store = SQLMetadataStore(path)
store.set("n", "parent", b"")
def child():
    assert store.get("n", "parent") == b""
    store.set("n", "child", b"")
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM metadata")).scalar() == 2
assert fork(child) == 0
assert keys(store) == ["child", "parent"]
store.set("n", "after", b"")
""",
    "the engine's pooled connections stay the parent's": """
store = SQLMetadataStore(path)
with store.engine.connect() as held:
    held.execute(text("SELECT 1"))
    def child():
        refused(lambda: store.engine.connect())
        refused(lambda: store.set("n", "child", b""))
        store.close()
    assert fork(child) == 0
    assert held.execute(text("SELECT count(*) FROM metadata")).scalar() == 0
def second():
    store.set("n", "child", b"")
    with store.engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM metadata")).scalar() == 1
assert fork(second) == 0
with store.engine.connect() as connection:
    assert connection.execute(text("SELECT count(*) FROM metadata")).scalar() == 1
""",
    "a transaction that is open in the parent is not the child's": """
store = SQLMetadataStore(path, timeout_s=0.1)
with store.transaction():
    store.set("n", "parent", b"")
    def child():
        refused(lambda: store.get("n", "parent"))
        refused(lambda: store.set("n", "child", b""))
        refused(lambda: SQLMetadataStore(path))
        store.close()
    assert fork(child) == 0
    store.set("n", "parent too", b"")
assert keys(store) == ["parent", "parent too"]
""",
    "leaving the parent's transaction in the child ends nothing": """
store = SQLMetadataStore(path)
pid = os.getpid()
class Left(Exception): pass
try:
    with store.transaction():
        store.set("n", "parent", b"")
        child = os.fork()
        if child == 0:
            raise Left
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
except Left:
    os._exit(7)
assert os.getpid() == pid
assert keys(store) == ["parent"]
""",
    "committing the parent's transaction in the child is an error": """
store = SQLMetadataStore(path)
pid = os.getpid()
try:
    with store.transaction():
        store.set("n", "parent", b"")
        child = os.fork()
        if child != 0:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
except StoreError:
    os._exit(7 if os.getpid() != pid else 8)
if os.getpid() != pid:
    os._exit(9)
assert keys(store) == ["parent"]
""",
    "connections of other threads are not the child's": """
store = SQLMetadataStore(path)
ready, done = threading.Barrier(4), threading.Event()
def work(number):
    with store.transaction() if number == 0 else open(os.devnull):
        if number == 0:
            store.set("n", "thread", b"")
        else:
            list(store.entries())
        ready.wait()
        done.wait()
threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
for thread in threads: thread.start()
ready.wait()
def child():
    refused(lambda: keys(store))
    store.close()
assert fork(child) == 0
done.set()
for thread in threads: thread.join()
assert keys(store) == ["thread"]
def second():
    store.set("n", "child", b"")
assert fork(second) == 0
assert keys(store) == ["child", "thread"]
""",
    "an iteration that the child drops goes on in the parent": """
store = SQLMetadataStore(path)
store.set_many(("n", str(number), b"") for number in range(9))
entries = store.entries()
next(entries)
def child():
    entries.close()
    refused(lambda: store.set("n", "child", b""))
    store.close()
assert fork(child) == 0
assert [key for _, key, _ in entries] == list("12345678")
assert len(keys(store)) == 9
""",
    "what a child wrote stays when the parent closes first": """
store = SQLMetadataStore(path)
store.set("n", "parent", b"")
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    store.set("n", "first", b"")
    os.read(reading, 1)
    for number in range(20):
        store.set("n", f"child {number}", b"")
    os._exit(0)
os.close(reading)
store.close()
os.close(writing)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
with SQLMetadataStore(path) as store:
    assert len(keys(store)) == 22
""",
    "many children write at once": """
store = SQLMetadataStore(path)
store.set("n", "parent", b"")
children = []
for number in range(6):
    child = os.fork()
    if child == 0:
        for step in range(10):
            V2MetadataService(store).add("sha256:" + "0" * 64, V2Metadata(f"sha256:{10 * number + step:064x}"[:71]))
        os._exit(0)
    children.append(child)
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
assert len(keys(store)) == 1 + 1 + 60
assert len(V2MetadataService(store).get_metadata("sha256:" + "0" * 64)) == 50
""",
    "a child of a child": """
store = SQLMetadataStore(path)
def grandchild():
    store.set("n", "grandchild", b"")
def child():
    store.set("n", "child", b"")
    assert fork(grandchild) == 0
assert fork(child) == 0
assert keys(store) == ["child", "grandchild"]
""",
    "many entries are taken in beside forks, and the child is told that the file is in use": """
store = SQLMetadataStore(path)
def entries():
    for number in range(3000):
        if number in (1500, 2500):
            assert fork(lambda: refused(lambda: store.get("n", "0"))) == 0
        yield "n", str(number), b"v"
store.set_many(entries())
assert len(store) == 3000
assert fork(lambda: store.get("n", "0")) == 0
""",
    "a store in memory is shared with the child, and stays the parent's": """
store = SQLMetadataStore(":memory:")
store.set("n", "parent", b"")
def child():
    assert keys(store) == ["parent"]
    store.set("n", "child", b"")
    store.close()
assert fork(child) == 0
assert keys(store) == ["child", "parent"]
begun, done = threading.Event(), threading.Event()
def work():
    with store.transaction():
        store.set("n", "thread", b"")
        begun.set()
        done.wait()
thread = threading.Thread(target=work)
thread.start()
begun.wait()
def second():
    refused(lambda: keys(store))
    store.close()
assert fork(second) == 0
done.set()
thread.join()
assert keys(store) == ["child", "parent", "thread"]
SQLMetadataStore(path).close()
""",
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=list(PROGRAMS))
def test_fork(tmp_path: Path, open_sql: OpenSQL, program: str):
    """As the test's identifier says."""
    path = tmp_path / "layers.db"
    result = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + program, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stderr) == (0, "")
    open_sql(path).set("n", "afterwards", b"")
