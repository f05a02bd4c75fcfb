"""What the figures were measured on, without which they say nothing."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, and the versions of what runs on it."""

    date: str
    processor: str
    cores: int
    memory_gb: int
    kernel: str
    file_system: str
    python: str
    sqlite: str
    sqlalchemy: str
    diskcache: str

    def __str__(self) -> str:
        return (
            f"{self.date}, {self.processor}, {self.cores} cores, {self.memory_gb} GB, Linux {self.kernel},"
            f" {self.file_system}, Python {self.python}, SQLite {self.sqlite}, SQLAlchemy {self.sqlalchemy},"
            f" diskcache {self.diskcache}"
        )


def this_machine(folder: Path) -> Machine:
    """Look at this machine, and at the file system that the stores are on."""
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return Machine(
        date=date.today().isoformat(),
        processor=model[1] if model else platform.machine(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        kernel=platform.release().partition("-")[0],
        file_system=_file_system(folder),
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        sqlalchemy=version("sqlalchemy"),
        diskcache=version("diskcache"),
    )


def _file_system(folder: Path) -> str:
    device = folder.stat().st_dev
    found = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == found:
            return after.split()[0]
    return "an unknown file system"
