"""JSON to the letter as Go's `encoding/json` (1.22 and later) reads and writes it.

Python's `json` differs in what Docker's files can hold: it takes NaN, guesses UTF-16, refuses deep nesting and
long numbers, and escapes other characters. Only the grammar lives here; `layerstore.records` knows the fields.
Source: Go's encoding/json: decode.go, scanner.go, encode.go.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any, Final

MAX_DEPTH: Final = 10_000
"""Containers inside each other; `maxNestingDepth` of Go's scanner."""

_ESCAPED = re.compile('[\x00-\x1f"\\\\<>&\u2028\u2029\ud800-\udfff]')
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"(-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)|true|false|null")
_FOLDS_TO_ASCII = {0x017F: "s", 0x212A: "k"}
_WORDS = {"true": True, "false": False, "null": None}
_string_at = json.JSONDecoder().raw_decode


class Object(list[Any]):
    """A JSON object as its text has it: name, value, name, value, …; a repeated name stays."""

    __slots__ = ()

    def members(self) -> list[tuple[str, Any]]:
        """Return the pairs of name and value, in the order of the text."""
        return list(zip(self[::2], self[1::2], strict=True))


def quote(text: str) -> str:
    r"""Write `text` as a JSON string. A lone surrogate, which valid UTF-8 cannot hold, becomes `\ufffd` as in Go."""
    return '"' + _ESCAPED.sub(_escape, text) + '"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    short = _SHORT.get(character)
    if short is not None:
        return short
    return "\\ufffd" if "\ud800" <= character <= "\udfff" else f"\\u{ord(character):04x}"


def _byte_by_byte(error: UnicodeError) -> tuple[str, int]:
    # Go puts U+FFFD for each byte of a broken sequence, Python's "replace" one for the whole sequence.
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


REPLACE: Final = "layerstore.gojson"
"""How bytes that are not UTF-8 are decoded: as Go does when it writes them as JSON, or reads them."""
codecs.register_error(REPLACE, _byte_by_byte)


def parse(data: bytes) -> Any:
    """Read one JSON document.

    Strings lose broken UTF-8 and lone surrogates to U+FFFD. The nesting is held on a list of ours, not on the
    interpreter's stack, so that 10,000 levels are read on every Python.

    Returns:
        `None`, `bool`, `float`, `str`, `list`, or `Object`.

    Raises:
        ValueError: it is not JSON; the message says where.

    Source: Go's `json.Unmarshal`.
    """
    text = data.decode("utf-8", REPLACE)
    value, end = _value(text)
    at = _skip(text, end)
    if at != len(text):
        raise _unexpected(text, at)
    return value


def parse_first(data: bytes) -> Any:
    """Read the first JSON value as `parse` does, and nothing of what follows it.

    Raises:
        ValueError: there is none, or it is not JSON.

    Source: Go's `json.Decoder.Decode`.
    """
    return _value(data.decode("utf-8", REPLACE))[0]


def field(name: str) -> str:
    """Return what all names of an object have in common that Go takes for the same field: it looks at no case.

    Source: Go's `foldName`, which knows two characters outside ASCII that fold onto ASCII letters.
    """
    return name.translate(_FOLDS_TO_ASCII).lower()


def _value(text: str) -> tuple[Any, int]:
    """Return the first value, and where it ends."""
    root: list[Any] = []
    container = root
    outer: list[list[Any]] = []
    at = _skip(text, 0)
    while True:
        # A value is due at `at`, for `container`.
        opened = text[at : at + 1]
        if opened in {"[", "{"}:
            outer.append(container)
            if len(outer) > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep at character {at}")
            inner: list[Any] = Object() if opened == "{" else []
            container.append(inner)
            container = inner
            at = _skip(text, at + 1)
            if text[at : at + 1] != _closer(container):
                at = _name(text, at, container)
                continue
        else:
            at = _scalar(text, at, container)
        # A value has ended: close what ends here, and go on behind the next comma.
        while container is not root:
            at = _skip(text, at)
            mark = text[at : at + 1]
            if mark == ",":
                at = _name(text, _skip(text, at + 1), container)
                break
            if mark != _closer(container):
                raise _unexpected(text, at)
            container = outer.pop()
            at += 1
        else:
            return root[0], at


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _closer(container: list[Any]) -> str:
    return "}" if type(container) is Object else "]"


def _name(text: str, at: int, container: list[Any]) -> int:
    """Read the member name and the colon that an object needs before a value; an array needs nothing."""
    if type(container) is not Object:
        return at
    if text[at : at + 1] != '"':
        raise _unexpected(text, at)
    at = _skip(text, _scalar(text, at, container))
    if text[at : at + 1] != ":":
        raise _unexpected(text, at)
    return _skip(text, at + 1)


def _scalar(text: str, at: int, container: list[Any]) -> int:
    """Read a string, number or word at `at` into `container`; return where it ends."""
    if text[at : at + 1] == '"':
        value, end = _string_at(text, at)
        container.append(_SURROGATE.sub("\ufffd", value))
        return end
    match = _SCALAR.match(text, at)
    if match is None:
        raise _unexpected(text, at)
    container.append(_WORDS[match[0]] if match[1] is None else float(match[0]))
    return match.end()


def _unexpected(text: str, at: int) -> ValueError:
    if at >= len(text):
        return ValueError("the JSON ends too early" if text else "it is empty")
    return ValueError(f"unexpected {text[at]!r} at character {at} of the JSON")
