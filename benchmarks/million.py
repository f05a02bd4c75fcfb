"""A store of a million layers: what loading it costs, how large it is, how fast it answers.

    python -m benchmarks.million [LAYERS] [FILE]

Each load is a process of its own, so that its memory can be told. Each query is asked from a new `sqlite3` connection,
time and again with other values: the median, the slowest, and the median of the processor's time, which a machine that
is busy otherwise does not spoil. FILE is kept, and used if it is there.
"""

from __future__ import annotations

import os
import random
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import large
from layerstore import SQLMetadataStore
from layerstore.sql.query import whole_reads
from layerstore.sql.questions import QUESTIONS
from layerstore.sql.reading.totals import stats
from layerstore.sql.tables import schema
from tests.docs.sql import ANSWERS, LOOKUPS, asked_for

SMALL = 10_000
ROUNDS = 15


def load_one(layers: int, path: str) -> None:
    """Load a store in this process; print seconds, those of the processor, and the peak of its memory."""
    start = time.perf_counter()
    with SQLMetadataStore(path) as store:
        store._backend.load(large.incoming(layers), lambda _source, _there, incoming, _aside: incoming)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.perf_counter() - start, time.process_time(), peak_mb)


def loaded(layers: int, path: Path) -> tuple[float, float]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.million", "load", str(layers), str(path)],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    seconds, cpu, peak_mb = map(float, done.stdout.split())
    print(
        f"load of {layers:>9,} layers: {seconds / layers * 1e6:6.0f} µs a layer, {cpu / layers * 1e6:6.0f} of the"
        f" processor, {peak_mb:4.0f} MB of memory at most",
        flush=True,
    )
    return seconds / layers, cpu / layers


def values(layers: int, chance: random.Random) -> dict[str, object]:
    """Return something that is there for each name that a query asks for."""
    number = chance.randrange(layers)
    v1_number = number // 50 * 50
    count = large.repositories(layers)
    return {
        "diff_id": large.digest(f"layer {number}"),
        "digest": large.digest(f"blob {number}"),
        # Those of up to a hundred layers: nine in ten.
        "source_repository": large.repository(chance.randrange(count // 10, count)),
        "registry": large.registry(v1_number // 50 % large.REGISTRIES),
        "v1_id": large.digest(f"V1 image {v1_number}")[7:],
        "namespace": "v1id",
        "key": "k",
        "prefix": f"{large.registry(number % large.REGISTRIES)}/team-1*",
        "like": f"{large.registry(number % large.REGISTRIES)}/*",
        "day": f"2024-{chance.randrange(1, 12):02}-01",
    }


def ask(path: str, layers: int, name: str, sql: str, names: list[str] | dict[str, object]) -> None:
    chance = random.Random(1)
    times, cpu, rows, plan = [], [], 0, []
    for _ in range(ROUNDS):
        there = values(layers, chance)
        given: object = (
            [there[one] for one in names]
            if isinstance(names, list)
            else {one: there.get(one, default) for one, default in names.items()}
        )
        start, cpu_start = time.perf_counter(), time.process_time()
        connection = sqlite3.connect(path)
        rows = len(connection.execute(sql, given).fetchall())  # type: ignore[arg-type]
        times.append((time.perf_counter() - start) * 1000)
        cpu.append((time.process_time() - cpu_start) * 1000)
        plan = [str(row[3]) for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", given)]  # type: ignore[arg-type]
        connection.close()
    scans = whole_reads(plan, list(schema.tables))
    note = f"  SCAN: {scans}" if scans else ""
    figures = (statistics.median(times), max(times), statistics.median(cpu))
    print(" ".join(f"{figure:8.2f}" for figure in figures), f"ms {rows:5} rows  {name}{note}")


def queries(path: str, layers: int) -> None:
    print(f"\n  median  slowest      CPU of {ROUNDS}")
    for question, sql in LOOKUPS.items():
        ask(path, layers, question, sql, asked_for(sql))
    for sql in ANSWERS:
        ask(path, layers, sql.replace("localhost:5000/team1/app", "…"), sql, [])
    for one in QUESTIONS:
        ask(path, layers, one.usage, one.sql, {**dict.fromkeys(one.needed), **one.defaults})
    for what, sql in {
        "every registry with its number of repositories": "SELECT * FROM registries",
        "a hundred repositories with their last change": "SELECT * FROM repositories LIMIT 100",
    }.items():
        ask(path, layers, what, sql, [])
    largest = large.repository(0)
    ask(path, layers, "the largest repository", f"SELECT * FROM repositories WHERE source_repository = '{largest}'", [])


def main() -> None:
    if sys.argv[1:2] == ["load"]:
        load_one(int(sys.argv[2]), sys.argv[3])
        return
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="layerstore-million-", dir=os.environ.get("TMPDIR")) as folder:
        path = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder) / "large.db"
        if not path.exists():
            small = [
                min(each)
                for each in zip(*(loaded(SMALL, Path(folder) / f"small{n}.db") for n in range(3)), strict=True)
            ]
            ratios = [much / little for much, little in zip(loaded(layers, path), small, strict=True)]
            print(
                f"a layer of {layers:,} costs {ratios[0]:.2f} times one of {SMALL:,}, {ratios[1]:.2f} of the processor"
            )
        with SQLMetadataStore(path, read_only=True) as store:
            start = time.perf_counter()
            found = stats(store)
            seconds = time.perf_counter() - start
        size = found.file_bytes + found.wal_bytes
        print(
            f"{found.layers:,} layers, {found.associations:,} associations, {found.repositories:,} repositories,"
            f" {found.registries} registries, {found.v1_ids:,} V1 IDs (counted in {seconds:.1f} s)\n"
            f"{size / found.layers:,.0f} bytes a layer in the file, {found.directory.bytes / found.layers:,.0f} in"
            f" Docker's directory: {size / found.directory.bytes:.3f}"
        )
        queries(str(path), layers)


if __name__ == "__main__":
    main()
