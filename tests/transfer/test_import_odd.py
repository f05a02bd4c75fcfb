"""What is no entry, or cannot be what its namespace says: each named in the report, nothing followed, nothing lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import get_args

import pytest

from layerstore import SQLMetadataStore, import_directory
from layerstore.files import tree
from layerstore.transfer.merging import OnConflict
from tests.support.entries import (
    LISTS,
    MAPPINGS,
    V1,
    Write,
    entries,
    layer_key,
    paths_in,
    quarantine_of,
    rows_of,
)

DIFF_ID = b"sha256:" + b"2" * 64


def test_temporary_files_are_counted_and_otherwise_ignored(sql_file: SQLMetadataStore, directory: Path, write: Write):
    write(LISTS, "sha256/.tmp-" + "1" * 64 + "123", b"half a li")
    write(".tmp-namespace", "x", b"")
    write("n", ".tmp-folder/x", b"")
    (directory / ".tmp-link").symlink_to("nowhere")
    write("n", "k", b"kept")

    report = import_directory(sql_file, directory)

    assert rows_of(sql_file)[0][:3] == ("n", "k", b"kept")
    assert (report.read, report.temporary, report.skipped, report.ok) == (1, 4, (), True)


def test_links_are_named_and_not_followed(sql_file: SQLMetadataStore, directory: Path, write: Write, tmp_path: Path):
    """Neither to a file nor to a directory, neither out of the tree nor within it, nor into a circle."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_bytes(b"secret")
    write("n", "k", b"kept")
    (directory / "n" / "file").symlink_to(secret / "file")
    (directory / "n" / "folder").symlink_to(secret, target_is_directory=True)
    (directory / "n" / "inside").symlink_to("k")
    (directory / "n" / "broken").symlink_to("nowhere")
    (directory / "n" / "self").symlink_to(".", target_is_directory=True)
    (directory / LISTS).symlink_to(secret, target_is_directory=True)

    report = import_directory(sql_file, directory)

    assert [row[:3] for row in rows_of(sql_file)] == [("n", "k", b"kept")]
    named = ["n/broken", "n/file", "n/folder", "n/inside", "n/self", LISTS]
    assert sorted(paths_in(report.skipped, directory)) == named
    assert {skipped.reason for skipped in report.skipped} == {"a link, device, socket or pipe"}
    assert not report.ok


def test_a_pipe_is_named_and_not_waited_for(sql_file: SQLMetadataStore, directory: Path, write: Write):
    write("n", "k", b"kept")
    os.mkfifo(directory / "n" / "pipe")
    os.mkfifo(directory / "pipe")

    report = import_directory(sql_file, directory)

    assert paths_in(report.skipped, directory) == ["n/pipe", "pipe"]
    assert report.read == 1


def test_names_that_are_not_utf8_are_named(sql_file: SQLMetadataStore, directory: Path, write: Write):
    write("n", "k", b"kept")
    (Path(os.fsdecode(os.fsencode(directory) + b"/n/caf\xe9"))).write_bytes(b"latin-1")
    (Path(os.fsdecode(os.fsencode(directory) + b"/\xff"))).mkdir()
    (Path(os.fsdecode(os.fsencode(directory) + b"/n/\xfe"))).mkdir()
    (Path(os.fsdecode(os.fsencode(directory) + b"/n/\xfe/inside"))).write_bytes(b"")

    report = import_directory(sql_file, directory)

    assert paths_in(report.skipped, directory) == ["n/caf\\xe9", "n/\\xfe/inside", "\\xff"]
    assert {skipped.reason for skipped in report.skipped} == {"the name is not UTF-8"}
    assert report.read == 1


def test_a_file_outside_every_namespace_is_named(sql_file: SQLMetadataStore, directory: Path, write: Write):
    write("n", "k", b"kept")
    (directory / "README").write_bytes(b"")

    report = import_directory(sql_file, directory)

    assert paths_in(report.skipped, directory) == ["README"]
    assert "outside" in report.skipped[0].reason
    assert report.read == 1


UNREADABLE = {
    "empty list": (LISTS, layer_key(1), b"", "empty"),
    "half a list": (LISTS, layer_key(1), entries(1, 2)[:-20], "Unterminated"),
    "not an array": (LISTS, layer_key(1), b"{}", "array"),
    "not an object": (LISTS, layer_key(1), b"[1]", "object"),
    "zeros of a power cut": (LISTS, layer_key(1), b"\0" * 400, "unexpected"),
    "list under an odd key": (LISTS, "sha256/1234", entries(1), "digest"),
    "list without algorithm": (LISTS, "1" * 64, entries(1), "digest"),
    "empty mapping": (MAPPINGS, layer_key(1), b"", "empty"),
    "mapping with a newline": (MAPPINGS, layer_key(1), DIFF_ID + b"\n", "DiffID"),
    "mapping in bytes": (MAPPINGS, layer_key(1), b"\xff", "DiffID"),
    "mapping of upper-case": (MAPPINGS, "sha256/" + "A" * 64, DIFF_ID, "digest"),
    "V1 ID too short": (V1, "registry,abc", DIFF_ID, "64 hex digits"),
    "V1 ID without a registry": (V1, "a" * 64, DIFF_ID, "64 hex digits"),
    "empty V1 ID": (V1, "registry," + "a" * 64, b"", "empty"),
}


