"""Whatever a store holds: what is left is what a simple model says, and the archive gives back what went."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from layerstore import FSMetadataStore, SQLMetadataStore, import_directory, prune, verify
from layerstore.keys import Record
from tests.conftest import assert_sound
from tests.support.entries import AT, rows_of
from tests.transfer.prune.conftest import (
    DAY,
    HUB,
    OLD,
    OURS,
    a_list,
    fill,
    fill_directory,
    make_layerdb,
    mapping,
    v1_id,
)

LAYERS, DIGESTS, TIMES = range(4), range(10, 16), (AT, AT + 2 * DAY)
HOSTS = {HUB: "docker.io", OURS: "localhost:5000", OLD: "old.example.com"}


class Entry(NamedTuple):
    """An entry as the model has it: of `content`, each association apart, or the layer."""

    kind: str
    name: Any
    content: Any
    at: int

    def record(self) -> Record:
        if self.kind == "list":
            return a_list(self.name, *self.content, at=self.at)
        if self.kind == "mapping":
            return mapping(self.name, self.content, at=self.at)
        return v1_id(self.name[0], self.content, self.name[1], at=self.at)


class Wanted(NamedTuple):
    """Criteria, each of which may be absent."""

    layers: frozenset[int] | None
    is_old: bool
    hosts: frozenset[str]
    repositories: frozenset[str]
    newest: int | None


_times = st.sampled_from(TIMES)
_associations = st.tuples(st.sampled_from(DIGESTS), st.sampled_from(sorted(HOSTS)))
_entries = st.one_of(
    st.builds(Entry, st.just("list"), st.sampled_from(LAYERS), st.lists(_associations, max_size=5), _times),
    st.builds(Entry, st.just("mapping"), st.sampled_from(DIGESTS), st.sampled_from(LAYERS), _times),
    st.builds(
        Entry,
        st.just("v1"),
        st.tuples(st.integers(0, 2), st.sampled_from(sorted(HOSTS.values()))),
        st.sampled_from(LAYERS),
        _times,
    ),
)
_stores = st.lists(_entries, max_size=12, unique_by=lambda entry: (entry.kind, entry.name))
_wanted = st.builds(
    Wanted,
    st.none() | st.frozensets(st.sampled_from([*LAYERS, 99])),
    st.booleans(),
    st.frozensets(st.sampled_from(sorted(HOSTS.values())), max_size=2),
    st.frozensets(st.sampled_from(sorted(HOSTS)), max_size=2),
    st.none() | st.integers(1, 4),
).filter(lambda wanted: wanted != Wanted(None, False, frozenset(), frozenset(), None))


def model(entries: list[Entry], wanted: Wanted) -> list[Record]:
    """Return what must be left, written as the documentation says it."""
    whole = not (wanted.hosts or wanted.repositories or wanted.newest)
    left = [kept for entry in entries if entry.kind == "list" and (kept := what_stays(entry, wanted, whole))]
    listed = {digest for entry in left for digest, _ in entry.content}
    for entry in entries:
        goes = entry.kind == "list" or its_layer_goes(entry.content, entry.at, wanted)
        if entry.kind == "mapping":
            goes = goes and whole and entry.name not in listed
        elif entry.kind == "v1":
            goes = goes and not (wanted.repositories or wanted.newest)
            goes = goes and (not wanted.hosts or entry.name[1] in wanted.hosts)
        if not goes:
            left.append(entry)
    return sorted(entry.record() for entry in left)


def its_layer_goes(layer: int, at: int, wanted: Wanted) -> bool:
    return (wanted.layers is None or layer not in wanted.layers) and (not wanted.is_old or at == TIMES[0])


def what_stays(entry: Entry, wanted: Wanted, whole: bool) -> Entry | None:
    """Return what is left of a list, if it is left."""
    kept: list[tuple[int, str]] = []
    for age, (digest, repository) in enumerate(reversed(entry.content), 1):
        goes = its_layer_goes(entry.name, entry.at, wanted)
        goes &= not wanted.hosts or HOSTS[repository] in wanted.hosts
        goes &= not wanted.repositories or repository in wanted.repositories
        goes &= wanted.newest is None or age > wanted.newest
        if not goes:
            kept.insert(0, (digest, repository))
    stays = bool(kept) or not (entry.content or (whole and its_layer_goes(entry.name, entry.at, wanted)))
    return entry._replace(content=kept) if stays else None


def options(wanted: Wanted, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"registry": wanted.hosts, "repository": wanted.repositories, "keep_newest": wanted.newest}
    if wanted.layers is not None:
        found |= {"keep_layers": make_layerdb(folder / "docker", wanted.layers), "force": not wanted.layers}
    if wanted.is_old:
        found["older_than"] = datetime.fromtimestamp(AT // 10**9 + 86_400, UTC)
    return found


def unmapped(store: SQLMetadataStore) -> int:
    return sum(found.count for found in verify(store).findings if found.kind == "unmapped")


@given(_stores, _wanted)
def test_what_is_left_is_what_the_model_says_and_the_archive_gives_back_the_rest(entries: list[Entry], wanted: Wanted):
    with tempfile.TemporaryDirectory() as name, SQLMetadataStore(":memory:") as store:
        folder = Path(name)
        fill(store, [entry.record() for entry in entries])
        before, lost = rows_of(store), unmapped(store)
        expected = model(entries, wanted)

        report = prune(store, to=folder / "gone.tar", **options(wanted, folder))

        assert [Record(*row) for row in rows_of(store)] == expected  # type: ignore[arg-type]  # as it was written
        assert_sound(store)
        assert unmapped(store) <= lost
        assert report.shortened + report.lists + report.mappings + report.v1_ids == len(
            set(before) - {tuple(record) for record in expected}
        )
        if report.archive is not None:
            assert import_directory(store, report.archive).ok
        assert rows_of(store) == before


@given(_stores, _wanted)
def test_a_directory_loses_what_a_store_loses(entries: list[Entry], wanted: Wanted):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = folder / "distribution"
        base.mkdir()
        fill_directory(base, [entry.record() for entry in entries])

        prune(base, **options(wanted, folder))

        with FSMetadataStore(base) as files:
            assert list(files._records()) == model(entries, wanted)
