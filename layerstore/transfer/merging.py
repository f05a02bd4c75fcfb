"""What becomes of two versions of one entry. Pure decisions: who reads and writes is `importing` and `directory`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

from layerstore import blobs
from layerstore.keys import BLOBS, V2_METADATA, Record, key_digest
from layerstore.records import MAX_METADATA, V2Metadata, decode_list, encode_list, why_unreadable
from layerstore.reports import Examples

OnConflict = Literal["merge", "replace", "keep"]
Aside = Callable[[Record, str], None]


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two values of one digest or V1 ID: the later one stays.

    An import moves the other one to quarantine. So does an export, if the directory had it; if the store had it, it
    stays in the store.

    Attributes:
        namespace: where the entry is.
        key: its key.
        kept: the value that stays: the later one; in the directory of a running daemon, its own.
        set_aside: the other one.
        source: the source that was merged with what was there; of an export, the directory.
    """

    namespace: str
    key: str
    kept: str
    set_aside: str
    source: str

    @classmethod
    def between(cls, kept: Record, other: Record, source: str) -> Self:
        """Report a conflict, given the version that stays and the other one."""
        return cls(kept.namespace, kept.key, shown(kept.value), shown(other.value), source)


@dataclass(frozen=True, slots=True)
class Eviction:
    """Associations that were evicted from a merged list (a list keeps 50).

    Attributes:
        diff_id: the layer; as the store has its key, if that is none.
        associations: how many.
        source: the source whose list was merged with what was there.
    """

    diff_id: str
    associations: int
    source: str

    @classmethod
    def of(cls, merged: Record, associations: int, source: str) -> Self:
        """Report what was evicted from a merged list."""
        return cls(merged.key.replace("/", ":", 1), associations, source)


class Merged(NamedTuple):
    """What two versions of one entry become together."""

    record: Record
    displaced: Record | None = None
    """The version that gives way as a whole. Nothing of it is in `record`."""
    reason: str = ""
    """Why it gives way."""
    is_conflict: bool = False
    """Whether both versions can be read, or neither."""
    evicted: int = 0
    """Number of associations that a list of 50 had no room for."""


def merge(one: Record, other: Record) -> Merged:
    """Merge two versions of one entry. The order of the arguments does not matter.

    The later version of a list forms the tail, entries that only the older one has precede it, the newest 50 stay.
    What is known of a blob is united (`layerstore.blobs.merge`). Of two values of anything else the later stays. What
    cannot be read gives way to what can. The result has the later time. At equal times the greater bytes count as
    later, unless the other version may be a merge of that one already: two stores come to rest, and a second import
    changes nothing.
    """
    older, later = sorted((one, other), key=lambda version: (version.modified_at_ns, version.value))
    if one.value == other.value:
        return Merged(later)
    if one.namespace == V2_METADATA and key_digest(one.key) is not None:
        lists = _decoded(older), _decoded(later)
        if not isinstance(lists[0], str) and not isinstance(lists[1], str):
            return _merge_lists((older, lists[0]), (later, lists[1]))
        older_is_bad, later_is_bad = (found if isinstance(found, str) else None for found in lists)
    else:
        older_is_bad, later_is_bad = (why_unreadable(*version[:3]) for version in (older, later))
    if one.namespace == BLOBS and older_is_bad is None and later_is_bad is None:
        return Merged(later._replace(value=_united(older, later)))
    if older_is_bad is not None and later_is_bad is None:
        return Merged(later, older, older_is_bad)
    if later_is_bad is not None and older_is_bad is None:
        return Merged(older, later, later_is_bad)
    return Merged(later, older, f"conflict: a later write says {shown(later.value)}", is_conflict=True)


def _united(one: Record, other: Record) -> bytes:
    return blobs.encode(blobs.merge(*(blobs.decode(version.value, version.key) for version in (one, other))))


