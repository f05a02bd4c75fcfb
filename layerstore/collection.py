"""Entries somewhere: what a database, a directory and an archive of entries have in common.

Whatever works on whole stores (`transfer/`) is written against the protocols here, and does not ask what it has.
"""

from __future__ import annotations

from typing import NamedTuple


class Odd(NamedTuple):
    """Something that is no entry, or whose entry could not be read."""

    path: str
    """Below the base; bytes that are not UTF-8 are shown as `\\xff`."""
    kind: str
    """`temporary`, `special`, `name`, `outside`, `unreadable` or `vanished`."""
    reason: str
