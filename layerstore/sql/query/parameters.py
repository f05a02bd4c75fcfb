"""The parameters of a query: what is said for them on a command line becomes values, by name or in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from layerstore.errors import QueryError
from layerstore.sql.sqlite.sandbox import Parameters, Value
from layerstore.words import counted

_is_whole_number = re.compile(r"0|-?[1-9][0-9]{0,17}").fullmatch
# A name of a parameter, or what only looks like one inside: a text, a quoted name, a comment.
_names = re.compile(
    r"'[^']*'|\"[^\"]*\"|`[^`]*`|\[[^]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)|[:@$]([^\W\d][\w$]*)|(\?\d*)", re.DOTALL
).finditer


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
