"""What every store does alike: get, set, delete, entries, get_many, set_many, close."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import InvalidInputError, NotFoundError, SQLMetadataStore, Store, StoreClosedError
from tests.conftest import AnyStore
from tests.support.strategies import KEYS

VALUES = [b"", b"x", bytes(range(256)), b"sha256:" + b"0" * 64, b"\0" * 100_000]


@pytest.mark.parametrize("value", VALUES, ids=["empty", "one", "all-bytes", "digest", "long"])
def test_a_value_comes_back_byte_for_byte(store: AnyStore, value: bytes):
    store.set("v1id", "registry,id", value)

    assert store.get("v1id", "registry,id") == value
    assert type(store.get("v1id", "registry,id")) is bytes


@pytest.mark.parametrize("make", [bytearray, memoryview], ids=["bytearray", "memoryview"])
def test_a_value_may_be_any_bytes_like_object(store: AnyStore, make: Callable[[bytes], bytes]):
    store.set("n", "k", make(b"bytes"))

    assert store.get("n", "k") == b"bytes"


@pytest.mark.parametrize("value", ["text", None, 5, ["x"]], ids=repr)
def test_a_value_that_is_not_bytes_is_refused_and_nothing_changes(store: AnyStore, value: object):
    store.set("n", "k", b"before")

    with pytest.raises(InvalidInputError, match="bytes"):
        store.set("n", "k", value)  # type: ignore[arg-type]  # the mistake is the point
    assert store.get("n", "k") == b"before"


def test_set_replaces_and_touches_no_other_entry(store: AnyStore):
    store.set("n", "k", b"old")
    store.set("n", "other", b"other")
    store.set("m", "k", b"elsewhere")
    store.set("n", "k", b"new")

    assert list(store.entries()) == [("m", "k", b"elsewhere"), ("n", "k", b"new"), ("n", "other", b"other")]


@pytest.mark.parametrize("method", ["get", "delete"])
def test_an_absent_key_is_not_found_and_the_error_says_which(store: AnyStore, method: str):
    store.set("n", "other", b"")

    with pytest.raises(NotFoundError) as caught:
        getattr(store, method)("n", "sha256/absent")
    assert isinstance(caught.value, KeyError)
    assert (caught.value.namespace, caught.value.key) == ("n", "sha256/absent")
    assert "sha256/absent" in str(caught.value)


def test_a_deleted_key_is_not_found_and_can_be_set_again(store: AnyStore):
    store.set("n", "k", b"first")
    store.delete("n", "k")

    with pytest.raises(NotFoundError):
        store.get("n", "k")
    with pytest.raises(NotFoundError):
        store.delete("n", "k")
    store.set("n", "k", b"second")
    assert store.get("n", "k") == b"second"


def test_delete_removes_one_entry_only(store: AnyStore):
    for key in ("a", "b", "c/d"):
        store.set("n", key, key.encode())
    store.delete("n", "b")

    assert [key for _, key, _ in store.entries()] == ["a", "c/d"]


def test_keys_differ_in_case_and_in_unicode_form(store: AnyStore):
    """No store folds case or normalises: `é` composed and decomposed are two keys."""
    keys = ["K", "k", "\u00e9", "e\u0301"]
    for key in keys:
        store.set("n", key, key.encode())

    assert {key: store.get("n", key) for key in keys} == {key: key.encode() for key in keys}


def test_entries_are_sorted_by_the_utf8_bytes_of_the_whole_key(store: AnyStore):
    """`-` sorts before `/`, though a directory `a` would come first; U+FFFF before U+10000, unlike UTF-16."""
    keys = ["a-b", "a/x", "a/é", "a0", "b", "\uffff", "\U00010000", "B", "sha256/00", "sha256/a", "sha256-x"]
    for key in keys:
        store.set("n", key, b"")
    for namespace in ("n-", "n0", "N", "é"):
        store.set(namespace, "k", b"")

    found = [(namespace.encode(), key.encode()) for namespace, key, _ in store.entries()]
    assert found == sorted(found)
    assert len(found) == len(keys) + 4


def test_entries_of_one_namespace_are_those_alone(store: AnyStore):
    for namespace in ("n", "nn", "N"):
        store.set(namespace, "k", namespace.encode())

    assert list(store.entries("n")) == [("n", "k", b"n")]
    assert list(store.entries("absent")) == []


def test_a_new_store_has_no_entries(store: AnyStore):
    assert list(store.entries()) == []


def test_get_many_leaves_out_what_is_absent(store: AnyStore):
    for key in ("a", "b", "c"):
        store.set("n", key, key.encode())
    store.set("m", "d", b"of another namespace")

    assert store.get_many("n", ["c", "d", "a", "a"]) == {"c": b"c", "a": b"a"}
    assert store.get_many("n", []) == {}
    assert store.get_many("absent", ["a"]) == {}


def test_names_may_be_of_a_subclass_of_text(store: AnyStore):
    """`Digest` is one, and frameworks have theirs."""

    class Text(str):
        __slots__ = ()

    store.set(Text("n"), Text("k"), b"1")
    store.set_many([(Text("n"), Text("l"), b"2")])

    assert store.get(Text("n"), Text("k")) == b"1"
    assert store.get_many(Text("n"), [Text("k"), Text("l"), Text("m")]) == {"k": b"1", "l": b"2"}
    assert list(store.entries(Text("n"))) == [("n", "k", b"1"), ("n", "l", b"2")]
    store.delete(Text("n"), Text("k"))


def test_get_many_takes_any_iterable_of_any_length(store: AnyStore):
    """40,000 keys are more than SQLite takes as parameters of one statement."""
    store.set("n", "7", b"seven")
    store.set("n", "39999", b"last")

    assert store.get_many("n", (str(number) for number in range(40_000))) == {"7": b"seven", "39999": b"last"}


@given(st.dictionaries(KEYS, st.binary(max_size=20), max_size=6), st.lists(KEYS, max_size=4))
def test_get_many_answers_as_get_does(there: dict[str, bytes], asked: list[str]):
    """For every key that is allowed, whatever characters it has: the keys cross to SQLite as JSON."""
    with SQLMetadataStore(":memory:") as store:
        store.set_many(("n", key, value) for key, value in there.items())
        keys = [*there, *asked]
        expected = {key: there[key] for key in keys if key in there}

        assert store.get_many("n", keys) == expected
        assert {key: store.get("n", key) for key in there} == there


def test_set_many_sets_all(store: AnyStore):
    store.set("n", "b", b"old")
    store.set_many(("n", key, b"new") for key in "cab")

    assert list(store.entries()) == [("n", "a", b"new"), ("n", "b", b"new"), ("n", "c", b"new")]


USES: dict[str, Callable[[AnyStore], object]] = {
    "get": lambda store: store.get("n", "k"),
    "get of an absent key": lambda store: store.get("n", "absent"),
    "set": lambda store: store.set("n", "k", b""),
    "set of a list": lambda store: store.set("v2metadata-by-diffid", "k", b""),
    "delete": lambda store: store.delete("n", "k"),
    "entries": lambda store: list(store.entries()),
    "entries of a namespace": lambda store: list(store.entries("n")),
    "get_many": lambda store: store.get_many("n", ["k"]),
    "set_many": lambda store: store.set_many([("n", "k", b"")]),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_a_closed_store_refuses_every_use(store: AnyStore, use: Callable[[AnyStore], object]):
    store.set("n", "k", b"")
    store.close()

    with pytest.raises(StoreClosedError, match="closed") as caught:
        use(store)
    assert caught.value.path == store.path


def test_closing_twice_is_closing_once(store: AnyStore):
    store.close()
    store.close()

    with pytest.raises(StoreClosedError):
        store.get("n", "k")


def test_leaving_the_with_block_closes(store: AnyStore):
    with store as entered:
        assert entered is store
        store.set("n", "k", b"")

    with pytest.raises(StoreClosedError):
        store.get("n", "k")


def test_an_error_leaves_the_with_block_as_it_is(store: AnyStore):
    with pytest.raises(ZeroDivisionError), store:
        raise ZeroDivisionError

    with pytest.raises(StoreClosedError):
        store.get("n", "k")


def test_every_store_is_a_store(store: AnyStore):
    assert isinstance(store, Store)


def test_repr_names_the_class_and_the_place(store: AnyStore):
    assert repr(store) == f"{type(store).__name__}({store.path or ':memory:'!r})"
