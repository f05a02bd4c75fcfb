"""Writers at once, on many layers and on few; kills of clients and of the server: nothing acknowledged is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from layerstore import SQLMetadataStore, StoreError, V2Metadata, V2MetadataService
from tests.conftest import assert_sound
from tests.robustness.postgresql.workers import acknowledged, adder
from tests.support import postgresql
from tests.support.counting import Counted
from tests.support.postgresql import Server
from tests.support.strategies import sha256

MIX = """
import random, sys, threading, time
from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
url, name, layers, adds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = SQLMetadataStore(url)
v2 = V2MetadataService(store)
failed = []

def work(thread):
    try:
        for number in range(adds):
            digest = f"sha256:{int(name):08x}{thread:08x}{number:048x}"
            v2.add(f"sha256:{random.randrange(layers):064x}", V2Metadata(digest, f"localhost:5000/{name}"))
            if number % 10 == 0:
                with store.transaction():
                    counted = store.get_many("n", ["counter"]).get("counter", b"0")
                    store.set("n", "counter", b"%d" % (int(counted) + 1))
            if number % 25 == 3:
                store.set("v2metadata-by-diffid", f"sha256/{layers + thread:064x}", b"[]")
            if number % 25 == 7:
                store.get_many("diffid-by-digest", [digest.replace(":", "/")])[digest.replace(":", "/")]
    except BaseException as error:
        failed.append(repr(error))

threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
for one in threads: one.start()
for one in threads: one.join()
print(failed, flush=True)
sys.exit(bool(failed))
"""


@pytest.fixture
def server() -> Iterator[Server]:
    postgresql.refuse_without()
    with postgresql.running(fsync=True) as one:
        yield one


@pytest.mark.parametrize("layers", [200, 4])
def test_32_writers_lose_nothing(postgresql_url: str, layers: int):
    """Every digest resolves, the counter is exact, and each list holds 50 of its newest."""
    SQLMetadataStore(postgresql_url).close()
    adds = 40
    running = [
        subprocess.Popen([sys.executable, "-c", MIX, postgresql_url, str(one), str(layers), str(adds)])
        for one in range(8)
    ]

    assert [one.wait(200) for one in running] == [0] * 8
    with SQLMetadataStore(postgresql_url) as store:
        assert store.get("n", "counter") == b"%d" % (8 * 4 * (adds // 10))
        mapped = list(store.entries("diffid-by-digest"))
        assert len(mapped) == 8 * 4 * adds
        listed = {key: len(V2MetadataService(store).get_metadata(key.replace("/", ":"))) for _, key, _ in lists(store)}
        assert sum(listed.values()) == sum(min(50, count) for count in per_layer(store).values())
        assert_sound(store)


def lists(store: SQLMetadataStore) -> list[tuple[str, str, bytes]]:
    return [entry for entry in store.entries("v2metadata-by-diffid") if entry[2] != b"[]"]


def per_layer(store: SQLMetadataStore) -> dict[bytes, int]:
    counts: dict[bytes, int] = {}
    for _, _, diff_id in store.entries("diffid-by-digest"):
        counts[diff_id] = counts.get(diff_id, 0) + 1
    return counts


@pytest.mark.promises(kills=16)
def test_clients_killed_at_any_moment_leave_no_half_and_lose_nothing(
    postgresql_url: str, counted: Counted, pytestconfig: pytest.Config
):
    SQLMetadataStore(postgresql_url).close()
    kept: list[int] = []
    for round_ in range(max(1, pytestconfig.getoption("--kills") // 75)):
        running = [adder(postgresql_url, (round_ * 4 + one) * 100_000, layers=3, seconds=60) for one in range(4)]
        for one in running:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0.05, 0.4))
        for one in running:
            one.send_signal(signal.SIGKILL)
            counted("kills")
        for one in running:
            kept += acknowledged(one)
    assert kept
    with SQLMetadataStore(postgresql_url) as store:
        found = V2MetadataService(store).get_diff_ids(sha256(number) for number in kept)
        assert len(found) == len(kept)
        assert_sound(store)


@pytest.mark.promises(kills=4)
def test_a_server_killed_at_any_moment_loses_nothing_that_it_acknowledged(
    server: Server, counted: Counted, pytestconfig: pytest.Config
):
    """`pg_ctl stop -m immediate`: no shutdown, recovery from the log; the clients go on."""
    SQLMetadataStore(server.url()).close()
    running = [adder(server.url(), one * 10_000_000, layers=3, seconds=600) for one in range(3)]
    for one in running:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for _ in range(max(1, pytestconfig.getoption("--kills") // 75)):
        time.sleep(random.uniform(0.2, 0.6))
        server.restart("immediate")
        counted("kills")
    time.sleep(0.5)
    for one in running:
        one.send_signal(signal.SIGINT)
    kept = [number for one in running for number in acknowledged(one)]

    assert kept
    with SQLMetadataStore(server.url()) as store:
        assert len(V2MetadataService(store).get_diff_ids(sha256(number) for number in kept)) == len(kept)
        assert_sound(store)


def test_a_child_makes_its_own_sessions_and_the_parents_go_on(postgresql_url: str):
    with SQLMetadataStore(postgresql_url) as store:
        v2 = V2MetadataService(store)
        v2.add(sha256(1), V2Metadata(sha256(2)))
        with store.transaction():
            store.set("n", "parent", b"v")
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    store.set("n", "child", b"v")
                except StoreError:  # the transaction is the parent's
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            store.set("n", "parent2", b"v")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                v2.add(sha256(1), V2Metadata(sha256(3)))
                code = 0 if store.get("n", "parent2") == b"v" else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        v2.add(sha256(1), V2Metadata(sha256(4)))
        assert len(v2.get_metadata(sha256(1))) == 3
        assert [key for _, key, _ in store.entries("n")] == ["parent", "parent2"]


def test_changes_of_several_entries_lock_them_in_one_order(postgresql_server: Server, postgresql_url: str):
    """The server ends one of two that wait for each other, behind a second in which neither goes on."""
    before = deadlocks(postgresql_server)
    with SQLMetadataStore(postgresql_url) as store:
        v2 = V2MetadataService(store)
        image = [(sha256(number), V2Metadata(sha256(100 + number), "localhost:5000/a")) for number in range(6)]
        failed: list[BaseException] = []

        def work(one: int) -> None:
            own = [(diff_id, V2Metadata(each.digest, f"localhost:5000/{one}")) for diff_id, each in image]
            try:
                for number in range(30):
                    v2.add_many(own if (one + number) % 2 else own[::-1])
                    for diff_id, each in own:
                        v2.remove(each)
                        v2.add(diff_id, each)
            except BaseException as error:
                failed.append(error)

        v2.add_many(image)
        threads = [threading.Thread(target=work, args=(one,)) for one in range(6)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

        assert failed == []
        for diff_id, each in image:
            assert {one.digest for one in v2.get_metadata(diff_id)} == {each.digest}
            assert len(v2.get_metadata(diff_id)) == 1 + len(threads)
        assert_sound(store)
    assert deadlocks(postgresql_server) == before


def deadlocks(server: Server) -> int:
    return (server.folder / "log").read_text(errors="replace").count("deadlock detected")
