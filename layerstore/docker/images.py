"""The images and layers of a data root, as the daemon's own files tell. An error is never "none".

    repositories.json                         names
    imagedb/content/sha256/<image ID>         configurations
    layerdb/sha256/<chain ID>/{diff,size}     layers

Nothing here knows metadata, and nothing is written. `layerstore.docker.dataroot` knows where a driver's directory is.
Source: Docker's reference/store.go, image/fs.go and layer/filestore.go; OCI image-spec, config.md.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from layerstore.arguments import instance
from layerstore.digest import is_digest
from layerstore.docker.dataroot import Driver, drivers
from layerstore.errors import ImageNotFoundError, InvalidInputError, InvalidRepositoryError, TransferError
from layerstore.paths import absolute
from layerstore.repository import parse_normalized, split_reference
from layerstore.words import near

MAX_JSON_BYTES: Final = 64 << 20
"""A larger file is not read, as no file of an archive is."""
MAX_TEXT_BYTES: Final = 4096

_image_id = re.compile("(?:sha256:)?([0-9a-f]{64})").fullmatch
_is_prefix = re.compile("[0-9a-f]{1,64}").fullmatch
_is_tag = re.compile(r"\w[\w.-]{0,127}", re.ASCII).fullmatch
_is_size = re.compile("[0-9]{1,19}").fullmatch
_is_chain_id = re.compile("[0-9a-f]{64}").fullmatch


class _Repositories(msgspec.Struct):
    Repositories: dict[str, dict[str, str]] | None = None


class _RootFS(msgspec.Struct):
    diff_ids: list[str] | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFS | None = None


_Document = TypeVar("_Document", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Image:
    """An image of a data root.

    Attributes:
        image_id: digest of its configuration.
        driver: the storage driver whose image it is.
        data_root: where it was found, absolute.
        directory: the driver's directory below that: `image/<driver>` or `<uid>.<gid>/image/<driver>`.
        diff_ids: its layers, the lowest first; one may come twice.
    """

    image_id: str
    driver: str
    data_root: str
    directory: str
    diff_ids: tuple[str, ...]

    @property
    def chain_ids(self) -> tuple[str, ...]:
        """What each layer is together with all below it. Source: OCI image-spec, config.md, "Layer ChainID"."""
        chain: list[str] = []
        for diff_id in self.diff_ids:
            text = f"{chain[-1]} {diff_id}".encode() if chain else b""
            chain.append(f"sha256:{hashlib.sha256(text).hexdigest()}" if text else diff_id)
        return tuple(chain)


def find_image(data_root: str | os.PathLike[str], name: str, *, driver: str | None = None) -> Image:
    """Find an image by its name, as the daemon does: a tag or digest of a repository, an image's ID, or its beginning.

    A name wins over the beginning of an ID; without tag and digest it has the tag `latest`.

    Args:
        data_root: such as `/var/lib/docker`; images of remapped users, `<uid>.<gid>/`, are found from there too.
        name: `busybox`, `localhost:5000/team/app:1.0`, `busybox@sha256:…`, `4ab179cadfdc`.
        driver: look at this storage driver's images only.

    Raises:
        ImageNotFoundError: there is no such image.
        InvalidInputError: several images begin with these digits, or several drivers have the name.
        InvalidRepositoryError: it is neither a name nor an ID.
        TransferError: this is no data root, has not this driver, or a file of it is damaged, a link, or too large.

    Source: Docker's `ImageService.GetImage`.
    """
    instance(name, str, "an image's name")
    root = absolute(data_root)
    every = _with_images(root, driver)
    found = [(one, image_id) for one in every if (image_id := _resolve(one, name)) is not None]
    if not found:
        _check_name(name)
        names = [one for of in every for known in _repositories(of).values() for one in known if "@" not in one]
        raise ImageNotFoundError(root, name, near(name, names))
    if len(found) > 1:
        where = ", ".join(os.path.join(*one.segments) for one, _ in found)
        raise InvalidInputError(
            f"{name!r} is an image in {where} of {root}: choose with --driver, or give <uid>.<gid> as the data root"
        )
    one, image_id = found[0]
    return Image(image_id, one.name, root, "/".join(one.segments), _diff_ids(one, image_id))


def layer_sizes(image: Image) -> list[int]:
    """Return the sizes of an image's layers in bytes, the lowest first: of the files that each adds, uncompressed.

    Raises:
        TransferError: the data root has not all of its layers, or a file of one is damaged, a link, or too large.

    Source: Docker's layerdb, `diff` and `size`; `Layer.DiffSize`.
    """
    driver = _driver(image)
    sizes = []
    for diff_id, chain_id in zip(image.diff_ids, image.chain_ids, strict=True):
        folder = ("layerdb", *chain_id.split(":", 1))
        path = driver.path(*folder)
        texts = [driver.read(*folder, name, limit_bytes=MAX_TEXT_BYTES) for name in ("diff", "size")]
        if None in texts:
            raise TransferError(f"the image's layer {diff_id} is not there: the daemon cannot push it either", path)
        diff, size = (text.decode("utf-8", "backslashreplace") for text in texts if text is not None)
        if diff != diff_id:
            raise TransferError(f"it is layer {diff[:80]!r}, and should be {diff_id}", os.path.join(path, "diff"))
        if _is_size(size) is None:
            raise TransferError(f"not a number of bytes: {size[:80]!r}", os.path.join(path, "size"))
        sizes.append(int(size))
    return sizes


def layers_of(data_root: str | os.PathLike[str], *, force: bool = False) -> frozenset[str]:
    """Return the DiffIDs of the layers of all storage drivers below a data root, also of remapped users.

    Layers that a daemon adds or removes meanwhile may be in it or not.

    Args:
        data_root: such as `/var/lib/docker`.
        force: take a data root that has a `layerdb` and no layers, and leave out layers that cannot be read.

    Raises:
        TransferError: there is no `layerdb`; one, or a layer in it, cannot be read; or there are no layers at all.

    Source: Docker's layer/filestore.go: `image/<driver>/layerdb/sha256/<chain id>/diff` holds the DiffID.
    """
    root = absolute(data_root)
    there = [driver for driver in drivers(root) if driver.has("layerdb")]
    if not there:
        raise TransferError("no image/*/layerdb is there: give the data root of a Docker daemon", root)
    found = frozenset(diff_id for driver in there for diff_id in _layers_in(driver, force=force))
    if not found and not force:
        raise TransferError(
            "it has no layers at all, so that everything would be removed: if that is meant, use --force", root
        )
    return found


def _layers_in(driver: Driver, *, force: bool) -> Iterator[str]:
    # A layer that is being removed has another name, and the daemon does not know it any more.
    for name in filter(_is_chain_id, driver.names("layerdb", "sha256")):
        layer = ("layerdb", "sha256", name)
        try:
            value = driver.read(*layer, "diff", limit_bytes=MAX_TEXT_BYTES)
        except TransferError:
            if not force:
                raise
            continue
        if value is None and not driver.has(*layer):
            continue  # removed while this looked
        text = (value or b"").decode("utf-8", "backslashreplace").strip()
        if is_digest(text):
            yield text
        elif not force:
            raise TransferError(
                "the file `diff` of this layer is missing or holds no DiffID, so that it is not known which layers"
                " there are: repair or remove the layer, or use --force to leave it out",
                driver.path(*layer),
            )


def metadata_directory(image: Image) -> str | None:
    """Return the directory of the metadata beside an image, `None` if its daemon has recorded nothing yet.

    Raises:
        TransferError: it is a link.
    """
    driver = _driver(image)
    return driver.path("distribution") if driver.has("distribution") else None


def _driver(image: Image) -> Driver:
    return Driver(image.data_root, tuple(image.directory.split("/")))


def _with_images(root: str, name: str | None) -> list[Driver]:
    found = [driver for driver in drivers(root) if name in (None, driver.name) and driver.has("imagedb")]
    if not found:
        which = f"no image/{name}/imagedb" if name else "no image/*/imagedb"
        raise TransferError(f"{which} here: give a Docker data root, and one of its storage drivers", root)
    return found


def _resolve(driver: Driver, name: str) -> str | None:
    """Return the ID that a name stands for at one driver."""
    whole = _image_id(name)
    if whole is not None:
        there = driver.read("imagedb", "content", "sha256", whole[1], limit_bytes=MAX_JSON_BYTES) is not None
        return f"sha256:{whole[1]}" if there else None
    named = _by_name(driver, name)
    if named is not None:
        return named
    digits = name.removeprefix("sha256:")
    if _is_prefix(digits) is None:
        return None
    begun = [
        found
        for found in driver.names("imagedb", "content", "sha256")
        if _is_prefix(found) and found.startswith(digits)
    ]
    if len(begun) > 1:
        raise InvalidInputError(f"several images begin with {name!r}: {', '.join(begun[:5])}: give more digits")
    return f"sha256:{begun[0]}" if begun else None


def _by_name(driver: Driver, name: str) -> str | None:
    reference = split_reference(name)
    try:
        repository = parse_normalized(reference.name)
    except InvalidRepositoryError:
        return None
    familiar = repository.familiar_name
    # As Docker: the digest decides where there are both, as a tag may be another image by now.
    key = f"{familiar}@{reference.digest}" if reference.digest else f"{familiar}:{reference.tag or 'latest'}"
    image_id = _repositories(driver).get(familiar, {}).get(key)
    if image_id is not None and _image_id(image_id) is None:
        path = driver.path("repositories.json")
        raise TransferError(f"the image of {key} has the ID {image_id[:80]!r}, which is none", path)
    return image_id


def _repositories(driver: Driver) -> dict[str, dict[str, str]]:
    """Return the names of a driver's images by repository, each with the image's ID. Raises TransferError."""
    content = driver.read("repositories.json", limit_bytes=MAX_JSON_BYTES)
    if content is None:
        return {}
    return _decode(content, _Repositories, driver.path("repositories.json")).Repositories or {}


def _diff_ids(driver: Driver, image_id: str) -> tuple[str, ...]:
    below = ("imagedb", "content", *image_id.split(":", 1))
    path = driver.path(*below)
    content = driver.read(*below, limit_bytes=MAX_JSON_BYTES)
    if content is None:
        raise TransferError("the image has a name, and no configuration: the daemon cannot use it either", path)
    if f"sha256:{hashlib.sha256(content).hexdigest()}" != image_id:
        raise TransferError("the configuration is damaged: its digest is not its name", path)
    rootfs = _decode(content, _Config, path).rootfs
    diff_ids = tuple(rootfs.diff_ids or ()) if rootfs is not None else ()
    odd = [diff_id for diff_id in diff_ids if not is_digest(diff_id)]
    if odd:
        raise TransferError(f"the configuration names a layer {odd[0][:80]!r}, which is no DiffID", path)
    return diff_ids


def _decode(content: bytes, kind: type[_Document], path: str) -> _Document:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TransferError(f"cannot be read: {error}", path) from error


def _check_name(name: str) -> None:
    """Raise if an image that was not found could not have been."""
    reference = split_reference(name)
    if _image_id(name) is None and _is_prefix(name.removeprefix("sha256:")) is None:
        parse_normalized(reference.name)
        if reference.tag and _is_tag(reference.tag) is None:
            raise InvalidInputError(f"not an image's tag: {reference.tag!r}")
