"""Files that real engines wrote: what is imported is exactly what they hold, read here without the package."""

from __future__ import annotations

import json
import sqlite3
import struct
import tarfile
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from layerstore import SQLMetadataStore, export_layers, import_layers
from tests.conftest import database_rows

ENGINES = Path(__file__).parent / "engines"
FILES = sorted(path.name for path in ENGINES.iterdir())
MEMORIES = [name for name in FILES if not name.endswith(".tar.gz")]
PORT = 27889
"""Of the registry at which all of them were written, at 127.0.0.1: containerd's labels do not have it."""
SOURCE = "containerd.io/distribution.source."
_TOC = "io.github.containers.zstd-chunked.manifest-checksum"
_NAMES = {0: None, 2: "gzip", 4: "zstd"}


class Held(NamedTuple):
    """What a file holds: by digest the DiffID, compression and table of contents; by digest and place the time."""

    blobs: dict[str, list[str | None]]
    places: dict[tuple[str, str], int | None]

    def blob(self, digest: str) -> list[str | None]:
        return self.blobs.setdefault(digest, [None, None, None])

    def seen(self, digest: str, place: str, at: int) -> None:
        self.blob(digest)
        self.places[digest, place] = max(at, self.places.get((digest, place)) or at)


def held(path: Path) -> Held:
    found = Held({}, {})
    if path.suffix == ".sqlite":
        _read_sqlite(path, found)
    elif path.suffix == ".json":
        for layer in json.loads(path.read_text()):
            if "compressed-diff-digest" in layer and "toc-digest" not in layer:
                blob = found.blob(layer["compressed-diff-digest"])
                blob[:2] = layer["diff-digest"], _NAMES[layer.get("compression", 0)]
    elif path.suffix == ".boltdb":
        _read_boltdb(bolt(path), found)
    else:
        _read_containerd(bolt(path), found)
    return found


def _read_sqlite(path: Path, found: Held) -> None:
    with closing(sqlite3.connect(path)) as cache:
        for digest, diff_id in cache.execute("SELECT * FROM DigestUncompressedPairs"):
            found.blob(digest)[0] = diff_id
        for digest, name in cache.execute("SELECT * FROM DigestCompressors"):
            found.blob(digest)[1] = name.lower()
        tables = dict(cache.execute("SELECT * FROM DigestTOCUncompressedPairs"))
        for digest, _, annotations in cache.execute("SELECT * FROM DigestSpecificVariantCompressors"):
            toc = json.loads(annotations)[_TOC]
            found.blob(digest)[2] = toc if tables.get(toc) == found.blob(digest)[0] else None
        for transport, scope, digest, place, at in cache.execute("SELECT * FROM KnownLocations"):
            assert (transport, scope) == ("docker", f"127.0.0.1:{PORT}")
            found.seen(digest, place, instant(at))


