"""Coming upon all files below a directory, without following a link, in the order that stores have."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from layerstore.files import tree
from layerstore.store import TEMPORARY_PREFIX

_TEMPORARY = TEMPORARY_PREFIX.encode()
_TYPES = (b"/", b"\0")
_NAMES = (sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
_RUN = 1000
"""How many files are given together at most."""


class Found(NamedTuple):
    """What a walk came upon. `directory` is open until the walk goes on."""

    directory: int
    name: bytes
    path: bytes
    kind: str
    """`file`, `temporary`, `special` (a link, device, socket or pipe), or `unreadable` (a directory)."""


class Files(NamedTuple):
    """Files that a walk came upon. `directory` is open until the walk goes on."""

    directory: int
    prefix: bytes
    """The directory's path below the top, with a slash at its end; empty at the top."""
    names: list[bytes]


def names(directory: int) -> list[bytes]:
    """List a directory by the bytes of the whole paths below it; each name ends with its type.

    A directory's ends with `/`, which also sorts it as its paths sort (`a-b` before `a/x`); that of a link, device,
    socket or pipe ends with NUL; a file's is bare. One short object a name: a directory may have a million.
    """
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name.encode(*_NAMES)  # as `os.fsencode`, which takes three times as long
            if not entry.is_file(follow_symlinks=False):
                name += b"/" if entry.is_dir(follow_symlinks=False) else b"\0"
            found.append(name)
    found.sort()
    return found


def walk(top: int) -> Iterator[Found]:
    """Come upon everything below a directory but the directories themselves, by the bytes of the whole path.

    What begins with `.tmp-` is `temporary`, files and directories alike.
    """
    for found in walk_in_runs(top):
        if isinstance(found, Found):
            yield found
        else:
            for name in found.names:
                yield Found(found.directory, name, found.prefix + name, "file")


def walk_in_runs(top: int) -> Iterator[Found | Files]:
    """`walk`, with files that lie in one directory, and in the order one behind the other, together."""
    levels = [(os.dup(top), b"", _runs(names(top)))]
    try:
        while levels:
            here, prefix, rest = levels[-1]
            for run in rest:
                if isinstance(run, list):
                    yield Files(here, prefix, run)
                    continue
                name = run.rstrip(b"/\0")
                if name.startswith(_TEMPORARY):
                    yield Found(here, name, prefix + name, "temporary")
                elif run.endswith(b"\0"):
                    yield Found(here, name, prefix + name, "special")
                else:
                    below = _level(here, name, prefix)
                    if below is None:
                        yield Found(here, name, prefix + name, "unreadable")
                        continue
                    levels.append(below)
                    break
            else:
                os.close(levels.pop()[0])
    finally:
        for here, _, _ in levels:
            os.close(here)


def _runs(typed_names: Iterable[bytes]) -> Iterator[list[bytes] | bytes]:
    """Yield files that follow one another as a list, and what is none by itself."""
    files: list[bytes] = []
    for typed in typed_names:
        is_file = typed[-1:] not in _TYPES and not typed.startswith(_TEMPORARY)
        if is_file:
            files.append(typed)
        if files and (not is_file or len(files) == _RUN):
            yield files
            files = []
        if not is_file:
            yield typed
    if files:
        yield files


def _level(above: int, name: bytes, prefix: bytes) -> tuple[int, bytes, Iterator[list[bytes] | bytes]] | None:
    try:
        here = tree.open_below(above, (os.fsdecode(name),))
    except OSError:
        return None
    try:
        return here, prefix + name + b"/", _runs(names(here))
    except OSError:
        os.close(here)
        return None
