"""A directory is read by one loop: in the order of the keys, what is no entry named, nothing followed or waited for."""

from __future__ import annotations

import os
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreError, StoreOpenError, import_directory, verify
from layerstore.collection import Odd
from layerstore.files import scan as scanning
from layerstore.files import tree
from layerstore.keys import Record
from tests.support.entries import AT, V1, rows_of, write_file


def found(base: Path) -> tuple[list[Record], list[Odd]]:
    everything = list(scanning.scan(str(base)))
    return [one for one in everything if isinstance(one, Record)], [one for one in everything if isinstance(one, Odd)]


@contextmanager
def descriptors(more: int) -> Iterator[None]:
    """Let this process open only so many descriptors beside those that it has."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_every_file_comes_in_the_order_of_the_keys_bytes(golden: Path):
    write_file(golden, "deep", "a/b/c", b"1")
    write_file(golden, "deep", "a-b", b"2")
    write_file(golden, "deep", "a.d/x", b"3")
    write_file(golden, "deep", "é", b"4")
    write_file(golden, "deep", "\U0001f600", b"5")
    write_file(golden, "deep", "\uffee", b"6")

    records, odd = found(golden)

    assert odd == []
    names = [(record.namespace.encode(), record.key.encode()) for record in records]
    assert names == sorted(names)
    paths = [path for path in golden.rglob("*") if path.is_file()]
    assert {(golden / one.namespace / one.key, one.value, one.modified_at_ns) for one in records} == {
        (path, path.read_bytes(), path.stat().st_mtime_ns) for path in paths
    }


def test_files_between_directories_keep_the_order(directory: Path):
    """What lies between them is gone through where its name stands."""
    for number in range(50):
        write_file(directory, "n", f"{number:02}", b"")
        write_file(directory, "n", f"{number:02}.d/one", b"1")

    assert [one.key for one in found(directory)[0]] == sorted(
        [f"{number:02}" for number in range(50)] + [f"{number:02}.d/one" for number in range(50)]
    )


def test_what_vanishes_before_it_is_read_is_odd(directory: Path):
    for name in ("first", "second", "third"):
        for number in range(3):
            write_file(directory, name, f"sha256/{number}", b"")

    reading = scanning.scan(str(directory))
    seen: list[Record | Odd] = [next(reading)]
    (directory / "first" / "sha256" / "2").unlink()
    shutil.rmtree(directory / "second" / "sha256")
    shutil.rmtree(directory / "third")
    seen += reading

    assert [one[:2] for one in seen if isinstance(one, Odd)] == [
        ("first/sha256/2", "vanished"),
        ("third", "vanished"),
    ]
    assert [one.key for one in seen if isinstance(one, Record)] == ["sha256/0", "sha256/1"]


def test_a_pipe_that_takes_a_files_place_is_not_waited_for(directory: Path):
    """It was a file when the directory was listed."""
    for name in ("a", "b"):
        write_file(directory, "n", name, b"v")

    reading = scanning.scan(str(directory))
    first = next(reading)
    (directory / "n" / "b").unlink()
    os.mkfifo(directory / "n" / "b")

    assert isinstance(first, Record)
    assert [(one[0], one[1]) for one in reading] == [("n/b", "unreadable")]


@pytest.mark.parametrize("more", range(5))
def test_too_few_descriptors_are_an_error_and_no_damage_of_the_source(directory: Path, more: int):
    write_file(directory, "n", "a/b/c/d", b"v")

    with descriptors(more), pytest.raises(StoreError, match=r"Too many open files.*ulimit -n"):
        list(scanning.scan(str(directory)))

    assert [one.key for one in found(directory)[0]] == ["a/b/c/d"]


def test_too_few_descriptors_end_an_import_and_nothing_is_taken(sql_file: SQLMetadataStore, directory: Path):
    write_file(directory, V1, "x", b"v")
    write_file(directory, "n", "/".join("abcdefghijklmnopqrstuvwxyz" * 10), b"v")

    with descriptors(100), pytest.raises(StoreError, match="ulimit -n"):
        import_directory(sql_file, directory)

    assert rows_of(sql_file) == []


def test_a_database_that_is_open_here_is_named_and_its_locks_stay(sql_file: SQLMetadataStore, tmp_path: Path):
    """Opening and closing it as a file would drop them: nobody else may write while this process does."""
    assert sql_file.path is not None
    base = tmp_path / "distribution"
    write_file(base, V1, "k", b"v")
    os.rename(sql_file.path, base / V1 / "layers.db")
    with SQLMetadataStore(base / V1 / "layers.db") as inside:
        inside.set("n", "k", b"v")
        with inside.transaction():
            opened: list[str] = []
            real = os.open

            def noting(path, *arguments, **options):
                opened.append(os.fsdecode(path) if not isinstance(path, int) else "")
                return real(path, *arguments, **options)

            os.open = noting
            try:
                records, odd = found(base)
            finally:
                os.open = real

    assert {one.path for one in odd} == {f"{V1}/layers.db", f"{V1}/layers.db-shm"}
    assert all("a database that is open here" in one.reason for one in odd)
    assert not {"layers.db", "layers.db-shm"} & {os.path.basename(path) for path in opened}
    assert "k" in [one.key for one in records]
    os.rename(base / V1 / "layers.db", sql_file.path)


def test_a_directory_is_read_while_another_thread_opens_and_closes_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """So many stores are open here that the other thread always has its turn while they are looked at."""
    write_file(tmp_path, V1, "k", b"v")
    monkeypatch.setattr(tree, "databases", {(0, inode) for inode in range(100_000)})
    over = threading.Event()

    def opening() -> None:
        while not over.is_set():
            tree.databases.add((1, 1))
            tree.databases.discard((1, 1))

    thread = threading.Thread(target=opening)
    thread.start()
    try:
        counts = {scanning.count(str(tmp_path)) for _ in range(3)}
    finally:
        over.set()
        thread.join()
    assert counts == {1}


def test_a_large_file_is_read_whole(directory: Path):
    write_file(directory, "n", "k", b"x" * (3 << 20))

    assert found(directory)[0] == [Record("n", "k", b"x" * (3 << 20), AT)]


def test_what_may_not_be_read_says_so_and_what_helps(directory: Path, monkeypatch: pytest.MonkeyPatch):
    """The tests may run as root, to whom nothing is denied."""
    write_file(directory, "n", "secret", b"v")
    write_file(directory, "n", "k", b"v")
    real = os.open

    def denying(path, *arguments, **options):
        if os.path.basename(os.fsdecode(path)) in denied:
            raise PermissionError(13, "Permission denied", path)
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", denying)
    denied = {"secret"}
    records, odd = found(directory)
    assert [one.key for one in records] == ["k"]
    assert [(one.path, one.reason) for one in odd] == [
        ("n/secret", "cannot be read: permission denied: run it as the owner, or as root (`sudo`)")
    ]

    denied = {"distribution"}
    with pytest.raises(StoreOpenError, match=r"permission denied.*sudo"):
        verify(directory)
