"""The views for people on PostgreSQL: the same names, columns and answers as on SQLite.

Each gives its rows as it finds them, so that LIMIT ends it early, and a filter on its key reaches the index. PostgreSQL
does not leap from one distinct value of an index to the next one by itself: where SQLite needs only DISTINCT, a
recursive query takes one step for each.
"""

from __future__ import annotations

from typing import Final

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
