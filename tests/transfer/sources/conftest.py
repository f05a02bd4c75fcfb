"""Places to import from, of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from layerstore import ImportReport, SQLMetadataStore
from tests.support.archives import archive, member
from tests.support.entries import AT, V1, rows_of, write_file


def fill_directory(base: Path, key: str, value: bytes, at: int = AT) -> Path:
    """Make a metadata directory with one entry, and an empty namespace of Docker's by which it is known for one."""
    write_file(base, "n", key, value, at)
    (base / V1).mkdir(exist_ok=True)
    return base


def fill_database(path: Path, key: str, value: bytes) -> Path:
    """Make a database with one entry."""
    with SQLMetadataStore(path) as store:
        store.set("n", key, value)
    return path


def fill_archive(path: Path, key: str, value: bytes) -> Path:
    """Make an archive with one entry."""
    path.write_bytes(archive(member(f"distribution/n/{key}", value)))
    return path


def counts(report: ImportReport) -> list[tuple[int, int, int, int, int]]:
    """Return what came from each source: read, added, updated, unchanged, quarantined."""
    return [(of.read, of.added, of.updated, of.unchanged, of.quarantined) for of in report.sources]


@contextmanager
def untouched(store: SQLMetadataStore) -> Iterator[None]:
    """Claim that what is done inside leaves the store as it was."""
    before = rows_of(store)
    yield
    assert rows_of(store) == before


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """A directory, an archive and a database, each with an entry of its own."""
    return [
        fill_directory(tmp_path / "one", "from directory", b"1"),
        fill_archive(tmp_path / "two.tar", "from archive", b"2"),
        fill_database(tmp_path / "three.db", "from database", b"3"),
    ]
