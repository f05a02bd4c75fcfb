"""The key rules are the same in every store, on every way in; and a key that is allowed works."""

from __future__ import annotations

import pytest
from hypothesis import given
from sqlalchemy import text

from layerstore import (
    DiffID,
    InvalidKeyError,
    NotFoundError,
    SQLMetadataStore,
    V1IDService,
    V2Metadata,
    V2MetadataService,
)
from layerstore.keys import check_key, why_not_a_key, why_not_a_namespace
from tests.conftest import AnyStore
from tests.support.strategies import KEYS, SEGMENTS, sha256

BAD_SEGMENTS = ["", ".", "..", ".tmp-", ".tmp-abc123", "a\0b", "\0", "\ud800", "a\udcff"]
BAD_NAMESPACES = [*BAD_SEGMENTS, "a/b", "/", "/a", "a/", "../a", 5, None, b"n", ("n",)]
BAD_KEYS = [
    *BAD_SEGMENTS,
    *(f"a/{segment}" for segment in BAD_SEGMENTS),
    *(f"{segment}/a" for segment in BAD_SEGMENTS),
    "/",
    "/etc/passwd",
    "a//b",
    "../../etc/passwd",
    5,
    None,
    b"k",
    ["k"],
]
UNHASHABLE: list[object] = [["k"]]
GOOD_SEGMENTS = ["a", "...", ".a", ".tmp", ".tmpx", "a.tmp-", " ", "\n", "~", "-rf", "a,b", "a:b", "C:\\x", "é", "\x7f"]


@pytest.mark.parametrize("namespace", BAD_NAMESPACES, ids=repr)
def test_a_namespace_that_is_not_one_segment_is_refused_everywhere(store: AnyStore, namespace: str):
    with pytest.raises(InvalidKeyError):
        store.get(namespace, "k")
    with pytest.raises(InvalidKeyError):
        store.set(namespace, "k", b"")
    with pytest.raises(InvalidKeyError):
        store.delete(namespace, "k")
    with pytest.raises(InvalidKeyError):
        store.get_many(namespace, ["k"])
    with pytest.raises(InvalidKeyError):
        store.set_many([(namespace, "k", b"")])
    if namespace is not None:
        with pytest.raises(InvalidKeyError):
            list(store.entries(namespace))
    assert list(store.entries()) == []


@pytest.mark.parametrize("key", BAD_KEYS, ids=repr)
def test_a_key_with_a_bad_segment_is_refused_everywhere(store: AnyStore, key: str):
    with pytest.raises(InvalidKeyError):
        store.get("n", key)
    with pytest.raises(InvalidKeyError):
        store.set("n", key, b"")
    with pytest.raises(InvalidKeyError):
        store.set("v2metadata-by-diffid", key, b"[]")
    with pytest.raises(InvalidKeyError):
        store.delete("n", key)
    if key not in UNHASHABLE:
        with pytest.raises(InvalidKeyError):
            store.get_many("n", ["good", key])
    with pytest.raises(InvalidKeyError):
        store.set_many([("n", key, b"")])
    assert list(store.entries()) == []


@pytest.mark.parametrize("segment", GOOD_SEGMENTS, ids=repr)
def test_a_segment_that_only_looks_odd_is_allowed(store: AnyStore, segment: str):
    store.set(segment, f"{segment}/{segment}", b"value")

    assert store.get(segment, f"{segment}/{segment}") == b"value"
    assert list(store.entries(segment)) == [(segment, f"{segment}/{segment}", b"value")]
    store.delete(segment, f"{segment}/{segment}")
    assert list(store.entries()) == []


LONGEST = ["k" * 239, "\U0001f600" * 59 + "abc", "d" * 239 + "/" + "k" * 239]


