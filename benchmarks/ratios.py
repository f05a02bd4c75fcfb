"""What the store's operations cost, as ratios to the bare thing below them, side by side from one run.

    python benchmarks/ratios.py [LAYERS]

Reads are compared with the same SQL on a bare `sqlite3` connection to the same file, durable writes with one durable
bare upsert in a file of its own and with the file store's `add`, import and export with `tar` of the same files.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from layerstore import (
    FSMetadataStore,
    SQLMetadataStore,
    V2Metadata,
    V2MetadataService,
    export_directory,
    import_directory,
)
from layerstore.records import DIFF_IDS, V2_METADATA, encode_list
from layerstore.sql.statements import GET

ROUNDS = 7
READS = 3000
WRITES = 60


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def layers(count: int) -> Iterator[tuple[str, str, bytes]]:
    """Yield the entries of `count` layers: a list of one, two or three associations and a mapping each."""
    random.seed(count)
    for number in range(count):
        layer, blob = sha256(f"layer {number}"), sha256(f"blob {number}")
        entries = [
            V2Metadata(f"sha256:{blob}", f"localhost:5000/team{random.randrange(200)}/app{n}", sha256(f"{number} {n}"))
            for n in range(random.choice((1, 2, 2, 3)))
        ]
        yield V2_METADATA, f"sha256/{layer}", encode_list(entries)
        yield DIFF_IDS, f"sha256/{blob}", f"sha256:{layer}".encode()


def taken_in_turn(*sides: Callable[[], object]) -> list[float]:
    """Return the median seconds of each side, over rounds in which each has its turn."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        side()
    for _ in range(ROUNDS):
        for side, seen in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            seen.append(time.perf_counter() - start)
    return [statistics.median(seen) for seen in times]


def row(what: str, ours: float, than: str, theirs: float, *, per: float = 1, unit: str = "s") -> None:
    print(f"{what:30} {ours / theirs:6.2f} x  {than:26} {ours * per:9.1f} {unit} against {theirs * per:.1f}")


def reads(store: SQLMetadataStore, count: int) -> None:
    v2 = V2MetadataService(store)
    bare = sqlite3.connect(str(store.path), isolation_level=None)
    picked = random.sample(range(count), min(READS, count))
    lists = [f"sha256/{sha256(f'layer {number}')}" for number in picked]
    blobs = [f"sha256:{sha256(f'blob {number}')}" for number in picked]
    maps = [blob.replace(":", "/") for blob in blobs]
    diff_ids = [key.replace("/", ":") for key in lists]

    def bare_gets(namespace: str, keys: list[str]) -> Callable[[], None]:
        def run() -> None:
            for key in keys:
                bare.execute(GET, (namespace, key)).fetchone()

        return run

    per = 1e6 / len(picked)
    statement = "the bare statement"
    ours, theirs = taken_in_turn(lambda: [store.get(V2_METADATA, k) for k in lists], bare_gets(V2_METADATA, lists))
    row("get", ours, statement, theirs, per=per, unit="µs")
    ours, theirs = taken_in_turn(lambda: [v2.get_diff_id(b) for b in blobs], bare_gets(DIFF_IDS, maps))
    row("get_diff_id", ours, statement, theirs, per=per, unit="µs")
    ours, theirs = taken_in_turn(lambda: [v2.get_metadata(d) for d in diff_ids], bare_gets(V2_METADATA, lists))
    row("get_metadata", ours, statement, theirs, per=per, unit="µs")
    hundred = blobs[:100]
    ours, theirs = taken_in_turn(lambda: v2.get_diff_ids(hundred), bare_gets(DIFF_IDS, maps[:100]))
    row("get_diff_ids of 100", ours, "100 bare statements", theirs, per=1e6, unit="µs")
    bare.close()


def durable_writes(store: SQLMetadataStore, folder: Path) -> None:
    v2, files = V2MetadataService(store), V2MetadataService(FSMetadataStore(folder / "files"))
    bare = sqlite3.connect(folder / "bare.db", isolation_level=None)
    bare.execute("PRAGMA journal_mode=WAL")
    bare.execute("PRAGMA synchronous=FULL")
    bare.execute("CREATE TABLE t(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID")
    numbers = itertools.count()

    def upsert() -> None:
        for _ in range(WRITES):
            bare.execute(
                "INSERT INTO t VALUES ('k', ?) ON CONFLICT DO UPDATE SET v = excluded.v", (str(next(numbers)),)
            )

    def adds(service: V2MetadataService, length: int) -> Callable[[], None]:
        layer = f"sha256:{sha256('a layer with a full list')}"

        def run() -> None:
            for _ in range(WRITES):
                number = next(numbers)
                # A list as long as the cap of 50 stays so; a shorter one begins anew after as many adds.
                target = layer if length == 50 else f"sha256:{sha256(f'new layer {number // length}')}"
                repository = f"localhost:5000/team/app{number}"
                service.add(target, V2Metadata(f"sha256:{sha256(f'new blob {number}')}", repository))

        return run

    for length in (1, 3, 50):
        ours, docker, theirs = taken_in_turn(adds(v2, length), adds(files, length), upsert)
        row(f"add, durable, lists up to {length}", ours, "one durable bare upsert", theirs, per=1e6 / WRITES, unit="µs")
        row(f"add, durable, lists up to {length}", ours, "the file store's add", docker, per=1e6 / WRITES, unit="µs")
    bare.close()


def transfers(store: SQLMetadataStore, folder: Path) -> None:
    tree, archive = folder / "tree", folder / "tree.tar"
    numbers = itertools.count()

    def take_in() -> None:
        with SQLMetadataStore(folder / f"new{next(numbers)}.db") as new:
            import_directory(new, tree)

    def unpack() -> None:
        target = folder / f"unpacked{next(numbers)}"
        target.mkdir()
        subprocess.run(["tar", "-xf", archive, "-C", target], check=True)

    export_directory(store, tree)
    subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)
    ours, theirs = taken_in_turn(
        take_in, lambda: subprocess.run(f"tar -C {tree} -cf - . | cat >/dev/null", shell=True, check=True)
    )
    row("import", ours, "tar -cf - DIR | cat", theirs)
    ours, theirs = taken_in_turn(lambda: export_directory(store, folder / f"export{next(numbers)}"), unpack)
    row("export", ours, "tar -xf", theirs)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    folder = Path(tempfile.mkdtemp(prefix="layerstore-ratios-"))
    try:
        with SQLMetadataStore(folder / "layers.db") as store:
            start = time.perf_counter()
            store.set_many(sorted(layers(count)))
            print(f"{count} layers, set_many: {(time.perf_counter() - start) / count * 1e6:.0f} µs a layer")
            reads(store, count)
            durable_writes(store, folder)
            transfers(store, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
