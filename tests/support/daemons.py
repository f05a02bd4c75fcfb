"""Stores with something in quarantine, processes that look like a daemon."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, import_directory
from tests.support.entries import GOLDEN

Start = Callable[..., int]
Become = Callable[..., int]
Lock = Callable[[Path], None]

# Until its standard input ends; a builtin of the shell, so that the process keeps its name and arguments.
_WAIT = "echo ready; read line"
_LOCK = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def _running(arguments: list[str], *, executable: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    # Python looks for its library beside the name that it is given, which may be a daemon's.
    environment = {**os.environ, "PYTHONHOME": sys.base_prefix}
    with subprocess.Popen(
        arguments, executable=executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=cwd, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        # Only from then on does /proc show its arguments for sure.
        assert process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start harmless processes under the name and with the arguments of another program; they end with the test."""
    with ExitStack() as stack:

        def start_one(name: str, *arguments: object, cwd: Path | None = None) -> int:
            running = _running([name, "-c", _WAIT, "-", *map(str, arguments)], executable="/bin/sh", cwd=cwd)
            return stack.enter_context(running).pid

        yield start_one


@pytest.fixture
def become() -> Iterator[Become]:
    """Start processes that run some Python first, and then look like a daemon; they end with the test."""
    with ExitStack() as stack:

        def become_one(code: str, *arguments: object, name: str = "dockerd") -> int:
            whole = f"import ctypes, os, sys\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"
            running = _running([name, "-c", whole, *map(str, arguments)], executable=sys.executable)
            return stack.enter_context(running).pid

        yield become_one


@pytest.fixture
def lock() -> Iterator[Lock]:
    """Have another process lock a file, as bbolt does, until the test ends."""
    with ExitStack() as stack:

        def lock_one(path: Path) -> None:
            stack.enter_context(_running([sys.executable, "-c", _LOCK, str(path)], executable=sys.executable))

        yield lock_one


@pytest.fixture
def dead() -> int:
    """The process id of a process that has ended and was waited for."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


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
