"""What other engines know of blobs: two derived tables, and the places that they and Docker know.

Revision: 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

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


def upgrade() -> None:
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


def downgrade() -> None:
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
