"""The layers that a Docker data root has: read from its `layerdb`, where an error is never "no layers"."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from layerstore.digest import is_digest
from layerstore.docker.dataroot import Driver, drivers
from layerstore.errors import TransferError
from layerstore.paths import absolute

_is_chain_id = re.compile("[0-9a-f]{64}").fullmatch
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
    root = absolute(data_root)
    there = [driver for driver in drivers(root) if driver.has("layerdb")]
    if not there:
        raise TransferError("no image/*/layerdb is there: give the data root of a Docker daemon", root)
    found = frozenset(diff_id for driver in there for diff_id in _diff_ids(driver, force=force))
    if not found and not force:
        raise TransferError(
            "it has no layers at all, so that everything would be removed: if that is meant, use --force", root
        )
    return found


def _diff_ids(driver: Driver, *, force: bool) -> Iterator[str]:
    # A layer that is being removed has another name, and the daemon does not know it any more.
    for name in filter(_is_chain_id, driver.names("layerdb", "sha256")):
        layer = ("layerdb", "sha256", name)
        try:
            value = driver.read(*layer, "diff", limit_bytes=_LONGEST)
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
