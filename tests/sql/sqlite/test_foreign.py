"""What is not a store of this version is refused, with what it is, and left as it was."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from layerstore import SchemaVersionError, SQLMetadataStore, StoreCorruptError, StoreError, StoreOpenError


@pytest.mark.parametrize("read_only", [False, True])
def test_a_directory_is_no_store(tmp_path: Path, read_only: bool):
    with pytest.raises(StoreOpenError) as caught:
        SQLMetadataStore(tmp_path, read_only=read_only)
    assert caught.value.path == str(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_directorys_place_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("text")

    with pytest.raises(StoreOpenError):
        SQLMetadataStore(tmp_path / "file" / "layers.db")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("content", [b"xy", b"not a database\n" * 1000, bytes(4096)], ids=["short", "text", "zeros"])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes, read_only: bool):
    path = tmp_path / "file"
    path.write_bytes(content)

    with pytest.raises(StoreError):
        SQLMetadataStore(path, read_only=read_only)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE metadata(x)"],
        ["PRAGMA application_id=1"],
        ["CREATE TABLE alembic_version(version_num)", "INSERT INTO alembic_version VALUES ('0001')"],
    ],
    ids=["a table", "an application_id", "another one's Alembic"],
)
def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path, statements: list[str], read_only: bool):
    path = tmp_path / "other.db"
    other = sqlite3.connect(path)
    for statement in statements:
        other.execute(statement)
    other.commit()
    other.close()
    before = path.read_bytes()

    with pytest.raises(StoreOpenError, match="another program made it"):
        SQLMetadataStore(path, read_only=read_only)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["other.db"]


def change(path: Path, statement: str) -> None:
    """Make a store, and change it as no program of ours does."""
    SQLMetadataStore(path).close()
    connection = sqlite3.connect(path)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path, read_only: bool):
    path = tmp_path / "layers.db"
    change(path, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(SchemaVersionError, match=r"9999.*install a newer layerstore"):
        SQLMetadataStore(path, read_only=read_only)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    connection.close()


@pytest.mark.parametrize("statement", ["DELETE FROM alembic_version", "DROP TABLE alembic_version"])
def test_a_store_without_its_revision_is_damaged(tmp_path: Path, statement: str):
    change(tmp_path / "layers.db", statement)

    with pytest.raises(StoreError):
        SQLMetadataStore(tmp_path / "layers.db")


def test_a_damaged_page_is_a_store_corrupt_error(tmp_path: Path):
    path = tmp_path / "layers.db"
    with SQLMetadataStore(path) as store:
        store.set_many(("n", f"{number:05}", b"x" * 200) for number in range(500))
    data = bytearray(path.read_bytes())
    for page in range(40, len(data) // 4096):
        data[page * 4096 : page * 4096 + 100] = b"\xff" * 100
    path.write_bytes(data)

    with SQLMetadataStore(path) as store, pytest.raises(StoreCorruptError) as caught:
        list(store.entries())
    assert caught.value.path == str(path)


def test_a_failed_opening_leaves_no_connection_open(tmp_path: Path):
    path = tmp_path / "file"
    path.write_bytes(b"garbage" * 1000)
    for _ in range(3):
        with pytest.raises(StoreError):
            SQLMetadataStore(path)

    assert str(path) not in [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if fd_exists(fd)]


def fd_exists(descriptor: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{descriptor}")
