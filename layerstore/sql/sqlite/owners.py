"""Who else may change a database: other users who own it, or may write where it lies.

The rule is that of OpenSSH's StrictModes and of sudo: what leads to the file must belong to root or to this user, and
must not be writable for everybody. They refuse; here it is a warning, as the operator may know why it is so. Not as
there: a group may write, which is how several builders share a store; and in a sticky directory as /tmp, only the
owner can replace a file.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator

_log = logging.getLogger("layerstore")
_told: set[str] = set()


def warn_of_others(path: str) -> None:
    """Log a warning, once for each file and process, if other users may change a database, its log or its place."""
    if path in _told:
        return
    reasons = list(_reasons(os.path.realpath(path)))
    if reasons:
        _told.add(path)
        _log.warning("%s: other users may change this database: %s", path, "; ".join(reasons))


def _reasons(path: str) -> Iterator[str]:
    for file in (path, f"{path}-wal", f"{path}-shm"):
        yield from _reasons_of(file)
    # Who may write to a directory further up can put another one in the place of the next.
    while path != (path := os.path.dirname(path)):
        yield from _reasons_of(path)


def _reasons_of(path: str) -> Iterator[str]:
    try:
        status = os.stat(path)
    except OSError:
        return  # there is no log, or it is not for us to look there
    if status.st_uid not in (0, os.geteuid()):
        yield f"{path} belongs to the user with number {status.st_uid} (`chown` gives it to you)"
    elif status.st_mode & stat.S_IWOTH and not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        yield f"everybody may write to {path} (`chmod o-w` ends that)"
