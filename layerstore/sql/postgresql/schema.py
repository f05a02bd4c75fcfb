"""The schema on PostgreSQL in SQLAlchemy Core: the same names as on SQLite, and what has them is different.

`diff_id_by_digest` and `v1_ids` are tables here that the store keeps (`writing` says why). Text is compared by its
UTF-8 bytes, whatever the locale of the database. The views for people give their rows as they find them, so that LIMIT
ends them early, and a filter on their key reaches the index. PostgreSQL does not leap from one distinct value of an
index to the next one by itself: where SQLite needs only DISTINCT, a recursive query takes one step for each.

A change here needs a migration, as `layerstore.sql.schema` says.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    text,
)
from sqlalchemy import Text as AnyText
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.schema import CreateIndex, CreateTable

BORN: Final = "0003"
"""The first revision that PostgreSQL has: those before it are SQLite's alone."""
USABLE_FROM: Final = "0003"
"""The oldest version of layerstore, by the revision that it works with, that can use a database of this schema."""
MARK: Final = "layerstore"
"""Begins the comment on `metadata` by which a table of ours is known; the revision of `USABLE_FROM` follows it."""

schema = MetaData()


def _text(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, AnyText(collation="C"), nullable=nullable)


metadata = Table(
    "metadata",
    schema,
    _text("namespace"),
    _text("key"),
    Column("value", LargeBinary, nullable=False),
    Column("modified_at_ns", BigInteger, nullable=False),
    PrimaryKeyConstraint("namespace", "key"),
    comment=f"{MARK} {USABLE_FROM}",
)
_is_list = text("namespace = 'v2metadata-by-diffid'")
Index("metadata_by_time", metadata.c.modified_at_ns, metadata.c.key, postgresql_where=_is_list)
Index("metadata_by_layer", text("replace(key, '/', ':')"), _table=metadata, postgresql_where=_is_list)

v2_metadata = Table(
    "v2_metadata",
    schema,
    _text("diff_id"),
    Column("position", BigInteger, nullable=False),
    _text("digest"),
    _text("source_repository"),
    _text("hmac"),
    PrimaryKeyConstraint("diff_id", "position"),
    Index("v2_metadata_by_digest", "digest"),
    Index("v2_metadata_by_source_repository", "source_repository"),
)

diff_id_by_digest = Table(
    "diff_id_by_digest",
    schema,
    _text("digest"),
    _text("diff_id"),
    PrimaryKeyConstraint("digest"),
    Index("diff_id_by_digest_by_diff_id", "diff_id"),
)

v1_ids = Table(
    "v1_ids",
    schema,
    _text("registry"),
    _text("v1_id"),
    _text("diff_id"),
    PrimaryKeyConstraint("registry", "v1_id"),
    Index("v1_ids_by_v1_id", "v1_id"),
    Index("v1_ids_by_diff_id", "diff_id"),
)

blobs = Table(
    "blobs",
    schema,
    _text("digest"),
    _text("diff_id", nullable=True),
    _text("compression", nullable=True),
    _text("toc_digest", nullable=True),
    PrimaryKeyConstraint("digest"),
    Index("blobs_by_diff_id", "diff_id"),
)

locations = Table(
    "locations",
    schema,
    _text("digest"),
    _text("source_repository"),
    Column("seen_at_ns", BigInteger),
    PrimaryKeyConstraint("digest", "source_repository"),
    Index("locations_by_source_repository", "source_repository"),
)

quarantine = Table(
    "quarantine",
    schema,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    _text("namespace"),
    _text("key"),
    Column("value", LargeBinary, nullable=False),
    _text("reason"),
    Column("quarantined_at_ns", BigInteger, nullable=False),
    Index("quarantine_by_key", "key", postgresql_using="hash"),  # of any length, as what is there need not be valid
)

# Alembic's own table, as Alembic makes it.
alembic_version = Table(
    "alembic_version",
    MetaData(),
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)


_LISTS = "namespace = 'v2metadata-by-diffid'"


def utc(nanoseconds: str) -> str:
    """Return the SQL of a time as UTC text. Whole seconds, rounded towards 1970 as SQLite does."""
    seconds = f"to_timestamp({nanoseconds} / 1000000000)"
    return f"""to_char({seconds} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""


_LAYERS = f"""
CREATE VIEW layers AS
SELECT replace(m.key, '/', ':') AS diff_id, {utc("m.modified_at_ns")} AS modified_at, m.modified_at_ns,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = replace(m.key, '/', ':')) AS associations,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = replace(m.key, '/', ':') AND source_repository <> '') AS repositories
FROM metadata m
WHERE m.{_LISTS} AND strpos(m.key, ':') = 0
  AND EXISTS (SELECT 1 FROM v2_metadata v WHERE v.diff_id = replace(m.key, '/', ':'))
"""
_REPOSITORIES = f"""
CREATE VIEW repositories AS
SELECT source_repository, left(source_repository, greatest(strpos(source_repository, '/') - 1, 0)) AS registry,
  (SELECT count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = r.source_repository) AS layers,
  (SELECT count(*) FROM v2_metadata WHERE source_repository = r.source_repository) AS associations,
  (SELECT {utc("max(m.modified_at_ns)")} FROM v2_metadata v
    JOIN metadata m ON m.{_LISTS} AND m.key = replace(v.diff_id, ':', '/')
    WHERE v.source_repository = r.source_repository) AS modified_at
