"""The views for people: the questions that somebody asks of a store without thinking of how it is kept.

They read through the indexes of `layerstore.sql.schema` and need no upkeep. Each gives its rows as it finds them, so
that LIMIT ends it early; a filter on its key reaches the index; and a column that is not asked for is not computed, as
SQLite flattens a view into the query, which is why what is counted stands in subqueries of its own.

Measured, and rejected: a table of repositories that triggers or the store keep right (a row more in every write, and
`verify` would have to prove it too), a GROUP BY over `v2_metadata` (reads all of it for one repository's row in SQLite
before 3.39, and counts what nobody asked for).
"""

from __future__ import annotations

from typing import Final

_LISTS = "namespace = 'v2metadata-by-diffid'"


def _utc(nanoseconds: str) -> str:
    return f"strftime('%Y-%m-%dT%H:%M:%SZ', {nanoseconds} / 1000000000, 'unixepoch')"


_LAYERS = f"""
CREATE VIEW layers AS
SELECT v.diff_id, {_utc("m.modified_at_ns")} AS modified_at, m.modified_at_ns,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = v.diff_id) AS associations,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = v.diff_id AND source_repository <> '') AS repositories
FROM metadata m JOIN v2_metadata v ON v.diff_id = CAST(replace(m.key, '/', ':') AS TEXT)
  AND m.key = CAST(replace(v.diff_id, ':', '/') AS TEXT)
WHERE m.{_LISTS} AND v.position = (SELECT min(position) FROM v2_metadata WHERE diff_id = v.diff_id)
"""
# DISTINCT over an index that has many rows of each name leaps from name to name (SQLite's skip-ahead): `sqlite_stat1`
# says that it has. The comparison makes the step a SEARCH; the empty name stands for an unknown repository. It is said
# to be likely, so that of two lower bounds SQLite takes the one that somebody asks for.
_REPOSITORIES = f"""
CREATE VIEW repositories AS
SELECT source_repository, CAST(substr(source_repository, 1, instr(source_repository, '/') - 1) AS TEXT) AS registry,
  (SELECT count(DISTINCT diff_id) FROM v2_metadata WHERE source_repository = r.source_repository) AS layers,
  (SELECT count(*) FROM v2_metadata WHERE source_repository = r.source_repository) AS associations,
  (SELECT {_utc("max(m.modified_at_ns)")} FROM v2_metadata v
    JOIN metadata m ON m.{_LISTS} AND m.key = CAST(replace(v.diff_id, ':', '/') AS TEXT)
    WHERE v.source_repository = r.source_repository) AS modified_at
FROM (SELECT DISTINCT source_repository FROM v2_metadata WHERE likely(source_repository > '')) r
"""
# From the first repository of a registry to the first one behind it: '0' is the character after '/'.
_REGISTRIES = """
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
"""
_SHARED_LAYERS = """
CREATE VIEW shared_layers AS
SELECT diff_id,
  (SELECT count(DISTINCT source_repository) FROM v2_metadata
    WHERE diff_id = l.diff_id AND source_repository <> '') AS repositories,
  (SELECT count(*) FROM v2_metadata WHERE diff_id = l.diff_id) AS associations
FROM (SELECT DISTINCT diff_id FROM v2_metadata WHERE likely(diff_id > '')) l
WHERE (SELECT min(source_repository) < max(source_repository) FROM v2_metadata
  WHERE diff_id = l.diff_id AND source_repository <> '')
"""
# Whether a list holds it is asked first: what makes a text a digest costs more, and few digests get that far.
_UNLISTED_DIGESTS = f"""
CREATE VIEW unlisted_digests AS
SELECT d.digest, d.diff_id, {_utc("m.modified_at_ns")} AS modified_at
FROM metadata m JOIN diff_id_by_digest d ON d.digest = CAST(replace(m.key, '/', ':') AS TEXT)
WHERE m.namespace = 'diffid-by-digest' AND instr(m.key, ':') = 0
AND NOT EXISTS (SELECT 1 FROM v2_metadata v WHERE v.digest = CAST(replace(m.key, '/', ':') AS TEXT))
"""

VIEWS_FOR_PEOPLE: Final = {
    "layers": _LAYERS.strip(),
    "repositories": _REPOSITORIES.strip(),
    "registries": _REGISTRIES.strip(),
    "shared_layers": _SHARED_LAYERS.strip(),
    "unlisted_digests": _UNLISTED_DIGESTS.strip(),
}
