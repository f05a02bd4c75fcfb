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
from layerstore import SQLMetadataStore, export_directory, import_directory

TAR = "tar"
_FILES_PER_LAYER = 2


def measure(folder: Path, files: int, rounds: int) -> dict[str, tuple[Result, Times]]:
    """Measure both on a directory of so many files."""
    tree, archive = folder / "distribution", folder / "distribution.tar"
    with SQLMetadataStore(folder / "source.db") as store:
        made = islice(large.records(files // _FILES_PER_LAYER), files)
        store.set_many((namespace, key, value) for namespace, key, value, _ in made)
        export_directory(store, tree)
        subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)
        sides: dict[str, dict[str, Side]] = {
            "import": {OURS: _imports(folder, tree), TAR: _packs(tree)},
            "export": {OURS: _exports(store, folder), TAR: _unpacks(archive, folder)},
        }
        times = {row: in_turn(each, rounds, warm_up=row == "import") for row, each in sides.items()}
    return {row: (Result(each.ratio(OURS, TAR), each.median(TAR)), each) for row, each in times.items()}


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
    target = folder / "exported"

    def side(_number: int) -> float:
        os.sync()
        start = time.perf_counter()
        export_directory(store, target)
        seconds = time.perf_counter() - start
        _remove(target)
        return seconds

    return side


def _unpacks(archive: Path, folder: Path) -> Side:
    target = folder / "unpacked"

    def side(_number: int) -> float:
        target.mkdir()
        os.sync()
        start = time.perf_counter()
        subprocess.run(["tar", "-xf", archive, "-C", target], check=True)
        seconds = time.perf_counter() - start
        _remove(target)
        return seconds

    return side


def _remove(tree: Path) -> None:
    subprocess.run(["rm", "-rf", tree], check=True)  # three times as fast as shutil.rmtree
