"""What goes and what stays, criterion by criterion, and what is said of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from layerstore import InvalidInputError, LayerstoreError, PruneReport, SQLMetadataStore, prune, verify
from layerstore.keys import Record
from layerstore.transfer import criteria
from tests.support.entries import AT, LISTS, MAPPINGS, V1, layer_key, rows_of
from tests.transfer.prune.conftest import DAY, HUB, OLD, OURS, a_list, fill, make_layerdb, mapping, place, places, v1_id

RECORDS = [
    a_list(1, (11, OLD), (12, OURS), (13, OLD)),
    a_list(2, (21, OLD)),
    a_list(3, (31, HUB), at=AT + 9 * DAY),
    a_list(4),
    mapping(11, 1),
    mapping(12, 1),
    mapping(13, 1),
    mapping(19, 1),
    mapping(21, 2),
    mapping(31, 3),
    v1_id(1, 1),
    v1_id(2, 3, "registry-1.docker.io", at=AT + 9 * DAY),
    Record("custom", "k", b"v", AT),
]
UNREADABLE = [
    Record(LISTS, layer_key(7), b"[", AT),
    Record(MAPPINGS, layer_key(8), b"", AT),
    Record(V1, "no id", b"", AT),
    Record(LISTS, "sha256/short", b"[]", AT),
]


@pytest.fixture
def full(sql_store: SQLMetadataStore) -> SQLMetadataStore:
    fill(sql_store, RECORDS + UNREADABLE)
    return sql_store


def went(store: SQLMetadataStore) -> set[tuple[str, str]]:
    """Return the places that are no more; what must never go is still there."""
    assert set(map(place, UNREADABLE)) | {("custom", "k")} <= places(store)
    return {place(record) for record in RECORDS} - places(store)


def test_by_layers_everything_of_a_layer_that_is_gone_goes(full: SQLMetadataStore, tmp_path):
    report = prune(full, keep_layers=make_layerdb(tmp_path, [1, 3, 99]))

    assert went(full) == {(LISTS, layer_key(2)), (LISTS, layer_key(4)), (MAPPINGS, layer_key(21))}
    assert (report.lists, report.shortened, report.associations, report.mappings, report.v1_ids) == (2, 0, 1, 1, 0)
    assert (report.unreadable, report.changed, report.temporary, report.dry_run, report.ok) == (4, 0, 0, False, True)
    assert report.checked == len(RECORDS) - 1 + len(UNREADABLE)


def test_by_age_what_is_older_goes(full: SQLMetadataStore):
    moment = datetime.fromtimestamp(AT // 10**9 + 86_400, UTC)

    report = prune(full, older_than=moment)

    old = {place(record) for record in RECORDS if record.modified_at_ns == AT}
    assert went(full) == old - {("custom", "k"), (MAPPINGS, layer_key(31))}  # the list that stays needs it
    assert (report.lists, report.associations, report.mappings, report.v1_ids) == (3, 4, 5, 1)


def test_by_registry_its_associations_and_v1_ids_go_and_digests_still_resolve(full: SQLMetadataStore):
    report = prune(full, registry="old.example.com")

    assert went(full) == {(LISTS, layer_key(2)), place(v1_id(1, 1))}
    assert full.get(LISTS, layer_key(1)) == a_list(1, (12, OURS)).value
    assert (report.lists, report.shortened, report.associations, report.mappings, report.v1_ids) == (1, 1, 3, 0, 1)
    assert {row[3] for row in rows_of(full) if row[1] == layer_key(1)} == {AT}  # what is left is not newer for it


@pytest.mark.parametrize("name", ["busybox", "docker.io/busybox", "index.docker.io/library/busybox", HUB])
def test_by_repository_as_people_name_it(full: SQLMetadataStore, name: str):
    report = prune(full, repository=name)

    assert went(full) == {(LISTS, layer_key(3))}
    assert (report.lists, report.associations, report.v1_ids) == (1, 1, 0)


def test_of_several_registries_any_one_counts(full: SQLMetadataStore):
    prune(full, registry=["old.example.com", "index.docker.io"])

    assert went(full) == {(LISTS, layer_key(2)), (LISTS, layer_key(3)), place(v1_id(1, 1))}


def test_by_number_each_layers_newest_stay(full: SQLMetadataStore):
    report = prune(full, keep_newest=2)

    assert went(full) == set()
    assert full.get(LISTS, layer_key(1)) == a_list(1, (12, OURS), (13, OLD)).value
    assert (report.lists, report.shortened, report.associations) == (0, 1, 1)


def test_criteria_together_must_all_say_so(full: SQLMetadataStore, tmp_path):
    """Of old.example.com, of a layer that is gone, but each layer's newest."""
    report = prune(full, keep_layers=make_layerdb(tmp_path, [2, 3]), registry="old.example.com", keep_newest=1)

    assert went(full) == set()
    assert full.get(LISTS, layer_key(1)) == a_list(1, (12, OURS), (13, OLD)).value
    assert report.associations == 1


