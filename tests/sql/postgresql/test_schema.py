"""The schema on PostgreSQL: what opening makes is what the migrations make, and each revision has both halves."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from layerstore import InvalidInputError, SQLMetadataStore, V1IDService, V2Metadata, V2MetadataService, verify
from layerstore.blobs import BlobRecord, encode
from layerstore.sql import migrate
from layerstore.sql.postgresql.schema import BORN, USABLE_FROM
from layerstore.sql.revision import move_to, revision_of
from layerstore.sql.schema import HEAD
from tests.conftest import assert_sound, database_rows
from tests.support import postgresql
from tests.support.postgresql import Server
from tests.support.strategies import sha256

LAYER, BLOB = sha256(1), sha256(2)


def dumped(server: Server, schema: str) -> str:
    """Return the definitions in a schema, without its name."""
    found = subprocess.run(
        [server.bin / "pg_dump", "-s", "-n", schema, "--no-owner", "-d", server.conninfo()],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    lines = [line for line in found.split("\n") if "restrict" not in line]
    return "\n".join(lines).replace(schema, "SCHEMA")


def test_what_opening_makes_is_what_alembic_makes_and_alembic_sees_no_difference(
    postgresql_server: Server, schema: str
):
    other = postgresql.new_schema(postgresql_server)
    SQLMetadataStore(postgresql_server.url(schema)).close()
    for command in (["upgrade", "head"], ["check"]):
        subprocess.run(
            [Path(sys.executable).parent / "alembic", "-x", f"db={postgresql_server.url(other)}", *command],
            check=True,
            cwd=postgresql.ROOT,
            capture_output=True,
        )

    assert dumped(postgresql_server, other) == dumped(postgresql_server, schema)
    assert "CREATE TABLE SCHEMA.metadata" in dumped(postgresql_server, other)
    with SQLMetadataStore(postgresql_server.url(other)) as store:
        V2MetadataService(store).add(LAYER, V2Metadata(BLOB, "localhost:5000/a"))
        assert_sound(store)
    postgresql.drop_schema(postgresql_server, other)


@pytest.mark.parametrize("script", sorted((postgresql.ROOT / "migrations" / "versions").glob("*.py")), ids=str)
def test_each_revision_has_both_halves(script: Path):
    """From the one on at which PostgreSQL is born: both directions choose by the dialect."""
    if script.name < BORN:
        return
    tree = ast.parse(script.read_text())
    directions = [one for one in tree.body if isinstance(one, ast.FunctionDef) and one.name in ("upgrade", "downgrade")]

    assert len(directions) == 2
    for one in directions:
        assert "sqlite" in ast.unparse(one)
        assert "postgresql" in ast.unparse(one)


def test_the_constants_name_known_revisions():
    assert {BORN, USABLE_FROM} <= set(migrate.revisions())
    assert BORN <= USABLE_FROM <= HEAD


def test_a_move_to_where_it_is_changes_nothing_and_below_its_birth_is_refused(postgresql_url: str):
    assert revision_of(postgresql_url) is None
    SQLMetadataStore(postgresql_url).close()

    assert move_to(postgresql_url, "head") == (HEAD, HEAD)
    with pytest.raises(InvalidInputError, match=f"begins with revision {BORN}"):
        move_to(postgresql_url, "0001")
    with pytest.raises(InvalidInputError, match="no revision"):
        move_to(postgresql_url, "9999")
    assert revision_of(postgresql_url) == HEAD


STALE = {
    "a row of a list is gone": "DELETE FROM v2_metadata",
    "a row has no list": "INSERT INTO v2_metadata VALUES ('sha256:x', 1, 'd', 'r', '')",
    "a row differs": "UPDATE v2_metadata SET hmac = 'x'",
    "a mapping's row is gone": "DELETE FROM diff_id_by_digest",
    "a mapping's row has no mapping": f"INSERT INTO diff_id_by_digest VALUES ('{sha256(9)}', '{LAYER}')",
    "a mapping's row differs": f"UPDATE diff_id_by_digest SET diff_id = '{sha256(9)}'",
    "a V1 ID's row is gone": "DELETE FROM v1_ids",
    "a V1 ID's row has no entry": f"INSERT INTO v1_ids VALUES ('other', '{'b' * 64}', '{LAYER}')",
    "a blob's row is gone": "DELETE FROM blobs",
    "a place is gone": "DELETE FROM locations",
    "a place has no blob": f"INSERT INTO locations VALUES ('{sha256(8)}', 'r', NULL)",
    "a place has another time": "UPDATE locations SET seen_at_ns = 1",
    "an entry was written past the store": "UPDATE metadata SET value = '[]' WHERE namespace = 'v2metadata-by-diffid'",
    "an entry was removed past the store": "DELETE FROM metadata",
}


@pytest.mark.parametrize("statement", STALE.values(), ids=STALE)
def test_derived_rows_that_are_not_what_their_entry_says_are_found_and_rebuilt(
    postgresql_server: Server, schema: str, statement: str
):
    with SQLMetadataStore(postgresql_server.url(schema)) as store:
        V2MetadataService(store).add(LAYER, V2Metadata(BLOB, "localhost:5000/a"))
        V1IDService(store).set("a" * 64, "registry", LAYER)
        known = BlobRecord(diff_id=LAYER, compression="gzip", locations={"localhost:5000/a": 5})
        store.set("blob-by-digest", BLOB.replace(":", "/"), encode(known))
        postgresql_server.execute(f"SET search_path = {schema}; {statement}")

        found = {finding.kind for finding in verify(store).findings}
        assert "stale-rows" in found
        verify(store, repair=True)
        assert_sound(store)
        assert "stale-rows" not in {finding.kind for finding in verify(store).findings}


def test_the_views_answer_as_those_of_a_file_do(postgresql_url: str, sql_file: SQLMetadataStore):
    """The sample directory of a real daemon, by every table and view that is documented."""
    from layerstore import import_directory
    from tests.support.command import GOLDEN

    with SQLMetadataStore(postgresql_url) as store:
        for one in (store, sql_file):
            import_directory(one, GOLDEN)
            V1IDService(one).set("a" * 64, "registry", LAYER)
            known = BlobRecord(
                diff_id=LAYER, compression="gzip", locations={"localhost:5000/a": 5, "localhost:5000/b": None}
            )
            one.set("blob-by-digest", BLOB.replace(":", "/"), encode(known))
        for name, columns in (
            ("v2_metadata", "*"),
            ("diff_id_by_digest", "*"),
            ("v1_ids", "*"),
            ("blobs", "*"),
            ("locations", "*"),
            ("layers", "*"),
            ("repositories", "*"),
            ("registries", "*"),
            ("shared_layers", "*"),
            ("unlisted_digests", "*"),
            ("places", "digest, diff_id, source_repository, hmac, seen_at_ns"),
        ):
            query = f"SELECT {columns} FROM {name}"
            rows = [sorted(database_rows(one, query), key=repr) for one in (store, sql_file)]
            assert rows[0] == rows[1], name
            assert rows[0] or name == "unlisted_digests", name


def test_the_engine_is_an_ordinary_one(postgresql_url: str):
    with SQLMetadataStore(postgresql_url) as store:
        store.set("n", "k", b"v")
        with store.engine.connect() as connection:
            assert connection.execute(text("SELECT value FROM metadata")).scalar() == b"v"
        with (
            SQLMetadataStore(postgresql_url, read_only=True) as reader,
            reader.engine.connect() as connection,
            pytest.raises(DBAPIError, match="read-only"),
        ):
            connection.execute(text("DELETE FROM metadata"))