def _decoded(record: Record) -> list[V2Metadata] | str:
    try:
        return decode_list(record.value)
    except ValueError as error:
        return str(error)


_Version = tuple[Record, list[V2Metadata]]


def _merge_lists(older: _Version, later: _Version) -> Merged:
    if older[0].modified_at_ns == later[0].modified_at_ns:
        older, later = _in_order_of_bytes(older, later)
    record, tail = later
    entries = _appended(older[1], tail)
    kept = entries[-MAX_METADATA:]
    if kept != tail:
        record = record._replace(value=encode_list(kept))
    return Merged(record, evicted=len(entries) - len(kept))


def _appended(entries: list[V2Metadata], tail: list[V2Metadata]) -> list[V2Metadata]:
    known = set(tail)
    return [entry for entry in entries if entry not in known] + tail


def _in_order_of_bytes(one: _Version, other: _Version) -> tuple[_Version, _Version]:
    """Return two versions of the same time, the one that counts as older first.

    A list that has all entries of the other one in their order is the later one, as after a push, or before a prune.

    Comparing bytes alone would turn a list around at each import of what it was merged from: of `[3,1]` and `[3,2]`
    comes `[1,3,2]`, and `[3,1]` is greater than that.
    """
    lesser, greater = sorted((one, other), key=lambda version: (_in_bytes(version[1]), version[0].value))
    less, more = lesser[1], greater[1]
    if _is_part(less, more) or _is_part(more, less):
        return (lesser, greater) if len(less) <= len(more) else (greater, lesser)
    if set(less) == set(more):
        return lesser, greater
    # No merged list is longer than 50, and of a hostile one of a million entries this would never end.
    was_merged = len(less) <= MAX_METADATA and any(
        _in_bytes(less[at:]) > _in_bytes(more) and _appended(more, less[at:])[-MAX_METADATA:] == less
        for at in range(1, len(less))
    )
    if was_merged or (set(less) > set(more) and _in_bytes(_appended(less, more)) < _in_bytes(less)):
        return greater, lesser
    return lesser, greater


def _is_part(part: list[V2Metadata], entries: list[V2Metadata]) -> bool:
    """Tell whether a list has all entries of another one, in the same order."""
    rest = iter(entries)
    return all(entry in rest for entry in part)


def _in_bytes(entries: list[V2Metadata]) -> list[bytes]:
    """Return what lists are compared by: as their bytes, but a list that goes on behind another one is greater."""
    return [encode_list([entry]) for entry in entries]


class Merge:
    """`merge` what comes in with what is there, and count what that cost."""

    def __init__(self, name: Callable[[int], str]) -> None:
        self._name = name
        self.conflicts: Examples[Conflict] = Examples()
        self.evictions: Examples[Eviction] = Examples()
        self.evicted = 0

    def __call__(self, source: int, existing: Record, incoming: Record, aside: Aside) -> Record | None:
        """Return what to store, or `None` to leave what is there."""
        record, displaced, reason, is_conflict, evicted = merge(existing, incoming)
        if displaced is not None:
            aside(displaced, reason)
        if is_conflict:
            assert displaced is not None
            self.conflicts.add(Conflict.between(record, displaced, self._name(source)))
        if record == existing:
            return None
        if evicted:
            self.evicted += evicted
            self.evictions.add(Eviction.of(record, evicted, self._name(source)))
        return record


def replace(_source: int, existing: Record, incoming: Record, aside: Aside) -> Record:
    """Take what comes in; what was there and cannot be read is set aside."""
    reason = why_unreadable(*existing[:3])
    if reason is not None and existing.value != incoming.value:
        aside(existing, reason)
    return incoming


def keep(_source: int, _existing: Record, _incoming: Record, _aside: Aside) -> None:
    """Leave what is there."""


def shown(value: bytes) -> str:
    """Return a value as text for a report, the first 200 characters of it."""
    text = value.decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else text[:200] + "…"
