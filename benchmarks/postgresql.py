"""The store on PostgreSQL, beside the bare prepared statement on the same connection, and beside SQLite.

The server is one of its own on this machine, which syncs each commit.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import contended, large, writes
from benchmarks.reads import Key, blobs_of, calls, gets, hundreds, lists_of, per_hundred, some
from benchmarks.rounds import Side, Times, in_turn, without_collector
from benchmarks.rows import OURS, Result
from benchmarks.scale import Scale
from benchmarks.stores import BARE
from layerstore import SQLMetadataStore, V2MetadataService
from layerstore.keys import DIFF_IDS, V2_METADATA, digest_key
from layerstore.sql.postgresql.backend import PostgreSQL
from tests.support.postgresql import Server, programs, running

SQLITE = "SQLite"
_WRITERS = (8, 4)
_LAYERS = (200, 4)
_GET = "SELECT value FROM metadata WHERE namespace = %s AND key = %s"
_UPSERT = "INSERT INTO t VALUES ('k', %s) ON CONFLICT (k) DO UPDATE SET v = excluded.v"


def is_installed() -> bool:
    """Tell whether there is a server to start."""
    return programs() is not None


def measure(folder: Path, scale: Scale) -> dict[str, tuple[Result, Times]]:
    """Measure lookups, adds, loads and many writers."""
    with running(fsync=True) as server:
        measured = _one_client(server, scale)
        for layers in _LAYERS:
            measured |= _writers(server, folder, layers, scale)
        times = in_turn({SQLITE: _load(folder, None, scale), OURS: _load(folder, server, scale)}, 2, warm_up=False)
        measured["pg_load"] = Result(times.ratio(OURS, SQLITE), times.median(SQLITE)), times
    return measured


def _one_client(server: Server, scale: Scale) -> dict[str, tuple[Result, Times]]:
    rounds, times = scale.write_rounds, {}
    with SQLMetadataStore(_empty(server)) as store:
        prepared = writes.prepared(rounds, scale.writes)
        for records in (large.records(scale.layers), prepared):
            store.set_many((namespace, key, value) for namespace, key, value, _ in records)
        server.execute("ANALYZE")
        with closing(_connection(store)) as connection, without_collector():
            for row, sides in _lookups(store, connection, scale).items():
                times[row] = in_turn(sides, scale.read_rounds)
            connection.execute("CREATE TABLE t (k text PRIMARY KEY, v bytea)")
            for length in writes.LENGTHS:
                added = writes.additions(length, rounds, scale.writes)
                sides = {BARE: _upserts(connection, scale.writes), OURS: writes.adds(store, added)}
                times[f"pg_add_{length}"] = in_turn(sides, rounds)
    return {row: (Result(each.ratio(OURS, BARE), each.median(BARE)), each) for row, each in times.items()}


def _connection(store: SQLMetadataStore) -> psycopg.Connection[Any]:
    """Return the connection that the store's lookups use, with statements prepared at their first use."""
    backend = store._backend
    assert isinstance(backend, PostgreSQL)
    session = backend._sessions.take()
    backend._sessions.give_back(session)
    session.connection.prepare_threshold = 0
    return session.connection


def _lookups(store: SQLMetadataStore, connection: psycopg.Connection[Any], scale: Scale) -> dict[str, dict[str, Side]]:
    chosen = some(scale.layers, scale.read_rounds, scale.reads)
    diff_ids, digests = [lists_of(numbers) for numbers in chosen], [blobs_of(numbers) for numbers in chosen]
    lists = [[(V2_METADATA, digest_key(one)) for one in each] for each in diff_ids]
    mappings = [[(DIFF_IDS, digest_key(one)) for one in each] for each in digests]
    v2 = V2MetadataService(store)
    return {
        "pg_get": {BARE: _gets(connection, lists), OURS: gets(store, lists)},
        "pg_get_diff_id": {BARE: _gets(connection, mappings), OURS: calls(v2.get_diff_id, digests)},
        "pg_get_metadata": {BARE: _gets(connection, lists), OURS: calls(v2.get_metadata, diff_ids)},
        "pg_get_diff_ids": {
            BARE: per_hundred(_gets(connection, mappings)),
            OURS: hundreds(v2.get_diff_ids, digests),
        },
    }


def _gets(connection: psycopg.Connection[Any], keys: Sequence[Sequence[Key]]) -> Side:
    execute = connection.cursor(binary=True).execute

    def side(number: int) -> float:
        chosen = keys[number]
        start = time.perf_counter()
        for key in chosen:
            execute(_GET, key, prepare=True).fetchone()
        return (time.perf_counter() - start) / len(chosen)

    return side


def _upserts(connection: psycopg.Connection[Any], count: int) -> Side:
    execute = connection.cursor(binary=True).execute

    def side(number: int) -> float:
        values = [(f"value {number} {at}".encode(),) for at in range(count)]
        os.sync()
        start = time.perf_counter()
        for value in values:
            execute(_UPSERT, value, prepare=True)
        return (time.perf_counter() - start) / count

    return side


def _writers(server: Server, folder: Path, layers: int, scale: Scale) -> dict[str, tuple[Result, Times]]:
    """Let 32 writers add to the same few layers, on SQLite and on PostgreSQL in turn; compare adds and waits."""
    stores = {SQLITE: str(folder / f"writers-{layers}.db"), OURS: _empty(server)}
    adds: dict[str, list[float]] = {name: [] for name in stores}
    waits: dict[str, list[float]] = {name: [] for name in stores}
    for number in range(scale.contended_rounds):
        for name, where in stores.items():
            SQLMetadataStore(where).close()
            found = contended.one_round(where, f"round {number}", _WRITERS, scale.contended_s, layers=layers)
            adds[name].append(1 / found.adds_a_second)
            waits[name].append(found.waited(0.99) * found.turn_s)
    return {
        f"pg_{what}_{layers}": (Result(times.ratio(OURS, SQLITE), times.median(SQLITE)), times)
        for what, times in (("writers", Times(adds)), ("waits", Times(waits)))
    }


def _load(folder: Path, server: Server | None, scale: Scale) -> Side:
    """Return a side that loads a store in order, as an import does; its seconds are those of a layer."""
    layers = scale.layers * 5

    def side(number: int) -> float:
        where = str(folder / f"load-{number}.db") if server is None else _empty(server)
        os.sync()
        with SQLMetadataStore(where) as store:
            start = time.perf_counter()
            store.set_many(_entries(layers))
            return (time.perf_counter() - start) / layers

    return side


def _entries(layers: int) -> Iterator[tuple[str, str, bytes]]:
    for namespace, key, value, _ in large.records(layers):
        yield namespace, key, value


def _empty(server: Server) -> str:
    """Return the URL of an empty schema; what was there is dropped."""
    server.execute("DROP SCHEMA IF EXISTS measured CASCADE; CREATE SCHEMA measured; CHECKPOINT")
    return server.url("measured")
