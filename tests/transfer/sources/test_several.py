"""Several places in one import: merged in their order, in one transaction, each with its own account."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import LayerstoreError, SQLMetadataStore, StoreOpenError, TransferError, import_layers
from tests.support.archives import archive, member, tree_archive
from tests.support.command import BAD, DONE, USAGE, Run, assert_one_line_error
from tests.support.entries import AT, LISTS, V1, entries, layer_key, rows_of, sources_of, write_file
from tests.transfer.sources.conftest import counts, fill_database, fill_directory, untouched


def test_each_source_is_named_and_counted_in_the_order_given(sql_file: SQLMetadataStore, three: list[Path]):
    report = import_layers(sql_file, three[2], three[0], three[1])

    assert sources_of(report) == [str(three[2]), str(three[0]), f"{three[1]}/distribution"]
    assert counts(report) == [(1, 1, 0, 0, 0)] * 3
    assert (report.read, report.added, report.updated, report.unchanged, report.ok) == (3, 3, 0, 0, True)
    assert {row[1] for row in rows_of(sql_file)} == {"from directory", "from archive", "from database"}


def test_the_command_takes_all_of_them_and_says_what_came_from_where(run: Run, three: list[Path], database: Path):
    done = run("import", *three)

    assert done.code == DONE
    assert done.out.splitlines() == [
        f"imported {three[0]} into {database}: 1 read, 1 added",
        f"imported {three[1]}/distribution into {database}: 1 read, 1 added",
        f"imported {three[2]} into {database}: 1 read, 1 added",
        "in all: 3 read, 3 added",
    ]

    again = run("import", "--json", *three)
    assert [of["unchanged"] for of in again.json["sources"]] == [1, 1, 1]
    assert (again.json["added"], again.json["unchanged"], again.json["ok"]) == (0, 3, True)


def test_what_an_earlier_source_brought_counts_as_there_for_a_later_one(sql_file: SQLMetadataStore, tmp_path: Path):
    """Of one time the greater one counts as later; an equal entry is unchanged; what cannot be read is apart."""
    places = [tmp_path / name for name in "abcd"]
    values = [(1, 2), (3,), (3, 1)]
    for place, numbers in zip(places[:3], values, strict=True):
        write_file(place, LISTS, layer_key(1), entries(*numbers), AT)
    shutil.copytree(places[2], places[3], dirs_exist_ok=True)
    write_file(places[3], LISTS, layer_key(2), b"", AT)
    write_file(places[3], LISTS, layer_key(1), entries(2, 3, 1), AT)

    report = import_layers(sql_file, *places)

    assert sql_file.get(LISTS, layer_key(1)) == entries(2, 3, 1)
    assert counts(report) == [(1, 1, 0, 0, 0), (1, 0, 1, 0, 0), (1, 0, 1, 0, 0), (2, 0, 0, 1, 1)]


def test_the_bytes_decide_between_entries_of_one_time(
    sql_file: SQLMetadataStore, sql_memory: SQLMetadataStore, tmp_path: Path
):
    one = fill_directory(tmp_path / "one", "k", b"one")
    other = fill_directory(tmp_path / "other", "k", b"other")

    for store, places in ((sql_file, [one, other]), (sql_memory, [other, one])):
        report = import_layers(store, *places)

        assert store.get("n", "k") == b"other"
        assert [(found.kept, found.set_aside) for found in report.conflicts] == [("other", "one")]


def test_the_same_place_twice_adds_nothing_the_second_time(sql_file: SQLMetadataStore, tmp_path: Path):
    place = fill_directory(tmp_path / "one", "k", b"v")

    report = import_layers(sql_file, place, place)

    assert (report.read, report.added, report.updated, report.unchanged) == (2, 1, 0, 1)


def _missing(path: Path) -> None:
    assert not path.exists()


def _cut_off(path: Path) -> None:
    path.write_bytes(tree_archive()[:700])


def _of_another_program(path: Path) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE t (c)")


def _damaged_database(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)


def _data_root_without_metadata(path: Path) -> None:
    (path / "image" / "overlay2").mkdir(parents=True)


BAD_PLACES = [_missing, _cut_off, _of_another_program, _damaged_database, _data_root_without_metadata]


@pytest.mark.parametrize("make", BAD_PLACES, ids=lambda make: make.__name__.strip("_"))
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_one_that_fails_leaves_the_store_untouched(
    first: bool, make: Callable[[Path], None], sql_file: SQLMetadataStore, three: list[Path], tmp_path: Path
):
    bad = tmp_path / "bad"
    make(bad)

    with untouched(sql_file), pytest.raises(LayerstoreError, match=str(bad)):
        import_layers(sql_file, *([bad, *three] if first else [*three, bad]))


def test_the_command_names_the_one_that_fails(run: Run, three: list[Path], tmp_path: Path):
    done = run("import", *three, tmp_path / "bad")

    assert done.code == BAD
    assert_one_line_error(done, tmp_path / "bad")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("which", [2, 3], ids=["database", "directory"])
def test_a_place_that_vanishes_before_its_turn_is_an_error_that_names_it(
    which: int, sql_file: SQLMetadataStore, three: list[Path], tmp_path: Path
):
    places = [*three, fill_directory(tmp_path / "four", "k", b"4")]

    def vanish(done: int, _total: int | None) -> None:
        if done == 1:
            _remove(places[which])

    with untouched(sql_file), pytest.raises((TransferError, StoreOpenError), match=str(places[which])) as raised:
        import_layers(sql_file, *places, progress=vanish)
    assert raised.value.path == str(places[which])
    assert not places[which].exists()


def test_standard_input_twice_is_refused_in_one_line(run_process: Run):
    """It can be read once only."""
    done = run_process("import", "-", "-", stdin=tree_archive())

    assert done.code in (USAGE, BAD)
    assert "Traceback" not in done.err
    assert "standard input" in done.err


def test_standard_input_beside_other_places(three: list[Path], run_process: Run):
    done = run_process("import", "--json", str(three[0]), "-", str(three[2]), stdin=archive(member("v1id/x")))

    assert [of["source"] for of in done.json["sources"]] == [str(three[0]), "standard input", str(three[2])]
    assert [of["quarantined"] for of in done.json["sources"]] == [0, 1, 0]
    assert done.code == 1


def test_other_writers_need_not_wait_while_the_sources_are_read(sql_file: SQLMetadataStore, three: list[Path]):
    """And nothing of what was read is seen before all of it is."""
    assert sql_file.path is not None
    seen = []

    with SQLMetadataStore(sql_file.path, timeout_s=0.05) as other:

        def write(done: int, _total: int | None) -> None:
            other.set("live", str(done), b"")
            seen.append([key for _, key, _ in other.entries("n")])

        import_layers(sql_file, *three, progress=write)

        assert seen == [[], [], []]
        assert len(list(other.entries("n"))) == len(list(other.entries("live"))) == 3


def test_progress_knows_the_total_when_every_place_can_tell(sql_file: SQLMetadataStore, three: list[Path]):
    told: list[tuple[int, int | None]] = []

    import_layers(sql_file, three[0], three[2], progress=lambda done, total: told.append((done, total)))
    import_layers(sql_file, *three[:2], progress=lambda done, total: told.append((done, total)))

    assert told == [(1, 2), (2, 2), (1, None), (2, None)]


def test_an_error_in_the_report_of_one_place_names_that_place(sql_file: SQLMetadataStore, tmp_path: Path):
    one = fill_directory(tmp_path / "one", "k", b"1")
    (one / "n" / "link").symlink_to("k")
    two = tmp_path / "two.tar"
    two.write_bytes(archive(member("distribution/n/../k"), member("distribution/v1id/x", b"")))

    report = import_layers(sql_file, one, two)

    assert [found.path for found in report.skipped] == [f"{one}/n/link", f"{two}/distribution/n/../k"]
    assert [found.path for found in report.quarantined] == [f"{two}/distribution/v1id/x"]


def test_an_archive_without_entries_has_its_account_as_an_empty_directory_has(
    sql_file: SQLMetadataStore, tmp_path: Path
):
    (tmp_path / "empty" / V1).mkdir(parents=True)
    (tmp_path / "empty.tar").write_bytes(archive(member("distribution", type=tarfile.DIRTYPE)))
    fill_database(tmp_path / "x.db", "k", b"")

    report = import_layers(sql_file, *[tmp_path / name for name in ("empty", "empty.tar", "x.db")])

    assert sources_of(report) == [str(tmp_path / name) for name in ("empty", "empty.tar", "x.db")]
