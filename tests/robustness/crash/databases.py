"""The writers of databases that are killed: what each begins with, what it does, and what is there afterwards."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from layerstore import SQLMetadataStore, V2MetadataService, import_directory, verify
from layerstore.cli import command
from layerstore.records import encode_list
from layerstore.sql.sqlite import file
from layerstore.sql.sqlite import place as wal
from tests.conftest import assert_sound, database_rows
from tests.migrations import next_revision
from tests.robustness.concurrency.workers import in_threads
from tests.robustness.crash.content import ALL, Content, association, fill
from tests.robustness.crash.process import Acknowledge
from tests.support.entries import LISTS, MAPPINGS, layer_key, write_file
from tests.support.strategies import sha256


def rows(path: Path, *, times: bool = False) -> list[object]:
    """Return all of a store that counts, after a check of everything in it."""
    with SQLMetadataStore(path) as store:
        assert_sound(store)
        at = "modified_at_ns" if times else "1"
        return [
            *database_rows(store, f"SELECT namespace, key, value, {at} FROM metadata ORDER BY 1, 2"),
            *database_rows(store, "SELECT namespace, key, value, reason FROM quarantine ORDER BY 1, 2, 3"),
        ]


def database(home: Path) -> Content:
    return {ALL: rows(home / "layers.db")}


def database_with_times(home: Path) -> Content:
    return {ALL: rows(home / "layers.db", times=True)}


def some_layers(home: Path) -> None:
    with SQLMetadataStore(home / "layers.db") as store:
        fill(store, 12)


def nothing(_: Path) -> None:
    """Begin with an empty directory."""


def add(home: Path, acknowledge: Acknowledge, **options: Any) -> None:
    """Add one after the other, and three in one transaction; remove one, delete one."""
    with SQLMetadataStore(home / "layers.db", **options) as store:
        v2 = V2MetadataService(store)
        for number in range(20, 23):
            v2.add(sha256(number % 4), association(number))
            acknowledge(number - 19)
        with store.transaction():
            for number in range(30, 33):
                v2.add(sha256(number % 4), association(number))
        acknowledge(4)
        v2.remove(association(20))
        acknowledge(5)
        store.delete(MAPPINGS, layer_key(1021))
        acknowledge(6)


def add_in_normal_durability(home: Path, acknowledge: Acknowledge) -> None:
    add(home, acknowledge, durability="normal")


def add_to_a_new_file(home: Path, acknowledge: Acknowledge) -> None:
    add(home / "new" / "deep", acknowledge)


def new_database(home: Path) -> Content:
    return {ALL: rows(home / "new" / "deep" / "layers.db")}


def set_many(home: Path, acknowledge: Acknowledge) -> None:
    with SQLMetadataStore(home / "layers.db") as store:
        for step in range(1, 4):
            lists = [(LISTS, layer_key(number), encode_list([association(step + number)])) for number in range(12)]
            mappings = [(MAPPINGS, layer_key(2000 + number), sha256(step).encode()) for number in range(12)]
            store.set_many(lists + mappings)
            acknowledge(step)


def write_much(home: Path, acknowledge: Acknowledge) -> None:
    """Write more than the log may hold before it is checkpointed."""
    with SQLMetadataStore(home / "layers.db") as store:
        for step in range(1, 9):
            store.set("large", f"value {step % 3}", bytes([step]) * 560_000)
            acknowledge(step)


def cut_the_log(home: Path, acknowledge: Acknowledge) -> None:
    """Write more than the log may hold before it is cut, while somebody reads, with a limit that is soon reached."""
    with mock.patch.object(wal, "LIMIT", 64 << 10), SQLMetadataStore(home / "layers.db") as store:
        for step in range(1, 7):
            with store._backend.snapshot() if step % 3 == 0 else contextlib.nullcontext():
                store.set("large", f"value {step % 3}", bytes([step]) * 40_000)
            acknowledge(step)


def overtaken(home: Path, acknowledge: Acknowledge) -> None:
    """Write with one store, of which another one comes in front of each sync: it writes, checkpoints, or does both.

    So the log is written back, or begins anew, between a commit and its sync. The other one does not sync what it
    writes. Threads would meet at these moments now and then; here they do each time.
    """
    sync = os.fdatasync
    ways = itertools.cycle([("", True), ("PASSIVE", False), ("RESTART", True), ("TRUNCATE", False), ("TRUNCATE", True)])
    with (
        SQLMetadataStore(home / "layers.db") as one,
        SQLMetadataStore(home / "layers.db", durability="normal") as two,
    ):

        def sync_late(log: int) -> None:
            checkpoint, writes = next(ways)
            if checkpoint:
                two._run(f"PRAGMA wal_checkpoint({checkpoint})")
            if writes:
                two.set("two", f"{step}", bytes([step]) * 3_000)
            sync(log)

        with mock.patch.object(os, "fdatasync", sync_late):
            for step in range(1, 16):
                one.set("one", f"{step}", bytes([step]) * 3_000)
                acknowledge(step)


def each_entry(home: Path) -> Content:
    """Return the entries, each for itself: they were not written together."""
    with SQLMetadataStore(home / "layers.db") as store:
        assert_sound(store)
        return {(namespace, key): value for namespace, key, value in store.entries()}


THREADS, SETS = 4, 12


def threads(home: Path, acknowledge: Acknowledge) -> None:
    """Write with threads at once, each acknowledging its own writes, with a checkpoint every few commits."""

    def write(thread: int) -> None:
        for number in range(thread * SETS, (thread + 1) * SETS):
            store.set("n", f"{number}", bytes([number]) * 3_000)
            acknowledge(number)

    with mock.patch.object(file, "CHECKPOINT_PAGES", 12), SQLMetadataStore(home / "layers.db") as store:
        assert in_threads([partial(write, thread) for thread in range(THREADS)]) == []


def much(home: Path) -> Content:
    with SQLMetadataStore(home / "layers.db") as store:
        assert_sound(store)
        return {ALL: {key: (len(value), value[:1]) for _, key, value in store.entries("large")}}


def engine(home: Path, acknowledge: Acknowledge) -> None:
    """Write through the SQLAlchemy engine, as a user may."""
    with SQLMetadataStore(home / "layers.db") as store:
        for step in range(1, 4):
            with store.engine.begin() as connection:
                for key in ("a", "b"):
                    connection.exec_driver_sql(
                        "INSERT OR REPLACE INTO metadata VALUES ('mine', ?, ?, 1)",
                        (key, b"%d" % step),
                    )
            acknowledge(step)


def a_store_and_a_directory(home: Path) -> None:
    """A store that differs from a directory in every way: it knows more, less, and otherwise."""
    some_layers(home)
    a_directory(home)
    write_file(home / "distribution", MAPPINGS, layer_key(1002), sha256(99).encode())
    write_file(home / "distribution", LISTS, layer_key(70), b"[{")


def a_directory(home: Path) -> None:
    for number in range(2, 9):
        listed = encode_list([association(number), association(50 + number)])
        write_file(home / "distribution", LISTS, layer_key(number), listed)
        write_file(home / "distribution", MAPPINGS, layer_key(1000 + number), sha256(number).encode())
        write_file(home / "distribution", MAPPINGS, layer_key(1050 + number), sha256(number).encode())


def import_(home: Path, acknowledge: Acknowledge) -> None:
    with SQLMetadataStore(home / "layers.db") as store:
        import_directory(store, home / "distribution")
        acknowledge(1)


def import_by_command(home: Path, acknowledge: Acknowledge) -> None:
    """Make the database by importing into it."""
    run(home, "import", str(home / "distribution"))
    acknowledge(1)


def a_damaged_store(home: Path) -> None:
    some_layers(home)
    with SQLMetadataStore(home / "layers.db") as store:
        for number in range(3):
            store.set(LISTS, layer_key(40 + number), b"[{%d" % number)
        store.set(MAPPINGS, layer_key(1003), b"")
        store.delete(MAPPINGS, layer_key(1004))
        with store.engine.begin() as connection:
            connection.exec_driver_sql("UPDATE v2_metadata SET hmac = 'x' WHERE diff_id = ?", (sha256(1),))


def repair(home: Path, acknowledge: Acknowledge) -> None:
    with SQLMetadataStore(home / "layers.db") as store:
        verify(store, repair=True)
        acknowledge(1)


def kept(home: Path) -> Content:
    """Return which values are in the store, in their place or in quarantine, and never in both."""
    with SQLMetadataStore(home / "layers.db") as store:
        assert [found for found in verify(store).findings if found.kind == "damaged-file"] == []
        there, aside = list(store.entries()), database_rows(store, "SELECT namespace, key, value FROM quarantine")
        assert not {*there} & {*aside}
        return dict.fromkeys([*there, *aside], True)


def run(home: Path, *arguments: str) -> None:
    """Run the command in this process, without its words."""
    with contextlib.redirect_stdout(io.StringIO()):
        command.main(["--db", str(home / "layers.db"), *arguments], standalone_mode=False)


def something_in_quarantine(home: Path) -> None:
    some_layers(home)
    with SQLMetadataStore(home / "layers.db") as store:
        for number in range(3):
            store.quarantine(LISTS, layer_key(number), encode_list([association(number)]), "a test")


def restore(home: Path, acknowledge: Acknowledge) -> None:
    for step in range(1, 4):
        run(home, "quarantine", "restore", str(step))
        acknowledge(step)


def an_older_database(home: Path) -> None:
    some_layers(home)
    next_revision.make(home)


def upgrade(home: Path, acknowledge: Acknowledge) -> None:
    """Open a file of the last revision with code that knows a next one."""
    next_revision.install(home / "100% next" / "migrations")
    SQLMetadataStore(home / "layers.db").close()
    acknowledge(1)


def revision(home: Path) -> Content:
    """Return the whole schema with all its rows, by SQLite itself."""
    connection = sqlite3.connect(home / "layers.db")
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY 1").fetchall()
        return {
            ALL: {
                table: sorted(connection.execute(f'SELECT * FROM "{table[0]}"').fetchall(), key=repr)
                for table in tables
            }
        }
    finally:
        connection.close()


def back_up(home: Path, acknowledge: Acknowledge) -> None:
    with SQLMetadataStore(home / "layers.db") as store:
        if not os.path.lexists(home / "copy.db"):
            store.backup(home / "copy.db")
        acknowledge(1)


def copy(home: Path) -> Content:
    """Return what the copy holds, if there is one, and the store itself."""
    found = database(home)
    if (home / "copy.db").exists():
        assert (home / "copy.db").stat().st_mode & 0o777 == 0o600
        assert (home / "copy.db").stat().st_nlink == 1  # a database with two names is refused
        found["copy"] = rows(home / "copy.db")
    return found
