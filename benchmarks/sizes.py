"""What the size of a store costs: loads, imports, lookups and adds in stores of each size, taken in turn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks import bulk
from benchmarks.reads import bare_gets, calls, gets, lists_of, some
from benchmarks.rounds import Side, Times, in_turn, without_collector
from benchmarks.stores import bare_reader
from benchmarks.writes import additions, adds
from layerstore import SQLMetadataStore, V2MetadataService
from layerstore.keys import V2_METADATA, digest_key

Costs = dict[str, dict[int, float]]
"""Seconds of one operation, by what it is and by the number of layers."""

_REPEATED = 3
"""Times that a load is repeated within a round where it is not the largest, as it is soon over."""


class Bulk:
    """Loads and imports of stores of each size, each in a process of its own."""

    def __init__(self, folder: Path, sizes: Sequence[int]) -> None:
        self._folder = folder
        self._sizes = sizes
        self.peak_mb: dict[str, float] = {}

    def database(self, layers: int) -> Path:
        """Return the store of so many layers, which `loads` makes."""
        return self._folder / f"{layers}.db"

    def loads(self, rounds: int) -> Times:
        """Load a store of each size by `set_many`; the last one stays."""
        return self._in_turn(rounds, "load", {layers: layers for layers in self._sizes})

    def imports(self, rounds: int) -> Times:
        """Give each store out as a tar, and import that."""
        archives = {layers: self._folder / f"{layers}.tar" for layers in self._sizes}
        for layers, archive in archives.items():
            self._run("give_out", layers, self.database(layers), archive)
        try:
            return self._in_turn(rounds, "take_in", archives)
        finally:
            for archive in archives.values():
                archive.unlink()

    def _in_turn(self, rounds: int, work: str, sources: dict[int, object] | dict[int, int] | dict[int, Path]) -> Times:
        sides = {str(layers): self._side(work, layers, source) for layers, source in sources.items()}
        return in_turn(sides, rounds, warm_up=False)

    def _side(self, work: str, layers: int, source: object) -> Side:
        repeated = 1 if layers == max(self._sizes) else _REPEATED

        def side(_number: int) -> float:
            seconds = 0.0
            for _ in range(repeated):
                for file in self._folder.glob(f"{layers}.db*"):
                    file.unlink()
                seconds += self._run(work, layers, source, self.database(layers))
            return seconds / repeated / layers

        return side

    def _run(self, work: str, layers: int, source: object, target: Path) -> float:
        cost = bulk.run(work, source, target)
        if layers == max(self._sizes):
            self.peak_mb[work] = max(cost.peak_mb, self.peak_mb.get(work, 0))
        return cost.seconds


def lookups(stores: dict[int, SQLMetadataStore], rounds: int, count: int) -> dict[str, Times]:
    """Look up in all stores in turn, by `get`, by the bare statement and by `get_metadata`."""
    sides: dict[str, dict[str, Side]] = {"get": {}, "bare statement": {}, "get_metadata": {}}
    with ExitStack() as stack:
        for layers, store in stores.items():
            diff_ids = [lists_of(numbers) for numbers in some(layers, rounds, count)]
            keys = [[(V2_METADATA, digest_key(one)) for one in each] for each in diff_ids]
            bare = stack.enter_context(bare_reader(store))
            sides["get"][str(layers)] = gets(store, keys)
            sides["bare statement"][str(layers)] = bare_gets(bare, keys)
            sides["get_metadata"][str(layers)] = calls(V2MetadataService(store).get_metadata, diff_ids)
        with without_collector():
            return {what: in_turn(each, rounds) for what, each in sides.items()}


def durable_adds(stores: dict[int, SQLMetadataStore], rounds: int, count: int) -> Times:
    """Add new layers to all stores in turn."""
    added = additions(1, rounds, count)
    with without_collector():
        return in_turn({str(layers): adds(store, added) for layers, store in stores.items()}, rounds)
