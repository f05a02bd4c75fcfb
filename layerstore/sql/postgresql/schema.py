"""The schema on PostgreSQL in SQLAlchemy Core: the same names as on SQLite, and what has them is different.

`diff_id_by_digest` and `v1_ids` are tables here that the store keeps (`writing` says why). Text is compared by its
UTF-8 bytes, whatever the locale of the database. A change here needs a migration, as `layerstore.sql.schema` says.
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

from layerstore.sql.postgresql.views import VIEWS

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
