"""What the other processes of these tests run, and how they are started and waited for."""

from __future__ import annotations

import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from tests.support.strategies import sha256

CONTEXT = multiprocessing.get_context("forkserver")
LAYERS = 60


def association(writer: int, layer: int) -> V2Metadata:
    """Return the association that this writer, and no other, adds to this layer."""
    return V2Metadata(sha256(1000 * (writer + 1) + layer), f"localhost:5000/team{writer}/app", f"{writer:02x}")


def add_to_all_layers(store: Any, writer: int) -> None:
    """Add one association to each layer; writers begin at different layers, so that they meet."""
    v2 = V2MetadataService(store)
    for step in range(LAYERS):
        layer = (step + 7 * writer) % LAYERS
        v2.add(sha256(layer), association(writer, layer))


def in_threads(works: Iterable[Callable[[], None]]) -> list[str]:
    """Run all at once, one thread each; return the tracebacks of those that failed."""
    failures: list[str] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException:
            failures.append(traceback.format_exc())

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def in_processes(target: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> list[str]:
    """Run `target(start, failures, *arguments)` in a process for each; return what they report and how they failed.

    `start` is a barrier that lets them go at the same moment.
    """
    rows = list(arguments)
    start = CONTEXT.Barrier(len(rows))
    failures = CONTEXT.SimpleQueue()
    processes = [CONTEXT.Process(target=target, args=(start, failures, *row)) for row in rows]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    reported = [f"exit code {process.exitcode}" for process in processes if process.exitcode]
    while not failures.empty():
        reported.append(failures.get())
    return reported


def write(start: Any, failures: Any, path: str, writers: list[int]) -> None:
    """Open the store in this process, and write with a thread for each writer."""

    def add(store: SQLMetadataStore, writer: int) -> None:
        add_to_all_layers(store, writer)

    start.wait()
    try:
        with SQLMetadataStore(path) as store:
            for failure in in_threads([lambda writer=writer: add(store, writer) for writer in writers]):  # type: ignore[misc]
                failures.put(failure)
    except BaseException:
        failures.put(traceback.format_exc())


def open_often(start: Any, failures: Any, path: str, number: int) -> None:
    """Open one file with four threads at once, and write an entry with each."""

    def open_once(thread: int) -> None:
        with SQLMetadataStore(path) as store:
            store.set("opened", f"{number}-{thread}", b"")

    start.wait()
    for failure in in_threads([lambda thread=thread: open_once(thread) for thread in range(4)]):  # type: ignore[misc]
        failures.put(failure)


def count_up(start: Any, failures: Any, path: str, times: int) -> None:
    """Read a number and write the next one, in a transaction: what a lost update would show."""
    start.wait()
    try:
        with SQLMetadataStore(path) as store:
            for _ in range(times):
                with store.transaction():
                    store.set("n", "count", str(int(store.get("n", "count")) + 1).encode())
    except BaseException:
        failures.put(traceback.format_exc())


def hold(connection: Any, path: str) -> None:
    """Hold a transaction with a write in it; say so; end it when told to."""
    with SQLMetadataStore(path) as store, store.transaction():
        store.set("n", "k", b"new")
        connection.send("holding")
        connection.recv()
