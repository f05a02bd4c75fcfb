"""The layout of a Docker data root: its storage drivers, their metadata, and whether a daemon runs on it.

    <data root>[/<uid>.<gid>]/image/<driver>/distribution       metadata
                                             repositories.json  names
                                             imagedb, layerdb   images, layers

`<uid>.<gid>` is there with remapped users. One policy for links: the path that a person gives may be one; nothing below
a data root is reached through one, and one that is in the way is an error.

Nothing may be removed or mended under a daemon. One shows, also in a container of its own, by its lock on one of the
databases that it keeps open in its data root.

Source: Docker's daemon/daemon.go, image/fs.go, layer/filestore.go; volume/service/store.go, whose database is bbolt's,
which locks itself with flock(2).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
from collections.abc import Collection
from typing import Final, NamedTuple

from layerstore.errors import TransferError
from layerstore.files import tree
from layerstore.files.scan import show
from layerstore.keys import KNOWN_NAMESPACES
from layerstore.paths import absolute
from layerstore.warnings import warn
from layerstore.words import near

_PRIOR_DRIVERS = ("btrfs", "fuse-overlayfs", "overlay2", "zfs")
_LOCKED = (("volumes", "metadata.db"), ("network", "files", "local-kv.db"), ("buildkit", "cache.db"))
_remapped = re.compile(r"\d+\.\d+", re.ASCII).fullmatch

# By names that are all there; the first that fits.
_LOOKS: Final[tuple[tuple[set[str], str], ...]] = (
    ({"manifest.json"}, "an unpacked `docker save`: an image, without what Docker remembers about it"),
    ({"oci-layout"}, "an OCI image layout: an image, without what an engine remembers about its layers"),
    ({"io.containerd.content.v1.content"}, "containerd's data root, which has no such directory"),
    ({"overlay-images", "overlay-layers"}, "the storage of Podman, Buildah or CRI-O, which has no such directory"),
    ({"imagedb"}, "the images of a storage driver: its metadata is in `distribution`, which is not here"),
    ({"overlay2", "image"}, "a Docker data root"),
    ({"repositories", "blobs"}, "the storage of a registry: it has the blobs themselves"),
    ({"daemon.json"}, "Docker's configuration: its data root is /var/lib/docker, unless daemon.json names another"),
    ({"etc", "usr"}, "the file system of an image or host: the data root of a host is var/lib/docker in it"),
    ({"passwd", "group"}, "/etc: Docker's data root is /var/lib/docker"),
    ({"Dockerfile"}, "a build context"),
)


class Driver(NamedTuple):
    """A storage driver's directory: the data root, and the way down from it."""

    root: str
    segments: tuple[str, ...]

    @property
    def name(self) -> str:
        """The driver: `overlay2`, `vfs`."""
        return self.segments[-1]

    def path(self, *below: str) -> str:
        """Return the absolute path of the directory, or of what is below it."""
        return os.path.join(self.root, *self.segments, *below)

    def has(self, *below: str) -> bool:
        """Tell whether a directory is there. Raises TransferError if a link is, or if that cannot be told."""
        return _is_directory(self.path(*below))

    def names(self, *below: str) -> list[str]:
        """Return the names in a directory, sorted; none if it is not there. Raises TransferError."""
        try:
            with tree.directory(self.root, (*self.segments, *below)) as here:
                return sorted(os.listdir(here))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(error, self.path(*below)) from error

    def read(self, *path: str, limit_bytes: int) -> bytes | None:
        """Return a file's bytes, `None` if there is none. Raises TransferError."""
        *below, name = path
        try:
            with tree.directory(self.root, (*self.segments, *below)) as here:
                return tree.read(here, name, limit_bytes=limit_bytes)[0]
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(error, self.path(*path)) from error


def drivers(data_root: str) -> list[Driver]:
    """Return the directories of a data root's storage drivers, then those of its remapped users.

    There are none where nothing has been stored yet, and in a directory that is no data root.

    Raises:
        TransferError: it is no directory, or cannot be read; or a link is in the place of one of these directories.
    """
    root = absolute(data_root)
    if not os.path.isdir(root):
        what = "it is no directory" if os.path.lexists(root) else "there is no such directory"
        raise TransferError(f"{what}: give a Docker data root, such as /var/lib/docker", root)
    users = [(name,) for name in _names(root) if _remapped(name) and _is_directory(os.path.join(root, name))]
    images = [(*above, "image") for above in ((), *users) if _is_directory(os.path.join(root, *above, "image"))]
    every = [Driver(root, (*image, name)) for image in images for name in _names(os.path.join(root, *image))]
    return [driver for driver in every if driver.has()]


