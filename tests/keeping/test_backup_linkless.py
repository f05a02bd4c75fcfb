"""A backup on a file system without hard links, such as FAT: the same promises."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, StoreError, StoreOpenError
from layerstore.sql.sqlite.backup import backup
from tests.keeping.test_backup import assert_whole
from tests.transfer.conftest import whole


@pytest.fixture(params=["EPERM", "EOPNOTSUPP", "ENOSYS"])
def _linkless(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    code = getattr(errno, request.param)

    def link(_source: str, _target: str) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)


@pytest.mark.usefixtures("_linkless")
def test_the_copy_has_everything(filled: SQLMetadataStore, folder: Path):
    backup(filled, folder / "copy.db")

    assert_whole(folder / "copy.db")
    with SQLMetadataStore(folder / "copy.db", read_only=True) as copy:
        assert whole(copy) == whole(filled)


@pytest.mark.usefixtures("_linkless")
def test_who_takes_the_name_meanwhile_keeps_it(filled: SQLMetadataStore, folder: Path, monkeypatch: pytest.MonkeyPatch):
    link = os.link

    def taken(source: str, target: str) -> None:
        Path(target).write_bytes(b"another's")
        link(source, target)

    monkeypatch.setattr(os, "link", taken)
    with pytest.raises(StoreError, match="another file has this name"):
        backup(filled, folder / "copy.db")

    assert (folder / "copy.db").read_bytes() == b"another's"
    assert os.listdir(folder) == ["copy.db"]


@pytest.mark.usefixtures("_linkless")
def test_a_rename_that_fails_leaves_no_claim(filled: SQLMetadataStore, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def rename(_source: str, _target: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(StoreOpenError, match="Input/output error"):
        backup(filled, folder / "copy.db")

    assert os.listdir(folder) == []


def test_another_failure_of_the_link_is_no_reason_to_rename(
    filled: SQLMetadataStore, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    def link(_source: str, _target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreOpenError, match="No space left"):
        backup(filled, folder / "copy.db")

    assert os.listdir(folder) == []
