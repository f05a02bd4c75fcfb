"""A filled database file that may not change, and ways to ask it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService
from layerstore.sql.backend import Parameters
from layerstore.sql.query import query as ask
from tests.conftest import assert_sound
from tests.support.strategies import sha256

Rows = Callable[..., list[tuple[Any, ...]]]


def fingerprint(folder: Path) -> dict[str, str]:
    """Return what each file holds, but for `-shm`, in which readers keep their marks, and the queue of writers."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.endswith(("-shm", "-queue"))
    }


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Path]:
    """A database in a folder of its own. It is checked when the test is over, and must be the same, byte for byte."""
    folder = tmp_path / "store"
    with SQLMetadataStore(folder / "layers.db") as store:
        v2 = V2MetadataService(store)
        for number in range(30):
            v2.add(sha256(number % 10), V2Metadata(sha256(100 + number), f"host-{number % 2}:5000/app{number % 4}"))
        V1IDService(store).set("a" * 64, "registry1", sha256(1))
        store.set("other", "binary", b"\xff\x00")
        store.set("other", "text", "é\t".encode())
    before = fingerprint(folder)
    assert list(before) == ["layers.db"]
    yield folder / "layers.db"
    # An empty -wal is what SQLite leaves beside a file that was opened to read.
    empty = hashlib.sha256(b"").hexdigest()
    assert {name: held for name, held in fingerprint(folder).items() if held != empty} == before
    with SQLMetadataStore(folder / "layers.db") as store:
        assert_sound(store)


@pytest.fixture
def rows(answering: Path) -> Rows:
    """Run a query and return all its rows."""

    def run(sql: str, parameters: Parameters = (), **options: Any) -> list[tuple[Any, ...]]:
        with ask(str(answering), sql, parameters, **options) as answer:
            return list(answer.rows)

    return run
