"""A new file gets its name only in place of what was expected there; what somebody else has written stays."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from layerstore import SQLMetadataStore, TransferError, V2Metadata, V2MetadataService, export_directory
from layerstore.files import tree
from layerstore.keys import Record
from layerstore.transfer import placing
from layerstore.transfer.placing import NO_FILE, NOTHING, look, look_of, take_name
from tests.conftest import OpenSQL
from tests.support.entries import AT, LISTS, MAPPINGS, entries, files_of, layer_key, numbers_of, write_file
from tests.support.strategies import sha256


@pytest.fixture
def base(tmp_path: Path) -> Path:
    write_file(tmp_path, ".", ".tmp-k1", b"ours")
    return tmp_path


@pytest.fixture
def directory(base: Path) -> Iterator[int]:
    descriptor = os.open(base, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def lack_the_call(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Let renameat2(2) be missing in the C library, or refused by the file system."""

    def refuse(*_: object) -> int:
        import ctypes

        ctypes.set_errno(errno.EINVAL)
        return -1

    if how != "there":
        library = SimpleNamespace() if how == "no call" else SimpleNamespace(renameat2=refuse)
        monkeypatch.setattr(tree, "_library", lambda: library)


@pytest.fixture(params=["there", "no call", "no flags"])
def _call(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the system call, and without it in both ways."""
    lack_the_call(monkeypatch, request.param)


def contents(base: Path) -> dict[str, bytes]:
    return {path: file.value for path, file in files_of(base).items()}


def here(value: bytes, at: int = AT) -> bytes:
    return look_of(Record("", "", value, at))


@pytest.mark.usefixtures("_call")
def test_a_free_name_is_taken(directory: int, base: Path):
    assert take_name(directory, ".tmp-k1", "k", NOTHING)
    assert contents(base) == {"k": b"ours"}


@pytest.mark.usefixtures("_call")
def test_what_is_as_expected_is_replaced(directory: int, base: Path):
    write_file(base, ".", "k", b"theirs")
    assert take_name(directory, ".tmp-k1", "k", here(b"theirs"))
    assert contents(base) == {"k": b"ours"}


UNEXPECTED = {
    "there is something": NOTHING,
    "other bytes": here(b"older"),
    "another time": here(b"theirs", AT + 1),
}


@pytest.mark.usefixtures("_call")
@pytest.mark.parametrize("expected", UNEXPECTED.values(), ids=UNEXPECTED.keys())
def test_what_is_not_as_expected_stays(directory: int, base: Path, expected: bytes):
    write_file(base, ".", "k", b"theirs")
    assert not take_name(directory, ".tmp-k1", "k", expected)
    assert contents(base) == {"k": b"theirs", ".tmp-k1": b"ours"}


@pytest.mark.usefixtures("_call")
def test_what_is_gone_is_not_as_expected(directory: int, base: Path):
    assert not take_name(directory, ".tmp-k1", "k", here(b"theirs"))
    assert contents(base) == {".tmp-k1": b"ours"}


def test_a_link_is_no_file_and_is_not_followed(directory: int, base: Path):
    (base / "k").symlink_to(base / ".tmp-k1")
    assert look(directory, "k") == NO_FILE
    assert not take_name(directory, ".tmp-k1", "k", NOTHING)
    assert not take_name(directory, ".tmp-k1", "k", here(b"ours"))
    assert (base / "k").is_symlink()


def between(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Act before the `number`-th look at a file."""
    looks = 0

    def looking(directory: int, name: str) -> bytes:
        nonlocal looks
        looks += 1
        if looks == number:
            act()
        return look(directory, name)

    monkeypatch.setattr(placing, "look", looking)


def test_what_is_written_behind_the_look_comes_out_and_goes_back(
    directory: int, base: Path, monkeypatch: pytest.MonkeyPatch
):
    write_file(base, ".", "k", b"older")
    real = tree.rename

    def write_first(*arguments: object) -> None:
        monkeypatch.setattr(tree, "rename", real)
        write_file(base, ".", "theirs", b"theirs").rename(base / "k")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tree, "rename", write_first)

    assert not take_name(directory, ".tmp-k1", "k", here(b"older"))
    assert contents(base) == {"k": b"theirs", ".tmp-k1": b"ours"}


def test_what_is_written_over_ours_in_between_is_in_the_temporary_file(
    directory: int, base: Path, monkeypatch: pytest.MonkeyPatch
):
    """Both that somebody else has written are there: the one behind the look, and the one behind the exchange."""
    write_file(base, ".", "k", b"older")
    real, calls = tree.rename, [b"first", b"second"]

    def write_first(*arguments: object) -> None:
        write_file(base, ".", "theirs", calls.pop(0)).rename(base / "k")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tree, "rename", write_first)

    assert not take_name(directory, ".tmp-k1", "k", here(b"older"))
    assert contents(base) == {"k": b"first", ".tmp-k1": b"second"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(errno.EIO, "Input/output error")])
def test_when_looking_fails_everything_is_as_it_was(
    directory: int, base: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException | type[BaseException]
):
    write_file(base, ".", "k", b"theirs")

    def fail() -> None:
        raise error

    between(monkeypatch, 2, fail)

    with pytest.raises((KeyboardInterrupt, OSError)):
        take_name(directory, ".tmp-k1", "k", here(b"theirs"))
    assert contents(base) == {"k": b"theirs", ".tmp-k1": b"ours"}


# What a daemon does at each push: read the list, append, write a temporary file, sync, rename.
ADDS = """
import sys
from layerstore import FSMetadataStore, V2Metadata, V2MetadataService
from tests.support.strategies import sha256

v2 = V2MetadataService(FSMetadataStore(sys.argv[1]))
print("ready", flush=True)
for number in range(1, 41):
    for layer in range(4):
        v2.add(sha256(layer), V2Metadata(sha256(1000 * layer + number), "localhost:5000/pushed"))
"""


