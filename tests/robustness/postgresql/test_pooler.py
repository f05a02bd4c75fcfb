"""Behind PgBouncer in transaction mode: nothing is lost, and nothing leaks to other clients."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService
from tests.conftest import assert_sound
from tests.support import postgresql
from tests.support.postgresql import ROLE, Server
from tests.support.strategies import sha256


@pytest.fixture
def pooled(postgresql_server: Server) -> Iterator[str]:
    """The URL of a database behind a pooler that has 3 connections."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed here (Debian: apt-get install pgbouncer)")
    name = f"d_{postgresql.new_schema(postgresql_server)}"
    postgresql_server.execute(f"CREATE DATABASE {name}")
    port = postgresql.free_port()
    folder = postgresql_server.folder / name
    folder.mkdir()
    (folder / "ini").write_text(
        f"[databases]\n{name} = host=127.0.0.1 port={postgresql_server.port} user={ROLE}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\npool_mode = transaction\n"
        f"default_pool_size = 3\nunix_socket_dir =\nlogfile = {folder}/log\n"
    )
    who = postgresql.unprivileged()
    if who:
        for path in (folder, folder / "ini"):
            os.chown(path, who["user"], who["group"])
    process = subprocess.Popen([program, str(folder / "ini")], cwd=folder, **who)
    try:
        url = f"postgresql://{ROLE}@127.0.0.1:{port}/{name}"
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(f"host=127.0.0.1 port={port} user={ROLE} dbname={name}").close()
                break
            except psycopg.OperationalError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        process.wait(20)
        postgresql_server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("more", ["", "?prepare=off"], ids=["known by its process", "told by the URL"])
def test_threads_on_few_connections_lose_nothing(pooled: str, more: str):
    with SQLMetadataStore(pooled + more, durability="normal", timeout_s=20) as store:
        v2 = V2MetadataService(store)

        def work(thread: int) -> None:
            for number in range(50):
                v2.add(sha256(number % 3), V2Metadata(sha256(1000 * thread + number), "localhost:5000/a"))
                if number % 10 == 0:
                    with store.transaction():
                        counted = int(store.get_many("n", ["counter"]).get("counter", b"0"))
                        store.set("n", "counter", b"%d" % (counted + 1))

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(1, 9)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()

        assert len(list(store.entries("diffid-by-digest"))) == 400
        assert store.get("n", "counter") == b"40"
        store.set_many(("n", f"m{number:04}", b"") for number in range(1500))
        assert_sound(store)
    with psycopg.connect(pooled, autocommit=True) as other:
        for _ in range(10):
            row = other.execute("SHOW lock_timeout").fetchone()
            assert row == ("0",)
            row = other.execute("SHOW synchronous_commit").fetchone()
            assert row == ("on",)
