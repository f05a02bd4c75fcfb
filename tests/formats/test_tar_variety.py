"""What `tar` can write beside plain members: the files are taken, and what is none is passed over in silence."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, import_directory, verify
from layerstore.formats import tar
from tests.support.archives import (
    TREE,
    Member,
    Save,
    archive,
    member,
    needs_tar,
    packed,
    plain_rows,
    rows_of_directory,
    tree_archive,
    write_tree,
)
from tests.support.entries import LISTS, MAPPINGS, V1, entries, layer_key, rows_of, sources_of

KNOWN = {path: value for path, value in TREE.items() if not path.startswith("other/")}
"""What of `TREE` lies below Docker's namespaces."""


def rows(tree: dict[str, bytes]) -> list[tuple[object, ...]]:
    """Return a tree's entries as a store has them."""
    return sorted((*path.split("/", 1), value) for path, value in tree.items())


# Hard links


@needs_tar
@pytest.mark.parametrize("form", ["v7", "ustar", "oldgnu", "gnu", "posix"])
def test_files_that_are_linked_in_the_archive_are_taken_with_their_content(
    form: str, sql_memory: SQLMetadataStore, tmp_path: Path, save: Save
):
    """As of a tree that was copied by `cp -al`: the second name of a file comes as a link to the first."""
    tree = {f"n/{number}": b"v" * number for number in range(4)}
    write_tree(tmp_path / "a/distribution", tree)
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=os.link)
    content = packed(tmp_path, f"--format={form}", "a", "b")
    assert content.count(b"1a/distribution/n/") == len(tree)

    report = import_directory(sql_memory, save(content))

    assert [(of.read, of.unchanged) for of in report.sources] == [(4, 0), (4, 4)]
    assert report.ok
    assert plain_rows(sql_memory) == rows(tree)


@needs_tar
def test_a_copy_beside_the_directory_may_have_the_content(sql_memory: SQLMetadataStore, tmp_path: Path, save: Save):
    """`distribution.bak` is no metadata, and comes first: what is in `distribution` are links to it."""
    copy, base = tmp_path / "image/overlay2/distribution.bak", tmp_path / "image/overlay2/distribution"
    write_tree(copy, KNOWN)
    shutil.copytree(copy, base, copy_function=os.link)
    content = packed(tmp_path, "image/overlay2/distribution.bak", "image/overlay2/distribution")

    report = import_directory(sql_memory, save(content))

    assert (report.read, report.ok) == (len(KNOWN), True)
    assert plain_rows(sql_memory) == rows(KNOWN)


def link(name: str, target: str) -> Member:
    return member(f"distribution/n/{name}", type=tarfile.LNKTYPE, linkname=target)


def test_a_link_to_a_link_has_the_content_too(sql_memory: SQLMetadataStore, save: Save):
    members = [member("./distribution/n/a", b"v"), link("b", "distribution/n/a"), link("c", "/distribution/n/b")]

    assert import_directory(sql_memory, save(archive(*members))).ok
    assert plain_rows(sql_memory) == [("n", key, b"v") for key in "abc"]


def test_a_link_to_content_that_lies_too_far_back_is_named(
    sql_memory: SQLMetadataStore, save: Save, monkeypatch: pytest.MonkeyPatch
):
    """What is remembered for links is limited; nothing is made up for what is not."""
    monkeypatch.setattr(tar, "_LINKABLE", 3000)
    members = [member(f"distribution/n/{at}", b"x" * 1000) for at in range(4)]
    members += [link(f"l{at}", f"distribution/n/{at}") for at in range(4)]

    report = import_directory(sql_memory, save(archive(*members)))

    assert [row[1] for row in plain_rows(sql_memory)] == ["0", "1", "2", "3", "l0", "l1"]
    assert [found.reason[:11] for found in report.skipped] == ["a hard link"] * 2


# Labels, volumes, lists of directories


def assert_taken_in_silence(content: bytes, base: Path, store: SQLMetadataStore, save: Save) -> None:
    path = save(content)
    report = import_directory(store, path)
    assert (report.ok, report.skipped) == (True, ())
    assert [row[:3] for row in rows_of(store)] == [row[:3] for row in rows_of_directory(base)]
    assert not [found for found in verify(path).findings if found.kind == "no-entry"]


