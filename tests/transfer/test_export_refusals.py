"""What cannot be given out is found before anything is written, and no link leads an export out of its directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from sqlalchemy import text

from layerstore import (
    InvalidKeyError,
    LayerstoreError,
    SQLMetadataStore,
    TransferError,
    export_directory,
    import_directory,
)
from layerstore.keys import Record
from tests.conftest import OpenSQL
from tests.support.command import BAD, FOUND, Run
from tests.support.entries import AT, GOLDEN_FILES, MAPPINGS, File, files_of, layer_key, write_file


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "target"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Files that no export may touch."""
    return write_file(tmp_path / "outside", "sha256", "victim", b"outside").parents[1]


def insert(store: SQLMetadataStore, namespace: str, key: str) -> None:
    """Write a row past the key rules, as any program with an SQLite library can."""
    with store.engine.begin() as connection:
        statement = text("INSERT INTO metadata VALUES (:namespace, :key, x'00', 1)")
        connection.execute(statement, {"namespace": namespace, "key": key})


IMPOSSIBLE = {
    "out of the base": [("n", "../../x")],
    "out of the base by its namespace": [("..", "x")],
    "two segments of namespace": [("a/b", "x")],
    "absolute": [("n", "/etc/x")],
    "empty segment": [("n", "a//b")],
    "empty key": [("n", "")],
    "temporary": [("n", ".tmp-x")],
    "NUL": [("n", "a\0b")],
}
"""Keys that break the key rules: another program wrote them, and `verify --repair` moves them to quarantine."""

Names = list[tuple[str, str]]

UNPLACEABLE: dict[str, tuple[Names, Names]] = {
    "directory of another": ([("n", "a")], [("n", "a/b")]),
    "directory of another, others between": ([("n", "a")], [("n", "a!"), ("n", "a-b"), ("n", "a/b/c")]),
    "deep directory of another": ([("n", "a/b/c")], [("n", "a/b/c/d/e"), ("n", "a/c")]),
    "two levels": ([("n", "a"), ("n", "a/b")], [("n", "a/b/c")]),
    "directory of Docker's keys": ([(MAPPINGS, "sha256")], [("zz", "k")]),
    "segment of 300 bytes": ([("n", "x" * 300)], [("n", "x")]),
    "segment of 240 bytes": ([("n", "x" * 240)], [("n", "x" * 239)]),
    "segment of 240 bytes in 120 letters": ([("n", "é" * 120)], [("n", "é" * 119)]),
    "namespace of 300 bytes": ([("n" * 300, "x"), ("n" * 300, "y")], []),
    "a long directory": ([("n", "x" * 300 + "/k")], []),
}
"""Keys that a store can have and no directory, and others that it can have beside them."""


@pytest.mark.parametrize("names", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
@pytest.mark.parametrize("dry_run", [False, True], ids=["real", "dry-run"])
def test_a_key_that_cannot_be_a_path_is_found_before_anything_is_written(
    sql_file: SQLMetadataStore, golden: Path, target: Path, names: list[tuple[str, str]], dry_run: bool
):
    import_directory(sql_file, golden)
    for namespace, key in names:
        insert(sql_file, namespace, key)

    with pytest.raises(InvalidKeyError) as caught:
        export_directory(sql_file, target, dry_run=dry_run)

    assert any(repr(key) in str(caught.value) for _, key in names)
    assert not target.parent.exists()


@pytest.mark.parametrize("names", UNPLACEABLE.values(), ids=UNPLACEABLE.keys())
@pytest.mark.parametrize("dry_run", [False, True], ids=["real", "dry-run"])
def test_a_key_that_no_directory_can_hold_is_skipped_and_reported_and_the_rest_is_written(
    sql_file: SQLMetadataStore, golden: Path, target: Path, names: tuple[Names, Names], dry_run: bool
):
    skipped, others = names
    import_directory(sql_file, golden)
    for namespace, key in (*skipped, *others):
        insert(sql_file, namespace, key)

    report = export_directory(sql_file, target, dry_run=dry_run)

    assert (report.added, report.ok) == (GOLDEN_FILES + len(others), False)
    assert (report.skipped_count, sorted(one.path for one in report.skipped)) == (
        len(skipped),
        sorted("/".join(name) for name in skipped),
    )
    if not dry_run:
        assert set(files_of(target)) == {*files_of(golden), *("/".join(name) for name in others)}
        again = export_directory(sql_file, target)
        assert (again.written, again.skipped) == (0, report.skipped)


@pytest.mark.parametrize("dry_run", [False, True], ids=["real", "dry-run"])
def test_a_directory_that_is_known_to_be_something_else_is_refused(
    sql_file: SQLMetadataStore, golden: Path, tmp_path: Path, dry_run: bool
):
    """As an import refuses it: `export /etc` would leave 178 files there."""
    import_directory(sql_file, golden)
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "group"):
        (etc / name).write_bytes(b"")

    with pytest.raises(TransferError, match=r"it looks like /etc.*or use --force"):
        export_directory(sql_file, etc, dry_run=dry_run)
    assert sorted(os.listdir(etc)) == ["group", "passwd"]

    assert export_directory(sql_file, etc, force=True).written == GOLDEN_FILES
    assert export_directory(sql_file, etc).unchanged == GOLDEN_FILES


def test_a_metadata_directory_is_no_data_root(golden: Path, run: Run):
    done = run("export", "--data-root", golden, "--driver", "overlay2")

    assert (done.code, "give it without --data-root" in done.err) == (BAD, True)
    assert not (golden / "image").exists()


