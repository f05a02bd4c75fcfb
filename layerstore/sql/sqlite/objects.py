"""The objects of a database's schema: are those under our names ours, and does nothing else act on them?

A trigger on our tables would change what we write, a view or virtual table in the place of a table would keep nothing,
a generated column or a collation would make a key another one. What people add for themselves under other names
(tables, views, indexes) is theirs. Source: sqlite.org/security.html, "Untrusted SQLite Database Files".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_master"

_CREATION = re.compile(r"CREATE (?:UNIQUE )?(TABLE|INDEX|VIEW) (\w+)(?: ON (\w+))?")
_TOKEN = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?\*/|[\w$]+|\s+|.""", re.DOTALL
)

_CONSTRAINING = frozenset({"autoincrement", "constraint", "not", "null", "primary"})


class Object(NamedTuple):
    """A row of `sqlite_master`."""

    type: str
    name: str
    table: str
    sql: str | None


class Ours:
    """What `sqlite_master` holds of a database that these statements have made."""

    def __init__(self, creation: Iterable[str]) -> None:
        self._objects: dict[str, Object] = {}
        for statement in creation:
            match = _CREATION.match(statement)
            if match is not None:
                kind, name, table = match[1].lower(), match[2], match[3] or match[2]
                self._objects[name] = Object(kind, name, table, statement)

    def why_foreign(self, found: Iterable[Sequence[str | None]]) -> str | None:
        """Say what is not ours in the rows of `OBJECTS`, or return `None`."""
        rows = [Object(*row) for row in found]  # type: ignore[arg-type]  # only `sql` can be NULL
        missing = dict(self._objects)
        for there in rows:
            expected = missing.pop(there.name.lower(), None)
            if expected is not None and there != expected and not _is_same(there, expected):
                return f"{there.type} {there.name} is not the {expected.type} that layerstore makes"
        for name, lacking in missing.items():
            return f"{lacking.type} {name} is missing"
        return self.why_triggered(rows)

    def why_triggered(self, found: Iterable[Sequence[str | None]]) -> str | None:
        """Say which trigger is on what has one of our names, or return `None`; for schemas of other revisions."""
        for row in found:
            there = Object(*row)  # type: ignore[arg-type]  # only `sql` can be NULL
            if there.type == "trigger" and there.table.lower() in self._objects:
                return f"trigger {there.name} on {there.table} (`DROP TRIGGER` removes it)"
        return None


def _is_same(there: Object, expected: Object) -> bool:
    """Compare what the SQL means: ALTER and other programs write it with other quotes, spaces, or in another order."""
    if there.sql is None or (there.type, there.table.lower()) != (expected.type, expected.table):
        return False
    assert expected.sql is not None
    found, wanted = list(_tokens(there.sql)), list(_tokens(expected.sql))
    return _parts(found) == _parts(wanted) if there.type == "table" else found == wanted


def _tokens(sql: str) -> Iterator[str]:
    """Yield the words and marks of a statement: names without quotes and in lower case, texts as they are."""
    for match in _TOKEN.finditer(sql):
        token = match[0]
        if token.isspace() or token.startswith(("--", "/*")):
            continue
        word = token[1:-1].lower() if token[0] in '"`[' else token
        if token[0] in '"`[' and (word in _CONSTRAINING or not word.isidentifier()):
            yield token  # as a part of a type's name, it would look like a constraint
        else:
            yield word if token[0] == "'" else word.lower()


def _parts(tokens: list[str]) -> Counter[tuple[str, ...]]:
    """Return what is between the commas of a table's definition, and what is before and behind its brackets."""
    parts: list[list[str]] = [[]]
    depth = 0
    for word in tokens:
        depth += (word == "(") - (word == ")")
        if (word, depth) in {("(", 1), (",", 1), (")", 0)}:
            parts.append([word])  # the mark goes along, so that no part can pass for another kind
        else:
            parts[-1].append(word)
    return Counter(tuple(part[1:]) if part[:1] in (["("], [","]) else tuple(part) for part in parts)
