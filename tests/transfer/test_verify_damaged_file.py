"""A database file that is damaged: what is broken and what can still be read is reported, and nothing is written."""

from __future__ import annotations

import dataclasses
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import (
    LayerstoreError,
    SQLMetadataStore,
    StoreCorruptError,
    V2Metadata,
    V2MetadataService,
    diff,
    import_directory,
    verify,
)
from tests.support.command import FOUND, Run
from tests.support.entries import GOLDEN, GOLDEN_FILES
from tests.transfer.test_verify import finding, kinds

PAGE = 4096


def make(path: Path) -> None:
    """Make a database whose every byte is in the file itself."""
    with SQLMetadataStore(path) as store:
        import_directory(store, GOLDEN)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def root_page(path: Path, name: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchone()
    assert isinstance(page, int)
    return page


def spoil(path: Path, page: int, content: bytes = b"\xff" * PAGE) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


def spoil_table(path: Path) -> None:
    spoil(path, root_page(path, "metadata"))


def spoil_derived(path: Path) -> None:
    spoil(path, root_page(path, "v2_metadata"))


def spoil_index(path: Path) -> None:
    spoil(path, root_page(path, "metadata_by_digest"))


def spoil_leaves(path: Path) -> None:
    """The last pages of the tables: what comes before them can be read."""
    for page in range(path.stat().st_size // PAGE - 8, path.stat().st_size // PAGE + 1):
        spoil(path, page)


def lose_rows_of_an_index(path: Path) -> None:
    """Every page is sound, and they do not agree."""
    page = root_page(path, "v2_metadata_by_digest")
    spoil(path, page, b"\x0a" + bytes(4) + b"\x10\x00" + bytes(PAGE - 7))


# How a row of `diffid-by-digest` begins: the length of its header, and the types of namespace, key, value and time.
ROW = b"\x07\x2d\x81\x1b\x81\x1a\x06"


def put_null(path: Path, types: bytes) -> None:
    """Say in the first mapping's row that a column is NULL. SQLite gives it out, though the column is NOT NULL."""
    content = path.read_bytes()
    assert ROW in content
    path.write_bytes(content.replace(ROW, types, 1))


def lose_namespace(path: Path) -> None:
    put_null(path, b"\x07\x00\x81\x1b\x81\x1a\x06")


def lose_key(path: Path) -> None:
    put_null(path, b"\x07\x2d\x80\x00\x81\x1a\x06")


def lose_value(path: Path) -> None:
    put_null(path, b"\x07\x2d\x81\x1b\x80\x00\x06")


NULLS = [lose_namespace, lose_key, lose_value]
DAMAGES = [spoil_table, spoil_derived, spoil_index, spoil_leaves, lose_rows_of_an_index, *NULLS]


@pytest.mark.parametrize("repair", [False, True])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damage_is_a_finding_and_no_exception(tmp_path: Path, damage, repair: bool):
    path = tmp_path / "layers.db"
    make(path)
    damage(path)
    before = path.read_bytes()

    report = verify(path, repair=repair)

    assert not report.ok
    found = finding(report, "damaged-file")
    assert (found.severity, found.repaired) == ("error", 0)
    assert found.count >= len(found.examples) > 0
    assert "layerstore recover" in found.remedy
    assert path.read_bytes() == before
    assert ("not-repaired" in kinds(report)) is repair
    assert [other.repaired for other in report.findings if other.repaired] == []


def test_what_can_still_be_read_is_checked(tmp_path: Path):
    """An index that is broken keeps no entry from being read; a leaf that is broken not those before it."""
    make(tmp_path / "index.db")
    spoil_index(tmp_path / "index.db")
    make(tmp_path / "leaves.db")
    spoil_leaves(tmp_path / "leaves.db")
    make(tmp_path / "table.db")
    spoil_table(tmp_path / "table.db")

    assert verify(tmp_path / "index.db").checked == GOLDEN_FILES
    assert 0 < verify(tmp_path / "leaves.db").checked < GOLDEN_FILES
    assert verify(tmp_path / "table.db").checked == 0


@pytest.mark.parametrize("damage", NULLS, ids=lambda damage: damage.__name__)
def test_what_has_become_null_is_an_error_and_not_absent(tmp_path: Path, damage):
    path = tmp_path / "layers.db"
    make(path)
    key = path.read_bytes().partition(ROW + b"diffid-by-digest")[2][:71].decode()
    damage(path)

    with SQLMetadataStore(path) as store, SQLMetadataStore(":memory:") as other:
        for read in (lambda: list(store.entries()), lambda: import_directory(other, path), lambda: diff(path, GOLDEN)):
            with pytest.raises(StoreCorruptError, match=r"layerstore recover"):
                read()
        assert len(other) == 0
        if damage is lose_value:
            v2 = V2MetadataService(store)
            blob = key.replace("/", ":")
            for use in (
                lambda: store.get("diffid-by-digest", key),
                lambda: store.get_many("diffid-by-digest", [key]),
                lambda: v2.get_diff_id(blob),
                lambda: v2.add(blob, V2Metadata(blob)),
                lambda: v2.remove(V2Metadata(blob)),
            ):
                with pytest.raises(StoreCorruptError, match=r"layerstore recover"):
                    use()
    assert not verify(path).ok


def test_what_has_become_null_in_quarantine_is_shown_as_empty(tmp_path: Path):
    path = tmp_path / "layers.db"
    make(path)
    with SQLMetadataStore(path) as store:
        store.quarantine("n", "k", b"v", "why")
        (whole,) = store.quarantined()
    # The types of the columns: the number is the row's own; the namespace is lost, and the key has its byte.
    row, types = b"\x07\x00\x0f\x0f\x0e\x13\x06nkvwhy", b"\x07\x00\x00\x11\x0e\x13\x06nkvwhy"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = path.read_bytes()
    assert content.count(row) == 1
    path.write_bytes(content.replace(row, types))

    with SQLMetadataStore(path) as store:
        (found,) = store.quarantined()
        assert found == dataclasses.replace(whole, namespace="", key="nk")
    assert not verify(path).ok


def test_a_position_that_is_no_number_is_an_error(tmp_path: Path):
    """As a damaged page may give it: the column takes text that is none."""
    path = tmp_path / "layers.db"
    make(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        (layer,) = connection.execute("SELECT max(diff_id) FROM v2_metadata").fetchone()
        connection.execute("UPDATE v2_metadata SET position = 'x' || position WHERE diff_id = ?", (layer,))

    with SQLMetadataStore(path) as store, pytest.raises(StoreCorruptError, match=r"layerstore recover"):
        V2MetadataService(store).add(layer, V2Metadata(f"sha256:{'1' * 64}"))
    report = verify(path)
    assert finding(report, "stale-rows").examples == (layer,)
    with SQLMetadataStore(path) as store:
        assert verify(store, repair=True).ok


def test_other_findings_are_there_beside_the_damage(tmp_path: Path):
    path = tmp_path / "layers.db"
    make(path)
    with SQLMetadataStore(path) as store:
        store.set("diffid-by-digest", "sha256/short", b"nonsense")
    spoil_index(path)

    report = verify(path, repair=True)

    assert kinds(report)["unreadable"] == ("error", 1)
    assert finding(report, "unreadable").repaired == 0


@pytest.mark.parametrize("arguments", [[], ["--repair"]])
def test_the_command_reports_it_and_exits_with_1(run: Run, database: Path, arguments: list[str]):
    database.parent.mkdir()
    make(database)
    spoil_table(database)

    said = run("verify", *arguments)

    assert (said.code, said.err) == (FOUND, "")
    assert "damaged-file" in said.out
    assert "layerstore recover" in said.out
    assert ("writing to a damaged file" in said.out) is bool(arguments)
    assert run("verify", "--json", *arguments).json["ok"] is False


def test_an_open_store_that_is_damaged_is_reported_and_not_written_to(tmp_path: Path):
    path = tmp_path / "layers.db"
    make(path)
    with SQLMetadataStore(path) as store:
        store.set("diffid-by-digest", "sha256/short", b"nonsense")
    spoil_index(path)
    with SQLMetadataStore(path) as store:
        report = verify(store, repair=True)

        assert "not-repaired" in kinds(report)
        assert store.get("diffid-by-digest", "sha256/short") == b"nonsense"


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0" + b"\xff" * 5000])
def test_what_cannot_be_opened_as_a_database_of_ours_is_an_error(tmp_path: Path, content: bytes):
    path = tmp_path / "layers.db"
    make(path)
    path.write_bytes(content)

    with pytest.raises(LayerstoreError) as caught:
        verify(path)
    assert ("layerstore recover" if content else "an empty file") in str(caught.value)


def test_a_file_that_is_cut_off_cannot_be_opened_and_says_what_to_do(tmp_path: Path):
    """SQLite reads nothing of a file that has fewer pages than it says."""
    path = tmp_path / "layers.db"
    make(path)
    os.truncate(path, path.stat().st_size // PAGE // 2 * PAGE)

    with pytest.raises(StoreCorruptError, match=r"layerstore recover"):
        verify(path)
