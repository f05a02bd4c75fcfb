"""A path that nothing can have is refused by an error of the tree, by every function that takes one, and at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerstore import (
    FSMetadataStore,
    InvalidInputError,
    LayerstoreError,
    SQLMetadataStore,
    StoreOpenError,
    TransferError,
    diff,
    docker_credentials,
    export_directory,
    find_image,
    import_directory,
    prune,
    verify,
)
from layerstore.transfer.recovering import recover
from tests.support.command import ROOT


def with_store(use: Callable[[SQLMetadataStore, Any], object]) -> Callable[[Any], object]:
    def run(path: Any) -> object:
        with SQLMetadataStore(":memory:") as store:
            return use(store, path)

    return run


USES: dict[str, Callable[[Any], object]] = {
    "SQLMetadataStore": SQLMetadataStore,
    "FSMetadataStore": FSMetadataStore,
    "import_directory": with_store(import_directory),
    "export_directory": with_store(export_directory),
    "backup": with_store(SQLMetadataStore.backup),
    "diff": with_store(diff),
    "verify": verify,
    "prune": lambda path: prune(path, older_than="1d"),
    "prune to": with_store(lambda store, path: prune(store, older_than="1d", to=path)),
    "recover": lambda path: recover(path, "/nowhere/new.db"),
    "recover to": lambda path: recover("/nowhere/old.db", path),
    "find_image": lambda path: find_image(path, "busybox"),
    "docker_credentials": lambda path: docker_credentials("localhost:5000", config=path),
}
IMPOSSIBLE = {
    "empty": "",
    "NUL": "a\0b",
    "lone surrogate": "a\ud800b",
    "long name": "x" * 256,
    "long path": "/x" * 2048,
}


@pytest.mark.parametrize("path", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_path_that_nothing_can_have_is_invalid_input(
    use: Callable[[Any], object], path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidInputError, match="path"):
        use(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_bytes_and_other_things_are_no_path(
    use: Callable[[Any], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    for path in (b"a.db", 3, object()):
        with pytest.raises((InvalidInputError, TransferError)):
            use(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
def test_a_url_of_another_kind_is_no_path_and_its_password_is_not_shown(
    use: Callable[[Any], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)

    for url in ("postgres://user:secret@localhost/layers", "http://user:secret@localhost/a.tar", "s3://secret/x"):
        with pytest.raises((InvalidInputError, StoreOpenError), match=r"postgresql://HOST/DATABASE") as caught:
            use(url)
        assert "secret@" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("use", ["SQLMetadataStore", "import_directory", "diff", "verify"])
def test_a_url_of_sqlite_without_its_slashes_is_no_path(use: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    for url in ("sqlite:layers.db", f"sqlite:{tmp_path}/layers.db", f"sqlite:/{tmp_path}/layers.db"):
        with pytest.raises((StoreOpenError, TransferError), match="sqlite:///FILE"):
            USES[use](url)
    assert list(tmp_path.iterdir()) == []
    with SQLMetadataStore("./sqlite:layers.db") as store, SQLMetadataStore(Path("sqlite:layers.db")) as other:
        store.set("v1id", "k", b"v")
        assert other.path == store.path == f"{tmp_path}/sqlite:layers.db"


def test_a_directory_whose_name_is_a_scheme_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:").mkdir()

    for path in ("http://files", "./ftp://files", Path("s3://files")):
        with FSMetadataStore(path) as files:
            files.set("v1id", "k", b"v")


def test_path_of_nothing_is_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidInputError, match="empty path"):
        SQLMetadataStore(Path(""))
    assert list(tmp_path.iterdir()) == []


def test_sqlalchemys_names_for_memory_stay():
    for url in ("sqlite://", "sqlite:///", "sqlite:///:memory:", ":memory:"):
        with SQLMetadataStore(url) as store:
            assert store.path is None


def test_two_slashes_at_the_beginning_are_one(tmp_path: Path):
    for path in (f"/{tmp_path}/l.db", f"//{tmp_path}/l.db", f"sqlite:////{tmp_path}/l.db"):
        with SQLMetadataStore(path) as store:
            store.set("v1id", "k", b"v")
            assert store.path == f"{tmp_path}/l.db"
    with FSMetadataStore(f"/{tmp_path}/files") as files:
        files.set("v1id", "k", b"v")
        assert files.path == f"{tmp_path}/files"
    assert diff(f"/{tmp_path}/l.db", f"//{tmp_path}/files", force=True).ok


def test_a_path_that_is_too_long_for_sqlite_says_so(tmp_path: Path):
    folder = tmp_path / "/".join(["d" * 100] * 5)

    with pytest.raises(InvalidInputError, match="504 bytes"):
        SQLMetadataStore(folder / "l.db")
    longest = tmp_path / ("d" * 200) / ("d" * 200)
    longest /= "f" * (504 - len(os.fsencode(longest)) - 1)
    with SQLMetadataStore(longest) as store:
        store.set("n", "k", b"v")
    assert longest.exists()


def test_a_pipe_is_no_store(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")

    for read_only in (False, True):
        with pytest.raises(StoreOpenError, match="a named pipe, not a database file"):
            SQLMetadataStore(tmp_path / "pipe", read_only=read_only)
    with pytest.raises(StoreOpenError):
        FSMetadataStore(tmp_path / "pipe")
    with pytest.raises(StoreOpenError, match="a named pipe"):
        recover(tmp_path / "pipe", tmp_path / "new.db")


_IN_A_REMOVED_DIRECTORY = """
import os, sys
from tests.test_paths import USES
from layerstore import InvalidInputError
gone, kept = sys.argv[1:]
os.mkdir(gone)
os.chdir(gone)
os.rmdir(gone)
for name, use in USES.items():
    try:
        use("x")
    except InvalidInputError as error:
        assert "the working directory was removed" in str(error), (name, error)
    else:
        sys.exit(name)
from layerstore import SQLMetadataStore
with SQLMetadataStore(kept) as store:
    store.set("n", "k", b"v")
"""


def test_a_relative_path_in_a_removed_working_directory_says_so_and_an_absolute_one_works(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_REMOVED_DIRECTORY, tmp_path / "gone", tmp_path / "l.db"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    with SQLMetadataStore(tmp_path / "l.db", read_only=True) as store:
        assert store.get("n", "k") == b"v"


def test_a_loop_of_links_is_an_error_of_the_tree(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")

    for use in (SQLMetadataStore, FSMetadataStore, verify):
        with pytest.raises(LayerstoreError, match="loop"):
            use(tmp_path / "loop")
