"""The truth, what is derived from it, and the quarantine.

Revision: 0001, the first.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_IS_MAPPING = sa.text("namespace = 'diffid-by-digest'")
_IS_V1_ID = sa.text("namespace = 'v1id'")
_DIGEST = sa.text("CAST(replace(key, '/', ':') AS TEXT)")
_DIFF_ID = sa.text("CAST(value AS TEXT)")
_REGISTRY = sa.text("CAST(substr(key, 1, length(key) - 65) AS TEXT)")
_V1_ID = sa.text("CAST(substr(key, -64) AS TEXT)")

_VIEWS = {
    "diff_id_by_digest": """
CREATE VIEW diff_id_by_digest AS
SELECT digest, diff_id
FROM (SELECT key, CAST(replace(key, '/', ':') AS TEXT) AS digest, CAST(value AS TEXT) AS diff_id FROM metadata WHERE namespace = 'diffid-by-digest')
WHERE instr(key, ':') = 0
AND (digest GLOB 'sha256:*' AND length(digest) = 71 AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'
  OR digest GLOB 'sha384:*' AND length(digest) = 103 AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'
  OR digest GLOB 'sha512:*' AND length(digest) = 135 AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'
  OR instr(digest, ':') > 1 AND substr(digest, 1, instr(digest, ':') - 1) NOT IN ('sha256', 'sha384', 'sha512')
    AND substr(digest, 1, instr(digest, ':') - 1) NOT GLOB '*[^a-z0-9+._-]*' AND substr(digest, 1, instr(digest, ':') - 1) NOT GLOB '*[+._-][+._-]*'
    AND substr(digest, 1, instr(digest, ':') - 1) GLOB '[a-z0-9]*' AND substr(digest, 1, instr(digest, ':') - 1) GLOB '*[a-z0-9]'
    AND substr(digest, instr(digest, ':') + 1) <> '' AND substr(digest, instr(digest, ':') + 1) NOT GLOB '*[^a-zA-Z0-9=_-]*')
AND instr(CAST(digest AS BLOB), x'00') = 0
AND (diff_id GLOB 'sha256:*' AND length(diff_id) = 71 AND substr(diff_id, 8) NOT GLOB '*[^0-9a-f]*'
  OR diff_id GLOB 'sha384:*' AND length(diff_id) = 103 AND substr(diff_id, 8) NOT GLOB '*[^0-9a-f]*'
  OR diff_id GLOB 'sha512:*' AND length(diff_id) = 135 AND substr(diff_id, 8) NOT GLOB '*[^0-9a-f]*'
  OR instr(diff_id, ':') > 1 AND substr(diff_id, 1, instr(diff_id, ':') - 1) NOT IN ('sha256', 'sha384', 'sha512')
    AND substr(diff_id, 1, instr(diff_id, ':') - 1) NOT GLOB '*[^a-z0-9+._-]*' AND substr(diff_id, 1, instr(diff_id, ':') - 1) NOT GLOB '*[+._-][+._-]*'
    AND substr(diff_id, 1, instr(diff_id, ':') - 1) GLOB '[a-z0-9]*' AND substr(diff_id, 1, instr(diff_id, ':') - 1) GLOB '*[a-z0-9]'
    AND substr(diff_id, instr(diff_id, ':') + 1) <> '' AND substr(diff_id, instr(diff_id, ':') + 1) NOT GLOB '*[^a-zA-Z0-9=_-]*')
AND instr(CAST(diff_id AS BLOB), x'00') = 0
""".strip(),
    "v1_ids": """
CREATE VIEW v1_ids AS
SELECT registry, v1_id, diff_id
FROM (SELECT key, CAST(substr(key, 1, length(key) - 65) AS TEXT) AS registry, CAST(substr(key, -64) AS TEXT) AS v1_id, CAST(value AS TEXT) AS diff_id
  FROM metadata WHERE namespace = 'v1id')
