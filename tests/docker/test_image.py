"""Images of a data root: found by every name that the daemon takes, with their layers and sizes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from layerstore import (
    ImageNotFoundError,
    InvalidInputError,
    InvalidRepositoryError,
    NotFoundError,
    TransferError,
    find_image,
    layer_sizes,
)
from layerstore.docker import images as image_module
from layerstore.docker.images import metadata_directory
from layerstore.repository import split_reference
from tests.docker.conftest import FIRST, SECOND, THIRD, DataRoot
from tests.support.strategies import sha256

DIGEST = sha256(0xD)


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        ("busybox:latest", "busybox"),
        ("busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("busybox:1.36", "index.docker.io/busybox:1.36"),
        ("team/app:1", "team/app:1"),
        ("team/app:1", "docker.io/team/app:1"),
        ("localhost:5000/team/app:latest", "localhost:5000/team/app"),
        ("localhost:5000/team/app:v2", "localhost:5000/team/app:v2"),
        (f"busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox@{DIGEST}", f"busybox:whatever@{DIGEST}"),
        (f"localhost:5000/app@{DIGEST}", f"localhost:5000/app@{DIGEST}"),
    ],
)
def test_an_image_is_found_by_its_name(data_root: DataRoot, kept: str, asked: str):
    data_root.image(["other:latest"], {SECOND: 2})
    image_id = data_root.image([kept], {FIRST: 1}, comment="wanted")

    found = find_image(data_root.path, asked)

    assert (found.image_id, found.driver, found.diff_ids) == (image_id, "overlay2", (FIRST,))
    assert found.directory == "image/overlay2"


@pytest.mark.parametrize("length", [1, 4, 12, 64])
@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_an_image_is_found_by_its_id_or_its_beginning(data_root: DataRoot, length: int, prefix: str):
    image_id = data_root.image([], {FIRST: 1})
    assert find_image(data_root.path, prefix + image_id[7 : 7 + length]).image_id == image_id


def test_a_name_wins_over_the_beginning_of_an_id(data_root: DataRoot):
    other = data_root.image([], {FIRST: 1})
    named = data_root.image([f"{other[7:15]}:latest"], {SECOND: 1})
    assert find_image(data_root.path, other[7:15]).image_id == named


def test_several_that_begin_alike_are_refused_and_named(data_root: DataRoot):
    known = [data_root.image([], {FIRST: 1}, comment=str(number)) for number in range(17)]
    digit = next(digit for digit in "0123456789abcdef" if sum(one[7] == digit for one in known) > 1)
    with pytest.raises(InvalidInputError, match="give more digits"):
        find_image(data_root.path, digit)


@pytest.mark.parametrize("name", ["absent", "busybox:other", "localhost:5000/busybox", "f" * 12, sha256(3), "0" * 64])
def test_an_image_that_is_not_there_is_not_found(data_root: DataRoot, name: str):
    data_root.image(["busybox:latest"], {FIRST: 1})
    with pytest.raises(ImageNotFoundError, match="docker image ls") as raised:
        find_image(data_root.path, name)
    assert isinstance(raised.value, NotFoundError)
    assert (raised.value.key, raised.value.namespace) == (name, str(data_root.path))


@pytest.mark.parametrize("name", ["", "Busybox", "a//b", "../etc/passwd", "busybox\0", "\udcff", "x" * 300])
def test_what_cannot_be_a_name_is_refused(data_root: DataRoot, name: str):
    data_root.image(["busybox:latest"], {FIRST: 1})
    with pytest.raises(InvalidRepositoryError):
        find_image(data_root.path, name)


@pytest.mark.parametrize("tag", ["-x", "a b", "x" * 129, "a\n"])
def test_what_cannot_be_a_tag_is_refused(data_root: DataRoot, tag: str):
    data_root.image(["busybox:latest"], {FIRST: 1})
    with pytest.raises(InvalidInputError, match="not an image's tag"):
        find_image(data_root.path, f"busybox:{tag}")


def test_sizes_are_those_of_each_layer_alone_found_by_the_chain(data_root: DataRoot):
    data_root.image(["app:latest"], [(FIRST, 10), (SECOND, 0), (FIRST, 10), (THIRD, 2**40)])

    found = find_image(data_root.path, "app")

    assert found.diff_ids == (FIRST, SECOND, FIRST, THIRD)
    assert layer_sizes(found) == [10, 0, 10, 2**40]
    second = hashlib.sha256(f"{FIRST} {SECOND}".encode()).hexdigest()
    assert found.chain_ids[:2] == (FIRST, f"sha256:{second}")


def test_an_image_may_have_no_layers(data_root: DataRoot):
    data_root.image(["none:latest"], {})
    data_root.config(data_root.driver(), b'{"os":"linux"}')
    assert find_image(data_root.path, "none").diff_ids == ()
    bare = hashlib.sha256(b'{"os":"linux"}').hexdigest()
    assert layer_sizes(find_image(data_root.path, bare)) == []


def test_of_several_drivers_the_one_that_has_the_image_is_found(data_root: DataRoot):
    data_root.image(["app:latest"], {FIRST: 1}, driver="overlay2")
    data_root.image(["old:latest"], {SECOND: 1}, driver="vfs")
    assert find_image(data_root.path, "app").driver == "overlay2"
    assert find_image(data_root.path, "old").driver == "vfs"
    with pytest.raises(ImageNotFoundError):
        find_image(data_root.path, "old", driver="overlay2")


def test_an_image_of_several_drivers_needs_a_choice(data_root: DataRoot):
    for driver, size in (("overlay2", 1), ("vfs", 2)):
        data_root.image(["app:latest"], {FIRST: size}, driver=driver)
    with pytest.raises(InvalidInputError, match="image/overlay2, image/vfs"):
        find_image(data_root.path, "app")
    assert layer_sizes(find_image(data_root.path, "app", driver="vfs")) == [2]


def test_images_of_remapped_users_are_found(data_root: DataRoot):
    data_root.image(["app:latest"], {FIRST: 7}, above="165536.165536")
    found = find_image(data_root.path, "app")
    assert found.directory == "165536.165536/image/overlay2"
    assert layer_sizes(found) == [7]
    assert find_image(data_root.path / "165536.165536", "app").image_id == found.image_id


def test_the_metadata_beside_an_image_is_found_if_there_is_any(data_root: DataRoot):
    data_root.image(["app:latest"], {FIRST: 7})
    found = find_image(data_root.path, "app")
    assert metadata_directory(found) is None
    distribution = data_root.driver() / "distribution"
    distribution.mkdir()
    assert metadata_directory(found) == str(distribution)
    distribution.rmdir()
    distribution.symlink_to(data_root.path)
    with pytest.raises(TransferError, match="a link"):
        metadata_directory(found)


@pytest.mark.parametrize("made", ["", "image", "image/overlay2", "image/vfs/imagedb"])
def test_what_is_no_data_root_is_refused(tmp_path: Path, made: str):
    (tmp_path / made).mkdir(parents=True, exist_ok=True)
    with pytest.raises(TransferError, match="give a Docker data root"):
        find_image(tmp_path, "app", driver="overlay2")


def test_a_file_or_nothing_in_the_place_of_a_data_root_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    for name, what in (("file", "it is no directory"), ("absent", "there is no such directory")):
        with pytest.raises(TransferError, match=what):
            find_image(tmp_path / name, "app")


def test_without_a_list_of_names_an_image_is_found_by_its_id(data_root: DataRoot):
    image_id = data_root.image([], {FIRST: 1})
    (data_root.driver() / "repositories.json").unlink()
    assert find_image(data_root.path, image_id[:19]).image_id == image_id
    with pytest.raises(ImageNotFoundError):
        find_image(data_root.path, "app")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"Repositories":[]}',
        b'{"Repositories":{"app":{"app:latest":5}}}',
        b'{"Repositories":{"app":["x"]}}',
        b'{"Repositories":{"app":{"app:latest":"../../x"}}}',
        b'{"Repositories":{"app":{"app:latest":"sha256:' + b"A" * 64 + b'"}}}',
        b'{"Repositories":{"\xff":{}}}',
        b'{"Repositories":' + b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
    ],
    ids=range(11),
)
def test_a_damaged_list_of_names_is_an_error_that_names_the_file(data_root: DataRoot, content: bytes):
    data_root.image(["app:latest"], {FIRST: 1})
    file = data_root.driver() / "repositories.json"
    file.write_bytes(content)
    with pytest.raises(TransferError) as raised:
        find_image(data_root.path, "app")
    assert raised.value.path == str(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"5",
        b'{"rootfs":[]}',
        b'{"rootfs":{"diff_ids":"x"}}',
        b'{"rootfs":{"diff_ids":[1]}}',
        b'{"rootfs":{"diff_ids":["sha256:x"]}}',
        b'{"rootfs":{"diff_ids":["' + FIRST.encode() + b'\\n"]}}',
        b'{"rootfs":{"diff_ids":["../../../etc/passwd"]}}',
        b'{"x":' + b"[" * 100_000,
    ],
    ids=range(10),
)
def test_a_configuration_that_cannot_be_one_is_an_error_that_names_the_file(data_root: DataRoot, content: bytes):
    image_id = data_root.config(data_root.driver(), content)
    with pytest.raises(TransferError) as raised:
        find_image(data_root.path, image_id)
    assert raised.value.path == str(data_root.driver() / "imagedb/content" / image_id.replace(":", "/"))


def test_a_configuration_whose_digest_is_not_its_name_is_damaged(data_root: DataRoot):
    image_id = data_root.image(["app:latest"], {FIRST: 1})
    file = data_root.driver() / "imagedb/content" / image_id.replace(":", "/")
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(TransferError, match="its digest is not its name"):
        find_image(data_root.path, "app")
    file.unlink()
    with pytest.raises(TransferError, match="no configuration"):
        find_image(data_root.path, "app")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("size", b""),
        ("size", b"x"),
        ("size", b"-1"),
        ("size", b"1\n"),
        ("size", b"1" * 20),
        ("size", "१".encode()),
        ("size", b"1" * 5000),
        ("diff", b""),
        ("diff", SECOND.encode()),
        ("diff", b"\xff"),
        ("diff", b"x" * 5000),
    ],
)
def test_a_damaged_layer_is_an_error_that_names_the_file(data_root: DataRoot, name: str, content: bytes):
    data_root.image(["app:latest"], {FIRST: 1})
    file = data_root.driver() / "layerdb" / FIRST.replace(":", "/") / name
    file.write_bytes(content)
    with pytest.raises(TransferError) as raised:
        layer_sizes(find_image(data_root.path, "app"))
    assert raised.value.path == str(file)
    file.unlink()
    with pytest.raises(TransferError, match="is not there"):
        layer_sizes(find_image(data_root.path, "app"))


LINKED = {
    "the list of names": "repositories.json",
    "the images": "imagedb",
    "the configuration": "imagedb/content/sha256/ID",
    "the configurations": "imagedb/content/sha256",
    "the layers": "layerdb",
    "the size": f"layerdb/{FIRST.replace(':', '/')}/size",
    "the driver": "",
}


@pytest.mark.parametrize("what", LINKED.values(), ids=LINKED)
def test_no_link_is_followed_below_the_data_root(data_root: DataRoot, tmp_path: Path, what: str):
    """Also not to what would be right."""
    image_id = data_root.image(["app:latest"], {FIRST: 1})
    there = data_root.driver() / what.replace("ID", image_id[7:])
    there.rename(tmp_path / "elsewhere")
    there.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TransferError):
        layer_sizes(find_image(data_root.path, "app"))


def test_a_link_to_the_data_root_itself_is_followed(data_root: DataRoot, tmp_path: Path):
    image_id = data_root.image(["app:latest"], {FIRST: 1})
    (tmp_path / "link").symlink_to(data_root.path)
    assert find_image(tmp_path / "link", "app").image_id == image_id


def test_what_is_no_regular_file_is_not_waited_for(data_root: DataRoot):
    data_root.image(["app:latest"], {FIRST: 1})
    file = data_root.driver() / "repositories.json"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(TransferError, match="no regular file"):
        find_image(data_root.path, "app")


def test_a_file_that_is_too_large_is_not_read(data_root: DataRoot, monkeypatch: pytest.MonkeyPatch):
    data_root.image(["app:latest"], {FIRST: 1})
    with (data_root.driver() / "repositories.json").open("ab") as file:
        file.truncate(image_module.MAX_JSON_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(TransferError, match=f"larger than {image_module.MAX_JSON_BYTES} bytes"):
        find_image(data_root.path, "app")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("busybox", ("busybox", "", "")),
        ("busybox:1", ("busybox", "1", "")),
        ("localhost:5000/app", ("localhost:5000/app", "", "")),
        ("localhost:5000/app:1", ("localhost:5000/app", "1", "")),
        ("app@sha256:x", ("app", "", "sha256:x")),
        ("h:5/app:1@sha256:x", ("h:5/app", "1", "sha256:x")),
        ("[::1]:5000/app", ("[::1]:5000/app", "", "")),
        ("", ("", "", "")),
    ],
)
def test_a_reference_is_taken_apart(text: str, parts: tuple[str, str, str]):
    assert split_reference(text) == parts
