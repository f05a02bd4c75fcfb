"""The layers that a Docker data root has: read from its `layerdb`, where an error is never "no layers"."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from layerstore.digest import is_digest
from layerstore.errors import TransferError

_is_chain_id = re.compile("[0-9a-f]{64}").fullmatch
_is_remapped = re.compile(r"\d+\.\d+").fullmatch
_LONGEST = 4096


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
    root = os.path.abspath(os.fspath(data_root))
    try:
        places = list(_layerdbs(root))
        if not places:
            raise TransferError("no image/*/layerdb is there: give the data root of a Docker daemon", root)
        found = frozenset(diff_id for place in places for diff_id in _diff_ids(place, force=force))
    except OSError as error:
        raise TransferError(f"cannot be read: {error.strerror}", os.fsdecode(error.filename or root)) from error
    if not found and not force:
        raise TransferError("it has no layers at all, so that everything would go: if that is meant, use --force", root)
    return found


def _layerdbs(root: str) -> Iterator[str]:
    users = [os.path.join(root, name) for name in sorted(os.listdir(root)) if _is_remapped(name)]
    for base in (root, *users):
        image = os.path.join(base, "image")
        for driver in _listed(image):
            layerdb = os.path.join(image, driver, "layerdb")
            if _is_there(layerdb):
                yield layerdb


def _diff_ids(layerdb: str, *, force: bool) -> Iterator[str]:
    folder = os.path.join(layerdb, "sha256")
    # A layer that is being removed has another name, and the daemon does not know it any more.
    for name in filter(_is_chain_id, _listed(folder)):
        layer = os.path.join(folder, name)
        try:
            with open(os.path.join(layer, "diff"), "rb") as file:
                text = file.read(_LONGEST).decode("utf-8", "backslashreplace").strip()
        except FileNotFoundError:
            if not _is_there(layer):
                continue  # removed while this looked
            text = ""
        if is_digest(text):
            yield text
        elif not force:
            raise TransferError(
                "the file `diff` of this layer is missing or holds no DiffID, so that it is not known which layers"
                " there are: mend or remove the layer, or use --force to leave it out",
                layer,
            )


def _listed(folder: str) -> list[str]:
    """Return the names in a folder; none if it is not there, as before the first layer."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def _is_there(path: str) -> bool:
    """Tell whether a path is there; an error other than its absence is raised."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
