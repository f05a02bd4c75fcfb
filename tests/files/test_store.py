"""`FSMetadataStore`: Docker's directory byte for byte, whatever the umask, and no way out of it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from layerstore import (
    FSMetadataStore,
    InvalidKeyError,
    NotFoundError,
    StoreError,
    StoreFullError,
    StoreOpenError,
    StoreReadOnlyError,
    V1IDService,
    V2Metadata,
    V2MetadataService,
)
from tests.support.strategies import sha256


def modes(top: Path) -> dict[str, int]:
    return {str(path.relative_to(top)): stat.S_IMODE(path.lstat().st_mode) for path in [top, *top.rglob("*")]}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o177])
def test_modes_are_dockers_whatever_the_umask(tmp_path: Path, umask: int):
    before = os.umask(umask)
    try:
        store = FSMetadataStore(tmp_path / "image" / "distribution")
        store.set("v2metadata-by-diffid", "sha256/abc", b"[]")
        store.set("v2metadata-by-diffid", "sha256/abc", b"null")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "image").stat().st_mode) == 0o700
    assert modes(tmp_path / "image" / "distribution") == {
        ".": 0o700,
        "v2metadata-by-diffid": 0o755,
        "v2metadata-by-diffid/sha256": 0o755,
        "v2metadata-by-diffid/sha256/abc": 0o644,
    }


def test_an_existing_bases_mode_is_left_alone(tmp_path: Path):
    (tmp_path / "base").mkdir(0o750)
    (tmp_path / "base").chmod(0o750)
    FSMetadataStore(tmp_path / "base").set("n", "k", b"")

    assert modes(tmp_path / "base") == {".": 0o750, "n": 0o755, "n/k": 0o644}


def test_the_tree_is_dockers_byte_for_byte(files: FSMetadataStore):
    V2MetadataService(files).add(sha256(1), V2Metadata(sha256(2), "a&b", ""))
    V1IDService(files).set("0" * 64, "localhost:5000", sha256(3))
    base = Path(files.path)
    found = {str(path.relative_to(base)): path.read_bytes() for path in base.rglob("*") if path.is_file()}

    assert found == {
        f"diffid-by-digest/sha256/{2:064x}": sha256(1).encode(),
        f"v1id/localhost:5000,{'0' * 64}": sha256(3).encode(),
        f"v2metadata-by-diffid/sha256/{1:064x}": (
            f'[{{"Digest":"{sha256(2)}","SourceRepository":"a\\u0026b","HMAC":""}}]'.encode()
        ),
    }


def test_delete_leaves_the_directories_as_docker_does(files: FSMetadataStore):
    files.set("n", "a/b", b"")
    files.delete("n", "a/b")

    assert sorted(modes(Path(files.path))) == [".", "n", "n/a"]


def test_a_file_is_replaced_not_rewritten(files: FSMetadataStore):
    """Who has the old one open reads the old one to its end."""
    files.set("n", "k", b"old")
    path = Path(files.path, "n", "k")
    with path.open("rb") as old:
        files.set("n", "k", b"new value")

        assert old.read() == b"old"
    assert path.read_bytes() == b"new value"


def test_temporary_files_are_not_entries_and_are_left_alone(files: FSMetadataStore):
    files.set("n", "d/k", b"")
    base = Path(files.path)
    for name in (".tmp-k123", "d/.tmp-x"):
        (base / "n" / name).write_bytes(b"left")
    (base / ".tmp-dir").mkdir()
    (base / "n" / ".tmp-dir").mkdir()
    (base / "n" / ".tmp-dir" / "k").write_bytes(b"left")

    assert list(files.entries()) == [("n", "d/k", b"")]
    assert (base / "n" / ".tmp-k123").exists()


def test_a_failed_write_leaves_the_old_value_and_no_temporary_file(
    files: FSMetadataStore, monkeypatch: pytest.MonkeyPatch
):
    files.set("n", "k", b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for call in ("rename", "fsync", "fchmod"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fail)
            with pytest.raises(StoreFullError, match="No space left") as caught:
                files.set("n", "k", b"new")
            assert caught.value.path == os.path.join(files.path, "n", "k")
        assert files.get("n", "k") == b"old"
        assert os.listdir(Path(files.path, "n")) == ["k"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, StoreFullError),
        (errno.EDQUOT, StoreFullError),
        (errno.EROFS, StoreReadOnlyError),
        (errno.EIO, StoreError),
        (errno.EACCES, StoreError),
        (errno.EMFILE, StoreError),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_an_os_error_is_one_of_ours_and_only_absence_is_not_found(
    files: FSMetadataStore, monkeypatch: pytest.MonkeyPatch, number: int, error: type[StoreError]
):
    files.set("n", "k", b"old")

    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", fail)
    for use in (
        lambda: files.get("n", "k"),
        lambda: files.set("n", "k", b""),
        lambda: files.delete("n", "k"),
        lambda: files.get_many("n", ["k"]),
    ):
        with pytest.raises(StoreError) as caught:
            use()
        assert type(caught.value) is error
        assert isinstance(caught.value.__cause__, OSError)


def test_links_in_the_base_are_followed(tmp_path: Path):
    """The base is the operator's: /var/lib/docker may be a link to a larger disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    FSMetadataStore(tmp_path / "link" / "distribution").set("n", "k", b"value")

    assert (tmp_path / "disk" / "distribution" / "n" / "k").read_bytes() == b"value"
    (tmp_path / "base").symlink_to("disk/distribution")
    assert FSMetadataStore(tmp_path / "base").get("n", "k") == b"value"


