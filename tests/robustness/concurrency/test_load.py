"""Load: 8 processes of 4 threads read and add at once. No error, no lost update, and no reader waits."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from layerstore import NotFoundError, SQLMetadataStore, V2Metadata, V2MetadataService
from layerstore.collection import records as entries_of
from tests.conftest import OpenSQL, assert_sound
from tests.robustness.concurrency import workers
from tests.support.strategies import sha256

PROCESSES, THREADS = 8, 4
LAYERS = 3000
"""So many that a minute of adds fills no list."""


def association(worker: int, number: int) -> tuple[str, V2Metadata]:
    layer = random.Random(worker * 1_000_003 + number).randrange(LAYERS)
    return sha256(layer), V2Metadata(f"sha256:{worker:032x}{number:032x}", f"localhost:5000/team{number % 7}/app")


class Hand:
    """One thread of the load: what it did, and how long it had to wait at most.

    It looks up through a store that gives up at once where it would have to wait for a lock.
    """

    def __init__(self, writing: SQLMetadataStore, reading: SQLMetadataStore, worker: int) -> None:
        self.writing, self.reading, self.worker = writing, reading, worker
        self.adds = self.counts = self.reads = 0
        self.longest_read = self.longest_write = 0.0

    def work(self, start: Any, seconds: float) -> None:
        luck = random.Random(self.worker)
        self.reading.get("n", "count")  # the thread's connection is open by now
        start.wait()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            write = luck.choice([self._add, self._add, self._count])
            self.longest_write = max(self.longest_write, _duration(write))
            for _ in range(4):
                read = luck.choice([self._read_back, self._look_up, self._look_up_many, self._walk])
                self.longest_read = max(self.longest_read, _duration(partial(read, luck)))
                self.reads += 1

    def _add(self) -> None:
        V2MetadataService(self.writing).add(*association(self.worker, self.adds))
        self.adds += 1

    def _count(self) -> None:
        with self.writing.transaction():
            self.writing.set("n", "count", b"%d" % (int(self.writing.get("n", "count")) + 1))
        self.counts += 1

    def _read_back(self, luck: random.Random) -> None:
        if self.adds:
            layer, entry = association(self.worker, luck.randrange(self.adds))
            v2 = V2MetadataService(self.reading)
            assert v2.get_diff_id(entry.digest) == layer, "an add is lost"
            assert entry in v2.get_metadata(layer), "an association is lost"

    def _look_up(self, luck: random.Random) -> None:
        with suppress(NotFoundError):  # no thread has added to this layer so far
            V2MetadataService(self.reading).get_metadata(sha256(luck.randrange(LAYERS)))

    def _look_up_many(self, luck: random.Random) -> None:
        V2MetadataService(self.reading).get_metadata_many(sha256(luck.randrange(LAYERS)) for _ in range(20))

    def _walk(self, _: random.Random) -> None:
        """Both halves of every add are in one snapshot; a part of it is walked.

        Not with a `timeout_s` of 0: a snapshot opens the file anew, and may meet somebody who is closing it.
        """
        with self.writing._backend.snapshot() as snapshot:
            for number, record in enumerate(entries_of(snapshot, "diffid-by-digest")):
                if number == 20:
                    break
                layer = record.value.decode().replace(":", "/")
                found = snapshot.get_many("v2metadata-by-diffid", [layer])
                assert record.key.replace("/", ":") in found[layer].decode()


def _duration(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def load(barriers: tuple[Any, Any], results: Any, path: str, process: int, seconds: float) -> None:
    """One process of the load; it reports what each thread did."""
    start, end = barriers
    try:
        with SQLMetadataStore(path, timeout_s=300) as writing, SQLMetadataStore(path, timeout_s=0) as reading:
            hands = [Hand(writing, reading, THREADS * process + thread) for thread in range(THREADS)]
            for failure in workers.in_threads([partial(hand.work, start, seconds) for hand in hands]):
                results.put(failure)
            end.wait()  # nobody closes the file while another one still reads
            for hand in hands:
                done = hand.adds, hand.counts, hand.reads, hand.longest_read, hand.longest_write
                results.put((hand.worker, *done))
    except BaseException:
        start.abort()
        end.abort()
        results.put(traceback.format_exc())


@pytest.mark.timeout(3600)
def test_under_load_nothing_fails_no_update_is_lost_and_no_reader_waits(
    request: pytest.FixtureRequest, open_sql: OpenSQL, noted: Callable[[str], None]
):
    """The `timeout_s` of look-ups is 0: where one would have to wait for a lock, it would fail instead."""
    seconds = request.config.getoption("--load-seconds")
    with open_sql() as store:
        store.set("n", "count", b"0")
    start = workers.CONTEXT.Barrier(PROCESSES * THREADS)
    end = workers.CONTEXT.Barrier(PROCESSES)
    results = workers.CONTEXT.SimpleQueue()
    processes = [
        workers.CONTEXT.Process(target=load, args=((start, end), results, store.path, number, seconds))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    reports = [results.get() for _ in range(PROCESSES * THREADS)]
    for process in processes:
        process.join()

    assert [report for report in reports if isinstance(report, str)] == []
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    with open_sql() as store:
        assert_sound(store)
        v2 = V2MetadataService(store)
        assert int(store.get("n", "count")) == sum(counts for _, _, counts, *_ in reports)
        for worker, adds, *_ in reports:
            for number in range(adds):
                layer, entry = association(worker, number)
                assert v2.get_diff_id(entry.digest) == layer
                assert entry in v2.get_metadata(layer)
    total = [sum(column) for column in list(zip(*reports, strict=True))[1:4]]
    assert min(total) > 0
    noted(
        f"{PROCESSES} processes x {THREADS} threads, {seconds} s: {total[0]} adds, {total[1]} counts, {total[2]} reads;"
        f" the longest took {max(row[4] for row in reports) * 1000:.0f} ms to read,"
        f" {max(row[5] for row in reports) * 1000:.0f} ms to write"
    )