def test_a_tar_leaves_out_and_names_what_no_directory_can_hold(
    sql_file: SQLMetadataStore, tmp_path: Path, database: Path, run: Run
):
    with SQLMetadataStore(database) as store:
        for key in ("a", "a/b", "c"):
            insert(store, "n", key)

    done = run("export", "--tar", tmp_path / "out.tar")

    assert (done.code, done.out.splitlines()[0]) == (
        FOUND,
        "skipped: n/a: it cannot be a file, as other keys lie below it",
    )
    import_directory(sql_file, tmp_path / "out.tar")
    assert [key for _, key, _ in sql_file.entries()] == ["a/b", "c"]
    assert run("export", "--tar", "-").code == FOUND
    assert run("export", "--tar", "--overwrite", "--json", tmp_path / "out.tar").json["skipped_count"] == 1


def test_names_that_only_look_like_directories_of_others_can_be_given_out(sql_file: SQLMetadataStore, target: Path):
    names = [("n", "a/b"), ("n", "a-b"), ("n", "a.b"), ("a", "n"), ("n", "ab"), ("n", "b/a")]
    for namespace, key in names:
        insert(sql_file, namespace, key)

    assert export_directory(sql_file, target).written == len(names)


def test_a_file_link_in_the_place_of_a_file_is_replaced_and_not_followed(
    sql_file: SQLMetadataStore, target: Path, outside: Path
):
    sql_file._put(Record("n", "k", b"ours", AT))
    (target / "n").mkdir(parents=True)
    (target / "n" / "k").symlink_to(outside / "sha256" / "victim")

    assert export_directory(sql_file, target).written == 1

    assert files_of(target) == {"n/k": File(b"ours", 0o644, AT)}
    assert files_of(outside)["sha256/victim"].value == b"outside"


@pytest.mark.parametrize("place", [MAPPINGS, f"{MAPPINGS}/sha256"])
def test_a_directory_link_below_the_base_is_refused_and_nothing_is_written_outside(
    sql_file: SQLMetadataStore, golden: Path, target: Path, outside: Path, place: str
):
    import_directory(sql_file, golden)
    before = files_of(outside)
    (target / place).parent.mkdir(parents=True)
    (target / place).symlink_to(outside, target_is_directory=True)

    for delete in (False, True):
        with pytest.raises(TransferError, match="cannot be written") as caught:
            export_directory(sql_file, target, on_conflict="replace" if delete else "merge", delete=delete)
        assert str(caught.value.path).startswith(str(target))

    assert files_of(outside) == before
    assert [path.name for path in outside.rglob("*") if path.name != "victim"] == ["sha256"]
    assert files_of(target) == {}


def test_a_link_that_is_the_base_itself_is_the_operators_and_followed(
    sql_file: SQLMetadataStore, target: Path, outside: Path
):
    sql_file._put(Record("n", "k", b"ours", AT))
    target.parent.mkdir()
    target.symlink_to(outside, target_is_directory=True)

    export_directory(sql_file, target)

    assert files_of(outside)["n/k"] == File(b"ours", 0o644, AT)


@pytest.mark.parametrize("place", ["", MAPPINGS, f"{MAPPINGS}/sha256"], ids=["base", "namespace", "folder"])
def test_a_file_in_the_place_of_a_directory_is_an_error_with_its_path(
    sql_file: SQLMetadataStore, golden: Path, target: Path, place: str
):
    import_directory(sql_file, golden)
    (target / place).parent.mkdir(parents=True, exist_ok=True)
    (target / place).write_bytes(b"in the way")

    with pytest.raises(TransferError) as caught:
        export_directory(sql_file, target)

    assert str(target) in str(caught.value)
    assert (target / place).read_bytes() == b"in the way"


def test_a_directory_in_the_place_of_a_file_is_an_error_and_leaves_no_temporary_files(
    sql_file: SQLMetadataStore, golden: Path, target: Path
):
    """It is met when all files were written beside their names, and are about to get them."""
    import_directory(sql_file, golden)
    in_the_way = target / sorted(files_of(golden))[50]
    in_the_way.mkdir(parents=True)

    with pytest.raises(TransferError):
        export_directory(sql_file, target)

    assert [path for path in files_of(target) if ".tmp-" in path] == []
    in_the_way.rmdir()
    export_directory(sql_file, target)
    assert files_of(target) == files_of(golden)


def test_delete_makes_room_for_a_directory_where_a_file_was(sql_file: SQLMetadataStore, target: Path):
    sql_file._put(Record("n", "a/b", b"ours", AT))
    write_file(target, "n", "a", b"theirs")

    export_directory(sql_file, target, on_conflict="replace", delete=True)

    assert files_of(target) == {"n/a/b": File(b"ours", 0o644, AT)}


def test_an_error_of_the_callers_leaves_the_target_as_it_was(sql_file: SQLMetadataStore, golden: Path, target: Path):
    import_directory(sql_file, golden)
    sql_file.set(MAPPINGS, layer_key(1), b"sha256:" + b"2" * 64)
    before = files_of(golden)

    def progress(done: int, _total: int | None) -> None:
        if done == GOLDEN_FILES:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        export_directory(sql_file, golden, progress=progress)
    with pytest.raises(ZeroDivisionError):
        export_directory(sql_file, target, progress=progress)

    assert files_of(golden) == before
    assert files_of(target) == {}


def test_a_closed_store_is_an_error_of_ours(open_sql: OpenSQL, target: Path):
    store = open_sql()
    store.close()

    with pytest.raises(LayerstoreError):
        export_directory(store, target)
    assert not target.exists()
