"""Values that another program wrote in the wrong type are read as far as can be, reported by `verify`, and mended."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreCorruptError, VerifyReport, import_directory, verify
from layerstore.sql.quarantine import drop_quarantined
from layerstore.transfer.recovering import recover
from tests.conftest import OpenSQL
from tests.support.command import DONE, FOUND, GOLDEN, Run, database, run

__all__ = ["database", "run"]  # fixtures of the command's tests

LAYER = "sha256:15a6e8a8ae102f15bc8944548641d5bd88221a8bd549c34dfcc1436f87a1d63a"


@pytest.fixture
def path(tmp_path: Path, open_sql: OpenSQL) -> Path:
    path = tmp_path / "layers.db"
    with open_sql(path) as store:
        import_directory(store, GOLDEN)
        store.quarantine("n", "k", b"value", "reason")
    return path


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def found(report: VerifyReport, kind: str) -> tuple[int, int]:
    """Return how many findings of a kind there are, and how many were repaired."""
    return next(((of.count, of.repaired) for of in report.findings if of.kind == kind), (0, 0))


@pytest.mark.parametrize(("written", "read"), [("'now'", 0), ("'12 o''clock'", 12), ("1.5", 1), ("x'00'", 0)])
def test_a_time_that_is_no_number_is_reported_and_repaired(path: Path, run: Run, written: str, read: int):
    with SQLMetadataStore(path) as store:
        count = len(list(store.entries()))
    change(path, f"UPDATE metadata SET modified_at_ns = {written}")

    for command in (["show", LAYER], ["stats"], ["list"], ["import", GOLDEN]):
        assert run("--db", path, *command).code == DONE
    assert run("--db", path, "verify").code == FOUND
    assert found(verify(path), "odd-time") == (count, 0)
    assert found(verify(path, repair=True), "odd-time") == (count, count)
    assert verify(path).ok
    with SQLMetadataStore(path) as store:
        assert {record.modified_at_ns for record in store._records()} == {read}


def test_a_repair_leaves_other_times_alone(path: Path):
    with SQLMetadataStore(path) as store:
        before = {record.key: record for record in store._records()}
    key = min(before)
    change(path, f"UPDATE metadata SET modified_at_ns = 'now' WHERE key = '{key}'")

    verify(path, repair=True)

    with SQLMetadataStore(path) as store:
        after = {record.key: record for record in store._records()}
    assert after.pop(key) == before.pop(key)._replace(modified_at_ns=0)
    assert after == before


ODD = {
    "a name that is not UTF-8": ("(CAST(x'ff' AS TEXT), 'k', 'v', 'r', 1)", ("\\xff", "k", b"v", "r", 1)),
    "a reason that is not UTF-8": ("('n', 'k', 'v', CAST(x'72fe' AS TEXT), 1)", ("n", "k", b"v", "r\\xfe", 1)),
    "a name that is bytes": ("('n', x'6b', 'v', 'r', 1)", ("n", "k", b"v", "r", 1)),
    "a time that is text": ("('n', 'k', 'v', 'r', 'now')", ("n", "k", b"v", "r", 0)),
}


@pytest.mark.parametrize(("row", "shown"), ODD.values(), ids=ODD.keys())
def test_a_quarantine_that_is_not_of_our_types_is_shown_reported_and_repaired(
    path: Path, run: Run, row: str, shown: tuple[str, str, bytes, str, int]
):
    change(path, f"INSERT INTO quarantine(namespace, key, value, reason, quarantined_at_ns) VALUES {row}")

    assert run("--db", path, "quarantine", "list").code == DONE
    assert run("--db", path, "quarantine", "show", 2).code == DONE
    assert found(verify(path), "odd-quarantine") == (1, 0)
    assert found(verify(path, repair=True), "odd-quarantine") == (1, 1)
    assert verify(path).ok
    with SQLMetadataStore(path) as store:
        ours, theirs = store.quarantined()
        assert ours.value == b"value"
        assert (theirs.namespace, theirs.key, theirs.value, theirs.reason, theirs.quarantined_at_ns) == shown
        drop_quarantined(store, [1, 2])


def test_a_name_in_the_schema_that_is_not_utf_8_is_damage_that_recover_mends(
    path: Path, tmp_path: Path, open_sql: OpenSQL
):
    with SQLMetadataStore(path) as store:
        entries = list(store.entries())
    broken = tmp_path / "broken.db"
    path.rename(broken)
    name = "CAST(x'ff41' AS TEXT)"
    change(
        broken,
        "PRAGMA writable_schema=ON",
        f"INSERT INTO sqlite_master VALUES ('view', {name}, {name}, 0, 'CREATE VIEW q AS SELECT 1')",
    )

    for work in (SQLMetadataStore, verify, lambda place: SQLMetadataStore(place, read_only=True)):
        with pytest.raises(StoreCorruptError, match="`layerstore recover FILE NEW`"):
            work(broken)
    assert recover(broken, path).kept_in_quarantine == 1
    assert list(open_sql(path).entries()) == entries