@pytest.mark.parametrize("key", LONGEST, ids=["ascii", "four bytes", "two segments"])
def test_the_longest_segment_has_239_bytes(store: AnyStore, key: str):
    """So that its temporary file, as Docker names it, still fits into 255; in characters of one byte and of four."""
    store.set("n", key, b"value")
    store.set(key.partition("/")[0], "k", b"value")
    assert store.get("n", key) == b"value"

    for namespace, too_long in (("n", f"{key}x"), ("n", f"x{key}/a"), ("x" * 240, "k")):
        with pytest.raises(InvalidKeyError, match="over 239 bytes"):
            store.set(namespace, too_long, b"value")
        with pytest.raises(InvalidKeyError, match="over 239 bytes"):
            store.set_many([(namespace, too_long, b"value")])
        with pytest.raises(NotFoundError):
            store.get(namespace, too_long)
        with pytest.raises(NotFoundError):
            store.delete(namespace, too_long)
        assert store.get_many(namespace, [too_long]) == {}
    assert len(list(store.entries())) == 2


def test_a_digest_that_is_too_long_for_a_key_is_refused(store: AnyStore):
    """The grammar of other algorithms than SHA-2 sets no limit."""
    v2, long = V2MetadataService(store), f"other:{'x' * 240}"

    for diff_id, digest in ((sha256(1), long), (long, sha256(1))):
        with pytest.raises(InvalidKeyError, match="over 239 bytes"):
            v2.add(diff_id, V2Metadata(digest))
    with pytest.raises(InvalidKeyError, match="over 239 bytes"):
        V1IDService(store).set("a" * 64, "r" * 240, DiffID(sha256(1)))

    assert list(store.entries()) == []


@pytest.mark.parametrize("key", ["k" * 240, "k" * 2000, f"a/{'é' * 120}/b"], ids=["one over", "far over", "two bytes"])
def test_an_entry_of_before_with_a_longer_segment_can_be_read_and_deleted(sql_store: SQLMetadataStore, key: str):
    with sql_store.engine.begin() as connection:
        connection.execute(text("INSERT INTO metadata VALUES ('n', :key, :value, 0)"), {"key": key, "value": b"v"})

    assert sql_store.get("n", key) == b"v"
    assert sql_store.get_many("n", [key]) == {key: b"v"}
    assert list(sql_store.entries("n")) == [("n", key, b"v")]
    with pytest.raises(InvalidKeyError, match="over 239 bytes"):
        sql_store.set("n", key, b"other")
    sql_store.delete("n", key)
    assert list(sql_store.entries()) == []


@pytest.mark.parametrize("below", ["a/b", "a/b/c"])
def test_below_an_entry_there_is_nothing(store: AnyStore, below: str):
    """On files the entry is in the place of a directory: ENOTDIR is absence too."""
    store.set("n", "a", b"")

    with pytest.raises(NotFoundError):
        store.get("n", below)
    with pytest.raises(NotFoundError):
        store.delete("n", below)
    assert store.get_many("n", ["a", below]) == {"a": b""}


def test_above_an_entry_there_is_nothing(store: AnyStore):
    """On files a directory is in the key's place: EISDIR is absence too."""
    store.set("n", "a/b", b"")

    with pytest.raises(NotFoundError):
        store.get("n", "a")
    with pytest.raises(NotFoundError):
        store.delete("n", "a")
    assert store.get("n", "a/b") == b""


@given(SEGMENTS, KEYS)
def test_whatever_the_rules_allow_can_be_stored(namespace: str, key: str):
    check_key(namespace, key)
    with SQLMetadataStore(":memory:") as store:
        store.set(namespace, key, b"value")

        assert list(store.entries()) == [(namespace, key, b"value")]


@pytest.mark.parametrize(
    ("namespace", "key", "reason"),
    [
        ("a/b", "k", "a namespace is one path segment, without a slash"),
        ("", "k", "the namespace is empty"),
        (b"n", "k", "the namespace must be text, not bytes"),
        ("n", "/k", "a segment of the key is empty"),
        ("n", "..", "a segment of the key is '..'"),
        ("n", "a/.tmp-b", "a segment of the key begins with '.tmp-', as files do that are still being written"),
        ("n", "a\0", "a segment of the key holds a NUL character"),
        ("n", "\ud800", "a segment of the key cannot be written as UTF-8"),
        ("n", 1, "the key must be text, not int"),
    ],
    ids=repr,
)
def test_the_error_says_which_rule_was_broken(namespace: str, key: str, reason: str):
    with pytest.raises(InvalidKeyError) as caught:
        check_key(namespace, key)

    assert reason in str(caught.value)
    assert reason in (why_not_a_namespace(namespace), why_not_a_key(key))
