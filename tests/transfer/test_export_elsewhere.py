"""An export into another directory than was meant: nothing of it is written or removed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerstore import SQLMetadataStore, TransferError, export_directory, import_directory
from tests.support.entries import files_of


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A Docker data root, as far as it matters here."""
    root = tmp_path / "docker"
    for name in (
        "containers/abc/config.v2.json",
        "image/overlay2/distribution/diffid-by-digest/sha256/abc",
        "image/overlay2/imagedb/content/sha256/abc",
        "overlay2/abc/diff/etc/passwd",
        "volumes/data/_data/file",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("kept")
    return root


@pytest.mark.parametrize("options", [{"on_conflict": "replace", "delete": True}, {}], ids=["delete", "merge"])
@pytest.mark.parametrize("below", ["", "image", "image/overlay2"])
def test_a_directory_above_the_metadata_is_refused(
    sql_file: SQLMetadataStore, host: Path, below: str, options: dict[str, Any]
):
    sql_file.set("n", "k", b"v")
    before = files_of(host)

    with pytest.raises(TransferError, match=str(host / "image" / "overlay2" / "distribution")):
        export_directory(sql_file, host / below, **options)
    assert files_of(host) == before


@pytest.mark.parametrize("below", ["image", "image/overlay2"])
def test_importing_from_above_the_metadata_names_what_is_meant(sql_file: SQLMetadataStore, host: Path, below: str):
    with pytest.raises(TransferError, match=str(host / "image" / "overlay2" / "distribution")):
        import_directory(sql_file, host / below)
    assert list(sql_file.entries()) == []


def test_a_directory_without_any_of_the_namespaces_is_not_emptied(sql_file: SQLMetadataStore, tmp_path: Path):
    sql_file.set("n", "k", b"v")
    (tmp_path / "etc" / "apt").mkdir(parents=True)
    (tmp_path / "etc" / "apt" / "sources.list").write_text("kept")
    before = files_of(tmp_path / "etc")

    for dry_run in (True, False):
        with pytest.raises(TransferError, match="--force"):
            export_directory(sql_file, tmp_path / "etc", on_conflict="replace", delete=True, dry_run=dry_run)
    assert files_of(tmp_path / "etc") == before
    forced = export_directory(sql_file, tmp_path / "etc", on_conflict="replace", delete=True, force=True)
    assert forced.deleted_paths == ("apt/sources.list",)
