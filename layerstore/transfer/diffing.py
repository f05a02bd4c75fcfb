"""Comparing two stores or directories: entry by entry, and what that means for each layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from layerstore.blobs import decode
from layerstore.collection import records, side_by_side
from layerstore.errors import CorruptRecordError
from layerstore.keys import BLOBS, V2_METADATA, Record, digest_key, key_digest
from layerstore.records import V2Metadata, decode_list
from layerstore.reports import Report
from layerstore.transfer.place import Place, name, opened
from layerstore.words import counted, time_text


@dataclass(frozen=True, slots=True)
class Entry:
    """The place of an entry."""

    namespace: str
    key: str


@dataclass(frozen=True, slots=True)
class LayerDifference:
    """How a layer's associations differ.

    Attributes:
        diff_id: the layer.
        only_left: associations, as `digest from repository`, that the right list does not have; oldest first.
        only_right: those that the left list does not have.
        reordered: whether those that both have are in another order.
    """

    diff_id: str
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    reordered: bool


@dataclass(frozen=True, slots=True)
class BlobDifference:
    """How differs what other engines know of a blob.

    Attributes:
        digest: the blob.
        only_left: what the right side does not know, such as `Compression gzip`, `localhost:5000/a seen 2026-11-26T…`.
        only_right: what the left side does not know.
    """

    digest: str
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DiffReport(Report):
    """How two stores differ.

    Attributes:
        left: what was compared.
        right: with what.
        only_left: entries that the right one does not have.
        only_right: entries that the left one does not have.
        differing: entries with other bytes on each side.
        layers: what that means for the layers, where both sides can be read.
        blobs: the same for what other engines know of blobs.
        equal: how many entries have the same bytes.
        times_differ: how many of those were modified at other times; that alone is no difference.
    """

    left: str
    right: str
    only_left: tuple[Entry, ...]
    only_right: tuple[Entry, ...]
    differing: tuple[Entry, ...]
    layers: tuple[LayerDifference, ...]
    blobs: tuple[BlobDifference, ...]
    equal: int
    times_differ: int

    @property
    def ok(self) -> bool:
        """Whether both have the same entries with the same bytes."""
        return not (self.only_left or self.only_right or self.differing)

    def lines(self, *, quiet: bool = False, store: str = "") -> Iterator[str]:
        """Yield what `str()` has, line by line; if `quiet`, only findings."""
        for layer in self.layers:
            yield f"layer {layer.diff_id}"
            yield from _lines_of_sides(layer)
            if layer.reordered:
                yield "  the associations that both have are in another order"
        for blob in self.blobs:
            yield f"blob {blob.digest}"
            yield from _lines_of_sides(blob)
        told = {(V2_METADATA, digest_key(layer.diff_id)) for layer in self.layers}
        told |= {(BLOBS, digest_key(blob.digest)) for blob in self.blobs}
        for what, entries in (
            ("only in left", self.only_left),
            ("only in right", self.only_right),
            ("differs", self.differing),
        ):
            for entry in entries:
                if (entry.namespace, entry.key) not in told:
                    yield f"{what}: {entry.namespace}/{entry.key}"
        if not quiet:
            equal = f"{counted(self.equal, 'entry', 'entries')} {'is' if self.equal == 1 else 'are'} equal"
            times = f", {self.times_differ} of them modified at other times" if self.times_differ else ""
            yield f"left {self.left}, right {self.right}: {equal}{times}"


def _lines_of_sides(found: LayerDifference | BlobDifference) -> Iterator[str]:
    yield from (f"  only in left: {one}" for one in found.only_left)
    yield from (f"  only in right: {one}" for one in found.only_right)


def diff(left: Place, right: Place, *, force: bool = False) -> DiffReport:
    """Compare the entries of any two of: a store, a directory, a data root with one driver, a database file, a tar.

    Of a database, one snapshot is read; of a directory, the files as they are: temporary ones, links and names that
    are no keys are no entries.

    Args:
        left: one side.
        right: the other side.
        force: compare also a directory that has none of Docker's namespaces, or nothing at all.

    Raises:
        TransferError: there is nothing at a path, or none of Docker's metadata, or an archive that cannot be read.
        CorruptRecordError: another program wrote an entry whose name is not UTF-8.
        StoreError: a side cannot be read.
    """
    only_left: list[Entry] = []
    only_right: list[Entry] = []
    differing: list[Entry] = []
    layers: list[LayerDifference] = []
    blobs: list[BlobDifference] = []
    equal = times_differ = 0
    with (
        opened(left, force=force) as one,
        one.view() as ours,
        opened(right, force=force) as other,
        other.view() as theirs,
    ):
        for mine, yours in side_by_side(records(ours), records(theirs)):
            if mine is not None and yours is not None and mine.value == yours.value:
                equal += 1
                times_differ += mine.modified_at_ns != yours.modified_at_ns
                continue
            there = mine or yours
            assert there is not None
            side = only_right if mine is None else only_left if yours is None else differing
            side.append(Entry(there.namespace, there.key))
            if there.namespace == V2_METADATA and (layer := _layer(there.key, mine, yours)):
                layers.append(layer)
            elif there.namespace == BLOBS and (blob := _blob(there.key, mine, yours)):
                blobs.append(blob)
    return DiffReport(
        name(left),
        name(right),
        tuple(only_left),
        tuple(only_right),
        tuple(differing),
        tuple(layers),
        tuple(blobs),
        equal,
        times_differ,
    )


def _layer(key: str, mine: Record | None, yours: Record | None) -> LayerDifference | None:
    """Say how two versions of a layer's list differ; `None` if one cannot be read, or they do not."""
    try:
        ours, theirs = _entries(mine), _entries(yours)
    except ValueError:
        return None
    only_left = tuple(_shown(entry) for entry in ours if entry not in theirs)
    only_right = tuple(_shown(entry) for entry in theirs if entry not in ours)
    reordered = [entry for entry in ours if entry in theirs] != [entry for entry in theirs if entry in ours]
    diff_id = key_digest(key)
    if diff_id is None or not (only_left or only_right or reordered):
        return None
    return LayerDifference(diff_id, only_left, only_right, reordered)


