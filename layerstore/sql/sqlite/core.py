"""The store's statements in SQLAlchemy Core. Their text, which the store runs, is `layerstore.sql.sqlite.statements`.

    python -m layerstore.sql.sqlite.core

writes that module anew: run it after a change here or in `layerstore.sql.tables`. A test holds the two equal. Text,
because importing SQLAlchemy takes five times as long as all the rest of a lookup's process, and because SQLAlchemy's
execution costs ten times the statement (93 µs for a `get`, 8 µs on the driver's connection).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

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
    union_all,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from layerstore.keys import KNOWN_NAMESPACES
from layerstore.sql.tables import alembic_version, blobs, locations, metadata, quarantine, schema, v2_metadata

_SHORT: Final = 80  # characters that fit on the line of their name
_dialect = SQLiteDialect_pysqlite(paramstyle="qmark")


class Statement(NamedTuple):
    """A statement's text, and what its parameters are, in their order."""

    text: str
    parameters: tuple[str, ...] = ()


def _sql(statement: ClauseElement) -> Statement:
    compiled = statement.compile(dialect=_dialect)
    return Statement(_tidy(str(compiled)), tuple(getattr(compiled, "positiontup", None) or ()))


def _tidy(text: str) -> str:
    """Return text without the spaces that SQLAlchemy leaves at the ends of lines, and with spaces for its tabs."""
    return re.sub(r"[ \t]+$", "", text.strip().replace("\t", "    "), flags=re.MULTILINE)


_namespace: BindParameter[str] = bindparam("namespace")
_key: BindParameter[str] = bindparam("key")
_of_namespace = metadata.c.namespace == _namespace
_here = _of_namespace & (metadata.c.key == _key)
# Other tools may have written text where we write bytes, or bytes where we write text; the casts cost next to nothing.
_value = cast(metadata.c.value, LargeBinary)
_name = (cast(metadata.c.namespace, Text), cast(metadata.c.key, Text))
_time = cast(metadata.c.modified_at_ns, Integer)
_record = (*_name, _value, _time)
_raw_parameters = ("namespace", "namespace", "key", "key")
# By a name in bytes, whether it is stored as text or as bytes.
_raw_here = "namespace IN (?, CAST(? AS TEXT)) AND key IN (?, CAST(? AS TEXT))"
# What another program wrote as a time: `now`, 1.5.
_odd_time = "typeof(modified_at_ns) <> 'integer'"
_set = upsert(metadata).values(
    namespace=_namespace,
    key=_key,
    value=bindparam("value"),
    modified_at_ns=bindparam("modified_at_ns"),
)
_as_it_was = _here & (_value == bindparam("value")) & (_time == bindparam("modified_at_ns"))
_in_order = (metadata.c.namespace, metadata.c.key)

# One text for any number of keys, so that it is prepared once: the keys come as one JSON array. In SQL, as Core has no
# CROSS JOIN: it keeps SQLite from sorting the array first, which takes as long as all the rest.
_get_many = (
    "SELECT metadata.key, CAST(metadata.value AS BLOB)\nFROM json_each(?) AS wanted CROSS JOIN metadata\n"
    "WHERE metadata.namespace = {namespace} AND metadata.key = CAST(wanted.value AS TEXT)"
)

_of_layer = v2_metadata.c.diff_id == bindparam("diff_id")
_row = (v2_metadata.c.position, v2_metadata.c.digest, v2_metadata.c.source_repository, v2_metadata.c.hmac)

_of_blob = blobs.c.digest == bindparam("digest")
_located = locations.c.digest == bindparam("digest")
# What another program wrote need not even be text.
_raw_blob = "digest IN (?, CAST(? AS TEXT))"

_of_number = quarantine.c.id == bindparam("id")
_set_aside = (
    quarantine.c.id,
    cast(quarantine.c.namespace, LargeBinary),
    cast(quarantine.c.key, LargeBinary),
    cast(quarantine.c.value, LargeBinary),
    cast(quarantine.c.reason, LargeBinary),
    cast(quarantine.c.quarantined_at_ns, Integer),
)

