"""Taking directories in: which ones, what of them, with which times, and what the report says."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import pytest

from layerstore import (
    FSMetadataStore,
    InvalidInputError,
    SQLMetadataStore,
    Store,
    TransferError,
    diff,
    import_directory,
    verify,
)
from tests.conftest import database_rows
from tests.support.entries import (
    AT,
    GOLDEN_FILES,
    LISTS,
    MAPPINGS,
    V1,
    Write,
    entries,
    files_of,
    layer_key,
    rows_of,
    sources_of,
    whole,
    write_file,
)


def test_every_file_becomes_an_entry_with_its_bytes_and_its_time(sql_store: SQLMetadataStore, golden: Path):
    report = import_directory(sql_store, golden)

    files = {tuple(path.split("/", 1)): (file.value, file.modified_at_ns) for path, file in files_of(golden).items()}
    assert {(row[0], row[1]): (row[2], row[3]) for row in rows_of(sql_store)} == files
    assert len(files) == GOLDEN_FILES
    assert (sources_of(report), report.read, report.added) == ([str(golden)], GOLDEN_FILES, GOLDEN_FILES)
    assert (report.updated, report.unchanged, report.evicted, report.temporary) == (0, 0, 0, 0)
    assert report.ok


def test_what_a_daemon_wrote_has_nothing_worse_than_info(sql_store: SQLMetadataStore, golden: Path):
    import_directory(sql_store, golden)

    report = verify(sql_store)
    assert report.checked == GOLDEN_FILES
    assert {found.severity for found in report.findings} <= {"info"}
    assert report.ok


def test_each_association_of_a_daemons_lists_gets_a_row(sqlite_store: SQLMetadataStore, golden: Path):
    import_directory(sqlite_store, golden)

    json_rows = """
        SELECT replace(m.key, '/', ':'), json_extract(e.value, '$.Digest'), json_extract(e.value, '$.SourceRepository'),
            coalesce(json_extract(e.value, '$.HMAC'), '')
        FROM metadata m, json_each(CAST(m.value AS TEXT)) e
        WHERE namespace = 'v2metadata-by-diffid' ORDER BY 1, e.key"""
    derived = "SELECT diff_id, digest, source_repository, hmac FROM v2_metadata ORDER BY diff_id, position"
    found = database_rows(sqlite_store, derived)
    assert found == database_rows(sqlite_store, json_rows)
    assert len(found) > GOLDEN_FILES


def test_importing_again_changes_nothing(sql_store: SQLMetadataStore, golden: Path):
    write_file(golden, MAPPINGS, "sha256/short", b"odd key")
    import_directory(sql_store, golden)
    before = whole(sql_store)
    assert len(before["quarantine"]) == 1

    report = import_directory(sql_store, golden)

    assert whole(sql_store) == before
    assert (report.read, report.unchanged, report.added, report.updated) == (GOLDEN_FILES + 1, GOLDEN_FILES, 0, 0)
    assert len(report.quarantined) == 1


@pytest.mark.parametrize("on_conflict", ["merge", "replace", "keep"])
def test_importing_again_changes_nothing_whatever_is_done_about_conflicts(
    sql_file: SQLMetadataStore, golden: Path, on_conflict: str
):
    import_directory(sql_file, golden)
    before = whole(sql_file)

    report = import_directory(sql_file, golden, on_conflict=on_conflict)  # type: ignore[arg-type]

    assert whole(sql_file) == before
    assert report.unchanged == GOLDEN_FILES


def test_two_lists_of_one_time_in_another_order_come_to_rest(sql_file: SQLMetadataStore, tmp_path: Path):
    """Neither is the later one: once merged, importing either of them again changes nothing."""
    places = [tmp_path / name / "distribution" for name in ("a", "b")]
    for place, numbers in zip(places, [(1, 2), (2, 1)], strict=True):
        write_file(place, LISTS, layer_key(9), entries(*numbers), AT)
    for place in places:
        import_directory(sql_file, place)
    before = whole(sql_file)

    for place in (*places, *reversed(places)):
        report = import_directory(sql_file, place)
        assert (report.updated, report.unchanged) == (0, 1)

    assert whole(sql_file) == before


def test_a_data_root_gives_what_its_driver_has(sql_file: SQLMetadataStore, golden: Path, tmp_path: Path):
    base = tmp_path / "docker" / "image" / "overlay2" / "distribution"
    shutil.copytree(golden, base)

    report = import_directory(sql_file, tmp_path / "docker")

    assert sources_of(report) == [str(base)]
    assert diff(sql_file, golden).ok


def test_all_drivers_of_a_data_root_are_merged(sql_file: SQLMetadataStore, tmp_path: Path):
    """Sources come in the order of their names, and a layer that two of them have is merged by time."""
    image = tmp_path / "docker" / "image"
    for driver, number, at in (("vfs", 1, AT), ("overlay2", 2, AT + 1)):
        write_file(image / driver / "distribution", LISTS, layer_key(9), entries(number), at)
        write_file(
            image / driver / "distribution", MAPPINGS, layer_key(number), layer_key(9).replace("/", ":").encode()
        )
    (image / "aufs").mkdir()  # a driver without metadata
    (image / "stray-file").write_bytes(b"")

    report = import_directory(sql_file, tmp_path / "docker")

    assert sources_of(report) == [str(image / "overlay2/distribution"), str(image / "vfs/distribution")]
    assert (report.read, report.added, report.updated, report.unchanged) == (4, 3, 1, 0)
    assert sql_file.get(LISTS, layer_key(9)) == entries(1, 2)
    assert report.ok


def test_a_directory_with_a_namespace_of_dockers_is_no_data_root(sql_file: SQLMetadataStore, write: Write):
    """`image` may be anybody's namespace: beside one of Docker's it is an entry, not a data root's folder."""
    write(MAPPINGS, layer_key(1), b"sha256:" + b"2" * 64)
    write("image", "overlay2/distribution", b"an entry")

    report = import_directory(sql_file, write(V1, "r," + "a" * 64, b"sha256:" + b"2" * 64).parents[1])

    assert report.added == 3
    assert sql_file.get("image", "overlay2/distribution") == b"an entry"


