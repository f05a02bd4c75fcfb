"""The views, in SQL: two that say which digest and which V1 ID is which layer, and those that answer common questions.

They read through the indexes of `layerstore.sql.tables` and need no upkeep. Each gives its rows as it finds them, so
that LIMIT ends it early; a filter on its key reaches the index; and a column that is not asked for is not computed, as
SQLite flattens a view into the query, which is why what is counted stands in subqueries of its own.

Measured, and rejected: a table of repositories that triggers or the store keep right (a row more in every write, and
`verify` would have to prove it too), a GROUP BY over `v2_metadata` (reads all of it for one repository's row in SQLite
before 3.39, and counts what nobody asked for).
"""

from __future__ import annotations

from typing import Final

# Each is cast to TEXT, which gives it the affinity of a text column: without it, no join finds the index.
DIGEST: Final = "CAST(replace(key, '/', ':') AS TEXT)"
DIFF_ID: Final = "CAST(value AS TEXT)"
REGISTRY: Final = "CAST(substr(key, 1, length(key) - 65) AS TEXT)"
V1_ID: Final = "CAST(substr(key, -64) AS TEXT)"
IS_MAPPING: Final = "namespace = 'diffid-by-digest'"
IS_V1_ID: Final = "namespace = 'v1id'"
IS_LIST: Final = "namespace = 'v2metadata-by-diffid'"


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
WHERE m.{IS_LIST} AND v.position = (SELECT min(position) FROM v2_metadata WHERE diff_id = v.diff_id)
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
    JOIN metadata m ON m.{IS_LIST} AND m.key = CAST(replace(v.diff_id, ':', '/') AS TEXT)
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

# The same place is there once: with what Docker's list says of it, and the later of both times. A list has one time,
# that of its newest entry; each older one counts as a microsecond earlier. Three parts, so that each reaches its rows
# by an index, whichever column is asked for; the last is for blobs whose layer Docker's mapping alone knows.
_NOT_LISTED = (
    "NOT EXISTS (SELECT 1 FROM v2_metadata WHERE digest = l.digest AND +source_repository = l.source_repository)"
)
_PLACES = f"""
CREATE VIEW places AS
SELECT v.digest, v.diff_id, v.source_repository, v.hmac, CAST(max(
  (SELECT modified_at_ns FROM metadata WHERE {IS_LIST} AND key = CAST(replace(v.diff_id, ':', '/') AS TEXT))
    - 1000 * (SELECT count(*) FROM v2_metadata WHERE diff_id = v.diff_id AND position > v.position),
  ifnull((SELECT seen_at_ns FROM locations
    WHERE digest = v.digest AND source_repository = v.source_repository), {-(2**63)})
) AS INTEGER) AS seen_at_ns
FROM v2_metadata v WHERE v.source_repository <> ''
UNION ALL
SELECT l.digest, b.diff_id, l.source_repository, CAST('' AS TEXT), l.seen_at_ns
FROM blobs b JOIN locations l ON l.digest = b.digest
WHERE (b.diff_id IS NOT NULL OR NOT EXISTS (SELECT 1 FROM diff_id_by_digest WHERE digest = b.digest)) AND {_NOT_LISTED}
UNION ALL
SELECT l.digest, d.diff_id, l.source_repository, CAST('' AS TEXT), l.seen_at_ns
FROM diff_id_by_digest d JOIN blobs b ON b.digest = d.digest JOIN locations l ON l.digest = b.digest
WHERE +b.diff_id IS NULL AND {_NOT_LISTED}
"""

VIEWS: Final = {
    "diff_id_by_digest": (
        "CREATE VIEW diff_id_by_digest AS\n"
        "SELECT digest, diff_id\n"
        f"FROM (SELECT key, {DIGEST} AS digest, {DIFF_ID} AS diff_id FROM metadata WHERE {IS_MAPPING})\n"
        f"WHERE instr(key, ':') = 0\n{_digest_test('digest')}\n{_digest_test('diff_id')}"
    ),
    "v1_ids": (
        "CREATE VIEW v1_ids AS\n"
        "SELECT registry, v1_id, diff_id\n"
        f"FROM (SELECT key, {REGISTRY} AS registry, {V1_ID} AS v1_id, {DIFF_ID} AS diff_id\n"
        f"  FROM metadata WHERE {IS_V1_ID})\n"
        "WHERE length(key) >= 65 AND substr(key, -65, 1) = ',' AND instr(CAST(key AS BLOB), x'00') = 0\n"
        f"AND v1_id NOT GLOB '*[^0-9a-f]*'\n{_digest_test('diff_id')}"
    ),
    "layers": _LAYERS.strip(),
    "repositories": _REPOSITORIES.strip(),
    "registries": _REGISTRIES.strip(),
    "shared_layers": _SHARED_LAYERS.strip(),
    "unlisted_digests": _UNLISTED_DIGESTS.strip(),
    "places": _PLACES.strip(),
}