STATEMENTS: Final[Mapping[str, Statement | dict[str, str]]] = {
    "GET": _sql(select(_value).where(_here)),
    "GET_TWO": _sql(
        union_all(
            select(literal_column("0"), _value).where(_here),
            select(literal_column("1"), _value).where(
                metadata.c.namespace == bindparam("namespace_2"), metadata.c.key == bindparam("key_2")
            ),
        )
    ),
    "GET_RECORD": _sql(select(*_record).where(_here)),
    "GET_MANY": Statement(_get_many.format(namespace="?"), ("keys", "namespace")),
    # A bound namespace decides whether a partial index can serve: SQLite prepares the statement anew at each run.
    "GET_MANY_OF": {name: _get_many.format(namespace=f"'{name}'") for name in KNOWN_NAMESPACES},
    "GET_RAW": Statement(f"SELECT CAST(value AS BLOB)\nFROM metadata\nWHERE {_raw_here}", _raw_parameters),
    "SET": _sql(
        _set.on_conflict_do_update(
            index_elements=["namespace", "key"],
            set_={"value": _set.excluded.value, "modified_at_ns": _set.excluded.modified_at_ns},
        )
    ),
    "DELETE": _sql(delete(metadata).where(_here)),
    "DELETE_RAW": Statement(f"DELETE FROM metadata\nWHERE {_raw_here}", _raw_parameters),
    "IS_UNCHANGED": _sql(select(literal_column("1")).select_from(metadata).where(_as_it_was)),
    "DELETE_UNCHANGED": _sql(delete(metadata).where(_as_it_was)),
    "COUNT": _sql(select(func.count()).select_from(metadata)),
    "KEYS": _sql(select(*_name).order_by(*_in_order)),
    "RECORDS": _sql(select(*_record).order_by(*_in_order)),
    "RECORDS_OF": _sql(select(*_record).where(_of_namespace).order_by(metadata.c.key)),
    "ODD_TIMES": Statement(f"SELECT namespace, key\nFROM metadata\nWHERE {_odd_time}"),
    "MEND_TIME": Statement(
        f"UPDATE metadata SET modified_at_ns = CAST(modified_at_ns AS INTEGER)\nWHERE {_raw_here} AND {_odd_time}",
        _raw_parameters,
    ),
    "ASSOCIATIONS": _sql(select(*_row).where(_of_layer).order_by(v2_metadata.c.position)),
    "ADD_ASSOCIATION": _sql(insert(v2_metadata)),
    "REMOVE_ASSOCIATION": _sql(delete(v2_metadata).where(_of_layer, v2_metadata.c.position == bindparam("position"))),
    "REMOVE_ASSOCIATIONS": _sql(delete(v2_metadata).where(_of_layer)),
    "REMOVE_RAW_ASSOCIATIONS": Statement(
        "DELETE FROM v2_metadata\nWHERE diff_id IN (?, CAST(? AS TEXT))", ("diff_id", "diff_id")
    ),
    "COUNT_ASSOCIATIONS": _sql(select(func.count()).select_from(v2_metadata)),
    "LAYERS_WITH_ROWS": _sql(select(v2_metadata.c.diff_id).distinct()),
    "LAYERS_OF_DIGEST": _sql(
        select(v2_metadata.c.diff_id).distinct().where(v2_metadata.c.digest == bindparam("digest"))
    ),
    "BLOB": _sql(select(blobs.c.diff_id, blobs.c.compression, blobs.c.toc_digest).where(_of_blob)),
    "ADD_BLOB": _sql(insert(blobs)),
    "REMOVE_BLOB": Statement(f"DELETE FROM blobs\nWHERE {_raw_blob}", ("digest", "digest")),
    "LOCATIONS": _sql(select(locations.c.source_repository, locations.c.seen_at_ns).where(_located)),
    "ADD_LOCATION": _sql(insert(locations)),
    "REMOVE_LOCATION": _sql(
        delete(locations).where(_located, locations.c.source_repository == bindparam("source_repository"))
    ),
    "REMOVE_LOCATIONS": Statement(f"DELETE FROM locations\nWHERE {_raw_blob}", ("digest", "digest")),
    "BLOBS_WITH_ROWS": Statement("SELECT digest FROM blobs UNION SELECT digest FROM locations"),
    # A blob whose layer no engine has verified is what Docker's mapping says.
    "BLOBS_BY_LAYER": Statement(
        "SELECT replace(ifnull(b.diff_id, CAST(d.value AS TEXT)), ':', '/') AS layer, m.key, CAST(m.value AS BLOB),\n"
        "    CAST(d.value AS BLOB)\n"
        "FROM blobs b JOIN metadata m ON m.namespace = 'blob-by-digest'\n"
        "        AND m.key = CAST(replace(b.digest, ':', '/') AS TEXT)\n"
        "    LEFT JOIN metadata d ON d.namespace = 'diffid-by-digest' AND d.key = m.key\n"
        "WHERE layer IS NOT NULL\n"
        "ORDER BY CAST(layer AS BLOB), m.key"
    ),
    "COUNT_BLOBS": Statement("SELECT (SELECT count(*) FROM blobs) + (SELECT count(*) FROM locations)"),
    "QUARANTINE": _sql(
        insert(quarantine).values(
            namespace=_namespace,
            key=_key,
            value=bindparam("value"),
            reason=bindparam("reason"),
            quarantined_at_ns=bindparam("quarantined_at_ns"),
        )
    ),
    "QUARANTINED": _sql(select(*_set_aside).order_by(quarantine.c.id)),
    "ONE_QUARANTINED": _sql(select(*_set_aside).where(_of_number)),
    "COUNT_QUARANTINED": _sql(select(func.count()).select_from(quarantine)),
    "IS_QUARANTINED": _sql(
        select(literal_column("1")).where(
            quarantine.c.namespace == _namespace,
            quarantine.c.key == _key,
            quarantine.c.value == bindparam("value"),
            quarantine.c.reason == bindparam("reason"),
        )
    ),
    "DROP_QUARANTINED": _sql(delete(quarantine).where(_of_number)),
    "TYPES_IN_QUARANTINE": Statement(
        "SELECT id, namespace, key, reason,\n"
        "    typeof(namespace) = 'text' AND typeof(key) = 'text' AND typeof(reason) = 'text'\n"
        "    AND typeof(quarantined_at_ns) = 'integer'\n"
        "FROM quarantine"
    ),
    "REWRITE_QUARANTINED": Statement(
        "UPDATE quarantine SET namespace = ?, key = ?, reason = ?, quarantined_at_ns = ?\nWHERE id = ?",
        ("namespace", "key", "reason", "quarantined_at_ns", "id"),
    ),
    "VERSION": _sql(select(alembic_version.c.version_num)),
    "STAMP": _sql(insert(alembic_version)),
    "TABLES": {
        table.name: _tidy(str(CreateTable(table).compile(dialect=_dialect)))
        for table in (*schema.sorted_tables, alembic_version)
    },
    "INDEXES": {
        str(index.name): _tidy(str(CreateIndex(index).compile(dialect=_dialect)))
        for table in schema.sorted_tables
        for index in sorted(table.indexes, key=lambda index: str(index.name))
    },
}


def module() -> str:
    """Return the text of `layerstore.sql.sqlite.statements`."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield '"""The statements that the store runs, and those that make its tables and indexes.'
    yield ""
    yield "Written by `python -m layerstore.sql.sqlite.core`, which says why: change that, not this."
    yield '"""'
    yield ""
    yield "# ruff: noqa: E501  # SQL stands as SQLAlchemy writes it"
    yield ""
    yield "from typing import Final"
    for name, made in STATEMENTS.items():
        yield ""
        if isinstance(made, Statement):
            yield from () if not made.parameters else (f"# Parameters: {', '.join(made.parameters)}.",)
            yield f"{name}: Final = {_literal(made.text)}"
        else:
            yield f"{name}: Final = {{"
            for key, text in made.items():
                yield f'    "{key}": {_literal(text)},'
            yield "}"
    yield ""


def _literal(text: str) -> str:
    if len(text) < _SHORT and "\n" not in text and '"' not in text:
        return f'"{text}"'
    return '"""\\\n' + re.sub('"$', r"\"", text) + '"""'


if __name__ == "__main__":
    Path(__file__).with_name("statements.py").write_text(module())
