"""Children under a limit or as another user, and file systems that are small or can only be read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.robustness.faults.operations import ROOT

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user, or mount")

Mount = Callable[..., None]


def child(what: str, path: Path, folder: Path, *, user: int | None = None, room: int = 0) -> dict[str, Any]:
    """Run `tests.robustness.faults.operations` in a process of its own, and return what it found."""
    arguments = [str(os.geteuid() if user is None else user), what, str(path), str(folder), str(room)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.robustness.faults.operations", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can reach, which those of pytest are not."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """Mount a small file system in memory; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remounted(folder: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(folder)], check=True)


def held(folder: Path) -> dict[str, bytes]:
    """Return what the files below a folder hold, but for what SQLite keeps beside a database also for a reader.

    That is a log without a byte in it, and its index, which is memory that processes share. The file by which writers
    queue is always empty.
    """
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(path.relative_to(folder)): content
        for path, content in files.items()
        if not path.name.endswith(("-shm", "-queue")) and (content or not path.name.endswith("-wal"))
    }


def emptied(folder: Path) -> None:
    """Remove what operations have made in a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "broken.db"
