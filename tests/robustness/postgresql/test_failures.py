"""A server that ends sessions, restarts, fails over, is full or late; each error says what is known."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from layerstore import (
    SQLMetadataStore,
    StoreBusyError,
    StoreConnectionError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
    V2Metadata,
    V2MetadataService,
)
from layerstore.store import Change, Write
from tests.conftest import assert_sound, rolled_back, transact
from tests.support import postgresql
from tests.support.postgresql import Proxy, Server
from tests.support.strategies import sha256

LAYER, BLOB = sha256(1), sha256(2)
HERE = V2Metadata(BLOB, "localhost:5000/team/app")


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, which it may stop."""
    postgresql.refuse_without()
    with postgresql.running(fsync=True) as one:
        yield one


@pytest.fixture
def schema(postgresql_server: Server) -> Iterator[str]:
    name = postgresql.new_schema(postgresql_server)
    yield name
    postgresql.drop_schema(postgresql_server, name)


@pytest.fixture
def proxy(postgresql_server: Server) -> Iterator[Proxy]:
    one = Proxy(postgresql_server)
    yield one
    one.close()


def end_all_sessions(server: Server) -> None:
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'layerstore'")
    time.sleep(0.1)


def write_around(store: SQLMetadataStore, do: Callable[[], object]) -> None:
    """Do something between two writes of a transaction."""
    with store.transaction():
        store.set("n", "k", b"v")
        do()
        store.set("n", "k2", b"v")


def test_a_session_that_the_server_ended_is_replaced_silently(postgresql_server: Server, postgresql_url: str):
    """By a lookup, a write and a transaction alike: nothing was sent on it."""
    with SQLMetadataStore(postgresql_url) as store:
        v2 = V2MetadataService(store)
        v2.add(LAYER, HERE)
        for do in (
            lambda: store.get("v2metadata-by-diffid", LAYER.replace(":", "/")),
            lambda: v2.add(LAYER, V2Metadata(sha256(3), "localhost:5000/b")),
            lambda: store.set("n", "k", b"v"),
            lambda: list(store.entries()),
            lambda: transact(store),
        ):
            end_all_sessions(postgresql_server)
            do()


def test_a_session_that_ends_inside_a_transaction_undoes_it(postgresql_server: Server, postgresql_url: str):
    with SQLMetadataStore(postgresql_url) as store:
        with pytest.raises(StoreConnectionError, match="not known") as caught:
            write_around(store, lambda: end_all_sessions(postgresql_server))
        assert isinstance(caught.value, ConnectionError)
        assert list(store.entries()) == []


def test_a_caught_loss_of_the_session_still_ends_the_transaction_with_an_error(
    postgresql_server: Server, postgresql_url: str
):
    with SQLMetadataStore(postgresql_url) as store:
        with rolled_back(store):
            store.set("n", "k", b"v")
            end_all_sessions(postgresql_server)
            with pytest.raises(StoreConnectionError):
                store.set("n", "k2", b"v")
        assert list(store.entries()) == []
        store.set("n", "k", b"v")


def test_where_a_write_may_have_been_kept_that_is_said(proxy: Proxy, schema: str, postgresql_server: Server):
    """Cut while the server works on it: a lock holds it up."""
    with SQLMetadataStore(proxy.url(schema)) as store, SQLMetadataStore(postgresql_server.url(schema)) as other:
        store.set("n", "k", b"v")
        caught: list[BaseException] = []

        def write() -> None:
            try:
                store.set("n", "k", b"w")
            except StoreConnectionError as error:
                caught.append(error)

        with other.transaction():
            other.set("n", "other", b"")
            thread = threading.Thread(target=write)
            thread.start()
            time.sleep(0.3)
            proxy.cut()
            thread.join(30)
        assert "not known" in str(caught[0])
        assert store.get("n", "k") in (b"v", b"w")


def test_an_add_that_is_cut_between_its_two_trips_is_done_again(proxy: Proxy, schema: str):
    """Nothing was written by then, so that nobody need know."""
    with SQLMetadataStore(proxy.url(schema)) as store:
        V2MetadataService(store).add(LAYER, HERE)
        addresses = [("n", "k")]
        cuts = [True]

        def compute(found: dict[tuple[str, str], bytes]) -> object:
            if cuts:
                cuts.pop()
                proxy.cut()
                return Change(more=(("n", "other"),))
            return Change((Write("n", "k", b"%d" % len(found)),))

        store.change(addresses, compute)  # type: ignore[arg-type]  # it is one
        assert store.get("n", "k") == b"0"
        assert_sound(store)


