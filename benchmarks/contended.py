"""Many writers at once: what they get done together, how long they wait, and whether each gets its share.

A *turn* is what each of them would wait if all waited the same: the writers divided by the adds of a second.
"""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

from benchmarks import large
from benchmarks.writes import adds, full_log
from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService

SHAPES = ((8, 1), (1, 32), (8, 4))
"""Processes, and threads of each."""
AT_LEAST_OF_ONE_ALONE, AT_MOST_P99, AT_MOST_LONGEST, AT_LEAST_SHARE = 1.0, 4, 10, 0.5

_SPAWN = multiprocessing.get_context("spawn")
_ALONE = (1, 1)


@dataclass(frozen=True, slots=True)
class Contended:
    """What writers of one shape did: of several rounds the median, but the longest wait and the least share of all.

    Attributes:
        shape: processes, and threads of each.
        adds_a_second: of all together.
        of_one_alone: that, beside one writer in the same round.
        turn_s: the mean turn.
        p99: what one add of a hundred waits longer than, in turns.
        longest: the longest wait, in turns.
        least: the adds of the writer that made the fewest, as a part of the mean.
    """

    shape: tuple[int, int]
    adds_a_second: float
    of_one_alone: float
    turn_s: float
    p99: float
    longest: float
    least: float

    def too_much(self) -> list[str]:
        """Name what is beyond what it may reach."""
        limits = {
            "adds a second": self.of_one_alone >= AT_LEAST_OF_ONE_ALONE,
            "p99": self.p99 <= AT_MOST_P99,
            "longest wait": self.longest <= AT_MOST_LONGEST,
            "least share": self.least >= AT_LEAST_SHARE,
        }
        return [f"{what} of {self.name} writers" for what, is_kept in limits.items() if not is_kept]

    @property
    def name(self) -> str:
        return "{} × {}".format(*self.shape)


def markdown(measured: Sequence[Contended]) -> str:
    """Return the table, with what each column may reach in its head."""
    lines = [
        f"| processes × threads | adds a second | of one alone (≥ {AT_LEAST_OF_ONE_ALONE:g}) | mean turn"
        f" | 99 % wait, in turns (≤ {AT_MOST_P99}) | longest wait (≤ {AT_MOST_LONGEST})"
        f" | least share (≥ {AT_LEAST_SHARE}) |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {one.adds_a_second:.0f} | {one.of_one_alone:.2f} | {one.turn_s * 1000:.2f} ms"
        f" | {one.p99:.1f} | {one.longest:.1f} | {one.least:.2f} |"
        for one in measured
    ]
    return "\n".join(lines)


class Round(NamedTuple):
    """How long each add of each writer took, and how long they wrote."""

    waits: list[list[float]]
    seconds: float

    @property
    def adds_a_second(self) -> float:
        return sum(map(len, self.waits)) / self.seconds

    @property
    def turn_s(self) -> float:
        return len(self.waits) / self.adds_a_second

    def waited(self, part: float) -> float:
        """Return the wait, in turns, that this part of the adds does not exceed."""
        ordered = sorted(chain.from_iterable(self.waits))
        return ordered[min(int(len(ordered) * part), len(ordered) - 1)] / self.turn_s

    @property
    def least(self) -> float:
        return min(map(len, self.waits)) / statistics.mean(map(len, self.waits))


def measure(folder: Path, layers: int, rounds: int, seconds: float) -> list[Contended]:
    """Let one writer alone and the writers of each shape take turns, in one store whose log is as long as it gets."""
    path = folder / "contended.db"
    with SQLMetadataStore(path) as store:
        store.set_many((namespace, key, value) for namespace, key, value, _ in large.records(layers))
    found: dict[tuple[int, int], list[Round]] = {shape: [] for shape in (_ALONE, *SHAPES)}
    with SQLMetadataStore(path) as store:  # open for all of it, so that the log stays
        adds(store, full_log())(0)
        for number in range(rounds):
            for shape, of_shape in found.items():
                of_shape.append(one_round(path, f"round {number}", shape, seconds))
    return [_contended(shape, found[shape], found[_ALONE]) for shape in SHAPES]


def _contended(shape: tuple[int, int], found: list[Round], alone: list[Round]) -> Contended:
    return Contended(
        shape,
        statistics.median(one.adds_a_second for one in found),
        statistics.median(one.adds_a_second / by.adds_a_second for one, by in zip(found, alone, strict=True)),
        statistics.median(one.turn_s for one in found),
        statistics.median(one.waited(0.99) for one in found),
        max(one.waited(1) for one in found),
        min(one.least for one in found),
    )


def one_round(
    path: Path | str, name: str, shape: tuple[int, int], seconds: float, *, layers: int | None = None
) -> Round:
    """Let writers of a shape add for some seconds: each to layers of its own, or all to so many."""
    processes, threads = shape
    start, done = _SPAWN.Barrier(processes * threads), _SPAWN.Queue()
    started = [
        _SPAWN.Process(target=_write, args=(path, f"{name} of {shape}, {at}", (threads, seconds, layers), start, done))
        for at in range(processes)
    ]
    for process in started:
        process.start()
    waits: list[list[float]] = [done.get(timeout=300) for _ in range(processes * threads)]
    for process in started:
        process.join()
    return Round(waits, seconds)


def _write(
    path: Path | str, name: str, much: tuple[int, float, int | None], start: Barrier, done: Queue[list[float]]
) -> None:
    """Add for some seconds in each thread; report how long each add took."""
    threads, seconds, layers = much
    with SQLMetadataStore(path) as store:
        add = V2MetadataService(store).add

        def work(thread: int) -> None:
            store.get_many("n", [])  # opens the thread's connection
            waits: list[float] = []
            start.wait()
            at = time.perf_counter()
            end = at + seconds
            for number in count():
                layer = large.digest(
                    f"layer {name} {thread} {number}" if layers is None else f"layer {number % layers}"
                )
                add(layer, V2Metadata(large.digest(f"blob {name} {thread} {number}"), "localhost:5000/team/app"))
                before, at = at, time.perf_counter()
                waits.append(at - before)
                if at > end:
                    break
            done.put(waits)

        workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