WHERE length(key) >= 65 AND substr(key, -65, 1) = ',' AND instr(CAST(key AS BLOB), x'00') = 0
AND v1_id NOT GLOB '*[^0-9a-f]*'
AND (diff_id GLOB 'sha256:*' AND length(diff_id) = 71 AND substr(diff_id, 8) NOT GLOB '*[^0-9a-f]*'
  OR diff_id GLOB 'sha384:*' AND length(diff_id) = 103 AND substr(diff_id, 8) NOT GLOB '*[^0-9a-f]*'
  OR diff_id GLOB 'sha512:*' AND length(diff_id) = 135 AND substr(diff_id, 8) NOT GLOB '*[^0-9a-f]*'
  OR instr(diff_id, ':') > 1 AND substr(diff_id, 1, instr(diff_id, ':') - 1) NOT IN ('sha256', 'sha384', 'sha512')
    AND substr(diff_id, 1, instr(diff_id, ':') - 1) NOT GLOB '*[^a-z0-9+._-]*' AND substr(diff_id, 1, instr(diff_id, ':') - 1) NOT GLOB '*[+._-][+._-]*'
    AND substr(diff_id, 1, instr(diff_id, ':') - 1) GLOB '[a-z0-9]*' AND substr(diff_id, 1, instr(diff_id, ':') - 1) GLOB '*[a-z0-9]'
    AND substr(diff_id, instr(diff_id, ':') + 1) <> '' AND substr(diff_id, instr(diff_id, ':') + 1) NOT GLOB '*[^a-zA-Z0-9=_-]*')
AND instr(CAST(diff_id AS BLOB), x'00') = 0
""".strip(),
}
_STATISTICS = [
    {"tbl": "metadata", "idx": "metadata", "stat": "2000000 1000000 1"},
    {"tbl": "metadata", "idx": "metadata_by_digest", "stat": "1000000 1 1 1"},
    {"tbl": "metadata", "idx": "metadata_by_diff_id", "stat": "1000000 2 1 1"},
    {"tbl": "metadata", "idx": "metadata_by_registry", "stat": "100000 20000 1 1"},
    {"tbl": "metadata", "idx": "metadata_by_v1_id", "stat": "100000 1 1 1"},
    {"tbl": "metadata", "idx": "metadata_by_v1_diff_id", "stat": "100000 2 1 1"},
    {"tbl": "v2_metadata", "idx": "v2_metadata", "stat": "2000000 2 1"},
    {"tbl": "v2_metadata", "idx": "v2_metadata_by_digest", "stat": "2000000 2 2 1"},
    {"tbl": "v2_metadata", "idx": "v2_metadata_by_source_repository", "stat": "2000000 50 1 1"},
]


def upgrade() -> None:
    op.execute("PRAGMA application_id=1281456498")
    op.create_table(
        "metadata",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("modified_at_ns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("namespace", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index("metadata_by_digest", "metadata", [_DIGEST], sqlite_where=_IS_MAPPING)
    op.create_index("metadata_by_diff_id", "metadata", [_DIFF_ID], sqlite_where=_IS_MAPPING)
    op.create_index("metadata_by_registry", "metadata", [_REGISTRY], sqlite_where=_IS_V1_ID)
    op.create_index("metadata_by_v1_id", "metadata", [_V1_ID], sqlite_where=_IS_V1_ID)
    op.create_index("metadata_by_v1_diff_id", "metadata", [_DIFF_ID], sqlite_where=_IS_V1_ID)
    op.create_table(
        "v2_metadata",
        sa.Column("diff_id", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("source_repository", sa.Text, nullable=False),
        sa.Column("hmac", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("diff_id", "position"),
        sqlite_with_rowid=False,
    )
    op.create_index("v2_metadata_by_digest", "v2_metadata", ["digest"])
    op.create_index("v2_metadata_by_source_repository", "v2_metadata", ["source_repository"])
    op.create_table(
        "quarantine",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("quarantined_at_ns", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("quarantine_by_key", "quarantine", ["namespace", "key"])
    for view in _VIEWS.values():
        op.execute(sa.text(view.replace(":", "\\:")))
    # Fixed statistics: without them SQLite takes a namespace for selective, and joins by a scan.
    op.execute("ANALYZE sqlite_master")
    statistics = sa.table("sqlite_stat1", *(sa.column(name, sa.Text) for name in ("tbl", "idx", "stat")))
    op.bulk_insert(statistics, _STATISTICS)


def downgrade() -> None:
    for view in _VIEWS:
        op.execute(f"DROP VIEW {view}")
    for table in ("quarantine", "v2_metadata", "metadata"):
        op.drop_table(table)
