"""A golden database of each released schema: opened, upgraded, used. The files themselves never change."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService
from layerstore.sql import migrate
from layerstore.sql.schema import HEAD
from layerstore.sql.sqlite import opening
from tests.conftest import OpenSQL, assert_sound, database_rows
from tests.golden import make_0001
from tests.support.strategies import sha256

GOLDEN = Path(__file__).parent
RELEASED = sorted(path.stem for path in GOLDEN.glob("*.db"))


def test_every_revision_has_its_golden_database():
    assert migrate.revisions() == RELEASED


@pytest.mark.parametrize("revision", RELEASED)
def test_a_golden_database_is_of_its_revision(tmp_path: Path, revision: str):
    copy = shutil.copy(GOLDEN / f"{revision}.db", tmp_path)

    assert opening.revision(str(copy)) == revision


@pytest.fixture(params=RELEASED)
def golden(request: pytest.FixtureRequest, tmp_path: Path, open_sql: OpenSQL) -> SQLMetadataStore:
    """A copy of each golden database in turn, opened, and so brought to this code's schema."""
    shutil.copy(GOLDEN / f"{request.param}.db", tmp_path / "copy.db")
    return open_sql(tmp_path / "copy.db")


def test_what_was_in_it_is_there(golden: SQLMetadataStore):
    v2 = V2MetadataService(golden)
    content = make_0001.content()

    assert v2.get_metadata_many(content) == content
    assert {v2.get_diff_id(entry.digest) for entry in content[make_0001.LAYERS[2]]} == {make_0001.LAYERS[2]}
    assert v2.get_diff_id(make_0001.association(2, 0).digest) == make_0001.LAYERS[2]
    assert V1IDService(golden).get(make_0001.V1_ID, "localhost:5000") == make_0001.LAYERS[0]
    assert golden.get("another", "é/key") == bytes(range(256))
    assert database_rows(golden, "SELECT value, reason FROM quarantine") == [(b"cut off", "made up")]
    assert_sound(golden)
    assert database_rows(golden, "SELECT count(*) FROM v2_metadata") == [(54,)]
    assert database_rows(golden, "SELECT count(*) FROM diff_id_by_digest") == [(56,)]
    assert database_rows(golden, "SELECT version_num FROM alembic_version") == [(HEAD,)]


def test_upgraded_it_has_the_schema_of_a_new_file(golden: SQLMetadataStore, sql_memory: SQLMetadataStore):
    """Also a guard: a revision that was edited after it had landed would differ from what was made with it."""
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
    objects, new = database_rows(golden, query), database_rows(sql_memory, query)

    assert [row[:2] for row in objects] == [row[:2] for row in new]
    assert [" ".join(str(row[2]).split()) for row in objects] == [" ".join(str(row[2]).split()) for row in new]
    assert database_rows(golden, "SELECT * FROM sqlite_stat1 ORDER BY 1, 2") == database_rows(
        sql_memory, "SELECT * FROM sqlite_stat1 ORDER BY 1, 2"
    )


def test_it_is_used_like_any_other(golden: SQLMetadataStore):
    v2 = V2MetadataService(golden)
    v2.add(make_0001.LAYERS[2], V2Metadata(sha256(1), "new"))
    v2.remove(make_0001.association(0, 0))
    golden.delete("another", "é/key")

    assert v2.get_metadata(make_0001.LAYERS[2]) == [
        *make_0001.content()[make_0001.LAYERS[2]][1:],
        V2Metadata(sha256(1), "new"),
    ]
    assert database_rows(golden, "SELECT count(*) FROM v2_metadata") == [(53,)]
    assert database_rows(golden, "PRAGMA journal_mode") == [("wal",)]


def test_the_database_of_this_revision_can_be_opened_to_read_only(tmp_path: Path, open_sql: OpenSQL):
    path = tmp_path / "copy.db"
    shutil.copy(GOLDEN / f"{HEAD}.db", path)
    before = path.read_bytes()
    with open_sql(path, read_only=True) as store:
        assert V2MetadataService(store).get_metadata(make_0001.LAYERS[0]) == [make_0001.association(0, 0)]

    assert path.read_bytes() == before
