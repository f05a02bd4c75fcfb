"""Views for people, and the index for layers by age.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_VIEWS = {
    "layers": """
CREATE VIEW layers AS
SELECT v.diff_id, strftime('%Y-%m-%dT%H:%M:%SZ', m.modified_at_ns / 1000000000, 'unixepoch') AS modified_at, m.modified_at_ns,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = v.diff_id) AS associations,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = v.diff_id AND source_repository <> '') AS repositories
FROM metadata m JOIN v2_metadata v ON v.diff_id = CAST(replace(m.key, '/', ':') AS TEXT)
  AND m.key = CAST(replace(v.diff_id, ':', '/') AS TEXT)
WHERE m.namespace = 'v2metadata-by-diffid' AND v.position = (SELECT min(position) FROM v2_metadata WHERE diff_id = v.diff_id)
""".strip(),
    "repositories": """
CREATE VIEW repositories AS
SELECT source_repository, CAST(substr(source_repository, 1, instr(source_repository, '/') - 1) AS TEXT) AS registry,
  (SELECT count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = r.source_repository) AS layers,
  (SELECT count(*) FROM v2_metadata WHERE source_repository = r.source_repository) AS associations,
  (SELECT strftime('%Y-%m-%dT%H:%M:%SZ', max(m.modified_at_ns) / 1000000000, 'unixepoch') FROM v2_metadata v
    JOIN metadata m ON m.namespace = 'v2metadata-by-diffid' AND m.key = CAST(replace(v.diff_id, ':', '/') AS TEXT)
    WHERE v.source_repository = r.source_repository) AS modified_at
FROM (SELECT DISTINCT source_repository FROM v2_metadata WHERE likely(source_repository > '')) r
""".strip(),
    "registries": """
CREATE VIEW registries AS
WITH RECURSIVE firsts(name) AS (
  SELECT min(source_repository) FROM v2_metadata WHERE source_repository > ''
  UNION ALL
  SELECT (SELECT min(source_repository) FROM v2_metadata WHERE source_repository >=
    CASE WHEN instr(name, '/') > 0 THEN substr(name, 1, instr(name, '/') - 1) || '0' ELSE name || char(0) END)
  FROM firsts WHERE name IS NOT NULL
), of_v1_ids(name) AS (
  SELECT min(registry) FROM v1_ids WHERE registry > ''
  UNION ALL
  SELECT (SELECT min(registry) FROM v1_ids WHERE registry > name) FROM of_v1_ids WHERE name IS NOT NULL
)
SELECT registry,
  (SELECT count(*) FROM (SELECT DISTINCT source_repository FROM v2_metadata
    WHERE source_repository >= r.registry || '/' AND source_repository < r.registry || '0')) AS repositories,
  (SELECT count(*) FROM v1_ids WHERE registry = r.registry) AS v1_ids
FROM (SELECT CAST(substr(name, 1, instr(name, '/') - 1) AS TEXT) AS registry FROM firsts WHERE instr(name, '/') > 1
  UNION SELECT name FROM of_v1_ids WHERE name IS NOT NULL) r
""".strip(),
    "shared_layers": """
CREATE VIEW shared_layers AS
SELECT diff_id,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = l.diff_id AND source_repository <> '') AS repositories,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = l.diff_id) AS associations
FROM (SELECT DISTINCT diff_id FROM v2_metadata WHERE likely(diff_id > '')) l
WHERE (SELECT min(source_repository) < max(source_repository) FROM v2_metadata
  WHERE diff_id = l.diff_id AND source_repository <> '')
""".strip(),
    "unlisted_digests": """
CREATE VIEW unlisted_digests AS
SELECT d.digest, d.diff_id, strftime('%Y-%m-%dT%H:%M:%SZ', m.modified_at_ns / 1000000000, 'unixepoch') AS modified_at
FROM metadata m JOIN diff_id_by_digest d ON d.digest = CAST(replace(m.key, '/', ':') AS TEXT)
WHERE m.namespace = 'diffid-by-digest' AND instr(m.key, ':') = 0
AND NOT EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = CAST(replace(m.key, '/', ':') AS TEXT))
""".strip(),
}


def upgrade() -> None:
    op.create_index(
        "metadata_by_time",
        "metadata",
        ["namespace", "modified_at_ns"],
        sqlite_where=sa.text("namespace = 'v2metadata-by-diffid'"),
    )
    op.execute(
        "INSERT INTO sqlite_stat1(tbl, idx, stat) VALUES ('metadata', 'metadata_by_time', '1000000 1000000 1 1')"
    )
    for view in _VIEWS.values():
        op.execute(sa.text(view.replace(":", "\\:")))


def downgrade() -> None:
    for view in _VIEWS:
        op.execute(f"DROP VIEW {view}")
    op.drop_index("metadata_by_time", "metadata")
