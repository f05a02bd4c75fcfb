"""The schema in SQLAlchemy Core: tables, indexes, views, and what marks a file as ours.

`metadata` is the truth; `v2_metadata` and the views are derived from it. A change here needs a migration in
`migrations/versions`, and a new `HEAD`. Names are a contract: people write queries against them.

Measured, and rejected: triggers over `json_each` (twice the cost of an `add` on a long list), a view over `json_each`
(scans), a rowid table for `metadata` (10 to 30 % slower lookups at a million layers, no smaller), 8 KiB pages (no
faster, and twice the bytes in the WAL for each `add`), a CHECK on the type of `value` (other tools may write text:
it is read as its UTF-8 bytes).
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from layerstore.sql.sqlite.views import VIEWS_FOR_PEOPLE

APPLICATION_ID: Final = 0x4C61_7972
"""`PRAGMA application_id` of every file of ours: "Layr". Source: sqlite.org/pragma.html#pragma_application_id."""

HEAD: Final = "0002"
"""The revision that this code works with; a test holds it against the script directory."""

PAGE_SIZE: Final = 4096

schema = MetaData()

metadata = Table(
    "metadata",
    schema,
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("modified_at_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("namespace", "key"),
    sqlite_with_rowid=False,
)

v2_metadata = Table(
    "v2_metadata",
    schema,
    Column("diff_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("source_repository", Text, nullable=False),
    Column("hmac", Text, nullable=False),
    PrimaryKeyConstraint("diff_id", "position"),
    Index("v2_metadata_by_digest", "digest"),
    Index("v2_metadata_by_source_repository", "source_repository"),
    sqlite_with_rowid=False,
)

quarantine = Table(
    "quarantine",
    schema,
    Column("id", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("value", LargeBinary, nullable=False),
    Column("reason", Text, nullable=False),
    Column("quarantined_at_ns", BigInteger, nullable=False),
    Index("quarantine_by_key", "namespace", "key"),
    sqlite_autoincrement=True,  # a number that was dropped is never another value's
)

# Alembic's own table, as Alembic makes it. Apart, so that it is in no comparison of ours with the database.
alembic_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


def _digest_test(column: str) -> str:
    """Return the SQL conditions that a column is a digest, as `layerstore.digest.is_digest` has it."""

    def fixed(algorithm: str, length: int) -> str:
        start = len(algorithm) + 2
        return (
            f"{column} GLOB '{algorithm}:*' AND length({column}) = {start - 1 + length}"
            f" AND substr({column}, {start}) NOT GLOB '*[^0-9a-f]*'"
        )

    algorithm = f"substr({column}, 1, instr({column}, ':') - 1)"
    encoded = f"substr({column}, instr({column}, ':') + 1)"
    return (
        f"AND ({fixed('sha256', 64)}\n  OR {fixed('sha384', 96)}\n  OR {fixed('sha512', 128)}\n"
        f"  OR instr({column}, ':') > 1 AND {algorithm} NOT IN ('sha256', 'sha384', 'sha512')\n"
        f"    AND {algorithm} NOT GLOB '*[^a-z0-9+._-]*' AND {algorithm} NOT GLOB '*[+._-][+._-]*'\n"
        f"    AND {algorithm} GLOB '[a-z0-9]*' AND {algorithm} GLOB '*[a-z0-9]'\n"
        f"    AND {encoded} <> '' AND {encoded} NOT GLOB '*[^a-zA-Z0-9=_-]*')\n"
        # GLOB and length() stop at a NUL, which therefore must not be there.
        f"AND instr(CAST({column} AS BLOB), x'00') = 0"
    )


# Each is cast to TEXT, which gives it the affinity of a text column: without it, no join finds the index.
_DIGEST = "CAST(replace(key, '/', ':') AS TEXT)"
_DIFF_ID = "CAST(value AS TEXT)"
_REGISTRY = "CAST(substr(key, 1, length(key) - 65) AS TEXT)"
_V1_ID = "CAST(substr(key, -64) AS TEXT)"
_IS_MAPPING = "namespace = 'diffid-by-digest'"
_IS_V1_ID = "namespace = 'v1id'"
_IS_LIST = "namespace = 'v2metadata-by-diffid'"

# Views over partial expression indexes need no upkeep: SQLite matches the views' expressions with the indexes'.
Index("metadata_by_digest", text(_DIGEST), _table=metadata, sqlite_where=text(_IS_MAPPING))
Index("metadata_by_diff_id", text(_DIFF_ID), _table=metadata, sqlite_where=text(_IS_MAPPING))
Index("metadata_by_registry", text(_REGISTRY), _table=metadata, sqlite_where=text(_IS_V1_ID))
Index("metadata_by_v1_id", text(_V1_ID), _table=metadata, sqlite_where=text(_IS_V1_ID))
Index("metadata_by_v1_diff_id", text(_DIFF_ID), _table=metadata, sqlite_where=text(_IS_V1_ID))
# Layers by age. Measured: a durable `add` writes one or two pages more and takes 0 to 4 % longer, a layer 108 bytes;
# without it, the newest hundred of a million layers take seconds. The namespace is one and the same: it is there so
# that ordering by time is a SEARCH.
Index("metadata_by_time", metadata.c.namespace, metadata.c.modified_at_ns, sqlite_where=text(_IS_LIST))

REBUILT: Final = (
    "v2_metadata_by_digest",
    "v2_metadata_by_source_repository",
    "metadata_by_diff_id",
    "metadata_by_time",
)
"""The indexes that a load into an empty store builds at its end: entries come in the order of their keys, and only to
these in none. The one by digest has the order of the keys; those of V1 IDs hold none as a rule."""


def index_statement(name: str) -> str:
    """Return the statement that makes an index, to the letter as a new database gets it."""
    (index,) = (index for table in schema.tables.values() for index in table.indexes if index.name == name)
    return str(CreateIndex(index).compile(dialect=SQLiteDialect_pysqlite())).strip()


VIEWS: Final = {
    "diff_id_by_digest": (
        "CREATE VIEW diff_id_by_digest AS\n"
        "SELECT digest, diff_id\n"
        f"FROM (SELECT key, {_DIGEST} AS digest, {_DIFF_ID} AS diff_id FROM metadata WHERE {_IS_MAPPING})\n"
        f"WHERE instr(key, ':') = 0\n{_digest_test('digest')}\n{_digest_test('diff_id')}"
    ),
    "v1_ids": (
        "CREATE VIEW v1_ids AS\n"
        "SELECT registry, v1_id, diff_id\n"
        f"FROM (SELECT key, {_REGISTRY} AS registry, {_V1_ID} AS v1_id, {_DIFF_ID} AS diff_id\n"
        f"  FROM metadata WHERE {_IS_V1_ID})\n"
        "WHERE length(key) >= 65 AND substr(key, -65, 1) = ',' AND instr(CAST(key AS BLOB), x'00') = 0\n"
        f"AND v1_id NOT GLOB '*[^0-9a-f]*'\n{_digest_test('diff_id')}"
    ),
    **VIEWS_FOR_PEOPLE,
}

STATISTICS: Final = (
    ("metadata", "metadata", "2000000 1000000 1"),
    ("metadata", "metadata_by_digest", "1000000 1 1 1"),
    ("metadata", "metadata_by_diff_id", "1000000 2 1 1"),
    ("metadata", "metadata_by_registry", "100000 20000 1 1"),
    ("metadata", "metadata_by_v1_id", "100000 1 1 1"),
    ("metadata", "metadata_by_v1_diff_id", "100000 2 1 1"),
    ("metadata", "metadata_by_time", "1000000 1000000 1 1"),
    ("v2_metadata", "v2_metadata", "2000000 2 1"),
    ("v2_metadata", "v2_metadata_by_digest", "2000000 2 2 1"),
    ("v2_metadata", "v2_metadata_by_source_repository", "2000000 50 1 1"),
)
"""What ANALYZE would find in a large store: without it, SQLite takes a namespace for selective and joins by a scan.

Fixed, so that a query has the same plan at every size. Source: sqlite.org/optoverview.html, "Manual control of query
plans using SQLITE_STAT tables".
"""


def creation() -> list[str]:
    """Return the statements that make an empty database one of ours, but for the rows of statistics and the stamp."""
    tables: list[str] = []
    for table in (*schema.sorted_tables, alembic_version):
        tables.append(str(CreateTable(table).compile(dialect=SQLiteDialect_pysqlite())).strip())
        tables += [index_statement(name) for name in sorted(str(index.name) for index in table.indexes)]
    return [f"PRAGMA application_id={APPLICATION_ID}", *tables, *VIEWS.values(), "ANALYZE sqlite_master"]
