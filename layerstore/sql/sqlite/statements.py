"""The statements that the store runs, and those that make its tables and indexes.

Written by `python -m layerstore.sql.sqlite.core`, which says why: change that, not this.
"""

# ruff: noqa: E501  # SQL stands as SQLAlchemy writes it

from typing import Final

# Parameters: namespace, key.
GET: Final = """\
SELECT CAST(metadata.value AS BLOB) AS value
FROM metadata
WHERE metadata.namespace = ? AND metadata."key" = ?"""

# Parameters: namespace, key, namespace_2, key_2.
GET_TWO: Final = """\
SELECT 0, CAST(metadata.value AS BLOB) AS value
FROM metadata
WHERE metadata.namespace = ? AND metadata."key" = ? UNION ALL SELECT 1, CAST(metadata.value AS BLOB) AS value
FROM metadata
WHERE metadata.namespace = ? AND metadata."key" = ?"""

# Parameters: namespace, key.
GET_RECORD: Final = """\
SELECT CAST(metadata.namespace AS TEXT) AS namespace, CAST(metadata."key" AS TEXT) AS "key", CAST(metadata.value AS BLOB) AS value, CAST(metadata.modified_at_ns AS INTEGER) AS modified_at_ns
FROM metadata
WHERE metadata.namespace = ? AND metadata."key" = ?"""

# Parameters: keys, namespace.
GET_MANY: Final = """\
SELECT metadata.key, CAST(metadata.value AS BLOB)
FROM json_each(?) AS wanted CROSS JOIN metadata
WHERE metadata.namespace = ? AND metadata.key = CAST(wanted.value AS TEXT)"""

GET_MANY_OF: Final = {
    "diffid-by-digest": """\
SELECT metadata.key, CAST(metadata.value AS BLOB)
FROM json_each(?) AS wanted CROSS JOIN metadata
WHERE metadata.namespace = 'diffid-by-digest' AND metadata.key = CAST(wanted.value AS TEXT)""",
    "v1id": """\
SELECT metadata.key, CAST(metadata.value AS BLOB)
FROM json_each(?) AS wanted CROSS JOIN metadata
WHERE metadata.namespace = 'v1id' AND metadata.key = CAST(wanted.value AS TEXT)""",
    "v2metadata-by-diffid": """\
SELECT metadata.key, CAST(metadata.value AS BLOB)
FROM json_each(?) AS wanted CROSS JOIN metadata
WHERE metadata.namespace = 'v2metadata-by-diffid' AND metadata.key = CAST(wanted.value AS TEXT)""",
}

# Parameters: namespace, namespace, key, key.
GET_RAW: Final = """\
SELECT CAST(value AS BLOB)
FROM metadata
WHERE namespace IN (?, CAST(? AS TEXT)) AND key IN (?, CAST(? AS TEXT))"""

# Parameters: namespace, key, value, modified_at_ns.
SET: Final = """\
INSERT INTO metadata (namespace, "key", value, modified_at_ns) VALUES (?, ?, ?, ?) ON CONFLICT (namespace, "key") DO UPDATE SET value = excluded.value, modified_at_ns = excluded.modified_at_ns"""

# Parameters: namespace, key.
DELETE: Final = """\
DELETE FROM metadata WHERE metadata.namespace = ? AND metadata."key" = ?"""

# Parameters: namespace, namespace, key, key.
DELETE_RAW: Final = """\
DELETE FROM metadata
WHERE namespace IN (?, CAST(? AS TEXT)) AND key IN (?, CAST(? AS TEXT))"""

# Parameters: namespace, key, value, modified_at_ns.
IS_UNCHANGED: Final = """\
SELECT 1
FROM metadata
WHERE metadata.namespace = ? AND metadata."key" = ? AND CAST(metadata.value AS BLOB) = ? AND CAST(metadata.modified_at_ns AS INTEGER) = ?"""

# Parameters: namespace, key, value, modified_at_ns.
DELETE_UNCHANGED: Final = """\
DELETE FROM metadata WHERE metadata.namespace = ? AND metadata."key" = ? AND CAST(metadata.value AS BLOB) = ? AND CAST(metadata.modified_at_ns AS INTEGER) = ?"""

COUNT: Final = """\
SELECT count(*) AS count_1
FROM metadata"""

KEYS: Final = """\
SELECT CAST(metadata.namespace AS TEXT) AS namespace, CAST(metadata."key" AS TEXT) AS "key"
FROM metadata ORDER BY metadata.namespace, metadata."key\""""

RECORDS: Final = """\
SELECT CAST(metadata.namespace AS TEXT) AS namespace, CAST(metadata."key" AS TEXT) AS "key", CAST(metadata.value AS BLOB) AS value, CAST(metadata.modified_at_ns AS INTEGER) AS modified_at_ns
FROM metadata ORDER BY metadata.namespace, metadata."key\""""

# Parameters: namespace.
RECORDS_OF: Final = """\
SELECT CAST(metadata.namespace AS TEXT) AS namespace, CAST(metadata."key" AS TEXT) AS "key", CAST(metadata.value AS BLOB) AS value, CAST(metadata.modified_at_ns AS INTEGER) AS modified_at_ns
FROM metadata
WHERE metadata.namespace = ? ORDER BY metadata."key\""""

