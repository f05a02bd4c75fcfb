"""What other engines know of blobs: two derived tables, and the places that they and Docker know.

Revision: 0003, after 0002. PostgreSQL has everything from here on, and nothing before.
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

from layerstore.blobs import decode
from layerstore.errors import CorruptRecordError
from layerstore.keys import key_digest

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_PLACES = """
CREATE VIEW places AS
SELECT v.digest, v.diff_id, v.source_repository, v.hmac, CAST(max(
  (SELECT modified_at_ns FROM metadata WHERE namespace = 'v2metadata-by-diffid' AND key = CAST(replace(v.diff_id, ':', '/') AS TEXT))
    - 1000 * (SELECT count(*) FROM v2_metadata WHERE diff_id = v.diff_id AND position > v.position),
  ifnull((SELECT seen_at_ns FROM locations
    WHERE digest = v.digest AND source_repository = v.source_repository), -9223372036854775808)
) AS INTEGER) AS seen_at_ns
FROM v2_metadata v WHERE v.source_repository <> ''
UNION ALL
SELECT l.digest, b.diff_id, l.source_repository, CAST('' AS TEXT), l.seen_at_ns
FROM blobs b JOIN locations l ON l.digest = b.digest
WHERE (b.diff_id IS NOT NULL OR NOT EXISTS (SELECT 1 FROM diff_id_by_digest WHERE digest = b.digest)) AND NOT EXISTS (SELECT 1 FROM v2_metadata WHERE digest = l.digest AND +source_repository = l.source_repository)
UNION ALL
SELECT l.digest, d.diff_id, l.source_repository, CAST('' AS TEXT), l.seen_at_ns
FROM diff_id_by_digest d JOIN blobs b ON b.digest = d.digest JOIN locations l ON l.digest = b.digest
WHERE +b.diff_id IS NULL AND NOT EXISTS (SELECT 1 FROM v2_metadata WHERE digest = l.digest AND +source_repository = l.source_repository)
""".strip()
_STATISTICS = [
    {"tbl": "blobs", "idx": "blobs", "stat": "1000000 1"},
    {"tbl": "blobs", "idx": "blobs_by_diff_id", "stat": "1000000 2 1"},
    {"tbl": "locations", "idx": "locations", "stat": "2000000 2 1"},
    {"tbl": "locations", "idx": "locations_by_source_repository", "stat": "2000000 50 1"},
]
_AT_ONCE = 1000
# Names as bytes: what another program wrote need not be UTF-8.
_ENTRIES = "SELECT CAST(key AS BLOB), CAST(value AS BLOB) FROM metadata WHERE namespace = 'blob-by-digest'"


_POSTGRESQL = [
    """
CREATE TABLE blobs (
    digest TEXT COLLATE "C" NOT NULL,
    diff_id TEXT COLLATE "C",
    compression TEXT COLLATE "C",
    toc_digest TEXT COLLATE "C",
    PRIMARY KEY (digest)
)
""",
    """
CREATE INDEX blobs_by_diff_id ON blobs (diff_id)
""",
    """
CREATE TABLE diff_id_by_digest (
    digest TEXT COLLATE "C" NOT NULL,
    diff_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (digest)
)
""",
    """
CREATE INDEX diff_id_by_digest_by_diff_id ON diff_id_by_digest (diff_id)
""",
    """
CREATE TABLE locations (
    digest TEXT COLLATE "C" NOT NULL,
    source_repository TEXT COLLATE "C" NOT NULL,
    seen_at_ns BIGINT,
    PRIMARY KEY (digest, source_repository)
)
""",
    """
CREATE INDEX locations_by_source_repository ON locations (source_repository)
""",
    """
CREATE TABLE metadata (
    namespace TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value BYTEA NOT NULL,
    modified_at_ns BIGINT NOT NULL,
    PRIMARY KEY (namespace, key)
)
""",
    """
