"""`kill -9` of real writers at random moments: what was acknowledged is there, whole, and what is derived is right."""

from __future__ import annotations

import random
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V2MetadataService
from tests.conftest import assert_sound, database_rows
from tests.robustness.crash.adder import LAYERS, association, write
from tests.robustness.crash.process import CONTEXT
from tests.support.counting import Counted
from tests.support.strategies import sha256


def kill_at_random(path: Path, writers: list[int], luck: random.Random) -> dict[int, int]:
    """Start the writers, kill all of them after a random number of acknowledgements; return the last of each."""
    pipes: dict[int, Connection] = {}
    processes = []
    for writer in writers:
        here, there = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=write, args=(there, str(path), writer))
        process.start()
        there.close()
        pipes[writer] = here
        processes.append(process)
    # From "while the file is made" to "in the middle of a checkpoint"; then a little more, into the next write.
    received = [pipes[writers[0]].recv() for _ in range(luck.choice([0, 1, 2, 30, 100]))]
    processes[0].join(timeout=luck.uniform(0, 0.004))
    for process in processes:
        process.kill()
    acknowledged = {writers[0]: max(received, default=0)}
    for process, (writer, pipe) in zip(processes, pipes.items(), strict=True):
        process.join()
        assert process.exitcode == -9
        acknowledged[writer] = last(pipe) or acknowledged.get(writer, 0)
    return acknowledged


def last(pipe: Connection) -> int:
    """Return the last number that came through the pipe before its writer was killed, 0 if none did."""
    number = 0
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return number


def assert_nothing_is_lost(store: SQLMetadataStore, acknowledged: dict[int, int]) -> None:
    """Both halves of each acknowledged add are there, of the others both or none, and of three together all or none."""
    v2 = V2MetadataService(store)
    lists = v2.get_metadata_many(sha256(layer) for layer in range(LAYERS))
    listed = {entry for entries in lists.values() for entry in entries}
    for writer, count in acknowledged.items():
        added = [association(writer, number) for number in range(count + 3)]
        mapped = v2.get_diff_ids(entry.digest for _, entry in added)
        for layer, entry in added[:count]:
            assert mapped.get(entry.digest) == layer, "an acknowledged add is lost"
        assert len(mapped) - count in ((0, 3) if count % 5 == 4 else (0, 1)), "a part of a transaction was kept"
        for layer, entry in added:
            if entry.digest not in mapped:
                assert entry not in listed, "half of an add was kept"
            elif entry not in listed:
                assert len(lists[layer]) == 50, "the list has lost an entry that was not evicted"
    assert all(len(entries) <= 50 for entries in lists.values())


@pytest.mark.timeout(3600)
@pytest.mark.promises(kills=30)
@pytest.mark.parametrize("part", range(2))
def test_what_was_acknowledged_survives_kill_9(
    tmp_path: Path, request: pytest.FixtureRequest, counted: Counted, part: int
):
    """Two halves, for the two cores. Every sixth time the file is new, so that its making is killed too."""
    kills = request.config.getoption("--kills") // 15
    luck = random.Random(f"layerstore {part}")
    acknowledged: dict[int, int] = {}
    path = tmp_path / "layers.db"
    for number in range(kills):
        if number % 6 == 0:
            path = tmp_path / f"layers{number}.db"
            acknowledged = {}
        writers = [2 * number, 2 * number + 1] if number % 3 else [2 * number]
        acknowledged |= kill_at_random(path, writers, luck)
        counted("kills", len(writers))
        with SQLMetadataStore(path) as store:
            assert_sound(store)
            assert_nothing_is_lost(store, acknowledged)
            assert database_rows(store, "SELECT count(*) FROM quarantine") == [(0,)]


def test_the_check_would_see_a_lost_add(tmp_path: Path):
    """The control: without one acknowledged add, with half of one, and with a wrong row the checks fail."""
    with SQLMetadataStore(tmp_path / "layers.db") as store:
        v2 = V2MetadataService(store)
        for number in range(4):
            v2.add(*association(1, number))
        assert_nothing_is_lost(store, {1: 4})
        with pytest.raises(AssertionError, match="an acknowledged add is lost"):
            assert_nothing_is_lost(store, {1: 5})
        layer, entry = association(1, 3)
        namespace, key = "diffid-by-digest", entry.digest.replace(":", "/")
        store.delete(namespace, key)
        with pytest.raises(AssertionError, match="half of an add was kept"):
            assert_nothing_is_lost(store, {1: 3})
        store.set(namespace, key, layer.encode())
        with store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE v2_metadata SET hmac = 'x' WHERE digest = ?", (entry.digest,))
        with pytest.raises(AssertionError):
            assert_sound(store)
