"""What becomes of an entry that both sides have: `merge` by time, `replace`, `keep`."""

from __future__ import annotations

from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, import_directory
from layerstore.keys import Record
from layerstore.transfer.importing import ImportReport
from layerstore.transfer.merging import Conflict
from tests.conftest import database_rows
from tests.support.entries import (
    AT,
    LISTS,
    MAPPINGS,
    V1,
    Write,
    entries,
    layer_key,
    numbers_of,
    quarantine_of,
    rows_of,
    whole,
)
from tests.support.strategies import sha256

EARLIER, LATER = AT - 1, AT + 1
"""One nanosecond apart from the store's own."""
V1_KEY = "registry," + "a" * 64


def value(number: int) -> bytes:
    return sha256(number).encode()


def have(store: SQLMetadataStore, namespace: str, key: str, content: bytes) -> None:
    store._put(Record(namespace, key, content, AT))


def only_row(store: SQLMetadataStore) -> tuple[bytes, int]:
    ((_, _, content, at),) = rows_of(store)
    assert isinstance(content, bytes)
    assert isinstance(at, int)
    return content, at


def counts(report: ImportReport) -> tuple[int, int, int, int]:
    return report.read, report.added, report.updated, report.unchanged


LISTS_MERGED = {
    "later ones follow": (LATER, [1, 2], [3], [1, 2, 3]),
    "earlier ones precede": (EARLIER, [1, 2], [3], [3, 1, 2]),
    "at the same time the greater bytes are later": (AT, [1, 2], [3], [1, 2, 3]),
    "whichever side has them": (AT, [3], [1, 2], [1, 2, 3]),
    "also of two orders of the same": (AT, [1, 2], [2, 1], [2, 1]),
    "and the lesser do not come back": (AT, [2, 1], [1, 2], [2, 1]),
    "a list that goes on is greater": (AT, [1, 2], [1, 2, 3], [1, 2, 3]),
    "and is not changed by its beginning": (AT, [1, 2, 3], [1, 2], [1, 2, 3]),
    "nor is any list by a part of it": (AT, [1, 2, 3], [2], [1, 2, 3]),
    "and comes back in its order": (AT, [2], [1, 2, 3], [1, 2, 3]),
    "nor a merge by what it was merged from": (AT, [1, 3, 2], [3, 1], [1, 3, 2]),
}


@pytest.mark.parametrize("case", LISTS_MERGED.values(), ids=LISTS_MERGED.keys())
def test_lists_are_merged_by_time(
    sql_file: SQLMetadataStore, directory: Path, write: Write, case: tuple[int, list[int], list[int], list[int]]
):
    at, ours, incoming, merged = case
    have(sql_file, LISTS, layer_key(0), entries(*ours))
    write(LISTS, layer_key(0), entries(*incoming), at)

    report = import_directory(sql_file, directory)

    assert only_row(sql_file) == (entries(*merged), max(at, AT))
    assert (report.evicted, report.conflicts, report.ok) == (0, (), True)
    assert counts(report) == ((1, 0, 0, 1) if merged == ours else (1, 0, 1, 0))
    derived = database_rows(sql_file, "SELECT digest FROM v2_metadata ORDER BY position")
    assert derived == [(sha256(number),) for number in merged]
    assert quarantine_of(sql_file) == []


@pytest.mark.parametrize("at", [EARLIER, LATER])
def test_merged_lists_keep_the_newest_50_and_the_evicted_are_counted(
    sql_file: SQLMetadataStore, directory: Path, write: Write, at: int
):
    have(sql_file, LISTS, layer_key(0), entries(*range(30)))
    write(LISTS, layer_key(0), entries(*range(25, 60)), at)

    report = import_directory(sql_file, directory)

    in_order = [*range(25), *range(25, 60)] if at == LATER else [*range(30, 60), *range(30)]
    assert numbers_of(only_row(sql_file)[0]) == in_order[-50:]
    assert report.evicted == 10
    assert import_directory(sql_file, directory).evicted == 0


def test_an_earlier_list_that_falls_off_whole_changes_nothing(
    sql_file: SQLMetadataStore, directory: Path, write: Write
):
    have(sql_file, LISTS, layer_key(0), entries(*range(50)))
    before = whole(sql_file)
    write(LISTS, layer_key(0), entries(60, 61), EARLIER)

    assert counts(import_directory(sql_file, directory)) == (1, 0, 0, 1)
    assert whole(sql_file) == before


def test_the_same_bytes_get_the_later_time(sql_file: SQLMetadataStore, directory: Path, write: Write):
    have(sql_file, LISTS, layer_key(0), entries(1))
    write(LISTS, layer_key(0), entries(1), LATER)

    assert counts(import_directory(sql_file, directory)) == (1, 0, 0, 1)
    assert only_row(sql_file) == (entries(1), LATER)

    write(LISTS, layer_key(0), entries(1), EARLIER)
    assert counts(import_directory(sql_file, directory)) == (1, 0, 0, 1)
    assert only_row(sql_file) == (entries(1), LATER)


