"""A backup on a file system that cannot rename without replacing, such as some of FUSE: the same promises."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreError, StoreOpenError
from layerstore.files import tree
from tests.sql.sqlite.test_backup import assert_whole
from tests.support.entries import whole


def fail_with(code: int, monkeypatch: pytest.MonkeyPatch, taken: bytes | None = None) -> None:
    def rename(_directory: int, _old: str, new: str, _flags: int) -> None:
        if taken is not None:
            Path(new).write_bytes(taken)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tree, "rename", rename)


@pytest.mark.parametrize("code", ["EINVAL", "ENOSYS"])
def test_the_copy_has_everything(
    golden_store: SQLMetadataStore, folder: Path, code: str, monkeypatch: pytest.MonkeyPatch
):
    fail_with(getattr(errno, code), monkeypatch)
    golden_store.backup(folder / "copy.db")

    assert_whole(folder / "copy.db")
    assert (folder / "copy.db").stat().st_nlink == 1
    with SQLMetadataStore(folder / "copy.db", read_only=True) as copy:
        assert whole(copy) == whole(golden_store)


def test_who_takes_the_name_meanwhile_keeps_it(
    golden_store: SQLMetadataStore, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    fail_with(errno.EINVAL, monkeypatch, taken=b"another's")
    with pytest.raises(StoreError, match="another process has made a file of this name"):
        golden_store.backup(folder / "copy.db")

    assert (folder / "copy.db").read_bytes() == b"another's"
    assert os.listdir(folder) == ["copy.db"]


def test_a_rename_that_fails_leaves_no_claim(
    golden_store: SQLMetadataStore, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def rename(_source: str, _target: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    fail_with(errno.EINVAL, monkeypatch)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StoreOpenError, match="Input/output error"):
        golden_store.backup(folder / "copy.db")

    assert os.listdir(folder) == []


def test_another_failure_is_no_reason_to_try_the_other_way(
    golden_store: SQLMetadataStore, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    fail_with(errno.ENOSPC, monkeypatch)
    with pytest.raises(StoreOpenError, match="No space left"):
        golden_store.backup(folder / "copy.db")

    assert os.listdir(folder) == []
