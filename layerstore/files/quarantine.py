"""What exports and repairs have moved out of a metadata directory: `<directory>.quarantine/<time>`."""

from __future__ import annotations

import os
from typing import NamedTuple

from layerstore.errors import TransferError
from layerstore.files.scan import scan
from layerstore.keys import Record
from layerstore.paths import absolute, why_refused


class QuarantinedFile(NamedTuple):
    """A file that was moved there."""

    path: str
    bytes: int
    modified_at_ns: int


def quarantined_files(directory: str) -> list[QuarantinedFile]:
    """Return the files that were moved out of a metadata directory, the earliest move first.

    Raises:
        TransferError: there is no such directory, or its quarantine cannot be read.
    """
    base = absolute(directory)
    if not os.path.isdir(base):
        raise TransferError("there is no such directory: give a `distribution` directory", base)
    top = f"{base}.quarantine"
    try:
        moves = sorted(os.listdir(top))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise TransferError(f"cannot be read: {why_refused(error)}", top) from error
    return [
        QuarantinedFile(os.path.join(top, move, found.namespace, found.key), len(found.value), found.modified_at_ns)
        for move in moves
        for found in scan(os.path.join(top, move))
        if isinstance(found, Record)
    ]
