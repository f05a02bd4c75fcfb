"""A schema that is not ours is refused by whatever writes, and left as it was; what people add for themselves stays."""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from layerstore import (
    SQLMetadataStore,
    StoreOpenError,
    V2Metadata,
    V2MetadataService,
    export_directory,
    import_directory,
    verify,
)
from layerstore.sql.schema import APPLICATION_ID, creation
from layerstore.sql.sqlite import opening, recognition
from layerstore.sql.sqlite.recognition import OBJECTS, Ours
from layerstore.sql.tables import schema
from layerstore.transfer.recovering import recover
from tests.conftest import OpenSQL, sqlite_of
from tests.migrations import next_revision
from tests.support.command import BAD, Run, assert_one_line_error, database, run
from tests.support.counting import Counted
from tests.support.strategies import sha256

__all__ = ["database", "run"]  # fixtures of the command's tests

LAYER, BLOB = sha256(1), sha256(2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "layers.db"
    fill(path)
    return path


def fill(path: Path) -> None:
    with SQLMetadataStore(path) as store:
        V2MetadataService(store).add(LAYER, V2Metadata(BLOB, "localhost:5000/team/app"))
        store.set("n", "k", b"value")


def change(path: Path, *statements: str) -> None:
    """Change a database as any other program can."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def sql_of(name: str) -> str:
    return next(line for line in creation() if re.match(rf"CREATE (TABLE|INDEX|VIEW) {name}\b", line))


def rewritten(name: str, old: str, new: str) -> list[str]:
    """Make an object anew with other SQL, and with the rows it had if it is a table."""
    kind = sql_of(name).split()[1]
    if kind != "TABLE":
        return [f"DROP {kind} {name}", sql_of(name).replace(old, new, 1)]
    assert old in sql_of(name)
    columns = ", ".join(f'"{column.name}"' for column in schema.tables[name].columns)
    indexes = [line for line in creation() if line.startswith("CREATE INDEX") and f" ON {name} " in line]
    return [
        f"CREATE TEMP TABLE rows AS SELECT {columns} FROM {name}",
        f"DROP TABLE {name}",
        sql_of(name).replace(old, new, 1),
        f"INSERT INTO {name} ({columns}) SELECT {columns} FROM temp.rows",
        *indexes,
    ]


KEPT = [f"CREATE TABLE kept AS SELECT * FROM {name}" for name in ("metadata",)]
FOREIGN: dict[str, tuple[list[str], str]] = {
    "trigger that changes what is written": (
        ["CREATE TRIGGER t AFTER INSERT ON metadata BEGIN UPDATE metadata SET value = x'00'; END"],
        "trigger t on metadata",
    ),
    "trigger in another case": (
        ["CREATE TRIGGER T BEFORE DELETE ON MetaData BEGIN SELECT raise(IGNORE); END"],
        "trigger T on",
    ),
    "trigger on derived rows": (
        ["CREATE TRIGGER t AFTER DELETE ON v2_metadata BEGIN DELETE FROM metadata; END"],
        "trigger t on v2_metadata",
    ),
    "trigger on the quarantine": (
        ["CREATE TRIGGER t BEFORE INSERT ON quarantine BEGIN SELECT raise(IGNORE); END"],
        "trigger t on quarantine",
    ),
    "trigger on the revision": (
        ["CREATE TRIGGER t AFTER UPDATE ON alembic_version BEGIN DELETE FROM metadata; END"],
        "trigger t on alembic_version",
    ),
    "trigger in the place of a view": (
        ["CREATE TRIGGER t INSTEAD OF INSERT ON v1_ids BEGIN DELETE FROM metadata; END"],
        "trigger t on v1_ids",
    ),
    "another view under our name": (
        ["DROP VIEW diff_id_by_digest", "CREATE VIEW diff_id_by_digest AS SELECT 'a' AS digest, 'b' AS diff_id"],
        "view diff_id_by_digest is not the view",
    ),
    "table in the place of a view": (
        ["DROP VIEW v1_ids", "CREATE TABLE v1_ids (registry, v1_id, diff_id)"],
        "table v1_ids is not the view",
    ),
    "no view": (["DROP VIEW v1_ids"], "view v1_ids is missing"),
    "no index": (["DROP INDEX metadata_by_digest"], "index metadata_by_digest is missing"),
    "another index under our name": (
        ["DROP INDEX metadata_by_digest", "CREATE INDEX metadata_by_digest ON metadata (key)"],
        "index metadata_by_digest is not the index",
    ),
    "index that makes keys unique": (
        rewritten("v2_metadata_by_digest", "CREATE INDEX", "CREATE UNIQUE INDEX"),
        "index v2_metadata_by_digest is not the index",
    ),
    "generated column": (
        ["ALTER TABLE metadata ADD COLUMN g TEXT AS (hex(value)) VIRTUAL"],
        "table metadata is not the table",
    ),
    "another column": (["ALTER TABLE metadata ADD COLUMN note"], "table metadata is not the table"),
    "another name of a column": (
        ["ALTER TABLE quarantine RENAME COLUMN reason TO why"],
        "table quarantine is not the table",
    ),
    "constraint": (
        rewritten("metadata", "value BLOB NOT NULL", "value BLOB NOT NULL CHECK (length(value) < 9999)"),
        "table metadata is not the table",
    ),
    "keys in any case": (
        rewritten("metadata", '"key" TEXT NOT NULL', '"key" TEXT COLLATE NOCASE NOT NULL'),
        "table metadata is not the table",
    ),
    "conflicts that are ignored": (
        rewritten("metadata", 'PRIMARY KEY (namespace, "key")', 'PRIMARY KEY (namespace, "key") ON CONFLICT IGNORE'),
        "table metadata is not the table",
    ),
    "rows with numbers": (rewritten("metadata", " WITHOUT ROWID", ""), "table metadata is not the table"),
}

NO_TABLE: dict[str, tuple[list[str], str]] = {
    "view in the place of a table": (
        [*KEPT, "DROP TABLE metadata", "CREATE VIEW metadata AS SELECT * FROM kept"],
        "view metadata is not the table",
    ),
    "view in the place of a table, in another case": (
        [*KEPT, "DROP TABLE metadata", "CREATE VIEW METADATA AS SELECT * FROM kept"],
        "view METADATA is not the table",
    ),
    "virtual table in the place of a table": (
        ["DROP TABLE quarantine", "CREATE VIRTUAL TABLE quarantine USING fts5(namespace, key, value, reason)"],
        "table quarantine is not the table",
    ),
    "no quarantine": (["DROP TABLE quarantine"], "table quarantine is missing"),
    "no revision": (["DROP TABLE alembic_version"], "table alembic_version is missing"),
    "revision without a row": (["DELETE FROM alembic_version"], "its schema revision is missing"),
    "revision that is not UTF-8": (["UPDATE alembic_version SET version_num = CAST(x'ff' AS TEXT)"], "version_num"),
    "revision that is bytes": (["UPDATE alembic_version SET version_num = x'ff'"], "its schema revision is missing"),
    "revision under another name": (["ALTER TABLE alembic_version RENAME COLUMN version_num TO x"], "no such column"),
    "value under another name": (["ALTER TABLE metadata RENAME COLUMN value TO v"], "no such column: value"),
    "endless view in the place of a table": (
        [
            "DROP TABLE v2_metadata",
            "CREATE VIEW v2_metadata AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
            " SELECT i AS diff_id, i AS position, i AS digest, i AS source_repository, i AS hmac FROM n",
        ],
        "view v2_metadata is not the table",
    ),
}


def import_into(path: Path) -> None:
    with SQLMetadataStore(path) as store:
        import_directory(store, SQLMetadataStore(":memory:"))


WRITING: dict[str, Callable[[Path], object]] = {
    "open": SQLMetadataStore,
    "import into": import_into,
    "repair": lambda path: verify(path, repair=True),
    "move to a revision": lambda path: opening.move_to(str(path), "head"),
}


@pytest.mark.parametrize(("statements", "says"), FOREIGN.values(), ids=FOREIGN.keys())
def test_what_writes_refuses_it_and_leaves_it_as_it_was(path: Path, statements: list[str], says: str, counted: Counted):
    change(path, *statements)
    before = path.read_bytes()

    for write in WRITING.values():
        counted("access")
        with pytest.raises(StoreOpenError) as caught:
            write(path)
        assert says in str(caught.value)
        assert str(path) in str(caught.value)
        assert "`layerstore --db NEW import FILE`" in str(caught.value)
    assert path.read_bytes() == before


def take_into_a_new_one(path: Path, new: Path) -> None:
    with SQLMetadataStore(new) as store:
        assert import_directory(store, path).ok


READING: dict[str, Callable[[Path], object]] = {
    **WRITING,
    "read": lambda path: SQLMetadataStore(path, read_only=True),
    "import": lambda path: take_into_a_new_one(path, path.parent / "taken.db"),
    "verify": verify,
}


@pytest.mark.parametrize(("statements", "says"), NO_TABLE.values(), ids=NO_TABLE.keys())
def test_where_a_table_is_none_it_is_refused_also_to_read_and_recover_helps(
    path: Path, statements: list[str], says: str, counted: Counted, open_sql: OpenSQL
):
    """Reading a view may never end."""
    with SQLMetadataStore(path, read_only=True) as store:
        entries = list(store.entries())
    change(path, *statements)
    before = path.read_bytes()

    for work in READING.values():
        counted("access")
        with pytest.raises(StoreOpenError) as caught:
            work(path)
        assert says in str(caught.value)
        assert "`layerstore recover FILE NEW`" in str(caught.value)
    assert path.read_bytes() == before
    new = path.with_name("new.db")
    recover(path, new)
    assert list(open_sql(new).entries()) == entries


@pytest.mark.parametrize(("statements", "says"), FOREIGN.values(), ids=FOREIGN.keys())
def test_verify_reports_it(path: Path, statements: list[str], says: str):
    change(path, *statements)

    report = verify(path)

    assert not report.ok
    [finding] = [found for found in report.findings if found.kind == "foreign-schema"]
    assert [says in example for example in finding.examples] == [True]
    assert "`layerstore --db NEW import FILE`" in finding.remedy


def test_verify_reports_each_of_them(path: Path):
    change(path, "DROP VIEW v1_ids", "DROP INDEX metadata_by_digest", "ALTER TABLE metadata ADD COLUMN note")

    [finding] = [found for found in verify(path).findings if found.kind == "foreign-schema"]
    assert finding.count == 3


@pytest.mark.parametrize("statements", [case[0] for case in FOREIGN.values()], ids=FOREIGN.keys())
def test_it_can_be_read_and_its_entries_taken_into_a_new_one(
    path: Path, tmp_path: Path, statements: list[str], open_sql: OpenSQL
):
    """Which is what the error advises."""
    with SQLMetadataStore(path, read_only=True) as store:
        before = list(store.entries())
    change(path, *statements)

    with SQLMetadataStore(path, read_only=True) as store:
        assert store.get("n", "k") == b"value"
        assert V2MetadataService(store).get_diff_id(BLOB) == LAYER
        assert list(store.entries()) == before
        assert export_directory(store, tmp_path / "out").written == len(before)
    new = open_sql(tmp_path / "new.db")
    assert import_directory(new, path).ok
    assert list(new.entries()) == before


def test_the_command_refuses_it_in_one_line_with_what_to_do(run: Run, database: Path, tmp_path: Path):
    database.parent.mkdir()
    fill(database)
    change(database, "CREATE TRIGGER evil AFTER INSERT ON metadata BEGIN DELETE FROM metadata; END")

    result = run("set", "n", "k", "new")
    assert result.code == BAD
    assert_one_line_error(result, database, "trigger evil on metadata", "DROP TRIGGER", "import")
    assert run("get", "n", "k").out == "value"
    assert run("--db", tmp_path / "new.db", "import", database).code == 0
    change(database, "DROP TRIGGER evil")
    assert run("set", "n", "k", "new").code == 0


OWN = {
    "a table": "CREATE TABLE notes (digest TEXT PRIMARY KEY, note TEXT)",
    "a view": "CREATE VIEW mine AS SELECT diff_id, count(*) FROM v2_metadata GROUP BY 1",
    "an index": "CREATE INDEX mine ON v2_metadata (hmac)",
    "a full-text index": "CREATE VIRTUAL TABLE words USING fts5(source_repository)",
    "a trigger on a table of one's own": (
        "CREATE TABLE log (x); CREATE TRIGGER mine AFTER INSERT ON log BEGIN DELETE FROM log WHERE x < new.x; END"
    ),
    "statistics": "ANALYZE",
    "lost_and_found": "CREATE TABLE lost_and_found (rootpgno, pgno, nfield, id, c0, c1)",
}


@pytest.mark.parametrize("script", OWN.values(), ids=OWN.keys())
def test_what_people_add_for_themselves_is_theirs(path: Path, script: str, open_sql: OpenSQL):
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)

    store = open_sql(path)
    V2MetadataService(store).add(LAYER, V2Metadata(sha256(3), "other"))
    assert len(V2MetadataService(store).get_metadata(LAYER)) == 2


SAME = {
    "renamed there and back, which quotes the name": [
        "ALTER TABLE quarantine RENAME TO q",
        "ALTER TABLE q RENAME TO quarantine",
    ],
    "a column renamed there and back": [
        "ALTER TABLE v2_metadata RENAME COLUMN hmac TO h",
        "ALTER TABLE v2_metadata RENAME COLUMN h TO hmac",
    ],
    "a column added and dropped": ["ALTER TABLE metadata ADD COLUMN c", "ALTER TABLE metadata DROP COLUMN c"],
    "written with other spaces and quotes": rewritten(
        "metadata", "namespace TEXT NOT NULL", '"namespace"\n\tTEXT NOT NULL'
    ),
    "made anew and packed": ["VACUUM"],
}


@pytest.mark.parametrize("statements", SAME.values(), ids=SAME.keys())
def test_the_same_schema_in_other_words_is_ours(path: Path, statements: list[str], open_sql: OpenSQL):
    change(path, *statements)

    open_sql(path).set("n", "k", b"new")


needs_sqlite3 = pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the program `sqlite3` is not installed")


def dump(path: Path, new: Path, before: str = "") -> None:
    script = subprocess.run(["sqlite3", path, ".dump"], capture_output=True, check=True).stdout
    subprocess.run(["sqlite3", new], input=before.encode() + script, check=True)


def clone(path: Path, new: Path) -> None:
    subprocess.run(["sqlite3", path, f".clone {new}"], capture_output=True, check=True)


@needs_sqlite3
def test_a_dump_read_in_again_is_ours_when_it_has_the_application_id(path: Path, tmp_path: Path, open_sql: OpenSQL):
    dump(path, tmp_path / "new.db", f"PRAGMA application_id={APPLICATION_ID};\n")

    assert open_sql(tmp_path / "new.db").get("n", "k") == b"value"


@needs_sqlite3
@pytest.mark.parametrize("copy", [dump, clone])
def test_a_copy_without_the_application_id_is_recognised_and_recover_helps(
    path: Path, tmp_path: Path, copy: Callable[[Path, Path], None], open_sql: OpenSQL
):
    with SQLMetadataStore(path) as store:
        store.quarantine("n", "k", b"old", "a reason")
        entries = list(store.entries())
    copy(path, tmp_path / "copy.db")

    for work in READING.values():
        with pytest.raises(StoreOpenError, match=r"a copy of a layerstore database.*`layerstore recover FILE NEW`"):
            work(tmp_path / "copy.db")
    assert recover(tmp_path / "copy.db", tmp_path / "new.db").kept_in_quarantine == 1
    assert list(open_sql(tmp_path / "new.db").entries()) == entries


def objects_of(path: Path) -> list[tuple[bytes, bytes, bytes, bytes | None]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(OBJECTS).fetchall()


def test_every_word_of_our_schema_counts(path: Path, counted: Counted):
    """One word or mark less, anywhere in any definition, makes it another one."""
    ours = Ours(creation())
    objects = objects_of(path)
    assert list(ours.foreign(objects)) == []
    for number, (kind, name, table, sql) in enumerate(objects):
        words = (sql or b"").split()
        for left_out in range(3 if words else 0, len(words)):
            shorter = b" ".join(words[:left_out] + words[left_out + 1 :])
            changed = [*objects[:number], (kind, name, table, shorter), *objects[number + 1 :]]
            if not name.startswith(b"sqlite_"):
                counted("access")
                assert list(ours.foreign(changed)), f"{name!r} without word {left_out}, {words[left_out]!r}"


def test_an_older_file_with_a_trigger_is_refused_before_its_migration(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Counted
):
    change(path, "CREATE TRIGGER t AFTER UPDATE ON metadata BEGIN DELETE FROM v2_metadata; END")
    before = path.read_bytes()
    next_revision.install(next_revision.make(tmp_path), monkeypatch)
    counted("access")

    for upgrade in (SQLMetadataStore, lambda path: opening.move_to(str(path), "head")):
        with pytest.raises(StoreOpenError, match="trigger t on metadata"):
            upgrade(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("statements", [FOREIGN["no view"][0], FOREIGN["keys in any case"][0]])
def test_a_migration_whose_outcome_is_not_our_schema_is_undone(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statements: list[str], counted: Counted
):
    change(path, *statements)
    before = objects_of(path)
    next_revision.install(next_revision.make(tmp_path), monkeypatch)
    counted("access")

    for upgrade in (SQLMetadataStore, lambda path: opening.move_to(str(path), "head")):
        with pytest.raises(StoreOpenError, match="not layerstore's"):
            upgrade(path)
    assert objects_of(path) == before


def test_opening_costs_one_statement_more(path: Path, open_sql: OpenSQL):
    """Rows of the schema, which SQLite has read anyway."""
    connection = sqlite_of(open_sql(path))._connections.connect()
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    for writing in (True, False):
        recognition.version(connection, str(path), writing=writing)
    connection.close()

    assert statements.count(OBJECTS) == 2