def test_a_later_list_that_has_all_of_ours_is_taken_byte_for_byte(
    sql_file: SQLMetadataStore, directory: Path, write: Write
):
    """What another version of Docker wrote, spaced or without HMAC, is not rewritten without need."""
    spaced = b' [{"Digest":"' + value(2) + b'","SourceRepository":""}]'
    have(sql_file, LISTS, layer_key(0), entries(2, repository=""))
    write(LISTS, layer_key(0), spaced, LATER)

    import_directory(sql_file, directory)

    assert only_row(sql_file) == (spaced, LATER)


@pytest.mark.parametrize(
    "place", [(MAPPINGS, layer_key(9)), (V1, V1_KEY), ("other", "k")], ids=["digest", "v1", "other"]
)
@pytest.mark.parametrize("at", [EARLIER, AT, LATER], ids=["earlier", "tie: the greater bytes", "later"])
def test_of_two_values_the_later_stays_and_the_other_is_a_conflict(
    sql_file: SQLMetadataStore, directory: Path, write: Write, place: tuple[str, str], at: int
):
    namespace, key = place
    kept = 1 if at == EARLIER else 2
    have(sql_file, namespace, key, value(1))
    write(namespace, key, value(2), at)

    report = import_directory(sql_file, directory)

    other = 3 - kept
    assert only_row(sql_file) == (value(kept), max(at, AT))
    assert report.conflicts == (Conflict(namespace, key, sha256(kept), sha256(other), str(directory)),)
    assert not report.ok
    ((_, _, set_aside, reason),) = quarantine_of(sql_file)
    assert set_aside == value(other)
    assert str(reason).startswith("conflict")
    assert sha256(kept) in str(reason)

    before = whole(sql_file)
    again = import_directory(sql_file, directory)
    assert whole(sql_file) == before
    assert counts(again) == (1, 0, 0, 1)


def test_a_conflict_of_long_values_is_reported_short_and_kept_whole(
    sql_file: SQLMetadataStore, directory: Path, write: Write
):
    have(sql_file, "other", "k", b"\xff" * 10_000)
    write("other", "k", b"", LATER)

    (conflict,) = import_directory(sql_file, directory).conflicts

    assert len(conflict.set_aside) < 300
    assert quarantine_of(sql_file)[0][2] == b"\xff" * 10_000


@pytest.mark.parametrize("at", [EARLIER, LATER])
def test_an_unreadable_value_of_ours_gives_way_and_is_kept(
    sql_file: SQLMetadataStore, directory: Path, write: Write, at: int
):
    have(sql_file, LISTS, layer_key(0), b"")
    have(sql_file, MAPPINGS, layer_key(1), b"nonsense")
    write(LISTS, layer_key(0), entries(1), at)
    write(MAPPINGS, layer_key(1), value(0), at)

    report = import_directory(sql_file, directory)

    assert [row[2] for row in rows_of(sql_file)] == [value(0), entries(1)]
    assert [row[:3] for row in quarantine_of(sql_file)] == [
        (MAPPINGS, layer_key(1), b"nonsense"),
        (LISTS, layer_key(0), b""),
    ]
    assert counts(report) == (2, 0, 2, 0)


@pytest.mark.parametrize("at", [EARLIER, AT, LATER])
def test_replace_takes_what_comes_in_with_its_time(sql_file: SQLMetadataStore, directory: Path, write: Write, at: int):
    for namespace, key, ours, theirs in (
        (LISTS, layer_key(0), entries(1, 2), entries(2, 3)),
        (MAPPINGS, layer_key(1), value(0), value(7)),
    ):
        have(sql_file, namespace, key, ours)
        write(namespace, key, theirs, at)
    have(sql_file, "n", "only ours", b"stays")

    report = import_directory(sql_file, directory, on_conflict="replace")

    assert rows_of(sql_file) == [
        (MAPPINGS, layer_key(1), value(7), at),
        ("n", "only ours", b"stays", AT),
        (LISTS, layer_key(0), entries(2, 3), at),
    ]
    assert counts(report) == (2, 0, 2, 0)
    assert (report.conflicts, quarantine_of(sql_file), report.ok) == ((), [], True)
    assert database_rows(sql_file, "SELECT digest FROM v2_metadata ORDER BY position") == [(sha256(2),), (sha256(3),)]


def test_keep_leaves_what_is_there_and_adds_the_rest(sql_file: SQLMetadataStore, directory: Path, write: Write):
    have(sql_file, LISTS, layer_key(0), entries(1))
    have(sql_file, MAPPINGS, layer_key(1), value(0))
    before = rows_of(sql_file)
    write(LISTS, layer_key(0), entries(2), LATER)
    write(MAPPINGS, layer_key(1), value(7), LATER)
    write("zzz", "new", b"added", EARLIER)

    report = import_directory(sql_file, directory, on_conflict="keep")

    assert rows_of(sql_file) == [*before, ("zzz", "new", b"added", EARLIER)]
    assert counts(report) == (3, 1, 0, 2)
    assert (report.conflicts, quarantine_of(sql_file)) == ((), [])
