"""The tables and indexes in SQLAlchemy Core: for Alembic, for queries through `store.engine`, and to make SQL text of.

`metadata` is the truth; `v2_metadata`, `blobs` and `locations` are derived from it. The store itself runs text, which
is made of these tables by `python -m layerstore.sql.sqlite.core`: run it after a change here. The views are
`layerstore.sql.sqlite.views`'s.

Measured, and rejected: triggers over `json_each` (twice the cost of an `add` on a long list), a view over `json_each`
(scans), a rowid table for `metadata` (10 to 30 % slower lookups at a million layers, no smaller), 8 KiB pages (no
faster, and twice the bytes in the WAL for each `add`), a CHECK on the type of `value` (other tools may write text:
it is read as its UTF-8 bytes).
"""

from __future__ import annotations

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
from sqlalchemy import Engine as Engine  # noqa: PLC0414  # the type of `store.engine`, for who annotates it

from layerstore.sql.sqlite.views import DIFF_ID, DIGEST, IS_LIST, IS_MAPPING, IS_V1_ID, REGISTRY, V1_ID

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

blobs = Table(
    "blobs",
    schema,
    Column("digest", Text, nullable=False),
    Column("diff_id", Text),
    Column("compression", Text),
    Column("toc_digest", Text),
    PrimaryKeyConstraint("digest"),
    Index("blobs_by_diff_id", "diff_id"),
    sqlite_with_rowid=False,
)

locations = Table(
    "locations",
    schema,
    Column("digest", Text, nullable=False),
    Column("source_repository", Text, nullable=False),
    Column("seen_at_ns", BigInteger),
    PrimaryKeyConstraint("digest", "source_repository"),
    Index("locations_by_source_repository", "source_repository"),
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

# Views over partial expression indexes need no upkeep: SQLite matches the views' expressions with the indexes'.
Index("metadata_by_digest", text(DIGEST), _table=metadata, sqlite_where=text(IS_MAPPING))
Index("metadata_by_diff_id", text(DIFF_ID), _table=metadata, sqlite_where=text(IS_MAPPING))
Index("metadata_by_registry", text(REGISTRY), _table=metadata, sqlite_where=text(IS_V1_ID))
Index("metadata_by_v1_id", text(V1_ID), _table=metadata, sqlite_where=text(IS_V1_ID))
Index("metadata_by_v1_diff_id", text(DIFF_ID), _table=metadata, sqlite_where=text(IS_V1_ID))
# Layers by age. Measured: a durable `add` writes one or two pages more and takes 0 to 4 % longer, a layer 108 bytes;
# without it, the newest hundred of a million layers take seconds. The namespace is one and the same: it is there so
# that ordering by time is a SEARCH.
Index("metadata_by_time", metadata.c.namespace, metadata.c.modified_at_ns, sqlite_where=text(IS_LIST))