ODD_TIMES: Final = """\
SELECT namespace, key
FROM metadata
WHERE typeof(modified_at_ns) <> 'integer'"""

# Parameters: namespace, namespace, key, key.
MEND_TIME: Final = """\
UPDATE metadata SET modified_at_ns = CAST(modified_at_ns AS INTEGER)
WHERE namespace IN (?, CAST(? AS TEXT)) AND key IN (?, CAST(? AS TEXT)) AND typeof(modified_at_ns) <> 'integer'"""

# Parameters: diff_id.
ASSOCIATIONS: Final = """\
SELECT v2_metadata.position, v2_metadata.digest, v2_metadata.source_repository, v2_metadata.hmac
FROM v2_metadata
WHERE v2_metadata.diff_id = ? ORDER BY v2_metadata.position"""

# Parameters: diff_id, position, digest, source_repository, hmac.
ADD_ASSOCIATION: Final = """\
INSERT INTO v2_metadata (diff_id, position, digest, source_repository, hmac) VALUES (?, ?, ?, ?, ?)"""

# Parameters: diff_id, position.
REMOVE_ASSOCIATION: Final = """\
DELETE FROM v2_metadata WHERE v2_metadata.diff_id = ? AND v2_metadata.position = ?"""

# Parameters: diff_id.
REMOVE_ASSOCIATIONS: Final = "DELETE FROM v2_metadata WHERE v2_metadata.diff_id = ?"

# Parameters: diff_id, diff_id.
REMOVE_RAW_ASSOCIATIONS: Final = """\
DELETE FROM v2_metadata
WHERE diff_id IN (?, CAST(? AS TEXT))"""

COUNT_ASSOCIATIONS: Final = """\
SELECT count(*) AS count_1
FROM v2_metadata"""

LAYERS_WITH_ROWS: Final = """\
SELECT DISTINCT v2_metadata.diff_id
FROM v2_metadata"""

# Parameters: digest.
LAYERS_OF_DIGEST: Final = """\
SELECT DISTINCT v2_metadata.diff_id
FROM v2_metadata
WHERE v2_metadata.digest = ?"""

# Parameters: digest.
BLOB: Final = """\
SELECT blobs.diff_id, blobs.compression, blobs.toc_digest
FROM blobs
WHERE blobs.digest = ?"""

# Parameters: digest, diff_id, compression, toc_digest.
ADD_BLOB: Final = """\
INSERT INTO blobs (digest, diff_id, compression, toc_digest) VALUES (?, ?, ?, ?)"""

# Parameters: digest, digest.
REMOVE_BLOB: Final = """\
DELETE FROM blobs
WHERE digest IN (?, CAST(? AS TEXT))"""

# Parameters: digest.
LOCATIONS: Final = """\
SELECT locations.source_repository, locations.seen_at_ns
FROM locations
WHERE locations.digest = ?"""

# Parameters: digest, source_repository, seen_at_ns.
ADD_LOCATION: Final = "INSERT INTO locations (digest, source_repository, seen_at_ns) VALUES (?, ?, ?)"

# Parameters: digest, source_repository.
REMOVE_LOCATION: Final = """\
DELETE FROM locations WHERE locations.digest = ? AND locations.source_repository = ?"""

# Parameters: digest, digest.
REMOVE_LOCATIONS: Final = """\
DELETE FROM locations
WHERE digest IN (?, CAST(? AS TEXT))"""

BLOBS_WITH_ROWS: Final = "SELECT digest FROM blobs UNION SELECT digest FROM locations"

BLOBS_BY_LAYER: Final = """\
SELECT replace(ifnull(b.diff_id, CAST(d.value AS TEXT)), ':', '/') AS layer, m.key, CAST(m.value AS BLOB),
    CAST(d.value AS BLOB)
FROM blobs b JOIN metadata m ON m.namespace = 'blob-by-digest'
        AND m.key = CAST(replace(b.digest, ':', '/') AS TEXT)
    LEFT JOIN metadata d ON d.namespace = 'diffid-by-digest' AND d.key = m.key
WHERE layer IS NOT NULL
ORDER BY CAST(layer AS BLOB), m.key"""

COUNT_BLOBS: Final = "SELECT (SELECT count(*) FROM blobs) + (SELECT count(*) FROM locations)"

# Parameters: namespace, key, value, reason, quarantined_at_ns.
QUARANTINE: Final = """\
INSERT INTO quarantine (namespace, "key", value, reason, quarantined_at_ns) VALUES (?, ?, ?, ?, ?)"""

QUARANTINED: Final = """\
SELECT quarantine.id, CAST(quarantine.namespace AS BLOB) AS namespace, CAST(quarantine."key" AS BLOB) AS "key", CAST(quarantine.value AS BLOB) AS value, CAST(quarantine.reason AS BLOB) AS reason, CAST(quarantine.quarantined_at_ns AS INTEGER) AS quarantined_at_ns
FROM quarantine ORDER BY quarantine.id"""