@pytest.mark.usefixtures("_call")
def test_under_a_process_that_writes_without_a_pause_exports_end_and_tear_nothing(
    sql_file: SQLMetadataStore, tmp_path: Path, request: pytest.FixtureRequest
):
    """With the system call nothing is lost either: of what it wrote, and of what the store has."""
    target = tmp_path / "distribution"
    ours = V2MetadataService(sql_file)
    root = Path(__file__).parents[2]
    export_directory(sql_file, target)
    with subprocess.Popen([sys.executable, "-c", ADDS, target], cwd=root, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        exports = 0
        while writer.poll() is None:
            for layer in range(4):
                ours.add(sha256(layer), V2Metadata(sha256(999), "localhost:5000/known"))
            report = export_directory(sql_file, target)
            assert (report.conflict_count, report.evicted) == (0, 0)
            exports += 1
    assert (writer.returncode, exports > 1) == (0, True)
    export_directory(sql_file, target)

    found = files_of(target)
    assert [path for path in found if ".tmp-" in path] == []
    lists = {layer: numbers_of(found[f"{LISTS}/{layer_key(layer)}"].value) for layer in range(4)}
    assert [999 in numbers for numbers in lists.values()] == [True] * 4
    if request.node.callspec.params["_call"] == "there":
        for layer, numbers in lists.items():
            assert sorted({*numbers} - {999}) == [1000 * layer + number for number in range(1, 41)]


@pytest.mark.usefixtures("_call")
@pytest.mark.parametrize("exists", [True, False])
def test_what_is_written_between_the_reading_and_the_rename_is_merged(
    sql_file: SQLMetadataStore, tmp_path: Path, exists: bool
):
    """By the progress, which is told of the last key when all were read and none has its name."""
    target = tmp_path / "distribution"
    (target / LISTS).mkdir(parents=True)
    sql_file._put(Record(LISTS, layer_key(0), entries(1), AT))
    if exists:
        write_file(target, LISTS, layer_key(0), entries(2), AT - 1)

    def push(_done: int, _total: int | None) -> None:
        write_file(target, LISTS, "sha256/.tmp-docker", entries(2, 3), AT + 1).rename(target / LISTS / layer_key(0))

    export_directory(sql_file, target, progress=push)

    (path, file), *others = files_of(target).items()
    assert (path, numbers_of(file.value), file.modified_at_ns) == (f"{LISTS}/{layer_key(0)}", [1, 2, 3], AT + 1)
    assert others == []


@pytest.mark.parametrize("daemon", [True, False], ids=["under a daemon", "alone"])
def test_of_two_values_written_at_once_the_older_goes_to_quarantine(
    sql_file: SQLMetadataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daemon: bool
):
    target = tmp_path / "distribution"
    (target / MAPPINGS / "sha256").mkdir(parents=True)
    sql_file._put(Record(MAPPINGS, layer_key(0), sha256(1).encode(), AT))
    monkeypatch.setattr("layerstore.transfer.exporting.running_on", lambda _base: "a daemon" if daemon else None)

    def push(_done: int, _total: int | None) -> None:
        write_file(target, MAPPINGS, layer_key(0), sha256(2).encode(), AT - 1)

    report = export_directory(sql_file, target, progress=push)

    stays = sha256(2 if daemon else 1).encode()
    assert contents(target) == {f"{MAPPINGS}/{layer_key(0)}": stays}
    assert (report.quarantined, report.conflict_count, report.ok) == (0 if daemon else 1, 1, False)
    if report.quarantine is not None:
        assert contents(Path(report.quarantine)) == {f"{MAPPINGS}/{layer_key(0)}": sha256(2).encode()}


def test_what_keep_adds_and_somebody_else_has_written_meanwhile_is_theirs(sql_file: SQLMetadataStore, tmp_path: Path):
    target = tmp_path / "distribution"
    (target / "n").mkdir(parents=True)
    sql_file._put(Record("n", "k", b"ours", AT))

    def push(_done: int, _total: int | None) -> None:
        write_file(target, "n", "k", b"theirs")

    export_directory(sql_file, target, on_conflict="keep", progress=push)

    assert contents(target) == {"n/k": b"theirs"}


def test_without_room_for_a_second_merge_what_somebody_else_has_written_is_there(
    sql_file: SQLMetadataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    target = tmp_path / "distribution"
    (target / LISTS / "sha256").mkdir(parents=True)
    sql_file._put(Record(LISTS, layer_key(0), entries(1), AT))

    def push(_done: int, _total: int | None) -> None:
        write_file(target, LISTS, layer_key(0), entries(2), AT - 1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tree, "replace", full)
    with pytest.raises(Exception, match=f"{layer_key(0)}: No space left"):
        export_directory(sql_file, target, progress=push)

    assert contents(target) == {f"{LISTS}/{layer_key(0)}": entries(2)}


def test_an_export_that_fails_keeps_no_lock_that_the_next_one_waits_for(tmp_path: Path, open_sql: OpenSQL):
    """What a killed export would have left is a link here, which is not removed."""
    store, target = open_sql(), tmp_path / "target"
    store.set("n", "k", b"v")
    target.mkdir()
    (target / ".tmp-layerstore").symlink_to(tmp_path)
    for _ in range(2):
        with pytest.raises(TransferError, match="symbolic link"):
            export_directory(store, target, force=True)
    (target / ".tmp-layerstore").unlink()
    assert export_directory(store, target, force=True).written == 1
