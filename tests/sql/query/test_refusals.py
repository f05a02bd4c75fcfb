"""`query` cannot write, in whatever way it is tried: each try is refused, and the file stays byte for byte the same."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from layerstore import QueryError, StoreError
from layerstore.sql.query import query as ask
from layerstore.sql.sqlite.confined import confine
from tests.sql.query.conftest import Rows, fingerprint

TRIES = {
    "insert": "INSERT INTO metadata VALUES ('n', 'k', x'00', 1)",
    "insert or replace": "INSERT OR REPLACE INTO metadata SELECT * FROM metadata",
    "replace": "REPLACE INTO metadata VALUES ('n', 'k', x'00', 1)",
    "upsert": "INSERT INTO metadata VALUES ('n','k',x'00',1) ON CONFLICT DO UPDATE SET value = x'01'",
    "insert returning": "INSERT INTO quarantine(namespace, key, value, reason, quarantined_at_ns)"
    " VALUES ('n', 'k', x'00', 'r', 1) RETURNING id",
    "default values": "INSERT INTO quarantine DEFAULT VALUES",
    "update": "UPDATE metadata SET value = x'00'",
    "update from": "UPDATE metadata SET value = v.hmac FROM v2_metadata v",
    "delete": "DELETE FROM metadata",
    "delete returning": "DELETE FROM v2_metadata RETURNING diff_id",
    "a comment before it": "/* SELECT */ DELETE FROM metadata",
    "a line comment before it": "-- SELECT 1\nDELETE FROM metadata",
    "in lower case": "delete from metadata",
    "behind a semicolon": "; DELETE FROM metadata",
    "with insert": "WITH x(a) AS (SELECT 1) INSERT INTO quarantine(namespace, key, value, reason, quarantined_at_ns)"
    " SELECT 'n', 'k', x'00', 'r', a FROM x",
    "with update": "WITH x AS (SELECT 1) UPDATE metadata SET value = x'00'",
    "with delete": "WITH x AS (SELECT 1) DELETE FROM metadata",
    "explained": "EXPLAIN DELETE FROM metadata",
    "planned": "EXPLAIN QUERY PLAN INSERT INTO metadata VALUES ('n', 'k', x'00', 1)",
    "two statements": "SELECT 1; DELETE FROM metadata",
    "two statements behind a comment": "SELECT 1 /* ; */ ; /* x */ DROP VIEW layers",
    "create table": "CREATE TABLE t(x)",
    "create table as": "CREATE TABLE t AS SELECT * FROM metadata",
    "create temp table": "CREATE TEMP TABLE t(x)",
    "create temp trigger": "CREATE TEMP TRIGGER t AFTER INSERT ON metadata BEGIN SELECT 1; END",
    "create trigger": "CREATE TRIGGER t AFTER INSERT ON metadata BEGIN DELETE FROM metadata; END",
    "create view": "CREATE VIEW v AS SELECT 1",
    "create temp view": "CREATE TEMP VIEW metadata AS SELECT 1",
    "create index": "CREATE INDEX i ON metadata(value)",
    "create fts5": "CREATE VIRTUAL TABLE t USING fts5(x)",
    "create fts4": "CREATE VIRTUAL TABLE t USING fts4(x)",
    "create rtree": "CREATE VIRTUAL TABLE t USING rtree(id, a, b)",
    "create dbstat": "CREATE VIRTUAL TABLE temp.t USING dbstat(main)",
    "create csv": "CREATE VIRTUAL TABLE temp.t USING csv(filename='/etc/passwd')",
    "drop table": "DROP TABLE quarantine",
    "drop view": "DROP VIEW IF EXISTS layers",
    "drop index": "DROP INDEX metadata_by_time",
    "alter table": "ALTER TABLE metadata RENAME TO m",
    "add column": "ALTER TABLE metadata ADD COLUMN x",
    "write to the schema": "UPDATE sqlite_master SET sql = ''",
    "write to the statistics": "DELETE FROM sqlite_stat1",
    "attach": "ATTACH 'OTHER' AS other",
    "attach itself": "ATTACH DATABASE 'FILE' AS other",
    "detach": "DETACH main",
    "vacuum": "VACUUM",
    "vacuum into": "VACUUM INTO 'OTHER'",
    "reindex": "REINDEX",
    "analyze": "ANALYZE",
    "begin": "BEGIN",
    "begin immediate": "BEGIN IMMEDIATE",
    "begin exclusive": "BEGIN EXCLUSIVE",
    "commit": "COMMIT",
    "end": "END",
    "rollback": "ROLLBACK",
    "savepoint": "SAVEPOINT s",
    "release": "RELEASE s",
    "journal mode": "PRAGMA journal_mode=DELETE",
    "journal mode as a call": "PRAGMA journal_mode(TRUNCATE)",
    "journal mode of main": "PRAGMA main.journal_mode=MEMORY",
    "user version": "PRAGMA user_version=7",
    "user version as a call": "PRAGMA user_version(7)",
    "application id": "PRAGMA application_id=7",
    "schema version": "PRAGMA schema_version=7",
    "writable schema": "PRAGMA writable_schema=ON",
    "query only": "PRAGMA query_only=OFF",
    "checkpoint": "PRAGMA wal_checkpoint",
    "checkpoint and truncate": "PRAGMA wal_checkpoint(TRUNCATE)",
    "auto vacuum": "PRAGMA auto_vacuum=FULL",
    "incremental vacuum": "PRAGMA incremental_vacuum",
    "page size": "PRAGMA page_size=512",
    "optimize": "PRAGMA optimize",
    "temp store directory": "PRAGMA temp_store_directory='/'",
    "trusted schema": "PRAGMA trusted_schema=ON",
    "memory map": "PRAGMA mmap_size=1000000",
    "locking mode": "PRAGMA locking_mode=EXCLUSIVE",
    "load an extension": "SELECT load_extension('OTHER')",
    "load an extension in a condition": "SELECT 1 FROM metadata WHERE load_extension('OTHER', 'entry') IS NULL",
    "write a file": "SELECT writefile('OTHER', 'x')",
    "read a file": "SELECT readfile('/etc/passwd')",
    "edit": "SELECT edit('x', 'vi')",
    "tokenizer": "SELECT fts3_tokenizer('simple', x'00')",
    "a dot command": ".shell touch OTHER",
    "nothing of SQL": "layerstore set n k v",
}


@pytest.mark.parametrize("sql", TRIES.values(), ids=TRIES)
def test_a_try_to_write_is_refused_with_a_reason(answering: Path, rows: Rows, sql: str):
    other = answering.parent / "other"
    with pytest.raises(QueryError) as refused:
        rows(sql.replace("OTHER", str(other)).replace("FILE", str(answering)))

    assert str(refused.value)
    assert "not authorized" not in str(refused.value)
    assert sorted(
        path.suffix for path in answering.parent.iterdir() if path.suffix not in (".db-shm", ".db-queue")
    ) in (
        [".db"],
        [".db", ".db-wal"],
    )


@pytest.mark.parametrize("name", TRIES)
def test_with_no_authorizer_the_file_itself_is_not_written(answering: Path, name: str):
    """The other lines of defence: the file is opened to read only, told so, and no file can be attached."""
    if TRIES[name].startswith("PRAGMA"):
        return  # what they set is the connection's, or kept by the authorizer alone
    connection = sqlite3.connect(f"file:{answering}?mode=ro", uri=True, isolation_level=None)
    confine(connection)
    connection.set_authorizer(None)
    with suppress(sqlite3.Error, sqlite3.Warning):
        connection.execute(
            TRIES[name].replace("OTHER", str(answering.parent / "other")).replace("FILE", str(answering))
        )
    connection.close()
    assert not (answering.parent / "other").exists()


READS = {
    "select": "SELECT count(*) FROM metadata",
    "values": "VALUES (1), (2)",
    "with": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9) SELECT max(x) FROM c",
    "explain": "EXPLAIN SELECT 1",
    "plan": "EXPLAIN QUERY PLAN SELECT * FROM metadata",
    "schema": "SELECT name FROM sqlite_master",
    "a semicolon and a comment": "SELECT 1; -- and a comment;",
    "a semicolon in a text": "SELECT '; DELETE FROM metadata'",
    "a semicolon in a name": 'SELECT 1 AS "; DROP TABLE metadata"',
    "pragma": "PRAGMA journal_mode",
    "pragma with an argument": "PRAGMA table_info(metadata)",
    "pragma as a table": "SELECT name FROM pragma_table_info('metadata')",
    "check": "PRAGMA integrity_check",
    "json": "SELECT value FROM json_each('[1, 2]')",
    "functions": "SELECT strftime('%Y', 0, 'unixepoch'), group_concat(key), hex(randomblob(4)) FROM metadata",
    "window": "SELECT row_number() OVER (ORDER BY key) FROM metadata",
    "every view": "SELECT (SELECT count(*) FROM layers), (SELECT count(*) FROM repositories),"
    " (SELECT count(*) FROM registries), (SELECT count(*) FROM shared_layers), (SELECT count(*) FROM unlisted_digests)",
}


@pytest.mark.parametrize("sql", READS.values(), ids=READS)
def test_what_reads_is_answered(rows: Rows, sql: str):
    """The control: the gates let reading pass."""
    assert rows(sql)


def test_reading_does_not_wait_for_a_writer_and_does_not_hold_one_up(answering: Path):
    before = fingerprint(answering.parent)
    writer = sqlite3.connect(answering, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM quarantine")
    with ask(str(answering), "SELECT count(*) FROM metadata") as answer:
        assert next(answer.rows)
        writer.execute("ROLLBACK")
    writer.close()
    assert fingerprint(answering.parent).get("layers.db") == before["layers.db"]


def test_a_missing_file_is_not_made(tmp_path: Path):
    with pytest.raises(StoreError, match="no such file"), ask(str(tmp_path / "absent.db"), "SELECT 1"):
        pass

    assert list(tmp_path.iterdir()) == []
