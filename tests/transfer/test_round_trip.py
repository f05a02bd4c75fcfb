"""Whatever a store holds comes out as a directory and goes in again unchanged: random stores by Hypothesis."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from hypothesis import assume, given
from hypothesis import strategies as st

from layerstore import InvalidKeyError, LayerstoreError, SQLMetadataStore, diff, export_directory, import_directory
from layerstore.keys import Record
from layerstore.records import encode_list, why_unreadable
from tests.conftest import assert_sound, sqlite_of
from tests.support.entries import LISTS, MAPPINGS, V1, quarantine_of, rows_of
from tests.support.strategies import DIGESTS, KEYS, METADATA, NEAR_DIFF_IDS, NEAR_V1_KEYS, SEGMENTS

_times = st.integers(0, 2**31 * 10**9)
_digest_keys = DIGESTS.map(lambda digest: digest.replace(":", "/", 1))
_records = st.one_of(
    st.builds(Record, SEGMENTS, KEYS, st.binary(max_size=40), _times),
    st.builds(Record, st.just(LISTS), _digest_keys, st.lists(METADATA, max_size=5).map(encode_list), _times),
    st.builds(Record, st.just(MAPPINGS), _digest_keys, NEAR_DIFF_IDS, _times),
    st.builds(Record, st.just(V1), NEAR_V1_KEYS, NEAR_DIFF_IDS, _times),
)
_stores = st.lists(_records, max_size=12, unique_by=lambda record: record[:2])


def fill(store: SQLMetadataStore, records: list[Record]) -> None:
    for record in records:
        try:
            store._put(record)
        except InvalidKeyError:
            assume(False)  # a key that no store takes


@given(_stores)
def test_a_store_comes_back_from_its_directory(records: list[Record]):
    """But for what its namespace cannot have: that goes to quarantine, byte for byte."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SQLMetadataStore(":memory:") as store,
        SQLMetadataStore(":memory:") as other,
    ):
        fill(store, records)
        target = Path(folder) / "distribution"
        report = export_directory(store, target)
        skipped = {one.path for one in report.skipped}
        assert bool(skipped) == cannot_be_paths(records)
        records = [record for record in records if "/".join(record[:2]) not in skipped]
        assert report.written == len(records)
        assert diff(store, target).equal == len(records)
        assert diff(store, target).times_differ == 0
        assert export_directory(store, target, on_conflict="replace", delete=True).unchanged == len(records)

        import_directory(other, target)
        unreadable = [record for record in records if why_unreadable(*record[:3]) is not None]
        readable = [tuple(record) for record in store._records() if record in records and record not in unreadable]
        assert rows_of(other) == readable
        assert sorted(row[:3] for row in quarantine_of(other)) == sorted(record[:3] for record in unreadable)
        assert_sound(other)


_garbage = st.one_of(st.binary(max_size=8), st.text(max_size=8), st.integers(-(2**63), 2**63 - 1), st.floats())


@given(st.lists(st.tuples(_garbage, _garbage, _garbage, _garbage), min_size=1, max_size=4))
def test_no_garbage_in_a_database_raises_anything_but_our_errors(rows: list[tuple[object, ...]]):
    """Whatever another program wrote into the table, of whatever type; nothing is half written."""
    with tempfile.TemporaryDirectory() as folder, SQLMetadataStore(":memory:") as store:
        for row in rows:
            with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate, which no SQLite text can hold
                sqlite_of(store)._connections.local.handle.execute(
                    "INSERT OR IGNORE INTO metadata VALUES (?, ?, ?, ?)", row
                )
        for work in (
            lambda: export_directory(store, Path(folder) / "target"),
            lambda: diff(store, folder),
            lambda: list(store.entries()),
        ):
            with contextlib.suppress(LayerstoreError):
                work()
        assert list(Path(folder).rglob(".tmp-*")) == []


def cannot_be_paths(records: list[Record]) -> bool:
    paths = {f"{record.namespace}/{record.key}" for record in records}
    return any(
        path.startswith(f"{other}/") or max(map(len, (part.encode() for part in path.split("/")))) > 239
        for path in paths
        for other in paths
    )