def distributions(directory: str, *, may_be_none: bool = False) -> list[str]:
    """Return the metadata directories of a data root's drivers; else the directory itself, or none with `may_be_none`.

    Raises:
        TransferError: a data root without any metadata, or with a link in the way to it; or no directory.
    """
    every = drivers(directory)
    found = [driver.path("distribution") for driver in every if driver.has("distribution")]
    if found or may_be_none:
        return found
    if every or _is_directory(os.path.join(directory, "image")):
        refuse_containerds(directory)
        raise TransferError("a data root without image/*/distribution: this host has recorded nothing yet", directory)
    refuse_above_a_distribution(directory)
    return [directory]


def distribution_of(data_root: str, driver: str) -> str:
    """Return the metadata directory of a storage driver, which need not be there yet.

    Raises:
        TransferError: there is a link in the way to it, its Docker would not look there, or it is such a directory
            itself.
    """
    path = absolute(data_root)
    if has_namespaces(path):
        raise TransferError("it is a metadata directory, and no data root: give it without --data-root", path)
    refuse_containerds(path)
    for segment in ("image", driver, "distribution"):
        path = os.path.join(path, segment)
        _is_directory(path)  # raises if it is a link
    return path


class ImageStores(NamedTuple):
    """Where a data root has images."""

    graph_drivers: tuple[str, ...]
    """The storage drivers that have some, whose metadata is Docker's directory; none with containerd's store."""
    containerd: bool
    """Whether its daemon has used containerd's store, whose metadata is in containerd."""


def image_stores(data_root: str) -> ImageStores:
    """Tell by what a daemon left in a data root where it keeps images.

    Docker from 29 on uses containerd's store unless the data root has a folder of a graph driver that is not empty
    (btrfs, overlay2, zfs, fuse-overlayfs; vfs does not count), or its options say otherwise: `storage-driver` names a
    graph driver, or the feature `containerd-snapshotter` is false. Metadata alone does not make it use a graph driver.
    Both may be there; then the options of the daemon decide.

    Raises:
        TransferError: it is no directory, or cannot be read.

    Source: Docker's daemon/image_store_choice.go, daemon/graphdriver/driver.go, daemon/snapshotter/mount.go.
    """
    root = absolute(data_root)
    every = drivers(root)
    found = {driver.name for driver in every if driver.names("layerdb", "sha256")}
    found |= {name for name in _PRIOR_DRIVERS if _names(os.path.join(root, name))}
    content = ("containerd", "daemon", "io.containerd.content.v1.content", "blobs", "sha256")
    used = bool(_names(os.path.join(root, "rootfs")))
    if not found:
        # With a graph driver, a daemon keeps manifests there too, and makes `layerdb` when it first starts.
        has_run = os.path.exists(os.path.join(root, "engine-id")) and not any(one.has("layerdb") for one in every)
        used = used or has_run or bool(_names(os.path.join(root, *content)))
    return ImageStores(tuple(sorted(found)), used)


def refuse_containerds(data_root: str) -> None:
    """Raise if a data root's images are in containerd's store alone, whose daemon never reads Docker's directory.

    Where both stores have images, that is logged as a warning.

    Raises:
        TransferError: they are; the message says what to give instead.
    """
    if not os.path.isdir(data_root):
        return
    stores = image_stores(data_root)
    if stores.containerd and not stores.graph_drivers:
        raise TransferError(
            "its Docker keeps images in containerd's store, and never looks into a `distribution` directory: give"
            " containerd:/run/containerd/containerd.sock?namespace=moby, or the socket that this daemon uses",
            data_root,
        )
    if stores.containerd:
        warn(
            "%s: it has images both of containerd's store and of the storage driver %s: the options of its Docker"
            " decide which is used (`docker info` shows it), and only the latter reads this metadata",
            data_root,
            " and ".join(stores.graph_drivers),
        )


