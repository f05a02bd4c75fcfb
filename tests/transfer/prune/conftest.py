"""Stores and data roots to prune, and ways to look at what is left."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from layerstore import SQLMetadataStore, V2Metadata
from layerstore.keys import Record
from layerstore.records import encode_list
from tests.support.entries import AT, LISTS, MAPPINGS, V1, layer_key, rows_of, write_file
from tests.support.strategies import sha256

HUB, OURS, OLD = "docker.io/library/busybox", "localhost:5000/team/app", "old.example.com/team/app"
DAY = 86_400 * 10**9


def a_list(layer: int, *associations: tuple[int, str], at: int = AT) -> Record:
    """Return a layer's list; each association is the number of a digest and a repository."""
    return Record(LISTS, layer_key(layer), encode_list([V2Metadata(sha256(d), r) for d, r in associations]), at)


def mapping(digest: int, layer: int, at: int = AT) -> Record:
    return Record(MAPPINGS, layer_key(digest), sha256(layer).encode(), at)


def v1_id(number: int, layer: int, registry: str = "old.example.com", at: int = AT) -> Record:
    return Record(V1, f"{registry},{number:064x}", sha256(layer).encode(), at)


def fill(store: SQLMetadataStore, records: Iterable[Record]) -> None:
    with store.transaction():
        for record in records:
            store._put(record)


def fill_directory(base: Path, records: Iterable[Record]) -> None:
    for namespace, key, value, at in records:
        write_file(base, namespace, key, value, at)


def places(store: SQLMetadataStore) -> set[tuple[object, object]]:
    return {(row[0], row[1]) for row in rows_of(store)}


def place(record: Record) -> tuple[str, str]:
    return record.namespace, record.key


def make_layerdb(root: Path, layers: Iterable[int], *, driver: str = "overlay2") -> Path:
    """Make what a daemon's data root has of layers, as Docker's layer store writes it."""
    layerdb = root / "image" / driver / "layerdb"
    (layerdb / "tmp").mkdir(parents=True)
    (layerdb / "mounts").mkdir()
    for layer in layers:
        folder = layerdb / "sha256" / f"{layer + 1000:064x}"
        folder.mkdir(parents=True)
        (folder / "diff").write_text(sha256(layer))
        (folder / "size").write_text("12")
    return root
