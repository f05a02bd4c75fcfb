"""What a directory looks like that holds none of Docker's metadata, and what would be right in its place."""

from __future__ import annotations

import os
from typing import Final

from layerstore.files import scan
from layerstore.keys import KNOWN_NAMESPACES

EXPECTED: Final = "give a `distribution` directory, a data root, a tar, or a database (`layerstore import` makes one)"

NEW_FILE_SYSTEM: Final = "lost+found"
"""All that a file system has on which nothing was ever written."""

# By names that are all there; the first that fits.
_LOOKS: Final[tuple[tuple[set[str], str], ...]] = (
    ({"oci-layout"}, "an OCI image layout: an image, without what an engine remembers about its layers"),
    ({"manifest.json", "repositories"}, "an unpacked `docker save`: an image, without what Docker remembers about it"),
    ({"io.containerd.content.v1.content"}, "containerd's data root, which has no such directory"),
    ({"overlay-images", "overlay-layers"}, "the storage of Podman, Buildah or CRI-O, which has no such directory"),
    ({"imagedb"}, "the images of a storage driver: its metadata is in `distribution`, which is not here"),
    ({"overlay2", "image"}, "a Docker data root"),
    ({"repositories", "blobs"}, "the storage of a registry: it has the blobs themselves"),
    ({"daemon.json"}, "Docker's configuration: its data root is /var/lib/docker, unless daemon.json names another"),
    ({"etc", "usr"}, "a whole root file system: the data root in it is var/lib/docker"),
    ({"passwd", "group"}, "/etc: Docker's data root is /var/lib/docker"),
    ({"Dockerfile"}, "a build context"),
)


def looks_like(path: str, names: list[str]) -> str:
    """Say that a directory with these names is none of metadata, what it may be, and what to give instead."""
    if not names:
        return (
            f"it is empty: check the path, and that its file system is mounted{_mounted(path)}; {EXPECTED};"
            " --allow-empty accepts an empty directory"
        )
    what = next((f"; it looks like {what}" for marks, what in _LOOKS if marks <= set(names)), "")
    return (
        f"it has none of Docker's namespaces ({', '.join(KNOWN_NAMESPACES)}), but {_shortened(names)}{what}:"
        f" {EXPECTED}; --force imports every file below it as an entry"
    )


def _mounted(path: str) -> str:
    return " (one is, and is empty)" if os.path.ismount(path) else ""


def _shortened(names: list[str]) -> str:
    shown = [scan.show(name) for name in sorted(map(os.fsencode, names))]
    return ", ".join(shown[:3]) + (f" and {len(shown) - 3} more" if len(shown) > 3 else "")
