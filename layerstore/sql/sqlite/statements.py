"""The statements of the store, built with SQLAlchemy Core and compiled once to the driver's SQL.

The hot path hands these texts to the thread's own driver connection, because SQLAlchemy's execution costs ten times
the statement (93 µs for a `get`, 8 µs this way). Each text says which parameters it takes, in their order.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BindParameter,
    ClauseElement,
    Integer,
    LargeBinary,
    Text,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from layerstore.records import KNOWN_NAMESPACES
from layerstore.sql.schema import alembic_version, metadata, quarantine, v2_metadata

_dialect = SQLiteDialect_pysqlite(paramstyle="qmark")


def _sql(statement: ClauseElement, *parameters: str) -> str:
    compiled = statement.compile(dialect=_dialect)
    taken = tuple(getattr(compiled, "positiontup", None) or ())
    assert taken == parameters, f"{statement} takes {taken}, not {parameters}"
    return str(compiled)


_namespace: BindParameter[str] = bindparam("namespace")
_key: BindParameter[str] = bindparam("key")
_here = (metadata.c.namespace == _namespace) & (metadata.c.key == _key)
# Other tools may have written text where we write bytes, or bytes where we write text; the casts cost next to nothing.
_value = cast(metadata.c.value, LargeBinary)
_name = (cast(metadata.c.namespace, Text), cast(metadata.c.key, Text))
_time = cast(metadata.c.modified_at_ns, Integer)
_record = (*_name, _value, _time)

GET: Final = _sql(select(_value).where(_here), "namespace", "key")

_set = upsert(metadata).values(
    namespace=_namespace,
    key=_key,
    value=bindparam("value"),
    modified_at_ns=bindparam("modified_at_ns"),
)
SET: Final = _sql(
    _set.on_conflict_do_update(
        index_elements=["namespace", "key"],
        set_={"value": _set.excluded.value, "modified_at_ns": _set.excluded.modified_at_ns},
    ),
    "namespace",
    "key",
    "value",
    "modified_at_ns",
)

DELETE: Final = _sql(delete(metadata).where(_here), "namespace", "key")

_as_it_was = _here & (_value == bindparam("value")) & (_time == bindparam("modified_at_ns"))
_WHOLE = ("namespace", "key", "value", "modified_at_ns")
IS_UNCHANGED: Final = _sql(select(literal_column("1")).select_from(metadata).where(_as_it_was), *_WHOLE)
DELETE_UNCHANGED: Final = _sql(delete(metadata).where(_as_it_was), *_WHOLE)

RECORDS: Final = _sql(select(*_record).order_by(metadata.c.namespace, metadata.c.key))
RECORDS_OF: Final = _sql(
    select(*_record).where(metadata.c.namespace == _namespace).order_by(metadata.c.key),
    "namespace",
)

# The same with names as bytes: what another program wrote need not be UTF-8. Behind each, `AFTER` skips rows.
_raw_name = (cast(metadata.c.namespace, LargeBinary), cast(metadata.c.key, LargeBinary))
_raw_record = (*_raw_name, _value, _time)
RAW_RECORDS: Final = _sql(select(*_raw_record).order_by(metadata.c.namespace, metadata.c.key))
RAW_RECORDS_OF: Final = _sql(
    select(*_raw_record).where(metadata.c.namespace == _namespace).order_by(metadata.c.key),
    "namespace",
)
AFTER: Final = " LIMIT -1 OFFSET ?"

# By a name in bytes, whether it is stored as text or as bytes.
_raw_here = "namespace IN (?, CAST(? AS TEXT)) AND key IN (?, CAST(? AS TEXT))"
GET_RAW: Final = f"SELECT CAST(value AS BLOB) FROM metadata WHERE {_raw_here}"
DELETE_RAW: Final = f"DELETE FROM metadata WHERE {_raw_here}"

# What another program wrote as a time: `now`, 1.5.
_odd_time = "typeof(modified_at_ns) <> 'integer'"
ODD_TIMES: Final = f"SELECT CAST(namespace AS BLOB), CAST(key AS BLOB) FROM metadata WHERE {_odd_time}"
MEND_TIME: Final = (
    "UPDATE metadata SET modified_at_ns = CAST(modified_at_ns AS INTEGER)"
    f" WHERE namespace IN (?, CAST(? AS TEXT)) AND key IN (?, CAST(? AS TEXT)) AND {_odd_time}"
)

KEYS: Final = _sql(
    select(*_name).order_by(metadata.c.namespace, metadata.c.key),
)
COUNT: Final = _sql(select(func.count()).select_from(metadata))

GET_RECORD: Final = _sql(select(*_record).where(_here), "namespace", "key")

# One text for any number of keys, so that it is prepared once: the keys come as one JSON array. In SQL, as Core has no
# CROSS JOIN: it keeps SQLite from sorting the array first, which takes as long as all the rest.
_get_many = (
    "SELECT metadata.key, CAST(metadata.value AS BLOB) FROM json_each(?) AS wanted CROSS JOIN metadata"
    " WHERE metadata.namespace = {namespace} AND metadata.key = CAST(wanted.value AS TEXT)"
)
GET_MANY: Final = _get_many.format(namespace="?")
# A bound namespace decides whether a partial index can serve: SQLite prepares the statement anew at each run.
GET_MANY_OF: Final = {name: _get_many.format(namespace=f"'{name}'") for name in KNOWN_NAMESPACES}

_of_layer = v2_metadata.c.diff_id == bindparam("diff_id")
ASSOCIATIONS: Final = _sql(
    select(
        v2_metadata.c.position,
        v2_metadata.c.digest,
        v2_metadata.c.source_repository,
        v2_metadata.c.hmac,
    )
    .where(_of_layer)
    .order_by(v2_metadata.c.position),
    "diff_id",
)
ADD_ASSOCIATION: Final = _sql(
    insert(v2_metadata),
    "diff_id",
    "position",
    "digest",
    "source_repository",
    "hmac",
)
REMOVE_ASSOCIATION: Final = _sql(
    delete(v2_metadata).where(_of_layer, v2_metadata.c.position == bindparam("position")),
    "diff_id",
    "position",
)
REMOVE_ASSOCIATIONS: Final = _sql(delete(v2_metadata).where(_of_layer), "diff_id")
COUNT_ASSOCIATIONS: Final = _sql(select(func.count()).select_from(v2_metadata))
LAYERS_WITH_ROWS: Final = _sql(select(v2_metadata.c.diff_id).distinct())
LAYERS_OF_DIGEST: Final = _sql(
    select(v2_metadata.c.diff_id).distinct().where(v2_metadata.c.digest == bindparam("digest")), "digest"
)
RAW_LAYERS_WITH_ROWS: Final = _sql(select(cast(v2_metadata.c.diff_id, LargeBinary)).distinct())
REMOVE_RAW_ASSOCIATIONS: Final = "DELETE FROM v2_metadata WHERE diff_id IN (?, CAST(? AS TEXT))"
COUNT_QUARANTINED: Final = _sql(select(func.count()).select_from(quarantine))
_set_aside = (
    quarantine.c.id,
    cast(quarantine.c.namespace, LargeBinary),
    cast(quarantine.c.key, LargeBinary),
    cast(quarantine.c.value, LargeBinary),
    cast(quarantine.c.reason, LargeBinary),
    cast(quarantine.c.quarantined_at_ns, Integer),
)
_of_number = quarantine.c.id == bindparam("id")
QUARANTINED: Final = _sql(select(*_set_aside).order_by(quarantine.c.id))
ONE_QUARANTINED: Final = _sql(select(*_set_aside).where(_of_number), "id")
TYPES_IN_QUARANTINE: Final = (
    "SELECT id, CAST(namespace AS BLOB), CAST(key AS BLOB), CAST(reason AS BLOB), typeof(namespace) = 'text'"
    " AND typeof(key) = 'text' AND typeof(reason) = 'text' AND typeof(quarantined_at_ns) = 'integer' FROM quarantine"
)
REWRITE_QUARANTINED: Final = (
    "UPDATE quarantine SET namespace = ?, key = ?, reason = ?, quarantined_at_ns = ? WHERE id = ?"
)
DROP_QUARANTINED: Final = _sql(delete(quarantine).where(_of_number), "id")
IS_QUARANTINED: Final = _sql(
    select(literal_column("1")).where(
        quarantine.c.namespace == _namespace,
        quarantine.c.key == _key,
        quarantine.c.value == bindparam("value"),
        quarantine.c.reason == bindparam("reason"),
    ),
    "namespace",
    "key",
    "value",
    "reason",
)
QUARANTINE: Final = _sql(
    insert(quarantine).values(
        namespace=_namespace,
        key=_key,
        value=bindparam("value"),
        reason=bindparam("reason"),
        quarantined_at_ns=bindparam("quarantined_at_ns"),
    ),
    "namespace",
    "key",
    "value",
    "reason",
    "quarantined_at_ns",
)

VERSION: Final = _sql(select(alembic_version.c.version_num))
STAMP: Final = _sql(insert(alembic_version), "version_num")
