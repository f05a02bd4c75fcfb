"""The statements of the store on PostgreSQL, and how their parameters and results cross the wire.

Text and bytes go as they are, in the binary format: in the text format, the driver would cut them off at a NUL. A
number goes as text, as its width need not be known then. All results are binary.

Names are not qualified: the first schema of the search path that has them is the one that opening has looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from layerstore.errors import InvalidInputError
from layerstore.keys import BLOBS, DIFF_IDS, V1_IDS, V2_METADATA

Parameter = str | bytes | int | None


class Statement(NamedTuple):
    """A statement by the name under which a session prepares it."""

    name: str
    text: str


Call = tuple[Statement, Sequence[Parameter]]


def encoded(parameters: Sequence[Parameter]) -> tuple[list[Any], list[int]]:
    """Return parameters and their formats as the driver takes them.

    Raises:
        InvalidInputError: one is no text that PostgreSQL can store.
    """
    values: list[bytes | None] = []
    formats: list[int] = []
    for one in parameters:
        if isinstance(one, str):
            values.append(_stored(one))
            formats.append(0 if type(one) is Array else 1)
        elif one is None or isinstance(one, bytes):
            values.append(one)
            formats.append(1)
        elif isinstance(one, int):
            values.append(b"%d" % one)
            formats.append(0)
        else:
            raise InvalidInputError(f"text, bytes or a number is needed, not {type(one).__name__}")
    return values, formats


def checked(text: str) -> str:
    """Return a text that PostgreSQL can store.

    Raises:
        InvalidInputError: it holds a NUL character, or cannot be UTF-8.
    """
    _stored(text)
    return text


def _stored(text: str) -> bytes:
    try:
        stored = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(str(error)) from error
    if 0 in stored:
        raise InvalidInputError(f"PostgreSQL cannot store a NUL character in text: {text[:100]!r}")
    return stored


class Array(str):
    """An array as PostgreSQL reads it, in the text format: a cast of a text would be read anew for each row."""

    __slots__ = ()


def array(values: Iterable[str]) -> Array:
    """Return an array of texts as one parameter.

    Raises:
        InvalidInputError: one of them is no text that PostgreSQL can store.
    """
    quoted = []
    for value in values:
        if not isinstance(value, str):
            raise InvalidInputError(f"text is needed, not {type(value).__name__}")
        quoted.append('"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return Array("{" + ",".join(quoted) + "}")


BEGIN: Final = Statement("begin", "BEGIN")
BEGIN_SNAPSHOT: Final = Statement("begin_snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ")
BEGIN_READING: Final = Statement("begin_reading", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
COMMIT: Final = Statement("commit", "COMMIT")
ROLLBACK: Final = Statement("rollback", "ROLLBACK")
# For the session if its process is the one that was named when connecting. Else a pooler gives it to another client
# after this transaction, and the settings are for the transaction alone.
SETTINGS: Final = Statement(
    "settings",
    "SELECT pid, set_config('lock_timeout', $1, pid <> $4), set_config('synchronous_commit',"
    # Not below what the server's owner has set, such as `remote_apply` for standbys.
    " CASE WHEN $2::text = 'on' AND current_setting('synchronous_commit') <> 'off'"
    " THEN current_setting('synchronous_commit') ELSE $2::text END, pid <> $4),"
    " set_config('idle_in_transaction_session_timeout', $3, pid <> $4) FROM pg_backend_pid() AS pid",
)
# Not SHARE ROW EXCLUSIVE, which suffices against writers: a change locks rows, and then writes. What waits for this
# lock waits for those rows too, so the change goes first; else both would wait a second, until the server sees it.
LOCK: Final = Statement("lock", "LOCK TABLE metadata IN EXCLUSIVE MODE")

GET: Final = Statement("get", "SELECT value FROM metadata WHERE namespace = $1 AND key = $2")
GET_TO_CHANGE: Final = Statement("get_to_change", f"{GET.text} FOR UPDATE")
GET_MANY: Final = Statement(
    "get_many", "SELECT key, value FROM metadata WHERE namespace = $1 AND key = ANY($2::text[])"
)
KNOWN_LAYERS: Final = Statement(
    "known_layers",
    f"SELECT key, value, NULL FROM metadata WHERE namespace = '{V2_METADATA}' AND key = ANY($1::text[])"
    " UNION ALL SELECT diff_id, NULL, digest FROM diff_id_by_digest WHERE diff_id = ANY($2::text[])"
    # What other engines know; which layer that is, they know, or else Docker's mapping.
    " UNION ALL SELECT b.diff_id, m.value, b.digest FROM blobs b"
    f" JOIN metadata m ON m.namespace = '{BLOBS}' AND m.key = replace(b.digest, ':', '/')"
    " WHERE b.diff_id = ANY($2::text[]) AND NOT EXISTS"
    " (SELECT 1 FROM diff_id_by_digest d WHERE d.digest = b.digest AND d.diff_id <> b.diff_id)"
    " UNION ALL SELECT d.diff_id, m.value, b.digest FROM diff_id_by_digest d"
    " JOIN blobs b ON b.digest = d.digest AND b.diff_id IS NULL"
    f" JOIN metadata m ON m.namespace = '{BLOBS}' AND m.key = replace(b.digest, ':', '/')"
    " WHERE d.diff_id = ANY($2::text[])",
)
_INSERT: Final = "INSERT INTO metadata(namespace, key, value, modified_at_ns) VALUES ($1, $2, $3, $4)"
ADD: Final = Statement("add", _INSERT)
"""What was absent when it was read: somebody else may have added it meanwhile, which is error 23505."""
SET: Final = Statement(
    "set",
    f"{_INSERT} ON CONFLICT (namespace, key)"
    " DO UPDATE SET value = excluded.value, modified_at_ns = excluded.modified_at_ns",
)
SET_TIME: Final = Statement("set_time", "UPDATE metadata SET modified_at_ns = $3 WHERE namespace = $1 AND key = $2")
UPDATE: Final = Statement(
    "update", "UPDATE metadata SET value = $3, modified_at_ns = $4 WHERE namespace = $1 AND key = $2"
)
DELETE: Final = Statement("delete", "DELETE FROM metadata WHERE namespace = $1 AND key = $2")
# The time is not compared bare: the planner would take the index by time, and read all entries of that moment.
IS_UNCHANGED: Final = Statement(
    "is_unchanged",
    "SELECT 1 FROM metadata WHERE namespace = $1 AND key = $2 AND value = $3 AND modified_at_ns + 0 = $4",
)

# Positions go on behind the last one. Which row it is, is told by its rank, from 1 on: no position was read.
ADD_ASSOCIATIONS: Final = Statement(
    "add_associations",
    "INSERT INTO v2_metadata(diff_id, position, digest, source_repository, hmac) SELECT $1::text,"
    " (SELECT coalesce(max(position), 0) FROM v2_metadata WHERE diff_id = $1::text) + at, digest, name, hmac"
    " FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS new(digest, name, hmac, at)",
)
REMOVE_ASSOCIATIONS: Final = Statement("remove_associations", "DELETE FROM v2_metadata WHERE diff_id = $1")
REMOVE_ONE_ASSOCIATION: Final = Statement(
    "remove_one_association",
    # Not by OFFSET, for which it would be planned anew each time.
    f"{REMOVE_ASSOCIATIONS.text} AND position ="
    " (ARRAY(SELECT position FROM v2_metadata WHERE diff_id = $1 ORDER BY position))[$2]",
)
LAYERS_OF_DIGEST: Final = Statement(
    "layers_of_digest", "SELECT DISTINCT diff_id FROM v2_metadata WHERE digest = $1 ORDER BY diff_id"
)
MAP: Final = Statement(
    "map",
    "INSERT INTO diff_id_by_digest(digest, diff_id) VALUES ($1, $2)"
    " ON CONFLICT (digest) DO UPDATE SET diff_id = excluded.diff_id",
)
UNMAP: Final = Statement("unmap", "DELETE FROM diff_id_by_digest WHERE digest = $1")
MAP_V1: Final = Statement(
    "map_v1",
    "INSERT INTO v1_ids(registry, v1_id, diff_id) VALUES ($1, $2, $3)"
    " ON CONFLICT (registry, v1_id) DO UPDATE SET diff_id = excluded.diff_id",
)
UNMAP_V1: Final = Statement("unmap_v1", "DELETE FROM v1_ids WHERE registry = $1 AND v1_id = $2")
REMOVE_BLOB: Final = Statement("remove_blob", "DELETE FROM blobs WHERE digest = $1")
ADD_BLOB: Final = Statement(
    "add_blob", "INSERT INTO blobs(digest, diff_id, compression, toc_digest) VALUES ($1, $2, $3, $4)"
)
REMOVE_LOCATIONS: Final = Statement("remove_locations", "DELETE FROM locations WHERE digest = $1")
ADD_LOCATIONS: Final = Statement(
    "add_locations",
    "INSERT INTO locations(digest, source_repository, seen_at_ns)"
    " SELECT $1::text, * FROM unnest($2::text[], $3::bigint[])",
)

# What is derived goes with an entry only if that is gone: where there was none to lock, somebody may have just made it.
_gone = "NOT EXISTS (SELECT 1 FROM metadata WHERE namespace = '{}' AND key = ${})"
FORGET_ASSOCIATIONS: Final = Statement(
    "forget_associations", f"{REMOVE_ASSOCIATIONS.text} AND {_gone.format(V2_METADATA, 2)}"
)
FORGET_MAPPING: Final = Statement("forget_mapping", f"{UNMAP.text} AND {_gone.format(DIFF_IDS, 2)}")
FORGET_BLOB: Final = Statement("forget_blob", f"{REMOVE_BLOB.text} AND {_gone.format(BLOBS, 2)}")
FORGET_LOCATIONS: Final = Statement("forget_locations", f"{REMOVE_LOCATIONS.text} AND {_gone.format(BLOBS, 2)}")
FORGET_V1: Final = Statement("forget_v1", f"{UNMAP_V1.text} AND {_gone.format(V1_IDS, 3)}")

_QUARANTINED = "SELECT id, namespace, key, value, reason, quarantined_at_ns FROM quarantine"
QUARANTINED: Final = Statement("quarantined", f"{_QUARANTINED} ORDER BY id")
ONE_QUARANTINED: Final = Statement("one_quarantined", f"{_QUARANTINED} WHERE id = $1::text::bigint")
QUARANTINE: Final = Statement(
    "quarantine",
    "INSERT INTO quarantine(namespace, key, value, reason, quarantined_at_ns)"
    " SELECT $1::text, $2::text, $3::bytea, $4::text, $5::bigint WHERE NOT EXISTS (SELECT 1 FROM quarantine"
    " WHERE namespace = $1::text AND key = $2::text AND value = $3::bytea AND reason = $4::text)",
)
DROP_QUARANTINED: Final = Statement("drop_quarantined", "DELETE FROM quarantine WHERE id = ANY($1::bigint[])")
COUNT_QUARANTINED: Final = Statement("count_quarantined", "SELECT count(*) FROM quarantine")
COUNT: Final = Statement("count", "SELECT count(*) FROM metadata")
COUNT_ABOUT: Final = Statement(
    "count_about", "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'metadata'::regclass"
)
GET_RECORDS: Final = Statement(
    "get_records",
    "SELECT namespace, key, value, modified_at_ns FROM metadata"
    " WHERE namespace = $1 AND key = ANY($2::text[]) ORDER BY key",
)
SIZE: Final = Statement(
    "size",
    "SELECT sum(pg_total_relation_size(to_regclass(name)))::bigint FROM unnest(ARRAY["
    "'metadata', 'v2_metadata', 'diff_id_by_digest', 'v1_ids', 'blobs', 'locations', 'quarantine']) AS name",
)

# What is derived of whole tables, beside what it is derived from. A key with a colon is no digest's, and would meet
# the row of the same key with a slash.
STALE_LISTS: Final = f"""
SELECT m.key, m.value, v.diff_id, v.rows FROM (
  SELECT key, value, replace(key, '/', ':') AS diff_id FROM metadata
  WHERE namespace = '{V2_METADATA}' AND strpos(key, ':') = 0) m
