"""The run: which part is measured on which stores, one after the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path

from benchmarks import contended, large, reads, sizes, startup, transfers, writes
from benchmarks.report import Report
from benchmarks.rounds import Times
from benchmarks.rows import OURS, Result
from benchmarks.stores import filled
from layerstore import SQLMetadataStore


def measure(report: Report, parts: Iterable[str], folder: Path) -> None:
    """Measure these parts, in stores below a folder, and add each to the report when it is done."""
    chosen = set(parts)
    if chosen & {"reads", "writes", "startup"}:
        _on_one_store(report, chosen, _new(folder, "one"))
    if "sizes" in chosen:
        _by_size(report, _new(folder, "sizes"))
    if "contended" in chosen:
        with _saying("writers at once"):
            scale, rounds = report.scale, report.scale.contended_rounds
            report.contended = contended.measure(_new(folder, "contended"), scale.layers, rounds, scale.contended_s)
    if "postgresql" in chosen:
        from benchmarks import postgresql  # the other parts do without its driver

        if postgresql.is_installed():
            with _saying("PostgreSQL"):
                report.take(postgresql.measure(_new(folder, "postgresql"), report.scale))
        else:
            print("PostgreSQL is not installed: not measured", file=sys.stderr)
    if "transfers" in chosen:
        with _saying("import and export"):
            report.take(transfers.measure(_new(folder, "transfers"), report.scale))


def _on_one_store(report: Report, chosen: set[str], folder: Path) -> None:
    scale = report.scale
    records = chain(large.records(scale.layers), writes.prepared(scale.write_rounds, scale.writes))
    with ExitStack() as stack:
        with _saying(f"stores of {scale.layers:,} layers"):
            stores = stack.enter_context(filled(folder, records))
        if "reads" in chosen:
            with _saying("reads"):
                report.take(reads.measure(stores, scale.layers, scale.read_rounds, scale.reads))
        if "startup" in chosen:
            ours = stores[OURS]
            assert isinstance(ours, SQLMetadataStore)
            with _saying("start of the command"):
                report.take(startup.measure(Path(str(ours.path)), folder, scale.starts))
        if "writes" in chosen:
            with _saying("writes"):
                report.take(writes.measure(stores, folder, scale.write_rounds, scale.writes))


def _by_size(report: Report, folder: Path) -> None:
    scale = report.scale
    bulk = sizes.Bulk(folder, scale.sizes)
    with _saying("loads of each size"):
        times = {"load": bulk.loads(scale.bulk_rounds)}
    with ExitStack() as stack:
        stores = {layers: stack.enter_context(SQLMetadataStore(bulk.database(layers))) for layers in scale.sizes}
        with _saying("reads of each size"):
            times |= sizes.lookups(stores, scale.read_rounds, scale.reads)
        with _saying("writes of each size"):
            times["add"] = sizes.durable_adds(stores, scale.write_rounds, scale.writes)
    with _saying("imports of each size"):
        times["load_tar"] = bulk.imports(scale.bulk_rounds)
    smallest, largest = str(scale.sizes[0]), str(scale.sizes[-1])
    rows = {"get_largest": "get", "bare_largest": "bare statement", "load": "load", "load_tar": "load_tar"}
    for row, what in rows.items():
        result = Result(times[what].ratio(largest, smallest), times[what].median(smallest))
        report.take({row: (result, times[what])})
    report.results["import_mb"] = Result(bulk.peak_mb["take_in"])
    report.results["export_mb"] = Result(bulk.peak_mb["give_out"])
    report.costs |= _costs(times)


def _costs(times: dict[str, Times]) -> dict[str, dict[int, float]]:
    """Return the lines of the picture, the dearest operation first."""
    names = {
        "add": "add, durable, new layer",
        "load_tar": "import of a tar, per layer",
        "load": "set_many, per layer",
        "get_metadata": "get_metadata, one entry",
        "get": "get",
        "bare statement": "bare statement",
    }
    return {
        name: {int(layers): times[what].median(layers) for layers in times[what].seconds}
        for what, name in names.items()
    }


def _new(folder: Path, name: str) -> Path:
    made = folder / name
    made.mkdir()
    return made


@contextmanager
def _saying(what: str) -> Iterator[None]:
    """Say on standard error what is being measured, as this takes long."""
    print(f"{what} …", end="", file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    print(f" {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
