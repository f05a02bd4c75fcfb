"""SQL as tokens: which statement it is, how many there are, which parameters it has, and where in it an error is.

SQLite says of an error what is wrong, and not where (Python's driver does not pass its offset on). A place is therefore
found here, by asking SQLite again: a syntax error is at the first token without which the rest before it is no error
yet; a name that there is not is where another one in its place changes what SQLite says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from layerstore.errors import InvalidInputError

_scan = re.compile(
    r"""(?P<blank>[ \t\n\f\r]+|--[^\n]*|/\*.*?(?:\*/|\Z))
    |(?P<text>'(?:[^']|'')*(?:'|\Z))
    |(?P<blob>[xX]'[^']*(?:'|\Z))
    |(?P<quoted>"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z)|\[[^\]]*(?:\]|\Z))
    |(?P<parameter>\?[0-9]*|[:@\#$][\w$]+(?:::[\w$]+)*)
    |(?P<number>0[xX][0-9a-fA-F]+|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
    |(?P<word>[^\W\d][\w$]*)
    |(?P<sign>\|\||->>|->|<<|>>|<=|>=|<>|!=|==|.)""",
    re.VERBOSE | re.DOTALL,
).match

# What SQLite says of a name, and what stands for a name of that kind that there is.
_NAMING = (
    ("NULL", r"(?:no such column|ambiguous column name): (.+?)(?: - should .*)?$"),
    ("sqlite_master", r"no such (?:table|view|table-valued function): (.+)$"),
    ("coalesce", r"no such function: (.+)$|arguments to function (\S+?)\(\)|misuse of [a-z ]+: (\S+?)\(\)"),
    ("coalesce", r"misuse of [a-z ]+ (\S+?)\(\)|^(\S+?)\(\) may not be used|too many arguments on (\S+?)\(\)"),
    ("BINARY", r"no such collation sequence: (.+)$"),
    ("NULL", r"no such index: (.+)$|cannot join using column (\S+) |unknown database (\S+)$"),
)

Complaint = Callable[[str], str | None]
"""What SQLite says of a text when it shall prepare it; `None` if it takes it."""


class Token(NamedTuple):
    """A word, sign, literal or parameter, and where it stands."""

    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def name(self) -> str:
        """The name that it is, without quotes and in lower case, as SQLite compares names."""
        if self.kind == "quoted":
            inner = self.text[1:-1]
            return (inner if self.text[0] == "[" else inner.replace(self.text[0] * 2, self.text[0])).lower()
        return self.text.lower()


class QueryError(InvalidInputError):
    """A query that cannot be run, and where in its text the reason stands.

    Attributes:
        excerpt: the line of the text with a mark below the place; empty if no place can be told.
    """

    def __init__(self, message: str, sql: str = "", place: Token | None = None) -> None:
        self.excerpt = ""
        if place is not None:
            before = sql[: place.start]
            line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1)
            text = sql.split("\n")[line - 1]
            # A tab stays one, so that the mark stands below its place whatever the terminal makes of it.
            blank = "".join("\t" if character == "\t" else " " for character in text[:column])
            mark = "^" * max(1, min(len(place.text.split("\n")[0]), len(text) - column))
            self.excerpt = f"{text}\n{blank}{mark}"
            message = f"{message} (line {line}, column {column + 1})"
        super().__init__(message)


def tokens(sql: str) -> list[Token]:
    """Return the tokens, without white space and comments."""
    found, at = [], 0
    while at < len(sql):
        match = _scan(sql, at)
        assert match is not None
        assert match.lastgroup is not None
        if match.lastgroup != "blank":
            found.append(Token(match.lastgroup, match.group(), at))
        at = match.end()
    return found


def first_statement(found: Sequence[Token]) -> tuple[list[Token], Token | None]:
    """Return the tokens of the first statement, without its semicolon, and the first one of a second statement."""
    statement: list[Token] = []
    ended = False
    for token in found:
        if token.text == ";":
            ended = ended or bool(statement)
        elif ended:
            return statement, token
        else:
            statement.append(token)
    return statement, None


def place_of(sql: str, found: Sequence[Token], message: str, complaint: Complaint) -> Token | None:
    """Return the token that an error is about; `None` if no place can be told.

    Args:
        sql: one statement.
        found: its tokens.
        message: what SQLite said of it.
        complaint: asks SQLite what it says of another text.
    """
    if re.search(r"syntax error|unrecognized token", message):
        return _first_bad(sql, found, complaint)
    if "incomplete input" in message:
        return found[-1] if found else None
    for kind, pattern in _NAMING:
        if match := re.search(pattern, message):
            name = next(filter(None, match.groups()))
            return _named(sql, found, name, lambda text: _is_other(complaint(text), message), kind)
    return None


def _first_bad(sql: str, found: Sequence[Token], complaint: Complaint) -> Token | None:
    # SQLite's parser stops at the first token that cannot follow: of the beginnings of the text, all up to that one
    # are good or incomplete, and all longer ones are bad.
    low, high = 0, len(found) - 1
    while low < high:
        middle = (low + high) // 2
        said = complaint(sql[: found[middle].end])
        if said is not None and re.search(r"syntax error|unrecognized token", said):
            high = middle
        else:
            low = middle + 1
    return found[low] if found else None


def _named(sql: str, found: Sequence[Token], name: str, is_other: Callable[[str], bool], instead: str) -> Token | None:
    parts = [part.strip('"').lower() for part in name.split(".")]
    places = _occurrences(found, parts) or _occurrences(found, parts[-1:])
    for first, last in places if len(places) > 1 else ():
        if is_other(f"{sql[: first.start]}{instead}{sql[last.end :]}"):
            return first
    return places[0][0] if places else None


def _is_other(said: str | None, message: str) -> bool:
    return said != message and (said is None or "syntax error" not in said)


def _occurrences(found: Sequence[Token], parts: Sequence[str]) -> list[tuple[Token, Token]]:
    """Return the first and last token of each place where names stand, joined by dots."""
    width = 2 * len(parts) - 1
    wanted = [part for name in parts for part in (name, ".")][:-1]
    return [
        (found[at], found[at + width - 1])
        for at in range(len(found) - width + 1)
        if [token.name for token in found[at : at + width]] == wanted
        and all(token.kind in ("word", "quoted", "sign") for token in found[at : at + width])
        and not (at and found[at - 1].text == ".")
    ]