def test_a_mapping_stays_while_a_list_that_stays_holds_its_digest(sql_store: SQLMetadataStore, tmp_path):
    """Else verify would find half an `add`; of another layer's list too."""
    fill(
        sql_store,
        [a_list(1, (11, OURS), at=AT + 9 * DAY), mapping(11, 1), a_list(2, (12, OURS)), mapping(12, 5), mapping(13, 5)],
    )

    prune(sql_store, older_than=datetime.fromtimestamp(AT // 10**9 + 86_400, UTC))
    assert places(sql_store) == {(LISTS, layer_key(1)), (MAPPINGS, layer_key(11))}

    fill(sql_store, [a_list(2, (12, OURS)), mapping(12, 5), mapping(13, 5)])
    prune(sql_store, keep_layers=make_layerdb(tmp_path, [1, 2]))
    assert (MAPPINGS, layer_key(12)) in places(sql_store)
    assert (MAPPINGS, layer_key(13)) not in places(sql_store)
    assert verify(sql_store).ok


def test_again_there_is_nothing_to_do(full: SQLMetadataStore):
    prune(full, registry="old.example.com", keep_newest=1)
    before = rows_of(full)

    report = prune(full, registry="old.example.com", keep_newest=1)

    assert rows_of(full) == before
    assert (report.lists, report.shortened, report.associations, report.v1_ids, report.examples) == (0, 0, 0, 0, ())


BAD: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no age": {"older_than": "soon"},
    "an age without a unit": {"older_than": "30"},
    "a number as age": {"older_than": 30},
    "an age before all dates": {"older_than": "999999w"},
    "the future": {"older_than": "2999-01-01"},
    "a negative age": {"older_than": timedelta(days=-1)},
    "none of the newest": {"keep_newest": 0},
    "half of the newest": {"keep_newest": 1.5},
    "true of the newest": {"keep_newest": True},
    "a repository as registry": {"registry": "docker.io/library"},
    "no registry": {"registry": ""},
    "a word as registry": {"registry": "team"},
    "a tag": {"repository": "busybox:latest"},
    "temporary files of a database": {"temporary": True},
    "a data root that is not there": {"keep_layers": "/nowhere"},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
def test_what_cannot_be_meant_is_refused_and_nothing_goes(full: SQLMetadataStore, options: dict[str, Any]):
    before = rows_of(full)

    with pytest.raises(LayerstoreError):
        prune(full, **options)

    assert rows_of(full) == before


@pytest.mark.parametrize(
    ("age", "ns"),
    [
        ("30d", -30 * DAY),
        ("12h", -DAY // 2),
        ("90m", -90 * 60 * 10**9),
        ("2w", -14 * DAY),
        ("1s", -(10**9)),
        (timedelta(days=1), -DAY),
        ("2026-01-30", -DAY - DAY // 2),
        ("2026-01-31T11:00", -DAY // 24),
        ("2026-01-31T12:30:00+01:00", -DAY // 48),
        (datetime(2026, 1, 31, 13, tzinfo=timezone(timedelta(hours=2))), -DAY // 24),
        (datetime(2026, 1, 31), -DAY // 2),  # without a zone it is UTC
    ],
)
def test_an_age_or_a_date_in_utc(age: Any, ns: int):
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)

    assert criteria.before(age, now) == int(now.timestamp()) * 10**9 + ns


def test_the_message_of_a_bad_age_shows_good_ones():
    with pytest.raises(InvalidInputError, match=r"30d, 12h.*2026-01-31"):
        criteria.before("a month", datetime.now(UTC))


def test_a_report_says_what_would_go_and_does_nothing(full: SQLMetadataStore):
    before = rows_of(full)

    dry = prune(full, registry="old.example.com", dry_run=True)

    assert rows_of(full) == before
    assert dry.dry_run
    wet = prune(full, registry="old.example.com")
    same = ("checked", "lists", "shortened", "associations", "mappings", "v1_ids", "unreadable", "changed", "examples")
    assert [getattr(dry, field) for field in same] == [getattr(wet, field) for field in same]
    assert isinstance(wet, PruneReport)
    assert wet.examples == (
        f"{LISTS}/{layer_key(1)}: 2 associations",
        f"{LISTS}/{layer_key(2)}",
        f"{V1}/old.example.com,{1:064x}",
    )
