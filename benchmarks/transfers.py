"""Import and export of a directory, beside `tar` of the same files."""

from __future__ import annotations

import os
import subprocess
import time
from itertools import islice
from pathlib import Path

from benchmarks import large
from benchmarks.rounds import Side, Times, in_turn
from benchmarks.rows import OURS, Result
from benchmarks.scale import Scale
from layerstore import SQLMetadataStore, export_directory, import_directory

TAR = "tar"
_FILES_PER_LAYER = 2


def measure(folder: Path, scale: Scale) -> dict[str, tuple[Result, Times]]:
    """Measure both on a directory of so many files.

    What an export writes stays until the end: behind the removal of many files, ext4 without a journal takes minutes in
    which each new one costs up to a hundred times as much.
    """
    files = scale.files
    tree, archive = folder / "distribution", folder / "distribution.tar"
    with SQLMetadataStore(folder / "source.db") as store:
        made = islice(large.records(files // _FILES_PER_LAYER), files)
        store.set_many((namespace, key, value) for namespace, key, value, _ in made)
        export_directory(store, tree)
        subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)
        imports = in_turn({OURS: _imports(folder, tree), TAR: _packs(tree)}, scale.import_rounds)
        unpacking = _Unpacking(archive, folder)
        exports = in_turn({OURS: _exports(store, folder), TAR: unpacking}, scale.export_rounds, warm_up=False)
    rows = {"import": imports, "export": exports, "export_synced": unpacking.synced(exports)}
    return {row: (Result(each.ratio(OURS, TAR), each.median(TAR)), each) for row, each in rows.items()}


def _imports(folder: Path, tree: Path) -> Side:
    def side(_number: int) -> float:
        os.sync()
        start = time.perf_counter()
        with SQLMetadataStore(folder / "imported.db") as store:
            import_directory(store, tree)
        seconds = time.perf_counter() - start
        for file in folder.glob("imported.db*"):
            file.unlink()
        return seconds

    return side


def _packs(tree: Path) -> Side:
    def side(_number: int) -> float:
        os.sync()
        start = time.perf_counter()
        # Through `cat`: tar reads no file when it sees that it writes to /dev/null.
        subprocess.run(["sh", "-c", 'tar -cf - "$1" | cat >/dev/null', "sh", tree.name], cwd=tree.parent, check=True)
        return time.perf_counter() - start

    return side


def _exports(store: SQLMetadataStore, folder: Path) -> Side:
    def side(number: int) -> float:
        os.sync()
        start = time.perf_counter()
        export_directory(store, folder / f"exported-{number}")
        return time.perf_counter() - start

    return side


class _Unpacking:
    """The side of `tar -xf`; it also notes how long it takes to have all of it on the disk, as an export has."""

    def __init__(self, archive: Path, folder: Path) -> None:
        self._archive = archive
        self._folder = folder
        self._synced: list[float] = []

    def __call__(self, number: int) -> float:
        target = self._folder / f"unpacked-{number}"
        target.mkdir()
        os.sync()
        start = time.perf_counter()
        subprocess.run(["tar", "-xf", self._archive, "-C", target], check=True)
        seconds = time.perf_counter() - start
        subprocess.run(["sync", "-f", target], check=True)
        self._synced.append(time.perf_counter() - start)
        return seconds

    def synced(self, times: Times) -> Times:
        """Return the times of these rounds with the sync."""
        return Times({OURS: times.seconds[OURS], TAR: self._synced})
