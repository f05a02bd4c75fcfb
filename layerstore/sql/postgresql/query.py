"""A query of somebody's own on a server: it only reads, and it ends in time.

What the role may read, it can read: that is the role's matter. The extended protocol takes one statement alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg

from layerstore.errors import LayerstoreError, QueryError, QueryStoppedError
from layerstore.sql.backend import Answer, Parameters
from layerstore.sql.postgresql.errors import error_of, failure
from layerstore.sql.postgresql.opening import make_ready, sessions_of

# A parameter, or what only looks like one: a text, a quoted name, a comment, a dollar-quoted text, a cast.
_tokens = re.compile(
    r"'[^']*'|\"[^\"]*\"|--[^\n]*|/\*.*?(?:\*/|\Z)|(\$\w*\$).*?\1|::|(\?)|[:@$]([^\W\d]\w*)|%", re.DOTALL
)


@contextmanager
def ask(url: str, sql: str, parameters: Parameters, *, timeout_s: float, explain: bool) -> Iterator[Answer]:
    """Run a query; the rows can be read in the body, as many as one wants.

    Args:
        url: the database.
        sql: one statement that reads.
        parameters: for `?` in their order, or for `:name` by their names.
        timeout_s: seconds that the server may work, in which the reader of the rows takes part too.
        explain: give the plan of the query instead of its rows.

    Raises:
        QueryError: the SQL is wrong, several statements, or one that would write; a parameter has no value.
        QueryStoppedError: it took longer than `timeout_s`, in the body too.
        StoreError: the database cannot be opened or read.
    """
    if not sql.strip():
        raise QueryError("no SQL is given: give a statement, --file, or @NAME (`layerstore query --list`)")
    if "\0" in sql:
        raise QueryError("SQL cannot hold a NUL character")
    sessions = sessions_of(url, read_only=True)
    try:
        make_ready(sessions)
        with sessions.connect() as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(
                "SELECT set_config('statement_timeout', %s, true)", (f"{max(1, round(timeout_s * 1000))}",)
            )
            cursor = connection.cursor()
            text = f"EXPLAIN {sql}" if explain else sql
            rows = cursor.stream(_numbered(text).encode(), _values(text, parameters))
            first = next(rows, None)
            columns = tuple(one.name for one in cursor.description or ())
            yield Answer(columns, _rows(first, rows, sessions.shown, timeout_s))
    except psycopg.Error as error:
        raise _error(error, sessions.shown, timeout_s) from error
    finally:
        sessions.close()


def _rows(first: Any, rest: Iterator[Any], shown: str, timeout_s: float) -> Iterator[tuple[Any, ...]]:
    if first is None:
        return
    yield tuple(map(_plain, first))
    try:
        for row in rest:
            yield tuple(map(_plain, row))
    except psycopg.Error as error:
        raise _error(error, shown, timeout_s) from error


def _plain(value: Any) -> Any:
    """Return a value as the printers know it; what is neither text, number nor bytes is shown as text."""
    if isinstance(value, bool):
        return int(value)  # as SQLite has it
    return value if value is None or isinstance(value, str | int | float | bytes) else str(value)


def _numbered(sql: str) -> str:
    """Return SQL with parameters as psycopg has them."""

    def said(match: re.Match[str]) -> str:
        if match[2]:
            return "%s"
        if match[3]:
            return f"%({match[3]})s"
        return match[0].replace("%", "%%")

    return _tokens.sub(said, sql)


def _values(sql: str, parameters: Parameters) -> Mapping[str, Any] | Sequence[Any]:
    """Return the values, if there are as many as parameters.

    Raises:
        QueryError: there are not.
    """
    if isinstance(parameters, Mapping):
        return parameters
    asked = sum(match[2] is not None for match in _tokens.finditer(sql))
    if asked != len(parameters):
        raise QueryError(f"the SQL has {asked} parameters, and {len(parameters)} values are given")
    return parameters


def _error(error: psycopg.Error, shown: str, timeout_s: float) -> LayerstoreError:
    found = failure(error)
    state = found.state or ""
    if state == "57014":
        return QueryStoppedError(
            f"the query was stopped after {timeout_s:g} s: ask for less, see --explain, or give --timeout", shown
        )
    if state == "25006":
        return QueryError(f"queries only read: {found.said}")
    if found.lost or state[:2] in ("53", "57", "58", "XX"):
        return error_of(found, shown)
    return QueryError(found.said)
