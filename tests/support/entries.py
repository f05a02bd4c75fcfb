"""Directories to move in and out, and ways to look at all of a directory or a store."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from layerstore import ImportReport, SQLMetadataStore, V2Metadata
from layerstore.records import encode_list
from tests.conftest import database_rows
from tests.support.strategies import sha256

GOLDEN = Path(__file__).parents[1] / "golden" / "docker-20.10.24" / "distribution"
GOLDEN_FILES = 178

LISTS, MAPPINGS, V1 = "v2metadata-by-diffid", "diffid-by-digest", "v1id"
AT = 1_700_000_000_123_456_789
"""A time with nanoseconds that a float would lose."""

Write = Callable[..., Path]


class File(NamedTuple):
    """What a transfer must keep of a file."""

    value: bytes
    mode: int
    modified_at_ns: int


def files_of(base: Path) -> dict[str, File]:
    """Return every regular file below a directory, by its path."""
    found = {}
    for path in base.rglob("*"):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            found[str(path.relative_to(base))] = File(
                path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_mtime_ns
            )
    return found


def directory_modes(base: Path) -> dict[str, int]:
    """Return the mode of a directory and of those below it."""
    return {
        str(path.relative_to(base)): stat.S_IMODE(path.stat().st_mode)
        for path in (base, *base.rglob("*"))
        if path.is_dir()
    }


def whole(store: SQLMetadataStore) -> dict[str, list[tuple[object, ...]]]:
    """Return every row of every table, times and quarantine included."""
    tables = ("metadata", "v2_metadata", "quarantine")
    return {table: database_rows(store, f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables}


def rows_of(store: SQLMetadataStore) -> list[tuple[object, ...]]:
    """Return the truth: all of the table `metadata`."""
    return whole(store)["metadata"]


def quarantine_of(store: SQLMetadataStore) -> list[tuple[object, ...]]:
    return database_rows(store, "SELECT namespace, key, value, reason FROM quarantine ORDER BY namespace, key, id")


def layer_key(number: int) -> str:
    return sha256(number).replace(":", "/")


def entries(*numbers: int, repository: str = "localhost:5000/team/app") -> bytes:
    """Return a list that holds one association for each number."""
    return encode_list([V2Metadata(sha256(number), repository) for number in numbers])


def numbers_of(value: bytes) -> list[int]:
    """Return the numbers that `entries` was given."""
    from layerstore.records import decode_list

    return [int(entry.digest.removeprefix("sha256:"), 16) for entry in decode_list(value)]


def write_file(base: Path, namespace: str, key: str, value: bytes, at: int = AT) -> Path:
    path = base / namespace / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    os.utime(path, ns=(at, at))
    return path


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, which may die."""
    root = Path(__file__).parents[2]
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=root, capture_output=True, text=True, check=False
    )


def paths_in(reports: Iterable[object], base: Path) -> list[str]:
    """Return the paths that findings of a report name, below a directory."""
    return [os.path.relpath(getattr(report, "path"), base) for report in reports]  # noqa: B009  # any finding


def sources_of(report: ImportReport) -> list[str]:
    """Return the names of what an import read, in its order."""
    return [source.source for source in report.sources]


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy of what a real daemon wrote, with Docker's modes and a time of its own for each file."""
    base = tmp_path / "golden"
    shutil.copytree(GOLDEN, base)
    for number, path in enumerate(sorted(base.rglob("*"))):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.is_file():
            os.utime(path, ns=(AT + number, AT + number))
    base.chmod(0o700)
    return base


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty metadata directory."""
    base = tmp_path / "incoming" / "distribution"
    base.mkdir(parents=True)
    return base


@pytest.fixture
def write(directory: Path) -> Write:
    """Write an entry's file into `directory`."""

    def write_one(namespace: str, key: str, value: bytes, at: int = AT) -> Path:
        return write_file(directory, namespace, key, value, at)

    return write_one


def is_running(pid: int) -> bool:
    """Tell whether a process is there and has not ended: nobody may be left who waits for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
