"""Everything that this machine has of what container engines know: of root's, and of the caller's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import Final

from layerstore.collection import Source
from layerstore.errors import LayerstoreError, TransferError
from layerstore.formats.containerd_live import SCHEME
from layerstore.formats.facts import uncertain
from layerstore.paths import status
from layerstore.transfer import place
from layerstore.transfer.engines import Memory

_SYSTEM: Final = "/var/lib"
_SOCKETS: Final = (
    ("/run/containerd/containerd.sock", "containerd"),
    ("/run/docker/containerd/containerd.sock", None),
)
"""Each with the directory of the same containerd, which is read if it does not run."""
_DIRECTORIES: Final = ("docker", "buildkit", "containers/cache", "containers/storage")


def sources_here() -> list[Source]:
    """Return a source for each memory that is there. One that cannot be read is left out with a note.

    Raises:
        TransferError: there is none at all.
    """
    found: list[Source] = []
    for one in _places():
        try:
            found += place.sources([one], allow_empty=True)
        except LayerstoreError as error:
            found.append(_left_out(one, str(error)))
    if not found:
        where = f"{_SYSTEM}, {_own()}, {', '.join(path for path, _ in _SOCKETS)}"
        raise TransferError(f"no container engine has left anything here: {where}")
    return found


def _places() -> Iterator[str]:
    for path, directory in _SOCKETS:
        if _is(path, stat.S_ISSOCK):
            yield f"{SCHEME}{path}"
        elif directory is not None and _is(os.path.join(_SYSTEM, directory), stat.S_ISDIR):
            yield os.path.join(_SYSTEM, directory)
    for base in dict.fromkeys((_SYSTEM, _own())):
        yield from (path for name in _DIRECTORIES if _is(path := os.path.join(base, name), stat.S_ISDIR))


def _own() -> str:
    """Return where engines keep what is the caller's own. Source: the XDG Base Directory Specification."""
    return os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")


def _is(path: str, is_kind: Callable[[int], bool]) -> bool:
    try:
        there = status(path)
    except OSError:
        return False  # it is below a directory of root's alone
    return there is not None and is_kind(there.st_mode)


def _left_out(name: str, reason: str) -> Memory:
    why = reason.removeprefix(f"{name}: ")
    return Memory(name, lambda: iter([uncertain("", f"left out: {why}")]), may_be_empty=True)