def test_a_client_that_stops_between_its_trips_holds_up_its_layer_alone(postgresql_url: str):
    with SQLMetadataStore(postgresql_url) as stopped, SQLMetadataStore(postgresql_url, timeout_s=0.5) as other:
        V2MetadataService(stopped).add(LAYER, HERE)
        session = stopped._backend._sessions.take()  # type: ignore[attr-defined]  # the inside of a store on a server
        session.connection.execute("BEGIN")
        session.connection.execute("SELECT 1 FROM metadata WHERE namespace = 'v2metadata-by-diffid' FOR UPDATE")
        V2MetadataService(other).add(sha256(9), HERE)
        assert V2MetadataService(other).get_metadata(LAYER) == [HERE]
        with pytest.raises(StoreBusyError):
            V2MetadataService(other).add(LAYER, V2Metadata(BLOB, "localhost:5000/b"))
        session.close()
        V2MetadataService(other).add(LAYER, V2Metadata(BLOB, "localhost:5000/b"))


def test_a_server_that_restarts_is_found_again_and_down_says_so(server: Server):
    with SQLMetadataStore(server.url()) as store:
        V2MetadataService(store).add(LAYER, HERE)
        server.stop()
        with pytest.raises(StoreOpenError):
            store.get("n", "k")
        with pytest.raises(StoreOpenError):
            store.set("n", "k", b"v")
        server.start()
        assert V2MetadataService(store).get_metadata(LAYER) == [HERE]
        with pytest.raises(StoreConnectionError):
            write_around(store, lambda: server.restart("immediate"))
        assert list(store.entries("n")) == []
        assert_sound(store)


def test_a_statement_that_takes_too_long_is_busy(postgresql_server: Server, postgresql_url: str):
    url = postgresql_url.replace("-c%20search_path", "-c%20statement_timeout%3D200%20-c%20search_path")
    with SQLMetadataStore(postgresql_url) as one, SQLMetadataStore(url) as two:
        one.set("n", "k", b"v")
        with one.transaction(), pytest.raises(StoreBusyError, match="took too long"):
            two.set("n", "k", b"w")


def test_a_database_that_only_reads_says_so_and_answers(postgresql_server: Server, postgresql_url: str):
    with SQLMetadataStore(postgresql_url) as store:
        store.set("n", "k", b"v")
    url = postgresql_url.replace("-c%20search_path", "-c%20default_transaction_read_only%3Don%20-c%20search_path")
    with SQLMetadataStore(url) as store:
        assert store.get("n", "k") == b"v"
        assert list(store.entries()) == [("n", "k", b"v")]
        writes: list[Callable[[], object]] = [
            lambda: store.set("n", "k", b"w"),
            lambda: V2MetadataService(store).add(LAYER, HERE),
            lambda: write_around(store, lambda: None),
            lambda: store.set_many(("n", f"{number}", b"") for number in range(2000)),
        ]
        for do in writes:
            with pytest.raises(StoreReadOnlyError, match="can only be read"):
                do()


def test_too_many_connections_are_busy(server: Server):
    server.stop()
    server.settings |= {"max_connections": "5", "superuser_reserved_connections": "3", "max_wal_senders": "0"}
    server.start()
    server.execute("CREATE ROLE plain LOGIN; GRANT ALL ON SCHEMA public TO plain")
    url = server.url(user="plain")
    with SQLMetadataStore(url) as store:
        store.set("n", "k", b"v")
        with store.engine.connect(), store.transaction(), pytest.raises(StoreOpenError, match="slots"):
            SQLMetadataStore(url)


def fill(store: SQLMetadataStore) -> None:
    for number in range(1000):
        store.set("n", f"k{number}", os.urandom(1 << 20))


def test_what_the_file_system_of_the_server_cannot_hold_is_full(server: Server) -> None:
    """By the limit that a tablespace of its own has: a small file system, where root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    small = server.folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    try:
        who = postgresql.unprivileged()
        os.chown(small, who["user"], who["group"])
        server.execute(f"CREATE TABLESPACE small LOCATION '{small}'")
        server.execute("CREATE DATABASE small TABLESPACE small")
        with SQLMetadataStore(server.url(database="small")) as store:
            store.set("n", "before", os.urandom(1000))
            with pytest.raises(StoreFullError, match="disk is full"):
                fill(store)
            kept = len(list(store.entries()))
            with pytest.raises(StoreFullError):
                store.set_many(("n", f"m{number}", os.urandom(1 << 14)) for number in range(3000))
            assert len(list(store.entries())) == kept
            assert store.get("n", "before")
            assert_sound(store)
        server.execute("DROP DATABASE small WITH (FORCE)")
        server.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