@pytest.mark.parametrize("place", ["n", "n/d", "n/d/k"])
def test_below_the_base_no_link_is_followed(tmp_path: Path, place: str):
    outside = tmp_path / "outside"
    FSMetadataStore(outside).set("n", "d/k", b"secret")
    store = FSMetadataStore(tmp_path / "base")
    (tmp_path / "base" / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "base" / place).symlink_to(outside / place)

    with pytest.raises(NotFoundError):
        store.get("n", "d/k")
    with pytest.raises(NotFoundError):
        store.delete("n", "d/k")
    assert store.get_many("n", ["d/k"]) == {}
    assert list(store.entries()) == []
    if place == "n/d/k":
        store.set("n", "d/k", b"replaces the link itself")
        assert store.get("n", "d/k") == b"replaces the link itself"
    else:
        with pytest.raises(InvalidKeyError, match="cannot be a path"):
            store.set("n", "d/k", b"")
    assert FSMetadataStore(outside).get("n", "d/k") == b"secret"


@pytest.mark.timeout(20)
def test_a_fifo_in_a_files_place_is_no_entry_and_holds_nothing_up(files: FSMetadataStore):
    files.set("n", "other", b"")
    os.mkfifo(Path(files.path, "n", "k"))

    with pytest.raises(NotFoundError):
        files.get("n", "k")
    with pytest.raises(NotFoundError):
        files.delete("n", "k")
    assert list(files.entries()) == [("n", "other", b"")]
    files.set("n", "k", b"replaces it")
    assert files.get("n", "k") == b"replaces it"


def test_an_entry_and_a_directory_cannot_have_one_name(files: FSMetadataStore):
    files.set("n", "a", b"")
    with pytest.raises(InvalidKeyError, match="cannot be a path"):
        files.set("n", "a/b", b"")
    files.set("n", "d/b", b"")
    with pytest.raises(InvalidKeyError, match="cannot be a path"):
        files.set("n", "d", b"")

    assert [key for _, key, _ in files.entries()] == ["a", "d/b"]
    assert not [name for name in os.listdir(Path(files.path, "n")) if name.startswith(".tmp-")]


def test_a_path_may_be_longer_than_the_system_takes_at_once(files: FSMetadataStore):
    """Over PATH_MAX, as each step goes from the one before."""
    key = "/".join(["k" * 230] * 20)
    files.set("n", key, b"value")

    assert files.get("n", key) == b"value"
    assert list(files.entries()) == [("n", key, b"value")]


@pytest.mark.parametrize("length", [240, 255, 256])
def test_a_file_with_a_name_over_239_bytes_is_no_entry_and_can_still_be_had(files: FSMetadataStore, length: int):
    """Docker cannot have written it."""
    key = "k" * length
    if length < 256:
        (Path(files.path) / "n").mkdir()
        (Path(files.path) / "n" / key).write_bytes(b"value")
        assert files.get("n", key) == b"value"
        assert list(files.entries()) == []
        files.delete("n", key)
    with pytest.raises(NotFoundError):
        files.get("n", key)
    with pytest.raises(InvalidKeyError, match="over 239 bytes"):
        files.set("n", key, b"")


def test_names_that_break_the_rules_are_no_entries(files: FSMetadataStore):
    files.set("n", "k", b"")
    base = Path(files.path)
    (base / "file").write_bytes(b"outside every namespace")
    Path(os.fsdecode(os.path.join(os.fsencode(base), b"n", b"\xff"))).write_bytes(b"not UTF-8")

    assert list(files.entries()) == [("n", "k", b"")]


def test_entries_keep_to_the_order_of_bytes_where_names_and_directories_mix(files: FSMetadataStore):
    for key in ("a/x", "a-b", "a0", "a.b/c", "a+/z"):
        files.set("n", key, b"")

    assert [key for _, key, _ in files.entries()] == ["a+/z", "a-b", "a.b/c", "a/x", "a0"]


def test_a_base_that_vanished_is_made_again_by_set_and_an_error_for_entries(files: FSMetadataStore):
    os.rmdir(files.path)
    with pytest.raises(NotFoundError):
        files.get("n", "k")
    with pytest.raises(StoreOpenError):
        list(files.entries())
    files.set("n", "k", b"")

    assert list(files.entries()) == [("n", "k", b"")]


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_base_that_cannot_be_a_directory_is_refused(tmp_path: Path, place: str):
    (tmp_path / "file").touch()

    with pytest.raises(StoreOpenError) as caught:
        FSMetadataStore(tmp_path / place)
    assert caught.value.path == str(tmp_path / place)


def test_no_descriptor_stays_open(files: FSMetadataStore):
    def use() -> None:
        files.set("n", "a/b", b"")
        files.get("n", "a/b")
        list(files.entries())
        next(files.entries())
        for absent in ("x/y", "a", "a/b/c"):
            with pytest.raises(NotFoundError):
                files.delete("n", absent)

    use()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        use()
    assert len(os.listdir("/proc/self/fd")) == before
