"""A stage for one writer: the directory that it begins with, copies of it, and how an undisturbed run goes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.robustness.crash import process, trace
from tests.robustness.crash.content import Content
from tests.robustness.crash.writers import WRITERS, Writer


class Stage:
    """All that a test needs to let one writer work, again and again.

    Attributes:
        writer: the writer.
        steps: what is there at first, and after each of its steps.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.writer: Writer = WRITERS[name]
        self._folder = folder
        self._template = folder / "template"
        self._template.mkdir()
        self.writer.prepare(self._template)
        self._homes = 0
        home = self.home()
        self.steps: list[Content] = process.rehearse(self.writer.work, self.writer.content, home)
        assert len(self.steps) > 1
        assert all(before != after for before, after in zip(self.steps, self.steps[1:], strict=False))
        self.forget(home)

    @property
    def log(self) -> Path:
        """Where strace may write to."""
        return self._folder / "calls"

    def home(self) -> Path:
        """Return a new copy of the directory to begin with."""
        home = self.empty()
        shutil.copytree(self._template, home)
        return home

    def empty(self) -> Path:
        """Return a path where nothing is."""
        self._homes += 1
        return self._folder / f"home{self._homes}"

    def forget(self, home: Path) -> None:
        shutil.rmtree(home)

    def victim(self, home: Path) -> process.Victim:
        return process.Victim(self.writer.work, home)


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[str], Stage]:
    return lambda name: Stage(name, tmp_path)


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A folder that is kept in memory, for trials whose outcome does not depend on what has reached a disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < 256 << 20:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="layerstore-", dir=memory) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def strace() -> None:
    """Skip where strace cannot trace, and say why."""
    reason = trace.why_untraceable()
    if reason is not None:
        pytest.skip(reason)
