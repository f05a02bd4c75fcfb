"""Archives made by hand, by Python and by the real `tar`; and the tree that they are held against."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from layerstore import SQLMetadataStore, import_directory
from tests.support.entries import AT, LISTS, MAPPINGS, V1, entries, layer_key, rows_of, write_file

TAR = shutil.which("tar")
needs_tar = pytest.mark.skipif(TAR is None, reason="the program `tar` is not here")

SECONDS = 1_700_000_000
A_LIST = f"{LISTS}/{layer_key(1)}"
TREE: Mapping[str, bytes] = {
    A_LIST: entries(10, 11),
    f"{LISTS}/{layer_key(2)}": entries(12),
    f"{MAPPINGS}/{layer_key(10)}": b"sha256:" + b"1" * 64,
    f"{V1}/registry1,{'a' * 64}": b"sha256:" + b"2" * 64,
    "other/d\u00e9p\u00f4t/" + "x" * 200: b"\x00\xff",
}
"""Paths below a `distribution` directory; one of them too long and too French for an old tar header."""


class Member(NamedTuple):
    """One member of an archive, with its content."""

    info: tarfile.TarInfo
    value: bytes


Save = Callable[[bytes], Path]


def member(name: str, value: bytes = b"", **fields: Any) -> Member:
    """Make a member; `fields` are attributes of its header."""
    info = tarfile.TarInfo(name)
    info.size = len(value)
    info.mtime = SECONDS
    for field, given in fields.items():
        setattr(info, field, given)
    return Member(info, value)


def archive(*members: Member, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """Write members, in the order given, as an archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=form) as tar:  # type: ignore[call-overload]  # any mode
        for info, value in members:
            tar.addfile(info, io.BytesIO(value))
    return file.getvalue()


def tree_archive(prefix: str = "distribution/", *, mode: str = "w", form: int = tarfile.PAX_FORMAT) -> bytes:
    """Write `TREE` below a prefix."""
    return archive(*(member(prefix + path, value) for path, value in TREE.items()), mode=mode, form=form)


def packed(directory: Path, *options: str) -> bytes:
    """Pack a directory by the real `tar`; what to take and how is said by the options."""
    assert TAR is not None
    return subprocess.run([TAR, "-C", directory, "-c", *options], capture_output=True, check=True).stdout


def write_tree(base: Path, tree: Mapping[str, bytes] = TREE, at: int = SECONDS * 10**9) -> Path:
    """Write a tree as files, all of one time."""
    for path, value in tree.items():
        namespace, _, key = path.partition("/")
        write_file(base, namespace, key, value, at)
    return base


def rows_of_directory(base: Path) -> list[tuple[object, ...]]:
    """Return what a store holds after the import of a directory."""
    with SQLMetadataStore(":memory:") as store:
        import_directory(store, base)
        return rows_of(store)


def plain_rows(store: SQLMetadataStore) -> list[tuple[object, ...]]:
    """Return namespace, key and value of every entry."""
    return [row[:3] for row in rows_of(store)]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write bytes to the file `given.tar`, which is made anew each time."""

    def save_one(content: bytes) -> Path:
        path = tmp_path / "given.tar"
        path.write_bytes(content)
        return path

    return save_one


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`TREE` as a directory, with times that have nanoseconds."""
    return write_tree(tmp_path / "tree" / "distribution", at=AT)


@pytest.fixture
def expected(tmp_path: Path) -> list[tuple[object, ...]]:
    """What a store holds after the import of `TREE` at `SECONDS`."""
    return rows_of_directory(write_tree(tmp_path / "expected"))


def listing(base: Path) -> list[str]:
    """Return every path below a directory; without what SQLite and the queue of writers keep beside a database."""
    paths = (os.path.relpath(path, base) for path in base.rglob("*"))
    return sorted(path for path in paths if not path.endswith(("-wal", "-shm", "-journal", "-queue")))
