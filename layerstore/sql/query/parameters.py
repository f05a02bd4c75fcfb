"""The parameters of a query: what is said for them on a command line becomes values, by name or in their order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from layerstore.sql.query.tokens import QueryError, Token, first_statement, tokens

Value = str | int | float | bytes | None
Parameters = Sequence[Value] | Mapping[str, Value]

_is_whole_number = re.compile(r"0|-?[1-9][0-9]{0,17}").fullmatch


def given(sql: str, texts: Sequence[str], defaults: Mapping[str, Value] | None = None) -> Parameters:
    """Return the values for a query's parameters.

    A whole number is one, so that it can be compared and be a LIMIT; a column of text compares it as text all the
    same. Everything else is text.

    Args:
        sql: one statement, with parameters `?` or `:name`, `@name`, `$name`.
        texts: values in the order of the parameters; for one with a name also `name=value`.
        defaults: values for names that are not in `texts`.

    Raises:
        QueryError: more values than parameters.
    """
    statement, _ = first_statement(tokens(sql))
    names = list(dict.fromkeys(token.text[1:] for token in _parameters(statement) if token.text[0] != "?"))
    if not names:
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
    values.update(zip(open_names, map(_value, rest), strict=False))
    return {**(defaults or {}), **values}


def check(sql: str, statement: Sequence[Token], parameters: Parameters) -> None:
    """Make sure that each parameter of a statement has a value, and each value a parameter.

    Raises:
        QueryError: it is not so; it points at the parameter.
    """
    wanted = _parameters(statement)
    named = [token for token in wanted if token.text[0] != "?"]
    if named and len(named) < len(wanted):
        nameless = next(token for token in wanted if token.text[0] == "?")
        raise QueryError("parameters with names and without cannot be mixed", sql, nameless)
    if named or isinstance(parameters, Mapping):
        values = parameters if isinstance(parameters, Mapping) else {}
        for token in named:
            if token.text[1:] not in values:
                raise QueryError(f"no value is given for {token.text}: {token.text[1:]}=VALUE", sql, token)
        unknown = sorted(set(values) - {token.text[1:] for token in named})
        if unknown:
            raise QueryError(f"the SQL has no parameter :{unknown[0]}")
        return
    count = 0
    for token in wanted:
        count = max(count, int(token.text[1:]) if token.text[1:] else count + 1)
    if count != len(parameters):
        place = wanted[len(parameters)] if len(parameters) < len(wanted) else None
        raise QueryError(f"parameters of the SQL: {count}; values given: {len(parameters)}", sql, place)


def _parameters(statement: Sequence[Token]) -> list[Token]:
    return [token for token in statement if token.kind == "parameter"]


def _value(text: str) -> Value:
    return int(text) if _is_whole_number(text) else text