OPTIONS: dict[str, Sequence[str]] = {
    "a label": ["-V", "nightly 2024"],
    "a label in pax": ["-V", "nightly 2024", "--format=posix"],
    "lists of directories": ["--incremental"],
    "lists of directories, posix": ["--incremental", "--format=posix"],
    "holes": ["-S"],
    "holes, 0.0": ["-S", "--format=posix", "--sparse-version=0.0"],
    "holes, 0.1": ["-S", "--format=posix", "--sparse-version=0.1"],
    "holes, 1.0": ["-S", "--format=posix", "--sparse-version=1.0"],
    "holes, old": ["-S", "--format=oldgnu"],
    "all times": ["--format=posix", "--pax-option=globexthdr.name=x,comment=global,atime:=1,ctime:=1"],
    "attributes": ["--xattrs", "--acls", "--selinux"],
    "one record": ["-b", "1"],
}


@needs_tar
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_what_gnu_tar_writes_is_taken_and_what_is_no_file_is_passed_over(
    options: Sequence[str], sql_memory: SQLMetadataStore, tmp_path: Path, save: Save
):
    base = write_tree(tmp_path / "distribution")
    with (base / "other" / "holes").open("wb") as file:
        for at in range(0, 40 << 14, 1 << 14):  # more pieces than one header has room for
            file.seek(at)
            file.write(b"data")

    assert_taken_in_silence(packed(tmp_path, *options, "distribution"), base, sql_memory, save)


@needs_tar
def test_a_sparse_file_that_is_all_hole_is_taken(sql_memory: SQLMetadataStore, tmp_path: Path, save: Save):
    base = tmp_path / "distribution" / "n"
    base.mkdir(parents=True)
    for key, size in (("a", 0), ("b", 1 << 20), ("c", 1)):
        with (base / key).open("wb") as file:
            file.truncate(size)
    for options in (["--format=gnu"], *(["--format=posix", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))):
        assert_taken_in_silence(packed(tmp_path, "-S", *options, "distribution"), base.parent, sql_memory, save)


@needs_tar
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_names_that_are_longer_than_a_header_are_read(
    form: str, sql_memory: SQLMetadataStore, tmp_path: Path, save: Save
):
    base = tmp_path / ("r" * 200) / "distribution"
    write_tree(base, {f"n/{'x' * 200}/{'y' * 200}": b"v"})
    (base / "n" / ("z" * 200)).hardlink_to(base / "n" / ("x" * 200) / ("y" * 200))

    assert_taken_in_silence(packed(tmp_path, f"--format={form}", "r" * 200), base, sql_memory, save)


@needs_tar
def test_the_second_of_several_volumes_names_the_file_that_it_has_half_of(tmp_path: Path, save: Save):
    base = tmp_path / "distribution"
    write_tree(base, {"n/large": os.urandom(30_000), "n/small": b"small"})
    volumes = [tmp_path / "1.tar", tmp_path / "2.tar"]
    files = ["distribution/n/large", "distribution/n/small"]
    pack = ["tar", "-C", str(tmp_path), "-cM", "-L", "20", "-f", str(volumes[0]), "-f", str(volumes[1]), *files]
    subprocess.run(pack, check=True, stdin=subprocess.DEVNULL)
    with SQLMetadataStore(":memory:") as store:
        report = import_directory(store, volumes[1])

        assert plain_rows(store) == [("n", "small", b"small")]
    assert [found.reason for found in report.skipped] == ["the end of a file that begins in another volume"]


# Names


@needs_tar
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_absolute_names_are_taken_below_a_directory_of_metadata(
    form: str, sql_memory: SQLMetadataStore, tmp_path: Path, save: Save
):
    """`tar -P` keeps the slash at the beginning, also of what links lead to."""
    base = write_tree(tmp_path / "distribution")
    (base / LISTS / "linked").hardlink_to(base / LISTS / layer_key(1))
    (base / LISTS / "linked").rename(base / "other" / "linked")
    path = save(packed(tmp_path, "-P", f"--format={form}", str(base)))

    report = import_directory(sql_memory, path)

    assert report.ok
    assert sources_of(report) == [f"{path}{base}"]
    assert [row[:3] for row in rows_of(sql_memory)] == [row[:3] for row in rows_of_directory(base)]


