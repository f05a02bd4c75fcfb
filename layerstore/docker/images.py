"""The images of a Docker data root: from a name to the layers, as the daemon's own files tell.

    <data root>[/<uid>.<gid>]/image/<driver>/repositories.json                  names
                                             imagedb/content/sha256/<image ID>  configurations
                                             layerdb/sha256/<chain ID>/size     sizes

Nothing here knows metadata, and nothing is written. Below the data root no link is followed.
Source: Docker's reference/store.go, image/fs.go and layer/filestore.go; OCI image-spec, config.md.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

import msgspec

from layerstore.digest import is_digest
from layerstore.errors import ImageNotFoundError, InvalidInputError, InvalidRepositoryError, TransferError
from layerstore.files import tree, walking
from layerstore.repository import DEFAULT_DOMAIN, Repository, parse_normalized, split_reference

MAX_JSON_BYTES: Final = 64 << 20
"""A larger file is not read, as no file of an archive is."""
MAX_TEXT_BYTES: Final = 4096

_remapped = re.compile(r"\d+\.\d+").fullmatch
_image_id = re.compile("(?:sha256:)?([0-9a-f]{64})").fullmatch
_is_prefix = re.compile("[0-9a-f]{1,64}").fullmatch
_is_tag = re.compile(r"\w[\w.-]{0,127}", re.ASCII).fullmatch
_is_size = re.compile("[0-9]{1,19}").fullmatch


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


class _Place(NamedTuple):
    """A driver's directory: the data root, and the way down from it."""

    root: str
    segments: tuple[str, ...]

    @property
    def driver(self) -> str:
        return self.segments[-1]

    @property
    def path(self) -> str:
        return os.path.join(self.root, *self.segments)

    def read(self, *path: str, limit_bytes: int) -> bytes | None:
        """Return a file's bytes, `None` if there is none. Raises TransferError."""
        *below, name = path
        try:
            with tree.directory(self.root, (*self.segments, *below)) as here:
                return tree.read(here, name, limit_bytes=limit_bytes)[0]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise TransferError(f"cannot be read: {_why(error)}", os.path.join(self.path, *path)) from error


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
    root = os.path.abspath(os.fspath(data_root))
    places = _places(root, driver)
    found = [(place, image_id) for place in places if (image_id := _resolve(place, name)) is not None]
    if not found:
        _check_name(name)
        raise ImageNotFoundError(root, name)
    if len(found) > 1:
        where = ", ".join(os.path.join(*place.segments) for place, _ in found)
        raise InvalidInputError(
            f"{name!r} is an image in {where} of {root}: choose with --driver, or give <uid>.<gid> as the data root"
        )
    place, image_id = found[0]
    return Image(image_id, place.driver, root, "/".join(place.segments), _diff_ids(place, image_id))


def layer_sizes(image: Image) -> list[int]:
    """Return the sizes of an image's layers in bytes, the lowest first: of the files that each adds, uncompressed.

    Raises:
        TransferError: the data root has not all of its layers, or a file of one is damaged, a link, or too large.

    Source: Docker's layerdb, `diff` and `size`; `Layer.DiffSize`.
    """
    place = _Place(image.data_root, tuple(image.directory.split("/")))
    sizes = []
    for diff_id, chain_id in zip(image.diff_ids, image.chain_ids, strict=True):
        folder = ("layerdb", *chain_id.split(":", 1))
        path = os.path.join(place.path, *folder)
        texts = [place.read(*folder, name, limit_bytes=MAX_TEXT_BYTES) for name in ("diff", "size")]
        if None in texts:
            raise TransferError(f"the image's layer {diff_id} is not there: the daemon cannot push it either", path)
        diff, size = (text.decode("utf-8", "backslashreplace") for text in texts if text is not None)
        if diff != diff_id:
            raise TransferError(f"it is layer {diff[:80]!r}, and should be {diff_id}", os.path.join(path, "diff"))
        if _is_size(size) is None:
            raise TransferError(f"not a number of bytes: {size[:80]!r}", os.path.join(path, "size"))
        sizes.append(int(size))
    return sizes


