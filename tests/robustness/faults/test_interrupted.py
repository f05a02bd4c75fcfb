"""A signal ends a statement of SQLite, however long it is, with what its handler raises."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from layerstore import SQLMetadataStore
from layerstore.sql.sqlite import errors
from layerstore.sql.sqlite.snapshot import Snapshot
from tests.conftest import OpenSQL, sqlite_of
from tests.support.command import ROOT
from tests.support.counting import Counted

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


class RungError(Exception):
    """Raised by the handler of this test's signal."""


@pytest.fixture
def alarm() -> Iterator[Callable[[], None]]:
    """Let a signal come in a moment, whose handler raises `RungError`."""

    def ring(_number: int, _frame: object) -> None:
        raise RungError

    before = signal.signal(signal.SIGALRM, ring)
    yield lambda: signal.setitimer(signal.ITIMER_REAL, 0.3) and None
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def in_a_transaction(store: SQLMetadataStore) -> None:
    with store.transaction():
        store.set("n", "half", b"")
        sqlite_of(store).run(ENDLESS)


def in_a_snapshot(store: SQLMetadataStore) -> None:
    with store._backend.snapshot() as snapshot:
        assert isinstance(snapshot, Snapshot)
        list(snapshot._handle.stream(ENDLESS))


def by_the_engine(store: SQLMetadataStore) -> None:
    with store.engine.connect() as connection:
        connection.execute(text(ENDLESS))


WAYS: dict[str, Callable[[SQLMetadataStore], object]] = {
    "alone": lambda store: sqlite_of(store).run(ENDLESS),
    "in a transaction": in_a_transaction,
    "in a snapshot": in_a_snapshot,
    "by the engine": by_the_engine,
}


@pytest.mark.parametrize("work", WAYS.values(), ids=WAYS.keys())
def test_what_the_handler_raises_ends_a_statement_without_end(
    sql_file: SQLMetadataStore, alarm: Callable[[], None], work: Callable[[SQLMetadataStore], object], counted: Counted
):
    sql_file.set("n", "k", b"value")
    for _ in range(2):  # the connection is as good as new
        alarm()
        counted("faults")
        with pytest.raises(RungError):
            work(sql_file)
        assert [key for _, key, _ in sql_file.entries()] == ["k"]
    assert errors._raised == []


def test_a_handler_that_raises_nothing_ends_nothing(open_sql: OpenSQL):
    store = open_sql()
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        long = ENDLESS.replace("FROM n)", "FROM n LIMIT 5000000)")
        assert sqlite_of(store).run(long) == [(5_000_000,)]
    finally:
        signal.signal(signal.SIGALRM, before)
    assert rung == [signal.SIGALRM]


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "layerstore", *map(str, arguments)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def time_at_work(process: subprocess.Popen[str]) -> float:
    """Return the seconds of the processor that a process has had."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


COMMANDS = {
    "show": ["show", "sha256:" + "1" * 64],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_also_inside_a_view_without_end(
    tmp_path: Path, command: list[str], number: signal.Signals, counted: Counted
):
    path = tmp_path / "layers.db"
    SQLMetadataStore(path).close()
    rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i || '' AS"
    columns = "digest, '' AS diff_id, '' AS registry, '' AS v1_id, '' AS source_repository"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for view in ("diff_id_by_digest", "v1_ids", "repositories"):
            connection.execute(f"DROP VIEW {view}")
            connection.execute(f"CREATE VIEW {view} AS {rows} {columns} FROM n")
    counted("faults")

    with running("--db", path, *command) as process:
        deadline = time.monotonic() + 60
        while time_at_work(process) < 1 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said