@pytest.mark.parametrize("prefix", ["/", "//", "/./", "././/"])
def test_what_only_says_that_a_name_is_absolute_or_here_does_not_count(
    prefix: str, sql_memory: SQLMetadataStore, save: Save
):
    path = save(tree_archive(f"{prefix}distribution/"))

    report = import_directory(sql_memory, path)

    assert report.ok
    assert plain_rows(sql_memory) == rows(dict(TREE))
    assert sources_of(report) == [f"{path}/distribution"]


@pytest.mark.parametrize(
    "top",
    ["backup-2026", "image", "./b", "srv/docker meta/2026", "distribution.bak", "a\nb", "/srv/b"],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_a_directory_of_any_name_may_hold_the_namespaces(
    top: str, backwards: bool, sql_memory: SQLMetadataStore, save: Save
):
    members = [member(f"{top}/{path}", value) for path, value in KNOWN.items()]
    path = save(archive(*(reversed(members) if backwards else members)))

    report = import_directory(sql_memory, path)

    assert report.ok
    assert plain_rows(sql_memory) == rows(KNOWN)
    assert sources_of(report) == [f"{path}/{top.removeprefix('./').lstrip('/')}"]


def test_what_lies_beside_the_namespaces_in_such_a_directory_is_named(sql_memory: SQLMetadataStore, save: Save):
    path = save(archive(member(f"b/{LISTS}/{layer_key(1)}", entries()), member("b/README"), member("b/other/k")))

    report = import_directory(sql_memory, path)

    assert [found.reason for found in report.skipped] == ["a file outside every namespace"] * 2
    assert report.read == 1


def test_a_copy_of_a_daemons_directory_is_none_of_its_directories(sql_memory: SQLMetadataStore, save: Save):
    """`image/overlay2/distribution.bak` is somebody's, and old; the daemon does not read it."""
    members = [member(f"image/overlay2/distribution.bak/{path}", value) for path, value in KNOWN.items()]
    members.append(member("image/overlay2/distribution/n/k", b"v"))

    report = import_directory(sql_memory, save(archive(*members)))

    assert (report.read, report.ok) == (1, True)
    assert plain_rows(sql_memory) == [("n", "k", b"v")]


# Several archives, one behind the other


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_archives_one_behind_the_other_are_all_read(mode: str, sql_memory: SQLMetadataStore, save: Save):
    """`cat 1.tar 2.tar 3.tar`, as `tar -i` reads it."""
    parts = [archive(member(f"distribution/n/{number}", b"v"), mode=mode) for number in range(3)]

    report = import_directory(sql_memory, save(b"".join(parts)))

    assert (report.read, report.ok) == (3, True)


@pytest.mark.parametrize("rest", [b"done\n", b"x" * 5000, b"\x1f\x8b" + bytes(600)], ids=["text", "noise", "gzip"])
def test_what_follows_an_archive_and_is_none_is_named(rest: bytes, sql_memory: SQLMetadataStore, save: Save):
    """`(tar -c …; echo done)`: it is taken, as by `tar`, which does not say that there is more."""
    path = save(archive(member("distribution/n/k", b"v")) + rest)

    report = import_directory(sql_memory, path)

    assert plain_rows(sql_memory) == [("n", "k", b"v")]
    assert [(found.path, found.reason) for found in report.skipped] == [
        (f"{path}/(behind the end)", f"{len(rest)} bytes that are no archive")
    ]


def test_zeros_behind_a_compressed_archive_are_nothing(sql_memory: SQLMetadataStore, save: Save):
    """Tapes have whole blocks only."""
    for mode in ("w:gz", "w:bz2", "w:xz"):
        path = save(archive(member("distribution/n/k", b"v"), mode=mode) + bytes(5000))

        assert import_directory(sql_memory, path).ok


@pytest.mark.parametrize(("namespace", "key"), [(MAPPINGS, layer_key(1)), (V1, f"r,{'a' * 64}"), (LISTS, layer_key(2))])
def test_a_directory_with_one_namespace_only_is_found(
    namespace: str, key: str, sql_memory: SQLMetadataStore, save: Save
):
    value = entries() if namespace == LISTS else b"sha256:" + b"1" * 64
    import_directory(sql_memory, save(archive(member(f"backup/{namespace}/{key}", value))))

    assert plain_rows(sql_memory) == [(namespace, key, value)]
