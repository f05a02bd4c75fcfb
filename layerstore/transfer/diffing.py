"""Comparing two stores or directories, entry by entry."""

from __future__ import annotations

import os
from dataclasses import dataclass

from layerstore.store import Store
from layerstore.transfer.joining import side_by_side
from layerstore.transfer.sources import name, opened, view


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of an entry."""

    namespace: str
    key: str


@dataclass(frozen=True, slots=True)
class DiffReport:
    """How two stores differ.

    Attributes:
        left: what was compared.
        right: with what.
        only_left: entries that the right one does not have.
        only_right: entries that the left one does not have.
        differing: entries with other bytes on each side.
        equal: how many entries have the same bytes.
        times_differ: how many of those were modified at other times; that alone is no difference.
    """

    left: str
    right: str
    only_left: tuple[Entry, ...]
    only_right: tuple[Entry, ...]
    differing: tuple[Entry, ...]
    equal: int
    times_differ: int

    @property
    def ok(self) -> bool:
        """Whether both have the same entries with the same bytes."""
        return not (self.only_left or self.only_right or self.differing)


def diff(left: Store | str | os.PathLike[str], right: Store | str | os.PathLike[str]) -> DiffReport:
    """Compare the entries of two stores, directories or database files.

    Of a database, one snapshot is read; of a directory, the files as they are: temporary ones, links and names that
    are no keys are no entries.

    Raises:
        TransferError: there is nothing at a path.
        StoreError: a side cannot be read.
    """
    only_left, only_right, differing = [], [], []
    equal = times_differ = 0
    with opened(left) as one, view(one) as ours, opened(right) as other, view(other) as theirs:
        for mine, yours in side_by_side(ours.records(), theirs.records()):
            if mine is None:
                assert yours is not None
                only_right.append(Entry(yours.namespace, yours.key))
            elif yours is None:
                only_left.append(Entry(mine.namespace, mine.key))
            elif mine.value != yours.value:
                differing.append(Entry(mine.namespace, mine.key))
            else:
                equal += 1
                times_differ += mine.modified_at_ns != yours.modified_at_ns
    return DiffReport(
        name(left), name(right), tuple(only_left), tuple(only_right), tuple(differing), equal, times_differ
    )
