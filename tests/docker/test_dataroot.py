"""A data root is walked in one way: every driver and user is found, and nothing is reached through a link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from layerstore import SQLMetadataStore, TransferError, export_directory, find_image, import_directory, verify
from layerstore.docker.dataroot import distribution_of, distributions, drivers, image_stores
from layerstore.docker.images import layers_of
from tests.docker.conftest import FIRST, DataRoot
from tests.support.entries import MAPPINGS, layer_key, rows_of, write_file

USER = "165536.165536"


@pytest.fixture
def host(data_root: DataRoot) -> Path:
    """A data root with an image and its metadata, once for everybody and once for remapped users."""
    for above in ("", USER):
        data_root.image(["app:latest"], {FIRST: 1}, above=above)
        distribution = data_root.driver(above=above) / "distribution"
        write_file(distribution, MAPPINGS, layer_key(1), FIRST.encode(), 1)
    return data_root.path


def test_drivers_of_all_users_are_found_and_nothing_else(host: Path):
    for odd in ("image/vfs", "1.2.3/image/vfs", "overlay2/l", f"{USER}/overlay2", "१.१/image/vfs"):
        (host / odd).mkdir(parents=True)
    (host / "image" / "file").touch()

    assert ["/".join(driver.segments) for driver in drivers(str(host))] == [
        "image/overlay2",
        "image/vfs",
        f"{USER}/image/overlay2",
    ]


@pytest.fixture(params=["image/overlay2/distribution", "image/overlay2", "image", USER, f"{USER}/image"])
def linked(request: pytest.FixtureRequest, host: Path, tmp_path: Path) -> Path:
    """A data root of which a part lies elsewhere, and a link in its place."""
    link = host / str(request.param)
    link.rename(tmp_path / "elsewhere")
    link.symlink_to(tmp_path / "elsewhere")
    return link


def test_metadata_behind_a_link_is_refused_and_the_message_says_what_to_give(
    linked: Path, host: Path, tmp_path: Path, sql_file: SQLMetadataStore
):
    for work in (distributions, verify, lambda path: import_directory(sql_file, path)):
        with pytest.raises(TransferError, match="it is a link") as caught:
            work(str(host))
        assert caught.value.path == str(linked)
        assert str(tmp_path / "elsewhere") in str(caught.value)
    assert rows_of(sql_file) == []


def test_what_the_message_says_can_be_done(host: Path, tmp_path: Path):
    """The path that a person gives may be a link, and what it leads to may be given."""
    distribution = host / "image" / "overlay2" / "distribution"
    distribution.rename(tmp_path / "elsewhere")
    distribution.symlink_to(tmp_path / "elsewhere")

    assert verify(tmp_path / "elsewhere").checked == 1
    assert verify(distribution).checked == 1


def look_for_image(root: Path) -> object:
    return find_image(root, "app")


@pytest.mark.parametrize("work", [look_for_image, layers_of], ids=["image", "layers"])
@pytest.mark.parametrize("place", ["image/overlay2", "image", USER])
def test_images_and_layers_behind_a_link_are_refused_alike(
    work: Callable[[Path], object], place: str, host: Path, tmp_path: Path
):
    (host / place).rename(tmp_path / "elsewhere")
    (host / place).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(TransferError, match="it is a link") as caught:
        work(host)
    assert caught.value.path == str(host / place)


def test_a_link_that_leads_nowhere_is_no_absence(host: Path):
    """Such as to a disk that is not mounted: what it held would be missing without a word."""
    (host / "image" / "vfs").symlink_to("/nowhere")

    with pytest.raises(TransferError, match="/nowhere"):
        distributions(str(host))


def test_a_link_to_the_data_root_is_followed(host: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(host)

    assert len(distributions(str(tmp_path / "link"))) == 2
    assert layers_of(tmp_path / "link") == {FIRST}


def test_the_directory_of_a_driver_is_told_before_it_is_there_and_never_through_a_link(tmp_path: Path):
    assert distribution_of(str(tmp_path), "overlay2") == str(tmp_path / "image" / "overlay2" / "distribution")
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / "overlay2").symlink_to("/elsewhere")

    with pytest.raises(TransferError, match="/elsewhere") as caught:
        distribution_of(str(tmp_path), "overlay2")
    assert caught.value.path == str(tmp_path / "image" / "overlay2")


# Which store Docker keeps images in


def fresh_docker_29(root: Path) -> Path:
    """Make what Docker 29 makes in a data root of its own, with containerd's store."""
    for folder in ("buildkit", "containers", "image", "network/files", "plugins", "swarm", "tmp", "volumes"):
        (root / folder).mkdir(parents=True)
    (root / "engine-id").write_text("94fb9e48-75d1-4d75-b0d7-0f9f6f1a1f1b")
    return root