FULL JOIN (
  SELECT diff_id, array_agg(ARRAY[digest, source_repository, hmac] ORDER BY position) AS rows
  FROM v2_metadata GROUP BY diff_id) v ON v.diff_id = m.diff_id"""
STALE_MAPPINGS: Final = f"""
SELECT m.key, m.value, d.digest, d.diff_id FROM (
  SELECT key, value, replace(key, '/', ':') AS digest FROM metadata
  WHERE namespace = '{DIFF_IDS}' AND strpos(key, ':') = 0) m
FULL JOIN diff_id_by_digest d ON d.digest = m.digest"""
STALE_BLOBS: Final = f"""
SELECT m.key, m.value, coalesce(b.digest, l.digest), b.digest IS NOT NULL, b.diff_id, b.compression, b.toc_digest,
  l.names, l.times FROM (
  SELECT key, value, replace(key, '/', ':') AS digest FROM metadata
  WHERE namespace = '{BLOBS}' AND strpos(key, ':') = 0) m
FULL JOIN blobs b ON b.digest = m.digest
FULL JOIN (
  SELECT digest, array_agg(source_repository ORDER BY source_repository) AS names,
    array_agg(seen_at_ns ORDER BY source_repository) AS times
  FROM locations GROUP BY digest) l ON l.digest = coalesce(m.digest, b.digest)"""
STALE_V1_IDS: Final = f"""
SELECT m.key, m.value, i.registry || ',' || i.v1_id, i.diff_id FROM (
  SELECT key, value FROM metadata WHERE namespace = '{V1_IDS}') m
FULL JOIN v1_ids i ON i.registry || ',' || i.v1_id = m.key"""
# A blob whose layer no engine has verified is what Docker's mapping says.
BLOBS_BY_LAYER: Final = f"""
SELECT replace(coalesce(b.diff_id, d.diff_id), ':', '/') AS layer, m.key, m.value, v.value
FROM blobs b JOIN metadata m ON m.namespace = '{BLOBS}' AND m.key = replace(b.digest, ':', '/')
LEFT JOIN diff_id_by_digest d ON d.digest = b.digest
LEFT JOIN metadata v ON v.namespace = '{DIFF_IDS}' AND v.key = m.key
WHERE coalesce(b.diff_id, d.diff_id) IS NOT NULL
ORDER BY layer, m.key"""
RECORDS: Final = "SELECT namespace, key, value, modified_at_ns FROM metadata ORDER BY namespace, key"
RECORDS_OF: Final = "SELECT namespace, key, value, modified_at_ns FROM metadata WHERE namespace = %s ORDER BY key"
NAMES: Final = "SELECT namespace, key FROM metadata ORDER BY namespace, key"
