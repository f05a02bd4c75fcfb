"""Where Docker's metadata lies in an archive, told by the names of its members; and what else it looks like."""

from __future__ import annotations

import re
from typing import Final

from layerstore.keys import KNOWN_NAMESPACES

_NAMESPACE: Final = f"(?:{'|'.join(KNOWN_NAMESPACES)})/"
_top_namespace = re.compile(_NAMESPACE).match
_any_namespace = re.compile(f"(?:.*?/)?{_NAMESPACE}", re.DOTALL).match
_data_root = re.compile(r"(?:.*?/)?image/[^/]+/distribution/", re.DOTALL).match
_named = re.compile(rf"(?:.*?/)?(?:distribution/|(?={_NAMESPACE}))", re.DOTALL).match
_distribution = re.compile(r"(?:.*?/)?distribution/", re.DOTALL).match
_rest_of_a_data_root = re.compile(
    rf"(?:.*?/)?image/(?!{_NAMESPACE})(?:[^/]+/(?!distribution/)|[^/]+\Z|\Z)", re.DOTALL
).match

_TOPS: Final = 1000
_SHOWN: Final = 3
_OF_A_FILE_SYSTEM: Final = frozenset(("bin", "dev", "etc", "home", "lib", "proc", "root", "sbin", "tmp", "usr", "var"))
_RIGHT: Final = "pack the metadata, as by `sudo tar -C /var/lib/docker -c image/overlay2/distribution`"


def relative(name: str) -> str:
    """Return a member's name as `tar` unpacks it: without what only says that it is absolute, or here."""
    while name.startswith(("/", "./")):
        name = name.lstrip("/") if name.startswith("/") else name[2:]
    return "" if name == "." else name


def base_of(path: str) -> str | None:
    """Return the part of a member's path that leads to its namespace, with a slash at its end, or `None`.

    That is `distribution/` or `image/<driver>/distribution/`, wherever they lie; else whatever holds one of Docker's
    namespaces: a directory of any name, or (``) the archive itself. Other directories of a data root, such as a
    `distribution.bak`, are none.
    """
    if _top_namespace(path):
        return ""
    found = _data_root(path) or (None if is_rest_of_a_data_root(path) else _named(path))
    return None if found is None else found[0]


def is_rest_of_a_data_root(path: str) -> bool:
    """Tell a daemon's other files in an archive of a data root from metadata."""
    return _rest_of_a_data_root(path) is not None and _distribution(path) is None


def may_be_linked_to(path: str) -> bool:
    """Tell whether a member that is no metadata may be the one that has the content of some, as in a copy beside it."""
    return _any_namespace(path) is not None


class Contents:
    """What an archive holds, told by the names of its members."""

    def __init__(self) -> None:
        self._tops: dict[str, None] = {}
        self._has_image = self._has_base = self._has_folders = self._has_files = False

    @property
    def has_metadata(self) -> bool:
        """Whether there is a directory of Docker's metadata: with files, or an empty one, as on a fresh host."""
        return self._has_files or (self._has_base and not self._has_folders)

    def add(self, path: str, base: str | None) -> None:
        """Note a member, of a directory with a slash at its end, and what `base_of` says of it."""
        if base is not None:
            self._has_base = True
            self._has_files = self._has_files or not path.endswith("/")
            self._has_folders = self._has_folders or len(path) > len(base)
        self._has_image = self._has_image or is_rest_of_a_data_root(path)
        top = path.partition("/")[0]
        if top and len(self._tops) < _TOPS:
            self._tops[top] = None

    def why_nothing(self) -> str:
        """Say that the archive has no metadata, what it looks like, and what would be right."""
        nothing = f"nothing of Docker's namespaces ({', '.join(KNOWN_NAMESPACES)}) is in it"
        return f"{nothing}: {self._looks_like()}; {_RIGHT}"

    def _looks_like(self) -> str:
        tops = self._tops
        known = (
            (
                not tops,
                "it is an empty tar. The program that packed it found nothing, or had no permission to read, or the"
                " file was zeroed",
            ),
            (
                self._has_folders,
                "it has their directories, but no file. The program that packed it had no permission to read them, or"
                " a format without such long names (`tar --format=v7`)",
            ),
            ("manifest.json" in tops, "it looks like an image from `docker save`, which holds no metadata of a host"),
            ("oci-layout" in tops, "it looks like an OCI image layout, which holds no metadata of a host"),
            (
                self._has_image,
                "it is of a data root, without image/<driver>/distribution. This Docker has recorded nothing yet, or"
                " the program that packed it had no permission to read",
            ),
            (
                len(_OF_A_FILE_SYSTEM & set(tops)) >= _SHOWN,
                "it looks like the file system of an image or a host",
            ),
        )
        names = [top.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for top in tops]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return next((what for applies, what in known if applies), f"it holds {', '.join(names[:_SHOWN])}{more}")
