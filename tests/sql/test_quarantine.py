"""What was set aside can be looked at, put back and forgotten; putting back loses nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import InvalidInputError, InvalidKeyError, NotFoundError, SQLMetadataStore, import_directory
from layerstore.keys import Record
from layerstore.sql.backend import Quarantined
from layerstore.sql.quarantine import drop_quarantined, one_quarantined, restore_quarantined
from tests.conftest import database_rows
from tests.support.entries import LISTS, MAPPINGS, entries, layer_key, whole, write_file

KEY = layer_key(1)


def values(store: SQLMetadataStore) -> Counter[tuple[object, ...]]:
    """Return all bytes that the store has, in quarantine or not, with their places."""
    return Counter(
        database_rows(
            store,
            "SELECT namespace, key, CAST(value AS BLOB) FROM metadata"
            " UNION ALL SELECT namespace, key, CAST(value AS BLOB) FROM quarantine",
        )
    )


def numbers(store: SQLMetadataStore) -> list[int]:
    return [one.number for one in store.quarantined()]


def test_the_oldest_comes_first_with_all_that_is_known_of_it(sql_store: SQLMetadataStore):
    sql_store.quarantine("n", "b", b"\0\xff", "first")
    sql_store.quarantine("n", "a", b"", "second")

    first, second = sql_store.quarantined()

    assert first == one_quarantined(sql_store, first.number)
    assert (first.namespace, first.key, first.value, first.reason) == ("n", "b", b"\0\xff", "first")
    assert (second.key, second.value, second.reason) == ("a", b"", "second")
    assert first.number < second.number
    assert 0 < first.quarantined_at_ns <= second.quarantined_at_ns


def test_a_number_that_is_not_there_is_not_found(sql_store: SQLMetadataStore):
    sql_store.quarantine("n", "k", b"v", "why")
    before = whole(sql_store)

    for work in (
        lambda: one_quarantined(sql_store, 99),
        lambda: restore_quarantined(sql_store, 99),
        lambda: restore_quarantined(sql_store, 99, force=True),
        lambda: drop_quarantined(sql_store, [99]),
        lambda: one_quarantined(sql_store, -1),
    ):
        with pytest.raises(NotFoundError) as raised:
            work()
        assert raised.value.namespace == "quarantine"
    assert whole(sql_store) == before


def test_restore_puts_back_what_is_not_there(sql_file: SQLMetadataStore):
    sql_file.quarantine(LISTS, KEY, entries(1, 2), "why")

    found = restore_quarantined(sql_file, *numbers(sql_file))

    assert isinstance(found, Quarantined)
    assert (found.namespace, found.key, found.value) == (LISTS, KEY, entries(1, 2))
    assert sql_file.get(LISTS, KEY) == entries(1, 2)
    assert sql_file.quarantined() == []


def test_restore_swaps_with_what_is_there(sql_file: SQLMetadataStore):
    """Twice is as before; the derived rows follow each time (the fixture checks them)."""
    sql_file.set(LISTS, KEY, entries(1))
    sql_file.quarantine(LISTS, KEY, entries(2), "why")
    before = values(sql_file)

    for expected, other in ((entries(2), entries(1)), (entries(1), entries(2))):
        (number,) = numbers(sql_file)
        restore_quarantined(sql_file, number)
        (aside,) = sql_file.quarantined()
        assert (sql_file.get(LISTS, KEY), aside.value) == (expected, other)
        assert str(number) in aside.reason
        assert values(sql_file) == before


def test_restore_of_what_is_there_already_only_ends_its_quarantine(sql_file: SQLMetadataStore):
    sql_file.set("n", "k", b"v")
    sql_file.quarantine("n", "k", b"v", "why")

    restore_quarantined(sql_file, *numbers(sql_file))

    assert sql_file.get("n", "k") == b"v"
    assert sql_file.quarantined() == []


UNREADABLE = [(LISTS, KEY, b"["), (LISTS, "sha256/short", entries(1)), (MAPPINGS, KEY, b"x"), ("v1id", "x", b"y")]


@pytest.mark.parametrize(("namespace", "key", "value"), UNREADABLE)
def test_what_still_cannot_be_read_is_restored_only_by_force(
    namespace: str, key: str, value: bytes, sql_file: SQLMetadataStore
):
    sql_file.quarantine(namespace, key, value, "why")
    before = whole(sql_file)

    with pytest.raises(InvalidInputError, match="--force"):
        restore_quarantined(sql_file, *numbers(sql_file))
    assert whole(sql_file) == before

    restore_quarantined(sql_file, *numbers(sql_file), force=True)
    assert sql_file.get(namespace, key) == value
    assert sql_file.quarantined() == []


@pytest.mark.parametrize(("namespace", "key"), [("n", "../x"), ("n", ""), ("a/b", "k"), ("n", ".tmp-k")])
def test_a_key_that_breaks_the_key_rules_is_not_restored_even_by_force(
    namespace: str, key: str, sql_file: SQLMetadataStore
):
    """A database from elsewhere may have had it; no directory can."""
    sql_file.quarantine(namespace, key, b"v", "why")
    before = whole(sql_file)

    for force in (False, True):
        with pytest.raises(InvalidKeyError):
            restore_quarantined(sql_file, *numbers(sql_file), force=force)
        assert whole(sql_file) == before


def test_an_error_in_the_middle_of_restore_leaves_all_as_it_was(
    sql_file: SQLMetadataStore, monkeypatch: pytest.MonkeyPatch
):
    sql_file.set("n", "k", b"new")
    sql_file.quarantine("n", "k", b"old", "why")
    before = whole(sql_file)

    def fail(*_: object) -> None:
        raise RuntimeError("in the middle")

    monkeypatch.setattr(sql_file, "set", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        restore_quarantined(sql_file, *numbers(sql_file))
    assert whole(sql_file) == before


def test_drop_forgets_all_that_are_named_or_none(sql_file: SQLMetadataStore):
    for key in "abc":
        sql_file.quarantine("n", key, b"v", "why")
    one, two, three = numbers(sql_file)
    before = whole(sql_file)

    with pytest.raises(NotFoundError):
        drop_quarantined(sql_file, [one, 99, two])
    assert whole(sql_file) == before

    assert [found.key for found in drop_quarantined(sql_file, [three, one])] == ["c", "a"]
    assert numbers(sql_file) == [two]
    assert drop_quarantined(sql_file, []) == []


def test_a_number_is_never_given_to_another_value(sql_file: SQLMetadataStore):
    """Who has read the list and then says `drop 3` must not forget what was set aside since."""
    sql_file.quarantine("n", "a", b"read and no longer needed", "why")
    sql_file.quarantine("n", "b", b"also", "why")
    listed = numbers(sql_file)
    drop_quarantined(sql_file, listed[-1:])

    sql_file.quarantine("n", "c", b"new", "why")

    with pytest.raises(NotFoundError):
        drop_quarantined(sql_file, listed[-1:])
    assert [one.value for one in sql_file.quarantined()][-1] == b"new"


def test_both_sides_of_a_conflict_are_still_there_after_it_was_decided_otherwise(
    sql_file: SQLMetadataStore, tmp_path: Path
):
    for number in (1, 2):
        write_file(tmp_path / "d", MAPPINGS, KEY, b"sha256:" + str(number).encode() * 64, number)
        import_directory(sql_file, tmp_path / "d")
    assert sql_file.get(MAPPINGS, KEY).endswith(b"2")

    restore_quarantined(sql_file, *numbers(sql_file))

    assert sql_file.get(MAPPINGS, KEY).endswith(b"1")
    assert [one.value[-1:] for one in sql_file.quarantined()] == [b"2"]


_VALUES = st.sampled_from([b"", b"[", b"[]", entries(1), entries(2, 1)])
_RECORDS = st.builds(Record, st.sampled_from(["n", LISTS]), st.sampled_from([KEY, layer_key(2)]), _VALUES, st.just(0))
_RESTORES = st.tuples(st.integers(0, 5), st.booleans())
_STEPS = st.tuples(st.sampled_from(["set", "aside", "restore"]), _RECORDS, _RESTORES)


@pytest.mark.slow
@given(st.lists(_STEPS, max_size=12))
def test_whatever_was_done_before_restore_loses_no_bytes(steps: list[tuple[str, Record, tuple[int, bool]]]):
    """The multiset of all values stays; only of two that are equal in one place may one go."""
    with SQLMetadataStore(":memory:") as store:
        for what, record, (which, force) in steps:
            if what == "set":
                store._put(record)
            elif what == "aside":
                store.quarantine(*record[:3], "why")
            elif numbers(store):
                _restore_and_compare(store, numbers(store)[which % len(numbers(store))], force=force)


def _restore_and_compare(store: SQLMetadataStore, number: int, *, force: bool) -> None:
    before = values(store)
    chosen = one_quarantined(store, number)
    place = (chosen.namespace, chosen.key)
    was_there = store.get_many(chosen.namespace, [chosen.key]).get(chosen.key) == chosen.value
    try:
        restore_quarantined(store, number, force=force)
    except InvalidInputError:
        assert not force
        assert values(store) == before
        return
    assert store.get(*place) == chosen.value
    gone = Counter({(*place, chosen.value): 1} if was_there else {})
    assert before - values(store) == gone
    assert values(store).keys() == before.keys()