def metadata_directory(image: Image) -> str | None:
    """Return the directory of the metadata beside an image, `None` if its daemon has recorded nothing yet.

    Raises:
        TransferError: it is a link, or no directory.
    """
    segments = (*image.directory.split("/"), "distribution")
    path = os.path.join(image.data_root, *segments)
    try:
        with tree.directory(image.data_root, segments):
            return path
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TransferError(f"cannot be read: {_why(error)}", path) from error


def _places(root: str, driver: str | None) -> list[_Place]:
    if not os.path.isdir(root):
        what = "it is no directory" if os.path.lexists(root) else "there is no such directory"
        raise TransferError(f"{what}: give a Docker data root, such as /var/lib/docker", root)
    names = [name for name in _listing(root, ()) if _remapped(name)]
    every = [
        _Place(root, (*above, "image", name))
        for above in ((), *((name,) for name in names))
        for name in _listing(root, (*above, "image"))
        if driver in (None, name)
    ]
    # What has no imagedb is no driver's directory.
    places = [place for place in every if "imagedb" in _listing(root, place.segments)]
    if not places:
        which = f"no image/{driver}/imagedb" if driver else "no image/*/imagedb"
        raise TransferError(f"{which} here: give a Docker data root, and one of its storage drivers", root)
    return places


def _listing(root: str, segments: tuple[str, ...]) -> list[str]:
    """Return the names of the directories in a directory, sorted; none if it is not there, or no directory."""
    try:
        with tree.directory(root, segments) as here:
            return [os.fsdecode(name[:-1]) for name in walking.names(here) if name.endswith(b"/")]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise TransferError(f"cannot be read: {_why(error)}", os.path.join(root, *segments)) from error


def _resolve(place: _Place, name: str) -> str | None:
    """Return the ID that a name stands for at one driver."""
    whole = _image_id(name)
    if whole is not None:
        there = place.read("imagedb", "content", "sha256", whole[1], limit_bytes=MAX_JSON_BYTES) is not None
        return f"sha256:{whole[1]}" if there else None
    named = _by_name(place, name)
    if named is not None:
        return named
    digits = name.removeprefix("sha256:")
    if _is_prefix(digits) is None:
        return None
    begun = [found for found in _image_ids(place) if found.startswith(digits)]
    if len(begun) > 1:
        raise InvalidInputError(f"several images begin with {name!r}: {', '.join(begun[:5])}: give more digits")
    return f"sha256:{begun[0]}" if begun else None


def _by_name(place: _Place, name: str) -> str | None:
    reference = split_reference(name)
    try:
        repository = parse_normalized(reference.name)
    except InvalidRepositoryError:
        return None
    content = place.read("repositories.json", limit_bytes=MAX_JSON_BYTES)
    if content is None:
        return None
    path = os.path.join(place.path, "repositories.json")
    known = _decode(content, _Repositories, path).Repositories or {}
    familiar = _familiar(repository)
    # As Docker: the digest decides where there are both, as a tag may be another image by now.
    key = f"{familiar}@{reference.digest}" if reference.digest else f"{familiar}:{reference.tag or 'latest'}"
    image_id = known.get(familiar, {}).get(key)
    if image_id is not None and _image_id(image_id) is None:
        raise TransferError(f"the image of {key} has the ID {image_id[:80]!r}, which is none", path)
    return image_id


def _familiar(repository: Repository) -> str:
    """Return a repository's name without what people leave out. Source: distribution's `reference.FamiliarName`."""
    if repository.domain != DEFAULT_DOMAIN:
        return repository.name
    rest = repository.path.removeprefix("library/")
    return repository.path if "/" in rest else rest


def _image_ids(place: _Place) -> Iterator[str]:
    try:
        with tree.directory(place.root, (*place.segments, "imagedb", "content", "sha256")) as here:
            yield from (os.fsdecode(name) for name in walking.names(here) if _is_prefix(os.fsdecode(name)))
    except FileNotFoundError:
        return
    except OSError as error:
        path = os.path.join(place.path, "imagedb", "content", "sha256")
        raise TransferError(f"cannot be read: {_why(error)}", path) from error


def _diff_ids(place: _Place, image_id: str) -> tuple[str, ...]:
    below = ("imagedb", "content", *image_id.split(":", 1))
    path = os.path.join(place.path, *below)
    content = place.read(*below, limit_bytes=MAX_JSON_BYTES)
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


def _why(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR) or error.errno is None:
        return "a link, or no regular file or directory"
    return error.strerror or str(error)
