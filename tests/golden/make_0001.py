"""Make `0001.db`, the golden database of schema revision 0001, with the code of that revision.

    python -m tests.golden.make_0001

It is kept as it is from then on: later code has to open it, upgrade it and use it. `content` says what is in it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService
from layerstore.sql.schema import HEAD

PATH = Path(__file__).parent / "0001.db"
LAYERS = [f"sha256:{number:064x}" for number in range(1, 4)]
V1_ID = "f" * 64


def association(layer: int, number: int) -> V2Metadata:
    return V2Metadata(f"sha256:{layer:032x}{number:032x}", f"localhost:5000/team{number}/a&b", "ab" * (number % 2 * 32))


def content() -> dict[str, list[V2Metadata]]:
    """Return each layer's list: one entry, three, and more than the 50 that stay."""
    return {
        layer: [association(at, number) for number in range(count)][-50:]
        for at, (layer, count) in enumerate(zip(LAYERS, (1, 3, 52), strict=True))
    }


def main() -> None:
    assert str(HEAD) == "0001", "the golden database of 0001 can be made by the code of 0001 only"
    fill(PATH)


def fill(path: Path, more: Iterable[tuple[str, str, bytes]] = ()) -> None:
    """Make a database with the content and more, of the revision that this code works with."""
    path.unlink(missing_ok=True)
    with SQLMetadataStore(path) as store, store.transaction():
        v2 = V2MetadataService(store)
        for at, (layer, count) in enumerate(zip(LAYERS, (1, 3, 52), strict=True)):
            for number in range(count):
                v2.add(layer, association(at, number))
        V1IDService(store).set(V1_ID, "localhost:5000", LAYERS[0])
        store.set("v2metadata-by-diffid", f"sha256/{9:064x}", b"[{}]")
        store.set("v2metadata-by-diffid", f"sha256/{10:064x}", b"")
        store.set("another", "é/key", bytes(range(256)))
        store.set_many(more)
        store.quarantine("v2metadata-by-diffid", f"sha256/{1:064x}", b"cut off", "made up")
    # One file, without -wal and -shm beside it.
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("VACUUM")
    assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    connection.close()
    path.chmod(0o644)


if __name__ == "__main__":
    main()
