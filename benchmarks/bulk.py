"""Bulk work in a process of its own, so that its memory can be told: loading, giving out as a tar, taking one in."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from benchmarks import large
from layerstore import SQLMetadataStore, import_directory
from layerstore.transfer.exporting import export_tar

_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Cost:
    """What the work cost: seconds, without the start of the interpreter; and the peak of memory.

    That is the peak of the process and that of its largest child added up, though they need not have been at once, and
    though a child counts what its parent had when it was started.
    """

    seconds: float
    peak_mb: float


class _Making:
    """Makes entries for a load, and counts the seconds that this takes, which are not the load's."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self.seconds = 0.0

    def entries(self) -> Iterator[tuple[str, str, bytes]]:
        made = ((namespace, key, value) for namespace, key, value, _ in large.records(self._layers))
        while True:
            start = time.perf_counter()
            batch = list(islice(made, _BATCH))
            self.seconds += time.perf_counter() - start
            if not batch:
                return
            yield from batch


def load(layers: str, path: str) -> float:
    """Make a store of so many layers by `set_many`."""
    making = _Making(int(layers))
    start = time.perf_counter()
    with SQLMetadataStore(path) as store:
        store.set_many(making.entries())
    return time.perf_counter() - start - making.seconds


def take_in(source: str, path: str) -> float:
    """Import a tar into a new store."""
    start = time.perf_counter()
    with SQLMetadataStore(path) as store:
        import_directory(store, source)
    return time.perf_counter() - start


def give_out(path: str, target: str) -> float:
    """Export a store as a tar."""
    start = time.perf_counter()
    with SQLMetadataStore(path, read_only=True) as store, Path(target).open("wb") as file:
        export_tar(store, file)
    return time.perf_counter() - start


_WORK = {"load": load, "take_in": take_in, "give_out": give_out}


def run(work: str, *arguments: object) -> Cost:
    """Do one of these in a new process, with everything written that was still to be written."""
    os.sync()
    command = [sys.executable, "-m", "benchmarks.bulk", work, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return Cost(**json.loads(done.stdout))


def _peak_mb() -> float:
    # Not ru_maxrss for this process: Linux counts there what the parent had before this program replaced it.
    match = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return (int(match[1]) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def main() -> None:
    work, *arguments = sys.argv[1:]
    seconds = _WORK[work](*arguments)
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb()}))


if __name__ == "__main__":
    main()
