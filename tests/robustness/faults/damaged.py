"""A store to damage, noise to damage it with, and what its pages held."""

from __future__ import annotations

import random
from contextlib import closing
from pathlib import Path

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService, import_directory
from layerstore.keys import Record
from layerstore.sql.sqlite.salvage import Pages
from tests.support.command import GOLDEN
from tests.support.strategies import sha256

PAGE = 4096


def fill(path: Path) -> dict[tuple[str, str], Record]:
    """Make a store with what a daemon wrote, long lists, values that need pages of their own, and a quarantine."""
    with SQLMetadataStore(path) as store:
        import_directory(store, GOLDEN)
        v2 = V2MetadataService(store)
        for number in range(60):
            v2.add(sha256(number % 4), V2Metadata(sha256(1000 + number), f"localhost:5000/team/{number}", "ab" * 32))
        store.set_many(("other", f"long/{number:03}", bytes([number]) * (3000 * number + 1)) for number in range(12))
        store._put(Record("other", "é/small", b"", -5))
        store.quarantine("n", "k", b"\xff" * 9000, "why")
        records = list(store._records())
    return {(record.namespace, record.key): record for record in records}


def noise(path: Path, pages: list[int], luck: random.Random) -> None:
    """Put noise in place of pages, counted from 1."""
    with open(path, "r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(luck.randbytes(PAGE))


def held_by(path: Path) -> list[set[tuple[str, str]]]:
    """Return the keys of the entries on each page, and on page 0 those that go on in pages of their own."""
    held: list[set[tuple[str, str]]] = [set()]
    with closing(Pages(str(path))) as pages:
        for found in pages.salvage():
            held.append(set())
            for row in found.keyed:
                match row:
                    case (bytes(namespace), bytes(key), bytes(value), int()):
                        held[-1].add((namespace.decode(), key.decode()))
                        if len(value) > 900:
                            held[0].add((namespace.decode(), key.decode()))
    return held


def rows(store: SQLMetadataStore, query: str) -> list[tuple[object, ...]]:
    with store.engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]