def instant(text: str) -> int:
    """Return a time of Go's, such as `2026-11-26 21:43:11.02529397+00:00`, in nanoseconds since 1970."""
    clock, zone = text[:-6], text[-6:]
    whole, _, fraction = clock.partition(".")
    return int(datetime.fromisoformat(whole + zone).timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


def _read_boltdb(root: dict[str, Any], found: Held) -> None:
    for digest, diff_id in root.get("uncompressedDigest", {}).items():
        found.blob(digest)[0] = diff_id.decode()
    for digest, name in root["digestCompressor"].items():
        found.blob(digest)[1] = name.decode().lower()
    for digest, places in root["knownLocations"]["docker"][f"127.0.0.1:{PORT}"].items():
        for place, at in places.items():
            found.seen(digest, place, go_time(at))


def _read_containerd(root: dict[str, Any], found: Held) -> None:
    for namespace in root["v1"].values():
        for digest, blob in namespace["content"]["blob"].items() if isinstance(namespace, dict) else ():
            for key, value in blob.get("labels", {}).items():
                if key == "containerd.io/uncompressed":
                    found.blob(digest)[0] = value.decode()
                if key.startswith(SOURCE):
                    assert key.removeprefix(SOURCE).partition(":")[0] == "127.0.0.1"
                    for name in value.decode().split(","):
                        found.seen(digest, f"127.0.0.1:{PORT}/{name}", go_time(blob["updatedat"]))


def go_time(value: bytes) -> int:
    _, seconds, nanoseconds = struct.unpack(">BQI", value[:13])
    return (int(seconds) - 62_135_596_800) * 10**9 + int(nanoseconds)


def bolt(path: Path) -> dict[str, Any]:
    """Read a bbolt file into nested dicts: the newer of its two meta pages, and every page below its root."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<I", data, 24)
    metas = [struct.unpack_from("<QQQQQ", data, at + 32) for at in (0, size)]  # root, sequence, free list, end, number

    def elements(at: int) -> dict[str, Any]:
        flags, count = struct.unpack_from("<HH", data, at + 8)
        found: dict[str, Any] = {}
        for place in range(at + 16, at + 16 + 16 * count, 16):
            if flags == 1:
                found |= elements(struct.unpack_from("<IIQ", data, place)[2] * size)
                continue
            is_bucket, position, key, value = struct.unpack_from("<IIII", data, place)
            start = place + position
            name = data[start : start + key].decode()
            if not is_bucket:
                found[name] = data[start + key : start + key + value]
                continue
            (page,) = struct.unpack_from("<Q", data, start + key)
            found[name] = elements(page * size if page else start + key + 16)
        return found

    return elements(max(metas, key=lambda meta: meta[4])[0] * size)


def tables(store: SQLMetadataStore) -> Held:
    return Held(
        {str(row[0]): list(row[1:]) for row in database_rows(store, "SELECT * FROM blobs")},  # type: ignore[arg-type]
        {tuple(row[:2]): row[2] for row in database_rows(store, "SELECT * FROM locations")},  # type: ignore[misc]
    )


@pytest.mark.parametrize("name", MEMORIES)
def test_the_tables_hold_what_the_file_holds_and_a_new_cache_gets_it(
    name: str, tmp_path: Path, sql_file: SQLMetadataStore
):
    expected = held(ENGINES / name)
    import_layers(sql_file, ENGINES / name)

    assert len(expected.blobs) > 1
    assert tables(sql_file) == expected
    cache = tmp_path / "cache" / "blob-info-cache-v1.sqlite"
    assert export_layers(sql_file, cache).ok
    assert export_layers(sql_file, cache).written == 0
    assert held(cache.rename(tmp_path / "cache.sqlite")) == expected
    again = import_layers(sql_file, ENGINES / name)
    assert (again.added, again.updated, again.ok) == (0, 0, True)
    assert tables(sql_file) == expected


@pytest.mark.parametrize("name", sorted(set(FILES) - set(MEMORIES)))
def test_dockers_lists_are_the_rows_that_the_files_hold(name: str, sql_file: SQLMetadataStore):
    lists, mappings = set(), set()
    with tarfile.open(ENGINES / name) as archive:
        for member in archive:
            namespace, _, key = member.name.removeprefix("distribution/").partition("/")
            file = archive.extractfile(member)
            if file is None:
                continue
            if namespace == "v2metadata-by-diffid":
                own = [(one["Digest"], one["SourceRepository"], one["HMAC"]) for one in json.loads(file.read())]
                lists |= {(key.replace("/", ":"), position, *one) for position, one in enumerate(own)}
            elif namespace == "diffid-by-digest":
                mappings.add((key.replace("/", ":"), file.read().decode()))
    import_layers(sql_file, ENGINES / name)

    assert lists
    assert mappings
    ranked = "row_number() OVER (PARTITION BY diff_id ORDER BY position) - 1"
    query = f"SELECT diff_id, {ranked}, digest, source_repository, hmac FROM v2_metadata"
    assert set(database_rows(sql_file, query)) == lists
    assert set(database_rows(sql_file, "SELECT digest, diff_id FROM diff_id_by_digest")) == mappings
    assert tables(sql_file) == Held({}, {})
