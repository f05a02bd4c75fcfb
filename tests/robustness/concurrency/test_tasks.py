"""A transaction belongs to the task that began it; what is left out of order is rolled back, and nothing is lost."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreError, V2Metadata, V2MetadataService
from tests.conftest import OpenSQL, transact
from tests.support.counting import Counted
from tests.support.strategies import sha256

LAYER, BLOB = sha256(1), sha256(2)


def keys(store: SQLMetadataStore) -> list[str]:
    return [key for _, key, _ in store.entries()]


class LeftError(Exception):
    """Leaves a transaction; no error of the library's."""


USES: dict[str, Callable[[SQLMetadataStore], object]] = {
    "get": lambda store: store.get("n", "before"),
    "get_many": lambda store: store.get_many("n", ["before"]),
    "entries": lambda store: list(store.entries()),
    "set": lambda store: store.set("n", "other", b""),
    "set of a list": lambda store: store.set("v2metadata-by-diffid", "sha256/" + "0" * 64, b"[]"),
    "set_many": lambda store: store.set_many([("n", "other", b"")]),
    "set_many of many": lambda store: store.set_many(("n", f"other {number}", b"") for number in range(1001)),
    "delete": lambda store: store.delete("n", "before"),
    "quarantine": lambda store: store.quarantine("n", "k", b"", "reason"),
    "add": lambda store: V2MetadataService(store).add(LAYER, V2Metadata(BLOB)),
    "remove": lambda store: V2MetadataService(store).remove(V2Metadata(BLOB)),
    "get_metadata": lambda store: V2MetadataService(store).get_metadata(LAYER),
    "transaction": transact,
}


