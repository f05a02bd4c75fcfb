"""A hot standby answers lookups and refuses writes; when it is promoted, a store with both hosts goes on there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from layerstore import (
    SQLMetadataStore,
    StoreConnectionError,
    StoreOpenError,
    StoreReadOnlyError,
    V2Metadata,
    V2MetadataService,
)
from tests.conftest import assert_sound
from tests.support import postgresql
from tests.support.postgresql import ROLE, Server
from tests.support.strategies import sha256

LAYER = sha256(1)


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A server, and a standby that has each commit before it is acknowledged."""
    postgresql.refuse_without()
    with (
        postgresql.running() as primary,
        tempfile.TemporaryDirectory(prefix="layerstore-pg-", dir="/tmp") as folder,
    ):
        standby = Server(Path(folder))
        where = ("-h", str(primary.folder), "-p", primary.port, "-U", ROLE)
        primary.run("pg_basebackup", *where, "-D", str(standby.data), "-R", "-c", "fast", "-X", "stream")
        try:
            standby.start()
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            primary.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
            primary.execute("SELECT pg_reload_conf()")
            yield primary, standby
        finally:
            standby.stop("immediate")


def test_a_standby_answers_and_takes_over_with_all_that_was_acknowledged(servers: tuple[Server, Server]):
    primary, standby = servers
    both = (
        f"postgresql://{ROLE}@/postgres?host=127.0.0.1:{primary.port}&host=127.0.0.1:{standby.port}"
        "&target_session_attrs=read-write"
    )
    with SQLMetadataStore(both) as store:
        v2 = V2MetadataService(store)
        kept = [sha256(100 + number) for number in range(20)]
        for blob in kept:
            v2.add(LAYER, V2Metadata(blob, "localhost:5000/a"))

        for read_only in (True, False):
            with SQLMetadataStore(standby.url(), read_only=read_only) as replica:
                reading = V2MetadataService(replica)
                assert reading.get_diff_ids(kept) == dict.fromkeys(kept, LAYER)
                with pytest.raises(StoreReadOnlyError):
                    replica.set("n", "k", b"")
                with pytest.raises(StoreReadOnlyError):
                    reading.add(LAYER, V2Metadata(sha256(9)))

        primary.stop("immediate")
        with pytest.raises((StoreConnectionError, StoreOpenError)):
            v2.add(LAYER, V2Metadata(sha256(200), "localhost:5000/a"))
        with pytest.raises(StoreOpenError):
            v2.add(LAYER, V2Metadata(sha256(200), "localhost:5000/a"))
        standby.execute("SELECT pg_promote()")

        v2.add(LAYER, V2Metadata(sha256(201), "localhost:5000/a"))
        assert v2.get_diff_ids([*kept, sha256(201)]) == dict.fromkeys([*kept, sha256(201)], LAYER)
        assert_sound(store)
