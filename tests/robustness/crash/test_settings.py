"""SQLite's own recovery is trusted, so each connection that writes must have the settings that it needs."""

from __future__ import annotations

import ast
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore, V2MetadataService, import_directory, verify
from tests.conftest import sqlite_of
from tests.migrations import next_revision
from tests.robustness.concurrency.workers import in_threads
from tests.robustness.crash import cuts, trace
from tests.robustness.crash.conftest import Stage
from tests.robustness.crash.content import association
from tests.robustness.crash.databases import a_store_and_a_directory
from tests.robustness.crash.disk import Acknowledged, Disk, Inode, Naming, Write
from tests.robustness.crash.process import CONTEXT
from tests.robustness.crash.writers import ON_FILES, WRITERS
from tests.structure.source import MODULES
from tests.support.strategies import sha256

MakeStage = Callable[[str], Stage]

SETTINGS = {
    "journal_mode": "wal",
    "trusted_schema": 0,
    "cell_size_check": 1,
    "mmap_size": 0,
    "writable_schema": 0,
    "ignore_check_constraints": 0,
    "locking_mode": "normal",
}


@contextmanager
def asked(path: str, wrong: list[str]) -> Iterator[Callable[[str], list[int]]]:
    """Learn of every connection that this process makes, and ask those to the file for their settings."""
    made: list[sqlite3.Connection] = []
    sys.addaudithook(lambda event, arguments: made.append(arguments[0]) if event == "sqlite3.connect/handle" else None)

    def ask(when: str) -> list[int]:
        synchronous = []
        for connection in made:
            try:
                file = connection.execute("PRAGMA database_list").fetchone()[2]
            except sqlite3.ProgrammingError:
                continue  # closed by now
            if file == path:
                synchronous.append(connection.execute("PRAGMA synchronous").fetchone()[0])
                for setting, value in SETTINGS.items():
                    found = connection.execute(f"PRAGMA {setting}").fetchone()[0]
                    if found != value:
                        wrong.append(f"{when}: {setting}={found}")
        return sorted(synchronous)

    yield ask


def use_every_way(pipe: Any, home: Path, durability: Any) -> None:
    """Write in every way that there is; report settings that are not what they must be, and how each one syncs."""
    path = str(home / "layers.db")
    wrong: list[str] = []
    found: dict[str, list[int]] = {}
    with asked(path, wrong) as ask:
        with SQLMetadataStore(path, durability=durability) as store:
            found["a file that is opened"] = ask("a file that is opened")
            V2MetadataService(store).add(sha256(1), association(1))
            with store.engine.begin() as connection:
                connection.exec_driver_sql("SELECT 1")
                found["the engine"] = ask("the engine")
            with store._backend.snapshot():
                found["a snapshot"] = ask("a snapshot")
            assert in_threads([lambda: found.update({"a thread": ask_in_a_thread(store, ask)})]) == []
            import_directory(store, home / "distribution")
            verify(store, repair=True)
            store.backup(home / "copy.db")
            found["afterwards"] = ask("afterwards")
        next_revision.install(home / "100% next" / "migrations")
        with SQLMetadataStore(path, durability=durability) as store:
            found["a file that was upgraded"] = ask("a file that was upgraded")
            store.set("n", "k", b"")
    pipe.send((wrong, found))


def ask_in_a_thread(store: SQLMetadataStore, ask: Callable[[str], list[int]]) -> list[int]:
    store.set("n", "thread", b"")
    return ask("a thread")


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_every_connection_that_writes_has_the_settings_that_recovery_needs(tmp_path: Path, durability: str):
    """A new file, one that is there, the engine, threads, snapshots, an import, a repair, a migration.

    In full durability all are FULL, but for those of threads that have written, which sync the log themselves: that
    they do is shown by the system calls, below.
    """
    a_store_and_a_directory(tmp_path)
    next_revision.make(tmp_path)
    here, there = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=use_every_way, args=(there, tmp_path, durability))
    process.start()
    there.close()
    wrong, found = here.recv()
    process.join()

    assert wrong == []
    full, ours = {"full": (2, 1), "normal": (1, 1)}[durability]
    assert found == {
        "a file that is opened": [full],
        "the engine": [ours, full],
        "a snapshot": [ours, full, full],
        "a thread": [ours, ours, full],
        "afterwards": [ours, full],
        "a file that was upgraded": [full, full],
    }
    assert process.exitcode == 0