def _blob(key: str, mine: Record | None, yours: Record | None) -> BlobDifference | None:
    """Say how two versions of what is known of a blob differ; `None` if one cannot be read, or they do not."""
    try:
        ours, theirs = _facts(mine), _facts(yours)
    except CorruptRecordError:
        return None
    only_left = tuple(fact for fact in ours if fact not in theirs)
    only_right = tuple(fact for fact in theirs if fact not in ours)
    digest = key_digest(key)
    return BlobDifference(digest, only_left, only_right) if digest and (only_left or only_right) else None


def _entries(record: Record | None) -> list[V2Metadata]:
    return [] if record is None else decode_list(record.value)


def _facts(record: Record | None) -> list[str]:
    """Return what a blob's entry says, in words."""
    if record is None:
        return []
    blob = decode(record.value, record.key)
    known = {"DiffID": blob.diff_id, "Compression": blob.compression, "Variant": blob.variant, "TOC": blob.toc}
    facts = [f"{name} {value}" for name, value in known.items() if value is not None]
    facts += [f"{name} is {' or '.join(values)}" for name, values in blob.conflicts.items()]
    facts += [f"{name} {value}" for name, value in sorted(blob.annotations.items())]
    facts += [f"{name} {value.decode()}" for name, value in sorted(blob.extra.items())]
    return facts + [
        name if seen is None else f"{name} seen {time_text(seen)}" for name, seen in sorted(blob.locations.items())
    ]


def _shown(entry: V2Metadata) -> str:
    return f"{entry.digest} from {entry.source_repository or '(unknown repository)'}"