def chosen_driver(data_root: str, name: str | None, *, is_new: bool) -> str:
    """Return the storage driver that is meant: the one that a data root has, where none is named.

    Args:
        data_root: where the daemon keeps its images; it need not exist.
        name: the driver that was named.
        is_new: accept one that the data root does not have, although it has others.

    Raises:
        TransferError: none is named, and there is none or several; or the one that is named is not there.
    """
    root = absolute(data_root)
    every = drivers(root) if os.path.isdir(root) else []
    there = [driver.name for driver in every if len(driver.segments) == 2]  # but for those of remapped users
    if name is None:
        if len(there) == 1:
            return there[0]
        what = f"it has the drivers {', '.join(there)}" if there else "it has no storage driver yet"
        raise TransferError(f"{what}: say which with --driver", root)
    if there and name not in there and not is_new:
        raise TransferError(
            f"it has no driver {name!r}, but {', '.join(there)}{near(name, there)}; --new-driver makes a new one",
            root,
        )
    return name


def has_namespaces(directory: str) -> bool:
    """Tell whether a directory has one of Docker's namespaces."""
    return any(os.path.isdir(os.path.join(directory, namespace)) for namespace in KNOWN_NAMESPACES)


def described(names: Collection[str]) -> str:
    """Name the first of what a directory or archive without metadata has, and say what it looks like."""
    there = ", ".join(show(os.fsencode(name)) for name in list(names)[:3])
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    what = looks_like(names)
    return f"{there}{more}{f'; it looks like {what}' if what else ''}"


def looks_like(names: Collection[str]) -> str | None:
    """Say what a directory or archive with these names is, where that is known and is no place for metadata."""
    return next((what for marks, what in _LOOKS if marks <= set(names)), None)


def refuse_above_a_distribution(directory: str) -> None:
    """Raise if a directory is a data root, its `image`, or a storage driver's: what is meant lies below it.

    Raises:
        TransferError: it is one; the message says which directory may be meant.
    """
    if has_namespaces(directory) or not os.path.isdir(directory):
        return
    there = _names(directory)
    meant = [os.path.join(directory, *below, "distribution") for below in ((), *((name,) for name in there))]
    meant += [driver.path("distribution") for driver in drivers(directory)]
    for found in filter(os.path.isdir, meant):
        raise TransferError(f"it is a directory above the metadata: give {found}", directory)
    if "image" in there or "engine-id" in there:
        refuse_containerds(directory)
    if {"image", "containers", "volumes"} <= set(there) or {"imagedb", "layerdb"} & set(there):
        raise TransferError("it is a part of a Docker data root: give its image/<driver>/distribution", directory)


def running_on(directory: str) -> str | None:
    """Say what shows that a daemon runs on a data root that holds `directory`, or return `None` when none does.

    The data root may be up to four directories above, as `<uid>.<gid>/image/<driver>/distribution` is below it. A
    lock counts on a file of root, the caller, or the owner of the directory: no other user can forge one.
    """
    roots = [os.path.realpath(directory)]
    while len(roots) < 5:
        roots.append(os.path.dirname(roots[-1]))
    there = next(filter(os.path.exists, roots), "/")  # the directory itself need not be there yet
    trusted = {0, os.geteuid(), os.stat(there).st_uid}
    for root in roots:
        for place in _LOCKED:
            if _is_locked(root, place, trusted):
                return os.path.join(root, *place)
    return None


def _is_locked(root: str, place: tuple[str, ...], trusted: set[int]) -> bool:
    *folders, name = place
    try:
        with tree.directory(root, folders) as here:
            # Without O_NONBLOCK, opening a FIFO that lies there would wait for a writer.
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in trusted:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(descriptor)


def refuse_under_a_daemon(directory: str) -> None:
    """Raise if a daemon runs on a directory.

    Raises:
        TransferError: one does.
    """
    locked = running_on(directory)
    if locked is not None:
        raise TransferError(
            f"a Docker daemon runs on it, as {locked} is locked: stop it first, or use --force", directory
        )


def _names(directory: str) -> list[str]:
    """Return the names in a directory, sorted; none if there is no directory."""
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(error, directory) from error


def _is_directory(path: str) -> bool:
    """Tell whether a directory is at a path below a data root, where a link is refused."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(error, path) from error
    if stat.S_ISLNK(mode):
        raise TransferError(
            "it is a link, and below a data root none is followed:"
            f" give the directory itself, {os.path.realpath(path)}, or mount it here",
            path,
        )
    return stat.S_ISDIR(mode)


def _unreadable(error: OSError, path: str) -> TransferError:
    no_such_kind = error.errno in (errno.ELOOP, errno.ENOTDIR) or error.errno is None
    why = "cannot be read: a link, or no regular file or directory" if no_such_kind else tree.why_unreadable(error)
    return TransferError(why, path)