# Parameters: id.
ONE_QUARANTINED: Final = """\
SELECT quarantine.id, CAST(quarantine.namespace AS BLOB) AS namespace, CAST(quarantine."key" AS BLOB) AS "key", CAST(quarantine.value AS BLOB) AS value, CAST(quarantine.reason AS BLOB) AS reason, CAST(quarantine.quarantined_at_ns AS INTEGER) AS quarantined_at_ns
FROM quarantine
WHERE quarantine.id = ?"""

COUNT_QUARANTINED: Final = """\
SELECT count(*) AS count_1
FROM quarantine"""

# Parameters: namespace, key, value, reason.
IS_QUARANTINED: Final = """\
SELECT 1
FROM quarantine
WHERE quarantine.namespace = ? AND quarantine."key" = ? AND quarantine.value = ? AND quarantine.reason = ?"""

# Parameters: id.
DROP_QUARANTINED: Final = "DELETE FROM quarantine WHERE quarantine.id = ?"

TYPES_IN_QUARANTINE: Final = """\
SELECT id, namespace, key, reason,
    typeof(namespace) = 'text' AND typeof(key) = 'text' AND typeof(reason) = 'text'
    AND typeof(quarantined_at_ns) = 'integer'
FROM quarantine"""

# Parameters: namespace, key, reason, quarantined_at_ns, id.
REWRITE_QUARANTINED: Final = """\
UPDATE quarantine SET namespace = ?, key = ?, reason = ?, quarantined_at_ns = ?
WHERE id = ?"""

VERSION: Final = """\
SELECT alembic_version.version_num
FROM alembic_version"""

# Parameters: version_num.
STAMP: Final = "INSERT INTO alembic_version (version_num) VALUES (?)"

TABLES: Final = {
    "blobs": """\
CREATE TABLE blobs (
    digest TEXT NOT NULL,
    diff_id TEXT,
    compression TEXT,
    toc_digest TEXT,
    PRIMARY KEY (digest)
)
 WITHOUT ROWID""",
    "locations": """\
CREATE TABLE locations (
    digest TEXT NOT NULL,
    source_repository TEXT NOT NULL,
    seen_at_ns BIGINT,
    PRIMARY KEY (digest, source_repository)
)
 WITHOUT ROWID""",
    "metadata": """\
CREATE TABLE metadata (
    namespace TEXT NOT NULL,
    "key" TEXT NOT NULL,
    value BLOB NOT NULL,
    modified_at_ns BIGINT NOT NULL,
    PRIMARY KEY (namespace, "key")
)
 WITHOUT ROWID""",
    "quarantine": """\
CREATE TABLE quarantine (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    namespace TEXT NOT NULL,
    "key" TEXT NOT NULL,
    value BLOB NOT NULL,
    reason TEXT NOT NULL,
    quarantined_at_ns BIGINT NOT NULL
)""",
    "v2_metadata": """\
CREATE TABLE v2_metadata (
    diff_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    digest TEXT NOT NULL,
    source_repository TEXT NOT NULL,
    hmac TEXT NOT NULL,
    PRIMARY KEY (diff_id, position)
)
 WITHOUT ROWID""",
    "alembic_version": """\
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)""",
}

INDEXES: Final = {
    "blobs_by_diff_id": "CREATE INDEX blobs_by_diff_id ON blobs (diff_id)",
    "locations_by_source_repository": "CREATE INDEX locations_by_source_repository ON locations (source_repository)",
    "metadata_by_diff_id": """\
CREATE INDEX metadata_by_diff_id ON metadata (CAST(value AS TEXT)) WHERE namespace = 'diffid-by-digest'""",
    "metadata_by_digest": """\
CREATE INDEX metadata_by_digest ON metadata (CAST(replace(key, '/', ':') AS TEXT)) WHERE namespace = 'diffid-by-digest'""",
    "metadata_by_registry": """\
CREATE INDEX metadata_by_registry ON metadata (CAST(substr(key, 1, length(key) - 65) AS TEXT)) WHERE namespace = 'v1id'""",
    "metadata_by_time": """\
CREATE INDEX metadata_by_time ON metadata (namespace, modified_at_ns) WHERE namespace = 'v2metadata-by-diffid'""",
    "metadata_by_v1_diff_id": """\
CREATE INDEX metadata_by_v1_diff_id ON metadata (CAST(value AS TEXT)) WHERE namespace = 'v1id'""",
    "metadata_by_v1_id": """\
CREATE INDEX metadata_by_v1_id ON metadata (CAST(substr(key, -64) AS TEXT)) WHERE namespace = 'v1id'""",
    "quarantine_by_key": """\
CREATE INDEX quarantine_by_key ON quarantine (namespace, "key")""",
    "v2_metadata_by_digest": "CREATE INDEX v2_metadata_by_digest ON v2_metadata (digest)",
    "v2_metadata_by_source_repository": """\
CREATE INDEX v2_metadata_by_source_repository ON v2_metadata (source_repository)""",
}