def test_connections_are_made_in_one_place_and_no_database_is_attached():
    """But for the copy that a backup fills, which is synced as a file before it gets its name, and Podman's cache."""
    places = [
        (module, ast.unparse(node.func))
        for module, path in MODULES.items()
        if not module.startswith("layerstore.sql.postgresql.")  # no file is synced there
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("sqlite3.connect", "create_engine"))
    ]
    assert sorted({*places}) == [
        ("layerstore.formats.containers", "sqlite3.connect"),
        ("layerstore.sql.sqlite.backup", "sqlite3.connect"),
        ("layerstore.sql.sqlite.confined", "sqlite3.connect"),  # to read only
        ("layerstore.sql.sqlite.connections", "create_engine"),
        ("layerstore.sql.sqlite.file", "sqlite3.connect"),
    ]
    # `query` names it to refuse it, on connections that read only.
    assert [module for module, path in MODULES.items() if "ATTACH" in path.read_text()] == [
        "layerstore.sql.sqlite.confined"
    ]


def unsynced(disk: Disk) -> list[str]:
    """Return what of the database and its log a cut could undo at each acknowledgement."""
    found = []
    for at, event in enumerate(disk.events):
        if isinstance(event, Acknowledged):
            before = disk.events[:at]
            safe = cuts.safe(before)
            databases = _named(disk, before)
            for number, one in enumerate(before):
                if number in safe:
                    continue
                if isinstance(one, Write) and one.inode in databases:
                    found.append(f"{event.number}: bytes of {databases[one.inode]}")
                if isinstance(one, Naming) and any(inode in databases for _, _, inode in one.changes):
                    found.append(f"{event.number}: a name")
    return found


def _named(disk: Disk, events: list[Any]) -> dict[Inode, str]:
    """Return the inodes that are a database or its log."""
    names = {inode: name for name, inode in disk.top.names.items()}
    for event in events:
        if isinstance(event, Naming):
            names |= {inode: name for _, name, inode in event.changes if inode is not None}
    return {inode: name for inode, name in names.items() if name.endswith((".db", ".db-wal"))}


ON_DATABASES = [name for name in WRITERS if name not in ON_FILES and not WRITERS[name].lags]


def recording(stage: Stage) -> Disk:
    home = stage.home()
    disk = Disk(home)
    stage.victim(home).record(stage.log)
    disk.replay(trace.read(stage.log))
    return disk


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("name", [*ON_DATABASES, "backup"])
def test_what_is_acknowledged_is_synced(stage: MakeStage, name: str):
    """By the system calls: at no acknowledgement has the database, its log or a name of theirs bytes to sync."""
    disk = recording(stage(name))
    assert any(isinstance(event, Acknowledged) for event in disk.events)
    assert unsynced(disk) == []


@pytest.mark.usefixtures("strace")
def test_the_look_at_the_calls_would_see_a_missing_sync(stage: MakeStage):
    """The control: in normal durability the log is not synced."""
    assert unsynced(recording(stage("add, normal durability"))) != []


def test_a_file_that_another_program_switched_back_is_switched_to_wal_again(tmp_path: Path):
    path = tmp_path / "layers.db"
    SQLMetadataStore(path).close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    connection.close()
    with SQLMetadataStore(path) as store:
        assert sqlite_of(store).run("PRAGMA journal_mode") == [("wal",)]
