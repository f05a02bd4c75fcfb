"""Giving a new file its name, and losing nothing that somebody else has written there since it was looked at.

A plain rename puts the new file over whatever is there. renameat2(2) exchanges the two: what comes out is looked at,
and goes back if it is not what was expected. Where a file system or C library lacks it, the file is looked at right
before a plain rename: what is written between the two is lost.

The file is looked at before an exchange, too. Otherwise somebody who changes a list right behind such a write would
often read ours, without that write, before theirs is back.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress

from layerstore.files import system, tree
from layerstore.keys import Record
from layerstore.records import storable_time

Look = bytes
"""What tells one state of a file from another."""
NOTHING: Look = b"nothing"
NO_FILE: Look = b"no file"
"""There is a link, a directory, a device, a socket or a pipe."""


def look_of(record: Record | None) -> Look:
    """Return how a file looks that holds an entry."""
    if record is None:
        return NOTHING
    return hashlib.blake2b(record.value, digest_size=16).digest() + record.modified_at_ns.to_bytes(8, signed=True)


def look(directory: int, name: str) -> Look:
    """Return how a file looks now."""
    try:
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return NO_FILE
        value, status = tree.read(directory, name)
    except FileNotFoundError:
        return NOTHING
    return look_of(Record("", "", value, storable_time(status.st_mtime_ns)))


def take_name(directory: int, temporary: str, name: str, expected: Look) -> bool:
    """Give a temporary file a name, if that still looks as expected; tell whether it does.

    If not, both are there as they were; but the temporary file may be what somebody else wrote over it in between.

    Raises:
        OSError: the name cannot be given; or what was there cannot be read, and is there again.
    """
    try:
        if expected == NOTHING:
            return _take_free_name(directory, temporary, name)
        return _take_from(directory, temporary, name, expected)
    except OSError as error:
        if error.errno not in system.LACKING:
            raise
    if look(directory, name) != expected:
        return False
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    return True


def _take_free_name(directory: int, temporary: str, name: str) -> bool:
    try:
        system.rename(directory, temporary, name, system.NO_REPLACE)
    except FileExistsError:
        return False
    return True


def _take_from(directory: int, temporary: str, name: str, expected: Look) -> bool:
    if look(directory, name) != expected:
        return False  # seen before anybody could read our file in its place
    ours = _inode(directory, temporary)
    try:
        system.rename(directory, temporary, name, system.EXCHANGE)
        if look(directory, temporary) == expected:
            os.unlink(temporary, dir_fd=directory)
            return True
        system.rename(directory, temporary, name, system.EXCHANGE)
    except FileNotFoundError:
        return False
    except BaseException:
        if _inode(directory, temporary) not in (ours, None):  # interrupted in between
            system.rename(directory, temporary, name, system.EXCHANGE)
        raise
    return False


def _inode(directory: int, name: str) -> int | None:
    with suppress(FileNotFoundError):
        return os.stat(name, dir_fd=directory, follow_symlinks=False).st_ino
    return None
