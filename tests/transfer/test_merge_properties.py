"""Merging is commutative and idempotent, at equal times too: shown on entries and directories that Hypothesis makes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from layerstore import SQLMetadataStore, V2Metadata, import_directory
from layerstore.keys import Record
from layerstore.records import MAX_METADATA, decode_list, encode_list
from layerstore.transfer.merging import merge
from tests.conftest import assert_sound
from tests.support.entries import LISTS, MAPPINGS, V1, layer_key, quarantine_of, rows_of, whole, write_file
from tests.support.strategies import sha256

Item = tuple[str, str, bytes]

_associations = st.builds(
    V2Metadata,
    st.one_of(st.integers(0, 5).map(sha256), st.just("odd")),
    st.sampled_from(["", "host/a", "host/b"]),
    st.sampled_from(["", "f" * 64]),
)
_short = st.lists(_associations, max_size=6)
# Long enough that two of them do not fit into 50; runs of numbers, so that they overlap.
_long = st.tuples(st.integers(0, 40), st.integers(30, 60)).map(
    lambda run: [V2Metadata(sha256(number), "host/long") for number in range(run[0], run[0] + run[1])]
)
_list = st.one_of(
    st.one_of(_short, _long).map(encode_list),
    _short.map(lambda found: b" " + encode_list(found)),
    st.sampled_from([b"null", b"", b"[", b"[{}]"]),
)
_KINDS: dict[str, tuple[st.SearchStrategy[str], st.SearchStrategy[bytes]]] = {
    LISTS: (st.integers(0, 2).map(layer_key), _list),
    MAPPINGS: (
        st.integers(0, 3).map(layer_key),
        st.sampled_from([sha256(0).encode(), sha256(1).encode(), b"", b"nonsense"]),
    ),
    V1: (st.just("registry," + "a" * 64), st.integers(0, 2).map(lambda n: sha256(n).encode())),
    "other": (st.sampled_from(["a", "b"]), st.binary(max_size=3)),
}
_items: st.SearchStrategy[Item] = st.one_of(
    *(st.tuples(st.just(namespace), keys, values) for namespace, (keys, values) in _KINDS.items())
)
_directories = st.lists(_items, max_size=8, unique_by=lambda item: item[:2])


@st.composite
def directories(draw: st.DrawFn, count: int) -> list[list[tuple[Item, int]]]:
    """Draw directories whose files have few times, so that some have the same."""
    return [[(item, draw(st.integers(0, 2))) for item in draw(_directories)] for _ in range(count)]


@st.composite
def versions(draw: st.DrawFn, count: int) -> list[Record]:
    """Draw versions of one entry, most of them readable, some with the same time."""
    namespace = draw(st.sampled_from([LISTS, LISTS, *_KINDS]))
    keys, values = _KINDS[namespace]
    key = draw(keys)
    return [Record(namespace, key, draw(values), draw(st.integers(0, 2))) for _ in range(count)]


@given(versions(2))
def test_two_versions_give_the_same_in_both_orders(both: list[Record]):
    one, other = both

    assert merge(one, other) == merge(other, one)
    assert merge(one, other).record.modified_at_ns == max(one.modified_at_ns, other.modified_at_ns) or (
        merge(one, other).displaced is not None
    )


@given(versions(2))
@example([Record(LISTS, layer_key(0), encode_list([V2Metadata(sha256(n)) for n in range(40)]), 1)] * 2)
@example(
    [
        Record(LISTS, layer_key(0), encode_list([V2Metadata(sha256(n)) for n in numbers]), 1)
        for numbers in (range(10, 50), range(60, 100))
    ]
)
def test_what_was_merged_is_not_changed_by_merging_either_again(both: list[Record]):
    """At equal times too, and where the cap of 50 has taken something away."""
    merged = merge(*both).record

    for version in (*both, merged):
        assert merge(merged, version).record == merged


@given(versions(2))
def test_nothing_of_two_lists_is_lost_but_to_the_cap(both: list[Record]):
    found = merge(*both)
    assume(both[0].namespace == LISTS and both[0].value != both[1].value and found.displaced is None)
    entries = decode_list(found.record.value)
    known = set[V2Metadata]().union(*(decode_list(version.value) for version in both))

    assert set(entries) <= known
    assert set(entries) == known or len(entries) == MAX_METADATA


@given(versions(2))
def test_two_hosts_that_take_from_each_other_come_to_rest(both: list[Record]):
    """Whoever takes first: after three exchanges both have the same, and keep it."""
    one, other = both
    for _ in range(3):
        one = merge(one, other).record
        other = merge(other, one).record

    assert one == other == merge(one, other).record


def make(base: Path, items: Iterable[tuple[Item, int]]) -> Path:
    (base / "v1id").mkdir(parents=True)  # without one of Docker's namespaces it would be refused
    for (namespace, key, value), at in items:
        write_file(base, namespace, key, value, at)
    return base


def merged(*sources: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """Return what a new store holds after importing these, without what its quarantine says of moments."""
    with SQLMetadataStore(":memory:") as store:
        for source in sources:
            import_directory(store, source)
        assert_sound(store)
        return rows_of(store), sorted(quarantine_of(store), key=repr)


@given(directories(2))
@example(
    [
        [((LISTS, layer_key(0), encode_list([V2Metadata(sha256(n)) for n in range(40)])), 1)],
        [((LISTS, layer_key(0), encode_list([V2Metadata(sha256(n)) for n in range(30, 70)])), 2)],
    ]
)
def test_two_directories_give_the_same_store_in_both_orders(items: list[list[tuple[Item, int]]]):
    with tempfile.TemporaryDirectory() as folder:
        one, other = (make(Path(folder) / str(number), content) for number, content in enumerate(items))

        assert merged(one, other) == merged(other, one)


@given(directories(2))
def test_merging_again_changes_nothing(items: list[list[tuple[Item, int]]]):
    """Not the last source, not an earlier one, and not both."""
    with tempfile.TemporaryDirectory() as folder, SQLMetadataStore(":memory:") as store:
        one, other = (make(Path(folder) / str(number), content) for number, content in enumerate(items))
        import_directory(store, one)
        import_directory(store, other)
        before = whole(store)

        for again in (other, one, other):
            report = import_directory(store, again)
            assert whole(store) == before
            assert (report.added, report.updated, report.evicted) == (0, 0, 0)


@given(directories(1), st.booleans())
def test_a_directory_merged_into_an_empty_store_is_the_directory(items: list[list[tuple[Item, int]]], again: bool):
    """But for what goes to quarantine."""
    with tempfile.TemporaryDirectory() as folder:
        base = make(Path(folder) / "0", items[0])
        rows, quarantined = merged(base, base) if again else merged(base)

    set_aside = {row[:2] for row in quarantined}
    assert len(set_aside) == len(quarantined)
    assert set(rows) == {(*item, at) for item, at in items[0] if item[:2] not in set_aside}


@pytest.mark.timeout(60)
def test_two_long_lists_of_one_time_are_merged_before_long():
    """Only a hostile source has one of over 50 entries; looking for a merge in it took hours."""
    entries = [V2Metadata(f"sha256:{number:064x}") for number in range(30_000)]
    one, other = ([*entries, V2Metadata(f"sha256:{end * 64}")] for end in "ab")

    versions = [Record(LISTS, f"sha256/{'c' * 64}", encode_list(version), 1) for version in (one, other)]

    merged = merge(*versions)
    assert merged == merge(*reversed(versions))
    assert decode_list(merged.record.value) == [*entries[-49:], other[-1]]
