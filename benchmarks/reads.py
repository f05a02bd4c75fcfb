"""Lookups, beside the bare statement on a bare connection to the same file."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks import large
from benchmarks.rounds import Side, Times, in_turn, without_collector
from benchmarks.rows import OURS, PEERS, Result
from benchmarks.stores import BARE, bare_reader
from layerstore import SQLMetadataStore, Store, V2MetadataService
from layerstore.keys import DIFF_IDS, V2_METADATA, digest_key
from layerstore.sql.sqlite.statements import GET

Key = tuple[str, str]
_HUNDRED = 100


def some(layers: int, rounds: int, count: int) -> list[list[int]]:
    """Choose layers whose list has one entry, other ones for each round and for the one that warms up."""
    chance = random.Random(layers)
    numbers = [number for number in range(layers) if large.entries(number) == 1]
    return [chance.choices(numbers, k=count) for _ in range(rounds + 1)]


def lists_of(numbers: Sequence[int]) -> list[str]:
    return [large.digest(f"layer {number}") for number in numbers]


def blobs_of(numbers: Sequence[int]) -> list[str]:
    return [large.digest(f"blob {number}") for number in numbers]


def bare_gets(connection: sqlite3.Connection, keys: Sequence[Sequence[Key]]) -> Side:
    execute = connection.execute

    def side(number: int) -> float:
        chosen = keys[number]
        start = time.perf_counter()
        for key in chosen:
            execute(GET, key).fetchone()
        return (time.perf_counter() - start) / len(chosen)

    return side


def gets(store: Store, keys: Sequence[Sequence[Key]]) -> Side:
    get = store.get

    def side(number: int) -> float:
        chosen = keys[number]
        start = time.perf_counter()
        for namespace, key in chosen:
            get(namespace, key)
        return (time.perf_counter() - start) / len(chosen)

    return side


def calls(call: Callable[[str], object], arguments: Sequence[Sequence[str]]) -> Side:
    def side(number: int) -> float:
        chosen = arguments[number]
        start = time.perf_counter()
        for argument in chosen:
            call(argument)
        return (time.perf_counter() - start) / len(chosen)

    return side


def hundreds(call: Callable[[Sequence[str]], object], arguments: Sequence[Sequence[str]]) -> Side:
    """Return a side that looks up a hundred at once; its seconds are those of a hundred."""
    parts = [[each[at : at + _HUNDRED] for at in range(0, len(each), _HUNDRED)] for each in arguments]

    def side(number: int) -> float:
        chosen = parts[number]
        start = time.perf_counter()
        for part in chosen:
            call(part)
        return (time.perf_counter() - start) / len(chosen)

    return side


def behind(touch: Side, side: Side) -> Side:
    """Return a side behind another one, which does not count, so that the processor's caches have the pages already.

    Ours and the bare connection read the same pages of the same file, and whoever comes second is faster: of two bare
    connections by two hundredths. A third connection goes before both; not their own, whose page caches would then have
    learned the keys.
    """

    def both(number: int) -> float:
        touch(number)
        return side(number)

    return both


def per_hundred(side: Side) -> Side:
    return lambda number: side(number) * _HUNDRED


def measure(stores: Mapping[str, Store], layers: int, rounds: int, count: int) -> dict[str, tuple[Result, Times]]:
    """Measure the lookups of one entry, of each peer, and of a hundred."""
    ours = stores[OURS]
    assert isinstance(ours, SQLMetadataStore)
    chosen = some(layers, rounds, count)
    diff_ids = [lists_of(numbers) for numbers in chosen]
    digests = [blobs_of(numbers) for numbers in chosen]
    lists = [[(V2_METADATA, digest_key(one)) for one in each] for each in diff_ids]
    mappings = [[(DIFF_IDS, digest_key(one)) for one in each] for each in digests]
    taking_part = {name: store for name, store in stores.items() if name in (OURS, *PEERS)}
    services = {name: V2MetadataService(store) for name, store in taking_part.items()}
    with bare_reader(ours) as bare, bare_reader(ours) as third, without_collector():
        sides: dict[str, dict[str, Side]] = {
            "get": {BARE: bare_gets(bare, lists)} | {name: gets(store, lists) for name, store in taking_part.items()},
            "get_diff_id": {BARE: bare_gets(bare, mappings)}
            | {name: calls(service.get_diff_id, digests) for name, service in services.items()},
            "get_metadata": {BARE: bare_gets(bare, lists)}
            | {name: calls(service.get_metadata, diff_ids) for name, service in services.items()},
            "get_diff_ids": {BARE: per_hundred(bare_gets(bare, mappings))}
            | {name: hundreds(service.get_diff_ids, digests) for name, service in services.items()},
        }
        times: dict[str, Times] = {}
        for row, each in sides.items():
            touch = bare_gets(third, lists if row in ("get", "get_metadata") else mappings)
            warm = {name: behind(touch if name in (BARE, OURS) else side, side) for name, side in each.items()}
            times[row] = in_turn(warm, rounds)
    return {row: (compared(each, BARE), each) for row, each in times.items()}


def compared(times: Times, base: str, ours: str = OURS) -> Result:
    """Return the ratios of all sides to one."""
    peers = {name: times.ratio(name, base) for name in PEERS if name in times.seconds}
    return Result(times.ratio(ours, base), times.median(base), peers)