CREATE INDEX metadata_by_layer ON metadata (replace(key, '/', ':')) WHERE namespace = 'v2metadata-by-diffid'
""",
    """
CREATE INDEX metadata_by_time ON metadata (modified_at_ns, key) WHERE namespace = 'v2metadata-by-diffid'
""",
    """
CREATE TABLE quarantine (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    namespace TEXT COLLATE "C" NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    value BYTEA NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    quarantined_at_ns BIGINT NOT NULL,
    PRIMARY KEY (id)
)
""",
    """
CREATE INDEX quarantine_by_key ON quarantine USING hash (key)
""",
    """
CREATE TABLE v1_ids (
    registry TEXT COLLATE "C" NOT NULL,
    v1_id TEXT COLLATE "C" NOT NULL,
    diff_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (registry, v1_id)
)
""",
    """
CREATE INDEX v1_ids_by_diff_id ON v1_ids (diff_id)
""",
    """
CREATE INDEX v1_ids_by_v1_id ON v1_ids (v1_id)
""",
    """
CREATE TABLE v2_metadata (
    diff_id TEXT COLLATE "C" NOT NULL,
    position BIGINT NOT NULL,
    digest TEXT COLLATE "C" NOT NULL,
    source_repository TEXT COLLATE "C" NOT NULL,
    hmac TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (diff_id, position)
)
""",
    """
CREATE INDEX v2_metadata_by_digest ON v2_metadata (digest)
""",
    """
CREATE INDEX v2_metadata_by_source_repository ON v2_metadata (source_repository)
""",
    """
COMMENT ON TABLE metadata IS 'layerstore 0003'
""",
    """
DO $$ BEGIN
  ALTER TABLE metadata ALTER COLUMN value SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$
""",
    """
CREATE VIEW layers AS
SELECT replace(m.key, '/', ':') AS diff_id, to_char(to_timestamp(m.modified_at_ns / 1000000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS modified_at, m.modified_at_ns,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = replace(m.key, '/', ':')) AS associations,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = replace(m.key, '/', ':') AND source_repository <> '') AS repositories
FROM metadata m
WHERE m.namespace = 'v2metadata-by-diffid' AND strpos(m.key, ':') = 0
  AND EXISTS (SELECT 1 FROM v2_metadata v WHERE v.diff_id = replace(m.key, '/', ':'))
""",
    """
CREATE VIEW repositories AS
SELECT source_repository, left(source_repository, greatest(strpos(source_repository, '/') - 1, 0)) AS registry,
  (SELECT count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = r.source_repository) AS layers,
  (SELECT count(*) FROM v2_metadata WHERE source_repository = r.source_repository) AS associations,
  (SELECT to_char(to_timestamp(max(m.modified_at_ns) / 1000000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM v2_metadata v
    JOIN metadata m ON m.namespace = 'v2metadata-by-diffid' AND m.key = replace(v.diff_id, ':', '/')
    WHERE v.source_repository = r.source_repository) AS modified_at
FROM (SELECT DISTINCT source_repository FROM v2_metadata WHERE source_repository > '') r
""",
    """
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
""",
    """
CREATE VIEW shared_layers AS
SELECT diff_id,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = l.diff_id AND source_repository <> '') AS repositories,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = l.diff_id) AS associations
FROM (SELECT DISTINCT diff_id FROM v2_metadata WHERE diff_id > '') l
WHERE (SELECT min(source_repository) < max(source_repository) FROM v2_metadata
  WHERE diff_id = l.diff_id AND source_repository <> '')
""",
    """
CREATE VIEW unlisted_digests AS
SELECT d.digest, d.diff_id, to_char(to_timestamp(m.modified_at_ns / 1000000000) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"') AS modified_at
FROM diff_id_by_digest d
JOIN metadata m ON m.namespace = 'diffid-by-digest' AND m.key = replace(d.digest, ':', '/')
WHERE NOT EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = d.digest)
""",
    """
