"""Asking a database with SQL of one's own: reading alone, and not for ever; what its parameters and its plan say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Final

from layerstore.errors import InvalidInputError, QueryError
from layerstore.sql.backend import Answer, Parameters, Value
from layerstore.sql.sqlite.sandbox import Sandbox
from layerstore.sql.store import SQLMetadataStore
from layerstore.sql.url import is_url
from layerstore.words import counted

TIMEOUT_S: Final = 60.0

_is_whole_number = re.compile(r"0|-?[1-9][0-9]{0,17}").fullmatch
# A name of a parameter, or what only looks like one inside: a text, a quoted name, a comment.
_names = re.compile(
    r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)|::|[:@$]([^\W\d][\w$]*)|(\?\d*)", re.DOTALL
).finditer

_made = re.compile(r"(?:CO-ROUTINE|MATERIALIZE) (\S+)").match
# Before SQLite 3.36 "SCAN TABLE name AS alias", since then "SCAN alias".
_scanned = re.compile(r"SCAN (?:TABLE )?(\S+)").match
_of_no_table = re.compile(r"SCAN (?:SUBQUERY |\(|CONSTANT ROW|\d+ CONSTANT)|.* VIRTUAL TABLE").match


@contextmanager
def query(
    store_or_path: SQLMetadataStore | str | os.PathLike[str],
    sql: str,
    parameters: Parameters = (),
    *,
    timeout_s: float = TIMEOUT_S,
    explain: bool = False,
) -> Iterator[Answer]:
    """Run a query on a database; its rows can be read in the body, in any number.

    It reads one snapshot, and writers do not wait. On a file, it runs in its own process, whose memory does not grow
    with the number of rows. It sees what was committed, and not what an open transaction has written.

    Args:
        store_or_path: a store on a file, or the file; or the URL of a database on a server.
        sql: one statement that reads.
        parameters: for `?` in their order, or for `:name` by their names.
        timeout_s: seconds that SQLite may work; the time that the reader of the rows takes does not count.
        explain: give the plan of the query instead of its rows.

    Raises:
        QueryError: the SQL is wrong, several statements, or one that would write; a parameter has no value; a value is
            longer than 8 MiB, or the query needs more than 256 MiB of memory or 4 GiB for temporary files. In the body
            too.
        QueryStoppedError: it took longer than `timeout_s`, in the body too.
        StoreError: the file cannot be opened or read.
    """
    if not isinstance(sql, str):
        raise InvalidInputError(f"SQL is text, not {type(sql).__name__}")
    if isinstance(store_or_path, str) and is_url(store_or_path):
        from layerstore.sql.postgresql import query as server

        with server.ask(store_or_path, sql, parameters, timeout_s=timeout_s, explain=explain) as answer:
            yield answer
        return
    path = store_or_path.path if isinstance(store_or_path, SQLMetadataStore) else store_or_path
    if isinstance(path, str) and is_url(path):
        raise InvalidInputError("of a store on a server, give its URL: a store does not keep the password")
    with SQLMetadataStore(":memory:" if path is None else path, read_only=path is not None) as store:
        if store.path is None:
            raise InvalidInputError("no other process can read a store in memory: give a file")
        with closing(Sandbox(store.path)) as sandbox:
            yield sandbox.ask(f"EXPLAIN QUERY PLAN {sql}" if explain else sql, parameters, timeout_s=timeout_s)


def names_in(sql: str) -> list[str]:
    """Return the names of a query's parameters, in their order."""
    return list(dict.fromkeys(match[1] for match in _names(sql) if match[1]))


def given(sql: str, texts: Sequence[str], defaults: Mapping[str, Value] | None = None) -> Parameters:
    """Return the values for a query's parameters.

    A whole number is one, so that it can be compared and be a LIMIT; a column of text compares it as text all the
    same. Everything else is text.

    Args:
        sql: one statement, with parameters `?` or `:name`, `@name`, `$name`.
        texts: values in the order of the parameters; for one with a name also `name=value`.
        defaults: values for names that are not in `texts`.

    Raises:
        QueryError: more values than parameters, or fewer.
    """
    names = names_in(sql)
    if not names:
        marks = [match[2] for match in _names(sql) if match[2]]
        if len(texts) != len(marks) and set(marks) <= {"?"}:
            raise QueryError(
                f"the SQL needs {counted(len(marks), 'value')}, one for each ?, and {len(texts)} are given"
            )
        return [_value(text) for text in texts]
    values: dict[str, Value] = {}
    rest = []
    for text in texts:
        name, equals, value = text.partition("=")
        if equals and name in names:
            values[name] = _value(value)
        else:
            rest.append(text)
    open_names = [name for name in names if name not in values]
    if len(rest) > len(open_names):
        surplus = rest[len(open_names)]
        raise QueryError(f"the SQL has no parameter for {surplus!r}: it has {', '.join(names)}")
    values = {**(defaults or {}), **values, **dict(zip(open_names, map(_value, rest), strict=False))}
    missing = next((name for name in names if name not in values), None)
    if missing is not None:
        raise QueryError(f"no value is given for :{missing}: give {missing}=VALUE")
    return values


def _value(text: str) -> Value:
    return int(text) if _is_whole_number(text) else text


def whole_reads(details: Sequence[str], tables: Sequence[str]) -> list[str]:
    """Return the steps of a plan that read a table or one of its indexes whole.

    Reading what the query itself makes, or a table that is a function, is none.

    Args:
        details: the last column of `EXPLAIN QUERY PLAN`.
        tables: the names of the tables of the database.
    """
    own = {match[1] for detail in details if (match := _made(detail))}
    found = []
    for detail in details:
        match = _scanned(detail)
        if match is None or _of_no_table(detail) or match[1] in own:
            continue
        if detail.startswith("SCAN TABLE ") and match[1] not in tables:
            continue  # a part of a recursive query
        found.append(detail)
    return found
