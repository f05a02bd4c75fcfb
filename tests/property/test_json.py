"""JSON: the exact reader against Python's where the two should agree, and the fast reader against the exact one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from layerstore import V2Metadata, gojson
from layerstore.records import _decode_as_go, decode_list, encode_list
from tests.support.strategies import DIGESTS, METADATA, TEXTS

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False), TEXTS
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=20,
)


def plain(value: Any) -> Any:
    """Turn what `gojson.parse` returns into what `json.loads` would."""
    if isinstance(value, gojson.Object):
        return {name: plain(member) for name, member in value.members()}
    if isinstance(value, list):
        return [plain(element) for element in value]
    return value


def floats(value: Any) -> Any:
    """Turn the numbers of a document into floats, as `gojson.parse` returns them."""
    if isinstance(value, dict):
        return {name: floats(member) for name, member in value.items()}
    if isinstance(value, list):
        return [floats(element) for element in value]
    return value if isinstance(value, bool) or not isinstance(value, int) else float(value)


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1, "\t", "\r\n "]))
def test_a_valid_document_is_read_as_python_reads_it(document: Any, ensure_ascii: bool, indent: int | str | None):
    text = json.dumps(document, ensure_ascii=ensure_ascii, indent=indent)

    assert plain(gojson.parse(text.encode())) == floats(document)


@given(st.text(st.characters(), max_size=40))
@example("\ud800\udc00\udfff")
def test_a_quoted_text_is_read_back_by_python_and_by_us(text: str):
    """Lone surrogates become U+FFFD; a pair of them in Python's text is two lone ones."""
    quoted = gojson.quote(text)
    expected = "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in text)

    assert json.loads(quoted) == expected
    assert gojson.parse(quoted.encode()) == expected
    assert not set(quoted) & set("<>&\u2028\u2029\n\0")


TOKENS = st.sampled_from(
    [
        *("[", "]", "{", "}", ",", ":", '"', '"Digest"', '"digest"', '"HMAC"', '"x"', "null", "true", "1", "-", ".5"),
        *("e3", " ", "\n", "\\", '"\\u00', '"\\ud800"', "NaN", "\ufeff", "\0", "é", "[{", "}]", '{"Digest":"a"}', "[]"),
    ]
)
NEARLY_JSON = st.lists(TOKENS, max_size=12).map("".join)


@given(NEARLY_JSON)
@example('{"a":1,}')
@example('"\\/"')
def test_what_we_take_python_takes_and_reads_alike(text: str):
    """The other way round not: Python takes NaN, a byte order mark, and numbers as words."""
    try:
        ours = gojson.parse(text.encode())
    except ValueError:
        ours = None
        with pytest.raises(ValueError, match=r"\S"):
            json.loads(text, parse_constant=refuse)
    else:
        theirs = json.loads(text)
        if not isinstance(ours, str):
            assert "\\ud800" in text or plain(ours) == floats(theirs)


def refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


@given(st.lists(METADATA, max_size=6))
def test_a_list_that_we_write_is_read_back_by_both_readers(entries: list[V2Metadata]):
    document = encode_list(entries)

    assert decode_list(document) == _decode_as_go(document) == entries


@given(st.lists(st.builds(V2Metadata, DIGESTS, st.text(st.characters(), max_size=9)), max_size=4))
def test_what_we_write_is_utf8_and_json_whatever_the_text(entries: list[V2Metadata]):
    document = encode_list(entries)
    read = json.loads(document.decode())

    assert [list(entry) for entry in read] == [["Digest", "SourceRepository", "HMAC"]] * len(entries)
    assert [entry["SourceRepository"] for entry in read] == [entry.source_repository for entry in decode_list(document)]


NAMES = st.sampled_from(
    ["Digest", "SourceRepository", "HMAC", "digest", "DIGEST", "hmac", "Dige\u017ft", "x", "", "\u212aey"]
)
VALUES = st.one_of(TEXTS, st.none(), st.integers(), st.booleans(), st.lists(st.integers(), max_size=2))


@st.composite
def nearly_lists(draw: st.DrawFn) -> bytes:
    """Draw a list as Docker writes it, with fields in any case, repeated, missing, of another type, and cut or bent."""
    elements = draw(st.lists(st.lists(st.tuples(NAMES, st.one_of(TEXTS, VALUES)), max_size=4), max_size=3))
    text = (
        "["
        + ",".join("{" + ",".join(f"{json.dumps(n)}:{json.dumps(v)}" for n, v in element) + "}" for element in elements)
        + "]"
    )
    document = text.encode()
    at = draw(st.integers(0, len(document)))
    return draw(st.sampled_from([document, document[:at], document[:at] + draw(st.binary(max_size=2)) + document[at:]]))


def exact(document: bytes) -> list[V2Metadata] | None:
    try:
        return _decode_as_go(document)
    except ValueError:
        return None


@given(st.one_of(nearly_lists(), st.binary(max_size=20), NEARLY_JSON.map(str.encode)))
@example(b'[{"Digest":"\xed\xa0\x80"}]')
@example(b'[{"Digest":"\\ud800"}]')
@example(b'[{"Digest":"a\\u0000","HMAC":"\x7f"}]')
def test_the_fast_reader_takes_nothing_that_the_exact_one_reads_otherwise(document: bytes):
    """`decode_list` tries the fast one first; whichever answers, the answer is the exact one's."""
    try:
        found = decode_list(document)
    except ValueError:
        found = None

    assert found == exact(document)


@pytest.mark.parametrize("depth", [1_000, 9_999, 10_000, 10_001, 100_000])
def test_depth_is_limited_as_in_go_and_not_by_the_interpreter(depth: int):
    for document in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
        if depth > gojson.MAX_DEPTH:
            with pytest.raises(ValueError, match="deep"):
                gojson.parse(document)
        else:
            assert gojson.parse(document) is not None