CREATE VIEW places AS
SELECT v.digest, v.diff_id, v.source_repository, v.hmac, greatest(
  (SELECT modified_at_ns FROM metadata WHERE namespace = 'v2metadata-by-diffid' AND key = replace(v.diff_id, ':', '/'))
    - 1000 * (SELECT count(*) FROM v2_metadata n WHERE n.diff_id = v.diff_id AND n.position > v.position),
  (SELECT seen_at_ns FROM locations l WHERE l.digest = v.digest AND l.source_repository = v.source_repository)
) AS seen_at_ns
FROM v2_metadata v WHERE v.source_repository <> ''
UNION ALL
SELECT l.digest, b.diff_id, l.source_repository, '' COLLATE "C", l.seen_at_ns
FROM blobs b JOIN locations l ON l.digest = b.digest
WHERE b.diff_id IS NOT NULL AND NOT EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = l.digest AND v.source_repository = l.source_repository)
UNION ALL
SELECT l.digest, d.diff_id, l.source_repository, '' COLLATE "C", l.seen_at_ns
FROM blobs b JOIN locations l ON l.digest = b.digest LEFT JOIN diff_id_by_digest d ON d.digest = b.digest
WHERE b.diff_id IS NULL AND NOT EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = l.digest AND v.source_repository = l.source_repository)
""",
]


def upgrade() -> None:
    {"sqlite": _upgrade_sqlite, "postgresql": _upgrade_postgresql}[op.get_context().dialect.name]()


def downgrade() -> None:
    {"sqlite": _downgrade_sqlite, "postgresql": _downgrade_postgresql}[op.get_context().dialect.name]()


def _upgrade_postgresql() -> None:
    """Make all of it: PostgreSQL is born at this revision."""
    for statement in _POSTGRESQL:
        op.execute(sa.text(statement.strip().replace(":", "\\:")))


def _downgrade_postgresql() -> None:
    raise CommandError("a store on PostgreSQL begins with this revision")


def _upgrade_sqlite() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("diff_id", sa.Text),
        sa.Column("compression", sa.Text),
        sa.Column("toc_digest", sa.Text),
        sa.PrimaryKeyConstraint("digest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "locations",
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("source_repository", sa.Text, nullable=False),
        sa.Column("seen_at_ns", sa.BigInteger),
        sa.PrimaryKeyConstraint("digest", "source_repository"),
        sqlite_with_rowid=False,
    )
    if not op.get_context().as_sql:  # as a script, it cannot read what is there: `verify --repair` derives it
        _derive()
    op.create_index("blobs_by_diff_id", "blobs", ["diff_id"])
    op.create_index("locations_by_source_repository", "locations", ["source_repository"])
    op.execute(sa.text(_PLACES.replace(":", "\\:")))
    statistics = sa.table("sqlite_stat1", *(sa.column(name, sa.Text) for name in ("tbl", "idx", "stat")))
    op.bulk_insert(statistics, _STATISTICS)


def _downgrade_sqlite() -> None:
    op.execute("DROP VIEW places")
    op.drop_table("locations")
    op.drop_table("blobs")


def _derive() -> None:
    """Derive the rows of entries that are there already: any store could have the namespace. Some at a time."""
    connection = op.get_bind()
    for entries in connection.exec_driver_sql(_ENTRIES).partitions(_AT_ONCE):
        blobs, locations = [], []
        for raw, value in entries:
            key = raw.decode("utf-8", "replace")
            digest = key_digest(key)
            try:
                found = decode(value, key)
            except CorruptRecordError:
                continue
            if digest is not None:
                blobs.append((digest, found.diff_id, found.compression, found.toc))
                locations += [(digest, *location) for location in found.locations.items()]
        if blobs:
            connection.exec_driver_sql("INSERT INTO blobs VALUES (?, ?, ?, ?)", blobs)
        if locations:
            connection.exec_driver_sql("INSERT INTO locations VALUES (?, ?, ?)", locations)
