"""`add`, durable and not, beside one durable bare upsert and the other stores."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import large
from benchmarks.reads import compared
from benchmarks.rounds import Side, Times, in_turn, without_collector
from benchmarks.rows import FILES, OURS, Result
from benchmarks.stores import BARE, NORMAL, bare_writer
from layerstore import SQLMetadataStore, Store, V2Metadata, V2MetadataService
from layerstore.keys import DIFF_IDS, V2_METADATA, Record, digest_key
from layerstore.records import MAX_METADATA, encode_list

LENGTHS = (1, 3, MAX_METADATA)
"""Entries that a list has when the new one is in: 1 is that of a layer that was not known; a full one loses its oldest.
"""
_TYPICAL = 3
_FULL_LISTS = 20
_IMAGE = 20  # layers
_ONE_BY_ONE = "one by one"
_LONG_LOG = 1200
"""Commits behind which SQLite has begun a log anew, as it does behind 1,000 pages: it gets no longer."""
_UPSERT = "INSERT INTO t VALUES ('k', ?) ON CONFLICT DO UPDATE SET v = excluded.v"

Added = tuple[str, V2Metadata]


def prepared(rounds: int, count: int) -> Iterator[Record]:
    """Yield the lists that are added to: one for each add, of one entry less; full ones stay full, so that few do."""
    for length in LENGTHS[1:]:
        number_of_lists = _FULL_LISTS if length == MAX_METADATA else count * (rounds + 1)
        there = MAX_METADATA if length == MAX_METADATA else length - 1
        for number in range(number_of_lists):
            diff_id, blob = _layer(length, number), large.digest(f"blob of a list of {length}, {number}")
            entries = [V2Metadata(blob, large.repository(number + at)) for at in range(there)]
            yield Record(V2_METADATA, digest_key(diff_id), encode_list(entries), 0)
            yield Record(DIFF_IDS, digest_key(blob), diff_id.encode(), 0)


def additions(length: int, rounds: int, count: int, *, first: int = 0) -> list[list[Added]]:
    """Return what is added in each round: a blob that was not known, in a repository that the list does not have.

    What has another `first` round is other layers, where these are new ones.
    """
    return [
        [
            (
                _layer(length, number % _FULL_LISTS if length == MAX_METADATA else number),
                V2Metadata(large.digest(f"blob {number} for a list of {length}"), f"localhost:5000/team/app-{number}"),
            )
            for number in range(at * count, (at + 1) * count)
        ]
        for at in range(first, first + rounds + 1)
    ]


def _layer(length: int, number: int) -> str:
    return large.digest(f"layer {number} with a list of {length}")


def adds(store: Store, added: Sequence[Sequence[Added]]) -> Side:
    add = V2MetadataService(store).add

    def side(number: int) -> float:
        chosen = added[number]
        os.sync()  # or a sync of this side takes along what another one left to be written
        start = time.perf_counter()
        for diff_id, metadata in chosen:
            add(diff_id, metadata)
        return (time.perf_counter() - start) / len(chosen)

    return side


def in_new_log(side: Side, store: object) -> Side:
    """Return a side that begins each round with an empty log, as that of a program which has just opened its store.

    A log that grows costs more to sync than one that has been as long before, so both must be in the same state. The
    stores that have another log, or none, stay as they are.
    """
    if isinstance(store, SQLMetadataStore):
        return _behind(side, store._run)
    if isinstance(store, sqlite3.Connection):
        return _behind(side, lambda statement: store.execute(statement).fetchall())
    return side


def _behind(side: Side, run: Callable[[str], list[Any]]) -> Side:
    def both(number: int) -> float:
        [(busy, *_)] = run("PRAGMA wal_checkpoint(TRUNCATE)")
        assert not busy, "nobody else has these files open"
        return side(number)

    return both


def lengthen_logs(stores: Iterable[Store], bare: sqlite3.Connection) -> None:
    """Write until every log is as long as it gets, and is moved into its file, as of a program that goes on and on."""
    for at in range(_LONG_LOG):
        bare.execute(_UPSERT, (f"to make the log long {at}".encode(),))
    for store in stores:
        if isinstance(store, SQLMetadataStore):
            adds(store, full_log())(0)


def many_adds(store: Store, rounds: int) -> Times:
    """Measure `add_many` of the layers of an image beside an `add` of each; the images are new ones."""
    one_by_one = additions(1, rounds, _IMAGE, first=2_000_000)
    at_once = additions(1, rounds, _IMAGE, first=3_000_000)
    add_many = V2MetadataService(store).add_many

    def side(number: int) -> float:
        os.sync()
        start = time.perf_counter()
        add_many(at_once[number])
        return (time.perf_counter() - start) / _IMAGE

    return in_turn({_ONE_BY_ONE: adds(store, one_by_one), OURS: side}, rounds)


def full_log() -> list[list[Added]]:
    """Return, as one round, what makes the log as long as it gets: an add writes two pages or more."""
    return additions(1, 1, _LONG_LOG // 2, first=1_000_000)


def upserts(connection: sqlite3.Connection, count: int) -> Side:
    def side(number: int) -> float:
        # Other bytes each time: an upsert that changes nothing writes nothing.
        values = [(f"value {number} {at}".encode(),) for at in range(count)]
        os.sync()
        start = time.perf_counter()
        for value in values:
            connection.execute(_UPSERT, value)
        return (time.perf_counter() - start) / count

    return side


def measure(stores: Mapping[str, Store], folder: Path, rounds: int, count: int) -> dict[str, tuple[Result, Times]]:
    """Measure `add` on lists of each length, of each peer."""
    times: dict[str, Times] = {}
    with bare_writer(folder / "bare.db") as bare, without_collector():
        added = additions(1, rounds, count, first=rounds + 1)
        sides = {BARE: in_new_log(upserts(bare, count), bare)}
        sides |= {name: in_new_log(adds(store, added), store) for name, store in stores.items()}
        times["add_new_log"] = in_turn(sides, rounds)
        lengthen_logs(stores.values(), bare)
        for length in LENGTHS:
            added = additions(length, rounds, count)
            sides = {BARE: upserts(bare, count), **{name: adds(store, added) for name, store in stores.items()}}
            times[f"add_{length}"] = in_turn(sides, rounds)
        many = many_adds(stores[OURS], rounds)
    measured = {row: (compared(each, BARE), each) for row, each in times.items()}
    measured["add_many"] = Result(many.ratio(OURS, _ONE_BY_ONE), many.median(_ONE_BY_ONE) * _IMAGE), many
    typical = times[f"add_{_TYPICAL}"]
    for row, side in {"add_full": OURS, "add_normal": NORMAL}.items():
        measured[row] = Result(typical.ratio(side, FILES), typical.median(FILES)), typical
    return measured
