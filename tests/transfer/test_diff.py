"""Comparing any two of a database, a store in memory, a directory, a data root."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore import (
    FSMetadataStore,
    SQLMetadataStore,
    TransferError,
    diff,
    export_directory,
    import_directory,
)
from layerstore.keys import Record
from layerstore.transfer.diffing import Entry, LayerDifference
from tests.support.entries import AT, GOLDEN_FILES, LISTS, entries, layer_key, write_file
from tests.support.strategies import KEYS, SEGMENTS, sha256

KINDS = ["file", "memory", "path", "files", "directory", "data-root"]


@pytest.fixture
def sides(sql_file: SQLMetadataStore, sql_memory: SQLMetadataStore, golden: Path, tmp_path: Path) -> dict[str, object]:
    """The same entries in every form that can be compared."""
    import_directory(sql_file, golden)
    import_directory(sql_memory, golden)
    export_directory(sql_file, tmp_path / "root" / "image" / "vfs" / "distribution")
    return {
        "file": sql_file,
        "memory": sql_memory,
        "path": sql_file.path,
        "files": FSMetadataStore(golden),
        "directory": golden,
        "data-root": str(tmp_path / "root"),
    }


@pytest.mark.parametrize(("left", "right"), list(itertools.product(KINDS, KINDS)))
def test_the_same_entries_are_equal_in_every_form(sides: dict[str, object], left: str, right: str):
    report = diff(sides[left], sides[right])  # type: ignore[arg-type]  # each is one of these

    assert (report.equal, report.times_differ, report.ok) == (GOLDEN_FILES, 0, True)
    assert (report.only_left, report.only_right, report.differing) == ((), (), ())


def test_each_kind_of_difference_is_told_and_the_sides_are_named(sql_file: SQLMetadataStore, directory: Path):
    for namespace, key, value, at in (
        ("m", "left", b"", 1),
        ("n", "a", b"same", AT),
        ("n", "b", b"same", 1),
        ("n", "c", b"ours", AT),
        ("z", "left", b"", 1),
    ):
        sql_file._put(Record(namespace, key, value, at))
    for namespace, key, value in (("a", "right", b""), ("n", "a", b"same"), ("n", "b", b"same"), ("n", "c", b"theirs")):
        write_file(directory, namespace, key, value)

    report = diff(sql_file, directory)

    assert (report.left, report.right) == (str(sql_file.path), str(directory))
    assert report.only_left == (Entry("m", "left"), Entry("z", "left"))
    assert report.only_right == (Entry("a", "right"),)
    assert report.differing == (Entry("n", "c"),)
    assert (report.equal, report.times_differ, report.ok, report.layers) == (2, 1, False, ())


def test_what_differs_is_told_by_layer(sql_file: SQLMetadataStore, directory: Path):
    """Lists that cannot be read differ as entries alone."""
    for number, ours, theirs in (
        (1, entries(1, 2, 3), entries(3, 2, 4)),
        (2, entries(1), b" " + entries(1)),
        (3, entries(1), b"["),
    ):
        sql_file.set(LISTS, layer_key(number), ours)
        write_file(directory, LISTS, layer_key(number), theirs)
    write_file(directory, LISTS, layer_key(4), entries(5))

    report = diff(sql_file, directory)

    source = "from localhost:5000/team/app"
    assert report.layers == (
        LayerDifference(sha256(1), (f"{sha256(1)} {source}",), (f"{sha256(4)} {source}",), reordered=True),
        LayerDifference(sha256(4), (), (f"{sha256(5)} {source}",), reordered=False),
    )
    assert len(report.differing) == 3


def test_other_times_alone_are_no_difference(sql_file: SQLMetadataStore, directory: Path):
    sql_file._put(Record("n", "k", b"", AT + 1))
    write_file(directory, "n", "k", b"")

    report = diff(sql_file, directory)
    assert (report.ok, report.equal, report.times_differ) == (True, 1, 1)


def test_a_store_in_memory_has_a_name_in_the_report(sql_memory: SQLMetadataStore, directory: Path):
    assert (diff(sql_memory, directory).left, diff(directory, sql_memory).right) == (":memory:", ":memory:")


def test_what_is_no_entry_in_a_directory_is_not_compared(sql_file: SQLMetadataStore, directory: Path):
    write_file(directory, "n", ".tmp-x", b"")
    (directory / "stray").write_bytes(b"")
    (directory / "link").symlink_to("nowhere")

    assert diff(sql_file, directory).ok


@pytest.mark.parametrize("swap", [False, True], ids=["right", "left"])
def test_a_missing_side_is_an_error_with_its_path(sql_file: SQLMetadataStore, tmp_path: Path, swap: bool):
    missing = tmp_path / "missing"

    with pytest.raises(TransferError) as caught:
        diff(*((missing, sql_file) if swap else (sql_file, missing)))
    assert caught.value.path == str(missing)
    assert not missing.exists()


def test_several_drivers_are_not_one_side(sql_file: SQLMetadataStore, tmp_path: Path):
    for driver in ("aufs", "vfs"):
        write_file(tmp_path / "root" / "image" / driver / "distribution", "n", "k", b"")

    with pytest.raises(TransferError, match=r"give one of .*aufs.*vfs"):
        diff(sql_file, tmp_path / "root")


def test_comparing_changes_neither_side(sides: dict[str, object], golden: Path, tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in golden.rglob("*")}

    def names() -> list[str]:
        # A reader of a database in WAL mode makes these two beside it.
        return sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(("-wal", "-shm")))

    there = names()

    diff(golden, sides["path"])  # type: ignore[arg-type]  # it is a path

    assert {path: path.stat().st_mtime_ns for path in golden.rglob("*")} == before
    assert names() == there


_contents = st.dictionaries(st.tuples(SEGMENTS, KEYS), st.sampled_from([b"", b"x"]), max_size=8)


@pytest.mark.slow
@given(_contents, _contents)
def test_a_difference_is_what_sets_of_entries_say(
    left: dict[tuple[str, str], bytes], right: dict[tuple[str, str], bytes]
):
    """Whatever the names, so that the order of both sides must be the same: that of the UTF-8 bytes of whole keys."""
    with tempfile.TemporaryDirectory() as folder, SQLMetadataStore(":memory:") as store:
        files = FSMetadataStore(folder)
        for (namespace, key), value in left.items():
            store.set(namespace, key, value)
        for place, value in list(right.items()):
            try:
                files.set(*place, value)
            except ValueError:
                del right[place]  # a file is in the place of its directory

        report = diff(store, files)

    assert {(found.namespace, found.key) for found in report.only_left} == left.keys() - right.keys()
    assert {(found.namespace, found.key) for found in report.only_right} == right.keys() - left.keys()
    both = left.keys() & right.keys()
    assert {(found.namespace, found.key) for found in report.differing} == {p for p in both if left[p] != right[p]}
    assert report.equal == sum(left[place] == right[place] for place in both)
