"""A directory of unknown namespaces alone is taken only when that is what was meant; a huge file never by the way."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from layerstore import (
    FSMetadataStore,
    SQLMetadataStore,
    StoreError,
    TransferError,
    diff,
    export_directory,
    import_directory,
    prune,
    verify,
)
from layerstore.files import tree
from tests.support.command import BAD, DONE, Run, assert_one_line_error
from tests.support.entries import V1, Write, paths_in, rows_of, write_file


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    base = tmp_path / "etc"
    write_file(base, "apt", "sources.list", b"deb")
    (base / "passwd").write_text("root")
    return base


def test_forced_the_command_takes_it(run: Run, etc: Path, database: Path):
    refused = run("import", etc)
    assert refused.code == BAD
    assert_one_line_error(refused, etc)
    assert re.search(r"v2metadata-by-diffid.*apt, passwd.*`distribution`.*--force", refused.err)
    assert not database.exists() or rows_in(database) == []

    assert run("import", "--force", etc).code == 1  # `passwd` is no entry, and is named
    assert rows_in(database) == [("apt", "sources.list")]


def rows_in(database: Path) -> list[tuple[object, ...]]:
    with SQLMetadataStore(database) as store:
        return [row[:2] for row in rows_of(store)]


@pytest.mark.parametrize("forced", [False, True])
def test_what_force_does_not_change(run: Run, etc: Path, tmp_path: Path, forced: bool):
    """Other places are what they were: a data root is not taken whole."""
    root = tmp_path / "docker"
    write_file(root / "image" / "vfs" / "distribution", "n", "k", b"v")
    write_file(root / "containers", "c", "config.json", b"{}")

    done = run("import", "--json", *(["--force"] if forced else []), root)

    assert (done.code, done.json["read"]) == (DONE, 1)


def test_forced_the_library_takes_it(sql_store: SQLMetadataStore, etc: Path):
    """A store may have any namespaces; but a path may be the wrong one."""
    for work in (lambda: import_directory(sql_store, etc), lambda: verify(etc), lambda: diff(sql_store, etc)):
        with pytest.raises(TransferError, match=r"v2metadata-by-diffid.*apt, passwd.*--force") as raised:
            work()
        assert raised.value.path == str(etc)
    with pytest.raises(TransferError, match="apt, passwd"):
        prune(etc, older_than="1d")
    assert rows_of(sql_store) == []

    import_directory(sql_store, etc, force=True)

    assert [row[:2] for row in rows_of(sql_store)] == [("apt", "sources.list")]
    assert verify(etc, force=True).checked == 1
    assert diff(sql_store, etc, force=True).ok


def test_an_export_of_unknown_namespaces_alone_comes_back(run: Run, sql_store: SQLMetadataStore, tmp_path: Path):
    """By its name, `distribution`; or forced."""
    sql_store.set("custom", "k", b"v")
    for name, force in (("distribution", []), ("elsewhere", ["--force"])):
        export_directory(sql_store, tmp_path / name)

        assert run("import", *force, tmp_path / name).code == DONE

    assert run("import", tmp_path / "elsewhere").code == BAD


@pytest.mark.parametrize("name", ["distribution", "docker/image/overlay2/distribution"])
def test_an_empty_directory_where_a_fresh_host_has_one_is_an_empty_import(
    sql_store: SQLMetadataStore, tmp_path: Path, name: str
):
    (tmp_path / name).mkdir(parents=True)
    (tmp_path / name / ".tmp-left1").touch()

    for place in {tmp_path / name, tmp_path / name.split("/", maxsplit=1)[0]}:
        report = import_directory(sql_store, place)

        assert (report.read, report.temporary, report.ok) == (0, 1, True)
        assert verify(place).ok


def make_huge(path: Path) -> None:
    """Make a file one byte over the limit, which takes no room on the disk."""
    with path.open("wb") as file:
        file.truncate(tree.MAX_VALUE + 1)


def test_a_huge_file_is_named_and_not_taken(sql_store: SQLMetadataStore, directory: Path, write: Write):
    write(V1, "small", b"")
    make_huge(write("n", "huge", b""))
    write("n", "small", b"v")

    report = import_directory(sql_store, directory)

    assert paths_in(report.skipped, directory) == ["n/huge"]
    assert report.skipped[0].reason == "larger than 64 MiB"
    assert [row[1] for row in rows_of(sql_store)] == ["small"]
    (found,) = (found for found in verify(directory).findings if found.kind == "unreadable-file")
    assert found.examples == ("n/huge: larger than 64 MiB",)
    with pytest.raises(StoreError, match="larger than 64 MiB"):
        list(FSMetadataStore(directory).entries())


def test_a_huge_file_can_be_had_by_its_name(directory: Path, write: Write):
    make_huge(write("n", "huge", b""))

    assert len(FSMetadataStore(directory).get("n", "huge")) == tree.MAX_VALUE + 1


def test_a_file_that_grows_while_it_is_read_is_given_up_at_the_limit(
    directory: Path, write: Write, monkeypatch: pytest.MonkeyPatch
):
    """Its size was within the limit when it was opened."""
    path = write("n", "growing", b"x")
    real = os.fstat

    def fstat(descriptor: int):
        status = real(descriptor)
        make_huge(path)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    with tree.directory(str(directory), ["n"]) as folder, pytest.raises(OSError, match="larger than 67108864 bytes"):
        tree.read(folder, "growing")