async def beside(store: SQLMetadataStore, use: Callable[[], Awaitable[None]]) -> None:
    """Hold a transaction in a task of its own while `use` runs."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        with store.transaction():
            store.set("n", "held", b"")
            begun.set()
            await ended.wait()

    task = asyncio.create_task(hold())
    await begun.wait()
    try:
        await use()
    finally:
        ended.set()
        await task


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_another_task_cannot_use_a_store_inside_a_transaction(
    sql_store: SQLMetadataStore, use: Callable[[SQLMetadataStore], object], counted: Counted
):
    """Its write would be rolled back with the transaction, and what it reads may never be committed."""
    counted("tasks")
    V2MetadataService(sql_store).add(LAYER, V2Metadata(BLOB))
    sql_store.set("n", "before", b"")
    before = keys(sql_store)

    async def refused() -> None:
        with pytest.raises(StoreError, match=r"another asyncio task.*asyncio\.to_thread"):
            use(sql_store)

    asyncio.run(beside(sql_store, refused))
    assert set(keys(sql_store)) == {*before, "held"}
    use(sql_store)


def test_a_task_that_is_started_inside_is_another_one(sql_store: SQLMetadataStore, counted: Counted):
    counted("tasks")

    async def main() -> None:
        with sql_store.transaction():
            sql_store.set("n", "mine", b"")
            with pytest.raises(StoreError, match="another asyncio task"):
                await asyncio.create_task(child())
            assert sql_store.get("n", "mine") == b""

    async def child() -> None:
        sql_store.set("n", "child", b"")

    asyncio.run(main())
    assert keys(sql_store) == ["mine"]


def test_a_loop_that_runs_inside_a_threads_transaction_is_another_user(sql_store: SQLMetadataStore, counted: Counted):
    counted("tasks")

    async def child() -> None:
        with pytest.raises(StoreError, match="another asyncio task"):
            sql_store.set("n", "child", b"")

    with sql_store.transaction():
        sql_store.set("n", "mine", b"")
        asyncio.run(child())
    assert keys(sql_store) == ["mine"]


def test_what_a_task_wrote_stays_when_anothers_transaction_fails(sql_store: SQLMetadataStore, counted: Counted):
    """The loss of before: an acknowledged add was undone by the transaction of another task."""
    counted("tasks")
    v2 = V2MetadataService(sql_store)
    acknowledged: list[str] = []

    async def fail(number: int) -> None:
        for _ in range(20):
            try:
                with sql_store.transaction():
                    sql_store.set("n", f"failed {number}", b"")
                    await asyncio.sleep(0)
                    raise LeftError
            except (LeftError, StoreError):
                await asyncio.sleep(0)

    async def add(number: int) -> None:
        for step in range(50):
            digest = sha256(100 * number + step + 10)
            try:
                v2.add(LAYER, V2Metadata(digest))
            except StoreError:
                await asyncio.sleep(0)
            else:
                acknowledged.append(digest)
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(fail(number) for number in range(3)), *(add(number) for number in range(3)))

    asyncio.run(main())
    assert acknowledged
    assert set(v2.get_diff_ids(acknowledged)) == set(acknowledged)
    assert not [key for key in keys(sql_store) if key.startswith("failed")]


def test_the_whole_transaction_in_a_thread_works_beside_others(sql_store: SQLMetadataStore, counted: Counted):
    counted("tasks")

    def count() -> None:
        with sql_store.transaction():
            value = int(sql_store.get_many("n", ["counter"]).get("counter", b"0"))
            sql_store.set("n", "counter", str(value + 1).encode())

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(count) for _ in range(20)))

    asyncio.run(main())
    assert sql_store.get("n", "counter") == b"20"


WRITES = {name: USES[name] for name in ("set", "set of a list", "set_many", "add", "transaction", "set_many of many")}


@pytest.mark.parametrize("use", WRITES.values(), ids=list(WRITES))
def test_a_write_in_a_thread_that_a_transaction_waits_for_is_refused_at_once(
    open_sql: OpenSQL, use: Callable[[SQLMetadataStore], object], counted: Counted
):
    """It would wait for the task that waits for it, for all of the timeout."""
    counted("tasks")
    store = open_sql(timeout_s=600)

    async def main() -> None:
        with store.transaction():
            store.set("n", "mine", b"")
            with pytest.raises(StoreError, match=r"started inside a transaction.*asyncio\.to_thread"):
                await asyncio.to_thread(use, store)
        await asyncio.to_thread(store.set, "n", "behind", b"")

    asyncio.run(main())
    assert keys(store) == ["behind", "mine"]


def test_a_thread_of_a_transaction_writes_to_another_store(open_sql: OpenSQL, tmp_path: Path):
    one, other = open_sql(), open_sql(tmp_path / "other.db")

    async def main() -> None:
        with one.transaction():
            await asyncio.to_thread(other.set, "n", "k", b"")

    asyncio.run(main())
    assert keys(other) == ["k"]


def test_tasks_that_leave_out_of_order_without_a_loops_help(sql_store: SQLMetadataStore, counted: Counted):
    """As under trio, whose tasks cannot be told apart: both get the error, and nothing of either is kept."""
    counted("tasks")

    def task(key: str) -> Iterator[None]:
        with sql_store.transaction():
            sql_store.set("n", key, b"")
            yield

    sql_store.set("n", "before", b"")
    first, second = task("first"), task("second")
    next(first)
    next(second)
    with pytest.raises(StoreError, match="was left while one that began inside it was still open"):
        next(first)
    for use in (lambda: sql_store.set("n", "between", b""), lambda: sql_store.get("n", "before")):
        with pytest.raises(StoreError, match="rolled back"):
            use()
    with pytest.raises(StoreError, match="rolled back"):
        next(second)

    assert keys(sql_store) == ["before"]
    sql_store.set("n", "after", b"")
    assert keys(sql_store) == ["after", "before"]


def test_a_generator_that_is_dropped_inside_its_own_transaction_undoes_it_alone(sql_store: SQLMetadataStore):
    def inner() -> Generator[None, None, None]:
        with sql_store.transaction():
            sql_store.set("n", "inner", b"")
            yield

    with sql_store.transaction():
        sql_store.set("n", "outer", b"")
        generator = inner()
        next(generator)
        generator.close()

    assert keys(sql_store) == ["outer"]


def test_a_generator_that_outlives_the_transaction_around_it_is_out_of_order(sql_store: SQLMetadataStore):
    def inner() -> Generator[None, None, None]:
        with sql_store.transaction():
            yield

    def outer() -> None:
        with sql_store.transaction():
            sql_store.set("n", "outer", b"")
            next(generator)

    generator = inner()
    with pytest.raises(StoreError, match="was left while"):
        outer()
    with pytest.raises(StoreError, match="rolled back"):
        next(generator)

    assert keys(sql_store) == []
    sql_store.set("n", "after", b"")


def test_a_transaction_that_another_thread_ends_is_rolled_back(sql_store: SQLMetadataStore):
    """A generator may be closed by whoever drops it last."""

    def work() -> Generator[None, None, None]:
        with sql_store.transaction():
            sql_store.set("n", "k", b"")
            yield

    generator = work()
    next(generator)
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    gc.collect()

    assert keys(sql_store) == []
    sql_store.set("n", "after", b"")
    with sql_store.transaction():
        sql_store.set("n", "again", b"")
    assert keys(sql_store) == ["after", "again"]


def test_the_owner_goes_on_where_another_task_was_refused(sql_store: SQLMetadataStore):
    async def main() -> None:
        async def intruder() -> None:
            with pytest.raises(StoreError):
                transact(sql_store)

        with sql_store.transaction():
            sql_store.set("n", "a", b"")
            await asyncio.create_task(intruder())
            with sql_store.transaction():
                sql_store.set("n", "b", b"")
            await asyncio.create_task(intruder())
            sql_store.set("n", "c", b"")

    asyncio.run(main())
    assert keys(sql_store) == ["a", "b", "c"]


def test_a_cancelled_task_undoes_its_transaction(sql_store: SQLMetadataStore):
    async def hold() -> None:
        with sql_store.transaction():
            sql_store.set("n", "k", b"")
            await asyncio.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(hold())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        sql_store.set("n", "after", b"")

    asyncio.run(main())
    assert keys(sql_store) == ["after"]
