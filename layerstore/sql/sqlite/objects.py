"""The objects of a database's schema: are those under our names ours, and does nothing else act on them?

A trigger on our tables would change what we write, a view or virtual table in the place of a table would keep nothing,
a generated column or a collation would make a key another one. What people add for themselves under other names
(tables, views, indexes) is theirs. Source: sqlite.org/security.html, "Untrusted SQLite Database Files".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

OBJECTS = (
    "SELECT "
    + ", ".join(f"CAST({name} AS BLOB)" for name in ("type", "name", "tbl_name", "sql"))
    + (" FROM sqlite_master")
)
"""As bytes, because what another program wrote need not be UTF-8."""

_IN_EVERY_REVISION = ("metadata", "v2_metadata", "quarantine", "alembic_version")
_CREATION = r"CREATE (?:UNIQUE )?(TABLE|INDEX|VIEW) (\w+)(?: ON (\w+))?"


class Object(NamedTuple):
    """A row of `sqlite_master`. Of the SQL, quotes and spaces do not count: `ALTER TABLE` writes others."""

    type: str
    name: str
    table: str
    sql: str


class Ours:
    """What `sqlite_master` holds of a database that these statements have made."""

    def __init__(self, creation: Iterable[str]) -> None:
        self._objects: dict[str, Object] = {}
        for statement in creation:
            match = re.match(_CREATION, statement)
            if match is not None:
                kind, name, table = match[1].lower(), match[2], match[3] or match[2]
                self._objects[name] = Object(kind, name, table, _packed(statement))
        self._tables = {name.encode() for name, of in self._objects.items() if of.type == "table"}

    def foreign(self, found: Iterable[Sequence[bytes | None]]) -> Iterator[str]:
        """Yield what is not ours in the rows of `OBJECTS`."""
        rows = [_object(row) for row in found]
        missing = dict(self._objects)
        for there in rows:
            expected = missing.pop(there.name.lower(), None)
            if expected is not None and there._replace(name=expected.name, table=there.table.lower()) != expected:
                yield f"{there.type} {there.name} is not the {expected.type} that layerstore makes"
            if "\N{REPLACEMENT CHARACTER}" in there.name:
                yield f"{there.type} {there.name} has a name that is not UTF-8"
        for name, lacking in missing.items():
            yield f"{lacking.type} {name} is missing"
        yield from self._triggers(rows)

    def triggers(self, found: Iterable[Sequence[bytes | None]]) -> Iterator[str]:
        """Yield the triggers on what has one of our names; for schemas of other revisions."""
        return self._triggers([_object(row) for row in found])

    def _triggers(self, rows: list[Object]) -> Iterator[str]:
        for there in rows:
            if there.type == "trigger" and there.table.lower() in self._objects:
                yield f"trigger {there.name} on {there.table} (`DROP TRIGGER` removes it)"

    def no_tables(self, found: Iterable[Sequence[bytes | None]]) -> Iterator[str]:
        """Yield which of our tables are none: reading a view in the place of one may never end."""
        there = {row.name.lower(): row for row in map(_object, filter(self._has_name_of_a_table, found))}
        for name in _IN_EVERY_REVISION:
            if name not in there:
                yield f"table {name} is missing"
        for name, row in there.items():
            if not row.sql.lower().startswith(f"createtable{name}("):
                yield f"{row.type} {row.name} is not the table that layerstore makes"

    def _has_name_of_a_table(self, row: Sequence[bytes | None]) -> bool:
        return (row[1] or b"").lower() in self._tables


def _object(row: Sequence[bytes | None]) -> Object:
    kind, name, table, sql = ((part or b"").decode("utf-8", "replace") for part in row)
    return Object(kind, name, table, _packed(sql))


def _packed(sql: str) -> str:
    return "".join(sql.replace('"', "").split())
