"""Which layers a data root has: all of them, or an error; never "none" where it is not known."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, prune
from layerstore.docker import dataroot
from layerstore.docker.dataroot import Driver
from layerstore.docker.images import layers_of
from tests.support.entries import rows_of
from tests.support.strategies import sha256
from tests.transfer.prune.conftest import a_list, fill, make_layerdb


def first_layer(root: Path) -> Path:
    return root / "image" / "overlay2" / "layerdb" / "sha256" / f"{1001:064x}"


def test_the_layers_of_all_drivers_and_users_are_there(tmp_path: Path):
    make_layerdb(tmp_path, [1, 2])
    make_layerdb(tmp_path, [2, 3], driver="vfs")
    make_layerdb(tmp_path / "100000.100000", [4])
    make_layerdb(tmp_path / "elsewhere", [5])
    (tmp_path / "image" / "btrfs" / "distribution").mkdir(parents=True)

    assert layers_of(tmp_path) == {sha256(number) for number in (1, 2, 3, 4)}


def test_as_docker_it_takes_no_notice_of_white_space_and_of_layers_that_are_being_removed(tmp_path: Path):
    layer = first_layer(make_layerdb(tmp_path, [1, 2]))
    (layer / "diff").write_text(f"{sha256(1)}\n")
    (layer.parent / f"{layer.name}-123-removing").mkdir()
    shutil.copy(layer / "diff", layer.parent / "README")

    assert layers_of(tmp_path) == {sha256(1), sha256(2)}


def nothing(root: Path) -> None:
    shutil.rmtree(root / "image")


def no_layerdb(root: Path) -> None:
    shutil.rmtree(root / "image" / "overlay2" / "layerdb")


def no_layers(root: Path) -> None:
    shutil.rmtree(root / "image" / "overlay2" / "layerdb" / "sha256")


def an_empty_diff(root: Path) -> None:
    (first_layer(root) / "diff").write_bytes(b"")


def a_zeroed_diff(root: Path) -> None:
    (first_layer(root) / "diff").write_bytes(bytes(71))


def no_diff(root: Path) -> None:
    (first_layer(root) / "diff").unlink()


def a_folder_as_diff(root: Path) -> None:
    no_diff(root)
    (first_layer(root) / "diff").mkdir()


def a_link_in_a_circle(root: Path) -> None:
    folder = root / "image" / "overlay2" / "layerdb" / "sha256"
    shutil.rmtree(folder)
    folder.symlink_to("sha256")


def gone(root: Path) -> None:
    shutil.rmtree(root)


def a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("")


BROKEN = [nothing, no_layerdb, no_layers, an_empty_diff, a_zeroed_diff, no_diff, a_folder_as_diff]
BROKEN += [a_link_in_a_circle, gone, a_file]


@pytest.mark.parametrize("damage", BROKEN, ids=lambda damage: damage.__name__)
def test_what_is_not_known_is_an_error_that_names_the_place_and_nothing_goes(
    sql_store: SQLMetadataStore, tmp_path: Path, damage: Callable[[Path], None]
):
    root = make_layerdb(tmp_path / "docker", [1])
    damage(root)
    fill(sql_store, [a_list(1, (11, "")), a_list(2, (12, ""))])
    before = rows_of(sql_store)

    with pytest.raises(TransferError) as caught:
        prune(sql_store, keep_layers=root)

    assert str(caught.value.path).startswith(str(root))
    assert rows_of(sql_store) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every directory")
def test_a_layerdb_that_may_not_be_read_is_an_error(tmp_path: Path):
    root = make_layerdb(tmp_path, [1])
    (root / "image" / "overlay2").chmod(0)

    with pytest.raises(TransferError, match=r"(?i)permission denied"):
        layers_of(root)


def test_permission_that_is_denied_is_no_absence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As root every directory can be read, so the error is made."""
    root = make_layerdb(tmp_path, [1])
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        if path.endswith("layerdb"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(dataroot.__dict__["os"], "lstat", lstat)
    with pytest.raises(TransferError, match=r"(?i)permission denied"):
        layers_of(root)


def a_fifo_as_diff(root: Path) -> None:
    no_diff(root)
    os.mkfifo(first_layer(root) / "diff")


def a_link_as_diff(root: Path) -> None:
    diff = first_layer(root) / "diff"
    diff.rename(root / "diff")
    diff.symlink_to(root / "diff")


def a_large_diff(root: Path) -> None:
    with (first_layer(root) / "diff").open("ab") as file:
        file.truncate(1 << 40)  # a hole: it takes no room


@pytest.mark.parametrize("damage", [a_fifo_as_diff, a_link_as_diff, a_large_diff], ids=lambda damage: damage.__name__)
def test_what_is_no_small_regular_file_is_neither_waited_for_nor_read(tmp_path: Path, damage: Callable[[Path], None]):
    root = make_layerdb(tmp_path / "docker", [1, 2])
    damage(root)

    with pytest.raises(TransferError) as caught:
        layers_of(root)
    assert caught.value.path == str(first_layer(root) / "diff")
    assert layers_of(root, force=True) == {sha256(2)}


def test_forced_a_broken_layer_is_left_out_and_a_root_without_layers_taken(tmp_path: Path):
    root = make_layerdb(tmp_path, [1, 2])
    an_empty_diff(root)
    assert layers_of(root, force=True) == {sha256(2)}

    no_layers(root)
    assert layers_of(root, force=True) == set()

    no_layerdb(root)
    with pytest.raises(TransferError):
        layers_of(root, force=True)


def test_a_layer_that_is_removed_while_it_is_read_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = make_layerdb(tmp_path, [1, 2])
    real = Driver.names

    def names(self: Driver, *below: str) -> list[str]:
        found = real(self, *below)
        if below[-1] == "sha256":
            shutil.rmtree(first_layer(root))
        return found

    monkeypatch.setattr(Driver, "names", names)
    assert layers_of(root) == {sha256(2)}