FROM (SELECT DISTINCT source_repository FROM v2_metadata WHERE source_repository > '') r
"""
# From the first repository of a registry to the first one behind it: '0' is the character after '/'. chr(1) is the
# first character: text has no NUL here.
_REGISTRIES = """
CREATE VIEW registries AS
WITH RECURSIVE firsts(name) AS (
  (SELECT source_repository FROM v2_metadata WHERE source_repository > '' ORDER BY source_repository LIMIT 1)
  UNION ALL
  SELECT (SELECT source_repository FROM v2_metadata WHERE source_repository >=
    CASE WHEN strpos(name, '/') > 0 THEN left(name, strpos(name, '/') - 1) || '0' ELSE name || chr(1) END
    ORDER BY source_repository LIMIT 1)
  FROM firsts WHERE name IS NOT NULL
), of_v1_ids(name) AS (
  (SELECT registry FROM v1_ids WHERE registry > '' ORDER BY registry LIMIT 1)
  UNION ALL
  SELECT (SELECT registry FROM v1_ids WHERE registry > name ORDER BY registry LIMIT 1)
  FROM of_v1_ids WHERE name IS NOT NULL
)
SELECT registry,
  (SELECT count(*) FROM (SELECT DISTINCT source_repository FROM v2_metadata
    WHERE source_repository >= r.registry || '/' AND source_repository < r.registry || '0') d) AS repositories,
  (SELECT count(*) FROM v1_ids WHERE registry = r.registry) AS v1_ids
FROM (SELECT left(name, strpos(name, '/') - 1) AS registry FROM firsts WHERE strpos(name, '/') > 1
  UNION SELECT name FROM of_v1_ids WHERE name IS NOT NULL ORDER BY 1) r
"""
_SHARED_LAYERS = """
CREATE VIEW shared_layers AS
SELECT diff_id,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = l.diff_id AND source_repository <> '') AS repositories,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = l.diff_id) AS associations
FROM (SELECT DISTINCT diff_id FROM v2_metadata WHERE diff_id > '') l
WHERE (SELECT min(source_repository) < max(source_repository) FROM v2_metadata
  WHERE diff_id = l.diff_id AND source_repository <> '')
"""
_UNLISTED_DIGESTS = f"""
CREATE VIEW unlisted_digests AS
SELECT d.digest, d.diff_id, {utc("m.modified_at_ns")} AS modified_at
FROM diff_id_by_digest d
JOIN metadata m ON m.namespace = 'diffid-by-digest' AND m.key = replace(d.digest, ':', '/')
WHERE NOT EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = d.digest)
"""

# Each place once, with the later of both times; of a list, each older entry counts as a microsecond earlier.
_NOT_LISTED = (
    "NOT EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = l.digest AND v.source_repository = l.source_repository)"
)
_PLACES = f"""
CREATE VIEW places AS
SELECT v.digest, v.diff_id, v.source_repository, v.hmac, greatest(
  (SELECT modified_at_ns FROM metadata WHERE {_LISTS} AND key = replace(v.diff_id, ':', '/'))
    - 1000 * (SELECT count(*) FROM v2_metadata n WHERE n.diff_id = v.diff_id AND n.position > v.position),
  (SELECT seen_at_ns FROM locations l WHERE l.digest = v.digest AND l.source_repository = v.source_repository)
) AS seen_at_ns
FROM v2_metadata v WHERE v.source_repository <> ''
UNION ALL
SELECT l.digest, b.diff_id, l.source_repository, '' COLLATE "C", l.seen_at_ns
FROM blobs b JOIN locations l ON l.digest = b.digest
WHERE b.diff_id IS NOT NULL AND {_NOT_LISTED}
UNION ALL
SELECT l.digest, d.diff_id, l.source_repository, '' COLLATE "C", l.seen_at_ns
FROM blobs b JOIN locations l ON l.digest = b.digest LEFT JOIN diff_id_by_digest d ON d.digest = b.digest
WHERE b.diff_id IS NULL AND {_NOT_LISTED}
"""

VIEWS: Final = {
    "layers": _LAYERS.strip(),
    "repositories": _REPOSITORIES.strip(),
    "registries": _REGISTRIES.strip(),
    "shared_layers": _SHARED_LAYERS.strip(),
    "unlisted_digests": _UNLISTED_DIGESTS.strip(),
    "places": _PLACES.strip(),
}

LZ4: Final = """
DO $$ BEGIN
  ALTER TABLE metadata ALTER COLUMN value SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$
""".strip()
"""Long lists are compressed in a fifth of the time, where the server was built with it."""


def creation(head: str) -> list[str]:
    """Return the statements that make an empty schema one of ours, at a revision."""
    dialect = PGDialect_psycopg()  # type: ignore[no-untyped-call]  # SQLAlchemy's, without types
    made: list[str] = []
    for table in (*schema.sorted_tables, alembic_version):
        made.append(str(CreateTable(table).compile(dialect=dialect)).strip())
        indexes = sorted(table.indexes, key=lambda index: str(index.name))
        made += [str(CreateIndex(index).compile(dialect=dialect)).strip() for index in indexes]
    made.append(f"COMMENT ON TABLE metadata IS '{metadata.comment}'")
    return [*made, LZ4, *VIEWS.values(), f"INSERT INTO alembic_version(version_num) VALUES ('{head}')"]
