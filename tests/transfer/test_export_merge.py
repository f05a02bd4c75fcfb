"""An export into a directory that has entries: nothing that it knows is lost, unless that was asked for."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import (
    ExportReport,
    InvalidInputError,
    Skipped,
    SQLMetadataStore,
    TransferError,
    diff,
    export_directory,
    import_directory,
    verify,
)
from layerstore.keys import Record
from layerstore.transfer.merging import Conflict, OnConflict
from tests.support.command import BAD, DONE, FOUND, USAGE, Run
from tests.support.daemons import Lock
from tests.support.entries import (
    AT,
    GOLDEN_FILES,
    LISTS,
    MAPPINGS,
    V1,
    File,
    entries,
    files_of,
    layer_key,
    numbers_of,
    run_python,
    write_file,
)
from tests.support.strategies import sha256

EARLIER, LATER = AT - 1, AT + 1
V1_KEY = "registry," + "a" * 64


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "host" / "distribution"


def value(number: int) -> bytes:
    return sha256(number).encode()


def have(store: SQLMetadataStore, namespace: str, key: str, content: bytes, at: int = AT) -> None:
    store._put(Record(namespace, key, content, at))


def host_has(target: Path, namespace: str, key: str, content: bytes, at: int) -> None:
    write_file(target, namespace, key, content, at).chmod(0o644)


def counts(report: ExportReport) -> dict[str, int]:
    assert report.written == report.added + report.merged + report.replaced
    fields = ("added", "merged", "replaced", "kept", "unchanged", "extra")
    return {field: getattr(report, field) for field in fields if getattr(report, field)}


def aside(report: ExportReport) -> dict[str, bytes]:
    """Return what was moved to quarantine."""
    if report.quarantine is None:
        return {}
    found = {path: file.value for path, file in files_of(Path(report.quarantine)).items()}
    assert report.quarantined == len(found)
    return found


def assert_at_rest(store: SQLMetadataStore, target: Path) -> None:
    """Export again: nothing is touched."""
    before = {path: path.lstat() for base in target.parent.glob("distribution*") for path in base.rglob("*")}
    report = export_directory(store, target)
    assert (report.written, report.quarantined) == (0, 0)
    now = {path: path.lstat() for base in target.parent.glob("distribution*") for path in base.rglob("*")}
    assert {path: (one.st_ino, one.st_ctime_ns) for path, one in now.items()} == {
        path: (one.st_ino, one.st_ctime_ns) for path, one in before.items()
    }


LISTS_MERGED = {
    "the target's newer list forms the tail": (LATER, [3], [1, 2], [1, 2, 3], "merged"),
    "the store's newer list forms the tail": (EARLIER, [3], [1, 2], [3, 1, 2], "merged"),
    "the target has it all": (LATER, [1, 2, 3], [1, 2], [1, 2, 3], "kept"),
    "the store has it all": (EARLIER, [1, 2], [1, 2, 3], [1, 2, 3], "merged"),
    "the target's order is newer": (LATER, [2, 1], [1, 2], [2, 1], "kept"),
    "the store's order is newer": (EARLIER, [2, 1], [1, 2], [1, 2], "merged"),
    "at the same time, the bytes decide": (AT, [3], [1, 2], [1, 2, 3], "merged"),
    "at the same time, and the other way round": (AT, [1, 2], [3], [1, 2, 3], "merged"),
    "the same in another order, the target's greater": (AT, [2, 1], [1, 2], [2, 1], "kept"),
    "the same in another order, the store's greater": (AT, [1, 2], [2, 1], [2, 1], "merged"),
    "the store forgot what the target knows": (EARLIER, [1, 2], [2], [1, 2], "merged"),
    "the target's list is empty": (LATER, [], [1], [1], "merged"),
}


@pytest.mark.parametrize("case", LISTS_MERGED.values(), ids=LISTS_MERGED.keys())
def test_lists_are_merged_as_an_import_merges_them(
    sql_file: SQLMetadataStore,
    target: Path,
    case: tuple[int, list[int], list[int], list[int], str],
):
    at, theirs, ours, merged, count = case
    have(sql_file, LISTS, layer_key(0), entries(*ours))
    host_has(target, LISTS, layer_key(0), entries(*theirs), at)

    report = export_directory(sql_file, target)

    assert files_of(target) == {f"{LISTS}/{layer_key(0)}": File(entries(*merged), 0o644, max(at, AT))}
    assert (counts(report), report.ok, aside(report)) == ({count: 1}, True, {})
    assert_at_rest(sql_file, target)
    import_directory(sql_file, target)
    assert list(sql_file._records()) == [Record(LISTS, layer_key(0), entries(*merged), max(at, AT))]
    assert diff(sql_file, target).ok


def test_the_newest_50_stay_and_the_evicted_are_counted(sql_file: SQLMetadataStore, target: Path):
    have(sql_file, LISTS, layer_key(0), entries(*range(30)))
    host_has(target, LISTS, layer_key(0), entries(*range(25, 60)), LATER)

    report = export_directory(sql_file, target)

    assert numbers_of(files_of(target)[f"{LISTS}/{layer_key(0)}"].value) == list(range(10, 60))
    assert report.evicted == 10
    assert_at_rest(sql_file, target)


PLACES = [(MAPPINGS, layer_key(9)), (V1, V1_KEY), ("other", "k")]


@pytest.mark.parametrize("place", PLACES, ids=["digest", "v1", "other"])
def test_an_older_value_of_the_target_gives_way_and_is_kept_in_quarantine(
    sql_file: SQLMetadataStore, target: Path, place: tuple[str, str]
):
    have(sql_file, *place, value(1))
    host_has(target, *place, value(2), EARLIER)

    report = export_directory(sql_file, target)

    path = "/".join(place)
    assert files_of(target) == {path: File(value(1), 0o644, AT)}
    assert report.conflicts == (Conflict(*place, sha256(1), sha256(2), str(target)),)
    assert (counts(report), report.conflict_count, report.ok) == ({"replaced": 1}, 1, False)
    assert report.quarantine is not None
    assert files_of(Path(report.quarantine)) == {path: File(value(2), 0o644, EARLIER)}
    assert Path(report.quarantine).parent == Path(f"{target}.quarantine")
    assert stat.S_IMODE(Path(report.quarantine).stat().st_mode) == 0o700
    assert_at_rest(sql_file, target)
    assert export_directory(sql_file, target).ok


@pytest.mark.parametrize("place", PLACES, ids=["digest", "v1", "other"])
def test_a_newer_value_of_the_target_stays_and_is_a_conflict_each_time(
    sql_file: SQLMetadataStore, target: Path, place: tuple[str, str]
):
    have(sql_file, *place, value(2))
    host_has(target, *place, value(1), LATER)
    before = files_of(target)

    for _ in range(2):
        report = export_directory(sql_file, target)

        assert files_of(target.parent) == {f"distribution/{path}": file for path, file in before.items()}
        assert report.conflicts == (Conflict(*place, sha256(1), sha256(2), str(target)),)
        assert (counts(report), report.ok) == ({"kept": 1}, False)


def test_what_cannot_be_read_gives_way_and_is_kept_in_quarantine(sql_file: SQLMetadataStore, target: Path):
    """As a power cut leaves it, whatever its time."""
    have(sql_file, LISTS, layer_key(0), entries(1))
    have(sql_file, MAPPINGS, layer_key(1), value(0))
    host_has(target, LISTS, layer_key(0), b"", LATER)
    host_has(target, MAPPINGS, layer_key(1), b"\0" * 71, EARLIER)

    report = export_directory(sql_file, target)

    assert aside(report) == {f"{LISTS}/{layer_key(0)}": b"", f"{MAPPINGS}/{layer_key(1)}": b"\0" * 71}
    assert (counts(report), report.ok) == ({"replaced": 2}, True)
    assert diff(sql_file, target).ok
    assert verify(target).ok
    assert_at_rest(sql_file, target)


def test_what_cannot_be_read_in_the_store_puts_nothing_over_what_can(sql_file: SQLMetadataStore, target: Path):
    have(sql_file, MAPPINGS, layer_key(1), b"nonsense", LATER)
    host_has(target, MAPPINGS, layer_key(1), value(0), EARLIER)
    before = files_of(target)

    report = export_directory(sql_file, target)

    assert files_of(target) == before
    assert (counts(report), report.ok) == ({"kept": 1}, False)
    assert [one.path for one in report.skipped] == [f"{MAPPINGS}/{layer_key(1)}"]
    assert "the store's value cannot be read" in report.skipped[0].reason


def test_a_file_that_the_file_system_does_not_give_is_left_and_named(sql_file: SQLMetadataStore, target: Path):
    have(sql_file, "n", "k", b"ours", LATER)
    have(sql_file, "n", "l", b"ours", LATER)
    huge = write_file(target, "n", "k", b"")
    os.truncate(huge, (64 << 20) + 1)

    report = export_directory(sql_file, target)

    assert report.skipped == (Skipped("n/k", "the directory's file stays as it is: larger than 64 MiB"),)
    assert (counts(report), report.ok, huge.stat().st_size) == ({"added": 1}, False, (64 << 20) + 1)


def test_the_same_bytes_get_the_later_time(sql_file: SQLMetadataStore, target: Path):
    have(sql_file, "n", "earlier here", b"v")
    have(sql_file, "n", "later here", b"v")
    host_has(target, "n", "earlier here", b"v", LATER)
    host_has(target, "n", "later here", b"v", EARLIER)

    report = export_directory(sql_file, target)

    assert counts(report) == {"merged": 1, "unchanged": 1}
    assert {path: file.modified_at_ns for path, file in files_of(target).items()} == {
        "n/earlier here": LATER,
        "n/later here": AT,
    }
    assert_at_rest(sql_file, target)


def fill_both(store: SQLMetadataStore, target: Path) -> None:
    """Let each know what the other does not, and both have a list, a mapping and a broken mapping."""
    have(store, LISTS, layer_key(0), entries(1, 2))
    have(store, MAPPINGS, layer_key(1), value(0))
    have(store, MAPPINGS, layer_key(2), value(0))
    have(store, "n", "ours", b"v")
    have(store, "n", "same", b"v")
    host_has(target, LISTS, layer_key(0), entries(3), LATER)
    host_has(target, MAPPINGS, layer_key(1), value(7), LATER)
    host_has(target, MAPPINGS, layer_key(2), b"", LATER)
    host_has(target, "n", "theirs", b"v", LATER)
    host_has(target, "n", "same", b"v", LATER)


def test_replace_writes_what_the_store_has_and_keeps_only_what_cannot_be_read(sql_file: SQLMetadataStore, target: Path):
    fill_both(sql_file, target)

    report = export_directory(sql_file, target, on_conflict="replace")

    assert counts(report) == {"added": 1, "replaced": 4, "extra": 1}
    assert (report.ok, report.conflicts) == (True, ())
    assert aside(report) == {f"{MAPPINGS}/{layer_key(2)}": b""}
    found = diff(sql_file, target)
    assert ([(one.namespace, one.key) for one in found.only_right], found.times_differ) == ([("n", "theirs")], 0)
    assert counts(export_directory(sql_file, target, on_conflict="replace")) == {"unchanged": 5, "extra": 1}


def test_replace_and_delete_mirror_the_store(sql_file: SQLMetadataStore, target: Path):
    fill_both(sql_file, target)

    report = export_directory(sql_file, target, on_conflict="replace", delete=True)

    assert (report.deleted, report.deleted_paths, report.extra) == (1, ("n/theirs",), 0)
    assert diff(sql_file, target).ok


def test_keep_leaves_what_is_there_and_adds_the_rest(sql_file: SQLMetadataStore, target: Path):
    fill_both(sql_file, target)
    before = files_of(target)

    report = export_directory(sql_file, target, on_conflict="keep")

    assert counts(report) == {"added": 1, "kept": 3, "unchanged": 1, "extra": 1}
    assert (report.ok, aside(report)) == (True, {})
    assert files_of(target) == {**before, "n/ours": File(b"v", 0o644, AT)}


@pytest.mark.parametrize("on_conflict", ["merge", "replace", "keep"])
def test_a_dry_run_counts_the_same_and_writes_nothing(
    sql_file: SQLMetadataStore, target: Path, on_conflict: OnConflict
):
    fill_both(sql_file, target)
    before = files_of(target.parent)

    dry = export_directory(sql_file, target, on_conflict=on_conflict, dry_run=True)

    assert files_of(target.parent) == before
    done = export_directory(sql_file, target, on_conflict=on_conflict)
    assert (counts(dry), dry.conflicts, dry.quarantined) == (counts(done), done.conflicts, done.quarantined)


def test_two_hosts_that_exchange_what_they_know_come_to_rest(
    sql_file: SQLMetadataStore, golden: Path, target: Path, tmp_path: Path
):
    """One store, two hosts: after a round each has all, and no further round changes anything."""
    other = tmp_path / "other" / "distribution"
    fill_both(sql_file, target)
    hosts = (golden.rename(tmp_path / "distribution"), other, target)
    for host in hosts:
        export_directory(sql_file, host)
        import_directory(sql_file, host)
    for host in hosts:
        export_directory(sql_file, host)

    for host in hosts:
        assert_at_rest(sql_file, host)
        report = import_directory(sql_file, host)
        assert (report.added, report.updated) == (0, 0)
    assert len(files_of(other)) > GOLDEN_FILES


def test_what_makes_no_sense_is_an_error_and_nothing_is_done(sql_file: SQLMetadataStore, target: Path):
    have(sql_file, "n", "k", b"v")
    calls: list[Callable[[], object]] = [
        lambda: export_directory(sql_file, target, delete=True),
        lambda: export_directory(sql_file, target, delete=True, on_conflict="keep"),
        lambda: export_directory(sql_file, target, on_conflict="newest"),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(InvalidInputError):
            call()
    assert not target.parent.exists()


def test_the_command_merges_and_says_what_became_of_it(run: Run, database: Path, target: Path):
    with SQLMetadataStore(database) as store:
        fill_both(store, target)

    done = run("export", target)

    lines = done.out.splitlines()
    assert done.code == FOUND
    assert lines[0] == f"conflict: {MAPPINGS}/{layer_key(1)}: {sha256(7)} stays, not {sha256(0)}"
    assert lines[1].startswith(f"moved 1 to {target}.quarantine/")
    assert lines[2:] == [
        f"exported {database} to {target}",
        "3 written (1 added, 1 merged, 1 replaced), 1 kept, 1 unchanged, 1 left that the store does not have",
    ]
    again = run("export", "--json", target)
    assert (again.code, again.json["written"], again.json["kept"], again.json["ok"]) == (FOUND, 0, 2, False)
    assert run("export", "--on-conflict", "keep", target).code == DONE
    assert run("export", "--on-conflict", "replace", target).out.splitlines()[-1].startswith("3 written (3 replaced)")


@pytest.mark.parametrize(
    "options",
    [
        ("--delete",),
        ("--delete", "--on-conflict", "keep"),
        ("--delete", "--on-conflict", "merge"),
        ("--delete", "--dry-run"),
        ("--on-conflict", "newest"),
        ("--on-conflict", "replace", "--tar"),
    ],
    ids=" ".join,
)
def test_wrong_usage_does_nothing(run: Run, database: Path, target: Path, options: tuple[str, ...]):
    SQLMetadataStore(database).close()

    assert run("export", *options, target).code == USAGE
    assert not target.parent.exists()


@pytest.fixture
def busy(target: Path, lock: Lock) -> Path:
    """A directory on which a daemon runs, below its data root."""
    base = target.parent / "docker" / "image" / "overlay2" / "distribution"
    (target.parent / "docker" / "volumes").mkdir(parents=True)
    (target.parent / "docker" / "volumes" / "metadata.db").touch()
    lock(target.parent / "docker" / "volumes" / "metadata.db")
    return base


def test_under_a_daemon_lists_are_merged_and_values_stay_and_are_reported(sql_file: SQLMetadataStore, busy: Path):
    have(sql_file, LISTS, layer_key(0), entries(1, 2))
    have(sql_file, MAPPINGS, layer_key(1), value(0))
    have(sql_file, MAPPINGS, layer_key(2), value(0))
    host_has(busy, LISTS, layer_key(0), entries(3), EARLIER)
    host_has(busy, MAPPINGS, layer_key(1), value(7), EARLIER)
    host_has(busy, MAPPINGS, layer_key(2), b"", EARLIER)

    report = export_directory(sql_file, busy)

    found = {path: file.value for path, file in files_of(busy).items()}
    assert found == {
        f"{LISTS}/{layer_key(0)}": entries(3, 1, 2),
        f"{MAPPINGS}/{layer_key(1)}": value(7),
        f"{MAPPINGS}/{layer_key(2)}": b"",
    }
    assert (counts(report), report.ok, report.quarantine) == ({"merged": 1, "kept": 2}, False, None)
    assert [(one.kept, one.set_aside) for one in report.conflicts] == [(sha256(7), sha256(0))]
    assert [one.path for one in report.skipped] == [f"{MAPPINGS}/{layer_key(2)}"]
    assert not Path(f"{busy}.quarantine").exists()

    forced = export_directory(sql_file, busy, force=True)
    assert (counts(forced), forced.quarantined) == ({"replaced": 2, "kept": 1}, 2)


def test_under_a_daemon_replacing_is_refused(sql_file: SQLMetadataStore, busy: Path, run: Run, database: Path):
    SQLMetadataStore(database).close()
    with pytest.raises(TransferError, match="--force"):
        export_directory(sql_file, busy, on_conflict="replace")
    assert run("export", "--on-conflict", "replace", busy).code == BAD
    assert not busy.exists()
    assert export_directory(sql_file, busy, on_conflict="replace", dry_run=True).dry_run
    assert run("export", "--on-conflict", "keep", busy).code == DONE


def test_an_error_names_the_directory_that_cannot_be_written(sql_file: SQLMetadataStore, target: Path):
    have(sql_file, MAPPINGS, layer_key(1), value(0))
    folder = target / MAPPINGS / "sha256"
    folder.parent.mkdir(parents=True)
    folder.write_bytes(b"in the way")

    with pytest.raises(TransferError) as raised:
        export_directory(sql_file, target)
    assert raised.value.path == str(folder)

    with pytest.raises(TransferError, match=str(folder)):
        export_directory(sql_file, folder)


EXPORT_AS_NOBODY = """
import os, sys
from layerstore import SQLMetadataStore, TransferError, export_directory

with SQLMetadataStore(":memory:") as store:
    store.set("n", "k/l", b"v")
    export_directory(store, sys.argv[1] + "/theirs")  # what is imported late may lie where another user may not look
    os.chmod(sys.argv[1], 0o755)
    os.chmod(sys.argv[1] + "/theirs", 0o755)
    os.unlink(sys.argv[1] + "/theirs/n/k/l")
os.setuid(65534)
with SQLMetadataStore(":memory:") as store:
    store.set("n", "k/l", b"v")
    for target in sys.argv[2:]:
        try:
            export_directory(store, target)
        except TransferError as error:
            print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
def test_an_error_names_the_directory_in_which_nothing_may_be_written():
    with tempfile.TemporaryDirectory() as place:
        done = run_python(EXPORT_AS_NOBODY, place, f"{place}/theirs", f"{place}/new/directory")

    said = "cannot be written: permission denied: run it as the owner, or as root (`sudo`)"
    assert done.stdout.splitlines() == [f"{place}/theirs/n/k: {said}", f"{place}: {said}"], done.stderr
