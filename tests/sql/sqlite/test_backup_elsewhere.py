"""Where a backup is made from and read: any store, any user, any medium, and back again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, verify
from tests.support.command import ROOT
from tests.support.daemons import pragma
from tests.support.entries import GOLDEN_FILES, run_python, whole

_IN_MEMORY = """
import sys
from layerstore import SQLMetadataStore
with SQLMetadataStore(":memory:") as store:
    store.set("n", "k", b"v")
    store.backup(sys.argv[1])
"""
_IN_A_TRANSACTION = """
import sys
from layerstore import SQLMetadataStore
with SQLMetadataStore(sys.argv[1] + ".source") as store:
    store.set("n", "k", b"v")
    with store.transaction():
        store.backup(sys.argv[1])
"""


@pytest.mark.parametrize("program", [_IN_MEMORY, _IN_A_TRANSACTION], ids=["in memory", "inside a transaction"])
def test_a_store_is_copied_also_where_it_has_one_connection(program: str, folder: Path):
    """In a process of its own: SQLite waits for ever for a connection to end its own transaction."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, folder / "copy.db"], cwd=ROOT, capture_output=True, check=False, timeout=10
        )
    except subprocess.TimeoutExpired:
        pytest.fail("the copy never ends")

    assert (done.returncode, done.stderr) == (0, b"")
    with SQLMetadataStore(folder / "copy.db", read_only=True) as copy:
        assert copy.get("n", "k") == b"v"


_AS_NOBODY = """
import os, sys
from layerstore import SQLMetadataStore, verify
verify(sys.argv[1])  # so that everything is loaded before the right to load it is given up
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    open(os.path.join(os.path.dirname(sys.argv[1]), "new"), "x")
except PermissionError:
    pass
else:
    sys.exit("the directory can be written")
with SQLMetadataStore(sys.argv[1], read_only=True) as store:
    print(len(list(store.entries())), verify(sys.argv[1]).ok)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_reads_it_where_nothing_can_be_written(golden_store: SQLMetadataStore):
    """When given the right; until then not. As on read-only media, SQLite finds no place for a log there."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "copy.db"
        golden_store.backup(path)
        path.parent.chmod(0o555)

        refused = run_python(_AS_NOBODY, path)
        assert "StoreOpenError" in refused.stderr

        path.chmod(0o644)
        done = run_python(_AS_NOBODY, path)
        assert (done.stdout, done.stderr) == (f"{GOLDEN_FILES} True\n", "")
        assert os.listdir(name) == ["copy.db"]


def test_it_is_restored_by_copying_it(golden_store: SQLMetadataStore, folder: Path, tmp_path: Path):
    """The copy of the copy is a store as any other: it is written to, and the backup stays as it is."""
    golden_store.backup(folder / "copy.db")
    kept = (folder / "copy.db").read_bytes()
    shutil.copy(folder / "copy.db", tmp_path / "restored.db")

    with SQLMetadataStore(tmp_path / "restored.db") as restored, SQLMetadataStore(tmp_path / "restored.db") as other:
        assert whole(restored) == whole(golden_store)
        restored.set("n", "new", b"1")
        assert other.get("n", "new") == b"1"
    assert pragma(tmp_path / "restored.db", "journal_mode") == "wal"
    assert verify(tmp_path / "restored.db").ok
    assert (folder / "copy.db").read_bytes() == kept
