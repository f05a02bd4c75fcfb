"""Writers take turns: in the order in which they come, whoever is killed, interrupted, forked or gives up meanwhile."""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore, StoreBusyError, StoreClosedError
from layerstore.sql.sqlite.queue import _TAKE_BOTH, Queue
from tests.conftest import OpenSQL, database_rows, rolled_back, sqlite_of, undone
from tests.robustness.concurrency.workers import CONTEXT, in_processes, in_threads

pytestmark = pytest.mark.slow
only_linux = pytest.mark.skipif(sys.platform != "linux", reason="processes line up on Linux alone")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def queue_of(store: SQLMetadataStore) -> Queue:
    return sqlite_of(store)._connections._file.queue


def sidecar(store: SQLMetadataStore) -> Path:
    return Path(f"{store.path}-queue")


def wait_until(find: Callable[[], object], wanted: object = True) -> None:
    deadline = time.monotonic() + 60
    while find() != wanted:
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.002)


def waiting_processes(store: SQLMetadataStore) -> int:
    """Return how many wait for a lock on the sidecar, as the kernel says."""
    inode = sidecar(store).stat().st_ino
    return sum(" -> " in line and f":{inode} " in line for line in Path("/proc/locks").read_text().splitlines())


@contextmanager
def holding(store: SQLMetadataStore) -> Iterator[Callable[[], None]]:
    """Let a thread hold a transaction; yield what ends it."""
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with store.transaction():
            begun.set()
            assert ended.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(60)
    try:
        yield ended.set
    finally:
        ended.set()
        thread.join()


class Other:
    """Another process that has the store open, and does what it is told."""

    def __init__(self, path: str | None, **options: Any) -> None:
        self.pipe, there = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=obey, args=(there, path, options))
        self.process.start()
        there.close()
        assert self.pipe.recv() == "open"

    def tell(self, what: str) -> None:
        self.pipe.send(what)

    def ask(self, what: str) -> Any:
        self.tell(what)
        return self.answer()

    def answer(self) -> Any:
        assert self.pipe.poll(60), "no answer"
        return self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


