"""Layers over time: which bins there are, and how they are drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import SQLMetadataStore, V2Metadata, V2MetadataService, words
from layerstore.sql.reading.totals import BINS, WIDTHS, Timeline, overview
from layerstore.web.pages import plot
from tests.support.strategies import sha256

SECOND = 1_000_000_000
DAY = 86_400 * SECOND


@pytest.mark.parametrize(
    ("times", "width"),
    [
        ([5 * SECOND], WIDTHS[0]),
        ([0, 47 * SECOND], SECOND),
        ([0, 48 * SECOND], 5 * SECOND),
        ([1_714_564_800 * SECOND, 1_714_564_800 * SECOND + 40 * DAY], DAY),
        ([-3 * SECOND, 2 * SECOND], SECOND),
        ([1 - (1 << 63), (1 << 63) - 1], ((1 << 64) - 2) // BINS + 1),
    ],
)
def test_every_list_is_in_the_bin_of_its_time(sql_file: SQLMetadataStore, times: list[int], width: int):
    with sql_file.engine.begin() as connection:
        for number, time_ns in enumerate(times):
            connection.exec_driver_sql(
                "INSERT INTO metadata VALUES ('v2metadata-by-diffid', ?, CAST('null' AS BLOB), ?)",
                (sha256(number).replace(":", "/"), time_ns),
            )
    timeline = overview(sql_file).timeline

    assert timeline is not None
    assert timeline.width_ns == width
    assert sum(timeline.counts) == len(times)
    for time_ns in times:
        assert timeline.counts[(time_ns - timeline.start_ns) // width] >= 1
    assert len(timeline.counts) <= BINS + 1


def test_without_a_layer_there_is_no_timeline(sql_file: SQLMetadataStore):
    assert overview(sql_file).timeline is None


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=BINS).filter(any),
    st.sampled_from(WIDTHS),
    st.integers(-(1 << 62), 1 << 62),
)
def test_a_plot_has_all_bars_and_they_are_inside_it(counts: list[int], width: int, start: int):
    drawn = plot(Timeline(start, width, tuple(counts)))

    assert [layers for *_, layers in drawn.bars if layers] == [count for count in counts if count]
    assert max(counts) == drawn.top
    assert len(drawn.bars) >= 13


def test_registries_have_their_repositories_and_v1_images(sql_file: SQLMetadataStore):
    v2 = V2MetadataService(sql_file)
    for number in range(30):
        v2.add(sha256(number), V2Metadata(sha256(100 + number), f"host-{number % 2}:5000/app{number % 24}"))
    sql_file.set("v1id", f"old.example.com,{'a' * 64}", sha256(1).encode())
    found = overview(sql_file)

    assert [(one.registry, one.repositories, one.layers, one.v1_ids) for one in found.registries] == [
        ("host-0:5000", 12, 15, 0),
        ("host-1:5000", 12, 15, 0),
        ("old.example.com", 0, 0, 1),
    ]
    assert found.registries[0].largest[:2] == (("host-0:5000/app0", 2), ("host-0:5000/app2", 2))
    assert len(found.registries[0].largest) == 10


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.utc(None), "-"),
        (words.utc(1_714_564_800 * SECOND), "2024-05-01 12:00:00 UTC"),
        (words.size(3), "3 bytes"),
        (words.size(5 << 20), "5.0 MiB"),
        (words.short("sha256:" + "a" * 64), "sha256:aaaaaaaaaaaa…"),
        (words.short("abc"), "abc"),
        (words.short_hmac("0123456789"), "01234567…"),
        (words.short_hmac(""), ""),
        (words.counted(1, "entry", "entries"), "1 entry"),
        (words.counted(2000, "entry", "entries"), "2,000 entries"),
        (words.counted(0, "row"), "0 rows"),
    ],
)
def test_values_read_as_words(said: str, expected: str):
    assert said == expected
