"""Pruning a directory: each file whole or absent, not under a running daemon, nothing touched that is not judged."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from layerstore import FSMetadataStore, InvalidInputError, TransferError, import_directory, prune, verify
from layerstore.files import tree
from layerstore.files.store import DirectoryCollection
from tests.support.daemons import Lock
from tests.support.entries import AT, LISTS, MAPPINGS, files_of, layer_key, write_file
from tests.transfer.prune.conftest import DAY, OLD, OURS, a_list, fill_directory, make_layerdb, mapping, v1_id

RECORDS = [
    a_list(1, (11, OLD), (12, OURS)),
    mapping(11, 1),
    mapping(12, 1),
    a_list(2, (21, OLD)),
    mapping(21, 2),
    v1_id(1, 2),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with two layers' metadata, of which it has the first."""
    root = make_layerdb(tmp_path / "docker", [1])
    fill_directory(base(root), RECORDS)
    return root


def base(root: Path) -> Path:
    return root / "image" / "overlay2" / "distribution"


def test_by_its_own_data_root(root: Path):
    report = prune(root, keep_layers=root)

    assert (report.lists, report.mappings, report.v1_ids, report.free_bytes) == (1, 1, 1, None)
    assert set(files_of(base(root))) == {
        f"{LISTS}/{layer_key(1)}",
        *(f"{MAPPINGS}/{layer_key(number)}" for number in (11, 12)),
    }
    assert verify(base(root)).findings == ()


def test_a_shortened_list_keeps_its_time_and_has_dockers_mode(root: Path):
    path = base(root) / LISTS / layer_key(1)
    path.chmod(0o600)

    prune(base(root), registry="old.example.com")

    assert path.read_bytes() == a_list(1, (12, OURS)).value
    assert (path.stat().st_mtime_ns, stat.S_IMODE(path.stat().st_mode)) == (AT, 0o644)


def test_what_is_no_entry_of_dockers_is_not_touched(root: Path, tmp_path: Path):
    write_file(base(root), "custom", "k", b"v")
    write_file(base(root), LISTS, layer_key(7), b"[")
    (base(root) / LISTS / "sha256" / ".tmp-left1").write_bytes(b"half")
    (base(root) / LISTS / "sha256" / "link").symlink_to(tmp_path)
    before = files_of(base(root))

    report = prune(root, keep_layers=root)

    assert report.unreadable == 1
    went = {f"{record.namespace}/{record.key}" for record in RECORDS[3:]}
    assert files_of(base(root)) == {path: file for path, file in before.items() if path not in went}
    assert (base(root) / LISTS / "sha256" / "link").is_symlink()


def test_temporary_files_go_when_asked_for(root: Path):
    for folder in (base(root), base(root) / LISTS, base(root) / LISTS / "sha256"):
        (folder / ".tmp-left1").write_bytes(b"half")
    (base(root) / ".tmp-folder").mkdir()
    (base(root) / ".tmp-link").symlink_to("nowhere")

    assert prune(base(root), temporary=True, dry_run=True).temporary == 3
    report = prune(base(root), temporary=True)

    assert (report.temporary, report.checked, report.lists) == (3, 0, 0)
    assert sorted(path.name for path in base(root).rglob(".tmp-*")) == [".tmp-folder", ".tmp-link"]
    assert len(files_of(base(root))) == len(RECORDS)


def test_a_dry_run_touches_nothing(root: Path):
    before = files_of(base(root))

    report = prune(root, keep_layers=root, dry_run=True)

    assert (report.lists, report.mappings, report.v1_ids) == (1, 1, 1)
    assert files_of(base(root)) == before


def test_under_a_daemon_it_is_refused_but_to_look(root: Path, lock: Lock):
    lock(write_file(root, "volumes", "metadata.db", b"bbolt"))
    before = files_of(base(root))

    with pytest.raises(TransferError, match="a Docker daemon runs on it"):
        prune(root, keep_layers=root)
    assert files_of(base(root)) == before
    assert prune(root, keep_layers=root, dry_run=True).lists == 1
    assert prune(root, keep_layers=root, force=True).lists == 1


def test_what_changed_meanwhile_is_left_and_what_it_needs(root: Path, monkeypatch: pytest.MonkeyPatch):
    """Forced, a daemon may add to a layer between the judging and the removal."""
    newer = a_list(2, (21, OLD), (22, OURS), at=AT + DAY)
    real = DirectoryCollection.remove

    def remove_files(*arguments):
        fill_directory(base(root), [newer])
        return real(*arguments)

    monkeypatch.setattr(DirectoryCollection, "remove", remove_files)
    report = prune(root, keep_layers=root)

    assert (report.changed, report.lists, report.mappings, report.v1_ids) == (2, 0, 0, 1)
    assert (base(root) / LISTS / layer_key(2)).read_bytes() == newer.value
    assert (base(root) / MAPPINGS / layer_key(21)).exists()


def test_a_file_that_vanished_or_became_a_link_is_left(root: Path, monkeypatch: pytest.MonkeyPatch):
    real = DirectoryCollection.remove

    def remove_files(*arguments):
        (base(root) / LISTS / layer_key(2)).unlink()
        (base(root) / MAPPINGS / layer_key(21)).unlink()
        (base(root) / MAPPINGS / layer_key(21)).symlink_to("elsewhere")
        return real(*arguments)

    monkeypatch.setattr(DirectoryCollection, "remove", remove_files)

    assert prune(root, keep_layers=root).changed == 2
    assert (base(root) / MAPPINGS / layer_key(21)).is_symlink()


def test_what_went_is_in_the_archive_and_comes_back(root: Path, tmp_path: Path, sql_store):
    import_directory(sql_store, root)
    before = list(sql_store._records())
    prune(root, keep_layers=root, to=tmp_path / "gone.tar")
    other = FSMetadataStore(base(root))
    assert len(list(other._records())) == 3

    with pytest.raises(InvalidInputError):
        import_directory(other, tmp_path / "gone.tar")
    prune(sql_store, keep_layers=root)
    assert import_directory(sql_store, tmp_path / "gone.tar").added == 3
    assert list(sql_store._records()) == before


def test_an_error_names_the_file_and_a_crash_leaves_each_whole(root: Path, monkeypatch: pytest.MonkeyPatch):
    def remove(_folder: int, _name: str) -> None:
        raise PermissionError(1, "Operation not permitted", "name")

    monkeypatch.setattr(tree, "remove", remove)
    with pytest.raises(TransferError, match="cannot be changed: Operation not permitted") as caught:
        prune(root, keep_layers=root)

    assert str(caught.value.path).startswith(str(base(root)))
    assert len(files_of(base(root))) == len(RECORDS)


def test_a_rename_that_fails_leaves_the_list_and_no_temporary_file(root: Path, monkeypatch: pytest.MonkeyPatch):
    def rename(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(TransferError):
        prune(root, registry="old.example.com")

    assert (base(root) / LISTS / layer_key(1)).read_bytes() == RECORDS[0].value
    assert list(base(root).rglob(".tmp-*")) == []


def test_only_a_database_has_space_to_give_back(root: Path):
    with pytest.raises(InvalidInputError, match="only a database"):
        prune(root, vacuum=True)