def test_a_graph_driver_is_known_by_its_layers_or_its_folder(data_root: DataRoot):
    data_root.driver("overlay2").mkdir(parents=True)
    assert image_stores(str(data_root.path)) == ((), False)
    (data_root.path / "overlay2" / "l").mkdir(parents=True)
    (data_root.path / "zfs").mkdir()
    (data_root.path / "image" / "vfs" / "layerdb" / "sha256" / "0").mkdir(parents=True)

    assert image_stores(str(data_root.path)) == (("overlay2", "vfs"), False)
    assert distribution_of(str(data_root.path), "overlay2").endswith("image/overlay2/distribution")


@pytest.mark.parametrize(
    "sign", [None, "rootfs/overlayfs", "containerd/daemon/io.containerd.content.v1.content/blobs/sha256/0"]
)
def test_an_export_into_a_data_root_of_containerds_store_is_refused(
    sign: str | None, tmp_path: Path, sql_file: SQLMetadataStore
):
    root = fresh_docker_29(tmp_path / "docker")
    if sign is not None:
        (root / "engine-id").unlink()
        (root / sign).mkdir(parents=True)

    assert image_stores(str(root)) == ((), True)
    with pytest.raises(TransferError, match="containerd:/run/containerd"):
        distribution_of(str(root), "overlay2")
    if sign is None:
        with pytest.raises(TransferError, match="containerd:/run/containerd"):
            export_directory(sql_file, root)
        assert not (root / "v2metadata-by-diffid").exists()


def test_an_import_of_a_data_root_of_containerds_store_says_where_its_memory_is(
    tmp_path: Path, sql_file: SQLMetadataStore
):
    """Without a containerd of its own, as Docker 29 is packaged: the content is in /var/lib/containerd."""
    with pytest.raises(TransferError, match=r"containerd\.sock\?namespace=moby"):
        import_directory(sql_file, fresh_docker_29(tmp_path / "docker"))


def test_metadata_alone_does_not_make_a_graph_driver(tmp_path: Path):
    """As an export before the first start leaves it: Docker 29 then takes containerd's store."""
    root = fresh_docker_29(tmp_path / "docker")
    (root / "image" / "overlay2" / "distribution" / "v2metadata-by-diffid").mkdir(parents=True)

    assert image_stores(str(root)) == ((), True)


def test_where_both_stores_have_images_a_warning_says_what_decides(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    root = fresh_docker_29(tmp_path / "docker")
    (root / "overlay2" / "l").mkdir(parents=True)
    assert image_stores(str(root)) == (("overlay2",), False)
    (root / "rootfs" / "overlayfs").mkdir(parents=True)

    assert image_stores(str(root)) == (("overlay2",), True)
    assert distribution_of(str(root), "overlay2") == str(root / "image" / "overlay2" / "distribution")
    assert "the options of its Docker decide" in caplog.text


def test_a_data_root_that_is_not_there_yet_may_become_either(tmp_path: Path):
    assert distribution_of(str(tmp_path / "docker"), "overlay2") == str(tmp_path / "docker/image/overlay2/distribution")
