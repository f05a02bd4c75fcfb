"""An archive without Docker's metadata is an error that says what it looks like, not a success of nothing."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, diff, import_directory, verify
from layerstore.formats import tar
from layerstore.keys import Record
from tests.support.archives import Member, Save, archive, member
from tests.support.command import BAD, Run, assert_one_line_error
from tests.support.entries import LISTS, whole


def directory(name: str) -> Member:
    return member(name, type=tarfile.DIRTYPE)


NOTHING = {
    "no members": (archive(), "an empty tar"),
    "zeros": (bytes(10240), "an empty tar"),
    "one block": (bytes(512), "an empty tar"),
    "the working directory": (archive(directory("./")), "an empty tar"),
    "a data root, denied": (archive(directory("image/")), "no permission to read"),
    "a driver, denied": (archive(directory("image/"), directory("image/overlay2/")), "no permission to read"),
    "a data root's other files": (
        archive(member("docker/image/overlay2/repositories.json", b"{}")),
        "without image/<driver>/distribution",
    ),
    "renamed": (
        archive(member(f"image/overlay2/distribution.bak/{LISTS}/sha256/{'a' * 64}", b"[]")),
        "without image/<driver>/distribution",
    ),
    "directories without files": (
        archive(*map(directory, ["distribution/", f"distribution/{LISTS}/", f"distribution/{LISTS}/sha256/"])),
        "it has their directories, but no file",
    ),
    "a directory of a namespace": (archive(directory(f"backup/{LISTS}")), "it has their directories, but no file"),
    "docker save": (
        archive(*map(member, ["blobs/sha256/a", "index.json", "manifest.json", "oci-layout", "repositories"])),
        "`docker save`",
    ),
    "old docker save": (archive(*map(member, ["a/layer.tar", "a.json", "manifest.json"])), "`docker save`"),
    "OCI layout": (archive(*map(member, ["./oci-layout", "./index.json", "./blobs/sha256/a"])), "OCI image layout"),
    "file system": (
        archive(*map(member, ["bin/sh", "etc/passwd", "usr/bin/env", ".dockerenv"])),
        "the file system of an image or host",
    ),
    "something": (archive(*map(member, ["a/b", "c", "\x1b[31m", "d"])), "it holds a, c, "),
    "label": (archive(member("label", type=b"V")), "an empty tar"),
}


def work_of(path: Path, store: SQLMetadataStore) -> list[object]:
    return [lambda: import_directory(store, path), lambda: verify(path), lambda: diff(path, store)]


@pytest.mark.parametrize(("content", "looks_like"), NOTHING.values(), ids=NOTHING.keys())
def test_it_is_an_error_that_says_what_it_looks_like_and_what_would_be_right(
    content: bytes, looks_like: str, sql_memory: SQLMetadataStore, save: Save
):
    path = save(content)
    sql_memory.set("n", "k", b"v")
    before = whole(sql_memory)

    for work in work_of(path, sql_memory):
        with pytest.raises(TransferError, match="nothing of Docker's namespaces") as raised:
            work()  # type: ignore[operator]  # a function
        assert raised.value.path == str(path)
        assert looks_like in str(raised.value)
        assert "tar -C /var/lib/docker -c image/overlay2/distribution" in str(raised.value)
    assert whole(sql_memory) == before
    allowed = tar.scan(io.BytesIO(content), "x", allow_empty=True)
    assert not [found for _, found in allowed if isinstance(found, Record)]


def test_the_command_exits_with_an_error_also_for_standard_input(save: Save, run_process: Run):
    path = save(bytes(10240))
    for done in (
        run_process("import", path),
        run_process("verify", path),
        run_process("diff", path, path),
        run_process("import", "-", stdin=bytes(10240)),
        run_process("verify", "-", stdin=archive(directory("image/"))),
    ):
        assert done.code == BAD
        assert_one_line_error(done, "nothing of Docker's namespaces")


FRESH = {
    "distribution": ["distribution/"],
    "without a slash": ["distribution"],
    "./distribution": ["./", "./distribution/"],
    "data root": ["image/", "image/overlay2/", "image/overlay2/distribution/"],
    "absolute": ["/var/lib/docker/image/vfs/distribution"],
}


@pytest.mark.parametrize("names", FRESH.values(), ids=FRESH.keys())
def test_an_empty_directory_of_metadata_is_a_fresh_hosts(names: list[str], sql_memory: SQLMetadataStore, save: Save):
    path = save(archive(*map(directory, names)))

    report = import_directory(sql_memory, path)

    assert (report.read, report.ok) == (0, True)
    assert verify(path).ok
    assert diff(path, sql_memory).ok


def test_an_export_of_an_empty_store_can_be_imported(
    sql_file: SQLMetadataStore, sql_memory: SQLMetadataStore, save: Save
):
    from layerstore.transfer.exporting import export_tar

    file = io.BytesIO()
    assert export_tar(sql_file, file).written == 0

    assert import_directory(sql_memory, save(file.getvalue())).ok


def test_forced_every_file_below_a_directory_is_an_entry():
    """As of a directory of unknown namespaces."""
    content = archive(member("./n/k", b"1"), member("n2/a/b", b"2"), member("README"), member("distribution/m/k", b"3"))

    found = list(tar.scan(io.BytesIO(content), "x", force=True))

    assert [(base, *one[:3]) for base, one in found if isinstance(one, Record)] == [
        ("", "n", "k", b"1"),
        ("", "n2", "a/b", b"2"),
        ("distribution", "m", "k", b"3"),
    ]
    assert len(found) == 4
    with pytest.raises(TransferError, match="empty tar"):
        list(tar.scan(io.BytesIO(archive()), "x", force=True))
