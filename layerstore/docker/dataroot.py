"""Which directories of a Docker host hold its metadata, and whether one is what was meant."""

from __future__ import annotations

import glob
import os
import re

from layerstore.docker.daemon import running_on
from layerstore.errors import TransferError
from layerstore.records import KNOWN_NAMESPACES

_remapped = re.compile(r"\d+\.\d+").fullmatch


def has_namespaces(directory: str) -> bool:
    """Tell whether a directory has one of Docker's namespaces."""
    return any(os.path.isdir(os.path.join(directory, namespace)) for namespace in KNOWN_NAMESPACES)


def distributions(path: str) -> list[str]:
    """Return the metadata directories that a directory stands for.

    That is itself, if it has one of Docker's namespaces; else those of a data root, `image/*/distribution`, with
    remapped users `<uid>.<gid>/image/*/distribution`; else itself.

    Raises:
        TransferError: a data root without any metadata, or no directory.
    """
    base = os.path.abspath(path)
    if not os.path.isdir(base):
        what = "not a directory" if os.path.exists(base) else "there is no such directory"
        raise TransferError(f"{what}: give a `distribution` directory or a Docker data root", base)
    if has_namespaces(base):
        return [base]
    roots = [base, *(os.path.join(base, name) for name in sorted(os.listdir(base)) if _remapped(name))]
    images = [os.path.join(root, "image") for root in roots if os.path.isdir(os.path.join(root, "image"))]
    if not images:
        refuse_above_a_distribution(base)
        return [base]
    found = [os.path.join(image, driver, "distribution") for image in images for driver in sorted(os.listdir(image))]
    found = [directory for directory in found if os.path.isdir(directory)]
    if not found:
        raise TransferError("a data root without image/*/distribution: this host has recorded nothing yet", base)
    return found


def refuse_above_a_distribution(directory: str) -> None:
    """Raise if a directory is a data root, its `image`, or a storage driver's: what is meant lies below it.

    Raises:
        TransferError: it is one; the message says which directory may be meant.
    """
    if has_namespaces(directory) or not os.path.isdir(directory):
        return
    patterns = ("distribution", "*/distribution", "image/*/distribution", "*.*/image/*/distribution")
    meant = [found for pattern in patterns for found in glob.glob(os.path.join(glob.escape(directory), pattern))]
    meant = sorted(found for found in meant if os.path.isdir(found))
    if meant:
        raise TransferError(f"it is a directory above the metadata: give {meant[0]}", directory)
    there = set(os.listdir(directory))
    if {"image", "containers", "volumes"} <= there or {"imagedb", "layerdb"} & there:
        raise TransferError("it is a part of a Docker data root: give its image/<driver>/distribution", directory)


def refuse_under_a_daemon(directory: str) -> None:
    """Raise if a daemon runs on a directory.

    Raises:
        TransferError: one does.
    """
    daemon = running_on(directory)
    if daemon is not None:
        raise TransferError(f"a Docker daemon runs on it ({daemon}): stop it first, or use --force", directory)