def obey(pipe: Connection, path: str, options: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    store = SQLMetadataStore(path, **options)
    transaction = store.transaction()
    pipe.send("open")
    while True:
        order = pipe.recv()
        try:
            match order.split():
                case ["begin"]:
                    transaction.__enter__()
                case ["end"]:
                    transaction.__exit__(None, None, None)
                case ["write", key]:
                    store.set("n", key, b"%d" % time.monotonic_ns())
                case ["fork"]:
                    if os.fork() == 0:
                        pipe.close()
                        time.sleep(600)
                case ["close"]:
                    store.close()
                    return
            pipe.send("done")
        except (Exception, KeyboardInterrupt) as error:
            pipe.send(type(error).__name__)


@pytest.fixture
def other(open_sql: OpenSQL) -> Iterator[Callable[..., Other]]:
    """Start other processes on the store's file; they have ended when the test has."""
    path = open_sql().path
    others: list[Other] = []

    def start(**options: Any) -> Other:
        others.append(Other(path, **options))
        return others[-1]

    yield start
    for one in others:
        with suppress(BrokenPipeError, OSError):
            one.tell("close")
        one.process.join(timeout=20)
        one.kill()


def test_threads_write_in_the_order_in_which_they_came(sqlite_store: SQLMetadataStore):
    order: list[int] = []

    def write(number: int) -> None:
        sqlite_store.set("n", f"{number}", b"")
        order.append(number)  # the next one writes only when this one has handed over

    def transact(number: int) -> None:
        with sqlite_store.transaction():
            order.append(number)

    with holding(sqlite_store) as end:
        threads = []
        for number in range(12):
            threads.append(threading.Thread(target=(transact, write)[number % 3 == 0], args=(number,)))
            threads[-1].start()
            wait_until(lambda: len(queue_of(sqlite_store)._line), 2 + number)
        end()
        for thread in threads:
            thread.join()
    assert [number for number in order if number % 3] == [number for number in range(12) if number % 3]
    assert sorted(order) == list(range(12))
    assert not queue_of(sqlite_store)._line


@only_linux
def test_processes_write_in_the_order_in_which_they_came(open_sql: OpenSQL, other: Callable[..., Other]):
    store = open_sql()
    writers = [other() for _ in range(5)]
    assert [one.ask("write first") for one in writers] == ["done"] * 5
    with store.transaction():
        for number, one in enumerate(writers):
            one.tell(f"write {number}")
            wait_until(lambda: waiting_processes(store), 1 + number)
    assert [one.answer() for one in writers] == ["done"] * 5

    times = [int(store.get("n", f"{number}")) for number in range(5)]
    assert times == sorted(times)


def add_until(barrier: Any, stop: Any, counts: Any, path: str, threads: int) -> None:
    with SQLMetadataStore(path) as store:

        def write() -> None:
            store.get_many("n", [])
            barrier.wait()
            count = 0
            while not stop.is_set():
                store.set("n", f"{os.getpid()} {threading.get_ident()}", b"%d" % count)
                count += 1
            counts.put(count)

        assert in_threads([write] * threads) == []


@only_linux
@pytest.mark.parametrize(("processes", "threads"), [(4, 1), (1, 8), (4, 2)])
def test_no_writer_gets_less_than_half_of_its_share(open_sql: OpenSQL, processes: int, threads: int):
    """Without the queue, the unluckiest of some writes once or twice while the luckiest writes a thousand times."""
    store = open_sql()
    barrier, stop, counts = CONTEXT.Barrier(processes * threads + 1), CONTEXT.Event(), CONTEXT.SimpleQueue()
    workers = [
        CONTEXT.Process(target=add_until, args=(barrier, stop, counts, store.path, threads)) for _ in range(processes)
    ]
    for worker in workers:
        worker.start()
    barrier.wait()
    time.sleep(2)
    stop.set()
    done = [counts.get() for _ in range(processes * threads)]
    for worker in workers:
        worker.join()
    assert min(done) >= 0.5 * sum(done) / len(done) > 0


def write_impatiently(start: Any, failures: Any, path: str, number: int) -> None:
    """Write with three threads, each of which soon gives up; report what was written and is not there.

    Each write is synced, and a disk that is busy takes a tenth of a second for that: they end by the clock.
    """

    def write(thread: int) -> None:
        luck, written, step, end = random.Random(f"{number} {thread}"), [], 0, time.monotonic() + 3
        while time.monotonic() < end:
            step += 1
            with SQLMetadataStore(path, timeout_s=luck.choice([0, 0.001, 0.005, 0.02])) as store:
                for turn in range(3):
                    key = f"{number}-{thread}-{step}-{turn}"
                    with suppress(StoreBusyError):
                        store.set("n", key, b"")
                        written.append(key)
        with SQLMetadataStore(path, read_only=True) as store:
            lost = {*written} - {key for _, key, _ in store.entries("n")}
        if lost:
            failures.put(f"{len(lost)} of {len(written)} are lost")

    start.wait()
    for failure in in_threads([partial(write, thread) for thread in range(3)]):
        failures.put(failure)


def test_turns_that_nobody_waits_for_any_more_are_not_lost(open_sql: OpenSQL):
    """Many give up at the very moment at which their turn comes."""
    store = open_sql(timeout_s=60)
    assert in_processes(write_impatiently, [(str(store.path), number) for number in range(4)]) == []
    assert len(list(store.entries("n"))) > 0
    with store.transaction():
        store.set("n", "afterwards", b"")
    if sys.platform == "linux":
        assert waiting_processes(store) == 0
        with sidecar(store).open("r+b") as free:
            fcntl.fcntl(free, fcntl.F_OFD_SETLK, _TAKE_BOTH)


@only_linux
@pytest.mark.parametrize("forked", [False, True])
def test_a_holder_that_is_killed_frees_the_turn_also_where_it_has_forked(
    open_sql: OpenSQL, other: Callable[..., Other], forked: bool
):
    """Without the hook for forks, the child would keep the lock of the file description that it shares."""
    store, holder = open_sql(timeout_s=60), other()
    assert holder.ask("write first") == "done"
    if forked:
        assert holder.ask("fork") == "done"
    assert holder.ask("begin") == "done"
    writers = [partial(store.set, "n", f"{number}", b"") for number in range(3)]
    threads = [threading.Thread(target=write) for write in writers]
    for thread in threads:
        thread.start()
    wait_until(lambda: waiting_processes(store) == 1)
    holder.kill()
    for thread in threads:
        thread.join(30)
    assert len(list(store.entries("n"))) == 4


@only_linux
def test_a_waiter_that_is_killed_or_interrupted_is_not_waited_for(open_sql: OpenSQL, other: Callable[..., Other]):
    store, killed, interrupted, last = open_sql(), other(), other(), other()
    with store.transaction():
        for number, one in enumerate([killed, interrupted, last]):
            one.tell(f"write {number}")
            wait_until(lambda: waiting_processes(store), 1 + number)
        killed.kill()
        assert interrupted.process.pid is not None
        os.kill(interrupted.process.pid, signal.SIGINT)
        assert interrupted.answer() == "KeyboardInterrupt"
    assert last.answer() == "done"
    assert interrupted.ask("write again") == "done"
    assert {key for _, key, _ in store.entries("n")} == {"2", "again"}


@only_linux
def test_a_turn_that_comes_too_late_is_passed_on(open_sql: OpenSQL, other: Callable[..., Other]):
    store, impatient, last = open_sql(), other(timeout_s=0.2), other()
    with store.transaction():
        assert impatient.ask("write k") == "StoreBusyError"
        last.tell("write last")
        wait_until(lambda: waiting_processes(store) == 2)
    assert last.answer() == "done"
    assert impatient.ask("write k") == "done"
    store.set("n", "afterwards", b"")
    assert {key for _, key, _ in store.entries("n")} == {"last", "k", "afterwards"}


@only_linux
def test_a_turn_that_does_not_end_keeps_nobody_from_writing(open_sql: OpenSQL):
    """As that of a process that is stopped when its turn has come: who has waited for so long asks SQLite anyway."""
    store, hasty = open_sql(timeout_s=0.5), open_sql(timeout_s=0)
    store.set("n", "first", b"")
    with sidecar(store).open("r+b") as turn:
        fcntl.fcntl(turn, fcntl.F_OFD_SETLK, _TAKE_BOTH)
        writers = [partial(store.set, "n", f"{number}", b"") for number in range(3)]
        assert in_threads([*writers, partial(hasty.set, "n", "hasty", b"")]) == []
    store.set("n", "last", b"")
    assert {key for _, key, _ in store.entries("n")} == {"first", "0", "1", "2", "hasty", "last"}
    assert not queue_of(store)._line


def test_a_thread_that_gives_up_is_passed_over(open_sql: OpenSQL):
    store = open_sql(timeout_s=0.2)
    with holding(store):
        assert in_threads([partial(_busy, store, f"{number}") for number in range(4)]) == []
    assert not queue_of(store)._line
    store.set("n", "k", b"")


def _busy(store: SQLMetadataStore, key: str) -> None:
    with pytest.raises(StoreBusyError, match="another process is writing and did not end in time") as caught:
        store.set("n", key, b"")
    assert caught.value.path == store.path


def test_a_wait_for_a_writer_that_does_not_line_up_counts_too(open_sql: OpenSQL):
    """A part of the time is spent in line, and only the rest in SQLite: not all of it once more."""
    front, store = open_sql(timeout_s=1), open_sql(timeout_s=3)
    statements: list[str] = []
    sqlite_of(store)._connections.local.handle.connection.set_trace_callback(statements.append)
    with closing(sqlite3.connect(str(store.path), isolation_level=None)) as plain:
        plain.execute("BEGIN IMMEDIATE")
        thread = threading.Thread(target=in_threads, args=([partial(front.set, "n", "front", b"")],))
        thread.start()
        wait_until(lambda: len(queue_of(front)._line) == 1 and queue_of(front)._sidecar is not None)
        with pytest.raises(StoreBusyError):
            store.set("n", "k", b"")
        thread.join()
    [shorter, longer] = [int(line.partition("=")[2]) for line in statements if "busy_timeout" in line]
    assert shorter < longer == 3000
    store.set("n", "k", b"")


def test_a_plain_writer_and_the_queue_lose_nothing_of_each_other(open_sql: OpenSQL):
    store = open_sql()
    store.set("n", "count", b"0")

    def plain() -> None:
        with closing(sqlite3.connect(str(store.path), isolation_level=None, timeout=60)) as connection:
            for _ in range(100):
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("UPDATE metadata SET value = CAST(CAST(value AS INTEGER) + 1 AS BLOB)")
                connection.execute("COMMIT")

    def ours() -> None:
        for _ in range(100):
            with store.transaction():
                store.set("n", "count", b"%d" % (int(store.get("n", "count")) + 1))

    assert in_threads([plain, ours, ours]) == []
    assert store.get("n", "count") == b"300"


def test_a_thread_that_ends_inside_its_transaction_ends_its_turn(sql_store: SQLMetadataStore):
    def begin() -> None:
        sql_store.transaction().__enter__()
        sql_store.set("n", "k", b"")

    assert in_threads([begin]) == []
    gc.collect()
    sql_store.set("n", "other", b"")
    assert [key for _, key, _ in sql_store.entries()] == ["other"]


def test_a_transaction_that_is_left_by_an_error_ends_its_turn(sqlite_store: SQLMetadataStore):
    for _ in range(3):
        with undone(sqlite_store), sqlite_store.transaction():
            sqlite_store.set("n", "k", b"")
    assert not queue_of(sqlite_store)._line
    assert in_threads([lambda: sqlite_store.set("n", "k", b"")]) == []


def test_a_store_that_is_closed_while_threads_wait_lets_them_go(open_sql: OpenSQL):
    store = open_sql()
    outcomes: list[str] = []

    def write() -> None:
        try:
            store.set("n", "k", b"")
            outcomes.append("written")
        except StoreClosedError:
            outcomes.append("closed")

    begun, closed = threading.Event(), threading.Event()

    def hold() -> None:
        with rolled_back(store):
            begun.set()
            assert closed.wait(60)

    threads = [threading.Thread(target=work) for work in (hold, write, write, write)]
    for thread in threads:
        thread.start()
        assert begun.wait(60)
    wait_until(lambda: len(queue_of(store)._line), 4)
    store.close()
    closed.set()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 3


_FORKS = """
import os, sys
from layerstore import SQLMetadataStore

def descriptors():
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")
            and os.readlink(f"/proc/self/fd/{fd}").endswith("-queue")]

store = SQLMetadataStore(sys.argv[1])
store.set("n", "parent", b"")
assert len(descriptors()) == 1
child = os.fork()
if child == 0:
    assert descriptors() == []
    store.set("n", "child", b"")
    assert len(descriptors()) == 1
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert len(descriptors()) == 1
with store.transaction():
    child = os.fork()
    if child == 0:
        os._exit(len(descriptors()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    store.set("n", "in a transaction", b"")
store.close()
assert descriptors() == []
"""


@only_linux
def test_a_forked_child_has_a_queue_of_its_own(open_sql: OpenSQL):
    path = open_sql().path
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _FORKS, str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {key for _, key, _ in open_sql().entries("n")} == {"parent", "child", "in a transaction"}


# The file beside the database.


@only_linux
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
@pytest.mark.parametrize("umask", [0, 0o077])
def test_the_sidecar_has_the_mode_of_the_database_and_stays(open_sql: OpenSQL, mode: int, umask: int):
    store = open_sql()
    assert store.path is not None
    os.chmod(store.path, mode)
    assert not sidecar(store).exists(), "a store that was only opened has not made it"
    before = os.umask(umask)
    try:
        store.set("n", "k", b"")
    finally:
        os.umask(before)
    store.close()
    status = sidecar(store).lstat()
    assert (stat.S_IMODE(status.st_mode), status.st_size) == (mode, 0)
    inode = status.st_ino
    with open_sql() as again:
        again.set("n", "k", b"")
    assert sidecar(store).stat().st_ino == inode


@only_linux
@needs_root
def test_root_makes_it_for_the_owner_of_the_database(open_sql: OpenSQL):
    store = open_sql()
    assert store.path is not None
    os.chown(store.path, 65534, 65534)
    store.set("n", "k", b"")
    assert (sidecar(store).stat().st_uid, sidecar(store).stat().st_gid) == (65534, 65534)


@only_linux
def test_it_is_beside_the_file_that_a_link_leads_to(open_sql: OpenSQL, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    open_sql(tmp_path / "elsewhere" / "layers.db").set("n", "k", b"")
    (tmp_path / "link.db").symlink_to("elsewhere/layers.db")
    linked = open_sql(tmp_path / "link.db")
    linked.set("n", "k", b"")
    assert not sidecar(linked).exists()
    assert (tmp_path / "elsewhere" / "layers.db-queue").exists()


def a_link(at: Path, victim: Path) -> None:
    at.symlink_to(victim)


def a_dangling_link(at: Path, victim: Path) -> None:
    at.symlink_to(victim.with_suffix(".new"))


def a_fifo(at: Path, _: Path) -> None:
    os.mkfifo(at)


def a_directory(at: Path, _: Path) -> None:
    at.mkdir()


def a_socket(at: Path, _: Path) -> None:
    os.mknod(at, stat.S_IFSOCK | 0o600)


def another_users(at: Path, _: Path) -> None:
    """As anyone may leave it in a directory like /tmp, to hold a lock on it for ever."""
    at.touch()
    os.chown(at, 65534, 65534)


@only_linux
@pytest.mark.parametrize(
    "make",
    [a_link, a_dangling_link, a_fifo, a_directory, a_socket, pytest.param(another_users, marks=needs_root)],
    ids=lambda make: make.__name__,
)
def test_what_is_not_ours_is_left_alone_and_written_without(
    open_sql: OpenSQL, tmp_path: Path, make: Callable[[Path, Path], None]
):
    victim = tmp_path / "victim"
    victim.write_bytes(b"kept")
    victim.chmod(0o604)
    store = open_sql()
    make(sidecar(store), victim)
    before = sidecar(store).lstat()
    assert in_threads([partial(store.set, "n", f"{number}", b"") for number in range(4)]) == []

    assert len(list(store.entries("n"))) == 4
    assert queue_of(store)._sidecar is None
    after = sidecar(store).lstat()
    assert (after.st_mode, after.st_uid, after.st_mtime_ns) == (before.st_mode, before.st_uid, before.st_mtime_ns)
    assert (victim.read_bytes(), stat.S_IMODE(victim.stat().st_mode)) == (b"kept", 0o604)
    assert not victim.with_suffix(".new").exists()


_IN_A_CLOSED_FOLDER = """
import logging, os, sys
from layerstore import SQLMetadataStore
SQLMetadataStore(":memory:").close()  # what is imported may lie where nobody may look
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
with SQLMetadataStore(sys.argv[1]) as store:
    store.set("n", "nobody", b"")
"""


@only_linux
@needs_root
def test_who_may_not_make_it_writes_without(tmp_path_factory: pytest.TempPathFactory):
    """The directory can only be read, but the database and its log are there and can be written."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/layers.db"
        with SQLMetadataStore(path) as store:
            store.set("n", "root", b"")
            os.unlink(sidecar(store))
            os.chmod(folder, 0o755)
            for side in ("", "-wal", "-shm"):
                os.chmod(path + side, 0o666)
            done = subprocess.run(
                [sys.executable, "-c", _IN_A_CLOSED_FOLDER, path], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert not sidecar(store).exists()
            assert database_rows(store, "SELECT count(*) FROM metadata") == [(2,)]


def test_a_store_in_memory_and_one_that_only_reads_have_none(sql_memory: SQLMetadataStore, open_sql: OpenSQL):
    sql_memory.set("n", "k", b"")
    assert queue_of(sql_memory)._sidecar is None
    path = open_sql().path
    with SQLMetadataStore(str(path), read_only=True) as reader:
        assert list(reader.entries()) == []
        assert not sidecar(reader).exists()


@only_linux
def test_without_it_writers_of_other_queues_lose_nothing(open_sql: OpenSQL):
    """Somebody removes the file while it is in use: there are two queues then, and SQLite between them."""
    one, two = open_sql(), open_sql()
    one.set("n", "count", b"0")
    sidecar(one).unlink()

    def count(store: SQLMetadataStore) -> None:
        for _ in range(100):
            with store.transaction():
                store.set("n", "count", b"%d" % (int(store.get("n", "count")) + 1))

    assert in_threads([partial(count, one), partial(count, two), partial(count, two)]) == []
    assert one.get("n", "count") == b"300"