@pytest.mark.parametrize("case", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_what_its_namespace_cannot_have_goes_to_quarantine_once(
    sql_file: SQLMetadataStore, directory: Path, write: Write, case: tuple[str, str, bytes, str]
):
    namespace, key, value, says = case
    path = write(namespace, key, value)
    write("n", "k", b"kept")

    for _ in range(2):
        report = import_directory(sql_file, directory)
        assert [(found.path, says in found.reason) for found in report.quarantined] == [(str(path), True)]
        assert quarantine_of(sql_file) == [(namespace, key, value, report.quarantined[0].reason)]
        assert [row[:3] for row in rows_of(sql_file)] == [("n", "k", b"kept")]
        assert not report.ok


def test_other_bytes_of_the_same_entry_are_kept_beside_the_first(
    sql_file: SQLMetadataStore, directory: Path, write: Write
):
    for value in (b"[", b"{", b"["):
        write(LISTS, layer_key(1), value)
        import_directory(sql_file, directory)

    assert [row[2] for row in quarantine_of(sql_file)] == [b"[", b"{"]


def test_an_unreadable_file_does_not_take_the_place_of_what_the_store_has(
    sql_file: SQLMetadataStore, directory: Path, write: Write
):
    sql_file.set(LISTS, layer_key(1), entries(1))
    before = rows_of(sql_file)
    write(LISTS, layer_key(1), b"")

    for on_conflict in get_args(OnConflict):
        report = import_directory(sql_file, directory, on_conflict=on_conflict)
        assert (report.read, report.unchanged, len(report.quarantined)) == (1, 0, 1)
    assert rows_of(sql_file) == before


def test_lists_that_docker_can_read_are_taken_byte_for_byte(sql_file: SQLMetadataStore, directory: Path, write: Write):
    """A null list, one without HMAC, odd digests, and other spacing: Docker reads them, so they are entries."""
    values = [b"null", b"[]", b'[ {"digest":"sha256:0"} ]', b"[{}]", b"[null]"]
    for number, value in enumerate(values):
        write(LISTS, layer_key(number), value)

    assert import_directory(sql_file, directory).ok
    assert [row[2] for row in rows_of(sql_file)] == values


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take in each file before the next one is read."""
    monkeypatch.setattr("layerstore.collection.RECORDS", 1)


@pytest.mark.usefixtures("one_at_a_time")
def test_a_file_that_vanishes_while_it_is_read_is_named(sql_file: SQLMetadataStore, directory: Path, write: Write):
    """A live daemon replaces and removes files at any moment."""
    for key in "abc":
        write("n", key, b"")

    report = import_directory(
        sql_file, directory, progress=lambda done, _total: (directory / "n" / "b").unlink() if done == 1 else None
    )

    assert [row[1] for row in rows_of(sql_file)] == ["a", "c"]
    assert [(found.path, found.reason) for found in report.skipped] == [
        (str(directory / "n" / "b"), "removed while it was read")
    ]


@pytest.mark.usefixtures("one_at_a_time")
def test_a_folder_that_vanishes_while_it_is_read_is_named(sql_file: SQLMetadataStore, directory: Path, write: Write):
    for key in "abcde":
        write("n", key, b"")
    write("o", "b", b"")

    def remove(done: int, _total: int | None) -> None:
        if done == 1:
            (directory / "o" / "b").unlink()
            (directory / "o").rmdir()

    report = import_directory(sql_file, directory, progress=remove)

    assert paths_in(report.skipped, directory) == ["o"]
    assert report.read == 5


def test_a_file_that_cannot_be_read_is_named_and_the_rest_is_taken(
    sql_file: SQLMetadataStore, directory: Path, write: Write, monkeypatch: pytest.MonkeyPatch
):
    """As root every file can be read, so the error is made."""

    def read(folder: int, name: bytes):
        if name == b"b":
            raise PermissionError(13, "Permission denied")
        return real(folder, name)

    real = tree.read_regular
    monkeypatch.setattr(tree, "read_regular", read)
    for key in "abc":
        write("n", key, b"")

    report = import_directory(sql_file, directory)

    assert [row[1] for row in rows_of(sql_file)] == ["a", "c"]
    assert [(found.path, "permission denied" in found.reason) for found in report.skipped] == [
        (str(directory / "n" / "b"), True)
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_folder_that_cannot_be_read_is_named(sql_file: SQLMetadataStore, directory: Path, write: Write):
    write("n", "k", b"kept")
    folder = write("n", "closed/x", b"").parent
    folder.chmod(0)
    try:
        report = import_directory(sql_file, directory)
    finally:
        folder.chmod(0o755)

    assert paths_in(report.skipped, directory) == ["n/closed"]
    assert report.read == 1