def test_an_empty_directory_gives_nothing_and_is_well(sql_file: SQLMetadataStore, directory: Path):
    report = import_directory(sql_file, directory)

    assert (sources_of(report), report.read, report.ok) == ([str(directory)], 0, True)
    assert rows_of(sql_file) == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: (path / "image" / "overlay2").mkdir(parents=True), "without image/"),
        (lambda path: (path / "image").mkdir(parents=True), "without image/"),
        (lambda _path: None, "no such"),
        (lambda path: path.write_bytes(b"neither archive nor database"), "tar archive"),
    ],
    ids=["data-root-without-metadata", "data-root-without-drivers", "missing", "file"],
)
def test_what_is_no_source_is_refused_with_its_path(sql_file: SQLMetadataStore, tmp_path: Path, make, says: str):
    make(tmp_path / "source")

    with pytest.raises(TransferError, match=says) as caught:
        import_directory(sql_file, tmp_path / "source")
    assert caught.value.path == str(tmp_path / "source")
    assert rows_of(sql_file) == []


def test_a_relative_path_and_a_path_object_are_the_same_source(
    sql_file: SQLMetadataStore, golden: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(golden.parent)

    for place in ("golden", f"../{golden.parent.name}/golden/", golden):
        assert sources_of(import_directory(sql_file, place)) == [str(golden)]


def test_a_namespace_that_is_not_dockers_is_taken_as_it_is(sql_file: SQLMetadataStore, directory: Path, write: Write):
    """Nothing is asked of its keys and values, so that nothing of it can be wrong."""
    write("buildkit", "a/b/c.json", b"\xff\0{", AT + 5)
    write("-", "é", b"")

    report = import_directory(sql_file, directory)

    assert rows_of(sql_file) == [("-", "é", b"", AT), ("buildkit", "a/b/c.json", b"\xff\0{", AT + 5)]
    assert report.ok


def test_times_before_1970_come_along(sql_file: SQLMetadataStore, directory: Path, write: Write):
    write("n", "k", b"", -1_000_000_001)

    import_directory(sql_file, directory)

    assert rows_of(sql_file) == [("n", "k", b"", -1_000_000_001)]


def test_a_time_that_a_database_cannot_hold_is_an_error_of_ours_or_in_the_report(
    sql_file: SQLMetadataStore, directory: Path, write: Write, monkeypatch: pytest.MonkeyPatch
):
    """Btrfs, XFS and tmpfs have times far beyond the year 2262, where 64 bits of nanoseconds end."""
    from layerstore import LayerstoreError
    from layerstore.files import scan as scanning
    from layerstore.keys import Record

    def scan(base: str, namespace: str | None = None):
        for found in real(base, namespace):
            yield found._replace(modified_at_ns=2**70) if isinstance(found, Record) else found

    real = scanning.scan
    monkeypatch.setattr("layerstore.files.scan.scan", scan)
    write("n", "k", b"value")
    with contextlib.suppress(LayerstoreError):
        report = import_directory(sql_file, directory)
        assert sql_file.get("n", "k") == b"value" or not report.ok


def test_progress_counts_up_to_the_number_of_files(sql_file: SQLMetadataStore, golden: Path):
    (golden / MAPPINGS / ".tmp-left").write_bytes(b"")
    calls: list[tuple[int, int | None]] = []

    import_directory(sql_file, golden, progress=lambda done, total: calls.append((done, total)))

    assert calls == [(done, GOLDEN_FILES) for done in range(1, GOLDEN_FILES + 1)]


def test_a_wrong_conflict_rule_is_refused(sql_file: SQLMetadataStore, golden: Path):
    with pytest.raises(InvalidInputError, match="merge, replace, keep"):
        import_directory(sql_file, golden, on_conflict="newest")  # type: ignore[arg-type]  # the mistake is the point
    assert rows_of(sql_file) == []


def test_only_a_store_in_a_database_takes_a_directory_in(files: FSMetadataStore, golden: Path):
    store: Store = files
    with pytest.raises(InvalidInputError, match="SQLMetadataStore, not FSMetadataStore"):
        import_directory(store, golden)
    assert list(files.entries()) == []
