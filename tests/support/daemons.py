"""Stores with something in quarantine, and locks as a daemon holds them."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, import_directory
from tests.support.entries import GOLDEN

Lock = Callable[[Path], None]

_LOCK = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def lock() -> Iterator[Lock]:
    """Have another process lock a file, as bbolt does, until the test ends."""
    with ExitStack() as stack:

        def lock_one(path: Path) -> None:
            command = [sys.executable, "-c", _LOCK, str(path)]
            process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            stack.callback(process.stdin.close)

        yield lock_one


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with metadata and the databases that a daemon locks."""
    root = tmp_path / "docker"
    for place in ("volumes/metadata.db", "network/files/local-kv.db", "buildkit/cache.db"):
        (root / place).parent.mkdir(parents=True)
        (root / place).write_bytes(b"bbolt")
    (root / "image" / "overlay2" / "distribution" / "n").mkdir(parents=True)
    return root


@pytest.fixture
def golden_store(sql_file: SQLMetadataStore) -> SQLMetadataStore:
    import_directory(sql_file, GOLDEN)
    sql_file.quarantine("n", "k", b"aside", "why")
    return sql_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where backups go, so that it can be seen what is left beside them."""
    (tmp_path / "backups").mkdir()
    return tmp_path / "backups"


def pragma(path: Path, name: str) -> object:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(f"PRAGMA {name}").fetchone()[0]
